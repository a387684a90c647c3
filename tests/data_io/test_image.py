from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from binmat.data import image as image_module
from binmat.data.image import note_on_pages, photograph, read_image, read_values, to_values, write_image
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


def _write_png(path: Path, pixels: np.ndarray, exif: bytes = b"") -> None:
    """A PNG of 16-bit colours [H, W, channels], which Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    parts = [chunk(b"IHDR", header), *([chunk(b"eXIf", exif)] if exif else []), chunk(b"IDAT", zlib.compress(rows))]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b""))


def _write_tiff(path: Path, pixels: np.ndarray, order: str, *, packed: bool) -> None:
    """A TIFF of 16-bit colours [H, W, 3] in one strip. order: < or >, as struct has it."""
    height, width, _ = pixels.shape
    data = pixels.astype(f"{order}u2").tobytes()
    strip = zlib.compress(data) if packed else data
    tags = {256: width, 257: height, 259: 8 if packed else 1, 262: 2, 273: 0, 277: 3, 278: height, 279: len(strip)}
    bits = 8 + 2 + 12 * (len(tags) + 1) + 4
    tags[273] = bits + 6
    entries = [(tag, 4, 1, struct.pack(f"{order}I", value)) for tag, value in tags.items()]
    entries.append((258, 3, 3, struct.pack(f"{order}I", bits)))
    folder = b"".join(struct.pack(f"{order}HHI", *entry[:3]) + entry[3] for entry in sorted(entries))
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(entries))
    path.write_bytes(head + folder + bytes(4) + struct.pack(f"{order}3H", 16, 16, 16) + strip)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_16_bit_colours_keep_their_precision(tmp_path: Path, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (5, 7, channels), np.uint16)
    _write_png(tmp_path / "a.png", pixels)
    colours = pixels[..., [0, 0, 0]] if channels == 2 else pixels[..., :3]
    expected = torch.from_numpy(colours.astype(np.float32) / np.float32(65535)).permute(2, 0, 1)
    assert torch.equal(read_image(tmp_path / "a.png")[0], expected)
    values = read_values(tmp_path / "a.png")
    assert values.dtype == torch.int32
    assert values[..., -channels:].tolist() == pixels.tolist()


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("packed", [False, True])
def test_16_bit_colours_of_a_tiff(tmp_path: Path, order: str, packed: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (5, 7, 3), np.uint16)
    _write_tiff(tmp_path / "a.tif", pixels, order, packed=packed)
    assert read_values(tmp_path / "a.tif").tolist() == pixels.tolist()


def test_16_bit_colours_are_turned_upright_too(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (2, 3, 3), np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6  # A quarter to the right.
    _write_png(tmp_path / "a.png", pixels, exif.tobytes()[6:])
    assert read_values(tmp_path / "a.png").tolist() == np.rot90(pixels, -1).tolist()


def test_colours_for_print_become_those_of_a_screen(tmp_path: Path) -> None:
    Image.fromarray(np.uint8([[[0, 255, 255, 0]] * 8] * 8), "CMYK").save(tmp_path / "a.jpg", quality=100)
    assert read_image(tmp_path / "a.jpg")[0, :, 0, 0].tolist() == pytest.approx([1, 0, 0], abs=0.05)


@pytest.mark.parametrize("name", ["a.png", "a.eps", "a"])
def test_formats_that_start_other_programs_are_refused(tmp_path: Path, monkeypatch, name: str) -> None:
    # Pillow would start Ghostscript, which is run by the path.
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / name).write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n")
    with pytest.raises(InputError, match="cannot be read as an image"):
        read_image(tmp_path / name)
    assert not (tmp_path / "started").exists()


def test_a_picture_that_is_too_large_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch) -> None:
    Image.fromarray(np.zeros((40, 50), np.uint8)).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: whole.index(b"IDAT") + 4])  # Decoding it would fail.
    monkeypatch.setattr(image_module, "LARGEST", 1999)
    with pytest.raises(InputError, match="more than 1,999 pixels: 40x50"):
        read_image(tmp_path / "a.png")
    (tmp_path / "bomb.png").write_bytes(whole.replace(struct.pack(">II", 50, 40), struct.pack(">II", 50000, 40000)))
    with pytest.raises(InputError, match=r"cannot be read as an image: .*$"):
        read_image(tmp_path / "bomb.png")


def test_pipes_and_devices_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "link.png").symlink_to("/dev/zero")
    for name in ("a.png", "link.png"):
        with pytest.raises(InputError, match="is a pipe or a device"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("mode", ["LAB", "YCbCr", "CMYK", "1", "PA"])
def test_every_mode_is_read_or_refused_in_one_line(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / "a.tif")
    try:
        assert read_image(tmp_path / "a.tif").shape == (1, 3, 4, 4)
    except InputError as error:
        assert "a.tif cannot be read as an image" in str(error) and "\n" not in str(error)


def test_several_pages_are_noted(tmp_path: Path) -> None:
    first, second = (Image.fromarray(np.full((4, 4, 3), level, np.uint8)) for level in (0, 255))
    first.save(tmp_path / "one.tif")
    assert note_on_pages(tmp_path / "one.tif") is None
    for name in ("two.tif", "two.gif", "two.png", "two.webp"):
        first.save(tmp_path / name, save_all=True, append_images=[second])
        assert "only the first was read" in (note_on_pages(tmp_path / name) or "")
        assert read_image(tmp_path / name).max() == 0
