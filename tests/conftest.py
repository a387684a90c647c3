"""What every test shares: a known random state, and hypothesis without a clock."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

# The first run of a torch operator can take far longer than the next: a deadline would fail at random.
settings.register_profile("binmat", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("binmat")

# Small tensors gain nothing from a second thread, and on a busy machine the two wait for each other.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def random_state() -> None:
    """Every test starts from the same torch random state, whichever tests ran before."""
    torch.manual_seed(0)
