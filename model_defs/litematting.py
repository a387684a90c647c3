"""LiteMatting (Kang et al., ACCV 2022): a trimap network of modified mobile blocks, LSRPPM and ENB."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from binmat.errors import InputError, TraceError, UnknownNameError
from binmat.progress import Progress

from .crop_and_stitch import WINDOW, crop_and_stitch
from .network import NetworkSpec, Prediction
from .network_option import NetworkOption
from .trimap import Trimap, one_hot, portrait_trimap, transform_map
from .trimap_network import TrimapNetwork

#: Makes the normalisation of so many channels.
Norm = Callable[[int], nn.Module]

#: How ENB samples its keys and values: as the paper does; with the alternatives of its Table 4, 15x15 maxima or means;
#: or not at all, which makes it the table's common non-local block.
Sampling = Literal["pyramid", "max", "average", "none"]


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with 32, 16, 8 or 4 groups, the first that divides the channels."""
    groups = next(count for count in (32, 16, 8, 4) if channels % count == 0)
    return nn.GroupNorm(groups, channels)


#: What the networks of Table 3 are normalised by.
NORMS: Mapping[str, Norm] = {"group": group_norm, "batch": nn.BatchNorm2d}


def _conv_norm(
    norm: Norm,
    in_channels: int,
    out_channels: int,
    kernel_size: int | tuple[int, int],
    *activation: nn.Module,
    **options: Any,
) -> list[nn.Module]:
    """A convolution, its norm and the activation, if any. options: further arguments of nn.Conv2d."""
    return [nn.Conv2d(in_channels, out_channels, kernel_size, **options), norm(out_channels), *activation]


class ModifiedMobileBlock(nn.Module):
    """1x1 expansion, 3x3 depthwise, linear 1x1 projection, each with a norm (Fig. 3b of the paper).

    [N, in_channels, H, W] -> [N, out_channels, ceil(H / stride), ceil(W / stride)], with a shortcut where the shape is
    kept. As in the official implementation the block pads its input, before the 1x1, and the depthwise convolution
    does not pad: the border's zeros are normalised, shifted and rectified with the rest, so the depthwise
    convolution does not meet zeros there and the norms' statistics include them.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden: int,
        stride: int = 1,
        activation: type[nn.ReLU] | type[nn.LeakyReLU] = nn.ReLU,
        norm: Norm = group_norm,
    ) -> None:
        super().__init__()
        self.has_shortcut = stride == 1 and in_channels == out_channels
        self.conv = nn.Sequential(
            *_conv_norm(norm, in_channels, hidden, 1, activation(), bias=False),
            *_conv_norm(norm, hidden, hidden, 3, activation(), stride=stride, groups=hidden, bias=False),
            *_conv_norm(norm, hidden, out_channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(F.pad(x, (1, 1, 1, 1)))
        return x + y if self.has_shortcut else y


def _encoder_level(
    norm: Norm, in_channels: int, out_channels: int, blocks: int, stride: int = 1, expansion: int = 6
) -> nn.Sequential:
    """Modified mobile blocks that expand their input's channels; the first takes the stride."""
    inputs = [in_channels] + [out_channels] * (blocks - 1)
    strides = [stride] + [1] * (blocks - 1)
    return nn.Sequential(
        *(
            ModifiedMobileBlock(c, out_channels, c * expansion, s, norm=norm)
            for c, s in zip(inputs, strides, strict=True)
        )
    )


def _decoder_level(
    norm: Norm, in_channels: int, out_channels: int, blocks: int = 3, expansion: int = 4
) -> nn.Sequential:
    """Modified mobile blocks with LeakyReLU that expand their output's channels."""
    inputs = [in_channels] + [out_channels] * (blocks - 1)
    hidden = out_channels * expansion
    return nn.Sequential(
        *(ModifiedMobileBlock(c, out_channels, hidden, activation=nn.LeakyReLU, norm=norm) for c in inputs)
    )


