"""Reads all of a TensorFlow Lite file: its tensors with their constants, its operators with their options."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flatbuffers import flexbuffers
from flatbuffers.table import Table

from binmat.backends.lce.tflite import schema
from binmat.backends.lce.tflite.graph import Operator, Tensor
from binmat.backends.lce.tflite.reader import BUILTIN_NAMES, DTYPES, Tables
from binmat.errors import ExportError


@dataclass(frozen=True)
class Contents:
    """A model's first subgraph. inputs, outputs: (name in the signature, tensor), in the subgraph's order."""

    tensors: Sequence[Tensor]
    operators: Sequence[Operator]
    inputs: Sequence[tuple[str, int]]
    outputs: Sequence[tuple[str, int]]


def read_contents(content: bytes) -> Contents:
    """All of a file's first subgraph. Raises ExportError where the content is damaged."""
    try:
        return _Contents(content).read()
    except (IndexError, ValueError, KeyError, TypeError, OverflowError, struct.error) as error:
        raise ExportError(f"the TensorFlow Lite model is damaged: {error}") from error


class _Contents(Tables):
    def read(self) -> Contents:
        subgraph = self.get(self.model, schema.MODEL["subgraphs"])[0]
        buffers = [self.get(table, schema.BUFFER["data"]) for table in self.get(self.model, schema.MODEL["buffers"])]
        tensors = [self._tensor(table, buffers) for table in self.get(subgraph, schema.SUBGRAPH["tensors"])]
        operators = [self._operator(table) for table in self.get(subgraph, schema.SUBGRAPH["operators"])]
        inputs, outputs = (self._side(subgraph, tensors, side) for side in ("inputs", "outputs"))
        return Contents(tensors, operators, inputs, outputs)

    def _tensor(self, table: Table, buffers: list[memoryview]) -> Tensor:
        name, shape, code = (self.get(table, schema.TENSOR[field]) for field in ("name", "shape", "type"))
        dtype = DTYPES[schema.TensorType(code)]
        buffer = buffers[self.get(table, schema.TENSOR["buffer"])]
        data = np.frombuffer(buffer, dtype).reshape(shape) if len(buffer) else None
        return Tensor(name, tuple(shape), dtype, data)

    def _operator(self, table: Table) -> Operator:
        codes = self.get(self.model, schema.MODEL["operator_codes"])
        code = codes[self.get(table, schema.OPERATOR["opcode_index"])]
        number = self.get(code, schema.OPERATOR_CODE["builtin_code"])
        custom = number == schema.CUSTOM_OPERATOR
        kind = self.get(code, schema.OPERATOR_CODE["custom_code"]) if custom else BUILTIN_NAMES[number]
        inputs, outputs = (self.get(table, schema.OPERATOR[side]) for side in ("inputs", "outputs"))
        options = self._custom_options(table) if custom else self._options(table, schema.BUILTINS[kind])
        return Operator(kind, inputs, outputs, options, custom, self.get(code, schema.OPERATOR_CODE["version"]))

    def _custom_options(self, table: Table) -> dict[str, Any]:
        written = bytes(self.get(table, schema.OPERATOR["custom_options"]))
        return dict(flexbuffers.Loads(written)) if written else {}

    def _options(self, table: Table, builtin: schema.Builtin) -> dict[str, Any]:
        options = self.get(table, schema.OPERATOR["options"])
        if builtin.options is None or options is None:
            return {}
        return {name: self.get(options, field) for name, field in builtin.options.fields.items()}

    def _side(self, subgraph: Table, tensors: list[Tensor], side: str) -> list[tuple[str, int]]:
        names: dict[int, str] = {}
        for signature in self.get(self.model, schema.MODEL["signature_defs"])[:1]:
            for entry in self.get(signature, schema.SIGNATURE[side]):
                tensor, name = (self.get(entry, schema.TENSOR_MAP[field]) for field in ("tensor", "name"))
                names[tensor] = name
        indices = self.get(subgraph, schema.SUBGRAPH[side])
        return [(names.get(tensor, tensors[tensor].name), tensor) for tensor in indices]
