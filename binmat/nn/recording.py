"""Whether a graph is being recorded, in which nothing may depend on the values of tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode


def is_recorded(x: Tensor) -> bool:
    """Whether a graph is being recorded by operations on this tensor."""
    return (
        type(x) not in (Tensor, nn.Parameter)
        # Of this thread; torch's own question is_in_torch_dispatch_mode() also hears of other threads' modes.
        or _get_current_dispatch_mode() is not None
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # type: ignore[attr-defined]
    )
