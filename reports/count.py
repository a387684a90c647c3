"""Operations of a network: recorded calls, priced by a convention."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import nn

from binmat.model_defs.example_inputs import example_inputs
from binmat.model_defs.network import Example
from binmat.nn import BinaryLayer

from .call_recorder import Call, record_calls, traced
from .convention import FREE, Convention, Cost
from .conventions import get_convention


@dataclass(frozen=True)
class Count:
    """Operations of one frame in one convention.

    costs: by the name of the layer or function, in order of execution, summed over its calls. Free ones cost nothing.
    not_counted: how often each operator was called that the convention does not know, or leaves out in part.
    masked: the masked path of each layer or function that is part of one, by name.
    """

    convention: Convention
    costs: Mapping[str, Cost]
    not_counted: Mapping[str, int]
    masked: Mapping[str, str] = field(default_factory=dict)

    @property
    def total(self) -> Cost:
        return sum(self.costs.values(), FREE)

    def credited(self, density: float | Mapping[str, float]) -> Cost:
        """The total where masked paths cost their share of active pixels. density: one for all, or one by path."""
        total = FREE
        for name, cost in self.costs.items():
            path = self.masked.get(name)
            if path is not None:
                cost = cost.share(density[path] if isinstance(density, Mapping) else density)
            total += cost
        return total


def is_binary(network: nn.Module) -> bool:
    """Whether the network has a binary layer."""
    return any(isinstance(module, BinaryLayer) for module in network.modules())


def count(
    network: nn.Module,
    convention: str | Convention = "textbook",
    *,
    size: tuple[int, int] | None = None,
    downsample_ratio: float | None = None,
    example: Example | None = None,
) -> Count:
    """Count a network at its example inputs, batch 1 and one frame, by shape propagation.

    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
    >>> count(network, size=(4, 4)).total
    Cost(flops=3456, bops=0)

    convention: ``textbook``, ``bimatting`` or ``fvcore`` (see their modules for what they count), or a
    :class:`Convention` of your own.
    size, downsample_ratio, example: as for :func:`binmat.model_defs.example_inputs.example_inputs`.
    Raises UnknownNameError, SizeError and TraceError.
    """
    chosen = get_convention(convention)
    owner = traced(network, size, example)
    call = example_inputs(owner, size, downsample_ratio, example)
    return price(record_calls(owner, call), chosen, binary_network=is_binary(owner))


def price(calls: Iterable[Call], convention: Convention, *, binary_network: bool) -> Count:
    """What recorded calls cost in a convention."""
    costs: dict[str, Cost] = {}
    not_counted: Counter[str] = Counter()
    masked: dict[str, str] = {}
    for call in calls:
        cost = convention.cost(call, binary_network=binary_network)
        if cost is None or cost.left_out:
            not_counted[operator_name(call)] += 1
        if cost is not None:
            costs[call.name] = costs.get(call.name, FREE) + cost
        if call.path:
            masked[call.name] = call.path
    return Count(convention, costs, dict(not_counted), masked)


def operator_name(call: Call) -> str:
    """How a person would write the operator: ``nn.LSTM``, ``torch.einsum``, ``Tensor.cumsum``."""
    if isinstance(call.target, str):
        return f"Tensor.{call.target}"
    module = getattr(call.target, "__module__", None) or "torch"
    if module.startswith("torch.nn.modules"):
        module = "nn"
    elif module.startswith("torch._") or module == "torch.functional":
        module = "torch"
    return f"{module}.{getattr(call.target, '__name__', call.target)}"
