"""The metadata of binmat's ``model.safetensors``: which network the weights belong to. Read without torch."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from binmat.errors import CheckpointError

#: Key of the safetensors metadata that everything is under, as JSON.
METADATA_KEY = "binmat"
#: safetensors refuses longer ones.
_LONGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class WeightsMetadata:
    """Enough to rebuild the network that the weights belong to.

    network: the registry's name; with a factory, the network's own. config: its constructor arguments. recipe: how it
    was converted, as TOML; None for a float network. The rest of a conversion's record follows from these.
    size: (height, width) that it was converted for, downsample_ratio likewise; None where unknown.
    progress: binary layer -> how far its training is, in (0, 1] (:func:`binmat.nn.set_progress`); layers at 0, and
    files that say nothing of it, are left out.
    factory: ``module:function`` that builds a network which the registry does not; None for the others.

    >>> about = WeightsMetadata("modnet", {}, None, (512, 512), 1.0)
    >>> about.to_header()
    {'binmat': '{"network": "modnet", "config": {}, "recipe": null, "size": [512, 512], ..., "factory": null}'}
    """

    network: str
    config: dict[str, Any]
    recipe: str | None
    size: tuple[int, int] | None
    downsample_ratio: float | None
    progress: dict[str, float] = field(default_factory=dict)
    factory: str | None = None

    def to_header(self) -> dict[str, str]:
        """What safetensors takes as metadata."""
        return {METADATA_KEY: json.dumps(asdict(self))}


def read_weights_metadata(path: str | Path) -> WeightsMetadata | None:
    """The metadata of a file that binmat saved; None for any other file.

    Raises CheckpointError where a field is missing, as in a file of another version of binmat.
    """
    try:
        # safetensors' own reader imports numpy or torch. The file begins with the header's length (8 bytes,
        # little-endian) and the header as JSON.
        with Path(path).open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= _LONGEST_HEADER else {}
        about: dict[str, Any] = json.loads(header["__metadata__"][METADATA_KEY])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    optional = {field.name for field in fields(WeightsMetadata) if {field.default, field.default_factory} != {MISSING}}
    required = [field.name for field in fields(WeightsMetadata) if field.name not in optional]
    missing = [name for name in required if name not in about]
    if missing:
        raise CheckpointError(
            f"{path} was saved by another version of binmat, its metadata has no {', '.join(missing)}: "
            "convert the float checkpoint again"
        )
    size = None if about["size"] is None else (about["size"][0], about["size"][1])
    return WeightsMetadata(
        about["network"],
        about["config"],
        about["recipe"],
        size,
        about["downsample_ratio"],
        about.get("progress", {}),
        about.get("factory"),
    )
