"""Images of the usual formats."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from binmat.data.image import read_image
from fuzz.mutations import NUMBERS, damage_bytes

_PNG = b"\x89PNG\r\n\x1a\n"


class Images:
    name = "images"
    mutations = 2000
    time_limit = 10.0

    def seeds(self) -> list[bytes]:
        colours = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
        picture = Image.fromarray(colours)
        grey16 = Image.fromarray(colours[..., 0].astype(np.uint16) << 8)
        made = []
        for image, format in (
            *((picture, format) for format in ("PNG", "JPEG", "BMP", "WEBP", "TIFF")),
            *((picture.convert("P"), format) for format in ("PNG", "TIFF")),
            (picture.convert("RGBA"), "PNG"),
            (grey16, "PNG"),
            (grey16, "TIFF"),
        ):
            stream = io.BytesIO()
            image.save(stream, format)
            made.append(stream.getvalue())
        return made

    def mutate(self, content: bytes, seeds: Sequence[bytes], chance: Random) -> bytes:
        if content.startswith(_PNG) and chance.random() < 0.5:
            return _with_another_chunk(content, chance)
        return damage_bytes(content, seeds, chance)

    def open(self, content: bytes, folder: Path) -> None:
        path = folder / "image.png"
        path.write_bytes(content)
        image = read_image(path)
        assert image.dim() == 4 and image.min() >= 0 and image.max() <= 1


def _with_another_chunk(content: bytes, chance: Random) -> bytes:
    """A PNG with one chunk damaged or doubled, and its check sum right again."""
    chunks, place = [], len(_PNG)
    while place < len(content):
        (length,) = struct.unpack_from(">I", content, place)
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + length]))
        place += 12 + length
    index = chance.randrange(len(chunks))
    kind, data = chunks[index]
    if kind == b"IHDR" and chance.random() < 0.7:
        field = chance.choice((0, 4))
        data = data[:field] + struct.pack(">I", chance.choice(NUMBERS) % 2**32) + data[field + 4 :]
    else:
        data = damage_bytes(data or b"x", [content], chance)
    kind = chance.choice((kind, kind, kind, b"zTXt", b"iCCP", b"eXIf", b"tRNS", b"PLTE"))
    chunks[index] = kind, data
    if chance.random() < 0.1:
        chunks.insert(chance.randrange(len(chunks)), chunks[index])
    return _PNG + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
