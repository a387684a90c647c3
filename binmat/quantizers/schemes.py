"""The built-in schemes with their formulas, gradients and papers.

In the descriptions x [N, I, H, W] are activations, w [O, I/groups, kh, kw] latent weights, a the binarized
activations, W = alpha * B the binarized weights, m_o the mean and n the number of weights of output channel o,
g = dL/da and G = dL/dW. 1[c] is 1 where c holds, else 0. sign(0) = +1. A linear layer is the case H = W = kh = kw = 1.
"""

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
    description="""\
o = conv(sign(x), sign(w)) + bias
dL/dx = g 1[|x| <= 1]
dL/dw = G 1[|w| <= 1]; after each optimizer step w is clipped to [-1, 1] (binmat.nn.clip_latent_weights)""",
)

XNOR = Scheme(
    name="xnor",
    weight=WeightBinarizer(method="centred", scale_kind="channel"),
    summary="centred weights, scale per output channel, optional input scale map K",
    source="Rastegari et al., XNOR-Net, ECCV 2016",
    description="""\
o = alpha * conv(sign(x), sign(v)) + bias, v = w - m_o, alpha [O] = mean_o |v|
with input_scale_map=true: o = alpha * conv(sign(x), sign(v)) * K + bias, K [N, 1 per group, H', W'] the window's mean
of mean |x| over the group's channels, a constant in the backward pass
dL/dx = g 1[|x| <= 1]
dL/dv = alpha G 1[|v| <= 1] + sign(v) / n * sum_o(sign(v) G), dL/dw = dL/dv - mean_o(dL/dv)
The paper's gradient takes the second term element by element, G / n; this is the derivative of alpha in full. Its
code centres the latent weights in place, so its mean |w| is that of centred weights too.""",
)

DOREFA = Scheme(
    name="dorefa",
    weight=WeightBinarizer(estimator="identity", scale_kind="layer", gradient="straight"),
    activation=ActivationBinarizer(levels="unsigned"),
    summary="activations in {0, 1}, one scale per layer",
    source="Zhou et al., DoReFa-Net, arXiv 1606.06160, with k = 1",
    description="""\
o = E * conv(a, sign(w)) + bias, E = mean |w| over the layer
a = round(clip(x, 0, 1)) in {0, 1}, the tie x = 1/2 going to 1: a = (sign(x - 1/2) + 1) / 2
dL/dx = g 1[0 <= x <= 1]
dL/dw = G: the estimator stands for the derivative of E * sign(w)""",
)

DOREFA_SIGNED = Scheme(
    name="dorefa_signed",
    weight=WeightBinarizer(scale_kind="channel", gradient="straight"),
    summary="DoReFa as in BiBench: activations in {-1, 1}, scale per output channel",
    source="Qin et al., BiBench, ICML 2023",
    description="""\
o = alpha * conv(sign(x), sign(w)) + bias, alpha [O] = mean_o |w|, no gradient to alpha
dL/dx = g 1[|x| <= 1]
dL/dw = G 1[|w| <= 1]: the estimator stands for the derivative of alpha * sign(w)""",
)

RECU = Scheme(
    name="recu",
    weight=WeightBinarizer(method="recu", estimator="identity", scale_kind="learnable"),
    activation=ActivationBinarizer(estimator="polynomial", normalize=True),
    summary="standardised weights clamped to a scheduled quantile, learnable scale per output channel",
    source="Xu et al., ReCU, ICCV 2021",
    description="""\
o = scale * conv(sign(x), sign(w2)) + bias, scale [O] learnable, starting at mean_o |w - m_o|
w1 = (w - m_o) / (sqrt(var_o + 1e-5) / (2 sqrt 2)), var_o unbiased; w2 = clamp(w1, -Q, Q)
Q = -mean |w1| over the layer * ln(2 - 2 tau), no gradient; tau = A e^(t/T) + B from .85 to .99 over the training
(binmat.nn.set_progress)
dL/dw2 = scale G, dL/dw1 = dL/dw2 1[|w1| <= Q], from there to w by the derivative of w1
dL/dscale = sum_o(sign(w2) G)
dL/dx = g max(0, 2 - |2u|) / s; in training u = x / s, s = sqrt(var + 1e-5) per sample over C, H, W and a constant in
the backward pass; in evaluation u = x, s = 1""",
)

