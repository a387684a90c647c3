"""Checkpoints in the official layouts, filled by `golden_fill`, and the networks that hold them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from golden_fill import fill, fill_one, noise_image
from torch import Tensor, nn

from binmat.model_defs.network import Network
from binmat.model_defs.registry import build

GOLDEN = Path(__file__).parent / "data" / "golden"

Module = TypeVar("Module", bound=nn.Module)


@cache
def _keys(file: str) -> dict[str, list[Any]]:
    keys: dict[str, list[Any]] = json.loads((GOLDEN / f"{file}.keys.json").read_text())
    return keys


def official_shapes(file: str) -> dict[str, tuple[int, ...]]:
    """{key: shape} of an official state_dict, in its order; file: a golden file's name without its ending."""
    return {key: tuple(shape) for key, (shape, _) in _keys(file).items()}


def official_state(file: str) -> dict[str, Tensor]:
    """An official-layout state_dict with the golden weights."""
    return {key: torch.from_numpy(fill_one(key, shape)) for key, shape in official_shapes(file).items()}


def official_network(file: str, name: str, **config: Any) -> Network:
    """The network `name` with the golden weights, loaded strictly, in float64 and eval mode."""
    network = build(name, **config)
    network.load_state_dict(official_state(file))
    return network.double().eval()


def filled(module: Module) -> Module:
    """The module with the golden weights of its own keys and shapes, in eval mode."""
    module.load_state_dict({key: torch.as_tensor(value) for key, value in fill(module.state_dict()).items()})
    return module.eval()


def golden(file: str) -> dict[str, Tensor]:
    """The official implementation's outputs."""
    with np.load(GOLDEN / f"{file}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]).double() for key in arrays.files}


def assert_golden(file: str, outputs: dict[str, Tensor]) -> set[str]:
    """The outputs are the official implementation's; returns the names of those that were not given."""
    expected = golden(file)
    for key, value in outputs.items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")
    return set(expected) - set(outputs)


def frames(name: str, shape: tuple[int, ...]) -> Tensor:
    """The noise that the official implementation was given under this name, in float64."""
    return torch.from_numpy(noise_image(name, shape)).double()
