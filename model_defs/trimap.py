"""Trimaps: background, unknown and foreground read from files, and the inputs that networks make of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from binmat.errors import InputError, MissingExtraError

BACKGROUND, UNKNOWN, FOREGROUND = 0, 1, 2

#: Standard deviation of the transform map's Gaussian, in pixels (LiteMatting, official implementation).
TRANSFORM_SIGMA = 16.0

#: From this distance on, in pixels, float32 rounds exp(-d^2 / (2 * 16^2)) to zero.
_TRANSFORM_REACH = 231

#: Rows of the transform map that are computed at once.
_STRIP = 1024


@dataclass(frozen=True)
class Trimap:
    """What is known of each pixel.

    regions: uint8 [H, W] of BACKGROUND, UNKNOWN and FOREGROUND.
    notes: how unusual values were read, for the user; empty for a trimap of 0, 128 and 255.

    >>> Trimap(np.array([[BACKGROUND, UNKNOWN, FOREGROUND]], np.uint8)).alpha()
    tensor([[0.0000, 0.5000, 1.0000]])
    """

    regions: npt.NDArray[np.uint8]
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.regions.shape[0], self.regions.shape[1]

    @property
    def unknown(self) -> npt.NDArray[np.bool_]:
        """[H, W], true where alpha is asked for."""
        return self.regions == UNKNOWN

    @property
    def all_known(self) -> bool:
        """True where the trimap is the answer: no pixel is unknown."""
        return not self.unknown.any()

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the user of a matte should know: the notes and, where it is so, that there was nothing to estimate."""
        answered = "the trimap has no unknown pixel, so it is the matte itself: the network did not run"
        return (*self.notes, answered) if self.all_known else self.notes

    def alpha(self) -> Tensor:
        """float32 [H, W]: 0 in the background, 1 in the foreground, 0.5 where unknown."""
        return torch.from_numpy(self.regions).float() / 2

    def settle(self, alpha: Tensor) -> Tensor:
        """The matte [H, W] clamped to [0, 1], with 0 and 1 where the trimap says background and foreground."""
        known = self.alpha().to(alpha)
        return torch.where(torch.from_numpy(self.unknown).to(alpha.device), alpha.clamp(0, 1), known)


def read_trimap(values: npt.ArrayLike | Tensor | None, height: int, width: int) -> Trimap:
    """Read the trimap of an image of height x width pixels.

    values: [H, W], [H, W, 1] or a grey image stored as [H, W, 2..4] (an alpha channel is left out); a tensor may have
        leading dimensions of size 1 instead. Integers of 8 bits (0, 128, 255), of 16 bits (0, 32768, 65535; 8-bit
        values in a wider type are noticed) or the labels 0, 1, 2; floats 0, 0.5, 1 or of 8-bit range; booleans are
        background and foreground.

    Every value is read as the nearest of background, unknown and foreground: up to a quarter of the range is
    background, from three quarters on it is foreground. Values that are not within one 8-bit step of the three are
    counted in a note. Raises InputError where the trimap is missing, of another size, coloured, negative or not finite,
    or has only the integers 0 and 1, which does not say whether 1 is unknown or foreground.
    """
    if values is None:
        raise InputError("the trimap is missing: give an image with background 0, unknown 128 and foreground 255")
    notes: list[str] = []
    array = _one_channel(values, notes)
    if array.shape != (height, width):
        raise InputError(
            f"the trimap has {array.shape[0]}x{array.shape[1]} pixels and the image {height}x{width}: "
            "make the trimap of this image, or resize it without interpolation"
        )
    return Trimap(_nearest_region(_unit_range(array, notes), notes), tuple(notes))


def portrait_trimap(height: int, width: int) -> Trimap:
    """A trimap as a person in the middle would have: an ellipse of foreground, a band of unknown, background."""
    rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None] / np.float32(0.75)
    columns = np.linspace(-1, 1, width, dtype=np.float32) / np.float32(0.4)
    radius = np.sqrt(rows**2 + columns**2)
    return Trimap(np.add(radius < 1.1, radius < 0.9, dtype=np.uint8))


def one_hot(regions: npt.NDArray[np.uint8]) -> Tensor:
    """float32 [3, H, W]: background, unknown, foreground, of regions [H, W]."""
    classes = np.arange(3, dtype=np.uint8)[:, None, None]
    return torch.from_numpy(regions == classes).float()


