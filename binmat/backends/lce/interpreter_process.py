"""Processes that Larq Compute Engine's interpreter runs in: started when needed, used again, replaced when one dies."""

from __future__ import annotations

import atexit
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from binmat.allocator import ENVIRONMENT
from binmat.backends.lce import worker
from binmat.backends.lce.tflite.schema import Array
from binmat.errors import ExportError, MissingExtraError

#: Characters of what the interpreter printed that a message quotes.
_QUOTED = 200
#: For numpy's linear algebra, which the process does not use.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class ProcessDiedError(Exception):
    """The process ended before it answered. The message says how, and quotes what it printed last."""


class RefusedError(Exception):
    """The interpreter said no. The message is its own."""


class InterpreterProcess:
    """One process. It answers one request at a time; see :mod:`binmat.backends.lce.worker`."""

    def __init__(self) -> None:
        self._printed = tempfile.TemporaryFile("a+b")  # noqa: SIM115  (closed with the process)
        self._process = subprocess.Popen(
            [sys.executable, "-P", worker.__file__, wrapper_file()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._printed,
            env={**os.environ, **_ONE_THREAD, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            pipesize=2**20,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: dict[str, Any], arrays: Sequence[Array], time_limit: float) -> list[Array]:
        """The answer to a request. time_limit: seconds, after which the process is ended.

        Raises RefusedError where the interpreter refuses the request, ProcessDiedError where it does not answer.
        """
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        before = self._printed.seek(0, os.SEEK_END)
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(time_limit, end)
        timer.daemon = True
        timer.start()
        try:
            worker.send(process.stdin, request, arrays)
            answer, outputs = worker.receive(process.stdout)
        except (OSError, EOFError) as error:
            process.kill()
            status = process.wait()
            how = f"took more than {time_limit:g} s" if late.is_set() else _how_it_died(status)
            raise ProcessDiedError(how + self._last_line(before)) from error
        finally:
            timer.cancel()
        if "error" in answer:
            raise RefusedError(" ".join(answer["error"].split()) + self._last_line(before))
        return outputs

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._printed.close()

    def _last_line(self, start: int) -> str:
        """In brackets, the last line printed since `start`; empty where there is none."""
        self._printed.seek(start)
        lines = self._printed.read().decode(errors="replace").splitlines()
        last = next((" ".join(line.split()) for line in reversed(lines) if line.strip()), "")
        return f" ({last[:_QUOTED]})" if last else ""


def _how_it_died(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    name = signal.Signals(-status).name
    return f"was killed ({name}), perhaps because memory ran out" if name == "SIGKILL" else f"crashed ({name})"


@cache
def wrapper_file() -> str:
    """The interpreter's extension module. Raises MissingExtraError without the wheel, ExportError with numpy 2.

    The wheel's package imports its converter, and that imports TensorFlow. The interpreter itself is one extension
    module that needs neither, so it is loaded from its file under the name it was compiled with.
    """
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
    return str(found[0])


#: Processes that wait for a request.
_idle: list[InterpreterProcess] = []


@contextmanager
def interpreter_process() -> Iterator[InterpreterProcess]:
    """A process for one request: one that is idle, or a new one. After an exception it is not used again."""
    try:
        process = _idle.pop()
    except IndexError:
        process = InterpreterProcess()
    try:
        yield process
    except BaseException:
        process.close()
        raise
    _idle.append(process)


@atexit.register
def _close_idle() -> None:
    while _idle:
        _idle.pop().close()


# A forked process must not talk to its parent's processes.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)
