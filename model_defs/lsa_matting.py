"""LSA-Matting (Wang et al., ICME 2022): a trimap network on ResNet-50-D whose decoder can be refined per image."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from itertools import count
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from binmat.errors import InputError
from binmat.nn import imagenet
from binmat.nn.conv_norm import conv_norm
from binmat.progress import Progress

from .network import NetworkSpec, Prediction
from .network_option import NetworkOption
from .refinement import LEVELS, refine
from .resizing import enlarge, reduced_size
from .resnet import Bottleneck, stage
from .test_time_augmentation import check_views, mean_over_views
from .trimap import Trimap, portrait_trimap
from .trimap_network import TrimapNetwork

#: What the official code feeds for unknown: 128 of an 8-bit trimap divided by 255.
UNKNOWN_VALUE = 128 / 255

#: Padding around the image in official inference: 16 pixels reflected, then 16 of zeros before normalisation.
_REFLECTED, _ZEROS = 16, 16

_PADDED_MULTIPLE = 64


class BottleneckD(Bottleneck):
    """Bottleneck of ResNet-D: a strided shortcut averages 2x2 pixels and then convolves 1x1 (He et al., CVPR 2019)."""

    def __init__(self, in_channels: int, width: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__(in_channels, width, stride, dilation)
        if stride != 1:
            out_channels = self.conv3.out_channels
            self.downsample = nn.Sequential(
                nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False),
                *conv_norm(in_channels, out_channels, kernel_size=1),
            )


class _ConvNormReLU(nn.Module):
    """3x3 convolution, batch norm, ReLU, under the official key names."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(self.bn(self.conv(x)))
        return y


class ResNet50D(nn.Module):
    """ResNet-50-D without a classifier: [N, in_channels, H, W] -> f1..f5 of 64, 256, 512, 1024 and 2048 channels.

    The features have 1/2, 1/4, 1/8, 1/16 and 1/32 of the size, rounded up. Key names are mmclassification's.
    """

    channels = (64, 256, 512, 1024, 2048)

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _ConvNormReLU(in_channels, 32, stride=2), _ConvNormReLU(32, 32), _ConvNormReLU(32, 64)
        )
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = stage(64, 64, blocks=3, block=BottleneckD)
        self.layer2 = stage(256, 128, blocks=4, stride=2, block=BottleneckD)
        self.layer3 = stage(512, 256, blocks=6, stride=2, block=BottleneckD)
        self.layer4 = stage(1024, 512, blocks=3, stride=2, block=BottleneckD)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        f1 = self.stem(x)
        f2 = self.layer1(self.maxpool(f1))
        f3 = self.layer2(f2)
        f4 = self.layer3(f3)
        return f1, f2, f3, f4, self.layer4(f4)


class FusionDecoder(nn.Module):
    """3x3 convolution, batch norm, ReLU, then gating by the image's global mean (section 3; VoVNet's effective SE).

    [N, in_channels, H, W] -> [N, out_channels, H, W]: y * hardsigmoid(conv1x1(mean of y over H and W)), where
    hardsigmoid(g) = clamp(g + 3, 0, 6) / 6.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Conv2d(out_channels, out_channels, kernel_size=1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu1(self.norm1(self.conv1(x)))
        return y * self.gate(self.fc(self.avg_pool(y)))


class Decoder(nn.Module):
    """Decoders 5 to 1 and the output layers. Each decoder's output is resized to the next feature and joins it."""

    #: Output channels of decoder l.
    channels: ClassVar[Mapping[int, int]] = {**LEVELS, 1: 64}

    def __init__(self, in_channels: int, feature_channels: tuple[int, ...]) -> None:
        super().__init__()
        deeper = {**{level: self.channels[level + 1] for level in range(1, 5)}, 5: 0}
        for level in range(1, 6):
            inputs = feature_channels[level - 1] + deeper[level]
            self.add_module(f"decoder_{level}", FusionDecoder(inputs, self.channels[level]))
        self.final_final = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(in_channels + self.channels[1], 32, kernel_size=3, padding=1),
                relu2=nn.ReLU(),
                conv2=nn.Conv2d(32, 32, kernel_size=3, padding=1),
                relu3=nn.ReLU(),
                conv3=nn.Conv2d(32, 1, kernel_size=3, padding=1),
            )
        )

    def forward(
        self, x: Tensor, features: tuple[Tensor, ...], corrections: Mapping[int, tuple[Tensor, Tensor]]
    ) -> Tensor:
        """corrections: A and B of BRM by level; levels without an entry stay as they are."""
        skips = (x, *features)
        y = features[4]
        for level in range(5, 0, -1):
            y = self.get_submodule(f"decoder_{level}")(y)
            if level in corrections:
                scale, shift = (_resize(tensor, y, "bicubic") for tensor in corrections[level])
                y = y * torch.exp(scale) + shift
            y = torch.cat((skips[level - 1], _resize(y, skips[level - 1], "nearest" if level > 1 else "bilinear")), 1)
        return self.final_final(y)


