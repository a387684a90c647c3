"""A clip's mattes as a library call."""

from __future__ import annotations

import os
from pathlib import Path

import av
import pytest
import torch
from PIL import Image

from binmat.data.image import photograph, read_image, to_bytes, write_image
from binmat.data.video import open_video
from binmat.errors import InputError, UnknownNameError
from binmat.model_defs.conversion_facts import ConversionFacts
from binmat.model_defs.lsa_matting import LSAMatting
from binmat.model_defs.network import Network, Prediction
from binmat.pipeline.matte_clip import matte_clip


class Grey(Network):
    name = "grey"

    def __init__(self) -> None:
        super().__init__()
        self.parameter = torch.nn.Parameter(torch.zeros(1))

    def predict(self, image, memory=None, *, trimap=None, downsample_ratio=1.0, progress=None):
        number = (memory or 0) + 1
        alpha = torch.full_like(image[:, :1], downsample_ratio)
        return Prediction(alpha, memory=number, notes=("grey",), details={"number": number})


def test_a_folder_of_frames(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    for number in range(3):
        write_image(photograph(16, 16), tmp_path / "frames" / f"{number}.png")
    network, seen = Grey(), []
    network.conversion = ConversionFacts(downsample_ratio=0.25)
    out = tmp_path / "out"
    made = matte_clip(network, tmp_path / "frames", str(out), progress=lambda *step: seen.append(step))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert made.files == tuple(out / kind / f"{n}.png" for n in range(3) for kind in ("alpha", "composite"))
    assert all(file.is_file() for file in made.files)
    # What the network was converted for, where nothing else is asked.
    assert made.downsample_ratio == 0.25
    assert read_image(made.files[0]).unique().tolist() == [pytest.approx(64 / 255)]
    assert (made.notes, made.active) == (("grey",), ())
    assert [about["number"] for about in made.details] == [1, 2, 3]
    with pytest.raises(UnknownNameError, match="no option of grey is called 'level'"):
        matte_clip(network, tmp_path / "frames", tmp_path / "other", level=1)
    assert not (tmp_path / "other").exists()


def test_the_progress_of_one_image_is_that_of_its_steps(tmp_path: Path) -> None:
    write_image(photograph(32, 32), tmp_path / "photo.png")
    write_image(torch.full((1, 1, 32, 32), 128 / 255), tmp_path / "trimap.png")
    seen: list[tuple[int, int]] = []
    matte_clip(
        LSAMatting(),
        tmp_path / "photo.png",
        tmp_path / "out",
        trimap=tmp_path / "trimap.png",
        progress=lambda *step: seen.append(step),
        refinement_steps=3,
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    (tmp_path / "alpha").mkdir()
    for name in "ab":
        write_image(photograph(16, 16), tmp_path / "alpha" / f"{name}.png")
    return tmp_path / "alpha"


@pytest.mark.parametrize("link", [None, "symbolic", "hard"])
def test_no_input_is_overwritten(tmp_path: Path, frames: Path, link: str | None) -> None:
    photo = tmp_path / "alpha.png"
    write_image(photograph(16, 16), photo)
    source, trimap, background = photo, None, None
    if link is not None:
        source = tmp_path / "link.png"
        source.symlink_to(photo) if link == "symbolic" else os.link(photo, source)
    before = photo.read_bytes()
    for case in ("source", "trimap", "background"):
        if case != "source":
            other = tmp_path / "other.png"
            write_image(photograph(16, 16), other)
            trimap, background = (source if case == role else None for role in ("trimap", "background"))
        else:
            other = source
        with pytest.raises(InputError, match=r"alpha\.png is read and would be overwritten: name another folder"):
            matte_clip(Grey(), other, tmp_path, trimap=trimap, background=background)
    with pytest.raises(InputError, match=r"a\.png is read and would be overwritten"):
        matte_clip(Grey(), frames, tmp_path)
    (tmp_path / "linked").symlink_to(frames)
    with pytest.raises(InputError, match=r"a\.png is read and would be overwritten"):
        matte_clip(Grey(), tmp_path / "linked", tmp_path)
    assert photo.read_bytes() == before


def test_a_mask_is_only_in_the_way_where_masks_are_written(tmp_path: Path) -> None:
    write_image(photograph(16, 16), tmp_path / "mask.png")
    matte_clip(Grey(), tmp_path / "mask.png", tmp_path)
    with pytest.raises(InputError, match=r"mask\.png is read and would be overwritten"):
        matte_clip(Grey(), tmp_path / "mask.png", tmp_path, show_mask=True)


def _write_film(path: Path) -> None:
    noise = torch.rand(30, 1, 3, 32, 32)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as film:
        stream = film.add_stream("libx264", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for picture in noise:
            film.mux(stream.encode(av.VideoFrame.from_ndarray(to_bytes(picture[0]).contiguous().numpy(), "rgb24")))
        film.mux(stream.encode())


@pytest.mark.parametrize("delay", [False, True])
def test_what_was_matted_of_a_video_that_breaks_off_is_kept(tmp_path: Path, delay: bool) -> None:
    film, out = tmp_path / "film.mp4", tmp_path / "out"
    _write_film(film)
    os.truncate(film, film.stat().st_size * 6 // 10)
    message = r"breaks off after \d+ frames: about \d+ more are lost; the frames before"
    with pytest.raises(InputError, match=message) as said:
        matte_clip(Grey(), film, out, trimap=film, one_frame_delay=delay)
    done = int(str(said.value).split(" frames")[0].split()[-1])
    assert [len(list(open_video(out / f"{kind}.mp4").frames())) for kind in ("alpha", "composite")] == [done, done]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.mp4", "out"]


def test_several_pages_are_noted(tmp_path: Path) -> None:
    page = Image.new("RGB", (16, 16))
    page.save(tmp_path / "pages.tif", save_all=True, append_images=[page])
    [note, _] = matte_clip(Grey(), tmp_path / "pages.tif", tmp_path / "out").notes
    assert "pages.tif has several pages or frames: only the first was read" in note
