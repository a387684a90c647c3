"""The tables of a recipe that say where BiMatting's encoder and decoder go in a network, and how wide they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StrictBool,
    StrictInt,
    model_serializer,
    model_validator,
)

from binmat.model_defs.insertion_points import EncoderInsertionPoint, MaskHeadInsertionPoint
from binmat.model_defs.network import Network
from binmat.nn.sbb import BlockShortcut, SBBPlan, SBBRow

#: A recipe may come with somebody else's checkpoint: a wider layer would be built before its weights are looked at.
_Channels = Annotated[int, Field(strict=True, ge=1, le=4096)]
#: Dotted identifiers; the children of a list have numbers.
_PART = r"^([^\W\d]\w*|\d+)(\.([^\W\d]\w*|\d+))*$"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_serializer(mode="wrap")
    def _given(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what the table leaves to the network: that is refused where it is written out."""
        return {name: value for name, value in fields(self).items() if name in self.model_fields_set}


class BlockTable(_Table):
    """One block of ``[sbb.plan]``: see :class:`binmat.nn.sbb.SBBRow`."""

    channels: _Channels
    stride: StrictInt = 1
    dilation: Annotated[int, Field(strict=True, ge=1, le=64)] = 1


class PlanTable(_Table):
    """``[sbb.plan]``: the encoder's channels and strides, see :class:`binmat.nn.sbb.SBBPlan`."""

    stem: _Channels = 16
    blocks: Annotated[tuple[BlockTable, ...], Field(min_length=1, max_length=16)]
    tail: Annotated[tuple[_Channels, ...], Field(max_length=8)] = ()
    features: tuple[StrictInt, ...] = ()

    def plan(self, shortcut: BlockShortcut) -> SBBPlan:
        """The plan. Raises RecipeError for features that do not exist."""
        rows = tuple(SBBRow(row.channels, row.stride, row.dilation) for row in self.blocks)
        return SBBPlan(self.stem, rows, self.tail, self.features, shortcut)


class EncoderTable(_Table):
    """``[sbb]``: which part of the network the SBB encoder replaces.

    replaces: names of submodules; several stand for one encoder, and the new one is then called ``sbb_encoder``. Empty:
    the part that the network says itself. normalise: whether that part takes frames in [0, 1]. plan: channels and
    strides; by default Table 4's, at the strides of the features that the network reads.
    """

    replaces: tuple[str, ...] = ()
    normalise: StrictBool = True
    plan: PlanTable | None = None

    @model_validator(mode="after")
    def _check(self) -> EncoderTable:
        _need("replaces", self, bool(self.replaces), {"normalise"})
        return self

    def insertion_point(self, network: Network) -> EncoderInsertionPoint | None:
        """Where the encoder goes; None where neither the table nor the network says."""
        own = network.encoder_insertion_point
        if not self.replaces:
            return own
        if own is not None and not own.parts and self.replaces == (own.name,):
            return replace(own, normalise=self.normalise)
        if len(self.replaces) == 1:
            return EncoderInsertionPoint(self.replaces[0], self.normalise)
        return EncoderInsertionPoint("sbb_encoder", self.normalise, parts=self.replaces)


class DecoderTable(_Table):
    """``[sab]``: where the coarse matte comes from and which convolutions its mask restricts.

    after: the part whose output the mask head reads. Empty: what the network says itself. targets: names or patterns of
    convolutions. head: the name that the mask head gets. channels: its width. returned: whether the network returns
    the coarse alpha, ``alpha_s``, behind its own outputs, in a dictionary under that name; it has to be trained, as no
    gradient passes the mask.
    """

    after: str = ""
    targets: tuple[str, ...] = ()
    head: Annotated[str, Field(pattern=_PART)] = "mask_head"
    channels: _Channels = 16
    returned: StrictBool = True

    @model_validator(mode="after")
    def _check(self) -> DecoderTable:
        _need("after", self, bool(self.after), {"head", "channels", "returned"})
        if self.after and not self.targets:
            raise ValueError("targets are missing: name the convolutions that the mask restricts")
        return self

    def insertion_point(self, network: Network) -> MaskHeadInsertionPoint | None:
        """Where the mask head goes; None where neither the table nor the network says."""
        if self.after:
            outputs = ("alpha_s",) if self.returned else ()
            return MaskHeadInsertionPoint(
                self.after, self.head, self.channels, outputs=outputs, alpha="alpha_s", targets=self.targets
            )
        own = network.mask_head_insertion_point
        return replace(own, targets=self.targets) if own and self.targets else own


def _need(place: str, table: Any, given: bool, fields: set[str]) -> None:
    """Raise ValueError for fields of a place that the table leaves to the network."""
    useless = sorted(fields & table.model_fields_set)
    if useless and not given:
        raise ValueError(f"{', '.join(useless)} without '{place}' would have no effect: name the place too")
