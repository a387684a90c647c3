"""What a counting convention is: rules by operator, and what it leaves out on purpose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .calls import Call, Target


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
    rules: operator -> its cost. float_rules: more rules, for networks without any binary layer.
    free: operators that cost nothing by definition. What is in neither is not counted either, but reports name it.
    """

    name: str
    definition: str
    rules: Mapping[Target, Rule]
    free: frozenset[Target]
    float_rules: Mapping[Target, Rule] = field(default_factory=dict)

    def cost(self, call: Call, *, binary_network: bool) -> Cost | None:
        """What the call costs; None where the convention does not know the operator."""
        for rules in (self.rules,) if binary_network else (self.rules, self.float_rules):
            key = call.key_in(rules)
            if key is not None:
                return rules[key](call)
        return None if call.key_in(self.free) is None else FREE