def _resize(x: Tensor, like: Tensor, mode: str) -> Tensor:
    return F.interpolate(x, size=(like.shape[2], like.shape[3]), mode=mode)


class LSAMatting(TrimapNetwork):
    """LSA-Matting with its official checkpoint's keys; [N, 1, H, W] alpha that is not clamped.

    Modes: ``matting`` is the whole network; ``encode`` and ``decode`` are its halves for backpropagating refinement
    (:func:`binmat.model_defs.refinement.refine`). Source: Wang et al., "Improving Deep Image Matting via Local
    Smoothness Assumption", ICME 2022, section 3 and Fig. 1.
    """

    name = "lsa_matting"
    modes: ClassVar[Mapping[str, str]] = {"matting": "matting", "encode": "encode", "decode": "decode"}
    float_layers: Mapping[str, str] = {
        "backbone.stem.0.conv": "input layer: reads the image and the trimap",
        "decoder.final_final.conv1": "reads the image and the trimap beside the decoder's features",
        "decoder.final_final.conv3": "output layer: computes alpha",
    }
    min_size = 32
    size_multiple = 32
    example_channels: ClassVar[Mapping[str, int]] = {"x": 4}
    options = (
        NetworkOption("refinement_steps", int, "steps of backpropagating refinement, default 0, paper 100"),
        NetworkOption("test_time_augmentation", int, "views to average: 1 (default), 8 turns, or 24 with three scales"),
    )

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ResNet50D(in_channels=4)
        self.decoder = Decoder(4, self.backbone.channels)

    def forward(self, x: Tensor) -> Tensor:
        """The official call.

        x: [N, 4, H, W]: RGB normalised by ImageNet's mean and standard deviation, and the trimap in [0, 1]
        (:func:`network_input`). Returns alpha [N, 1, H, W], which training wants as it is and inference clamps to
        [0, 1]. Raises SizeError where H or W is not a multiple of 32.
        """
        self.check_size(x.shape[2], x.shape[3])
        return self.run("matting", x)

    def matting(self, x: Tensor) -> Tensor:
        """x [N, 4, H, W] -> alpha [N, 1, H, W]."""
        return self.decoder(x, self.backbone(x), {})

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """x [N, 4, H, W] -> what the decoder needs: x and f1..f5 at 1/2 to 1/32 of the size."""
        return (x, *self.backbone(x))

    def decode(
        self,
        x: Tensor,
        f1: Tensor,
        f2: Tensor,
        f3: Tensor,
        f4: Tensor,
        f5: Tensor,
        a5: Tensor,
        a4: Tensor,
        a3: Tensor,
        a2: Tensor,
        b5: Tensor,
        b4: Tensor,
        b3: Tensor,
        b2: Tensor,
    ) -> Tensor:
        """What :meth:`encode` returned and BRM's A and B, [N, C, 2^(8-l), 2^(8-l)] -> alpha [N, 1, H, W].

        With zeros for A and B it is what :meth:`matting` computes.
        """
        corrections = dict(zip(LEVELS, zip((a5, a4, a3, a2), (b5, b4, b3, b2), strict=True), strict=True))
        return self.decoder(x, (f1, f2, f3, f4, f5), corrections)

    def frame_inputs(self, image: Tensor) -> dict[str, Tensor]:
        regions = torch.from_numpy(portrait_trimap(image.shape[2], image.shape[3]).regions)[None, None]
        return {"x": network_input(image, _levels(regions).to(image))}

    def estimate(
        self,
        image: Tensor,
        trimap: Trimap,
        downsample_ratio: float,
        progress: Progress,
        *,
        refinement_steps: int = 0,
        test_time_augmentation: int = 1,
    ) -> Prediction:
        """As official inference computes it, at float32 whatever the type of the image.

        refinement_steps: steps of backpropagating refinement, 0 for none; the paper takes 100.
        test_time_augmentation: views of the image whose mattes are averaged, 1, 8 or 24 as in the paper, see
        :func:`binmat.model_defs.test_time_augmentation.mean_over_views`; each view is refined by itself.
        downsample_ratio: the image is reduced to this share by area and the trimap to its nearest pixels first, and
        alpha is enlarged bilinearly: the whole image is one input, so memory grows with it. progress: called with
        (decodes done, decodes to do) while refining, with (views done, views) otherwise, if there are several.

        Image and trimap are padded by reflection to multiples of 64, then by 16 pixels of reflection and 16 of zeros on
        every side, and alpha is cropped back. Raises InputError for a negative number of steps and for another number
        of views, SizeError for a ratio that is not positive or leaves nothing.
        """
        if refinement_steps < 0:
            raise InputError(f"refinement cannot take {refinement_steps} steps: give 0 for none, the paper takes 100")
        check_views(test_time_augmentation)
        size = reduced_size(*trimap.size, downsample_ratio)
        if trimap.all_known:
            return Prediction(trimap.alpha().to(image)[None, None])
        colours, regions = image.float().cpu(), torch.from_numpy(trimap.regions)[None, None]
        if size != trimap.size:
            colours = F.interpolate(colours, size=size, mode="area")
            regions = F.interpolate(regions, size=size, mode="nearest-exact")
        decodes = count(1)
        to_do = max(1, refinement_steps) * test_time_augmentation

        def view(colours: Tensor, regions: Tensor) -> Tensor:
            def step(*_: int) -> None:
                progress(next(decodes), to_do)

            alpha = self._estimate(colours, regions, refinement_steps, step)
            if not refinement_steps and to_do > 1:
                step()
            return alpha

        alpha = mean_over_views(view, colours, regions, test_time_augmentation)
        alpha = alpha if size == trimap.size else enlarge(alpha, *trimap.size)
        return Prediction(trimap.settle(alpha[0, 0]).to(image)[None, None])

    def _estimate(self, image: Tensor, regions: Tensor, refinement_steps: int, progress: Progress) -> Tensor:
        """Alpha [1, 1, H, W] in [0, 1] of an image [1, 3, H, W] and the regions of its trimap, [1, 1, H, W]."""
        x = network_input(_pad(image), _levels(_pad(regions)))
        parameter = next(self.parameters())
        x = x.to(parameter.device, parameter.dtype)
        with torch.no_grad():
            alpha = refine(self, x, steps=refinement_steps, progress=progress) if refinement_steps else self(x)
        top = left = _REFLECTED + _ZEROS
        alpha = alpha[..., top : top + image.shape[2], left : left + image.shape[3]].to("cpu", torch.float32)
        return Trimap(regions[0, 0].numpy()).settle(alpha[0, 0])[None, None]


