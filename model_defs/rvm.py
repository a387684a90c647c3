"""RVM, Robust Video Matting (Lin et al., WACV 2022, arXiv 2108.11515)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binmat.errors import InputError, SizeError, UnknownNameError
from binmat.model_defs.insertion_points import EncoderInsertionPoint, MaskHeadInsertionPoint
from binmat.model_defs.mobilenet_v3 import MobileNetV3
from binmat.model_defs.network import Example, Network, NetworkSpec, Prediction
from binmat.model_defs.resizing import reduced_size
from binmat.model_defs.resnet import ResNet
from binmat.model_defs.rvm_decoder import LRASPP, Projection, RecurrentDecoder
from binmat.nn.guided_filter import DeepGuidedFilter, FastGuidedFilter
from binmat.progress import Progress, silent

_STATES = ("r1", "r2", "r3", "r4")
_REFINERS: dict[str, type[nn.Module]] = {
    "deep_guided_filter": DeepGuidedFilter,
    "fast_guided_filter": FastGuidedFilter,
}
#: Per variant: encoder, channels of the head, channels of decode3..decode0, name of the first convolution.
_VARIANTS: dict[str, tuple[type[MobileNetV3] | type[ResNet], int, tuple[int, int, int, int], str]] = {
    "mobilenetv3": (MobileNetV3, 128, (80, 40, 32, 16), "backbone.features.0.0"),
    "resnet50": (ResNet, 256, (128, 64, 32, 16), "backbone.conv1"),
}
#: Layers that the default policy keeps float, as BiMatting's baselines do; a variant adds its first convolution.
_FLOAT_LAYERS = {
    "decoder.decode0.conv.3": "output stage: the last 3x3 convolution, at full size",
    "project_mat.conv": "output layer: foreground and alpha",
    "project_seg.conv": "output layer: segmentation",
}
_FLOAT_REFINER_LAYERS: dict[str, dict[str, str]] = {
    "deep_guided_filter": {
        "refiner.box_filter": "guided filter: its weights are the constant 1/9",
        "refiner.conv.6": "output layer of the guided filter",
    },
    "fast_guided_filter": {},
}


class RVM(Network):
    """Video matting with a recurrent decoder: per frame an alpha matte and the foreground's colours.

    variant: the encoder, "mobilenetv3" (3.75 M parameters) or "resnet50" (26.9 M).
    refiner: how a matte predicted at a lower resolution is enlarged, "deep_guided_filter" or "fast_guided_filter".

    Key names are those of the official checkpoints. Modes, with N = B*T frames and time folded into the batch:

    - ``matting``: (src [N, 3, H, W], r1..r4 [B, ...]) -> fgr [N, 3, H, W], pha [N, 1, H, W], r1..r4;
    - ``refined``: the same with downsample_ratio: predicted on the reduced frame, enlarged by the guided filter;
    - ``segmentation``: (src, r1..r4) -> logits [N, 1, H, W], r1..r4.

    src, fgr and pha lie in [0, 1]. r1..r4 have the sizes that :meth:`state_shapes` gives.
    """

    name = "rvm"
    modes: ClassVar[Mapping[str, str]] = {"matting": "matting", "refined": "refined", "segmentation": "segmentation"}
    #: One cell of the coarsest features. Smaller frames run too, but most of what is computed is padding.
    min_size = 16
    encoder_insertion_point = EncoderInsertionPoint("backbone")
    mask_head_insertion_point = MaskHeadInsertionPoint(
        after="decoder.decode4",
        head="decoder.decode4.conv",
        method="coarse_matte",
        outputs=("fgr_s", "pha_s"),
        alpha="pha_s",
        targets=("decoder.decode3.*", "decoder.decode2.*", "decoder.decode1.*", "decoder.decode0.*"),
        min_size=17,
    )

    def __init__(self, variant: str = "mobilenetv3", refiner: str = "deep_guided_filter") -> None:
        super().__init__(variant=variant, refiner=refiner)
        if variant not in _VARIANTS:
            raise UnknownNameError("RVM variant", variant, _VARIANTS)
        if refiner not in _REFINERS:
            raise UnknownNameError("refiner", refiner, _REFINERS)
        encoder, head, decoder, first = _VARIANTS[variant]
        self.name = f"rvm_{variant}"
        self.float_layers = {first: "input layer: reads the frame", **_FLOAT_LAYERS, **_FLOAT_REFINER_LAYERS[refiner]}
        self.backbone = encoder()
        self.aspp = LRASPP(encoder.channels[3], head)
        self.decoder = RecurrentDecoder((*encoder.channels[:3], head), decoder)
        self.project_mat = Projection(decoder[3], 4)
        self.project_seg = Projection(decoder[3], 1)
        self.refiner = _REFINERS[refiner]()

    def _features(self, src: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        f1, f2, f3, f4 = self.backbone(src)
        return self.decoder(src, (f1, f2, f3, self.aspp(f4)), states)

    def matting(self, src: Tensor, r1: Tensor, r2: Tensor, r3: Tensor, r4: Tensor) -> tuple[Tensor, ...]:
        """Foreground and alpha at the size of src, and the new states."""
        hidden, *states = self._features(src, r1, r2, r3, r4)
        out = self.project_mat(hidden)
        fgr = (out[:, :3] + src).clamp(0.0, 1.0)
        pha = out[:, 3:].clamp(0.0, 1.0)
        return fgr, pha, *states

    def refined(
        self, src: Tensor, r1: Tensor, r2: Tensor, r3: Tensor, r4: Tensor, downsample_ratio: float
    ) -> tuple[Tensor, ...]:
        """Foreground and alpha at the size of src, predicted at downsample_ratio of it, and the new states."""
        small = self.downsample(src, downsample_ratio)
        hidden, *states = self._features(small, r1, r2, r3, r4)
        out = self.project_mat(hidden)
        residual, pha = self.refiner(src, small, out[:, :3], out[:, 3:], hidden)
        return (residual + src).clamp(0.0, 1.0), pha.clamp(0.0, 1.0), *states

    def segmentation(self, src: Tensor, r1: Tensor, r2: Tensor, r3: Tensor, r4: Tensor) -> tuple[Tensor, ...]:
        """Logits of the person mask at the size of src, and the new states."""
        hidden, *states = self._features(src, r1, r2, r3, r4)
        return self.project_seg(hidden), *states

    def coarse_matte(self, features: Tensor, src: Tensor) -> tuple[Tensor, Tensor]:
        """Foreground and alpha at the size of coarse features [N, 16, h, w], by the projection that the fine ones use.

        BiMatting's sparse decoder makes its mask of it; without one no mode calls it.
        """
        out = self.project_mat(features)
        small = F.interpolate(src, size=(out.shape[2], out.shape[3]), mode="bilinear", align_corners=False)
        return (out[:, :3] + small).clamp(0.0, 1.0), out[:, 3:].clamp(0.0, 1.0)

    def output_names(self, mode: str) -> tuple[str, ...]:
        if mode == "segmentation":
            return ("logits", *_STATES)
        return ("fgr", "pha", *(self.conversion.side_outputs if self.conversion else ()), *_STATES)

    @staticmethod
    def downsample(src: Tensor, downsample_ratio: float) -> Tensor:
        """Reduce frames bilinearly to the floor of ratio times their size; the sampling step is exactly 1 / ratio."""
        return F.interpolate(src, scale_factor=downsample_ratio, mode="bilinear", align_corners=False)

    def forward(
        self,
        src: Tensor,
        r1: Tensor | None = None,
        r2: Tensor | None = None,
        r3: Tensor | None = None,
        r4: Tensor | None = None,
        downsample_ratio: float = 1,
        segmentation_pass: bool = False,
    ) -> list[Tensor]:
        """The official call: clips [B, T, 3, H, W], or single frames [B, 3, H, W], in [0, 1].

        r1..r4: the states that the call on the frames before returned; None at the start of a clip.
        Returns [fgr, pha, r1, r2, r3, r4], or [logits, r1, r2, r3, r4] in a segmentation pass, with as many
        dimensions as src. A sparse decoder's coarse matte, fgr_s and pha_s at 1/16, follows pha.
        Raises SizeError for a src, a ratio or states that do not fit.
        """
        if src.ndim not in (4, 5) or src.shape[-3] != 3 or 0 in src.shape:
            raise SizeError(f"src has shape {list(src.shape)}: pass clips [B, T, 3, H, W] or frames [B, 3, H, W]")
        clip = src.shape[:2] if src.ndim == 5 else None
        frames = src if clip is None else src.flatten(0, 1)
        shapes = self.state_shapes(src.shape[-2], src.shape[-1], downsample_ratio, batch=src.shape[0])
        states = []
        for name, state, shape in zip(_STATES, (r1, r2, r3, r4), shapes, strict=True):
            if state is not None and tuple(state.shape) != shape:
                raise SizeError(
                    f"state {name} has shape {list(state.shape)} where these frames need {list(shape)}: "
                    "pass the states of the same clip, size and ratio, or None"
                )
            states.append(src.new_zeros(shape) if state is None else state)
        if segmentation_pass:
            small = frames if downsample_ratio == 1 else self.downsample(frames, downsample_ratio)
            outputs = self.run("segmentation", small, *states)
        elif downsample_ratio == 1:
            outputs = self.run("matting", frames, *states)
        else:
            outputs = self.run("refined", frames, *states, downsample_ratio)
        if clip is None:
            return list(outputs)
        split = len(outputs) - len(states)
        return [*(maps.unflatten(0, clip) for maps in outputs[:split]), *outputs[split:]]

    def frame_inputs(self, image: Tensor) -> dict[str, Tensor]:
        return {"src": image}

    def predict(
        self,
        image: Tensor,
        memory: Sequence[Tensor] | None = None,
        *,
        trimap: Tensor | None = None,
        downsample_ratio: float = 1.0,
        progress: Progress = silent,
    ) -> Prediction:
        """Alpha and foreground of one frame [1, 3, H, W]; memory is r1..r4 of the frame before.

        Raises SizeError for a frame that is too small at this ratio, InputError for a trimap.
        """
        if trimap is not None:
            raise InputError(f"{self.name} takes no trimap: leave it out")
        self._check_frame(image.shape[2], image.shape[3], downsample_ratio)
        states: Sequence[Tensor | None] = memory or [None] * len(_STATES)
        fgr, pha, *others = self(image, *states, downsample_ratio)
        return Prediction(pha, fgr, others[-len(_STATES) :])

    def state_shapes(
        self, height: int, width: int, downsample_ratio: float = 1.0, batch: int = 1
    ) -> list[tuple[int, int, int, int]]:
        """Shapes of r1..r4 for frames of this size: 1/2 to 1/16, rounded up, of the reduced frame."""
        height, width = reduced_size(height, width, downsample_ratio, math.floor)
        shapes = []
        for channels in self.decoder.state_channels:
            height, width = -(-height // 2), -(-width // 2)
            shapes.append((batch, channels, height, width))
        return shapes

    def example(
        self, height: int, width: int, downsample_ratio: float = 1.0, device: torch.device | str = "cpu"
    ) -> Example:
        self._check_frame(height, width, downsample_ratio)
        shapes = [(1, 3, height, width), *self.state_shapes(height, width, downsample_ratio)]
        inputs: dict[str, Tensor | float] = {
            name: torch.zeros(shape, device=device) for name, shape in zip(("src", *_STATES), shapes, strict=True)
        }
        if downsample_ratio == 1:
            return Example("matting", inputs, self.output_names("matting"))
        return Example("refined", inputs | {"downsample_ratio": downsample_ratio}, self.output_names("refined"))

    def _check_frame(self, height: int, width: int, downsample_ratio: float) -> None:
        self.check_size(height, width)
        small = reduced_size(height, width, downsample_ratio, math.floor)
        if min(small) < self.min_size:
            raise SizeError(
                f"size {height}x{width} at downsample ratio {downsample_ratio} leaves {small[0]}x{small[1]} pixels, "
                f"too few for {self.name}: at least {self.min_size} each way"
            )


def _recognise(variant: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any] | None:
    """Constructor arguments where most of RVM's landmarks are there, so that a damaged file is still recognised."""
    encoder, head, decoder, first = _VARIANTS[variant]
    landmarks = {
        f"{first}.weight": None,
        "aspp.aspp1.0.weight": (head, encoder.channels[3], 1, 1),
        "decoder.decode4.gru.ih.0.weight": (head, head, 3, 3),
        "decoder.decode3.gru.hh.0.weight": (decoder[0] // 2, decoder[0], 3, 3),
        "decoder.decode0.conv.0.weight": (decoder[3], decoder[2] + 3, 3, 3),
    }
    found = sum(key in shapes and shape in (None, shapes[key]) for key, shape in landmarks.items())
    if found <= len(landmarks) // 2:
        return None
    has_weights = any(key.startswith("refiner.") for key in shapes)
    return {"variant": variant, "refiner": "deep_guided_filter" if has_weights else "fast_guided_filter"}


SPECS: tuple[NetworkSpec, ...] = tuple(
    NetworkSpec(
        name=f"rvm_{variant}",
        task="video matting of people",
        inputs="clip or frame in [0, 1], any size; recurrent states; downsample_ratio",
        paper="Robust Video Matting, WACV 2022, arXiv 2108.11515",
        build=RVM,
        recognise=partial(_recognise, variant),
        config={"variant": variant},
        layouts=("official, deep guided filter", "official, fast guided filter"),
        example_size=(288, 512),
    )
    for variant in _VARIANTS
)
