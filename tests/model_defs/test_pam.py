from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from binmat.errors import InputError, SizeError, TraceError
from binmat.model_defs.pam import PAM, SPECS, recognise
from binmat.model_defs.pam_blocks import ChannelAttention, ConnectLayer, DepthwiseModule
from binmat.model_defs.pam_body import CONSTRAINTS, path_costs
from binmat.model_defs.pam_paths import PATHS, ConvolutionCounter, dearest_within, open_bits
from binmat.transforms.convert import convert, plan_of
from binmat.transforms.trace import graphs, trace

SIZE = (32, 64)

#: The paper's constraints, in G at 1024x1024 -> the dearest path within. test_provenance.py compares their costs.
DEAREST = {75: "1101", 70: "0111", 60: "0010"}


@pytest.fixture(scope="module")
def network() -> PAM:
    """All paths, in float64, with batch norms that are not the identity."""
    torch.manual_seed(1)
    pam = PAM().double().eval()
    for module in pam.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return pam


def inputs(count: int, size: tuple[int, int] = SIZE, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    image = torch.rand(count, 3, *size, dtype=dtype)
    labels = torch.randint(0, 3, (count, *size))
    return image, nn.functional.one_hot(labels, 3).permute(0, 3, 1, 2).to(dtype)


def prefer(network: PAM, bit: int) -> PAM:
    """A copy whose path selection layers all prefer this bit, whatever they see."""
    preferring = copy.deepcopy(network)
    for stage in range(4):
        out = preferring.stage(stage).estimator.out
        nn.init.zeros_(out.weight)
        with torch.no_grad():
            out.bias.copy_(torch.tensor([-1.0, 1.0] if bit else [1.0, -1.0]))
    return preferring


def test_parameters_are_the_papers() -> None:
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in PAM().parameters())
    assert round(count / 1e6, 1) == 7.1


@pytest.mark.parametrize(("limit", "path"), DEAREST.items())
def test_the_dearest_paths_within_the_papers_constraints(limit: int, path: str) -> None:
    assert dearest_within(path_costs(1024, 1024), limit * 10**9) == path


def test_every_layer_that_runs_costs_more_than_its_bypass() -> None:
    costs = path_costs(1024, 1024)
    assert len(costs) == 16
    for path in PATHS:
        for stage in range(4):
            if path[stage] == "0":
                assert costs[path] < costs[f"{path[:stage]}1{path[stage + 1 :]}"]


def test_every_whole_constraint_between_cheapest_and_dearest_has_an_embedding() -> None:
    costs = [cost / 1e9 for cost in path_costs(1024, 1024).values()]
    assert list(CONSTRAINTS) == list(range(math.ceil(min(costs)), math.floor(max(costs)) + 1))


def fvcore_convolutions(network: nn.Module, size: tuple[int, int]) -> int:
    from fvcore.nn import FlopCountAnalysis

    logging.getLogger("fvcore").setLevel(logging.ERROR)
    counts = FlopCountAnalysis(network, inputs(1, size, torch.float32)).by_operator()
    return int(counts["conv"])


@pytest.mark.parametrize(
    "path", [path if path in ("0000", "1011") else pytest.param(path, marks=pytest.mark.slow) for path in PATHS]
)
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_cost_is_fvcores_convolution_count_of_the_static_network(path: str) -> None:
    assert path_costs(64, 96)[path] == fvcore_convolutions(PAM(path=path).eval(), (64, 96))


@pytest.mark.parametrize("path", PATHS)
def test_path_as_a_static_network(network: PAM, path: str) -> None:
    static = network.path(path)
    image, trimap = inputs(2)
    with torch.no_grad():
        alpha = network(image, trimap, path=path)
        assert alpha.shape == (2, 1, *SIZE)
        assert 0 <= alpha.min() < alpha.max() <= 1
        torch.testing.assert_close(static(image, trimap), alpha, rtol=0, atol=0)

        traced = trace(static)
        torch.testing.assert_close(traced.programs["matting"](traced, image, trimap), alpha, rtol=0, atol=0)

    called = {str(node.target) for node in graphs(traced)["matting"].nodes if node.op == "call_module"}
    for stage, bit in enumerate(path):
        branches = {kind for kind in ("layers", "connect") if any(f"stages.{stage}.{kind}." in name for name in called)}
        assert branches == {"layers" if bit == "1" else "connect"}
    leaves = {name for name, module in static.named_modules() if not list(module.children())}
    assert leaves == called


