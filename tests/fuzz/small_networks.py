"""The network that the fuzzed files hold, small so that it is built in a moment."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from binmat.model_defs.network import Network
from binmat.transforms.convert import convert
from binmat.transforms.trace import trace

FACTORY = "fuzz.small_networks:build"
SIZE = (8, 8)


def build() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 1)
    )


@cache
def plain() -> Network:
    """As a network that checkpoints are filled into."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return trace(build().eval(), SIZE)


@cache
def converted(scheme: str) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return convert(build().eval(), scheme, size=SIZE)
