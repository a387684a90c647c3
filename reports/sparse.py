"""What a sparse-assisted decoder is credited with: the work that its mask leaves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from statistics import fmean
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from binmat.data.image import resize
from binmat.data.inference import matte_frames
from binmat.errors import InputError
from binmat.model_defs.network import Network
from binmat.model_defs.trimap import read_trimap
from binmat.nn.masked_path import recorded_density

from .count import Count

#: The share of active pixels behind the BiMatting paper's numbers: fitted to them, the paper does not state it.
PAPER_DENSITY = 0.351


@dataclass(frozen=True)
class ClipDensity:
    """The share of active pixels in each masked path, by name, averaged over the frames of a clip."""

    paths: Mapping[str, float]
    frames: int


@dataclass(frozen=True)
class Sparse:
    """Three figures of a sparse-assisted decoder: dense, credited at a given density, credited on a clip.

    density: the given one. measured: on a clip, or None. counts: the dense ones, by convention.
    """

    density: float
    measured: ClipDensity | None
    counts: Mapping[str, Count]

    @property
    def paths(self) -> tuple[str, ...]:
        """The masked paths in order of execution."""
        count = next(iter(self.counts.values()))
        return tuple(dict.fromkeys(count.masked.values()))

    def credited(self, convention: str) -> float:
        """OPs of the whole network at the given density."""
        return self.counts[convention].credited(self.density).ops

    def on_clip(self, convention: str) -> float | None:
        """OPs of the whole network at the densities measured; None without a clip."""
        return None if self.measured is None else self.counts[convention].credited(self.measured.paths).ops

    def of_path(self, convention: str, path: str) -> float:
        """OPs of one masked path, computed everywhere."""
        count = self.counts[convention]
        return sum(cost.ops for name, cost in count.costs.items() if count.masked.get(name) == path)

    def to_json(self) -> dict[str, Any]:
        measured = None
        if self.measured is not None:
            on_clip = {name: self.on_clip(name) for name in self.counts}
            measured = {"frames": self.measured.frames, "density": dict(self.measured.paths), **on_clip}
        return {
            "given": {"density": self.density, **{name: self.credited(name) for name in self.counts}},
            "measured": measured,
            "paths": [
                {"name": path, **{convention: self.of_path(convention, path) for convention in self.counts}}
                for path in self.paths
            ],
        }


def measure_density(
    network: Network,
    frames: Iterable[Tensor],
    downsample_ratio: float = 1.0,
    *,
    trimaps: Iterable[Tensor] | None = None,
    background: Tensor | None = None,
) -> ClipDensity:
    """Run consecutive frames [1, 3, H, W] through the network and note how much of each masked path was active.

    trimaps, background: for the networks that need them, see :func:`binmat.data.inference.matte_frames`. A frame that
    takes several windows counts each of them. Raises InputError without frames, where they differ in size and where the
    network did not run, SizeError where they do not fit.
    """
    with recorded_density(network) as shares:
        predictions = matte_frames(
            network, frames, trimaps=trimaps, background=background, downsample_ratio=downsample_ratio
        )
        count = sum(1 for _ in predictions)
    if not count:
        raise InputError("the density of a clip is measured on its frames, and this one has none")
    active = {path: fmean(seen) for path, seen in shares.items() if seen}
    if not active:
        raise InputError("no trimap of the clip has an unknown pixel, so the network did not run: take another clip")
    return ClipDensity(active, count)


def resized_frames(
    frames: Iterable[Tensor], background: Tensor | None, height: int, width: int
) -> Iterator[Tensor]:
    """Frames as [1, 3, height, width]. Raises InputError where the clip's background has another size than a frame."""
    for frame in frames:
        if background is not None and background.shape != frame.shape:
            raise InputError(
                f"the background has {background.shape[2]}x{background.shape[3]} pixels and the frames of the clip "
                f"{frame.shape[2]}x{frame.shape[3]}: give the same scene without its subject, taken and cropped alike"
            )
        yield resize(frame, height, width)


def resized_trimaps(
    trimaps: Iterable[Tensor], frames: Iterable[Tensor], height: int, width: int
) -> Iterator[Tensor]:
    """Trimaps of frames as floats [1, 1, height, width] of 0, 0.5 and 1, resized to their nearest pixels.

    Raises InputError where there are more trimaps than frames and for a trimap that does not fit its frame.
    """
    for frame, trimap in zip_longest(frames, trimaps):
        if trimap is None:
            return
        if frame is None:
            raise InputError("there are more trimaps than frames: pass one for each")
        known = read_trimap(trimap, frame.shape[2], frame.shape[3])
        yield F.interpolate(known.alpha()[None, None], size=(height, width), mode="nearest-exact")
