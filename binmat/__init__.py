"""binmat turns matting networks into 1-bit networks, verifies the exported files, and counts the cost.

The public functions are imported at first use: ``import binmat`` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from binmat import errors as errors
    from binmat.data.inference import matte as matte
    from binmat.errors import BinmatError as BinmatError
    from binmat.model_defs.network import Example as Example
    from binmat.pipeline.convert_checkpoint import convert_checkpoint as convert_checkpoint
    from binmat.pipeline.deployment import export as export
    from binmat.pipeline.deployment import verify as verify
    from binmat.pipeline.matte_clip import matte_clip as matte_clip
    from binmat.quantizers import get_scheme as get_scheme
    from binmat.reports import report as report
    from binmat.transforms.calibrate import calibrate as calibrate
    from binmat.transforms.checkpoint import load as load
    from binmat.transforms.checkpoint import save as save
    from binmat.transforms.convert import convert as convert
    from binmat.transforms.features import features as features
    from binmat.transforms.lowering.lower import lower as lower
    from binmat.transforms.recipe import Recipe as Recipe

__version__ = "0.1.0"

#: Public name -> the module that defines it; errors is a module itself.
_DEFINED_IN = {
    "BinmatError": "binmat.errors",
    "Example": "binmat.model_defs.network",
    "Recipe": "binmat.transforms.recipe",
    "calibrate": "binmat.transforms.calibrate",
    "convert": "binmat.transforms.convert",
    "convert_checkpoint": "binmat.pipeline.convert_checkpoint",
    "errors": "binmat.errors",
    "export": "binmat.pipeline.deployment",
    "features": "binmat.transforms.features",
    "get_scheme": "binmat.quantizers",
    "load": "binmat.transforms.checkpoint",
    "lower": "binmat.transforms.lowering.lower",
    "matte": "binmat.data.inference",
    "matte_clip": "binmat.pipeline.matte_clip",
    "report": "binmat.reports",
    "save": "binmat.transforms.checkpoint",
    "verify": "binmat.pipeline.deployment",
}

__all__ = ["__version__", *_DEFINED_IN]


def __getattr__(name: str) -> Any:
    if name not in _DEFINED_IN:
        raise AttributeError(f"module 'binmat' has no attribute '{name}'")
    module = importlib.import_module(_DEFINED_IN[name])
    return globals().setdefault(name, module if name == "errors" else getattr(module, name))


def __dir__() -> list[str]:
    return sorted({*globals(), *_DEFINED_IN})
