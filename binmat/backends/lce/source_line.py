"""Where in the user's own files a node of a graph comes from."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch.fx import Node

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
#: Files below these folders are not the user's.
_LIBRARIES = (Path(torch.__file__).parent, Path(__file__).parents[2])


def users_line(node: Node) -> str | None:
    """``file:line`` of the innermost frame of the node's stack trace outside torch and binmat; None without one."""
    frames = _FRAME.findall(node.stack_trace or "")
    own = [f"{file}:{line}" for file, line in frames if not any(Path(file).is_relative_to(p) for p in _LIBRARIES)]
    return own[-1] if own else None
