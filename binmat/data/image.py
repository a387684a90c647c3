"""Images as tensors: read any common format as RGB in [0, 1], write 8-bit files whole or not at all."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from binmat.atomic_write import atomic_write
from binmat.errors import InputError

#: Suffixes that a folder of frames is searched for.
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


def read_image(path: str | Path) -> Tensor:
    """[1, 3, H, W] float32 in [0, 1].

    Grey becomes three equal channels, 16-bit grey keeps its precision (16-bit colour is read as 8 bits), transparency
    is dropped (colours as stored), EXIF orientation is applied. Raises InputError, also for numbers that are no
    brightness: floats outside [0, 1], integers outside 0 to 65535.
    """
    return to_rgb(_open(path))


def read_values(path: str | Path) -> Tensor:
    """The pixels as stored, for trimaps and labels; see :func:`to_values`. Raises InputError."""
    return to_values(_open(path))


def to_values(image: Image.Image) -> Tensor:
    """A Pillow image's own numbers: [H, W] or [H, W, channels], uint8, int32 (more than 8 bits) or float32.

    1-bit images become 0 and 255, palettes the colours that they stand for.
    """
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    elif image.mode not in ("L", "LA", "RGB", "RGBA", "F") and not image.mode.startswith("I"):
        image = image.convert("RGB" if image.mode != "1" else "L")
    values = np.asarray(image)
    return torch.from_numpy(values.astype(values.dtype if values.dtype in (np.uint8, np.float32) else np.int32))


def to_rgb(image: Image.Image) -> Tensor:
    """A Pillow image as [1, 3, H, W] float32 in [0, 1]. Raises InputError for numbers that are no brightness."""
    pixels = _pixels(image)
    rgb = np.stack([pixels] * 3, -1) if pixels.ndim == 2 else pixels[..., :3]
    return torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1), np.float32))[None]


def to_bytes(picture: Tensor) -> Tensor:
    """[C, H, W] in [0, 1] as 8 bits, [H, W, C] uint8 on the CPU, rounded half up."""
    return (picture.detach().clamp(0, 1) * 255 + 0.5).to("cpu", torch.uint8).permute(1, 2, 0)


def write_image(image: Tensor, path: str | Path) -> None:
    """Write [1, 1 or 3 or 4, H, W] in [0, 1] as 8 bits, rounded half up; the suffix names the format.

    Written whole or not at all. Raises InputError.
    """
    path = Path(path)
    pixels = to_bytes(image[0]).numpy()
    try:
        with atomic_write(path) as temporary:
            Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(temporary)
    except (OSError, ValueError) as error:
        raise InputError(f"image {path} cannot be written: {error}") from error


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """A picture [N, C, H, W] in [0, 1] at another size, bilinearly and without aliasing."""
    return F.interpolate(image, (height, width), mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)


def cover(picture: Tensor, height: int, width: int, align: Literal["top", "middle"] = "middle") -> Tensor:
    """A picture [N, C, H, W] in [0, 1] resized to cover another size, then cropped to it.

    align: which rows are kept where it is too high. Of the columns the middle ones are.

    >>> cover(torch.rand(1, 3, 30, 40), 20, 20).shape
    torch.Size([1, 3, 20, 20])
    """
    scale = max(height / picture.shape[2], width / picture.shape[3])
    size = [max(height, round(picture.shape[2] * scale)), max(width, round(picture.shape[3] * scale))]
    top, left = 0 if align == "top" else (size[0] - height) // 2, (size[1] - width) // 2
    return resize(picture, *size)[:, :, top : top + height, left : left + width]


def photograph(height: int, width: int) -> Tensor:
    """The photograph that comes with binmat, [1, 3, height, width]: resized to cover the size, then cropped to it."""
    with resources.as_file(resources.files("binmat.data") / "pictures" / "astronaut.jpg") as path:
        picture = read_image(path)
    # The head is at the top.
    return cover(picture, height, width, align="top").contiguous()


def _open(path: str | Path) -> Image.Image:
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder: name an image in it")
    try:
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except FileNotFoundError as error:
        raise InputError(f"no such image: {path}") from error
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise InputError(f"{path} cannot be read as an image: {error}") from error


def _pixels(image: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """[H, W] or [H, W, channels] in [0, 1]."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, np.float32)
        largest = 1 if image.mode == "F" else 65535
        if not (values.min() >= 0 and values.max() <= largest):
            raise InputError(
                f"the image's values go from {values.min():g} to {values.max():g} and are read as 0 to {largest}: "
                "save it as 8-bit RGB"
            )
        return values / np.float32(largest)
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    values = np.asarray(image, np.float32) / 255
    return values[..., 0] if image.mode == "LA" else values
