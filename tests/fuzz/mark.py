"""What a hostile file tries to run: it leaves a file behind."""

from __future__ import annotations

from pathlib import Path

#: In the working folder.
MARK = Path("mark")


def leave() -> None:
    MARK.touch()


class Leaves:
    def __init__(self) -> None:
        leave()
