"""What a counting convention is: rules by operator, and what it leaves out on purpose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from binmat.nn.operators import Kind, Operator

from .call_recorder import Call


@dataclass(frozen=True)
class Cost:
    """Operations. flops: on floats; bops: multiply-accumulates on bits, 64 of which cost what one of flops does."""

    flops: int = 0
    bops: int = 0

    @property
    def ops(self) -> float:
        """FLOPs + BOPs / 64 (Bi-Real Net, ECCV 2018; ReActNet, ECCV 2020)."""
        return self.flops + self.bops / 64

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.bops + other.bops)

    def share(self, part: float) -> Cost:
        """That part of it, rounded to whole operations."""
        return Cost(round(self.flops * part), round(self.bops * part))


Rule = Callable[[Call], Cost]
FREE = Cost()


@dataclass(frozen=True)
class Convention:
    """A named way to count.

    definition: what is counted, in a sentence or two that reports print.
    rules: kind of operators, or one operator that differs from its kind -> its cost. float_rules: more rules, for
    networks without any binary layer. What has no rule is free by definition, if it is in the table of operators
    (:mod:`binmat.nn.operators`); what is not is not counted either, but reports name it.
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
