from __future__ import annotations

import pytest
from torch import nn

from binmat.model_defs.network import Network
from binmat.transforms.graph_pass import DeferredPass, GraphPass
from binmat.transforms.recipe import Recipe
from binmat.transforms.trace import trace


class Note(GraphPass[Network]):
    def apply(self, network: Network) -> Network:
        self.notes["layer"] = f"seen in {network.name}"
        return network


def test_a_pass_without_apply_is_none():
    class Idle(GraphPass[Network]):
        pass

    with pytest.raises(TypeError, match="apply"):
        Idle()


def test_a_deferred_pass_is_made_of_the_network_it_is_applied_to():
    network, asked = trace(nn.Sequential(nn.ReLU())), []

    def make(given: Network) -> Note:
        asked.append(given)
        return Note()

    deferred = DeferredPass(make)
    assert (asked, deferred.notes) == ([], {})
    assert deferred.apply(network) is network
    assert asked == [network]
    assert deferred.notes == {"layer": "seen in Sequential"}


def test_a_recipe_is_a_list_of_passes():
    def names(**fields: str) -> list[str]:
        return [type(step).__name__ for step in Recipe(**fields).passes()]

    assert names() == ["Binarize", "ReplaceActivations"]
    assert names(encoder="sbb", decoder="sab", shortcut="all") == [
        *("DeferredPass", "DeferredPass", "Binarize", "ReplaceActivations", "AddShortcuts")
    ]
    first, second = Recipe().passes()[0], Recipe().passes()[0]
    assert first.notes is not second.notes
