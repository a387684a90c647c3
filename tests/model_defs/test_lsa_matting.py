"""LSA-Matting against the official outputs, its counts and modes, and inference on images of any size."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_fill import noise_image, trimap01
from official_checkpoints import filled
from torch import Tensor, nn
from torch.nn import functional as F
from tracing import traced

from binmat.errors import InputError, SizeError
from binmat.model_defs.lsa_matting import (
    SPECS,
    UNKNOWN_VALUE,
    FusionDecoder,
    LSAMatting,
    network_input,
)
from binmat.model_defs.refinement import zero_corrections
from binmat.model_defs.trimap import BACKGROUND, FOREGROUND, UNKNOWN, Trimap
from binmat.nn import imagenet

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


@pytest.fixture(scope="module")
def net() -> LSAMatting:
    return filled(LSAMatting())


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def golden_input() -> Tensor:
    image = torch.from_numpy(noise_image("img", (1, 3, 64, 96)))
    return torch.cat(((image - 0.45) / 0.225, torch.from_numpy(trimap01(64, 96))), 1)


def striped_trimap(height: int, width: int) -> Trimap:
    regions = np.full((height, width), UNKNOWN, np.uint8)
    regions[:, : width // 3] = BACKGROUND
    regions[:, width - width // 3 :] = FOREGROUND
    return Trimap(regions)


def matte(net: LSAMatting, image: Tensor, trimap: Trimap, **options: Any) -> Tensor:
    return net.predict(image[None], trimap=trimap.alpha(), **options).alpha[0, 0]


def test_golden_output() -> None:
    alpha = filled(LSAMatting()).double()(golden_input().double())
    np.testing.assert_allclose(alpha.numpy(), np.load(GOLDEN / "lsa.npz")["alpha"], rtol=0, atol=1e-5)


def test_state_dict_has_the_official_keys_shapes_and_order(net: LSAMatting) -> None:
    official = json.loads((GOLDEN / "lsa.keys.json").read_text())
    state = net.state_dict()
    assert list(state) == list(official)
    for key, (shape, _) in official.items():
        assert list(state[key].shape) == shape, key


def test_parameters(net: LSAMatting) -> None:
    assert sum(p.numel() for p in net.parameters()) == 38_067_809


def test_convolution_macs_at_512(net: LSAMatting) -> None:
    """fvcore's convolution count, which the slow test takes from fvcore, by arithmetic on shapes alone."""
    counted = 0

    def count(layer: nn.Module, args: object, output: Tensor) -> None:
        nonlocal counted
        assert isinstance(layer, nn.Conv2d)
        counted += output.numel() * layer.weight[0].numel()

    with torch.device("meta"):
        counting = LSAMatting()
    for layer in counting.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    counting(torch.zeros(1, 4, 512, 512, device="meta"))
    assert counted == 48_369_065_984


@pytest.mark.slow
def test_fvcore_total_at_512(net: LSAMatting) -> None:
    from fvcore.nn import FlopCountAnalysis  # its import compiles functions and warns

    flops = FlopCountAnalysis(net, torch.zeros(1, 4, 512, 512))
    flops.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    assert flops.total() == 48_587_038_720


@pytest.mark.parametrize("size", [(32, 64), (96, 32)])
def test_the_traced_graphs_compute_the_same_at_any_size(net: LSAMatting, size: tuple[int, int]) -> None:
    x = torch.randn(2, 4, *size)
    assert torch.equal(traced(net, "matting")(x), net(x))
    features = traced(net, "encode")(x)
    for feature, direct in zip(features, net.encode(x), strict=True):
        assert torch.equal(feature, direct)
    corrections = [torch.randn_like(zero) / 9 for zero in zero_corrections(x) * 2]
    assert torch.equal(traced(net, "decode")(*features, *corrections), net.decode(*features, *corrections))


def test_encoding_and_decoding_without_corrections_is_matting(net: LSAMatting) -> None:
    x = torch.randn(2, 4, 64, 96)
    features = net.run("encode", x)
    assert [tuple(feature.shape[1:]) for feature in features] == [
        (4, 64, 96),
        (64, 32, 48),
        (256, 16, 24),
        (512, 8, 12),
        (1024, 4, 6),
        (2048, 2, 3),
    ]
    assert torch.equal(net.run("decode", *features, *zero_corrections(x), *zero_corrections(x)), net(x))


