"""The one call that makes a float network binary: trace, plan, rewrite."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from binmat.errors import CheckpointError, RecipeError
from binmat.model_defs.conversion_facts import ConversionFacts
from binmat.model_defs.example_inputs import example_inputs
from binmat.model_defs.network import Network
from binmat.quantizers import get_scheme

from .binarize import Binarize
from .policy import LayerPlan
from .recipe import Recipe, get_recipe
from .trace import trace


@dataclass(frozen=True, kw_only=True)
class Conversion(ConversionFacts):
    """The record of a conversion, ``Network.conversion``: made once, by :func:`convert`.

    :func:`binmat.save` writes recipe, size and downsample ratio, from which the rest follows; :func:`binmat.load` makes
    the record again.

    recipe: what was applied. plan: layer -> what became of it.

    >>> made = convert(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 1, 1)), "bnn", size=(8, 8)).conversion
    >>> made.recipe.scheme, made.size, made.plan["1"].reason
    ('bnn', (8, 8), "last layer: it makes the network's output")
    """

    recipe: Recipe
    plan: Mapping[str, LayerPlan]


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

    network: a :class:`Network` or any module that torch.fx can trace. One that is converted already is taken without
        scheme, recipe and settings: the copy is the same network for another size.
    scheme: a scheme's name, short for a recipe that applies it to all but the input and output layers.
    recipe: a :class:`Recipe`, the name of a built-in one, or the path of a TOML file.
    settings: ``KEY=VALUE`` changes to the recipe (see :meth:`Recipe.with_settings`).
    size: (height, width) that it is meant for: checked against what the network takes, and then what exporting and
        counting take where no size is given. downsample_ratio: likewise.

    The result takes the same call as the network. Its ``conversion`` tells how it was made; see :func:`recipe_of` and
    :func:`plan_of`. Raises the errors of recipes, policies and tracing, those of
    :func:`binmat.model_defs.example_inputs.example_inputs` for size and ratio, and CheckpointError where the network is
    converted already.

    >>> network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 1, 1))
    >>> [type(layer).__name__ for layer in convert(network, "reactnet").children()]
    ['Conv2d', 'BinaryConv2d', 'RPReLU', 'Conv2d']
    """
    settings = tuple(settings)
    made = _conversion_of(network)
    if made is not None and (scheme is not None or recipe is not None or settings):
        raise CheckpointError("the network is converted already; convert the float checkpoint instead")
    chosen = _choose_recipe(scheme, recipe).with_settings(settings) if made is None else made.recipe
    result = trace(copy.deepcopy(network))
    _check_call(result, size, downsample_ratio)
    plan = _rewrite(result, chosen) if made is None else made.plan
    before = result.conversion or ConversionFacts()
    result.conversion = Conversion(
        recipe=chosen,
        plan=plan,
        size=before.size if size is None else (size[0], size[1]),
        downsample_ratio=before.downsample_ratio if downsample_ratio is None else downsample_ratio,
        side_outputs=before.side_outputs,
    )
    # A sparse decoder needs more than the network alone.
    _check_call(result, size, downsample_ratio)
    return result


def _check_call(network: Network, size: tuple[int, int] | None, downsample_ratio: float | None) -> None:
    if size is not None or downsample_ratio is not None:
        example_inputs(network, size, downsample_ratio)


def _rewrite(network: Network, recipe: Recipe) -> dict[str, LayerPlan]:
    """Apply the recipe's passes; what became of each layer."""
    plan: dict[str, LayerPlan] = {}
    notes: dict[str, str] = {}
    for step in recipe.passes(network):
        step.apply(network)
        notes |= step.notes
        if isinstance(step, Binarize):
            plan |= step.plan
    return {name: replace(layer, note=notes.get(name, "")) for name, layer in plan.items()}


def recipe_of(network: nn.Module) -> Recipe | None:
    """The recipe that made this network; None for a float one."""
    made = _conversion_of(network)
    return made.recipe if made else None


def plan_of(network: nn.Module) -> Mapping[str, LayerPlan]:
    """Layer name -> plan of a converted network; empty for a float one."""
    made = _conversion_of(network)
    return made.plan if made else {}


def _conversion_of(network: nn.Module) -> Conversion | None:
    made = network.conversion if isinstance(network, Network) else None
    return made if isinstance(made, Conversion) else None


def _choose_recipe(scheme: str | None, recipe: Recipe | str | Path | None) -> Recipe:
    if (scheme is None) == (recipe is None):
        raise RecipeError("pass a scheme or a recipe, one of the two")
    if scheme is not None:
        return Recipe(name=scheme, scheme=get_scheme(scheme).name)
    assert recipe is not None
    return recipe if isinstance(recipe, Recipe) else get_recipe(recipe)
