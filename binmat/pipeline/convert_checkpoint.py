"""Convert a checkpoint into a folder: weights to train, model files to ship, a report."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from binmat.atomic_folder import atomic_folder
from binmat.backends.registry import get_backend
from binmat.data.clip import open_clip
from binmat.model_defs.example_inputs import example_inputs, ratio_of
from binmat.model_defs.network import Network
from binmat.model_defs.network_option import parse_options
from binmat.pipeline.converted_folder import RECIPE, REPORTS, WEIGHTS, check_free, model_files, model_name
from binmat.pipeline.deployment import deploy
from binmat.progress import Progress, StepProgress, silent_step
from binmat.reports import Report, report
from binmat.transforms.checkpoint import load, save
from binmat.transforms.convert import convert, recipe_of
from binmat.transforms.recipe import Recipe
from binmat.verification.results import Verification

DEFAULT_SCHEME = "reactnet"


@dataclass(frozen=True)
class ConvertedCheckpoint:
    """What a conversion wrote. files: in the folder, in the order in which a reader wants them.

    verifications: by format. seconds: by step, in order.
    """

    report: Report
    verifications: Mapping[str, Verification]
    files: tuple[Path, ...]
    seconds: Mapping[str, float]


def convert_checkpoint(
    checkpoint: str | Path,
    output: str | Path,
    scheme: str | None = None,
    *,
    network: str | None = None,
    recipe: Recipe | str | Path | None = None,
    settings: Iterable[str] = (),
    size: tuple[int, int] | None = None,
    downsample_ratio: float | None = None,
    formats: Iterable[str] = ("lce",),
    clip: str | Path | None = None,
    options: Iterable[str] = (),
    progress: StepProgress = silent_step,
) -> ConvertedCheckpoint:
    """Read a checkpoint, convert it, write and verify its model files, count it, and write everything to a folder.

    checkpoint: float; or converted, which then keeps its recipe where none of scheme, recipe and settings is given.
    output: a new folder, an empty one, or an earlier conversion, which is replaced once everything is verified.
    scheme: DEFAULT_SCHEME by default. network: what the checkpoint holds, where its keys alone should not decide.
    recipe, settings, size, downsample_ratio: as for :func:`binmat.convert`; the size is the network's usual one by
    default. formats: of the model files (:data:`binmat.backends.registry.BACKENDS`). clip: an image, a video or a
    folder of frames to verify on, and to measure a sparse-assisted decoder on. options: NAME=VALUE, as the network
    declares them. progress: called with (step, done, of how many), first with (step, 0, 0).

    Raises the errors of :func:`binmat.load`, :func:`binmat.convert` and :func:`binmat.export`, UnknownNameError for a
    format, InputError for folders and clips, and VerificationError where a file is not what the network computes: then
    nothing is written.
    """
    output = Path(output)
    backends = {name: get_backend(name) for name in formats}
    check_free(output)
    steps = _Steps(progress)
    verifications = {}
    with atomic_folder(output) as folder:
        with steps.step("read the checkpoint"):
            original = load(checkpoint, network)
            chosen = parse_options(original.name, original.options, options)
            original = original.specialised(size, **chosen)
        with steps.step("trace and rewrite"):
            converted = _convert(original, scheme, recipe, tuple(settings), size, downsample_ratio)
        for name, backend in backends.items():
            with steps.step(f"lower and write the {backend.title} model"):
                deployment = deploy(converted, format=name)
                deployment.write(folder / model_name(name))
            with steps.step(f"verify it in {backend.title}'s interpreter") as show:
                clips = deployment.clips(() if clip is None else open_clip(clip).frames())
                verifications[name] = deployment.verify(clips=clips, progress=show)
                verifications[name].check()
        with steps.step("count, write weights and report"):
            save(converted, folder / WEIGHTS)
            made_by = recipe_of(converted)
            assert made_by is not None
            (folder / RECIPE).write_text(made_by.to_toml(), encoding="utf-8")
            models = model_files(folder)
            counted = report(
                *((original, converted) if recipe_of(original) is None else (converted,)),
                verification={key: found for each in verifications.values() for key, found in each.summary().items()},
                files=[folder / WEIGHTS, *models.values()],
                clip=None if clip is None else open_clip(clip).frames(),
            )
            for name in REPORTS:
                counted.save(folder / name)
    for name, path in model_files(output).items():
        if name not in backends:
            path.unlink()  # Of the earlier conversion.
    names = [WEIGHTS, *(path.name for path in models.values()), RECIPE, *REPORTS]
    return ConvertedCheckpoint(counted, verifications, tuple(output / name for name in names), steps.seconds)


def _convert(
    original: Network,
    scheme: str | None,
    recipe: Recipe | str | Path | None,
    settings: tuple[str, ...],
    size: tuple[int, int] | None,
    downsample_ratio: float | None,
) -> Network:
    ratio = ratio_of(original, downsample_ratio)
    size = size or example_inputs(original, None, ratio).size
    if scheme is None and recipe is None and (settings or recipe_of(original) is None):
        scheme = DEFAULT_SCHEME
    return convert(original, scheme, recipe=recipe, settings=settings, size=size, downsample_ratio=ratio)


@dataclass
class _Steps:
    """Times the steps of a job, and says which one runs and how far it is."""

    progress: StepProgress
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, title: str) -> Iterator[Progress]:
        self.progress(title, 0, 0)
        started = time.perf_counter()
        yield partial(self.progress, title)
        self.seconds[title] = time.perf_counter() - started
