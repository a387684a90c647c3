"""Names that a command is given, looked up where they are declared before PyTorch is imported, which takes seconds.

Once it is imported, as in a program that registers names of its own, the library says which names there are.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path

from binmat.errors import UnknownNameError


def scheme_names() -> list[str]:
    """The names of the schemes that ``binmat/quantizers/schemes.py`` declares, read without running it."""
    source = resources.files("binmat").joinpath("quantizers", "schemes.py").read_text(encoding="utf-8")
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [
        ast.literal_eval(word.value)
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id == "Scheme"
        for word in call.keywords
        if word.arg == "name"
    ]


def recipe_names() -> list[str]:
    """The names of the files in ``binmat/transforms/recipes``."""
    files = resources.files("binmat").joinpath("transforms", "recipes").iterdir()
    return [file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")]


def format_names() -> list[str]:
    """The names of the folders in ``binmat/backends`` that hold a backend."""
    folders = resources.files("binmat").joinpath("backends").iterdir()
    return [folder.name for folder in folders if folder.joinpath("backend.py").is_file()]


def check_names(scheme: str | None = None, recipe: str | None = None, formats: Iterable[str] = ()) -> None:
    """Raise UnknownNameError for the first name that does not exist. A recipe may be a file."""
    if scheme is not None:
        _check("scheme", scheme, scheme_names)
    if recipe is not None and not recipe.endswith(".toml") and not Path(recipe).is_file():
        _check("recipe", recipe, recipe_names)
    for name in formats:
        _check("export format", name, format_names)


def _check(kind: str, name: str, names: Callable[[], list[str]]) -> None:
    if "torch" not in sys.modules and name not in (known := names()):
        raise UnknownNameError(kind, name, known)
