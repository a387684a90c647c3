"""PAM's choice of a path on a device: the parts of the network as model files, and the loop that chooses among them.

A path selection layer sees the features in front of it, so a path is chosen while the network runs: after each part the
chooser decides which file to run next. PathFiles.run is all that a device must do; it needs the files, paths.json and
an interpreter. No trained weights of PAM are public, so this script runs it with fresh ones:

    python examples/pam_dynamic.py
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import binmat
from binmat.backends.registry import get_backend
from binmat.model_defs.pam import PAM
from binmat.model_defs.pam_body import CONSTRAINTS, path_costs

SIZE = (64, 96)


def export_parts(network: PAM, folder: Path, image: Tensor, trimap: Tensor) -> None:
    """Write every part of a network, float or converted, for images of this size, and what the choice needs."""
    height, width = image.shape[2:]
    for mode, example in network.part_examples(image, trimap).items():
        binmat.export(network, folder / f"{mode}.tflite", example=example)
    about = {
        "pixels": height * width,
        "costs": dict(path_costs(height, width)),
        "constraints": [*CONSTRAINTS],
        "constraint_features": network.constraint_embedding.weight.tolist(),
    }
    (folder / "paths.json").write_text(json.dumps(about))


class PathFiles:
    """The exported parts, run along the path that the path selection layers prefer within a cost limit.

    folder: what export_parts wrote. load: the content of a model file -> a function from its inputs to its outputs.
    """

    def __init__(self, folder: Path, load: Callable[[bytes], Callable[..., list[Tensor]]]) -> None:
        about = json.loads((folder / "paths.json").read_text())
        self.pixels: int = about["pixels"]
        self.costs: dict[str, int] = about["costs"]
        self.features = dict(zip(about["constraints"], about["constraint_features"], strict=True))
        self.part = {file.stem: load(file.read_bytes()) for file in folder.glob("*.tflite")}

    def run(self, image: Tensor, trimap: Tensor, cost_limit: float) -> tuple[Tensor, str]:
        """Alpha and the path that was taken, which costs at most cost_limit G multiply-accumulates.

        image, trimap: as the network takes them. cost_limit: at least the cheapest path's cost.
        """
        limit = round(min(cost_limit * 1e9, max(self.costs.values())))
        # The network learned its constraints in whole G at 1024x1024.
        constraint = limit * 1024 * 1024 // self.pixels // 10**9
        nearest = min(max(constraint, min(self.features)), max(self.features))
        feature = torch.tensor([self.features[nearest]])
        path = ""

        def through_stage(x: Tensor, semantics: Tensor) -> Tensor:
            nonlocal path
            stage = len(path) + 1
            (preference,) = self.part[f"estimate_{stage}"](semantics, feature)
            path += self.next_bit(path, preference.flatten().tolist(), limit)
            name = f"layers_{stage}" if path[-1] == "1" else f"connect_{stage}"
            return self.part[name](x)[0]

        x, semantics, f2, f4 = self.part["encode_8"](image, trimap)
        f8 = through_stage(x, semantics)
        f16 = through_stage(*self.part["encode_16"](f8))
        f32 = through_stage(*self.part["encode_32"](f16))
        x = through_stage(*self.part["decode_8"](f32, f16, f8))
        return self.part["decode_1"](x, f4, f2, image, trimap)[0], path

    def next_bit(self, path: str, preference: list[float], limit: int) -> str:
        """The bit that the path selection layer prefers, of those after which some path still keeps the limit.

        A limit that the dearest path keeps takes that path, as the network does.
        """
        if limit >= max(self.costs.values()):
            return "1"
        allowed = {p[len(path)] for p, cost in self.costs.items() if p.startswith(path) and cost <= limit}
        return max(sorted(allowed), key=lambda bit: preference[int(bit)])


def lce(content: bytes) -> Callable[..., list[Tensor]]:
    """A model file in Larq Compute Engine's interpreter."""
    backend = get_backend("lce")
    runner = backend.runner(content, backend.kernels[0])
    return lambda *inputs: runner.run(inputs)


def main() -> None:
    torch.manual_seed(0)
    network = PAM().eval()
    image, trimap = torch.rand(1, 3, *SIZE), torch.zeros(1, 3, *SIZE)
    trimap[:, 1] = 1
    with tempfile.TemporaryDirectory() as folder:
        export_parts(network, Path(folder), image, trimap)
        files = PathFiles(Path(folder), lce)
        for share in (0.75, 0.85, 1.0):
            limit = share * max(files.costs.values()) / 1e9
            alpha, path = files.run(image, trimap, limit)
            with torch.no_grad():
                expected = network.infer(image, trimap, cost_limit=limit)
            difference = (alpha - expected.alpha).abs().max().item()
            print(
                f"at most {limit:.4f} G: path {path}, {files.costs[path] / 1e9:.4f} G; "
                f"PyTorch takes {expected.paths[0]}, the mattes differ by up to {difference:.1e}"
            )


if __name__ == "__main__":
    main()
