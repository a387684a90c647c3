"""Verification: what it lets pass as rounding, and what it does not."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from lowered_graphs import dyadic, lowered, signs
from torch import Tensor
from torch.nn import functional as F

from binmat.backends.lce.backend import LCE
from binmat.backends.lce.emitter import RULES, Emitter
from binmat.backends.lce.interpreter import KERNELS, LceInterpreter
from binmat.backends.lce.model import LceModel
from binmat.backends.lce.rules import binary as binary_rules
from binmat.backends.lce.rules import reductions
from binmat.backends.lce.rules.elementwise import arithmetic_like
from binmat.errors import ExportError, VerificationError
from binmat.transforms.lowering.constants import constant
from binmat.transforms.lowering.lowered_graph import LoweredGraph
from binmat.transforms.lowering.padding_share import Border
from binmat.transforms.lowering.sign_packing import pack_signs
from binmat.verification.file_check import check_file, run_file
from binmat.verification.node_check import VALUE_LIMIT
from binmat.verification.results import FileRun, NetworkCheck, NodeCheck, Verification

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


def graph_of(function: Callable[..., object]) -> LoweredGraph:
    """A function of a frame ``src`` and a state ``r1`` that gives ``level`` and the state."""
    graph = lowered(
        function, torch.zeros(SIZE), torch.zeros(1, 32, 12, 14), inputs=["src", "r1"], outputs=["level", "r1"]
    )
    for node in graph.module.graph.nodes:
        node.meta["layer"] = f"layer.{node.name}"
    return graph


def run(
    graph: LoweredGraph,
    frames: Sequence[Mapping[str, Tensor]],
    kernel: str = "optimized",
    model: LceModel | None = None,
    **options: object,
) -> FileRun:
    return check_file(LCE, graph, model or LCE.write(graph, kernel), frames, kernel, **options)


def clip(count=2, like=torch.randn):
    torch.manual_seed(1)
    return [{"src": like(*SIZE)} for _ in range(count)]


def test_small_network_passes_in_every_kernel():
    graph = graph_of(Small())
    for name in KERNELS:
        kernel = run(graph, clip(3), name, checked_frames=2)
        kernel.check()
        assert (kernel.kernel, kernel.form) == (name, "portable form" if name == "reference" else "")
        assert kernel.frames == 3 and kernel.checked_frames == 2
        assert {(o.name, o.frame) for o in kernel.outputs} == {(n, f) for n in ("level", "r1") for f in range(3)}
        kinds = {node.operator: node.kind for node in kernel.nodes}
        assert kinds["binmat.binarize.default"] == "sign" and kinds["binmat.binary_conv2d.default"] == "sum"
        assert kinds["aten.convolution.default"] == "value"
        assert len(kernel.flips) == 2 * 3 and all(f.elements for f in kernel.flips)
        assert 0 < kernel.max_abs < 1e-4 and 0 < kernel.mean_abs <= kernel.max_abs
        assert json.loads(json.dumps(kernel.to_json()))["kernel"] == name


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

    graph = graph_of(function)
    for name in KERNELS:
        kernel = run(graph, clip(3, dyadic), name)
        kernel.check()
        assert kernel.max_abs == 0 and kernel.flipped_signs == 0 and len(kernel.flips) == 6
        assert kernel.first_flips is None


def test_states_are_fed_back():
    def function(x, h):
        h = h + 1
        return h.amax((1, 2, 3)) + 0 * x.sum(), h

    seen = []
    interpret = LceInterpreter.run

    def spy(self, inputs):
        outputs = interpret(self, inputs)
        seen.append(float(outputs[0]))
        return outputs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LceInterpreter, "run", spy)
        run(graph_of(function), clip(3), checked_frames=3).check()
    assert seen == [1, 2, 3]
    found = run(graph_of(function), clip(3))
    assert [(o.frame, o.max_abs) for o in found.outputs if o.name == "level"] == [(0, 0), (1, 0), (2, 0)]


def test_another_kernel_runs_the_binary_operators():
    graph = graph_of(Small())

    def by_others(reference: LceModel) -> FileRun:
        model = LCE.write(graph, "optimized")
        return run_file(LCE, graph, model, clip(2), "optimized", others={"reference": reference}).others["reference"]

    found = by_others(LCE.write(graph, "reference"))
    found.check()
    binary = [node.name for node in graph.module.graph.nodes if "binary_conv2d" in str(node.target)]
    assert (found.frames, found.checked_frames) == (0, 1) and [node.node for node in found.nodes] == binary != []
    # One weight is turned in the form that this kernel runs.
    wrong = graph_of(Small())
    weight = next(constant(wrong.module, n.args[1]) for n in wrong.module.graph.nodes if n.name == binary[-1])
    weight[0, 0, 0, 0] *= -1
    with pytest.raises(VerificationError, match="1 of 2 nodes fail"):
        by_others(LCE.write(wrong, "reference")).check()


def test_first_frame_may_bring_states():
    graph = graph_of(Small())
    frames = clip(2)
    frames[0]["r1"] = torch.full((1, 32, 12, 14), 100.0)
    run(graph, frames).check()
    with pytest.raises(ExportError, match="frame 0 has no input 'src'"):
        run(graph, [{"r1": frames[0]["r1"]}])


def test_small_segments_give_the_same_result():
    graph = graph_of(Small())

    class Segmented(LceModel):
        def values(self, groups, inputs, kernel):
            return super().values(groups, inputs, kernel, segment_bytes=1)

    whole = LCE.write(graph)
    parts = Segmented(whole.content, whole.form, whole.stored, whole.inputs, whole.builder)
    assert run(graph, clip(), model=whole) == run(graph, clip(), model=parts)


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

    result = run(lowered(function, x, torch.zeros(1, 1), inputs=["x", "h"], outputs=["y", "h"]), [{"x": x}])
    result.check()
    (flips,) = result.flips
    assert flips.flipped > 10 and flips.distance < 1e-5
    assert flips.flipped / 2 < flips.near <= 256 * 16
    assert result.first_flips == flips
    verdict = str(Verification("lce", "LCE", NetworkCheck(0, 0, 0, 1, 0, 0), {("clip", ""): result}))
    assert f"{flips.near:,} of 4,096 signs lie within 1e-06 standard deviations of their threshold" in verdict
    assert result.to_json()["first_flips"]["flipped"] == flips.flipped
    assert result.max_abs >= 2


def test_bits_written_by_a_convolution_are_checked():
    small = Small()

    def function(x, h):
        bits = binarize(h, small.thresholds[0])
        bits = binarize(
            binary_conv2d(bits, small.weights[0], *small.factors[0], [1, 1], [1, 1], [1, 1], 1, 1), small.thresholds[1]
        )
        return bits + x[:, :1], h + 1

    graph = graph_of(function)
    model = LCE.write(graph)
    assert "binary_conv2d" not in model.stored and model.stored["binarize_1"].encoding == "packed"
    frames = clip()
    frames[0]["r1"] = torch.randn(1, 32, 12, 14)
    result = run(graph, frames, model=model)
    result.check()
    assert [n.node for n in result.nodes if n.kind == "sign"] == ["binarize", "binarize_1"]


def failure(graph: LoweredGraph) -> str:
    with pytest.raises(VerificationError) as caught:
        run(graph, clip()).check()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_wrong_threshold_is_found(monkeypatch):
    right = RULES[binarize.default]

    def wrong(e: Emitter, x: object, threshold: Tensor) -> object:
        return right(e, x, -threshold)

    monkeypatch.setitem(RULES, binarize.default, wrong)
    assert "layer 'layer.binarize" in failure(graph_of(Small()))


def test_a_wrong_padding_is_found(monkeypatch):
    monkeypatch.setattr(binary_rules, "is_same", lambda axis: True)
    assert "layer 'layer.binary_conv2d'" in failure(graph_of(Small()))


def test_a_missing_border_correction_is_found(monkeypatch):
    whole = binary_rules.padding_share

    def without(weight, axes):
        share = whole(weight, axes)
        return Border(share.table * 0, share.rows, share.columns)

    monkeypatch.setattr(binary_rules, "padding_share", without)
    assert "layer 'layer.binary_conv2d'" in failure(graph_of(Small()))


def test_one_flipped_weight_bit_in_the_file_is_found():
    small = Small()
    graph = graph_of(small)
    model = LCE.write(graph)
    content = model.content
    packed = pack_signs(small.weights[1].numpy().transpose(0, 2, 3, 1)).tobytes()
    broken = bytearray(content)
    broken[content.index(packed) + 100] ^= 1
    with pytest.raises(VerificationError, match="file's outputs are not those of the network"):
        run(graph, clip(), model=replace(model, content=bytes(broken))).check()
    run(graph, clip(), model=model).check()


def test_swapped_outputs_are_found():
    graph = graph_of(lambda x, h: (h * 2, h * 3))
    other = LCE.write(graph_of(lambda x, h: (h * 3, h * 2)))
    frames = [{"src": torch.randn(SIZE), "r1": torch.randn(1, 32, 12, 14)}]
    with pytest.raises(VerificationError, match="outputs are not those"):
        run(graph, frames, model=replace(LCE.write(graph), content=other.content)).check()


def test_amplified_rounding_is_told_from_a_difference(monkeypatch):
    """A normalisation of an almost constant map amplifies its operand's last bits without being wrong."""
    x = 3 + 1e-6 * torch.randn(1, 4, 30, 30)
    graph = lowered(lambda x: F.group_norm(x, 2, eps=1e-12), x)
    run(graph, [{"x0": x}]).check()
    right = reductions.mean_over

    def wrong(e, value, dims, keepdim):
        return arithmetic_like(e, "MUL", right(e, value, dims, keepdim), 1.01)

    monkeypatch.setattr(reductions, "mean_over", wrong)
    with pytest.raises(VerificationError):
        run(graph, [{"x0": torch.randn(1, 4, 30, 30)}]).check()