def test_static_network_has_its_own_copy_of_the_weights(network: PAM) -> None:
    static = network.path("1010")
    before = network.level2[0][0].weight.clone()
    with torch.no_grad():
        static.level2[0][0].weight.zero_()
    assert torch.equal(network.level2[0][0].weight, before)
    assert static.config == {"path": "1010"}
    assert set(static.state_dict()) < set(network.state_dict())


@pytest.mark.parametrize("preference", [None, 0, 1], ids=["own", "bypass", "layers"])
def test_chosen_path_keeps_20_random_constraints(network: PAM, preference: int | None) -> None:
    chooser = network if preference is None else prefer(network, preference)
    costs = path_costs(*SIZE)
    cheapest, dearest = min(costs.values()), max(costs.values())
    image, trimap = inputs(1)
    for draw in torch.rand(20).tolist():
        limit = (cheapest + draw * (dearest - cheapest)) / 1e9
        with torch.no_grad(), ConvolutionCounter() as counter:
            result = chooser.infer(image, trimap, cost_limit=limit)
        assert counter.macs == result.macs[0] == costs[result.paths[0]] <= limit * 1e9
        if preference == 0:
            assert result.paths == ("0000",)
        if preference == 1:
            # Greedy: the first layers get what the limit leaves when all that follows is bypassed.
            path = result.paths[0]
            for stage in range(4):
                if path[stage] == "0":
                    assert costs[path[:stage] + "1" + "0" * (3 - stage)] > limit * 1e9


def test_limit_of_a_paths_own_cost_allows_it(network: PAM) -> None:
    chooser = prefer(network, 1)
    image, trimap = inputs(1)
    for path, macs in path_costs(*SIZE).items():
        with torch.no_grad():
            assert chooser.infer(image, trimap, cost_limit=macs / 1e9).macs[0] <= macs
        assert path_costs(*SIZE)[network.dearest_path(macs / 1e9, *SIZE)] == macs, path


def test_each_image_takes_its_own_path(network: PAM) -> None:
    """The first selection reads the mean of its semantics: a bright and a dark image are made to differ there."""
    chooser = prefer(network, 0)
    image, trimap = inputs(2)
    image[0], image[1] = 0, 1
    limit = max(path_costs(*SIZE).values()) / 1e9 - 1e-9
    with torch.no_grad():
        semantics = chooser.encode_8(image, trimap)[1].flatten(1)
        direction = semantics[1] - semantics[0]
        estimator = chooser.stage(0).estimator
        estimator.hidden.weight.zero_()
        estimator.hidden.weight[0, : direction.numel()] = direction
        estimator.hidden.bias.zero_()
        estimator.hidden.bias[0] = -(semantics.mean(0) @ direction)
        estimator.out.weight[1, 0] = 1e6
        estimator.out.bias.copy_(torch.tensor([1e-6, 0.0]))
        result = chooser.infer(image, trimap, cost_limit=limit)
        assert result.paths == ("0000", "1000")
        for index, path in enumerate(result.paths):
            alone = chooser(image[index : index + 1], trimap[index : index + 1], path=path)
            torch.testing.assert_close(result.alpha[index : index + 1], alone, rtol=0, atol=1e-12)


def test_estimate_sees_the_constraint_at_the_papers_size(network: PAM) -> None:
    """A limit at another size reaches the embedding of the same constraint per area."""
    indices: list[int] = []
    hook = network.constraint_embedding.register_forward_pre_hook(lambda _, args: indices.append(int(args[0])))
    area = SIZE[0] * SIZE[1] / 1024**2
    with torch.no_grad():
        for limit in (60.0, 69.99, 74.5):
            network(*inputs(1), cost_limit=limit * area)
    hook.remove()
    assert indices == [60 - CONSTRAINTS[0], 69 - CONSTRAINTS[0], 74 - CONSTRAINTS[0]]


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan, 0.1])
def test_limit_below_the_cheapest_path_names_it(network: PAM, limit: float) -> None:
    costs = path_costs(*SIZE)
    with pytest.raises(InputError, match=r"cheapest path, 0000, at 32x64: give at least 0\.112 G") as caught:
        network(*inputs(1), cost_limit=limit)
    assert "\n" not in str(caught.value)
    assert 0.111e9 < costs["0000"] <= 0.112e9
    with pytest.raises(InputError, match="cheapest path"):
        network.dearest_path(limit, *SIZE)


@pytest.mark.parametrize("limit", [75.0, math.inf])
def test_limit_above_the_dearest_path_takes_it_and_says_so(network: PAM, limit: float) -> None:
    image, trimap = inputs(1)
    with torch.no_grad(), pytest.warns(UserWarning, match="above pam's dearest path, 1111, at 32x64"):
        result = prefer(network, 0).infer(image, trimap, cost_limit=limit)
    assert result.paths == ("1111",)
    assert network.dearest_path(limit, *SIZE) == "1111"


