"""The command line. Each command has a file and does three things: parse, call the library, print."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress

from binmat.allocator import keep_freed_memory

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program ``binmat`` and return its exit status.

    arguments: without the program's name; by default those of sys.argv. Status 0: done. 1: an error that binmat raised,
    or the system, printed as one line on stderr. 2: wrong usage, printed likewise. 130: interrupted. With ``--json`` an
    error is printed on stdout too, as ``{"error": {"type", "message"}}``.
    """
    import typer

    keep_freed_memory()
    from binmat.cli.app import app
    from binmat.errors import BinmatError

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A character that the terminal does not have must not end the program.
            stream.reconfigure(errors="replace")
    as_json = "--json" in (sys.argv[1:] if arguments is None else arguments)
    try:
        status = app(arguments, prog_name="binmat", standalone_mode=False)
        sys.stdout.flush()
    except BinmatError as error:
        return _fail(error, str(error), 1, as_json)
    except typer.TyperException as error:
        path = getattr(getattr(error, "ctx", None), "command_path", "binmat")
        return _fail(error, f"{error.format_message()} See '{path} --help'", error.exit_code, as_json)
    except typer.Abort:
        return INTERRUPTED
    except BrokenPipeError:
        sys.stdout = None  # Whoever read it has read enough; Python would try again at its end, and complain.
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(error, f"{where}{error.strerror or error}", 1, as_json)
    return status if isinstance(status, int) else 0


def _fail(error: Exception, message: str, status: int, as_json: bool) -> int:
    from binmat.cli.console import error_object, print_error, print_json

    with suppress(OSError):
        print_error(message)
    try:
        if as_json:
            print_json(error_object(error, message))
        sys.stdout.flush()
    except OSError:
        sys.stdout = None  # As above: the disk may be full.
    return status
