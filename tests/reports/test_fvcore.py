"""The convention ``fvcore`` against fvcore itself, and the figures that papers print by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from example_networks import ResNet, UNet
from fvcore.nn import FlopCountAnalysis
from hypothesis import given, settings
from hypothesis import strategies as st
from report_support import Wrapped, counted, example
from torch import Tensor, nn
from torch.nn import functional as F

from binmat.model_defs.network import Example, Network
from binmat.model_defs.registry import build
from binmat.nn.ibnorm import IBNorm
from binmat.reports import count, report
from binmat.transforms.convert import convert


def fvcore_total(network: nn.Module, *inputs: Tensor) -> int:
    with torch.no_grad():
        analysis = FlopCountAnalysis(network.eval(), inputs)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        return int(analysis.total())


def official_ibnorm(self: IBNorm, x: Tensor) -> Tensor:
    half = self.batch_channels
    return torch.cat((self.bnorm(x[:, :half]), F.instance_norm(x[:, half:], eps=self.eps)), 1)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("modnet", {}),
        ("modnet", {"context": "easpp"}),
        ("litematting", {}),
        ("litematting", {"lsrppm": False, "enb": False}),
        ("litematting", {"norm": "batch", "sampling": "max"}),
        ("lsa_matting", {}),
        ("pam", {"path": "0111"}),
    ],
)
def test_a_network_has_fvcores_total(name: str, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    network = build(name, **config)
    inputs = [value for value in network.example(64, 96).inputs.values() if isinstance(value, Tensor)]
    ours = count(network, "fvcore", size=(64, 96))
    assert not ours.not_counted
    monkeypatch.setattr(IBNorm, "forward", official_ibnorm)
    assert ours.total.flops == fvcore_total(network, *inputs)


@pytest.mark.parametrize("network", [UNet(), ResNet()], ids=["unet", "resnet"])
def test_networks_outside_the_registry(network: nn.Module) -> None:
    image = torch.zeros(1, 3, 32, 48)
    assert count(network, "fvcore", example=example(*image.shape)).total.flops == fvcore_total(network, image)


@pytest.mark.parametrize(
    ("name", "config", "size", "parameters", "flops"),
    [
        ("litematting", {}, (1024, 1024), 4_336_757, 101_506_687_344),
        ("litematting", {"enb": False}, (1024, 1024), 3_770_917, 52_977_942_512),
        ("litematting", {"lsrppm": False, "enb": False}, (1024, 1024), 3_523_717, 52_810_187_392),
        ("modnet", {}, (512, 512), 6_487_075, 15_671_443_456),
        ("lsa_matting", {}, (512, 512), 38_067_809, 48_587_038_720),
    ],
)
def test_totals_at_the_papers_sizes(
    name: str, config: dict[str, Any], size: tuple[int, int], parameters: int, flops: int
) -> None:
    network = build(name, **config)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert count(network, "fvcore", size=size).total.flops == flops


_KINDS = ["batch", "bare batch", "group", "instance", "bare instance", "nearest", "bilinear", "upsample", "pool"]


def _both(function: Callable[..., Any], *shapes: tuple[int, ...], **layers: nn.Module) -> tuple[int, int, set[str]]:
    """The totals of binmat and of fvcore for a function of layers and tensors, and what binmat leaves out."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleDict(layers)

        def forward(self, x: Tensor, y: Tensor | None = None, z: Tensor | None = None) -> Any:
            return function(*self.layers.values(), *(value for value in (x, y, z) if value is not None))

    inputs = [torch.rand(shape) for shape in shapes]
    ours = count(Net(), "fvcore", example=Example("forward", dict(zip("xyz", inputs, strict=False)), ()))
    with torch.enable_grad():
        analysis = FlopCountAnalysis(Net().eval(), tuple(inputs))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        return ours.total.flops, int(analysis.total()), set(ours.not_counted)