def test_without_limit_or_path_the_whole_network_runs(network: PAM) -> None:
    image, trimap = inputs(1)
    with torch.no_grad():
        result = network.infer(image, trimap)
        assert result.paths == ("1111",)
        torch.testing.assert_close(result.alpha, network.matting(image, trimap), rtol=0, atol=0)
        torch.testing.assert_close(network(image, trimap), result.alpha, rtol=0, atol=0)


def test_static_network_keeps_to_its_path(network: PAM) -> None:
    static = network.path("1010")
    image, trimap = inputs(1)
    macs = path_costs(*SIZE)["1010"]
    with torch.no_grad():
        assert static.infer(image, trimap, cost_limit=macs / 1e9).paths == ("1010",)
        assert static.infer(image, trimap, path="1010").macs == (macs,)
    with pytest.raises(InputError, match=r"path 1010 costs 0\.\d+ G .* more than the cost limit"):
        static(image, trimap, cost_limit=(macs - 1) / 1e9)
    with pytest.raises(InputError, match="path 1010 alone: path 1110"):
        static(image, trimap, path="1110")
    with pytest.raises(InputError, match="path 1010 alone: sampling needs"):
        static.sample(image, trimap, torch.tensor([65]))


def test_bad_input_is_refused(network: PAM) -> None:
    image, trimap = inputs(1)
    with pytest.raises(InputError, match="'101' is no path of pam: give 4 bits"):
        network(image, trimap, path="101")
    with pytest.raises(InputError, match="no path"):
        PAM(path="1210")
    with pytest.raises(InputError, match="not both"):
        network(image, trimap, cost_limit=1.0, path="1111")
    with pytest.raises(InputError, match="3 and 1 channels"):
        network(image, trimap[:, :1])
    with pytest.raises(SizeError, match="image is 32x64 and the trimap 32x32"):
        network(image, trimap[..., :32])
    with pytest.raises(SizeError, match="multiples of 32, for example 64x64"):
        network(image.new_zeros(1, 3, 33, 64), image.new_zeros(1, 3, 33, 64))
    with pytest.raises(SizeError, match="no downsample ratio"):
        network.example(*SIZE, downsample_ratio=0.5)
    with pytest.raises(InputError, match=r"57 to 76, in G: got \[77\]"):
        network.sample(image, trimap, torch.tensor([77]))


def test_traced_network_takes_every_path_and_limit(network: PAM) -> None:
    image, trimap = inputs(2)
    traced = trace(copy.deepcopy(network))
    assert isinstance(traced, PAM) and set(traced.programs) == set(network.modes)
    limit = 0.9 * path_costs(*SIZE)["1111"] / 1e9
    with torch.no_grad():
        expected, result = (net.infer(image, trimap, cost_limit=limit) for net in (network, traced))
        torch.testing.assert_close(traced(image, trimap, path="0110"), network(image, trimap, path="0110"))
    assert result.paths == expected.paths
    torch.testing.assert_close(result.alpha, expected.alpha)
    with pytest.raises(TraceError, match=r"take \.path\('0110'\) first"):
        traced.path("0110")


@pytest.mark.parametrize("path", ["0000", "1011"])
def test_converted_path_is_the_converted_networks(network: PAM, path: str) -> None:
    whole, static = convert(network, "reactnet"), convert(network.path(path), "reactnet")
    image, trimap = inputs(1)
    with torch.no_grad():
        torch.testing.assert_close(whole(image, trimap, path=path), static(image, trimap), rtol=0, atol=1e-12)
    left = {name: plan.reason for name, plan in plan_of(static).items() if plan.scheme is None}
    assert {"level2.0.0", "up1.0.0", "matte"} <= set(left)
    assert all(name in {"level2.0.0", "up1.0.0", "matte"} or ".attention." in name for name in left)
    assert all(left.values())


def test_gradient_reaches_path_selection_through_gumbel() -> None:
    network = PAM().eval()
    image, trimap = inputs(2, dtype=torch.float32)
    result = network.sample(image, trimap, torch.tensor([60, 75]))
    assert result.logits.shape == result.gates.shape == (2, 4, 2)
    assert torch.equal(result.gates.sum(2), torch.ones(2, 4)) and set(result.gates.unique().tolist()) == {0.0, 1.0}
    result.alpha.sum().backward()
    for stage in range(4):
        estimator = network.stage(stage).estimator
        for parameter in (estimator.out.weight, estimator.hidden.weight):
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0
        connect = network.stage(stage).connect.conv2.weight.grad
        assert connect is not None
        bypassed = bool((result.gates[:, stage, 0] == 1).any())
        assert (connect.abs().sum() > 0) == bypassed
    rows = network.constraint_embedding.weight.grad
    assert rows is not None
    assert set(rows.abs().sum(1).nonzero().flatten().tolist()) == {60 - CONSTRAINTS[0], 75 - CONSTRAINTS[0]}


