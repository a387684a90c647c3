"""The function that builds a network which the registry does not know, by its name ``module:function``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from torch import nn

from binmat.errors import BinmatError, CheckpointError, first_line
from binmat.model_defs.network import Example


def build_by_factory(factory: str) -> tuple[nn.Module, Example | None]:
    """The float module that a function of the user's gives, and its example inputs where the function gives them too.

    factory: ``package.module:function``. The module is imported and the function called without arguments; it returns
    the module, or (module, :class:`Example`) where the call is other than one image. That runs the user's code.
    Raises CheckpointError for a function that cannot be imported, that fails, or that returns something else.
    """
    try:
        made = _function(factory)()
    except BinmatError:
        raise
    except Exception as error:
        raise CheckpointError(f"factory '{factory}' fails: {type(error).__name__}: {first_line(error)}") from error
    module, example = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, nn.Module) or not (example is None or isinstance(example, Example)):
        raise CheckpointError(
            f"factory '{factory}' returned {type(made).__name__}: it must return a torch.nn.Module or (module, Example)"
        )
    return module, example


def _function(factory: str) -> Callable[[], Any]:
    module, _, name = factory.partition(":")
    if not module or not name.isidentifier() or module == "__main__":
        raise CheckpointError(
            f"factory '{factory}' is not 'module:function': name a function of a file that other programs can import"
        )
    try:
        function: Callable[[], Any] = getattr(importlib.import_module(module), name)
    except (ImportError, ValueError, AttributeError) as error:
        raise CheckpointError(f"factory '{factory}' cannot be imported ({error}): see PYTHONPATH") from error
    return function
