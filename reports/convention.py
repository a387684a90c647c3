"""What a counting convention is: what each kind of operator costs, and which operators are free."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from binmat.nn.operators import Kind, Operator

from .call_recorder import Call


@dataclass(frozen=True)
class Cost:
    """Operations. flops: on floats. bops: multiply-accumulates on bits; 64 of them cost as much as one flop.

    left_out: whether the convention's source leaves the call, or a part of it, out: reports name it then.
    """

    flops: int = 0
    bops: int = 0
    left_out: bool = field(default=False, repr=False)

    @property
    def ops(self) -> float:
        """FLOPs + BOPs / 64 (Bi-Real Net, ECCV 2018; ReActNet, ECCV 2020)."""
        return self.flops + self.bops / 64

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.bops + other.bops, self.left_out or other.left_out)

    def share(self, part: float) -> Cost:
        """A share of the cost, rounded to whole operations."""
        return Cost(round(self.flops * part), round(self.bops * part), self.left_out)


Rule = Callable[[Call], Cost]
FREE = Cost()


@dataclass(frozen=True)
class Convention:
    """A named way to count.

    definition: what is counted, in a sentence or two that reports print.
    rules: cost by kind of operator, or by operator where one differs from its kind. float_rules: further rules for
    networks without any binary layer. An operator in the table (:mod:`binmat.nn.operators`) that has no rule is free.
    An operator that is not in the table is not counted, and reports name it. So is one whose cost is ``left_out``.

    A convention of your own is passed in place of a name:

    >>> from torch import nn
    >>> from binmat.reports import Convention, Cost, Kind, count, macs_of
    >>> sums_and_products = Convention(
    ...     name="sums and products",
    ...     definition="A multiply-accumulate is two operations; everything else is free.",
    ...     rules={Kind.PRODUCT: lambda call: Cost(flops=2 * macs_of(call))},
    ... )
    >>> count(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU()), sums_and_products, size=(4, 4)).total
    Cost(flops=768, bops=0)
    """

    name: str
    definition: str
    rules: Mapping[Kind | Operator, Rule]
    float_rules: Mapping[Kind | Operator, Rule] = field(default_factory=dict)

    def cost(self, call: Call, *, binary_network: bool) -> Cost | None:
        """What the call costs; None where the convention does not know the operator."""
        if call.operator is None:
            return None
        rules = self.rules if binary_network else {**self.rules, **self.float_rules}
        rule = rules.get(call.operator) or rules.get(call.operator.kind)
        return FREE if rule is None else rule(call)
