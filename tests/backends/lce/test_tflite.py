"""The files that the builder writes, read by the schema module of Larq Compute Engine's wheel."""

from __future__ import annotations

import numpy as np
import pytest
from official_schema import official, parse

from binmat.backends.lce.tflite import builder as builder_module
from binmat.backends.lce.tflite import reader
from binmat.backends.lce.tflite.builder import ModelBuilder
from binmat.backends.lce.tflite.reader import read_model
from binmat.backends.lce.tflite.schema import BUILTINS, CUSTOM_OPERATOR
from binmat.errors import ExportError

#: Our field names that are not the schema's in snake case.
NAMES = {
    "activation": "fusedActivationFunction",
    "dilation_h": "dilationHFactor",
    "dilation_w": "dilationWFactor",
    "filter_h": "filterHeight",
    "filter_w": "filterWidth",
    "in_type": "inDataType",
    "out_type": "outDataType",
}


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return NAMES.get(name, first + "".join(part.capitalize() for part in rest))


@pytest.mark.parametrize("kind", BUILTINS)
def test_operator(kind):
    builtin = BUILTINS[kind]
    assert builtin.code == getattr(official().BuiltinOperator, kind)
    fields = builtin.options.fields if builtin.options else {}
    values = {name: [4, 5] if field.kind == "int32s" else 1 for name, field in fields.items()}
    # Distinct values where the type allows, so that swapped slots show.
    values |= {name: 2 + i for i, (name, field) in enumerate(fields.items()) if field.kind in ("int8", "int32")}
    model = ModelBuilder()
    x, y = model.tensor("x", (1, 2)), model.tensor("y", (1, 2))
    model.operator(kind, [x, -1], [y], **values)
    parsed = parse(model.build([("in", x)], [("out", y)]))
    (code,), (subgraph,) = parsed.operatorCodes, parsed.subgraphs
    (operator,) = subgraph.operators
    assert code.builtinCode == builtin.code and code.deprecatedBuiltinCode == min(builtin.code, 127)
    assert code.version == builtin.version
    assert list(operator.inputs) == [0, -1] and list(operator.outputs) == [1]
    if builtin.options is None:
        assert operator.builtinOptionsType == 0
        return
    names = {value: name for name, value in vars(official().BuiltinOptions).items() if not name.startswith("_")}
    assert type(operator.builtinOptions).__name__ == names[builtin.options.code] + "T"
    for name, value in values.items():
        written = getattr(operator.builtinOptions, camel(name))
        assert list(written) == value if isinstance(value, list) else written == value


def test_unknown_option_is_a_mistake_of_the_caller():
    model = ModelBuilder()
    x, y = model.tensor("x", (1,)), model.tensor("y", (1,))
    model.operator("ADD", [x, x], [y], axis=1)
    with pytest.raises(KeyError, match="axis"):
        model.build([("x", x)], [("y", y)])


def two_operators() -> tuple[ModelBuilder, bytes]:
    model = ModelBuilder()
    x, y, z, unused = (model.tensor(name, (1, 3)) for name in "xyzu")
    c = model.constant(np.array([1, 2, 3], np.float32), "c")
    assert c == model.constant(np.array([1, 2, 3], np.float32), "again")
    assert c != model.constant(np.array([1, 2, 3], np.int32), "integers")
    model.operator("ADD", [x, c], [y])
    model.operator("LceSomething", [y], [z], custom=True, channels_in=3)
    model.operator("MUL", [x, x], [unused])
    return model, model.build([("first", x)], [("last", z)], "a test", {"note": b"\x00\x01"})


def test_structure():
    _, content = two_operators()
    parsed = parse(content)
    assert parsed.version == 3 and parsed.description == b"a test"
    codes = [(code.builtinCode, code.customCode) for code in parsed.operatorCodes]
    assert codes == [(BUILTINS["ADD"].code, None), (CUSTOM_OPERATOR, b"LceSomething")]
    tensors = {tensor.name.decode(): tensor for tensor in parsed.subgraphs[0].tensors}
    assert set(tensors) == {"x", "y", "z", "c"}
    data = bytes(parsed.buffers[tensors["c"].buffer].data)
    assert np.frombuffer(data, np.float32).tolist() == [1, 2, 3]
    assert parsed.buffers[0].data is None
    (signature,) = parsed.signatureDefs
    assert [(m.name, m.tensorIndex) for m in signature.inputs] == [(b"first", parsed.subgraphs[0].inputs[0])]
    assert [(m.name, m.tensorIndex) for m in signature.outputs] == [(b"last", parsed.subgraphs[0].outputs[0])]
    assert parsed.metadata[0].name == b"note" and bytes(parsed.buffers[parsed.metadata[0].buffer].data) == b"\x00\x01"


def test_reader():
    _, content = two_operators()
    info = read_model(content)
    assert [(t.name, t.shape, t.dtype) for t in info.inputs] == [("first", (1, 3), np.float32)]
    assert info.outputs[0].name == "last"
    assert info.operators == {"ADD": 1, "LceSomething": 1}
    assert info.metadata == {"note": b"\x00\x01"}


@pytest.mark.parametrize("length", [1, 3, 16, 17, 100])
def test_constants_are_aligned(length):
    model = ModelBuilder()
    x, y = model.tensor("x", (1,)), model.tensor("y", (length,))
    marks = [np.full(length, 77 + i, np.uint8) for i in range(3)]
    total = x
    for i, mark in enumerate(marks):
        y = model.tensor(f"y{i}", (length,))
        model.operator("ADD", [total, model.constant(mark, f"c{i}")], [y])
        total = y
    content = model.build([("x", x)], [("y", total)])
    for mark in marks:
        # The vector of bytes follows its own length.
        place = content.index(np.uint32(length).tobytes() + mark.tobytes()) + 4
        assert place % 16 == 0


def test_a_model_past_two_gigabytes_is_refused(monkeypatch):
    model, _ = two_operators()
    for limit in (4, 400):
        # Refused by its constants alone, and by what it takes with everything around them.
        monkeypatch.setattr(builder_module, "LARGEST_FILE", limit)
        with pytest.raises(ExportError, match="2 GB"):
            model.build([("first", 0)], [("last", 2)])


@pytest.mark.parametrize(
    "content", [b"", b"not a model at all", b"\x10\x00\x00\x00TFL3", b"\xff" * 4 + b"TFL3" + b"\x00" * 64]
)
def test_what_is_no_model_is_refused(content):
    with pytest.raises(ExportError, match="TensorFlow Lite model"):
        read_model(content)


def test_a_shape_that_no_tensor_has_is_refused():
    _, content = two_operators()
    shape = np.array([2, 1, 3], np.int32)  # Behind its length.
    with pytest.raises(ExportError, match=r"damaged: tensor '.' has the shape \[1, -3\]"):
        read_model(content.replace(shape.tobytes(), (shape * [1, 1, -1]).astype(np.int32).tobytes()))


def test_parts_that_share_bytes_over_and_over_are_refused(monkeypatch):
    _, content = two_operators()
    monkeypatch.setattr(reader, "MOST_SHARED", 0)
    with pytest.raises(ExportError, match="damaged: its parts overlap"):
        read_model(content)
