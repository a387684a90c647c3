"""One operator of the lowered graph: the file's value against torch's, computed from the file's own operands."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from binmat.transforms.lowering.constants import constant
from binmat.verification.results import CheckKind, NodeCheck
from binmat.verification.signs import BINARIZE, TINY, distance_from_threshold

#: Relative to a tensor's range: float operators of TFLite differ from torch's by at most about 4e-6.
VALUE_LIMIT = 1e-5
#: Relative to each operand. An operator may amplify rounding, as the normalisation of an almost constant map does. A
#: backend may then differ by as much as the result moves when the operands move by this much.
OPERAND_LIMIT = 1e-5
#: In units of the float32 spacing at |sum| * |multiplier| + |bias|: a backend rounds its own bias, product and sum.
ROUNDINGS = 2
#: Elements that are compared at a time.
BLOCK = 2**20
#: On operands whose products stand alone: in units of the spacing at the sum of |product|, and |bias|.
PRODUCT_ROUNDINGS = 8
BINARY_CONV = torch.ops.binmat.binary_conv2d.default
aten = torch.ops.aten
#: Operators that round once, so that every backend gets the same. With a factor for an operand they round twice.
_ROUNDED_ONCE = {
    aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten._prelu_kernel.default, aten.relu.default,
    aten.hardtanh.default, aten.clamp.default, aten.maximum.default, aten.minimum.default, aten.abs.default,
    aten.neg.default,
}  # fmt: skip
#: Functions by which no difference grows, and which backends apply to what a sum of products gives.
_NOT_STEEPER = {aten.relu.default, aten.hardtanh.default, aten.clamp.default, aten.view.default}
#: Sums of products -> the places of their factors, and of what is added, among the arguments.
PRODUCTS: dict[Any, tuple[int, ...]] = {
    aten.convolution.default: (0, 1, 2),
    aten.mm.default: (0, 1),
    aten.bmm.default: (0, 1),
    aten.addmm.default: (1, 2, 0),
    aten.baddbmm.default: (1, 2, 0),
}
_ANY_LAYOUT = (BINARIZE, BINARY_CONV, torch.ops.aten.convolution.default)


def check_node(node: Node, actual: Tensor, evaluator: Evaluator, wide: bool = False) -> NodeCheck:
    """The file's value of a node against torch's, computed from the file's values of the operands.

    wide: the operands are wide values. Then single elements count: of sums whose products stand alone, and of operators
    that round once.
    """
    expected = evaluator.compute(node)
    kind: CheckKind
    if expected.shape != actual.shape or not expected.numel():
        kind, worst, limit = "exact", float(expected.shape != actual.shape), 0.0
    elif node.target == BINARIZE:
        kind, worst, limit = "sign", _wrong_signs(node, expected, actual, evaluator), 0.0
    elif node.target == BINARY_CONV:
        kind, worst, limit = "sum", _sum_error(node, expected, actual, evaluator), 1.0
    elif not expected.is_floating_point():
        kind, worst, limit = "exact", float((expected != actual).sum()), 0.0
    elif torch.equal(expected, actual):
        kind, worst, limit = "value", 0.0, VALUE_LIMIT
    elif wide and (unit := _rounding_of(node, expected, evaluator)) is not None:
        kind, worst, limit = "sum", _in_units(expected, actual, unit), 1.0
    else:
        # float16 is coarser than the limit: a backend may round to its neighbour.
        limit = max(VALUE_LIMIT, torch.finfo(expected.dtype).eps)
        kind, worst = "value", _value_error(node, expected, actual, evaluator)
        if worst > limit and (sums := _against_long_sums(node, expected, actual, evaluator)) <= 1:
            kind, worst, limit = "sum", sums, 1.0
    layer = str(node.meta.get("layer", ""))
    return NodeCheck(node.name, layer, str(node.target), kind, expected.numel(), worst, limit, is_constant(expected))


def _rounding_of(node: Node, expected: Tensor, evaluator: Evaluator) -> Tensor | None:
    """What rounding may change of each element; None where that is not known."""
    eps = float(np.finfo(np.float32).eps)
    known = all(operand in evaluator.known or operand.op == "get_attr" for operand in node.all_input_nodes)
    if node.target in _ROUNDED_ONCE and known and not node.kwargs and expected.dtype == torch.float32:
        return eps * expected.abs() + TINY
    product = node
    while product.target in _NOT_STEEPER and product.all_input_nodes:
        if product.all_input_nodes[0] in evaluator.known:
            return None
        product = product.all_input_nodes[0]
    if product.target not in PRODUCTS or expected.dtype != torch.float32:
        return None
    places = PRODUCTS[product.target]
    sizes = [
        evaluator.operand(argument).abs() if isinstance(argument, Node) else argument
        for argument in (product.args[place] for place in places)
    ]
    arguments = list(product.args)
    for place, size in zip(places, sizes, strict=True):
        arguments[place] = size
    operator: Any = product.target
    total: Tensor = operator(*arguments)
    return (PRODUCT_ROUNDINGS * eps * total + TINY).reshape(expected.shape)


def _against_long_sums(node: Node, expected: Tensor, actual: Tensor, evaluator: Evaluator) -> float:
    """The difference of a sum of n products in units of n / 2 roundings of the sum of |product|.

    A backend that adds one product after the other may differ by as much, and does where many of them are alike, as
    behind the softmax of an attention over many places. Infinite for other operators.
    """
    unit = _rounding_of(node, expected, evaluator)
    if unit is None or node.target not in PRODUCTS:
        return math.inf
    first, second, *_ = (node.args[place] for place in PRODUCTS[node.target])
    one, other = (evaluator.operand(factor) for factor in (first, second) if isinstance(factor, Node))
    count = other[0].numel() if node.target is aten.convolution.default else one.shape[-1]
    return _in_units(expected, actual, unit) / max(1.0, count / (2 * PRODUCT_ROUNDINGS))


def _in_units(expected: Tensor, actual: Tensor, unit: Tensor) -> float:
    """The largest difference in units of what each element may differ by. Equal infinities and NaN do not differ."""
    alike = (expected == actual) | (expected.isnan() & actual.isnan()) | _saturated(expected, actual)
    return float(torch.where(alike, 0.0, (expected - actual).abs() / unit).max())


def _saturated(x: Tensor, y: Tensor) -> Tensor:
    """Where one side is infinite and the other the largest float of that sign, at which TFLite's arithmetic stops."""
    largest = torch.finfo(torch.float32).max
    return (x.isinf() | y.isinf()) & (x.clamp(-largest, largest) == y.clamp(-largest, largest))


