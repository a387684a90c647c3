"""What converting takes: time of each step and peak memory, next to one float forward of the same network.

    python benchmarks/convert.py [NETWORK[@HxW]]...

Without arguments rvm_mobilenetv3@288x512. Weights are random; nothing here depends on their values. Each conversion
runs in a process of its own, with LCE export and verification. The peak memory is that of the process, with PyTorch in
it. The time that the process takes to start is left out. The float forward is the best of several in this process, with
as many threads. The last line is the time that `binmat --help` takes.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import save_file
from tabulate import tabulate

from binmat.model_defs.example_inputs import example_inputs
from binmat.model_defs.network import Network
from binmat.model_defs.registry import build
from binmat.pipeline.convert_checkpoint import convert_checkpoint

FORWARDS = 3
HELPS = 3
#: PAM exports one path at a time.
OPTIONS = {"pam": {"path": "1011"}}


def float_forward(network: Network, size: tuple[int, int]) -> float:
    """Seconds of one frame, the best of several."""
    call = example_inputs(network, size)
    best = float("inf")
    with torch.no_grad():
        for _ in range(FORWARDS):
            started = time.perf_counter()
            network.run(call.mode, *call.inputs.values())
            best = min(best, time.perf_counter() - started)
    return best


def conversion(checkpoint: Path, name: str, size: tuple[int, int], output: Path) -> tuple[Mapping[str, float], float]:
    """Seconds by step of one conversion, and the peak memory in GiB of the process that this runs in."""
    options = [f"{option}={value}" for option, value in OPTIONS.get(name, {}).items()]
    converted = convert_checkpoint(checkpoint, output, network=name, size=size, options=options)
    return converted.seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    torch.manual_seed(0)
    rows = []
    # One task per process, and none of them forked: each starts without the memory of another.
    processes = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1)
    with tempfile.TemporaryDirectory() as folder, processes:
        for argument in sys.argv[1:] or ["rvm_mobilenetv3@288x512"]:
            name, _, text = argument.partition("@")
            network = build(name, **OPTIONS.get(name, {})).eval()
            height, width = map(int, text.split("x")) if text else example_inputs(network).size
            checkpoint = Path(folder, f"{name}.safetensors")
            state = build(name).state_dict()
            save_file({key: value.clone() for key, value in state.items()}, checkpoint)
            forward = float_forward(network, (height, width))
            converting = processes.submit(conversion, checkpoint, name, (height, width), Path(folder, name))
            steps, memory = converting.result()
            total = sum(steps.values())
            rows += [[f"{name} {height}x{width}", step, f"{seconds:.1f}"] for step, seconds in steps.items()]
            rows.append(["", "together", f"{total:.1f}"])
            rows.append(["", "peak memory, GiB", f"{memory:.2f}"])
            rows.append(["", "one float forward", f"{forward:.3f}"])
            rows.append(["", "together / float forward", f"{total / forward:.0f}"])
    print(tabulate(rows, ["network", "step", "seconds"], colalign=("left", "left", "right"), disable_numparse=True))
    best = float("inf")
    for _ in range(HELPS):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "binmat", "--help"], check=True, stdout=subprocess.DEVNULL)
        best = min(best, time.perf_counter() - started)
    print(
        f"\nbinmat --help: {best:.2f} s, on {os.cpu_count()} processors, torch with {torch.get_num_threads()} threads"
    )


if __name__ == "__main__":
    main()
