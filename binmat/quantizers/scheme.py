"""What a binarization scheme is: a small declaration that the layers of :mod:`binmat.nn` read."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from binmat.errors import RecipeError
from binmat.quantizers.activations import ActivationBinarizer
from binmat.quantizers.choices import check_choice
from binmat.quantizers.weights import WeightBinarizer

REPLACEMENTS = ("keep", "rprelu", "shifted_prelu")

# option of a recipe -> (part of the scheme, field)
OPTIONS: dict[str, tuple[str, str]] = {
    "estimator": ("activation", "estimator"),
    "weight_estimator": ("weight", "estimator"),
    "scale": ("weight", "scale"),
    "activation": ("activation", "levels"),
    "threshold": ("activation", "threshold"),
    "activation_scale": ("", "activation_scale"),
    "replacement": ("", "replacement"),
}


@dataclass(frozen=True)
class Scheme:
    """One way to make a layer binary: o = alpha * conv(a(x), B(w)) [* K] + bias.

    name: what recipes and reports call it.
    weight: B and alpha. activation: a. See their classes for formulas and gradients.
    activation_scale: multiply by XNOR-Net's map K, the mean over the window of mean abs x over the group's channels
        (zeros outside the map), a constant in the backward pass.
    replacement: what becomes of the activation function that follows: ``keep`` it, ``rprelu`` (ReActNet), or
        ``shifted_prelu``, the same without the shift of the output (BiMatting).
    summary: one line. source: the paper. description: formula, gradient and shapes, in full.

    A scheme of one's own needs no more than::

        SCHEMES["mine"] = Scheme(
            name="mine",
            weight=WeightBinarizer(method="centred", scale="channel"),
            activation=ActivationBinarizer(threshold="channel", estimator="polynomial"),
            summary="centred weights, threshold per channel",
        )
    """

    name: str
    weight: WeightBinarizer = field(default_factory=WeightBinarizer)
    activation: ActivationBinarizer = field(default_factory=ActivationBinarizer)
    activation_scale: bool = False
    replacement: str = "keep"
    summary: str = ""
    source: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        check_choice("replacement", self.replacement, REPLACEMENTS)
        if not isinstance(self.activation_scale, bool):
            raise RecipeError(f"activation_scale cannot be {self.activation_scale!r}: choose true or false")

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
