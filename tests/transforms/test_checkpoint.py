from __future__ import annotations

import json

import pytest
import torch
from example_networks import UNet
from safetensors.torch import load_file, save_file

from binmat.errors import CheckpointError
from binmat.model_defs.rvm import RVM
from binmat.model_defs.weights_metadata import METADATA_KEY, read_weights_metadata
from binmat.nn import BinaryLayer, set_progress
from binmat.transforms.checkpoint import load, save
from binmat.transforms.convert import convert, recipe_of
from binmat.transforms.recipe import Recipe


def test_a_converted_network_comes_back_whole(tmp_path):
    network = convert(RVM(refiner="fast_guided_filter"), "reactnet", settings=["decoder.*=float"]).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    save(network, tmp_path / "model.safetensors")
    again = load(tmp_path)
    src = torch.rand(1, 3, 32, 48)
    assert recipe_of(again) == recipe_of(network)
    assert not again.training
    for got, want in zip(again(src), network(src), strict=True):
        assert torch.equal(got, want)


def test_a_float_network_comes_back_as_the_float_network_it_is(tmp_path):
    network = RVM().eval()
    save(network, tmp_path / "float.safetensors")
    again = load(tmp_path / "float.safetensors")
    assert recipe_of(again) is None
    assert torch.equal(again.project_mat.conv.weight, network.project_mat.conv.weight)
    torch.save(network.state_dict(), tmp_path / "rvm.pth")
    assert load(tmp_path / "rvm.pth").name == "rvm_mobilenetv3"


def test_a_file_that_does_not_fit_its_recipe_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save(convert(RVM(), "reactnet"), path)
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    state = load_file(path)
    del state["decoder.decode3.conv.0.threshold"]
    save_file(state, path, metadata=metadata)
    with pytest.raises(CheckpointError, match=r"1 tensors missing.*decode3.conv.0.threshold"):
        load(path)


def test_nothing_is_left_behind_when_writing_fails(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be written"):
        save(RVM(), tmp_path / "absent" / "model.safetensors")
    with pytest.raises(CheckpointError, match="not a network of the registry"):
        save(convert(UNet(), "bnn"), tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_the_record_comes_back_from_the_weights_alone(tmp_path):
    network = convert(RVM(), recipe="bimatting", size=(64, 96), downsample_ratio=0.5)
    save(network, tmp_path / "model.safetensors")
    assert load(tmp_path).conversion == network.conversion
    about = read_weights_metadata(tmp_path / "model.safetensors")
    assert (about.network, about.size, about.downsample_ratio) == ("rvm_mobilenetv3", (64, 96), 0.5)
    assert Recipe.from_toml(about.recipe, "metadata") == network.conversion.recipe


def test_a_file_without_a_field_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(RVM().state_dict(), path, metadata={"binmat": '{"network": "rvm_mobilenetv3", "config": {}}'})
    with pytest.raises(CheckpointError, match=r"recipe: Field required.*: convert the float checkpoint again"):
        load(path)


def changed(path, target, change):
    """A copy of a file with tensors or metadata changed by a function of both."""
    state, about = load_file(path), json.loads(read_weights_metadata(path).to_header()[METADATA_KEY])
    change(state, about)
    save_file(state, target, metadata={METADATA_KEY: json.dumps(about)})
    return target


FACTORY = "example_networks:UNet"


@pytest.fixture(scope="module")
def unet_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("unet") / "model.safetensors"
    save(convert(UNet(), "recu", size=(16, 16)), path, factory=FACTORY)
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state, about: state["norm1.weight"].fill_(torch.nan), r"norm1\.weight has 8 of 8 values.*NaN"),
        (lambda state, about: state["norm1.bias"][0].fill_(torch.inf), r"norm1\.bias has 1 of 8 values"),
        (lambda state, about: state["norm1.running_var"].fill_(-1), r"norm1\.running_var has 8 of 8 variances"),
        (
            lambda state, about: state.update({"norm1.weight": torch.ones(8, dtype=torch.int8)}),
            r"norm1\.weight is int8 \[8\] instead of float32 \[8\]",
        ),
        (lambda state, about: about["progress"].update(nowhere=0.5), r"progress of 'nowhere'.*no binary layer"),
        (lambda state, about: about.update(recipe="a = ["), "not valid TOML"),
        (lambda state, about: about.update(recipe='[layers]\n"x*" = "bnn"'), "cannot be built.*matches no"),
        (lambda state, about: about.update(version=3), "saved by a newer binmat.*upgrade"),
    ],
)
def test_a_file_whose_values_no_network_has(unet_file, tmp_path, change, words):
    path = changed(unet_file, tmp_path / "model.safetensors", change)
    with pytest.raises(CheckpointError, match=words) as error:
        load(path, factory=FACTORY)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"config": {"colour": 1}}, "wrong metadata.*colour"),
        ({"config": {"context": 1}}, "cannot be built.*context"),
        ({"network": "modnett"}, "cannot be built.*did you mean 'modnet'"),
        ({"size": [8, 8]}, "cannot be built.*size 8x8 is too small"),
        ({"downsample_ratio": 0.5}, "cannot be built.*no downsample ratio"),
    ],
)
def test_metadata_that_no_network_has(tmp_path, change, words):
    about = {"network": "modnet", "config": {}, "recipe": "", "size": [64, 64], "downsample_ratio": 1.0} | change
    path = tmp_path / "model.safetensors"
    save_file({"x": torch.zeros(1)}, path, metadata={METADATA_KEY: json.dumps(about)})
    with pytest.raises(CheckpointError, match=words) as error:
        load(path)
    assert str(path) in str(error.value)


