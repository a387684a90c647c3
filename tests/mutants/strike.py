"""Inject a fault, and see whether verification notices."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from mutants.fault import Fault
from mutants.networks import SUBJECTS
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import binmat
from binmat.errors import BinmatError, first_line
from binmat.pipeline.converted_folder import WEIGHTS, model_name, verify_folder
from binmat.pipeline.deployment import Deployment

SURVIVED, NO_EFFECT, CAUGHT, CRASHED = "SURVIVED", "no effect", "caught", "CRASHED"


@dataclass(frozen=True)
class Outcome:
    """verdict: one of the four above. CRASHED is any error that is not binmat's. message: the error's first line."""

    verdict: str
    message: str = ""

    def __str__(self) -> str:
        return f"{self.verdict}: {self.message}" if self.message else self.verdict


@cache
def clean_network(subject: str) -> nn.Module:
    return SUBJECTS[subject].network()


@cache
def clean_deployment(subject: str) -> Deployment:
    return SUBJECTS[subject].deploy(clean_network(subject))


def strike(fault: Fault) -> Outcome:
    """Deploy and verify the fault's network with the fault."""
    clean = clean_deployment(fault.subject)
    try:
        if fault.place == "weights":
            with tempfile.TemporaryDirectory() as folder:
                return _strike_weights(fault, clean, Path(folder))
        with fault.in_force():
            deployment = SUBJECTS[fault.subject].deploy(clean_network(fault.subject))
            content = bytearray(deployment.model.content)
            if fault.place == "file":
                fault.change(content)
            if _traces(deployment, bytes(content)) == _traces(clean, clean.model.content):
                return Outcome(NO_EFFECT)
            deployment.verify(bytes(content)).check()
    except BinmatError as error:
        return Outcome(CAUGHT, first_line(error))
    except Exception as error:
        return Outcome(CRASHED, f"{type(error).__name__}: {first_line(error)}")
    return Outcome(SURVIVED)


def _strike_weights(fault: Fault, clean: Deployment, folder: Path) -> Outcome:
    """Weights that have changed since the export, in a converted folder."""
    factory = SUBJECTS[fault.subject].factory
    network = clean_network(fault.subject)
    binmat.save(network, folder / WEIGHTS, factory=factory)
    clean.write(folder / model_name("lce"))
    with safe_open(folder / WEIGHTS, "pt") as file:
        metadata = file.metadata()
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    fault.change(state)
    save_file(state, folder / WEIGHTS, metadata=metadata)
    changed = binmat.load(folder, factory=factory)
    now = SUBJECTS[fault.subject].deploy(changed)
    if _traces(now, now.model.content) == _traces(clean, clean.model.content):
        return Outcome(NO_EFFECT)
    for found in verify_folder(folder, factory=factory).values():
        found.check()
    return Outcome(SURVIVED)


def _traces(deployment: Deployment, content: bytes) -> Mapping[str, object]:
    """What a fault may change: the file, and the code, constants and names of the lowered graph."""
    lowered = deployment.lowered
    constants = [
        hashlib.sha256(value.detach().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
        for value in (*lowered.module.buffers(), *lowered.module.parameters())
    ]
    code = lowered.module.code
    return {"file": content, "code": code, "constants": constants, "names": (lowered.inputs, lowered.outputs)}
