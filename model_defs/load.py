"""From a checkpoint file to a network: recognise it by its keys, build it, fill it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from binmat.errors import CheckpointError
from binmat.model_defs.checkpoint_file import is_converted, load_state, shown
from binmat.model_defs.network import Network
from binmat.model_defs.registry import NETWORKS, build, get_spec

__all__ = ["fill", "is_converted", "load", "load_from_state", "load_state"]

_SHOWN = 3


def load(path: str | os.PathLike[str], network: str | None = None, strict: bool = True) -> Network:
    """The float network that a checkpoint holds, in eval mode, its floating-point weights as float32.

    network: a name of the registry; None recognises the network by its keys and shapes.
    strict: every tensor of the network must be in the file and no other; where it is False, tensors of the network
    that the file lacks keep their fresh values, others are left out, and a warning names both. Batch norm's counter
    ``num_batches_tracked``, which old files lack, starts at 0.

    Raises CheckpointError for a file that :func:`load_state` cannot read, that holds another network or a converted
    one, or whose tensors are missing, left over, misshapen, not finite, or of integers where the network has floats;
    UnknownNameError for an unknown name.
    """
    if network is not None:
        get_spec(network)
    if is_converted(path):
        raise CheckpointError(f"{path} holds a network that binmat converted: open it with binmat.load")
    return load_from_state(load_state(path), path, network, strict)


def load_from_state(
    state: Mapping[str, Tensor], path: str | os.PathLike[str], network: str | None = None, strict: bool = True
) -> Network:
    """:func:`load` for a state_dict that is read already; path names it in errors."""
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    found = {name: config for name, spec in NETWORKS.items() if (config := spec.recognise(shapes)) is not None}
    if not found and network is None:
        raise CheckpointError(f"{path} holds none of the networks binmat knows: {_closest(shapes)}")
    name = network or next(iter(found))
    if found and name not in found:
        other = next(iter(found))
        raise CheckpointError(f"{path} holds {other}, not {name}: ask for {other}, or pass a file of {name}")
    net = build(name, **found.get(name, {}))
    fill(net, net.normalise_keys(state), path, strict)
    return net.eval()


def _closest(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Which known network shares most tensors with these, in words."""
    best, most, total = "", 0, 0
    for name, spec in NETWORKS.items():
        with torch.device("meta"):
            own = {key: tuple(value.shape) for key, value in spec.build(**spec.config).state_dict().items()}
        shared = sum(shapes.get(key) == shape for key, shape in own.items())
        if shared > most:
            best, most, total = name, shared, len(own)
    advice = "for a network of your own, build it in Python and pass it to binmat.convert"
    if not best:
        return f"it shares no tensor with {', '.join(NETWORKS)}; {advice}"
    return f"the closest is {best}, with {most} of whose {total} tensors it agrees; {advice}"


def fill(net: Network, state: Mapping[str, Tensor], path: str | os.PathLike[str], strict: bool = True) -> None:
    """Load tensors under the network's own keys, checked as :func:`load` says. Raises CheckpointError."""
    own = net.state_dict()
    missing = [key for key in own if key not in state and not key.endswith(".num_batches_tracked")]
    extra = [key for key in state if key not in own]
    misshapen = [key for key in own if key in state and state[key].shape != own[key].shape]
    reshaped = [f"{key} is {list(state[key].shape)} instead of {list(own[key].shape)}" for key in misshapen]
    named = {"misshapen": reshaped, "missing": missing, "left over": extra}
    faults = [f"{len(names)} {fault} ({_few(names)})" for fault, names in named.items() if names]
    if misshapen or (strict and faults):
        raise CheckpointError(
            f"{path} does not fit {net.name}, of its tensors {', '.join(faults)}: "
            "pass a checkpoint of exactly this network"
        )
    if faults:
        warnings.warn(f"{path} does not fit {net.name} exactly: {', '.join(faults)}", stacklevel=4)
    net.load_state_dict({key: _value(key, state.get(key), value, path) for key, value in own.items()})


def _value(key: str, stored: Tensor | None, own: Tensor, path: str | os.PathLike[str]) -> Tensor:
    """The stored tensor in the network's type, or what the network has where the file lacks it."""
    if stored is None:
        return own
    if stored.layout is not torch.strided or stored.is_quantized or stored.is_complex():
        kind = "quantized" if stored.is_quantized else f"{stored.layout} {stored.dtype}".replace("torch.", "")
        raise CheckpointError(
            f"{path}: {key} is a {kind} tensor: save the weights dense and real, for example as float32"
        )
    if own.is_floating_point() and not stored.is_floating_point():
        raise CheckpointError(
            f"{path}: {key} holds {str(stored.dtype).removeprefix('torch.')} numbers, and how they scale to weights is "
            "not in the file: save the weights as float32, before they are quantized"
        )
    value = stored.to(own.dtype)
    check_values(key, value, path)
    return value


def check_values(key: str, value: Tensor, path: str | os.PathLike[str]) -> None:
    """Raise CheckpointError for a tensor whose numbers no network has: NaN, infinity, a variance below 0."""
    if not value.isfinite().all():
        fault = f"{int((~value.isfinite()).sum())} of {value.numel()} values that are NaN or infinite in float32"
    elif key.endswith("running_var") and (value < 0).any():
        fault = f"{int((value < 0).sum())} of {value.numel()} variances below 0, down to {float(value.min()):g}"
    else:
        return
    raise CheckpointError(f"{path}: {key} has {fault}: pass a checkpoint from before the training diverged")


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(shown, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")
