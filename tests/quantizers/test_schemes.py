"""Schemes: those of the papers by name, options, errors, and one of the user's own."""

from __future__ import annotations

import copy
import json
import pickle
import tomllib

import pytest
import torch
from torch.nn import functional as F

from binmat.errors import RecipeError, UnknownNameError
from binmat.nn import BinaryConv2d
from binmat.quantizers import SCHEMES, ActivationBinarizer, Scheme, WeightBinarizer, get_scheme
from binmat.quantizers.scheme import OPTIONS


def test_the_schemes_are_there_and_described() -> None:
    seven = {"bnn", "xnor", "dorefa", "recu", "reactnet", "threshold", "bimatting"}
    assert set(SCHEMES) == seven | {"dorefa_signed", "xnor_official", "birealnet", "irnet", "fda", "reste"}
    for name, scheme in SCHEMES.items():
        assert scheme.name == name
        assert scheme.summary and "\n" not in scheme.summary
        assert scheme.source and "\n" not in scheme.source
        for term in ("o = ", "dL/dx = ", "dL/dw = " if name != "recu" else "dL/dw2 = "):
            assert term in scheme.description


@pytest.mark.parametrize(
    ("name", "levels", "threshold", "estimators", "scale", "replacement"),
    [
        ("bnn", "signed", "none", ("clip", "clip"), "none", "keep"),
        ("xnor", "signed", "none", ("clip", "clip"), "channel", "keep"),
        ("dorefa", "unsigned", "none", ("identity", "clip"), "layer", "keep"),
        ("dorefa_signed", "signed", "none", ("clip", "clip"), "channel", "keep"),
        ("recu", "signed", "none", ("identity", "polynomial"), "learnable", "keep"),
        ("reactnet", "signed", "channel", ("clip", "polynomial"), "channel", "rprelu"),
        ("threshold", "signed", "layer", ("clip", "clip"), "channel", "keep"),
        ("bimatting", "signed", "channel", ("clip", "clip"), "channel", "shifted_prelu"),
        ("xnor_official", "signed", "none", ("clip", "clip"), "channel", "keep"),
        ("birealnet", "signed", "none", ("clip", "polynomial"), "channel", "identity"),
        ("irnet", "signed", "none", ("ede", "ede"), "power_of_two", "hardtanh"),
        ("fda", "signed", "none", ("fourier", "fourier"), "channel", "keep"),
        ("reste", "signed", "none", ("power", "power"), "layer", "keep"),
    ],
)
def test_each_scheme_is_its_papers(
    name: str, levels: str, threshold: str, estimators: tuple[str, str], scale: str, replacement: str
) -> None:
    scheme = get_scheme(name)
    assert scheme.activation.levels == levels
    assert scheme.activation.threshold == threshold
    assert (scheme.weight.estimator, scheme.activation.estimator) == estimators
    assert scheme.weight.scale_kind == scale
    assert scheme.replacement == replacement
    assert scheme.input_scale_map is False


def test_options_set_one_field_each() -> None:
    assert get_scheme("reactnet", estimator="clip").activation.estimator == "clip"
    assert get_scheme("reactnet", weight_estimator="identity").weight.estimator == "identity"
    assert get_scheme("reactnet", threshold="layer").activation.threshold == "layer"
    assert get_scheme("bnn", scale="channel").weight.scale_kind == "channel"
    assert get_scheme("bnn", activation="unsigned").activation.levels == "unsigned"
    assert get_scheme("xnor", input_scale_map=True).input_scale_map is True
    assert get_scheme("threshold", replacement="rprelu").replacement == "rprelu"
    assert get_scheme("reactnet", estimator="clip").weight == SCHEMES["reactnet"].weight
    assert get_scheme("dorefa", activation="signed").weight == SCHEMES["dorefa"].weight


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("options", [{}, {"estimator": "clip"}, {"activation": "signed"}, {"input_scale_map": True}])
def test_options_survive_json_and_toml(name: str, options: dict[str, object]) -> None:
    scheme = get_scheme(name, **options)
    assert get_scheme(name, **json.loads(json.dumps(scheme.options()))) == scheme
    toml = "\n".join(f"{option} = {json.dumps(value)}" for option, value in scheme.options().items())
    assert get_scheme(name, **tomllib.loads(toml)) == scheme
    assert scheme.options().keys() == OPTIONS.keys()


def test_schemes_are_values() -> None:
    scheme = get_scheme("recu")
    assert pickle.loads(pickle.dumps(scheme)) == copy.deepcopy(scheme) == scheme
    assert len({scheme, get_scheme("recu"), get_scheme("recu", estimator="clip")}) == 2


def test_an_unknown_scheme_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean 'reactnet'\?"):
        get_scheme("react_net")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimater": "clip"}, "did you mean 'estimator'"),
        ({"name": "x"}, "an option of scheme 'reactnet' cannot be 'name'"),
        ({"estimator": "polynom"}, "estimator cannot be 'polynom': did you mean 'polynomial'"),
        ({"weight_estimator": 3}, "weight estimator cannot be 3"),
        ({"threshold": "chanel"}, "threshold cannot be 'chanel': did you mean 'channel'"),
        ({"scale": True}, "scale cannot be True"),
        ({"activation": ["signed"]}, "activation cannot be"),
        ({"input_scale_map": "true"}, "input_scale_map cannot be 'true'"),
        ({"replacement": "relu"}, "replacement cannot be 'relu'"),
    ],
)
def test_a_wrong_option_says_what_is_right(options: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as raised:
        get_scheme("reactnet", **options)
    assert "\n" not in str(raised.value)


def test_a_user_adds_a_scheme_in_ten_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Scheme(
        name="mine",
        weight=WeightBinarizer(method="centred", scale_kind="layer"),
        activation=ActivationBinarizer(threshold="channel", estimator="polynomial"),
        summary="centred weights, one scale, threshold per channel",
    )
    monkeypatch.setitem(SCHEMES, mine.name, mine)

    scheme = get_scheme("mine", estimator="clip")
    layer = BinaryConv2d(3, 4, 3, padding=1, scheme=scheme)
    x = torch.randn(2, 3, 5, 5)
    centred = layer.weight - layer.weight.mean((1, 2, 3), keepdim=True)
    expected = F.conv2d(torch.where(x >= 0, 1.0, -1.0), torch.where(centred >= 0, 1.0, -1.0), padding=1)
    expected = expected * centred.abs().mean() + layer.bias.view(-1, 1, 1)
    torch.testing.assert_close(layer(x), expected)
