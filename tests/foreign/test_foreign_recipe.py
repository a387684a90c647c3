"""A recipe file puts both halves of BiMatting in a segmentation network of another library."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from foreign.networks import ForeignNetwork
from torch import nn
from torch.nn import functional as F

from binmat.nn.masked_path import MaskedPath, recorded_density, set_execution
from binmat.nn.sbb import SBBEncoder
from binmat.pipeline.deployment import deploy
from binmat.reports import report
from binmat.transforms.checkpoint import load, save
from binmat.transforms.convert import convert

RECIPE = """
scheme = "reactnet"
encoder = "sbb"
decoder = "sab"
[sbb]
replaces = ["encoder"]
[sab]
after = "decoder.blocks.0"
targets = ["decoder.blocks.[123].*"]
"""


def unet() -> nn.Module:
    return ForeignNetwork("smp", "Unet").build()


@pytest.mark.slow
def test_the_unet_of_segmentation_models_pytorch(tmp_path: Path) -> None:
    (tmp_path / "unet.toml").write_text(RECIPE)
    torch.manual_seed(0)
    net = convert(unet(), recipe=tmp_path / "unet.toml", size=(64, 64))
    assert isinstance(net.get_submodule("encoder"), SBBEncoder)
    assert sum(isinstance(module, MaskedPath) for module in net.modules()) == 3, "two convolutions in a row share one"
    images = torch.rand(4, 3, 64, 96)
    target = torch.zeros(4, 1, 64, 96)
    target[..., :40] = 1
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    losses = []
    for _ in range(11):
        logits, alpha_s = net.train()(images)
        loss = F.binary_cross_entropy_with_logits(logits, target)
        loss = loss + (alpha_s - F.interpolate(target, size=alpha_s.shape[2:], mode="area")).abs().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    factory = f"{__name__}:unet"
    save(net, tmp_path / "unet.safetensors", factory=factory)
    again = load(tmp_path / "unet.safetensors", factory=factory)
    with torch.no_grad(), recorded_density(again) as shares:
        for a, b in zip(net.eval()(images), again(images), strict=True):
            assert torch.equal(a, b)
    assert {0 < share[0] < 1 for share in shares.values()} == {True}
    again.double()
    results = []
    with torch.no_grad():
        for execution in ("dense", "sparse"):
            set_execution(again, execution)
            results.append(again(images.double())[0])
    torch.testing.assert_close(*results, rtol=0, atol=1e-9)
    counted = report(net, density=0.25).sparse
    assert counted.credited("textbook") < counted.counts["textbook"].total.ops
    for size in ((64, 64), (64, 96)):
        deploy(net, size).verify().check()
