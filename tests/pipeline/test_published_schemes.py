"""Schemes in their published blocks, from the conversion to a verified LCE file."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binmat.pipeline.deployment import deploy
from binmat.quantizers import SCHEMES
from binmat.transforms.calibrate import calibrate
from binmat.transforms.convert import convert
from binmat.transforms.one_sided_layers import layer_signs


class Matting(nn.Module):
    """A small matting network: a stem, a residual block, a stride, a joint of two sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 1, 1), nn.BatchNorm2d(32), nn.ReLU())
        self.same = nn.Sequential(nn.Conv2d(32, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32))
        self.down = nn.Sequential(nn.Conv2d(32, 64, 3, 2, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        self.up = nn.Sequential(nn.Conv2d(96, 32, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.head = nn.Conv2d(32, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        x = torch.relu(self.same(x) + x)
        y = F.interpolate(self.down(x), scale_factor=2.0, mode="bilinear")
        return self.head(self.up(torch.cat([x, y], 1))).sigmoid()


@pytest.mark.parametrize(
    "conversion",
    [
        *({"scheme": name} for name in ("xnor", "xnor_official", "birealnet", "irnet", "fda", "reste")),
        *({"recipe": f"{name}_published"} for name in ("xnor", "recu", "birealnet")),
    ],
    ids=lambda conversion: "-".join(conversion.values()),
)
def test_it_converts_reacts_to_the_picture_and_its_file_is_verified(conversion: dict[str, Any]) -> None:
    network = convert(Matting().eval(), **conversion, size=(16, 24))
    recipe = network.conversion.recipe  # type: ignore[union-attr]
    before = SCHEMES[recipe.scheme].with_options(**recipe.options).replacement in ("hardtanh", "identity")
    frames = [{"image": torch.rand(1, 3, 16, 24)} for _ in range(2)]
    calibrate(network, frames)
    signs = layer_signs(network, frames)
    assert signs.keys() == {"same.0", "down.0", "up.0"}
    # With the ReLU kept, nothing of the picture reaches a sign that is taken at 0.
    assert all(seen.reacts for seen in signs.values()) == before
    verification = deploy(network).verify()
    verification.check()
