"""Loaded once by the server that workers are forked from: valid files, and all that the first use of torch imports."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

import torch

from fuzz.kinds import KINDS
from fuzz.worker import attempt

torch.set_num_threads(1)
warnings.simplefilter("ignore")
with tempfile.TemporaryDirectory() as place:
    for kind in KINDS:
        attempt(kind, kind.seeds()[0], Path(place))
os.chdir("/")
