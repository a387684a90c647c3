"""BGMv2 against the official outputs, its modes as graphs, its patches, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from official_checkpoints import assert_golden, filled, frames, official_network, official_shapes
from torch import Tensor, nn
from tracing import traced

from binmat.errors import InputError, SizeError, UnknownNameError
from binmat.model_defs.bgmv2 import SPECS, BGMv2, without_subject
from binmat.model_defs.registry import NETWORKS, build
from binmat.reports import report
from binmat.transforms.lowering.one_float_type import OneFloatType

VARIANTS = ("mobilenetv2", "resnet50")
#: Refine mode -> its own argument.
MODES: dict[str, tuple[float, ...]] = {"full": (), "sampling": (320,), "thresholding": (0.1,)}
Modes = tuple[str, tuple[float, ...]]


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def net() -> BGMv2:
    network = filled(BGMv2()).double()
    network.decoder.conv4.bias.data[4] -= 0.2  # Some errors become 0.
    return network


@pytest.fixture(scope="module")
def pair() -> tuple[Tensor, Tensor]:
    return frames("src", (1, 3, 64, 96)), frames("bgr", (1, 3, 64, 96))


SLOW = pytest.mark.slow


@pytest.mark.parametrize("variant", ["mobilenetv2", pytest.param("resnet50", marks=SLOW)])
def test_golden_outputs_of_the_base_network(variant: str) -> None:
    file = f"bgmv2_{variant}"
    state = official_network(file, file).state_dict()
    base = build(file, refiner=False).double().eval()
    base.load_state_dict({key: value for key, value in state.items() if not key.startswith("refiner.")})
    pha, fgr, err, hid = base(frames("src", (1, 3, 96, 160)), frames("bgr", (1, 3, 96, 160)))
    left = assert_golden(
        file, {"pha": pha, "fgr_s2": fgr[..., ::2, ::2], "err": err, "hid_s4": hid[..., ::4, ::4]}
    )
    assert {key.partition("_")[0] for key in left} == MODES.keys()


@pytest.mark.parametrize(
    ("variant", "mode"),
    [
        pytest.param(variant, mode, marks=() if (variant, mode) == ("mobilenetv2", "sampling") else SLOW)
        for variant in VARIANTS
        for mode in MODES
    ],
)
def test_golden_outputs_of_the_refiner(variant: str, mode: str) -> None:
    file = f"bgmv2_{variant}"
    net = official_network(file, file).specialised(refine_mode=mode, sample_pixels=2000)
    pha, fgr, *_, ref = net(frames("hsrc", (1, 3, 256, 384)), frames("hbgr", (1, 3, 256, 384)))
    outputs = {f"{mode}_pha_s2": pha[..., ::2, ::2], f"{mode}_fgr_s4": fgr[..., ::4, ::4]}
    left = assert_golden(file, outputs | ({} if mode == "full" else {f"{mode}_ref": ref}))
    assert not any(key.startswith(mode) for key in left)


@pytest.mark.parametrize("variant", VARIANTS)
def test_state_dict_has_the_official_keys_shapes_and_order(variant: str) -> None:
    with torch.device("meta"):
        state = BGMv2(variant).state_dict()
    official = official_shapes(f"bgmv2_{variant}")
    assert list(state) == list(official)
    assert {key: tuple(value.shape) for key, value in state.items()} == official


def test_resnet101_has_17_more_blocks_in_its_third_stage() -> None:
    with torch.device("meta"):
        deep, shallow = (BGMv2(variant).state_dict() for variant in ("resnet101", "resnet50"))
    added = deep.keys() - shallow.keys()
    assert {key.rsplit(".", 2)[0] for key in added} == {f"backbone.layer3.{block}" for block in range(6, 23)}
    assert shallow.keys() <= deep.keys()


@pytest.mark.parametrize("lost", ["", "refiner.", "decoder.conv4.", "backbone."])
@pytest.mark.parametrize("name", [spec.name for spec in SPECS])
def test_a_checkpoint_is_recognised_by_one_spec(name: str, lost: str) -> None:
    with torch.device("meta"):
        state = build(name).state_dict()
    shapes = {key: tuple(v.shape) for key, v in state.items() if not lost or not key.startswith(lost)}
    found = {spec.name: config for spec in NETWORKS.values() if (config := spec.recognise(shapes)) is not None}
    # Without its backbone nothing tells ResNet-101 from ResNet-50.
    expected = "bgmv2_resnet50" if lost == "backbone." and "resnet" in name else name
    assert found == {expected: {"variant": expected.removeprefix("bgmv2_"), "refiner": lost != "refiner."}}


@pytest.mark.parametrize("mode", MODES.items())
def test_modes_are_graphs_that_are_bound_to_no_size(net: BGMv2, mode: Modes) -> None:
    name, argument = mode
    program = traced(net, name)
    for size in ((64, 96), (72, 100)):
        src, bgr = frames("a", (2, 3, 80, 104))[..., : size[0], : size[1]], torch.rand(2, 3, *size).double()
        expected = net.run(name, src, bgr, 0.5, *argument)
        for got, wanted in zip(program(src, bgr, 0.5, *argument), expected, strict=True):
            assert torch.equal(got, wanted)


@pytest.mark.parametrize("mode", [("sampling", (320,)), ("sampling", (10_000,)), ("thresholding", (0.1,))])
def test_patches_are_what_computing_everything_gives(net: BGMv2, pair: tuple[Tensor, Tensor], mode: Modes) -> None:
    name, argument = mode
    alpha, foreground, coarse, _, error, chosen = net.run(name, *pair, 0.5, *argument)
    everywhere, colours, *_ = net.run("full", *pair, 0.5)
    assert 0 < chosen.mean() < 1
    refined = chosen.repeat_interleave(4, 2).repeat_interleave(4, 3) > 0
    rest = nn.functional.interpolate(coarse, size=(64, 96), mode="bilinear")
    torch.testing.assert_close(alpha, torch.where(refined, everywhere, rest), rtol=0, atol=1e-12)
    torch.testing.assert_close(foreground[refined.expand_as(colours)], colours[refined.expand_as(colours)])
    if name == "sampling":
        positive = int((nn.functional.interpolate(error, size=(16, 24), mode="bilinear") > 0).sum())
        assert chosen.sum() == min(argument[0] // 16, positive)


@pytest.mark.parametrize("mode", [("sampling", (0,)), ("thresholding", (1.0,))])
def test_without_a_patch_the_matte_is_the_coarse_one(net: BGMv2, pair: tuple[Tensor, Tensor], mode: Modes) -> None:
    name, argument = mode
    alpha, _, coarse, _, _, chosen = net.run(name, *pair, 0.5, *argument)
    assert not chosen.any()
    torch.testing.assert_close(alpha, nn.functional.interpolate(coarse, size=(64, 96), mode="bilinear"))


@pytest.mark.parametrize("pixels", [320, 10_000])
def test_a_fixed_number_of_patches_gives_the_same(net: BGMv2, pair: tuple[Tensor, Tensor], pixels: int) -> None:
    expected = net.run("sampling", *pair, 0.5, pixels)
    shapes: list[int] = []
    hook = net.refiner.conv4.register_forward_hook(lambda *call: shapes.append(call[2].shape[0]))
    with OneFloatType(torch.float64):
        results = net.run("sampling", *pair, 0.5, pixels)
    hook.remove()
    assert shapes == [min(pixels // 16, 16 * 24)]
    for got, wanted in zip(results, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


def test_only_the_chosen_patches_are_computed(net: BGMv2, pair: tuple[Tensor, Tensor]) -> None:
    shapes: list[tuple[int, ...]] = []
    hook = net.refiner.conv4.register_forward_hook(lambda *call: shapes.append(tuple(call[2].shape)))
    chosen = net.run("thresholding", *pair, 0.5, 0.3)[5]
    hook.remove()
    assert shapes == [(int(chosen.sum()), 4, 4, 4)]


def test_training_reaches_every_weight() -> None:
    network = BGMv2().train()
    src, bgr = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    with torch.enable_grad():
        outputs = network(src, bgr)
        sum(output.sum() for output in outputs[:5]).backward()
    untouched = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert not untouched


def test_training_without_a_patch_leaves_the_refiners_statistics() -> None:
    network = BGMv2().train()
    before = {name: value.clone() for name, value in network.refiner.named_buffers() if "running" in name}
    network.run("thresholding", torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64), 0.5, 1.0)
    assert all(torch.equal(network.refiner.get_buffer(name), value) for name, value in before.items())


def test_example_inputs() -> None:
    network = BGMv2(sample_pixels=64)
    example = network.example(64, 96)
    assert (example.mode, list(example.inputs), example.outputs) == ("matting", ["src", "bgr"], ("pha", "fgr"))
    example = network.example(64, 96, 0.25)
    assert (example.mode, example.states) == ("sampling", ())
    assert (example.inputs["downsample_ratio"], example.inputs["sample_pixels"]) == (0.25, 64)
    assert network.specialised(refine_mode="full").example(64, 96, 0.25).mode == "full"
    assert network.config["refine_mode"] == "sampling"


def test_predict_pads_to_multiples_of_4_and_takes_the_networks_settings(net: BGMv2) -> None:
    src, bgr = frames("src", (1, 3, 72, 104))[..., :70, :97], frames("bgr", (1, 3, 72, 104))[..., :70, :97]
    made = net.predict(src, background=bgr, downsample_ratio=0.5, refine_mode="full")
    padded = [nn.functional.pad(picture, (0, 3, 0, 2), mode="replicate") for picture in (src, bgr)]
    alpha, foreground, *_ = net.run("full", *padded, 0.5)
    assert torch.equal(made.alpha, alpha[..., :70, :97])
    assert torch.equal(made.foreground, foreground[..., :70, :97])
    assert made.details == {"refined": 1.0}
    coarse = net.predict(src, background=bgr)
    assert torch.equal(coarse.alpha, net.run("matting", src, bgr)[0])
    assert coarse.details == {"refined": 0.0}
    few = net.predict(src, background=bgr, downsample_ratio=0.5, sample_pixels=48)
    assert few.details == {"refined": round(3 / (18 * 25), 4)}
    assert net.predict(src, background=bgr, downsample_ratio=0.5, sample_pixels=6791).notes == (
        "sample_pixels is 6791 of 6790 pixels: every patch could be refined, for about five times the "
        "refiner's work in mode full: choose refine_mode=full or fewer pixels",
    )


def test_sampling_more_than_the_picture_is_noted() -> None:
    net = BGMv2()
    (note,) = net.notes_on(net.example(64, 96, 0.5))
    assert note.startswith("sample_pixels is 80000 of 6144 pixels")
    assert net.notes_on(net.example(64, 96)) == ()
    for options in ({"refine_mode": "full"}, {"sample_pixels": 6144}):
        chosen = net.specialised(**options)
        assert chosen.notes_on(chosen.example(64, 96, 0.5)) == ()
    assert note in report(net, size=(64, 96), downsample_ratio=0.5).notes


def test_the_background_without_a_subject_differs_in_the_middle_alone() -> None:
    image = torch.rand(1, 3, 40, 60)
    changed = (without_subject(image) != image).any(1)[0]
    assert changed[20, 30] and not changed[0].any() and not changed[:, 0].any()


def test_the_official_call_names_a_missing_background(net: BGMv2) -> None:
    with pytest.raises(InputError, match="the background is missing: bgmv2_mobilenetv2 needs a picture of the same"):
        net(torch.zeros(1, 3, 64, 96))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"background": None}, "the background is missing"),
        ({"background": torch.zeros(1, 3, 60, 96)}, "the background has 60x96 pixels and the image 64x96"),
        ({"background": torch.zeros(1, 3, 64, 95)}, "the background has 64x95 pixels and the image 64x96"),
        ({"trimap": torch.zeros(1, 1, 64, 96)}, "takes no trimap"),
        ({"sample_pixels": 320}, "sample_pixels is for the refiner, which does not run at downsample ratio 1"),
        ({"downsample_ratio": 0.5, "sample_pixels": 0}, "sample_pixels is 0, less than one patch of 16"),
        ({"downsample_ratio": 0.5, "sample_pixels": -16}, "less than one patch"),
        ({"downsample_ratio": 0.5, "threshold": 1.5}, "threshold is 1.5: give an expected error from 0 to 1"),
        ({"downsample_ratio": 0.5, "threshold": float("nan")}, "threshold is nan"),
        ({"downsample_ratio": 0.5, "refine_mode": "ful"}, "did you mean 'full'"),
        ({"downsample_ratio": 0.75}, "a downsample ratio above 0 and at most 0.5, not 0.75"),
        ({"downsample_ratio": -1.0}, "at most 0.5, not -1.0"),
        ({"downsample_ratio": 0.125}, "leaves 8x12 pixels, too few"),
    ],
)
def test_what_predict_refuses(net: BGMv2, pair: tuple[Tensor, Tensor], options: dict, message: str) -> None:
    with pytest.raises((InputError, SizeError, UnknownNameError), match=message):
        net.predict(pair[0], **{"background": pair[1]} | options)


def test_sizes_and_modes_that_do_not_fit() -> None:
    with torch.device("meta"):
        network, base = BGMv2(), BGMv2(refiner=False).eval()
        odd, other = torch.zeros(1, 3, 66, 96), torch.zeros(1, 3, 64, 92)
    with pytest.raises(SizeError, match=r"66x96 does not fit bgmv2_mobilenetv2's refiner: .* multiples of 4, .* 68x96"):
        network(odd, odd)
    with pytest.raises(SizeError, match="multiples of 4"):
        network.example(64, 90, 0.25)
    with pytest.raises(InputError, match=r"the image is \[1, 3, 66, 96\] and the background \[1, 3, 64, 92\]"):
        network(odd, other)
    with pytest.raises(SizeError, match="has no refiner"):
        base.example(64, 96, 0.25)
    assert base(odd, odd)[0].shape == (1, 1, 66, 96)
    with pytest.raises(InputError, match=r"cannot be counted or exported in mode thresholding.*refine_mode=sampling"):
        network.specialised(refine_mode="thresholding").example(64, 96, 0.25)
    with pytest.raises(UnknownNameError, match="no option of bgmv2_mobilenetv2 for conversions is called 'pixels'"):
        network.specialised(pixels=3)
    with pytest.raises(UnknownNameError, match="did you mean 'resnet50'"):
        BGMv2("resnet5")
    for wrong in (0.0, 0.75):
        with pytest.raises(SizeError, match=r"at most 0\.5"):
            BGMv2(backbone_scale=wrong)