def _masked(layer: nn.MultiheadAttention, x: Tensor, **options: Any) -> Tensor:
    return layer(x, x, x, attn_mask=torch.zeros(x.shape[1], x.shape[1]), **options)[0]


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (lambda x, y: x @ y, [(2, 3, 4), (2, 4, 5)]),
        # By the first factor alone, whatever the other's batch.
        (lambda x, y: x @ y, [(3, 4), (2, 4, 5)]),
        (lambda x, y: x @ y, [(2, 1, 3, 4), (1, 6, 4, 5)]),
        (lambda x, y: x @ y, [(4,), (4, 5)]),
        (lambda x, y: torch.linalg.matmul(x, y), [(3, 4), (4, 5)]),
        (lambda x, y: torch.bmm(x, mat2=y), [(2, 3, 4), (2, 4, 5)]),
        (lambda x, y: torch.mm(x, y), [(3, 4), (4, 5)]),
        (lambda x, y, z: torch.addmm(x, y, z), [(5,), (3, 4), (4, 5)]),
        (lambda x, y: torch.einsum("abc,abd->acd", x, y), [(2, 3, 4), (2, 3, 5)]),
        (lambda x, y: torch.einsum("bij,bkj->bik", x, y), [(2, 3, 4), (2, 5, 4)]),
        (lambda x, y: torch.einsum("nct,ncp->ntp", x, y), [(2, 3, 4), (2, 3, 5)]),
        (lambda x, y: torch.einsum("...nc,...mc->...nm", x, y), [(2, 3, 5), (2, 4, 5)]),
        (lambda x, y: torch.einsum("ij, jk", x, y), [(3, 5), (5, 4)]),
        (lambda x, y: torch.einsum("a,b->ab", x, y), [(3,), (5,)]),
        (lambda x: torch.einsum("abc->ac", x), [(2, 3, 5)]),
        (lambda x, y, z: torch.einsum("ab,bc,cd->ad", x, y, z), [(3, 4), (4, 5), (5, 2)]),
        # NumPy prints its estimate with four digits.
        (lambda x, y: torch.einsum("bhnd,bhmd->bhnm", x, y), [(1, 3, 123, 17), (1, 3, 57, 17)]),
        (lambda x, g: F.grid_sample(x, g, align_corners=False), [(1, 3, 8, 8), (1, 5, 4, 2)]),
        (lambda x: F.interpolate(x, size=(4, 4), mode="area"), [(1, 3, 8, 8)]),
        (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", antialias=True), [(1, 3, 8, 8)]),
        (lambda x: F.interpolate(x, scale_factor=2, mode="nearest-exact"), [(1, 3, 8, 8)]),
        (lambda x: F.adaptive_avg_pool2d(x, 2), [(3, 8, 8)]),
        (lambda x: F.adaptive_avg_pool3d(x, 2), [(3, 8, 8, 8)]),
        (lambda x: F.batch_norm(x, None, None, training=True), [(2, 3, 8, 8)]),
    ],
)
def test_functions(function: Callable[..., Any], shapes: list[tuple[int, ...]]) -> None:
    ours, theirs, left_out = _both(function, *shapes)
    assert ours == theirs and not left_out


