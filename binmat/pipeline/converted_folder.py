"""A converted folder: weights, recipe and report of a converted network, and a model file for each format."""

from __future__ import annotations

from pathlib import Path

from binmat.backends.registry import BACKENDS, get_backend
from binmat.errors import CheckpointError, ExportError, InputError
from binmat.model_defs.weights_metadata import WeightsMetadata, read_weights_metadata
from binmat.pipeline.deployment import deploy, read_model_file
from binmat.pipeline.memory_estimate import check_memory
from binmat.progress import Progress, silent
from binmat.reports import report
from binmat.stage import clear_stale_stages
from binmat.transforms.checkpoint import load
from binmat.verification.results import Verification

WEIGHTS = "model.safetensors"
RECIPE = "recipe.toml"
REPORTS = ("report.json", "report.md")


def model_name(format: str) -> str:
    """The name of a format's model file. Raises UnknownNameError."""
    return f"model{get_backend(format).suffix}"


def model_files(folder: Path) -> dict[str, Path]:
    """The model files in a folder, by format."""
    found = {format: folder / model_name(format) for format in BACKENDS}
    return {format: path for format, path in found.items() if path.is_file()}


def conversion_in(folder: Path) -> WeightsMetadata | None:
    """The metadata of the converted network in a folder; None for any other path."""
    about = read_weights_metadata(folder / WEIGHTS)
    return None if about is None or about.recipe is None else about


def read_converted(path: Path) -> WeightsMetadata:
    """The metadata of the converted network in a folder. Raises CheckpointError for any other path."""
    clear_stale_stages(path)
    about = conversion_in(path)
    if about is None:
        fault = f"is not a converted folder (no {WEIGHTS} of a conversion in it)" if path.exists() else "does not exist"
        raise CheckpointError(f"{path} {fault}: name a folder that binmat convert wrote")
    return about


def check_free(path: Path) -> None:
    """Raise InputError for a folder that holds anything but an earlier conversion."""
    if not path.is_dir():
        return
    left = clear_stale_stages(path)
    try:
        names = {entry.name for entry in path.iterdir()} - left
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): name another folder with -o") from error
    known = {WEIGHTS, RECIPE, *REPORTS, *map(model_name, BACKENDS)}
    foreign = sorted(names - known if conversion_in(path) else names)
    if foreign:
        others = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise InputError(
            f"{path} holds {foreign[0]}{others}, which is no earlier conversion: name a new or empty folder with -o"
        )


def verify_folder(
    folder: str | Path, clip: str | Path | None = None, progress: Progress = silent, *, factory: str | None = None
) -> dict[str, Verification]:
    """Compare each model file in a converted folder with the network in it; the results by format.

    clip: an image, a video or a folder of frames to run on instead of binmat's photograph. factory: of a network that
    was saved with one, as for :func:`binmat.load`.
    Differences are not raised: see :meth:`Verification.check`. Raises CheckpointError for a path that is no converted
    folder, ExportError for a model file that is missing or does not run, InputError for a clip that cannot be read.
    """
    folder = Path(folder)
    read_converted(folder)
    contents = {format: read_model_file(path) for format, path in model_files(folder).items()}
    if not contents:
        raise ExportError(f"{folder} holds no model file to verify: binmat export {folder} --format lce")
    network = load(folder, factory=factory)
    check_memory(network, job="deploy")
    found = {}
    for format, content in contents.items():
        deployment = deploy(network, format=format)
        found[format] = deployment.verify(content, deployment.clips(clip), progress)
    return found


def export_folder(
    folder: str | Path,
    format: str,
    output: str | Path | None = None,
    size: tuple[int, int] | None = None,
    downsample_ratio: float | None = None,
    progress: Progress = silent,
    *,
    factory: str | None = None,
) -> tuple[Path, Verification]:
    """Write the network in a converted folder as a model file again: after training, or for another size.

    Returns the path of the file and the verification that it passed before it was written.
    output: by default the format's file in the folder, whose report is then written anew. size, downsample_ratio: by
    default those that the network was converted for. factory: as for :func:`verify_folder`.
    Raises CheckpointError for a path that is no converted folder, UnknownNameError for an unknown format, InputError
    for an output that does not fit, VerificationError for a file that would be wrong, and the errors of
    :func:`binmat.export`.
    """
    folder = Path(folder)
    about, backend = read_converted(folder), get_backend(format)
    target = folder / model_name(format) if output is None else Path(output)
    asked = (size or about.size, about.downsample_ratio if downsample_ratio is None else downsample_ratio)
    if output is None and asked != (about.size, about.downsample_ratio):
        raise InputError(f"{target} is for the size that {folder} was converted for: name another file with -o")
    if not target.name.endswith(backend.suffix):
        raise InputError(
            f"{target} does not end in {backend.suffix}, as models for {backend.title} do: name another file with -o"
        )
    if not target.parent.is_dir():
        raise InputError(f"there is no folder {target.parent}: make it, or name another file with -o")
    network = load(folder, factory=factory)
    check_memory(network, size, downsample_ratio, job="deploy")
    deployment = deploy(network, size, downsample_ratio, format=format)
    verification = deployment.verify(progress=progress)
    verification.check()
    deployment.write(target)
    if output is None:
        found = verification.summary()
        for other, path in model_files(folder).items():
            if other != format:  # The report speaks of the whole folder.
                found |= deploy(network, format=other).verify(read_model_file(path)).summary()
        files = [folder / WEIGHTS, *model_files(folder).values()]
        counted = report(network, verification=found, files=files)
        for name in REPORTS:
            counted.save(folder / name)
    return target, verification
