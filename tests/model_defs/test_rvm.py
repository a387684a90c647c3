from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from official_checkpoints import assert_golden, frames, official_network, official_shapes
from torch import Tensor, nn
from tracing import traced

from binmat.errors import SizeError, UnknownNameError
from binmat.model_defs.registry import build
from binmat.model_defs.rvm import RVM

FILES = {
    "rvm_mobilenetv3_dgf": ("rvm_mobilenetv3", "deep_guided_filter"),
    "rvm_mobilenetv3_fgf": ("rvm_mobilenetv3", "fast_guided_filter"),
    "rvm_resnet50_dgf": ("rvm_resnet50", "deep_guided_filter"),
    "rvm_resnet50_fgf": ("rvm_resnet50", "fast_guided_filter"),
}
CLIP = (1, 3, 3, 64, 96)
LARGE = (1, 1, 3, 128, 192)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@cache
def network(file: str = "rvm_mobilenetv3_dgf") -> RVM:
    name, refiner = FILES[file]
    net = official_network(file, name, refiner=refiner)
    assert isinstance(net, RVM)
    return net


@pytest.mark.parametrize("file", FILES)
def test_the_keys_and_shapes_are_the_official_ones_in_their_order(file):
    name, refiner = FILES[file]
    with torch.device("meta"):
        state = build(name, refiner=refiner).state_dict()
    assert [(key, tuple(value.shape)) for key, value in state.items()] == list(official_shapes(file).items())


@pytest.mark.parametrize(
    ("file", "length"),
    [("rvm_mobilenetv3_dgf", 3), ("rvm_resnet50_dgf", 2)],
)
def test_golden_clips_with_and_without_states(file, length):
    net = network(file)
    fgr, pha, *states = net(frames("clip1", CLIP)[:, :length])
    _, pha2, *_ = net(frames("clip2", (1, 2, 3, 64, 96)), *states)
    seg, *_ = net(frames("clip2", (1, 2, 3, 64, 96)), *states, segmentation_pass=True)
    r1, r2, r3, r4 = states
    assert_golden(
        file,
        {
            "c1_pha": pha,
            "c1_fgr_last_s2": fgr[:, -1, :, ::2, ::2],
            "c1_r1_s2": r1[..., ::2, ::2],
            "c1_r2_s2": r2[..., ::2, ::2],
            "c1_r3": r3,
            "c1_r4": r4,
            "c2_pha_last": pha2[:, -1],
            "c2_seg_last_s2": seg[:, -1, :, ::2, ::2],
        },
    )


@pytest.mark.parametrize("file", ["rvm_mobilenetv3_dgf", "rvm_mobilenetv3_fgf"])
def test_golden_refined_frames(file):
    net = network(file)
    _, pha1, *states = net(frames("hr1", LARGE), downsample_ratio=0.5)
    fgr2, pha2, *_ = net(frames("hr2", LARGE), *states, downsample_ratio=0.5)
    assert_golden(
        file,
        {"hr1_pha_s4": pha1[..., ::4, ::4], "hr2_pha_s2": pha2[..., ::2, ::2], "hr2_fgr_s4": fgr2[..., ::4, ::4]},
    )


