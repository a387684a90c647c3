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
    if not frames:
        raise InputError("there are no frames to run the network on: give one at least")
    height, width = next(iter(frames[0].values())).shape[-2:]
    found = example_inputs(network, (height, width), example=example)
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

    States start as the example has them. Masked paths run dense, so that every layer inside is called. The network's
    modes of training and execution come back when the iterator ends.
    """
    like = next((p for p in network.parameters() if p.is_floating_point()), torch.zeros(()))
    names = network.output_names(example.mode) or example.outputs
    inputs = dict(example.inputs)
    with _evaluating(network), torch.no_grad():
        for frame in frames:
            inputs |= {name: value for name, value in frame.items() if name in inputs}
            arguments = [value.to(like) if isinstance(value, Tensor) else value for value in inputs.values()]
            result = network.run(example.mode, *arguments)
            outputs = dict(zip(names, result if isinstance(result, (tuple, list)) else (result,), strict=False))
            inputs |= {name: outputs[name] for name in example.states}
            yield outputs


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
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
