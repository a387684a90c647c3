from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from binmat.errors import TraceError
from binmat.model_defs.network import Network
from binmat.model_defs.registry import NETWORKS, build
from binmat.transforms.convert import convert
from binmat.transforms.trace import trace
from binmat.transforms.trace_check import check_trace


class Own(Network):
    """A user's network; what it does last is up to ``finish``."""

    name = "own"
    modes: ClassVar = {"matting": "frames"}
    example_channels: ClassVar = {"image": 3}

    def __init__(self, finish) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 1, 1)
        self.finish = finish

    def frames(self, image):
        return (self.finish(self, self.last(self.middle(self.first(image)))),)


@pytest.mark.parametrize(
    ("finish", "mode"),
    [
        (lambda m, y: y if m.training else torch.sigmoid(y), "evaluation"),
        (lambda m, y: F.dropout(y, 0.5, m.training), "evaluation"),
    ],
)
def test_a_network_that_decides_by_training_itself_is_refused(finish, mode) -> None:
    with pytest.raises(TraceError, match=f"the graph of own's mode 'matting' differs from its code in {mode}"):
        convert(Own(finish).train(), "bnn")


def test_a_network_that_leaves_it_to_layers_is_converted() -> None:
    assert convert(Own(lambda m, y: torch.sigmoid(y)), "bnn").conversion is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_graphs_of_binmats_own_networks_are_what_their_code_is(name) -> None:
    check_trace(trace(build(name)))
