"""What converting takes: time of each step and peak memory, next to one float forward of the same network.

    python benchmarks/convert.py [NETWORK[@HxW]]...

Without arguments rvm_mobilenetv3@288x512. Weights are random; nothing here depends on their values. Each conversion
runs in a process of its own, with LCE export and verification. The peak memory is that of the process and of those that
it starts, together, with PyTorch in it; on systems with /proc, sampled some times a second. The CPU time is that of all
of them. The time that the process takes to start is left out. The float forward is the best of several in this process,
with as many threads. The last lines are the time that `binmat --help` takes, and how busy the machine was.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import save_file
from tabulate import tabulate

from binmat.allocator import ENVIRONMENT
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


def conversion(
    checkpoint: Path, name: str, size: tuple[int, int], output: Path
) -> tuple[Mapping[str, float], float, float]:
    """Seconds by step of one conversion; then its CPU seconds and peak memory in GiB, with those of its processes."""
    options = [f"{option}={value}" for option, value in OPTIONS.get(name, {}).items()]
    done = threading.Event()
    with ThreadPoolExecutor(1) as watching:
        peak = watching.submit(peak_memory, done)
        began = cpu_seconds()
        try:
            converted = convert_checkpoint(checkpoint, output, network=name, size=size, options=options)
        finally:
            used = cpu_seconds() - began
            done.set()
    return converted.seconds, used, peak.result() / 2**30


def processes() -> list[list[str]]:
    """The fields of /proc/PID/stat after the name, of this process and its children."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # It has ended.
        if path.parent.name == str(os.getpid()) or fields[1] == str(os.getpid()):
            found.append(fields)
    return found


def cpu_seconds() -> float:
    """User and system time of this process and its children that run."""
    return sum(int(fields[11]) + int(fields[12]) for fields in processes()) / os.sysconf("SC_CLK_TCK")


def peak_memory(done: threading.Event) -> int:
    """Bytes that this process and its children held at most at one time, until it is done."""
    peak = 0
    while not done.wait(0.05):
        peak = max(peak, sum(int(fields[21]) for fields in processes()) * os.sysconf("SC_PAGE_SIZE"))
    return peak


def main() -> None:
    os.environ |= ENVIRONMENT  # For the processes that convert, as the program sets itself up.
    torch.manual_seed(0)
    rows = []
    # One task per process, and none of them forked: each starts without the memory of another.
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1)
    with tempfile.TemporaryDirectory() as folder, pool:
        for argument in sys.argv[1:] or ["rvm_mobilenetv3@288x512"]:
            name, _, text = argument.partition("@")
            network = build(name, **OPTIONS.get(name, {})).eval()
            height, width = map(int, text.split("x")) if text else example_inputs(network).size
            checkpoint = Path(folder, f"{name}.safetensors")
            state = build(name).state_dict()
            save_file({key: value.clone() for key, value in state.items()}, checkpoint)
            forward = float_forward(network, (height, width))
            converting = pool.submit(conversion, checkpoint, name, (height, width), Path(folder, name))
            steps, cpu, memory = converting.result()
            total = sum(steps.values())
            rows += [[f"{name} {height}x{width}", step, f"{seconds:.1f}"] for step, seconds in steps.items()]
            rows.append(["", "together", f"{total:.1f}"])
            rows.append(["", "CPU time of all processes", f"{cpu:.1f}"])
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
    print("load of the last 1, 5 and 15 minutes:", *(f"{load:.1f}" for load in os.getloadavg()))


if __name__ == "__main__":
    main()
