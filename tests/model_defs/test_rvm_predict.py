"""RVM behind the hook that mattes an image or the frames of a clip."""

from __future__ import annotations

import pytest
import torch
from official_checkpoints import official_network

from binmat.data.inference import matte_frames
from binmat.errors import InputError, SizeError
from binmat.model_defs.rvm import RVM
from binmat.transforms.convert import convert


@pytest.fixture(scope="module")
def network() -> RVM:
    network = official_network("rvm_mobilenetv3_dgf", "rvm_mobilenetv3")
    assert isinstance(network, RVM)
    return network.float()


@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_frames_one_by_one_give_what_the_clip_gives(network: RVM, ratio: float) -> None:
    clip = torch.rand(1, 3, 3, 37, 50)
    with torch.no_grad():
        fgr, pha, *_ = network(clip, downsample_ratio=ratio)
    predictions = list(matte_frames(network, clip[0].split(1), downsample_ratio=ratio))
    for t, prediction in enumerate(predictions):
        torch.testing.assert_close(prediction.alpha, pha[:, t])
        torch.testing.assert_close(prediction.foreground, fgr[:, t])
    with torch.no_grad():
        alone = network.predict(clip[:, 2], downsample_ratio=ratio)
    assert not torch.allclose(predictions[2].alpha, alone.alpha, atol=1e-4), "the states make no difference"


def test_a_converted_network_predicts_with_its_states(network: RVM) -> None:
    converted = convert(network, "reactnet").eval()
    frame = torch.rand(1, 3, 32, 48)
    first, second = matte_frames(converted, [frame, frame])
    assert first.alpha.shape == (1, 1, 32, 48)
    assert first.foreground is not None and first.foreground.shape == (1, 3, 32, 48)
    expected = converted(frame, *first.memory)
    torch.testing.assert_close(second.alpha, expected[1].detach())


def test_what_rvm_cannot_use_is_refused(network: RVM) -> None:
    with pytest.raises(SizeError, match="size 15x48 is too small for rvm_mobilenetv3"):
        network.predict(torch.rand(1, 3, 15, 48))
    with pytest.raises(SizeError, match=r"ratio 0\.25 leaves 8x12 pixels"):
        network.predict(torch.rand(1, 3, 32, 48), downsample_ratio=0.25)
    with pytest.raises(SizeError, match="not a positive number"):
        network.predict(torch.rand(1, 3, 32, 48), downsample_ratio=0.0)
    with pytest.raises(InputError, match="takes no trimap"):
        network.predict(torch.rand(1, 3, 32, 48), trimap=torch.rand(1, 1, 32, 48))
