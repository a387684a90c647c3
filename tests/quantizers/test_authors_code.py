"""Outputs and gradients against those of the authors' own layers: numbers that their code gave, in tests/data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from binmat.nn import BinaryConv2d, set_progress
from binmat.quantizers import Scheme, get_scheme

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "scheme_gradients.json").read_text())
#: An estimator keeps one byte of its derivative per element: its error is at most half a step of this many.
HALF_STEP = {"polynomial": 2 / 508, "ede": 1 / 508, "fourier": 0.4 / 3.14159 * 12 / 254, "power": 1.52 / 508}


def golden(key: str, *shape: int) -> Tensor:
    return torch.tensor(GOLDEN[key], dtype=torch.float64).view(shape)


def found(scheme: Scheme) -> dict[str, Tensor]:
    """The same of binmat's layer, under the same keys."""
    layer = BinaryConv2d(3, 2, 2, bias=False, dtype=torch.float64, scheme=scheme)
    values = {"weight": golden("weight", 2, 3, 2, 2), "threshold": golden("threshold", 3), "scale": golden("scale", 2)}
    layer.load_state_dict({key: values[key] for key in layer.state_dict()})
    set_progress(layer, 0.3)
    x = golden("x", 1, 3, 3, 3).requires_grad_()
    output = layer(x)
    output.backward(golden("upstream", 1, 2, 2, 2))
    grads = {key: parameter.grad for key, parameter in layer.named_parameters()}
    return {"output": output.detach(), "x": x.grad} | grads


@pytest.mark.parametrize("name", GOLDEN["cases"])
def test_a_scheme_computes_what_its_authors_code_computes(name: str) -> None:
    scheme = get_scheme(name)
    if name == "birealnet":
        # The code's gradient leaves alpha out, the paper's and binmat's does not.
        scheme = replace(scheme, weight=replace(scheme.weight, gradient="straight"))
    ours, theirs = found(scheme), {key: torch.tensor(v) for key, v in GOLDEN["cases"][name].items() if key != "code"}
    assert ours.keys() == theirs.keys()
    if name == "recu":
        # The code differentiates the deviation that it divides the input by; here it is a constant.
        assert not torch.allclose(ours.pop("x").flatten().float(), theirs.pop("x"), atol=1e-2)
    # What the derivative is multiplied by is at most the sum of the upstream gradients, as no scale here is above 1. Of
    # such gradients to x, a threshold's sums up nine.
    error = 1e-5 + HALF_STEP.get(scheme.activation.estimator, 0) * golden("upstream", 8).abs().sum().item()
    for key, value in theirs.items():
        tolerance = {"output": 1e-5, "threshold": 9 * error}.get(key, error)
        torch.testing.assert_close(ours[key].flatten().float(), value, rtol=0, atol=tolerance)


def test_birealnets_code_leaves_the_scale_out_of_the_gradient() -> None:
    alpha = golden("weight", 2, 12).abs().mean(1, keepdim=True)
    theirs = torch.tensor(GOLDEN["cases"]["birealnet"]["weight"]).view(2, 12)
    torch.testing.assert_close(found(get_scheme("birealnet"))["weight"].flatten(1).float(), (theirs * alpha).float())
