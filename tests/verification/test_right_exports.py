"""Right exports that a check of wide values, constants or layers could take for wrong ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binmat.backends.lce import metadata
from binmat.errors import VerificationError
from binmat.pipeline.deployment import deploy
from binmat.transforms.convert import convert
from binmat.transforms.lowering.fold_affine import FoldAffine

CALLS: dict[str, Callable[[Tensor], object]] = {
    "true nowhere": lambda y: y + (y > 200).float(),
    "zero everywhere": lambda y: y + F.threshold(y, 200, 0) + y.clamp(0, 0),
    "error function behind a convolution": torch.erf,
    "logarithm of 1 + x behind a convolution": lambda y: torch.log1p(y.abs()) + torch.exp2(y),
    "bytes": lambda y: (y.sigmoid() * 255).to(torch.uint8),
    "largest float": torch.nan_to_num,
    "whole quotients": lambda y: y // 0.3,
    "an empty output": lambda y: (y, y[:, :0]),
    "division by what may be 0": lambda y: (y / y.relu()).sigmoid(),
    "the places of the largest": lambda y: (y.argmax(1), y.topk(2, 1).values),
    "a number that float32 rounds": lambda y: y * torch.tensor(0.1) + torch.as_tensor([0.3]),
    "a sum of many products that are alike": lambda y: (
        torch.ones(1, 2, 13_440) @ y.flatten(2).repeat(1, 1, 20).view(1, 13_440, 1).abs().add(1) / 13_440
    ),
    "numbers in the type of a tensor": lambda y: y * y.new_tensor([0.485, 0.456, 0.406, 0.9]).view(4, 1, 1),
}


class After(nn.Module):
    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.function = nn.Conv2d(3, 4, 3, padding=1), function

    def forward(self, x: Tensor) -> object:
        return self.function(self.conv(x))


@pytest.mark.parametrize("name", CALLS)
def test_right_exports_pass(name: str) -> None:
    deploy(After(CALLS[name]).eval(), (12, 14)).verify().check()


def test_a_buffer_with_two_names_passes() -> None:
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.inner = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)
            mean = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)
            self.register_buffer("mean", mean)
            self.conv.register_buffer("mean", mean)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(self.conv(x - self.mean) + self.conv.mean.sum())

    deploy(convert(Normalised(), "bnn", size=(12, 14)).eval(), (12, 14)).verify().check()


def test_a_mask_with_infinities_of_another_machine_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = torch.full((14, 14), -torch.inf).triu(1)
    network = After(lambda y: (y + mask).softmax(-1)).eval()
    here = deploy(network, (14, 14))
    with monkeypatch.context() as patch:
        patch.setattr(metadata, "written_by", lambda: "binmat 0, torch 0, another processor")
        elsewhere = deploy(network, (14, 14)).model.content
    found = here.verify(elsewhere)
    found.check()
    assert not found.as_written


@pytest.mark.parametrize("wrong", [False, True])
def test_a_layer_that_is_called_twice_is_compared(wrong: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice(After):
        def __init__(self) -> None:
            super().__init__(nn.ReLU6())

        def forward(self, x: Tensor) -> object:
            return self.function(self.function(self.conv(x)) - 1)

    right = FoldAffine.apply

    def apply(self: FoldAffine, module: torch.fx.GraphModule) -> torch.fx.GraphModule:
        right(self, module)
        for node in module.graph.find_nodes(op="call_function", target=torch.ops.aten.hardtanh.default):
            node.args = (node.args[0], 0.0, 60.0)
        module.recompile()
        return module

    if wrong:
        monkeypatch.setattr(FoldAffine, "apply", apply)
    verification = deploy(Twice().eval(), (12, 14)).verify()
    if not wrong:
        verification.check()
        return
    with pytest.raises(VerificationError, match="layer 'function' on wide values differs"):
        verification.check()


def test_a_function_and_a_layer_of_one_name_are_kept_apart() -> None:
    class Relus(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU6()

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(self.conv(F.relu(x - 0.5)))

    deploy(Relus().eval(), (12, 14)).verify().check()


def test_what_was_constant_is_told() -> None:
    """Behind a ReLU all signs are +1, so that the picture changes nothing."""
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 1, 1))
    verification = deploy(convert(layers, "bnn", size=(12, 14)).eval(), (12, 14)).verify()
    verification.check()
    said = str(verification)
    assert "On photograph, 'output0' had one value everywhere: end to end, that is no proof." in said
    assert "On photograph, 1 of 1 binary layers saw one sign only" in said
    assert "one value everywhere" not in str(deploy(After(torch.relu).eval(), (12, 14)).verify())
