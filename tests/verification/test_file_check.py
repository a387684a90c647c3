"""Verification: what it lets pass as rounding, and what it does not."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from example_networks import UNet, randomize
from lce_support import dyadic, lower, signs
from torch.nn import functional as F

from binmat.errors import ExportError, VerificationError
from binmat.export import verify as verify_module
from binmat.export.deployment import deploy
from binmat.export.lce import LceModel, border, export_lce, windows
from binmat.export.lce import binary as binary_rules
from binmat.export.lce_interpreter import KERNELS
from binmat.export.verification import NodeCheck
from binmat.export.verify import check, verify_lce
from binmat.transforms.convert import convert

binarize = torch.ops.binmat.binarize
binary_conv2d = torch.ops.binmat.binary_conv2d


class Small:
    """A float stem, two binary layers, a state, two outputs."""

    def __init__(self, make=torch.randn) -> None:
        torch.manual_seed(0)
        self.stem = make(32, 3, 3, 3)
        self.weights = [signs(32, 32, 3, 3), signs(16, 32, 3, 3)]
        self.factors = [(make(32), make(32)), (make(16), make(16))]
        self.thresholds = [make(32), make(1)]

    def __call__(self, x, h):
        y = F.conv2d(x, self.stem, None, 1, 1) + h
        state = y.relu()
        for weight, factors, threshold, stride in zip(self.weights, self.factors, self.thresholds, (2, 1), strict=True):
            bits = binarize(y, threshold)
            y = binary_conv2d(bits, weight, *factors, [stride, stride], [1, 1], [1, 1], 1, 0)
        return y.flatten(1).mean(1), state


SIZE = (1, 3, 12, 14)


def exported(function, **options):
    graph = lower(function, torch.zeros(SIZE), torch.zeros(1, 32, 12, 14))
    for node in graph.graph.nodes:
        node.meta["layer"] = f"layer.{node.name}"
    return graph, export_lce(graph, None, ["src", "r1"], ["level", "r1"], **options)


def clip(count=2, like=torch.randn):
    torch.manual_seed(1)
    return [{"src": like(*SIZE)} for _ in range(count)]


def test_small_network_passes_in_every_kernel():
    graph, model = exported(Small())
    result = verify_lce(graph, model, clip(3), KERNELS, checked_frames=2)
    check(result)
    assert (result.height, result.width) == (12, 14)
    assert [(k.kernel, k.portable) for k in result.kernels] == [(k, k == "reference") for k in KERNELS]
    for kernel in result.kernels:
        assert kernel.frames == 3 and kernel.checked_frames == 2
        assert {(o.name, o.frame) for o in kernel.outputs} == {(n, f) for n in ("level", "r1") for f in range(3)}
        kinds = {node.operator: node.kind for node in kernel.nodes}
        assert kinds["binmat.binarize.default"] == "sign" and kinds["binmat.binary_conv2d.default"] == "sum"
        assert kinds["aten.convolution.default"] == "value"
        assert len(kernel.flips) == 2 * 3 and all(f.elements for f in kernel.flips)
        assert 0 < kernel.max_abs < 1e-4 and 0 < kernel.mean_abs <= kernel.max_abs
    assert json.loads(json.dumps(result.to_json()))["kernels"][0]["kernel"] == "optimized"


def test_dyadic_binary_layers_are_exact_end_to_end():
    small = Small(dyadic)

    def function(x, h):
        y = h.clamp(-1, 1)
        bits = binarize(x.repeat(1, 11, 1, 1)[:, :32] + y, small.thresholds[0])
        y = binary_conv2d(bits, small.weights[0], *small.factors[0], [2, 2], [1, 1], [1, 1], 1, 0)
        y = binary_conv2d(
            binarize(y, small.thresholds[1]), small.weights[1], *small.factors[1], [1, 1], [1, 1], [1, 1], 1, 0
        )
        return y.relu(), h * 0.5

    graph, model = exported(function)
    result = verify_lce(graph, model, clip(3, dyadic), KERNELS)
    check(result)
    for kernel in result.kernels:
        assert kernel.max_abs == 0 and kernel.flipped_signs == 0 and len(kernel.flips) == 6
        assert kernel.first_flips is None


def test_states_are_fed_back():
    def function(x, h):
        h = h + 1
        return h.amax((1, 2, 3)) + 0 * x.sum(), h

    graph, model = exported(function)
    seen = []
    run = verify_module.LceInterpreter.run

    def spy(self, inputs):
        outputs = run(self, inputs)
        seen.append(float(outputs[0]))
        return outputs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify_module.LceInterpreter, "run", spy)
        check(verify_lce(graph, model, clip(3), ["optimized"]))
    assert seen == [1, 2, 3]


def test_first_frame_may_bring_states():
    graph, model = exported(Small())
    frames = clip(2)
    frames[0]["r1"] = torch.full((1, 32, 12, 14), 100.0)
    with_state = verify_lce(graph, model, frames, ["optimized"])
    check(with_state)
    with pytest.raises(ExportError, match="frame 0 has no input 'src'"):
        verify_lce(graph, model, [{"r1": frames[0]["r1"]}], ["optimized"])


def test_chunks_give_the_same_result(monkeypatch):
    graph, model = exported(Small())
    whole = verify_lce(graph, model, clip(), ["optimized"])
    monkeypatch.setattr(verify_module, "CHUNK_BYTES", 1)
    chunked = verify_lce(graph, model, clip(), ["optimized"])
    assert whole == chunked


def test_signs_that_rounding_flips_pass():
    """Thresholds equal to the values of torch's own convolution: LCE's differ in the last bit."""
    torch.manual_seed(0)
    first, second = torch.randn(256, 64, 3, 3), signs(8, 256, 1, 1)
    x = torch.randn(1, 64, 4, 4)
    threshold = F.conv2d(x, first, None, 1, 1)[0, :, 1, 2].clone()

    def function(x, h):
        y = binarize(F.conv2d(x, first, None, 1, 1), threshold)
        y = binary_conv2d(y, second, torch.ones(8), torch.zeros(8), [1, 1], [0, 0], [1, 1], 1, 0)
        return y, h * 2

    graph = lower(function, x, torch.zeros(1, 1))
    model = export_lce(graph, None, ["x", "h"], ["y", "h"])
    result = verify_lce(graph, model, [{"x": x}], ["optimized"])
    check(result)
    (flips,) = result.kernels[0].flips
    assert flips.flipped > 10 and flips.distance < 1e-5
    assert result.kernels[0].first_flips == flips
    assert result.to_json()["kernels"][0]["first_flips"]["flipped"] == flips.flipped
    assert result.kernels[0].max_abs >= 2


def test_bits_written_by_a_convolution_are_checked():
    small = Small()

    def function(x, h):
        bits = binarize(h, small.thresholds[0])
        bits = binarize(
            binary_conv2d(bits, small.weights[0], *small.factors[0], [1, 1], [1, 1], [1, 1], 1, 1), small.thresholds[1]
        )
        return bits + x[:, :1], h + 1

    graph, model = exported(function)
    assert "binary_conv2d" not in model.values and model.values["binarize_1"].encoding == "packed"
    frames = clip()
    frames[0]["r1"] = torch.randn(1, 32, 12, 14)
    result = verify_lce(graph, model, frames, ["optimized"])
    check(result)
    assert [n.node for n in result.kernels[0].nodes if n.kind == "sign"] == ["binarize", "binarize_1"]


def failure(function, **options) -> VerificationError:
    graph, model = exported(function, **options)
    with pytest.raises(VerificationError) as caught:
        check(verify_lce(graph, model, clip(), ["optimized"]))
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_wrong_threshold_is_found(monkeypatch):
    monkeypatch.setattr(binary_rules, "_shift", lambda levels: levels)
    assert "layer 'layer.binarize" in str(failure(Small()))


def test_a_wrong_padding_is_found(monkeypatch):
    monkeypatch.setattr(windows.Axis, "same", property(lambda axis: True))
    assert "layer 'layer.binary_conv2d'" in str(failure(Small()))


def test_a_missing_border_correction_is_found(monkeypatch):
    whole = border.padding_share

    def without(weight, axes):
        share = whole(weight, axes)
        return border.Border(share.table * 0, share.rows, share.columns)

    monkeypatch.setattr(binary_rules, "padding_share", without)
    assert "layer 'layer.binary_conv2d'" in str(failure(Small()))


def test_one_flipped_weight_bit_in_the_file_is_found():
    small = Small()
    graph, model = exported(small)
    from binmat.export.lce.values import pack_signs

    packed = pack_signs(small.weights[1].numpy().transpose(0, 2, 3, 1)).tobytes()
    place = model.content.index(packed)
    broken = bytearray(model.content)
    broken[place + 100] ^= 1
    with pytest.raises(VerificationError, match="file's outputs are not those of the network"):
        check(verify_lce(graph, model, clip(), ["optimized"], content=bytes(broken)))
    check(verify_lce(graph, model, clip(), ["optimized"], content=bytes(model.content)))


def test_swapped_outputs_are_found():
    graph, model = exported(lambda x, h: (h * 2, h * 3))
    swapped = LceModel(
        export_lce(lower(lambda x, h: (h * 3, h * 2), torch.zeros(SIZE), torch.zeros(1, 32, 12, 14)),
                   None, ["src", "r1"], ["level", "r1"]).content,
        model.input_names, model.output_names, False, model.values, model.builder,
    )  # fmt: skip
    frames = [{"src": torch.randn(SIZE), "r1": torch.randn(1, 32, 12, 14)}]
    with pytest.raises(VerificationError, match="outputs are not those"):
        check(verify_lce(graph, swapped, frames, ["optimized"]))


def test_amplified_rounding_is_told_from_a_difference(monkeypatch):
    """A normalisation of an almost constant map amplifies its operand's last bits without being wrong."""
    x = 3 + 1e-6 * torch.randn(1, 4, 30, 30)
    graph = lower(lambda x: F.group_norm(x, 2, eps=1e-12), x)
    model = export_lce(graph, None, ["x"], ["y"])
    check(verify_lce(graph, model, [{"x": x}], ["optimized"]))

    from binmat.export.lce import reductions

    monkeypatch.setattr(
        reductions, "mean_over", lambda e, value, dims, keep: reductions._reduce(e, "SUM", value, dims, keep)
    )
    wrong = export_lce(graph, None, ["x"], ["y"])
    with pytest.raises(VerificationError):
        check(verify_lce(graph, wrong, [{"x": torch.randn(1, 4, 30, 30)}], ["optimized"]))


