"""Images as tensors: the formats of FORMATS are read as RGB in [0, 1], 8-bit files are written atomically."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFile, ImageOps
from torch import Tensor
from torch.nn import functional as F

from binmat.atomic_write import atomic_write
from binmat.errors import InputError, first_line

from .regular_file import check_regular_file

#: What Pillow may open, whatever the suffix says: for others, such as EPS, it starts other programs.
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
#: Pixels of the largest picture that is read: Pillow's own limit. Its values as float32 take 2 GiB.
LARGEST = 178_956_970
#: Suffixes of the files that count as frames of a folder.
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


def read_image(path: str | Path) -> Tensor:
    """An image file as [1, 3, H, W] float32 in [0, 1].

    Grey becomes three equal channels. 16 bits keep their precision. Transparency is dropped, and the colours stay as
    stored. EXIF orientation is applied. Of several pages or frames the first is read. Raises InputError, also for more
    than LARGEST pixels and for values that are no brightness: floats outside [0, 1], integers outside 0 to 65535.
    """
    return _read(Path(path), to_rgb, lambda deep: _channels_first(deep[..., :3] / np.float32(65535)))


def read_values(path: str | Path) -> Tensor:
    """The pixels as stored, for trimaps and labels; see :func:`to_values`. Raises InputError."""
    return _read(Path(path), to_values, lambda deep: torch.from_numpy(deep.astype(np.int32)))


def note_on_pages(path: str | Path) -> str | None:
    """What the user should know of an image file with several pages or frames. Raises InputError."""
    with _opened(Path(path)) as image:
        # The further pictures in a JPEG are previews.
        several = image.format != "MPO" and getattr(image, "is_animated", False)
    return f"{path} has several pages or frames: only the first was read; for all, name a folder" if several else None


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
    return _channels_first(np.asarray(image.convert("RGB"), np.float32) / 255)


def _channels_first(values: npt.NDArray[Any]) -> Tensor:
    """[H, W, C] as [1, C, H, W]."""
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


def _read(path: Path, plain: Callable[[Image.Image], Tensor], deep: Callable[[npt.NDArray[Any]], Tensor]) -> Tensor:
    """What one of two functions makes of an image file. deep: of 16-bit colours, [H, W, 3 or 4] uint16."""
    with _opened(path) as image:
        layouts = {_layout(tile) for tile in image.tile}
        image.load()
        upright = ImageOps.exif_transpose(image)
        lower = _LOWER_BYTES.get(layouts.pop()) if len(layouts) == 1 else None
        if lower is None:
            return plain(upright)
        # Pillow keeps the upper byte of two. In the other byte order, that is the lower one.
        with Image.open(path, formats=FORMATS) as again:
            again.tile = [tile._replace(args=_with_layout(tile, lower)) for tile in again.tile]
            again.load()
            low = np.asarray(ImageOps.exif_transpose(again))
        if lower == "RGBA":  # Grey and opacity, two bytes each.
            low = low[..., [1, 1, 1, 3]]
        return deep(np.asarray(upright).astype(np.uint16) << 8 | low)


_OTHER_ENDIAN = "B" if sys.byteorder == "little" else "L"
#: How 16-bit colours lie in a file -> what to tell Pillow to get the lower bytes.
_LOWER_BYTES = {"LA;16B": "RGBA"} | {
    f"{colours};16{order}": f"{colours};16{other}"
    for colours in ("RGB", "RGBA")
    for order, other in (("B", "L"), ("L", "B"), ("N", _OTHER_ENDIAN))
}


def _layout(tile: Any) -> str:
    """How the bytes of a part of an image lie in its file, as Pillow calls it."""
    return tile.args if isinstance(tile.args, str) else str(tile.args and tile.args[0])


def _with_layout(tile: Any, layout: str) -> Any:
    return layout if isinstance(tile.args, str) else (layout, *tile.args[1:])


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """An image whose pixels are not read yet. What Pillow raises in the block becomes an InputError of one line."""
    check_regular_file(path, "image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of damaged metadata, and of sizes that are checked here.
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > LARGEST:
                    raise InputError(f"more than {LARGEST:,} pixels: {image.height}x{image.width}")
                yield image
    # Pillow's readers raise whatever comes up in damaged data: SyntaxError, struct.error, IndexError, zlib.error, ...
    except Exception as error:
        raise InputError(f"{path} cannot be read as an image: {first_line(error)}") from error
