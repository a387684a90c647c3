"""Crop-and-stitch of LiteMatting on a large image: peak memory and time per window.

    python benchmarks/crop_and_stitch.py [HxW]

By default 4000x6000. The weights are random. A photograph is enlarged to the size. Its trimap is unknown in a band
round an ellipse, as it would be round a person. Peak memory is that of the process, with PyTorch, image and trimap in
it.
"""

from __future__ import annotations

import resource
import sys
import time

import torch

from binmat.data.image import photograph
from binmat.model_defs.registry import build
from binmat.model_defs.trimap import portrait_trimap


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    torch.manual_seed(0)
    height, width = map(int, (sys.argv[1] if len(sys.argv) > 1 else "4000x6000").split("x"))
    network = build("litematting").eval()
    image, known = photograph(height, width), portrait_trimap(height, width)
    trimap = known.alpha()
    before = peak_gib()
    windows = 0

    def progress(done: int, count: int) -> None:
        nonlocal windows
        windows = count
        print(f"\r  window {done} of {count} ", end="", file=sys.stderr, flush=True)

    started = time.perf_counter()
    with torch.no_grad():
        alpha = network.predict(image, trimap=trimap, progress=progress).alpha
    seconds = time.perf_counter() - started
    print(file=sys.stderr)
    assert alpha.shape == (1, 1, height, width) and alpha.isfinite().all()
    unknown = known.unknown.mean()
    print(f"litematting, {height}x{width}, {unknown:.0%} unknown: {windows} windows, {seconds / windows:.2f} s each")
    print(f"peak memory {peak_gib():.2f} GiB, of which before it began {before:.2f} GiB")


if __name__ == "__main__":
    main()
