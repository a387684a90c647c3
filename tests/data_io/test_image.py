from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from binmat.data.image import photograph, read_image, read_values, to_values, write_image
from binmat.errors import InputError


def test_what_is_written_is_read_back(tmp_path):
    image = (torch.arange(2 * 3 * 5).reshape(1, 3, 2, 5) * 7 % 256) / 255
    write_image(image, tmp_path / "a.png")
    assert torch.equal(read_image(tmp_path / "a.png"), image)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_values_are_rounded_and_clamped(tmp_path):
    write_image(torch.tensor([[[[-1.0, 0.5 / 255, 0.499 / 255, 2.0]]]]), tmp_path / "a.png")
    assert np.asarray(Image.open(tmp_path / "a.png")).tolist() == [[0, 1, 0, 255]]


@pytest.mark.parametrize(
    ("pixels", "mode", "expected"),
    [
        (np.uint8([[51]]), "L", [0.2, 0.2, 0.2]),
        (np.uint8([[[51, 102, 255]]]), "RGB", [0.2, 0.4, 1.0]),
        (np.uint8([[[51, 102, 255, 0]]]), "RGBA", [0.2, 0.4, 1.0]),
        (np.uint8([[[51, 10]]]), "LA", [0.2, 0.2, 0.2]),
        (np.uint16([[13107]]), "I;16", [0.2, 0.2, 0.2]),
    ],
)
def test_modes(tmp_path, pixels, mode, expected):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == mode
    torch.testing.assert_close(read_image(tmp_path / "a.png").flatten(), torch.tensor(expected))


def test_a_palette_is_read_as_its_colours(tmp_path):
    Image.fromarray(np.uint8([[[255, 0, 0], [0, 255, 0]]])).convert("P").save(tmp_path / "p.png")
    assert read_image(tmp_path / "p.png")[0, :, 0].T.tolist() == [[1, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize(
    ("pixels", "dtype"),
    [
        (np.uint8([[0, 128, 255]]), torch.uint8),
        (np.uint16([[0, 32768, 65535]]), torch.int32),
        (np.float32([[0, 0.5, 1]]), torch.float32),
        (np.uint8([[[0, 255], [128, 255], [255, 0]]]), torch.uint8),
        (np.uint8([[[0, 0, 0, 9], [1, 1, 1, 9], [2, 2, 2, 9]]]), torch.uint8),
    ],
)
def test_values_are_those_that_are_stored(tmp_path, pixels, dtype):
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    values = read_values(tmp_path / "a.tif")
    assert values.dtype == dtype and values.tolist() == pixels.tolist()


def test_values_of_one_bit_and_palette_images():
    assert to_values(Image.fromarray(np.array([[False, True]]))).tolist() == [[0, 255]]
    palette = Image.fromarray(np.uint8([[[255, 0, 0], [0, 255, 0]]])).convert("P", palette=Image.Palette.ADAPTIVE)
    assert to_values(palette).tolist() == [[[255, 0, 0], [0, 255, 0]]]


def test_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((4, 8, 3), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (1, 3, 8, 4)


def test_bad_files_are_named(tmp_path):
    with pytest.raises(InputError, match="no such image"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(InputError, match="is a folder"):
        read_image(tmp_path)
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(InputError, match=r"text\.png cannot be read as an image"):
        read_image(tmp_path / "text.png")
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:400])
    with pytest.raises(InputError, match=r"cut\.jpg"):
        read_image(tmp_path / "cut.jpg")


def test_a_failed_write_leaves_nothing(tmp_path):
    for path in (tmp_path / "absent" / "a.png", tmp_path / "a.unknown"):
        with pytest.raises(InputError, match="cannot be written"):
            write_image(torch.zeros(1, 3, 2, 2), path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [(288, 512), (512, 512), (31, 77), (700, 90)])
def test_the_photograph_fills_any_size(size):
    picture = photograph(*size)
    assert picture.shape == (1, 3, *size)
    assert 0.2 < picture.mean() < 0.8
    assert picture.std() > 0.1


@pytest.mark.parametrize("pixels", [np.float32([[0, 255]]), np.float32([[-0.5, 1]]), np.int32([[0, 70000]])])
def test_numbers_that_are_no_brightness_are_refused(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match="save it as 8-bit RGB"):
        read_image(tmp_path / "a.tif")
