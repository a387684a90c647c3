"""Patches: which are chosen, what is cut out, what is put back, eagerly and in a recorded graph."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from binmat.errors import InputError
from binmat.nn.patches import SIDE, ChosenPatches, CutPatches, LargestErrors, PastedPatches
from binmat.transforms.lowering.one_float_type import OneFloatType

#: Errors with many equal ones and zeros.
ERRORS = st.sampled_from([0.0, 0.0, 0.25, 0.5, 0.75])


class Doubled(nn.Module):
    """The pixels of the chosen patches doubled, each from its patch with one pixel of margin."""

    def __init__(self, pixels: float) -> None:
        super().__init__()
        self.pixels = pixels
        self.errors, self.chosen = LargestErrors(), ChosenPatches()
        self.cut, self.paste = CutPatches(SIDE, 1), PastedPatches()

    def forward(self, x: Tensor, error: Tensor) -> Tensor:
        chosen = self.errors(error, self.pixels)
        places = self.chosen(chosen, self.pixels)
        return self.paste(x, 2 * self.cut(x, places)[..., 1:-1, 1:-1], places, chosen)


def enlarged(cells: Tensor) -> Tensor:
    return cells.repeat_interleave(SIDE, 2).repeat_interleave(SIDE, 3)


def test_the_largest_errors_and_of_equal_ones_the_first() -> None:
    error = torch.tensor([[0.1, 0.9, 0.5], [0.5, 0.5, 0.0]])[None, None]
    expected = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])[None, None]
    assert torch.equal(LargestErrors()(error, 3 * 16), expected)
    # 15 pixels more are no whole patch; without an error there is nothing to refine.
    assert torch.equal(LargestErrors()(error, 3 * 16 + 15), expected)
    assert torch.equal(LargestErrors()(error, 10_000), (error > 0).float())
    assert not LargestErrors()(error, 15).any()


@given(
    st.lists(st.lists(ERRORS, min_size=12, max_size=12), min_size=1, max_size=3),
    st.integers(0, 14),
)
def test_chosen_cells_are_the_first_of_a_stable_sort(errors: list[list[float]], count: int) -> None:
    error = torch.tensor(errors).view(-1, 1, 3, 4)
    chosen = LargestErrors()(error, count * 16)
    for row, cells in zip(errors, chosen.flatten(1).tolist(), strict=True):
        order = sorted(range(12), key=lambda place: -row[place])[:count]
        assert cells == [float(place in order and row[place] > 0) for place in range(12)]
    places = ChosenPatches()(chosen, count * 16)
    assert places.tolist() == [place for place, cell in enumerate(chosen.flatten()) if cell]


@settings(max_examples=30)
@given(
    st.lists(st.lists(ERRORS, min_size=6, max_size=6), min_size=1, max_size=2),
    st.integers(1, 8),
)
def test_a_fixed_number_of_patches_gives_the_same(errors: list[list[float]], count: int) -> None:
    error = torch.tensor(errors).view(-1, 1, 2, 3)
    x = torch.rand(len(errors), 2, 8, 12)
    layer = Doubled(16 * count)
    result = layer(x, error)
    with OneFloatType(torch.float32):  # While operators are looked at, nothing depends on their values.
        assert torch.equal(layer(x, error), result)
        assert len(layer.chosen(error, 16 * count)) == len(errors) * min(count, 6)
    assert torch.equal(result, x * (1 + enlarged(layer.errors(error, 16 * count))))


def test_a_recorded_graph_is_right_for_other_errors() -> None:
    x, error = torch.rand(2, 2, 8, 12), torch.rand(2, 1, 2, 3)
    layer = Doubled(48)
    graph = make_fx(layer)(x, torch.zeros_like(error))
    assert torch.equal(graph(x, error), layer(x, error))
    assert torch.equal(graph(x, error.round()), layer(x, error.round()))


def test_a_recorded_graph_needs_a_number() -> None:
    with pytest.raises(InputError, match="depends on the picture: choose them by their number"):
        make_fx(ChosenPatches())(torch.ones(1, 1, 2, 2))


def test_patches_have_a_margin_of_the_image_and_zeros_around_it() -> None:
    x = torch.arange(24.0).view(1, 1, 4, 6) + 1
    first, last = CutPatches(2, 1)(x, torch.tensor([0, 5], dtype=torch.int32))
    assert first.tolist() == [[[0, 0, 0, 0], [0, 1, 2, 3], [0, 7, 8, 9], [0, 13, 14, 15]]]
    assert last.tolist() == [[[10, 11, 12, 0], [16, 17, 18, 0], [22, 23, 24, 0], [0, 0, 0, 0]]]


def test_no_patch_is_fine() -> None:
    x = torch.rand(1, 2, 8, 12)
    assert torch.equal(Doubled(160)(x, torch.zeros(1, 1, 2, 3)), x)


def test_gradients_go_to_patches_where_they_are_and_to_the_image_elsewhere() -> None:
    x, patches = torch.rand(1, 1, 4, 8, requires_grad=True), torch.rand(1, 1, 4, 4, requires_grad=True)
    chosen = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    PastedPatches()(x, patches, ChosenPatches()(chosen), chosen).sum().backward()
    assert torch.equal(x.grad, 1 - enlarged(chosen))
    assert patches.grad.eq(1).all()
