"""Layers made anew for another number of input channels: a registry by layer type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from binmat.errors import PolicyError


@dataclass(frozen=True)
class ChannelAdapter:
    """How layers of one type take other input channels.

    attribute: holds the layer's number of channels. dim: the dimension of its input that has them.
    make: (layer, new channels) -> such a layer for them, with fresh weights; may raise PolicyError.
    change: what happened, in words with ``{new}`` and ``{old}``.
    """

    attribute: str
    dim: int
    make: Callable[[Any, int], nn.Module]
    change: str


def _conv2d(layer: nn.Conv2d, channels: int) -> nn.Module:
    old, groups, out = layer.in_channels, layer.groups, layer.out_channels
    if groups > 1:
        if groups != old or out % old:
            raise PolicyError(f"a convolution of {groups} groups cannot read {channels} channels in place of {old}")
        groups, out = channels, out // old * channels
    shape: dict[str, Any] = {
        name: getattr(layer, name) for name in ("kernel_size", "stride", "padding", "dilation", "padding_mode")
    }
    like, bias = layer.weight, layer.bias is not None
    return nn.Conv2d(channels, out, groups=groups, bias=bias, device=like.device, dtype=like.dtype, **shape)


def _linear(layer: nn.Linear, features: int) -> nn.Module:
    like = layer.weight
    return nn.Linear(features, layer.out_features, layer.bias is not None, device=like.device, dtype=like.dtype)


def _batch_norm2d(layer: nn.BatchNorm2d, channels: int) -> nn.Module:
    fresh = nn.BatchNorm2d(channels, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
    for like in (*layer.parameters(), *layer.buffers()):
        if like.is_floating_point():
            fresh.to(like.device, like.dtype)
    return fresh


#: Layer type -> how layers of it, and of its subclasses, take other channels. Add to it for layers of your own.
CHANNEL_ADAPTERS: dict[type[nn.Module], ChannelAdapter] = {
    nn.Conv2d: ChannelAdapter("in_channels", 1, _conv2d, "reads {new} channels instead of {old}"),
    nn.Linear: ChannelAdapter("in_features", -1, _linear, "reads {new} features instead of {old}"),
    nn.BatchNorm2d: ChannelAdapter("num_features", 1, _batch_norm2d, "normalises {new} channels instead of {old}"),
}


def adapted(layer: nn.Module, source: Tensor) -> tuple[nn.Module, str] | None:
    """The layer made anew for an input's channels, and what changed in words; None where the channels fit.

    Raises PolicyError where the layer cannot take them.

    >>> import torch
    >>> adapted(nn.Conv2d(8, 4, 3), torch.rand(1, 6, 5, 5))
    (Conv2d(6, 4, kernel_size=(3, 3), stride=(1, 1)), 'reads 6 channels instead of 8')
    """
    adapter = next((CHANNEL_ADAPTERS[kind] for kind in type(layer).__mro__ if kind in CHANNEL_ADAPTERS), None)
    if adapter is None:
        return None
    old, new = getattr(layer, adapter.attribute), source.shape[adapter.dim]
    return None if old == new else (adapter.make(layer, new), adapter.change.format(old=old, new=new))
