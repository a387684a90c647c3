"""Larq Compute Engine's compiled interpreter, run in a process of its own and without TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from binmat.backends.lce.interpreter_process import ProcessDiedError, RefusedError, interpreter_process, wrapper_file
from binmat.backends.lce.tflite.reader import TensorInfo, read_model
from binmat.backends.lce.tflite.schema import Array
from binmat.backends.lce.values import from_stored, to_stored
from binmat.errors import ExportError, UnknownNameError

#: Its implementations of the binary convolution, the default first.
KERNELS = ("optimized", "indirect", "reference")

#: Seconds that one frame may take.
TIME_LIMIT = 600.0


class LceInterpreter:
    """Runs a .tflite model with Larq Compute Engine's operators.

    model: the file's content. kernel: the binary convolution to use, one of KERNELS. threads: at least 1. xnnpack:
    whether XNNPACK computes the float operators, as in LCE's benchmark program. time_limit: seconds that one frame may
    take. Each frame runs on a fresh interpreter in another process, so frames know nothing of each other.

    Raises MissingExtraError without the wheel, ExportError where numpy is too new, where the interpreter refuses the
    model or crashes, UnknownNameError for another kernel.
    """

    def __init__(
        self,
        model: bytes,
        kernel: str = "optimized",
        threads: int = 1,
        xnnpack: bool = False,
        time_limit: float = TIME_LIMIT,
    ) -> None:
        if kernel not in KERNELS:
            raise UnknownNameError("kernel of Larq Compute Engine", kernel, KERNELS)
        wrapper_file()
        info = read_model(model)
        self.inputs: list[TensorInfo] = info.inputs
        self.outputs: list[TensorInfo] = info.outputs
        self._model = model
        self._options: dict[str, Any] = {"kernel": kernel, "threads": threads, "xnnpack": xnnpack}
        self._time_limit = time_limit
        _ask(model, [], time_limit, load=True, **self._options)

    def run_stored(self, arrays: Sequence[Array]) -> list[Array]:
        """Run on arrays laid out as in the file (4-D: NHWC). Raises ExportError where number, shape or type differ."""
        if len(arrays) != len(self.inputs):
            names = [info.name for info in self.inputs]
            raise ExportError(f"the model takes {len(names)} inputs, not {len(arrays)}: {names}")
        for info, array in zip(self.inputs, arrays, strict=True):
            if tuple(array.shape) != info.shape or array.dtype != info.dtype:
                raise ExportError(
                    f"input '{info.name}' must be {info.dtype} {list(info.shape)} as stored, "
                    f"not {array.dtype} {list(array.shape)}"
                )
        return _ask(self._model, arrays, self._time_limit, load=False, **self._options)

    def run(self, inputs: Sequence[torch.Tensor | Array]) -> list[torch.Tensor]:
        """Run on tensors as the network takes them: 4-D ones are NCHW, in and out."""
        return [from_stored(array) for array in self.run_stored([to_stored(value) for value in inputs])]


def run_segment(model: bytes, arrays: Sequence[Array], kernel: str) -> list[Array]:
    """Run a model that binmat has just written, on arrays that fit it. Raises ExportError where it does not run."""
    return _ask(model, arrays, TIME_LIMIT, load=False, kernel=kernel, threads=1, xnnpack=False)


def _ask(
    model: bytes, arrays: Sequence[Array], time_limit: float, *, load: bool, kernel: str, **options: Any
) -> list[Array]:
    request = {"kernel": kernel, "load": load, **options}
    try:
        with interpreter_process() as process:
            return process.ask(request, [np.frombuffer(model, np.uint8), *arrays], time_limit)
    except ProcessDiedError as error:
        raise ExportError(
            f"Larq Compute Engine's {kernel} kernel {error} while it {'loaded' if load else 'ran'} the model: "
            "export the file again, for a smaller size if memory or time ran out"
        ) from error
    except RefusedError as error:
        says = "refuses" if load else "cannot run"
        raise ExportError(f"Larq Compute Engine's {kernel} kernel {says} the model: {error}") from error
