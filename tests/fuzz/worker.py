"""The process that opens damaged files: it may hang or die, and its memory is limited."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

import torch

from binmat.backends.lce import worker as interpreter
from binmat.errors import BinmatError
from fuzz.kind import Kind
from fuzz.mark import MARK

#: What Python tells of before it runs a program, calls what a pickle names or opens a connection.
_RUNS_CODE = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pickle.find_class", "socket.")
#: Characters of a message.
_LONGEST = 1000


@dataclass(frozen=True)
class Result:
    """What opening one file came to.

    outcome: accepted, refused, traceback, ran code, hang or died. detail: the message or the traceback. peak: the bytes
    by which the process grew, at most, while it opened the file.
    """

    index: int
    outcome: str
    detail: str
    seconds: float
    peak: int


def damaged(kind: Kind, seeds: list[bytes], seed: int, index: int) -> bytes:
    """The file of a mutation. The first indices are the seeds themselves, as they are."""
    if index < len(seeds):
        return seeds[index]
    chance = Random(f"{seed} {kind.name} {index}")
    return kind.mutate(chance.choice(seeds), seeds, chance)


def work(connection: Connection, kind: Kind, seed: int, memory: int) -> None:
    """Open the files whose indices arrive. memory: bytes that opening one may add to the process."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (for as long as the process lives)
    seeds = kind.seeds()
    events: list[str] = []
    sys.addaudithook(lambda event, args: events.append(f"{event}{args}"[:200]) if _runs_code(event, args) else None)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + memory, hard))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "files")
        connection.send(None)
        while (index := connection.recv()) is not None:
            try:
                content = damaged(kind, seeds, seed, index)
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                os.chdir(folder)
                events.clear()
                before = _forget_peak()
                started = time.perf_counter()
                outcome, detail = attempt(kind, content, folder)
                seconds = time.perf_counter() - started
                if events or MARK.exists():
                    outcome, detail = "ran code", " ".join(events) or f"it left {MARK}"
                connection.send(Result(index, outcome, detail, seconds, max(0, _status("VmHWM") - before)))
            except Exception:  # Of the fuzzer itself, or what the file has left behind.
                connection.send(Result(index, "died", traceback.format_exc(), 0.0, 0))
        os.chdir("/")


def attempt(kind: Kind, content: bytes, folder: Path) -> tuple[str, str]:
    """Open one file: the outcome and its detail."""
    try:
        kind.open(content, folder)
    except BinmatError as error:
        message = str(error)
        if not message.isprintable() or not 0 < len(message) <= _LONGEST:
            return "traceback", f"a message of {len(message)} characters that are not one line: {ascii(message)[:500]}"
        return "refused", message
    except BaseException as error:  # A panic of a Rust extension is no Exception.
        return "traceback", "".join(traceback.format_exception(error))[-3000:]
    return "accepted", ""


def _runs_code(event: str, args: tuple[Any, ...]) -> bool:
    if not event.startswith(_RUNS_CODE):
        return False
    return not (event == "subprocess.Popen" and interpreter.__file__ in args[1])


def _status(field: str) -> int:
    """A number of bytes from what Linux says of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{field}:")))


def _forget_peak() -> int:
    """Let the peak start from what the process holds now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")
