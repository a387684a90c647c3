"""A file against a fresh export of the network that it should hold."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

import binmat
from binmat.backends.lce import metadata, same_file
from binmat.backends.lce.backend import LCE
from binmat.backends.lce.tflite.contents import read_contents
from binmat.backends.lce.tflite.reader import read_model
from binmat.errors import ExportError, VerificationError
from binmat.pipeline.deployment import Deployment, deploy

OTHER = "binmat 0.0.1, torch 2.1.0, DEFAULT"


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1))
    return binmat.convert(layers, "bnn", size=(9, 10)).eval()


@pytest.fixture(scope="module")
def deployment(network: nn.Module) -> Deployment:
    return deploy(network)


def written_elsewhere(content: bytes) -> bytes:
    """The same file as another machine would have written it."""
    about = json.loads(read_model(content).metadata["binmat"])
    other = OTHER.ljust(len(about["written_by"]))
    assert len(other) == len(about["written_by"])
    changed = content.replace(about["written_by"].encode(), other.encode())
    return metadata.with_checksum(changed.replace(about["sha256"].encode(), b"0" * 64))


def with_first_weight(content: bytes, change: float) -> bytes:
    """The file with the first weight of its first convolution moved by a share of itself, and a right checksum."""
    weight = next(t.data for t in read_contents(content).tensors if t.data is not None and t.shape == (8, 3, 3, 3))
    moved = weight.copy()
    moved.flat[0] *= 1 + change
    assert moved.flat[0] != weight.flat[0]
    changed = content.replace(weight.tobytes(), moved.tobytes())
    about = json.loads(read_model(content).metadata["binmat"])
    return metadata.with_checksum(changed.replace(about["sha256"].encode(), b"0" * 64))


def test_export_is_deterministic(network: nn.Module, deployment: Deployment) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        again = deploy(network)
    finally:
        torch.set_num_threads(threads)
    assert again.model.content == deployment.model.content
    assert LCE.model_of_file(again.model.content, deployment.model) is deployment.model


def test_every_flipped_bit_is_noticed(deployment: Deployment) -> None:
    content = deployment.model.content
    generator = np.random.default_rng(0)
    named = 0
    for place in generator.integers(0, 8 * len(content), 200):
        broken = bytearray(content)
        broken[place // 8] ^= 1 << (place % 8)
        with pytest.raises(binmat.BinmatError) as caught:
            LCE.model_of_file(bytes(broken), deployment.model)
        assert "\n" not in str(caught.value)
        named += "tensor '" in str(caught.value)
    assert named > 50


def test_other_weights_are_named(network: nn.Module, deployment: Deployment) -> None:
    weight = network.get_submodule("0").weight
    with torch.no_grad():
        weight[0, 0, 0, 0] += 1e-6
        other = deploy(network).model.content
        weight[0, 0, 0, 0] -= 1e-6
    with pytest.raises(VerificationError, match=r"not the export of this network: tensor '0/.*' differs in 1 of 216 "):
        deployment.verify(other)


def test_rounding_of_another_machine_passes_and_is_told(deployment: Deployment) -> None:
    content = with_first_weight(written_elsewhere(deployment.model.content), 1e-7)
    found = deployment.verify(content)
    found.check()
    assert not found.as_written and "Another machine's rounding" in str(found)
    model = LCE.model_of_file(content, deployment.model)
    constants = [t.data.tobytes() for t in model.builder.tensors if t.data is not None]
    assert constants != [t.data.tobytes() for t in deployment.model.builder.tensors if t.data is not None]


def test_more_than_rounding_does_not_pass(deployment: Deployment) -> None:
    content = with_first_weight(written_elsewhere(deployment.model.content), 1e-3)
    with pytest.raises(VerificationError, match=rf"tensor '0/.*' differs .*written by {OTHER}"):
        deployment.verify(content)


def test_the_same_machine_rounds_alike(deployment: Deployment) -> None:
    content = with_first_weight(deployment.model.content, 1e-7)
    with pytest.raises(VerificationError, match=r"not the export of this network: tensor '0/.*' differs in 1 of 216"):
        deployment.verify(content)


def test_another_structure_is_named(deployment: Deployment) -> None:
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1))
    other = deploy(binmat.convert(layers, "bnn", size=(9, 10)).eval()).model.content
    with pytest.raises(VerificationError, match=r"operator 0 \(CONV_2D\) has activation 3, not 1"):
        deployment.verify(other)


def test_a_file_of_something_else_is_refused(deployment: Deployment) -> None:
    content = deployment.model.content.replace(b"binmat", b"benmat")
    with pytest.raises(VerificationError, match="does not say which binmat wrote it"):
        deployment.verify(content)
    with pytest.raises(ExportError, match="not a TensorFlow Lite model"):
        deployment.verify(b"something else")


def test_what_is_not_a_constant_is_compared_too(deployment: Deployment) -> None:
    contents = read_contents(deployment.model.content)
    builder = deployment.model.builder
    named = [(name, next(i for i, t in enumerate(builder.tensors) if t.name == name)) for name, _ in contents.inputs]
    outputs = [(name, next(i for i, t in enumerate(builder.tensors) if t.name == name)) for name, _ in contents.outputs]
    same = builder.build(named, outputs)
    assert [*same_file.differences(read_contents(same), contents, 0.0)] == []
    renamed = builder.build([("other", named[0][1])], outputs)
    assert "its inputs are called other" in next(same_file.differences(read_contents(renamed), contents, 0.0))
