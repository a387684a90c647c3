"""The program of the process that Larq Compute Engine's interpreter runs in, and how its messages travel.

The interpreter may crash on a damaged file, and on the second frame of one interpreter. So it runs in a process of its
own, and every frame gets a fresh interpreter. This file is run by its path and imports numpy alone: such a process
starts in a fifth of a second.

A message is a JSON object and arrays. The process answers each request {model, threads, kernel, xnnpack} with the
model's outputs, or with {error}; arrays[0] of a request is the model's content, the others are its inputs. A request
with {load: true} has no inputs, and its answer no outputs.
"""

from __future__ import annotations

import importlib.util
import json
import os
import struct
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

try:
    import resource
except ImportError:  # Windows sets no limits.
    resource = None  # type: ignore[assignment]

Array = npt.NDArray[Any]

#: The name that the extension module was compiled with.
MODULE = "larq_compute_engine.tflite.python.interpreter_wrapper_lite"

_LENGTH = struct.Struct("<Q")


def send(stream: IO[bytes], message: Mapping[str, Any], arrays: Sequence[Array] = ()) -> None:
    """Write a message. Raises OSError where the other side is gone."""
    described = [(array.dtype.str, array.shape) for array in arrays]
    header = json.dumps({**message, "arrays": described}).encode()
    stream.write(_LENGTH.pack(len(header)) + header)
    for array in arrays:
        stream.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], list[Array]]:
    """Read a message. Raises EOFError where the other side is gone."""
    (length,) = _LENGTH.unpack(_read(stream, np.empty(_LENGTH.size, np.uint8)))
    message = json.loads(bytes(_read(stream, np.empty(length, np.uint8))))
    arrays = [np.empty(shape, dtype) for dtype, shape in message.pop("arrays")]
    for array in arrays:
        _read(stream, array.reshape(-1).view(np.uint8))
    return message, arrays


def _read(stream: IO[bytes], into: Array) -> memoryview:
    """Fill the bytes of an array."""
    view = into.data
    done = 0
    while done < len(view):
        count = stream.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError("the other side has closed the pipe")
        done += count
    return view


def load_wrapper(path: str) -> ModuleType:
    """Import the interpreter's extension module from its file."""
    spec = importlib.util.spec_from_file_location(MODULE, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _answer(wrapper: ModuleType, request: Mapping[str, Any], arrays: Sequence[Array]) -> list[Array]:
    """The model's outputs, by an interpreter that lives for this request only."""
    content, kernel = arrays[0].tobytes(), request["kernel"]
    interpreter = wrapper.LiteInterpreter(
        content, request["threads"], kernel == "reference", kernel == "indirect", request["xnnpack"]
    )
    return [] if request["load"] else list(interpreter.predict(list(arrays[1:])))


def limit_memory() -> None:
    """Let an allocation of more than half the machine's memory fail: damaged files ask for any amount."""
    half = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    resource.setrlimit(resource.RLIMIT_AS, (half, half))


def main(wrapper_file: str) -> None:
    """Answer requests on stdin until it closes."""
    if resource is not None:
        limit_memory()
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # What the interpreter prints must not get between the answers.
    wrapper = load_wrapper(wrapper_file)
    while True:
        try:
            request, arrays = receive(requests)
        except EOFError:
            return
        try:
            outputs = _answer(wrapper, request, arrays)
        except (RuntimeError, ValueError, MemoryError) as error:
            send(answers, {"error": str(error).strip() or type(error).__name__})
        else:
            send(answers, {}, outputs)
        del arrays


if __name__ == "__main__":
    main(sys.argv[1])