def test_nan_is_a_failure():
    assert not NodeCheck("n", "", "op", "value", 1, float("nan"), 1e-5).passed


def test_denormals_are_positive():
    x = torch.full((1, 1, 2, 2), -1e-40)
    result = run(lowered(lambda x: binarize(x, torch.zeros(1)) * 1.0, x), [{"x0": x}])
    result.check()
    assert result.max_abs == 0


def test_where_torchs_float32_is_the_less_exact_one():
    """Torch adds the 51,200 equal elements of a window one by one, LCE rows and columns."""

    def pool(x, h):
        return F.adaptive_avg_pool2d(x, (1, 2)), h * 1

    x, h = torch.full((1, 1, 320, 320), 0.1), torch.zeros(1, 1, 1, 1)
    assert float((pool(x, h)[0] - 0.1).abs().max()) > VALUE_LIMIT * 0.1
    result = run(lowered(pool, x, h, inputs=["src", "r1"], outputs=["level", "r1"]), [{"src": x}])
    result.check()
    assert max(node.worst for node in result.nodes) < VALUE_LIMIT


def test_a_file_that_treats_states_wrongly_is_found():
    """On the first frame states are zeros, and nothing that multiplies them would show."""
    factor = torch.full((1, 32, 12, 14), 2.5)

    def function(x, h):
        return x.mean((2, 3)), x.repeat(1, 11, 1, 1)[:, :32] + h * factor

    graph = graph_of(function)
    model = LCE.write(graph)
    run(graph, clip(), model=model).check()
    wrong = model.content.replace(np.float32(2.5).tobytes(), np.float32(-7.5).tobytes())
    assert wrong != model.content
    with pytest.raises(VerificationError, match="outputs are not those of the network"):
        run(graph, clip(), model=replace(model, content=wrong)).check()
    # A bug of the writer: the checked nodes are wrong too, and alike.
    broken = graph_of(lambda x, h: (x.mean((2, 3)), x.repeat(1, 11, 1, 1)[:, :32] + h * (factor * -3)))
    with pytest.raises(VerificationError, match="differs from torch on equal inputs"):
        run(broken, clip(), model=model).check()
