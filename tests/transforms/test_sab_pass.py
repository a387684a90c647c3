"""A sparse-assisted decoder made of RVM's, MODNet's and a user's: what is routed where, and what cannot be."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from example_networks import UNet, randomize
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from binmat.errors import PolicyError, SizeError
from binmat.model_defs.insertion_points import MaskHeadInsertionPoint
from binmat.model_defs.modnet import MODNet
from binmat.model_defs.rvm import RVM
from binmat.nn import BinaryConv2d, RPReLU
from binmat.nn.conv_gru import ConvGRU
from binmat.nn.incoherence import IncoherenceMask
from binmat.nn.masked_path import MaskedPath, set_execution
from binmat.nn.recurrence import Recurrent
from binmat.nn.sparse_gru import SparseConvGRU
from binmat.transforms.convert import convert, plan_of, recipe_of
from binmat.transforms.sab import SparseDecoder, sab_decoder
from binmat.transforms.trace import graphs, trace

UNET_POINT = MaskHeadInsertionPoint(after="middle", head="mask_head")


def masked_paths(network: nn.Module) -> list[str]:
    return [name for name, module in network.named_modules() if isinstance(module, MaskedPath)]


def with_sparse_decoder(network: nn.Module, *targets: str, point: MaskHeadInsertionPoint = UNET_POINT) -> nn.Module:
    network = trace(network)
    SparseDecoder(targets, point).apply(network)
    return network


def mask_of(network: nn.Module, calls: list[Tensor]) -> None:
    """Note every mask that the network makes."""
    (mask,) = (module for module in network.modules() if isinstance(module, IncoherenceMask))
    mask.register_forward_hook(lambda module, args, result: calls.append(result))


@pytest.mark.parametrize("variant", ["mobilenetv3", "resnet50"])
def test_rvms_decoder(variant):
    dense = randomize(RVM(variant)).eval()
    network = convert(dense, "reactnet", settings=["decoder=sab", "*=float"])
    assert masked_paths(network) == [
        f"decoder.decode{level}.{part}" for level in (3, 2, 1) for part in ("conv", "gru.ih", "gru.hh")
    ] + ["decoder.decode0.conv"]
    assert [len(network.get_submodule(f"decoder.decode{level}.conv")) for level in (3, 2, 1, 0)] == [3, 3, 3, 6]
    assert type(network.get_submodule("decoder.decode4.gru")) is ConvGRU
    # The official keys of RVM are where they were.
    assert dense.state_dict().keys() <= network.state_dict().keys()
    src = torch.rand(2, 3, 3, 37, 50)
    with torch.no_grad():
        _, pha, fgr_s, pha_s, *states = network(src)
        assert (fgr_s.shape, pha_s.shape) == ((2, 3, 3, 3, 4), (2, 3, 1, 3, 4))
        assert [x.shape for x in states] == [x.shape for x in dense(src)[2:]]
        small = network(src, downsample_ratio=0.5)
        assert small[2].shape == (2, 3, 3, 2, 2)
        assert small[1].shape == pha.shape
        assert len(network(src, segmentation_pass=True)) == 5


def test_where_the_mask_is_1_and_the_1x1_paths_are_silent_it_is_the_dense_decoder():
    dense = randomize(RVM()).eval()
    network = convert(dense, "bnn", settings=["decoder=sab", "*=float"])
    for name, module in network.named_modules():
        if name.endswith("conv_1x1"):
            last = [child for child in module if isinstance(child, nn.BatchNorm2d)][-1]
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        elif name.endswith(("ih_1x1", "hh_1x1")):
            nn.init.zeros_(module[0].weight)
            nn.init.constant_(module[0].bias, -1e4 if name.endswith("ih_1x1") else 0.0)
    (mask,) = (module for module in network.modules() if isinstance(module, IncoherenceMask))
    mask.forward = torch.ones_like
    src = torch.rand(1, 2, 3, 64, 96)
    with torch.no_grad():
        fgr, pha, _, _, *states = network(src)
        for a, b in zip((fgr, pha, *states), dense(src), strict=True):
            torch.testing.assert_close(a, b)


def test_a_clip_without_an_incoherent_pixel_and_one_with_all_are_right_sparse_and_dense():
    network = convert(randomize(RVM()), "bimatting", settings=["decoder=sab"]).eval().double()
    src = torch.rand(1, 2, 3, 64, 96, dtype=torch.float64)
    (mask,) = (module for module in network.modules() if isinstance(module, IncoherenceMask))
    results = {}
    with torch.no_grad():
        for which, forward in (("none", torch.zeros_like), ("all", torch.ones_like)):
            mask.forward = forward
            for execution in ("dense", "sparse"):
                set_execution(network, execution)
                results[which, execution] = network(src)
            for a, b in zip(results[which, "dense"], results[which, "sparse"], strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
        assert not torch.equal(results["none", "dense"][0], results["all", "dense"][0])
        # Without the masked paths, the network is what its 1x1 paths make of it.
        for name in masked_paths(network):
            for module in network.get_submodule(name):
                if isinstance(module, BinaryConv2d):
                    nn.init.uniform_(module.weight)
        mask.forward = torch.zeros_like
        for a, b in zip(network(src), results["none", "dense"], strict=True):
            assert torch.equal(a, b)


def test_a_flat_picture_has_an_empty_mask():
    network = convert(RVM(), "bimatting", settings=["decoder=sab"]).eval()
    network.project_mat.conv.bias.data[3] = -100.0
    calls: list[Tensor] = []
    mask_of(network, calls)
    with torch.no_grad():
        pha = network(torch.rand(1, 3, 64, 64))[1]
    assert calls[0].eq(0).all()
    assert pha.eq(0).all()


@settings(max_examples=8)
@given(st.integers(17, 70), st.integers(17, 70), st.integers(1, 2), st.integers(1, 2))
def test_skipping_equals_computing_everything_at_any_size_batch_and_length(height, width, batch, length):
    network = _sparse_rvm()
    src = torch.rand(batch, length, 3, height, width, dtype=torch.float64)
    with torch.no_grad():
        set_execution(network, "dense")
        dense = network(src)
        set_execution(network, "sparse")
        for a, b in zip(network(src), dense, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


_CACHE: dict[str, nn.Module] = {}


def _sparse_rvm() -> nn.Module:
    if "rvm" not in _CACHE:
        _CACHE["rvm"] = convert(randomize(RVM()), "reactnet", settings=["decoder=sab", "*=float"]).eval().double()
    return _CACHE["rvm"]


@pytest.mark.parametrize("scheme", ["bnn", "dorefa", "recu", "reactnet", "threshold", "bimatting", "irnet"])
def test_schemes_of_every_kind_binarize_the_paths_and_their_companions(scheme):
    network = convert(RVM(), scheme, settings=["decoder=sab"]).train()
    plan = plan_of(network)
    assert plan["decoder.decode0.conv.3"].reason == plan["decoder.decode0.conv_1x1.3"].reason != ""
    binary = [name for name in plan if name.startswith("decoder.") and plan[name].scheme]
    assert len(binary) == 3 + 3 * 6 + 2
    activation = network.get_submodule("decoder.decode2.conv.2")
    assert isinstance(activation, RPReLU) == (scheme in ("reactnet", "bimatting"))
    if scheme == "bimatting":
        assert activation.zeta is None
        assert isinstance(network.get_submodule("decoder.decode2.conv_1x1.2"), RPReLU)
    fgr, pha, _, pha_s, *_ = network(torch.rand(1, 2, 3, 33, 47))
    (pha.mean() + fgr.mean() + pha_s.mean()).backward()
    missing = [n for n, p in network.get_submodule("decoder").named_parameters() if p.grad is None]
    assert missing == []


def test_a_recipe_can_keep_activations():
    network = convert(RVM(), "bimatting", settings=["decoder=sab", 'keep_activations=["decoder.decode0.*"]'])
    assert isinstance(network.get_submodule("decoder.decode0.conv.2"), nn.ReLU)
    assert isinstance(network.get_submodule("decoder.decode0.conv_1x1.2"), nn.ReLU)
    assert isinstance(network.get_submodule("decoder.decode1.conv.2"), RPReLU)
    with pytest.raises(PolicyError, match=r"keep_activations 'decode0.\*' matches no binary layer"):
        convert(RVM(), "bimatting", settings=['keep_activations=["decode0.*"]'])


def test_a_users_decoder_with_functional_activations():
    module = randomize(UNet()).eval()
    network = with_sparse_decoder(module, "up", point=replace(UNET_POINT, outputs=("alpha",))).eval()
    assert masked_paths(network) == ["up"]
    assert [type(layer) for layer in network.up] == [nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU]
    assert network.up[2].negative_slope == 0.1
    assert not hasattr(network, "norm3"), "it has moved into the path"
    calls: list[Tensor] = []
    mask_of(network, calls)
    x = torch.rand(2, 3, 33, 40)
    with torch.no_grad():
        network.mask_head_alpha.bias -= network(x)[1].median()
        calls.clear()
        got, alpha = network(x)
        # The same by hand.
        a = F.relu(module.norm1(module.down1(x)))
        b = module.middle(torch.relu(module.norm2(module.down2(a)))).relu()
        torch.testing.assert_close(alpha, network.mask_head_alpha(network.mask_head(b)))
        mask = F.interpolate(calls[0], size=(33, 40), mode="bilinear")
        b = F.interpolate(b, scale_factor=2.0, mode="bilinear")[:, :, :33, :40]
        joined = torch.cat([a, b], 1)
        wide = F.leaky_relu(module.norm3(module.up(joined)), 0.1)
        expected = torch.sigmoid(module.head(wide * mask + network.up_1x1(joined)))
    torch.testing.assert_close(got, expected)
    assert 0 < calls[0].mean() < 1
    converted = convert(network, "reactnet")
    plan = plan_of(converted)
    assert plan["mask_head_alpha"].reason.startswith("output layer: the coarse alpha")
    assert plan["down1"].reason.startswith("first layer")
    assert plan["head"].reason.startswith("last layer")
    assert plan["up.0"].scheme and plan["up_1x1.0"].scheme and plan["mask_head.0"].scheme
    assert isinstance(converted.get_submodule("up.2"), RPReLU)
    assert converted.get_submodule("up.2").slope.eq(0.1).all()
    with pytest.raises(SizeError, match="2x2 coarse cells, this frame gives 1x20"):
        converted(torch.rand(1, 3, 2, 40))


def test_modnets_branches_in_both_modes():
    targets = ("hr_branch.conv_hr4x.*", "hr_branch.conv_hr2x.*", "f_branch.conv_f2x.*")
    point = MaskHeadInsertionPoint(after="lr_branch.conv_lr8x", head="mask_head")
    network = with_sparse_decoder(MODNet(), *targets, point=point)
    assert len(masked_paths(network)) == 3 + 4 + 1
    # A 1x1 companion stands beside a block's Sequential, not in it.
    assert isinstance(network.get_submodule("f_branch.conv_f2x.layers_1x1.0"), nn.Conv2d)
    assert [*dict(network.get_submodule("f_branch.conv_f2x.layers").named_children())] == ["0", "1", "2"]
    converted = convert(network, "bimatting").train()
    _, _, matte = converted(torch.rand(2, 3, 64, 64), False)
    matte.mean().backward()
    assert converted.get_submodule("hr_branch.conv_hr2x.1.layers.0.0").weight.grad is not None
    with torch.no_grad():
        assert converted.eval()(torch.rand(1, 3, 64, 64))[2].shape == (1, 1, 64, 64)


class Chain(nn.Module):
    """Two convolutions directly in a row, one on the side, a shared activation, a strided and a grouped one."""

    def __init__(self) -> None:
        super().__init__()
        self.coarse = nn.Conv2d(3, 4, 3, 2, 1)
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 5, padding=2)
        self.act = nn.PReLU()
        self.side = nn.Conv2d(4, 4, 3, padding=1)
        self.grouped = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.strided = nn.Conv2d(4, 4, 3, 2, 1)
        self.point = nn.Conv2d(4, 1, 1)
        self.unused = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        coarse = self.act(self.coarse(x))
        y = self.act(self.second(self.act(self.first(x))))
        y = y + self.side(y) + self.grouped(y)
        return self.point(self.strided(y)) + coarse.mean(1, keepdim=True)


CHAIN_POINT = MaskHeadInsertionPoint(after="coarse", head="head")


def test_targets_in_a_row_share_a_mask_and_what_serves_elsewhere_stays():
    module = Chain().eval()
    network = with_sparse_decoder(module, "first", "second", "side", point=CHAIN_POINT).eval()
    assert masked_paths(network) == ["first", "side"]
    assert len(network.first) == 4
    assert network.first[1] is network.act, "the shared slope stays one parameter"
    assert not hasattr(network, "second")
    resizes = [node for node in graphs(network)["forward"].nodes if node.target is F.interpolate]
    assert len(resizes) == 1, "one mask serves all targets of one size"
    calls: list[Tensor] = []
    mask_of(network, calls)
    x = torch.rand(1, 3, 12, 10)
    with torch.no_grad():
        got = network(x)
        mask = F.interpolate(calls[0], size=(12, 10), mode="bilinear")
        y = module.act(module.second(module.act(module.first(x)))) * mask + network.first_1x1(x)
        y = y + module.side(y) * mask + network.side_1x1(y) + module.grouped(y)
        expected = module.point(module.strided(y)) + module.act(module.coarse(x)).mean(1, keepdim=True)
    torch.testing.assert_close(got, expected)


class FunctionalChain(Chain):
    """The same, its activation called as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.Identity()
        self.slope = nn.Parameter(torch.tensor([0.1, 0.2, 0.3, 0.4]))

    def forward(self, x: Tensor) -> Tensor:
        coarse = self.coarse(x)
        y = F.prelu(self.first(x), self.slope)
        return self.point(y) + coarse.mean((2, 3), keepdim=True)


