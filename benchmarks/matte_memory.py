"""Memory while many frames are matted: a video, and single images one after the other.

    python benchmarks/matte_memory.py [NETWORK] [FRAMES] [IMAGES]

By default rvm_mobilenetv3, 1,000 frames and 300 images of 64x96. The weights are random. The table shows the memory of
the process (resident) as the frames go by, and how much of it came after the first tenth: constant memory shows a few
MiB, whatever the number of frames.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

from binmat.data.image import photograph, write_image
from binmat.data.video import video_writer
from binmat.model_defs.network import Network
from binmat.model_defs.registry import build
from binmat.pipeline.matte_clip import matte_clip

HEIGHT, WIDTH = 64, 96


def resident_mib() -> float:
    [line] = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


class Watch:
    """Prints the memory at each tenth of a job."""

    def __init__(self, title: str, count: int) -> None:
        self._count, self._seen = count, []  # type: ignore[var-annotated]
        print(f"\n{title}\n{'done':>8} {'MiB':>8}")

    def __call__(self, done: int) -> None:
        if done % max(1, self._count // 10) == 0:
            self._seen.append(resident_mib())
            print(f"{done:>8,} {self._seen[-1]:>8.1f}", flush=True)

    def close(self) -> None:
        print(f"after the first tenth: {max(self._seen) - self._seen[0]:+.1f} MiB at most")


def moving(count: int) -> Iterable[int]:
    """Offsets of a window that wanders over the photograph."""
    return (abs(number % 64 - 32) for number in range(count))


def film(network: Network, place: Path, count: int) -> None:
    wide = photograph(HEIGHT, WIDTH + 32)
    with video_writer(place / "film.mp4", Fraction(25)) as add:
        for offset in moving(count):
            add(wide[..., offset : offset + WIDTH])
    watch = Watch(f"a video of {count:,} frames, {network.name}, {HEIGHT}x{WIDTH}", count)
    made = matte_clip(network, place / "film.mp4", place / "film", progress=lambda done, _: watch(done))
    assert len(made.details) == count
    watch.close()


def pictures(network: Network, place: Path, count: int) -> None:
    wide = photograph(HEIGHT, WIDTH + 32)
    watch = Watch(f"{count:,} images, one call each, {network.name}, {HEIGHT}x{WIDTH}", count)
    for number, offset in enumerate(moving(count), 1):
        write_image(wide[..., offset : offset + WIDTH], place / "photo.png")
        matte_clip(network, place / "photo.png", place / "photo")
        watch(number)
    watch.close()


def main() -> None:
    name, *counts = [*sys.argv[1:], *("rvm_mobilenetv3", "1000", "300")[len(sys.argv) - 1 :]]
    frames, images = map(int, counts)
    network = build(name).eval()
    jobs: list[tuple[Callable[[Network, Path, int], None], int]] = [(film, frames), (pictures, images)]
    for job, count in jobs:
        with tempfile.TemporaryDirectory() as place:
            job(network, Path(place), count)


if __name__ == "__main__":
    main()
