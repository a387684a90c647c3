"""The model around the operators: inputs, outputs, names, files."""

from __future__ import annotations

import json
import os

import pytest
import torch
from lce_support import assert_same, both, export, lower

from binmat.errors import ExportError
from binmat.export.lce import export_lce
from binmat.export.lce.writer import write_whole
from binmat.export.lce_interpreter import LceInterpreter
from binmat.export.tflite.reader import read_model


def recurrent(x, h):
    h = 0.5 * h + x
    return h.mean((2, 3)), h


def test_names_shapes_and_layout():
    graph = lower(recurrent, torch.zeros(1, 3, 4, 5), torch.zeros(1, 3, 4, 5))
    model = export_lce(graph, None, ["frame", "state"], ["level", "state"])
    info = read_model(model.content)
    assert [(t.name, t.shape) for t in info.inputs] == [("frame", (1, 4, 5, 3)), ("state", (1, 4, 5, 3))]
    assert [(t.name, t.shape) for t in info.outputs] == [("level", (1, 3)), ("state", (1, 4, 5, 3))]
    assert json.loads(info.metadata["binmat"]) == {
        "layout": "NHWC",
        "inputs": ["frame", "state"],
        "outputs": ["level", "state"],
    }
    interpreter = LceInterpreter(model.content)
    assert interpreter.input_names == ["frame", "state"] and interpreter.output_names == ["level", "state"]


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
    graph = lower(lambda x: (x + 1).exp(), torch.zeros(1, 2, 3, 3))
    for node in graph.graph.nodes:
        node.meta["layer"] = "decoder.up"
    model = export_lce(graph, None, ["x"], ["y"])
    assert b"decoder.up/add" in model.content and b"decoder.up/exp" not in model.content


def test_operators_that_nothing_reads_are_left_out():
    graph = lower(lambda x: (x.exp(), x + 1)[1], torch.zeros(1, 2, 3, 3))
    graph.graph.lint()
    assert read_model(export_lce(graph, None, ["x"], ["y"]).content).operators == {"ADD": 1}


def test_activation_is_fused_only_where_nobody_sees_what_it_hides():
    def function(x):
        hidden = x + 1
        seen = x + 2
        third = x + 3
        alias = third.view(1, 2, 3, 3)
        return hidden.relu(), seen.relu() * seen, alias.relu(), third - 1

    model = assert_same(function, torch.randn(1, 2, 3, 3), tolerance=0)
    assert read_model(model.content).operators == {"ADD": 3, "RELU": 2, "MUL": 1, "SUB": 1}
    assert "add" not in model.values and "add_1" in model.values


def test_wrong_number_of_names():
    graph = lower(recurrent, torch.zeros(1, 3, 4, 5), torch.zeros(1, 3, 4, 5))
    with pytest.raises(ExportError, match="2 inputs and 1 names"):
        export_lce(graph, None, ["x"], ["a", "b"])
    with pytest.raises(ExportError, match="2 outputs and 3 names"):
        export_lce(graph, None, ["x", "h"], ["a", "b", "c"])


def test_error_names_layer_node_and_operator():
    graph = lower(lambda x: torch.cumsum(x, 2), torch.zeros(1, 2, 3, 3))
    for node in graph.graph.nodes:
        node.meta["layer"] = "refiner.box"
    with pytest.raises(ExportError, match=r"node 'cumsum' of layer 'refiner.box' \(aten.cumsum.default\)"):
        export_lce(graph, None, ["x"], ["y"])


def test_random_numbers_are_refused():
    with pytest.raises(ExportError, match="random"):
        export(lambda x: x + torch.rand(3), [torch.zeros(1, 2, 3, 3)])


def test_float64_graph_is_refused():
    with pytest.raises(ExportError, match=r"input 'x0' is torch\.float64"):
        export(lambda x: x + 1, [torch.zeros(1, 2, 3, 3, dtype=torch.float64)])


def test_file_is_written_whole(tmp_path):
    graph = lower(lambda x: x + 1, torch.zeros(1, 2, 3, 3))
    path = tmp_path / "model.tflite"
    path.write_bytes(b"old")
    model = export_lce(graph, path, ["x"], ["y"])
    assert path.read_bytes() == model.content and os.listdir(tmp_path) == ["model.tflite"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "model.tflite"
    monkeypatch.setattr(os, "replace", _fail)
    with pytest.raises(ExportError, match=f"cannot write {path}: no room"):
        write_whole(path, b"content")
    assert os.listdir(tmp_path) == []


def test_a_missing_folder_is_one_line(tmp_path):
    with pytest.raises(ExportError, match=r"cannot write .*missing"):
        write_whole(tmp_path / "missing" / "model.tflite", b"content")


def _fail(*_: object) -> None:
    raise OSError(28, "no room")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
