"""What the recurrent layers of torch.nn multiply: RNN, GRU, LSTM and their cells."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from torch.utils._pytree import tree_leaves

from .call_recorder import Call


def recurrent_macs(call: Call) -> int:
    """Each weight, of every layer and direction, meets each step of each sequence once. The gates' products are not
    sums."""
    return _steps(call) * sum(tensor.numel() for tensor in _parameters(call) if tensor.dim() == 2)


def recurrent_biases(call: Call) -> int:
    """Each bias is added once per step: the layers have one for the input and one for the state."""
    return _steps(call) * sum(tensor.numel() for tensor in _parameters(call) if tensor.dim() == 1)


def _steps(call: Call) -> int:
    return call.input.numel() // call.input.shape[-1]


def _parameters(call: Call) -> Iterable[Tensor]:
    if call.module is not None:
        return call.module.parameters()
    # Behind the input and the state.
    given = [call.args[2:], {name: value for name, value in call.kwargs.items() if name not in ("input", "hx")}]
    return [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]