def transform_map(regions: npt.NDArray[np.uint8]) -> Tensor:
    """How near the known regions are: exp(-d^2 / (2 * 16^2)), float32 [2, H, W] in [0, 1].

    Channel 0: d is the Euclidean distance in pixels to the nearest background pixel; channel 1: to the nearest
    foreground pixel. A region without pixels gives zeros. LiteMatting (ACCV 2022, section 3.1, after Le et al.,
    ECCV 2018), with the official implementation's width. Raises MissingExtraError without scipy.

    Computed in strips of rows: distances beyond 231 pixels give 0 in float32, so a strip needs only that many rows
    above and below it, and a large image needs no distances in float64 all at once.
    """
    try:
        from scipy.ndimage import distance_transform_edt
    except ImportError as error:
        raise MissingExtraError("the transform map of LiteMatting's trimap", "trimap", "scipy") from error
    height, width = regions.shape
    maps = np.zeros((2, height, width), np.float32)
    for top in range(0, height, _STRIP):
        bottom = min(top + _STRIP, height)
        first = max(top - _TRANSFORM_REACH, 0)
        strip = regions[first : bottom + _TRANSFORM_REACH]
        for channel, region in enumerate((BACKGROUND, FOREGROUND)):
            elsewhere = strip != region
            if elsewhere.all():
                continue
            distance = distance_transform_edt(elsewhere)[top - first : bottom - first]
            maps[channel, top:bottom] = np.exp(distance * distance / (-2 * TRANSFORM_SIGMA**2))
    return torch.from_numpy(maps)


def _one_channel(values: npt.ArrayLike | Tensor, notes: list[str]) -> npt.NDArray[Any]:
    """The trimap as [H, W]."""
    if isinstance(values, Tensor):
        array = values.detach().cpu().numpy()
        while array.ndim > 2 and array.shape[0] == 1:
            array = array[0]
    else:
        array = np.asarray(values)
    if array.ndim == 3 and array.shape[2] in (2, 4):
        notes.append("the trimap's alpha channel was left out")
        array = array[..., :-1]
    if array.ndim == 3 and array.shape[2] == 3:
        if (array.max(2) != array.min(2)).any():
            raise InputError(
                "the trimap is a colour image: save it in grey, with background 0, unknown 128, foreground 255"
            )
        array = array[..., :1]
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim != 2:
        raise InputError(f"the trimap has the shape {list(array.shape)}: give one value per pixel, [height, width]")
    if array.size == 0:
        raise InputError("the trimap has no pixels: give one value per pixel of the image")
    return array


def _unit_range(array: npt.NDArray[Any], notes: list[str]) -> npt.NDArray[np.float32]:
    """The values as float32, 0 for background to 1 for foreground."""
    if array.dtype == np.bool_:
        return array.astype(np.float32)
    if not np.issubdtype(array.dtype, np.integer) and not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"the trimap's values are of type {array.dtype}: give integers from 0 to 255")
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0:
        raise InputError("the trimap has negative or non-finite values: give background 0, unknown 128, foreground 255")
    if np.issubdtype(array.dtype, np.floating):
        scale = 1 if high <= 1 else 255
        if scale == 255:
            notes.append("the trimap's values go beyond 1 and were read as 0 to 255")
    elif high == 1:
        raise InputError(
            "the trimap has no values but 0 and 1, which may mean unknown or foreground: "
            "give background 0, unknown 128, foreground 255"
        )
    elif high == 2:
        notes.append("the trimap's values 0, 1, 2 were read as background, unknown, foreground")
        scale = 2
    elif high <= 255:
        if array.dtype.itemsize > 1:
            notes.append(f"the trimap's {array.dtype} values stay below 256 and were read as 0 to 255")
        scale = 255
    else:
        scale = 65535
    if high > scale:
        raise InputError(f"the trimap has the value {high}: give background 0, unknown 128, foreground 255")
    return array.astype(np.float32) / np.float32(scale)


def _nearest_region(values: npt.NDArray[np.float32], notes: list[str]) -> npt.NDArray[np.uint8]:
    regions = np.add(values > 0.25, values >= 0.75, dtype=np.uint8)
    away = np.abs(values - regions * np.float32(0.5)) * 255
    snapped = int(np.count_nonzero(away > 1))
    if snapped:
        notes.append(
            f"{snapped} of the trimap's {values.size} pixels are not 0, 128 or 255 and were read as the nearest of "
            f"them, up to {away.max():.0f} away: 63 and below is background, 192 and above is foreground"
        )
    return regions
