"""Folders of a network that the registry does not know."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from example_networks import UNet, randomize

import binmat
from binmat.pipeline.converted_folder import WEIGHTS

FACTORY = "example_networks:UNet"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    network = randomize(binmat.convert(UNet(), "bnn", size=(16, 24))).eval()
    binmat.save(network, tmp_path / WEIGHTS, factory=FACTORY)
    return tmp_path


def test_a_folder_with_a_factory_is_exported_verified_and_counted(program, folder: Path) -> None:
    status, _, err = program("export", folder, "--format", "lce", "--factory", FACTORY)
    assert status == 0, err
    status, _, err = program("verify", folder, "--factory", FACTORY)
    assert status == 0, err
    status, out, err = program("report", folder, "--factory", FACTORY, "--json")
    assert status == 0, err
    assert json.loads(out)["recipe"] == "bnn"


@pytest.mark.parametrize("command", [("verify",), ("report",), ("export", "--format", "lce")])
def test_without_the_factory_it_is_named(program, folder: Path, command: tuple[str, ...]) -> None:
    (folder / "model.tflite").write_bytes(b"")
    name, *options = command
    status, _, err = program(name, folder, *options)
    assert status == 1 and f"pass factory='{FACTORY}'" in " ".join(err.split())
