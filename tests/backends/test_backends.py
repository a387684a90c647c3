"""The seam between lowered graphs and model files, shown by a backend that is not in the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import toy_backend
from torch import nn
from toy_backend import ToyBackend

import binmat
from binmat.backends.registry import BACKENDS, backend_of, get_backend
from binmat.errors import UnknownNameError, VerificationError
from binmat.pipeline.deployment import deploy
from binmat.transforms.trace import trace


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> ToyBackend:
    """The one line that a new backend adds to the registry."""
    backend = ToyBackend()
    monkeypatch.setitem(BACKENDS, backend.name, backend)
    return backend


@pytest.fixture
def network() -> nn.Module:
    float_network = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 1, 1), nn.Sigmoid(),
    )  # fmt: skip
    return binmat.convert(float_network, "reactnet", size=(13, 18)).eval()


def test_a_new_backend_exports_and_verifies(toy: ToyBackend, network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "model.toy.npz"
    binmat.export(network, path, (13, 18))
    verification = binmat.verify(network, path, (13, 18))
    verification.check()
    assert {clip for clip, _ in verification.runs} == {"photograph"}
    assert {"toy", "toy, photograph", "toy, wide values"} <= verification.summary().keys()
    assert "(in the toy; inputs: photograph)" in str(verification)
    assert {node.operator for node in verification.alone} >= {"aten.relu.default", "aten.sigmoid.default"}
    [run] = {tuple(sorted({node.kind for node in run.nodes})) for run in verification.runs.values()}
    assert run == ("sign", "sum", "value")


@pytest.mark.parametrize(
    ("operator", "wrong"),
    [
        ("aten.relu.default", lambda x: np.minimum(np.maximum(x, 0), 0.5)),
        ("binmat.binarize.default", lambda x, t: np.where(x + t.reshape(-1, 1, 1) <= x.mean(), -1, 1)),
        ("aten._prelu_kernel.default", lambda x, slope: np.where(x >= 0, x, x * slope * 0.99)),
    ],
)
def test_a_wrong_operator_is_caught(
    toy: ToyBackend, network: nn.Module, monkeypatch: pytest.MonkeyPatch, operator: str, wrong: object
) -> None:
    monkeypatch.setitem(toy_backend.OPERATORS, operator, wrong)
    with pytest.raises(VerificationError, match=rf"on photograph, the toy: layer '.*' \({operator}\) differs"):
        deploy(network, (13, 18), format="toy").verify().check()


def test_a_file_whose_values_cannot_be_read_is_not_verified(
    toy: ToyBackend, network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = deploy(network, (13, 18), format="toy")
    monkeypatch.setattr(deployment.model, "stored", {})
    with pytest.raises(VerificationError, match="no operator was compared"):
        deployment.verify().check()


def test_an_input_that_is_handed_on_is_compared(toy: ToyBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    class HandsOn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 1, 1)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.conv(x), x

    monkeypatch.setitem(toy_backend.OPERATORS, "aten.alias.default", lambda x: x)
    network, run = trace(HandsOn()).eval(), toy_backend.ToyModel.run
    deploy(network, (4, 5), format="toy").verify().check()
    monkeypatch.setattr(toy_backend.ToyModel, "run", lambda self, inputs: [run(self, inputs)[0], inputs[0] + 9])
    with pytest.raises(VerificationError, match="outputs are not those of the network"):
        deploy(network, (4, 5), format="toy").verify().check()


def test_a_wrong_constant_in_the_file_is_caught(toy: ToyBackend, network: nn.Module) -> None:
    deployment = deploy(network, (13, 18), format="toy")
    with torch.no_grad():
        network.get_submodule("9").bias += 1
    other = deploy(network, (13, 18), format="toy").model.content
    with pytest.raises(VerificationError, match=r"is not the export of this network: constant '.*' differs"):
        deployment.verify(other)


def test_formats_and_suffixes(toy: ToyBackend) -> None:
    assert get_backend("toy") is toy and backend_of("out/model.toy.npz") is toy
    assert backend_of("model.tflite").name == "lce"
    with pytest.raises(UnknownNameError, match=r"no export format is called 'lse': did you mean 'lce'\?"):
        get_backend("lse")
    with pytest.raises(UnknownNameError, match=r"no model file suffix is called '.npz'"):
        backend_of("model.npz")
