from __future__ import annotations

import pytest
import torch
from official_checkpoints import official_shapes

from binmat.errors import UnknownNameError
from binmat.model_defs.network import Network, NetworkSpec
from binmat.model_defs.registry import NETWORKS, build, get_spec

CONFIGS = {
    "rvm_mobilenetv3_dgf": ("rvm_mobilenetv3", {"variant": "mobilenetv3", "refiner": "deep_guided_filter"}),
    "rvm_mobilenetv3_fgf": ("rvm_mobilenetv3", {"variant": "mobilenetv3", "refiner": "fast_guided_filter"}),
    "rvm_resnet50_dgf": ("rvm_resnet50", {"variant": "resnet50", "refiner": "deep_guided_filter"}),
    "rvm_resnet50_fgf": ("rvm_resnet50", {"variant": "resnet50", "refiner": "fast_guided_filter"}),
}


def test_both_rvms_are_registered_under_their_names():
    assert {"rvm_mobilenetv3", "rvm_resnet50"} <= NETWORKS.keys()
    assert all(get_spec(name) is spec and spec.name == name for name, spec in NETWORKS.items())


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_can_be_built_and_described(name):
    spec = get_spec(name)
    with torch.device("meta"):
        net = build(name)
    assert isinstance(net, Network)
    assert net.name == name
    assert spec.config.items() <= net.config.items()
    assert all((spec.task, spec.inputs, spec.paper, spec.layouts))
    assert all(callable(getattr(net, method)) for method in net.modes.values())
    net.check_size(*spec.example_size)
    example = net.example(*spec.example_size, device="meta")
    assert example.mode in net.modes


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_recognised_by_its_own_keys_and_by_no_other_spec(name):
    with torch.device("meta"):
        net = build(name)
    shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    recognised = {other: config for other, spec in NETWORKS.items() if (config := spec.recognise(shapes)) is not None}
    assert list(recognised) == [name]
    with torch.device("meta"):
        assert build(name, **recognised[name]).config == net.config


@pytest.mark.parametrize("file", CONFIGS)
def test_official_rvm_keys_tell_the_variant_and_the_refiner(file):
    name, config = CONFIGS[file]
    found = {other: spec.recognise(official_shapes(file)) for other, spec in NETWORKS.items()}
    assert found.pop(name) == config
    assert set(found.values()) == {None}


@pytest.mark.parametrize("file", ["bimatting_dgf", "bimatting_fgf", "modnet", "litematting", "lsa"])
def test_other_official_checkpoints_are_not_taken_for_rvm(file):
    for name in ("rvm_mobilenetv3", "rvm_resnet50"):
        assert get_spec(name).recognise(official_shapes(file)) is None


@pytest.mark.parametrize("lost", ["backbone.", "aspp.", "decoder.decode4.", "decoder.decode0.", "project_mat."])
def test_a_damaged_rvm_checkpoint_is_still_recognised(lost):
    shapes = {key: shape for key, shape in official_shapes("rvm_mobilenetv3_dgf").items() if not key.startswith(lost)}
    assert get_spec("rvm_mobilenetv3").recognise(shapes) == CONFIGS["rvm_mobilenetv3_dgf"][1]


def test_config_overrides_the_specs():
    with torch.device("meta"):
        net = build("rvm_mobilenetv3", refiner="fast_guided_filter")
    assert net.config == {"variant": "mobilenetv3", "refiner": "fast_guided_filter"}
    assert not [key for key in net.state_dict() if key.startswith("refiner.")]


@pytest.mark.parametrize(
    ("name", "near"), [("rvm_mobilenet", "rvm_mobilenetv3"), ("RVM_ResNet50", "rvm_resnet50"), ("rvm", "rvm_resnet50")]
)
def test_an_unknown_name_is_answered_with_the_nearest(name, near):
    for call in (get_spec, build):
        with pytest.raises(UnknownNameError, match=f"no network is called '{name}': did you mean '{near}'"):
            call(name)


def test_keys_that_already_fit_are_left_alone():
    state = {"a": torch.zeros(1)}
    assert Network.normalise_keys(state) == state
    assert isinstance(get_spec("rvm_mobilenetv3"), NetworkSpec)
