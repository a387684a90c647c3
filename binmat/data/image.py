"""Images as tensors: any common format is read as RGB in [0, 1], 8-bit files are written atomically."""

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

#: Suffixes of the files that count as frames of a folder.
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


def read_image(path: str | Path) -> Tensor:
    """An image file as [1, 3, H, W] float32 in [0, 1].

    Grey becomes three equal channels. 16-bit grey keeps its precision; 16-bit colour is read as 8 bits. Transparency is
    dropped, and the colours stay as stored. EXIF orientation is applied. Raises InputError, also for values that are no
    brightness: floats outside [0, 1], integers outside 0 to 65535.
    """
    return to_rgb(_open(path))


def read_values(path: str | Path) -> Tensor:
    """The pixels as stored, for trimaps and labels; see :func:`to_values`. Raises InputError."""
    return to_values(_open(path))


def to_values(image: Image.Image) -> Tensor:
    """The stored values of a Pillow image: [H, W] or [H, W, channels], uint8, int32 (more than 8 bits) or float32.

    1-bit images become 0 and 255. Palette indices become the colours that they stand for.
    """
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    elif image.mode not in ("L", "LA", "RGB", "RGBA", "F") and not image.mode.startswith("I"):
        image = image.convert("RGB" if image.mode != "1" else "L")
    values = np.asarray(image)
    return torch.from_numpy(values.astype(values.dtype if values.dtype in (np.uint8, np.float32) else np.int32))


def to_rgb(image: Image.Image) -> Tensor:
    """A Pillow image as [1, 3, H, W] float32 in [0, 1]. Raises InputError for values that are no brightness."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, np.float32)
        largest = 1 if image.mode == "F" else 65535
        if not (values.min() >= 0 and values.max() <= largest):
            raise InputError(
                f"the image's values go from {values.min():g} to {values.max():g} and are read as 0 to {largest}: "
                "save it as 8-bit RGB"
            )
        return torch.from_numpy(values / np.float32(largest)).expand(1, 3, -1, -1).contiguous()
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns where transparency is dropped in one step.
    values = np.asarray(image.convert("RGB"), np.float32) / 255
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))[None]


def to_bytes(picture: Tensor) -> Tensor:
    """[C, H, W] in [0, 1] as 8 bits: [H, W, C] uint8 on the CPU, rounded half up."""
    return (picture.detach().clamp(0, 1) * 255 + 0.5).to("cpu", torch.uint8).permute(1, 2, 0)


def write_image(image: Tensor, path: str | Path) -> None:
    """Write [1, C, H, W] in [0, 1] with C = 1, 3 or 4 as 8 bits, rounded half up, atomically.

    The suffix names the format. Raises InputError.
    """
    path = Path(path)
    pixels = to_bytes(image[0]).numpy()
    try:
        with atomic_write(path) as temporary:
            Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(temporary)
    except (OSError, ValueError) as error:
        raise InputError(f"image {path} cannot be written: {error}") from error


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Resize a picture [N, C, H, W] in [0, 1], bilinearly and without aliasing."""
    return F.interpolate(image, (height, width), mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)


def cover(picture: Tensor, height: int, width: int, align: Literal["top", "middle"] = "middle") -> Tensor:
    """Resize a picture [N, C, H, W] in [0, 1] to cover another size, then crop it to that size.

    align: which rows are kept where it is too high. Where it is too wide, the middle columns are kept.

    >>> cover(torch.rand(1, 3, 30, 40), 20, 20).shape
    torch.Size([1, 3, 20, 20])
    """
    scale = max(height / picture.shape[2], width / picture.shape[3])
    size = [max(height, round(picture.shape[2] * scale)), max(width, round(picture.shape[3] * scale))]
    top, left = 0 if align == "top" else (size[0] - height) // 2, (size[1] - width) // 2
    return resize(picture, *size)[:, :, top : top + height, left : left + width]


def photograph(height: int, width: int) -> Tensor:
    """The photograph that comes with binmat, [1, 3, height, width] in [0, 1], resized and cropped to the size."""
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
