"""The deployment graph as model files, and their verification.

The package stands for its main function as well: ``binmat.export(network, "model.tflite")`` is
:func:`binmat.export.deployment.export`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    """A package that can be called: importing it puts it where ``binmat`` has the function of the same name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from binmat.export.deployment import export

        return export(*args, **kwargs)


sys.modules[__name__].__class__ = _Room
