"""Converted folders: metadata and tensors of ``model.safetensors``, opened by ``binmat.load``, and counted."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import safetensors.torch
import tomli_w
import torch

import binmat
from binmat.model_defs.weights_metadata import METADATA_KEY
from binmat.pipeline.converted_folder import WEIGHTS, conversion_in, read_converted
from binmat.reports import report
from fuzz.checkpoints import joined, split
from fuzz.mutations import VALUES, as_json, damage_bytes, damage_document
from fuzz.small_networks import FACTORY, converted


@cache
def _saved() -> tuple[bytes, ...]:
    made = []
    for scheme in ("reactnet", "recu", "dorefa"):
        with TemporaryDirectory() as folder:
            path = Path(folder, WEIGHTS)
            binmat.save(converted(scheme), path, factory=FACTORY)
            made.append(path.read_bytes())
    return tuple(made)


class ConvertedFolders:
    name = "converted folders"
    mutations = 900
    time_limit = 20.0

    def seeds(self) -> list[bytes]:
        return list(_saved())

    def mutate(self, content: bytes, seeds: Sequence[bytes], chance: Random) -> bytes:
        part = chance.random()
        if part < 0.15:
            return damage_bytes(content, seeds, chance)
        header, tensors = split(content)
        if part < 0.3:
            return joined(as_json(damage_document(header, chance), chance), tensors)
        if part < 0.5:
            return _with_another_tensor(content, chance)
        about = json.loads(str(header["__metadata__"][METADATA_KEY]))
        if part < 0.7:
            about["recipe"] = _other_recipe(about["recipe"], chance)
        else:
            about = damage_document(about, chance)
        header["__metadata__"][METADATA_KEY] = as_json(about, chance)
        return joined(json.dumps(header), tensors)

    def open(self, content: bytes, folder: Path) -> None:
        (folder / WEIGHTS).write_bytes(content)
        read_converted(folder)
        network = binmat.load(folder, factory=FACTORY)
        assert all(value.isfinite().all() for value in network.state_dict().values())


class Reports(ConvertedFolders):
    """The same folders, counted: the report names what it read."""

    name = "reports"
    mutations = 200

    def open(self, content: bytes, folder: Path) -> None:
        (folder / WEIGHTS).write_bytes(content)
        conversion_in(folder)
        counted = report(binmat.load(folder, factory=FACTORY), files=[folder / WEIGHTS])
        json.dumps(counted.to_json(), allow_nan=False)
        counted.table(layers=True)


def _with_another_tensor(content: bytes, chance: Random) -> bytes:
    header, _ = split(content)
    state = safetensors.torch.load(content)
    name = chance.choice(sorted(state))
    old = state[name]
    match chance.randrange(6):
        case 0:
            del state[name]
        case 1:
            state[name] = old.reshape(-1)[: chance.randrange(3)].clone()
        case 2:
            types = (torch.int8, torch.bool, torch.float16, torch.float64, torch.int64, torch.uint8, torch.float8_e5m2)
            state[name] = old.to(chance.choice(types))
        case 3:
            state[chance.choice(("x", "a\nb", f"{name}.weight"))] = torch.ones(2)
        case _:
            value = old.clone().reshape(-1)
            numbers = (torch.nan, torch.inf, -1, 1e38, -0.0, 1e-45) if old.is_floating_point() else (-1, 2**62)
            value[chance.randrange(value.numel())] = chance.choice(numbers)
            state[name] = value.reshape(old.shape)
    return safetensors.torch.save(state, {key: str(value) for key, value in header["__metadata__"].items()})


def _other_recipe(text: str, chance: Random) -> str:
    if chance.random() < 0.3:
        return damage_bytes(text.encode(), [text.encode()], chance).decode(errors="replace")
    try:
        return tomli_w.dumps(damage_document(tomllib.loads(text), chance))
    except (TypeError, ValueError, AttributeError):  # What TOML has no word for.
        return str(chance.choice(VALUES))
