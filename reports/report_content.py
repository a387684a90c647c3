"""What a report holds: the numbers of a float network, of a converted one, or of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .blocks import Blocks
from .convention import Convention
from .count import Count
from .layers import Layer
from .sparse import Sparse

SCHEMA = 1


@dataclass(frozen=True)
class Side:
    """One network's numbers.

    counts: by convention. bits: stored bits by module, by formula. bytes: storage of the whole network: for a float one
    the size of its saved state_dict, for a converted one the sum of the formula.
    """

    counts: Mapping[str, Count]
    bits: Mapping[str, int]
    bytes: float


@dataclass(frozen=True)
class ReportContent:
    """Operations and storage of a float network, of a converted one, or of both.

    before, after: the numbers of the float and of the converted network; None where there is no such network.
    blocks: how layers are grouped. layers: of the converted network, or else of the float one. notes: what a reader
    should know. warnings: what a reader must not overlook. files: size in bytes of each file that was written, by name.
    sha256: checksum of each file. verification: {max_abs, mean_abs, flipped_signs} by backend. cross_checks: FLOPs of
    the float network in conventions of other programs. sparse: the credits of a sparse-assisted decoder, or None.
    """

    network: str
    recipe: str | None
    mode: str
    height: int
    width: int
    downsample_ratio: float
    before: Side | None
    after: Side | None
    blocks: Blocks
    layers: tuple[Layer, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    files: Mapping[str, int] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)
    verification: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    cross_checks: Mapping[str, int] = field(default_factory=dict)
    sparse: Sparse | None = None

    @property
    def conventions(self) -> dict[str, Convention]:
        """The conventions that were counted in, by name."""
        side = self.after or self.before
        assert side is not None
        return {name: count.convention for name, count in side.counts.items()}

    def ratio(self, convention: str) -> float | None:
        """How many times fewer operations the converted network takes; None without both networks."""
        if self.before is None or self.after is None:
            return None
        return _ratio(self.before.counts[convention].total.ops, self.after.counts[convention].total.ops)

    @property
    def storage_ratio(self) -> float | None:
        """How many times fewer bytes the converted network takes; None without both networks."""
        return None if self.before is None or self.after is None else _ratio(self.before.bytes, self.after.bytes)

    def to_json(self) -> dict[str, Any]:
        """The content of report.json, schema 1. What is not known is None; ``sparse`` is there with such a decoder."""
        return {
            "schema": SCHEMA,
            "network": self.network,
            "recipe": self.recipe,
            "input": {"height": self.height, "width": self.width, "downsample_ratio": self.downsample_ratio},
            "counts": {name: self._count_json(name) for name in self.conventions},
            "storage": {
                "float_bytes": None if self.before is None else self.before.bytes,
                "converted_bytes": None if self.after is None else self.after.bytes,
                "ratio": self.storage_ratio,
                "files": dict(self.files),
                "sha256": dict(self.sha256),
            },
            "layers": [asdict(layer) for layer in self.layers],
            "verification": {backend: dict(result) for backend, result in self.verification.items()},
            "cross_checks": {name: {"float": {"flops": flops}} for name, flops in self.cross_checks.items()},
            "warnings": list(self.warnings),
            **({} if self.sparse is None else {"sparse": self.sparse.to_json()}),
        }

    def _count_json(self, convention: str) -> dict[str, Any]:
        before = None if self.before is None else self.before.counts[convention].total
        after = None if self.after is None else self.after.counts[convention].total
        return {
            "float": None if before is None else {"flops": before.flops},
            "converted": None if after is None else {"flops": after.flops, "bops": after.bops, "ops": after.ops},
            "ratio": self.ratio(convention),
        }


def _ratio(before: float, after: float) -> float | None:
    return before / after if after else None
