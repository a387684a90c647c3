"""PAM's paths on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binmat.errors import InputError

if TYPE_CHECKING:
    from binmat.model_defs.network import Network


def static_path(network: Network, path: str | None, cost_limit: float | None, size: tuple[int, int] | None) -> Network:
    """One path of PAM as a network of its own; any network as it is where neither a path nor a limit is given.

    path: four bits. cost_limit: G multiply-accumulates at the size (by default the registry's): the dearest path
    within it. Raises InputError for a network without paths, a path or a limit that does not exist, and both at once.
    """
    from binmat.model_defs.pam import PAM
    from binmat.model_defs.registry import get_spec

    if path is None and cost_limit is None:
        return network
    if not isinstance(network, PAM):
        raise InputError(f"{network.name} has no paths: leave out --{'path' if path is not None else 'cost-limit'}")
    if cost_limit is not None:
        if path is not None:
            raise InputError("give --path or --cost-limit, not both")
        path = network.dearest_path(cost_limit, *(size or get_spec(network.name).example_size))
    assert path is not None
    return network.path(path)
