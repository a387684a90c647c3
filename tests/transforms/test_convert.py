from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from example_networks import ResNet, UNet
from official_checkpoints import filled
from torch import nn

from binmat.errors import CheckpointError, RecipeError, SizeError
from binmat.model_defs.modnet import MODNet
from binmat.model_defs.rvm import RVM
from binmat.nn import BinaryConv2d, BinaryLinear, clip_latent_weights
from binmat.quantizers import SCHEMES
from binmat.transforms.convert import Conversion, convert, plan_of, recipe_of


def test_the_original_is_left_alone():
    module = UNet()
    network = convert(module, "bnn")
    assert type(module.down2) is nn.Conv2d
    assert isinstance(network.get_submodule("down2"), BinaryConv2d)
    with torch.no_grad():
        network.get_submodule("down2").weight.zero_()
    assert module.down2.weight.abs().sum() > 0


def test_linear_layers_convert_too():
    assert isinstance(convert(ResNet(), "bnn").get_submodule("hidden"), BinaryLinear)


def test_refiner_and_segmentation_head_are_converted_or_named():
    network = convert(RVM(), "bnn")
    assert isinstance(network.get_submodule("refiner.conv.0"), BinaryConv2d)
    plan = plan_of(network)
    convs = {name for name, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    assert set(plan) == convs
    src = torch.rand(1, 3, 64, 64)
    assert network(src, downsample_ratio=0.5)[1].shape == (1, 1, 64, 64)
    assert network(src, segmentation_pass=True)[0].shape == (1, 1, 64, 64)


def test_gates_and_squeeze_excitation_of_rvm_are_binary():
    network = convert(RVM(), "xnor")
    for name in ("decoder.decode1.gru.hh.0", "backbone.features.5.block.2.fc2", "backbone.features.2.block.1.0"):
        assert isinstance(network.get_submodule(name), BinaryConv2d), name


def test_a_recipe_a_scheme_or_neither():
    assert recipe_of(convert(UNet(), recipe="baseline")).scheme == "threshold"
    assert recipe_of(UNet()) is None
    with pytest.raises(RecipeError, match="one of the two"):
        convert(UNet())
    with pytest.raises(CheckpointError, match="converted already"):
        convert(convert(UNet(), "bnn"), "bnn")
    with pytest.raises(SizeError, match="too small"):
        convert(RVM(), "bnn", size=(1, 1))


def test_streaming_equals_the_clip_in_a_converted_network():
    network = convert(filled(RVM()), "reactnet").eval().double()
    clip = torch.rand(1, 3, 3, 33, 47, dtype=torch.float64)
    with torch.no_grad():
        whole = network(clip)
        states = [None] * 4
        for t in range(3):
            _, pha, *states = network(clip[:, t : t + 1], *states)
            torch.testing.assert_close(pha[:, 0], whole[1][:, t])
    torch.testing.assert_close(states[0], whole[2])


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
def test_ten_steps_of_training_lower_the_loss_of_a_converted_rvm(scheme):
    network = convert(filled(RVM()), scheme).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    clip, target = torch.rand(2, 2, 3, 32, 48), torch.rand(2, 2, 1, 32, 48).round()
    losses = []
    for _ in range(11):
        _, pha, *_ = network(clip)
        loss = (pha - target).abs().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        clip_latent_weights(network)
    assert losses[-1] < losses[0]
    trained = [name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert any("backbone.features.1" in name for name in trained), "the gradient must reach the first binary blocks"


def test_the_record_is_set_once_and_frozen():
    network = convert(RVM(), "bnn", size=(64, 96), downsample_ratio=0.5)
    made = network.conversion
    assert isinstance(made, Conversion)
    assert (made.recipe.scheme, made.size, made.downsample_ratio, made.side_outputs) == ("bnn", (64, 96), 0.5, ())
    with pytest.raises(FrozenInstanceError):
        made.size = (1, 1)
    plain = convert(UNet(), "bnn").conversion
    assert (plain.size, plain.downsample_ratio) == (None, None)
    assert convert(RVM(), "bnn", settings=["decoder=sab"]).conversion.side_outputs == ("fgr_s", "pha_s")


def test_size_and_ratio_are_checked_together():
    with pytest.raises(SizeError, match="leaves 10x15 pixels"):
        convert(RVM(), "bnn", size=(64, 96), downsample_ratio=0.16)
    with pytest.raises(SizeError, match="modnet has no downsample ratio"):
        convert(MODNet(), "bnn", downsample_ratio=0.5)


def test_a_converted_network_is_copied_for_another_size():
    first = convert(RVM(), "bnn", settings=["decoder=sab"], size=(64, 96), downsample_ratio=0.5)
    second = convert(first, size=(96, 64))
    assert first.conversion.size == (64, 96)
    assert second.conversion == replace(first.conversion, size=(96, 64))
    assert second.get_parameter("aspp.aspp1.0.weight") is not first.get_parameter("aspp.aspp1.0.weight")
    assert convert(second).conversion == second.conversion
    with pytest.raises(SizeError, match="at least 17"):
        convert(second, size=(16, 16), downsample_ratio=1)
    with pytest.raises(CheckpointError, match="converted already"):
        convert(second, settings=["padding=one"])
