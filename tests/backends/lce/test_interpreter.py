"""Loading the interpreter, and what it says when it cannot run."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from lce_support import export

from binmat.backends.lce.interpreter import LceInterpreter
from binmat.errors import ExportError


@pytest.fixture
def model() -> bytes:
    return export(lambda x: x + 1, [torch.zeros(1, 2, 3, 4)]).content


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
    for damaged in (b"", b"nothing", model[: len(model) // 2]):
        with pytest.raises(ExportError, match="TensorFlow Lite model"):
            LceInterpreter(damaged)


def test_refused_model():
    """The reference kernel takes a zero padding with an even number of channels only."""
    weight = torch.ones(4, 3, 3, 3, dtype=torch.int8)

    def function(x):
        bits = torch.ops.binmat.binarize(x, torch.zeros(1))
        return torch.ops.binmat.binary_conv2d(bits, weight, torch.ones(4), torch.zeros(4), [1, 1], [1, 1], [1, 1], 1, 0)

    with pytest.raises(ExportError, match="reference kernel refuses the model"):
        LceInterpreter(export(function, [torch.zeros(1, 3, 5, 5)]).content, "reference")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("importlib.util.find_spec = lambda name: None", "pip install 'binmat[lce]'"),
        ("numpy.__version__ = '2.1.0'", "numpy 2.1.0: pip install 'numpy<2'"),
    ],
    ids=["missing wheel", "numpy 2"],
)
def test_where_it_cannot_be_loaded(change, message):
    """In a process of its own, which has not loaded it before."""
    program = f"""
import importlib.util, numpy
from binmat.backends.lce.interpreter import LceInterpreter
from binmat.errors import BinmatError
{change}
try:
    LceInterpreter(b"")
except BinmatError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert message in done.stdout
