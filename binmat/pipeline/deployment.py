"""Export a network as a model file, and verify such a file against the network."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path

from torch import nn

from binmat.atomic_write import atomic_write
from binmat.backends.backend import Backend, Group, Model
from binmat.backends.registry import backend_of, get_backend
from binmat.data.clip import open_clip
from binmat.errors import ExportError
from binmat.model_defs.example_inputs import example_inputs
from binmat.model_defs.network import Example, Network
from binmat.progress import Progress, silent
from binmat.transforms.lowering.lower import lower_recording
from binmat.transforms.lowering.lowered_graph import LoweredGraph
from binmat.transforms.lowering.recording import Recording, record
from binmat.transforms.trace import trace
from binmat.verification.clips import Clips, Frames, clips_of
from binmat.verification.file_check import RecordedRun, check_alone, compare_end_to_end, groups_alone, run_file
from binmat.verification.network_check import ExactPair
from binmat.verification.results import NetworkCheck, NodeCheck, Verification
from binmat.verification.side_by_side import Step, side_by_side
from binmat.verification.signature_check import check_signature

#: Parts of the operators that run by themselves, so that all cores have work to the end.
_SHARES = 4


@dataclass(frozen=True)
class Deployment:
    """A network, what was recorded of it, its lowered graph and the model made of that.

    >>> from binmat.transforms.convert import convert
    >>> network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 1, 1))
    >>> deployment = deploy(convert(network, "bnn", size=(8, 8)))
    >>> deployment.model.content[4:8]
    b'TFL3'
    >>> deployment.verify().check()
    """

    recording: Recording
    lowered: LoweredGraph
    backend: Backend
    model: Model

    @property
    def network(self) -> nn.Module:
        return self.recording.network

    @property
    def example(self) -> Example:
        """The inputs that the network was lowered with."""
        return self.recording.example

    def write(self, path: str | Path) -> None:
        """Write the model file atomically. Raises ExportError."""
        try:
            with atomic_write(Path(path)) as temporary:
                temporary.write_bytes(self.model.content)
        except OSError as error:
            raise ExportError(f"cannot write {path}: {error.strerror}") from error

    def clips(self, path: str | Path | None = None) -> Clips:
        """What to verify on: an image, a video or a folder of frames, by default binmat's photograph.

        Networks that take no picture are verified on noise.
        """
        clips = clips_of(self.example, () if path is None else open_clip(path).frames(), self.network)
        return dict(islice(clips.items(), 1))

    def verify(
        self, content: bytes | None = None, clips: Clips | None = None, progress: Progress = silent
    ) -> Verification:
        """Compare the network with its lowered graph, and that graph with the file in its interpreter.

        content: of the file, by default the model's. clips: by default :meth:`clips`. progress: called with
        (comparisons done, comparisons to do). See :func:`verify`. Raises VerificationError for a file that is not the
        export of this network, before anything runs.
        """
        shipped = self.model if content is None else self.backend.model_of_file(content, self.model)
        check_signature(self.lowered, self.backend.signature(shipped.content))
        clips = clips or self.clips()
        kernels = self.backend.kernels or ("",)
        all_alone = groups_alone(self.lowered, shipped)
        shares = [all_alone[first::_SHARES] for first in range(_SHARES)]
        to_do = 1 + len(shares) + sum(len(frames) for frames in clips.values())
        done = count(1)

        def step() -> None:
            progress(next(done), to_do)

        def check_network(tell: Step) -> NetworkCheck:
            found = ExactPair(self.recording, self.lowered).check(next(iter(clips.values())))
            tell()
            return found

        def run(frames: Frames, tell: Step) -> RecordedRun:
            others = {kernel: self.backend.write(self.lowered, kernel) for kernel in kernels[1:]}
            return run_file(self.backend, self.lowered, shipped, frames, kernels[0], others=others, progress=tell)

        def by_themselves(groups: Sequence[Group], tell: Step) -> list[NodeCheck]:
            return check_alone(self.lowered, shipped, groups, kernels[0], progress=tell)

        def compare(frames: Frames, recorded: Future[RecordedRun], _: Step) -> None:
            found = recorded.result()
            compare_end_to_end(self.lowered, frames, found)
            found.forget_values()

        with side_by_side() as parts:
            recorded = {name: parts.start(partial(run, frames)) for name, frames in clips.items()}
            network = parts.start(check_network)
            tried = [parts.start(partial(by_themselves, groups)) for groups in shares]
            for name, frames in clips.items():
                parts.start(partial(compare, frames, recorded[name]))
            parts.finish(step)
        runs = {
            (name, kernel): found
            for name, each in recorded.items()
            for kernel, found in ({kernels[0]: each.result().result} | each.result().others).items()
        }
        alone_checks = [check for each in tried for check in each.result()]
        as_written = shipped.content == self.model.content
        return Verification(self.backend.name, self.backend.title, network.result(), runs, alone_checks, as_written)


def deploy(
    network: nn.Module,
    size: tuple[int, int] | None = None,
    downsample_ratio: float | None = None,
    *,
    format: str = "lce",
    example: Example | None = None,
) -> Deployment:
    """Lower a network for frames of a fixed size and make its model, without writing a file.

    size: (height, width), by default the one that the network was converted for, else the registry's example size.
    downsample_ratio: by default likewise, else 1. format: a backend's name. example: the example inputs themselves, for
    modules that have none of their own. Raises UnknownNameError, SizeError, TraceError, LoweringError, ExportError.
    """
    backend = get_backend(format)
    owner = network if isinstance(network, Network) else trace(network, size, example)
    example = example_inputs(owner, size, downsample_ratio, example)
    recording = record(owner, example)
    lowered = lower_recording(recording)
    return Deployment(recording, lowered, backend, backend.write(lowered))


def export(
    network: nn.Module,
    path: str | Path,
    size: tuple[int, int] | None = None,
    downsample_ratio: float | None = None,
    *,
    example: Example | None = None,
) -> Deployment:
    """Write a network, converted or float, as a model file for frames of a fixed size, atomically.

    path: its suffix names the format. .tflite is Larq Compute Engine: 4-D inputs and outputs are NHWC, states are
    inputs and outputs of the same name. size, downsample_ratio, example: as for :func:`deploy`.
    Raises the errors of :func:`deploy`, and UnknownNameError for a suffix that names no format.
    """
    backend = backend_of(path)
    deployment = deploy(network, size, downsample_ratio, format=backend.name, example=example)
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
) -> Verification:
    """Compare a model file with the network it was made from.

    Network and lowered graph are compared in float64. Lowered graph and file are compared operator by operator on equal
    inputs, and end to end over frames with states.

    path: the file; its suffix names the format. Without one a fresh LCE export is verified and not written. size,
    downsample_ratio, example: what the file was exported with, as for :func:`deploy`. clips: name -> inputs of
    consecutive frames; by default two of a photograph that moves, or of noise where the network takes no picture.
    Differences are not raised: see :meth:`Verification.check`. Raises the errors of :func:`deploy`, ExportError for a
    file that does not run, MissingExtraError without the interpreter.
    """
    content = None if path is None else read_model_file(path)
    format = "lce" if path is None else backend_of(path).name
    return deploy(network, size, downsample_ratio, format=format, example=example).verify(content, clips)


def read_model_file(path: str | Path) -> bytes:
    """The content of a model file. Raises ExportError."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ExportError(f"model file {path} cannot be read ({error.strerror or error}): export it again") from error
