"""Where the parts of a .tflite file lie in its bytes."""

from __future__ import annotations

from dataclasses import dataclass

import flatbuffers
from flatbuffers.table import Table

from binmat.backends.lce.tflite import schema


@dataclass(frozen=True)
class Constant:
    """A constant of a file. operator: the kind that reads it first. operand: its place there. data: its bytes."""

    operator: str
    operand: int
    data: range


class FileLayout:
    """content: of a file that binmat wrote."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.model = Table(content, flatbuffers.encode.Get(flatbuffers.packer.uoffset, content, 0))
        self.subgraph = self._tables(self.model, schema.MODEL["subgraphs"])[0]
        self.operators = self._tables(self.subgraph, schema.SUBGRAPH["operators"])
        self.buffers = [
            self._vector(table, schema.BUFFER["data"])
            for table in self._tables(self.model, schema.MODEL["buffers"])
        ]

    def constants(self) -> list[Constant]:
        """Every constant that an operator reads, in the order in which they are read."""
        tensors = self._tables(self.subgraph, schema.SUBGRAPH["tensors"])
        found: dict[int, Constant] = {}
        for operator in self.operators:
            for place, tensor in enumerate(self._integers(operator, schema.OPERATOR["inputs"])):
                data = self.buffers[self._number(tensors[tensor], schema.TENSOR["buffer"])] if tensor >= 0 else range(0)
                if data:
                    found.setdefault(tensor, Constant(self._kind(operator), place, data))
        return list(found.values())

    def constant(self, operator: str, operand: int) -> range:
        """The bytes of the first constant at this operand of such an operator."""
        return next(c.data for c in self.constants() if (c.operator, c.operand) == (operator, operand))

    def option(self, kind: str, name: str) -> int:
        """Where an option of the first builtin operator of this kind lies."""
        builtin = schema.BUILTINS[kind]
        assert builtin.options is not None
        operator = next(operator for operator in self.operators if self._kind(operator) == kind)
        table = Table(self.content, operator.Indirect(self._place(operator, schema.OPERATOR["options"])))
        return self._place(table, builtin.options.fields[name])

    def custom_options(self, kind: str) -> range:
        """The bytes of the options of the first custom operator of this kind that has any."""
        each = (self._vector(op, schema.OPERATOR["custom_options"]) for op in self.operators if self._kind(op) == kind)
        return next(options for options in each if options)

    def metadata(self) -> range:
        entry = self._tables(self.model, schema.MODEL["metadata"])[0]
        return self.buffers[self._number(entry, schema.METADATA["buffer"])]

    def signature_name(self, side: str, index: int) -> range:
        """The bytes of the name of an input or output (`side`: inputs, outputs)."""
        signature = self._tables(self.model, schema.MODEL["signature_defs"])[0]
        entry = self._tables(signature, schema.SIGNATURE[side])[index]
        return self._vector(entry, schema.TENSOR_MAP["name"])

    def signature_tensor(self, side: str, index: int) -> int:
        """Where the tensor's number of an input or output lies."""
        signature = self._tables(self.model, schema.MODEL["signature_defs"])[0]
        return self._place(self._tables(signature, schema.SIGNATURE[side])[index], schema.TENSOR_MAP["tensor"])

    def names(self) -> list[str]:
        """Of all tensors."""
        tensors = self._tables(self.subgraph, schema.SUBGRAPH["tensors"])
        return [self._text(tensor, schema.TENSOR["name"]) for tensor in tensors]

    def _kind(self, operator: Table) -> str:
        codes = self._tables(self.model, schema.MODEL["operator_codes"])
        code = codes[self._number(operator, schema.OPERATOR["opcode_index"])]
        number = self._number(code, schema.OPERATOR_CODE["builtin_code"])
        if number == schema.CUSTOM_OPERATOR:
            return self._text(code, schema.OPERATOR_CODE["custom_code"])
        return next(name for name, builtin in schema.BUILTINS.items() if builtin.code == number)

    @staticmethod
    def _place(table: Table, field: schema.Field) -> int:
        """Where the field lies, 0 where the table leaves it out."""
        offset = table.Offset(4 + 2 * field.slot)
        return table.Pos + offset if offset else 0

    def _number(self, table: Table, field: schema.Field) -> int:
        place = self._place(table, field)
        return table.Get(schema.SCALARS[field.kind], place) if place else int(field.default)

    def _vector(self, table: Table, field: schema.Field) -> range:
        """The bytes of a vector of bytes or of a text; of any other vector, as many as it has elements."""
        offset = table.Offset(4 + 2 * field.slot)
        start = table.Vector(offset) if offset else 0
        return range(start, start + table.VectorLen(offset)) if offset else range(0)

    def _text(self, table: Table, field: schema.Field) -> str:
        data = self._vector(table, field)
        return self.content[data.start : data.stop].decode()

    def _integers(self, table: Table, field: schema.Field) -> list[int]:
        data = self._vector(table, field)
        return [
            int.from_bytes(self.content[place : place + 4], "little", signed=True)
            for place in range(data.start, data.start + 4 * len(data), 4)
        ]

    def _tables(self, table: Table, field: schema.Field) -> list[Table]:
        data = self._vector(table, field)
        return [Table(self.content, table.Indirect(data.start + 4 * index)) for index in range(len(data))]
