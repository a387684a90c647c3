from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import binmat
from binmat.errors import BinmatError, TraceError
from binmat.model_defs.registry import build
from binmat.transforms.lowering.lower import lower
from binmat.transforms.same_results import with_equal_chance
from binmat.transforms.trace import trace
from binmat.transforms.tracer import trace_method


class Matting(nn.Module):
    """A module of a user's that draws random numbers in training."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 1, 1)
        self.norm, self.drop = nn.BatchNorm2d(8), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(torch.relu(self.norm(self.body(self.stem(x))))))


class Undecided(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def convert_and_export(folder: Path) -> None:
    network = binmat.convert(Matting(), "reactnet", size=(16, 16))
    binmat.report(network)
    binmat.export(network, folder / "model.tflite")


def convert_and_save(folder: Path) -> None:
    network = binmat.convert(build("modnet"), "bnn", size=(32, 32))
    binmat.save(network, folder / "model.safetensors")
    binmat.load(folder)


def fail(folder: Path) -> None:
    with pytest.raises(TraceError):
        binmat.convert(Undecided(), "bnn", size=(8, 8))


def at_once(folder: Path, jobs: list[Callable[[Path], None]], times: int = 1) -> None:
    """Run each job so many times, side by side with the others."""
    start = threading.Barrier(len(jobs))

    def run(index: int) -> None:
        own = folder / str(index)
        own.mkdir()
        start.wait()
        for _ in range(times):
            jobs[index](own)

    with ThreadPoolExecutor(len(jobs)) as pool:
        for done in [pool.submit(run, index) for index in range(len(jobs))]:
            done.result()


def patched_state() -> tuple[object, ...]:
    return nn.Module.__call__, nn.Module.__getattr__, torch.get_default_dtype(), torch._C._get_mkldnn_enabled()


@pytest.mark.slow
def test_conversions_in_four_threads(tmp_path: Path) -> None:
    before = patched_state()
    at_once(tmp_path, [convert_and_export, convert_and_save, convert_and_export, fail], times=3)
    assert patched_state() == before
    convert_and_save(tmp_path)


def running_meanwhile(work: Callable[[], object]) -> list[str]:
    """The errors of a thread that runs a network while this one works."""
    network, errors, stop = Matting().eval(), [], threading.Event()
    running = threading.Event()

    def run() -> None:
        while not stop.is_set():
            try:
                assert network(torch.zeros(1, 3, 4, 4)).dtype == torch.zeros(()).dtype == torch.float32
                running.set()
            except Exception as error:
                errors.append(repr(error))

    thread = threading.Thread(target=run)
    thread.start()
    running.wait(10)
    try:
        work()
    finally:
        stop.set()
        thread.join()
    return errors


def test_a_network_runs_while_another_is_traced() -> None:
    network = Matting().eval()
    assert running_meanwhile(lambda: [trace_method(network) for _ in range(20)]) == []


def test_a_network_runs_while_another_is_lowered_in_float64() -> None:
    network = trace(Matting().eval(), (8, 8))
    example = network.example(8, 8)
    assert running_meanwhile(lambda: lower(network, example, torch.float64)) == []


def test_the_parameters_of_the_network_that_is_traced_can_be_read() -> None:
    """A leaf's code shares the parameters of the network with other threads."""
    found: list[object] = []

    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            reader = threading.Thread(target=lambda: found.append(self.weight))
            reader.start()
            reader.join()
            return x * self.weight

    network = Reading()
    trace_method(network)
    assert found == [network.weight]


def test_random_numbers_that_another_thread_draws_change_no_comparison() -> None:
    draws = iter([True])
    stop = threading.Event()
    other = threading.Thread(target=stop.wait)
    other.start()

    def disturbed() -> Tensor:
        if next(draws, False):
            torch.rand(1)
        return torch.rand(2)

    try:
        first, second = with_equal_chance(disturbed, lambda: torch.rand(2))
    finally:
        stop.set()
        other.join()
    assert torch.equal(first, second)


def test_a_failure_leaves_the_process_working(tmp_path: Path) -> None:
    before = patched_state()
    for _ in range(2):
        with pytest.raises(BinmatError):
            binmat.convert(Undecided(), "bnn", size=(8, 8))
    assert patched_state() == before
    convert_and_export(tmp_path)
