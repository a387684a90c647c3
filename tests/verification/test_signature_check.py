"""The names and shapes that a file shows."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from lowered_graphs import lowered

from binmat.backends.backend import Signature
from binmat.backends.lce.backend import LCE
from binmat.errors import VerificationError
from binmat.verification.signature_check import check_signature


def graph(inputs=("src", "r1"), outputs=("pha", "r1")):
    frame, state = torch.zeros(1, 3, 4, 5), torch.zeros(1, 3, 4, 5)
    return lowered(lambda x, r: (x + r, x * r), frame, state, inputs=list(inputs), outputs=list(outputs))


def test_names_and_shapes_of_the_file_are_the_graphs():
    signature = LCE.signature(LCE.write(graph()).content)
    assert [port.name for port in signature.inputs] == ["src", "r1"]
    assert signature.outputs[0].shape == (1, 3, 4, 5)
    check_signature(graph(), signature)


@pytest.mark.parametrize("names", [{"inputs": ("r1", "src")}, {"outputs": ("r1", "pha")}])
def test_swapped_names_are_found(names):
    signature = LCE.signature(LCE.write(graph(**names)).content)
    with pytest.raises(VerificationError, match=r"(inputs|outputs) are called r1, (src|pha), not (src|pha), r1"):
        check_signature(graph(), signature)


def test_another_shape_is_found():
    signature = LCE.signature(LCE.write(graph()).content)
    port = dataclasses.replace(signature.inputs[0], shape=(1, 4, 5, 3))
    with pytest.raises(VerificationError, match=r"input 'src' is torch.float32 \[1, 4, 5, 3\], not .* \[1, 3, 4, 5\]"):
        check_signature(graph(), Signature((port, signature.inputs[1]), signature.outputs))


def test_metadata_that_says_other_names_is_found():
    content = LCE.write(graph()).content
    assert content.count(b'"inputs": ["src", "r1"]') == 1
    with pytest.raises(VerificationError, match=r"metadata says inputs \['r1', 'src'\], and it has \['src', 'r1'\]"):
        LCE.signature(content.replace(b'"inputs": ["src", "r1"]', b'"inputs": ["r1", "src"]'))
