"""binmat turns matting networks into 1-bit networks, checks that what ships computes the same, and counts the cost.

The public functions live in their rooms and are loaded at first use: ``import binmat`` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from binmat import errors as errors
    from binmat.data.inference import matte as matte
    from binmat.errors import BinmatError as BinmatError
    from binmat.model_defs.network import Example as Example
    from binmat.pipeline.deployment import export as export
    from binmat.pipeline.deployment import verify as verify
    from binmat.quantizers import get_scheme as get_scheme
    from binmat.reports import report as report
    from binmat.transforms.checkpoint import load as load
    from binmat.transforms.checkpoint import save as save
    from binmat.transforms.convert import convert as convert
    from binmat.transforms.lowering.lower import lower as lower
    from binmat.transforms.recipe import Recipe as Recipe

__version__ = "0.1.0"

#: Public name -> the module that defines it, or that it is.
_HOMES = {
    "BinmatError": "binmat.errors",
    "Example": "binmat.model_defs.network",
    "Recipe": "binmat.transforms.recipe",
    "convert": "binmat.transforms.convert",
    "errors": "binmat.errors",
    "export": "binmat.pipeline.deployment",
    "get_scheme": "binmat.quantizers",
    "load": "binmat.transforms.checkpoint",
    "lower": "binmat.transforms.lowering.lower",
    "matte": "binmat.data.inference",
    "report": "binmat.reports",
    "save": "binmat.transforms.checkpoint",
    "verify": "binmat.pipeline.deployment",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'binmat' has no attribute '{name}'")
    module = importlib.import_module(_HOMES[name])
    value = module if module.__name__ == f"binmat.{name}" else getattr(module, name)
    # A room that has its function's name is bound by the import itself, and can be called like the function.
    return globals().setdefault(name, value)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
