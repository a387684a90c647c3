from __future__ import annotations

import pytest
import torch
from example_networks import UNet, randomize
from torch import nn

from binmat.errors import VerificationError
from binmat.model_defs.network import Example
from binmat.model_defs.rvm import RVM
from binmat.nn.masked_path import set_execution
from binmat.pipeline.deployment import deploy
from binmat.transforms.convert import convert
from binmat.transforms.lowering import lower as lowering
from binmat.transforms.lowering.lower import lower_recording
from binmat.transforms.lowering.recording import record
from binmat.transforms.trace import trace
from binmat.verification import network_check
from binmat.verification.clips import clips_of
from binmat.verification.network_check import ExactPair, check_network


@pytest.fixture
def network():
    return convert(randomize(UNet()), "reactnet").eval()


def test_network_and_lowered_graph_agree_to_rounding(network):
    example = network.example(24, 33)
    found = check_network(network, example, clips_of(example)["noise"])
    assert found.passed
    assert found.max_abs < 1e-12


def test_a_lowered_graph_that_folds_wrongly_is_found(network, monkeypatch):
    example = network.example(24, 32)

    def wrong(*args):
        lowered = right(*args)
        for name, buffer in lowered.module.named_buffers():
            if buffer.is_floating_point():
                setattr(lowered.module, name, buffer * 1.001)
        return lowered

    right = network_check.lower_recording
    monkeypatch.setattr(network_check, "lower_recording", wrong)
    assert not check_network(network, example, clips_of(example)["noise"]).passed
    verdict = deploy(network, example=example).verify()
    with pytest.raises(VerificationError, match="lowered graph is not the network"):
        verdict.check()
    assert "NOT" in str(verdict)


@pytest.mark.slow
def test_a_decoder_that_skips_is_compared_sign_by_sign():
    network = convert(randomize(RVM()), recipe="bimatting").eval()
    example = network.example(33, 49)
    frame = clips_of(example, (), network)["photograph"]
    set_execution(network, "dense")
    dense = check_network(network, example, frame)
    # Skipping runs its layers on gathered pixels, which are not the graph's.
    set_execution(network, "sparse")
    assert check_network(network, example, frame) == dense
    assert dense.passed


@pytest.mark.parametrize(("level", "passes"), [(-1e-18, True), (-1.0, False)])
def test_the_region_of_a_sparse_decoders_mask(monkeypatch, level: float, passes: bool):
    """A coarse alpha that is 0 but for rounding may fall on either side of 0; one that is not must not."""
    network = convert(randomize(RVM()), "bnn", settings=["decoder=sab"]).eval()
    example = network.example(65, 97)
    frame = clips_of(example, (), network)["photograph"]
    assert check_network(network, example, frame).passed

    def moved(*args):
        lowered = right(*args)
        [region] = [node for node in lowered.module.graph.nodes if node.target is torch.ops.aten.gt.Scalar]
        region.args = (region.args[0], level)
        lowered.module.recompile()
        return lowered

    right = network_check.lower_recording
    monkeypatch.setattr(network_check, "lower_recording", moved)
    found = check_network(network, example, frame)
    assert found.passed is passes


def test_a_result_that_is_no_number_does_not_pass(network):
    with torch.no_grad():
        network.get_submodule("head").bias.fill_(torch.nan)
    assert not check_network(network, network.example(24, 32), [{}]).passed


def test_the_sign_of_a_rounding_residue_is_no_difference():
    """Sums of +-alpha, averaged, cancel to a residue whose sign depends on where alpha was folded."""
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 1),
        torch.nn.Conv2d(16, 16, 3, padding=1, bias=False),
        torch.nn.BatchNorm2d(16, affine=False),
        torch.nn.Upsample(scale_factor=2, mode="bilinear"),
        torch.nn.Conv2d(16, 16, 3),
        torch.nn.Conv2d(16, 1, 1),
    )
    network = convert(module, "xnor").eval()
    example = network.example(40, 40)
    found = check_network(network, example, clips_of(example)["noise"])
    assert found.passed
    assert found.flipped_signs > 0, "the case must occur for the test to mean anything"
    assert found.distance < 1e-12


