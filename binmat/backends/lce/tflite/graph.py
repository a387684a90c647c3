"""The parts of a model: tensors, and the operators that compute them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from binmat.backends.lce.tflite.schema import Array, DType


@dataclass
class Tensor:
    """A tensor of the file. shape: as stored; data: the value of a constant, None for what operators compute."""

    name: str
    shape: tuple[int, ...]
    dtype: DType
    data: Array | None = None


@dataclass
class Operator:
    """One operator. kind: a key of BUILTINS, or the code of a custom operator. Tensor -1 is an input left out."""

    kind: str
    inputs: list[int]
    outputs: list[int]
    options: dict[str, Any] = field(default_factory=dict)
    custom: bool = False
    version: int | None = None