def is_constant(x: Tensor) -> bool:
    """Whether all elements are equal; a single one is no constant map."""
    if x.numel() < 2:
        return False
    first = x[(0,) * x.dim()]
    corner = x[(slice(2),) * x.dim()]
    return bool((corner == first).all()) and bool((x == first).all())


class Evaluator:
    """Evaluates single nodes in torch from known values; nodes without one are computed from their own operands."""

    def __init__(self, lowered: GraphModule, known: Mapping[Node, Tensor], exact: bool = False) -> None:
        """known: values of nodes. exact: compute in float64; the known values are float64."""
        self.lowered = lowered
        self.known = known
        self.exact = exact

    def operand(self, node: Node) -> Any:
        """The node's known value, else its computed one."""
        return self.known[node] if node in self.known else self.compute(node)

    def compute(self, node: Node) -> Any:
        """The node's value from its operands' known values."""
        if node.op == "get_attr":
            value = constant(self.lowered, node)
            return value.double() if self.exact and value.is_floating_point() else value
        operand = self.operand if _takes_any_layout(node) else self._contiguous
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), operand)
        with torch.no_grad():
            return node.target(*args, **kwargs)  # type: ignore[operator]

    def _contiguous(self, node: Node) -> Any:
        value = self.operand(node)
        return value.contiguous() if isinstance(value, Tensor) else value

    def in_float64(self, node: Node) -> Tensor:
        """The node's value computed in float64."""
        known = {n: self.known[n] for n in sources(node, self.known)}
        exact = {n: value.double() if value.is_floating_point() else value for n, value in known.items()}
        value: Tensor = Evaluator(self.lowered, exact, exact=True).compute(node)
        return value

    def moved(self, node: Node, share: float) -> Any:
        """The node's value when the known values it is computed from move by up to `share` of themselves."""
        generator = torch.Generator().manual_seed(0)
        moving = sources(node, self.known)
        known = {
            operand: value * (1 + share * (2 * torch.rand(value.shape, generator=generator) - 1))
            for operand, value in self.known.items()
            if value.is_floating_point() and operand in moving
        }
        return Evaluator(self.lowered, {**self.known, **known}).compute(node)


