"""Checkpoints in the official layouts, filled by `golden_fill`, and the networks that hold them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from golden_fill import fill_one
from torch import Tensor

from binmat.model_defs.network import Network
from binmat.model_defs.registry import build

GOLDEN = Path(__file__).parent / "data" / "golden"


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


def golden(file: str) -> dict[str, Tensor]:
    """The official implementation's outputs."""
    with np.load(GOLDEN / f"{file}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]).double() for key in arrays.files}
