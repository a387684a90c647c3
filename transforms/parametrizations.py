"""Weights that are computed from other tensors before every call, folded into plain ones."""

from __future__ import annotations

import copy
from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from binmat.errors import TraceError, first_line


def copied(module: nn.Module) -> nn.Module:
    """A copy, also of a module that holds results of a computation (the old weight_norm keeps its weight so).

    Raises TraceError for a module that cannot be copied, and for one whose lazy layers have no weights yet.
    """
    _refuse_lazy(module)
    try:
        return _deep_copy(module)
    except Exception as error:
        raise TraceError(
            f"{type(module).__name__} cannot be copied: {first_line(error)}. Take what cannot out of its attributes"
        ) from error


def _refuse_lazy(module: nn.Module) -> None:
    """Raise TraceError for a layer that makes its weights in its first call, which has not come."""
    for name, part in module.named_modules():
        if any(is_lazy(value) for value in (*part._parameters.values(), *part._buffers.values())):
            raise TraceError(f"'{name}' ({type(part).__name__}) has no weights yet: call the module on an input first")


def _deep_copy(module: nn.Module) -> nn.Module:
    attributes = (value for part in module.modules() for value in vars(part).values())
    results = [value for value in attributes if isinstance(value, Tensor) and not value.is_leaf]
    return copy.deepcopy(module, {id(value): value.detach().clone() for value in results})


def without_parametrizations(module: nn.Module) -> nn.Module:
    """The module with plain weights: those that parametrizations, weight_norm, spectral_norm and pruning give now.

    The module itself where it has none, else a copy. Training goes on with the plain weights. Raises TraceError as
    :func:`copied` does.

    >>> from torch.nn.utils.parametrizations import weight_norm
    >>> sorted(name for name, _ in without_parametrizations(weight_norm(nn.Linear(2, 2))).named_parameters())
    ['bias', 'weight']
    """
    _refuse_lazy(module)
    if not any(parametrize.is_parametrized(part) or any(_old_hooks(part)) for part in module.modules()):
        return module
    module = copied(module)
    for part in list(module.modules()):
        mode = part.training
        # Spectral norm takes another step toward the largest singular value whenever it is read in training.
        part.eval()
        if parametrize.is_parametrized(part):
            # Not with remove_parametrizations: it changes the class, which the copy shares with the original.
            values = {name: getattr(part, name).detach().clone() for name in part.parametrizations}
            plain = parametrize.type_before_parametrizations(part)
            del part._modules["parametrizations"]
            part.__class__ = plain
            for name, value in values.items():
                part.register_parameter(name, nn.Parameter(value))
        for key, hook in list(_old_hooks(part)):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(part, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(part, hook.name)
            else:
                hook.remove(part)
                del part._forward_pre_hooks[key]
        part.training = mode
    return module


def _old_hooks(part: nn.Module) -> Iterator[tuple[int, WeightNorm | SpectralNorm | prune.BasePruningMethod]]:
    """Those of torch.nn.utils.weight_norm, spectral_norm and prune, which compute the weight before each call."""
    kinds = (WeightNorm, SpectralNorm, prune.BasePruningMethod)
    return ((key, hook) for key, hook in part._forward_pre_hooks.items() if isinstance(hook, kinds))
