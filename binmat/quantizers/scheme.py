"""What a binarization scheme is: a small declaration that the layers of :mod:`binmat.nn` read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from binmat.errors import RecipeError
from binmat.quantizers.activations import ActivationBinarizer
from binmat.quantizers.choices import check_choice
from binmat.quantizers.weights import WeightBinarizer


@dataclass(frozen=True)
class Replacement:
    """What becomes of activation functions.

    behind: whether an RPReLU replaces the one behind a layer. output_shift: whether that RPReLU shifts its output.
    before: makes what replaces those whose result a layer takes the signs of; None leaves them.
    """

    behind: bool = False
    output_shift: bool = False
    before: Callable[[], nn.Module] | None = None


REPLACEMENTS: dict[str, Replacement] = {
    "keep": Replacement(),
    "rprelu": Replacement(behind=True, output_shift=True),
    "shifted_prelu": Replacement(behind=True),
    "hardtanh": Replacement(before=nn.Hardtanh),
    "identity": Replacement(before=nn.Identity),
}

#: Option of a recipe -> (part of the scheme, field); "" is the scheme itself.
OPTIONS: dict[str, tuple[str, str]] = {
    "estimator": ("activation", "estimator"),
    "weight_estimator": ("weight", "estimator"),
    "scale": ("weight", "scale_kind"),
    "activation": ("activation", "levels"),
    "threshold": ("activation", "threshold"),
    "input_scale_map": ("", "input_scale_map"),
    "replacement": ("", "replacement"),
}


@dataclass(frozen=True)
class Scheme:
    """One way to make a layer binary: o = alpha * conv(a(x), B(w)) [* K] + bias.

    weight: B and alpha. activation: a. See their classes for formulas and gradients.
    input_scale_map: multiply by XNOR-Net's map K, the mean over the window of mean abs x over the group's channels
        (zeros outside the map), a constant in the backward pass.
    replacement: what becomes of activation functions. ``keep``: they stay. ``rprelu``: the one that follows becomes
        RPReLU (ReActNet). ``shifted_prelu``: the same without the shift of the output (BiMatting). ``hardtanh``: those
        before the layer's sign become hard tanh (ReCU, IR-Net). ``identity``: those are left out (XNOR-Net,
        Bi-Real Net).
    summary: one line. source: the paper. description: formula, gradient and shapes, in full.

    To add a scheme, enter it in :data:`binmat.quantizers.SCHEMES`. Weight methods, scales and gradient estimators are
    added likewise: ``WEIGHT_METHODS``, ``SCALES``, ``ESTIMATORS``.

    >>> from binmat.quantizers import SCHEMES, get_scheme
    >>> mine = Scheme("mine", WeightBinarizer(method="centred", scale_kind="channel"))
    >>> SCHEMES["mine"] = mine.with_options(threshold="channel", estimator="polynomial")
    >>> get_scheme("mine").activation.threshold, SCHEMES.pop("mine").replacement
    ('channel', 'keep')
    """

    name: str
    weight: WeightBinarizer = field(default_factory=WeightBinarizer)
    activation: ActivationBinarizer = field(default_factory=ActivationBinarizer)
    input_scale_map: bool = False
    replacement: str = "keep"
    summary: str = ""
    source: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        check_choice("replacement", self.replacement, REPLACEMENTS)
        if not isinstance(self.input_scale_map, bool):
            raise RecipeError(f"input_scale_map cannot be {self.input_scale_map!r}: choose true or false")

    def options(self) -> dict[str, Any]:
        """Every option's value, strings and booleans: ``get_scheme(s.name, **s.options()) == s``."""
        return {
            option: getattr(getattr(self, part) if part else self, name) for option, (part, name) in OPTIONS.items()
        }

    def with_options(self, /, **options: Any) -> Scheme:
        """This scheme with some options set; RecipeError for an option or a value that does not exist."""
        scheme = self
        for option, value in options.items():
            check_choice(f"an option of scheme '{self.name}'", option, OPTIONS)
            part, name = OPTIONS[option]
            change = {part: replace(getattr(scheme, part), **{name: value})} if part else {name: value}
            scheme = replace(scheme, **change)
        return scheme
