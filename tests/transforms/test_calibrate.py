"""Calibration: both signs wherever the input varies, norms in order, nothing else touched."""

from __future__ import annotations

import copy

import pytest
import torch
from example_networks import ResNet, UNet
from torch import Tensor, nn
from torch.nn import functional as F

from binmat.errors import InputError
from binmat.model_defs.network import Example
from binmat.model_defs.registry import build
from binmat.nn import BinaryLayer
from binmat.nn.masked_path import MaskedPath
from binmat.transforms.calibrate import calibrate
from binmat.transforms.convert import convert
from binmat.transforms.one_sided_layers import layer_signs, one_sided_layers
from binmat.verification.clips import clips_of

WITH_THRESHOLDS = ["reactnet", "threshold", "bimatting"]
#: Network -> option that specialises it, so that a small example runs.
NETWORKS = {"rvm_mobilenetv3": {}, "modnet": {}, "lsa_matting": {}, "pam": {"path": "1011"}}


def frames_of(count: int = 2, size: int = 32, seed: int = 0) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    pictures = F.interpolate(coarse, (size, size), mode="bilinear")
    return [{"x": picture[None]} for picture in pictures]


@pytest.mark.parametrize("scheme", WITH_THRESHOLDS)
@pytest.mark.parametrize("build_module", [UNet, ResNet])
def test_a_strangers_network_sees_both_signs(build_module: type[nn.Module], scheme: str) -> None:
    torch.manual_seed(0)
    network, frames = convert(build_module(), scheme), frames_of()
    if scheme == "threshold":
        assert one_sided_layers(network, frames)
    calibrate(network, frames)
    signs = layer_signs(network, frames)
    assert one_sided_layers(network, frames) == ()
    assert all(found.reacts for found in signs.values())


@pytest.mark.parametrize("scheme", WITH_THRESHOLDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_of_a_registry_network_reacts_to_the_picture(name: str, scheme: str) -> None:
    torch.manual_seed(0)
    network = convert(build(name).specialised((64, 96), **NETWORKS[name]), scheme, size=(64, 96))
    clips = clips_of(network.example(64, 96), (), network)
    calibrate(network, clips["photograph"])
    assert one_sided_layers(network, clips["photograph"]) == ()
    still = [n for n, s in layer_signs(network, [*clips["photograph"], *clips["noise"]]).items() if not s.reacts]
    assert still == []


def three_layers(*between: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 1), *between, nn.Conv2d(6, 1, 1)).eval()


def calibrated(scheme: str, *settings: str) -> tuple[Tensor, Tensor]:
    """The threshold of a layer behind a sigmoid, DoReFa's 1/2 included, and its input [C, values]."""
    module = three_layers(nn.Sigmoid(), nn.Conv2d(6, 6, 3))
    network, frames = convert(module, scheme, settings=settings), [{"input": frame["x"]} for frame in frames_of(3)]
    calibrate(network, frames)
    with torch.no_grad():
        seen = torch.cat([module[:2](frame["input"]) for frame in frames])
    layer = network.get_submodule("2")
    assert isinstance(layer, BinaryLayer)
    return layer.deployed().threshold, seen.movedim(1, 0).flatten(1)


@pytest.mark.parametrize("settings", [("reactnet",), ("bimatting",), ("dorefa", "options.threshold=channel")])
def test_a_threshold_per_channel_is_the_channels_mean(settings: tuple[str, ...]) -> None:
    threshold, seen = calibrated(*settings)
    torch.testing.assert_close(threshold, seen.mean(1))


@pytest.mark.parametrize("settings", [("threshold",), ("dorefa", "options.threshold=layer")])
def test_a_threshold_per_layer_is_where_the_signs_vary_most(settings: tuple[str, ...]) -> None:
    threshold, seen = calibrated(*settings)
    means = seen.mean(1)
    below = (seen < means[:, None, None]).float().mean(2)
    variance = (below * (1 - below)).sum(1)
    chosen = (means - threshold).abs().argmin()
    torch.testing.assert_close(threshold[0], means[chosen])
    assert variance[chosen] > 0.9 * variance.max()


