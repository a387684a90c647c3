"""The sparse-assisted decoder: how much faster skipping is than computing everything, and what it saves on pictures.

    python benchmarks/sab.py [CHECKPOINT]

First table: the masked paths of BiMatting at 512x512. The mask is a ring of 1/16 cells, which leaves about a fifth of
the pixels active. The ratio is the time of the dense execution over that of the sparse one, each the best of several
runs that take turns. Second table: the same for one path as the density grows; binmat.nn.masked_path.PAYS_BELOW comes
from it. Third table: density and saved operations on binmat's photograph and on a clip in which it moves. CHECKPOINT:
official BiMatting or a converted network. Without one the weights are random, and so is the matte whose border the mask
follows.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn import functional as F

from binmat.data.image import photograph
from binmat.model_defs.network import Network
from binmat.model_defs.registry import build
from binmat.nn.masked_path import PAYS_BELOW, MaskedPath, set_execution
from binmat.nn.sparse_gru import SparseConvGRU
from binmat.reports import report
from binmat.transforms.checkpoint import load
from binmat.transforms.convert import convert

SIDE = 512
CELLS = SIDE // 16
RUNS = 5
STEP = 8
FRAMES = 4


def ring(share: float) -> Tensor:
    """A ring [1, 1, CELLS, CELLS] of 0 and 1 round a disc that covers about that share of a map once it is enlarged."""
    rows, columns = torch.meshgrid(torch.arange(CELLS), torch.arange(CELLS), indexing="ij")
    distance = ((rows - (CELLS - 1) / 2) ** 2 + (columns - (CELLS - 1) / 2) ** 2).sqrt()
    off_the_ring = (distance - CELLS / 4).abs()
    candidates = [(off_the_ring <= width).float()[None, None] for width in off_the_ring.unique().tolist()]
    return min(candidates, key=lambda mask: abs(active(enlarged(mask, SIDE)) - share))


def enlarged(mask: Tensor, side: int) -> Tensor:
    return F.interpolate(mask, size=(side, side), mode="bilinear", align_corners=False)


def active(mask: Tensor) -> float:
    return int(mask.count_nonzero()) / mask.numel()


def ratio(run: Callable[[], object], owner: nn.Module) -> float:
    """Best dense time over best sparse time. The two take turns, so that the load of the machine affects both."""
    best = {"dense": float("inf"), "sparse": float("inf")}
    for _ in range(RUNS):
        for execution in best:
            set_execution(owner, execution)  # type: ignore[arg-type]
            started = time.perf_counter()
            run()
            best[execution] = min(best[execution], time.perf_counter() - started)
    return best["dense"] / best["sparse"]


def masked_calls(network: Network, mask: Tensor) -> list[tuple[str, nn.Module, tuple[Tensor, ...]]]:
    """The masked rows and recurrences, each with the inputs that it gets in one frame under the given mask."""
    network.get_submodule("decoder.decode4.conv_mask").forward = lambda alpha: mask  # type: ignore[method-assign]
    calls: list[tuple[str, nn.Module, tuple[Tensor, ...]]] = []
    hooks = [
        module.register_forward_pre_hook(lambda module, args, name=name: calls.append((name, module, args)))
        for name, module in network.named_modules()
        if isinstance(module, SparseConvGRU) or (isinstance(module, MaskedPath) and ".gru." not in name)
    ]
    network(photograph(SIDE, SIDE))
    for hook in hooks:
        hook.remove()
    return calls


def speed(network: Network) -> None:
    rows = []
    mask = ring(0.2)
    calls = masked_calls(network, mask)
    for name, module, args in calls:
        share = active(args[-1])
        rows.append(
            [
                name,
                f"{args[0].shape[2]}x{args[0].shape[3]}",
                f"{share:.3f}",
                ratio(lambda m=module, a=args: m(*a), module),
            ]
        )
    frame = photograph(SIDE, SIDE)
    rows.append(["whole network, one frame", f"{SIDE}x{SIDE}", "", ratio(lambda: network(frame), network)])
    print(tabulate(rows, ["part", "map", "active", "dense / sparse"], floatfmt=".2f"), end="\n\n")

    name, module, (x, _) = calls[-1]
    rows = []
    for share in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6):
        wide = enlarged(ring(share), x.shape[2])
        rows.append([f"{active(wide):.3f}", ratio(lambda m=wide: module(x, m), module)])
    print(f"{name}; auto skips up to {PAYS_BELOW}")
    print(tabulate(rows, ["active", "dense / sparse"], floatfmt=".2f"), end="\n\n")


def saved(network: Network) -> None:
    wide = photograph(SIDE, SIDE + STEP * (FRAMES - 1))
    moving = [wide[..., STEP * t : STEP * t + SIDE].contiguous() for t in range(FRAMES)]
    rows = []
    for name, clip in (("photograph", moving[:1]), (f"moving clip, {FRAMES} frames", moving)):
        sparse = report(network, size=(SIDE, SIDE), clip=clip).sparse
        assert sparse is not None and sparse.measured is not None
        dense = sparse.counts["bimatting"].total.ops
        on_clip = sparse.on_clip("bimatting") or dense
        density = sparse.measured.paths["decoder.decode0.conv"]
        rows.append([name, density, dense / 1e9, on_clip / 1e9, 1 - on_clip / dense])
    heads = ["clip", "density at full size", "dense G", "credited G", "share saved"]
    print(tabulate(rows, heads, floatfmt=".3f"))


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = load(sys.argv[1]) if len(sys.argv) > 1 else convert(build("rvm_mobilenetv3"), recipe="bimatting")
    network.eval()
    print("weights:", sys.argv[1] if len(sys.argv) > 1 else "random", end="\n\n")
    with torch.no_grad():
        saved(network)
        print()
        speed(network)


if __name__ == "__main__":
    main()
