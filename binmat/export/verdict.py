"""The verifications of one model file taken together, in numbers and in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from binmat.errors import VerificationError
from binmat.export.lowering_check import LoweringCheck
from binmat.export.verification import CheckKind, KernelVerification, NodeCheck, Verification, check

#: The backend's name in reports.
BACKEND = "lce"


@dataclass(frozen=True)
class Verdict:
    """What verifying a model file found: network against deployment graph, then graph against file.

    clips: clip by clip, with every kernel that ran it.
    """

    lowering: LoweringCheck
    clips: Mapping[str, Verification]

    def runs(self) -> dict[tuple[str, str], KernelVerification]:
        """(clip, kernel) -> what was found."""
        return {(name, run.kernel): run for name, clip in self.clips.items() for run in clip.kernels}

    def check(self) -> None:
        """Raise VerificationError where a difference is systematic; rounding is none."""
        if not self.lowering.passed:
            raise VerificationError(
                "the deployment graph is not the network: in float64 they differ by "
                f"{max(self.lowering.worst, self.lowering.distance):.2g} of their range; "
                "please report this as a bug of binmat, with the recipe"
            )
        for name, clip in self.clips.items():
            try:
                check(clip)
            except VerificationError as error:
                raise VerificationError(f"on {name}, {error}") from error

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

        max_abs, mean_abs: of the outputs, end to end. flipped_signs: the share of signs that differ end to end.
        operators: how many operator results were compared with torch's on equal inputs. systematic: whether any of
        them differs by more than rounding.
        """
        runs = {f"{BACKEND} {kernel}, {clip}": [run] for (clip, kernel), run in self.runs().items()}
        backends = {name: _numbers(found) for name, found in {BACKEND: [*self.runs().values()], **runs}.items()}
        lowering = asdict(self.lowering)
        numbers = {key: lowering[key] for key in ("max_abs", "mean_abs", "flipped_signs")}
        return {**backends, "deployment graph, float64": {**numbers, "systematic": not self.lowering.passed}}

    def to_json(self) -> dict[str, Any]:
        """Everything that was measured."""
        return {
            "systematic": self.systematic,
            "lowering": asdict(self.lowering),
            "summary": self.summary(),
            "clips": {name: clip.to_json() for name, clip in self.clips.items()},
        }

    def __str__(self) -> str:
        """The verdict and its evidence, one sentence per line."""
        runs = [*self.runs().values()]
        kernels = " and ".join(
            dict.fromkeys(run.kernel + ", on the graph's portable form" * run.portable for run in runs)
        )
        nodes = [node for run in runs for node in run.nodes]
        wrong = self.systematic
        if wrong is not None:
            return f"The model file does NOT compute what the PyTorch graph computes: {wrong}."
        return "\n".join(
            [
                "The model file computes what the PyTorch graph computes "
                f"(LCE's kernels: {kernels}; inputs: {' and '.join(self.clips)}).",
                "The deployment graph is the network: in float64 their outputs differ by at most "
                f"{self.lowering.max_abs:.1e}.",
                f"Operator by operator, {len(nodes):,} results were compared with PyTorch's on equal inputs: "
                f"{_rounding(nodes)}.",
                f"End to end, over {max(run.frames for run in runs)} frames with states, outputs differ by at most "
                f"{max(run.max_abs for run in runs):.1e}; {_flips(runs)}.",
            ]
        )


def _numbers(runs: list[KernelVerification]) -> dict[str, Any]:
    signs = sum(flip.elements for run in runs for flip in run.flips)
    return {
        "max_abs": max(run.max_abs for run in runs),
        "mean_abs": sum(run.mean_abs for run in runs) / len(runs),
        "flipped_signs": sum(flip.flipped for run in runs for flip in run.flips) / max(signs, 1),
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
        parts.append(f"binary convolutions within {worst:.0%} of what float32 rounding allows")
    if "sign" in found:
        parts.append(f"all {sum(node.elements for node in found['sign']):,} signs equal")
    if "value" in found:
        parts.append(f"float operators within {max(node.worst for node in found['value']):.1e} of their range")
    if "exact" in found:
        parts.append("integers equal")
    return ", ".join(parts)


def _flips(runs: list[KernelVerification]) -> str:
    flips = [flip for run in runs for flip in run.flips]
    signs, flipped = sum(flip.elements for flip in flips), sum(flip.flipped for flip in flips)
    if not flipped:
        return f"none of {signs:,} signs flipped" if signs else "there are no signs to flip"
    first = max((run.first_flips.distance for run in runs if run.first_flips is not None), default=0.0)
    return (
        f"{flipped:,} of {signs:,} signs ({flipped / signs:.1e}) flipped, the first of each run "
        f"at most {first:.1e} standard deviations from their threshold, the others in consequence or likewise"
    )
