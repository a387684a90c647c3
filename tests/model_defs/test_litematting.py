"""LiteMatting against the official outputs, its ablations, counts and graphs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_fill import noise_image, trimap01
from official_checkpoints import filled
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from tracing import traced

from binmat.data.inference import matte
from binmat.errors import InputError, SizeError, TraceError, UnknownNameError
from binmat.model_defs.litematting import (
    LSRPPM,
    SPECS,
    EfficientNonLocalBlock,
    LiteMatting,
    ModifiedMobileBlock,
    PyramidPooling,
    Sampling,
    group_norm,
)
from binmat.reports import count
from binmat.transforms.trace import trace

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
ABLATIONS = {"backbone": (False, False), "with LSRPPM": (True, False), "with both": (True, True)}


def per_ablation(*values: int) -> list[tuple[str, int]]:
    return list(zip(ABLATIONS, values, strict=True))


def inputs(height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    trimap = trimap01(height, width)
    one_hot = np.concatenate([trimap == value for value in (0, 0.5, 1)], 1)
    return (
        torch.from_numpy(noise_image("img", (1, 3, height, width))).double(),
        torch.from_numpy(one_hot).double(),
        torch.from_numpy(noise_image("sixc", (1, 2, height, width))).double(),
    )


@pytest.fixture(scope="module")
def net() -> LiteMatting:
    return filled(LiteMatting()).double()


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def test_golden_output(net: LiteMatting) -> None:
    alpha = net(*inputs(128, 192))
    np.testing.assert_allclose(alpha.numpy(), np.load(GOLDEN / "litematting.npz")["alpha"], rtol=0, atol=1e-5)


def test_state_dict_has_the_official_keys_shapes_and_order() -> None:
    official = json.loads((GOLDEN / "litematting.keys.json").read_text())
    state = LiteMatting().state_dict()
    assert list(state) == list(official)
    for key, (shape, _) in official.items():
        assert list(state[key].shape) == shape, key


@pytest.mark.parametrize(("ablation", "parameters"), per_ablation(3_523_717, 3_770_917, 4_336_757))
def test_parameters(ablation: str, parameters: int) -> None:
    net = LiteMatting(*ABLATIONS[ablation])
    assert sum(p.numel() for p in net.parameters()) == parameters


@pytest.mark.parametrize(("ablation", "macs"), per_ablation(50_925_014_016, 51_089_092_736, 96_164_898_944))
def test_convolution_macs_at_1024(ablation: str, macs: int) -> None:
    """fvcore's convolution counts, which the slow test takes from fvcore, by arithmetic on shapes alone."""
    counted = 0

    def count(layer: nn.Module, args: object, output: Tensor) -> None:
        nonlocal counted
        assert isinstance(layer, nn.Conv2d)
        counted += output.numel() * layer.weight[0].numel()

    net = LiteMatting(*ABLATIONS[ablation]).to("meta")
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    net(*(torch.zeros(1, channels, 1024, 1024, device="meta") for channels in (3, 3, 2)))
    assert counted == macs


@pytest.mark.slow
@pytest.mark.parametrize(("ablation", "total"), per_ablation(52_810_187_392, 52_977_942_512, 101_506_687_344))
def test_fvcore_total_at_1024(ablation: str, total: int) -> None:
    from fvcore.nn import FlopCountAnalysis  # its import compiles functions and warns

    net = LiteMatting(*ABLATIONS[ablation]).eval()
    images = tuple(torch.zeros(1, channels, 1024, 1024) for channels in (3, 3, 2))
    flops = FlopCountAnalysis(net, images).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    assert flops.total() == total
    assert sum(flops.by_operator()[name] for name in ("conv", "group_norm")) > 0.99 * total


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_the_traced_graph_computes_the_same_at_any_size(ablation: str) -> None:
    net = LiteMatting(*ABLATIONS[ablation]).double().eval()
    graph = traced(net, "matting")
    for size in ((32, 64), (96, 32)):
        assert torch.equal(graph(*inputs(*size)), net(*inputs(*size)))


def test_pooling_is_one_static_operator_per_view_once_sizes_are_known(net: LiteMatting) -> None:
    graph = make_fx(lambda *images: net(*images))(*inputs(64, 96)).graph
    operators = Counter(str(node.target) for node in graph.nodes if node.op == "call_function")
    # LSRPPM's eight views, ENB's 3x3, 6x6, 8x8 of key and value; their 1x1 pools are means.
    assert operators["aten._adaptive_avg_pool2d.default"] == 8 + 6
    assert operators["aten.mean.dim"] == 2
    assert not [name for name in operators if "sym_size" in name or "index" in name]


