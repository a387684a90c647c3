"""The model around the operators: inputs, outputs, names, files."""

from __future__ import annotations

import json

import pytest
import torch
from lce_support import assert_same, both, export
from lowered_graphs import lowered

from binmat.backends.lce.interpreter import LceInterpreter
from binmat.backends.lce.tflite.reader import read_model
from binmat.backends.lce.writer import write_model
from binmat.errors import ExportError


def recurrent(x, h):
    h = 0.5 * h + x
    return h.mean((2, 3)), h


def test_names_shapes_and_layout():
    zeros = torch.zeros(1, 3, 4, 5)
    model = write_model(lowered(recurrent, zeros, zeros, inputs=["frame", "state"], outputs=["level", "state"]))
    info = read_model(model.content)
    assert [(t.name, t.shape) for t in info.inputs] == [("frame", (1, 4, 5, 3)), ("state", (1, 4, 5, 3))]
    assert [(t.name, t.shape) for t in info.outputs] == [("level", (1, 3)), ("state", (1, 4, 5, 3))]
    about = json.loads(info.metadata["binmat"])
    assert about.pop("written_by").startswith("binmat ") and len(about.pop("sha256")) == 64
    assert about == {"layout": "NHWC", "inputs": ["frame", "state"], "outputs": ["level", "state"]}
    interpreter = LceInterpreter(model.content)
    names = [[info.name for info in side] for side in (interpreter.inputs, interpreter.outputs)]
    assert names == [["frame", "state"], ["level", "state"]]


def test_inputs_passed_through_and_outputs_used_twice():
    def function(x, unused):
        y = x + 1
        return x, y, y, [x, (torch.arange(6.0).reshape(1, 2, 3, 1), y.permute(0, 2, 3, 1))], torch.tensor(3.0)

    model = assert_same(function, torch.randn(1, 2, 4, 5), torch.randn(2, 2), tolerance=0)
    names = [t.name for t in read_model(model.content).outputs]
    assert names == [f"y{i}" for i in range(len(names))]


def test_every_output_has_its_own_tensor():
    _, (first, second), _ = both(lambda x: (x.relu(), x.relu()), torch.randn(1, 2, 3, 3))
    assert torch.equal(first, second)


def test_integers_and_booleans():
    assert_same(lambda x: (x > 0, (x > 0).to(torch.int32) + 1, x.to(torch.int64)), torch.randn(1, 2, 3, 3), tolerance=0)


def test_tensors_are_named_after_layers():
    graph = lowered(lambda x: (x + 1).exp(), torch.zeros(1, 2, 3, 3))
    for node in graph.module.graph.nodes:
        node.meta["layer"] = "decoder.up"
    model = write_model(graph)
    assert b"decoder.up/add" in model.content and b"decoder.up/exp" not in model.content


def test_operators_that_nothing_reads_are_left_out():
    graph = lowered(lambda x: (x.exp(), x + 1)[1], torch.zeros(1, 2, 3, 3))
    graph.module.graph.lint()
    assert read_model(write_model(graph).content).operators == {"ADD": 1}


def test_activation_is_fused_only_where_nobody_sees_what_it_hides():
    def function(x):
        hidden = x + 1
        seen = x + 2
        third = x + 3
        alias = third.view(1, 2, 3, 3)
        return hidden.relu(), seen.relu() * seen, alias.relu(), third - 1

    model = assert_same(function, torch.randn(1, 2, 3, 3), tolerance=0)
    assert read_model(model.content).operators == {"ADD": 3, "RELU": 2, "MUL": 1, "SUB": 1}
    assert "add" not in model.stored and "add_1" in model.stored


def test_wrong_number_of_names():
    zeros = torch.zeros(1, 3, 4, 5)
    with pytest.raises(ExportError, match="2 inputs and 1 names"):
        write_model(lowered(recurrent, zeros, zeros, inputs=["x"], outputs=["a", "b"]))
    with pytest.raises(ExportError, match="2 outputs and 3 names"):
        write_model(lowered(recurrent, zeros, zeros, inputs=["x", "h"], outputs=["a", "b", "c"]))


def test_error_names_layer_node_operator_and_the_users_line():
    graph = lowered(torch.digamma, torch.zeros(1, 2, 3, 3))
    frames = ["/home/me/matting/net.py", "/home/me/matting/refiner.py", torch.__file__]
    for node in graph.module.graph.nodes:
        node.meta["layer"] = "refiner.box"
        trace = (f'  File "{file}", line {7 + i}, in f\n    x\n' for i, file in enumerate(frames))
        node.meta["stack_trace"] = "".join(trace)
    place = r"node 'digamma' of layer 'refiner.box' \(aten.digamma.default, at /home/me/matting/refiner.py:8\)"
    with pytest.raises(ExportError, match=place):
        write_model(graph)


def test_random_numbers_are_refused():
    with pytest.raises(ExportError, match="random"):
        export(lambda x: x + torch.rand(3), [torch.zeros(1, 2, 3, 3)])


def test_float64_graph_is_refused():
    with pytest.raises(ExportError, match=r"input 'x0' is torch\.float64"):
        export(lambda x: x + 1, [torch.zeros(1, 2, 3, 3, dtype=torch.float64)])
