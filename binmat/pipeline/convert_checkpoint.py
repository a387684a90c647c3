"""Convert a checkpoint into a folder: weights to train, model files to ship, a report."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from binmat.atomic_folder import atomic_folder
from binmat.backends.registry import get_backend
from binmat.data.clip import open_clip
from binmat.model_defs.example_inputs import example_inputs, ratio_of
from binmat.model_defs.network import Network
from binmat.model_defs.network_option import parse_options
from binmat.pipeline.converted_folder import RECIPE, REPORTS, WEIGHTS, check_free, model_files, model_name
from binmat.pipeline.deployment import deploy
from binmat.pipeline.memory_estimate import check_memory
from binmat.progress import Progress, StepProgress, silent
from binmat.reports import Report, report
from binmat.transforms.calibrate import calibrate
from binmat.transforms.checkpoint import load, save
from binmat.transforms.convert import convert, recipe_of
from binmat.transforms.one_sided_layers import one_sided_layers
from binmat.transforms.recipe import Recipe
from binmat.verification.clips import clips_of
from binmat.verification.results import Verification

DEFAULT_SCHEME = "reactnet"
#: The setting that gives a scheme thresholds to calibrate.
THRESHOLDS = "options.threshold=layer"


@dataclass(frozen=True)
class ConvertedCheckpoint:
    """What a conversion wrote.

    verifications: by format. files: what was written. seconds: by step, in the order of the steps.
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
    formats: str | Iterable[str] = ("lce",),
    clip: str | Path | None = None,
    options: Iterable[str] = (),
    calibration: bool = True,
    progress: StepProgress = silent,
) -> ConvertedCheckpoint:
    """Convert a checkpoint, write and verify its model files, count it, and write everything to a folder.

    checkpoint: of a float network; or of a converted one, which is then written again for another size or format.
    output: a new folder, an empty one, or an earlier conversion. It is written when everything is verified, or not at
    all. scheme: DEFAULT_SCHEME by default. network: what the checkpoint holds; by default its keys decide.
    recipe, settings, size, downsample_ratio: as for :func:`binmat.convert`; the size is the network's usual one by
    default. formats: of the model files (:data:`binmat.backends.registry.BACKENDS`). clip: an image, a video or a
    folder of frames to calibrate and verify on, and to measure a sparse-assisted decoder on. options: NAME=VALUE, as
    the network declares them. calibration: initialise the thresholds and norms of a fresh conversion from the clip,
    else from binmat's photograph (:func:`binmat.calibrate`); a scheme without thresholds gets them where layers would
    see one sign only, and the report notes it. A checkpoint that is converted already stays as it is.
    progress: called with (step, done, of how many), first with (step, 0, 0).

    Raises the errors of :func:`binmat.load`, :func:`binmat.convert` and :func:`binmat.export`, UnknownNameError for a
    format, InputError for folders and clips, and VerificationError where a file does not compute what the network does.
    """
    output, settings = Path(output), tuple(settings)
    backends = {name: get_backend(name) for name in ([formats] if isinstance(formats, str) else formats)}
    check_free(output)
    verifications: dict[str, Verification] = {}
    seconds: dict[str, float] = {}

    @contextmanager
    def step(title: str) -> Iterator[Progress]:
        progress(title, 0, 0)
        started = time.perf_counter()
        yield partial(progress, title)
        seconds[title] = time.perf_counter() - started

    with atomic_folder(output) as folder:
        with step("read the checkpoint"):
            original = load(checkpoint, network)
            original = original.specialised(size, **parse_options(original.name, original.options, options))
        with step("trace and rewrite"):
            ratio = ratio_of(original, downsample_ratio)
            size = size or example_inputs(original, None, ratio).size
            check_memory(original, size, ratio, job="deploy")
            if scheme is None and recipe is None and (settings or recipe_of(original) is None):
                scheme = DEFAULT_SCHEME
            rewrite = partial(_convert, original, scheme, recipe=recipe, size=size, downsample_ratio=ratio)
            converted = rewrite(settings=settings)
        one_sided: tuple[str, ...] = ()
        notes: list[str] = []
        if calibration and recipe_of(original) is None:
            with step("calibrate thresholds and norms"):
                pictures = () if clip is None else open_clip(clip).frames()
                example = example_inputs(converted, size, ratio)
                frames = next(iter(clips_of(example, pictures, converted).values()))
                calibrate(converted, frames, example)
                one_sided = one_sided_layers(converted, frames, example)
                blind = [name for name in one_sided if converted.get_submodule(name).threshold is None]
                if blind and not any(setting.startswith("options.threshold") for setting in settings):
                    notes.append(
                        f"{len(blind)} layers saw one sign only, for their scheme has no thresholds: every layer got "
                        f"one ({THRESHOLDS}). --no-calibration keeps the scheme as its paper has it."
                    )
                    converted = rewrite(settings=(*settings, THRESHOLDS))
                    calibrate(converted, frames, example)
                    one_sided = one_sided_layers(converted, frames, example)
        for name, backend in backends.items():
            with step(f"lower and write the {backend.title} model"):
                deployment = deploy(converted, format=name)
                deployment.write(folder / model_name(name))
            with step(f"verify it in {backend.title}'s interpreter") as show:
                verifications[name] = deployment.verify(clips=deployment.clips(clip), progress=show)
                verifications[name].check()
        with step("count, write weights and report"):
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
                one_sided=one_sided,
                notes=notes,
            )
            for name in REPORTS:
                counted.save(folder / name)
    for name, path in model_files(output).items():
        if name not in backends:
            path.unlink()  # It belongs to the earlier conversion.
    names = [WEIGHTS, *(path.name for path in models.values()), RECIPE, *REPORTS]
    return ConvertedCheckpoint(counted, verifications, tuple(output / name for name in names), seconds)


def _convert(*arguments: Any, **options: Any) -> Network:
    """What a conversion adds, such as an SBB encoder, has the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return convert(*arguments, **options)
