"""Parts that run side by side: their results do not depend on how many run, and an error ends them all."""

from __future__ import annotations

import os
import threading

import pytest
import torch
from example_networks import UNet, randomize

from binmat.errors import ExportError
from binmat.pipeline.deployment import deploy
from binmat.transforms.convert import convert
from binmat.verification.side_by_side import side_by_side


def test_the_number_of_cores_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    network = convert(randomize(UNet()), "reactnet").eval()
    deployment = deploy(network, example=network.example(24, 32))
    found = []
    for cores in (1, 2, 5):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
        found.append(deployment.verify().to_json())
    assert found[0] == found[1] == found[2]
    assert found[0]["systematic"] is None and all(run["nodes"] for runs in found[0]["clips"].values() for run in runs)


def test_steps_are_told_in_the_callers_thread() -> None:
    told: list[threading.Thread] = []
    with side_by_side() as parts:
        results = [parts.start(lambda tell, n=n: [tell() for _ in range(n)]) for n in (1, 3)]
        parts.finish(lambda: told.append(threading.current_thread()))
    assert told == [threading.main_thread()] * 4
    assert [len(result.result()) for result in results] == [1, 3]


def test_the_first_error_ends_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    failed = threading.Event()

    def fail(tell) -> None:
        failed.set()
        raise ExportError("no")

    def go_on(tell) -> None:
        failed.wait(60)
        while True:
            tell()

    with pytest.raises(ExportError, match="no"), side_by_side() as parts:
        for work in (go_on, fail, go_on):
            parts.start(work)
        parts.finish(lambda: None)


def test_torch_has_its_threads_again() -> None:
    threads = torch.get_num_threads()
    with side_by_side() as parts:
        inside = parts.start(lambda tell: torch.get_num_threads())
        parts.finish(lambda: None)
    assert inside.result() == 1
    assert torch.get_num_threads() == threads