def test_a_functional_prelu_moves_into_the_path_with_its_parameter():
    module = FunctionalChain().eval()
    network = with_sparse_decoder(module, "first", point=CHAIN_POINT).eval()
    assert [type(layer) for layer in network.first] == [nn.Conv2d, nn.PReLU]
    assert network.first[1].weight is module.slope
    assert not hasattr(network, "slope"), "it has moved into the path"
    calls: list[Tensor] = []
    mask_of(network, calls)
    x = torch.rand(1, 3, 12, 10)
    with torch.no_grad():
        got = network(x)
        mask = F.interpolate(calls[0], size=(12, 10), mode="bilinear")
        y = F.prelu(module.first(x), module.slope) * mask + network.first_1x1(x)
        expected = module.point(y) + module.coarse(x).mean((2, 3), keepdim=True)
    torch.testing.assert_close(got, expected)


def test_what_a_pattern_names_and_cannot_be_masked_is_noted():
    network = trace(Chain())
    passed = SparseDecoder(["*ed", "side", "point*", "side"], CHAIN_POINT)
    passed.apply(network)
    reason = "left dense: it has groups, a stride or a padding that changes the size"
    assert passed.notes == {"grouped": reason, "strided": reason}
    assert masked_paths(network) == ["side"]


class Remembering(nn.Module):
    def __init__(self, memory: nn.Module) -> None:
        super().__init__()
        self.coarse, self.memory = nn.Conv2d(3, 4, 3, 2, 1), memory
        self.wide = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        coarse = self.coarse(x).mean((2, 3), keepdim=True)
        y, _ = self.memory(self.wide(x), torch.zeros(1, 4, 16, 16))
        return y + coarse


