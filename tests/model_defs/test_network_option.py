"""Options that networks declare, and their reading from NAME=VALUE."""

from __future__ import annotations

import inspect

import pytest

from binmat.errors import InputError, UnknownNameError
from binmat.model_defs.network import Network
from binmat.model_defs.network_option import NetworkOption, parse_options
from binmat.model_defs.registry import NETWORKS
from binmat.model_defs.trimap_network import TrimapNetwork

OPTIONS = (NetworkOption("path", str, ""), NetworkOption("steps", int, ""), NetworkOption("limit", float, ""))


def test_values_have_the_declared_types() -> None:
    read = parse_options("net", OPTIONS, ["path=0110", "steps=3", "limit=2.5"])
    assert read == {"path": "0110", "steps": 3, "limit": 2.5}
    assert parse_options("net", OPTIONS, ["path=a=b"]) == {"path": "a=b"}
    assert parse_options("net", (), ()) == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["steps"], "'steps' is not NAME=VALUE"),
        (["steps=2.5"], "option steps cannot be '2.5': net takes it as int"),
        (["limit="], "option limit cannot be '': net takes it as float"),
        (["steps=1", "steps=2"], "option steps is given twice, as '1' and as '2'"),
    ],
)
def test_what_cannot_be_read(given: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_options("net", OPTIONS, given)


@pytest.mark.parametrize(
    ("options", "message"), [(OPTIONS, "did you mean 'limit'[?] known: limit, path, steps"), ((), "there is none")]
)
def test_unknown_names(options: tuple[NetworkOption, ...], message: str) -> None:
    with pytest.raises(UnknownNameError, match=f"no option of net is called 'limits': {message}"):
        parse_options("net", options, ["limits=1"])


@pytest.mark.parametrize("name", NETWORKS)
def test_predict_and_specialised_take_what_is_declared(name: str) -> None:
    network = NETWORKS[name].build
    method, base = network.predict, Network.predict
    if issubclass(network, TrimapNetwork):
        method, base = network.estimate, TrimapNetwork.estimate
    own = inspect.signature(method).parameters.keys() - inspect.signature(base).parameters
    own -= {"background"} if network.takes_background else set()
    assert sorted(own) == sorted(option.name for option in network.options)
    specialised = inspect.signature(network.specialised).parameters
    assert all((option.name in specialised) == option.converts for option in network.options)
