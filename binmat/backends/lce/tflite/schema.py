"""The part of the TensorFlow Lite schema that the writer uses: type codes, operator codes, option tables.

Source: tensorflow/lite/schema/schema.fbs, schema version 3. A flatbuffer table is addressed by slot numbers,
which never change once published, so they are written down here instead of being generated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
DType = np.dtype[Any]

SCHEMA_VERSION = 3
FILE_IDENTIFIER = b"TFL3"
BUFFER_ALIGNMENT = 16
CUSTOM_OPERATOR = 32
#: OperatorCode.deprecated_builtin_code is a byte: larger codes are written as this placeholder.
LARGEST_BYTE_CODE = 127


class TensorType(IntEnum):
    FLOAT32 = 0
    INT32 = 2
    UINT8 = 3
    INT64 = 4
    BOOL = 6
    INT8 = 9


TENSOR_TYPES: dict[DType, TensorType] = {
    np.dtype(np.float32): TensorType.FLOAT32,
    np.dtype(np.int32): TensorType.INT32,
    np.dtype(np.uint8): TensorType.UINT8,
    np.dtype(np.int64): TensorType.INT64,
    np.dtype(np.bool_): TensorType.BOOL,
    np.dtype(np.int8): TensorType.INT8,
}


class Padding(IntEnum):
    SAME = 0
    VALID = 1


class Activation(IntEnum):
    """Activation functions that some operators apply to their own output."""

    NONE = 0
    RELU = 1
    RELU_N1_TO_1 = 2
    RELU6 = 3


class MirrorPadMode(IntEnum):
    REFLECT = 0
    SYMMETRIC = 1


@dataclass(frozen=True)
class Field:
    """One scalar or vector field of an option table. kind: int8, int32, bool, float32 or int32s (a vector)."""

    slot: int
    kind: str
    default: float = 0


@dataclass(frozen=True)
class OptionTable:
    """A member of the union BuiltinOptions."""

    code: int
    fields: dict[str, Field] = field(default_factory=dict)


@dataclass(frozen=True)
class Builtin:
    """A builtin operator: its code, option table, and the lowest version that does what the writer asks of it."""

    code: int
    options: OptionTable | None = None
    version: int = 1

    @property
    def fuses_activation(self) -> bool:
        return self.options is not None and "activation" in self.options.fields


def _activation(slot: int) -> dict[str, Field]:
    return {"activation": Field(slot, "int8")}


_PADDING_STRIDES = {
    "padding": Field(0, "int8"),
    "stride_w": Field(1, "int32"),
    "stride_h": Field(2, "int32"),
}
_CONV_2D = OptionTable(
    1,
    _PADDING_STRIDES | _activation(3) | {"dilation_w": Field(4, "int32", 1), "dilation_h": Field(5, "int32", 1)},
)
_DEPTHWISE_CONV_2D = OptionTable(
    2,
    _PADDING_STRIDES
    | {"depth_multiplier": Field(3, "int32")}
    | _activation(4)
    | {"dilation_w": Field(5, "int32", 1), "dilation_h": Field(6, "int32", 1)},
)
_POOL_2D = OptionTable(
    5, _PADDING_STRIDES | {"filter_w": Field(3, "int32"), "filter_h": Field(4, "int32")} | _activation(5)
)
_REDUCER = OptionTable(27, {"keep_dims": Field(0, "bool")})

BUILTINS: dict[str, Builtin] = {
    "ABS": Builtin(101, OptionTable(78)),
    "ADD": Builtin(0, OptionTable(11, _activation(0))),
    "AVERAGE_POOL_2D": Builtin(1, _POOL_2D),
    "BATCH_MATMUL": Builtin(126, OptionTable(101, {"adj_x": Field(0, "bool"), "adj_y": Field(1, "bool")})),
    "CAST": Builtin(53, OptionTable(37, {"in_type": Field(0, "int8"), "out_type": Field(1, "int8")})),
    "CONCATENATION": Builtin(2, OptionTable(10, {"axis": Field(0, "int32")})),
    "CONV_2D": Builtin(3, _CONV_2D),
    "DEPTH_TO_SPACE": Builtin(5, OptionTable(94, {"block_size": Field(0, "int32")})),
    "DEPTHWISE_CONV_2D": Builtin(4, _DEPTHWISE_CONV_2D, version=2),
    "DIV": Builtin(42, OptionTable(29, _activation(0))),
    "ELU": Builtin(111),
    "EQUAL": Builtin(71, OptionTable(53)),
    "EXP": Builtin(47, OptionTable(33)),
    "FLOOR": Builtin(8),
    "FULLY_CONNECTED": Builtin(
        9, OptionTable(8, _activation(0) | {"weights_format": Field(1, "int8"), "keep_num_dims": Field(2, "bool")})
    ),
    "GATHER": Builtin(36, OptionTable(23, {"axis": Field(0, "int32")})),
    "GELU": Builtin(150, OptionTable(116, {"approximate": Field(0, "bool")})),
    "GREATER": Builtin(61, OptionTable(44)),
    "GREATER_EQUAL": Builtin(62, OptionTable(45)),
    "HARD_SWISH": Builtin(117, OptionTable(91)),
    "LEAKY_RELU": Builtin(98, OptionTable(75, {"alpha": Field(0, "float32")})),
    "LESS": Builtin(58, OptionTable(41)),
    "LESS_EQUAL": Builtin(63, OptionTable(46)),
    "LOG": Builtin(73),
    "LOGICAL_AND": Builtin(86, OptionTable(62)),
    "LOGICAL_NOT": Builtin(87, OptionTable(63)),
    "LOGICAL_OR": Builtin(84, OptionTable(60)),
    "LOGISTIC": Builtin(14),
    "MAX_POOL_2D": Builtin(17, _POOL_2D),
    "MAXIMUM": Builtin(55, OptionTable(39)),
    "MEAN": Builtin(40, _REDUCER),
    "MINIMUM": Builtin(57, OptionTable(39)),
    "MIRROR_PAD": Builtin(100, OptionTable(77, {"mode": Field(0, "int8")})),
    "MUL": Builtin(18, OptionTable(21, _activation(0))),
    "NEG": Builtin(59, OptionTable(42)),
    "NOT_EQUAL": Builtin(72, OptionTable(54)),
    "PAD": Builtin(34, OptionTable(22)),
    "PADV2": Builtin(60, OptionTable(43)),
    "POW": Builtin(78, OptionTable(56)),
    "PRELU": Builtin(54),
    "REDUCE_MAX": Builtin(82, _REDUCER),
    "REDUCE_MIN": Builtin(89, _REDUCER),
    "RELU": Builtin(19),
    "RELU6": Builtin(21),
    "RELU_N1_TO_1": Builtin(20),
    "RESHAPE": Builtin(22, OptionTable(17, {"new_shape": Field(0, "int32s")})),
    "RESIZE_BILINEAR": Builtin(
        23, OptionTable(15, {"align_corners": Field(2, "bool"), "half_pixel_centers": Field(3, "bool")}), version=3
    ),
    "RESIZE_NEAREST_NEIGHBOR": Builtin(
        97, OptionTable(74, {"align_corners": Field(0, "bool"), "half_pixel_centers": Field(1, "bool")}), version=3
    ),
    "REVERSE_V2": Builtin(105, OptionTable(80)),
    "RSQRT": Builtin(76),
    "SELECT_V2": Builtin(123, OptionTable(98)),
    "SOFTMAX": Builtin(25, OptionTable(9, {"beta": Field(0, "float32")})),
    "SPLIT": Builtin(49, OptionTable(35, {"num_splits": Field(0, "int32")})),
    "SPLIT_V": Builtin(102, OptionTable(79, {"num_splits": Field(0, "int32")})),
    "SQRT": Builtin(75),
    "SQUARE": Builtin(92, OptionTable(66)),
    "STRIDED_SLICE": Builtin(
        45, OptionTable(32, {name: Field(slot, "int32") for slot, name in enumerate(("begin_mask", "end_mask"))})
    ),
    "SUB": Builtin(41, OptionTable(28, _activation(0))),
    "SUM": Builtin(74, _REDUCER),
    "TANH": Builtin(28),
    "TILE": Builtin(69, OptionTable(51)),
    "TRANSPOSE": Builtin(39, OptionTable(26)),
    "TRANSPOSE_CONV": Builtin(67, OptionTable(49, _PADDING_STRIDES)),
}

#: Slots of the tables around the operators.
MODEL = {
    "version": 0,
    "operator_codes": 1,
    "subgraphs": 2,
    "description": 3,
    "buffers": 4,
    "metadata": 6,
    "signature_defs": 7,
}
SUBGRAPH = {"tensors": 0, "inputs": 1, "outputs": 2, "operators": 3, "name": 4}
TENSOR = {"shape": 0, "type": 1, "buffer": 2, "name": 3}
OPERATOR = {"opcode_index": 0, "inputs": 1, "outputs": 2, "options_type": 3, "options": 4, "custom_options": 5}
OPERATOR_CODE = {"deprecated_builtin_code": 0, "custom_code": 1, "version": 2, "builtin_code": 3}
BUFFER = {"data": 0}
METADATA = {"name": 0, "buffer": 1}
SIGNATURE = {"inputs": 0, "outputs": 1, "key": 2, "subgraph_index": 4}
TENSOR_MAP = {"name": 0, "tensor": 1}
