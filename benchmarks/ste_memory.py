"""Bytes per activation that binarization keeps for the backward pass, against the same gradient left to autograd.

    python benchmarks/ste_memory.py

First table: sign with each estimator, and what autograd keeps when the estimator is written in the usual way, as the
difference of a detached sign and a differentiable function. Second table: a whole 3x3 binary convolution of each scheme
in training, and a convolution of that usual sign. A convolution keeps its float input, 4 bytes per activation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from tabulate import tabulate
from torch import Tensor
from torch.nn import functional as F

from binmat.nn import BinaryConv2d
from binmat.quantizers import SCHEMES, get_scheme, sign

SHAPE = (2, 32, 72, 128)
CONVOLUTION_BYTES = 4


def kept_bytes(function: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Bytes kept per element of x, in distinct storages. Storages below one bit per element do not count."""
    storages: dict[int, torch.UntypedStorage] = {}

    def record(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        output = function(x)
    assert output.requires_grad
    return sum(s.nbytes() for s in storages.values() if s.nbytes() >= x.numel() / 8) / x.numel()


def autograd_clip(x: Tensor) -> Tensor:
    return detour(x, x.clamp(-1, 1))


def autograd_polynomial(x: Tensor) -> Tensor:
    """Bi-Real Net's piecewise parabola, u (2 - |u|) with u = clamp(x, -1, 1)."""
    u = x.clamp(-1, 1)
    return detour(x, u * (2 - u.abs()))


def autograd_identity(x: Tensor) -> Tensor:
    return detour(x, x)


def detour(x: Tensor, smooth: Tensor) -> Tensor:
    """sign(x) forward, the gradient of ``smooth`` backward."""
    return torch.where(x >= 0, 1.0, -1.0) - smooth.detach() + smooth


def autograd_convolution(naive: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return F.conv2d(naive(x), torch.ones(x.shape[1], x.shape[1], 3, 3, requires_grad=True), padding=1)


AUTOGRAD = {"clip": autograd_clip, "polynomial": autograd_polynomial, "identity": autograd_identity}


def main() -> None:
    torch.manual_seed(0)
    x = torch.randn(SHAPE, requires_grad=True)
    rows = []
    for estimator, naive in AUTOGRAD.items():
        ours, theirs = kept_bytes(partial(sign, estimator=estimator), x), kept_bytes(naive, x)
        rows.append((estimator, ours, theirs, ours / theirs if theirs else None))
    print(tabulate(rows, ("estimator", "bytes", "autograd", "ratio"), floatfmt=".2f", missingval="-"), end="\n\n")

    layers = []
    for name in SCHEMES:
        scheme = get_scheme(name)
        layer = BinaryConv2d(SHAPE[1], SHAPE[1], 3, padding=1, scheme=scheme)
        total = kept_bytes(layer, x)
        theirs = kept_bytes(partial(autograd_convolution, AUTOGRAD[scheme.activation.estimator]), x)
        layers.append((name, total, total - CONVOLUTION_BYTES, theirs, total / theirs))
    headers = ("scheme", "bytes", "beyond the convolution", "autograd", "ratio")
    print(tabulate(layers, headers, floatfmt=".2f"))


if __name__ == "__main__":
    main()
