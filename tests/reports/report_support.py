"""What the tests of reports share: networks whose counts can be worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from binmat.model_defs.network import Example
from binmat.reports import Count, count


class Wrapped(nn.Module):
    """Layers and the function that calls them."""

    def __init__(self, forward: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.function = forward

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def example(*shape: int) -> Example:
    """A call with one tensor and one output."""
    return Example("forward", {"x": torch.zeros(shape)}, ("y",))


def counted(network: nn.Module, *shape: int, convention: str = "textbook") -> Count:
    return count(network, convention, example=example(*shape))


def costs(network: nn.Module, *shape: int) -> dict[str, tuple[float, float]]:
    """Operations per layer in both conventions, without those that are free in both."""
    textbook = counted(network, *shape).costs
    bimatting = counted(network, *shape, convention="bimatting").costs
    both = {name: (textbook[name].ops, bimatting[name].ops) for name in textbook}
    return {name: pair for name, pair in both.items() if pair != (0, 0)}
