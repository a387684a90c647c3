"""Checkpoints: what torch.save and safetensors write, opened as ``binmat.load`` opens a float one."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from random import Random

import safetensors.torch
import torch

from binmat.model_defs.load import fill, load_state
from fuzz.mutations import as_json, damage_bytes, damage_document, damage_pickle
from fuzz.small_networks import plain


class Checkpoints:
    """What both kinds share. Opening reads the tensors and fills them into a network, whether or not all are there."""

    time_limit = 10.0

    def open(self, content: bytes, folder: Path) -> None:
        path = folder / "net.pth"
        path.write_bytes(content)
        state = load_state(path)
        fill(plain(), {key: value for key, value in state.items() if key in plain().state_dict()}, path)
        assert all(value.isfinite().all() for value in plain().state_dict().values())


class TorchCheckpoints(Checkpoints):
    name = "torch checkpoints"
    mutations = 3500

    def seeds(self) -> list[bytes]:
        state = plain().state_dict()
        made = []
        for zipped in (True, False):
            for stored in (state, {"state_dict": state, "epoch": 3, "optimizer": {"lr": 0.1, "betas": (0.9, 0.99)}}):
                for protocol in (2, 4):
                    stream = io.BytesIO()
                    torch.save(stored, stream, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
                    made.append(stream.getvalue())
        return made

    def mutate(self, content: bytes, seeds: Sequence[bytes], chance: Random) -> bytes:
        if chance.random() < 0.3:
            return damage_bytes(content, seeds, chance)
        if not content.startswith(b"PK"):
            return damage_pickle(content, chance)
        return _with_another_member(content, chance)


def _with_another_member(content: bytes, chance: Random) -> bytes:
    """The archive written anew: its pickle, mostly, or one of its storages is another."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(made, "w") as after:
        names = before.namelist()
        victim = next(name for name in names if name.endswith("data.pkl"))
        if chance.random() < 0.2:
            victim = chance.choice(names)
        for name in names:
            member = before.read(name)
            if name == victim:
                match chance.randrange(8) if member else 0:
                    case 0:
                        continue
                    case 1:
                        member = damage_bytes(member, [content], chance)
                    case 2:
                        after.writestr(name, member, zipfile.ZIP_DEFLATED)
                        continue
                    case _:
                        pickled = name.endswith(".pkl")
                        member = damage_pickle(member, chance) if pickled else damage_bytes(member, [member], chance)
            after.writestr(name, member)
    return made.getvalue()


class Safetensors(Checkpoints):
    name = "safetensors"
    mutations = 2000

    def seeds(self) -> list[bytes]:
        state = plain().state_dict()
        half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
        return [safetensors.torch.save(state), safetensors.torch.save(half, {"format": "pt"})]

    def mutate(self, content: bytes, seeds: Sequence[bytes], chance: Random) -> bytes:
        if chance.random() < 0.4:
            return damage_bytes(content, seeds, chance)
        header, tensors = split(content)
        return joined(as_json(damage_document(header, chance), chance), tensors)


def split(content: bytes) -> tuple[dict[str, dict[str, object]], bytes]:
    """The header of a safetensors file, and its tensors."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: str, tensors: bytes) -> bytes:
    return struct.pack("<Q", len(header.encode())) + header.encode() + tensors
