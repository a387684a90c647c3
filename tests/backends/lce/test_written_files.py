"""What holds for every file, and no run on x86 shows: aligned buffers, and names that lead to one tensor each."""

from __future__ import annotations

import numpy as np
import pytest
from mutants.networks import SUBJECTS
from mutants.strike import clean_deployment
from official_schema import official, parse


@pytest.mark.parametrize("subject", SUBJECTS)
def test_buffers_are_aligned(subject: str) -> None:
    content = np.frombuffer(clean_deployment(subject).model.content, np.uint8)
    start = content.__array_interface__["data"][0]
    model = official().Model.GetRootAsModel(content, 0)
    buffers = [model.Buffers(index) for index in range(model.BuffersLength())]
    places = [b.DataAsNumpy().__array_interface__["data"][0] - start for b in buffers if b.DataLength()]
    assert len(places) > 5
    assert {place % 16 for place in places} == {0}


@pytest.mark.parametrize("subject", SUBJECTS)
def test_each_name_stands_for_one_tensor(subject: str) -> None:
    deployment = clean_deployment(subject)
    parsed = parse(deployment.model.content)
    (graph,), (signature,) = parsed.subgraphs, parsed.signatureDefs
    for side, names in ((signature.inputs, deployment.lowered.inputs), (signature.outputs, deployment.lowered.outputs)):
        assert tuple(entry.name.decode() for entry in side) == names
        assert len(set(names)) == len({entry.tensorIndex for entry in side}) == len(names)
    assert [entry.tensorIndex for entry in signature.inputs] == list(graph.inputs)
    assert [entry.tensorIndex for entry in signature.outputs] == list(graph.outputs)
    assert not set(graph.inputs) & set(graph.outputs)
    kinds = [(code.builtinCode, code.customCode, code.version) for code in parsed.operatorCodes]
    assert len(set(kinds)) == len(kinds)
    entries = [entry.name for entry in parsed.metadata]
    assert len(set(entries)) == len(entries)
