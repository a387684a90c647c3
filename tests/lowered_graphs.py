"""Lowered graphs of plain functions, and the values that tests feed them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from binmat.transforms.lowering import binary_operators
from binmat.transforms.lowering.lowered_graph import LoweredGraph

assert binary_operators


def lowered(
    function: Callable[..., Any],
    *values: torch.Tensor,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
) -> LoweredGraph:
    """A function of tensors as a lowered graph; inputs and outputs are x0, x1, ... and y0, y1, ... unless named."""
    module = make_fx(function)(*values)
    count = len(pytree.tree_leaves(module.graph.output_node().args[0]))
    return LoweredGraph(
        module,
        tuple(inputs or (f"x{i}" for i in range(len(values)))),
        tuple(outputs or (f"y{i}" for i in range(count))),
    )


def signs(*shape: int) -> torch.Tensor:
    """+-1 as int8."""
    return torch.where(torch.randn(shape) >= 0, 1, -1).to(torch.int8)


def dyadic(*shape: int) -> torch.Tensor:
    """Multiples of 1/64 between -4 and 4: their sums and products with small integers are exact in float32."""
    return torch.randint(-256, 257, shape).float() / 64
