"""What a verification found, as plain numbers, and the verdict on it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from binmat.errors import VerificationError

#: What a node's values are compared by. "value": floats, relative to the tensor's range; "sum": a binary convolution,
#: in units of what float rounding of sum * multiplier + bias allows; "sign" and "exact": the number of differences.
CheckKind = Literal["value", "sum", "sign", "exact"]


@dataclass(frozen=True)
class NodeCheck:
    """One node of the lowered graph, computed by torch from the backend's own inputs of that node.

    worst: the largest difference in the unit of `kind`; limit: what rounding explains. elements: how many compared.
    """

    node: str
    layer: str
    operator: str
    kind: CheckKind
    elements: int
    worst: float
    limit: float

    @property
    def passed(self) -> bool:
        # NaN must fail.
        return self.worst <= self.limit


@dataclass(frozen=True)
class OutputDifference:
    """An output of one frame, torch's graph against the backend, each fed with its own states."""

    name: str
    frame: int
    max_abs: float
    mean_abs: float


@dataclass(frozen=True)
class SignFlips:
    """Signs of one binarization that differ in the end-to-end run.

    flipped, elements: counts. distance: the largest |x - threshold| in torch among flipped ones, in units of the
    standard deviation of x - threshold in the layer; small means that rounding moved values across the threshold.
    """

    node: str
    layer: str
    frame: int
    flipped: int
    elements: int
    distance: float


@dataclass
class KernelVerification:
    """One backend configuration. faithful: the shipped file's outputs are bit for bit those of the checked nodes."""

    kernel: str
    portable: bool
    frames: int
    checked_frames: int
    faithful: bool = True
    nodes: list[NodeCheck] = field(default_factory=list)
    outputs: list[OutputDifference] = field(default_factory=list)
    flips: list[SignFlips] = field(default_factory=list)

    @property
    def max_abs(self) -> float:
        return max((o.max_abs for o in self.outputs), default=0.0)

    @property
    def mean_abs(self) -> float:
        """Mean over outputs and frames of their mean absolute differences."""
        return sum(o.mean_abs for o in self.outputs) / max(len(self.outputs), 1)

    @property
    def flipped_signs(self) -> float:
        """The share of all signs that differ end to end."""
        return sum(f.flipped for f in self.flips) / max(sum(f.elements for f in self.flips), 1)

    @property
    def first_flips(self) -> SignFlips | None:
        """Where flipping begins: the first binarization of the first frame that any sign flips in.

        Nothing before it has flipped, so its distance shows what rounding alone has moved; those of later layers and
        frames also show what that flip has changed.
        """
        return next((flips for flips in self.flips if flips.flipped), None)

    @property
    def failures(self) -> list[NodeCheck]:
        return [node for node in self.nodes if not node.passed]


@dataclass
class Verification:
    """The verification of one exported model. kernels: one entry per kernel that ran it."""

    height: int
    width: int
    kernels: list[KernelVerification]

    def to_json(self) -> dict[str, Any]:
        """Everything measured, with the summary of each kernel in front."""
        kernels = [
            {
                "max_abs": kernel.max_abs,
                "mean_abs": kernel.mean_abs,
                "flipped_signs": kernel.flipped_signs,
                "failures": len(kernel.failures),
                "first_flips": None if kernel.first_flips is None else asdict(kernel.first_flips),
                **asdict(kernel),
            }
            for kernel in self.kernels
        ]
        return {"height": self.height, "width": self.width, "kernels": kernels}


def check(result: Verification) -> None:
    """Raise VerificationError where a difference is systematic: a node that differs although its inputs are equal.

    Rounding that flips a sign at its threshold, and what follows from it downstream, is not an error.
    """
    for kernel in result.kernels:
        place = f"LCE's {kernel.kernel} kernel"
        if kernel.failures:
            worst = max(kernel.failures, key=lambda node: node.worst / node.limit if node.limit else float("inf"))
            where = f"layer '{worst.layer}', node '{worst.node}' ({worst.operator})" if worst.layer else worst.node
            raise VerificationError(
                f"{place}: {where} differs from torch on equal inputs: {_in_words(worst)}; "
                f"{len(kernel.failures)} of {len(kernel.nodes)} nodes fail"
            )
        if not kernel.faithful:
            raise VerificationError(
                f"{place}: the file's outputs are not those of the network it was made from: export it again"
            )


def _in_words(node: NodeCheck) -> str:
    if node.kind == "sign":
        return f"{node.worst:.0f} of {node.elements} signs"
    if node.kind == "exact":
        return f"{node.worst:.0f} of {node.elements} values"
    if node.kind == "sum":
        return f"{node.worst:.3g} times what rounding allows"
    return f"{node.worst:.3g} of the range, {node.limit:.3g} allowed"
