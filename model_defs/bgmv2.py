"""BGMv2 (Lin et al., CVPR 2021, arXiv 2012.07810): matting with a picture of the scene without its subject."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binmat.errors import InputError, SizeError, UnknownNameError
from binmat.nn.patches import PIXELS, SIDE
from binmat.progress import Progress, silent

from . import aspp
from .bgmv2_decoder import Decoder
from .insertion_points import EncoderInsertionPoint, MaskHeadInsertionPoint
from .mobilenet_v2 import MobileNetV2
from .network import Example, Network, NetworkSpec, Prediction, Window
from .network_option import NetworkOption
from .patch_refiner import HIDDEN, PatchRefiner
from .resizing import pad_to_multiple, reduced_size
from .resnet import ResNet
from .trimap import portrait_trimap

#: How the refiner chooses what it computes anew.
REFINE_MODES = ("full", "sampling", "thresholding")
#: Largest share of the size at which the base network may run when its result is refined (official code).
LARGEST_RATIO = 0.5
#: Variant -> blocks per stage of the ResNet, None for MobileNetV2.
_VARIANTS: dict[str, tuple[int, int, int, int] | None] = {
    "mobilenetv2": None,
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
}
_ASPP_RATES = (3, 6, 9)
_BASE_OUTPUTS = ("pha", "fgr", "err", "hid")
_REFINED_OUTPUTS = ("pha", "fgr", "pha_sm", "fgr_sm", "err_sm", "ref_sm")
_FLOAT_LAYERS = {
    "decoder.conv4": "output layer: alpha, foreground, error and hidden features",
}
_FLOAT_REFINER_LAYERS = {
    "refiner.conv1": "input layer: reads the pictures at 1/2",
    "refiner.conv3": "input layer: reads the pictures",
    "refiner.conv4": "output layer: alpha and foreground",
}


class BGMv2(Network):
    """Alpha and foreground of a picture, given the same scene without its subject.

    variant: the encoder, "mobilenetv2" (5.0 M parameters), "resnet50" (40.2 M) or "resnet101" (59.2 M).
    refiner: whether the network has one (official MattingRefine) or is the base network alone (MattingBase).
    backbone_scale: the share of the size at which the base network runs in the official call with a refiner.
    refine_mode: "full", "sampling" or "thresholding": the refiner computes everything anew, the ``sample_pixels // 16``
    patches of 4x4 pixels with the largest errors, or those with an error above ``threshold``.

    Key names are those of the official checkpoints. Modes; src and bgr are [N, 3, H, W] in [0, 1]:

    - ``matting``: (src, bgr) -> pha [N, 1, H, W], fgr [N, 3, H, W], by the base network at full size;
    - ``base``: the same with err [N, 1, H, W] in [0, 1] and hid [N, 32, H, W], the official MattingBase;
    - ``full``: (src, bgr, downsample_ratio) -> pha, fgr, pha_sm, fgr_sm, err_sm, ref_sm, the official MattingRefine:
      *_sm are coarse; ref_sm [N, 1, H/4, W/4] is 1 where a patch was refined. H and W are multiples of 4;
    - ``sampling``: the same with sample_pixels, ``thresholding``: with threshold as the last argument.

    Raises UnknownNameError for an unknown variant or refine mode, InputError for fewer than 16 sample pixels and for a
    threshold outside of [0, 1], SizeError for a scale that is not in (0, 0.5].
    """

    name = "bgmv2"
    modes: ClassVar[Mapping[str, str]] = {
        "matting": "matting",
        "base": "base",
        "full": "full",
        "sampling": "sampling",
        "thresholding": "thresholding",
    }
    #: One cell of the coarsest features.
    min_size = 16
    takes_background = True
    encoder_insertion_point = EncoderInsertionPoint("backbone", normalise=False)
    #: The base network's decoder. The refiner has its own choice of patches.
    mask_head_insertion_point = MaskHeadInsertionPoint(
        after="aspp",
        head="decoder.coarse",
        outputs=("pha_s",),
        alpha="pha_s",
        # The output layer has most of the decoder's work.
        targets=("decoder.conv?",),
        min_size=17,
    )
    options = (
        NetworkOption("refine_mode", str, "what the refiner computes: full, sampling or thresholding", converts=True),
        NetworkOption("sample_pixels", int, "pixels to refine in mode sampling, default 80000", converts=True),
        NetworkOption("threshold", float, "refine errors above this in mode thresholding, default 0.1", converts=True),
    )

    def __init__(
        self,
        variant: str = "mobilenetv2",
        refiner: bool = True,
        backbone_scale: float = 0.25,
        refine_mode: str = "sampling",
        sample_pixels: int = 80_000,
        threshold: float = 0.1,
    ) -> None:
        if variant not in _VARIANTS:
            raise UnknownNameError("BGMv2 variant", variant, _VARIANTS)
        _check_ratio(backbone_scale)
        _check_refinement(refine_mode, sample_pixels, threshold)
        super().__init__(
            variant=variant,
            refiner=refiner,
            backbone_scale=backbone_scale,
            refine_mode=refine_mode,
            sample_pixels=sample_pixels,
            threshold=threshold,
        )
        self.name = f"bgmv2_{variant}"
        blocks = _VARIANTS[variant]
        if blocks is None:
            self.backbone: nn.Module = MobileNetV2(in_channels=6, dilated=True)
            channels = MobileNetV2.dilated_channels
        else:
            self.backbone = ResNet(in_channels=6, blocks=blocks)
            channels = ResNet.channels
        first = "backbone.features.0.0" if blocks is None else "backbone.conv1"
        self.float_layers = {first: "input layer: reads the pictures", **_FLOAT_LAYERS}
        if refiner:
            self.float_layers |= _FLOAT_REFINER_LAYERS
        f1, f2, f3, f4 = channels
        self.aspp = aspp.ASPP(f4, _ASPP_RATES)
        self.decoder = Decoder((aspp.CHANNELS, f3, f2, f1, 6), outputs=1 + 3 + 1 + HIDDEN)
        if refiner:
            self.refiner = PatchRefiner()
        else:
            self.modes = {mode: BGMv2.modes[mode] for mode in ("matting", "base")}  # type: ignore[misc]

    def _coarse(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Alpha and error in [0, 1], the foreground's residual and the hidden features."""
        f1, f2, f3, f4 = self.backbone(pictures)
        x = self.decoder(self.aspp(f4), (f3, f2, f1, pictures))
        return x[:, :1].clamp(0.0, 1.0), x[:, 1:4], x[:, 4:5].clamp(0.0, 1.0), F.relu(x[:, 5:])

    def matting(self, src: Tensor, bgr: Tensor) -> tuple[Tensor, Tensor]:
        """Mode ``matting``."""
        alpha, residual, _, _ = self._coarse(torch.cat([src, bgr], 1))
        return alpha, (residual + src).clamp(0.0, 1.0)

    def base(self, src: Tensor, bgr: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mode ``base``."""
        alpha, residual, error, hidden = self._coarse(torch.cat([src, bgr], 1))
        return alpha, (residual + src).clamp(0.0, 1.0), error, hidden

    def full(self, src: Tensor, bgr: Tensor, downsample_ratio: float) -> tuple[Tensor, ...]:
        """Mode ``full``."""
        pictures, small, (alpha, residual, error, hidden) = self._reduced(src, bgr, downsample_ratio)
        refined = self.refiner.everywhere(pictures, alpha, residual, hidden)
        patches = torch.ones_like(src[:, :1, ::SIDE, ::SIDE])
        return self._outputs(src, small, alpha, residual, error, *refined, patches)

    def sampling(self, src: Tensor, bgr: Tensor, downsample_ratio: float, sample_pixels: float) -> tuple[Tensor, ...]:
        """Mode ``sampling``."""
        pictures, small, (alpha, residual, error, hidden) = self._reduced(src, bgr, downsample_ratio)
        refined = self.refiner.sampled(pictures, alpha, residual, hidden, error, sample_pixels)
        return self._outputs(src, small, alpha, residual, error, *refined)

    def thresholding(self, src: Tensor, bgr: Tensor, downsample_ratio: float, threshold: float) -> tuple[Tensor, ...]:
        """Mode ``thresholding``."""
        pictures, small, (alpha, residual, error, hidden) = self._reduced(src, bgr, downsample_ratio)
        refined = self.refiner.above(pictures, alpha, residual, hidden, error, threshold)
        return self._outputs(src, small, alpha, residual, error, *refined)

    def _reduced(
        self, src: Tensor, bgr: Tensor, downsample_ratio: float
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Both pictures together, the image reduced, and the base network's results on the reduced pictures."""
        pictures = torch.cat([src, bgr], 1)
        small = F.interpolate(
            pictures,
            scale_factor=downsample_ratio,
            mode="bilinear",
            align_corners=False,
            recompute_scale_factor=True,
        )
        return pictures, small[:, :3], self._coarse(small)

    @staticmethod
    def _outputs(
        src: Tensor,
        small: Tensor,
        alpha: Tensor,
        residual: Tensor,
        error: Tensor,
        refined_alpha: Tensor,
        refined_residual: Tensor,
        refined: Tensor,
    ) -> tuple[Tensor, ...]:
        fgr = (refined_residual + src).clamp(0.0, 1.0)
        return refined_alpha.clamp(0.0, 1.0), fgr, alpha, (residual + small).clamp(0.0, 1.0), error, refined

    def output_names(self, mode: str) -> tuple[str, ...]:
        own = {"matting": _BASE_OUTPUTS[:2], "base": _BASE_OUTPUTS}.get(mode, _REFINED_OUTPUTS)
        return (*own, *(self.conversion.side_outputs if self.conversion else ()))

    def forward(self, src: Tensor, bgr: Tensor | None = None) -> tuple[Tensor, ...]:
        """The official call: mode ``base`` without a refiner, else the refine mode at ``backbone_scale``.

        A sparse decoder's coarse alpha pha_s [N, 1, h/16, w/16], not clamped, h x w being the base network's size,
        follows the outputs.

        Raises InputError where bgr is missing or differs from src in shape, SizeError for a size that does not fit.
        """
        if bgr is None:
            raise self._missing_background()
        if src.shape != bgr.shape:
            raise InputError(
                f"the image is {list(src.shape)} and the background {list(bgr.shape)}: give both in one shape"
            )
        ratio = 1.0 if "full" not in self.modes else self.config["backbone_scale"]
        self._check_frame(src.shape[2], src.shape[3], ratio)
        if ratio == 1:
            return tuple(self.run("base", src, bgr))
        return tuple(self.run(self.config["refine_mode"], src, bgr, ratio, *self._choice(self.config)))

    @staticmethod
    def _choice(settings: Mapping[str, Any]) -> tuple[float, ...]:
        """The refine mode's own argument."""
        argument = {"sampling": "sample_pixels", "thresholding": "threshold"}.get(settings["refine_mode"])
        return () if argument is None else (settings[argument],)

    def example(
        self, height: int, width: int, downsample_ratio: float = 1.0, device: torch.device | str = "cpu"
    ) -> Example:
        """At ratio 1 the base network at full size, else the refine mode that the network was built with.

        Raises InputError for mode ``thresholding``, in which the number of patches depends on the picture.
        """
        self._check_frame(height, width, downsample_ratio)
        shape = (1, 3, height, width)
        inputs: dict[str, Tensor | float] = {name: torch.zeros(shape, device=device) for name in ("src", "bgr")}
        if downsample_ratio == 1:
            return Example("matting", inputs, self.output_names("matting"))
        mode = self.config["refine_mode"]
        if mode == "thresholding":
            raise InputError(
                f"{self.name} cannot be counted or exported in mode thresholding, where the picture says how many "
                "patches are refined: choose the mode sampling or full (--option refine_mode=sampling)"
            )
        inputs["downsample_ratio"] = downsample_ratio
        if mode == "sampling":
            inputs["sample_pixels"] = self.config["sample_pixels"]
        return Example(mode, inputs, self.output_names(mode))

    def notes_on(self, example: Example) -> tuple[str, ...]:
        """Whether the refiner samples more pixels than there are."""
        height, width = example.size
        return _notes_on_sampling(int(example.inputs.get("sample_pixels", 0)), height * width)

    def specialised(
        self,
        size: tuple[int, int] | None = None,
        *,
        refine_mode: str | None = None,
        sample_pixels: int | None = None,
        threshold: float | None = None,
        **others: Any,
    ) -> Network:
        """A copy with another refine mode, number of pixels or threshold; without any the network itself.

        Raises the errors of the constructor, UnknownNameError for any other option.
        """
        network = super().specialised(size, **others)
        options = {"refine_mode": refine_mode, "sample_pixels": sample_pixels, "threshold": threshold}
        if all(value is None for value in options.values()):
            return network
        changed = copy.deepcopy(self)
        changed.config |= self._refinement(options)
        return changed

    def _refinement(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The refinement's settings, checked: those of the network where an option is None."""
        settings = {name: self.config[name] if value is None else value for name, value in options.items()}
        _check_refinement(**settings)
        return settings

    def frame_inputs(self, image: Tensor) -> dict[str, Tensor]:
        return {"src": image, "bgr": without_subject(image)}

    def predict(
        self,
        image: Tensor,
        memory: None = None,
        *,
        background: Tensor | None = None,
        trimap: Tensor | None = None,
        downsample_ratio: float = 1.0,
        progress: Progress = silent,
        refine_mode: str | None = None,
        sample_pixels: int | None = None,
        threshold: float | None = None,
    ) -> Prediction:
        """Alpha and foreground of an image [1, 3, H, W]; background: the scene without its subject, in the same shape.

        downsample_ratio: 1 runs the base network at full size, without the refiner; up to 0.5 the base network runs at
        this share of the size and the refiner at full size, on the picture padded to multiples of 4. refine_mode,
        sample_pixels, threshold: as in the constructor, by default the network's own. The prediction's detail
        ``refined`` is the share of the patches that the refiner computed.

        Raises InputError where the background is missing or has another size, for a trimap and for refinement that
        cannot be; SizeError for a picture that is too small and for a ratio that does not fit.
        """
        if trimap is not None:
            raise InputError(f"{self.name} takes no trimap: leave it out")
        if background is None:
            raise self._missing_background()
        height, width = image.shape[2], image.shape[3]
        if background.shape != image.shape:
            raise InputError(
                f"the background has {background.shape[2]}x{background.shape[3]} pixels and the image "
                f"{height}x{width}: give the same scene without its subject, taken and cropped like the image"
            )
        options = {"refine_mode": refine_mode, "sample_pixels": sample_pixels, "threshold": threshold}
        given = [name for name, value in options.items() if value is not None]
        if downsample_ratio == 1:
            self._check_frame(height, width, 1)
            if given:
                raise InputError(
                    f"{given[0]} is for the refiner, which does not run at downsample ratio 1: give for example 0.25"
                )
            details = {"refined": 0.0} if "full" in self.modes else {}
            alpha, foreground, *_ = self.run("matting", image, background)
            return Prediction(alpha, foreground, details=details)
        settings = self._refinement(options)
        src, bgr = pad_to_multiple(image, SIDE), pad_to_multiple(background, SIDE)
        self._check_frame(src.shape[2], src.shape[3], downsample_ratio)
        outputs = self.run(settings["refine_mode"], src, bgr, downsample_ratio, *self._choice(settings))
        alpha, foreground = (output[..., :height, :width] for output in outputs[:2])
        sampled = settings["sample_pixels"] if settings["refine_mode"] == "sampling" else 0
        notes = _notes_on_sampling(sampled, height * width)
        # Meta tensors, with which memory is estimated, have no values.
        details = {} if outputs[5].is_meta else {"refined": round(float(outputs[5].mean()), 4)}
        seen = (Window(0, 0, src.shape[2], src.shape[3]),)
        return Prediction(alpha, foreground, notes=notes, details=details, windows=seen)

    def _missing_background(self) -> InputError:
        return InputError(
            f"the background is missing: {self.name} needs a picture of the same scene without its subject"
        )

    def _check_frame(self, height: int, width: int, downsample_ratio: float) -> None:
        self.check_size(height, width)
        if downsample_ratio == 1:
            return
        if "full" not in self.modes:
            raise SizeError(f"this {self.name} has no refiner: leave the downsample ratio {downsample_ratio} out")
        _check_ratio(downsample_ratio)
        if height % SIDE or width % SIDE:
            up = f"{-(-height // SIDE) * SIDE}x{-(-width // SIDE) * SIDE}"
            raise SizeError(
                f"size {height}x{width} does not fit {self.name}'s refiner: "
                f"height and width must be multiples of {SIDE}, for example {up}"
            )
        small = reduced_size(height, width, downsample_ratio, math.floor)
        if min(small) < self.min_size:
            raise SizeError(
                f"size {height}x{width} at downsample ratio {downsample_ratio} leaves {small[0]}x{small[1]} pixels, "
                f"too few for {self.name}: at least {self.min_size} each way"
            )


def without_subject(image: Tensor) -> Tensor:
    """An image [N, 3, H, W] whose middle, where a portrait has its subject, has the image's mean colour."""
    subject = torch.from_numpy(portrait_trimap(image.shape[2], image.shape[3]).regions > 0).to(image.device)
    return torch.where(subject, image.mean((2, 3), keepdim=True), image)


def _notes_on_sampling(sampled: int, pixels: int) -> tuple[str, ...]:
    """Whether more pixels are refined than there are. A patch by itself is five times its share of mode ``full``."""
    if sampled <= pixels:
        return ()
    return (
        f"sample_pixels is {sampled} of {pixels} pixels: every patch could be refined, for about five times the "
        "refiner's work in mode full: choose refine_mode=full or fewer pixels",
    )


def _check_ratio(ratio: float) -> None:
    if not 0 < ratio <= LARGEST_RATIO:
        raise SizeError(
            f"BGMv2's refiner takes a downsample ratio above 0 and at most {LARGEST_RATIO}, not {ratio}: "
            "give for example 0.25"
        )


def _check_refinement(refine_mode: str, sample_pixels: int, threshold: float) -> None:
    if refine_mode not in REFINE_MODES:
        raise UnknownNameError("refine mode of BGMv2", refine_mode, REFINE_MODES)
    if sample_pixels < PIXELS:
        raise InputError(
            f"sample_pixels is {sample_pixels}, less than one patch of {PIXELS}: give more, or leave the downsample "
            "ratio out to run without the refiner"
        )
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold is {threshold}: give an expected error from 0 to 1, the official code takes 0.1")


def _recognise(variant: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any] | None:
    """Constructor arguments where most of BGMv2's landmarks are there, so that a damaged file is still recognised."""
    mobile = variant == "mobilenetv2"
    first = ("backbone.features.0.0", (32, 6, 3, 3)) if mobile else ("backbone.conv1", (64, 6, 7, 7))
    landmarks = {
        f"{first[0]}.weight": first[1],
        "aspp.convs.1.0.weight": (256, 320 if mobile else 2048, 3, 3),
        "decoder.conv1.weight": (128, 288 if mobile else 768, 3, 3),
        "decoder.conv4.weight": (37, 54, 3, 3),
    }
    found = sum(shapes.get(key) == shape for key, shape in landmarks.items())
    deep = "backbone.layer3.22.conv1.weight" in shapes
    if found <= len(landmarks) // 2 or (not mobile and deep != (variant == "resnet101")):
        return None
    return {"variant": variant, "refiner": any(key.startswith("refiner.") for key in shapes)}


SPECS: tuple[NetworkSpec, ...] = tuple(
    NetworkSpec(
        name=f"bgmv2_{variant}",
        task="matting of a subject before a known background",
        inputs="image and background in [0, 1], one size; with the refiner multiples of 4, and a downsample ratio",
        paper="Real-Time High-Resolution Background Matting, CVPR 2021, arXiv 2012.07810",
        build=BGMv2,
        recognise=partial(_recognise, variant),
        config={"variant": variant},
        layouts=("official, with its refiner (MattingRefine)", "official base network (MattingBase)"),
        example_size=(288, 512),
    )
    for variant in _VARIANTS
)
