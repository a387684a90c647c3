"""A recipe: the small TOML file that says how to convert a network."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from binmat.errors import LONGEST_NAME, RecipeError, UnknownNameError, suggestion
from binmat.model_defs.network import Network
from binmat.nn import BinaryLayer
from binmat.quantizers import Scheme, get_scheme

from .activation import ReplaceActivations
from .binarize import Binarize
from .graph_pass import GraphPass
from .places import BlockTable, DecoderTable, EncoderTable, PlanTable
from .sab import sab_decoder
from .sbb import sbb_encoder
from .shortcut import AddShortcuts

#: Characters of a recipe, and dots in a line of it: Python's TOML reader takes the square of a dotted key's length.
_LARGEST, _MOST_DOTS = 200_000, 300
#: Field -> the value with which the table of that name counts.
_TABLES = {"encoder": "sbb", "decoder": "sab"}
_FOLDER = resources.files("binmat.transforms") / "recipes"
#: What pydantic's error types mean to the author of a recipe; in braces what they have in their context.
_FAULTS = {
    "bool_type": "it must be true or false",
    "dict_type": "it must be a table",
    "greater_than_equal": "it must be at least {ge}",
    "int_type": "it must be a whole number",
    "less_than_equal": "it must be at most {le}",
    "literal_error": "it must be {expected}",
    "missing": "it is missing",
    "model_type": "it must be a table",
    "string_pattern_mismatch": "it must be the name of a part, for example 'mask_head' or 'decoder.mask_head'",
    "string_type": "it must be a string, in quotation marks",
    "too_long": "it must have at most {max_length} entries",
    "too_short": "its list must not be empty",
    "value_error": "{error}",
}
#: What the lists hold that do not hold names.
_LISTS = {"blocks": "tables", "tail": "whole numbers", "features": "whole numbers"}


class Recipe(BaseModel):
    """What :func:`binmat.convert` does to a network; written as TOML.

    scheme: the binarization scheme of every layer that no rule names.
    options: the scheme's settings, for example ``estimator = "clip"``.
    encoder: ``keep``, or ``sbb``: BiMatting's encoder replaces the network's.
    block_shortcut: of that encoder's blocks: ``official`` (where the size changes, as in the authors' code) or
        ``paper`` (always, Eq. 7).
    decoder: ``keep``, or ``sab``: BiMatting's sparse-assisted decoder.
    sbb, sab: where the two go, for networks that do not say so themselves, and how wide they are: see
        :class:`binmat.transforms.places.EncoderTable` and :class:`binmat.transforms.places.DecoderTable`. A table whose
        half of BiMatting is not chosen is refused.
    keep_activations: layers, by name or pattern, whose activation the scheme does not replace.
    layers: policy rules, pattern -> ``float`` or a scheme (see :func:`binmat.transforms.policy.resolve`).
    padding: what a binary convolution's padding holds: ``zero`` (what the papers train) or ``one`` (what every
        1-bit kernel runs fastest).
    shortcut: ``none``, ``same`` or ``all``: see :class:`binmat.transforms.shortcut.AddShortcuts`.

    >>> recipe = Recipe(scheme="bnn").with_settings(["padding=one", "decoder.*=float"])
    >>> recipe.padding, recipe.layers
    ('one', {'decoder.*': 'float'})
    >>> from torch import nn
    >>> from binmat.transforms.trace import trace
    >>> [type(step).__name__ for step in recipe.passes(trace(nn.Conv2d(3, 1, 1)))]
    ['Binarize', 'ReplaceActivations']
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "custom"
    description: str = ""
    scheme: str = "reactnet"
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    padding: Literal["zero", "one"] = "zero"
    shortcut: Literal["none", "same", "all"] = "none"
    encoder: Literal["keep", "sbb"] = "keep"
    block_shortcut: Literal["official", "paper"] = "official"
    decoder: Literal["keep", "sab"] = "keep"
    keep_activations: tuple[str, ...] = ()
    sbb: EncoderTable = EncoderTable()
    sab: DecoderTable = DecoderTable()
    layers: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        for field, table in _TABLES.items():
            if getattr(self, table).model_fields_set and getattr(self, field) != table:
                raise ValueError(f"[{table}] would have no effect: set {field} = '{table}' too, or leave the table out")
        return self

    def build_scheme(self) -> Scheme:
        """The scheme with its options. Raises UnknownNameError or RecipeError."""
        return get_scheme(self.scheme, **self.options)

    def passes(self, network: Network) -> list[GraphPass[Network]]:
        """The rewrites of this traced network that the recipe stands for, in order.

        Raises PolicyError where neither the recipe nor the network says where the encoder or the decoder goes.
        """
        already = {name for name, module in network.named_modules() if isinstance(module, BinaryLayer)}
        passes: list[GraphPass[Network] | None] = [
            self._encoder(network) if self.encoder == "sbb" else None,
            sab_decoder(network, self.sab.insertion_point(network)) if self.decoder == "sab" else None,
            Binarize(self.build_scheme(), self.layers, pad_value=1 if self.padding == "one" else 0),
            # A shortcut stands between batch norm and activation: the activation is replaced while it still follows.
            ReplaceActivations(self.keep_activations, already),
            None if self.shortcut == "none" else AddShortcuts(self.shortcut, already),
        ]
        return [step for step in passes if step is not None]

    def _encoder(self, network: Network) -> GraphPass[Network]:
        plan = None if self.sbb.plan is None else self.sbb.plan.plan(self.block_shortcut)
        return sbb_encoder(network, self.block_shortcut, self.sbb.insertion_point(network), plan)

    def _fields(self) -> dict[str, Any]:
        """Everything, without empty tables."""
        return {name: value for name, value in self.model_dump().items() if value or name not in _TABLES.values()}

    def to_toml(self) -> str:
        return tomli_w.dumps(self._fields())

    @classmethod
    def from_toml(cls, text: str, source: str) -> Recipe:
        """Read a recipe; source names the text in errors. Raises RecipeError."""
        if len(text) > _LARGEST or any(line.count(".") > _MOST_DOTS for line in text.splitlines()):
            raise RecipeError(f"{source} has more characters, or more dots in a line, than a recipe needs")
        try:
            return _validated(tomllib.loads(text), source)
        except (ValueError, RecursionError) as error:  # Not only TOMLDecodeError: int() of a long number, deep nesting.
            raise RecipeError(f"{source} is not valid TOML: {error}") from error

    def with_settings(self, settings: Iterable[str]) -> Recipe:
        """Apply ``KEY=VALUE`` settings.

        KEY is a field of the recipe (``padding``), an option of the scheme (``options.estimator``), or else a policy
        pattern (``decoder.*``, ``kind:depthwise``) whose value is ``float`` or a scheme. The recipe's own tables go
        where the settings keep the encoder or the decoder. Raises RecipeError.
        """
        data = self._fields()
        given = set()
        for setting in settings:
            key, separator, value = setting.partition("=")
            key, value = key.strip(), value.strip()
            if not separator or not key or not value:
                raise RecipeError(f"setting '{setting}' is not KEY=VALUE, for example --set 'decoder.*=float'")
            if key.startswith("options."):
                data["options"][key.removeprefix("options.")] = _literal(value)
            elif key in Recipe.model_fields and key not in ("options", "layers"):
                data[key] = _literal(value)
                given.add(key)
            else:
                # Later rules win among equals, so a repeated pattern moves to the end.
                data["layers"].pop(key, None)
                data["layers"][key] = value
        for field, table in _TABLES.items():
            if data[field] == "keep" and table not in given:
                data.pop(table, None)
        return _validated(data, "--set")


