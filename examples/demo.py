"""The main job with nothing but what comes with binmat: a checkpoint becomes a verified 1-bit network and a matte.

binmat comes without trained weights, so the checkpoint is RVM in the official layout with random weights. Its counts
and sizes are those of a trained one, and it is verified in the same way, but the matte shows no person. With a
checkpoint of your own:

    python examples/demo.py rvm_mobilenetv3.pth
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

OUT = Path("out/demo")
PHOTOGRAPH = Path(__file__).parents[1] / "binmat" / "data" / "pictures" / "astronaut.jpg"


def main() -> int:
    OUT.mkdir(parents=True, exist_ok=True)
    checkpoint = Path(sys.argv[1]) if len(sys.argv) > 1 else _untrained_checkpoint(OUT / "rvm_mobilenetv3.pth")
    converted = OUT / "reactnet"
    _binmat("convert", checkpoint, "--scheme", "reactnet", "--size", "288x512", "-o", converted)
    _binmat("verify", converted)
    _binmat("report", converted)
    _binmat("matte", checkpoint, PHOTOGRAPH, "-o", OUT / "matte_float")
    _binmat("matte", converted, PHOTOGRAPH, "-o", OUT / "matte_1bit")
    print(
        f"\nThe results are in {OUT}:\n"
        f"  {converted}/model.tflite        ship this: Larq Compute Engine, verified against PyTorch\n"
        f"  {converted}/model.safetensors   train this: binmat.load('{converted}') gives the network\n"
        f"  {converted}/report.md           operations, bytes and precision of every layer, and the verification\n"
        f"  {OUT}/matte_1bit/                  alpha.png, foreground.png, composite.png"
    )
    if len(sys.argv) == 1:
        print("The checkpoint is not trained, so the mattes are noise. Counts and verification hold for any weights.")
    return 0


def _untrained_checkpoint(path: Path) -> Path:
    import torch

    from binmat.model_defs import registry

    torch.manual_seed(0)
    network = registry.build("rvm_mobilenetv3")
    for layer in network.modules():
        # Behind fresh batch norms sums cancel exactly, so that rounding decides signs. Behind trained ones they do not.
        if isinstance(layer, torch.nn.BatchNorm2d):
            assert layer.running_mean is not None and layer.running_var is not None
            layer.running_mean.uniform_(-0.1, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(layer.weight, 0.4, 0.8)
            torch.nn.init.uniform_(layer.bias, -0.1, 0.1)
    # Around the middle of [0, 1]: an alpha that is clamped everywhere would agree with any other.
    with torch.no_grad():
        network.get_parameter("project_mat.conv.bias")[3] = 0.5
    torch.save(network.state_dict(), path)
    return path


def _binmat(*arguments: object) -> None:
    words = [str(argument) for argument in arguments]
    print("\n$ binmat " + " ".join(words), flush=True)
    subprocess.run([sys.executable, "-m", "binmat", *words], check=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
