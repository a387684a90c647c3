"""A MODEL argument: a float checkpoint or a converted folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from binmat.cli.folder import Converted, is_converted, read_converted

if TYPE_CHECKING:
    from binmat.model_defs.network import Network


class Model(NamedTuple):
    """A network and, where it lies in a converted folder, what it was converted for."""

    network: Network
    folder: Converted | None

    def call(self, size: tuple[int, int] | None, ratio: float | None) -> tuple[tuple[int, int] | None, float]:
        """Size and downsample ratio as asked, else what the folder was converted for, else None and 1."""
        if self.folder is not None:
            size = size or self.folder.size
            ratio = self.folder.downsample_ratio if ratio is None else ratio
        return size, 1.0 if ratio is None else ratio


def open_model(path: Path) -> Model:
    """Read a checkpoint or a converted folder. Raises CheckpointError."""
    from binmat.transforms.checkpoint import load

    folder = read_converted(path) if is_converted(path) else None
    return Model(load(path), folder)
