"""Runs a function in torch and, exported, in Larq Compute Engine's interpreter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lowered_graphs import lowered
from torch.utils import _pytree as pytree

from binmat.backends.lce.backend import LCE
from binmat.backends.lce.interpreter import LceInterpreter
from binmat.backends.lce.model import LceModel
from binmat.backends.lce.writer import write_model


def export(
    function: Callable[..., Any], inputs: Sequence[torch.Tensor], portable: bool = False, fused: bool = True
) -> LceModel:
    """The function as a model. fused: whether binary convolutions may write bits."""
    graph = lowered(function, *inputs)
    return LCE.write(graph, "reference" if portable else None) if fused else write_model(graph, portable=portable)


def both(
    function: Callable[..., Any],
    *inputs: torch.Tensor,
    kernel: str = "optimized",
    xnnpack: bool = False,
    **options: Any,
) -> tuple[list[torch.Tensor], list[torch.Tensor], LceModel]:
    """torch's outputs, the exported model's outputs, the model."""
    model = export(function, inputs, **options)
    with torch.no_grad():
        expected = pytree.tree_leaves(function(*inputs))
    return expected, LceInterpreter(model.content, kernel, xnnpack=xnnpack).run(inputs), model


def assert_same(
    function: Callable[..., Any], *inputs: torch.Tensor, tolerance: float = 2e-6, **options: Any
) -> LceModel:
    """The exported function equals torch's, relative to each output's range. Tolerance 0 is bit-exact."""
    expected, actual, model = both(function, *inputs, **options)
    assert len(expected) == len(actual)
    for wanted, got in zip(expected, actual, strict=True):
        assert wanted.shape == got.shape and wanted.dtype == got.dtype
        if wanted.dtype == torch.bool or tolerance == 0:
            assert torch.equal(wanted, got)
        else:
            span = max(float(wanted.abs().max()), 1e-3)
            assert float((wanted - got).abs().max()) <= tolerance * span
    return model
