"""The one call that makes a float network binary: trace, plan, rewrite."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from torch import nn

from binmat.errors import CheckpointError, RecipeError
from binmat.model_defs.network import Network
from binmat.quantizers import get_scheme

from .activation import ReplaceActivations
from .binarize import Binarize
from .policy import LayerPlan, resolve
from .recipe import Recipe, get_recipe
from .sab import sab_decoder
from .sbb import sbb_encoder
from .shortcut import AddShortcuts
from .trace import trace


def convert(
    network: nn.Module,
    scheme: str | None = None,
    *,
    recipe: Recipe | str | Path | None = None,
    settings: Iterable[str] = (),
    size: tuple[int, int] | None = None,
    downsample_ratio: float | None = None,
) -> Network:
    """A binarized copy of the network, ready to train, count and export; the original is left alone.

    network: a :class:`Network` or any module that torch.fx can trace.
    scheme: a scheme's name, short for a recipe that applies it to all but the input and output layers.
    recipe: a :class:`Recipe`, the name of a built-in one, or the path of a TOML file.
    settings: ``KEY=VALUE`` changes to the recipe (see :meth:`Recipe.with_settings`).
    size: (height, width) that it is meant for: checked against what the network takes, and then what exporting and
        counting take where no size is given. downsample_ratio: likewise.

    The result takes the same call as the network. ``recipe_of`` and ``plan_of`` tell how it was made.
    Raises the errors of recipes, policies and tracing, and CheckpointError where the network is binary already.
    """
    chosen = _choose_recipe(scheme, recipe).with_settings(settings)
    if recipe_of(network) is not None:
        raise CheckpointError("the network is converted already; convert the float checkpoint instead")
    if size is not None and isinstance(network, Network):
        network.check_size(*size)
    result = trace(copy.deepcopy(network))
    notes = _restructure(result, chosen)
    if size is not None and isinstance(network, Network):
        # A sparse decoder needs more than the network alone.
        result.check_size(*size)
    plan = resolve(result, chosen.build_scheme(), chosen.layers)
    plan = {name: replace(layer, note=notes.get(name, "")) for name, layer in plan.items()}
    Binarize(plan, pad_value=1 if chosen.padding == "one" else 0).apply(result)
    # A shortcut stands between batch norm and activation, so the activation is replaced while it still follows.
    ReplaceActivations(chosen.keep_activations).apply(result)
    if chosen.shortcut != "none":
        AddShortcuts(chosen.shortcut).apply(result)
    result.conversion = (chosen, plan)
    result.size = None if size is None else (size[0], size[1])
    result.downsample_ratio = downsample_ratio
    return result


def _restructure(network: Network, recipe: Recipe) -> dict[str, str]:
    """Change what layers there are, before any becomes binary; layer -> what happened to it."""
    notes: dict[str, str] = {}
    if recipe.encoder == "sbb":
        encoder = sbb_encoder(network, recipe.block_shortcut)
        encoder.apply(network)
        notes |= encoder.notes
    if recipe.decoder == "sab":
        decoder = sab_decoder(network)
        decoder.apply(network)
        notes |= decoder.notes
    return notes


def recipe_of(network: nn.Module) -> Recipe | None:
    """The recipe that made this network; None for a float one."""
    return network.conversion[0] if isinstance(network, Network) and network.conversion else None


def plan_of(network: nn.Module) -> dict[str, LayerPlan]:
    """Layer name -> plan of a converted network; empty for a float one."""
    return network.conversion[1] if isinstance(network, Network) and network.conversion else {}


def _choose_recipe(scheme: str | None, recipe: Recipe | str | Path | None) -> Recipe:
    if (scheme is None) == (recipe is None):
        raise RecipeError("pass a scheme or a recipe, one of the two")
    if scheme is not None:
        return Recipe(name=scheme, scheme=get_scheme(scheme).name)
    assert recipe is not None
    return recipe if isinstance(recipe, Recipe) else get_recipe(recipe)
