from __future__ import annotations

import pytest
from example_networks import ResNet, UNet
from torch import nn

from binmat.errors import PolicyError
from binmat.model_defs.rvm import RVM
from binmat.quantizers import get_scheme
from binmat.transforms.policy import resolve
from binmat.transforms.trace import trace

BNN = get_scheme("bnn")


def precisions(network, rules=None):
    return {name: plan.precision for name, plan in resolve(trace(network), BNN, rules).items()}


def test_first_and_last_layers_of_any_module_stay_float():
    plan = resolve(trace(UNet()), BNN)
    assert {name for name, p in plan.items() if p.precision == "float"} == {"down1", "head"}
    assert plan["down1"].reason.startswith("first layer")
    assert plan["head"].reason.startswith("last layer")
    assert {name for name, p in precisions(ResNet()).items() if p == "float"} == {"stem.0", "out"}


def test_rvm_keeps_the_layers_of_the_paper_float():
    plan = resolve(trace(RVM()), BNN)
    assert {name for name, p in plan.items() if p.precision == "float"} == {
        "backbone.features.0.0",
        "decoder.decode0.conv.3",
        "project_mat.conv",
        "project_seg.conv",
        "refiner.box_filter",
        "refiner.conv.6",
    }
    assert all(p.reason for p in plan.values() if p.precision == "float")
    assert plan["decoder.decode4.gru.ih.0"].precision == "binary"
    assert plan["backbone.features.4.block.2.fc1"].precision == "binary"


def test_exact_name_beats_pattern_beats_kind_beats_default():
    rules = {"kind:grouped": "float", "stage1.*": "xnor", "stage1.conv1": "dorefa", "stage2.*": "float"}
    plan = resolve(trace(ResNet()), BNN, rules)
    scheme = {name: p.scheme.name if p.scheme else "float" for name, p in plan.items()}
    assert scheme["stage1.conv1"] == "dorefa"
    assert scheme["stage1.conv2"] == "xnor"
    assert scheme["stage2.conv1"] == "float"
    assert scheme["hidden"] == "bnn"
    assert plan["stage2.conv1"].reason == "policy: stage2.*=float"


def test_the_later_of_two_patterns_wins():
    assert precisions(ResNet(), {"stage*": "float", "stage2*": "bnn"})["stage2.conv1"] == "binary"
    assert precisions(ResNet(), {"stage2*": "bnn", "stage*": "float"})["stage2.conv1"] == "float"


def test_protected_layers_yield_only_to_their_own_name():
    assert precisions(UNet(), {"*": "bnn"})["head"] == "float"
    assert precisions(UNet(), {"head": "bnn"})["head"] == "binary"
    assert precisions(RVM(), {"project_*": "bnn"})["project_mat.conv"] == "binary"


@pytest.mark.parametrize("rule", ["decodr.*", "kind:linear", "middle.conv"])
def test_a_rule_that_matches_nothing_is_an_error(rule):
    with pytest.raises(PolicyError, match="matches no convolution"):
        resolve(trace(UNet()), BNN, {rule: "float"})


def test_an_unknown_kind_names_the_known_ones():
    with pytest.raises(PolicyError, match="pointwise"):
        resolve(trace(UNet()), BNN, {"kind:conv3": "float"})


def test_reflection_padding_stays_float_and_says_why():
    reflecting = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
    module = nn.Sequential(nn.Conv2d(3, 4, 3), reflecting, nn.Conv2d(4, 1, 1))
    plan = resolve(trace(module), BNN)
    assert plan["1"].precision == "float"
    assert "reflect" in plan["1"].reason
    with pytest.raises(PolicyError, match="reflect"):
        resolve(trace(module), BNN, {"1": "bnn"})