@pytest.mark.parametrize("ratio", [1, 0.5])
@pytest.mark.parametrize("segmentation", [False, True])
def test_streaming_equals_the_clip(ratio, segmentation):
    net, clip = network(), torch.rand(1, 3, 3, 37, 50, dtype=torch.float64)
    options = {"downsample_ratio": ratio, "segmentation_pass": segmentation}
    whole = net(clip, **options)
    states: list[Tensor | None] = [None] * 4
    maps = []
    for t in range(3):
        out = net(clip[:, t], *states, **options)
        states = out[-4:]
        maps.append(out[:-4])
    streamed = [torch.stack(frames, dim=1) for frames in zip(*maps, strict=True)]
    for a, b in zip(whole, [*streamed, *states], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("ratio", [1, 0.4])
def test_a_batch_of_two_clips_equals_each_of_them(ratio):
    net, clips = network(), torch.rand(2, 2, 3, 45, 34, dtype=torch.float64)
    first = net(clips, downsample_ratio=ratio)
    both = net(clips.flip(1), *first[2:], downsample_ratio=ratio)
    for i in range(2):
        alone = net(clips[i : i + 1], downsample_ratio=ratio)
        alone = net(clips[i : i + 1].flip(1), *alone[2:], downsample_ratio=ratio)
        for a, b in zip(both, alone, strict=True):
            torch.testing.assert_close(a[i : i + 1], b, rtol=0, atol=1e-12)


def test_a_frame_is_a_clip_of_length_one_and_states_may_be_given_one_by_one():
    net, frame = network(), torch.rand(2, 3, 33, 47, dtype=torch.float64)
    single, clip = net(frame), net(frame[:, None])
    assert [x.ndim for x in single] == [4] * 6
    assert [x.ndim for x in clip] == [5, 5, 4, 4, 4, 4]
    for a, b in zip(single, clip, strict=True):
        assert torch.equal(a, b.flatten(0, 1) if b.ndim == 5 else b)
    r4 = single[-1]
    some = net(frame, r4=r4)
    zeros = [torch.zeros_like(r) for r in single[2:5]]
    for a, b in zip(some, net(frame, *zeros, r4), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(some[1], single[1])


@settings(max_examples=40)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    ratio=st.one_of(st.just(1.0), st.floats(0.05, 1.5)),
)
def test_state_and_output_shapes_at_any_size(height, width, ratio):
    net = network()
    if ratio != 1 and min(height * ratio, width * ratio) < 1:
        with pytest.raises(SizeError, match=r"leaves .* pass a larger one"):
            net.state_shapes(height, width, ratio)
        return
    fgr, pha, *states = net(torch.rand(1, 3, height, width, dtype=torch.float64), downsample_ratio=ratio)
    assert fgr.shape == (1, 3, height, width)
    assert pha.shape == (1, 1, height, width)
    assert [tuple(r.shape) for r in states] == net.state_shapes(height, width, ratio)
    assert all(x.min() >= 0 and x.max() <= 1 for x in (fgr, pha))


@pytest.mark.parametrize("variant", ["mobilenetv3", "resnet50"])
@pytest.mark.parametrize("refiner", ["deep_guided_filter", "fast_guided_filter"])
@pytest.mark.parametrize("mode", RVM.modes)
def test_every_mode_traces_to_a_graph_that_computes_the_same_at_any_size(variant, refiner, mode):
    net = RVM(variant, refiner).eval()
    graph = traced(net, mode)
    for batch, length, height, width in [(1, 1, 32, 48), (2, 3, 35, 29)]:
        small = (0.6,) if mode == "refined" else ()
        shapes = net.state_shapes(height, width, *(small or (1.0,)), batch=batch)
        args = (torch.rand(batch * length, 3, height, width), *(torch.rand(shape) for shape in shapes), *small)
        for a, b in zip(graph(*args), getattr(net, net.modes[mode])(*args), strict=True):
            assert torch.equal(a, b)


def test_a_graph_keeps_upsampling_pooling_and_activations_as_modules_of_their_own():
    net = RVM()
    graph = traced(net, "refined").graph
    called = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    modules = dict(net.named_modules())
    kinds = [type(modules[name]) for name in called]
    assert kinds.count(nn.Upsample) == 4
    assert kinds.count(nn.AvgPool2d) == 3
    functions = {getattr(node.target, "__name__", node.target) for node in graph.nodes if node.op.startswith("call_")}
    assert not functions & {"relu", "hardswish", "sigmoid", "tanh", "hardsigmoid", "adaptive_avg_pool2d", "conv2d"}
    activations = [name for name in called if isinstance(modules[name], nn.ReLU | nn.Hardswish | nn.Sigmoid)]
    assert len(activations) == len(set(activations))


def test_convolutions_cost_what_the_reference_counted():
    net, total = RVM().to("meta"), 0

    def count(conv: nn.Conv2d, _: tuple[Tensor], out: Tensor) -> None:
        nonlocal total
        total += out.numel() * conv.weight[0].numel()

    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    net(torch.empty(1, 1, 3, 288, 512, device="meta"))
    assert total == 4_495_890_816


@pytest.mark.parametrize(("name", "count"), [("rvm_mobilenetv3", 3_748_633), ("rvm_resnet50", 26_890_461)])
def test_parameter_counts(name, count):
    with torch.device("meta"):
        assert sum(p.numel() for p in build(name).parameters()) == count


@pytest.mark.parametrize("ratio", [1.0, 0.25])
def test_the_example_is_a_call_of_its_mode(ratio):
    net = RVM().eval()
    example = net.example(81, 97, ratio)
    assert example.mode == ("matting" if ratio == 1 else "refined")
    assert example.outputs == ("fgr", "pha", "r1", "r2", "r3", "r4")
    assert example.states == ("r1", "r2", "r3", "r4")
    assert list(example.inputs) == ["src", "r1", "r2", "r3", "r4"] + (["downsample_ratio"] if ratio != 1 else [])
    outputs = dict(zip(example.outputs, net.run(example.mode, *example.inputs.values()), strict=True))
    for name in example.states:
        state = example.inputs[name]
        assert isinstance(state, Tensor)
        assert outputs[name].shape == state.shape


@pytest.mark.parametrize("name", ["rvm_mobilenetv3", "rvm_resnet50"])
@pytest.mark.parametrize("refiner", ["deep_guided_filter", "fast_guided_filter"])
def test_every_float_layer_is_a_convolution_of_the_network(name, refiner):
    with torch.device("meta"):
        net = build(name, refiner=refiner)
    layers = {layer for layer, module in net.named_modules() if isinstance(module, nn.Conv2d)}
    assert set(net.float_layers) <= layers
    first = next(layer for layer, _ in net.named_modules() if layer in layers)
    assert first in net.float_layers
    assert ("refiner.conv.6" in net.float_layers) == (refiner == "deep_guided_filter")


def test_a_traced_program_runs_in_place_of_the_method():
    net = RVM().eval()
    net.programs["matting"] = lambda owner, src, *states: (src, src[:, :1], *states)
    fgr, pha, *_ = net(src := torch.rand(1, 2, 3, 32, 32))
    assert torch.equal(fgr, src)
    assert torch.equal(pha, src[:, :, :1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net: net(torch.rand(3, 32, 32)), r"src has shape \[3, 32, 32\]"),
        (lambda net: net(torch.rand(1, 4, 32, 32)), r"src has shape \[1, 4, 32, 32\]"),
        (lambda net: net(torch.rand(1, 0, 3, 32, 32)), r"src has shape \[1, 0, 3, 32, 32\]"),
        (lambda net: net(torch.rand(1, 3, 32, 32), downsample_ratio=0), "0 is not a positive number"),
        (lambda net: net(torch.rand(1, 3, 32, 32), downsample_ratio=float("nan")), "nan is not a positive number"),
        (lambda net: net(torch.rand(1, 3, 32, 32), downsample_ratio=0.02), "leaves 0x0 of 32x32"),
        (lambda net: net(torch.rand(1, 3, 32, 32), r2=torch.rand(1, 20, 8, 9)), "state r2 has shape"),
        (lambda net: net.example(15, 32), "too small for rvm_mobilenetv3"),
        (lambda net: net.example(0, -4), "too small"),
        (lambda net: net.example(64, 64, 0.2), "64x64 at downsample ratio 0.2 leaves 12x12"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(call, message):
    with pytest.raises(SizeError, match=message) as error:
        call(RVM().eval())
    assert "\n" not in str(error.value)


def test_unknown_variants_and_refiners_are_named():
    with pytest.raises(UnknownNameError, match="did you mean 'resnet50'"):
        RVM("resnet18")
    with pytest.raises(UnknownNameError, match="did you mean 'deep_guided_filter'"):
        RVM(refiner="deep_guide")


def test_gradients_reach_every_weight_but_the_box_filter():
    with torch.enable_grad():
        net = RVM().train()
        fgr, pha, *_ = net(torch.rand(1, 2, 3, 64, 64), downsample_ratio=0.5)
        seg, *_ = net(torch.rand(1, 2, 3, 32, 32), segmentation_pass=True)
        (fgr.mean() + pha.mean() + seg.mean()).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == ["refiner.box_filter.weight"]
