"""Collects tensors, constants and operators and serialises them as one TensorFlow Lite model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import flatbuffers
import numpy as np
from flatbuffers import flexbuffers

from binmat.backends.lce.tflite import schema
from binmat.backends.lce.tflite.graph import Operator, Tensor
from binmat.backends.lce.tflite.in_place import with_copies
from binmat.backends.lce.tflite.schema import BUILTINS, TENSOR_TYPES, Activation, Array
from binmat.errors import ExportError

#: Offsets inside a flatbuffer are signed 32-bit numbers.
LARGEST_FILE = 2**31 - 1

Named = Sequence[tuple[str, int]]


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

        Copies are added where TFLite would overwrite what is read again (:mod:`binmat.backends.lce.tflite.in_place`).

        Raises ExportError where the file would pass 2 GB.
        """
        given, wanted = [tensor for _, tensor in inputs], [tensor for _, tensor in outputs]
        tensors = list(self.tensors)
        operators = with_copies(self.needed_operators(wanted, given), tensors, given, wanted)
        used = {*given, *wanted}
        used.update(tensor for op in operators for tensor in (*op.inputs, *op.outputs) if tensor >= 0)
        kept = sorted(used)
        size = sum(data.nbytes for i in kept if (data := tensors[i].data) is not None)
        if size >= LARGEST_FILE:
            raise ExportError(f"the model's constants take {size} bytes and a .tflite file holds 2 GB: convert a part")
        place = {tensor: index for index, tensor in enumerate(kept)}
        return _Serialiser(
            [tensors[i] for i in kept],
            [
                replace(op, inputs=[place.get(i, -1) for i in op.inputs], outputs=[place[i] for i in op.outputs])
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
        #: (kind, version) of an operator -> its place among the operator codes.
        self.codes: dict[tuple[str, int], int] = {}

    def model(self, description: str, metadata: Mapping[str, bytes]) -> bytes:
        # Buffer 0 is the empty one, which tensors without data name.
        self._buffer(b"")
        tensors = self._offsets([self._tensor(tensor) for tensor in self.tensors])
        operators = self._offsets([self._operator(op) for op in self.operators])
        subgraph = self._table(
            schema.SUBGRAPH,
            tensors=tensors,
            inputs=[tensor for _, tensor in self.inputs],
            outputs=[tensor for _, tensor in self.outputs],
            operators=operators,
            name="main",
        )
        entries = self._offsets(
            [self._table(schema.METADATA, name=name, buffer=self._buffer(data)) for name, data in metadata.items()]
        )
        root = self._table(
            schema.MODEL,
            version=schema.SCHEMA_VERSION,
            operator_codes=self._offsets([self._operator_code(*key) for key in self.codes]),
            subgraphs=self._offsets([subgraph]),
            description=self.builder.CreateString(description),
            buffers=self._offsets(self.buffers),
            metadata=entries,
            signature_defs=self._offsets([self._signature()]),
        )
        self.builder.Finish(root, file_identifier=schema.FILE_IDENTIFIER)
        content = bytes(self.builder.Output())
        if len(content) > LARGEST_FILE:
            raise ExportError(f"the model takes {len(content)} bytes and a .tflite file holds 2 GB: convert a part")
        return content

    def _table(self, fields: Mapping[str, schema.Field], **values: Any) -> int:
        """A table. A value is a number, a text, bytes, a list of integers, or the offset of what is written already."""
        written = {name: self._written(value) for name, value in values.items()}
        self.builder.StartObject(max((f.slot for f in fields.values()), default=-1) + 1)
        for name, value in written.items():
            field = fields[name]
            if field.kind in schema.SCALARS:
                self.builder.PrependSlot(schema.SCALARS[field.kind], field.slot, value, field.default)
            else:
                self.builder.PrependUOffsetTRelativeSlot(field.slot, value, 0)
        return int(self.builder.EndObject())

    def _written(self, value: Any) -> Any:
        """The offset of a text, of bytes or of a list of integers; a number or an offset as it is."""
        if isinstance(value, str):
            return self.builder.CreateString(value)
        if isinstance(value, bytes):
            return self._bytes(value)
        return self._int32s(value) if isinstance(value, list | tuple) else value

    def _offsets(self, children: Sequence[int]) -> int:
        self.builder.StartVector(4, len(children), 4)
        for child in reversed(children):
            self.builder.PrependUOffsetTRelative(child)
        return int(self.builder.EndVector())

    def _int32s(self, values: Sequence[int]) -> int:
        return int(self.builder.CreateNumpyVector(np.array(values, dtype=np.int32)))

    def _bytes(self, content: bytes) -> int:
        """A byte vector whose content is aligned, which CreateByteVector does not offer."""
        builder = self.builder
        builder.StartVector(1, len(content), schema.BUFFER_ALIGNMENT)
        builder.head = builder.Head() - len(content)
        builder.Bytes[builder.Head() : builder.Head() + len(content)] = content
        return int(builder.EndVector())

    def _buffer(self, content: bytes) -> int:
        """Adds a buffer and returns its number."""
        self.buffers.append(self._table(schema.BUFFER, **({"data": content} if content else {})))
        return len(self.buffers) - 1

    def _tensor(self, tensor: Tensor) -> int:
        buffer = 0 if tensor.data is None else self._buffer(tensor.data.tobytes())
        code = TENSOR_TYPES[tensor.dtype]
        return self._table(schema.TENSOR, shape=tensor.shape, type=code, buffer=buffer, name=tensor.name)

    def _operator_code(self, kind: str, version: int) -> int:
        builtin = BUILTINS.get(kind)
        code = builtin.code if builtin else schema.CUSTOM_OPERATOR
        return self._table(
            schema.OPERATOR_CODE,
            deprecated_builtin_code=min(code, schema.LARGEST_BYTE_CODE),
            version=version,
            builtin_code=code,
            **({} if builtin else {"custom_code": kind}),
        )

    def _operator(self, op: Operator) -> int:
        builtin = None if op.custom else BUILTINS[op.kind]
        version = op.version or (builtin.version if builtin else 1)
        values: dict[str, Any] = {
            "opcode_index": self.codes.setdefault((op.kind, version), len(self.codes)),
            "inputs": self._int32s(op.inputs),
            "outputs": self._int32s(op.outputs),
        }
        if builtin is None:
            if op.options:
                values["custom_options"] = bytes(flexbuffers.Dumps(op.options))
        elif builtin.options is not None:
            unknown = op.options.keys() - builtin.options.fields
            if unknown:
                raise KeyError(f"{op.kind} has no option {', '.join(sorted(unknown))}")
            values["options_type"] = builtin.options.code
            values["options"] = self._table(builtin.options.fields, **op.options)
        return self._table(schema.OPERATOR, **values)

    def _signature(self) -> int:
        inputs, outputs = (
            self._offsets([self._table(schema.TENSOR_MAP, name=name, tensor=tensor) for name, tensor in named])
            for named in (self.inputs, self.outputs)
        )
        return self._table(schema.SIGNATURE, inputs=inputs, outputs=outputs, key="serving_default", subgraph_index=0)
