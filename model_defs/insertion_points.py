"""Where BiMatting's encoder and sparse decoder go in a network, declared for the transforms that put them there."""

from __future__ import annotations

from dataclasses import dataclass

from binmat.errors import PolicyError


@dataclass(frozen=True)
class EncoderInsertionPoint:
    """The part that another encoder may replace.

    name: the submodule. parts: where the encoder is several submodules instead, their names; ``name`` is then where the
    new one is put. normalise: whether it takes frames in [0, 1], which the encoder normalises by ImageNet's
    statistics. channels: of its last feature, where the rest of the network relies on their number.
    """

    name: str
    normalise: bool = True
    channels: int | None = None
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class MaskHeadInsertionPoint:
    """Where a decoder's features are good enough for a coarse matte, which tells the cells worth computing finely.

    after: the part whose output the mask head reads; of several outputs, the one that other layers read.
    head: where the mask head is put: 3x3 convolution to ``channels``, batch norm, ReLU. Its mask is ``<head>_mask``.
    channels: None where the features need no such head.
    method: traceable method of the network that makes a coarse matte of the head's result, its first argument. Its
        other arguments are the modes' arguments of the same names. None: a 1x1 convolution, ``<head>_alpha``, makes
        alpha.
    settle: traceable method of the network, with arguments like those of ``method``, that replaces that alpha where a
        trimap knows better. None: alpha stays as it is.
    outputs: names of what the method returns, or of that alpha; ``alpha`` is the one whose sign gives the mask. A mode
        returns those that the network's ``output_names`` has for it; all, at the end, where the network has no names.
    targets: policy patterns of the convolutions to mask where a recipe names none.
    min_size: the smallest frame that has two coarse cells each way.
    """

    after: str
    head: str
    channels: int | None = 16
    method: str | None = None
    settle: str | None = None
    outputs: tuple[str, ...] = ()
    alpha: str = "alpha"
    targets: tuple[str, ...] = ()
    min_size: int = 1

    def __post_init__(self) -> None:
        """Raise PolicyError where the coarse alpha is not one of the outputs, or is so twice."""
        named = self.outputs.count(self.alpha)
        if self.outputs and named != 1:
            raise PolicyError(
                f"the outputs of the mask head '{self.head}' are {', '.join(self.outputs)}, with {named} coarse alphas "
                f"'{self.alpha}': name it once"
            )
