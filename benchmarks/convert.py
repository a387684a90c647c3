"""What converting takes: time of each step and peak memory, next to one float forward of the same network.

    python benchmarks/convert.py [NETWORK[@HxW]]...

Without arguments rvm_mobilenetv3@288x512. Weights are random; nothing here depends on their values. Each conversion is
a process of its own, as on the command line, with LCE export and verification; the float forward is the best of several
in this process, with as many threads. Last line: the time that `binmat --help` takes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from tabulate import tabulate

from binmat.model_defs.example_inputs import example_inputs
from binmat.model_defs.network import Network
from binmat.model_defs.registry import build

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


def conversion(checkpoint: Path, name: str, size: tuple[int, int], output: Path) -> tuple[dict[str, float], float]:
    """Seconds by step and peak memory in GiB of one `binmat convert`."""
    command = [sys.executable, "-m", "binmat", "convert", checkpoint, "-o", output, "--size", f"{size[0]}x{size[1]}"]
    for option, value in OPTIONS.get(name, {}).items():
        command += ["--option", f"{option}={value}"]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        said.seek(0)
        text = said.read()
    if status:
        raise SystemExit(f"converting {name} failed:\n{text}")
    steps = {title: float(seconds) for title, seconds in re.findall(r"^  (\S.*?) +([\d.]+) s$", text, re.MULTILINE)}
    return steps, usage.ru_maxrss / 2**20


def main() -> None:
    torch.manual_seed(0)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for argument in sys.argv[1:] or ["rvm_mobilenetv3@288x512"]:
            name, _, text = argument.partition("@")
            network = build(name, **OPTIONS.get(name, {})).eval()
            images = [x for x in example_inputs(network).inputs.values() if isinstance(x, torch.Tensor)]
            height, width = map(int, text.split("x")) if text else images[0].shape[2:]
            checkpoint = Path(folder, f"{name}.safetensors")
            state = build(name).state_dict()
            save_file({key: value.clone() for key, value in state.items()}, checkpoint)
            forward = float_forward(network, (height, width))
            steps, memory = conversion(checkpoint, name, (height, width), Path(folder, name))
            total = steps.pop("together")
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
