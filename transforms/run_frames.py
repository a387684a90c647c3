"""Run a network on consecutive frames, with its states carried from one to the next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from binmat.errors import InputError
from binmat.model_defs.example_inputs import example_inputs
from binmat.model_defs.network import Example, Network
from binmat.nn.masked_path import MaskedPath, set_execution


def example_for(network: Network, frames: Sequence[Mapping[str, Tensor]], example: Example | None) -> Example:
    """The example inputs that the frames complete: ``example``, else the network's own at the first frame's size.

    frames: for each frame its inputs by name, without states. Raises InputError for no frames and for frames that leave
    an input out, SizeError where the network has no example inputs of its own.
    """
    if not frames or not frames[0]:
        raise InputError("there are no frames to run the network on: give one at least")
    found = example
    if found is None:
        height, width = next(iter(frames[0].values())).shape[-2:]
        found = example_inputs(network, (height, width))
    images = {name for name, value in found.inputs.items() if isinstance(value, Tensor)} - set(found.states)
    for number, frame in enumerate(frames):
        if not images <= frame.keys():
            missing = ", ".join(sorted(images - frame.keys()))
            raise InputError(f"frame {number} lacks {missing}: {network.name} takes {', '.join(found.inputs)}")
    return found


def run_frames(
    network: Network, example: Example, frames: Sequence[Mapping[str, Tensor]]
) -> Iterator[Mapping[str, Tensor]]:
    """The outputs by name, frame by frame, in evaluation mode and without gradients.

    States start as the example has them. The network's modes of training and execution come back when the iterator
    ends.
    """
    states: dict[str, Tensor] = {}
    with evaluating(network):
        for frame in frames:
            outputs = run_frame(network, example, {**frame, **states})
            states = {name: outputs[name] for name in example.states}
            yield outputs


@torch.no_grad()
def run_frame(network: Network, example: Example, values: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The outputs by name of one frame; values: its inputs by name, those that are left out as the example has them."""
    like = next((p for p in network.parameters() if p.is_floating_point()), torch.zeros(()))
    inputs = [values.get(name, value) for name, value in example.inputs.items()]
    arguments = [value.to(like) if isinstance(value, Tensor) else value for value in inputs]
    result = network.run(example.mode, *arguments)
    names = network.output_names(example.mode) or example.outputs
    return dict(zip(names, result if isinstance(result, (tuple, list)) else (result,), strict=False))


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; masked paths run dense, so that every layer inside is called."""
    training = {module: module.training for module in network.modules()}
    execution = {module: module.execution for module in network.modules() if isinstance(module, MaskedPath)}
    network.eval()
    set_execution(network, "dense")
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
        for path, chosen in execution.items():
            path.execution = chosen
