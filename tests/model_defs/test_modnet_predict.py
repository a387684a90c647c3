"""MODNet behind the hook that mattes an image of any size."""

from __future__ import annotations

import pytest
import torch
from official_checkpoints import filled, official_network
from torch.nn import functional as F

from binmat.data.inference import matte
from binmat.errors import InputError, SizeError, UnknownNameError
from binmat.model_defs.modnet import MODNet
from binmat.transforms.convert import convert


@pytest.fixture(scope="module")
def network() -> MODNet:
    network = official_network("modnet", "modnet")
    assert isinstance(network, MODNet)
    return network.float()


def test_a_size_that_fits_is_the_official_call(network: MODNet) -> None:
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        _, _, alpha = network((image - 0.5) / 0.5, inference=True)
    torch.testing.assert_close(matte(network, image), alpha)


@pytest.mark.parametrize("size", [(50, 70), (32, 33), (1, 3)])
def test_any_other_size_is_padded_with_its_border_and_cropped_back(network: MODNet, size: tuple[int, int]) -> None:
    height, width = size
    image = torch.rand(1, 3, height, width)
    rows = torch.arange(-(-height // 32) * 32).clamp(max=height - 1)
    columns = torch.arange(-(-width // 32) * 32).clamp(max=width - 1)
    with torch.no_grad():
        _, _, alpha = network(image[:, :, rows][..., columns] * 2 - 1)
    torch.testing.assert_close(matte(network, image), alpha[..., :height, :width])


def test_a_ratio_reduces_by_area_and_enlarges_the_matte(network: MODNet) -> None:
    image = torch.rand(1, 3, 96, 128)
    small = F.avg_pool2d(image, 2)
    alpha = F.interpolate(matte(network, small), size=(96, 128), mode="bilinear")
    torch.testing.assert_close(matte(network, image, downsample_ratio=0.5), alpha)


def test_bad_input_is_refused(network: MODNet) -> None:
    image = torch.rand(1, 3, 32, 32)
    with pytest.raises(InputError, match="modnet takes no trimap"):
        matte(network, image, trimap=torch.zeros(32, 32))
    for ratio in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(SizeError, match="not a positive number"):
            matte(network, image, downsample_ratio=ratio)
    with pytest.raises(SizeError, match="leaves 0x0 of 32x32"):
        matte(network, image, downsample_ratio=0.001)
    with pytest.raises(UnknownNameError, match="no option of modnet is called 'path': there is none"):
        matte(network, image, path="1111")


def test_a_converted_network_is_called_likewise(network: MODNet) -> None:
    converted = convert(network, "reactnet").eval()
    image = torch.rand(1, 3, 40, 40)
    with torch.no_grad():
        _, _, alpha = converted(F.pad(image, (0, 24, 0, 24), mode="replicate") * 2 - 1)
    torch.testing.assert_close(matte(converted, image), alpha[..., :40, :40])


def test_a_trimap_is_read_and_written_over_the_matte() -> None:
    network = filled(MODNet(trimap=True))
    image, trimap = torch.rand(1, 3, 48, 64), torch.full((48, 64), 0.5)
    trimap[:, :16], trimap[:, 48:] = 0, 1
    with torch.no_grad():
        small = torch.cat((image, trimap[None, None]), 1) * 2 - 1
        _, _, expected = network(F.pad(small, (0, 0, 0, 16), mode="replicate"))
    alpha = matte(network, image, trimap=trimap)
    torch.testing.assert_close(alpha[..., 16:48], expected[..., :48, 16:48])
    assert (alpha[..., :16] == 0).all()
    assert (alpha[..., 48:] == 1).all()
    halved = matte(network, image, trimap=trimap, downsample_ratio=0.5)
    assert halved.shape == (1, 1, 48, 64)
    assert (halved[..., :16] == 0).all()
    with pytest.warns(UserWarning, match="no unknown pixel"):
        assert matte(network, image, trimap=torch.ones(48, 64)).min() == 1
    with pytest.raises(InputError, match="the trimap is missing"):
        matte(network, image)


def test_the_inputs_for_verification_have_the_portrait_trimap() -> None:
    image = torch.rand(1, 3, 32, 32)
    network = MODNet(trimap=True)
    img = network.frame_inputs(image)["img"]
    assert torch.equal(img[:, :3], image * 2 - 1)
    assert img[:, 3].unique().tolist() == [-1, 0, 1]
    assert network.example(32, 32).inputs["img"].shape == img.shape
