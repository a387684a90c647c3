"""SBB and SAB in networks that are not RVM: trained, lowered, exported and verified."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binmat.model_defs.insertion_points import MaskHeadInsertionPoint
from binmat.model_defs.network import Example, Network
from binmat.nn.masked_path import MaskedPath
from binmat.nn.sbb import SBBEncoder, SBBPlan, SBBRow
from binmat.pipeline.deployment import deploy
from binmat.transforms.convert import convert
from binmat.transforms.lowering.lower import lower
from binmat.transforms.sab import SparseDecoder
from binmat.transforms.sbb import ReplaceEncoder
from binmat.transforms.trace import trace


class Pyramid(nn.Module):
    """Features of 12, 24 and 48 channels at 1/2, 1/4 and 1/8."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in ((3, 12), (12, 24), (24, 48))
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class Matting(nn.Module):
    """A small encoder and decoder as a user would write them. [N, 3, H, W] -> alpha [N, 1, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Pyramid()
        self.bottleneck = nn.Sequential(nn.Conv2d(48, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.up2 = nn.Sequential(nn.Conv2d(32 + 24, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU())
        self.up1 = nn.Sequential(nn.Conv2d(24 + 12, 16, 3, padding=1), nn.BatchNorm2d(16), nn.PReLU(16))
        self.out = nn.Conv2d(16, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        f1, f2, f3 = self.encoder(x)
        y = self.bottleneck(f3)
        for block, skip in ((self.up2, f2), (self.up1, f1)):
            y = F.interpolate(y, size=(skip.shape[2], skip.shape[3]), mode="bilinear", align_corners=False)
            y = block(torch.cat([y, skip], 1))
        y = F.interpolate(self.out(y), size=(x.shape[2], x.shape[3]), mode="bilinear", align_corners=False)
        return torch.sigmoid(y)


def restructured() -> Network:
    """The user's network with both halves of BiMatting, not yet binary."""
    network = trace(Matting())
    plan = SBBPlan(stem=16, blocks=(SBBRow(32, 2), SBBRow(32, 2), SBBRow(32)), tail=(64,), features=(0, 1))
    ReplaceEncoder(SBBEncoder(plan), "encoder").apply(network)
    point = MaskHeadInsertionPoint(after="bottleneck", head="mask_head", outputs=("alpha_s",), alpha="alpha_s")
    SparseDecoder(["up*"], point).apply(network)
    return network


def train_ten_steps(network: nn.Module, images: Tensor, target: Tensor) -> list[float]:
    """Mean absolute error of the first output, plus that of the coarse alpha where there is one."""
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    losses = []
    for _ in range(11):
        result = network.train()(images)
        alpha, *coarse = result if isinstance(result, tuple) else (result,)
        loss = (alpha - target).abs().mean()
        for logit in coarse:
            small = F.interpolate(target, size=logit.shape[2:], mode="area")
            loss = loss + F.binary_cross_entropy_with_logits(logit, small)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


@pytest.mark.parametrize("scheme", ["reactnet", pytest.param("bimatting", marks=pytest.mark.slow)])
def test_a_users_network_is_trained_lowered_and_verified(scheme: str) -> None:
    network = convert(restructured(), scheme)
    assert sum(isinstance(module, MaskedPath) for module in network.modules()) == 2
    images = torch.rand(4, 3, 32, 48)
    target = (images.mean(1, keepdim=True) > 0.5).float()
    losses = train_ten_steps(network, images, target)
    assert losses[-1] < losses[0]
    network.eval()
    example = network.example(40, 56)
    assert example.outputs == ("output0", "alpha_s")
    x = torch.rand(1, 3, 40, 56, dtype=torch.float64)
    lowered = lower(network, example, torch.float64)
    network.double()
    with torch.no_grad():
        for got, want in zip(lowered(x), network(x), strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=1e-11)
    network.float()
    deploy(network, example=example).verify().check()


def test_side_outputs_of_a_users_network_can_be_left_out() -> None:
    network = trace(Matting())
    SparseDecoder(["up1.0"], MaskHeadInsertionPoint(after="bottleneck", head="mask_head")).apply(network)
    example = network.example(24, 24)
    assert isinstance(example, Example)
    assert example.outputs == ("output0",)
    assert network(torch.rand(2, 3, 24, 24)).shape == (2, 1, 24, 24)
