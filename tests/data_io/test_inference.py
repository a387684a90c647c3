from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image

from binmat.data.image import photograph
from binmat.data.inference import composite, matte, matte_frames, without_flicker
from binmat.errors import InputError, UnknownNameError
from binmat.model_defs.network import Network, Prediction
from binmat.model_defs.network_option import NetworkOption
from binmat.transforms.trace import trace


class Counter(Network):
    """Alpha is the number of frames seen so far, in tenths."""

    name = "counter"

    def __init__(self):
        super().__init__()
        self.step = torch.nn.Parameter(torch.tensor(0.1))

    def predict(self, image, memory=None, *, trimap=None, downsample_ratio=1.0, progress=None):
        assert not self.training
        seen = (memory or 0) + 1
        return Prediction(torch.full_like(image[:, :1], 0.1) * seen * (1 if trimap is None else trimap), None, seen)


def test_frames_share_memory_and_images_do_not():
    frames = [torch.zeros(1, 3, 2, 2)] * 3
    assert [round(p.alpha.mean().item(), 4) for p in matte_frames(Counter().train(), frames)] == [0.1, 0.2, 0.3]
    network = Counter()
    assert torch.equal(matte(network, frames[0]), matte(network, frames[0]))


def test_images_come_as_paths_pictures_and_tensors(tmp_path):
    picture = Image.new("RGB", (5, 4))
    picture.save(tmp_path / "a.png")
    for image in (tmp_path / "a.png", str(tmp_path / "a.png"), picture, torch.zeros(3, 4, 5), torch.zeros(1, 3, 4, 5)):
        assert matte(Counter(), image).shape == (1, 1, 4, 5)
    for shape in ([2, 4, 5], [0, 3, 4, 5], [2, 1, 4, 5]):
        with pytest.raises(InputError, match=r"a clip's \[T, 3, H, W\], not " + re.escape(str(shape))):
            matte(Counter(), torch.zeros(shape))


def test_a_clip_shares_memory_and_takes_a_trimap_for_each_frame():
    clip = torch.zeros(3, 3, 1, 2)
    assert matte(Counter(), clip).mean((1, 2, 3)).tolist() == pytest.approx([0.1, 0.2, 0.3])
    trimaps = torch.tensor([1.0, 0.5, 2.0]).view(3, 1, 1, 1).expand(3, 1, 1, 2)
    for given in (trimaps, trimaps.numpy()):
        assert matte(Counter(), clip, trimap=given)[:, 0, 0, 0].tolist() == pytest.approx([0.1, 0.1, 0.6])
    for given, message in (
        (trimaps[:2], "there are 2 trimaps and more frames"),
        (trimaps[0, 0], "there are 1 trimaps and more frames"),
        (trimaps[[0, 1, 2, 2]], "there are more trimaps than frames"),
    ):
        with pytest.raises(InputError, match=message):
            matte(Counter(), clip, trimap=given)


def test_a_background_is_one_picture():
    with pytest.raises(InputError, match=r"the background is one picture, .* not \[2, 3, 1, 2\]"):
        matte(Counter(), torch.zeros(2, 3, 1, 2), background=torch.zeros(2, 3, 1, 2))


def test_the_one_frame_delay_of_a_clip_is_the_filter_of_its_mattes():
    class Bright(Counter):
        def predict(self, image, memory=None, *, trimap=None, downsample_ratio=1.0, progress=None):
            return Prediction(image[:, :1], notes=("a note",))

    clip = torch.tensor([0.2, 0.9, 0.25, 0.5]).view(4, 1, 1, 1).expand(4, 3, 1, 1)
    with pytest.warns(UserWarning, match="a note") as said:
        assert matte(Bright(), clip).flatten().tolist() == pytest.approx([0.2, 0.9, 0.25, 0.5])
        assert len(said) == 1
        filtered = matte(Bright(), clip, one_frame_delay=True)
    assert filtered.flatten().tolist() == pytest.approx([0.2, 0.225, 0.25, 0.5])


def test_a_trimap_reaches_the_network():
    trimap = torch.tensor([[[[0.0, 1.0]]]])
    assert matte(Counter(), torch.zeros(3, 1, 2), trimap=trimap).tolist() == [[[[0.0, pytest.approx(0.1)]]]]


def test_a_trimap_file_is_read_with_its_own_numbers(tmp_path):
    Image.fromarray(np.uint8([[0, 2]])).save(tmp_path / "labels.png")
    for trimap in (tmp_path / "labels.png", Image.open(tmp_path / "labels.png"), np.uint8([[0, 2]])):
        assert matte(Counter(), torch.zeros(3, 1, 2), trimap=trimap).tolist() == [[[[0.0, pytest.approx(0.2)]]]]


def test_notes_are_warnings_and_options_reach_the_network():
    class Noting(Counter):
        options = (NetworkOption("level", float, "alpha"),)

        def predict(self, image, memory=None, *, trimap=None, downsample_ratio=1.0, progress=None, level=0.5):
            return Prediction(torch.full_like(image[:, :1], level), notes=("half a note",))

    with pytest.warns(UserWarning, match="half a note"):
        assert matte(Noting(), torch.zeros(3, 1, 1), level=0.25).item() == 0.25
    with pytest.raises(UnknownNameError, match="no option of counter is called 'levels': did you mean 'level'"):
        matte(Noting(), torch.zeros(3, 1, 1), levels=3)
    with pytest.raises(UnknownNameError, match="no option of counter is called 'level': there is none"):
        matte(Counter(), torch.zeros(3, 1, 1), level=3)


@pytest.mark.parametrize("length", [0, 1, 2, 5])
def test_one_frame_delay_changes_alpha_alone_and_keeps_the_order(length):
    levels = [0.2, 0.9, 0.2, 0.2, 0.5][:length]
    predictions = [Prediction(torch.full((1, 1, 1, 1), level), memory=t) for t, level in enumerate(levels)]
    filtered = list(without_flicker(predictions))
    assert [prediction.memory for prediction in filtered] == list(range(length))
    expected = [0.2, 0.2 if length > 2 else 0.9, 0.2, 0.2, 0.5][:length]
    assert [prediction.alpha.item() for prediction in filtered] == pytest.approx(expected)


def test_a_size_that_changes_within_a_clip_is_an_error():
    frames = matte_frames(Counter(), [torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 3, 2)])
    next(frames)
    with pytest.raises(InputError, match="3x2 follows 2x2"):
        next(frames)


def test_composite_by_hand():
    image = torch.full((1, 3, 1, 1), 0.5)
    over = composite(Prediction(torch.full((1, 1, 1, 1), 0.25)), image, torch.ones(1, 3, 1, 1))
    torch.testing.assert_close(over, torch.full((1, 3, 1, 1), 0.25 * 0.5 + 0.75))
    with_foreground = composite(Prediction(torch.ones(1, 1, 1, 1), torch.zeros(1, 3, 1, 1)), image)
    assert with_foreground.abs().sum() == 0
    assert composite(Prediction(torch.zeros(1, 1, 4, 4)), photograph(4, 4))[0, 1].min() == 1.0


def test_a_module_that_says_nothing_of_images_is_called_with_tensors():
    with pytest.raises(InputError, match="binmat does not know how Conv2d mattes an image: call it") as error:
        matte(trace(torch.nn.Conv2d(3, 1, 1), (8, 8)), torch.rand(3, 8, 8))
    assert "\n" not in str(error.value)
