"""Code that asks whether gradients are on: the graph runs where the answer is the one that it was traced with."""

from __future__ import annotations

import torch

from binmat.errors import TraceError


def check_gradients(expected: bool, line: str) -> None:
    """Stop a graph whose code decided by torch.is_grad_enabled() otherwise. line: of the network's code.

    Raises TraceError.
    """
    if torch.is_grad_enabled() != expected:
        before, now = ("on", "off") if expected else ("off", "on")
        raise TraceError(
            f"{line} asks whether gradients are on: they were {before} when it was traced and are {now} now. "
            f"Call the network {'with gradients' if expected else 'under torch.no_grad()'}, or decide by self.training"
        )
