"""binmat recipes."""

from __future__ import annotations

from binmat.cli.options import JsonFlag


def recipes(as_json: JsonFlag = False) -> None:
    """List the recipes: scheme, policy and structure of a conversion, each a small TOML file.

    \b
    Example:
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
    rows = [
        [
            name,
            recipe.scheme,
            recipe.padding,
            recipe.shortcut,
            "\n".join(f"{pattern} = {value}" for pattern, value in recipe.layers.items()) or "-",
        ]
        for name, recipe in found.items()
    ]
    heads = dict.fromkeys(("recipe", "scheme", "padding", "shortcut", "rules for layers"), "left")
    print_table(heads, rows)
    for name, recipe in found.items():
        say(f"{name}: {recipe.description}", indent="  ")
    say("A scheme's name alone is a recipe too: binmat convert ... --scheme NAME")
