"""The errors that binmat raises on purpose. Each message is one line: what is wrong, where, and the way out.

The command line prints the message and exits with status 1. Library users catch :class:`BinmatError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

#: Characters of a name that a message shows.
LONGEST_NAME = 120


def suggestion(name: str, known: Iterable[str], hint: str = "did you mean '{}'? ", cutoff: float = 0.4) -> str:
    """``hint`` with the known name that is most similar to ``name``; empty where none reaches the cutoff in [0, 1]."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return hint.format(near[0]) if near else ""


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class BinmatError(Exception):
    """Base of every error that binmat raises on purpose.

    message: control characters in it are escaped: names in files and of files may have any. An error pickles, so that
    it crosses processes.

    >>> str(BinmatError("no layer is called 'a\\nb'")) == r"no layer is called 'a\\nb'"
    True
    """

    def __init__(self, message: str = "") -> None:
        escaped = (letter if letter.isprintable() else ascii(letter)[1:-1] for letter in message)
        super().__init__("".join(escaped))

    def __reduce__(self) -> tuple[Any, ...]:
        # By default a class is called with the message again, which its __init__ may not take.
        return _unpickled, (type(self), self.args, vars(self))


def _unpickled(kind: type[BinmatError], args: tuple[Any, ...], attributes: dict[str, Any]) -> BinmatError:
    error = kind.__new__(kind, *args)
    vars(error).update(attributes)
    return error


class CheckpointError(BinmatError):
    """A checkpoint file that cannot be read, recognised or loaded."""


class UnknownNameError(BinmatError):
    """A scheme, network, option, recipe or format that does not exist."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known, name = sorted(known), str(name)[:LONGEST_NAME]
        others = f"known: {', '.join(known)}" if known else "there is none"
        super().__init__(f"no {kind} is called '{name}': {suggestion(name.lower(), known)}{others}")


class PolicyError(BinmatError):
    """A policy rule that matches nothing or asks for what a layer cannot do."""


class RecipeError(BinmatError):
    """A recipe file or a --set option that is not valid."""


class SizeError(BinmatError):
    """An input size that the network cannot take."""


class TraceError(BinmatError):
    """A module that torch.fx cannot trace."""


class LoweringError(BinmatError):
    """A network that cannot be turned into a lowered graph."""


class ExportError(BinmatError):
    """A lowered graph that a backend cannot express exactly."""


class VerificationError(BinmatError):
    """An exported model that does not compute what the PyTorch network computes."""


class InputError(BinmatError):
    """An image, clip or folder that cannot be read or written."""


class MissingExtraError(BinmatError):
    """A feature whose optional dependency is not installed."""

    def __init__(self, feature: str, extra: str, package: str) -> None:
        super().__init__(f"{feature} needs the package '{package}': pip install 'binmat[{extra}]'")
