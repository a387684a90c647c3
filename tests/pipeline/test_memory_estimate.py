"""What would not fit into memory is refused, with a size that would; the estimate is what really lives at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from binmat.data.image import photograph, write_image
from binmat.errors import SizeError
from binmat.model_defs.network import Example, Network
from binmat.model_defs.registry import build
from binmat.pipeline import memory_estimate
from binmat.pipeline.convert_checkpoint import convert_checkpoint
from binmat.pipeline.matte_clip import matte_clip
from binmat.pipeline.memory_estimate import Job, available_bytes, check_memory, live_bytes

GIB = 2**30


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(memory_estimate, "available_bytes", lambda: GIB)
    return GIB


def test_what_lives_at_once_is_added_up() -> None:
    def run() -> None:
        a = torch.zeros(1000, device="meta")
        b = a + 1  # Both: 8,000 bytes.
        del a
        c = b.view(10, 100)[1:]  # Of the same storage.
        d = torch.cat([c.flatten(), b])  # 4,000 and 7,600 bytes.
        del b
        d + c.sum()  # c keeps its storage: 4,000 + 7,600 + 7,600, and the sum's 4.

    assert live_bytes(run) == 4000 + 7600 + 7600 + 4
    assert live_bytes(lambda: torch.zeros(1, device="meta").item()) is None


class One(Network):
    """One convolution, of 3 + 5 channels of float32: 32 bytes per pixel."""

    name = "one"
    modes = {"matting": "matting"}  # noqa: RUF012
    size_multiple = 32

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 1)

    def example(self, height: int, width: int, downsample_ratio: float = 1.0, device: str = "cpu") -> Example:
        image = torch.zeros(1, 3, int(height * downsample_ratio), int(width * downsample_ratio), device=device)
        self.check_size(height, width)
        return Example("matting", {"image": image}, ("alpha",))

    def matting(self, image: torch.Tensor) -> torch.Tensor:
        return self.conv(image)


def test_a_convolution_takes_its_input_and_its_output(small_machine: int) -> None:
    check_memory(One(), (4096, 8192), job="count")
    with pytest.raises(SizeError, match=r"one takes about 1.01 GiB of memory at 4128x8192, and 1 GiB are available"):
        check_memory(One(), (4128, 8192), job="count")


@pytest.mark.parametrize(("size", "ratio"), [((20000, 20000), 1.0), ((64, 64), 1e9), ((6400, 6400), 80.0)])
@pytest.mark.parametrize("job", ["count", "deploy"])
def test_the_size_that_is_named_fits(small_machine: int, size: tuple[int, int], ratio: float, job: Job) -> None:
    with pytest.raises(SizeError, match=r"would fit$") as refused:
        check_memory(One(), size, ratio, job=job)
    *_, fits = re.finditer(r"(\d+)x(\d+)(?: with downsample ratio ([\d.]+))?", str(refused.value))
    height, width, ratio = int(fits[1]), int(fits[2]), float(fits[3] or 1)
    check_memory(One(), (height, width), ratio, job=job)
    with pytest.raises(SizeError):
        check_memory(One(), (2 * height, 2 * width), ratio, job=job)


@pytest.mark.slow
def test_a_clip_and_a_checkpoint(small_machine: int, tmp_path: Path) -> None:
    network = build("rvm_mobilenetv3")
    torch.save(network.state_dict(), tmp_path / "rvm.pth")
    write_image(photograph(32, 32), tmp_path / "photo.png")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SizeError, match=r"would fit$"):
        matte_clip(network, tmp_path / "photo.png", tmp_path / "out", downsample_ratio=1e9)
    with pytest.raises(SizeError, match=r"would fit$"):
        convert_checkpoint(tmp_path / "rvm.pth", tmp_path / "out", "bnn", size=(20000, 20000))
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "files",
    [
        {"memory.max": "1000", "memory.current": "900", "memory.stat": "anon 1\ninactive_file 500\nactive_file 200"},
        {
            "memory/memory.limit_in_bytes": "1000",
            "memory/memory.usage_in_bytes": "900",
            "memory/memory.stat": "inactive_file 7\ntotal_inactive_file 500\ntotal_active_file 200",
        },
    ],
)
def test_the_cache_of_files_is_available(monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    def read_text(path: Path) -> str:
        if not path.is_relative_to("/sys/fs/cgroup") or (name := str(path.relative_to("/sys/fs/cgroup"))) not in files:
            raise FileNotFoundError(path)
        return files[name] + "\n"

    monkeypatch.setattr(Path, "read_text", read_text)
    assert available_bytes() == 1000 - 900 + 500 + 200


def test_this_machine_says_what_it_has() -> None:
    available = available_bytes()
    assert available is not None
    assert 2**20 < available < 2**50
