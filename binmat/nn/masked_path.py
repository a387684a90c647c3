"""Layers whose result counts where a mask says so, the sparse half of BiMatting's SAB."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from binmat.nn.sparse_conv import can_skip, run_at

Execution = Literal["auto", "dense", "sparse"]

#: Up to this share of active pixels skipping is faster than computing everything, on a CPU (benchmarks/sab.py).
PAYS_BELOW = 0.35
#: Smaller maps are computed faster than their active pixels are found.
PAYS_FROM_PIXELS = 2048


class MaskedPath(nn.Sequential):
    """path(x) * mask: SA-BiConv of Eq. 8 (Qin et al., BiMatting, NeurIPS 2023, Sec. 3.3.2).

    Convolutions that keep the size, with their norms and activations. x: [N, C, H, W], mask: [N, 1, H, W] in [0, 1],
    which multiplies the result, so that its fractional values at the border of a region fade the path in.

    execution: ``dense`` computes everything and multiplies; ``sparse`` computes where the mask is not 0
    (:mod:`binmat.nn.sparse_conv`), equal to rounding; ``auto``, the default, skips where that pays: without gradients,
    in evaluation, on a CPU, at a density of at most PAYS_BELOW, outside of tracing and lowering. ``sparse`` falls back
    to dense where skipping is not possible: with gradients, in training, while being recorded, with layers that see
    more than their window.
    """

    is_leaf: ClassVar[bool] = True

    execution: Execution = "auto"

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        return run_at(list(self), x, mask) if self._skips(x, mask) else self.dense(x, mask)

    def dense(self, x: Tensor, mask: Tensor) -> Tensor:
        """The path everywhere, then the mask. Traceable."""
        return super().forward(x) * mask

    def _skips(self, x: Tensor, mask: Tensor) -> bool:
        if self.execution == "dense" or torch.is_grad_enabled() or _is_recorded(x) or not can_skip(self):
            return False
        if self.execution == "sparse":
            return True
        if x.device.type != "cpu" or mask.numel() < PAYS_FROM_PIXELS:
            return False
        return int(mask.count_nonzero()) <= PAYS_BELOW * mask.numel()


def set_execution(network: nn.Module, execution: Execution) -> None:
    """How every masked path of a network runs; see :class:`MaskedPath`."""
    for module in network.modules():
        if isinstance(module, MaskedPath):
            module.execution = execution


@contextmanager
def recorded_density(network: nn.Module) -> Iterator[dict[str, list[float]]]:
    """While it is open, the share of active pixels of each masked path, by name, one number per call."""
    shares: dict[str, list[float]] = {}
    hooks = []
    for name, module in network.named_modules():
        if isinstance(module, MaskedPath):
            seen = shares.setdefault(name, [])

            def note(_: nn.Module, args: tuple[Tensor, ...], seen: list[float] = seen) -> None:
                seen.append(int(args[1].count_nonzero()) / args[1].numel())

            hooks.append(module.register_forward_pre_hook(note))
    try:
        yield shares
    finally:
        for hook in hooks:
            hook.remove()


def _is_recorded(x: Tensor) -> bool:
    """Whether a graph is being made of what runs: data must not decide then."""
    return (
        type(x) not in (Tensor, nn.Parameter)
        or is_in_torch_dispatch_mode()
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # type: ignore[attr-defined]
    )
