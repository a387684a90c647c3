"""The examples in docstrings run as written, and there are some."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

import pytest

import binmat


def modules() -> list[ModuleType]:
    """Every module of the package under the one name that people import it by."""
    names = (info.name for info in pkgutil.walk_packages(binmat.__path__, "binmat."))
    return [binmat, *(importlib.import_module(name) for name in names if not name.endswith(".__main__"))]


def examples_of(module: ModuleType) -> list[doctest.DocTest]:
    return [found for found in doctest.DocTestFinder().find(module) if found.examples]


def run(example: doctest.DocTest) -> None:
    """Fail with doctest's own account of what was expected and what came."""
    said: list[str] = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    if runner.run(example, out=said.append).failed:
        pytest.fail("".join(said), pytrace=False)


EXAMPLES = {example.name: example for module in modules() for example in examples_of(module)}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # for the files that examples write
    run(EXAMPLES[name])


def test_examples_are_found_through_the_links_to_the_root() -> None:
    assert any(name.startswith("binmat.model_defs.") for name in EXAMPLES)


@pytest.mark.parametrize(("shown", "passes"), [("2", True), ("3", False)])
def test_a_wrong_example_fails(shown: str, passes: bool) -> None:
    module = ModuleType("binmat.made_up", f"An example.\n\n>>> 1 + 1\n{shown}\n")
    [example] = examples_of(module)
    if passes:
        run(example)
    else:
        with pytest.raises(pytest.fail.Exception, match=r"Expected:\s+3\s+Got:\s+2"):
            run(example)
