"""Backpropagating refinement of LSA-Matting: encoder passes, and the time of all steps relative to one forward.

    python benchmarks/brm.py [HxW [STEPS]]

By default 256x256 and the paper's 100 steps. The weights are random. Every step but the last runs the decoder forward
and backward.
"""

from __future__ import annotations

import sys
import time

import torch

from binmat.model_defs.refinement import STEPS, refine
from binmat.model_defs.registry import build

FORWARDS = 3


def main() -> None:
    torch.manual_seed(0)
    height, width = map(int, (sys.argv[1] if len(sys.argv) > 1 else "256x256").split("x"))
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else STEPS
    network = build("lsa_matting").eval()
    x = torch.rand(1, 4, height, width)
    x[:, 3] = 0.5
    x[:, 3, : height // 4], x[:, 3, -height // 4 :] = 0, 1
    encodes = []
    features = network.modes["encode"]
    encode = getattr(network, features)
    setattr(network, features, lambda *args: encodes.append(1) or encode(*args))
    times = dict.fromkeys(("forward", "encoder", "refinement"), float("inf"))
    with torch.no_grad():
        for _ in range(FORWARDS):
            started = time.perf_counter()
            network.run("matting", x)
            times["forward"] = min(times["forward"], time.perf_counter() - started)
            started = time.perf_counter()
            network.run("encode", x)
            times["encoder"] = min(times["encoder"], time.perf_counter() - started)
    encodes.clear()
    started = time.perf_counter()
    refine(network, x, steps=steps)
    times["refinement"] = time.perf_counter() - started
    decoder = times["forward"] - times["encoder"]
    print(f"lsa_matting, {height}x{width}, {steps} steps: {len(encodes)} encoder pass, {steps} decoder passes")
    print(f"refinement / one forward: {times['refinement'] / times['forward']:.1f}")
    print(f"refinement / one decoder forward: {times['refinement'] / decoder:.1f}")
    print(f"one forward {times['forward']:.3f} s, of which encoder {times['encoder'] / times['forward']:.0%}")


if __name__ == "__main__":
    main()
