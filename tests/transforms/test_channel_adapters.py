from __future__ import annotations

import pytest
import torch
from torch import nn

from binmat.errors import PolicyError
from binmat.transforms.channel_adapters import CHANNEL_ADAPTERS, ChannelAdapter, adapted


class Gain(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels


class SpecialLinear(nn.Linear):
    """A subclass goes by its base."""


def test_layers_are_made_anew_where_channels_changed():
    x = torch.rand(2, 6, 5, 5)
    depthwise, change = adapted(nn.Conv2d(4, 8, 3, groups=4, bias=False, dtype=torch.float64), x)
    assert (depthwise.in_channels, depthwise.out_channels, depthwise.groups, depthwise.bias) == (6, 12, 6, None)
    assert depthwise.weight.dtype == torch.float64
    assert change == "reads 6 channels instead of 4"
    assert adapted(SpecialLinear(4, 3), torch.rand(2, 6))[1] == "reads 6 features instead of 4"
    norm, change = adapted(nn.BatchNorm2d(4, eps=0.1, affine=False), x)
    assert (norm.num_features, norm.eps, norm.affine, change) == (6, 0.1, False, "normalises 6 channels instead of 4")


def test_what_fits_or_has_no_channels_stays():
    x = torch.rand(2, 6, 5, 5)
    assert adapted(nn.Conv2d(6, 8, 3), x) is None
    assert adapted(nn.ReLU(), x) is None
    with pytest.raises(PolicyError, match="2 groups cannot read 6 channels in place of 4"):
        adapted(nn.Conv2d(4, 8, 3, groups=2), x)


def test_a_layer_type_of_ones_own(monkeypatch):
    gain = ChannelAdapter("channels", 1, lambda layer, channels: Gain(channels), "scales {new}, not {old}")
    assert adapted(Gain(4), torch.rand(2, 6)) is None
    monkeypatch.setitem(CHANNEL_ADAPTERS, Gain, gain)
    made, change = adapted(Gain(4), torch.rand(2, 6))
    assert (made.channels, change) == (6, "scales 6, not 4")
