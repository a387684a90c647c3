"""Options that a single network declares, and how they are read from NAME=VALUE."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from binmat.errors import InputError, UnknownNameError


@dataclass(frozen=True)
class NetworkOption:
    """One option of a network: a keyword argument of its ``predict``.

    type: what the command line reads the option's text as. help: what it does, in a few words.
    converts: whether it also chooses what is converted: a keyword argument of the network's ``specialised``.
    """

    name: str
    type: type[str] | type[int] | type[float]
    help: str
    converts: bool = False


def check_options(owner: str, options: Iterable[NetworkOption], names: Iterable[str]) -> None:
    """Raise UnknownNameError for a name that none of the options has. owner: who has these options, for the message."""
    known = [option.name for option in options]
    for name in names:
        if name not in known:
            raise UnknownNameError(f"option of {owner}", name, known)


def parse_options(owner: str, options: Sequence[NetworkOption], given: Iterable[str]) -> dict[str, Any]:
    """NAME=VALUE texts as values of the declared types, by name.

    >>> parse_options("lsa_matting", [NetworkOption("refinement_steps", int, "steps")], ["refinement_steps=10"])
    {'refinement_steps': 10}

    owner: the network's name, for messages. Raises UnknownNameError for a name that is not declared, InputError for
    a text that is not NAME=VALUE, a value that is not of the declared type and a name that is given twice.
    """
    declared = {option.name: option for option in options}
    read: dict[str, Any] = {}
    for text in given:
        name, separator, value = text.partition("=")
        if not separator:
            raise InputError(f"option '{text}' is not NAME=VALUE: give for example refinement_steps=10")
        check_options(owner, options, [name])
        if name in read:
            raise InputError(f"option {name} is given twice, as '{read[name]}' and as '{value}': give one of them")
        kind = declared[name].type
        try:
            read[name] = kind(value)
        except ValueError as error:
            raise InputError(f"option {name} cannot be '{value}': {owner} takes it as {kind.__name__}") from error
    return read