def _takes_any_layout(node: Node) -> bool:
    """Whether the operator takes values in the file's own order in memory; a view, for one, does not."""
    return node.target in _ANY_LAYOUT or torch.Tag.pointwise in getattr(node.target, "tags", ())


def sources(node: Node, known: Container[Node]) -> dict[Node, None]:
    """The known nodes that the node is computed from without another known one in between, in order."""
    found: dict[Node, None] = {}
    for operand in node.all_input_nodes:
        found |= {operand: None} if operand in known else sources(operand, known)
    return found


def _value_error(node: Node, expected: Tensor, actual: Tensor, evaluator: Evaluator) -> float:
    """The largest difference relative to the range of the values, or to what moved operands would change."""
    difference = _largest_difference(expected, actual)
    span = max(_largest(expected), TINY)
    if not difference > VALUE_LIMIT * span:
        return difference / span
    # Torch's own float32 may be the less exact one: its pooling adds thousands of elements one by one.
    difference = _largest_difference(evaluator.in_float64(node), actual)
    if not difference > VALUE_LIMIT * span:
        return difference / span
    moved = evaluator.moved(node, OPERAND_LIMIT)
    return difference / (span + _largest_difference(expected, moved) / VALUE_LIMIT)


def _largest(x: Tensor) -> float:
    """The largest absolute value that is finite, or 0."""
    low, high = x.aminmax()
    largest = float(torch.maximum(-low, high))
    if math.isfinite(largest):
        return largest
    finite = x[x.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0


def _largest_difference(x: Tensor, y: Tensor) -> float:
    """The largest |x - y|, NaN where one side alone has it; some rows at a time, because whole maps take much memory.

    Equal infinities and NaN on both sides do not differ: masks are made of them.
    """
    pairs = zip(_row_blocks(x), _row_blocks(y), strict=True)
    return float(torch.stack([_apart(a, b) for a, b in pairs]).max())


def _apart(x: Tensor, y: Tensor) -> Tensor:
    largest = (x - y).abs().max()
    if largest.isfinite():
        return largest
    alike = (x == y) | (x.isnan() & y.isnan()) | _saturated(x, y)
    return torch.where(alike, 0.0, (x - y).abs()).max()


def _row_blocks(x: Tensor) -> Sequence[Tensor]:
    """x in parts along its last dimension but one, each of at most BLOCK elements where a row is not longer."""
    if x.dim() < 2:
        return [x]
    return x.split(max(1, BLOCK * x.shape[-2] // max(x.numel(), 1)), -2)


def _wrong_signs(node: Node, expected: Tensor, actual: Tensor, evaluator: Evaluator) -> float:
    """Signs of denormals do not count: here they are +1, and in a backend they depend on the machine. Zeros do."""
    if torch.equal(expected, actual):
        return 0.0
    x, threshold = (evaluator.operand(operand) for operand in node.all_input_nodes)
    distance = distance_from_threshold(x, threshold).abs()
    denormal = (distance > 0) & (distance < TINY)
    return float(((expected != actual) & ~denormal).sum())


def _sum_error(node: Node, expected: Tensor, actual: Tensor, evaluator: Evaluator) -> float:
    """The difference in units of what rounding of sum * multiplier + bias allows.

    The unit is far below the step of 2 |multiplier| from one integer sum to the next, so the sums are equal.
    """
    weight, multiplier, bias = (evaluator.operand(operand) for operand in node.args[1:4])  # type: ignore[arg-type]
    largest = weight[0].numel() * multiplier.abs() + bias.abs()
    unit = ROUNDINGS * float(np.finfo(np.float32).eps) * largest.clamp_min(TINY)
    pairs = zip(_row_blocks(expected), _row_blocks(actual), strict=True)
    return float(torch.stack([(a - b).abs().amax((0, 2, 3)) / unit for a, b in pairs]).max())