@pytest.mark.slow
def test_what_the_graph_does_with_states_counts(monkeypatch):
    network = convert(randomize(RVM()), "reactnet").eval()
    example = network.example(33, 49)
    frames = clips_of(example, (), network)["photograph"]
    assert check_network(network, example, frames).passed

    def negated(*args):
        lowered = right(*args)
        graph = lowered.module.graph
        *_, state = (node for node in graph.nodes if node.op == "placeholder")
        with graph.inserting_after(state):
            other = graph.call_function(torch.ops.aten.neg.default, (state,))
        state.replace_all_uses_with(other, lambda user: user is not other)
        lowered.module.recompile()
        return lowered

    right = network_check.lower_recording
    monkeypatch.setattr(network_check, "lower_recording", negated)
    assert not check_network(network, example, frames).passed
    # Zeros have no sign: one frame alone would not show it.
    assert check_network(network, example, frames[:1]).passed


class Casts(nn.Module):
    """Casts to float16 and back in its code."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in self.convs:
            x = conv(x.half().float()) / 3
        return x


def test_casts_in_the_networks_code_do_not_round():
    network = convert(Casts(), "bnn", size=(16, 16)).eval()
    example = network.example(16, 16)
    assert check_network(network, example, clips_of(example)["noise"]).max_abs < 1e-12


@pytest.mark.parametrize("wrong", [False, True])
def test_integer_outputs_are_equal_or_it_fails(wrong: bool):
    class Classes(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, x.argmax(1)

    example = Example("forward", {"x": torch.rand(1, 3, 4, 4)}, ("values", "classes"))
    network = trace(Classes(), example=example).eval()
    flat = network.flattened(example)
    recording = record(network, flat)
    pair = ExactPair(recording, lower_recording(recording))
    if wrong:
        (found,) = pair.lowered.graph.find_nodes(op="call_function", target=torch.ops.aten.argmax.default)
        found.target = torch.ops.aten.argmin.default
        pair.lowered.recompile()
    checked = pair.check([{"x": torch.rand(1, 3, 4, 4)}])
    assert checked.passed != wrong and checked.max_abs == wrong


def changed_graph(monkeypatch: pytest.MonkeyPatch, change) -> None:
    """Let `change` loose on every lowered graph, in both precisions."""
    right = lowering.FoldAffine.apply

    def wrong(self, module):
        right(self, module)
        change(module)
        module.recompile()
        return module

    monkeypatch.setattr(lowering.FoldAffine, "apply", wrong)


def test_a_bound_that_the_picture_never_reaches_is_found(monkeypatch):
    def bounded(module):
        for node in module.graph.find_nodes(op="call_function", target=torch.ops.aten.relu.default):
            node.target, node.args = torch.ops.aten.hardtanh.default, (node.args[0], 0.0, 50.0)

    changed_graph(monkeypatch, bounded)
    found = deploy(trace(UNet()).eval(), (24, 32)).verify().network
    assert found.worst < 1e-9 and found.layer > 1e-3
    with pytest.raises(VerificationError, match=r"layer '.*' on wide values differs by"):
        found.check()


def test_the_float32_graph_is_compared_with_the_exact_one(network, monkeypatch):
    def off(module):
        for node in module.graph.find_nodes(op="get_attr"):
            constant = module.get_buffer(str(node.target))
            if constant.dtype == torch.float32 and constant.dim() == 4:
                constant.view(-1)[3] += 2e-5

    changed_graph(monkeypatch, off)
    with pytest.raises(VerificationError, match="its constants differ from those in float64 by"):
        deploy(network, (24, 32)).verify().network.check()


def test_the_sign_of_an_exact_zero_counts(monkeypatch):
    """Behind a ReLU zeros are common, and -1 for them is no rounding."""
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 1, 1))
    plain = convert(layers, "bnn", size=(12, 12)).eval()
    example = plain.example(12, 12)
    frames = clips_of(example)["noise"]
    assert check_network(plain, example, frames).passed
    monkeypatch.setattr(network_check, "is_negative", lambda x: x <= 0)
    found = check_network(plain, example, frames)
    assert found.zeros > 0 and found.distance == 0
    with pytest.raises(VerificationError, match="signs of exact zeros differ"):
        found.check()
