"""Write a converted network to one safetensors file, and read any checkpoint, float or converted."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from binmat.atomic_write import atomic_write
from binmat.errors import BinmatError, CheckpointError, first_line
from binmat.model_defs import registry
from binmat.model_defs.checkpoint_file import read_safetensors, shown
from binmat.model_defs.conversion_facts import ConversionFacts
from binmat.model_defs.load import check_values, fill, load_from_state, load_state
from binmat.model_defs.load import load as load_float
from binmat.model_defs.network import Example, Network
from binmat.model_defs.weights_metadata import WeightsMetadata, read_weights_metadata
from binmat.nn import BinaryLayer
from binmat.quantizers.weight_methods import centred

from . import official_bimatting
from .convert import convert, recipe_of
from .factory import build_by_factory
from .recipe import Recipe
from .same_network import first_difference
from .trace import trace

_WAY_OUT = (
    "name a function of yours that builds the float network, binmat.save(..., factory='module:function'), or save the "
    "state_dict with torch.save"
)


def save(network: nn.Module, path: str | Path, *, factory: str | None = None) -> None:
    """Write the trainable weights, with the network's name, recipe, size and downsample ratio in the metadata.

    So is the training's progress (:func:`binmat.nn.set_progress`), which ReCU needs to go on where it was.

    factory: ``module:function``, for a network that the registry cannot build: the function that gives the float
    module, or (module, :class:`binmat.Example`) where it was converted with an example. The file names it and holds no
    code. Functions of ``__main__`` cannot be found again.

    The network is built again from the metadata, as :func:`load` will, and compared. A tensor under two names is
    written once. The write is atomic. Raises CheckpointError for a network that :func:`load` could not build again,
    with the first difference, and where the file cannot be written.
    """
    if not isinstance(network, Network):
        raise CheckpointError(f"{type(network).__name__} is not converted: binmat.convert it, or save its state_dict")
    if factory is None and not _is_of_the_registry(network):
        raise CheckpointError(f"'{network.name}' is not a network of the registry: {_WAY_OUT}")
    recipe = recipe_of(network)
    facts = network.conversion or ConversionFacts()
    toml = recipe.to_toml() if recipe else None
    progress = {name: layer.progress for name, layer in _binary_layers(network).items() if layer.progress}
    config = network.config if factory is None else {}
    path = Path(path)
    try:
        about = WeightsMetadata(network.name, config, toml, facts.size, facts.downsample_ratio, progress, factory)
    except ValidationError as error:
        first = error.errors()[0]
        raise CheckpointError(f"{network.name} cannot be saved, its {first['loc'][0]}: {first['msg']}") from error
    _check_comes_back(network, about, path)
    try:
        with atomic_write(path) as temporary:
            save_file(_unique_state(network), temporary, metadata=about.to_header())
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be written: {error}") from error


def load(path: str | Path, network: str | None = None, *, factory: str | None = None) -> Network:
    """Read a checkpoint: an official one, a converted ``model.safetensors``, or the folder that holds it.

    network: a registry name, where the keys alone should not decide. The result is in evaluation mode and takes the
    official call. The authors' BiMatting (``bimatting``) is loaded as the network that the recipe of that name makes of
    RVM. What binmat saved comes with its conversion record. Scheme xnor centred its weights up to version 1 of the
    metadata: the weights of such files are centred here, so that the network computes what it did.

    factory: the ``module:function`` that the file was saved with, if it was: the module is imported and the function
    called. So no file makes Python import anything that the caller did not name. Raises CheckpointError.

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
    _check_factory(path, None if about is None else about.factory, factory)
    if about is None:
        return _load_official(path, network)
    try:
        result = _build(about, path)
    except CheckpointError:
        raise
    except BinmatError as error:
        raise CheckpointError(
            f"{path} describes a network that cannot be built ({error}): convert the float checkpoint again"
        ) from error
    state = read_safetensors(path)
    expected = _unique_state(result)
    if state.keys() != expected.keys():
        missing, extra = expected.keys() - state.keys(), state.keys() - expected.keys()
        raise CheckpointError(
            f"{path} does not fit its own recipe: {len(missing)} tensors missing {sorted(missing)[:3]}, "
            f"{len(extra)} left over {sorted(extra)[:3]}; convert the float checkpoint again"
        )
    for name, tensor in state.items():
        want = expected[name]
        if tensor.shape != want.shape or not (tensor.dtype == want.dtype or _are_floats(tensor, want)):
            raise CheckpointError(
                f"{path} does not fit its own recipe: {name} is {_described(tensor)} instead of {_described(want)}; "
                "convert the float checkpoint again"
            )
        check_values(name, tensor.to(want.dtype), path)
    result.load_state_dict(state, strict=False)
    if about.version < 2:
        _centre_xnor(result)
    layers = _binary_layers(result)
    for name, fraction in about.progress.items():
        if name not in layers:
            raise CheckpointError(
                f"{path} has wrong metadata (progress of '{shown(name)}', which is no binary layer): "
                "convert the float checkpoint again"
            )
        layers[name].progress = fraction
    return result.eval()


