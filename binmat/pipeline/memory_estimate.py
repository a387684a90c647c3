"""Refuse a size that does not fit into memory before anything runs, rather than be killed half way.

The estimate is what the network's tensors take at once: one frame is run on meta tensors, which have shapes and no
values, and what lives at the same time is added up. To lower, write and verify a network takes several times as much,
see DEPLOYED. What the kernels take, the pictures round the network and PyTorch itself are left out. So the estimate is
low: what it refuses does not run, what it lets pass may still be too large. Where a network does not run on meta
tensors there is no estimate, and nothing is refused.
"""

from __future__ import annotations

import copy
import math
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from binmat.errors import SizeError
from binmat.model_defs.example_inputs import example_inputs, ratio_of
from binmat.model_defs.network import Network

Job = Literal["deploy", "count", "matte"]

#: Bytes of an RGB pixel in float32: the least that a frame takes.
_PIXEL = 12
#: Bytes per pixel that no network takes at once: the known ones take up to 800. Below, no time is spent on an
#: estimate.
_MOST = 2**12
_STEPS = 5
#: How many times a frame's memory `binmat convert` takes. From 128x128 to 384x384 its memory, with LCE's processes,
#: grew by 11.6 times of what the frame of RVM grew by, and by 15.2 times for MODNet.
DEPLOYED = 8
#: From so many pixels on, the frame alone decides: the sizes of its tensors may not fit into 64 bits.
_BEYOND_DOUBT = 2**40
_CGROUPS = (
    ("memory.max", "memory.current", "memory.stat", ("inactive_file", "active_file")),
    (
        *("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
        ("total_inactive_file", "total_active_file"),
    ),
)


def check_memory(
    network: Network,
    size: tuple[int, int] | None = None,
    downsample_ratio: float | None = None,
    *,
    job: Job,
) -> None:
    """Raise SizeError where a job takes more memory than is available; the message names a size that would fit.

    size, downsample_ratio: by default those that the network was converted for. job: to deploy the network, that is to
    lower, write or verify it; to count it; or to matte a frame.
    """
    available = available_bytes()
    ratio = ratio_of(network, downsample_ratio)
    try:
        height, width = size or example_inputs(network, None, ratio).size
    except SizeError:
        return  # Whoever builds the example inputs says so.
    if available is None or _pixels(height, width, ratio) * _MOST * DEPLOYED < available:
        return
    needed = _bytes(network, height, width, ratio, job)
    if needed is None or needed <= available:
        return
    raise SizeError(
        f"{network.name} takes about {needed / 2**30:.3g} GiB of memory at {_named(height, width, ratio)}, and "
        f"{available / 2**30:.3g} GiB are available" + _way_out(network, height, width, ratio, job, available)
    )


def _way_out(network: Network, height: int, width: int, ratio: float, job: Job, available: int) -> str:
    """The words that name the largest size whose estimate fits, smaller step by step; empty where none is found."""
    for _ in range(_STEPS):
        needed = _bytes(network, height, width, ratio, job)
        if needed is None:
            break
        if needed <= available:
            return f": {_named(height, width, ratio)} would fit"
        shrink = 0.98 * math.sqrt(available / needed)
        if ratio > 1:
            ratio, shrink = max(1.0, ratio * shrink), min(1.0, ratio * shrink)
        step = network.size_multiple
        height, width = (max(step, int(side * shrink) // step * step) for side in (height, width))
    return ""


def _named(height: int, width: int, ratio: float) -> str:
    return f"{height}x{width}" + (f" with downsample ratio {ratio:.3g}" if ratio != 1 else "")


def available_bytes() -> int | None:
    """The memory that this process may still take, by the system and its control group; None where neither says."""
    found = []
    meminfo = _read(Path("/proc/meminfo"))
    found += [int(line.split()[1]) * 1024 for line in meminfo.splitlines() if line.startswith("MemAvailable:")]
    for *files, cached in _CGROUPS:
        limit, used, stat = (_read(Path("/sys/fs/cgroup", name)).strip() for name in files)
        if limit.isdigit() and used.isdigit():  # Without a limit it says "max".
            lines = map(str.split, stat.splitlines())
            cache = sum(int(size) for name, size in lines if name in cached)  # Of files: given back when asked for.
            found.append(max(0, int(limit) - int(used) + cache))
    return min(found, default=None)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _bytes(network: Network, height: int, width: int, ratio: float, job: Job) -> float | None:
    pixels = _pixels(height, width, ratio)
    if pixels > _BEYOND_DOUBT:
        return pixels * _PIXEL
    shapes = copy.deepcopy(network).to("meta").eval()

    def run() -> object:
        if job == "matte":
            frame = torch.empty(1, 3, height, width, device="meta")
            others: dict[str, Any] = {"background": frame} if shapes.takes_background else {}
            return shapes.predict(frame, None, downsample_ratio=ratio, **others)
        example = shapes.example(height, width, ratio, device="meta")
        return shapes.run(example.mode, *example.inputs.values())

    needed = live_bytes(run)
    return needed if needed is None or job != "deploy" else needed * DEPLOYED


def _pixels(height: int, width: int, ratio: float) -> float:
    """Of the larger of the frame and what the network sees of it."""
    return height * width * max(1.0, ratio) ** 2


def live_bytes(run: Callable[[], object]) -> int | None:
    """The most bytes of tensors that live at once while a function runs on meta tensors; None where it does not run."""
    counted = _LiveBytes()
    try:
        with torch.no_grad(), counted:
            run()
    except Exception:  # Operators that need values raise many kinds of errors on meta tensors.
        return None
    return counted.peak


class _LiveBytes(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._live = 0
        self._tensors: Counter[int] = Counter()  # By storage: several tensors may share one.

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self._change(storage._cdata, storage.nbytes(), 1)
                weakref.finalize(tensor, self._change, storage._cdata, storage.nbytes(), -1)
        return result

    def _change(self, storage: int, size: int, by: int) -> None:
        before = self._tensors[storage]
        self._tensors[storage] = before + by
        self._live += size * ((before + by > 0) - (before > 0))
        self.peak = max(self.peak, self._live)