@pytest.mark.parametrize(
    ("layer", "function", "shapes"),
    [
        (nn.MultiheadAttention(8, 2, batch_first=True), lambda m, x: m(x, x, x)[0], [(1, 5, 8)]),
        (nn.MultiheadAttention(8, 2), lambda m, x, y: m(x, y, y)[0], [(5, 2, 8), (7, 2, 8)]),
        (nn.MultiheadAttention(8, 2, kdim=6, vdim=4), lambda m, x, y, z: m(x, y, z)[0], [(5, 8), (7, 6), (7, 4)]),
        (nn.MultiheadAttention(8, 2, add_bias_kv=True, add_zero_attn=True), lambda m, x: m(x, x, x)[0], [(5, 1, 8)]),
        (nn.GRUCell(6, 4), lambda m, x: m(x), [(3, 6)]),
        (nn.LSTMCell(6, 4), lambda m, x: m(x)[0], [(3, 6)]),
        (nn.RNNCell(6, 4), lambda m, x: m(x), [(3, 6)]),
        (nn.Conv2d(3, 4, 3), lambda m, x: F.conv2d(input=x, weight=m.weight), [(1, 3, 8, 8)]),
        (nn.Conv2d(3, 4, 3), lambda m, x: m(x), [(3, 8, 8)]),
        (nn.Conv2d(3, 4, 3, padding="same", padding_mode="circular"), lambda m, x: m(x), [(1, 3, 8, 8)]),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), lambda m, x: m(x), [(1, 4, 8, 8)]),
        (nn.BatchNorm2d(3, track_running_stats=False), lambda m, x: m(x), [(1, 3, 8, 8)]),
        (nn.BatchNorm2d(3, track_running_stats=False, affine=False), lambda m, x: m(x), [(1, 3, 8, 8)]),
        (nn.RMSNorm(8), lambda m, x: m(x), [(1, 3, 8)]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_layers(layer: nn.Module, function: Callable[..., Any], shapes: list[tuple[int, ...]]) -> None:
    ours, theirs, left_out = _both(function, *shapes, layer=layer)
    assert ours == theirs and not left_out


@pytest.mark.parametrize(
    ("name", "function", "shapes"),
    [
        ("torch.scaled_dot_product_attention", F.scaled_dot_product_attention, [(1, 2, 5, 4)] * 3),
        ("torch.baddbmm", torch.baddbmm, [(2, 3, 5), (2, 3, 4), (2, 4, 5)]),
        ("torch.addbmm", torch.addbmm, [(3, 5), (2, 3, 4), (2, 4, 5)]),
        ("torch.addmv", torch.addmv, [(3,), (3, 4), (4,)]),
        ("torch.mv", torch.mv, [(3, 4), (4,)]),
        ("torch.dot", torch.dot, [(4,), (4,)]),
        ("torch.outer", torch.outer, [(3,), (4,)]),
        ("torch.tensordot", lambda x, y: torch.tensordot(x, y, 1), [(3, 4), (4, 5)]),
    ],
)
def test_products_that_fvcore_leaves_out_are_named(
    name: str, function: Callable[..., Any], shapes: list[tuple[int, ...]]
) -> None:
    assert _both(function, *shapes) == (0, 0, {name})


@pytest.mark.parametrize(
    ("layer", "function", "shapes"),
    [
        (nn.MultiheadAttention(8, 2, batch_first=True), lambda m, x: m(x, x, x, need_weights=False)[0], [(1, 5, 8)]),
        (nn.MultiheadAttention(8, 2, batch_first=True), _masked, [(1, 5, 8)]),
        (nn.MultiheadAttention(8, 2, batch_first=True), partial(_masked, need_weights=False), [(1, 5, 8)]),
        (nn.GRU(6, 4), lambda m, x: m(x)[0], [(3, 1, 6)]),
        (nn.LSTM(6, 4), lambda m, x: m(x)[0], [(3, 1, 6)]),
        (nn.RNN(6, 4), lambda m, x: m(x)[0], [(3, 1, 6)]),
        (nn.Bilinear(6, 5, 4), lambda m, x, y: m(x, y), [(3, 6), (3, 5)]),
        (nn.Conv2d(3, 4, 3, padding="same"), lambda m, x: m(x), [(1, 3, 8, 8)]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_layers_of_which_fvcore_leaves_a_part_out_are_named(
    layer: nn.Module, function: Callable[..., Any], shapes: list[tuple[int, ...]]
) -> None:
    ours, theirs, left_out = _both(function, *shapes, layer=layer)
    assert ours == theirs and left_out == {f"nn.{type(layer).__name__}"}


def test_a_report_names_what_fvcore_leaves_out() -> None:
    made = report(nn.Sequential(nn.Conv2d(3, 4, 3, padding="same")), example=example(1, 3, 8, 8))
    assert "Met but not counted by fvcore: nn.Conv2d (1 call)." in made.notes


@settings(max_examples=20)
@given(st.lists(st.sampled_from([*_KINDS, "bicubic"]), min_size=1, max_size=4), st.integers(5, 9), st.integers(5, 9))
def test_any_row_of_operators(kinds: list[str], height: int, width: int) -> None:
    makers = {
        "batch": lambda: nn.BatchNorm2d(4),
        "bare batch": lambda: nn.BatchNorm2d(4, affine=False),
        "group": lambda: nn.GroupNorm(2, 4),
        "instance": lambda: nn.InstanceNorm2d(4, affine=True),
        "bare instance": lambda: nn.InstanceNorm2d(4),
        "upsample": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
        "pool": lambda: nn.AdaptiveAvgPool2d((3, None)),
    }
    layers: list[nn.Module] = [nn.Conv2d(2, 4, 1)]
    for kind in kinds:
        if kind in makers:
            layers.append(makers[kind]())
        else:
            layers.append(Wrapped(lambda self, x, mode=kind: F.interpolate(x, scale_factor=1.5, mode=mode)))
    network = nn.Sequential(*layers)
    ours = counted(network, 1, 2, height, width, convention="fvcore").total.flops
    assert ours == fvcore_total(network, torch.zeros(1, 2, height, width))


def test_binary_layers_are_counted_in_bits() -> None:
    network = build("pam", path="0000")
    assert isinstance(network, Network)
    before = count(network, "fvcore", size=(64, 64)).total
    after = count(convert(network, "bnn"), "fvcore", size=(64, 64)).total
    macs = count(convert(network, "bnn"), "textbook", size=(64, 64)).total
    assert after.bops == macs.bops > 0 and before.flops - after.flops == macs.bops


def test_a_report_names_it_beside_its_columns() -> None:
    network = build("pam", path="0000")
    made = report(network, size=(64, 64))
    flops = count(network, "fvcore", size=(64, 64)).total.flops
    assert json.loads(json.dumps(made.to_json()))["cross_checks"] == {"fvcore": {"float": {"flops": flops}}}
    assert f"Cross-check fvcore: the float network has {flops / 1e9:.4f} G" in " ".join(str(made).split())
    # Of a converted network it is the float counterpart's.
    assert report(convert(network, "bnn"), size=(64, 64)).cross_checks == {"fvcore": flops}
