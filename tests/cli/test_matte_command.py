"""binmat matte: files, states, options."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
import torch

import binmat
from binmat.data.image import photograph, read_image, to_rgb, write_image
from binmat.data.inference import matte_frames
from binmat.data.mask_picture import FrameMask, mask_picture, with_masks
from binmat.data.video import open_video, video_writer
from binmat.model_defs.network import Prediction
from binmat.model_defs.network_option import NetworkOption
from binmat.model_defs.pam import PAM
from binmat.model_defs.rvm import RVM
from binmat.progress import Progress
from binmat.transforms.convert import convert

HALF_STEP = 0.5 / 255 + 1e-6


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    folder = tmp_path / "frames"
    folder.mkdir()
    wide = photograph(40, 80)
    for number, name in enumerate(("f2.png", "f10.jpg", ".hidden.png")):
        write_image(wide[..., 8 * number : 8 * number + 48], folder / name)
    (folder / "notes.txt").write_text("no frame")
    return folder


def test_an_image(program, checkpoint: Path, frames: Path, tmp_path: Path) -> None:
    image, out = frames / "f2.png", tmp_path / "deep" / "matte"
    status, text, _ = program("matte", checkpoint, image, "-o", out)
    assert status == 0
    assert sorted(file.name for file in out.iterdir()) == ["alpha.png", "composite.png", "foreground.png"]
    assert all(str(file) in text for file in out.iterdir())
    with torch.no_grad():
        fgr, pha, *_ = binmat.load(checkpoint)(read_image(image))
    assert (read_image(out / "alpha.png")[:, :1] - pha).abs().max() <= HALF_STEP
    assert (read_image(out / "foreground.png") - fgr).abs().max() <= HALF_STEP
    green = torch.tensor([120 / 255, 1.0, 155 / 255]).view(1, 3, 1, 1)
    assert (read_image(out / "composite.png") - (pha * fgr + (1 - pha) * green)).abs().max() <= HALF_STEP


def test_a_folder_is_one_clip_in_the_order_of_its_numbers(program, converted: Path, frames: Path, tmp_path) -> None:
    out = tmp_path / "matte"
    status, text, _ = program("matte", converted, frames, "-o", out, "--json")
    assert status == 0
    assert sorted(str(file.relative_to(out)) for file in out.rglob("*.png")) == [
        f"{kind}/{name}.png" for kind in ("alpha", "composite", "foreground") for name in ("f10", "f2")
    ]
    assert json.loads(text)["files"] == [
        str(out / kind / f"{name}.png") for name in ("f2", "f10") for kind in ("alpha", "foreground", "composite")
    ]
    network = binmat.load(converted)
    with torch.no_grad():
        _, first, *states = network(read_image(frames / "f2.png"))
        _, second, *_ = network(read_image(frames / "f10.jpg"), *states)
    assert (read_image(out / "alpha" / "f2.png")[:, :1] - first).abs().max() <= HALF_STEP
    assert (read_image(out / "alpha" / "f10.png")[:, :1] - second).abs().max() <= HALF_STEP


def test_results_of_before_are_replaced_and_other_files_stay(program, checkpoint, frames: Path, tmp_path: Path) -> None:
    (tmp_path / "alpha.png").write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    assert program("matte", checkpoint, frames / "f2.png", "-o", tmp_path).status == 0
    assert read_image(tmp_path / "alpha.png")[:, :1].shape == (1, 1, 40, 48)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_background_covers_the_frame(program, monkeypatch, checkpoint: Path, frames: Path, tmp_path: Path) -> None:
    def nothing(self: RVM, image: torch.Tensor, *_: object, **__: object) -> Prediction:
        return Prediction(torch.zeros_like(image[:, :1]))

    monkeypatch.setattr(RVM, "predict", nothing)
    # Red in the middle, blue above and below: covering 40x48 with 100x60 cuts the blue off.
    picture = torch.zeros(1, 3, 100, 60)
    picture[:, 0, 20:80], picture[:, 2, :20], picture[:, 2, 80:] = 1, 1, 1
    write_image(picture, tmp_path / "background.png")
    options = ["--background", tmp_path / "background.png"]
    assert program("matte", checkpoint, frames / "f2.png", "-o", tmp_path / "out", *options).status == 0
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["alpha.png", "composite.png"]
    composite = read_image(tmp_path / "out" / "composite.png")
    assert composite.shape == (1, 3, 40, 48)
    assert (composite[0, 0] == 1).all()
    assert (composite[0, 2] == 0).all()


def test_the_ratio_is_the_one_asked_for(program, checkpoint: Path, frames: Path, tmp_path: Path) -> None:
    arguments = ["matte", checkpoint, frames / "f2.png", "-o", tmp_path / "out", "--downsample-ratio", "0.5", "--json"]
    status, text, _ = program(*arguments)
    assert (status, json.loads(text)["downsample_ratio"]) == (0, 0.5)
    with torch.no_grad():
        _, pha, *_ = binmat.load(checkpoint)(read_image(frames / "f2.png"), downsample_ratio=0.5)
    assert (read_image(tmp_path / "out" / "alpha.png")[:, :1] - pha).abs().max() <= HALF_STEP


def test_options_notes_and_details_of_a_network(program, monkeypatch, checkpoint, frames: Path, tmp_path: Path) -> None:
    given = {}

    def predict(
        self: RVM, image: torch.Tensor, memory: object = None, *, trimap: torch.Tensor | None = None,
        downsample_ratio: float = 1.0, progress: Progress | None = None,
        path: str | None = None, steps: int = 0, limit: float | None = None,
    ) -> Prediction:  # fmt: skip
        given.update(path=path, steps=steps, limit=limit, trimap=trimap)
        return Prediction(image[:, :1], notes=("read as it is",), details={"path": path or "", "cost": 1.5})

    monkeypatch.setattr(RVM, "predict", predict)
    declared = {"path": str, "steps": int, "limit": float}
    monkeypatch.setattr(RVM, "options", [NetworkOption(name, kind, "") for name, kind in declared.items()])
    write_image(torch.full((1, 1, 40, 48), 128 / 255), tmp_path / "trimap.png")
    arguments = ["matte", checkpoint, frames / "f2.png", "-o", tmp_path / "out"]
    options = [word for text in ("path=1011", "steps=3", "limit=2.5") for word in ("--option", text)]
    status, text, _ = program(*arguments, *options, "--trimap", tmp_path / "trimap.png", "--json")
    assert status == 0
    assert given.pop("trimap").unique().tolist() == [128]
    assert given == {"path": "1011", "steps": 3, "limit": 2.5}
    said = json.loads(text)
    assert (said["notes"], said["details"]) == (["read as it is"], [{"path": "1011", "cost": 1.5}])
    status, text, _ = program(*arguments)
    assert "  cost: 1.5\n" in text
    assert "read as it is\n" in text
    for option, message in {
        "steps": "'steps' is not NAME=VALUE",
        "steps=few": "option steps cannot be 'few': rvm_mobilenetv3 takes it as int",
        "step=1": "no option of rvm_mobilenetv3 is called 'step': did you mean 'steps'? known: limit, path, steps",
    }.items():
        status, _, errors = program(*arguments, "--option", option)
        assert (status, message in errors) == (1, True)


def test_one_frame_delay_takes_a_flicker_out(program, monkeypatch, checkpoint: Path, tmp_path: Path) -> None:
    def predict(self: RVM, image: torch.Tensor, *_: object, **__: object) -> Prediction:
        return Prediction(image[:, :1])

    monkeypatch.setattr(RVM, "predict", predict)
    (tmp_path / "frames").mkdir()
    for number, grey in enumerate((0.2, 1.0, 0.2, 0.2)):
        write_image(torch.full((1, 3, 16, 16), grey), tmp_path / "frames" / f"{number}.png")
    arguments = ["matte", checkpoint, tmp_path / "frames", "-o", tmp_path / "out", "--one-frame-delay"]
    assert program(*arguments).status == 0
    alphas = [read_image(tmp_path / "out" / "alpha" / f"{number}.png")[:, :1].mean().item() for number in range(4)]
    assert alphas == pytest.approx([0.2] * 4, abs=1e-6)


def test_one_frame_delay_of_an_image_is_refused(program, checkpoint: Path, frames: Path, tmp_path: Path) -> None:
    arguments = ["matte", checkpoint, frames / "f2.png", "-o", tmp_path / "out", "--one-frame-delay"]
    status, _, errors = program(*arguments)
    assert (status, "f2.png is one image: leave it out" in " ".join(errors.split())) == (1, True)
    assert not (tmp_path / "out").exists()


def test_frames_that_do_not_belong_together(program, checkpoint: Path, frames: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    arguments = ["matte", checkpoint, frames, "-o", tmp_path / "out"]
    status, _, errors = program(*arguments, "--trimap", frames / "f2.png")
    assert (status, "there are 1 trimaps for 2 images: pass one for each" in errors) == (1, True)
    write_image(photograph(32, 32), frames / "f11.png")
    status, _, errors = program(*arguments)
    assert (status, "32x32 follows 40x48" in errors) == (1, True)
    write_image(photograph(40, 48), frames / "f2.jpg")
    status, _, errors = program(*arguments)
    assert status == 1
    assert "would both be written as f2.png" in errors
    assert sorted(tmp_path.iterdir()) == before


def test_what_a_sparse_decoder_computed(program, checkpoint: Path, frames: Path, tmp_path: Path) -> None:
    network = convert(binmat.load(checkpoint), "bnn", settings=["decoder=sab"])
    binmat.save(network, tmp_path / "sparse.safetensors")
    arguments = ["matte", tmp_path / "sparse.safetensors", frames, "-o", tmp_path / "out"]
    # The delay gives each frame out late: its mask must still be its own.
    status, text, _ = program(*arguments, "--show-mask", "--one-frame-delay", "--json")
    assert status == 0
    said = json.loads(text)
    masks: list[FrameMask] = []
    pictures = [read_image(frames / name) for name in ("f2.png", "f10.jpg")]
    predictions = list(with_masks(network, matte_frames(network, pictures), masks))
    assert said["active"] == [mask.levels for mask in masks]
    assert str(tmp_path / "out" / "mask" / "f10.png") in said["files"]
    for name, picture, prediction, mask in zip(("f2", "f10"), pictures, predictions, masks, strict=True):
        written = read_image(tmp_path / "out" / "mask" / f"{name}.png")
        drawn = to_rgb(mask_picture(picture, prediction.alpha, mask))
        assert (written - drawn).abs().max() <= 2 * HALF_STEP
    text = program(*arguments, "--show-mask").out
    assert "of the masked paths' pixels were active" in " ".join(text.split())
    status, _, errors = program("matte", checkpoint, frames, "-o", tmp_path / "dense", "--show-mask")
    assert (status, "has no mask to show" in errors) == (1, True)
    assert not (tmp_path / "dense").exists()


def test_a_video(program, checkpoint: Path, tmp_path: Path) -> None:
    wide = photograph(48, 80)
    with video_writer(tmp_path / "talk.mp4", Fraction(25)) as add:
        for step in range(3):
            add(wide[..., 8 * step : 8 * step + 64])
    status, text, _ = program("matte", checkpoint, tmp_path / "talk.mp4", "-o", tmp_path / "out", "--json")
    assert status == 0
    kinds = ("alpha", "foreground", "composite")
    assert json.loads(text)["files"] == [str(tmp_path / "out" / f"{kind}.mp4") for kind in kinds]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == sorted(f"{kind}.mp4" for kind in kinds)
    video = open_video(tmp_path / "out" / "alpha.mp4")
    assert (video.rate, video.count) == (25, 3)
    network = binmat.load(checkpoint)
    predictions = list(matte_frames(network, open_video(tmp_path / "talk.mp4").frames()))
    for prediction, written in zip(predictions, video.frames(), strict=True):
        assert (prediction.alpha - written[:, :1]).abs().mean() < 0.02


def test_a_videos_trimaps_are_as_many_as_its_frames(program, tmp_path: Path) -> None:
    torch.save(PAM().state_dict(), tmp_path / "pam.pth")
    for name, count in (("talk", 3), ("few", 2), ("many", 4)):
        with video_writer(tmp_path / f"{name}.mp4", Fraction(25)) as add:
            for _ in range(count):
                add(torch.cat([torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)], 3))
    arguments = ["matte", tmp_path / "pam.pth", tmp_path / "talk.mp4", "-o", tmp_path / "out", "--trimap"]
    status, text, errors = program(*arguments, tmp_path / "talk.mp4", "--json")
    assert status == 0, errors
    assert "no unknown pixel" in json.loads(text)["notes"][-1]
    for name, message in (("few", "2 trimaps and more frames"), ("many", "more trimaps than frames")):
        status, _, errors = program(*arguments, tmp_path / f"{name}.mp4")
        assert (status, message in errors) == (1, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["downsample_ratio=0.5"], "no option of rvm_mobilenetv3 is called 'downsample_ratio': there is none"),
        (["steps"], "is not NAME=VALUE"),
    ],
)
def test_bad_options(program, checkpoint: Path, frames: Path, tmp_path: Path, options: list[str], message: str) -> None:
    given = [word for option in options for word in ("--option", option)]
    status, _, errors = program("matte", checkpoint, frames / "f2.png", "-o", tmp_path / "out", *given)
    assert (status, message in errors) == (1, True), errors
    assert not (tmp_path / "out").exists()


def test_what_is_in_the_way_leaves_the_target_as_it_was(program, checkpoint: Path, frames: Path, tmp_path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "composite").write_text("a file of the user's")
    status, _, errors = program("matte", checkpoint, frames, "-o", tmp_path / "out")
    assert (status, "composite is in the way" in " ".join(errors.split())) == (1, True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["composite"]
