"""The schema module of Larq Compute Engine's wheel, which the writer does not use."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any


@cache
def official() -> ModuleType:
    """The schema's generated classes."""
    package = importlib.util.find_spec("larq_compute_engine")
    assert package is not None and package.submodule_search_locations
    path = Path(package.submodule_search_locations[0], "mlir", "python", "tflite_schema.py")
    spec = importlib.util.spec_from_file_location("tflite_schema", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parse(content: bytes) -> Any:
    """A file as objects."""
    return official().ModelT.InitFromObj(official().Model.GetRootAsModel(content, 0))