REACTNET = Scheme(
    name="reactnet",
    weight=WeightBinarizer(scale_kind="channel", gradient="straight"),
    activation=ActivationBinarizer(threshold="channel", estimator="polynomial"),
    replacement="rprelu",
    summary="threshold per channel (RSign), RPReLU, scale per output channel",
    source="Liu et al., ReActNet, ECCV 2020",
    description="""\
o = alpha * conv(sign(x - tau), sign(w)) + bias, tau [I] learnable from 0, alpha [O] = mean_o |w|, no gradient to alpha
dL/dx = g max(0, 2 - |2u|), u = x - tau; dL/dtau = -sum over N, H, W of dL/dx
dL/dw = G 1[|w| <= 1]: the estimator stands for the derivative of alpha * sign(w)
The activation function that follows becomes RPReLU (binmat.nn.RPReLU).""",
)

THRESHOLD = Scheme(
    name="threshold",
    weight=WeightBinarizer(scale_kind="channel", gradient="straight"),
    activation=ActivationBinarizer(threshold="layer"),
    summary="one learnable threshold per layer, scale per output channel (BiMatting's baseline)",
    source="Qin et al., BiMatting, NeurIPS 2023, Eq. 1 and 2",
    description="""\
o = alpha * conv(sign(x - tau), sign(w)) + bias, tau [1] learnable from 0, alpha [O] = mean_o |w|, no gradient to alpha
dL/dx = g 1[|x - tau| <= 1]; dL/dtau = -sum of dL/dx
dL/dw = G 1[|w| <= 1]: the estimator stands for the derivative of alpha * sign(w), as in the authors' code""",
)

BIMATTING = Scheme(
    name="bimatting",
    weight=WeightBinarizer(method="centred", scale_kind="channel", gradient="straight"),
    activation=ActivationBinarizer(threshold="channel"),
    replacement="shifted_prelu",
    summary="centred weights, threshold per channel, shifted PReLU, scale per output channel",
    source="Qin et al., BiMatting, NeurIPS 2023, official code",
    description="""\
o = alpha * conv(sign(x - tau), sign(v)) + bias, v = w - m_o, tau [I] learnable from 0, alpha [O] = mean_o |v|, no
gradient to alpha. The official code adds a shift before sign: tau = -shift.
dL/dx = g 1[|x - tau| <= 1]; dL/dtau = -sum over N, H, W of dL/dx
dL/dv = G 1[|v| <= 1], dL/dw = dL/dv - mean_o(dL/dv)
The activation function that follows becomes PReLU(x - gamma), RPReLU without its second shift
(binmat.nn.RPReLU(output_shift=False)). The official code adds the shift: gamma = -shift.""",
)

SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme for scheme in (BNN, XNOR, DOREFA, DOREFA_SIGNED, RECU, REACTNET, THRESHOLD, BIMATTING)
}


def get_scheme(name: str, /, **options: Any) -> Scheme:
    """The scheme called ``name``, with ``options`` (see :data:`binmat.quantizers.scheme.OPTIONS`) set.

    Raises UnknownNameError for a name and RecipeError for an option or a value that does not exist.

    >>> get_scheme("reactnet", threshold="layer").activation
    ActivationBinarizer(levels='signed', threshold='layer', estimator='polynomial', normalize=False)
    """
    if name not in SCHEMES:
        raise UnknownNameError("scheme", name, SCHEMES)
    return SCHEMES[name].with_options(**options)