def _low_level_guidance(norm: Norm) -> nn.Sequential:
    """ENB's low-level feature guidance block (Fig. 7): RGB in [0, 1], [N, 3, H, W] -> [N, 64, H / 2, W / 2]."""
    return nn.Sequential(
        *_conv_norm(norm, 3, 32, 3, nn.ReLU(), stride=2, padding=1),
        *_conv_norm(norm, 32, 64, 3, padding=1),
        _encoder_level(norm, 64, 64, blocks=4, expansion=4),
    )


class LSRPPM(nn.Module):
    """Long-Short Range Pyramid Pooling Module (section 3.2, Fig. 3c).

    [N, channels, H, W] -> [N, channels / 2, H, W]. Eight average-pooled views of the reduced input, each convolved with
    a kernel shaped like its grid and resized bilinearly to H x W, are merged in four pairs by one shared convolution:
    (5x5, 13x13), (15x7, 7x15), (23x11, 11x23) and the strips (1xW, Hx1); the concatenation has this order.
    Pooling is adaptive, one operator per view whose grid is constant, apart from the strips, once sizes are known.
    """

    #: Pooled grid (None keeps the size) and kernel of conv1 to conv8.
    VIEWS: ClassVar[Sequence[tuple[tuple[int | None, int | None], tuple[int, int]]]] = (
        ((5, 5), (3, 3)),
        ((13, 13), (3, 3)),
        ((1, None), (1, 3)),
        ((None, 1), (3, 1)),
        ((15, 7), (5, 3)),
        ((7, 15), (3, 5)),
        ((23, 11), (7, 3)),
        ((11, 23), (3, 7)),
    )

    def __init__(self, channels: int, norm: Norm = group_norm) -> None:
        super().__init__()
        middle, inner = channels // 2, channels // 8
        self.trans = nn.Sequential(
            *_conv_norm(norm, channels, middle, 1, nn.ReLU(), bias=False),
            *_conv_norm(norm, middle, inner, 1, nn.ReLU(), bias=False),
        )
        for index, (grid, kernel) in enumerate(self.VIEWS, start=1):
            self.add_module(f"pool{index}", nn.AdaptiveAvgPool2d(grid))
            self.add_module(f"conv{index}", self._filter(norm, inner, kernel))
        self.conv = self._filter(norm, inner, (3, 3))

    @staticmethod
    def _filter(norm: Norm, channels: int, kernel: tuple[int, int]) -> nn.Sequential:
        padding = (kernel[0] // 2, kernel[1] // 2)
        return nn.Sequential(*_conv_norm(norm, channels, channels, kernel, nn.ReLU(), padding=padding, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        x = self.trans(x)
        size = (x.shape[2], x.shape[3])

        def view(index: int) -> Tensor:
            pooled = self.get_submodule(f"pool{index}")(x)
            filtered = self.get_submodule(f"conv{index}")(pooled)
            return F.interpolate(filtered, size=size, mode="bilinear", align_corners=False)

        pairs = ((1, 2), (5, 6), (7, 8), (3, 4))
        return torch.cat([self.conv(F.relu(view(a) + view(b))) for a, b in pairs], 1)


class PyramidPooling(nn.Module):
    """[N, C, H, W] -> [N, C, S]: average pools onto 1x1, 3x3, 6x6 and 8x8 grids, S = 110 samples in all."""

    GRIDS = (1, 3, 6, 8)

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.AdaptiveAvgPool2d(grid) for grid in self.GRIDS)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([stage(x).flatten(2) for stage in self.stages], 2)


def _sampler(sampling: Sampling) -> nn.Module:
    """[N, C, H, W] -> [N, C, S]: what ENB compares its query with."""
    if sampling == "pyramid":
        return PyramidPooling()
    if sampling == "none":
        return nn.Flatten(2)
    pool = nn.AdaptiveMaxPool2d(15) if sampling == "max" else nn.AdaptiveAvgPool2d(15)
    return nn.Sequential(pool, nn.Flatten(2))


class EfficientNonLocalBlock(nn.Module):
    """ENB (section 3.3, Fig. 7, Eq. 4-9): a high-level query looks up a pooled low-level key and value.

    low: [N, low_channels, H, W]; high: [N, high_channels, h, w]; returns [N, channels, h, w]. With S pooled samples,

        M = softmax(query^T key / sqrt(channels)),  [N, h w, S]
        out = GroupNorm(conv1x1([W(M value^T), high]))

    The scale 1 / sqrt(channels) and the concatenation instead of Eq. 7's sum are the official implementation's.
    sampling: see :data:`Sampling`. S is 110 with ``pyramid``, 225 with ``max`` and ``average``, and the number of
    low-level positions with ``none``.
    """

    def __init__(
        self,
        low_channels: int,
        high_channels: int,
        channels: int,
        norm: Norm = group_norm,
        sampling: Sampling = "pyramid",
    ) -> None:
        super().__init__()
        self.channels = channels
        self.f_key = nn.Sequential(*_conv_norm(norm, low_channels, channels, 1, nn.LeakyReLU()))
        self.f_query = nn.Sequential(*_conv_norm(norm, high_channels, channels, 1, nn.LeakyReLU()))
        self.f_value = nn.Conv2d(low_channels, channels, kernel_size=1)
        self.W = nn.Conv2d(channels, channels, kernel_size=1)
        # The block starts as if the guidance were not there (official implementation).
        nn.init.zeros_(self.W.weight)
        nn.init.zeros_(self.W.bias)  # type: ignore[arg-type]
        self.psp = _sampler(sampling)
        self.conv_bn_dropout = nn.Sequential(*_conv_norm(norm, channels + high_channels, channels, 1))

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        value = self.psp(self.f_value(low)).transpose(1, 2)
        key = self.psp(self.f_key(low))
        query = self.f_query(high).flatten(2).transpose(1, 2)
        similarity = torch.softmax(torch.matmul(query, key) * self.channels**-0.5, dim=2)
        context = torch.matmul(similarity, value).transpose(1, 2)
        context = context.reshape(high.shape[0], self.channels, high.shape[2], high.shape[3])
        return self.conv_bn_dropout(torch.cat((self.W(context), high), 1))


class LiteMatting(TrimapNetwork):
    """LiteMatting with its official checkpoint's keys; [N, 1, H, W] alpha in [0, 1].

    lsrppm, enb: the switches of Table 5. Both true is the paper's network and the only one with public weights;
    ``lsrppm=False, enb=False`` is its backbone alone (52.8 G), ``enb=False`` the second row (53.0 G).
    norm: ``group``, or ``batch`` as in a row of Table 3. sampling: how ENB samples, see :data:`Sampling` and Table 4;
    it has no weights. Raises UnknownNameError for any other.

    In the code layer0 is the input layer, layer1..layer7 are the encoder's levels and uper1..uper5 the decoder's, out
    is the output layer; ppm is LSRPPM, gfnb is ENB and layerx its low-level guidance. Source: Kang et al., "Lightweight
    Image Matting via Efficient Non-Local Guidance", ACCV 2022.
    """

    name = "litematting"
    modes: ClassVar[Mapping[str, str]] = {"matting": "matting"}
    float_layers: Mapping[str, str] = {
        "layer0.0": "input layer: reads the image, the trimap and the transform map",
        "layerx.0": "input layer: reads the image for the guidance",
        "out.0": "reads the image and the trimap beside the decoder's features",
        "out.4": "output layer: computes alpha",
    }
    min_size = 32
    size_multiple = 32
    example_channels: ClassVar[Mapping[str, int]] = {"image": 3, "trimap": 3, "transform_map": 2}
    options = (
        NetworkOption("window", int, f"height and width of crop-and-stitch's windows, default {WINDOW}"),
        NetworkOption("sampling", str, "how ENB samples: pyramid (default), max, average or none", converts=True),
    )

    def __init__(
        self, lsrppm: bool = True, enb: bool = True, norm: str = "group", sampling: Sampling = "pyramid"
    ) -> None:
        if norm not in NORMS:
            raise UnknownNameError("norm of litematting", norm, NORMS)
        _check_sampling(sampling)
        super().__init__(lsrppm=lsrppm, enb=enb, norm=norm, sampling=sampling)
        make = NORMS[norm]
        self.layerx = _low_level_guidance(make) if enb else None
        self.layer0 = nn.Sequential(*_conv_norm(make, 8, 32, 3, nn.ReLU6(), stride=2, padding=1, bias=False))
        self.layer1 = nn.Sequential(*_conv_norm(make, 32, 32, 3, nn.ReLU(), padding=1))
        self.layer2 = _encoder_level(make, 32, 24, blocks=2, stride=2)
        self.layer3 = _encoder_level(make, 24, 32, blocks=3, stride=2)
        self.layer4 = _encoder_level(make, 32, 64, blocks=4, stride=2)
        self.layer5 = _encoder_level(make, 64, 96, blocks=3)
        self.layer6 = _encoder_level(make, 96, 160, blocks=3, stride=2)
        self.layer7 = _encoder_level(make, 160 + 80 * enb, 320, blocks=1)
        self.ppm = LSRPPM(320, make) if lsrppm else None
        self.gfnb = EfficientNonLocalBlock(64, 160, 80, make, sampling) if enb else None
        # The official third layer is LeakyReLU(True), a slope of 1: the identity.
        dfpool_norm = nn.BatchNorm2d(128) if norm == "batch" else nn.GroupNorm(16, 128)
        self.dfpool = nn.Sequential(nn.Conv2d(320 + 160 * lsrppm, 128, kernel_size=1), dfpool_norm)
        self.uper1 = _decoder_level(make, 160 + 128, 160)
        self.uper2 = _decoder_level(make, 160 + 96, 128)
        self.uper3 = _decoder_level(make, 128 + 32, 96)
        self.uper4 = _decoder_level(make, 96 + 24, 64)
        self.uper5 = nn.Sequential(
            *_conv_norm(make, 64 + 32, 48, 3, nn.PReLU(48), padding=1),
            *_conv_norm(make, 48, 32, 3, nn.PReLU(32), padding=1),
        )
        self.out = nn.Sequential(
            nn.Conv2d(32 + 6, 24, kernel_size=3, padding=1),
            nn.PReLU(24),
            nn.Conv2d(24, 12, kernel_size=3, padding=1),
            nn.PReLU(12),
            nn.Conv2d(12, 1, kernel_size=3, padding=1),
        )
        self.up = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, image: Tensor, trimap: Tensor, transform_map: Tensor) -> Tensor:
        """The official call.

        image: [N, 3, H, W] RGB in [0, 1]; trimap: [N, 3, H, W] one-hot background, unknown, foreground;
        transform_map: [N, 2, H, W] (see :func:`binmat.model_defs.trimap.transform_map`). H and W are multiples of
        32, else SizeError. Returns alpha [N, 1, H, W] in [0, 1], also where the trimap already knows it.
        """
        self.check_size(image.shape[2], image.shape[3])
        return self.run("matting", image, trimap, transform_map)

    def matting(self, image: Tensor, trimap: Tensor, transform_map: Tensor) -> Tensor:
        """The mode behind :meth:`forward`, traceable by torch.fx."""
        f1 = self.layer1(self.layer0(torch.cat((image * 2 - 1, trimap, transform_map), 1)))
        f2 = self.layer2(f1)
        f3 = self.layer3(f2)
        f5 = self.layer5(self.layer4(f3))
        f6 = self.layer6(f5)
        f7 = self.layer7(self._guided(f6, image, trimap))
        if self.ppm is not None:
            f7 = torch.cat((f7, self.ppm(f7)), 1)
        x = self.uper1(torch.cat((f6, self.dfpool(f7)), 1))
        x = self.uper2(torch.cat((self.up(x), f5), 1))
        x = self.uper3(torch.cat((self.up(x), f3), 1))
        x = self.uper4(torch.cat((self.up(x), f2), 1))
        x = self.uper5(torch.cat((self.up(x), f1), 1))
        x = self.out(torch.cat((self.up(x), image, trimap), 1))
        return torch.clamp(x, 0, 1)

    def _guided(self, high: Tensor, image: Tensor, trimap: Tensor) -> Tensor:
        """The features of the encoder's level 6 and ENB's, which are queried where the trimap is not background."""
        if self.gfnb is None or self.layerx is None:
            return high
        not_background = trimap[:, 1:2] + trimap[:, 2:3]
        gate = F.interpolate(not_background, size=(high.shape[2], high.shape[3]), mode="nearest")
        return torch.cat((high, self.gfnb(self.layerx(image), high * gate)), 1)

    def frame_inputs(self, image: Tensor) -> dict[str, Tensor]:
        """Image, one-hot trimap and transform map. Raises MissingExtraError without scipy."""
        known = portrait_trimap(image.shape[2], image.shape[3])
        maps = transform_map(known.regions)[None]
        return {"image": image, "trimap": one_hot(known.regions)[None].to(image), "transform_map": maps.to(image)}

    def estimate(
        self,
        image: Tensor,
        trimap: Trimap,
        downsample_ratio: float,
        progress: Progress,
        *,
        window: int = WINDOW,
        sampling: Sampling | None = None,
    ) -> Prediction:
        """By crop-and-stitch. Raises SizeError for a window that the network does not take and for a ratio.

        window, progress: see :func:`binmat.model_defs.crop_and_stitch.crop_and_stitch`. sampling: as for
        :meth:`specialised`.
        """
        self.refuse_ratio(downsample_ratio)
        self.check_size(window, window)
        alpha = crop_and_stitch(
            self.specialised(sampling=sampling),
            image[0],
            trimap,
            window=window,
            device=image.device,
            dtype=image.dtype,
            progress=progress,
        )
        return Prediction(alpha.to(image)[None, None])

    def specialised(
        self, size: tuple[int, int] | None = None, *, sampling: Sampling | None = None, **others: Any
    ) -> LiteMatting:
        """The network with a copy of its weights and another sampling in ENB; itself where that is no other.

        A checkpoint does not say how its ENB samples, because sampling has no weights. Raises UnknownNameError for an
        unknown sampling and for any other option, InputError for a network without ENB, TraceError for one that is
        traced or converted.
        """
        super().specialised(size, **others)
        if sampling is None or sampling == self.config["sampling"]:
            return self
        _check_sampling(sampling)
        if self.gfnb is None:
            raise InputError("this litematting has no ENB, which alone samples: leave sampling out")
        if self.programs:
            raise TraceError(
                f"this litematting is already traced or converted with sampling '{self.config['sampling']}': "
                f"convert the float network with sampling '{sampling}'"
            )
        with torch.device("meta"):
            other = LiteMatting(**{**self.config, "sampling": sampling})
        other.load_state_dict({key: value.clone() for key, value in self.state_dict().items()}, assign=True)
        return other.train(self.training)


def _check_sampling(sampling: str) -> None:
    if sampling not in get_args(Sampling):
        raise UnknownNameError("sampling of litematting's ENB", sampling, get_args(Sampling))


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any] | None:
    """The constructor's arguments for a checkpoint's {key: shape}; None where it is another network's."""
    if not {"layer0.0.weight", "layer7.0.conv.0.weight", "dfpool.0.weight", "uper5.5.weight"} <= shapes.keys():
        return None
    return {
        "lsrppm": "ppm.trans.0.weight" in shapes,
        "enb": "gfnb.f_key.0.weight" in shapes,
        "norm": "batch" if "layer0.1.running_mean" in shapes else "group",
    }


SPECS: tuple[NetworkSpec, ...] = (
    NetworkSpec(
        name="litematting",
        task="image matting with a trimap",
        inputs="image [N, 3, H, W] in [0, 1], trimap one-hot [N, 3, H, W], transform map [N, 2, H, W]",
        paper="Kang et al., Lightweight Image Matting via Efficient Non-Local Guidance, ACCV 2022",
        build=LiteMatting,
        recognise=recognise,
        layouts=(
            "official",
            "Table 5's ablations: without gfnb and layerx, without ppm",
            "Table 3's batch norm (no public weights)",
        ),
        example_size=(640, 640),
    ),
)
