"""Networks that binmat did not write: of torchvision, timm and segmentation-models-pytorch, with random weights.

A library is imported when the first of its networks is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ForeignNetwork:
    """One network of a library.

    label: its name in the table. factory: what the library calls it, by default the label; options: for the factory.
    size: (height, width) of its input. inputs: names of its arguments where it takes other than one image.
    """

    package: str
    label: str
    factory: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    size: tuple[int, int] = (64, 96)
    inputs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.package}.{self.label}"

    def build(self) -> nn.Module:
        """The network in evaluation mode. Its random weights are the same every time."""
        torch.manual_seed(0)
        factory = self.factory or self.label
        from foreign import torchvision_operators  # noqa: F401 - comes before torchvision, which all three import

        if self.package == "timm":
            import timm

            return timm.create_model(factory, **self.options).eval()
        if self.package == "torchvision":
            import torchvision

            return torchvision.models.get_model(factory, weights=None, **self.options).eval()
        import segmentation_models_pytorch as smp

        options = {"encoder_name": "resnet18", "encoder_weights": None} | dict(self.options)
        return getattr(smp, factory)(**options).eval()

    def images(self) -> tuple[Tensor, ...]:
        """What to call it with: one random image [1, 3, H, W] in [0, 1] for each argument."""
        generator = torch.Generator().manual_seed(1)
        return tuple(torch.rand(1, 3, *self.size, generator=generator) for _ in self.inputs or ("image",))


def _by_name(*networks: ForeignNetwork) -> dict[str, ForeignNetwork]:
    return {network.name: network for network in networks}


#: The networks of issue 9's list, in its order.
NETWORKS = _by_name(
    ForeignNetwork("torchvision", "mobilenet_v2"),
    ForeignNetwork("torchvision", "efficientnet_b0"),
    ForeignNetwork("torchvision", "densenet121"),
    ForeignNetwork("torchvision", "shufflenet_v2_x0_5"),
    ForeignNetwork("torchvision", "regnet_y_400mf"),
    ForeignNetwork("torchvision", "convnext_tiny"),
    ForeignNetwork("torchvision", "googlenet", options={"init_weights": False}),
    ForeignNetwork("torchvision", "inception_v3", options={"init_weights": False}, size=(96, 96)),
    ForeignNetwork("torchvision", "mnasnet0_5"),
    ForeignNetwork("torchvision", "resnext50_32x4d"),
    ForeignNetwork("torchvision", "vgg11_bn"),
    ForeignNetwork("torchvision", "alexnet"),
    ForeignNetwork("torchvision", "fcn_resnet50", options={"weights_backbone": None}),
    ForeignNetwork("torchvision", "vit_b_16", options={"image_size": 64}, size=(64, 64)),
    ForeignNetwork("torchvision", "swin_t", size=(64, 64)),
    ForeignNetwork("torchvision", "swin_v2_t", size=(64, 64)),
    ForeignNetwork("torchvision", "raft_small", size=(128, 128), inputs=("image1", "image2")),
    ForeignNetwork("timm", "resnet18"),
    ForeignNetwork("timm", "efficientnet_lite0"),
    ForeignNetwork("timm", "repvgg_a0"),
    ForeignNetwork("timm", "hrnet_w18_small"),
    ForeignNetwork("timm", "mixnet_s"),
    ForeignNetwork("timm", "tf_efficientnet_lite0"),
    ForeignNetwork("timm", "resnetv2_50x1_bit"),
    ForeignNetwork("timm", "resnet18d"),
    ForeignNetwork("timm", "mobilenetv4_conv_small"),
    ForeignNetwork("timm", "efficientvit_b0"),
    ForeignNetwork("timm", "fastvit_t8"),
    ForeignNetwork("timm", "convnextv2_atto"),
    ForeignNetwork("timm", "levit_128s", options={"img_size": (64, 64)}, size=(64, 64)),
    ForeignNetwork("timm", "poolformer_s12"),
    ForeignNetwork("timm", "nfnet_l0", size=(64, 64)),
    ForeignNetwork("timm", "mobileone_s0"),
    ForeignNetwork("timm", "ghostnetv2_100"),
    ForeignNetwork("timm", "regnety_002"),
    ForeignNetwork("timm", "ese_vovnet19b_dw"),
    ForeignNetwork("timm", "dla34"),
    ForeignNetwork("timm", "selecsls42b"),
    ForeignNetwork("timm", "pvt_v2_b0"),
    ForeignNetwork("timm", "starnet_s1"),
    ForeignNetwork("timm", "mobilevitv2_050"),
    ForeignNetwork("timm", "mixer_s32", "mixer_s32_224", size=(224, 224)),
    ForeignNetwork("timm", "deit_tiny", "deit_tiny_patch16_224", {"img_size": 64}, (64, 64)),
    ForeignNetwork("timm", "swin_tiny_224", "swin_tiny_patch4_window7_224", size=(224, 224)),
    ForeignNetwork("timm", "resnet18_feat", "resnet18", {"features_only": True}),
    ForeignNetwork("smp", "FPN"),
    ForeignNetwork("smp", "PAN", size=(128, 128)),
    ForeignNetwork("smp", "UnetPlusPlus"),
    ForeignNetwork("smp", "MAnet"),
    ForeignNetwork("smp", "PSPNet"),
    ForeignNetwork("smp", "DeepLabV3"),
    ForeignNetwork("smp", "Unet_mobilenet_v2", "Unet", {"encoder_name": "mobilenet_v2"}),
    ForeignNetwork("smp", "Unet_scse", "Unet", {"decoder_attention_type": "scse"}),
    ForeignNetwork("smp", "Unet_timm", "Unet", {"encoder_name": "tu-mobilenetv3_small_100"}),
    ForeignNetwork("smp", "Unet_aux", "Unet", {"aux_params": {"classes": 2}}),
)

#: Networks beside the list.
OTHERS = _by_name(
    ForeignNetwork("torchvision", "deeplabv3_mobilenet_v3_large", options={"weights_backbone": None}),
    ForeignNetwork("torchvision", "lraspp_mobilenet_v3_large", options={"weights_backbone": None}),
    ForeignNetwork("torchvision", "maxvit_t", size=(224, 224)),
    ForeignNetwork("torchvision", "squeezenet1_1"),
    ForeignNetwork("timm", "mobilenetv3_small_100"),
    ForeignNetwork("timm", "edgenext_xx_small"),
    ForeignNetwork("timm", "xcit_nano_12_p16", "xcit_nano_12_p16_224", size=(64, 64)),
    ForeignNetwork("timm", "cait_xxs24", "cait_xxs24_224", {"img_size": 64}, (64, 64)),
    ForeignNetwork("timm", "coat_lite_tiny", options={"img_size": 64}, size=(64, 64)),
    ForeignNetwork("timm", "resnest14d"),
    ForeignNetwork("timm", "repghostnet_050"),
    ForeignNetwork("timm", "vit_tiny_feat", "vit_tiny_patch16_224", {"img_size": 64, "features_only": True}, (64, 64)),
    ForeignNetwork("smp", "Linknet"),
    ForeignNetwork("smp", "DeepLabV3Plus"),
    ForeignNetwork("smp", "Segformer"),
    ForeignNetwork("smp", "Segformer_mit", "Segformer", {"encoder_name": "mit_b0"}),
    ForeignNetwork("smp", "UPerNet"),
    ForeignNetwork("smp", "DPT", options={"encoder_name": "tu-vit_tiny_patch16_224"}, size=(224, 224)),
)
