"""The authors' BiMatting checkpoints: how their 670 tensors become those of recipe ``bimatting``.

The layouts differ in three points:

- a shift before sign is a threshold with the other sign here; the shifts round a PReLU are RPReLU's -gamma and zeta.
  All are [1, C, 1, 1] there and [C] here;
- the 1x1 branches of a sub-SBB that multiplies channels, and their batch norms, are one convolution and one norm here;
- nothing reads the ``channel_threshold`` in every binary convolution's state.

The computation differs in one: their sign(0) is 0, ours is +1.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from binmat.errors import CheckpointError

_UNUSED = ".channel_threshold"
_LAYER = ("weight", "bias")
_NORM = (*_LAYER, "running_mean", "running_var", "num_batches_tracked")
_SHOWN = 3
#: How many branches the 1x1 of the sub-SBBs 1 to 17 has; 0 where it keeps the channels and has another name.
_BRANCHES = (2, 2, 1, 2, 2, 1, 0, 2, 1, 2, 2, 1, 0, 2, 1, 2, 4)
_LANDMARKS = (
    "backbone.feature.1.binary_3x3.weight",
    "backbone.feature.17.binary_pw_down4.weight",
    "aspp.aspp1.2.weight",
    "decoder.decode4.conv.2.weight",
    "decoder.decode3.gru.ih_1x1.2.weight",
    "decoder.decode0.conv_1x1.5.weight",
)


@dataclass(frozen=True)
class _Part:
    """One of our tensors: official tensors concatenated, then flattened to [C] and negated as asked."""

    name: str
    sources: tuple[str, ...]
    negated: bool = False
    flat: bool = False

    def value(self, state: Mapping[str, Tensor], path: str | os.PathLike[str]) -> Tensor:
        tensors = [state[key] for key in self.sources]
        try:
            # Branches are counted together: each has seen the same batches.
            value = tensors[0] if tensors[0].dim() == 0 else torch.cat(tensors)
            value = value.flatten() if self.flat else value
            return -value if self.negated else value
        except (RuntimeError, NotImplementedError) as error:
            shapes = ", ".join(f"{key} {list(state[key].shape)}" for key in self.sources)
            raise CheckpointError(f"{path} does not fit official BiMatting: misshapen {shapes}") from error


def recognise(keys: Mapping[str, object]) -> bool:
    """Whether most of the official network's landmarks are among the keys, so that a damaged file is recognised too."""
    return 2 * sum(key in keys for key in _LANDMARKS) > len(_LANDMARKS)


def translate(
    state: Mapping[str, Tensor], path: str | os.PathLike[str] = "the checkpoint"
) -> tuple[dict[str, Tensor], str]:
    """An official state_dict as that of recipe ``bimatting``'s network, and the refiner of the RVM that it fits.

    Raises CheckpointError where tensors are missing, left over or misshapen.
    """
    refiner = "deep_guided_filter" if any(key.startswith("refiner.") for key in state) else "fast_guided_filter"
    parts = list(_parts(refiner))
    wanted = {key for part in parts for key in part.sources if not key.endswith(".num_batches_tracked")}
    read = {key for part in parts for key in part.sources}
    used = {key for key in state if not key.endswith(_UNUSED)}
    faults = []
    for kind, keys in (("missing", wanted - state.keys()), ("left over", used - read)):
        if keys:
            named = ", ".join(sorted(keys)[:_SHOWN]) + (", ..." if len(keys) > _SHOWN else "")
            faults.append(f"{len(keys)} {kind} ({named})")
    if faults:
        raise CheckpointError(
            f"{path} does not fit official BiMatting, of its tensors {', '.join(faults)}: "
            "pass a checkpoint of exactly this network"
        )
    # Old files lack batch norm's counters.
    present = [part for part in parts if all(key in state for key in part.sources)]
    return {part.name: part.value(state, path) for part in present}, refiner


