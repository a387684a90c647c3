"""binmat turns matting networks into 1-bit networks, checks that what ships computes the same, and counts the cost.

The public functions live in their rooms and are loaded at first use: ``import binmat`` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from binmat.errors import BinmatError as BinmatError

__version__ = "0.1.0"

#: Public name -> the module that defines it.
_HOMES = {
    "BinmatError": "binmat.errors",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'binmat' has no attribute '{name}'")
    module = importlib.import_module(_HOMES[name])
    # Where a room has its function's name, the import has bound the room, and the room can be called.
    return globals().setdefault(name, getattr(module, name))


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
