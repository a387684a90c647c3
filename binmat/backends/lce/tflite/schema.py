"""The part of the TensorFlow Lite schema that is written and read: type codes, operator codes, tables.

Source: tensorflow/lite/schema/schema.fbs, schema version 3. The fields of a flatbuffer table are addressed by slot
numbers. Those never change once published, so they are written down here instead of being generated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from flatbuffers import number_types

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
    FLOAT16 = 1
    INT32 = 2
    UINT8 = 3
    INT64 = 4
    BOOL = 6
    INT8 = 9


TENSOR_TYPES: dict[DType, TensorType] = {
    np.dtype(np.float32): TensorType.FLOAT32,
    np.dtype(np.float16): TensorType.FLOAT16,
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


#: Kind of a scalar -> how flatbuffers writes and reads it.
SCALARS = {
    "int8": number_types.Int8Flags,
    "uint8": number_types.Uint8Flags,
    "int32": number_types.Int32Flags,
    "uint32": number_types.Uint32Flags,
    "bool": number_types.BoolFlags,
    "float32": number_types.Float32Flags,
}


@dataclass(frozen=True)
class Field:
    """One field of a table. kind: one of SCALARS, int32s (a vector), bytes, text, table or tables (a vector)."""

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


def _fields(**kinds: str) -> dict[str, Field]:
    """Fields in the order of their slots, from 0."""
    return {name: Field(slot, kind) for slot, (name, kind) in enumerate(kinds.items())}


_WINDOWS = {"padding": "int8", "stride_w": "int32", "stride_h": "int32"}
_ACTIVATION = _fields(activation="int8")
_CONV_2D = OptionTable(
    1, _fields(**_WINDOWS, activation="int8") | {"dilation_w": Field(4, "int32", 1), "dilation_h": Field(5, "int32", 1)}
)
_DEPTHWISE_CONV_2D = OptionTable(
    2,
    _fields(**_WINDOWS, depth_multiplier="int32", activation="int8")
    | {"dilation_w": Field(5, "int32", 1), "dilation_h": Field(6, "int32", 1)},
)
_POOL_2D = OptionTable(5, _fields(**_WINDOWS, filter_w="int32", filter_h="int32", activation="int8"))
_CONV_3D = OptionTable(
    106, _fields(padding="int8", stride_d="int32", stride_w="int32", stride_h="int32", activation="int8")
)
_REDUCER = OptionTable(27, _fields(keep_dims="bool"))

BUILTINS: dict[str, Builtin] = {
    "ABS": Builtin(101, OptionTable(78)),
    "ADD": Builtin(0, OptionTable(11, _ACTIVATION)),
    "ARG_MAX": Builtin(56, OptionTable(40, _fields(output_type="int8"))),
    "ARG_MIN": Builtin(79, OptionTable(57, _fields(output_type="int8"))),
    "ATAN2": Builtin(156, OptionTable(122)),
    "AVERAGE_POOL_2D": Builtin(1, _POOL_2D),
    "BATCH_MATMUL": Builtin(126, OptionTable(101, _fields(adj_x="bool", adj_y="bool"))),
    "BITWISE_XOR": Builtin(160, OptionTable(125)),
    "CAST": Builtin(53, OptionTable(37, _fields(in_type="int8", out_type="int8"))),
    "CEIL": Builtin(104),
    "CONCATENATION": Builtin(2, OptionTable(10, _fields(axis="int32"))),
    "CONV_2D": Builtin(3, _CONV_2D),
    "CONV_3D": Builtin(132, _CONV_3D),
    "COS": Builtin(108, OptionTable(84)),
    "CUMSUM": Builtin(128, OptionTable(102, _fields(exclusive="bool", reverse="bool"))),
    "DEPTH_TO_SPACE": Builtin(5, OptionTable(94, _fields(block_size="int32"))),
    "DEPTHWISE_CONV_2D": Builtin(4, _DEPTHWISE_CONV_2D, version=2),
    "DIV": Builtin(42, OptionTable(29, _ACTIVATION)),
    "ELU": Builtin(111),
    "EQUAL": Builtin(71, OptionTable(53)),
    "EXP": Builtin(47, OptionTable(33)),
    "FLOOR": Builtin(8),
    "FLOOR_DIV": Builtin(90, OptionTable(65)),
    "FLOOR_MOD": Builtin(95, OptionTable(72)),
    "FULLY_CONNECTED": Builtin(
        9, OptionTable(8, _fields(activation="int8", weights_format="int8", keep_num_dims="bool"))
    ),
    "GATHER": Builtin(36, OptionTable(23, _fields(axis="int32", batch_dims="int32"))),
    "GELU": Builtin(150, OptionTable(116, _fields(approximate="bool"))),
    "GREATER": Builtin(61, OptionTable(44)),
    "GREATER_EQUAL": Builtin(62, OptionTable(45)),
    "HARD_SWISH": Builtin(117, OptionTable(91)),
    "LEAKY_RELU": Builtin(98, OptionTable(75, _fields(alpha="float32"))),
    "LESS": Builtin(58, OptionTable(41)),
    "LESS_EQUAL": Builtin(63, OptionTable(46)),
    "LOG": Builtin(73),
    "LOGICAL_AND": Builtin(86, OptionTable(62)),
    "LOGICAL_NOT": Builtin(87, OptionTable(63)),
    "LOGICAL_OR": Builtin(84, OptionTable(60)),
    "LOGISTIC": Builtin(14),
    "LOG_SOFTMAX": Builtin(50, OptionTable(36)),
    "MAX_POOL_2D": Builtin(17, _POOL_2D),
    "MAXIMUM": Builtin(55, OptionTable(39)),
    "MEAN": Builtin(40, _REDUCER),
    "MINIMUM": Builtin(57, OptionTable(39)),
    "MIRROR_PAD": Builtin(100, OptionTable(77, _fields(mode="int8"))),
    "MUL": Builtin(18, OptionTable(21, _ACTIVATION)),
    "NEG": Builtin(59, OptionTable(42)),
    "NOT_EQUAL": Builtin(72, OptionTable(54)),
    "PAD": Builtin(34, OptionTable(22)),
    "PADV2": Builtin(60, OptionTable(43)),
    "POW": Builtin(78, OptionTable(56)),
    "PRELU": Builtin(54),
    "REDUCE_ALL": Builtin(140, _REDUCER),
    "REDUCE_ANY": Builtin(91, _REDUCER),
    "REDUCE_MAX": Builtin(82, _REDUCER),
    "REDUCE_MIN": Builtin(89, _REDUCER),
    "REDUCE_PROD": Builtin(81, _REDUCER),
    "RELU": Builtin(19),
    "RELU6": Builtin(21),
    "RELU_N1_TO_1": Builtin(20),
    "RESHAPE": Builtin(22, OptionTable(17, _fields(new_shape="int32s"))),
    "RESIZE_BILINEAR": Builtin(
        23, OptionTable(15, {"align_corners": Field(2, "bool"), "half_pixel_centers": Field(3, "bool")}), version=3
    ),
    "RESIZE_NEAREST_NEIGHBOR": Builtin(
        97, OptionTable(74, _fields(align_corners="bool", half_pixel_centers="bool")), version=3
    ),
    "REVERSE_V2": Builtin(105, OptionTable(80)),
    "ROUND": Builtin(116),
    "RSQRT": Builtin(76),
    "SELECT_V2": Builtin(123, OptionTable(98)),
    "SIN": Builtin(66),
    "SOFTMAX": Builtin(25, OptionTable(9, _fields(beta="float32"))),
    "SPLIT": Builtin(49, OptionTable(35, _fields(num_splits="int32"))),
    "SPLIT_V": Builtin(102, OptionTable(79, _fields(num_splits="int32"))),
    "SQRT": Builtin(75),
    "SQUARE": Builtin(92, OptionTable(66)),
    "STRIDED_SLICE": Builtin(
        45, OptionTable(32, _fields(begin_mask="int32", end_mask="int32"))
    ),
    "SUB": Builtin(41, OptionTable(28, _ACTIVATION)),
    "SUM": Builtin(74, _REDUCER),
    "TANH": Builtin(28),
    "TILE": Builtin(69, OptionTable(51)),
    "TOPK_V2": Builtin(48, OptionTable(34)),
    "TRANSPOSE": Builtin(39, OptionTable(26)),
    "TRANSPOSE_CONV": Builtin(67, OptionTable(49, _fields(**_WINDOWS))),
}

MODEL = _fields(
    version="uint32",
    operator_codes="tables",
    subgraphs="tables",
    description="text",
    buffers="tables",
    metadata_buffer="int32s",
    metadata="tables",
    signature_defs="tables",
)
SUBGRAPH = _fields(tensors="tables", inputs="int32s", outputs="int32s", operators="tables", name="text")
TENSOR = _fields(shape="int32s", type="int8", buffer="uint32", name="text")
OPERATOR = _fields(
    opcode_index="uint32",
    inputs="int32s",
    outputs="int32s",
    options_type="uint8",
    options="table",
    custom_options="bytes",
)
OPERATOR_CODE = {
    "deprecated_builtin_code": Field(0, "int8"),
    "custom_code": Field(1, "text"),
    "version": Field(2, "int32", 1),
    "builtin_code": Field(3, "int32"),
}
BUFFER = _fields(data="bytes")
METADATA = _fields(name="text", buffer="uint32")
SIGNATURE = _fields(inputs="tables", outputs="tables", key="text", deprecated_tag="text", subgraph_index="uint32")
TENSOR_MAP = _fields(name="text", tensor="uint32")