def _parts(refiner: str) -> Iterator[_Part]:
    yield _Part("backbone.stem.0.weight", ("backbone.feature.0.conv1.weight",))
    yield from _copied("backbone.stem.1", "backbone.feature.0.bn1")
    for number in range(1, len(_BRANCHES) + 1):
        yield from _sub_sbb(number)
    yield from _row("aspp.aspp1", "aspp.aspp1")
    yield from _binary("aspp.aspp2.1", "aspp.aspp2.1.bias", "aspp.aspp2.3")
    for block in ("decode4", "decode3", "decode2", "decode1"):
        masked = block != "decode4"
        for path in ("", "_1x1") if masked else ("",):
            yield from _row(f"decoder.{block}.conv{path}", f"decoder.{block}.conv{path}")
            for gate in ("ih", "hh"):
                yield from _gate(f"decoder.{block}.gru.{gate}{path}", shifted=masked)
    for path in ("conv", "conv_1x1"):
        name = f"decoder.decode0.{path}"
        yield from _binary(f"{name}.0", f"{name}.0.bias", f"{name}.2")
        yield from _copied(f"{name}.1", f"{name}.3")
        yield _Part(f"{name}.3.weight", (f"{name}.5.weight",))
        yield from _copied(f"{name}.4", f"{name}.6")
    for head in ("project_mat.conv", "project_seg.conv"):
        yield from _copied(head, head, leaves=_LAYER)
    if refiner == "deep_guided_filter":
        yield _Part("refiner.box_filter.weight", ("refiner.box_filter.weight",))
        yield from _row("refiner.conv", "refiner.conv")
        yield from _row("refiner.conv", "refiner.conv", ours=3, theirs=6)
        yield from _copied("refiner.conv.6", "refiner.conv.12", leaves=_LAYER)


def _sub_sbb(number: int) -> Iterator[_Part]:
    block, place = divmod(number - 1, 3)
    ours = f"backbone.blocks.{block}.{('head', 'middle', 'tail')[place]}" if block < 5 else f"backbone.tail.{place}"
    theirs = f"backbone.feature.{number}"
    count = _BRANCHES[number - 1]
    branches = [f"{theirs}.binary_pw_down{i}" for i in range(1, count + 1)] or [f"{theirs}.binary_pw"]
    norms = [f"{theirs}.bn2_{i}" for i in range(1, count + 1)] or [f"{theirs}.bn2"]
    yield from _binary(f"{ours}.conv3", f"{theirs}.move11.bias", f"{theirs}.binary_3x3")
    yield from _copied(f"{ours}.norm1", f"{theirs}.bn1")
    yield from _prelu(f"{ours}.act1", f"{theirs}.move12.bias", f"{theirs}.prelu1", f"{theirs}.move13.bias")
    yield from _binary(f"{ours}.conv1", f"{theirs}.move21.bias", *branches)
    yield from _copied(f"{ours}.norm2", *norms)
    yield from _prelu(f"{ours}.act2", f"{theirs}.move22.bias", f"{theirs}.prelu2", f"{theirs}.move23.bias")


def _row(name: str, official: str, ours: int = 0, theirs: int = 0) -> Iterator[_Part]:
    """Shift, sign, convolution, norm, shift, PReLU there; convolution, norm, shifted PReLU here."""
    yield from _binary(f"{name}.{ours}", f"{official}.{theirs}.bias", f"{official}.{theirs + 2}")
    yield from _copied(f"{name}.{ours + 1}", f"{official}.{theirs + 3}")
    yield from _prelu(f"{name}.{ours + 2}", f"{official}.{theirs + 4}.bias", f"{official}.{theirs + 5}")


def _gate(name: str, *, shifted: bool) -> Iterator[_Part]:
    yield from _binary(f"{name}.0", f"{name}.0.bias", f"{name}.2")
    yield _Part(f"{name}.0.bias", (f"{name}.2.bias",))
    if shifted:
        yield _Part(f"{name}.1.bias", (f"{name}.3.bias",), flat=True)


def _binary(name: str, shift: str, *branches: str) -> Iterator[_Part]:
    yield _Part(f"{name}.threshold", (shift,), negated=True, flat=True)
    yield _Part(f"{name}.weight", tuple(f"{branch}.weight" for branch in branches))


def _copied(name: str, *officials: str, leaves: Sequence[str] = _NORM) -> Iterator[_Part]:
    for leaf in leaves:
        yield _Part(f"{name}.{leaf}", tuple(f"{official}.{leaf}" for official in officials))


def _prelu(name: str, shift: str, prelu: str, output_shift: str = "") -> Iterator[_Part]:
    yield _Part(f"{name}.gamma", (shift,), negated=True, flat=True)
    yield _Part(f"{name}.slope", (f"{prelu}.weight",))
    if output_shift:
        yield _Part(f"{name}.zeta", (output_shift,), flat=True)
