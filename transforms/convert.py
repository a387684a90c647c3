"""Convert a float network: trace it, plan its layers, rewrite it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from binmat.errors import CheckpointError, RecipeError
from binmat.model_defs.conversion_facts import ConversionFacts
from binmat.model_defs.example_inputs import check_pixels, example_inputs
from binmat.model_defs.network import Example, Network
from binmat.quantizers import get_scheme

from .binarize import Binarize
from .changed_parts import ChangedParts
from .collector import collector_waits
from .executed import check_executed
from .functions_to_layers import FunctionsToLayers
from .parametrizations import copied
from .policy import LayerPlan
from .recipe import Recipe, get_recipe
from .trace import trace
from .trace_check import check_trace


@dataclass(frozen=True, kw_only=True)
class Conversion(ConversionFacts):
    """The record of a conversion, ``Network.conversion``, made by :func:`convert`.

    recipe: what was applied. plan: layer -> what became of it. :func:`binmat.save` writes recipe, size and downsample
    ratio; the rest follows from them.

    >>> made = convert(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 1, 1)), "bnn", size=(8, 8)).conversion
    >>> made.recipe.scheme, made.size, made.plan["1"].reason
    ('bnn', (8, 8), "last layer: it makes the network's output")
    """

    recipe: Recipe
    plan: Mapping[str, LayerPlan]


@collector_waits()
def convert(
    network: nn.Module,
    scheme: str | None = None,
    *,
    recipe: Recipe | str | Path | None = None,
    settings: Iterable[str] = (),
    size: tuple[int, int] | None = None,
    downsample_ratio: float | None = None,
    example: Example | None = None,
) -> Network:
    """A binarized copy of the network, ready to train, count and export; the original is left alone.

    network: a :class:`Network` or any other module. A converted one is copied for another size; it takes no scheme,
        recipe or settings.
    scheme: a scheme's name, short for a recipe that applies it to all but the input and output layers.
    recipe: a :class:`Recipe`, the name of a built-in one, or the path of a TOML file.
    settings: ``KEY=VALUE`` changes to the recipe (see :meth:`Recipe.with_settings`).
    size: (height, width) for exporting and counting where no other is given. downsample_ratio: likewise.
    example: one call of a module that is no :class:`Network`, see
        :class:`binmat.transforms.traced_module.TracedModule`. By default it is called with one image of this size.

    The result takes the same call as the network; its ``conversion`` tells how it was made. Raises the errors of
    recipes, policies and tracing, those of :func:`binmat.model_defs.example_inputs.example_inputs` for size and ratio,
    and CheckpointError for a recipe on a converted network.

    >>> network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 1, 1))
    >>> [type(layer).__name__ for layer in convert(network, "reactnet").children()]
    ['Conv2d', 'BinaryConv2d', 'RPReLU', 'Conv2d']
    """
    settings = tuple(settings)
    if size is not None:
        check_pixels(size)
    made_by = recipe_of(network)
    if made_by is not None and (scheme is not None or recipe is not None or settings):
        raise CheckpointError("the network is converted already; convert the float checkpoint instead")
    chosen = made_by or _choose_recipe(scheme, recipe).with_settings(settings)
    result = trace(copied(network), size, example)
    if isinstance(network, Network) and not network.programs and not type(network).__module__.startswith("binmat."):
        check_trace(result)  # Those of binmat are checked by its tests.
    _check_call(result, size, downsample_ratio)
    plan = _rewrite(result, chosen) if made_by is None else plan_of(network)
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
    """Apply the recipe's passes; returns what became of each layer."""
    plan: dict[str, LayerPlan] = {}
    notes: dict[str, str] = {}
    parts = ChangedParts(network)
    for step in (FunctionsToLayers(), *recipe.passes(network)):
        parts.compare(step.apply(network))
        notes |= step.notes
        if isinstance(step, Binarize):
            plan |= step.plan
    parts.refuse(network)
    check_executed(network, [name for name, layer in plan.items() if layer.scheme is not None])
    return {name: replace(layer, note=notes.get(name, "")) for name, layer in plan.items()}


def recipe_of(network: nn.Module) -> Recipe | None:
    """The recipe that made this network; None for a float one."""
    made = getattr(network, "conversion", None)
    return made.recipe if isinstance(made, Conversion) else None


def plan_of(network: nn.Module) -> Mapping[str, LayerPlan]:
    """Layer name -> plan of a converted network; empty for a float one."""
    made = getattr(network, "conversion", None)
    return made.plan if isinstance(made, Conversion) else {}


def _choose_recipe(scheme: str | None, recipe: Recipe | str | Path | None) -> Recipe:
    if scheme is not None and recipe is None:
        return Recipe(name=scheme, scheme=get_scheme(scheme).name)
    if recipe is None or scheme is not None:
        raise RecipeError("pass a scheme or a recipe, one of the two")
    return recipe if isinstance(recipe, Recipe) else get_recipe(recipe)
