"""PAM's dynamic choice by its exported parts, against the network's own choice."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import binmat
from binmat.errors import InputError, SizeError
from binmat.model_defs.network import Example
from binmat.model_defs.pam import PAM
from binmat.model_defs.pam_body import path_costs
from binmat.transforms.convert import convert

SIZE = (32, 64)


@pytest.fixture(scope="module")
def pam_dynamic() -> ModuleType:
    """The example's file."""
    spec = importlib.util.spec_from_file_location(
        "pam_dynamic", Path(__file__).parents[2] / "examples" / "pam_dynamic.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def undecided(seed: int) -> PAM:
    """A network whose path selection layers see much in the image and in the limit, and prefer neither bit."""
    torch.manual_seed(seed)
    network = PAM().eval()
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None
            module.running_var.uniform_(0.5, 2)
        if name.endswith("estimator.hidden"):
            nn.init.normal_(module.get_parameter("weight"), std=3)
    return network


def inputs() -> tuple[Tensor, Tensor]:
    labels = torch.randint(0, 3, (1, *SIZE))
    return torch.rand(1, 3, *SIZE), nn.functional.one_hot(labels, 3).permute(0, 3, 1, 2).float()


def named_files(network: PAM, path: Path, *, example: Example) -> None:
    """Stands for an export: the file says which part it is."""
    path.write_text(example.mode)


def test_the_files_take_the_networks_paths(
    pam_dynamic: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(binmat, "export", named_files)
    costs = sorted(set(path_costs(*SIZE).values()))
    taken = set()
    for seed in range(3):
        network, (image, trimap) = undecided(seed), inputs()
        pam_dynamic.export_parts(network, tmp_path, image, trimap)
        assert len(list(tmp_path.glob("*.tflite"))) == 5 + 4 * 3

        def load(content: bytes, network: PAM = network) -> Callable[..., list[Tensor]]:
            def run(*args: Any) -> list[Tensor]:
                result = network.run(content.decode(), *args)
                return [result] if isinstance(result, Tensor) else list(result)

            return run

        files = pam_dynamic.PathFiles(tmp_path, load)
        with torch.no_grad():
            for limit in (costs[0], costs[2] + 1, (costs[3] + costs[4]) // 2, costs[-2], costs[-1]):
                alpha, path = files.run(image, trimap, limit / 1e9)
                expected = network.infer(image, trimap, cost_limit=limit / 1e9)
                assert (path,) == expected.paths
                assert files.costs[path] <= limit
                torch.testing.assert_close(alpha, expected.alpha)
                taken.add(path)
    assert len(taken) > 3


def test_the_parts_are_those_of_the_network_with_all_paths() -> None:
    image, trimap = inputs()
    with pytest.raises(InputError, match="pam's path 1011 alone: its parts are those of the whole network"):
        PAM(path="1011").part_examples(image, trimap)
    with pytest.raises(SizeError, match="32x60 does not fit pam"):
        PAM().part_examples(image[..., :60], trimap[..., :60])


def test_an_example_is_what_the_part_gets_on_the_path_of_all_layers() -> None:
    network, (image, trimap) = undecided(0), inputs()
    examples = network.part_examples(image, trimap)
    assert {"matting", *examples} == set(network.modes)
    last = examples["decode_1"]
    with torch.no_grad():
        alpha = network.run("decode_1", *last.inputs.values())
        torch.testing.assert_close(alpha, network(image, trimap))
    assert list(last.inputs) == ["x", "f4", "f2", "image", "trimap"]
    assert all(not example.states for example in examples.values())


@pytest.mark.slow
def test_the_exported_parts_are_verified_and_run_in_the_interpreter(pam_dynamic: ModuleType, tmp_path: Path) -> None:
    network, (image, trimap) = convert(undecided(0), "reactnet"), inputs()
    pam_dynamic.export_parts(network, tmp_path, image, trimap)
    for mode, example in network.part_examples(image, trimap).items():
        if mode.endswith(("_2", "_3", "_4")):  # The stages have the same layers, in other numbers.
            continue
        file = tmp_path / f"{mode}.tflite"
        binmat.verify(network, file, example=example, clips={"photograph": [example.inputs]}).check()
    files = pam_dynamic.PathFiles(tmp_path, pam_dynamic.lce)
    limit = 0.95 * max(files.costs.values()) / 1e9
    alpha, path = files.run(image, trimap, limit)
    with torch.no_grad():
        expected = network(image, trimap, path=path)
        assert network.infer(image, trimap, cost_limit=limit).paths == (path,)
    assert alpha.shape == expected.shape
    assert (alpha - expected).abs().mean() < 0.05
