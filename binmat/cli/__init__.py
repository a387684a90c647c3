"""The command line. Each command has a file and does three things: parse, call the library, print."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

INTERRUPTED = 130
#: Lets torch, when it is imported, take large tensors in large pages: most of their cost is else the system's.
LARGE_PAGES = ("THP_MEM_ALLOC_ENABLE", "1")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program ``binmat`` and return its exit status.

    arguments: without the program's name; by default those of sys.argv. Status 0: done. 1: an error that binmat raised,
    printed as one line on stderr. 2: wrong usage, printed likewise. 130: interrupted.
    """
    import typer

    os.environ.setdefault(*LARGE_PAGES)
    from binmat.cli.app import app
    from binmat.errors import BinmatError

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A character that the terminal does not have must not end the program.
            stream.reconfigure(errors="replace")
    try:
        status = app(arguments, prog_name="binmat", standalone_mode=False)
    except BinmatError as error:
        return _fail(str(error), 1)
    except typer.TyperException as error:
        path = getattr(getattr(error, "ctx", None), "command_path", "binmat")
        return _fail(f"{error.format_message()} See '{path} --help'", error.exit_code)
    except typer.Abort:
        return INTERRUPTED
    return status if isinstance(status, int) else 0


def _fail(message: str, status: int) -> int:
    print(f"binmat: error: {' '.join(message.split())}", file=sys.stderr)
    return status
