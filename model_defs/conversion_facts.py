"""What a network itself has to know of its conversion."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ConversionFacts:
    """The part of a conversion's record that a network reads.

    :class:`binmat.transforms.convert.Conversion` is the whole. A pass that is applied alone leaves no more than this.

    size: (height, width) that the network was converted for: what counting and exporting take where none is given; None
    where it was not said. downsample_ratio: likewise.
    side_outputs: names of outputs that a pass has added: the coarse matte of a sparse decoder's mask head.
    """

    size: tuple[int, int] | None = None
    downsample_ratio: float | None = None
    side_outputs: tuple[str, ...] = ()
