"""A bit that is turned in a constant of a file is noticed, however little it changes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from mutants.file_layout import FileLayout
from mutants.networks import SUBJECTS
from mutants.strike import clean_deployment, clean_network

import binmat
from binmat.errors import VerificationError
from binmat.pipeline.converted_folder import verify_folder


def turned_bits(content: bytes, count: int) -> list[bytes]:
    """The file with one bit turned in a constant, at random places."""
    generator = random.Random(0)
    places = [place for constant in FileLayout(content).constants() for place in constant.data]
    files = []
    for place in generator.sample(places, count):
        changed = bytearray(content)
        changed[place] ^= 1 << generator.randrange(8)
        files.append(bytes(changed))
    return files


def test_a_hundred_turned_bits_are_noticed() -> None:
    deployment = clean_deployment("video")
    for content in turned_bits(deployment.model.content, 100):
        with pytest.raises(VerificationError):
            deployment.verify(content).check()


def test_a_turned_bit_in_a_folder_is_noticed(tmp_path: Path) -> None:
    deployment, factory = clean_deployment("video"), SUBJECTS["video"].factory
    binmat.save(clean_network("video"), tmp_path / "model.safetensors", factory=factory)
    deployment.write(tmp_path / "model.tflite")
    for found in verify_folder(tmp_path, factory=factory).values():
        found.check()
    (tmp_path / "model.tflite").write_bytes(turned_bits(deployment.model.content, 1)[0])
    with pytest.raises(VerificationError, match="the file"):
        for found in verify_folder(tmp_path, factory=factory).values():
            found.check()
