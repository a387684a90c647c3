"""The main job from Python, on a network that binmat does not know. Any module will do.

    python examples/python_api.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

import binmat


class TinyMatting(nn.Module):
    """Image [N, 3, H, W] in [0, 1] to alpha [N, 1, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.up = nn.Upsample(scale_factor=2, mode="bilinear")
        self.head = nn.Conv2d(32, 1, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.stem(image)
        return torch.sigmoid(self.head(self.up(self.body(features))))


def main() -> None:
    network = TinyMatting()
    binary = binmat.convert(network, "reactnet", settings=["shortcut=same"], size=(96, 160))

    # The converted network trains like any other module.
    optimizer = torch.optim.Adam(binary.parameters(), lr=1e-2)
    image, alpha = torch.rand(4, 3, 32, 32), torch.zeros(4, 1, 32, 32)
    for step in range(10):
        loss = (binary(image) - alpha).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in (0, 9):
            print(f"step {step}: loss {loss.item():.3f}")

    print(binmat.report(network, binary))
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "tiny.tflite"
        binmat.export(binary, model)
        print(f"{model.name}: {model.stat().st_size:,} bytes")
        print(binmat.verify(binary, model))


if __name__ == "__main__":
    main()
