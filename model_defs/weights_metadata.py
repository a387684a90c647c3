"""The metadata of binmat's ``model.safetensors``: which network the weights belong to. Read without torch."""

from __future__ import annotations

import json
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from binmat.errors import CheckpointError, first_line

#: Key of the safetensors metadata that everything is under, as JSON.
METADATA_KEY = "binmat"
#: The version of the metadata that this binmat writes. Files from before it was written count as version 0. All
#: versions have the same keys; ``progress`` and ``factory`` may be missing in version 0. Up to version 1, scheme xnor
#: centred its weights per output channel.
VERSION = 2
#: safetensors refuses longer ones.
_LONGEST_HEADER = 100_000_000
#: Of a frame: 8192x8192. What a network computes at that size takes some hundred gigabytes already.
_MOST_PIXELS = 2**26


def _fits(size: tuple[int, int]) -> tuple[int, int]:
    if size[0] * size[1] > _MOST_PIXELS:
        raise ValueError(f"{size[0]}x{size[1]} is more than {_MOST_PIXELS:,} pixels")
    return size


_Pixels = Annotated[int, Field(ge=1)]
_Size = Annotated[tuple[_Pixels, _Pixels], AfterValidator(_fits)]
_Share = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class WeightsMetadata:
    """Enough to rebuild the network that the weights belong to. This class is the schema that files are checked by.

    network: the registry's name; with a factory, the network's own. config: its constructor arguments. recipe: how it
    was converted, as TOML; None for a float network. The rest of a conversion's record follows from these.
    size: (height, width) that it was converted for, downsample_ratio likewise; None where unknown.
    progress: binary layer -> how far its training is, in (0, 1] (:func:`binmat.nn.set_progress`); layers at 0, and
    files that say nothing of it, are left out.
    factory: ``module:function`` that builds a network which the registry does not; None for the others.
    version: of the metadata in the file.

    Raises pydantic's ValidationError, a ValueError, where a value does not fit.

    >>> about = WeightsMetadata("modnet", {}, None, (512, 512), 1.0)
    >>> about.to_header()
    {'binmat': '{"network": "modnet", "config": {}, "recipe": null, ..., "factory": null, "version": 2}'}
    """

    network: Annotated[str, Field(min_length=1, max_length=1000)]
    config: dict[str, bool | int | float | str | None]
    recipe: str | None
    size: _Size | None
    downsample_ratio: Annotated[float, Field(gt=0)] | None
    progress: dict[str, _Share] = field(default_factory=dict)
    factory: Annotated[str, Field(max_length=1000)] | None = None
    version: int = VERSION

    def to_header(self) -> dict[str, str]:
        """What safetensors takes as metadata."""
        return {METADATA_KEY: json.dumps(asdict(self))}


_SCHEMA = TypeAdapter(WeightsMetadata)


def read_weights_metadata(path: str | Path) -> WeightsMetadata | None:
    """The metadata of a file that binmat saved; None for any other file.

    Raises CheckpointError for metadata that a newer binmat wrote, and for what :class:`WeightsMetadata` does not allow.
    """
    try:
        if not Path(path).is_file():
            return None
        # safetensors' own reader imports numpy or torch. The file begins with the header's length (8 bytes,
        # little-endian) and the header as JSON.
        with Path(path).open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= _LONGEST_HEADER else {}
        text: str = header["__metadata__"][METADATA_KEY]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return _parsed(text, path)


def _parsed(text: str, path: str | Path) -> WeightsMetadata:
    try:
        about = json.loads(text)
        version = about.pop("version", 0)
        if type(version) is int and version > VERSION:
            raise CheckpointError(
                f"{path} was saved by a newer binmat (format {version}, this one reads up to {VERSION}): "
                "pip install --upgrade binmat"
            )
        if type(version) is not int or version < 0:
            raise ValueError("version: it is no whole number from 0 on")
        return _SCHEMA.validate_json(json.dumps({**about, "version": version}))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        fault = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        fault = first_line(error)
    raise CheckpointError(f"{path} has wrong metadata ({fault[:200]}): convert the float checkpoint again")
