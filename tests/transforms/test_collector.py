"""The garbage collector while graphs are made."""

from __future__ import annotations

import gc

import pytest

from binmat.transforms.collector import collector_waits


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_waits_and_is_afterwards_what_it_was(enabled: bool) -> None:
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(KeyError), collector_waits():
            with collector_waits():
                assert not gc.isenabled()
            assert not gc.isenabled()
            raise KeyError
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()


def test_the_collector_waits_for_the_last_of_several_threads() -> None:
    first, second = collector_waits(), collector_waits()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not gc.isenabled()
    second.__exit__(None, None, None)
    assert gc.isenabled()
