"""MODNet against the official outputs, its key layouts, its modes as graphs, and its e-ASPP variant."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_fill import noise_image
from official_checkpoints import filled
from torch import Tensor, fx, nn
from torch.nn import functional as F
from tracing import traced

from binmat.errors import CheckpointError, SizeError, UnknownNameError
from binmat.model_defs.mobilenet_v2 import InvertedResidual
from binmat.model_defs.modnet import SPECS, EfficientASPP, MODNet
from binmat.nn import BinaryConv2d, RPReLU
from binmat.nn.ibnorm import IBNorm
from binmat.transforms.convert import convert

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
COPY = "lr_branch.backbone."


@pytest.fixture(scope="module")
def official_shapes() -> dict[str, list[int]]:
    keys = json.loads((GOLDEN / "modnet.keys.json").read_text())
    return {key: shape for key, (shape, _) in keys.items()}


@pytest.fixture(scope="module")
def golden_net() -> MODNet:
    return filled(MODNet()).double()


@pytest.fixture(scope="module")
def img() -> Tensor:
    return torch.from_numpy(noise_image("img", (1, 3, 64, 96))).double() * 2 - 1


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def test_golden_outputs(golden_net: MODNet, img: Tensor) -> None:
    golden = np.load(GOLDEN / "modnet.npz")
    for name, output in zip(("semantic", "detail", "matte"), golden_net(img, inference=False), strict=True):
        assert output is not None
        np.testing.assert_allclose(output.numpy(), golden[name], rtol=0, atol=1e-5, err_msg=name)


def test_inference_gives_the_same_matte_and_nothing_else(golden_net: MODNet, img: Tensor) -> None:
    semantic, detail, matte = golden_net(img, inference=True)
    assert semantic is None
    assert detail is None
    assert torch.equal(matte, golden_net(img, inference=False)[2])
    assert torch.equal(matte, golden_net(img)[2])


def test_images_of_a_batch_do_not_mix(golden_net: MODNet, img: Tensor) -> None:
    other = img.flip(3) * 0.5
    both = golden_net(torch.cat((img, other)), inference=False)
    for joint, first, second in zip(both, golden_net(img, False), golden_net(other, False), strict=True):
        torch.testing.assert_close(joint, torch.cat((first, second)), rtol=0, atol=1e-9)


def test_state_dict_has_the_official_keys_shapes_and_order(official_shapes: Mapping[str, list[int]]) -> None:
    state = MODNet().state_dict()
    assert list(state) == list(official_shapes)
    assert len(state) == 751
    assert {key: list(value.shape) for key, value in state.items()} == official_shapes


def test_the_backbone_is_one_module_under_two_names() -> None:
    net = MODNet()
    assert net.backbone is net.lr_branch.backbone
    assert sum(key.startswith(COPY) for key in net.state_dict()) == 312
    assert sum(p.numel() for p in net.parameters()) == 6_487_075


def test_replacing_a_backbone_layer_replaces_both_names() -> None:
    net = MODNet()
    layer = nn.Conv2d(3, 32, 3, 2, 1, bias=False)
    net.set_submodule("backbone.model.features.0.0", layer)
    assert net.get_submodule(COPY + "model.features.0.0") is layer


@pytest.mark.parametrize("missing", ["backbone.", COPY])
def test_a_checkpoint_with_one_backbone_loads_strictly(golden_net: MODNet, missing: str) -> None:
    state = {key: value for key, value in golden_net.state_dict().items() if not key.startswith(missing)}
    assert len(state) == 751 - 312
    net = MODNet()
    net.double().load_state_dict(net.normalise_keys(state))
    loaded = net.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in golden_net.state_dict().items())


def test_normalising_leaves_an_official_checkpoint_as_it_is(golden_net: MODNet) -> None:
    state = golden_net.state_dict()
    assert golden_net.normalise_keys(state) == dict(state)


def test_two_backbones_that_differ_are_an_error(golden_net: MODNet) -> None:
    state = dict(golden_net.state_dict())
    key = COPY + "model.features.3.conv.0.weight"
    state[key] = state[key] + 1
    with pytest.raises(CheckpointError, match=r"features\.3\.conv\.0\.weight.*differ"):
        golden_net.normalise_keys(state)


@pytest.mark.parametrize(("context", "trimap"), [("se", False), ("easpp", False), ("se", True), ("easpp", True)])
@pytest.mark.parametrize("missing", ["nothing", "backbone.", COPY])
def test_recognises_its_own_layouts(context: str, trimap: bool, missing: str) -> None:
    (spec,) = SPECS
    with torch.device("meta"):
        state = MODNet(context, trimap).state_dict()
        shapes = {k: tuple(v.shape) for k, v in state.items() if not k.startswith(missing)}
        assert spec.recognise(shapes) == {"context": context, "trimap": trimap}
        built = spec.build(**spec.recognise(shapes)).state_dict()
    assert {k: v.shape for k, v in built.items()} == {k: v.shape for k, v in state.items()}


def test_recognises_a_damaged_file(official_shapes: Mapping[str, list[int]]) -> None:
    shapes = {key: tuple(shape) for key, shape in official_shapes.items() if not key.startswith("f_branch.")}
    assert SPECS[0].recognise(shapes) == {"context": "se", "trimap": False}


@pytest.mark.parametrize("other", ["rvm_mobilenetv3_dgf", "bimatting_fgf", "litematting", "lsa"])
def test_recognises_no_other_network(other: str) -> None:
    keys = json.loads((GOLDEN / f"{other}.keys.json").read_text())
    assert SPECS[0].recognise({key: tuple(shape) for key, (shape, _) in keys.items()}) is None


@pytest.mark.parametrize("context", ["se", "easpp"])
@pytest.mark.parametrize("mode", ["matting", "training"])
def test_modes_are_traceable(context: str, mode: str, img: Tensor) -> None:
    net = filled(MODNet(context)).double()
    program = traced(net, mode)
    expected = net(img, inference=mode == "matting")
    if mode == "matting":
        assert torch.equal(program(img), expected[2])
    else:
        assert all(torch.equal(a, b) for a, b in zip(program(img), expected, strict=True))
    # The graph is not bound to the size it was traced with, nor to a batch.
    assert program(torch.zeros(2, 3, 32, 64, dtype=torch.float64)) is not None


def test_the_official_call_runs_the_programs(golden_net: MODNet, img: Tensor) -> None:
    net = filled(MODNet()).double()
    net.programs["matting"] = lambda owner, x: x.mean()
    assert net(img)[2] == img.mean()
    assert torch.equal(net(img, inference=False)[2], golden_net(img)[2])


def test_matting_graph_leaves_out_what_only_training_needs() -> None:
    net = MODNet()
    used = {node.target for node in traced(net, "matting").graph.nodes if node.op == "call_module"}
    assert not any(str(name).startswith(("lr_branch.conv_lr.", "hr_branch.conv_hr.")) for name in used)
    everything = {node.target for node in traced(net, "training").graph.nodes if node.op == "call_module"}
    layers = {name for name, layer in net.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    assert layers <= everything


def test_float_layers_are_those_that_read_the_image_or_make_an_output() -> None:
    net = MODNet()
    graph = traced(net, "training").graph
    (image,) = (node for node in graph.nodes if node.op == "placeholder")

    def nearest(start: fx.Node, step: str) -> set[str]:
        """Layers reached from a node over its users or inputs without passing through another layer."""
        found, todo = set(), list(getattr(start, step))
        while todo:
            node = todo.pop()
            layer = net.get_submodule(node.target) if node.op == "call_module" else None
            if isinstance(layer, nn.Conv2d | nn.Linear):
                found.add(node.target)
            else:
                todo += getattr(node, step)
        return found

    edges = nearest(image, "users") | nearest(graph.output_node(), "all_input_nodes")
    layers = [name for name, layer in net.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    kept = {name: pattern for pattern in net.float_layers for name in layers if fnmatchcase(name, pattern)}
    assert set(kept) == edges
    assert set(kept.values()) == set(net.float_layers)


def test_example_inputs() -> None:
    net = MODNet().eval()
    example = net.example(64, 96)
    assert example.mode == "matting"
    assert list(example.inputs) == ["img"]
    assert example.outputs == ("matte",)
    assert example.states == ()
    assert net.run(example.mode, *example.inputs.values()).shape == (1, 1, 64, 96)


@pytest.mark.parametrize(("height", "width"), [(64, 100), (48, 64), (16, 32)])
def test_wrong_sizes_are_errors(height: int, width: int) -> None:
    net = MODNet()
    with pytest.raises(SizeError):
        net(torch.zeros(1, 3, height, width))
    with pytest.raises(SizeError):
        net.example(height, width)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 4, 64, 64), (1, 2, 3, 64, 64)])
def test_wrong_shapes_are_errors(shape: tuple[int, ...]) -> None:
    with pytest.raises(SizeError, match=r"\[N, 3, H, W\]"):
        MODNet()(torch.zeros(shape))


def test_a_downsample_ratio_is_an_error() -> None:
    with pytest.raises(SizeError, match="no downsample ratio"):
        MODNet().example(64, 64, downsample_ratio=0.5)


def test_an_unknown_context_is_an_error() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'easpp'"):
        MODNet("aspp")  # type: ignore[arg-type]


def test_easpp_has_the_papers_weights() -> None:
    # Eq. 13 with c = 1280 channels, m = 5 scales, k = 3.
    c, m, k = 1280, 5, 3
    block = EfficientASPP(c)
    convolutions = [layer for layer in block.modules() if isinstance(layer, nn.Conv2d)]
    assert sum(conv.weight.numel() for conv in convolutions) == (2 * c**2 + (k**2 + 1) * m * c) // 4 == 835_200
    assert all(conv.bias is None for conv in convolutions)
    assert sum(p.numel() for p in MODNet("easpp").parameters()) == 6_510_115


def test_easpp_fuses_scales_per_channel_before_it_mixes_channels() -> None:
    torch.manual_seed(0)
    block = EfficientASPP(8, reduction=2, rates=(1, 2)).eval()
    x = torch.rand(1, 8, 9, 9)
    reduced = block.reduce(x)
    # Steps 2 and 3 as one grouped convolution over the interleaved scales, the paper's (c/4, m, 1x1).
    scales = torch.stack([scale(reduced) for scale in block.scales], 2).flatten(1, 2)
    weight = torch.stack([fuse.weight for fuse in block.fuse], 1).reshape(4, 2, 1, 1)
    fused = F.conv2d(scales, weight, groups=4)
    torch.testing.assert_close(block(x), block.expand(block.fuse_act(block.fuse_norm(fused))))


def test_easpp_reaches_beyond_a_3x3_window() -> None:
    torch.manual_seed(0)
    block = EfficientASPP(16).eval()
    x = torch.rand(1, 16, 31, 31)
    touched = x.clone()
    touched[0, :, 15, 15] += 1
    rows = (block(touched) != block(x)).any(1)[0].any(1).nonzero().flatten()
    assert rows.min() == 15 - 12
    assert rows.max() == 15 + 12


@pytest.mark.parametrize(("depthwise", "expected"), [(0.5, 6 * 0.5), (2.0, 6.0)])
def test_both_activations_of_an_inverted_residual_stop_at_6(depthwise: float, expected: float) -> None:
    block = InvertedResidual(2, 2, stride=1, expansion=6).eval()
    expand, centre, project = (layer for layer in block.conv if isinstance(layer, nn.Conv2d))
    expand.weight.fill_(100)
    centre.weight.zero_()[:, :, 1, 1] = depthwise
    project.weight.fill_(1 / 12)
    x = torch.ones(1, 2, 3, 3)
    torch.testing.assert_close(block(x), x + expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("channels", [2, 7, 16])
def test_ibnorm_is_batch_norm_and_instance_norm(channels: int) -> None:
    torch.manual_seed(0)
    norm = IBNorm(channels).double()
    half = channels // 2
    x = torch.randn(3, channels, 5, 7, dtype=torch.float64) * 4 + 10
    for _ in range(2):
        norm(x)
    norm.eval()
    y = norm(x)
    torch.testing.assert_close(y[:, :half], norm.bnorm(x[:, :half]))
    torch.testing.assert_close(y[:, half:], F.instance_norm(x[:, half:], eps=1e-5))
    assert list(norm.state_dict()) == [f"bnorm.{key}" for key in nn.BatchNorm2d(half).state_dict()]


def test_ibnorm_keeps_its_precision_far_from_zero() -> None:
    # E[x^2] - E[x]^2 would lose every digit of this variance in float32.
    torch.manual_seed(0)
    x = torch.randn(1, 4, 32, 32, dtype=torch.float64)
    y = IBNorm(4).eval()((x + 10_000).float())[:, 2:]
    torch.testing.assert_close(y.double(), F.instance_norm(x[:, 2:]), rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    ("inference", "spelt_out", "with_instance_norm"),
    [(True, 15_622_750_208, 15_671_443_456), (False, 18_315_788_288, 18_381_258_752)],
)
def test_flops_of_fvcore(
    inference: bool, spelt_out: int, with_instance_norm: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fvcore = pytest.importorskip("fvcore.nn")

    def total() -> int:
        count = fvcore.FlopCountAnalysis(MODNet().eval(), (torch.zeros(1, 3, 512, 512), inference))
        count.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        return int(count.total())

    def forward(self: IBNorm, x: Tensor) -> Tensor:
        half = self.batch_channels
        return torch.cat((self.bnorm(x[:, :half]), F.instance_norm(x[:, half:], eps=self.eps)), 1)

    # fvcore counts nothing for mean, subtract and multiply, but does for aten::instance_norm.
    assert total() == spelt_out
    monkeypatch.setattr(IBNorm, "forward", forward)
    assert total() == with_instance_norm


def test_activations_behind_ibnorm_are_replaced_with_the_scheme() -> None:
    network = convert(MODNet(), "reactnet")
    for name, module in network.named_modules():
        if name.startswith(("hr_branch", "f_branch")) and isinstance(module, IBNorm):
            row = name.rsplit(".", 1)[0]
            binary = isinstance(network.get_submodule(f"{row}.0"), BinaryConv2d)
            assert isinstance(network.get_submodule(f"{row}.2"), RPReLU if binary else nn.ReLU)


def test_a_trimap_is_a_fourth_channel_wherever_the_image_is_read(img: Tensor) -> None:
    plain, net = filled(MODNet()).double(), filled(MODNet(trimap=True)).double()
    # 9 weights for each of the output channels of the five layers that read the image.
    added = 9 * (32 + 32 + 64 + 32 + 16)
    assert sum(p.numel() for p in net.parameters()) == 6_487_075 + added
    wider = {name for name, p in plain.named_parameters() if net.get_parameter(name).shape != p.shape}
    assert wider == {f"{name}.weight" for name in MODNet.float_layers if MODNet.float_layers[name].startswith("input")}
    state = net.state_dict()
    for name, value in plain.state_dict().items():
        if state[name].shape == value.shape:
            state[name].copy_(value)
        else:
            # The trimap joins the image, which stands before the features in one layer and behind them in the others.
            of_trimap = 3 if name.startswith("hr_branch.conv_enc2x.") else value.shape[1]
            state[name].zero_()
            state[name][:, [c for c in range(value.shape[1] + 1) if c != of_trimap]] = value
    trimap = torch.rand(1, 1, 64, 96, dtype=torch.float64) * 2 - 1
    four = torch.cat((img, trimap), 1)
    for with_trimap, without in zip(net(four, False), plain(img, False), strict=True):
        torch.testing.assert_close(with_trimap, without)
    filled(net)
    assert not torch.allclose(net(four)[2], net(torch.cat((img, -trimap), 1))[2])
    assert torch.equal(traced(net, "matting")(four), net(four)[2])
    assert net.example(32, 64).inputs["img"].shape == (1, 4, 32, 64)
    with pytest.raises(SizeError, match=r"takes images \[N, 4, H, W\], not \[1, 3, 64, 96\]: .* join the trimap"):
        net(img)
