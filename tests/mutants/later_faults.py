"""Faults that come after the export: in the file on disk, and in the weights beside it."""

from __future__ import annotations

from collections.abc import Callable

from mutants.fault import Fault
from mutants.file_layout import FileLayout
from torch import Tensor

#: For each fault of a file: where it strikes.
_Place = Callable[[FileLayout], int]


def _turned(place: _Place, bit: int = 0) -> Callable[[bytearray], None]:
    """One bit turned."""

    def change(content: bytearray) -> None:
        content[place(FileLayout(bytes(content)))] ^= 1 << bit

    return change


def _cut(count: int) -> Callable[[bytearray], None]:
    def change(content: bytearray) -> None:
        del content[len(content) - count :]

    return change


def _swapped(first: Callable[[FileLayout], range], second: Callable[[FileLayout], range]) -> Callable[..., None]:
    """Two parts of equal length swapped."""

    def change(content: bytearray) -> None:
        layout = FileLayout(bytes(content))
        one, other = first(layout), second(layout)
        content[one.start : one.stop], content[other.start : other.stop] = (
            content[other.start : other.stop],
            content[one.start : one.stop],
        )

    return change


def _metadata_word(content: bytearray) -> None:
    place = FileLayout(bytes(content)).metadata()
    content[place.start : place.stop] = content[place.start : place.stop].replace(b"NHWC", b"NCHW")


def _files(subject: str, changes: dict[str, Callable[[bytearray], None]]) -> list[Fault]:
    return [Fault(f"file: {name}", "file", subject, change) for name, change in changes.items()]


FILE = [
    *_files(
        "video",
        {
            "lowest bit of a weight": _turned(lambda f: f.constant("CONV_2D", 1).start),
            "sign of a weight": _turned(lambda f: f.constant("CONV_2D", 1).start + 3, 7),
            "lowest bit of a bias": _turned(lambda f: f.constant("CONV_2D", 2).start),
            "lowest bit of a threshold": _turned(lambda f: f.constant("ADD", 1).start),
            "one packed weight": _turned(lambda f: f.constant("LceBconv2d", 1).start),
            "lowest bit of a multiplier": _turned(lambda f: f.constant("LceBconv2d", 2).start),
            "lowest bit of a slope": _turned(lambda f: f.constant("PRELU", 1).start),
            "fused activation": _turned(lambda f: f.option("CONV_2D", "activation")),
            "half_pixel_centers": _turned(lambda f: f.option("RESIZE_BILINEAR", "half_pixel_centers")),
            "options of LceBconv2d": _turned(lambda f: f.custom_options("LceBconv2d").stop - 4),
            "name of an output": _turned(lambda f: f.signature_name("outputs", 0).start, 1),
            "names of two states": _swapped(
                lambda f: f.signature_name("inputs", 1), lambda f: f.signature_name("inputs", 2)
            ),
            "tensor of an input": _turned(lambda f: f.signature_tensor("inputs", 2)),
            "layout in the metadata": _metadata_word,
            "description": _turned(lambda f: f.content.index(b"binmat")),
            "last byte cut off": _cut(1),
            "last 200 bytes cut off": _cut(200),
            "half of it cut off": lambda content: content.__delitem__(slice(len(content) // 2, None)),
            "one byte more": lambda content: content.append(0),
        },
    ),
    *_files(
        "bits",
        {
            "lowest bit of a threshold of bit outputs": _turned(lambda f: f.constant("LceBconv2d", 4).start),
            "one packed depthwise weight": _turned(lambda f: f.constant("LceDequantize", 0).start),
        },
    ),
    *_files("tokens", {"beta of softmax": _turned(lambda f: f.option("SOFTMAX", "beta"))}),
]


def _moved(name: str) -> Callable[[dict[str, Tensor]], None]:
    """One number moved by a thousandth of the range of its tensor."""

    def change(state: dict[str, Tensor]) -> None:
        values = state[name].reshape(-1)
        values[0] += 1e-3 * values.abs().max()

    return change


WEIGHTS = [
    Fault(f"weights: one {what} changed after the export", "weights", "video", _moved(name))
    for what, name in {
        "weight of a convolution": "stem.weight",
        "weight of a binary layer": "body.weight",
        "bias": "alpha.bias",
        "threshold": "keep.threshold",
        "running variance": "norm.running_var",
        "running mean": "body_norm.running_mean",
        "slope of an activation": "body_norm.weight",
    }.items()
]
