"""Backpropagating refinement: the official result, its losses, and what it costs in passes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from golden_fill import noise_image, trimap01
from official_checkpoints import filled
from torch import Tensor, nn
from torch.nn import functional as F

from binmat.errors import InputError
from binmat.model_defs.lsa_matting import LSAMatting
from binmat.model_defs.network import Network
from binmat.model_defs.refinement import LEVELS, Regions, refine, zero_corrections
from binmat.transforms.convert import convert

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


class TinyNetwork(Network):
    """A small network that can be refined: it uses two channels per level and has no encoder to speak of."""

    name = "tiny"
    modes: ClassVar[Mapping[str, str]] = {"encode": "encode", "decode": "decode"}

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList(nn.Conv2d(4, 2, kernel_size=3, padding=1) for _ in LEVELS)
        self.out = nn.Conv2d(2 * len(LEVELS), 1, kernel_size=1)
        nn.init.constant_(self.out.bias, 0.5)  # type: ignore[arg-type]

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        assert not torch.is_grad_enabled()
        return (x, x * 0.1)

    def decode(self, x: Tensor, scaled: Tensor, *corrections: Tensor) -> Tensor:
        outputs = []
        pairs = zip(corrections[: len(LEVELS)], corrections[len(LEVELS) :], strict=True)
        for level, (scale, shift) in zip(self.levels, pairs, strict=True):
            scale, shift = (F.interpolate(c[:, :2], size=x.shape[2:], mode="bicubic") for c in (scale, shift))
            outputs.append(level(scaled) * scale.exp() + shift)
        return self.out(torch.cat(outputs, 1))


def tiny_input(images: int = 1) -> Tensor:
    trimap = torch.from_numpy(trimap01(24, 24)).expand(images, -1, -1, -1)
    return torch.cat((torch.rand(images, 3, 24, 24), trimap), 1).double()


def edge_loss(x: Tensor, alpha: Tensor) -> float:
    """C1 by loops over pixels."""
    trimap = x[0, 3].numpy()
    height, width = trimap.shape
    total = count = 0.0
    for y in range(height):
        for x_ in range(width):
            if not 0.25 <= trimap[y, x_] <= 0.75:
                continue
            neighbours = trimap[max(y - 1, 0) : y + 2, max(x_ - 1, 0) : x_ + 2]
            for target, beside in ((1, (neighbours > 0.75).any()), (0, (neighbours < 0.25).any())):
                if beside:
                    total += (float(alpha[0, 0, y, x_]) - target) ** 2
                    count += 1
    return total / (count + 0.2)


@pytest.mark.slow
def test_golden_output() -> None:
    net = filled(LSAMatting()).double()
    image = torch.from_numpy(noise_image("img", (1, 3, 64, 96)))
    # The golden input is rounded to float32: a hundred steps make 1e-8 in the input 2e-4 in alpha.
    x = torch.cat(((image - 0.45) / 0.225, torch.from_numpy(trimap01(64, 96))), 1)
    alpha = refine(net, x.double())
    np.testing.assert_allclose(alpha.numpy(), np.load(GOLDEN / "lsa_brm.npz")["alpha"], rtol=0, atol=1e-5)


def test_it_runs_the_encoder_once_and_the_decoder_once_per_step() -> None:
    net = LSAMatting().eval()
    passes = {"backbone": 0, "decoder": 0}

    def count(name: str) -> Any:
        def hook(layer: nn.Module, args: Any, output: Any) -> None:
            passes[name] += 1

        return hook

    net.backbone.register_forward_hook(count("backbone"))
    net.decoder.register_forward_hook(count("decoder"))
    refine(net, torch.rand(1, 4, 32, 32), steps=4)
    assert passes == {"backbone": 1, "decoder": 4}


def test_one_step_is_the_networks_clamped_alpha() -> None:
    net, x = TinyNetwork().double(), tiny_input()
    zeros = zero_corrections(x) * 2
    with torch.no_grad():
        plain = net.decode(*net.encode(x), *zeros)
    assert torch.equal(refine(net, x, steps=1), plain.clamp(0, 1))


def test_a_step_is_one_update_of_plain_gradient_descent() -> None:
    net, x = TinyNetwork().double(), tiny_input()
    corrections = [zero.requires_grad_() for zero in (*zero_corrections(x), *zero_corrections(x))]
    with torch.no_grad():
        features = net.encode(x)
    alpha = net.decode(*features, *corrections).clamp(0, 1)
    trimap = x[:, 3:]
    unknown = (trimap == 0.5).double()
    edges = [F.max_pool2d((trimap == value).double(), 3, 1, 1) * unknown for value in (0, 1)]
    count = edges[0].sum() + edges[1].sum() + 0.2
    loss = ((alpha**2 * edges[0]).sum() + ((1 - alpha) ** 2 * edges[1]).sum()) / count
    loss.backward()
    with torch.no_grad():
        updated = [c - 3.0 * c.grad for c in corrections if c.grad is not None]
        expected = net.decode(*features, *updated).clamp(0, 1)
    torch.testing.assert_close(refine(net, x, steps=2, learning_rate=3.0), expected)


def test_it_lowers_the_edge_loss() -> None:
    net, x = TinyNetwork().double(), tiny_input()
    losses = [edge_loss(x, refine(net, x, steps=steps, learning_rate=1.0)) for steps in (1, 10, 40)]
    assert losses[0] > 1.2 * losses[1] > 1.2 * losses[2]


def test_the_loss_is_equation_2_with_edges_on_the_unknown_side() -> None:
    x = torch.zeros(1, 4, 9, 8, dtype=torch.float64)
    x[:, 3] = 128 / 255
    x[0, 3, :3, :4] = 0
    x[0, 3, 7:, 5:] = 1
    x[0, 3, 4, 6] = 1
    x[0, 3, 5, 0] = 0
    alpha, unrefined = torch.rand(2, 1, 1, 9, 8, dtype=torch.float64)
    unknown = x[:, 3:] == 128 / 255
    change = (alpha - unrefined)[unknown].abs().mean()
    expected = edge_loss(x, alpha) + 0.1 * float(change) ** 2
    assert Regions(x[:, 3:]).loss(alpha, unrefined).item() == pytest.approx(expected)


def test_the_images_of_a_batch_are_refined_each_by_itself() -> None:
    net, x = TinyNetwork().double(), tiny_input(images=2)
    x[1, 3] = x[1, 3].T.clone()
    both = refine(net, x, steps=20, learning_rate=2.0)
    alone = torch.cat([refine(net, image[None], steps=20, learning_rate=2.0) for image in x])
    torch.testing.assert_close(both, alone, rtol=0, atol=1e-9)


def test_a_trimap_without_unknown_pixels_leaves_alpha_as_it_is() -> None:
    net, x = TinyNetwork().double(), tiny_input()
    x[:, 3] = x[:, 3].round()
    assert torch.equal(refine(net, x, steps=3), refine(net, x, steps=1))


def test_the_networks_parameters_are_left_alone() -> None:
    net, x = TinyNetwork().double(), tiny_input()
    net.out.requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    wanted = {name: parameter.requires_grad for name, parameter in net.named_parameters()}
    with torch.no_grad():
        alpha = refine(net, x, steps=3)
    assert not alpha.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert {name: parameter.requires_grad for name, parameter in net.named_parameters()} == wanted
    assert all(parameter.grad is None for parameter in net.parameters())


def test_parameters_are_trainable_again_after_an_error() -> None:
    net = TinyNetwork().double()

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refine(net, tiny_input(), steps=3, progress=stop)
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_a_converted_network_is_refined_through_its_graphs() -> None:
    net = convert(LSAMatting(), "reactnet").eval()
    # Above zero, or the signs of what a ReLU leaves are all +1 and nothing reaches alpha before training.
    for name, parameter in net.named_parameters():
        if name.endswith(".threshold"):
            nn.init.constant_(parameter, 0.05)
    x = torch.cat((torch.rand(1, 3, 64, 96), torch.from_numpy(trimap01(64, 96))), 1)
    assert {"encode", "decode"} <= net.programs.keys()
    passes: list[int] = []
    net.get_submodule("backbone.layer4.0.conv2").register_forward_hook(lambda layer, args, output: passes.append(1))
    assert edge_loss(x, refine(net, x, steps=12)) < edge_loss(x, refine(net, x, steps=1))
    assert len(passes) == 2


def test_corrections_have_the_papers_sizes() -> None:
    shapes = [tuple(zero.shape) for zero in zero_corrections(torch.rand(3, 4, 32, 32))]
    assert shapes == [(3, 512, 8, 8), (3, 256, 16, 16), (3, 128, 32, 32), (3, 64, 64, 64)]


@pytest.mark.parametrize("steps", [0, -1])
def test_refinement_without_steps_is_refused(steps: int) -> None:
    with pytest.raises(InputError, match="at least 1 step"):
        refine(TinyNetwork(), torch.rand(1, 4, 8, 8), steps=steps)
