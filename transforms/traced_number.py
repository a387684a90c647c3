"""Numbers that a traced call computes from the sizes of its tensors."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from binmat.errors import SizeError


def check_size(value: Any, expected: Any, line: str) -> None:
    """Stop a graph that was traced for another size than the one it runs at.

    value: what the size gives now. expected: what it gave when the call was traced. line: of the network's code.
    Raises SizeError.
    """
    if value != expected:
        raise SizeError(
            f"{line} depends on the size: it gave {expected} for the example inputs and gives {value} now. "
            "Trace or convert the network with example inputs of this size"
        )


class TracedNumber:
    """A number with the graph's node that computes it.

    What stays arithmetic becomes nodes, so that the graph follows the size. What leaves it (a comparison, a conversion
    to a plain number) is decided once, at trace time, and :func:`check_size` guards the decision.
    """

    value: int | float
    tracer: NumberTracer
    make: Callable[[], fx.Node]

    _node: fx.Node | None = None

    def __bool__(self) -> bool:
        return bool(self.tracer.decide(bool, self))

    @property
    def node(self) -> fx.Node:
        """Made when it is first used: most sizes that code looks at are used by nothing."""
        if self._node is None:
            self._node = self.make()
        return self._node


class TracedInt(TracedNumber, int):
    """A traced whole number. It is an int: torch takes it for one."""


class TracedFloat(TracedNumber, float):
    """A traced fraction."""


class NumberTracer:
    """Makes traced numbers and their nodes in one graph. line: gives the line of the network's code that runs now."""

    def __init__(self, graph: fx.Graph, line: Callable[[], str]) -> None:
        self.graph = graph
        self.line = line
        self._checked: set[tuple[fx.Node, Any]] = set()

    def number(self, value: int | float, make: Callable[[], fx.Node]) -> TracedNumber:
        made = TracedInt(value) if isinstance(value, int) else TracedFloat(value)
        made.value, made.tracer, made.make = value, self, make
        return made

    def call(self, function: Callable[..., Any], *operands: Any) -> Any:
        """A function of numbers, traced; its plain result is a number."""
        value = function(*map(plain, operands))
        return self.number(value, lambda: self._node(function, operands))

    def decide(self, function: Callable[..., Any], *operands: Any) -> Any:
        """A function of numbers whose plain result the code goes on with; guarded."""
        expected = function(*map(plain, operands))
        self.guard(self._node(function, operands), expected)
        return expected

    def _node(self, function: Callable[..., Any], operands: tuple[Any, ...]) -> fx.Node:
        return self.graph.call_function(function, tuple(_as_argument(operand, self) for operand in operands))

    def guard(self, node: fx.Node, expected: Any) -> None:
        """Let the graph check that a node gives what it gave when it was traced."""
        if (node, expected) not in self._checked:
            self._checked.add((node, expected))
            self.graph.call_function(check_size, (node, expected, self.line()))


def plain(value: Any) -> Any:
    """A value, or a structure of values, with the numbers themselves in place of traced ones."""
    if isinstance(value, TracedNumber):
        return value.value
    if isinstance(value, slice):
        return slice(*map(plain, (value.start, value.stop, value.step)))
    if type(value) in (tuple, list, torch.Size):
        return type(value)([plain(part) for part in value])
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return value


def _as_argument(value: Any, tracer: NumberTracer) -> Any:
    """A number of another recording (from a cache) is a plain one."""
    return value.node if isinstance(value, TracedNumber) and value.tracer is tracer else plain(value)


def _arithmetic(function: Callable[..., Any], reverse: bool) -> Callable[..., Any]:
    def apply(self: TracedNumber, other: Any) -> Any:
        if isinstance(other, Tensor) or not isinstance(other, (int, float)):
            return NotImplemented  # A tensor's own method takes the number as its operand.
        return self.tracer.call(function, *((other, self) if reverse else (self, other)))

    return apply


def _comparison(function: Callable[..., Any]) -> Callable[..., Any]:
    def apply(self: TracedNumber, other: Any) -> Any:
        if isinstance(other, Tensor) or not isinstance(other, (int, float)):
            return NotImplemented
        return self.tracer.decide(function, self, other)

    return apply


def _change(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, *further: self.tracer.call(function, self, *further)


def _plain_result(function: Callable[..., Any]) -> Callable[..., Any]:
    def apply(self: TracedNumber) -> Any:
        self.tracer.guard(self.node, self.value)
        return function(self.value)

    return apply


_CHANGES: dict[str, Callable[..., Any]] = {
    "neg": operator.neg, "abs": abs, "round": round, "floor": math.floor, "ceil": math.ceil, "trunc": math.trunc
}  # fmt: skip
_CONVERSIONS: dict[str, Callable[..., Any]] = {"int": int, "float": float, "index": int, "hash": hash}

for _cls in (TracedInt, TracedFloat):
    for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
        setattr(_cls, f"__{_name}__", _arithmetic(getattr(operator, _name), reverse=False))
        setattr(_cls, f"__r{_name}__", _arithmetic(getattr(operator, _name), reverse=True))
    for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
        setattr(_cls, f"__{_name}__", _comparison(getattr(operator, _name)))
    for _name, _function in _CHANGES.items():
        setattr(_cls, f"__{_name}__", _change(_function))
    for _name, _function in _CONVERSIONS.items():
        setattr(_cls, f"__{_name}__", _plain_result(_function))
