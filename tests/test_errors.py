from __future__ import annotations

import importlib
import inspect
import pickle
import pkgutil
from multiprocessing import get_context

import pytest

import binmat
from binmat.errors import BinmatError, MissingExtraError, UnknownNameError


def error_classes() -> list[type[Exception]]:
    """Every class of errors that a module of binmat defines."""
    modules = pkgutil.walk_packages(binmat.__path__, "binmat.")
    names = [module.name for module in modules if "__main__" not in module.name]
    defined = {
        value
        for name in names
        for value in vars(importlib.import_module(name)).values()
        if isinstance(value, type) and issubclass(value, Exception) and value.__module__.startswith("binmat.")
    }
    return sorted(defined, key=lambda kind: kind.__name__)


def made(kind: type[Exception]) -> Exception:
    """An error of the class, with a text for each argument."""
    if "__init__" not in vars(kind):
        return kind("net.pth cannot be read: check its permissions")
    return kind(*list(inspect.signature(kind).parameters))


def test_every_error_pickles() -> None:
    kinds = error_classes()
    assert {UnknownNameError, MissingExtraError} < set(kinds)
    for kind in kinds:
        error = made(kind)
        error.add_note("while reading")
        error.place = "conv1"  # type: ignore[attr-defined]
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is kind
        assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error)), kind


def fail(name: str) -> None:
    if name == "extra":
        raise MissingExtraError("reading a video", "video", "av")
    raise UnknownNameError("scheme", name, ["bnn"])


def test_errors_cross_a_pool_of_processes() -> None:
    with get_context("spawn").Pool(1) as pool:
        for name, words in (("extra", "pip install"), ("bn", "did you mean 'bnn'")):
            with pytest.raises(BinmatError, match=words):
                pool.apply_async(fail, (name,)).get(timeout=30)
