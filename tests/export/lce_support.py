"""Runs a function in torch and, exported, in Larq Compute Engine's interpreter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from binmat.export.lce import LceModel, export_lce
from binmat.export.lce_interpreter import Kernel, LceInterpreter
from binmat.transforms import lowered_ops

assert lowered_ops


def lower(function: Callable[..., Any], *inputs: torch.Tensor) -> GraphModule:
    return make_fx(function)(*inputs)


def export(function: Callable[..., Any], inputs: Sequence[torch.Tensor], **options: Any) -> LceModel:
    graph = lower(function, *inputs)
    count = len(pytree.tree_leaves(function(*inputs)))
    return export_lce(graph, None, [f"x{i}" for i in range(len(inputs))], [f"y{i}" for i in range(count)], **options)


def both(
    function: Callable[..., Any],
    *inputs: torch.Tensor,
    kernel: Kernel = "optimized",
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


def signs(*shape: int) -> torch.Tensor:
    """+-1 as int8."""
    return torch.where(torch.randn(shape) >= 0, 1, -1).to(torch.int8)


def dyadic(*shape: int) -> torch.Tensor:
    """Multiples of 1/64 between -4 and 4: their sums and products with small integers are exact in float32."""
    return torch.randint(-256, 257, shape).float() / 64
