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
    weight=WeightBinarizer(scale_kind="channel", gradient="elementwise"),
    summary="scale per output channel, optional input scale map K",
    source="Rastegari et al., XNOR-Net, ECCV 2016",
    description="""\
o = alpha * conv(sign(x), sign(w)) + bias, alpha [O] = mean_o |w|
with input_scale_map=true: o = alpha * conv(sign(x), sign(w)) * K + bias, K [N, 1 per group, H', W'] the window's mean
of mean |x| over the group's channels, a constant in the backward pass
dL/dx = g 1[|x| <= 1]
dL/dw = G (alpha 1[|w| <= 1] + 1 / n), the paper's: 1 / n stands for the derivative of alpha, weight by weight
The paper's block has a batch norm and no activation function before the sign: recipe xnor_published.""",
)

XNOR_OFFICIAL = Scheme(
    name="xnor_official",
    weight=WeightBinarizer(
        method="centred_inputs", scale_kind="channel", gradient="elementwise", clip_latent=True
    ),
    summary="XNOR-Net as its code trains it: weights centred over the input channels, latent weights clipped",
    source="Rastegari et al., XNOR-Net, ECCV 2016, official code",
    description="""\
o = alpha * conv(sign(x), sign(v)) + bias, v = w - mean of w over the input channels at each kernel position,
alpha [O] = mean_o |v|; in a depthwise layer v = w
dL/dx = g 1[|x| <= 1]
dL/dv = G (alpha 1[|v| <= 1] + 1 / n), dL/dw = dL/dv - its mean over the input channels
After each optimizer step w becomes v clipped to [-1, 1] (binmat.nn.clip_latent_weights).
The official code has no map K. Its dL/dw is (1 - 1 / I) dL/dv, n times that with SGD, and it centres w after the step:
with SGD that is the step above at a learning rate (1 - 1 / I) n times as high.""",
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

BIREALNET = Scheme(
    name="birealnet",
    weight=WeightBinarizer(scale_kind="channel", gradient="constant"),
    activation=ActivationBinarizer(estimator="polynomial"),
    replacement="identity",
    summary="polynomial estimator, scale per output channel, no activation function before the sign",
    source="Liu et al., Bi-Real Net, ECCV 2018",
    description="""\
o = alpha * conv(sign(x), sign(w)) + bias, alpha [O] = mean_o |w|, no gradient to alpha
dL/dx = g max(0, 2 - |2u|), u = x
dL/dw = alpha G 1[|w| <= 1], the paper's magnitude-aware gradient; its code leaves alpha out
Activation functions before the sign are left out. The paper's block has a shortcut round every 1-bit convolution:
recipe birealnet_published.""",
)

IRNET = Scheme(
    name="irnet",
    weight=WeightBinarizer(
        method="standardised", estimator="ede", scale_kind="power_of_two", gradient="constant"
    ),
    activation=ActivationBinarizer(estimator="ede"),
    replacement="hardtanh",
    summary="standardised weights, scale a power of 2, estimator that sharpens during the training, hard tanh",
    source="Qin et al., IR-Net, CVPR 2020",
    description="""\
o = 2^s * conv(sign(x), sign(v)) + bias, v = (w - m_o) / sigma_o, sigma_o unbiased, s [O] = round(log2(mean_o |v|)), no
gradient to s
g'(u) = k t (1 - tanh(t u)^2), t = 0.1 * 100^p, k = max(1 / t, 1), p = the training's progress (binmat.nn.set_progress)
dL/dx = g g'(x)
dL/dv = 2^s G g'(v), dL/dw = (e - mean_o(e) - v sum_o(v e) / (n - 1)) / sigma_o with e = dL/dv
Activation functions before the sign become hard tanh.""",
)

FDA = Scheme(
    name="fda",
    weight=WeightBinarizer(estimator="fourier", scale_kind="channel", gradient="constant"),
    activation=ActivationBinarizer(estimator="fourier"),
    summary="estimator from the Fourier series of a square wave, without the noise adaptation module",
    source="Xu et al., Learning Frequency Domain Approximation for Binary Neural Networks, NeurIPS 2021",
    description="""\
o = alpha * conv(sign(x), sign(w)) + bias, alpha [O] = mean_o |w|, no gradient to alpha
f'(u) = 4 omega / pi * sum over i = 0 .. k of cos((2 i + 1) omega u) where |u| <= 1, else 0; omega = 0.1,
k = 9 + floor(9 p), p = the training's progress (binmat.nn.set_progress)
dL/dx = g f'(x)
dL/dw = alpha G f'(w)
Constants, window and alpha are those of BiBench (ICML 2023). The paper's noise adaptation module, two small float
layers that are there in the training alone, is left out.""",
)

RESTE = Scheme(
    name="reste",
    weight=WeightBinarizer(estimator="power", scale_kind="layer"),
    activation=ActivationBinarizer(estimator="power"),
    summary="estimator from a power function that sharpens during the training, one scale per layer",
    source="Wu et al., Estimator Meets Equilibrium Perspective (ReSTE), ICCV 2023",
    description="""\
o = E * conv(sign(x), sign(w)) + bias, E = mean |w| over the layer's N weights
f'(u) = |u|^(1/o - 1) / o where 0.1 < |u| <= 1.5, 0.1^(1/o - 1) where |u| <= 0.1, else 0; o = 3 - 2 cos(p pi / 2),
p = the training's progress (binmat.nn.set_progress)
dL/dx = g f'(x)
dL/dw = E G f'(w) + sign(w) / N * sum over the layer of sign(w) G""",
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
    scheme.name: scheme
    for scheme in (
        BNN, XNOR, XNOR_OFFICIAL, DOREFA, DOREFA_SIGNED, RECU, REACTNET, THRESHOLD, BIREALNET, IRNET, FDA, RESTE,
        BIMATTING,
    )
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
