"""The schemes that binmat knows by name."""

from __future__ import annotations

from typing import Any

from binmat.errors import UnknownNameError
from binmat.quantizers.activations import ActivationBinarizer
from binmat.quantizers.scheme import Scheme
from binmat.quantizers.weights import WeightBinarizer

BNN = Scheme(
    name="bnn",
    weight=WeightBinarizer(clip_latent=True),
    summary="sign of weights and activations, no scale",
    source="Hubara et al., Binarized Neural Networks, NeurIPS 2016",
)

XNOR = Scheme(
    name="xnor",
    weight=WeightBinarizer(method="centred", scale="channel"),
    summary="centred weights, scale per output channel, optional activation scale map",
    source="Rastegari et al., XNOR-Net, ECCV 2016",
)

DOREFA = Scheme(
    name="dorefa",
    weight=WeightBinarizer(estimator="identity", scale="layer", gradient="straight"),
    activation=ActivationBinarizer(levels="unsigned"),
    summary="activations in {0, 1}, one scale per layer",
    source="Zhou et al., DoReFa-Net, arXiv 1606.06160, k = 1",
)

RECU = Scheme(
    name="recu",
    weight=WeightBinarizer(method="recu", estimator="identity", scale="learnable"),
    activation=ActivationBinarizer(estimator="polynomial", normalize=True),
    summary="standardised weights clamped to a scheduled quantile, learnable scale per output channel",
    source="Xu et al., ReCU, ICCV 2021",
)

REACTNET = Scheme(
    name="reactnet",
    weight=WeightBinarizer(scale="channel", gradient="straight"),
    activation=ActivationBinarizer(threshold="channel", estimator="polynomial"),
    replacement="rprelu",
    summary="threshold per channel (RSign), RPReLU, scale per output channel",
    source="Liu et al., ReActNet, ECCV 2020",
)

THRESHOLD = Scheme(
    name="threshold",
    weight=WeightBinarizer(scale="channel", gradient="straight"),
    activation=ActivationBinarizer(threshold="layer"),
    summary="one learnable threshold per layer, scale per output channel",
    source="Qin et al., BiMatting, NeurIPS 2023, Eq. 1 and 2",
)

BIMATTING = Scheme(
    name="bimatting",
    weight=WeightBinarizer(method="centred", scale="channel", gradient="straight"),
    activation=ActivationBinarizer(threshold="channel"),
    replacement="rprelu",
    summary="centred weights, threshold per channel, RPReLU, scale per output channel",
    source="Qin et al., BiMatting, NeurIPS 2023, official code",
)

SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme for scheme in (BNN, XNOR, DOREFA, RECU, REACTNET, THRESHOLD, BIMATTING)
}


def get_scheme(name: str, **options: Any) -> Scheme:
    """The scheme called ``name``, with ``options`` (see :data:`binmat.quantizers.scheme.OPTIONS`) set.

    Raises UnknownNameError for a name and RecipeError for an option or a value that does not exist.
    """
    if name not in SCHEMES:
        raise UnknownNameError("scheme", name, SCHEMES)
    return SCHEMES[name].with_options(**options)
