"""PyTorch's fake tensors without their log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_fake_tensors() -> Iterator[None]:
    """Keep the log of shapes that do not fit quiet: an error reaches the user, and says the same."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)
