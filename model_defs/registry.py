"""The networks binmat knows, by name."""

from __future__ import annotations

from typing import Any

from binmat.errors import UnknownNameError
from binmat.model_defs import bgmv2, deeplabv3, litematting, lsa_matting, modnet, pam, rvm
from binmat.model_defs.network import Network, NetworkSpec

_FILES = (rvm, modnet, litematting, lsa_matting, pam, bgmv2, deeplabv3)

#: Name -> spec, in the order in which a checkpoint is tried against them.
NETWORKS: dict[str, NetworkSpec] = {spec.name: spec for file in _FILES for spec in file.SPECS}


def get_spec(name: str) -> NetworkSpec:
    """What the registry knows of a network. Raises UnknownNameError."""
    if name not in NETWORKS:
        raise UnknownNameError("network", name, NETWORKS)
    return NETWORKS[name]


def build(name: str, **config: Any) -> Network:
    """A network with fresh weights; config overrides the spec's constructor arguments. Raises UnknownNameError."""
    spec = get_spec(name)
    return spec.build(**{**spec.config, **config})
