"""BGMv2's refiner: how its time grows with the share of patches that it computes.

    python benchmarks/patch_refiner.py

The time of mode sampling over that of mode full, each the best of several runs that take turns, at 540x960 with random
weights and errors. The last column is the ratio of their multiply-accumulates: a patch is computed with its margin.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from tabulate import tabulate

from binmat.model_defs.patch_refiner import HIDDEN, PatchRefiner

HEIGHT, WIDTH = 540, 960
RUNS = 5
SHARES = (0.01, 0.02, 0.04, 0.1, 0.2, 0.4)
#: Multiply-accumulates of a patch by itself, and of one among all: 3x3 convolutions at half size and at full size.
ALONE = 9 * (42 * 24 * 6 * 6 + 24 * 16 * 4 * 4 + 22 * 12 * 6 * 6 + 12 * 4 * 4 * 4)
AMONG_ALL = 9 * (42 * 24 * 2 * 2 + 24 * 16 * 2 * 2 + 22 * 12 * 4 * 4 + 12 * 4 * 4 * 4)


def best(*runs: Callable[[], object]) -> list[float]:
    """The shortest time of each; they take turns, so that the load of the machine affects all."""
    times = [float("inf")] * len(runs)
    for _ in range(RUNS):
        for index, run in enumerate(runs):
            start = time.perf_counter()
            run()
            times[index] = min(times[index], time.perf_counter() - start)
    return times


@torch.no_grad()
def main() -> None:
    refiner = PatchRefiner().eval()
    coarse = (1, 1, HEIGHT // 4, WIDTH // 4)
    pictures, alpha, error = torch.rand(1, 6, HEIGHT, WIDTH), torch.rand(coarse), torch.rand(coarse)
    residual, hidden = torch.rand(1, 3, *coarse[2:]), torch.rand(1, HIDDEN, *coarse[2:])
    rows = []
    for share in SHARES:
        pixels = share * HEIGHT * WIDTH
        full, sampled = best(
            lambda: refiner.everywhere(pictures, alpha, residual, hidden),
            lambda pixels=pixels: refiner.sampled(pictures, alpha, residual, hidden, error, pixels),
        )
        rows.append([f"{share:.0%}", sampled / full, share * ALONE / AMONG_ALL])
    print(tabulate(rows, ["patches", "time / mode full", "MACs / mode full"], floatfmt=".2f"))


if __name__ == "__main__":
    main()
