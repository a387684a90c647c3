"""The main job from Python, step by step as the README has it, and the example scripts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from official_checkpoints import official_state

import binmat
from binmat.backends.lce.tflite.reader import read_model
from binmat.data.image import photograph

ROOT = Path(__file__).parents[1]


def test_the_steps_of_the_main_job(tmp_path: Path) -> None:
    checkpoint = tmp_path / "rvm_mobilenetv3.pth"
    torch.save(official_state("rvm_mobilenetv3_dgf"), checkpoint)
    net = binmat.load(checkpoint)
    image = photograph(32, 48)
    with torch.no_grad():
        fgr, pha, *states = net(image)
        again = net(image, *states)
    assert (fgr.shape, pha.shape, len(again)) == ((1, 3, 32, 48), (1, 1, 32, 48), 6)

    bnet = binmat.convert(net, "reactnet", size=(32, 48))
    loss = bnet(image)[1].mean()
    loss.backward()
    assert all(p.grad is not None for name, p in bnet.named_parameters() if name.startswith("backbone"))

    report = binmat.report(net, bnet)
    assert (report.height, report.width) == (32, 48)
    report.save(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["recipe"] == "reactnet"

    # The size that the network was converted for goes with it, through its file as well.
    binmat.save(bnet, tmp_path / "model.safetensors")
    for network in (bnet, binmat.load(tmp_path / "model.safetensors")):
        model = tmp_path / "model.tflite"
        binmat.export(network, model)
        assert read_model(model.read_bytes()).inputs[0].shape == (1, 32, 48, 3)
        binmat.verify(network, model).check()

    alpha = binmat.matte(bnet, image)
    assert alpha.shape == (1, 1, 32, 48)
    assert 0 <= alpha.min() <= alpha.max() <= 1


#: Script -> what it says in the end.
EXAMPLES = {
    "demo.py": "The model file computes what the PyTorch graph computes",
    "python_api.py": "The model file computes what the PyTorch graph computes",
    "pam_dynamic.py": "PyTorch takes 1111, the mattes differ by up to",
}


def test_every_example_is_run() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == EXAMPLES.keys()


@pytest.mark.slow
@pytest.mark.parametrize("script", EXAMPLES)
def test_examples_run_as_they_stand(script: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, ROOT / "examples" / script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert EXAMPLES[script] in " ".join(done.stdout.split())
