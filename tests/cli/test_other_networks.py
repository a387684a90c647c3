"""MODNet, LiteMatting, LSA-Matting, PAM and BGMv2 on the command line: convert, verify, matte."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_fill import fill
from official_checkpoints import official_state

import binmat
from binmat.data.image import photograph, read_image, write_image
from binmat.data.inference import GREEN
from binmat.errors import InputError, UnknownNameError
from binmat.model_defs.bgmv2 import without_subject
from binmat.model_defs.pam import PAM
from binmat.model_defs.pam_body import path_costs
from binmat.model_defs.registry import build

#: Golden checkpoints in the official layouts; PAM has none.
OFFICIAL = {"modnet": "modnet", "litematting": "litematting", "lsa_matting": "lsa"}
OFFICIAL |= {name: name for name in ("bgmv2_mobilenetv2", "bgmv2_resnet50")}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("other_checkpoints")

    def write(name: str) -> Path:
        path = folder / f"{name}.pth"
        if not path.exists():
            state: dict[str, Any] = official_state(OFFICIAL[name]) if name in OFFICIAL else fill(PAM().state_dict())
            torch.save({key: torch.as_tensor(value) for key, value in state.items()}, path)
        return path

    return write


@pytest.fixture
def picture(tmp_path: Path) -> tuple[Path, Path]:
    """A photograph of 40x70 pixels and a trimap of it."""
    write_image(photograph(40, 70), tmp_path / "photo.png")
    trimap = torch.full((1, 1, 40, 70), 128 / 255)
    trimap[..., :20], trimap[..., 50:] = 0, 1
    write_image(trimap, tmp_path / "trimap.png")
    return tmp_path / "photo.png", tmp_path / "trimap.png"


def test_a_limit_specialises_to_the_dearest_path_within_it() -> None:
    network = PAM()
    costs = path_costs(1024, 1024)
    for limit, path in ((60, "0010"), (70, "0111"), (75, "1101"), (100, "1111")):
        static = network.specialised((1024, 1024), cost_limit=limit)
        assert static.config == {"path": path}
        assert costs[path] == max(cost for cost in costs.values() if cost <= limit * 1e9)
        assert static.specialised((1024, 1024), cost_limit=limit).config == {"path": path}
    # Without a size it is the registry's, 512x512: a quarter of the work.
    assert network.specialised(cost_limit=15).config == {"path": "0010"}
    with pytest.raises(InputError, match="more than the cost limit 70 G"):
        network.specialised(path="1111").specialised((1024, 1024), cost_limit=70)
    assert network.specialised() is network
    with pytest.raises(UnknownNameError, match="no option of pam for conversions is called 'paths': did you mean"):
        network.specialised(paths="1111")


@pytest.mark.slow
def test_pam_under_a_cost_limit(program, checkpoints, picture, tmp_path: Path) -> None:
    costs = path_costs(32, 64)
    limit = costs["1010"] / 1e9
    arguments = ["convert", checkpoints("pam"), "--size", "32x64", "-o", tmp_path / "out"]
    status, out, _ = program(*arguments, "--option", f"cost_limit={limit}", "--json")
    assert status == 0
    converted = binmat.load(tmp_path / "out")
    path = converted.config["path"]
    assert costs[path] == max(cost for cost in costs.values() if cost <= costs["1010"])
    assert json.loads(out)["counts"]["textbook"]["float"]["flops"] == costs[path]
    photo, trimap = picture
    status, out, _ = program("matte", tmp_path / "out", photo, "--trimap", trimap, "-o", tmp_path / "matte", "--json")
    assert status == 0
    assert json.loads(out)["details"] == [{"path": path, "gmacs": path_costs(64, 96)[path] / 1e9}]
    alpha = read_image(tmp_path / "matte" / "alpha.png")[:, :1]
    assert (alpha[..., :20] == 0).all() and (alpha[..., 50:] == 1).all()
    arguments = ["matte", tmp_path / "out", photo, "--trimap", trimap, "-o", tmp_path, "--option", "path=1111"]
    status, _, errors = program(*arguments)
    assert (status, "is pam's path" in errors) == (1, True)


def test_a_path_or_a_limit_for_one_matte(program, checkpoints, picture, tmp_path: Path) -> None:
    photo, trimap = picture
    arguments = ["matte", checkpoints("pam"), photo, "--trimap", trimap, "-o", tmp_path / "matte"]
    status, out, _ = program(*arguments, "--option", "path=0110")
    assert (status, "  path: 0110\n" in out) == (0, True)
    status, out, _ = program(*arguments, "--option", "cost_limit=1000", "--json")
    assert status == 0
    assert json.loads(out)["details"][0]["path"] == "1111"
    assert "above pam's dearest path" in json.loads(out)["notes"][0]


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("convert", ["path=12"], "'12' is no path of pam: give 4 bits"),
        ("convert", ["path=1010", "cost_limit=60"], "a cost limit or a path, not both"),
        ("convert", ["cost_limit=14"], "below pam's cheapest path, 0000, at 512x512"),
        ("convert", ["cost_limit=low"], "option cost_limit cannot be 'low': pam takes it as float"),
        ("convert", ["cost_limits=60"], "no option of pam is called 'cost_limits': did you mean 'cost_limit'?"),
        ("matte", ["path=1010", "cost_limit=60"], "a cost limit or a path, not both"),
        ("matte", ["cost_limit=0.01"], "below pam's cheapest path"),
    ],
)
def test_bad_paths_and_limits(
    program, checkpoints, picture, tmp_path: Path, command: str, options: list[str], message: str
) -> None:
    photo, trimap = picture
    inputs = [photo, "--trimap", trimap] if command == "matte" else []
    given = [word for option in options for word in ("--option", option)]
    status, _, errors = program(command, checkpoints("pam"), *inputs, "-o", tmp_path / "out", *given)
    assert (status, message in errors) == (1, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("command", "name", "option", "message"),
    [
        ("matte", "lsa_matting", "test_time_augmentation=3", "cannot average 3 views: give 1, 8"),
        ("matte", "litematting", "sampling=mean", "no sampling of litematting's ENB is called 'mean'"),
        ("convert", "litematting", "sampling=mean", "no sampling of litematting's ENB is called 'mean'"),
    ],
)
def test_bad_variants(
    program, checkpoints, picture, tmp_path: Path, command: str, name: str, option: str, message: str
) -> None:
    photo, trimap = picture
    inputs = [photo, "--trimap", trimap] if command == "matte" else []
    status, _, errors = program(command, checkpoints(name), *inputs, "-o", tmp_path / "out", "--option", option)
    assert (status, message in errors) == (1, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_converted_folder_keeps_the_sampling(program, checkpoints, picture, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, _, errors = program(
        *("convert", checkpoints("litematting"), "--size", "32x64", "-o", out, "--option", "sampling=average")
    )
    assert status == 0, errors
    assert binmat.load(out).config["sampling"] == "average"
    photo, trimap = picture
    arguments = ["matte", out, photo, "--trimap", trimap, "-o", tmp_path / "matte"]
    assert program(*arguments, "--option", "window=64").status == 0
    status, _, errors = program(*arguments, "--option", "sampling=max")
    assert (status, "already traced or converted with sampling 'average'" in errors) == (1, True)


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("modnet", "cost_limit=60", "no option of modnet is called 'cost_limit': there is none"),
        ("lsa_matting", "refinement_steps=3", "no option of lsa_matting for conversions is called 'refinement_steps'"),
    ],
)
def test_options_that_conversions_lack(program, checkpoints, tmp_path: Path, name, option: str, message: str) -> None:
    status, _, errors = program("convert", checkpoints(name), "-o", tmp_path / "out", "--option", option)
    assert (status, message in errors) == (1, True)


@pytest.mark.parametrize("name", ["litematting", "lsa_matting", "pam"])
def test_trimaps_on_the_command_line(program, checkpoints, picture, tmp_path: Path, name: str) -> None:
    photo, _ = picture
    arguments = ["matte", checkpoints(name), photo, "-o", tmp_path / "out"]
    status, _, errors = program(*arguments)
    assert (status, "the trimap is missing" in errors) == (1, True)
    write_image(photograph(20, 30), tmp_path / "colour.png")
    status, _, errors = program(*arguments, "--trimap", tmp_path / "colour.png")
    assert (status, "20x30 pixels and the image 40x70" in errors or "colour image" in errors) == (1, True)
    known = torch.zeros(1, 1, 40, 70)
    known[..., 30:] = 1
    write_image(known, tmp_path / "known.png")
    status, out, _ = program(*arguments, "--trimap", tmp_path / "known.png")
    assert (status, "no unknown pixel" in out) == (0, True)
    assert torch.equal(read_image(tmp_path / "out" / "alpha.png")[:, :1], known)


def test_a_background_on_the_command_line(program, checkpoints, picture, tmp_path: Path) -> None:
    photo, _ = picture
    image = read_image(photo)
    write_image(without_subject(image), tmp_path / "background.png")
    write_image(image[..., 1:], tmp_path / "narrow.png")
    arguments = ["matte", checkpoints("bgmv2_mobilenetv2"), photo, "-o", tmp_path / "out", "--downsample-ratio", 0.5]
    for given, message in (
        ([], "the background is missing: bgmv2_mobilenetv2 needs a picture of the same scene"),
        (["--background", tmp_path / "narrow.png"], "the background has 40x69 pixels and the image 40x70"),
        (["--background", photo, "--option", "sample_pixels=0"], "sample_pixels is 0, less than one patch of 16"),
    ):
        status, _, errors = program(*arguments, *given)
        assert (status, message in errors) == (1, True)
        assert not (tmp_path / "out").exists()
    given = ["--background", tmp_path / "background.png", "--option", "sample_pixels=320", "--json"]
    status, out, _ = program(*arguments, *given)
    assert (status, json.loads(out)["details"]) == (0, [{"refined": round(20 / (10 * 18), 4)}])
    alpha, composite = (read_image(tmp_path / "out" / f"{name}.png") for name in ("alpha", "composite"))
    network = binmat.load(checkpoints("bgmv2_mobilenetv2"))
    options = {"downsample_ratio": 0.5, "sample_pixels": 320}
    expected = binmat.matte(network, photo, background=tmp_path / "background.png", **options)
    assert (alpha[:, :1] - expected).abs().max() <= 0.5 / 255 + 1e-6
    # The background is an input: the composite is on green, not on the background.
    foreground = read_image(tmp_path / "out" / "foreground.png")
    green = torch.tensor(GREEN).view(1, 3, 1, 1)
    assert (composite - (expected * foreground + (1 - expected) * green)).abs().max() < 2 / 255
    with pytest.raises(InputError, match="rvm_mobilenetv3 takes no background"):
        binmat.matte(build("rvm_mobilenetv3"), photo, background=photo)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "scheme", "mode"),
    [
        ("bgmv2_mobilenetv2", "reactnet", "sampling"),
        ("bgmv2_mobilenetv2", "bimatting", "full"),
        ("bgmv2_mobilenetv2", "bnn", "sampling"),
        ("bgmv2_resnet50", "reactnet", "sampling"),
    ],
)
def test_convert_verify_and_matte_bgmv2(program, checkpoints, picture, tmp_path, name: str, scheme: str, mode) -> None:
    photo, _ = picture
    write_image(without_subject(read_image(photo)), tmp_path / "background.png")
    refined = ["--downsample-ratio", "0.5", "--option", f"refine_mode={mode}", "--option", "sample_pixels=640"]
    for size, options in (("64x96", []), ("96x64", refined)):
        arguments = ["convert", checkpoints(name), "-o", tmp_path / size, "--scheme", scheme, "--size", size]
        assert program(*arguments, *options).status == 0
    status, text, _ = program("verify", tmp_path / "96x64")
    assert (status, "computes what the PyTorch graph computes" in " ".join(text.split())) == (0, True)
    arguments = ["matte", tmp_path / "96x64", photo, "--background", tmp_path / "background.png"]
    status, out, _ = program(*arguments, "-o", tmp_path / "matte", "--json")
    made = json.loads(out)
    assert (status, made["downsample_ratio"]) == (0, 0.5)
    assert made["details"][0]["refined"] == (1 if mode == "full" else round(40 / (10 * 18), 4))
    assert read_image(tmp_path / "matte" / "alpha.png")[:, :1].shape == (1, 1, 40, 70)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["reactnet", "bimatting"])
@pytest.mark.parametrize("name", ["modnet", "litematting", "lsa_matting", "pam 1011", "pam 0100"])
def test_convert_verify_and_matte(program, checkpoints, picture, tmp_path: Path, name: str, scheme: str) -> None:
    photo, trimap = picture
    name, _, path = name.partition(" ")
    for size in ("64x64", "64x96"):
        out = tmp_path / size
        options = ["--scheme", scheme, "--size", size, *(["--option", f"path={path}"] if path else [])]
        assert program("convert", checkpoints(name), "-o", out, *options).status == 0
    status, text, _ = program("verify", out)
    assert (status, "computes what the PyTorch graph computes" in text) == (0, True)
    given = [] if name == "modnet" else ["--trimap", trimap]
    assert program("matte", out, photo, "-o", tmp_path / "matte", *given).status == 0
    assert read_image(tmp_path / "matte" / "alpha.png")[:, :1].shape == (1, 1, 40, 70)
