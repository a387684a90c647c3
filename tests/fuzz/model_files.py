"""Model files: .tflite by binmat's own reader, and by LCE's interpreter in its process."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random

import numpy as np

from binmat.backends.lce.interpreter import LceInterpreter
from binmat.backends.lce.tflite.reader import read_model
from binmat.pipeline.deployment import deploy
from fuzz.mutations import damage_bytes, damage_words
from fuzz.small_networks import converted


@cache
def _models() -> tuple[bytes, ...]:
    return tuple(deploy(converted(scheme)).model.content for scheme in ("reactnet", "dorefa"))


class ModelFiles:
    name = "model files"
    mutations = 2500
    time_limit = 10.0

    def seeds(self) -> list[bytes]:
        return list(_models())

    def mutate(self, content: bytes, seeds: Sequence[bytes], chance: Random) -> bytes:
        if chance.random() < 0.3:
            return damage_bytes(content, seeds, chance)
        return damage_words(content, chance)

    def open(self, content: bytes, folder: Path) -> None:
        read_model(content)


class InterpretedModelFiles(ModelFiles):
    name = "interpreted model files"
    mutations = 200
    time_limit = 60.0

    def open(self, content: bytes, folder: Path) -> None:
        model = LceInterpreter(content, time_limit=5)
        # A damaged file may claim an input of any size.
        if sum(int(np.prod(info.shape, dtype=float)) for info in model.inputs) < 2**20:
            model.run_stored([np.zeros(info.shape, info.dtype) for info in model.inputs])
