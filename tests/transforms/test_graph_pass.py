from __future__ import annotations

import pytest

from binmat.model_defs.network import Network
from binmat.model_defs.registry import build
from binmat.transforms.graph_pass import GraphPass
from binmat.transforms.recipe import Recipe
from binmat.transforms.trace import trace


def test_a_pass_without_apply_is_none():
    class Idle(GraphPass[Network]):
        pass

    with pytest.raises(TypeError, match="apply"):
        Idle()


def test_a_recipe_is_a_list_of_passes():
    network = trace(build("rvm_mobilenetv3"))

    def names(**fields: str) -> list[str]:
        return [type(step).__name__ for step in Recipe(**fields).passes(network)]

    assert names() == ["Binarize", "ReplaceActivations"]
    assert names(encoder="sbb", decoder="sab", shortcut="all") == [
        *("ReplaceEncoder", "SparseDecoder", "Binarize", "ReplaceActivations", "AddShortcuts")
    ]
    first, second = Recipe().passes(network)[0], Recipe().passes(network)[0]
    assert first.notes is not second.notes
