"""Loading the interpreter, and what it says when it cannot run."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch
from lce_support import export

from binmat.backends.lce import interpreter as lce_interpreter
from binmat.backends.lce.interpreter import LceInterpreter
from binmat.errors import ExportError, MissingExtraError


@pytest.fixture
def model() -> bytes:
    return export(lambda x: x + 1, [torch.zeros(1, 2, 3, 4)]).content


@pytest.fixture
def unloaded(monkeypatch):
    """As if no interpreter were loaded yet."""
    lce_interpreter.load_wrapper.cache_clear()
    monkeypatch.delitem(sys.modules, lce_interpreter.MODULE, raising=False)
    yield
    lce_interpreter.load_wrapper.cache_clear()


def test_runs_without_tensorflow():
    program = (
        "import sys, torch\n"
        "sys.path[:0] = ['tests', 'tests/backends/lce']\n"
        "from lce_support import assert_same\n"
        "assert_same(lambda x: x + 1, torch.zeros(1, 2, 3, 4))\n"
        "assert 'larq_compute_engine' not in sys.modules and 'tensorflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_layouts(model):
    x = torch.randn(1, 2, 3, 4)
    interpreter = LceInterpreter(model)
    assert interpreter.inputs[0].shape == (1, 3, 4, 2)
    assert torch.equal(interpreter.run([x])[0], x + 1)
    assert torch.equal(interpreter.run([x.numpy()])[0], x + 1)
    assert torch.equal(interpreter.run([x.to(memory_format=torch.channels_last)])[0], x + 1)


def test_wrong_inputs(model):
    interpreter = LceInterpreter(model)
    with pytest.raises(ExportError, match="takes 1 inputs, not 2"):
        interpreter.run([torch.zeros(1, 2, 3, 4)] * 2)
    with pytest.raises(ExportError, match=r"input 'x0' must be float32 \[1, 3, 4, 2\] as stored"):
        interpreter.run([torch.zeros(1, 2, 4, 3)])
    with pytest.raises(ExportError, match="not float64"):
        interpreter.run([torch.zeros(1, 2, 3, 4, dtype=torch.float64)])


def test_damaged_model(model):
    with pytest.raises(ExportError, match="TensorFlow Lite model"):
        LceInterpreter(b"nothing")


def test_refused_model():
    """The reference kernel takes a zero padding with an even number of channels only."""
    weight = torch.ones(4, 3, 3, 3, dtype=torch.int8)

    def function(x):
        bits = torch.ops.binmat.binarize(x, torch.zeros(1))
        return torch.ops.binmat.binary_conv2d(bits, weight, torch.ones(4), torch.zeros(4), [1, 1], [1, 1], [1, 1], 1, 0)

    with pytest.raises(ExportError, match="reference kernel refuses the model"):
        LceInterpreter(export(function, [torch.zeros(1, 3, 5, 5)]).content, "reference")


def test_missing_wheel(model, unloaded, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'binmat\[lce\]'"):
        LceInterpreter(model)


def test_numpy_2(model, unloaded, monkeypatch):
    monkeypatch.setattr(np, "__version__", "2.1.0")
    with pytest.raises(ExportError, match=r"numpy 2\.1\.0: pip install 'numpy<2'"):
        LceInterpreter(model)
