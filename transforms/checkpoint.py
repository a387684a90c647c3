"""Write a converted network to one safetensors file, and read any checkpoint, float or converted."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from binmat.atomic_write import atomic_write
from binmat.errors import CheckpointError
from binmat.model_defs import registry
from binmat.model_defs.conversion_facts import ConversionFacts
from binmat.model_defs.load import fill, load_from_state, load_state
from binmat.model_defs.load import load as load_float
from binmat.model_defs.network import Network
from binmat.model_defs.weights_metadata import WeightsMetadata, read_weights_metadata
from binmat.nn import BinaryLayer

from . import official_bimatting
from .convert import convert, recipe_of
from .recipe import Recipe


def save(network: Network, path: str | Path) -> None:
    """Write the trainable weights, with the network's name, recipe, size and downsample ratio in the metadata.

    So is the training's progress (:func:`binmat.nn.set_progress`), which ReCU needs to go on where it was.

    A tensor under two names is written once. The write is atomic. Raises CheckpointError for a network that the
    registry cannot build again, and where the file cannot be written.
    """
    if network.name not in registry.NETWORKS:
        raise CheckpointError(f"'{network.name}' is not a network of the registry: save its state_dict instead")
    recipe = recipe_of(network)
    facts = network.conversion or ConversionFacts()
    toml = recipe.to_toml() if recipe else None
    progress = {name: layer.progress for name, layer in _binary_layers(network).items() if layer.progress}
    about = WeightsMetadata(network.name, network.config, toml, facts.size, facts.downsample_ratio, progress)
    path = Path(path)
    try:
        with atomic_write(path) as temporary:
            save_file(_unique_state(network), temporary, metadata=about.to_header())
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be written: {error}") from error


def load(path: str | Path, network: str | None = None) -> Network:
    """Read a checkpoint: an official one, a converted ``model.safetensors``, or the folder that holds it.

    network: a registry name, where the keys alone should not decide. The result is in evaluation mode and takes the
    official call. The authors' BiMatting (``bimatting``) is loaded as the network that the recipe of that name makes of
    RVM. What binmat saved comes with its conversion record. Raises CheckpointError.

    >>> from tempfile import TemporaryDirectory
    >>> network = convert(registry.build("modnet"), "bnn", size=(64, 96))
    >>> with TemporaryDirectory() as folder:
    ...     save(network, f"{folder}/model.safetensors")
    ...     again = load(folder)
    >>> again.conversion == network.conversion, again.conversion.size
    (True, (64, 96))
    """
    path = Path(path)
    if path.is_dir() and (path / "model.safetensors").is_file():
        path = path / "model.safetensors"
    about = read_weights_metadata(path)
    if about is None:
        return _load_official(path, network)
    result = registry.build(about.network, **about.config)
    if about.recipe is not None:
        recipe = Recipe.from_toml(about.recipe, str(path))
        result = convert(result, recipe=recipe, size=about.size, downsample_ratio=about.downsample_ratio)
    state = load_file(path)
    expected = _unique_state(result)
    if state.keys() != expected.keys():
        missing, extra = expected.keys() - state.keys(), state.keys() - expected.keys()
        raise CheckpointError(
            f"{path} does not fit its own recipe: {len(missing)} tensors missing {sorted(missing)[:3]}, "
            f"{len(extra)} left over {sorted(extra)[:3]}; convert the float checkpoint again"
        )
    result.load_state_dict(state, strict=False)
    layers = _binary_layers(result)
    for name, fraction in about.progress.items():
        layers[name].progress = fraction
    return result.eval()


def _load_official(path: Path, network: str | None) -> Network:
    if network not in (None, "bimatting"):
        return load_float(path, network)
    state = load_state(path)
    if not official_bimatting.recognise(state):
        if network is not None:
            raise CheckpointError(f"{path} does not hold official BiMatting: leave the network's name out")
        return load_from_state(state, path)
    state, refiner = official_bimatting.translate(state, path)
    result = convert(registry.build("rvm_mobilenetv3", refiner=refiner), recipe="bimatting")
    fill(result, state, path)
    return result.eval()


def _binary_layers(network: nn.Module) -> dict[str, BinaryLayer]:
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, BinaryLayer)}


def _unique_state(network: nn.Module) -> dict[str, Tensor]:
    """The state_dict with each tensor under its first name only (MODNet registers its backbone twice)."""
    seen: set[int] = set()
    state = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            state[name] = tensor.detach().contiguous()
    return state
