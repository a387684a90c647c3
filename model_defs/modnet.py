"""MODNet (Ke et al., AAAI 2022): trimap-free portrait matting in a semantic, a detail and a fusion branch.

The layout with ``context="se"`` is that of the official checkpoints, which hold a squeeze-and-excitation block where
the paper has its e-ASPP; ``context="easpp"`` is the paper's. docs/networks/modnet.md lists what else differs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binmat.errors import CheckpointError, InputError, SizeError, UnknownNameError
from binmat.model_defs.insertion_points import EncoderInsertionPoint, MaskHeadInsertionPoint
from binmat.model_defs.mobilenet_v2 import MobileNetV2
from binmat.model_defs.network import Network, NetworkSpec, Prediction, Window
from binmat.model_defs.resizing import enlarge, pad_to_multiple, reduced_size
from binmat.model_defs.trimap import portrait_trimap, read_trimap
from binmat.nn.conv_norm import conv_norm_relu
from binmat.nn.ibnorm import IBNorm
from binmat.progress import Progress, silent

Context = Literal["se", "easpp"]

#: Width of the detail and fusion branches.
WIDTH = 32
#: The official network registers its one backbone under both prefixes.
BACKBONE = "backbone."
BACKBONE_COPY = "lr_branch.backbone."
#: Atrous rates of e-ASPP. The paper gives their number (m = 5), not their values; with these every tap of the widest
#: kernel still falls on the 16x16 map of a 512x512 image somewhere.
ATROUS_RATES = (1, 3, 6, 9, 12)
FLOAT_LAYERS: Mapping[str, str] = {
    "backbone.model.features.0.0": "input layer: reads the image",
    "hr_branch.conv_enc2x.layers.0": "input layer: reads the image at 1/2",
    "hr_branch.conv_hr4x.0.layers.0": "input layer: reads the image at 1/4",
    "hr_branch.conv_hr.0.layers.0": "input layer: reads the image",
    "f_branch.conv_f.0.layers.0": "input layer: reads the image",
    "lr_branch.conv_lr.layers.0": "output layer: predicts the semantic mask",
    "hr_branch.conv_hr.1.layers.0": "output layer: predicts the detail matte",
    "f_branch.conv_f.1.layers.0": "output layer: predicts the matte",
}
#: Keys whose shapes tell MODNet from other networks.
LANDMARKS = {
    "lr_branch.conv_lr16x.layers.0.weight": (96, 1280, 5, 5),
    "lr_branch.conv_lr8x.layers.1.bnorm.weight": (16,),
    "hr_branch.conv_hr4x.0.layers.0.weight": (64, 99, 3, 3),
    "hr_branch.conv_hr2x.3.layers.1.bnorm.weight": (16,),
    "f_branch.conv_lr4x.layers.0.weight": (32, 32, 5, 5),
}


class ConvBlock(nn.Module):
    """Convolution that keeps the size (up to its stride), then IBNorm and ReLU; ``bare`` is the convolution alone."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, bare: bool = False
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2))
        if not bare:
            self.layers.extend([IBNorm(out_channels), nn.ReLU()])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class SqueezeExcitation(nn.Module):
    """x * sigmoid(W2 relu(W1 mean(x))), the mean over H and W. x: [N, channels, H, W] (Hu et al., CVPR 2018)."""

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // reduction, bias=False),
            nn.ReLU(),
            nn.Linear(channels // reduction, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.fc(self.pool(x).flatten(1))
        return x * gate.unsqueeze(2).unsqueeze(3)


class EfficientASPP(nn.Module):
    """e-ASPP, the paper's Figure 3 and Appendix A. x and result: [N, channels, H, W].

    1. channel reduction: 1x1, c -> c/4
    2. multi-scale feature extraction: m depthwise atrous 3x3 convolutions
    3. multi-scale feature fusion: per channel a weighted sum over the m scales
    4. inter-channel fusion: 1x1, c/4 -> c

    Their weights number (2 c^2 + (k^2 + 1) m c) / 4, Eq. 13. Each step is followed by batch norm and ReLU, as in
    DeepLab's ASPP; the paper does not say.
    """

    def __init__(self, channels: int, reduction: int = 4, rates: tuple[int, ...] = ATROUS_RATES) -> None:
        super().__init__()
        reduced = channels // reduction
        self.reduce = conv_norm_relu(channels, reduced, kernel_size=1)
        self.scales = nn.ModuleList(
            conv_norm_relu(reduced, reduced, dilation=rate, groups=reduced) for rate in rates
        )
        # One depthwise 1x1 per scale, summed: the fusion without the interleaved channels a grouped 1x1 would need.
        self.fuse = nn.ModuleList(nn.Conv2d(reduced, reduced, 1, groups=reduced, bias=False) for _ in rates)
        self.fuse_norm = nn.BatchNorm2d(reduced)
        self.fuse_act = nn.ReLU()
        self.expand = conv_norm_relu(reduced, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.reduce(x)
        weighted = [fuse(scale(reduced)) for scale, fuse in zip(self.scales, self.fuse, strict=True)]
        fused = sum(weighted[1:], weighted[0])
        return self.expand(self.fuse_act(self.fuse_norm(fused)))


class SemanticBranch(nn.Module):
    """Branch S: where the portrait is, at 1/8 of the image."""

    def __init__(self, backbone: nn.Module, context: Context) -> None:
        super().__init__()
        _, _, c8, c16, c32 = MobileNetV2.channels
        self.backbone = backbone
        if context == "se":
            self.se_block = SqueezeExcitation(c32)
        else:
            self.e_aspp = EfficientASPP(c32)
        self.context = context
        self.conv_lr16x = ConvBlock(c32, c16, 5)
        self.conv_lr8x = ConvBlock(c16, c8, 5)
        self.conv_lr = ConvBlock(c8, 1, 3, stride=2, bare=True)

    def forward(self, img: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """img [N, 3, H, W] -> S(I) [N, 32, H/8, W/8] and the backbone's features at 1/2 and 1/4."""
        enc2x, enc4x, _, _, enc32x = self.backbone(img)
        enc32x = self.se_block(enc32x) if self.context == "se" else self.e_aspp(enc32x)
        lr16x = self.conv_lr16x(_up(enc32x))
        lr8x = self.conv_lr8x(_up(lr16x))
        return lr8x, enc2x, enc4x

    def predict(self, lr8x: Tensor) -> Tensor:
        """S(I) -> semantic mask [N, 1, H/16, W/16]."""
        return torch.sigmoid(self.conv_lr(lr8x))


class DetailBranch(nn.Module):
    """Branch D: the portrait's boundary, at 1/2 of the image."""

    def __init__(self, image_channels: int) -> None:
        super().__init__()
        c2, c4, c8, _, _ = MobileNetV2.channels
        self.tohr_enc2x = ConvBlock(c2, WIDTH, 1)
        self.conv_enc2x = ConvBlock(WIDTH + image_channels, WIDTH, 3, stride=2)
        self.tohr_enc4x = ConvBlock(c4, WIDTH, 1)
        self.conv_enc4x = ConvBlock(2 * WIDTH, 2 * WIDTH, 3)
        self.conv_hr4x = nn.Sequential(
            ConvBlock(2 * WIDTH + c8 + image_channels, 2 * WIDTH, 3),
            ConvBlock(2 * WIDTH, 2 * WIDTH, 3),
            ConvBlock(2 * WIDTH, WIDTH, 3),
        )
        self.conv_hr2x = nn.Sequential(
            ConvBlock(2 * WIDTH, 2 * WIDTH, 3),
            ConvBlock(2 * WIDTH, WIDTH, 3),
            ConvBlock(WIDTH, WIDTH, 3),
            ConvBlock(WIDTH, WIDTH, 3),
        )
        self.conv_hr = nn.Sequential(ConvBlock(WIDTH + image_channels, WIDTH, 3), ConvBlock(WIDTH, 1, 1, bare=True))

    def forward(self, img: Tensor, enc2x: Tensor, enc4x: Tensor, lr8x: Tensor) -> Tensor:
        """The image, the backbone's features at 1/2 and 1/4 and S(I) -> D(I, S(I)) [N, 32, H/2, W/2]."""
        enc2x = self.tohr_enc2x(enc2x)
        hr4x = self.conv_enc2x(torch.cat((_scale(img, 1 / 2), enc2x), 1))
        hr4x = self.conv_enc4x(torch.cat((hr4x, self.tohr_enc4x(enc4x)), 1))
        hr4x = self.conv_hr4x(torch.cat((hr4x, _up(lr8x), _scale(img, 1 / 4)), 1))
        return self.conv_hr2x(torch.cat((_up(hr4x), enc2x), 1))

    def predict(self, img: Tensor, hr2x: Tensor) -> Tensor:
        """The image and D(I, S(I)) -> boundary detail matte [N, 1, H, W]."""
        return torch.sigmoid(self.conv_hr(torch.cat((_up(hr2x), img), 1)))


class FusionBranch(nn.Module):
    """Branch F: the matte out of S(I), D(I, S(I)) and the image."""

    def __init__(self, image_channels: int) -> None:
        super().__init__()
        self.conv_lr4x = ConvBlock(MobileNetV2.channels[2], WIDTH, 5)
        self.conv_f2x = ConvBlock(2 * WIDTH, WIDTH, 3)
        self.conv_f = nn.Sequential(
            ConvBlock(WIDTH + image_channels, WIDTH // 2, 3), ConvBlock(WIDTH // 2, 1, 1, bare=True)
        )

    def forward(self, img: Tensor, lr8x: Tensor, hr2x: Tensor) -> Tensor:
        """-> matte [N, 1, H, W] in (0, 1)."""
        lr4x = self.conv_lr4x(_up(lr8x))
        f2x = self.conv_f2x(torch.cat((_up(lr4x), hr2x), 1))
        return torch.sigmoid(self.conv_f(torch.cat((_up(f2x), img), 1)))


class MODNet(Network):
    """MODNet. Official call: ``net(img, inference)`` -> (semantic, detail, matte).

    img: [N, 3, H, W] in [-1, 1], that is (x - 0.5) / 0.5 of RGB in [0, 1]; H and W multiples of 32.
    semantic [N, 1, H/16, W/16], detail [N, 1, H, W], matte [N, 1, H, W], all in (0, 1); in inference semantic and
    detail are None, their last layers are not run and the matte is the same.

    Modes: ``matting`` (img) -> matte; ``training`` (img) -> semantic, detail, matte.

    context: ``se`` (the official checkpoints) or ``easpp`` (the paper). An unknown one raises UnknownNameError.
    trimap: img is [N, 4, H, W], its last channel a trimap of -1 background, 0 unknown and 1 foreground: the
    trimap-based MODNet of the paper's Tables 1 and 2, which says no more than that a trimap is taken as an input.
    """

    name = "modnet"
    modes: ClassVar[Mapping[str, str]] = {"matting": "predict_matte", "training": "predict_all"}
    float_layers = FLOAT_LAYERS
    min_size = 32
    size_multiple = 32
    example_outputs = ("matte",)
    #: It takes images in [-1, 1] already, and the context block gates as many channels as it was built for.
    encoder_insertion_point = EncoderInsertionPoint("backbone", normalise=False, channels=1280)
    #: The semantic branch predicts a coarse matte already, so there is nothing to add but the mask.
    mask_head_insertion_point = MaskHeadInsertionPoint(
        after="lr_branch.conv_lr8x",
        head="lr_branch.coarse",
        channels=None,
        method="coarse_logits",
        targets=("hr_branch.conv_*", "f_branch.conv_*"),
    )

    def __init__(self, context: Context = "se", trimap: bool = False) -> None:
        if context not in ("se", "easpp"):
            raise UnknownNameError("context block of modnet", context, ("se", "easpp"))
        super().__init__(context=context, trimap=trimap)
        self.takes_trimap = trimap
        channels = 4 if trimap else 3
        self.example_channels = {"img": channels}  # type: ignore[misc]
        # One level down, where the official keys have it.
        self.backbone = nn.Sequential(OrderedDict(model=MobileNetV2(channels)))
        self.lr_branch = SemanticBranch(self.backbone, context)
        self.hr_branch = DetailBranch(channels)
        self.f_branch = FusionBranch(channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, img: Tensor, inference: bool = True) -> tuple[Tensor | None, ...]:
        """The official call. Raises SizeError where img is not [N, 3, H, W] with H and W multiples of 32.

        With a trimap it is [N, 4, H, W]. The coarse alpha of a mask head that a recipe adds follows the three outputs.
        """
        channels = self.example_channels["img"]
        if img.dim() != 4 or img.shape[1] != channels:
            advice = "join the trimap to the image" if self.takes_trimap else "drop alpha"
            raise SizeError(
                f"modnet takes images [N, {channels}, H, W], not {list(img.shape)}: fold time into the batch, {advice}"
            )
        self.check_size(img.shape[2], img.shape[3])
        if inference:
            found = self.run("matting", img)
            return (None, None, *(found if isinstance(found, tuple) else (found,)))
        return tuple(self.run("training", img))

    def predict_matte(self, img: Tensor) -> Tensor:
        """Mode ``matting``."""
        lr8x, enc2x, enc4x = self.lr_branch(img)
        hr2x = self.hr_branch(img, enc2x, enc4x, lr8x)
        return self.f_branch(img, lr8x, hr2x)

    def predict_all(self, img: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mode ``training``: semantic, detail, matte."""
        lr8x, enc2x, enc4x = self.lr_branch(img)
        hr2x = self.hr_branch(img, enc2x, enc4x, lr8x)
        return self.lr_branch.predict(lr8x), self.hr_branch.predict(img, hr2x), self.f_branch(img, lr8x, hr2x)

    def coarse_logits(self, lr8x: Tensor) -> Tensor:
        """S(I) -> the semantic mask's logits [N, 1, H/16, W/16], above 0 where the semantic mask is above 1/2.

        They are the coarse matte that a sparse decoder's mask is made of.
        """
        return self.lr_branch.conv_lr(lr8x)

    def frame_inputs(self, image: Tensor) -> dict[str, Tensor]:
        img = image * 2 - 1
        if not self.takes_trimap:
            return {"img": img}
        return {"img": _with_trimap(img, portrait_trimap(image.shape[2], image.shape[3]).alpha()[None, None])}

    def predict(
        self,
        image: Tensor,
        memory: None = None,
        *,
        trimap: Tensor | None = None,
        downsample_ratio: float = 1.0,
        progress: Progress = silent,
    ) -> Prediction:
        """Alpha of an image [1, 3, H, W] in [0, 1] of any size, padded to multiples of 32 by repeating its border.

        downsample_ratio: the image is reduced to this share first, by area as the official demo does (it brings the
        shorter side to 512), and the matte is enlarged bilinearly. A trimap is reduced to its nearest pixels, and alpha
        is the trimap's where that knows it. Raises InputError where a trimap is missing, does not fit or is not taken,
        SizeError for a ratio that is not positive or leaves nothing.
        """
        if trimap is not None and not self.takes_trimap:
            raise InputError("modnet takes no trimap: leave it out, or build MODNet(trimap=True)")
        full = (image.shape[2], image.shape[3])
        height, width = reduced_size(*full, downsample_ratio)
        small = image if (height, width) == full else F.interpolate(image, size=(height, width), mode="area")
        img = small * 2 - 1
        known = read_trimap(trimap, *full) if self.takes_trimap else None
        if known is not None:
            if known.all_known:
                return Prediction(known.alpha().to(image)[None, None], notes=known.remarks, windows=())
            levels = F.interpolate(known.alpha()[None, None], size=(height, width), mode="nearest-exact")
            img = _with_trimap(img, levels)
        padded = pad_to_multiple(img, self.size_multiple)
        matte = self(padded)[2][..., :height, :width]
        matte = matte if (height, width) == full else enlarge(matte, *full)
        seen = (Window(0, 0, padded.shape[2] * full[0] / height, padded.shape[3] * full[1] / width),)
        if known is None:
            return Prediction(matte, windows=seen)
        return Prediction(known.settle(matte[0, 0])[None, None], notes=known.remarks, windows=seen)

    @classmethod
    def normalise_keys(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same checkpoint with the backbone under both of its prefixes, as the official files have it.

        A file may hold either copy alone. Raises CheckpointError where it holds two that differ: the network has
        one backbone, so one of them would be lost.
        """
        normalised = dict(state)
        for key, value in state.items():
            for prefix, copy in ((BACKBONE, BACKBONE_COPY), (BACKBONE_COPY, BACKBONE)):
                other = copy + key.removeprefix(prefix)
                if key.startswith(prefix) and not torch.equal(normalised.setdefault(other, value), value):
                    raise CheckpointError(
                        f"'{key}' and '{other}' differ, but modnet has one backbone: keep one of the two copies"
                    )
        return normalised


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any] | None:
    """Constructor arguments where most of MODNet's landmarks are there, so that a damaged file is still recognised."""
    found = sum(shapes.get(key) == shape for key, shape in LANDMARKS.items())
    if found <= len(LANDMARKS) // 2:
        return None
    stems = (shapes.get(f"{prefix}model.features.0.0.weight", ()) for prefix in (BACKBONE, BACKBONE_COPY))
    return {
        "context": "easpp" if any(key.startswith("lr_branch.e_aspp.") for key in shapes) else "se",
        "trimap": any(stem[1:2] == (4,) for stem in stems),
    }


def _with_trimap(img: Tensor, trimap: Tensor) -> Tensor:
    """The network's input of an image in [-1, 1] and a trimap of 0, 0.5 and 1, [N, 1, H, W]."""
    return torch.cat((img, (trimap * 2 - 1).to(img)), 1)


def _scale(x: Tensor, factor: float) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def _up(x: Tensor) -> Tensor:
    return _scale(x, 2.0)


SPECS: tuple[NetworkSpec, ...] = (
    NetworkSpec(
        name="modnet",
        task="trimap-free portrait matting",
        inputs="image in [-1, 1], height and width multiples of 32",
        paper="MODNet, AAAI 2022, arXiv 2011.11961",
        build=MODNet,
        recognise=recognise,
        layouts=(
            "official (squeeze-and-excitation; backbone stored twice; 'module.' prefix)",
            "official with one copy of the backbone",
            "e-ASPP of the paper (binmat's own keys)",
            "either with a trimap as the fourth input channel (no public weights)",
        ),
    ),
)
