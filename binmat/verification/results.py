"""What a verification found: in numbers, in words, and as one verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from binmat.errors import VerificationError
from binmat.verification.signs import NEAR

#: Largest difference between network and lowered graph that float64 rounding explains, relative to the range of an
#: output or to the spread of a layer's input.
NETWORK_LIMIT = 1e-9
#: Largest difference of a float32 constant from its float64 twin, relative to the largest of its tensor.
CONSTANT_LIMIT = 1e-6

#: What a node's values are compared by. "value": floats, relative to the tensor's range; "sum": a binary convolution,
#: in units of what float rounding of sum * multiplier + bias allows, and on wide values whatever has such a bound for
#: each element; "sign" and "exact": the number of differences.
CheckKind = Literal["value", "sum", "sign", "exact"]


@dataclass(frozen=True)
class NetworkCheck:
    """The network against its lowered graph, both in float64.

    max_abs, mean_abs: differences of the outputs; worst: the largest relative to its output's range.
    signs: how many were compared. flipped_signs: the share of them that differ. distance: the largest |x - threshold|
    among them, relative to the standard deviation of x - threshold in its layer. zeros: how many of them are exact
    zeros on both sides. moved: the largest difference of x - threshold itself, relative to the largest in its layer.
    constants: how far those of the shipped float32 graph lie from those in float64, relative to each one's largest.
    layer, layer_name: the largest difference of a layer without weights by itself on wide values, relative to the range
    of its result; layers: how many of those were compared.
    """

    max_abs: float
    mean_abs: float
    worst: float
    signs: int
    flipped_signs: float
    distance: float
    zeros: int = 0
    moved: float = 0.0
    constants: float = 0.0
    layer: float = 0.0
    layer_name: str = ""
    layers: int = 0

    @property
    def passed(self) -> bool:
        # NaN must fail.
        values = self.worst <= NETWORK_LIMIT and self.distance <= NETWORK_LIMIT and self.moved <= NETWORK_LIMIT
        return values and not self.zeros and self.constants <= CONSTANT_LIMIT and self.layer <= NETWORK_LIMIT

    def check(self) -> None:
        """Raise VerificationError where rounding does not explain the difference."""
        if math.isnan(self.max_abs):
            raise VerificationError("an output of the network is not a number: look for NaN in its weights")
        if self.passed:
            return
        if not self.constants <= CONSTANT_LIMIT:
            found = f"its constants differ from those in float64 by {self.constants:.2g} of their range"
        elif not self.layer <= NETWORK_LIMIT:
            found = f"layer '{self.layer_name}' on wide values differs by {self.layer:.2g} of its range"
        elif self.zeros:
            found = f"{self.zeros} signs of exact zeros differ"
        else:
            found = f"in float64 they differ by {max(self.worst, self.distance, self.moved):.2g} of their range"
        raise VerificationError(
            f"the lowered graph is not the network: {found}; please report this as a bug of binmat, with the recipe"
        )


@dataclass(frozen=True)
class NodeCheck:
    """One node of the lowered graph, computed by torch from the backend's own inputs of that node.

    worst: the largest difference in the unit of `kind`; limit: what rounding explains. elements: how many compared.
    constant: whether all of them were equal, which proves little.
    """

    node: str
    layer: str
    operator: str
    kind: CheckKind
    elements: int
    worst: float
    limit: float
    constant: bool = False

    @property
    def passed(self) -> bool:
        # NaN must fail.
        return self.worst <= self.limit

    def __str__(self) -> str:
        """Where it is, and how far it lies from torch."""
        where = f"layer '{self.layer}', node '{self.node}' ({self.operator})" if self.layer else self.node
        found = {
            "sign": f"{self.worst:.0f} of {self.elements} signs",
            "exact": f"{self.worst:.0f} of {self.elements} values",
            "sum": f"{self.worst:.3g} times what rounding allows",
            "value": f"{self.worst:.3g} of the range, {self.limit:.3g} allowed",
        }
        return f"{where} differs from torch on equal inputs: {found[self.kind]}"


@dataclass(frozen=True)
class OutputDifference:
    """An output of one frame, torch's graph against the backend, each fed with its own states.

    constant: whether torch's has one value everywhere, so that the difference proves little.
    """

    name: str
    frame: int
    max_abs: float
    mean_abs: float
    constant: bool = False


@dataclass(frozen=True)
class SignFlips:
    """Signs of one binarization that differ in the end-to-end run.

    flipped, elements: counts. distance: the largest |x - threshold| in torch among flipped ones, in units of the
    standard deviation of x - threshold in the layer; small means that rounding moved values across the threshold.
    near: how many signs lie within ``signs.NEAR`` of their threshold, in the same unit; 0 where none flipped.
    """

    node: str
    layer: str
    frame: int
    flipped: int
    elements: int
    distance: float
    near: int = 0


@dataclass
class FileRun:
    """The lowered graph against the file, on one clip by one kernel.

    form: of the model that this kernel can run; empty for the file itself. frames: how many ran as a whole; 0 where the
    kernel ran the binary operators alone, each on the operands that the default kernel computed. checked_frames: how
    many frames were compared node by node. faithful: whether the file's outputs are bit for bit those of the nodes that
    were compared.
    """

    kernel: str
    form: str
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
        return _flipped_share(self.flips)

    @property
    def first_flips(self) -> SignFlips | None:
        """Where flipping begins: the first binarization of the first frame that any sign flips in.

        Nothing before it has flipped, so its distance shows what rounding alone has moved. The distances of later
        layers and frames also show what that flip has changed.
        """
        return next((flips for flips in self.flips if flips.flipped), None)

    @property
    def failures(self) -> list[NodeCheck]:
        return [node for node in self.nodes if not node.passed]

    def check(self) -> None:
        """Raise VerificationError where a difference is systematic: a node that differs although its inputs are equal.

        Rounding that flips a sign at its threshold, and what follows from it downstream, is not an error.
        """
        check_nodes(self.nodes)
        if self.checked_frames and not self.nodes:
            raise VerificationError("no operator was compared: the backend names no node whose value is in the file")
        if not self.faithful:
            raise VerificationError("the file's outputs are not those of the network it was made from: export it again")

    def to_json(self) -> dict[str, Any]:
        """Everything measured, with the summary in front."""
        return {
            "max_abs": self.max_abs,
            "mean_abs": self.mean_abs,
            "flipped_signs": self.flipped_signs,
            "failures": len(self.failures),
            "first_flips": None if self.first_flips is None else asdict(self.first_flips),
            **asdict(self),
        }


def check_nodes(nodes: Sequence[NodeCheck]) -> None:
    """Raise VerificationError where a node differs by more than rounding."""
    failures = [node for node in nodes if not node.passed]
    if failures:
        worst = max(failures, key=lambda node: node.worst / node.limit if node.limit else float("inf"))
        raise VerificationError(f"{worst}; {len(failures)} of {len(nodes)} nodes fail")


@dataclass(frozen=True)
class Verification:
    """What verifying a model file found: network against lowered graph, then graph against file.

    backend, title: of the file's backend, its name in reports and in sentences. runs: (clip, kernel) -> what was found.
    alone: every operator by itself on wide values. as_written: whether the file has the bytes of a fresh export; if
    not, another machine's rounding explains what differs, and the file itself was run.
    """

    backend: str
    title: str
    network: NetworkCheck
    runs: Mapping[tuple[str, str], FileRun]
    alone: Sequence[NodeCheck] = ()
    as_written: bool = True

    def check(self) -> None:
        """Raise VerificationError where a difference is systematic; rounding is none."""
        self.network.check()
        for (clip, kernel), run in self.runs.items():
            try:
                run.check()
            except VerificationError as error:
                place = f"{self.title}'s {kernel} kernel" if kernel else self.title
                raise VerificationError(f"on {clip}, {place}: {error}") from error
        try:
            check_nodes(self.alone)
        except VerificationError as error:
            raise VerificationError(f"on wide values, {self.title}: {error}") from error

    @property
    def systematic(self) -> str | None:
        """What is wrong, in one line; None where all differences are rounding."""
        try:
            self.check()
        except VerificationError as error:
            return str(error)
        return None

    def summary(self) -> dict[str, dict[str, Any]]:
        """For reports: {backend: {max_abs, mean_abs, flipped_signs, ...}}, first of all runs together, then of each.

        After them the operators on wide values, and the lowered graph.

        max_abs, mean_abs: of the outputs, end to end. flipped_signs: the share of signs that differ end to end.
        operators: how many operator results were compared with torch's on equal inputs. systematic: whether any of
        them differs by more than rounding.
        """
        runs = {self.backend: [*self.runs.values()]}
        for (clip, kernel), run in self.runs.items():
            runs[f"{f'{self.backend} {kernel}'.strip()}, {clip}"] = [run]
        network = {key: getattr(self.network, key) for key in ("max_abs", "mean_abs", "flipped_signs")}
        network["systematic"] = not self.network.passed
        alone = {"operators": len(self.alone), "systematic": not all(node.passed for node in self.alone)}
        return {
            **{name: _numbers(found) for name, found in runs.items()},
            f"{self.backend}, wide values": alone,
            "lowered graph, float64": network,
        }

    def to_json(self) -> dict[str, Any]:
        """Everything that was measured."""
        clips: dict[str, list[dict[str, Any]]] = {}
        for (clip, _), run in self.runs.items():
            clips.setdefault(clip, []).append(run.to_json())
        return {
            "systematic": self.systematic,
            "as_written": self.as_written,
            "network": asdict(self.network),
            "summary": self.summary(),
            "wide values": [asdict(node) for node in self.alone],
            "clips": clips,
        }

    def __str__(self) -> str:
        """The verdict and its evidence, one sentence per line."""
        wrong = self.systematic
        if wrong is not None:
            return f"The model file does NOT compute what the PyTorch graph computes: {wrong}."
        runs = [*self.runs.values()]
        kernels = " and ".join(dict.fromkeys(map(_kernel, runs)))
        clips = " and ".join(dict.fromkeys(clip for clip, _ in self.runs))
        ran = f"{self.title}'s kernels: {kernels}" if kernels else f"in {self.title}"
        nodes = [node for run in runs for node in run.nodes]
        frames, apart = max(run.frames for run in runs), max(run.max_abs for run in runs)
        return (
            f"The model file computes what the PyTorch graph computes ({ran}; inputs: {clips}).\n"
            "The lowered graph is the network: in float64 their outputs differ by at most "
            f"{self.network.max_abs:.1e}.\n"
            f"Operator by operator, {len(nodes):,} results were compared with PyTorch's on equal inputs: "
            f"{_rounding(nodes)}.\n"
            f"By themselves on wide values, {len(self.alone):,} operators: {_rounding([*self.alone])}.\n"
            f"End to end, over {frames} frames with states, outputs differ by at most {apart:.1e}; {_flips(runs)}."
            + "".join(f"\n{note}" for note in (*_constants(self.runs), *self._of_another_machine()))
        )

    @property
    def whole(self) -> dict[tuple[str, str], FileRun]:
        """The runs of whole frames."""
        return {key: run for key, run in self.runs.items() if run.frames}

    def _of_another_machine(self) -> list[str]:
        if self.as_written:
            return []
        return ["Another machine's rounding tells the file's constants from a fresh export's; the file itself was run."]


def _kernel(run: FileRun) -> str:
    """A kernel's name, and what of the file it ran."""
    told = ["binary operators alone"] * (not run.frames) + [f"on the graph's {run.form}"] * bool(run.form)
    return f"{run.kernel} ({', '.join(told)})" if told else run.kernel


