"""Masked paths: sparse execution equals the dense one, whatever the layers, and is chosen where it may be."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from binmat.nn import BinaryConv2d, RPReLU
from binmat.nn.masked_path import PAYS_BELOW, PAYS_FROM_PIXELS, MaskedPath, recorded_density, set_execution
from binmat.nn.shift import Shift
from binmat.nn.sparse_conv import can_skip, keeps_size
from binmat.quantizers import SCHEMES, get_scheme


def path_of(*layers: nn.Module) -> MaskedPath:
    path = MaskedPath(*layers)
    with torch.no_grad():
        for tensor in path.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.2 * torch.rand_like(tensor))
    return path.double().eval()


def random_mask(frames: int, height: int, width: int, share: float) -> Tensor:
    chosen = torch.rand(frames, 1, height, width, dtype=torch.float64)
    return torch.where(chosen < share, 0.1 + 0.9 * torch.rand_like(chosen), 0.0)


@torch.no_grad()
def assert_sparse_is_dense(path: MaskedPath, x: Tensor, mask: Tensor) -> None:
    dense = path.dense(x, mask)
    path.execution = "sparse"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(path, "dense", lambda x, mask: pytest.fail("nothing was skipped"))
        sparse = path(x, mask)
    torch.testing.assert_close(sparse, dense, rtol=0, atol=1e-12)
    assert sparse.masked_select(mask.expand_as(sparse) == 0).eq(0).all()


@settings(max_examples=40)
@given(
    frames=st.integers(1, 3),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    channels=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    kernel=st.sampled_from([1, 3, 5, (3, 1), (1, 5)]),
    dilation=st.integers(1, 3),
    bias=st.booleans(),
    share=st.sampled_from([0.0, 0.05, 0.4, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_any_convolution_computes_the_same(frames, size, channels, kernel, dilation, bias, share, seed) -> None:
    torch.manual_seed(seed)
    kernels = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    padding = tuple(dilation * (k - 1) // 2 for k in kernels)
    conv = nn.Conv2d(*channels, kernel, padding=padding, dilation=dilation, bias=bias)
    path = path_of(conv, nn.BatchNorm2d(channels[1]), nn.PReLU(channels[1]))
    x = torch.randn(frames, channels[0], *size, dtype=torch.float64)
    assert_sparse_is_dense(path, x, random_mask(frames, *size, share))


@pytest.mark.parametrize("pad_value", [0, 1])
@pytest.mark.parametrize("scheme", [*SCHEMES, "xnor with K", "dorefa with K"])
def test_every_scheme_computes_the_same(scheme: str, pad_value: int) -> None:
    name, _, scaled = scheme.partition(" with ")
    chosen = get_scheme(name, input_scale_map=bool(scaled))
    layers = [
        BinaryConv2d(6, 4, 3, padding=1, scheme=chosen, pad_value=pad_value),
        nn.BatchNorm2d(4),
        RPReLU(4),
        BinaryConv2d(4, 5, 3, padding=2, dilation=2, bias=False, scheme=chosen, pad_value=pad_value),
        Shift(5),
        nn.Tanh(),
    ]
    for share in (0.0, 0.1, 1.0):
        x = torch.randn(2, 6, 9, 7, dtype=torch.float64)
        assert_sparse_is_dense(path_of(*layers), x, random_mask(2, 9, 7, share))


def test_a_binary_sum_is_the_same_to_the_last_bit() -> None:
    path = path_of(BinaryConv2d(7, 4, 3, padding=1, bias=False, scheme=get_scheme("bimatting"))).float()
    x, mask = torch.randn(1, 7, 12, 12), (torch.rand(1, 1, 12, 12) < 0.3).float()
    path.execution = "sparse"
    with torch.no_grad():
        assert torch.equal(path(x, mask), path.dense(x, mask))


def test_memory_formats_of_the_input_do_not_matter() -> None:
    path = path_of(nn.Conv2d(3, 4, 3, padding=1))
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    assert_sparse_is_dense(path, x[:, :, 1:], random_mask(2, 7, 8, 0.3))


class Counting(nn.ReLU):
    """Notes how many values it was given."""

    seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x.numel()
        return super().forward(x)


def test_it_really_skips_and_only_where_that_pays() -> None:
    side = 64
    assert side * side >= PAYS_FROM_PIXELS
    path = path_of(nn.Conv2d(2, 3, 3, padding=1), Counting())
    x = torch.randn(1, 2, side, side, dtype=torch.float64)
    few, many = torch.zeros(1, 1, side, side, dtype=torch.float64), torch.ones(1, 1, side, side, dtype=torch.float64)
    few[..., : int(PAYS_BELOW * side)] = 1
    active, everything = 3 * int(few.sum()), 3 * side * side
    with torch.no_grad():
        for execution, mask, computed in [
            ("auto", few, active),
            ("auto", many, everything),
            ("dense", few, everything),
            ("sparse", many, everything),
            ("sparse", few, active),
            ("auto", torch.zeros_like(few), 0),
        ]:
            path.execution = execution
            path(x, mask)
            assert path[1].seen == computed, (execution, computed)
        path.execution = "auto"
        path(x[..., :16, :16], few[..., :16, :16] * 0)
        assert path[1].seen == 3 * 16 * 16


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_gradients_training_and_recording_get_the_dense_form() -> None:
    x, mask = torch.randn(1, 2, 64, 64), torch.zeros(1, 1, 64, 64)
    mask[..., :8] = 1
    path = MaskedPath(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), Counting())
    path.execution = "sparse"
    dense = 3 * 64 * 64
    path.eval()(x, mask)
    assert path[2].seen == dense, "with gradients"
    with torch.no_grad():
        path(x, mask)
        assert path[2].seen < dense
        path.train()(x, mask)
        assert path[2].seen == dense, "batch norm sees the whole batch in training"
        graph = make_fx(path.eval())(x, mask)
        assert not any("nonzero" in str(node.target) for node in graph.graph.nodes)
        traced = torch.jit.trace(path, (x, mask))
        full = torch.ones_like(mask)
        torch.testing.assert_close(traced(x, full), path.dense(x, full))
        torch.testing.assert_close(graph(x, full), path.dense(x, full))


def test_layers_that_see_more_than_their_window_are_computed_densely() -> None:
    x, mask = torch.randn(1, 4, 64, 64), torch.zeros(1, 1, 64, 64)
    for layers in (
        [nn.Conv2d(4, 4, 3, padding=1), nn.InstanceNorm2d(4)],
        [nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4, track_running_stats=False)],
        [nn.Conv2d(4, 4, 3, padding=1, groups=2)],
    ):
        path = MaskedPath(*layers).eval()
        path.execution = "sparse"
        assert not can_skip(path)
        with torch.no_grad():
            assert torch.equal(path(x, mask), path.dense(x, mask))


@pytest.mark.parametrize(
    ("conv", "keeps"),
    [
        (nn.Conv2d(2, 2, 3, padding=1), True),
        (nn.Conv2d(2, 2, 3, padding="same", dilation=2), True),
        (nn.Conv2d(2, 2, 1), True),
        (nn.Conv2d(2, 2, 3), False),
        (nn.Conv2d(2, 2, 2, padding="same"), False),
        (nn.Conv2d(2, 2, 3, padding=1, stride=2), False),
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), False),
        (nn.Conv2d(2, 2, 3, padding=1, groups=2), False),
    ],
)
def test_which_convolutions_keep_the_size(conv: nn.Conv2d, keeps: bool) -> None:
    assert keeps_size(conv) is keeps


def test_density_is_recorded_by_path_and_call() -> None:
    network = nn.ModuleDict({"a": MaskedPath(nn.Conv2d(1, 1, 1)), "b": MaskedPath(nn.Conv2d(1, 1, 1))})
    set_execution(network, "dense")
    half = torch.tensor([[[[0.0, 0.3]]]])
    with recorded_density(network) as shares:
        network["a"](torch.ones(1, 1, 1, 2), half)
        network["a"](torch.ones(1, 1, 1, 2), torch.ones(1, 1, 1, 2))
    network["a"](torch.ones(1, 1, 1, 2), half)
    assert shares == {"a": [0.5, 1.0], "b": []}
    assert {module.execution for module in network.values()} == {"dense"}
