"""The call of a module that says nothing of its inputs: one image with the channels of its first layer."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn


def example_image(module: nn.Module, size: tuple[int, int]) -> dict[str, Any]:
    """Parameter name of ``forward`` -> random values in [0, 1], for every parameter without a default.

    The shape is what the module's first layer takes: [1, C, H, W] for a 2-D convolution (and where no layer tells,
    with 3 channels), [1, C, W] and [1, C, 8, H, W] for 1-D and 3-D ones, [1, C] for a linear layer. size: (height,
    width). Dtype and device are those of the module's first parameter.

    >>> {name: list(value.shape) for name, value in example_image(nn.Conv2d(4, 8, 1), (6, 8)).items()}
    {'input': [1, 4, 6, 8]}
    """
    shape = _shape(module, size)
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    generator = torch.Generator().manual_seed(0)

    def image() -> Tensor:
        return torch.rand(shape, generator=generator).to(like)

    arguments: dict[str, Any] = {}
    for parameter in inspect.signature(module.forward).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            arguments |= {} if arguments else {parameter.name: (image(),)}
        elif parameter.kind is not parameter.VAR_KEYWORD and parameter.default is parameter.empty:
            arguments[parameter.name] = image()
    return arguments


def _shape(module: nn.Module, size: tuple[int, int]) -> tuple[int, ...]:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            break
        if isinstance(layer, nn.Conv1d):
            return 1, layer.in_channels, size[1]
        if isinstance(layer, nn.Conv3d):
            return 1, layer.in_channels, 8, *size
        if isinstance(layer, nn.Linear) and not any(isinstance(m, nn.Conv2d) for m in module.modules()):
            return 1, layer.in_features
    else:
        return 1, 3, *size
    return 1, layer.in_channels, *size