def _constants(runs: Mapping[tuple[str, str], FileRun]) -> list[str]:
    """What was compared and had one value everywhere."""
    notes = []
    for clip in dict.fromkeys(clip for clip, _ in runs):
        found = [run for (name, _), run in runs.items() if name == clip]
        outputs = dict.fromkeys(out.name for run in found for out in run.outputs if out.constant)
        if outputs:
            names = ", ".join(f"'{name}'" for name in outputs)
            notes.append(f"On {clip}, {names} had one value everywhere: end to end, that is no proof.")
        signs = [node for run in found for node in run.nodes if node.kind == "sign"]
        layers, blind = ({n.layer or n.node for n in those} for those in (signs, [n for n in signs if n.constant]))
        if blind:
            notes.append(
                f"On {clip}, {len(blind)} of {len(layers)} binary layers saw one sign only: for those, the wide values "
                "alone are proof."
            )
    return notes


def _flipped_share(flips: Iterable[SignFlips]) -> float:
    """The share of signs that differ."""
    flips = list(flips)
    return sum(flip.flipped for flip in flips) / max(sum(flip.elements for flip in flips), 1)


def _numbers(runs: list[FileRun]) -> dict[str, Any]:
    whole = [run for run in runs if run.frames]
    numbers: dict[str, Any] = {}
    if whole:
        numbers["max_abs"] = max(run.max_abs for run in whole)
        numbers["mean_abs"] = sum(run.mean_abs for run in whole) / len(whole)
        numbers["flipped_signs"] = _flipped_share(flip for run in whole for flip in run.flips)
    return {
        **numbers,
        "operators": sum(len(run.nodes) for run in runs),
        "systematic": any(run.failures or not run.faithful for run in runs),
    }


