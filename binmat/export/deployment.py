"""Export a network by its file's suffix, and verify what was written, in one call each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from binmat.errors import ExportError, UnknownNameError
from binmat.export.frames import Clips, clips_of
from binmat.export.lce import LceModel, export_lce
from binmat.export.lce.writer import write_whole
from binmat.export.lowering_check import check_lowering
from binmat.export.verdict import Verdict
from binmat.export.verify import VERIFIED_KERNELS, verify_lce
from binmat.model_defs.example_inputs import example_inputs
from binmat.model_defs.network import Example, Network
from binmat.transforms.lower import Lowered, lower
from binmat.transforms.trace import trace

#: Format -> the suffix of its files.
FORMATS = {"lce": ".tflite"}


def check_format(name: str) -> str:
    """The name, if it is a format that binmat writes. Raises UnknownNameError."""
    if name not in FORMATS:
        raise UnknownNameError("export format", name, FORMATS)
    return name


@dataclass(frozen=True)
class Deployment:
    """A network as it ships: the network, its deployment graph and the model file made of it."""

    network: nn.Module
    lowered: Lowered
    model: LceModel

    def write(self, path: str | Path) -> None:
        """Write the model file whole or not at all. Raises ExportError."""
        write_whole(Path(path), self.model.content)

    def clips(self, pictures: Iterable[Tensor] = ()) -> Clips:
        """What it is verified on: pictures [1, 3, H, W] in [0, 1] of a clip, else a photograph; and noise."""
        return clips_of(self.lowered.example, pictures, self.network)

    def verify(
        self,
        content: bytes | None = None,
        clips: Clips | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Verdict:
        """Compare network and deployment graph, and that graph with the file in its interpreter; see :func:`verify`.

        progress: called with (comparisons done, comparisons to do).
        """
        clips = clips or self.clips()
        to_do = 1 + len(VERIFIED_KERNELS) * sum(len(frames) for frames in clips.values())
        done = 0

        def step() -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done, to_do)

        lowering = check_lowering(self.network, self.lowered.example, next(iter(clips.values())))
        step()
        runs = {
            name: verify_lce(self.lowered.module, self.model, frames, content=content, progress=step)
            for name, frames in clips.items()
        }
        return Verdict(lowering, runs)


def deploy(
    network: nn.Module,
    size: tuple[int, int] | None = None,
    downsample_ratio: float | None = None,
    *,
    example: Example | None = None,
) -> Deployment:
    """Lower a network at the size of one call and make its LCE model, without writing a file.

    size: (height, width), by default the one that the network was converted for, else the registry's example size.
    downsample_ratio: by default likewise, else 1. example: the example inputs themselves, for modules that do not say
    what theirs are. Raises SizeError, TraceError, LoweringError and ExportError.
    """
    if example is None:
        owner = network if isinstance(network, Network) else trace(network)
        example = example_inputs(owner, size, downsample_ratio)
    lowered = lower(network, example)
    return Deployment(network, lowered, export_lce(lowered.module, None, lowered.inputs, lowered.outputs))


def export(
    network: nn.Module,
    path: str | Path,
    size: tuple[int, int] | None = None,
    downsample_ratio: float | None = None,
    *,
    example: Example | None = None,
) -> Deployment:
    """Write a network, converted or float, as a model file of fixed size; the suffix names the format.

    .tflite: Larq Compute Engine; 4-D inputs and outputs are NHWC, states are inputs and outputs of the same name.
    size, downsample_ratio, example: as for :func:`deploy`, whose errors it raises; UnknownNameError for a suffix that
    stands for no format. The file is written whole or not at all.
    """
    suffix = Path(path).suffix
    if suffix not in FORMATS.values():
        raise UnknownNameError("model file suffix", suffix or Path(path).name, FORMATS.values())
    deployment = deploy(network, size, downsample_ratio, example=example)
    deployment.write(path)
    return deployment


def verify(
    network: nn.Module,
    path: str | Path | None = None,
    size: tuple[int, int] | None = None,
    downsample_ratio: float | None = None,
    *,
    example: Example | None = None,
    clips: Clips | None = None,
) -> Verdict:
    """Compare a model file with the network it was made from.

    Network and deployment graph are compared in float64; deployment graph and file operator by operator on equal
    inputs, and end to end over frames with states.

    path: the file; None verifies a fresh export that is not written. size, downsample_ratio, example: what the file
    was exported with, as for :func:`deploy`. clips: name -> inputs of consecutive frames; by default a photograph that
    moves and noise, two frames each.
    Returns a verdict on systematic differences; it is not raised: see :meth:`Verdict.check`. Raises the errors of
    :func:`deploy`, ExportError for a file that does not run, MissingExtraError without LCE's interpreter.
    """
    content = None if path is None else read_model_file(path)
    return deploy(network, size, downsample_ratio, example=example).verify(content, clips)


def read_model_file(path: str | Path) -> bytes:
    """The content of a model file. Raises ExportError."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ExportError(f"model file {path} cannot be read ({error.strerror or error}): export it again") from error