def network_input(image: Tensor, trimap: Tensor) -> Tensor:
    """[N, 4, H, W] of RGB in [0, 1], [N, 3, H, W], and a trimap of 0, :data:`UNKNOWN_VALUE` and 1, [N, 1, H, W]."""
    # As the official code normalises the image.
    mean, std = (image.new_tensor(values).view(3, 1, 1) for values in (imagenet.MEAN, imagenet.STD))
    return torch.cat(((image - mean) / std, trimap), 1)


def _levels(regions: Tensor) -> Tensor:
    """The trimap as the network reads it: 0, :data:`UNKNOWN_VALUE` and 1, float32 in the shape of the regions."""
    return torch.tensor([0, UNKNOWN_VALUE, 1], dtype=torch.float32)[regions.long()]


def _pad(x: Tensor) -> Tensor:
    """[..., H, W] as official inference pads it."""
    values = x.numpy()
    keep = [(0, 0)] * (values.ndim - 2)
    to_multiple = [(0, -length % _PADDED_MULTIPLE) for length in values.shape[-2:]]
    values = np.pad(values, keep + to_multiple, mode="reflect")
    values = np.pad(values, keep + [(_REFLECTED, _REFLECTED)] * 2, mode="reflect")
    return torch.from_numpy(np.pad(values, keep + [(_ZEROS, _ZEROS)] * 2))


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any] | None:
    """The constructor's arguments (none) for a checkpoint's {key: shape}; None where it is another network's."""
    known = {"backbone.stem.0.conv.weight", "decoder.decoder_5.fc.weight", "decoder.final_final.conv3.weight"}
    return {} if known <= shapes.keys() else None


SPECS: tuple[NetworkSpec, ...] = (
    NetworkSpec(
        name="lsa_matting",
        task="image matting with a trimap",
        inputs="[N, 4, H, W]: RGB normalised by ImageNet's mean and standard deviation, trimap in [0, 1]",
        paper="Wang et al., Improving Deep Image Matting via Local Smoothness Assumption, ICME 2022",
        build=LSAMatting,
        recognise=recognise,
        layouts=("official",),
    ),
)
