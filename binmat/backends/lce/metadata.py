"""What a model file says about itself, with a checksum by which a change to the file shows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch

from binmat.backends.lce.tflite.reader import read_model
from binmat.errors import VerificationError

#: The name of the metadata's entry.
METADATA = "binmat"
_NO_CHECKSUM = "0" * 64


def new_metadata(inputs: Sequence[str], outputs: Sequence[str]) -> dict[str, bytes]:
    """The entry of a new file: layout, names, what wrote it, and room for the checksum."""
    about = {
        "layout": "NHWC",
        "inputs": list(inputs),
        "outputs": list(outputs),
        "written_by": written_by(),
        "sha256": _NO_CHECKSUM,
    }
    return {METADATA: json.dumps(about).encode()}


def written_by() -> str:
    """Versions, and the processor's instructions: where they are equal, so are the bytes of an export."""
    capability = torch.backends.cpu.get_cpu_capability()
    return f"binmat {version('binmat')}, torch {torch.__version__}, {capability}"


def with_checksum(content: bytes) -> bytes:
    """The content of a new file with its checksum in it."""
    return content.replace(_NO_CHECKSUM.encode(), hashlib.sha256(content).hexdigest().encode(), 1)


def read_metadata(content: bytes) -> dict[str, Any]:
    """A file's entry. Raises ExportError for a damaged file, VerificationError where binmat did not write it."""
    try:
        about = json.loads(read_model(content).metadata[METADATA])
        checksum = about["sha256"]
    except (KeyError, ValueError, TypeError) as error:
        raise VerificationError(
            "the file does not say which binmat wrote it, or an early version did: export it again"
        ) from error
    if not isinstance(checksum, str):
        raise VerificationError("the file's checksum is damaged: export it again")
    return dict(about)


def checksum_fits(content: bytes) -> bool:
    """Whether the content is what was written. Raises as :func:`read_metadata`."""
    checksum = read_metadata(content)["sha256"]
    return with_checksum(content.replace(checksum.encode(), _NO_CHECKSUM.encode(), 1)) == content
