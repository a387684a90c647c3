"""Ways to damage a file: its bytes, the values of a JSON or TOML document, the operations of a pickle."""

from __future__ import annotations

import json
import pickletools
import struct
from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random
from typing import Any

#: What numbers of a file are replaced by.
NUMBERS = (0, 1, -1, 2, 127, 128, 255, 256, 2**15, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63, -(2**31))
#: What values of a document are replaced by.
VALUES: tuple[Any, ...] = (
    *NUMBERS,
    None,
    True,
    False,
    0.5,
    -0.0,
    1e400,
    float("nan"),
    1e-320,
    10**400,
    "",
    "a\nb\x1b[31m",
    "\ud800",
    "x" * 100_000,
    "../../etc/passwd",
    "os:system",
    [],
    {},
    [[]],
    {"": {}},
    ["x"] * 1000,
)

#: Calls that would leave a trace: a file named mark in the working folder.
CALLS = (
    b"cos\nsystem\nX\x0a\x00\x00\x00touch mark\x85R",
    b"cposix\nmkdir\nX\x04\x00\x00\x00mark\x85R",
    b"cbuiltins\nexec\nX\x19\x00\x00\x00open('mark', 'w').close() \x85R",
    b"cbuiltins\neval\nX\x11\x00\x00\x00open('mark', 'w')\x85R",
    b"cfuzz.mark\nleave\n)R",
    b"(cfuzz.mark\nleave\no",
    b"(ifuzz.mark\nleave\n",
    b"cfuzz.mark\nLeaves\n)\x81",
    b"\x8c\x09fuzz.mark\x8c\x05leave\x93)R",
    b"c__builtin__\ngetattr\ncfuzz.mark\nleave\nX\x08\x00\x00\x00__call__\x86R)R",
)
#: Operations that take memory or time.
BOMBS = (
    b"c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R",
    b")" + 60 * b"2\x86" + b"}" + b"q\xff",
    b"]q\xf0h\xf0a",
    b"}q\xf1X\x05\x00\x00\x00modelh\xf1s",
    b"(" * 20_000,
    b"]" * 20_000 + b"a" * 20_000,
    b"r\xff\xff\xff\x7f",
    b"\x8a\xff" + b"\xff" * 255,
    b"\x8b\xff\xff\xff\x7f",
    b"X\xff\xff\xff\xff",
    b"\x8d" + b"\xff" * 8,
    b"\x8e" + b"\xff" * 7 + b"\x7f",
    b"I" + b"9" * 10_000 + b"\n",
    b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00idna\x86R",
)


def damage_bytes(content: bytes, seeds: Sequence[bytes], chance: Random) -> bytes:
    """Bits flipped, bytes inserted, removed, overwritten or spliced in from another seed, or the end cut off."""
    made = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        start = chance.randrange(len(made) + 1)
        # Headers decide more than the middle of the pixels or weights.
        start = min(start, chance.choice((len(made), len(made), 64, 1024)))
        length = min(chance.choice((1, 2, 4, 8, 64, 1024)), len(made) - start)
        match chance.randrange(8):
            case 0 | 1:
                for _ in range(chance.choice((1, 1, 8)) if start < len(made) else 0):
                    made[chance.randrange(start, len(made))] ^= 1 << chance.randrange(8)
            case 2:
                del made[start:]
            case 3:
                made[start:start] = chance.randbytes(chance.choice((1, 2, 4, 64)))
            case 4:
                del made[start : start + length]
            case 5:
                made[start : start + length] = made[start : start + length] * 2
            case 6:
                other = chance.choice(seeds)
                there = chance.randrange(len(other))
                made[start : start + length] = other[there : there + max(length, 1)]
            case 7:
                number = chance.choice(NUMBERS) % 2**64
                width = chance.choice((1, 2, 4, 8))
                order = chance.choice(("little", "big"))
                made[start : start + width] = (number % 2 ** (8 * width)).to_bytes(width, order)  # type: ignore[arg-type]
    return bytes(made)


