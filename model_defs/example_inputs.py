"""The example inputs with which a network is counted, exported and verified."""

from __future__ import annotations

from binmat.errors import SizeError
from binmat.model_defs.network import Example, Network
from binmat.model_defs.registry import NETWORKS


def example_inputs(
    network: Network,
    size: tuple[int, int] | None = None,
    downsample_ratio: float | None = None,
    example: Example | None = None,
) -> Example:
    """One frame, batch 1, at a fixed size.

    size: (height, width), by default the one that the network was converted for, else the registry's example size.
    downsample_ratio: by default likewise, else 1. example: the example inputs themselves, for modules that do not
    define theirs. Raises SizeError where no size is known or where it does not fit.
    """
    if example is not None:
        return network.flattened(example)
    size = size or (network.conversion.size if network.conversion else None)
    if size is None and network.name in NETWORKS:
        size = NETWORKS[network.name].example_size
    if size is None and network.traced_example is not None and not network.takes_an_image:
        return network.flattened(network.traced_example)
    if size is None:
        raise SizeError(f"{network.name} has no usual size: pass size=(height, width)")
    check_pixels(size)
    try:
        return network.example(*size, ratio_of(network, downsample_ratio))
    except NotImplementedError as error:
        raise SizeError(f"{error}: pass example=Example(mode, inputs, outputs)") from error


def check_pixels(size: tuple[int, int]) -> None:
    """Raise SizeError for what is no (height, width) or has a height or a width below 1."""
    if not isinstance(size, (tuple, list)) or len(size) != 2 or not all(isinstance(n, int) for n in size):
        raise SizeError(f"size must be (height, width), two whole numbers, not {size!r}")
    if min(size) < 1:
        raise SizeError(f"size {size[0]}x{size[1]} has no pixels: height and width must be at least 1")


def ratio_of(network: Network, downsample_ratio: float | None = None) -> float:
    """The downsample ratio: the one that is given, else the one that the network was converted for, else 1."""
    if downsample_ratio is not None:
        return downsample_ratio
    ratio = network.conversion.downsample_ratio if network.conversion else None
    return 1.0 if ratio is None else ratio
