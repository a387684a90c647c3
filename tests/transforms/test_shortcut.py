from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from binmat.transforms.convert import convert


def network_of(*layers):
    return nn.Sequential(nn.Conv2d(3, 8, 1), *layers, nn.Conv2d(layers[0].out_channels, 1, 1)).eval()


def tails(module, settings=()):
    """Outputs of a converted three-layer network with and without shortcuts, before its last layer."""
    results = []
    for shortcut in ("none", "all"):
        network = convert(module, "bnn", settings=[f"shortcut={shortcut}", *settings]).eval()
        network.set_submodule(str(len(module) - 1), nn.Identity())
        results.append(network)
    return results


@given(
    size=st.tuples(st.integers(5, 12), st.integers(5, 12)),
    stride=st.sampled_from([1, 2]),
    doubles=st.booleans(),
    dilation=st.sampled_from([1, 2]),
)
@settings(max_examples=25)
def test_all_adds_the_input_pooled_and_doubled(size, stride, doubles, dilation):
    out = 16 if doubles else 8
    module = network_of(nn.Conv2d(8, out, 3, stride, dilation, dilation), nn.BatchNorm2d(out))
    plain, with_shortcut = tails(module)
    x = torch.randn(2, 3, *size)
    added = module[0](x)
    if stride == 2:
        added = F.avg_pool2d(added, 2, 2, ceil_mode=True, count_include_pad=False)
    if doubles:
        added = torch.cat([added, added], 1)
    torch.testing.assert_close(with_shortcut(x), plain(x) + added)


@pytest.mark.parametrize(
    "conv", [nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3, stride=3, padding=1)]
)
def test_convolutions_without_a_fitting_shortcut_get_none(conv):
    plain, with_shortcut = tails(network_of(conv))
    x = torch.randn(1, 3, 9, 9)
    assert torch.equal(plain(x), with_shortcut(x))


def test_same_leaves_stride_and_doubling_alone():
    module = network_of(nn.Conv2d(8, 16, 3, 2, 1))
    x = torch.randn(1, 3, 9, 9)
    assert torch.equal(convert(module, "bnn", settings=["shortcut=same"])(x), convert(module, "bnn")(x))


def test_a_shortcut_that_is_there_already_is_not_added_twice():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.conv, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 1, 1)

        def forward(self, x):
            x = self.first(x)
            return self.last(self.conv(x) + x)

    module, x = Residual().eval(), torch.randn(1, 3, 7, 7)
    assert torch.equal(convert(module, "bnn", settings=["shortcut=same"])(x), convert(module, "bnn")(x))


def test_the_shortcut_joins_before_the_replaced_activation():
    module = network_of(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    network = convert(module, "reactnet", settings=["shortcut=same"]).eval()
    names = [str(node.target) for node in network.programs["forward"].graph.nodes]
    assert names.index("3") > names.index("<built-in function add>") > names.index("2")


@pytest.mark.parametrize("add", [lambda y, x: y + x, lambda y, x: y.add(x), lambda y, x: torch.add(y, x)])
def test_a_shortcut_of_any_spelling_is_not_doubled(add):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.conv, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 1, 1)

        def forward(self, x):
            x = self.first(x)
            return self.last(add(self.conv(x), x))

    torch.manual_seed(0)
    module = Residual().eval()
    image = torch.rand(1, 3, 6, 5)
    with_pass, without = (convert(module, "bnn", settings=[f"shortcut={kind}"]).eval() for kind in ("all", "none"))
    assert torch.equal(with_pass(image), without(image))
