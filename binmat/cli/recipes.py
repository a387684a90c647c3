"""binmat recipes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binmat.cli.options import JsonFlag

if TYPE_CHECKING:
    from binmat.transforms.recipe import Recipe


def recipes(as_json: JsonFlag = False) -> None:
    """List the recipes. A recipe is a small TOML file: scheme, policy and structure of a conversion.

    \b
    Examples:
      binmat recipes
      binmat convert rvm_mobilenetv3.pth --recipe arm -o out
      binmat convert rvm_mobilenetv3.pth --recipe my_recipe.toml -o out
    """
    from binmat.cli.console import print_json, print_table, say
    from binmat.transforms.recipe import get_recipe, recipe_names

    found = {name: get_recipe(name) for name in recipe_names()}
    if as_json:
        print_json({name: recipe.model_dump() for name, recipe in found.items()})
        return
    rows = [[name, recipe.scheme, "\n".join(_settings(recipe))] for name, recipe in found.items()]
    print_table(("recipe", "scheme", "what else it sets"), rows, align="left")
    for name, recipe in found.items():
        say(f"{name}: {recipe.description}", indent="  ")
    say("The name of a scheme is a recipe too: binmat convert ... --scheme NAME")


def _settings(recipe: Recipe) -> list[str]:
    """What differs from the plain recipe of the scheme, in the form that --set takes."""
    changed = recipe.model_dump(exclude_defaults=True, exclude={"name", "description", "scheme", "options", "layers"})
    fields = {key: list(value) if isinstance(value, tuple) else value for key, value in changed.items()}
    options = {f"options.{key}": value for key, value in recipe.options.items()}
    return [f"{key} = {value}" for key, value in {**fields, **options, **recipe.layers}.items()]
