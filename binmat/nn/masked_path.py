"""Layers whose result counts only where a mask says so: the sparse half of BiMatting's sparse-assisted block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from binmat.nn.recording import is_recorded
from binmat.nn.sparse_conv import can_skip, run_at

Execution = Literal["auto", "dense", "sparse"]

#: Up to this share of active pixels skipping is faster than computing everything, on a CPU (benchmarks/sab.py).
PAYS_BELOW = 0.35
#: Smaller maps are computed faster than their active pixels are found.
PAYS_FROM_PIXELS = 2048


class MaskedPath(nn.Sequential):
    """path(x) * mask: SA-BiConv of Eq. 8 (Qin et al., BiMatting, NeurIPS 2023, Sec. 3.3.2).

    The path is convolutions that keep the size, with their norms and activations. x: [N, C, H, W]; mask:
    [N, 1, H, W] in [0, 1].

    execution: ``dense`` computes everything and multiplies. ``sparse`` computes only where the mask is not 0
    (:mod:`binmat.nn.sparse_conv`), with the same result up to rounding. That is not possible with gradients, in
    training, while a graph is recorded, or with layers that see more than their window: those run dense. ``auto``, the
    default, is sparse where it pays: on a CPU, at a density of at most PAYS_BELOW.
    """

    is_leaf: ClassVar[bool] = True

    execution: Execution = "auto"

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        return run_at(list(self), x, mask) if self._skips(x, mask) else self.dense(x, mask)

    def dense(self, x: Tensor, mask: Tensor) -> Tensor:
        """The path everywhere, then the mask. Traceable."""
        return super().forward(x) * mask

    def _skips(self, x: Tensor, mask: Tensor) -> bool:
        if self.execution == "dense" or torch.is_grad_enabled() or is_recorded(x) or not can_skip(self):
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
    """Name of a masked path -> its share of active pixels, one number per call while the context is open."""
    paths = {name: module for name, module in network.named_modules() if isinstance(module, MaskedPath)}
    shares: dict[str, list[float]] = {name: [] for name in paths}
    with ExitStack() as hooks:
        for name, path in paths.items():

            def note(_: nn.Module, args: tuple[Tensor, ...], seen: list[float] = shares[name]) -> None:
                seen.append(int(args[1].count_nonzero()) / args[1].numel())

            hooks.enter_context(path.register_forward_pre_hook(note))
        yield shares
