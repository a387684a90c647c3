"""Weights that are computed from other tensors before every call, folded into plain ones."""

from __future__ import annotations

import copy
from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


def copied(module: nn.Module) -> nn.Module:
    """A copy, also of a module that holds results of a computation (the old weight_norm keeps its weight so)."""
    attributes = (value for part in module.modules() for value in vars(part).values())
    results = [value for value in attributes if isinstance(value, Tensor) and not value.is_leaf]
    return copy.deepcopy(module, {id(value): value.detach().clone() for value in results})


def without_parametrizations(module: nn.Module) -> nn.Module:
    """The module with the weights that its parametrizations, weight_norm and spectral_norm give now, as parameters.

    The module itself where it has none, else a copy. Training goes on with the plain weights.

    >>> from torch.nn.utils.parametrizations import weight_norm
    >>> sorted(name for name, _ in without_parametrizations(weight_norm(nn.Linear(2, 2))).named_parameters())
    ['bias', 'weight']
    """
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
        for hook in list(_old_hooks(part)):
            remove = remove_weight_norm if isinstance(hook, WeightNorm) else remove_spectral_norm
            remove(part, hook.name)
        part.training = mode
    return module


def _old_hooks(part: nn.Module) -> Iterator[WeightNorm | SpectralNorm]:
    """Those of torch.nn.utils.weight_norm and spectral_norm, which compute the weight before each call."""
    return (hook for hook in part._forward_pre_hooks.values() if isinstance(hook, (WeightNorm, SpectralNorm)))
