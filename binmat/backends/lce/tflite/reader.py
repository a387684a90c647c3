"""Reads back from a TensorFlow Lite file what a caller needs to feed and to inspect it."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass

import flatbuffers
import numpy as np
from flatbuffers import number_types
from flatbuffers.table import Table

from binmat.backends.lce.tflite import schema
from binmat.errors import ExportError


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


_BUILTIN_NAMES = {builtin.code: name for name, builtin in schema.BUILTINS.items()}
_DTYPES = {code: dtype for dtype, code in schema.TENSOR_TYPES.items()}


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


class _Reader:
    def __init__(self, content: bytes) -> None:
        self.content = content
        root = flatbuffers.encode.Get(flatbuffers.packer.uoffset, content, 0)
        self.model = Table(content, root)

    def info(self) -> ModelInfo:
        self._check_length()
        subgraph = self._tables(self.model, schema.MODEL["subgraphs"])[0]
        tensors = [self._tensor(table) for table in self._tables(subgraph, schema.SUBGRAPH["tensors"])]
        input_indices = self._int32s(subgraph, schema.SUBGRAPH["inputs"])
        output_indices = self._int32s(subgraph, schema.SUBGRAPH["outputs"])
        inputs = [tensors[index] for index in input_indices]
        outputs = [tensors[index] for index in output_indices]
        signatures = self._tables(self.model, schema.MODEL["signature_defs"])
        if signatures:
            inputs = self._named(signatures[0], "inputs", input_indices, inputs)
            outputs = self._named(signatures[0], "outputs", output_indices, outputs)
        return ModelInfo(inputs, outputs, self._operators(subgraph), self._metadata())

    def _check_length(self) -> None:
        """The interpreter would read weights from beyond the end of a file that is cut short."""
        slot = 4 + 2 * schema.BUFFER["data"]
        for buffer in self._tables(self.model, schema.MODEL["buffers"]):
            if (offset := buffer.Offset(slot)) and buffer.Vector(offset) + buffer.VectorLen(offset) > len(self.content):
                raise ValueError("it is cut short")

    def _operators(self, subgraph: Table) -> dict[str, int]:
        names = [self._code_name(code) for code in self._tables(self.model, schema.MODEL["operator_codes"])]
        slot = schema.OPERATOR["opcode_index"]
        return dict(
            Counter(
                names[self._number(operator, slot, number_types.Uint32Flags)]
                for operator in self._tables(subgraph, schema.SUBGRAPH["operators"])
            )
        )

    def _code_name(self, table: Table) -> str:
        code = self._number(table, schema.OPERATOR_CODE["builtin_code"], number_types.Int32Flags)
        if code == schema.CUSTOM_OPERATOR:
            return self._text(table, schema.OPERATOR_CODE["custom_code"])
        return _BUILTIN_NAMES.get(code, f"builtin {code}")

    def _metadata(self) -> dict[str, bytes]:
        buffers = self._tables(self.model, schema.MODEL["buffers"])
        found = {}
        for entry in self._tables(self.model, schema.MODEL["metadata"]):
            index = self._number(entry, schema.METADATA["buffer"], number_types.Uint32Flags)
            found[self._text(entry, schema.METADATA["name"])] = self._bytes(buffers[index], schema.BUFFER["data"])
        return found

    def _named(self, signature: Table, side: str, indices: list[int], infos: list[TensorInfo]) -> list[TensorInfo]:
        """The infos with the signature's names. Entries of a signature stand in the order of the subgraph's."""
        maps = self._tables(signature, schema.SIGNATURE[side])
        tensors = [self._number(entry, schema.TENSOR_MAP["tensor"], number_types.Uint32Flags) for entry in maps]
        if tensors != indices:
            return infos
        names = [self._text(entry, schema.TENSOR_MAP["name"]) for entry in maps]
        return [TensorInfo(name, info.shape, info.dtype) for name, info in zip(names, infos, strict=True)]

    def _tensor(self, table: Table) -> TensorInfo:
        code = self._number(table, schema.TENSOR["type"], number_types.Int8Flags)
        return TensorInfo(
            self._text(table, schema.TENSOR["name"]),
            tuple(self._int32s(table, schema.TENSOR["shape"])),
            _DTYPES[schema.TensorType(code)],
        )

    def _place(self, table: Table, slot: int) -> int:
        """Where a field lies in the content; 0 where the table leaves it out."""
        offset = table.Offset(4 + 2 * slot)
        return int(offset + table.Pos) if offset else 0

    def _number(self, table: Table, slot: int, flags: type) -> int:
        place = self._place(table, slot)
        return int(table.Get(flags, place)) if place else 0

    def _text(self, table: Table, slot: int) -> str:
        place = self._place(table, slot)
        return bytes(table.String(place)).decode() if place else ""

    def _tables(self, table: Table, slot: int) -> list[Table]:
        offset = table.Offset(4 + 2 * slot)
        if not offset:
            return []
        start = table.Vector(offset)
        return [Table(self.content, table.Indirect(start + 4 * i)) for i in range(table.VectorLen(offset))]

    def _int32s(self, table: Table, slot: int) -> list[int]:
        offset = table.Offset(4 + 2 * slot)
        if not offset:
            return []
        values = np.frombuffer(self.content, np.dtype("<i4"), table.VectorLen(offset), table.Vector(offset))
        return [int(value) for value in values]

    def _bytes(self, table: Table, slot: int) -> bytes:
        offset = table.Offset(4 + 2 * slot)
        if not offset:
            return b""
        start = table.Vector(offset)
        return self.content[start : start + table.VectorLen(offset)]