def recipe_names() -> list[str]:
    """Names of the recipes that come with binmat."""
    return sorted(entry.name.removesuffix(".toml") for entry in _FOLDER.iterdir() if entry.name.endswith(".toml"))


def get_recipe(name: str | Path) -> Recipe:
    """A recipe by the name of a built-in one or by the path of a TOML file. Raises RecipeError, UnknownNameError."""
    path = Path(name)
    try:
        if path.suffix == ".toml" or path.is_file():
            return Recipe.from_toml(_text(path), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe file {str(path)[:LONGEST_NAME]} cannot be read: {error}") from error
    if str(name) not in recipe_names():
        raise UnknownNameError("recipe", str(name), recipe_names())
    return Recipe.from_toml((_FOLDER / f"{name}.toml").read_text(encoding="utf-8"), f"recipe {name}")


def _text(path: Path) -> str:
    """What a recipe file holds. Raises RecipeError for what is no file of a recipe's size, OSError."""
    if path.exists() and not path.is_file():
        raise RecipeError(f"recipe file {path} is no regular file: name a TOML file")
    if path.stat().st_size > _LARGEST:
        raise RecipeError(f"recipe file {path} has more than {_LARGEST:,} bytes, which no recipe needs")
    return path.read_text(encoding="utf-8")


def _validated(data: dict[str, Any], source: str) -> Recipe:
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        # A misspelt field may be missing too.
        first = min(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
        raise RecipeError(f"{source}: {_in_words(first)}") from error
    try:
        recipe.build_scheme()
        for value in recipe.layers.values():
            if value != "float":
                get_scheme(value)
    except RecipeError as error:
        raise RecipeError(f"{source}: {error}") from error
    return recipe


def _in_words(fault: ErrorDetails) -> str:
    """Where a recipe is wrong, and how, in the words of TOML."""
    place, kind = fault["loc"], fault["type"]
    text = _FAULTS[kind].format_map(fault.get("ctx", {})) if kind in _FAULTS else fault["msg"]
    if place[:1] == ("options",) and len(place) > 1:
        # pydantic complains of each type that an option may have.
        place, text = place[:2], "it must be a string, a number, true or false"
    elif kind == "tuple_type":
        text = f"it must be a list of {_LISTS.get(str(place[-1]), 'names')}"
    elif kind == "extra_forbidden":
        fields = _FIELDS[tuple(part for part in place[:-1] if isinstance(part, str))].model_fields
        text = f"there is no such field: {suggestion(str(place[-1]), fields)}known: {', '.join(fields)}"
    where = ".".join(str(part) for part in place)
    return f"{where[:LONGEST_NAME]}: {text}" if where else text


#: Table -> the class that has its fields.
_FIELDS: dict[tuple[str, ...], type[BaseModel]] = {
    (): Recipe,
    ("sbb",): EncoderTable,
    ("sbb", "plan"): PlanTable,
    ("sbb", "plan", "blocks"): BlockTable,
    ("sab",): DecoderTable,
}


def _literal(value: str) -> Any:
    """A number or boolean as TOML reads it; anything else is a string."""
    try:
        return tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return value
