"""PAM's architecture (Liu et al., AAAI 2025): its layers, the parts that all paths share and each stage's branches."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from binmat.errors import InputError
from binmat.nn.conv_norm import conv_norm_relu

from .network import Example
from .pam_blocks import (
    CONSTRAINT_FEATURES,
    AdaptiveStage,
    DepthwiseModule,
    PyramidPooling,
    ResidualBlock,
)
from .pam_paths import PATHS, SELECTIONS, WHOLE, ConvolutionCounter, check_path
from .trimap_network import TrimapNetwork

#: Channels of the features at 1/1 (decoder only) to 1/32 of the input's size.
CHANNELS = {1: 16, 2: 32, 4: 64, 8: 128, 16: 160, 32: 256}

#: The stages that a path may bypass, in the order of execution: (level, number of depthwise convolution modules).
STAGES = ((8, 3), (16, 6), (32, 3), (8, 3))

#: The constraints that have an embedding: every whole G between the cheapest and the dearest path at REFERENCE_SIZE.
CONSTRAINTS = range(57, 77)

#: The parts that all paths share, in the order of execution, and what they return.
_OUTPUTS: Mapping[str, tuple[str, ...]] = {
    "encode_8": ("features", "semantics", "f2", "f4"),
    "encode_16": ("features", "semantics"),
    "encode_32": ("features", "semantics"),
    "decode_8": ("features", "semantics"),
    "decode_1": ("alpha",),
}


def _branch(stage: int, bit: str) -> Callable[[PathNetwork, Tensor], Tensor]:
    def through(self: PathNetwork, x: Tensor) -> Tensor:
        return self.stage(stage).branch(bit)(x)

    return through


def _estimate(stage: int) -> Callable[[PathNetwork, Tensor, Tensor], Tensor]:
    def estimate(self: PathNetwork, semantics: Tensor, constraint: Tensor) -> Tensor:
        return self.stage(stage).estimator(semantics, constraint)

    return estimate


class PathNetwork(TrimapNetwork):
    """All paths, or one path as a static network; :class:`binmat.model_defs.pam.PAM` chooses among them.

    path: four bits for a static network with only that path's layers and ``matting`` as its only mode. Without it
    every layer is there: the mode ``matting`` is path 1111, the other modes are the five parts that all paths share,
    and of each stage the estimate and the two branches.
    """

    name = "pam"
    modes: ClassVar[Mapping[str, str]] = {"matting": "matting"}
    min_size = 32
    size_multiple = 32
    example_channels: ClassVar[Mapping[str, int]] = {"image": 3, "trimap": 3}
    float_layers: Mapping[str, str] = {
        "level2.0.0": "input layer: it reads the image and the trimap",
        "up1.0.0": "it reads the image and the trimap beside the features",
        "matte": "output layer: it makes the matte",
        "stages.*.attention.*": "channel attention on 1x1 maps: nothing to gain, and paths are estimated from it",
        "stages.*.estimator.*": "path estimate: a few thousand multiply-accumulates that decide the path",
    }

    def __init__(self, path: str | None = None) -> None:
        super().__init__(path=path)
        self.fixed = None if path is None else check_path(path)
        c = CHANNELS
        self.level2 = nn.Sequential(conv_norm_relu(6, c[2], stride=2), ResidualBlock(c[2]), ResidualBlock(c[2]))
        self.level4 = nn.Sequential(conv_norm_relu(c[2], c[4], stride=2), ResidualBlock(c[4]), ResidualBlock(c[4]))
        self.level8 = conv_norm_relu(c[4], c[8], stride=2)
        self.level16 = nn.Sequential(conv_norm_relu(c[8], c[16], stride=2), DepthwiseModule(c[16]))
        self.level32 = nn.Sequential(
            conv_norm_relu(c[16], c[32], stride=2), DepthwiseModule(c[32]), DepthwiseModule(c[32])
        )
        self.pooling = nn.Sequential(PyramidPooling(c[32]), PyramidPooling(c[32]))
        self.upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.up16 = nn.Sequential(
            conv_norm_relu(c[32] + c[16], c[16], kernel_size=1), DepthwiseModule(c[16]), DepthwiseModule(c[16])
        )
        self.up8 = conv_norm_relu(c[16] + c[8], c[8], kernel_size=1)
        self.up4 = nn.Sequential(conv_norm_relu(c[8] + c[4], c[4]), conv_norm_relu(c[4], c[4]))
        self.up2 = nn.Sequential(conv_norm_relu(c[4] + c[2], c[2]), conv_norm_relu(c[2], c[2]))
        self.up1 = nn.Sequential(conv_norm_relu(c[2] + 6, c[1]), conv_norm_relu(c[1], c[1]))
        self.matte = nn.Conv2d(c[1], 1, 3, padding=1)
        self.sigmoid = nn.Sigmoid()
        bits = path or (None,) * SELECTIONS
        self.stages = nn.ModuleList(
            AdaptiveStage(CHANNELS[level], depth, bit) for (level, depth), bit in zip(STAGES, bits, strict=True)
        )
        if path is None:
            self.constraint_embedding = nn.Embedding(len(CONSTRAINTS), CONSTRAINT_FEATURES)
            kinds = ("estimate", "connect", "layers")
            choices = tuple(f"{kind}_{stage}" for stage in range(1, SELECTIONS + 1) for kind in kinds)
            self.modes = {mode: mode for mode in ("matting", *_OUTPUTS, *choices)}  # type: ignore[misc]
        self.apply(_initialise)

    def matting(self, image: Tensor, trimap: Tensor) -> Tensor:
        """The mode of the static network and of the whole one, traceable: alpha [N, 1, H, W] in [0, 1]."""
        path = self.fixed or WHOLE
        return self.walk(
            image,
            trimap,
            lambda part, *args: getattr(self, part)(*args),
            lambda stage, x, _: self.stage(stage).branch(path[stage])(x),
        )

    def encode_8(self, image: Tensor, trimap: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """From the input to the first selection: features at 1/8, their semantics, and the features at 1/2 and 1/4."""
        f2 = self.level2(torch.cat((image, trimap), 1))
        f4 = self.level4(f2)
        x, semantics = self.stage(0).attention(self.level8(f4))
        return x, semantics, f2, f4

    def encode_16(self, f8: Tensor) -> tuple[Tensor, Tensor]:
        """From the first stage to the second selection: features at 1/16 and their semantics."""
        return self.stage(1).attention(self.level16(f8))

    def encode_32(self, f16: Tensor) -> tuple[Tensor, Tensor]:
        """From the second stage to the third selection: features at 1/32 and their semantics."""
        return self.stage(2).attention(self.level32(f16))

    def decode_8(self, f32: Tensor, f16: Tensor, f8: Tensor) -> tuple[Tensor, Tensor]:
        """From the third stage, by pyramid pooling, to the fourth selection: features at 1/8 and their semantics."""
        x = self.pooling(f32)
        x = self.up16(torch.cat((self.upsample(x), f16), 1))
        x = self.up8(torch.cat((self.upsample(x), f8), 1))
        return self.stage(3).attention(x)

    def decode_1(self, x: Tensor, f4: Tensor, f2: Tensor, image: Tensor, trimap: Tensor) -> Tensor:
        """From the fourth stage to the output: alpha."""
        x = self.up4(torch.cat((self.upsample(x), f4), 1))
        x = self.up2(torch.cat((self.upsample(x), f2), 1))
        x = self.up1(torch.cat((self.upsample(x), image, trimap), 1))
        return self.sigmoid(self.matte(x))

    estimate_1, estimate_2, estimate_3, estimate_4 = map(_estimate, range(SELECTIONS))
    connect_1, layers_1 = _branch(0, "0"), _branch(0, "1")
    connect_2, layers_2 = _branch(1, "0"), _branch(1, "1")
    connect_3, layers_3 = _branch(2, "0"), _branch(2, "1")
    connect_4, layers_4 = _branch(3, "0"), _branch(3, "1")

    def walk(
        self,
        image: Tensor,
        trimap: Tensor,
        part: Callable[..., Any],
        pass_stage: Callable[[int, Tensor, Tensor], Tensor],
    ) -> Tensor:
        """The order of execution.

        part: runs a shared part by name; pass_stage: (stage, features, semantics) -> features.
        """
        x, semantics, f2, f4 = part("encode_8", image, trimap)
        f8 = pass_stage(0, x, semantics)
        x, semantics = part("encode_16", f8)
        f16 = pass_stage(1, x, semantics)
        x, semantics = part("encode_32", f16)
        f32 = pass_stage(2, x, semantics)
        x, semantics = part("decode_8", f32, f16, f8)
        x = pass_stage(3, x, semantics)
        return part("decode_1", x, f4, f2, image, trimap)

    def stage(self, index: int) -> AdaptiveStage:
        return cast(AdaptiveStage, self.stages[index])

    def run_branch(self, stage: int, bit: str, x: Tensor) -> Tensor:
        return self.run(f"{'layers' if bit == '1' else 'connect'}_{stage + 1}", x)

    def run_estimate(self, stage: int, semantics: Tensor, constraint: Tensor) -> Tensor:
        """Q^e [N, 2] of a stage (Eq. 3), of the semantics in front of it and the cost constraint feature."""
        return self.run(f"estimate_{stage + 1}", semantics, constraint)

    def part_examples(self, image: Tensor, trimap: Tensor) -> dict[str, Example]:
        """Every mode but ``matting`` -> an example of its inputs, to export and verify the parts one by one.

        image [1, 3, H, W] and trimap [1, 3, H, W] are the network's inputs; a part's are what :meth:`walk` hands it for
        them where all layers run. Raises SizeError for a size that does not fit, InputError for a static network,
        which has no parts.
        """
        self.check_size(image.shape[2], image.shape[3])
        if self.fixed is not None:
            raise InputError(f"this network is pam's path {self.fixed} alone: its parts are those of the whole network")
        examples: dict[str, Example] = {}

        def example(mode: str, outputs: tuple[str, ...], *args: Tensor) -> None:
            _, *names = inspect.signature(getattr(type(self), mode)).parameters
            examples[mode] = Example(mode, dict(zip(names, args, strict=True)), outputs)

        def part(mode: str, *args: Tensor) -> Any:
            example(mode, _OUTPUTS[mode], *args)
            return self.run(mode, *args)

        def pass_stage(stage: int, x: Tensor, semantics: Tensor) -> Tensor:
            example(f"estimate_{stage + 1}", ("preference",), semantics, self.constraint_embedding.weight[:1].detach())
            example(f"connect_{stage + 1}", ("features",), x)
            example(f"layers_{stage + 1}", ("features",), x)
            return self.run_branch(stage, "1", x)

        with torch.no_grad():
            self.walk(image, trimap, part, pass_stage)
        return examples


@lru_cache(maxsize=64)
def path_costs(height: int, width: int) -> Mapping[str, int]:
    """The cost of every path for one image of this size: path -> multiply-accumulates of its convolutions.

    binmat's ``textbook`` convention, one multiply-accumulate is one FLOP, on the path as a static network (which has
    no path estimator). Counted by running the network on meta tensors, which hold shapes and no values. Binarization
    does not change it: a path's cost is that of its architecture.
    """
    branch_macs: list[list[int]] = []
    with torch.device("meta"):
        network = PathNetwork().eval()
        image, trimap = torch.empty(1, 3, height, width), torch.empty(1, 3, height, width)
    with torch.no_grad(), ConvolutionCounter() as counter:

        def pass_stage(stage: int, x: Tensor, _: Tensor) -> Tensor:
            macs = []
            for bit in "01":
                before = counter.macs
                y = network.run_branch(stage, bit, x)
                macs.append(counter.macs - before)
            branch_macs.append(macs)
            return y

        network.walk(image, trimap, network.run, pass_stage)
    trunk = counter.macs - sum(sum(macs) for macs in branch_macs)
    return MappingProxyType(
        {path: trunk + sum(macs[int(bit)] for bit, macs in zip(path, branch_macs, strict=True)) for path in PATHS}
    )


def _initialise(module: nn.Module) -> None:
    """Kaiming initialisation of all weights, as the paper's implementation details say."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
