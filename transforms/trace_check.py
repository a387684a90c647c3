"""Whether a traced network computes what its own code computes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from binmat.errors import TraceError
from binmat.model_defs.network import Network

from .call_structure import tensors_in
from .same_results import first_difference, with_equal_chance
from .shapes import probe_inputs
from .trace import graphs


def check_trace(network: Network) -> None:
    """Run every mode whose inputs are known, the graph and the method it was made of, in evaluation and in training.

    For networks that were just traced and not rewritten. Frames are small and random, two at a time. Raises TraceError
    where they differ: torch.fx follows one way through the code, which may depend on ``self.training``.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = {
        name: torch.rand(value.shape, generator=generator).to(value).repeat(2, *[1] * (value.dim() - 1))
        if isinstance(value, Tensor) and value.dim()
        else value
        for name, value in probe_inputs(network).items()
    }
    for mode, graph in graphs(network).items():
        names = [str(node.target) for node in graph.nodes if node.op == "placeholder"]
        if not set(names) <= inputs.keys():
            continue
        for training in (False, True):

            run = partial(_run, network, mode, [inputs[name] for name in names], training)
            results = with_equal_chance(partial(run, traced=False), partial(run, traced=True))
            if first_difference(*results) is not None:
                raise TraceError(
                    f"the graph of {network.name}'s mode '{mode}' differs from its code in "
                    f"{'training' if training else 'evaluation'}: leave decisions by self.training to layers "
                    "(nn.Dropout, nn.BatchNorm2d), or to a submodule with the class attribute is_leaf = True"
                )


@torch.no_grad()
def _run(network: Network, mode: str, arguments: Sequence[Any], training: bool, traced: bool) -> list[Tensor]:
    """What a copy of the network gives, by its graph or by the method that it was made of."""
    runner = copy.deepcopy(network).train(training)
    method = getattr(runner, network.modes[mode])
    return tensors_in(runner.run(mode, *arguments) if traced else method(*arguments))
