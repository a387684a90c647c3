"""Small networks that together use every operator that the faults strike, with weights that are the same every time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import binmat
from binmat.model_defs.network import Example
from binmat.nn import RPReLU
from binmat.nn.binary_layer import BinaryLayer
from binmat.pipeline.deployment import Deployment, deploy

#: Height and width of their images.
SIZE = (24, 40)


class Video(nn.Module):
    """Two states of one shape and two outputs of one shape, so that no shape tells them apart; binary layers between.

    src [1, 3, 24, 40], slow and fast [1, 8, 12, 20] -> alpha and edges [1, 1, 24, 40], slow, fast.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.keep = nn.Conv2d(16, 8, 1)
        self.body = nn.Conv2d(8, 16, 3, padding=1)
        self.body_norm = nn.BatchNorm2d(16)
        self.mix = nn.Conv2d(16, 8, 1)
        self.alpha = nn.Conv2d(8, 1, 1)
        self.edges = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, src: Tensor, slow: Tensor, fast: Tensor) -> tuple[Tensor, ...]:
        x = F.relu(self.norm(self.stem(src)))
        slow = 0.75 * slow + 0.25 * torch.tanh(self.keep(torch.cat([x, fast], 1)))
        y = self.mix(F.relu(self.body_norm(self.body(x + slow))))
        fast = x - slow
        y = F.interpolate(y, scale_factor=2.0, mode="bilinear", align_corners=False)
        return torch.sigmoid(self.alpha(y)), self.edges(y).clamp(0, 1), slow, fast


class Bits(nn.Module):
    """Binary convolutions whose result is bits, and such whose result is floats. [1, 3, 24, 40] -> [1, 2, 12, 20]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 40, 3, padding=1)
        self.first = nn.Conv2d(40, 48, 3, stride=2, padding=1)
        self.first_norm = nn.BatchNorm2d(48)
        self.second = nn.Conv2d(48, 32, 3, padding=2, dilation=2)
        self.second_norm = nn.BatchNorm2d(32)
        self.deep = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.deep_norm = nn.BatchNorm2d(32)
        self.last = nn.Conv2d(32, 16, 1, bias=False)
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first_norm(self.first(self.stem(x)))
        x = F.relu(self.second_norm(self.second(x)))
        return self.head(self.last(self.deep_norm(self.deep(x))))


class Ties(nn.Module):
    """Sums that are exactly zero, on the threshold of the next layer. [1, 3, 24, 40] -> [1, 2, 24, 40]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.first = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.second = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(self.stem(x))))


class Float(nn.Module):
    """Float convolutions, pooling, resizing and activation functions. [1, 3, 24, 40] -> [1, 4, 24, 40], [1, 6]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, stride=2, padding=1)
        self.depth = nn.Conv2d(12, 12, 3, padding=2, dilation=2, groups=12)
        self.grouped = nn.Conv2d(12, 12, (1, 3), padding=(0, 1), groups=3)
        self.up = nn.ConvTranspose2d(12, 6, 2, stride=2)
        self.prelu = nn.PReLU(6, init=0.2)
        self.norm = nn.GroupNorm(3, 12)
        self.head = nn.Conv2d(18, 4, 3, padding=1)
        self.linear = nn.Linear(12, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = F.relu6(self.stem(x))
        z = F.hardswish(self.depth(y)) + F.leaky_relu(self.grouped(y), 0.1)
        z = self.norm(z)
        z = z * 0.5 + F.relu(z)
        small = F.avg_pool2d(z, 3, 2, 1, ceil_mode=True, count_include_pad=False)
        small = F.silu(F.max_pool2d(small, 2, 2, ceil_mode=True)) - 0.25
        near = F.interpolate(small, (24, 40), mode="nearest")
        small = F.interpolate(small, z.shape[2:], mode="bilinear", align_corners=False)
        z = z / (1 + z.abs())
        wide = F.interpolate(F.elu(z - small), scale_factor=2.0, mode="bilinear", align_corners=True)
        both = torch.cat([self.prelu(self.up(z)), wide.minimum(near)], 1)
        pixels = torch.softmax(self.head(F.pad(both, (2, -1, 0, 1), value=0.5)[:, :, 1:, 1:]), 1)
        return pixels, self.linear(z.mean((2, 3))).clamp(-1, 1)


class Tokens(nn.Module):
    """Linear layers, layer norm and attention; a reshape of a sum that is read again. [1, 3, 24, 40] -> [1, 16, 16].

    As many tokens as channels, so that no shape tells a matrix from its transpose.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, (6, 10), stride=(6, 10))
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.hidden = nn.Linear(16, 16)
        self.place = nn.Parameter(torch.randn(1, 16, 4, 4) * 0.1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.patches(x) + self.place
        tripled = h.reshape(1, 16, 16) * 3
        kept = h + tripled.reshape(h.shape)
        x = self.norm(kept.flatten(2).transpose(1, 2))
        query, key, value = self.qkv(x).split(16, -1)
        attention = (query @ key.transpose(1, 2) * 0.25).softmax(-1)
        x = x + attention @ value
        x = x + F.gelu(self.hidden(x))
        return x, torch.stack([kept.amax((2, 3)), kept.amin((2, 3)), x.mean(1)], 1)


@dataclass(frozen=True)
class Subject:
    """A network to strike. scheme: None leaves it float. settings: of the recipe.

    example: its call, where that is other than one image. factory: what :func:`binmat.load` builds it with.
    """

    build: Callable[[], nn.Module]
    scheme: str | None = None
    settings: tuple[str, ...] = ()
    example: Example | None = None
    factory: str | None = None

    def network(self) -> nn.Module:
        """The network in evaluation mode, converted where it has a scheme. Nothing in it is zero or one by default."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = self.build().eval()
            for layer in network.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.running_mean.uniform_(-0.2, 0.2)
                    layer.running_var.uniform_(0.5, 1.5)
                if isinstance(layer, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
                    nn.init.uniform_(layer.weight, -1.0, 1.0)
                    nn.init.uniform_(layer.bias, -0.3, 0.3)
            if self.scheme is None:
                return network
            size = None if self.example else SIZE
            network = binmat.convert(
                network, self.scheme, settings=self.settings, size=size, example=self.example
            ).eval()
            for layer in network.modules():
                if isinstance(layer, BinaryLayer) and layer.threshold is not None:
                    nn.init.uniform_(layer.threshold, -0.2, 0.2)
                if isinstance(layer, RPReLU):
                    for values in layer.parameters():
                        nn.init.uniform_(values, -0.3, 0.3)
        return network

    def deploy(self, network: nn.Module) -> Deployment:
        return deploy(network, None if self.example else SIZE, example=self.example)


VIDEO = Example(
    "forward",
    {"src": torch.zeros(1, 3, *SIZE), "slow": torch.zeros(1, 8, 12, 20), "fast": torch.zeros(1, 8, 12, 20)},
    ("alpha", "edges", "slow", "fast"),
)


def video() -> tuple[nn.Module, Example]:
    """What builds the network of a converted folder again."""
    return Video(), VIDEO


SUBJECTS: dict[str, Subject] = {
    "video": Subject(Video, "reactnet", example=VIDEO, factory="mutants.networks:video"),
    "bits": Subject(Bits, "reactnet", ("padding=one",)),
    "zeros": Subject(Bits, "bnn"),
    "dorefa": Subject(Bits, "dorefa"),
    "ties": Subject(Ties, "bnn", ("padding=one",)),
    "float": Subject(Float),
    "tokens": Subject(Tokens),
}
