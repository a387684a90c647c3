"""Videos: what is written is what is read, to H.264's rounding."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch

from binmat.data.image import photograph
from binmat.data.video import open_video, video_writer
from binmat.errors import InputError, MissingExtraError

RATE = Fraction(30000, 1001)


def write(path: Path, frames: list[torch.Tensor]) -> None:
    with video_writer(path, RATE) as add:
        for frame in frames:
            add(frame)


@pytest.mark.parametrize(("height", "width"), [(48, 64), (33, 47)])
def test_frames_rate_and_count_come_back(tmp_path: Path, height: int, width: int) -> None:
    wide = photograph(height, width + 16)
    frames = [wide[..., 8 * index : 8 * index + width] for index in range(3)]
    write(tmp_path / "clip.mp4", frames)
    video = open_video(tmp_path / "clip.mp4")
    assert (video.rate, video.count) == (RATE, 3)
    for frame, again in zip(frames, video.frames(), strict=True):
        assert again.shape == (1, 3, height, width)
        # Colours have half the resolution where both sides are even.
        assert (frame.mean(1) - again.mean(1)).abs().mean() < 0.02
    assert list(tmp_path.iterdir()) == [tmp_path / "clip.mp4"]


def test_a_grey_matte_keeps_its_values(tmp_path: Path) -> None:
    ramp = torch.linspace(0, 1, 64).expand(1, 1, 48, 64)
    write(tmp_path / "alpha.mp4", [ramp])
    [values] = open_video(tmp_path / "alpha.mp4").values()
    assert values.dtype == torch.uint8
    assert (values / 255 - ramp[0, 0]).abs().max() < 0.02


def test_a_turned_phone_gives_upright_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "clip.mp4", [photograph(32, 48)])
    [lying] = open_video(tmp_path / "clip.mp4").frames()

    class Turned:
        """A frame whose display matrix says: a quarter to the right, as FFmpeg counts, -90."""

        rotation = -90

        def __init__(self, frame: av.VideoFrame) -> None:
            self.to_ndarray = frame.to_ndarray

    opened = av.open

    class Container:
        def __init__(self, path: str) -> None:
            self.container = opened(path)

        def __enter__(self) -> Container:
            return self

        def __exit__(self, *_: object) -> None:
            self.container.close()

        def decode(self, video: int) -> list[Turned]:
            return [Turned(frame) for frame in self.container.decode(video=video)]

    video = open_video(tmp_path / "clip.mp4")
    monkeypatch.setattr(av, "open", Container)
    [upright] = video.frames()
    assert torch.equal(upright, torch.rot90(lying, -1, (2, 3)))


def test_nothing_is_left_of_a_video_that_was_begun(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stop"), video_writer(tmp_path / "clip.mp4", RATE) as add:
        add(torch.rand(1, 3, 32, 32))
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []


def test_bad_videos(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such video"):
        open_video(tmp_path / "absent.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(InputError, match="cannot be read as a video"):
        open_video(tmp_path / "text.mp4")
    with pytest.raises(InputError, match="cannot be written"), video_writer(tmp_path / "no" / "clip.mp4", RATE) as add:
        add(torch.rand(1, 3, 32, 32))


def test_pyav_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'binmat\[video\]'"):
        open_video(tmp_path / "clip.mp4")
