"""What a model file is verified on, for calls of any inputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from binmat.errors import ExportError
from binmat.model_defs.network import Example
from binmat.pipeline.deployment import deploy
from binmat.verification.clips import clips_of


def example(**inputs: Tensor) -> Example:
    return Example("forward", dict(inputs), ("output",))


def test_inputs_that_are_no_images_take_noise() -> None:
    shapes = {"vector": (1, 5), "tokens": (1, 7, 4), "unbatched": (3, 8, 9), "two": (2, 3, 8, 9)}
    shapes["clip"] = (1, 2, 3, 8, 9)
    clips = clips_of(example(**{name: torch.zeros(shape) for name, shape in shapes.items()}))
    assert list(clips) == ["noise"] and len(clips["noise"]) == 2
    for frame in clips["noise"]:
        assert {name: tuple(value.shape) for name, value in frame.items()} == shapes
        assert all(0 <= value.min() < value.max() <= 1 for value in frame.values())


def test_images_take_pictures_beside_other_inputs() -> None:
    clips = clips_of(example(image=torch.zeros(1, 3, 8, 9), style=torch.zeros(1, 5)))
    assert list(clips) == ["photograph", "noise"]
    for shown, noise in zip(clips["photograph"], clips["noise"], strict=True):
        assert torch.equal(shown["style"], noise["style"]) and not torch.equal(shown["image"], noise["image"])


def test_integers_and_booleans_keep_their_values() -> None:
    given = example(image=torch.zeros(1, 3, 8, 9), word=torch.tensor([[4, 2]]), mask=torch.tensor([[True, False]]))
    for frames in clips_of(given).values():
        for frame in frames:
            assert frame["word"].tolist() == [[4, 2]] and frame["mask"].tolist() == [[True, False]]


def test_pictures_without_an_input_to_show_them() -> None:
    with pytest.raises(ExportError, match=r"tokens \[1, 7, 4\], not images"):
        clips_of(example(tokens=torch.zeros(1, 7, 4)), [torch.zeros(1, 3, 4, 4)])


class Words(nn.Module):
    """Embedded words plus a vector; the most likely of four classes, in float32 whatever the network is in."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 6)
        self.classes = nn.Linear(6, 4)

    def forward(self, words: Tensor, vector: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tokens = (self.embedding(words) + vector).masked_fill(mask.unsqueeze(-1), 0)
        scores = self.classes(tokens.half().to(torch.float32)).softmax(-1, dtype=torch.float32)
        return scores, scores.argmax(-1), scores > 0.25


def test_a_module_without_images_is_verified() -> None:
    given = {
        "words": torch.tensor([[8, 0, 3]]),
        "vector": torch.zeros(1, 1, 6),
        "mask": torch.tensor([[False, True, False]]),
    }
    outputs = ("scores", "best", "likely")
    verdict = deploy(Words().eval(), example=Example("forward", given, outputs)).verify()
    verdict.check()
    assert verdict.network.max_abs < 1e-12
    assert {output.name for run in verdict.runs.values() for output in run.outputs} == {*outputs}
