"""BiMatting: what recipe `bimatting` makes of RVM is the official network, for any batch and length, and ships."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from official_checkpoints import assert_golden, frames, official_shapes, official_state
from torch import Tensor

from binmat.errors import CheckpointError, UnknownNameError
from binmat.model_defs.network import Network
from binmat.model_defs.registry import build
from binmat.nn import BinaryConv2d
from binmat.nn.masked_path import set_execution
from binmat.pipeline.deployment import deploy
from binmat.transforms import official_bimatting
from binmat.transforms.checkpoint import load, save
from binmat.transforms.convert import convert, plan_of, recipe_of
from binmat.transforms.lowering.lower import lower

FILES = {"bimatting_dgf": "deep_guided_filter", "bimatting_fgf": "fast_guided_filter"}
CLIP = (1, 3, 3, 64, 96)
LARGE = (1, 1, 3, 128, 192)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@cache
def network(file: str = "bimatting_dgf", dtype: torch.dtype = torch.float64) -> Network:
    """The network with the golden weights; every test leaves it dense, where data does not choose the execution."""
    state, refiner = official_bimatting.translate(official_state(file))
    net = convert(build("rvm_mobilenetv3", refiner=refiner), recipe="bimatting")
    net.load_state_dict(state)
    net = net.to(dtype).eval()
    set_execution(net, "dense")
    return net


def run(net: Network, clip: Tensor, states: list[Tensor | None], how: str, **options: object) -> list[Tensor]:
    """One call for the whole clip, or one per frame with the states handed on."""
    if how == "clip":
        return net(clip, *states, **options)
    maps = []
    for t in range(clip.shape[1]):
        *now, r1, r2, r3, r4 = net(clip[:, t], *states, **options)
        states = [r1, r2, r3, r4]
        maps.append(now)
    return [*(torch.stack(frame, dim=1) for frame in zip(*maps, strict=True)), *states]


@pytest.mark.parametrize("execution", ["dense", "sparse"])
@pytest.mark.parametrize("how", ["clip", "frame by frame"])
def test_golden_clips_with_states_carried_over(how: str, execution: str) -> None:
    net = network()
    set_execution(net, execution)
    try:
        fgr, pha, fgr_s, pha_s, *states = run(net, frames("clip1", CLIP), [None] * 4, how)
        _, pha2, *_ = run(net, frames("clip2", (1, 2, 3, 64, 96)), states, how)
        seg, *_ = run(net, frames("clip2", (1, 2, 3, 64, 96)), states, how, segmentation_pass=True)
        _, hr1, *hr_states = run(net, frames("hr1", LARGE), [None] * 4, how, downsample_ratio=0.5)
        hr_fgr, hr2, hr_fgr_s, *_ = run(net, frames("hr2", LARGE), hr_states[2:], how, downsample_ratio=0.5)
    finally:
        set_execution(net, "dense")
    r1, r2, r3, r4 = states
    unseen = assert_golden(
        "bimatting_dgf",
        {
            "c1_pha": pha,
            "c1_fgr_last_s2": fgr[:, -1, :, ::2, ::2],
            "c1_fgr_s": fgr_s,
            "c1_pha_s": pha_s,
            "c1_r1_s2": r1[..., ::2, ::2],
            "c1_r2_s2": r2[..., ::2, ::2],
            "c1_r3": r3,
            "c1_r4": r4,
            "c2_pha_last": pha2[:, -1],
            "c2_seg_last_s2": seg[:, -1, :, ::2, ::2],
            "hr1_pha_s4": hr1[..., ::4, ::4],
            "hr2_pha_s2": hr2[..., ::2, ::2],
            "hr2_fgr_s4": hr_fgr[..., ::4, ::4],
            "hr2_fgr_s": hr_fgr_s,
        },
    )
    assert unseen == set()


def test_golden_frames_with_the_fast_guided_filter() -> None:
    net = network("bimatting_fgf")
    _, pha1, _, _, *states = net(frames("hr1", LARGE), downsample_ratio=0.5)
    fgr2, pha2, fgr_s, *_ = net(frames("hr2", LARGE), *states, downsample_ratio=0.5)
    unseen = assert_golden(
        "bimatting_fgf",
        {
            "hr1_pha_s4": pha1[..., ::4, ::4],
            "hr2_pha_s2": pha2[..., ::2, ::2],
            "hr2_fgr_s4": fgr2[..., ::4, ::4],
            "hr2_fgr_s": fgr_s,
        },
    )
    assert unseen == set()


@settings(max_examples=6)
@given(
    size=st.tuples(st.integers(17, 60), st.integers(17, 60)),
    ratio=st.sampled_from([1, 0.6]),
    segmentation=st.booleans(),
)
def test_a_batch_of_two_clips_equals_each_of_them_and_frames_equal_the_clip(size, ratio, segmentation) -> None:
    net = network()
    if ratio != 1:
        size = (size[0] + 12, size[1] + 12)
    clips = torch.rand(2, 2, 3, *size, dtype=torch.float64)
    options = {"downsample_ratio": ratio, "segmentation_pass": segmentation}
    both = net(clips, **options)
    for i in range(2):
        for a, b in zip(both, run(net, clips[i : i + 1], [None] * 4, "frames", **options), strict=True):
            torch.testing.assert_close(a[i : i + 1], b, rtol=0, atol=1e-10)


def test_all_670_official_keys_are_accounted_for() -> None:
    state = official_state("bimatting_dgf")
    translated, _ = official_bimatting.translate(state)
    net = network()
    own = net.state_dict()
    assert translated.keys() == own.keys()
    assert {key: value.shape for key, value in translated.items()} == {k: v.shape for k, v in own.items()}
    assert len(state) == 670
    used = {key: value for key, value in state.items() if not key.endswith(".channel_threshold")}
    assert len(used) == 670 - 73
    # Every number of every other tensor arrives: the two sides hold as many, counters of joined norms apart.
    counters = sum(key.endswith("num_batches_tracked") for key in state)
    own_counters = sum(key.endswith("num_batches_tracked") for key in own)
    numbers = sum(value.numel() for value in used.values())
    assert sum(value.numel() for value in translated.values()) == numbers - counters + own_counters
    moved = sum(value.double().abs().sum() for value in used.values())
    assert sum(v.double().abs().sum() for v in translated.values()) == pytest.approx(float(moved), rel=1e-12)


def test_its_weights_are_the_papers_count() -> None:
    net = network()
    binary = [m for m in net.modules() if isinstance(m, BinaryConv2d)]
    unused = sum(torch.Size(s).numel() for k, s in official_shapes("bimatting_dgf").items() if "channel_thr" in k)
    assert sum(m.weight.numel() for m in binary) == 4_217_584
    assert sum(p.numel() for p in net.parameters()) + unused == 4_265_293
    # Of the 73 official ones, the branches of nine 1x1 of two and of one of four are one convolution each.
    assert len(binary) == 73 - 9 - 3


def test_its_float_layers_are_the_official_ones() -> None:
    assert [name for name, plan in plan_of(network()).items() if plan.scheme is None] == [
        "backbone.stem.0",
        "decoder.decode0.conv.3",
        "decoder.decode0.conv_1x1.3",
        "project_mat.conv",
        "project_seg.conv",
        "refiner.box_filter",
        "refiner.conv.6",
    ]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("wrapping", ["plain", "parallel"])
def test_an_official_checkpoint_loads_by_its_keys(tmp_path, file: str, wrapping: str) -> None:
    state = official_state(file)
    stored = state if wrapping == "plain" else {"state_dict": {f"module.{key}": v for key, v in state.items()}}
    torch.save(stored, tmp_path / "epoch-27.pth")
    net = load(tmp_path / "epoch-27.pth")
    assert recipe_of(net).name == "bimatting"
    assert net.config["refiner"] == FILES[file]
    assert not net.training
    src = torch.rand(1, 3, 64, 64)
    net = net.double()
    set_execution(net, "dense")
    for a, b in zip(net(src.double()), network(file)(src.double()), strict=True):
        torch.testing.assert_close(a, b)
    save(net.float(), tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    set_execution(again, "dense")
    for a, b in zip(again(src), net(src), strict=True):
        assert torch.equal(a, b)


def without(key: str):
    return lambda state: {k: v for k, v in state.items() if k != key}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("backbone.feature.3.move12.bias"), r"1 missing \(backbone.feature.3.move12.bias\)"),
        (lambda state: state | {"extra.weight": torch.zeros(3)}, r"1 left over \(extra.weight\)"),
        (
            lambda state: state | {"backbone.feature.1.binary_pw_down2.weight": torch.zeros(16, 17, 1, 1)},
            r"misshapen .*binary_pw_down2.weight \[16, 17, 1, 1\]",
        ),
        (lambda state: state | {"aspp.aspp1.2.weight": torch.zeros(128, 960, 1, 1)}, "aspp.aspp1.0.weight is"),
        (lambda state: state | {"aspp.aspp1.3.bias": torch.full((128,), torch.nan)}, "NaN or infinite"),
    ],
)
def test_a_damaged_official_checkpoint_is_named_in_one_line(tmp_path, damage, message: str) -> None:
    torch.save(damage(official_state("bimatting_dgf")), tmp_path / "broken.pth")
    with pytest.raises(CheckpointError, match=message) as error:
        load(tmp_path / "broken.pth")
    assert "\n" not in str(error.value)


def test_old_files_without_counters_and_unused_thresholds_load() -> None:
    state = {k: v for k, v in official_state("bimatting_dgf").items() if not k.endswith(("_tracked", "_threshold"))}
    translated, _ = official_bimatting.translate(state)
    assert {k for k in network().state_dict() if k not in translated} == {
        k for k in network().state_dict() if k.endswith("num_batches_tracked")
    }


def test_the_networks_name_may_be_given_and_must_be_true(tmp_path) -> None:
    torch.save(official_state("bimatting_dgf"), tmp_path / "bimatting.pth")
    torch.save(official_state("rvm_mobilenetv3_dgf"), tmp_path / "rvm.pth")
    assert recipe_of(load(tmp_path / "bimatting.pth", "bimatting")).name == "bimatting"
    assert recipe_of(load(tmp_path / "rvm.pth")) is None
    with pytest.raises(CheckpointError, match=r"rvm\.pth does not hold official BiMatting"):
        load(tmp_path / "rvm.pth", "bimatting")
    with pytest.raises(CheckpointError):
        load(tmp_path / "bimatting.pth", "rvm_mobilenetv3")
    with pytest.raises(UnknownNameError, match="did you mean"):
        load(tmp_path / "bimatting.pth", "rvm_mobilenet")


@pytest.mark.parametrize(
    "size",
    [(33, 47), pytest.param((64, 96), marks=pytest.mark.slow), pytest.param((96, 128, 0.5), marks=pytest.mark.slow)],
)
def test_it_lowers_exactly_with_its_side_outputs_and_without(size) -> None:
    net = network()
    example = net.example(*size)
    lowered = lower(net, example, torch.float64)
    assert lowered.outputs == ("fgr", "pha", "fgr_s", "pha_s", "r1", "r2", "r3", "r4")
    inputs = [torch.rand(v.shape, dtype=torch.float64) for v in example.inputs.values() if isinstance(v, Tensor)]
    numbers = [v for v in example.inputs.values() if not isinstance(v, Tensor)]
    expected = net.run(example.mode, *inputs, *numbers)
    for got, want in zip(lowered(*inputs), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-11)
    few = replace(example, outputs=("fgr", "pha", "r1", "r2", "r3", "r4"))
    smaller = lower(net, few, torch.float64)
    assert smaller.outputs == few.outputs
    for got, want in zip(smaller(*inputs), (*expected[:2], *expected[4:]), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(64, 96), (49, 71)])
def test_the_lce_model_is_verified(size) -> None:
    verdict = deploy(network(dtype=torch.float32), size).verify()
    verdict.check()


@pytest.mark.slow
def test_ten_steps_of_training_lower_the_loss() -> None:
    torch.manual_seed(1)
    net = convert(build("rvm_mobilenetv3"), recipe="bimatting").train()
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    clip, target = torch.rand(2, 2, 3, 64, 64), torch.rand(2, 2, 1, 64, 64).round()
    losses = []
    with torch.enable_grad():
        for _ in range(11):
            _, pha, _, pha_s, *_ = net(clip)
            loss = (pha - target).abs().mean() + (pha_s - target[..., ::16, ::16]).abs().mean()
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert losses[-1] < losses[0]
    assert net.get_submodule("backbone.blocks.0.head.conv3").weight.grad.abs().sum() > 0
