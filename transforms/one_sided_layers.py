"""What the signs of binary layers do on given frames: which layers see one sign only, which ignore the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from binmat.model_defs.network import Example, Network
from binmat.nn import BinaryLayer
from binmat.quantizers.sign import is_negative

from .calibrate import ROUNDING
from .run_frames import example_for, run_frames


@dataclass
class LayerSigns:
    """A binary layer's input and its signs over all frames.

    low, high: the range of the input. negative, values: how many inputs were below their threshold, of how many.
    reacts: whether any sign changed from one frame to the next; None where there was one frame.
    """

    low: float = float("inf")
    high: float = -float("inf")
    negative: int = 0
    values: int = 0
    reacts: bool | None = None

    @property
    def one_sided(self) -> bool:
        """Whether all signs are equal although the input varies, by more than rounding."""
        varies = self.high - self.low > ROUNDING * max(abs(self.high), abs(self.low))
        return varies and self.negative in (0, self.values)


def layer_signs(
    network: Network, frames: Sequence[Mapping[str, Tensor]], example: Example | None = None
) -> dict[str, LayerSigns]:
    """Binary layer -> its signs over the frames, in the network's order; layers that do not run are left out.

    frames, example, errors: as for :func:`binmat.transforms.calibrate.calibrate`.
    """
    example = example_for(network, frames, example)
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, BinaryLayer)}
    recorders = {name: _Recorder(layer.per_channel(layer.deployed().threshold)) for name, layer in layers.items()}
    hooks = [layer.register_forward_pre_hook(recorders[name]) for name, layer in layers.items()]
    try:
        for _ in run_frames(network, example, frames):
            for recorder in recorders.values():
                recorder.end_frame()
    finally:
        for hook in hooks:
            hook.remove()
    return {name: recorder.signs for name, recorder in recorders.items() if recorder.signs.values}


def one_sided_layers(
    network: Network, frames: Sequence[Mapping[str, Tensor]], example: Example | None = None
) -> tuple[str, ...]:
    """The binary layers whose signs are all equal on the frames although their input varies: they ignore the picture.

    Arguments and errors as for :func:`layer_signs`.
    """
    return tuple(name for name, signs in layer_signs(network, frames, example).items() if signs.one_sided)


@dataclass
class _Recorder:
    """One layer's signs, call by call: a layer may be called several times in a frame. threshold: as deployed."""

    threshold: Tensor
    signs: LayerSigns = field(default_factory=LayerSigns)
    before: list[Tensor] = field(default_factory=list)
    now: list[Tensor] = field(default_factory=list)

    def __call__(self, layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        low, high = args[0].aminmax()
        negative = is_negative(args[0] - self.threshold)
        self.now.append(negative)
        self.signs.low, self.signs.high = min(self.signs.low, float(low)), max(self.signs.high, float(high))
        self.signs.negative += int(negative.count_nonzero())
        self.signs.values += negative.numel()

    def end_frame(self) -> None:
        if self.before:
            same = len(self.before) == len(self.now) and all(map(torch.equal, self.before, self.now))
            self.signs.reacts = bool(self.signs.reacts) or not same
        self.before, self.now = self.now, []
