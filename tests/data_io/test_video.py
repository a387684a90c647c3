"""Videos: what is written is what is read, to H.264's rounding."""

from __future__ import annotations

import os
import struct
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from binmat.data import video as video_module
from binmat.data.image import photograph
from binmat.data.video import BrokenVideoError, open_video, video_writer
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


def test_a_turned_phone_gives_upright_frames(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write(path, [photograph(32, 48)])
    [lying] = open_video(path).frames()
    upright, right = ([1, 0, 0, 0, 1, 0, 0, 0], [0, 1, 0, -1, 0, 0, 0, 0])
    before, after = (struct.pack(">9i", *(value << 16 for value in matrix), 1 << 30) for matrix in (upright, right))
    # The first of the two is that of the file as a whole, the second that of the stream.
    head, file, stream = path.read_bytes().split(before)
    path.write_bytes(head + before + file + after + stream)
    [turned] = open_video(path).frames()
    assert torch.equal(turned, torch.rot90(lying, -1, (2, 3)))


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


def _film(path: Path, frames: int = 50) -> None:
    """Noise, which does not compress: what a cut file lacks is about what was cut off."""
    noise = np.random.default_rng(0)
    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix in (".mp4", ".mov") else {}) as film:
        stream = film.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(frames):
            pixels = noise.integers(0, 256, (48, 64, 3), np.uint8)
            film.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        film.mux(stream.encode())


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".avi"])
def test_a_video_that_breaks_off_says_how_many_frames_are_lost(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"film{suffix}"
    _film(path)
    assert len(list(open_video(path).frames())) == 50
    os.truncate(path, path.stat().st_size * 6 // 10)
    seen = []
    with pytest.raises(BrokenVideoError, match=r"breaks off after \d+ frames: about \d+ more are lost") as broken:
        seen.extend(open_video(path).frames())
    done, lost = (int(word) for word in str(broken.value).split() if word.isdigit())
    assert done == len(seen) > 20
    assert done + lost == pytest.approx(50, abs=1)


def test_names_are_not_taken_for_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _film(Path("film.mp4"), 2)
    for name in ("concat:film.mp4", "subfile,,start,0,end,0,,:film.mp4", "file:film.mp4", "http:film.mp4", "pipe:.mp4"):
        with pytest.raises(InputError, match="no such video"):
            open_video(name)
        Path("film.mp4").rename(name)
        assert len(list(open_video(name).frames())) == 2
        Path(name).rename("film.mp4")
    with video_writer("pipe:1.mp4", RATE) as add:
        add(torch.rand(1, 3, 32, 32))
    assert open_video("pipe:1.mp4").count == 1


@pytest.mark.parametrize("text", ["ffconcat version 1.0\nfile film.mp4\n", "#EXTM3U\n#EXTINF:1,\nfilm.mp4\n"])
def test_a_list_of_other_files_is_no_video(tmp_path: Path, text: str) -> None:
    _film(tmp_path / "film.mp4", 2)
    (tmp_path / "list.mp4").write_text(text)
    with pytest.raises(InputError, match="cannot be read as a video"):
        open_video(tmp_path / "list.mp4")


def test_what_is_no_file_or_too_large_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(InputError, match="is a pipe or a device"):
        open_video(tmp_path / "pipe.mp4")
    _film(tmp_path / "film.mp4", 2)
    monkeypatch.setattr(video_module, "LARGEST", 1000)
    with pytest.raises(InputError, match="more than 1,000 pixels: 48x64"):
        open_video(tmp_path / "film.mp4")
