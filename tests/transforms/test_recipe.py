from __future__ import annotations

import os

import pytest

from binmat.errors import RecipeError, UnknownNameError
from binmat.transforms.recipe import Recipe, get_recipe, recipe_names


def test_every_built_in_recipe_is_named_after_its_file_and_survives_a_round_trip():
    assert "baseline" in recipe_names()
    for name in recipe_names():
        recipe = get_recipe(name)
        assert recipe.name == name
        assert recipe.description
        assert Recipe.from_toml(recipe.to_toml(), "test") == recipe


def test_settings_change_fields_options_and_layers():
    recipe = Recipe(scheme="reactnet").with_settings(
        ["padding=one", "options.estimator=clip", "decoder.*=float", "kind:depthwise = bnn"]
    )
    assert recipe.padding == "one"
    assert recipe.build_scheme().activation.estimator == "clip"
    assert recipe.layers == {"decoder.*": "float", "kind:depthwise": "bnn"}


def test_a_setting_that_repeats_a_rule_moves_it_to_the_end():
    recipe = Recipe(layers={"a*": "float", "b*": "float"}).with_settings(["a*=bnn"])
    assert list(recipe.layers.items()) == [("b*", "float"), ("a*", "bnn")]


@pytest.mark.parametrize("setting", ["padding", "=float", "padding="])
def test_a_setting_must_be_key_and_value(setting):
    with pytest.raises(RecipeError, match="KEY=VALUE"):
        Recipe().with_settings([setting])


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ("padding=two", RecipeError),
        ("options.estimator=wrong", RecipeError),
        ("options.nothing=1", RecipeError),
        ("scheme=reactnett", UnknownNameError),
        ("decoder.*=bin", UnknownNameError),
    ],
)
def test_wrong_values_are_refused_in_one_line(setting, error):
    with pytest.raises(error) as caught:
        Recipe().with_settings([setting])
    assert "\n" not in str(caught.value)


def test_the_nearest_scheme_is_named():
    with pytest.raises(UnknownNameError, match="did you mean 'reactnet'"):
        Recipe().with_settings(["scheme=reacnet"])


def test_files_are_read_and_their_faults_named(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\nscheme = "xnor"\n[layers]\n"head" = "float"\n')
    assert get_recipe(path).layers == {"head": "float"}
    path.write_text("scheme = \n")
    with pytest.raises(RecipeError, match=r"mine.toml is not valid TOML"):
        get_recipe(path)
    path.write_text("colour = 1\n")
    with pytest.raises(RecipeError, match="colour"):
        get_recipe(path)
    with pytest.raises(RecipeError, match="cannot be read"):
        get_recipe(tmp_path / "absent.toml")
    with pytest.raises(UnknownNameError, match="baseline"):
        get_recipe("basline")


@pytest.mark.parametrize(
    "text",
    [
        "v = " + 100_000 * "[",
        f"v = {'1' * 5000}",
        '"a\\nb" = 1',
        '[options]\n"x" = [1]',
        "[options]\n" + 3000 * "a." + "a=1",
    ],
)
def test_hostile_recipes_are_refused_in_one_line(text):
    with pytest.raises(RecipeError) as error:
        Recipe.from_toml(text, "mine.toml")
    assert "mine.toml" in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_recipe_files_of_the_wrong_kind(tmp_path):
    (tmp_path / "large.toml").write_text("#" * 1_000_001)
    os.mkfifo(tmp_path / "fifo.toml")
    for name in ("large.toml", "fifo.toml", "x" * 300, "x" * 300 + ".toml"):
        with pytest.raises(RecipeError, match="recipe file"):
            get_recipe(tmp_path / name)
