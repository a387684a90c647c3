"""SBB: the three sub-blocks against Eq. 5 and 6 written out, blocks against Eq. 7, plans."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binmat.errors import RecipeError
from binmat.nn import RPReLU
from binmat.nn.sbb import SBB, SBBEncoder, SBBPlan, SBBRow, SubSBB


def shaken(module: nn.Module) -> nn.Module:
    """Every parameter and statistic away from its start, so that none can be left out unseen."""
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.3 * torch.rand_like(tensor))
    return module.double().eval()


def halves(block: SubSBB, x: Tensor, shortcut: Tensor) -> Tensor:
    return block.act1(block.norm1(block.conv3(x)) + shortcut)


def test_the_shrinking_sub_block_averages_the_halves() -> None:
    block, x = shaken(SubSBB(6, 3)), torch.randn(2, 6, 5, 7, dtype=torch.float64)
    middle = halves(block, x, x)
    mean = torch.stack([middle[:, :3], middle[:, 3:]]).mean(0)
    torch.testing.assert_close(block(x), block.act2(block.norm2(block.conv1(middle)) + mean))


def test_the_keeping_sub_block_is_the_identity_twice() -> None:
    block, x = shaken(SubSBB(3, 3, dilation=2)), torch.randn(2, 3, 5, 7, dtype=torch.float64)
    middle = halves(block, x, x)
    torch.testing.assert_close(block(x), block.act2(block.norm2(block.conv1(middle)) + middle))


@pytest.mark.parametrize("factor", [2, 4, 5])
def test_the_multiplying_sub_block_concatenates_branches(factor: int) -> None:
    block, x = shaken(SubSBB(4, 4 * factor)), torch.randn(2, 4, 6, 5, dtype=torch.float64)
    middle = halves(block, x, x)
    expected = []
    for branch in torch.arange(4 * factor).chunk(factor):
        norm = block.norm2
        y = F.conv2d(middle, block.conv1.weight[branch])
        y = F.batch_norm(
            y, norm.running_mean[branch], norm.running_var[branch], norm.weight[branch], norm.bias[branch], eps=norm.eps
        )
        expected.append(y + middle)
    torch.testing.assert_close(block(x), block.act2(torch.cat(expected, 1)))


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 1)])
def test_a_strided_sub_block_pools_its_shortcut_to_the_size_of_its_convolution(size: tuple[int, int]) -> None:
    block, x = shaken(SubSBB(4, 8, stride=2)), torch.randn(1, 4, *size, dtype=torch.float64)
    out = block(x)
    assert out.shape == (1, 8, -(-size[0] // 2), -(-size[1] // 2))
    pooled = F.avg_pool2d(x, 2, 2, ceil_mode=True)
    middle = halves(block, x, pooled)
    torch.testing.assert_close(out, block.act2(block.norm2(block.conv1(middle)) + torch.cat([middle] * 2, 1)))


@pytest.mark.parametrize(
    ("shortcut", "stride", "added"),
    [("paper", 1, True), ("paper", 2, True), ("official", 1, False), ("official", 2, True)],
)
def test_the_block_level_shortcut_of_the_paper_and_of_the_code(shortcut: str, stride: int, added: bool) -> None:
    block, x = shaken(SBB(4, 8, stride, shortcut=shortcut)), torch.randn(1, 4, 9, 6, dtype=torch.float64)
    head = block.head(x)
    expected = block.tail(block.middle(head))
    if added:
        expected = expected + (F.avg_pool2d(head, 2, 2, ceil_mode=True) if stride == 2 else head)
    torch.testing.assert_close(block(x), expected)
    assert block.middle.conv3.stride == (stride, stride)
    assert block.head.conv3.stride == block.tail.conv3.stride == (1, 1)


def test_the_default_plan_is_table_4() -> None:
    encoder = SBBEncoder()
    subs = [module for module in encoder.modules() if isinstance(module, SubSBB)]
    channels = [(sub.conv3.in_channels, sub.conv1.out_channels) for sub in subs]
    assert channels == [
        (16, 32), (32, 64), (64, 32), (32, 64), (64, 128), (128, 64), (64, 64), (64, 128), (128, 64),
        (64, 128), (128, 256), (256, 128), (128, 128), (128, 256), (256, 128), (128, 256), (256, 1024),
    ]  # fmt: skip
    assert encoder.channels == (16, 32, 64, 1024)
    assert encoder.strides == (2, 4, 8, 16)
    features = encoder(torch.rand(2, 3, 37, 64))
    assert [tuple(f.shape) for f in features] == [(2, 16, 19, 32), (2, 32, 10, 16), (2, 64, 5, 8), (2, 1024, 3, 4)]
    activations = [module for module in encoder.modules() if isinstance(module, RPReLU)]
    assert len(activations) == 34
    assert all(activation.zeta is not None for activation in activations)


def test_a_plan_of_ones_own() -> None:
    plan = SBBPlan(stem=8, blocks=(SBBRow(8, 2), SBBRow(16, dilation=3)), tail=(), features=(1,), normalise=False)
    encoder = SBBEncoder(plan)
    assert [tuple(f.shape) for f in encoder(torch.rand(1, 3, 16, 16))] == [(1, 8, 4, 4), (1, 16, 4, 4)]
    assert {sub.conv3.dilation for sub in encoder.blocks[1].children() if isinstance(sub, SubSBB)} == {(3, 3)}
    assert set(SBBEncoder(plan).state_dict()) == set(dict(encoder.named_parameters())) | {
        name for name, _ in encoder.named_buffers()
    }


def test_frames_are_normalised_by_imagenets_statistics_if_the_plan_says_so() -> None:
    plain, normalising = SBBEncoder(SBBPlan(normalise=False)).eval(), SBBEncoder().eval()
    normalising.load_state_dict(plain.state_dict())
    x = torch.rand(1, 3, 32, 32)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = plain((x - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    for a, b in zip(normalising(x), expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SubSBB(6, 4), "6 to 4 channels"),
        (lambda: SubSBB(6, 0), "6 to 0 channels"),
        (lambda: SubSBB(6, 6, stride=3), "stride 3"),
        (lambda: SBB(4, 8, shortcut="always"), "'always': choose paper or official"),
        (lambda: SBBEncoder(SBBPlan(blocks=(SBBRow(24),), features=())), "16 to 24 channels"),
        (lambda: SBBEncoder(SBBPlan(blocks=(SBBRow(8),), features=())), "16 to 8 channels"),
        (lambda: SBBEncoder(SBBPlan(tail=(200,))), "128 to 200 channels"),
        (lambda: SBBPlan(features=(1, 0)), "ascending"),
        (lambda: SBBPlan(features=(0, 5)), "from 0 .the stem. to 4"),
    ],
)
def test_what_cannot_be_built_is_named_in_one_line(build, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as error:
        build()
    assert "\n" not in str(error.value)
