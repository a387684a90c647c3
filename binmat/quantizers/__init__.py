"""What a low-bit value is: sign and its gradient estimators, weight and activation binarizers, schemes."""

from __future__ import annotations

from binmat.quantizers.activations import ActivationBinarizer
from binmat.quantizers.estimators import ESTIMATORS
from binmat.quantizers.scales import SCALES
from binmat.quantizers.scheme import Scheme
from binmat.quantizers.schemes import SCHEMES, get_scheme
from binmat.quantizers.sign import sign, step
from binmat.quantizers.weight_methods import WEIGHT_METHODS
from binmat.quantizers.weights import WeightBinarizer

__all__ = [
    "ESTIMATORS",
    "SCALES",
    "SCHEMES",
    "WEIGHT_METHODS",
    "ActivationBinarizer",
    "Scheme",
    "WeightBinarizer",
    "get_scheme",
    "sign",
    "step",
]
