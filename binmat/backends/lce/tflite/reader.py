"""Reads from a TensorFlow Lite file what a caller needs to feed and to inspect it."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import flatbuffers
from flatbuffers.table import Table

from binmat.backends.lce.tflite import schema
from binmat.errors import LONGEST_NAME, ExportError


@dataclass(frozen=True)
class TensorInfo:
    """A model input or output. shape: as stored in the file (4-D: NHWC)."""

    name: str
    shape: tuple[int, ...]
    dtype: schema.DType


@dataclass(frozen=True)
class ModelInfo:
    """operators: how many operators of each kind; metadata: the model's named byte strings."""

    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    operators: dict[str, int]
    metadata: dict[str, bytes]


#: How often, on average, a file's names, lists and metadata may share their bytes. In a small file whose tables all
#: point at one name they could take any memory.
MOST_SHARED = 16
BUILTIN_NAMES = {builtin.code: name for name, builtin in schema.BUILTINS.items()}
DTYPES = {code: dtype for dtype, code in schema.TENSOR_TYPES.items()}


def read_model(content: bytes) -> ModelInfo:
    """Names, shapes and operators of a model. Names come from its signature where it has one.

    Raises ExportError where the content is not a TensorFlow Lite model.
    """
    if content[4:8] != schema.FILE_IDENTIFIER:
        raise ExportError("this is not a TensorFlow Lite model: its file identifier is missing")
    try:
        return _Reader(content).info()
    except (IndexError, ValueError, KeyError, TypeError, struct.error) as error:
        raise ExportError(f"the TensorFlow Lite model is damaged: {error}") from error


class Tables:
    """The tables of a file. model: the root. What is read of it is bounded, so that a damaged file takes no memory."""

    def __init__(self, content: bytes) -> None:
        # A view, so that looking at a buffer does not copy its weights.
        self.content = memoryview(content)
        self.left = MOST_SHARED * len(content)
        root = flatbuffers.encode.Get(flatbuffers.packer.uoffset, content, 0)
        self.model = Table(self.content, root)

    def get(self, table: Table, field: schema.Field) -> Any:
        """The content of a field: a number, a text, a view of bytes, a list of integers, a table or a list of tables.

        What the table leaves out is the default number, empty, or None for a table. Raises ValueError where the file is
        cut short.
        """
        offset = table.Offset(4 + 2 * field.slot)
        if field.kind in schema.SCALARS:
            return table.Get(schema.SCALARS[field.kind], table.Pos + offset) if offset else field.default
        if field.kind == "table":
            return Table(self.content, table.Indirect(table.Pos + offset)) if offset else None
        start, length = (table.Vector(offset), table.VectorLen(offset)) if offset else (0, 0)
        if field.kind != "bytes":
            self.take(length)
        if field.kind == "tables":
            return [Table(self.content, table.Indirect(start + 4 * i)) for i in range(length)]
        if field.kind == "int32s":
            return list(struct.unpack_from(f"<{length}i", self.content, start))
        if start + length > len(self.content):
            raise ValueError("it is cut short")
        content = self.content[start : start + length]
        return str(content, "utf-8") if field.kind == "text" else content

    def take(self, count: int) -> None:
        """Raise ValueError where the file's parts together are far larger than the file."""
        self.left -= count
        if self.left < 0:
            raise ValueError("its parts overlap")


class _Reader(Tables):
    def info(self) -> ModelInfo:
        subgraph = self.get(self.model, schema.MODEL["subgraphs"])[0]
        tensors = [self._tensor(table) for table in self.get(subgraph, schema.SUBGRAPH["tensors"])]
        # All buffers are read: the interpreter would take weights from beyond the end of a file that is cut short.
        buffers = [self.get(table, schema.BUFFER["data"]) for table in self.get(self.model, schema.MODEL["buffers"])]
        metadata = {}
        for entry in self.get(self.model, schema.MODEL["metadata"]):
            value = buffers[self.get(entry, schema.METADATA["buffer"])]
            self.take(len(value))
            metadata[self.get(entry, schema.METADATA["name"])] = bytes(value)
        inputs, outputs = (self._side(subgraph, tensors, side) for side in ("inputs", "outputs"))
        return ModelInfo(inputs, outputs, self._operators(subgraph), metadata)

    def _side(self, subgraph: Table, tensors: list[TensorInfo], side: str) -> list[TensorInfo]:
        """The model's inputs or outputs; where a signature lists the same tensors in that order, with its names."""
        indices = self.get(subgraph, schema.SUBGRAPH[side])
        if min(indices, default=0) < 0:
            raise ValueError(f"its {side} are tensors with numbers below 0")
        infos = [tensors[index] for index in indices]
        for signature in self.get(self.model, schema.MODEL["signature_defs"])[:1]:
            maps = self.get(signature, schema.SIGNATURE[side])
            if [self.get(entry, schema.TENSOR_MAP["tensor"]) for entry in maps] == indices:
                names = [self.get(entry, schema.TENSOR_MAP["name"]) for entry in maps]
                infos = [replace(info, name=name) for name, info in zip(names, infos, strict=True)]
        return infos

    def _operators(self, subgraph: Table) -> dict[str, int]:
        names = []
        for table in self.get(self.model, schema.MODEL["operator_codes"]):
            code = self.get(table, schema.OPERATOR_CODE["builtin_code"])
            custom = self.get(table, schema.OPERATOR_CODE["custom_code"])
            names.append(custom if code == schema.CUSTOM_OPERATOR else BUILTIN_NAMES.get(code, f"builtin {code}"))
        operators = self.get(subgraph, schema.SUBGRAPH["operators"])
        return dict(Counter(names[self.get(operator, schema.OPERATOR["opcode_index"])] for operator in operators))

    def _tensor(self, table: Table) -> TensorInfo:
        name, shape, code = (self.get(table, schema.TENSOR[field]) for field in ("name", "shape", "type"))
        if min(shape, default=0) < 0:
            raise ValueError(f"tensor '{name[:LONGEST_NAME]}' has the shape {str(shape)[:LONGEST_NAME]}")
        return TensorInfo(name, tuple(shape), DTYPES[schema.TensorType(code)])
