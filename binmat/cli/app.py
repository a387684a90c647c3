"""The program: its commands, its help and its version."""

from __future__ import annotations

from typing import Annotated

import typer

import binmat
from binmat.cli.convert import convert
from binmat.cli.export import export
from binmat.cli.matte import matte
from binmat.cli.networks import networks
from binmat.cli.recipes import recipes
from binmat.cli.report import report
from binmat.cli.schemes import schemes
from binmat.cli.verify import verify

# Help is plain: rich takes longer to import than everything else together, and cuts long lines at 80 columns.
app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@app.callback(invoke_without_command=True)
def program(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Turn matting networks into 1-bit networks, verified and counted.

    \b
    Try:
      binmat convert rvm_mobilenetv3.pth --scheme reactnet --size 288x512 -o out
      binmat verify out
      binmat report out --layers
      binmat matte out photo.jpg -o matte

    Every command has --help with an example, and --json where it prints results.
    """
    if version:
        typer.echo(f"binmat {binmat.__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


for command in (convert, verify, report, export, matte, networks, schemes, recipes):
    app.command()(command)
