"""DeepLabV3 (Chen et al., arXiv 1706.05587) on ResNet-101: a segmentation network beside which papers print theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binmat.errors import InputError
from binmat.nn import imagenet
from binmat.nn.conv_norm import conv_norm_relu
from binmat.progress import Progress, silent

from . import aspp
from .network import Network, NetworkSpec, Prediction
from .resizing import enlarge, reduced_size
from .resnet import ResNet

_RATES = (12, 24, 36)
_BLOCKS = (3, 4, 23, 3)
#: Of the 21 classes of PASCAL VOC.
CLASSES = 21
PERSON = 15
_AUX_CHANNELS = 1024
_DROPOUT = 0.1


class DeepLabV3(Network):
    """torchvision's deeplabv3_resnet101, under its key names.

    classes: 21 in its checkpoints, those of PASCAL VOC, of which 15 is a person. With one class the output is the logit
    of the subject. aux: whether there is the auxiliary head, which serves training alone; here no mode runs it.

    Mode ``matting``: x [N, 3, H, W], normalised by ImageNet's mean and standard deviation -> out [N, classes, H, W],
    logits.
    """

    name = "deeplabv3_resnet101"
    modes: ClassVar[Mapping[str, str]] = {"matting": "matting"}
    float_layers: Mapping[str, str] = {
        "backbone.conv1": "input layer: reads the image",
        "classifier.4": "output layer: predicts the classes",
        "aux_classifier.4": "output layer: predicts the classes",
    }
    #: Two cells of the coarsest features.
    min_size = 16
    example_channels: ClassVar[Mapping[str, int]] = {"x": 3}
    example_outputs = ("out",)

    def __init__(self, classes: int = CLASSES, aux: bool = False) -> None:
        super().__init__(classes=classes, aux=aux)
        self.backbone = ResNet(blocks=_BLOCKS, stride=8)
        self.classifier = nn.Sequential(
            aspp.ASPP(ResNet.channels[3], _RATES),
            *conv_norm_relu(aspp.CHANNELS, 256),
            nn.Conv2d(256, classes, kernel_size=1),
        )
        if aux:
            width = _AUX_CHANNELS // 4
            self.aux_classifier = nn.Sequential(
                *conv_norm_relu(_AUX_CHANNELS, width), nn.Dropout(_DROPOUT), nn.Conv2d(width, classes, kernel_size=1)
            )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """The official call in evaluation: {"out": logits}. Raises SizeError for an image that is too small."""
        self.check_size(x.shape[2], x.shape[3])
        return {"out": self.run("matting", x)}

    def matting(self, x: Tensor) -> Tensor:
        """Mode ``matting``."""
        logits = self.classifier(self.backbone(x)[3])
        return F.interpolate(logits, size=(x.shape[2], x.shape[3]), mode="bilinear", align_corners=False)

    def frame_inputs(self, image: Tensor) -> dict[str, Tensor]:
        mean, std = (image.new_tensor(values).view(3, 1, 1) for values in (imagenet.MEAN, imagenet.STD))
        return {"x": (image - mean) / std}

    def predict(
        self,
        image: Tensor,
        memory: None = None,
        *,
        trimap: Tensor | None = None,
        downsample_ratio: float = 1.0,
        progress: Progress = silent,
    ) -> Prediction:
        """The probability of a person, [1, 1, H, W], as alpha: a segmentation, not a matte of fine detail.

        downsample_ratio: the image is reduced to this share first, by area, and alpha enlarged bilinearly. Raises
        InputError for a trimap and for a network whose classes are not known, SizeError for a size or a ratio that the
        network does not take.
        """
        if trimap is not None:
            raise InputError(f"{self.name} takes no trimap: leave it out")
        classes = self.config["classes"]
        if classes not in (1, CLASSES):
            raise InputError(
                f"which of the {classes} classes is the subject is not known: matte with 1 class, or VOC's {CLASSES}"
            )
        full = (image.shape[2], image.shape[3])
        height, width = reduced_size(*full, downsample_ratio)
        self.check_size(height, width)
        small = image if (height, width) == full else F.interpolate(image, size=(height, width), mode="area")
        logits = self.run("matting", *self.frame_inputs(small).values())
        alpha = torch.sigmoid(logits) if classes == 1 else logits.softmax(1)[:, PERSON : PERSON + 1]
        return Prediction(alpha if (height, width) == full else enlarge(alpha, *full))


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any] | None:
    """Constructor arguments for a checkpoint's {key: shape}; None where it is another network's."""
    known = {"backbone.layer3.22.conv1.weight", "classifier.0.project.0.weight", "classifier.4.weight"}
    if not known <= shapes.keys():
        return None
    aux = any(key.startswith("aux_classifier.") for key in shapes)
    return {"classes": shapes["classifier.4.weight"][0], "aux": aux}


SPECS: tuple[NetworkSpec, ...] = (
    NetworkSpec(
        name="deeplabv3_resnet101",
        task="segmentation, for comparison with matting",
        inputs="[N, 3, H, W]: RGB normalised by ImageNet's mean and standard deviation, any size",
        paper="Chen et al., Rethinking Atrous Convolution for Semantic Image Segmentation, arXiv 1706.05587",
        build=DeepLabV3,
        recognise=recognise,
        layouts=("torchvision, with or without the auxiliary head",),
        example_size=(288, 512),
    ),
)
