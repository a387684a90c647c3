"""What a sparse-assisted decoder is credited with: the work that its mask leaves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from torch import Tensor

from binmat.data.inference import matte_frames
from binmat.errors import InputError
from binmat.model_defs.network import Network
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


def measure_density(network: Network, frames: Iterable[Tensor], downsample_ratio: float = 1.0) -> ClipDensity:
    """Run consecutive frames [1, 3, H, W] through the network and note how much of each masked path was active.

    Raises InputError without frames or where they differ in size, SizeError where they do not fit.
    """
    with recorded_density(network) as shares:
        count = sum(1 for _ in matte_frames(network, frames, downsample_ratio=downsample_ratio))
    if not count:
        raise InputError("the density of a clip is measured on its frames, and this one has none")
    return ClipDensity({path: fmean(seen) for path, seen in shares.items()}, count)
