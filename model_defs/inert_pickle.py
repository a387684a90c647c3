"""Read a pickle as data: what it names is looked up in a table and never imported, what it calls is in that table."""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from typing import IO, Any

#: Some forty for each tensor, so fifty thousand tensors; a quarter of a gigabyte of memory at the very worst.
MOST_OPERATIONS = 2_000_000
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": lambda: Unread("set"),
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_LITERALS = {
    *("INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}


class ForbiddenNameError(ValueError):
    """The pickle names what the table does not have. The message is the name, ``module.name``."""


class Unread:
    """Stands for a value that its reader has no use for. kind: what it is, in a word."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __repr__(self) -> str:
        return self.kind


def read_pickle(stream: IO[bytes], names: Mapping[str, Any], stored: Callable[[Any], Any]) -> Any:
    """The value that a pickle stands for; the stream is left behind its end.

    names: ``module.name`` -> what stands for it: a function where the pickle calls it, any value where it does not.
    stored: gives what stands for a persistent id. Values are numbers, strings, bytes, lists, tuples, dicts and what the
    table gives; sets are :class:`Unread`, and so are the keys of dicts that are no strings. The memory is bounded by a
    few hundred bytes for each byte of the stream, and by the number of operations.

    Raises ForbiddenNameError, and other ValueErrors, EOFError, IndexError, KeyError or TypeError for what is no pickle.

    >>> from io import BytesIO
    >>> from pickle import dumps
    >>> read_pickle(BytesIO(dumps({"a": [1, (2.5, None)]})), {}, Unread)
    {'a': [1, (2.5, None)]}
    >>> read_pickle(BytesIO(dumps(print)), {}, Unread)
    Traceback (most recent call last):
    binmat.model_defs.inert_pickle.ForbiddenNameError: builtins.print
    """
    reader = _Reader(names, stored)
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if count == MOST_OPERATIONS:
            raise ValueError(f"it has more than {MOST_OPERATIONS:,} operations")
        if opcode.name == "STOP":
            return reader.stack.pop()
        reader.do(opcode.name, argument)
    raise EOFError("it has no end")


class _Reader:
    """The machine that a pickle is a program for. stack: its values. marks: the stacks below, one for each MARK."""

    def __init__(self, names: Mapping[str, Any], stored: Callable[[Any], Any]) -> None:
        self.names, self.stored = names, stored
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def do(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [tuple(self._top(_TUPLES[name]))]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if argument is None else argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "MARK":
            self.marks.append(stack)
            self.stack = []
        elif name in ("GLOBAL", "STACK_GLOBAL", "INST"):
            self._name(".".join(self._popped(2)) if argument is None else argument.replace(" ", "."))
        elif name == "BINPERSID":
            stack.append(self.stored(stack.pop()))
        elif name in ("REDUCE", "NEWOBJ"):
            function, arguments = self._popped(2)
            if not callable(function) or not isinstance(arguments, tuple):
                raise ValueError(f"it calls a {type(function).__name__}")
            stack.append(function(*arguments))
        else:
            self._fill(name)

    def _fill(self, name: str) -> None:
        """What puts values into the one below them."""
        if name == "APPEND":
            self._extend([self.stack.pop()])
        elif name in ("APPENDS", "ADDITEMS"):
            self._extend(self._to_mark())
        elif name == "SETITEM":
            self._set(self._popped(2))
        elif name == "SETITEMS":
            self._set(self._to_mark())
        elif name == "LIST":
            values = self._to_mark()
            self.stack.append(values)
        elif name == "TUPLE":
            values = self._to_mark()
            self.stack.append(tuple(values))
        elif name == "DICT":
            values = self._to_mark()
            self.stack.append({})
            self._set(values)
        elif name == "FROZENSET":
            self._to_mark()
            self.stack.append(Unread("frozenset"))
        elif name == "BUILD":
            self.stack.pop()
            if not isinstance(self.stack[-1], (dict, Unread)):
                raise ValueError("it changes an object")
        elif name == "POP":
            self.stack.pop()
        elif name == "POP_MARK":
            self._to_mark()
        elif name == "DUP":
            self.stack.append(self.stack[-1])
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"it has the operation {name}")

    def _top(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError("a value is missing")
        return self.stack[-count:]

    def _popped(self, count: int) -> list[Any]:
        values = self._top(count)
        del self.stack[-count:]
        return values

    def _to_mark(self) -> list[Any]:
        values, self.stack = self.stack, self.marks.pop()
        return values

    def _name(self, name: str) -> None:
        name = name.replace("__builtin__.", "builtins.", 1)  # As Python 2 calls it.
        if name not in self.names:
            raise ForbiddenNameError(name)
        self.stack.append(self.names[name])

    def _extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, Unread):
            raise ValueError("it appends to what is no list")

    def _set(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            target.update(zip(map(as_key, values[::2]), values[1::2], strict=True))
        elif not isinstance(target, Unread):
            raise ValueError("it sets items of what is no dict")


def as_key(key: Any) -> Any:
    """A string, or what stands for another key: hashing nested tuples or chosen numbers can take forever."""
    if isinstance(key, str):
        return key
    return Unread(str(key) if isinstance(key, int) and abs(key) < 2**63 else type(key).__name__)
