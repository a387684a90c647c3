"""What a network has to know about its own conversion."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ConversionFacts:
    """The part of a conversion's record that a network reads.

    :class:`binmat.transforms.convert.Conversion` is the whole record. A pass that is applied alone leaves only this.

    size: (height, width) that the network was converted for, None where unknown; counting and exporting take it where
    no other is given. downsample_ratio: likewise.
    side_outputs: names of outputs that a pass has added: the coarse matte of a sparse decoder's mask head.
    """

    size: tuple[int, int] | None = None
    downsample_ratio: float | None = None
    side_outputs: tuple[str, ...] = ()
