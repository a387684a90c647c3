"""Which binary layers of fresh conversions see the picture, before and after calibration.

    python benchmarks/one_sided_layers.py [--docs] [NETWORK]...

Every network of the registry by default, with fresh weights (seed 0), under every scheme but those that see what xnor
sees, at 64x96; PAM is path 1011.
Each is calibrated on two frames of binmat's photograph and measured on these and on two frames of noise. The layers of
the example call count. --docs puts the table into docs/calibration.md.

  one sign     layers whose signs are all equal although their input varies
  no reaction  layers of which no sign differs from one frame to the next: nothing of the picture reaches them or goes
               through them
  difference   mean difference of the mattes of photograph and noise
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tabulate import tabulate

from binmat.model_defs.example_inputs import example_inputs
from binmat.model_defs.network import Example, Network
from binmat.model_defs.registry import NETWORKS, build
from binmat.quantizers import SCHEMES
from binmat.transforms.calibrate import calibrate
from binmat.transforms.convert import convert
from binmat.transforms.one_sided_layers import layer_signs
from binmat.transforms.run_frames import run_frames
from binmat.verification.clips import Clips, clips_of

SIZE = (64, 96)
OPTIONS = {"pam": {"path": "1011"}}
#: Schemes that differ from xnor in their gradients and scales alone, or centre the weights besides.
LIKE_XNOR = ("xnor_official", "fda", "reste")
#: What a scheme is called in the table -> its settings: the schemes, and the way out for two that learn no threshold.
RECIPES: dict[str, tuple[str, ...]] = dict.fromkeys((name for name in SCHEMES if name not in LIKE_XNOR), ()) | {
    f"{name}, options.threshold=layer": ("options.threshold=layer",) for name in ("bnn", "dorefa")
}
PAGE = Path(__file__).parents[1] / "docs" / "calibration.md"
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->"


def measured(network: Network, example: Example, clips: Clips) -> tuple[int, int, int, float]:
    """Binary layers that run; those that see one sign, and that do not react; difference of the mattes."""
    frames = [frame for clip in clips.values() for frame in clip]
    signs = layer_signs(network, frames).values()
    matte = next(name for name in example.outputs if name in ("alpha", "pha", "matte"))
    first, second = (next(iter(run_frames(network, example, clip[:1])))[matte] for clip in clips.values())
    difference = float((first - second).abs().mean())
    return len(signs), sum(s.one_sided for s in signs), sum(not s.reacts for s in signs), difference


def rows_of(name: str) -> list[list[str]]:
    torch.manual_seed(0)
    network = build(name).specialised(SIZE, **OPTIONS.get(name, {})).eval()
    example = example_inputs(network, SIZE)
    clips = clips_of(example, (), network)
    rows = []
    for recipe, settings in RECIPES.items():
        converted = convert(network, recipe.partition(",")[0], settings=settings)
        layers, one_sign, still, difference = measured(converted, example, clips)
        calibrate(converted, clips["photograph"], example)
        _, one_sign_after, still_after, difference_after = measured(converted, example, clips)
        rows.append(
            [
                name, recipe, str(layers), f"{one_sign} → {one_sign_after}", f"{still} → {still_after}",
                f"{difference:.2g} → {difference_after:.2g}",
            ]
        )  # fmt: skip
        print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    return rows


def main() -> None:
    torch.set_num_threads(1)
    names = [argument for argument in sys.argv[1:] if argument != "--docs"] or list(NETWORKS)
    rows = [row for name in names for row in rows_of(name)]
    heads = ["network", "scheme", "binary layers", "one sign", "no reaction", "difference"]
    table = tabulate(rows, heads, tablefmt="github", disable_numparse=True)
    print(table)
    if "--docs" in sys.argv[1:]:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{table}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