def test_norms_are_re_estimated_in_order_behind_binary_layers_alone() -> None:
    module = three_layers(
        nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6)
    )
    network = convert(module, "threshold")
    frame = frames_of(1)[0]["x"]
    calibrate(network, [{"input": frame}])
    layers = [network.get_submodule(str(i)) for i in range(7)]
    assert torch.equal(layers[1].running_mean, module[1].running_mean)
    assert torch.equal(layers[1].running_var, module[1].running_var)
    with torch.no_grad():
        x = frame
        for layer in layers[:6]:
            if layer in (layers[3], layers[5]):
                torch.testing.assert_close(layer.running_mean, x.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(layer.running_var, x.var((0, 2, 3)), rtol=1e-4, atol=1e-5)
            x = layer(x)


def test_a_norm_that_is_frozen_is_left_alone() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.BatchNorm2d(6), nn.Conv2d(6, 1, 1)
    )
    module[2].eval().requires_grad_(False)
    network = convert(module, "reactnet", size=(8, 8))
    calibrate(network, [{"input": torch.rand(1, 3, 8, 8)}])
    frozen, free = network.get_submodule("2"), network.get_submodule("3")
    assert torch.equal(frozen.running_mean, torch.zeros(6)) and torch.equal(frozen.running_var, torch.ones(6))
    assert not torch.equal(free.running_mean, torch.zeros(6))
    # A network that is only run has no gradients at all.
    network.eval().requires_grad_(False)
    calibrate(network, [{"input": torch.rand(1, 3, 8, 8)}])
    assert not torch.equal(frozen.running_mean, torch.zeros(6))