def test_every_correction_reaches_alpha(net: LSAMatting) -> None:
    x = torch.randn(1, 4, 64, 96)
    features = net.encode(x)
    zeros = zero_corrections(x) * 2
    alpha = net.decode(*features, *zeros)
    for index, zero in enumerate(zeros):
        changed = [*zeros[:index], torch.full_like(zero, 0.5), *zeros[index + 1 :]]
        assert not torch.allclose(net.decode(*features, *changed), alpha, atol=1e-4)


def test_a_correction_scales_and_shifts_the_decoders_output(net: LSAMatting) -> None:
    x = torch.randn(1, 4, 64, 96)
    a, b = torch.randn(1, 512, 8, 8), torch.randn(1, 512, 8, 8)
    scales, shifts = zero_corrections(x), zero_corrections(x)
    seen: list[Tensor] = []
    hooks = [
        net.decoder.get_submodule("decoder_5").register_forward_hook(lambda layer, args, output: seen.append(output)),
        net.decoder.get_submodule("decoder_4").register_forward_pre_hook(lambda layer, args: seen.append(args[0])),
    ]
    net.decode(*net.encode(x), a, *scales[1:], b, *shifts[1:])
    for hook in hooks:
        hook.remove()
    plain, joined = seen
    scale, shift = (F.interpolate(tensor, size=(2, 3), mode="bicubic") for tensor in (a, b))
    expected = (plain * scale.exp() + shift).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(joined[:, 1024:], expected)


def test_the_fusion_decoder_gates_by_a_hard_sigmoid_of_the_mean() -> None:
    block = FusionDecoder(4, 6).double().eval()
    x = torch.randn(2, 4, 5, 7, dtype=torch.float64)
    y = F.relu(block.norm1(block.conv1(x)))
    gate = F.relu6(F.conv2d(y.mean((2, 3), keepdim=True), block.fc.weight, block.fc.bias) + 3) / 6
    torch.testing.assert_close(block(x), y * gate)


def test_alpha_is_not_clamped(net: LSAMatting) -> None:
    assert net(torch.full((1, 4, 32, 32), 40.0)).abs().max() > 1


def test_images_of_a_batch_do_not_mix(net: LSAMatting) -> None:
    x = torch.randn(2, 4, 32, 64)
    torch.testing.assert_close(net(x), torch.cat((net(x[:1]), net(x[1:]))), rtol=0, atol=1e-5)


def test_the_example_is_the_official_call(net: LSAMatting) -> None:
    example = net.example(64, 96)
    assert example.outputs == ("alpha",)
    x = example.inputs["x"]
    assert isinstance(x, Tensor)
    assert torch.equal(net.run(example.mode, x), net(x))


def test_float_layers_exist_and_are_the_convolutions_at_both_ends(net: LSAMatting) -> None:
    channels = {name: net.get_submodule(name).weight.shape[:2] for name in net.float_layers}
    assert channels == {
        "backbone.stem.0.conv": (32, 4),
        "decoder.final_final.conv1": (32, 64 + 4),
        "decoder.final_final.conv3": (1, 32),
    }


def test_the_registry_recognises_official_keys() -> None:
    (spec,) = SPECS
    official = json.loads((GOLDEN / "lsa.keys.json").read_text())
    assert spec.recognise({key: tuple(shape) for key, (shape, _) in official.items()}) == {}
    assert spec.recognise({"backbone.stem.0.conv.weight": (32, 3, 3, 3)}) is None
    assert spec.name == LSAMatting.name


@pytest.mark.parametrize("size", [(64, 100), (16, 32)])
def test_sizes_that_do_not_fit_are_refused(net: LSAMatting, size: tuple[int, int]) -> None:
    with pytest.raises(SizeError, match=f"{size[0]}x{size[1]}"):
        net(torch.zeros(1, 4, *size))
    with pytest.raises(SizeError):
        net.example(*size)
    with pytest.raises(SizeError, match="no downsample ratio"):
        net.example(64, 64, downsample_ratio=0.5)


def test_the_input_is_normalised_per_channel() -> None:
    image, trimap = torch.rand(1, 3, 2, 2), torch.rand(1, 1, 2, 2)
    x = network_input(image, trimap)
    for channel in range(3):
        torch.testing.assert_close(x[:, channel], (image[:, channel] - imagenet.MEAN[channel]) / imagenet.STD[channel])
    assert torch.equal(x[:, 3:], trimap)


