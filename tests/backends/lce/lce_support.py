"""Runs a function in torch and, exported, in Larq Compute Engine's interpreter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lowered_graphs import lowered
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from binmat.backends.lce.backend import LCE
from binmat.backends.lce.interpreter import LceInterpreter
from binmat.backends.lce.model import LceModel
from binmat.backends.lce.writer import write_model
from binmat.verification.file_check import check_file


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


def assert_verified(
    function: Callable[..., Any], *inputs: torch.Tensor, tolerance: float = 2e-5, kernel: str = "optimized"
) -> LceModel:
    """The exported function equals torch's, node by node as verification judges it, and in its outputs.

    tolerance: of float outputs, relative to their range.
    """
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
        recorded = make_fx(function)(*inputs)
    for node in recorded.graph.nodes:
        if node.target is torch.ops.aten.new_empty.default:
            # What is written over is then the same in every run.
            node.target = torch.ops.aten.new_zeros.default
    recorded.recompile()
    # Composed operators work in place inside; these parts are seen in what has been recorded once.
    graph = lowered(functionalize(recorded), *inputs)
    model = LCE.write(graph, kernel)
    frame = dict(zip(graph.inputs, inputs, strict=True))
    run = check_file(LCE, graph, model, [frame], kernel)
    assert not run.failures and run.faithful
    with torch.no_grad():
        expected = pytree.tree_leaves(function(*inputs))
    for wanted, got in zip(expected, LceInterpreter(model.content, kernel).run(inputs), strict=True):
        assert wanted.shape == got.shape
        if wanted.is_floating_point():
            torch.testing.assert_close(
                got, wanted.float(), rtol=0, atol=tolerance * max(float(wanted.abs().max()), 1e-3), equal_nan=True
            )
        else:
            assert torch.equal(wanted, got) and wanted.dtype == got.dtype
    return model