def test_half_precision_weights_load(unet_file, tmp_path):
    def half(state, about):
        state |= {key: value.half() if value.is_floating_point() else value for key, value in state.items()}

    path = changed(unet_file, tmp_path / "model.safetensors", half)
    assert load(path, factory=FACTORY).norm1.weight.dtype == torch.float32


def test_the_progress_of_recu_comes_back(tmp_path):
    network = convert(RVM(), "recu")
    set_progress(network, 0.5)
    set_progress(network.decoder, 0.25)
    save(network, tmp_path / "model.safetensors")
    again = load(tmp_path)
    progress = {n: layer.progress for n, layer in network.named_modules() if isinstance(layer, BinaryLayer)}
    assert set(progress.values()) == {0.5, 0.25}
    assert progress == {n: layer.progress for n, layer in again.named_modules() if isinstance(layer, BinaryLayer)}
    weight = network.get_submodule("decoder.decode3.conv.0").weight
    grads = []
    for layer in (network.get_submodule("decoder.decode3.conv.0"), again.get_submodule("decoder.decode3.conv.0")):
        x = torch.rand(1, weight.shape[1], 8, 8, generator=torch.Generator().manual_seed(0))
        grads.append(torch.autograd.grad(layer(x).square().sum(), layer.weight)[0])
    assert torch.equal(*grads)


def test_a_file_from_before_the_progress_was_saved_starts_at_0(tmp_path):
    network = convert(RVM(), "recu")
    save(network, tmp_path / "model.safetensors")
    about = read_weights_metadata(tmp_path / "model.safetensors")
    header = json.loads(about.to_header()[METADATA_KEY])
    del header["progress"]
    path = tmp_path / "old.safetensors"
    save_file(load_file(tmp_path / "model.safetensors"), path, metadata={METADATA_KEY: json.dumps(header)})
    assert {layer.progress for layer in load(path).modules() if isinstance(layer, BinaryLayer)} == {0.0}


@pytest.mark.parametrize("version", [0, 1, 2])
def test_xnor_of_an_old_file_computes_what_it_did(tmp_path, version):
    """Up to version 1 scheme xnor was mean|v| sign(v) with v = w - mean(w) per output channel."""
    network = convert(RVM(), "xnor", settings=["backbone.*=bnn"])
    save(network, tmp_path / "model.safetensors")
    header = json.loads(read_weights_metadata(tmp_path / "model.safetensors").to_header()[METADATA_KEY])
    path = tmp_path / "old.safetensors"
    state = load_file(tmp_path / "model.safetensors")
    save_file(state, path, metadata={METADATA_KEY: json.dumps(header | {"version": version})})

    again, name = load(path), "decoder.decode3.conv.0"
    weight = state[f"{name}.weight"]
    v = weight - weight.mean((1, 2, 3), keepdim=True) if version < 2 else weight
    deployed = again.get_submodule(name).deployed()
    assert torch.equal(deployed.weight, torch.where(v >= 0, 1, -1).to(torch.int8))
    torch.testing.assert_close(deployed.multiplier, v.abs().mean((1, 2, 3)))
    other = "backbone.features.2.block.0.0.weight"
    assert torch.equal(again.state_dict()[other], state[other])