@pytest.mark.parametrize("size", [(64, 128), (50, 70), (7, 9)])
def test_images_of_any_size_are_padded_as_official_inference_does(net: LSAMatting, size: tuple[int, int]) -> None:
    seen: list[Tensor] = []
    hook = net.backbone.register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
    image = torch.rand(3, *size)
    trimap = striped_trimap(*size)
    alpha = matte(net, image, trimap)
    hook.remove()
    (x,) = seen
    height, width = (-(-length // 64) * 64 for length in size)
    assert x.shape == (1, 4, height + 64, width + 64)
    background = torch.tensor([*((0 - mean) / std for mean, std in zip(imagenet.MEAN, imagenet.STD, strict=True)), 0])
    for border in (x[..., :16, :], x[..., -16:, :], x[..., :16], x[..., -16:]):
        torch.testing.assert_close(border, background.view(1, 4, 1, 1).expand_as(border))
    inner = x[0, :, 32 : 32 + size[0], 32 : 32 + size[1]]
    values = torch.tensor([0, UNKNOWN_VALUE, 1])[torch.from_numpy(trimap.regions).long()]
    expected = network_input(image[None], values[None, None])[0]
    torch.testing.assert_close(inner, expected)
    assert set((inner[3] * 255).round().tolist()[0]) == {0, 128, 255}
    # Reflection leaves out the border itself.
    torch.testing.assert_close(x[0, :, 31, 32 : 32 + size[1]], expected[:, 1])
    torch.testing.assert_close(x[0, :, 32 : 32 + size[0], 31], expected[:, :, 1])
    assert torch.equal(alpha, trimap.settle(net(x)[0, 0, 32 : 32 + size[0], 32 : 32 + size[1]]))
    assert (alpha[:, : size[1] // 3] == 0).all()


def test_refinement_is_an_option_of_inference(net: LSAMatting) -> None:
    image, trimap = torch.rand(3, 20, 30), striped_trimap(20, 30)
    reports: list[tuple[int, int]] = []
    plain = matte(net, image, trimap)
    refined = matte(net, image, trimap, refinement_steps=3, progress=lambda *report: reports.append(report))
    assert reports == [(1, 3), (2, 3), (3, 3)]
    difference = (refined - plain).abs()
    assert difference[:, 10:20].max() > 1e-4
    assert difference[:, :10].max() == difference[:, 20:].max() == 0
    once = matte(net, image, trimap, refinement_steps=1)
    torch.testing.assert_close(once, plain, rtol=0, atol=1e-6)


def test_it_is_an_option_of_lsa_matting(net: LSAMatting) -> None:
    image, trimap = torch.rand(3, 20, 24), striped_trimap(20, 24)
    steps: list[tuple[int, int]] = []
    mean = matte(net, image, trimap, test_time_augmentation=8, progress=lambda *step: steps.append(step))
    assert steps == [(view, 8) for view in range(1, 9)]
    assert (mean[:, :8] == 0).all()
    views = []
    for turned, regions in ((image, trimap.regions), (image.flip(2), np.fliplr(trimap.regions))):
        for k in range(4):
            alpha = matte(net, turned.rot90(k, (1, 2)), Trimap(np.rot90(regions, k).copy())).rot90(-k)
            views.append(alpha if turned is image else alpha.flip(1))
    torch.testing.assert_close(mean, torch.stack(views).mean(0), rtol=0, atol=1e-5)
    assert not torch.allclose(mean, views[0], atol=1e-3)


def test_each_view_is_refined(net: LSAMatting) -> None:
    steps: list[tuple[int, int]] = []
    options: dict[str, Any] = {"refinement_steps": 2, "test_time_augmentation": 8}
    matte(net, torch.rand(3, 8, 8), striped_trimap(8, 8), **options, progress=lambda *step: steps.append(step))
    assert steps == [(decode, 16) for decode in range(1, 17)]


@pytest.mark.parametrize("views", [0, 2, 25])
def test_other_numbers_of_views_are_refused(net: LSAMatting, views: int) -> None:
    known = Trimap(np.zeros((8, 8), np.uint8))
    for trimap in (known, striped_trimap(8, 8)):
        with pytest.raises(InputError, match=f"cannot average {views} views: give 1, 8"):
            matte(net, torch.rand(3, 8, 8), trimap, test_time_augmentation=views)
