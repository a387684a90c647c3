"""Groups layers by the parts of a network, for tables that are short enough to read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from torch import nn

from .convention import Cost

#: Where functions in the network's own method are put.
OUTSIDE = "(outside)"

Amount = TypeVar("Amount", int, Cost)


class Blocks:
    """Two levels of names: the parts of a network, and the blocks of some parts.

    A part (``backbone``, ``decoder``) is a child of the network. A part is split into blocks, its own children
    (``decoder.decode0``), where at least two of them have children themselves. Modules of torch.nn and leaf modules do
    not count as blocks.
    """

    def __init__(self, network: nn.Module) -> None:
        #: Part -> its blocks; none where it is not split.
        self.parts = {name: _blocks(part) for name, part in network.named_children()}

    def of(self, layer: str) -> tuple[str, str | None]:
        """The part of a layer or function, by its full name, and its block where the part is split."""
        part, *inside = layer.split(".")
        if part not in self.parts:
            return OUTSIDE, None
        return part, f"{part}.{inside[0]}" if inside and inside[0] in self.parts[part] else None

    def sums(self, amounts: Mapping[str, Amount], zero: Amount) -> dict[str, Amount]:
        """Amounts by layer, summed by part and by block."""
        totals: dict[str, Amount] = {}
        for layer, amount in amounts.items():
            for name in self.of(layer):
                if name is not None:
                    totals[name] = totals.get(name, zero) + amount
        return totals

    def order(self) -> list[str]:
        """Every part, followed by its blocks. The last name stands for what is in no part."""
        names = []
        for part, blocks in self.parts.items():
            names += [part, *(f"{part}.{block}" for block in blocks)]
        return [*names, OUTSIDE]


def _blocks(part: nn.Module) -> tuple[str, ...]:
    children = dict(part.named_children())
    return tuple(children) if sum(map(_is_block, children.values())) >= 2 else ()


def _is_block(child: nn.Module) -> bool:
    composed = any(True for _ in child.children())
    return composed and not type(child).__module__.startswith("torch.") and not getattr(child, "is_leaf", False)