def test_nan_is_a_failure():
    assert not NodeCheck("n", "", "op", "value", 1, float("nan"), 1e-5).passed


def test_denormals_are_positive():
    x = torch.full((1, 1, 2, 2), -1e-40)
    graph = lower(lambda x: binarize(x, torch.zeros(1)) * 1.0, x)
    model = export_lce(graph, None, ["x"], ["y"])
    result = verify_lce(graph, model, [{"x": x}], ["optimized"])
    check(result)
    assert result.kernels[0].max_abs == 0


def test_progress_counts_every_comparison():
    network = convert(randomize(UNet()), "reactnet").eval()
    seen = []
    deploy(network, example=network.example(24, 32)).verify(progress=lambda done, count: seen.append((done, count)))
    # The float64 check, then two clips of two frames on two kernels.
    assert seen == [(done, 9) for done in range(1, 10)]


def test_where_torchs_float32_is_the_less_exact_one():
    """Torch adds the 51,200 equal elements of a window one by one, LCE rows and columns."""

    def pool(x, h):
        return F.adaptive_avg_pool2d(x, (1, 2)), h * 1

    x, h = torch.full((1, 1, 320, 320), 0.1), torch.zeros(1, 1, 1, 1)
    assert float((pool(x, h)[0] - 0.1).abs().max()) > verify_module.VALUE_LIMIT * 0.1
    graph = lower(pool, x, h)
    model = export_lce(graph, None, ["src", "r1"], ["level", "r1"])
    result = verify_lce(graph, model, [{"src": x}], ["optimized"])
    check(result)
    assert max(node.worst for node in result.kernels[0].nodes) < verify_module.VALUE_LIMIT / 4


def test_a_file_that_treats_states_wrongly_is_found():
    """On the first frame states are zeros, and nothing that multiplies them would show."""
    factor = torch.full((1, 32, 12, 14), 2.5)

    def function(x, h):
        return x.mean((2, 3)), x.repeat(1, 11, 1, 1)[:, :32] + h * factor

    graph, model = exported(function)
    check(verify_lce(graph, model, clip(), ["optimized"]))
    wrong = model.content.replace(np.float32(2.5).tobytes(), np.float32(-7.5).tobytes())
    assert wrong != model.content
    with pytest.raises(VerificationError, match="outputs are not those of the network"):
        check(verify_lce(graph, model, clip(), ["optimized"], content=wrong))
    # A bug of the writer: the checked nodes are wrong too, and alike.
    broken, _ = exported(lambda x, h: (x.mean((2, 3)), x.repeat(1, 11, 1, 1)[:, :32] + h * (factor * -3)))
    with pytest.raises(VerificationError, match="differs from torch on equal inputs"):
        check(verify_lce(broken, model, clip(), ["optimized"]))
