"""Collects tensors, constants and operators and serialises them as one TensorFlow Lite model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
from flatbuffers import flexbuffers

from binmat.backends.lce.tflite import schema
from binmat.backends.lce.tflite.schema import BUILTINS, TENSOR_TYPES, Activation, Array, DType
from binmat.errors import ExportError

#: Offsets inside a flatbuffer are signed 32-bit numbers.
LARGEST_FILE = 2**31 - 1

Named = Sequence[tuple[str, int]]


@dataclass
class Tensor:
    """A tensor of the file. shape: as stored; data: the value of a constant, None for what operators compute."""

    name: str
    shape: tuple[int, ...]
    dtype: DType
    data: Array | None = None


@dataclass
class Operator:
    """One operator. kind: a key of BUILTINS, or the code of a custom operator. Tensor -1 is an input left out."""

    kind: str
    inputs: list[int]
    outputs: list[int]
    options: dict[str, Any] = field(default_factory=dict)
    custom: bool = False
    version: int | None = None


class ModelBuilder:
    """Builds a model with one subgraph.

    Operators run in the order in which they are added. Constants with equal content are stored once.
    `build` writes only what the chosen outputs need, so one builder serialises several variants.
    """

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.operators: list[Operator] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], int] = {}
        self._producers: dict[int, Operator] = {}

    def tensor(self, name: str, shape: Sequence[int], dtype: Any = np.float32) -> int:
        self.tensors.append(Tensor(name, tuple(int(n) for n in shape), np.dtype(dtype)))
        return len(self.tensors) - 1

    def constant(self, value: Array, name: str) -> int:
        data = np.array(value, order="C")
        key = (data.dtype.str, data.shape, hashlib.sha256(data.tobytes()).digest())
        if key not in self._constants:
            self.tensors.append(Tensor(name, data.shape, data.dtype, data))
            self._constants[key] = len(self.tensors) - 1
        return self._constants[key]

    def operator(
        self,
        kind: str,
        inputs: Sequence[int],
        outputs: Sequence[int],
        *,
        custom: bool = False,
        version: int | None = None,
        **options: Any,
    ) -> Operator:
        operator = Operator(kind, list(inputs), list(outputs), options, custom, version)
        self.operators.append(operator)
        for output in outputs:
            self._producers[output] = operator
        return operator

    def producer(self, tensor: int) -> Operator | None:
        """The operator that computes `tensor`; None for inputs and constants."""
        return self._producers.get(tensor)

    def fuse_activation(self, tensor: int, activation: Activation) -> bool:
        """Let the producer of `tensor` apply `activation`; False where it cannot."""
        producer = self.producer(tensor)
        if producer is None or producer.custom or not BUILTINS[producer.kind].fuses_activation:
            return False
        if producer.options.get("activation", Activation.NONE) != Activation.NONE:
            return False
        producer.options["activation"] = activation
        return True

    def build(
        self, inputs: Named, outputs: Named, description: str = "", metadata: Mapping[str, bytes] | None = None
    ) -> bytes:
        """Serialise. inputs, outputs: (name in the signature, tensor); what computes an input is left out.

        Raises ExportError where the file would pass 2 GB.
        """
        operators = self.needed_operators([tensor for _, tensor in outputs], [tensor for _, tensor in inputs])
        used = {tensor for _, tensor in (*inputs, *outputs)}
        used.update(tensor for op in operators for tensor in (*op.inputs, *op.outputs) if tensor >= 0)
        kept = sorted(used)
        size = sum(data.nbytes for i in kept if (data := self.tensors[i].data) is not None)
        if size >= LARGEST_FILE:
            raise ExportError(f"the model's constants take {size} bytes and a .tflite file holds 2 GB: convert a part")
        place = {tensor: index for index, tensor in enumerate(kept)}
        return _Serialiser(
            [self.tensors[i] for i in kept],
            [
                Operator(
                    op.kind,
                    [place.get(tensor, -1) for tensor in op.inputs],
                    [place[tensor] for tensor in op.outputs],
                    op.options,
                    op.custom,
                    op.version,
                )
                for op in operators
            ],
            [(name, place[tensor]) for name, tensor in inputs],
            [(name, place[tensor]) for name, tensor in outputs],
        ).model(description, metadata or {})

    def needed_operators(self, outputs: Iterable[int], inputs: Iterable[int] = ()) -> list[Operator]:
        """The operators between the tensors that are given and those that are wanted, in order."""
        given = set(inputs)
        wanted = set(outputs) - given
        needed = []
        for op in reversed(self.operators):
            if wanted.intersection(op.outputs):
                needed.append(op)
                wanted.update(set(op.inputs) - given)
        return needed[::-1]


class _Serialiser:
    """Writes one model with a flatbuffers.Builder: children before parents, as the format wants it."""

    def __init__(self, tensors: list[Tensor], operators: list[Operator], inputs: Named, outputs: Named) -> None:
        self.tensors = tensors
        self.operators = operators
        self.inputs = inputs
        self.outputs = outputs
        constants = sum(t.data.nbytes for t in tensors if t.data is not None)
        self.builder = flatbuffers.Builder(constants + 512 * (len(tensors) + len(operators)) + 4096)
        self.buffers: list[int] = []

    def model(self, description: str, metadata: Mapping[str, bytes]) -> bytes:
        codes: dict[tuple[str, int], int] = {}
        self.buffers.append(self._buffer(b""))
        tensors = self._offsets([self._tensor(tensor) for tensor in self.tensors])
        operators = self._offsets([self._operator(op, codes) for op in self.operators])
        subgraph = self._table(
            schema.SUBGRAPH,
            tensors=tensors,
            inputs=self._int32s([tensor for _, tensor in self.inputs]),
            outputs=self._int32s([tensor for _, tensor in self.outputs]),
            operators=operators,
            name=self.builder.CreateString("main"),
        )
        entries = []
        for name, content in metadata.items():
            self.buffers.append(self._buffer(content))
            entries.append((self.builder.CreateString(name), len(self.buffers) - 1))
        written_metadata = self._offsets(
            [self._table(schema.METADATA, name=name, buffer=self._scalar("uint32", index)) for name, index in entries]
        )
        root = self._table(
            schema.MODEL,
            version=self._scalar("uint32", schema.SCHEMA_VERSION),
            operator_codes=self._offsets([self._operator_code(*key) for key in codes]),
            subgraphs=self._offsets([subgraph]),
            description=self.builder.CreateString(description),
            buffers=self._offsets(self.buffers),
            metadata=written_metadata,
            signature_defs=self._offsets([self._signature()]),
        )
        self.builder.Finish(root, file_identifier=schema.FILE_IDENTIFIER)
        content = bytes(self.builder.Output())
        if len(content) > LARGEST_FILE:
            raise ExportError(f"the model takes {len(content)} bytes and a .tflite file holds 2 GB: convert a part")
        return content

    def _table(self, slots: Mapping[str, int], **values: int | Callable[[int], None]) -> int:
        """A table. A value is the offset of a child, or a function that writes a scalar into its slot."""
        self.builder.StartObject(max(slots.values(), default=-1) + 1)
        for name, value in values.items():
            if callable(value):
                value(slots[name])
            else:
                self.builder.PrependUOffsetTRelativeSlot(slots[name], value, 0)
        return int(self.builder.EndObject())

    def _offsets(self, children: Sequence[int]) -> int:
        self.builder.StartVector(4, len(children), 4)
        for child in reversed(children):
            self.builder.PrependUOffsetTRelative(child)
        return int(self.builder.EndVector())

    def _int32s(self, values: Iterable[int]) -> int:
        return int(self.builder.CreateNumpyVector(np.array(list(values), dtype=np.int32)))

    def _bytes(self, content: bytes | memoryview, alignment: int = 1) -> int:
        """A byte vector whose content starts at a multiple of `alignment`, which CreateByteVector does not offer."""
        builder = self.builder
        builder.StartVector(1, len(content), alignment)
        builder.head = builder.Head() - len(content)
        builder.Bytes[builder.Head() : builder.Head() + len(content)] = content
        return int(builder.EndVector())

    def _buffer(self, content: bytes | memoryview) -> int:
        if not len(content):
            return self._table(schema.BUFFER)
        return self._table(schema.BUFFER, data=self._bytes(content, schema.BUFFER_ALIGNMENT))

    def _tensor(self, tensor: Tensor) -> int:
        index = 0
        if tensor.data is not None:
            index = len(self.buffers)
            self.buffers.append(self._buffer(tensor.data.tobytes()))
        return self._table(
            schema.TENSOR,
            shape=self._int32s(tensor.shape),
            type=self._scalar("int8", TENSOR_TYPES[tensor.dtype]),
            buffer=self._scalar("uint32", index),
            name=self.builder.CreateString(tensor.name),
        )

    def _operator_code(self, kind: str, version: int) -> int:
        builtin = BUILTINS.get(kind)
        code = builtin.code if builtin else schema.CUSTOM_OPERATOR
        values: dict[str, int | Callable[[int], None]] = {
            "deprecated_builtin_code": self._scalar("int8", min(code, schema.LARGEST_BYTE_CODE)),
            "version": self._scalar("int32", version, 1),
            "builtin_code": self._scalar("int32", code),
        }
        if builtin is None:
            values["custom_code"] = self.builder.CreateString(kind)
        return self._table(schema.OPERATOR_CODE, **values)

    def _operator(self, op: Operator, codes: dict[tuple[str, int], int]) -> int:
        builtin = None if op.custom else BUILTINS[op.kind]
        version = op.version or (builtin.version if builtin else 1)
        code = codes.setdefault((op.kind, version), len(codes))
        values: dict[str, int | Callable[[int], None]] = {
            "opcode_index": self._scalar("uint32", code),
            "inputs": self._int32s(op.inputs),
            "outputs": self._int32s(op.outputs),
        }
        if op.custom:
            if op.options:
                values["custom_options"] = self._bytes(bytes(flexbuffers.Dumps(op.options)), schema.BUFFER_ALIGNMENT)
        elif builtin is not None and builtin.options is not None:
            table = builtin.options
            values["options_type"] = self._scalar("uint8", table.code)
            values["options"] = self._options(table, op.options)
        return self._table(schema.OPERATOR, **values)

    def _options(self, table: schema.OptionTable, options: Mapping[str, Any]) -> int:
        unknown = set(options) - set(table.fields)
        if unknown:
            raise KeyError(f"option table {table.code} has no field {', '.join(sorted(unknown))}")
        values: dict[str, int | Callable[[int], None]] = {
            name: self._int32s(value)
            if (option := table.fields[name]).kind == "int32s"
            else self._scalar(option.kind, value, option.default)
            for name, value in options.items()
        }
        return self._table({name: option.slot for name, option in table.fields.items()}, **values)

    def _scalar(self, kind: str, value: Any, default: float = 0) -> Callable[[int], None]:
        """Writes a scalar into the slot it is given."""
        prepend = {
            "int8": self.builder.PrependInt8Slot,
            "uint8": self.builder.PrependUint8Slot,
            "int32": self.builder.PrependInt32Slot,
            "uint32": self.builder.PrependUint32Slot,
            "bool": self.builder.PrependBoolSlot,
            "float32": self.builder.PrependFloat32Slot,
        }[kind]

        def write(slot: int) -> None:
            prepend(slot, value, default)

        return write

    def _signature(self) -> int:
        return self._table(
            schema.SIGNATURE,
            inputs=self._tensor_maps(self.inputs),
            outputs=self._tensor_maps(self.outputs),
            key=self.builder.CreateString("serving_default"),
            subgraph_index=self._scalar("uint32", 0),
        )

    def _tensor_maps(self, named: Named) -> int:
        maps = []
        for name, tensor in named:
            text = self.builder.CreateString(name)
            maps.append(self._table(schema.TENSOR_MAP, name=text, tensor=self._scalar("uint32", tensor)))
        return self._offsets(maps)
