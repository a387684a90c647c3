"""Views and orders against numpy: whatever the layout, the data that comes out is torch's."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from binmat.backends.lce.layout import permuted_order, plan_view, preferred_order, same_data, stored_shape

factors = st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=6)


@st.composite
def views(draw):
    """A shape, one of its orders, and another shape of as many elements."""
    shape = tuple(draw(factors))
    rest, new = list(draw(st.permutations(shape))), []
    while rest:
        take = draw(st.integers(1, len(rest)))
        new.append(math.prod(rest[:take]))
        del rest[:take]
    for _ in range(draw(st.integers(0, 2))):
        new.insert(draw(st.integers(0, len(new))), 1)
    return shape, tuple(draw(st.permutations(range(len(shape))))), tuple(new)


@given(views())
def test_view_reads_the_same_elements(view):
    shape, order, new_shape = view
    value = np.arange(math.prod(shape)).reshape(shape)
    plan = plan_view(shape, order, new_shape)
    stored = value.transpose(plan.source).reshape(stored_shape(new_shape, plan.target))
    assert (stored.transpose(np.argsort(plan.target)) == value.reshape(new_shape)).all()
    assert sorted(plan.source) == list(range(len(shape))) and sorted(plan.target) == list(range(len(new_shape)))


@given(views())
def test_permutation_moves_no_data(view):
    shape, order, _ = view
    value = np.arange(math.prod(shape)).reshape(shape)
    dims = list(reversed(range(len(shape))))
    turned = value.transpose(dims)
    assert (value.transpose(order) == turned.transpose(permuted_order(order, dims))).all()


@given(views())
def test_same_data(view):
    shape, order, _ = view
    value = np.arange(math.prod(shape)).reshape(shape)
    identity = tuple(range(len(shape)))
    assert same_data(shape, order, identity) == (value.transpose(order).flatten() == value.flatten()).all()


def test_views_that_keep_the_channels_together_move_nothing():
    nhwc = preferred_order(4)
    assert plan_view((1, 32, 6, 8), nhwc, (1, 4, 8, 6, 8)).source == nhwc
    assert plan_view((1, 32, 6, 8), nhwc, (1, 32, 48)).source == nhwc
    assert plan_view((1, 32, 1, 1), nhwc, (1, 32)).source == nhwc
    assert plan_view((1, 32, 6, 8), nhwc, (1, 1, 32, 6, 8)).source == nhwc
    assert plan_view((1, 32, 6, 8), nhwc, (1, 32 * 48)).source != nhwc
