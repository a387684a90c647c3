"""Initialise thresholds and batch norms of a fresh conversion from a few frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from inspect import signature
from operator import attrgetter
from threading import Barrier, BrokenBarrierError, local
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from binmat.errors import InputError
from binmat.model_defs.network import Example, Network
from binmat.nn import BinaryLayer
from binmat.nn.operators import OPERATORS
from binmat.quantizers.activations import THRESHOLDS

from .patterns import called_module, operator_at, parameters_read
from .run_frames import evaluating, example_for, run_frame
from .trace import graphs

#: A variance of fewer values per channel is chance: behind global pooling there is one value per frame.
FEWEST = 32
#: Values that differ by less than this part of the largest are equal up to rounding.
ROUNDING = 1e-5


def calibrate(network: Network, frames: Sequence[Mapping[str, Tensor]], example: Example | None = None) -> None:
    """Set what a fresh conversion leaves at its start from a few frames, in place, so that its signs vary.

    frames: a few consecutive frames, for each its inputs by name, without states: ``[{"image": x}, ...]``. They run
    side by side, with the memory that this takes. States are carried in a second run. example: the example inputs, for
    modules that have none of their own. Only the example's mode runs; layers that it does not reach stay as they are.

    In the order in which the network runs, each layer with the layers before it calibrated already:

    - A learnable threshold per channel becomes the mean of the channel. Where the channel varies, some of it is below
      its mean and some above: both signs are seen. Behind a batch norm without shift that is the 0 that ReActNet starts
      from (Liu et al., ECCV 2020). Behind a ReLU, 0 is the smallest value, and the median often is too. A channel that
      does not vary takes the mean of its layer.
    - A learnable threshold per layer becomes the mean of one of its channels: of the one at which the signs vary most,
      summed over all channels. The mean of the whole layer may lie between channels, and then tells them apart but
      not the pixels. It is taken where channels have fewer than 32 values.
    - A layer whose input does not vary keeps its thresholds.
    - A batch norm that anything binary goes into takes mean and variance from the frames. Those of the float network
      describe sums of floats. (Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021, Sec. 3;
      ``torch.optim.swa_utils.update_bn`` does the same, but for the whole network at once.) A channel that does not
      vary, or has fewer than 32 values, keeps its variance. A norm that is frozen, in evaluation mode and without
      gradients in a network that has some, keeps both.

    Nothing is added that a scheme does not have, and no scale is changed: alpha is the least-squares fit of the
    weights, and a norm behind takes up what is wrong with it. So a scheme without learnable thresholds (bnn, xnor,
    recu and others) stays blind behind a ReLU, and dorefa where its input stays on one side of 1/2:
    :func:`binmat.transforms.one_sided_layers.one_sided_layers` names those layers.

    Do not call it on a trained conversion: it overwrites what was learnt. Raises InputError for no frames or frames
    without an input, SizeError where the network has no example inputs.

    >>> from binmat.transforms.convert import convert
    >>> from binmat.transforms.one_sided_layers import one_sided_layers
    >>> module = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 1, 1))
    >>> network, frames = convert(module, "threshold"), [{"input": torch.rand(1, 3, 8, 8)}]
    >>> one_sided_layers(network, frames)
    ('2',)
    >>> calibrate(network, frames)
    >>> one_sided_layers(network, frames)
    ()
    """
    example = example_for(network, frames, example)
    means = _running_means_behind_binary(network, graphs(network)[example.mode], example.states)
    states: list[Mapping[str, Tensor]] = [{} for _ in frames]
    with evaluating(network):
        found = _calibrate(network, example, frames, states, means)
        if example.states and len(frames) > 1:
            for index, frame in enumerate(frames[:-1]):
                if index:
                    found = run_frame(network, example, {**frame, **states[index]})
                states[index + 1] = {name: found[name] for name in example.states}
            _calibrate(network, example, frames, states, means)


def _calibrate(
    network: Network,
    example: Example,
    frames: Sequence[Mapping[str, Tensor]],
    states: Sequence[Mapping[str, Tensor]],
    means: set[int],
) -> Mapping[str, Tensor]:
    """One run of all frames side by side, which share torch's threads; returns the outputs of the first.

    means: identities of the running means to set.
    """
    lockstep = _Lockstep(len(frames))
    hooks = [
        layer.register_forward_pre_hook(_Thresholds(layer, lockstep))
        for layer in network.modules()
        if isinstance(layer, BinaryLayer) and layer.threshold is not None
    ]
    settings = {mean: _Statistics() for mean in means}

    def run(index: int) -> Mapping[str, Tensor]:
        lockstep.enter(index)
        with _BatchNorms(settings, lockstep):
            outputs = run_frame(network, example, {**frames[index], **states[index]})
        lockstep.leave()
        return outputs

    threads = torch.get_num_threads()
    share = max(1, threads // len(frames))
    try:
        with ThreadPoolExecutor(len(frames), initializer=torch.set_num_threads, initargs=(share,)) as pool:
            runs = [pool.submit(run, index) for index in range(len(frames))]
        errors = [error for error in (done.exception() for done in runs) if error is not None]
    finally:
        torch.set_num_threads(threads)
        for hook in hooks:
            hook.remove()
    for error in sorted(errors, key=lambda error: isinstance(error, BrokenBarrierError)):
        raise error
    return runs[0].result()


class _Lockstep:
    """Frames that run side by side, each in a thread, and meet at every layer that is set from all of them.

    Frame after frame would not do: the layers before one that is set move on with the next frame, and its own values
    would belong to a network that no longer is.
    """

    def __init__(self, count: int) -> None:
        self._barrier = Barrier(count, action=self._settle)
        self._inputs: list[Tensor] = [torch.empty(0)] * count
        self._settings: list[Callable[[Sequence[Tensor]], None]] = [_nothing] * count
        self._thread = local()

    def enter(self, index: int) -> None:
        """This thread runs frame ``index``."""
        self._thread.index = index

    def leave(self) -> None:
        """Wait for the others at the end."""
        self.meet(torch.empty(0), _nothing)

    def meet(self, x: Tensor, setting: Callable[[Sequence[Tensor]], None]) -> None:
        """Wait for the other frames, then have ``setting`` called once with the inputs of all, in their order."""
        self._inputs[self._thread.index], self._settings[self._thread.index] = x, setting
        self._barrier.wait()

    @torch.no_grad()
    def _settle(self) -> None:
        if any(setting is not self._settings[0] for setting in self._settings):
            raise InputError("the frames run through different layers: calibrate on one frame")
        self._settings[0](self._inputs)


def _nothing(inputs: Sequence[Tensor]) -> None:
    """What is set at the end."""


class _Moments:
    """Count, mean, variance and range per channel of all that was seen, added up in float64."""

    def __init__(self, channel_dim: int) -> None:
        self.channel_dim = channel_dim
        self.count = 0

    def add(self, inputs: Sequence[Tensor]) -> _Moments:
        for x in inputs:
            values = x.movedim(self.channel_dim, 0).flatten(1).double()
            low, high = values.amin(1), values.amax(1)
            if not self.count:
                self.sum = self.squares = torch.zeros_like(low)
                self.low, self.high = low, high
            self.count += values.shape[1]
            self.sum = self.sum + values.sum(1)
            self.squares = self.squares + values.square().sum(1)
            self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        return self

    @property
    def mean(self) -> Tensor:
        return self.sum / self.count

    @property
    def variance(self) -> Tensor:
        return (self.squares / self.count - self.mean.square()) * (self.count / max(self.count - 1, 1))


def _vary(low: Tensor, high: Tensor) -> Tensor:
    """Whether values in a range differ by more than rounding."""
    return high - low > ROUNDING * torch.maximum(high.abs(), low.abs())


class _Thresholds:
    """Sets a binary layer's thresholds when it is called."""

    def __init__(self, layer: BinaryLayer, lockstep: _Lockstep) -> None:
        self.layer, self.lockstep = layer, lockstep
        self.moments = _Moments(layer.sample_dims[0])
        self.setting = self.set  # One object: each access to a method makes another.

    def __call__(self, layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.lockstep.meet(args[0], self.setting)

    def set(self, inputs: Sequence[Tensor]) -> None:
        seen, activation = self.moments.add(inputs), self.layer.scheme.activation
        if not _vary(seen.low.min(), seen.high.max()):
            return
        varies = _vary(seen.low, seen.high)
        start = whole = seen.mean.mean(0, keepdim=True)
        if THRESHOLDS[activation.threshold].per_channel:
            start = torch.where(varies, seen.mean, whole)
        elif varies.any() and seen.count >= FEWEST:
            start = _most_varied(seen.mean[varies], seen.variance[varies].sqrt())
        assert self.layer.threshold is not None
        self.layer.threshold.copy_(start - activation.midpoint)


def _most_varied(means: Tensor, deviations: Tensor) -> Tensor:
    """The channel mean [1] at which the signs' variances p (1 - p), p from a normal distribution, have the largest sum.

    means, deviations: [C], of channels that vary.
    """
    p = torch.special.ndtr((means[:, None] - means) / deviations.clamp_min(torch.finfo(means.dtype).tiny))
    return means[(p * (1 - p)).sum(1).argmax()].view(1)


class _BatchNorms(TorchFunctionMode):
    """Sets running statistics wherever a batch norm is called, as a module or as a function.

    settings: identity of a running mean -> what sets it.
    """

    def __init__(self, settings: Mapping[int, _Statistics], lockstep: _Lockstep) -> None:
        super().__init__()
        self.settings, self.lockstep = settings, lockstep

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.batch_norm:
            call = signature(F.batch_norm).bind(*args, **(kwargs or {})).arguments
            statistics = self.settings.get(id(call["running_mean"]))
            if statistics is not None:
                statistics.mean, statistics.variance = call["running_mean"], call["running_var"]
                self.lockstep.meet(call["input"], statistics.setting)
        return func(*args, **(kwargs or {}))


class _Statistics:
    """Sets the running statistics of one batch norm, ``mean`` and ``variance``."""

    mean: Tensor
    variance: Tensor

    def __init__(self) -> None:
        self.moments = _Moments(1)
        self.setting = self.set  # One object, as above.

    def set(self, inputs: Sequence[Tensor]) -> None:
        seen = self.moments.add(inputs)
        self.mean.copy_(seen.mean)
        if seen.count >= FEWEST:
            self.variance.copy_(torch.where(_vary(seen.low, seen.high), seen.variance, self.variance))


def _running_means_behind_binary(network: Network, graph: fx.Graph, states: Sequence[str]) -> set[int]:
    """The identities of the running means of norms that read, directly or not, what a binary layer or a state gives."""
    found: set[int] = set()
    reached: set[fx.Node] = set()
    for node in graph.nodes:
        module = called_module(node, network)
        inside = [] if module is None else list(module.modules())
        if (
            any(source in reached for source in node.all_input_nodes)
            or any(isinstance(layer, BinaryLayer) for layer in inside)
            or (node.op == "placeholder" and node.target in states)
        ):
            reached.add(node)
            norms = [layer for layer in inside if getattr(layer, "running_mean", None) is not None]
            found |= {id(layer.running_mean) for layer in norms if not _frozen(layer, network)}
            if node.op == "call_function" and operator_at(node, network) is OPERATORS["batch_norm"]:
                for name in parameters_read(node):
                    if not _frozen(network.get_submodule(name.rpartition(".")[0]), network):
                        found.add(id(attrgetter(name)(network)))
    return found


def _frozen(norm: nn.Module, network: Network) -> bool:
    """Whether a norm is not to change while the rest of the network is trained."""
    parameters = list(norm.parameters(recurse=False))
    fixed = not norm.training and bool(parameters) and not any(value.requires_grad for value in parameters)
    return fixed and any(value.requires_grad for value in network.parameters())
