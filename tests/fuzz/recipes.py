"""Recipe files, and settings of the command line; those that are valid are applied to a small network."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from random import Random

import tomli_w

import binmat
from binmat.transforms.recipe import get_recipe, recipe_names
from fuzz.mutations import damage_bytes, damage_document
from fuzz.small_networks import SIZE, build

#: What takes a parser long, or too deep.
_BOMBS = (b"v = " + 50_000 * b"[", b"a." * 5000 + b"a = 1", b"[[a]]\n" * 20_000, b"v=" + b"9" * 9999)


class Recipes:
    name = "recipes"
    mutations = 1500
    time_limit = 20.0

    def seeds(self) -> list[bytes]:
        rules = 'scheme = "xnor"\n[options]\nestimator = "clip"\n[layers]\n"0" = "float"\n"kind:conv" = "bnn"\n'
        return [rules.encode(), *(get_recipe(name).to_toml().encode() for name in recipe_names())]

    def mutate(self, content: bytes, seeds: Sequence[bytes], chance: Random) -> bytes:
        if chance.random() < 0.4:
            return damage_bytes(content, seeds, chance)
        if chance.random() < 0.05:
            return chance.choice(_BOMBS)
        try:
            return tomli_w.dumps(damage_document(tomllib.loads(content.decode()), chance)).encode()
        except (TypeError, ValueError, AttributeError):  # What TOML has no word for.
            return damage_bytes(content, seeds, chance)

    def open(self, content: bytes, folder: Path) -> None:
        path = folder / "mine.toml"
        path.write_bytes(content)
        recipe = get_recipe(path)
        words = {key: str(value).lower() if isinstance(value, bool) else value for key, value in recipe.options.items()}
        recipe.with_settings([f"options.{key}={word}" for key, word in words.items()])
        binmat.convert(build(), recipe=recipe, size=SIZE)
