"""Where BiMatting's structures go in a network: what its transforms need to know and its layers do not tell."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EncoderInsertionPoint:
    """The part that another encoder may stand for.

    name: the submodule. normalise: whether it takes frames in [0, 1], which ImageNet's statistics then apply to.
    channels: of its last feature, where the rest of the network counts on them.
    """

    name: str
    normalise: bool = True
    channels: int | None = None


@dataclass(frozen=True)
class MaskHeadInsertionPoint:
    """Where a decoder can tell, coarsely, which cells are worth computing finely.

    after: the part whose output the mask head reads; where it gives several, the one that is read by more than the
        network's output.
    head: where the mask head is put: 3x3 convolution to ``channels``, batch norm, ReLU.
    method: traceable method of the network that makes a coarse matte of the head's result: its first argument is that,
        the others are arguments of the modes by their names. None: a 1x1 convolution, ``<head>_alpha``, makes alpha.
    outputs: names of what the method returns, or of that alpha; ``alpha`` is the one whose sign the mask is made of.
        Modes return them as well: those that the network's ``output_names`` says, else all, at the end. Without names
        nothing is added.
    targets: policy patterns of the convolutions to mask where a recipe names none.
    min_size: the smallest frame that has two coarse cells each way.
    """

    after: str
    head: str
    channels: int = 16
    method: str | None = None
    outputs: tuple[str, ...] = ()
    alpha: str = "alpha"
    targets: tuple[str, ...] = ()
    min_size: int = 1
