"""What a low-bit value is: sign and its gradient estimators, weight and activation binarizers, schemes."""

from __future__ import annotations

from binmat.quantizers.activations import ActivationBinarizer as ActivationBinarizer
from binmat.quantizers.estimators import ESTIMATORS as ESTIMATORS
from binmat.quantizers.scales import SCALES as SCALES
from binmat.quantizers.scheme import Scheme as Scheme
from binmat.quantizers.schemes import SCHEMES as SCHEMES
from binmat.quantizers.schemes import get_scheme as get_scheme
from binmat.quantizers.sign import sign as sign
from binmat.quantizers.sign import step as step
from binmat.quantizers.weight_methods import WEIGHT_METHODS as WEIGHT_METHODS
from binmat.quantizers.weights import WeightBinarizer as WeightBinarizer
