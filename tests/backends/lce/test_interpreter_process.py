"""The interpreter's own process: what it survives, and what is said when it does not."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys

import pytest
import torch
from lce_support import export
from torch.nn import functional as F

from binmat.backends.lce import worker
from binmat.backends.lce.interpreter import LceInterpreter
from binmat.backends.lce.interpreter_process import interpreter_process
from binmat.errors import ExportError

X = torch.arange(60.0).reshape(1, 2, 5, 6)


@pytest.fixture(scope="module")
def model() -> bytes:
    return export(lambda x: F.conv2d(x, torch.ones(4, 2, 3, 3)).relu(), [X]).content


def pid_of_the_next() -> int:
    """The process that the next request goes to."""
    with interpreter_process() as process:
        return process.pid


def message_of(run) -> str:
    with pytest.raises(ExportError) as caught:
        run()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("crash", [signal.SIGABRT, signal.SIGSEGV])
def test_a_process_that_crashes_is_one_line_and_is_replaced(model: bytes, crash: signal.Signals) -> None:
    interpreter = LceInterpreter(model)
    expected = interpreter.run([X])[0]
    killed = pid_of_the_next()
    os.kill(killed, crash)
    message = message_of(lambda: interpreter.run([X]))
    assert f"optimized kernel crashed ({crash.name}) while it ran the model: export the file again" in message
    assert pid_of_the_next() != killed
    assert torch.equal(interpreter.run([X])[0], expected)


def test_a_process_that_the_system_kills(model: bytes) -> None:
    interpreter = LceInterpreter(model)
    os.kill(pid_of_the_next(), signal.SIGKILL)
    assert "was killed (SIGKILL), perhaps because memory ran out" in message_of(lambda: interpreter.run([X]))


def test_a_hang_ends_at_the_time_limit(model: bytes) -> None:
    interpreter = LceInterpreter(model, time_limit=5)
    os.kill(pid_of_the_next(), signal.SIGSTOP)
    assert "took more than 5 s while it ran the model" in message_of(lambda: interpreter.run([X]))


@pytest.mark.slow
def test_damaged_files_never_end_this_process(model: bytes) -> None:
    """Bytes are inverted one by one. Some of these files make the interpreter crash, others ask for 16 GB."""
    said = []
    for position in (*range(436, 464, 4), len(model) - 60):
        damaged = bytearray(model)
        damaged[position] ^= 0xFF
        try:
            LceInterpreter(bytes(damaged)).run([X])
        except ExportError as error:
            assert "\n" not in str(error)
            said.append(str(error))
    assert any("refuses the model" in message or "crashed" in message for message in said)


def test_a_process_cannot_take_all_memory(model: bytes) -> None:
    LceInterpreter(model).run([X])
    half = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    assert resource.prlimit(pid_of_the_next(), resource.RLIMIT_AS) == (half, half)


def test_frames_know_nothing_of_each_other(model: bytes) -> None:
    interpreter = LceInterpreter(model)
    first, _, again = (interpreter.run([value])[0] for value in (X, -X, X))
    assert torch.equal(first, again)


def test_the_process_imports_neither_torch_nor_binmat() -> None:
    program = (
        "import runpy, sys\n"
        f"runpy.run_path({worker.__file__!r})\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'binmat', 'flatbuffers', 'PIL'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_every_type_of_a_file_comes_back() -> None:
    above, total = LceInterpreter(export(lambda x: (x > 3, x.sum()), [X]).content).run([X])
    assert torch.equal(above, X > 3)
    assert total.shape == () and total == X.sum()