def test_images_of_a_batch_do_not_mix(net: LiteMatting) -> None:
    one = inputs(64, 64)
    other = tuple(tensor.flip(3) for tensor in one)
    both = net(*(torch.cat(pair) for pair in zip(one, other, strict=True)))
    torch.testing.assert_close(both, torch.cat((net(*one), net(*other))), rtol=0, atol=1e-9)
    assert not torch.allclose(both[0], both[1], atol=1e-3)


def test_the_modified_mobile_block_pads_before_its_first_convolution() -> None:
    block = ModifiedMobileBlock(8, 8, hidden=32).double()
    with_shift = block.conv[1]
    with_shift.bias.fill_(0.7)
    seen: list[Tensor] = []
    block.conv[3].register_forward_hook(lambda layer, args, output: seen.append(args[0]))
    x = torch.randn(1, 8, 5, 6, dtype=torch.float64)
    assert block(x).shape == x.shape
    (hidden,) = seen
    assert hidden.shape == (1, 32, 7, 8)
    assert (hidden[:, :, 0] > 0).any(), "the border is normalised zeros, not zeros"


@pytest.mark.parametrize(
    ("in_channels", "out_channels", "stride", "shortcut"), [(8, 8, 1, True), (8, 8, 2, False), (8, 16, 1, False)]
)
def test_the_modified_mobile_block_has_a_shortcut_where_the_shape_is_kept(
    in_channels: int, out_channels: int, stride: int, shortcut: bool
) -> None:
    block = ModifiedMobileBlock(in_channels, out_channels, hidden=16, stride=stride)
    last = block.conv[-1]
    last.weight.zero_()
    last.bias.zero_()
    x = torch.randn(2, in_channels, 7, 8)
    expected = x if shortcut else torch.zeros(2, out_channels, -(-7 // stride), -(-8 // stride))
    assert torch.equal(block(x), expected)


def test_group_norm_takes_the_most_groups_that_divide() -> None:
    groups = {channels: group_norm(channels).num_groups for channels in (64, 48, 80, 40, 24, 12)}
    assert groups == {64: 32, 48: 16, 80: 16, 40: 8, 24: 8, 12: 4}


def test_pyramid_pooling_samples_110_means() -> None:
    x = torch.randn(2, 3, 24, 48, dtype=torch.float64)
    samples = PyramidPooling()(x)
    assert samples.shape == (2, 3, 110)
    torch.testing.assert_close(samples[..., 0], x.mean((2, 3)))
    torch.testing.assert_close(samples[..., 1], x[..., :8, :16].mean((2, 3)))
    torch.testing.assert_close(samples[..., -1], x[..., -3:, -6:].mean((2, 3)))


def test_lsrppm_pools_on_the_papers_grids() -> None:
    module = LSRPPM(320)
    grids: dict[tuple[int, ...], tuple[int, ...]] = {}

    def note(layer: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        grids[tuple(args[0].shape[2:])] = layer.kernel_size

    for index in range(1, 9):
        module.get_submodule(f"conv{index}.0").register_forward_hook(note)
    assert module(torch.randn(1, 320, 20, 30)).shape == (1, 160, 20, 30)
    assert grids == {
        (5, 5): (3, 3),
        (13, 13): (3, 3),
        (1, 30): (1, 3),
        (20, 1): (3, 1),
        (15, 7): (5, 3),
        (7, 15): (3, 5),
        (23, 11): (7, 3),
        (11, 23): (3, 7),
    }


def test_enb_attends_to_the_sample_that_is_like_its_query() -> None:
    block = EfficientNonLocalBlock(low_channels=4, high_channels=4, channels=8).double()
    seen: list[Tensor] = []
    block.W.register_forward_hook(lambda layer, args, output: seen.append(args[0]))
    high, low = torch.randn(2, 4, 3, 5, dtype=torch.float64), torch.randn(2, 4, 16, 24, dtype=torch.float64)
    assert block(low, high).shape == (2, 8, 3, 5)
    key, value, query = block.psp(block.f_key(low)), block.psp(block.f_value(low)), block.f_query(high)
    for image, y, x in ((0, 0, 0), (1, 2, 4)):
        weights = torch.softmax(query[image, :, y, x] @ key[image] / 8**0.5, 0)
        torch.testing.assert_close(seen[0][image, :, y, x], value[image] @ weights)


def test_enb_queries_only_where_the_trimap_does_not_say_background() -> None:
    net = LiteMatting().eval()
    assert net.gfnb is not None
    queries: list[Tensor] = []
    net.gfnb.register_forward_hook(lambda layer, args, output: queries.append(args[1]))
    image, trimap, maps = (tensor.float() for tensor in inputs(64, 96))
    net(image, trimap, maps)
    # At 1/32 the background is the first of three columns.
    assert queries[0].shape == (1, 160, 2, 3)
    assert not queries[0][..., 0].any()
    assert queries[0][..., 1:].any()


def test_the_ablations_lack_what_table_5_takes_away() -> None:
    backbone, with_lsrppm = LiteMatting(lsrppm=False, enb=False), LiteMatting(enb=False)
    assert not [key for key in backbone.state_dict() if key.startswith(("ppm.", "gfnb.", "layerx."))]
    assert not [key for key in with_lsrppm.state_dict() if key.startswith(("gfnb.", "layerx."))]
    assert [key for key in with_lsrppm.state_dict() if key.startswith("ppm.")]


@pytest.mark.parametrize("lsrppm", [False, True])
@pytest.mark.parametrize("enb", [False, True])
def test_a_checkpoint_says_which_ablation_it_is(lsrppm: bool, enb: bool) -> None:
    (spec,) = SPECS
    shapes = {key: tuple(value.shape) for key, value in LiteMatting(lsrppm, enb).state_dict().items()}
    config = spec.recognise(shapes)
    assert config == {"lsrppm": lsrppm, "enb": enb, "norm": "group"}
    assert spec.build(**config).config == {**config, "sampling": "pyramid"}


def test_other_checkpoints_are_not_recognised() -> None:
    assert SPECS[0].recognise({"layer1.0.weight": (32, 32, 3, 3), "fc.weight": (10, 32)}) is None


def test_the_example_is_the_official_call() -> None:
    net = LiteMatting().eval()
    example = net.example(64, 96)
    assert list(example.inputs) == ["image", "trimap", "transform_map"]
    assert example.outputs == ("alpha",)
    assert example.states == ()
    alpha = net.run(example.mode, *example.inputs.values())
    assert alpha.shape == (1, 1, 64, 96)
    assert torch.equal(alpha, net(*example.inputs.values()))


def test_float_layers_are_the_convolutions_that_read_the_image_and_make_alpha() -> None:
    net = LiteMatting().eval()
    reads_image: set[str] = set()

    def look(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
            if any(torch.equal(args[0][:, i : i + 1], image[:, :1]) for i in range(args[0].shape[1])):
                reads_image.add(name)

        return hook

    image, trimap, maps = (tensor.float() for tensor in inputs(32, 32))
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Conv2d) and name != "layer0.0":
            layer.register_forward_hook(look(name))
    alpha = net(image, trimap, maps)
    assert set(net.float_layers) == reads_image | {"layer0.0", "out.4"}
    assert alpha.shape == net.out[4](torch.zeros(1, 12, 32, 32)).shape


@pytest.mark.parametrize("size", [(64, 100), (16, 32), (720, 1280)])
def test_sizes_that_do_not_fit_are_refused(size: tuple[int, int]) -> None:
    net = LiteMatting()
    with pytest.raises(SizeError, match=f"{size[0]}x{size[1]}"):
        net(*(torch.zeros(1, channels, *size, device="meta") for channels in (3, 3, 2)))
    with pytest.raises(SizeError):
        net.example(*size)


def test_a_downsample_ratio_is_refused() -> None:
    with pytest.raises(SizeError, match="no downsample ratio"):
        LiteMatting().example(64, 64, downsample_ratio=0.5)


#: Table 4: sampling -> fvcore's total at 1024x1024. S is 110, 225 and 512 * 512; a product of 1024 queries of 80
#: channels with S keys, and one with S values.
SAMPLINGS = {
    "pyramid": 101_506_687_344,
    "max": 101_506_687_344 - 8 * 80 * 512**2 + 2 * 1024 * 80 * (225 - 110),
    "average": 101_506_687_344 - 6 * 80 * 512**2 + 2 * 1024 * 80 * (225 - 110),
    "none": 101_506_687_344 - 8 * 80 * 512**2 + 2 * 1024 * 80 * (512**2 - 110),
}


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_samplings_of_table_4(sampling: Sampling) -> None:
    """Adaptive means of key and value cost 1 per input element in fvcore, maxima and no pooling nothing."""
    net = LiteMatting(sampling=sampling)
    assert count(net, "fvcore", size=(1024, 1024)).total.ops == SAMPLINGS[sampling]


def test_batch_norm_of_table_3_costs_2_instead_of_5_per_element() -> None:
    """With as many parameters."""
    normalised = 0

    def add(layer: nn.Module, args: object, output: Tensor) -> None:
        nonlocal normalised
        normalised += output.numel()

    with torch.device("meta"):
        group = LiteMatting(lsrppm=False, enb=False)
        for layer in group.modules():
            if isinstance(layer, nn.GroupNorm):
                layer.register_forward_hook(add)
        group(*(torch.zeros(1, channels, 1024, 1024) for channels in (3, 3, 2)))
    batch = LiteMatting(lsrppm=False, enb=False, norm="batch")
    assert not [layer for layer in batch.modules() if isinstance(layer, nn.GroupNorm)]
    assert sum(p.numel() for p in batch.parameters()) == 3_523_717
    assert count(batch, "fvcore", size=(1024, 1024)).total.ops == 52_810_187_392 - 3 * normalised


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_the_norm_is_recognised_by_its_statistics(norm: str) -> None:
    with torch.device("meta"):
        state = LiteMatting(norm=norm).state_dict()
        config = SPECS[0].recognise({key: tuple(value.shape) for key, value in state.items()})
        assert config == {"lsrppm": True, "enb": True, "norm": norm}
        assert list(LiteMatting(**config).state_dict()) == list(state)


@pytest.mark.parametrize("sampling", ["max", "average", "none"])
def test_a_sampling_by_hand(sampling: Sampling) -> None:
    block = EfficientNonLocalBlock(4, 8, 8, sampling=sampling).double().eval()
    nn.init.normal_(block.W.weight)
    low, high = torch.randn(2, 4, 20, 23, dtype=torch.float64), torch.randn(2, 8, 3, 5, dtype=torch.float64)
    pools = {
        "max": lambda x: F.adaptive_max_pool2d(x, (15, 15)),
        "average": lambda x: F.adaptive_avg_pool2d(x, (15, 15)),
        "none": lambda x: x,
    }
    key, value = (pools[sampling](layer(low)).flatten(2) for layer in (block.f_key, block.f_value))
    query = block.f_query(high).flatten(2)
    weights = torch.einsum("ncq,ncs->nqs", query, key).div(8**0.5).softmax(2)
    context = torch.einsum("nqs,ncs->ncq", weights, value).reshape(high.shape)
    expected = block.conv_bn_dropout(torch.cat((block.W(context), high), 1))
    torch.testing.assert_close(block(low, high), expected)


def test_the_sampling_is_an_option_because_a_checkpoint_does_not_tell(net: LiteMatting) -> None:
    nn.init.normal_(net.gfnb.W.weight)
    images = inputs(64, 64)
    sampled = net.specialised(sampling="max")
    assert not sampled.training
    assert sampled.config["sampling"] == "max"
    assert not torch.allclose(sampled(*images), net(*images))
    assert torch.equal(sampled.specialised(sampling="pyramid")(*images), net(*images))
    assert net.specialised() is net.specialised(sampling="pyramid") is net
    photo, trimap = images[0][0], torch.full((64, 64), 0.5)
    by_option = matte(net, photo, trimap=trimap, window=64, sampling="max")
    assert torch.equal(by_option, matte(sampled, photo, trimap=trimap, window=64))
    with pytest.raises(TraceError, match="already traced or converted with sampling 'max'"):
        trace(sampled).specialised(sampling="none")
    with pytest.raises(InputError, match="this litematting has no ENB"):
        LiteMatting(enb=False).specialised(sampling="max")
    for name in ("maximum", "PYRAMID"):
        with pytest.raises(UnknownNameError, match=f"no sampling of litematting's ENB is called '{name}'"):
            net.specialised(sampling=name)
    with pytest.raises(UnknownNameError, match="no norm of litematting is called 'layer'"):
        LiteMatting(norm="layer")