class Spellings(nn.Module):
    """A norm called as a function on buffers of its own, and one behind global pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.pooled = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3), nn.Conv2d(6, 6, 1)
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("variance", torch.ones(6))
        self.norm, self.last = nn.BatchNorm2d(6), nn.Conv2d(6, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.batch_norm(self.middle(self.first(x)), self.mean, self.variance)
        return self.last(self.norm(self.pooled(x.mean((2, 3), keepdim=True))))


def test_a_norm_as_a_function_is_re_estimated_and_one_of_few_values_keeps_its_variance() -> None:
    torch.manual_seed(0)
    network = convert(Spellings(), "reactnet")
    calibrate(network, frames_of())
    assert not torch.equal(network.mean, torch.zeros(6))
    assert not torch.equal(network.variance, torch.ones(6))
    assert not torch.equal(network.norm.running_mean, torch.zeros(6))
    assert torch.equal(network.norm.running_var, torch.ones(6))


def test_what_does_not_vary_is_left_alone() -> None:
    module = three_layers(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6))
    with torch.no_grad():
        module[0].weight[2] = 0
    network = convert(module, "reactnet")
    calibrate(network, [{"input": frame["x"]} for frame in frames_of()])
    threshold = network.get_submodule("1").threshold
    assert not (threshold == module[0].bias).any()
    constant = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 1, 1))
    nn.init.zeros_(constant[0].weight)
    nn.init.constant_(constant[0].bias, 3.0)
    network = convert(constant, "reactnet")
    calibrate(network, [{"input": frame["x"]} for frame in frames_of()])
    assert torch.equal(network.get_submodule("1").threshold, torch.zeros(6))
    assert torch.equal(network.get_submodule("2").running_var, torch.ones(6))


@pytest.mark.parametrize("scheme", WITH_THRESHOLDS)
def test_one_frame_behind_global_pooling_gives_both_signs_over_the_channels(scheme: str) -> None:
    module = three_layers(nn.AdaptiveAvgPool2d(1), nn.ReLU(), nn.Conv2d(6, 6, 1))
    network, frames = convert(module, scheme), [{"input": frames_of(1)[0]["x"]}]
    assert one_sided_layers(network, frames) == ("3",)
    calibrate(network, frames)
    assert one_sided_layers(network, frames) == ()


def test_weights_scales_and_modes_stay_and_gradients_still_flow() -> None:
    network = convert(build("rvm_mobilenetv3"), "reactnet", settings=["decoder=sab"]).train()
    network.backbone.eval()
    before, threads = copy.deepcopy(network), torch.get_num_threads()
    calibrate(network, [{"src": frame["x"]} for frame in frames_of(1, 64)])
    changed = {
        key.rpartition(".")[2]
        for key, value in network.state_dict().items()
        if not torch.equal(value, before.state_dict()[key])
    }
    assert changed == {"threshold", "running_mean", "running_var"}
    assert [m.training for m in network.modules()] == [m.training for m in before.modules()]
    assert {m.execution for m in network.modules() if isinstance(m, MaskedPath)} == {"auto"}
    assert [p.requires_grad for p in network.parameters()] == [p.requires_grad for p in before.parameters()]
    assert [len(m._forward_pre_hooks) for m in network.modules()] == [
        len(m._forward_pre_hooks) for m in before.modules()
    ]
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("scheme", ["bnn", "xnor", "recu", "dorefa_signed"])
def test_what_has_no_threshold_stays_blind_behind_a_relu_and_is_named(scheme: str) -> None:
    network = convert(three_layers(nn.ReLU(), nn.Conv2d(6, 6, 3)), scheme)
    frames = [{"input": frame["x"]} for frame in frames_of()]
    calibrate(network, frames)
    assert one_sided_layers(network, frames) == ("2",)


def test_behind_a_norm_the_schemes_without_thresholds_are_cured_too() -> None:
    module = three_layers(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1))
    module[2].running_mean.fill_(100.0)
    network, frames = convert(module, "xnor"), [{"input": frame["x"] - 0.5} for frame in frames_of()]
    assert one_sided_layers(network, frames) == ("3",)
    calibrate(network, frames)
    assert one_sided_layers(network, frames) == ()


def test_states_are_carried_from_frame_to_frame() -> None:
    network = convert(build("rvm_mobilenetv3"), "reactnet")
    still = [{"src": frames_of(1, 64)[0]["x"]}] * 3
    once, thrice = copy.deepcopy(network), copy.deepcopy(network)
    calibrate(once, still[:1])
    calibrate(thrice, still)
    name = "decoder.decode3.gru.ih.0"
    assert isinstance(once.get_submodule(name), BinaryLayer)
    assert not torch.equal(once.get_submodule(name).threshold, thrice.get_submodule(name).threshold)


def test_several_frames_are_seen_by_the_network_that_is_calibrated_on_all_of_them() -> None:
    """With 33 layers of signs, what one frame alone would set is far from what both set."""
    torch.manual_seed(0)
    network = convert(build("rvm_resnet50"), "bnn", settings=["options.threshold=layer", "decoder.*=float"])
    frames = clips_of(network.example(64, 96), (), network)["photograph"]
    calibrate(network, frames)
    assert one_sided_layers(network, frames) == ()


def test_tokens_are_calibrated_along_their_last_dimension() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 2))
    network = convert(module, "reactnet").eval()
    tokens = torch.rand(2, 9, 5)
    example = Example("forward", {"input": torch.zeros(2, 9, 5)}, ("output",))
    calibrate(network, [{"input": tokens}], example)
    signs = layer_signs(network, [{"input": tokens}, {"input": -tokens}], example)
    assert all(found.reacts for found in signs.values())
    with torch.no_grad():
        seen = module[:2](tokens)
    varying = seen.flatten(0, 1).var(0) > 0
    torch.testing.assert_close(network.get_submodule("2").threshold[varying], seen.mean((0, 1))[varying])


class Sometimes(nn.Module):
    is_leaf = True

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.mean() > 0 else x


def test_frames_that_take_different_ways_are_refused() -> None:
    module = three_layers(Sometimes(), nn.Conv2d(6, 6, 1))
    nn.init.constant_(module[0].weight, 1.0)
    nn.init.zeros_(module[0].bias)
    network = convert(module, "threshold")
    frames = [{"input": torch.rand(1, 3, 4, 4)}, {"input": -torch.rand(1, 3, 4, 4)}]
    with pytest.raises(InputError, match="the frames run through different layers"):
        calibrate(network, frames)
    calibrate(network, frames[:1])


def test_frames_that_do_not_fit_are_refused() -> None:
    network = convert(build("rvm_mobilenetv3"), "reactnet")
    with pytest.raises(InputError, match="there are no frames"):
        calibrate(network, [])
    with pytest.raises(InputError, match="there are no frames"):
        calibrate(network, [{}])
    with pytest.raises(InputError, match="frame 1 lacks src: rvm_mobilenetv3 takes src, r1"):
        calibrate(network, [{"src": torch.rand(1, 3, 64, 64)}, {"image": torch.rand(1, 3, 64, 64)}])


def test_signs_say_what_reacts() -> None:
    network = convert(three_layers(nn.Conv2d(6, 6, 3)), "bnn")
    frame, other = ({"input": frame["x"] - 0.5} for frame in frames_of())
    assert layer_signs(network, [frame])["1"].reacts is None
    assert layer_signs(network, [frame, frame])["1"].reacts is False
    assert layer_signs(network, [frame, frame, other])["1"].reacts is True
    signs = layer_signs(network, [frame])["1"]
    with torch.no_grad():
        x = network.get_submodule("0")(frame["input"])
    assert (signs.low, signs.high) == (float(x.min()), float(x.max()))
    assert (signs.negative, signs.values) == (int((x < 0).sum()), x.numel())