def _rounding(nodes: list[NodeCheck]) -> str:
    """How far the results lie from torch's, by what they are compared by."""
    found: dict[CheckKind, list[NodeCheck]] = {}
    for node in nodes:
        found.setdefault(node.kind, []).append(node)
    parts = []
    if "sum" in found:
        worst = max(node.worst for node in found["sum"])
        parts.append(f"sums of products within {worst:.0%} of what float32 rounding allows")
    if "sign" in found:
        parts.append(f"all {sum(node.elements for node in found['sign']):,} signs equal")
    if "value" in found:
        parts.append(f"float operators within {max(node.worst for node in found['value']):.1e} of their range")
    if "exact" in found:
        parts.append("integers equal")
    return ", ".join(parts)


def _flips(runs: list[FileRun]) -> str:
    flips = [flip for run in runs for flip in run.flips]
    signs, flipped = sum(flip.elements for flip in flips), sum(flip.flipped for flip in flips)
    if not flipped:
        return f"none of {signs:,} signs flipped" if signs else "there are no signs to flip"
    firsts = [run.first_flips for run in runs if run.first_flips is not None]
    distance, ties = max(first.distance for first in firsts), max(firsts, key=lambda first: first.near)
    return (
        f"{flipped:,} of {signs:,} signs ({flipped / signs:.1e}) flipped, the first of each run "
        f"at most {distance:.1e} standard deviations from their threshold, the others in consequence or likewise; "
        f"where flipping begins, {ties.near:,} of {ties.elements:,} signs lie within {NEAR:g} standard deviations of "
        "their threshold, and rounding decides them"
    )
