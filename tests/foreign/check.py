"""All that binmat does with a foreign network: convert it, count it, export it, verify the file.

    python -m foreign.check NAME float|SCHEME

prints the outcome (:func:`outcome_of`) as one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import sysconfig
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from foreign.networks import NETWORKS, OTHERS, ForeignNetwork

import binmat
from binmat.model_defs.network import Example


def stages(foreign: ForeignNetwork, scheme: str | None) -> Iterator[str]:
    """Take the network through every stage; yields each stage's name once it has passed.

    scheme: None exports the float network. Raises what binmat raises.
    """
    network = foreign.build()
    yield "build"
    inputs = dict(zip(foreign.inputs, foreign.images(), strict=True)) if foreign.inputs else {}
    example = Example("forward", inputs, ()) if inputs else None
    subject: torch.nn.Module = network
    if scheme is not None:
        subject = binmat.convert(network, scheme, size=foreign.size, example=example)
        yield "convert"
    found = binmat.report(*{id(net): net for net in (network, subject)}.values(), size=foreign.size, example=example)
    if not found.layers:
        raise AssertionError("the report lists no layers")
    yield "count"
    with tempfile.TemporaryDirectory() as folder:
        deployment = binmat.export(subject, Path(folder, "model.tflite"), foreign.size, example=example)
    yield "export"
    deployment.verify().check()
    yield "verify"


def place(error: BaseException, library: str) -> str:
    """Where an error comes from: the innermost line of binmat or of the network's library."""
    folder = "segmentation_models_pytorch" if library == "smp" else library
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        for package in (folder, "binmat", "transforms", "reports", "model_defs"):
            if package in path.parts:
                start = len(path.parts) - 1 - path.parts[::-1].index(package)
                return f"{'/'.join(path.parts[start:])}:{frame.lineno}"
    return "?"


def processor_time() -> float:
    """Seconds of this process and of those it has waited for; other programs on the machine do not count."""
    return sum(os.times()[:4])


def outcome_of(name: str, column: str) -> dict[str, Any]:
    """{"seconds": {stage: seconds of processor time}}, and "error" and "place" where a stage failed.

    column: "float" or a scheme's name.
    """
    foreign = (NETWORKS | OTHERS)[name]
    seconds: dict[str, float] = {}
    outcome: dict[str, Any] = {"seconds": seconds}
    started = processor_time()
    try:
        for stage in stages(foreign, None if column == "float" else column):
            seconds[stage] = round(processor_time() - started, 2)
            started = processor_time()
    except Exception as error:
        text = " ".join(str(error).split()).replace(f"{sysconfig.get_path('purelib')}/", "")
        outcome["error"] = text if isinstance(error, binmat.BinmatError) else f"{type(error).__name__}: {text}"
        outcome["place"] = place(error, foreign.package)
    return outcome


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(outcome_of(*sys.argv[1:])))
