"""What a network's weights take: by formula and as a saved file."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from binmat.model_defs.network import Network
from binmat.nn import BinaryLayer
from binmat.quantizers import SCALES
from binmat.transforms.executed import called_modules, tensors_read
from binmat.transforms.trace import graphs

#: Bits of a float in storage, whatever the network is held in.
FLOAT_BITS = 32


def stored_bits(network: nn.Module) -> dict[str, int]:
    """Bits that a deployed network has to store, by module, under the first name of each.

    One bit per weight of a binary layer; 32 per float weight, bias, gain and shift of a norm, scale of a binary layer
    (per output channel), threshold per channel, slope and shift of an activation. Left out, as in the BiMatting
    paper's numbers: running statistics and other buffers, and single numbers of a binary layer (a layerwise threshold,
    DoReFa's scale). Parameters that several modules share count once. Of a traced network those count that it reads in
    evaluation: heads for training alone and layers that no call reaches are not deployed.
    """
    seen: set[int] = set()
    bits = {}
    unread = _unread(network)
    for name, module in network.named_modules():
        own = [p for p in module.parameters(recurse=False) if id(p) not in seen and id(p) not in unread]
        seen.update(id(p) for p in own)
        if own:
            bits[name] = sum(p.numel() for p in own) * FLOAT_BITS + _binary_saving(module)
    return bits


def _unread(network: nn.Module) -> set[int]:
    """Identities of the parameters that no graph reads in evaluation; none where there are no graphs."""
    if not isinstance(network, Network) or not graphs(network):
        return set()
    called, read = called_modules(network), tensors_read(network)
    return {
        id(parameter)
        for name, parameter in network.named_parameters()
        if name not in read and name.rpartition(".")[0] not in called
    }


def weight_bits(module: nn.Module) -> int:
    """Bits that one weight of a layer takes."""
    return 1 if isinstance(module, BinaryLayer) else FLOAT_BITS


def as_bytes(bits: int) -> float:
    """Bits as bytes, an int where they are whole."""
    return bits / 8 if bits % 8 else bits // 8


def _binary_saving(module: nn.Module) -> int:
    """Bits (mostly negative) to add to a binary layer's latent floats to get what is stored."""
    if not isinstance(module, BinaryLayer):
        return 0
    saving = (1 - FLOAT_BITS) * module.weight.numel()
    if SCALES[module.scheme.weight.scale_kind].stored_per_channel:
        saving += FLOAT_BITS * module.weight.shape[0]
    if module.scale is not None:
        saving -= FLOAT_BITS * module.scale.numel()
    if module.threshold is not None and module.threshold.numel() == 1:
        saving -= FLOAT_BITS
    return saving


class _Counter:
    """A file that only counts what is written to it."""

    def __init__(self) -> None:
        self.size = 0

    def write(self, data: Any) -> int:
        written = memoryview(data).nbytes
        self.size += written
        return written

    def flush(self) -> None:
        pass


def saved_bytes(network: nn.Module) -> int:
    """Size of the file that torch.save makes of the network's state_dict."""
    file = _Counter()
    torch.save(network.state_dict(), file)  # type: ignore[arg-type]
    return file.size