def _build(about: WeightsMetadata, path: Path) -> Network:
    """The network that the metadata stand for, with fresh weights. Raises BinmatError."""
    module: nn.Module
    example: Example | None = None
    if about.factory is None:
        try:
            module = registry.build(about.network, **about.config)
        except TypeError as error:  # An argument that the constructor does not take.
            raise CheckpointError(
                f"{path} has wrong metadata (config: {first_line(error)}): convert the float checkpoint again"
            ) from error
    else:
        module, example = build_by_factory(about.factory)
    if about.recipe is not None:
        recipe = Recipe.from_toml(about.recipe, str(path))
        ratio = about.downsample_ratio
        return convert(module, recipe=recipe, size=about.size, downsample_ratio=ratio, example=example)
    return module if isinstance(module, Network) else trace(module, about.size, example)


def _check_comes_back(network: Network, about: WeightsMetadata, path: Path) -> None:
    """Raise CheckpointError where the metadata make another network."""
    try:
        with torch.random.fork_rng(devices=[]):
            again = _build(about, path)
    except CheckpointError:
        raise
    except BinmatError as error:
        raise CheckpointError(f"binmat.load could not build {network.name} again ({error}): {_WAY_OUT}") from error
    difference = first_difference(network, again)
    if difference:
        raise CheckpointError(f"binmat.load would build another {network.name}, here {difference}: {_WAY_OUT}")


def _check_factory(path: Path, saved: str | None, given: str | None) -> None:
    """Raise CheckpointError where the caller does not name the factory that the file was saved with."""
    if saved == given:
        return
    if saved is None:
        raise CheckpointError(f"{path} was saved without a factory: leave factory='{given}' out")
    asked = "" if given is None else f", not by '{given}'"
    raise CheckpointError(
        f"{path} holds a network that is built by '{saved}'{asked}: if you trust that code, pass factory='{saved}'"
    )


def _is_of_the_registry(network: Network) -> bool:
    spec = registry.NETWORKS.get(network.name)
    return spec is not None and type(network) is spec.build


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


@torch.no_grad()
def _centre_xnor(network: Network) -> None:
    """Make scheme xnor compute what it did up to version 1 of the metadata, when it centred its weights."""
    for layer in _binary_layers(network).values():
        if layer.scheme.name == "xnor":
            layer.weight.copy_(centred(layer.weight))


def _are_floats(*tensors: Tensor) -> bool:
    return all(tensor.is_floating_point() for tensor in tensors)


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _unique_state(network: nn.Module) -> dict[str, Tensor]:
    """The state_dict with each tensor under its first name only (MODNet registers its backbone twice)."""
    seen: set[int] = set()
    state = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            state[name] = tensor.detach().contiguous()
    return state