def test_sampled_alpha_is_that_of_the_sampled_path(network: PAM) -> None:
    image, trimap = inputs(2)
    with torch.no_grad():
        result = network.sample(image, trimap, torch.tensor([60, 70]))
        for index in range(2):
            path = "".join(str(bit) for bit in result.gates[index].argmax(-1).tolist())
            alone = network(image[index : index + 1], trimap[index : index + 1], path=path)
            torch.testing.assert_close(result.alpha[index : index + 1], alone, rtol=0, atol=1e-12)


def test_sampling_repeats_with_the_seed(network: PAM) -> None:
    image, trimap = (tensor.expand(4, -1, -1, -1) for tensor in inputs(1, (32, 32)))
    even = prefer(network, 0)
    for stage in range(4):
        nn.init.zeros_(even.stage(stage).estimator.out.bias)

    def gates(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            return even.sample(image, trimap, torch.full((4,), 65), generator=generator).gates

    assert torch.equal(gates(3), gates(3))
    assert not torch.equal(gates(3), gates(4))
    assert len(gates(3).argmax(-1).unique(dim=0)) > 1


def test_trains_on_a_single_image() -> None:
    """Pyramid pooling's 1x1 grid and the attention have one value per channel, which batch norm would refuse."""
    network = PAM().train()
    image, trimap = inputs(1, (64, 64), torch.float32)
    network.sample(image, trimap, torch.tensor([65])).alpha.mean().backward()
    assert network.matte.weight.grad is not None and network.matte.weight.grad.isfinite().all()


def test_initial_weights_repeat_with_the_seed() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        states.append(PAM(path="0101").state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_layers_compute_the_papers_equations() -> None:
    x = torch.randn(2, 8, 5, 6)
    attention, connect = ChannelAttention(8), ConnectLayer(8)
    refined, semantics = attention(x)
    squeezed = torch.relu(x.mean((2, 3)) @ attention.squeeze.weight.flatten(1).T + attention.squeeze.bias)
    torch.testing.assert_close(semantics.flatten(1), squeezed)
    gate = torch.sigmoid(squeezed @ attention.excite.weight.flatten(1).T + attention.excite.bias)
    torch.testing.assert_close(refined, x * gate[:, :, None, None])

    pixels = x.permute(0, 2, 3, 1)
    hidden = torch.relu(pixels @ connect.conv1.weight.flatten(1).T + connect.conv1.bias)
    expected = pixels + hidden @ connect.conv2.weight.flatten(1).T + connect.conv2.bias
    torch.testing.assert_close(connect(x), expected.permute(0, 3, 1, 2))
    assert DepthwiseModule(8)(x).shape == x.shape


def test_open_bits_leave_a_path_within_the_limit() -> None:
    costs = {"00": 1, "01": 4, "10": 2, "11": 5}
    assert open_bits(costs, "", 1) == ("0",)
    assert open_bits(costs, "", 2) == ("0", "1")
    assert open_bits(costs, "1", 4) == ("0",)
    assert open_bits(costs, "0", 4) == ("0", "1")
    assert [dearest_within(costs, limit) for limit in (1, 3, 4, 9)] == ["00", "10", "01", "11"]


def shapes(network: nn.Module) -> Mapping[str, Any]:
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def test_checkpoints_are_recognised() -> None:
    with torch.device("meta"):
        assert recognise(shapes(PAM())) == {"path": None}
        for path in ("0000", "1010", "1111"):
            assert recognise(shapes(PAM(path=path))) == {"path": path}
    assert recognise(shapes(nn.Conv2d(3, 3, 1))) is None
    spec = SPECS[0]
    assert spec.name == "pam" and spec.build(**spec.config).config == {"path": None}


def test_example_inputs(network: PAM) -> None:
    example = network.example(64, 96)
    assert example.mode == "matting" and example.outputs == ("alpha",) and not example.states
    assert {name: tuple(value.shape) for name, value in example.inputs.items() if isinstance(value, Tensor)} == {
        "image": (1, 3, 64, 96),
        "trimap": (1, 3, 64, 96),
    }