class OtherMemory(Recurrent):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def step(self, x: Tensor, h: Tensor, *context: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(self.conv(x) + h)
        return h, h


class Early(nn.Module):
    """The target runs before the coarse block."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.coarse = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 4, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.coarse(self.wide(x))


class Splitting(nn.Module):
    """A block that hands on two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.wide = Pair(), nn.Conv2d(4, 4, 3, padding=1)
        self.unread = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.block(x)
        y = self.wide(a * 2) + self.wide(b * 3)
        self.unread(y)
        return y


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.a(x), self.b(x)


def test_a_gru_of_a_user():
    network = trace(Remembering(ConvGRU(4)), (16, 16))
    SparseDecoder(["memory.*", "wide"], CHAIN_POINT).apply(network)
    assert isinstance(network.memory, SparseConvGRU)
    assert network(torch.rand(1, 3, 16, 16)).shape == (1, 4, 16, 16)


def example(side: int):
    from binmat.model_defs.network import Example

    return Example("forward", {"x": torch.zeros(1, 3, side, side)}, ("y",))


@pytest.mark.parametrize(
    ("module", "targets", "point", "message"),
    [
        (Chain(), ["sid"], CHAIN_POINT, "sparse target 'sid' matches no convolution; the nearest layer is 'side'"),
        (Chain(), ["strided"], CHAIN_POINT, "'strided' cannot be masked: it has groups, a stride"),
        (Chain(), ["point"], CHAIN_POINT, "'point' cannot be masked: its kernel is 1x1"),
        (Chain(), ["point*", "strided*"], CHAIN_POINT, "none of the convolutions .* can be masked"),
        (
            Chain(),
            ["side"],
            MaskHeadInsertionPoint("unused", "head"),
            "no insertion point for the mask head: no mode runs 'unused'",
        ),
        (Chain(), ["side"], MaskHeadInsertionPoint("cuarse", "head"), "no part called 'cuarse': did you mean 'coarse'"),
        (Splitting(), ["wide"], MaskHeadInsertionPoint("unread", "head"), "no layer of Splitting reads the output of"),
        (Chain(), ["side"], MaskHeadInsertionPoint("coarse", "point"), "has a 'point' already"),
        (Chain(), ["side"], MaskHeadInsertionPoint("coarse", "deep.head"), "no part 'deep' of Chain"),
        (Early(), ["wide"], CHAIN_POINT, "'wide' runs before the mask is known, which comes behind 'coarse'"),
        (Splitting(), ["wide"], MaskHeadInsertionPoint("block", "head"), "'block' hands on 2 tensors"),
        (Remembering(ConvGRU(4)), ["memory.ih.*"], CHAIN_POINT, "its gates memory.hh.0 are not targets"),
        (Remembering(OtherMemory()), ["memory.*"], CHAIN_POINT, "'memory' cannot be masked: only a ConvGRU can"),
    ],
)
def test_what_cannot_be_is_named_in_one_line(module, targets, point, message):
    with pytest.raises(PolicyError, match=message) as error:
        SparseDecoder(targets, point, example(16)).apply(trace(module, (16, 16)))
    assert "\n" not in str(error.value)


def test_a_network_without_an_insertion_point_for_the_mask_head():
    with pytest.raises(PolicyError, match="UNet has no insertion point for the mask head"):
        sab_decoder(trace(UNet()))


def test_a_network_has_one_coarse_alpha():
    network = trace(UNet())
    SparseDecoder(["up"], UNET_POINT).apply(network)
    with pytest.raises(PolicyError, match=r"already, which 'mask_head_mask' .* 'other' would be a second"):
        SparseDecoder(["middle"], replace(UNET_POINT, head="other")).apply(network)
    with pytest.raises(PolicyError, match="outputs of the mask head 'mask_head' are a, a, with 2 coarse alphas 'a'"):
        replace(UNET_POINT, outputs=("a", "a"), alpha="a")
    with pytest.raises(PolicyError, match="with 0 coarse alphas 'alpha': name it once"):
        replace(UNET_POINT, outputs=("a",))
    point = replace(RVM.mask_head_insertion_point, outputs=("fgr_s", "pha"), alpha="pha")
    with pytest.raises(PolicyError, match="mode matting of rvm_mobilenetv3 returns a 'pha' already"):
        SparseDecoder(["decoder.decode0.*"], point).apply(trace(RVM()))


@pytest.mark.parametrize("size", [(16, 64), (64, 16)])
def test_an_input_too_small_for_the_coarse_grid(size):
    network = convert(RVM(), "bnn", settings=["decoder=sab"]).eval()
    with pytest.raises(SizeError, match="2x2 coarse cells"):
        network(torch.rand(1, 3, *size))
    with pytest.raises(SizeError, match="at least 17"):
        network.example(*size)
    with pytest.raises(SizeError, match="at least 17"):
        network.example(2 * size[0], 2 * size[1], 0.5)
    assert network(torch.rand(1, 3, 17, 17))[1].shape == (1, 1, 17, 17)
    with pytest.raises(SizeError, match="at least 17"):
        convert(RVM(), "bnn", settings=["decoder=sab"], size=size)


def test_applied_alone_the_networks_output_names_tell_the_side_outputs():
    network = trace(RVM())
    sab_decoder(network).apply(network)
    assert recipe_of(network) is None
    assert network.output_names("refined") == ("fgr", "pha", "fgr_s", "pha_s", "r1", "r2", "r3", "r4")
    assert network.output_names("segmentation") == ("logits", "r1", "r2", "r3", "r4")
    assert len(network(torch.rand(1, 3, 32, 48))) == 8
    # A conversion afterwards keeps them.
    assert convert(network, "bnn").output_names("matting")[2:4] == ("fgr_s", "pha_s")
