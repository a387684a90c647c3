"""No -0.0 reaches LceQuantize.

On ARM it packs the sign bit of a float, and -0.0 would become -1 where torch sees a zero, which is +1. On x86 it
compares with zero, so no run here would show that. These tests therefore follow the operators of the files.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from mutants.fault import Fault
from mutants.file_changes import Change, constant, left_out
from mutants.networks import SUBJECTS
from mutants.strike import clean_network
from official_schema import official, parse
from torch import Tensor, nn
from torch.nn import functional as F

import binmat
from binmat.backends.lce.backend import LCE
from binmat.pipeline.deployment import deploy
from binmat.quantizers import SCHEMES

#: They move their first operand's values, or give the largest of some of them.
MOVES = {"RESHAPE", "TRANSPOSE", "STRIDED_SLICE", "GATHER", "TILE", "SPLIT", "SPLIT_V", "MAX_POOL_2D"}
#: They join values.
JOINS = {"CONCATENATION", "PAD", "PADV2"}
#: max(x, 0) and the like: of a zero they may give the zero itself.
BOUNDS = {"RELU", "RELU6", "RELU_N1_TO_1"}
#: Such a function that is fused into an operator, by its number: none, RELU, RELU_N1_TO_1, RELU6.
FUSED = {0, 1, 2, 3}


class File:
    """A file, by its tensors."""

    def __init__(self, content: bytes) -> None:
        parsed = parse(content)
        (graph,) = parsed.subgraphs
        builtins = {value: name for name, value in vars(official().BuiltinOperator).items()}
        self.tensors, self.buffers = graph.tensors, parsed.buffers
        self.producers: dict[int, tuple[str, Any]] = {}
        self.packed: list[int] = []
        for operator in graph.operators:
            code = parsed.operatorCodes[operator.opcodeIndex]
            kind = code.customCode.decode() if code.customCode else builtins[code.builtinCode]
            self.producers |= {int(output): (kind, operator) for output in operator.outputs}
            if kind == "LceQuantize":
                self.packed.append(int(operator.inputs[0]))

    def constant(self, tensor: int) -> np.ndarray[Any, Any] | None:
        data = self.buffers[self.tensors[tensor].buffer].data
        return None if data is None else np.frombuffer(bytes(data), np.float32)

    def may_be_negative_zero(self, tensor: int) -> bool:
        """Whether nothing that is known of the tensor rules out an element of -0.0."""
        constant = self.constant(tensor)
        if constant is not None:
            return bool(((constant == 0) & np.signbit(constant)).any())
        if tensor not in self.producers:
            return True  # The caller gives it.
        kind, operator = self.producers[tensor]
        operands = [int(operand) for operand in operator.inputs]
        if kind == "ADD":
            # A sum is -0.0 only where both terms are.
            assert operator.builtinOptions.fusedActivationFunction in FUSED
            return all(map(self.may_be_negative_zero, operands))
        if kind == "LceBconv2d":
            # sum * multiplier + bias
            return self.may_be_negative_zero(operands[3])
        if kind == "LceDequantize":
            return False  # +1 or -1.
        if kind in JOINS:
            floats = [operand for operand in operands if self.tensors[operand].type == official().TensorType.FLOAT32]
            return any(map(self.may_be_negative_zero, floats))
        if kind in MOVES | BOUNDS:
            source = next(i for i in operands if self.tensors[i].type == official().TensorType.FLOAT32)
            return self.may_be_negative_zero(source)
        return True


class Binary(nn.Module):
    """Binary convolutions of every kind, behind what may give zeros of either sign."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 40, 3, padding=1)
        self.first = nn.Conv2d(40, 32, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(32)
        self.second = nn.Conv2d(32, 32, 3, padding=2, dilation=2, groups=2)
        self.deep = nn.Conv2d(32, 32, 3, padding=1, stride=2, groups=32)
        self.third = nn.Conv2d(64, 16, 1, bias=False)
        self.last = nn.Conv2d(16, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(-F.relu(self.stem(x))))
        x = F.relu6(self.second(x)) + x
        x = F.relu(self.deep(x))
        x = self.third(torch.cat([x, F.max_pool2d(x, 3, 1, 1)], 1))
        return self.head(F.hardswish(self.last(x * 0.5)))


#: Every scheme; some with a padding of ones, for which convolutions give bits.
CASES = [*((scheme, "zero") for scheme in SCHEMES), ("bnn", "one"), ("reactnet", "one")]


@pytest.mark.parametrize(("scheme", "padding"), CASES)
def test_no_negative_zero_is_packed(scheme: str, padding: str) -> None:
    network = binmat.convert(Binary().eval(), scheme, settings=[f"padding={padding}"], size=(8, 8)).eval()
    deployment = deploy(network)
    for content in (deployment.model.content, LCE.write(deployment.lowered, "reference").content):
        file = File(content)
        assert len(file.packed) >= 3
        for tensor in file.packed:
            assert not file.may_be_negative_zero(tensor), file.tensors[tensor].name.decode()


@pytest.mark.parametrize("change", [left_out("ADD"), constant("ADD", 1, np.negative)])
def test_what_packs_negative_zeros_is_found(change: Change) -> None:
    """The ADD of 0 in front of an LceQuantize left out, or -0.0 in its place."""
    with Fault("", "writer", "zeros", change).in_force():
        file = File(SUBJECTS["zeros"].deploy(clean_network("zeros")).model.content)
    assert any(map(file.may_be_negative_zero, file.packed))
