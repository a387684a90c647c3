"""Larq Compute Engine's compiled interpreter, loaded from its wheel without TensorFlow.

The wheel's package imports its converter, and that imports TensorFlow. The interpreter itself is one extension
module that needs neither, so it is loaded from its file under the name it was compiled with.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from binmat.backends.lce.tflite.reader import TensorInfo, read_model
from binmat.backends.lce.tflite.schema import Array
from binmat.backends.lce.values import from_stored, to_stored
from binmat.errors import ExportError, MissingExtraError, UnknownNameError

#: Its implementations of the binary convolution, the default first.
KERNELS = ("optimized", "indirect", "reference")

#: The name that the extension module was compiled with.
MODULE = "larq_compute_engine.tflite.python.interpreter_wrapper_lite"


@cache
def load_wrapper() -> ModuleType:
    """The extension module, loaded once. Raises MissingExtraError without the wheel, ExportError with numpy 2."""
    if MODULE in sys.modules:
        return sys.modules[MODULE]
    package = importlib.util.find_spec("larq_compute_engine")
    if package is None or not package.submodule_search_locations:
        raise MissingExtraError("running a Larq Compute Engine model", "lce", "larq-compute-engine")
    if int(np.__version__.split(".")[0]) >= 2:
        raise ExportError(
            f"Larq Compute Engine's interpreter cannot read arrays of numpy {np.__version__}: pip install 'numpy<2'"
        )
    folder = Path(package.submodule_search_locations[0], "tflite", "python")
    found = sorted(folder.glob("interpreter_wrapper_lite*.so")) + sorted(folder.glob("interpreter_wrapper_lite*.pyd"))
    if not found:
        raise MissingExtraError("running a Larq Compute Engine model", "lce", "larq-compute-engine")
    spec = importlib.util.spec_from_file_location(MODULE, found[0])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class LceInterpreter:
    """Runs a .tflite model with Larq Compute Engine's operators.

    model: the file's content. kernel: the binary convolution to use, one of KERNELS. threads: at least 1. xnnpack:
    whether XNNPACK computes the float operators, as in LCE's benchmark program. Raises MissingExtraError without the
    wheel, ExportError where numpy is too new or the interpreter refuses the model, UnknownNameError for another kernel.
    """

    def __init__(self, model: bytes, kernel: str = "optimized", threads: int = 1, xnnpack: bool = False) -> None:
        if kernel not in KERNELS:
            raise UnknownNameError("kernel of Larq Compute Engine", kernel, KERNELS)
        wrapper = load_wrapper()
        info = read_model(model)
        self.inputs: list[TensorInfo] = info.inputs
        self.outputs: list[TensorInfo] = info.outputs
        try:
            self._interpreter: Any = wrapper.LiteInterpreter(
                model, threads, kernel == "reference", kernel == "indirect", xnnpack
            )
        except RuntimeError as error:
            raise ExportError(
                f"Larq Compute Engine's {kernel} kernel refuses the model, stderr says why ({_first_line(error)})"
            ) from error

    def run_stored(self, arrays: Sequence[Array]) -> list[Array]:
        """Run on arrays laid out as in the file (4-D: NHWC). Raises ExportError where number, shape or type differ."""
        if len(arrays) != len(self.inputs):
            names = [info.name for info in self.inputs]
            raise ExportError(f"the model takes {len(names)} inputs, not {len(arrays)}: {names}")
        prepared = []
        for info, array in zip(self.inputs, arrays, strict=True):
            if tuple(array.shape) != info.shape or array.dtype != info.dtype:
                raise ExportError(
                    f"input '{info.name}' must be {info.dtype} {list(info.shape)} as stored, "
                    f"not {array.dtype} {list(array.shape)}"
                )
            prepared.append(np.asarray(array, order="C"))
        try:
            return list(self._interpreter.predict(prepared))
        except RuntimeError as error:
            raise ExportError(f"Larq Compute Engine cannot run the model: {_first_line(error)}") from error

    def run(self, inputs: Sequence[torch.Tensor | Array]) -> list[torch.Tensor]:
        """Run on tensors as the network takes them: 4-D ones are NCHW, in and out."""
        return [from_stored(array) for array in self.run_stored([to_stored(value) for value in inputs])]


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