def damage_words(content: bytes, chance: Random) -> bytes:
    """Some aligned 32-bit numbers become others: offsets, lengths and indices of a flatbuffer."""
    made = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8))):
        place = 4 * chance.randrange(len(made) // 4)
        (old,) = struct.unpack_from("<I", made, place)
        new = chance.choice((*NUMBERS, old + 1, old - 1, old + 4, old * 2, chance.randrange(len(made))))
        struct.pack_into("<I", made, place, new % 2**32)
    return bytes(made)


def damage_document(document: Any, chance: Random) -> Any:
    """A copy of nested dicts and lists with some values replaced, removed, added or moved."""
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        document = _damaged(document, chance)
    return document


def _damaged(value: Any, chance: Random) -> Any:
    if not isinstance(value, (dict, list)) or not value or chance.random() < 0.1:
        return chance.choice(VALUES)
    items: list[tuple[Any, Any]] = list(value.items() if isinstance(value, dict) else enumerate(value))
    place = chance.randrange(len(items))
    key, old = items[place]
    match chance.randrange(6):
        case 0:
            del items[place]
        case 1:
            items.append((chance.choice(("", "x", "version", "a\nb", "x" * 5000, str(key))), chance.choice(VALUES)))
        case 2:
            items[place] = key, chance.choice(items)[1]
        case _:
            items[place] = key, _damaged(old, chance)
    return dict(items) if isinstance(value, dict) else [item for _, item in items]


def as_json(document: Any, chance: Random) -> str:
    """As JSON; sometimes nested so deeply that a parser which calls itself gives up."""
    text = json.dumps(document)
    if chance.random() < 0.03:
        depth = chance.choice((500, 5000, 100_000))
        text = text.replace("{", '{"deep": ' + depth * "[" + depth * "]" + ", ", 1)
    return text


def damage_pickle(content: bytes, chance: Random) -> bytes:
    """Operations of a pickle removed, doubled, swapped or given other arguments; calls and bombs put between them."""
    try:
        starts = [place for _, _, place in pickletools.genops(content)] + [len(content)]
    except Exception:
        return damage_bytes(content, [content], chance)
    parts = [content[start:end] for start, end in pairwise(starts)]
    for _ in range(chance.choice((1, 1, 2, 4))):
        place = chance.randrange(1, len(parts))
        changes: list[Callable[[], Any]] = [
            lambda place=place: parts.pop(place) if len(parts) > 2 else None,
            lambda place=place: parts.insert(place, parts[place]),
            lambda place=place: parts.insert(place, chance.choice(parts)),
            lambda place=place: parts.insert(place, chance.choice(CALLS)),
            lambda place=place: parts.insert(place, chance.choice(BOMBS)),
            lambda place=place: parts.__setitem__(place, _with_another_argument(parts[place], chance)),
            lambda place=place: parts.__setitem__(place, _with_another_argument(parts[place], chance)),
        ]
        chance.choice(changes)()
    return b"".join(parts)


def _with_another_argument(operation: bytes, chance: Random) -> bytes:
    number = chance.choice(NUMBERS)
    if operation[:1] in b"KMJ":  # Whole numbers: sizes, strides, offsets, counts.
        if -(2**31) <= number < 2**31:
            return b"J" + struct.pack("<i", number)
        return b"\x8a\x09" + number.to_bytes(9, "little", signed=True)
    if operation[:1] == b"X" and chance.random() < 0.5:
        text = chance.choice((b"", b"0", b"storage", b"../data.pkl", b"x" * 10_000, b"\xed\xa0\x80"))
        return b"X" + struct.pack("<I", len(text)) + text
    if operation[:1] == b"c":
        names = (b"torch\nLongStorage", b"torch\nDoubleStorage", b"torch.storage\nUntypedStorage", b"torch\nuint8")
        functions = (b"torch._utils\n_rebuild_parameter", b"torch._tensor\n_rebuild_from_type_v2")
        return b"c" + chance.choice((*names, *functions, b"torch._utils\n_rebuild_qtensor")) + b"\n"
    made = bytearray(operation)
    made[chance.randrange(len(made))] = chance.randrange(256)
    return bytes(made)
