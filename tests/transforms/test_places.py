"""SBB and SAB by recipe on every network, and by the tables of a recipe file on networks that binmat does not know."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from example_networks import randomize
from test_bimatting_elsewhere import Matting
from torch import Tensor, nn
from torch.nn import functional as F

from binmat.data.image import photograph
from binmat.errors import BinmatError, InputError, PolicyError, RecipeError, SizeError
from binmat.model_defs.bgmv2 import BGMv2
from binmat.model_defs.deeplabv3 import DeepLabV3
from binmat.model_defs.modnet import MODNet
from binmat.model_defs.network import Example, Network
from binmat.model_defs.pam import PAM
from binmat.model_defs.registry import build
from binmat.model_defs.trimap import one_hot, portrait_trimap
from binmat.model_defs.trimap_network import TrimapNetwork
from binmat.nn.incoherence import IncoherenceMask
from binmat.nn.masked_path import MaskedPath, recorded_density, set_execution
from binmat.nn.sbb import SBBEncoder
from binmat.pipeline.deployment import deploy
from binmat.reports import report
from binmat.transforms.checkpoint import load, save
from binmat.transforms.convert import convert, plan_of
from binmat.transforms.places import DecoderTable, EncoderTable
from binmat.transforms.recipe import Recipe

#: Network -> what its sparse decoder masks where a recipe names nothing, by the names of the masked paths.
PATHS = {
    "rvm_mobilenetv3": ["decoder.decode3.conv", "decoder.decode3.gru.ih", "decoder.decode0.conv"],
    "rvm_resnet50": ["decoder.decode3.conv", "decoder.decode3.gru.ih", "decoder.decode0.conv"],
    "modnet": ["hr_branch.conv_hr4x.0.layers.0", "hr_branch.conv_hr2x.3.layers.0", "f_branch.conv_f.0.layers.0"],
    "litematting": ["uper5.0", "uper5.3", "out.0"],
    "lsa_matting": ["decoder.decoder_3.conv1", "decoder.decoder_1.conv1", "decoder.final_final.conv1"],
    "pam": ["up4.0.0", "up2.0.0", "up1.0.0"],
    "deeplabv3_resnet101": ["classifier.1"],
    "bgmv2_mobilenetv2": ["decoder.conv1", "decoder.conv2", "decoder.conv3", "decoder.conv4"],
}
BOTH = ("encoder=sbb", "decoder=sab")


def network(name: str) -> Network:
    options = {"pam": {"path": "1011"}, "deeplabv3_resnet101": {"classes": 1}}
    return build(name, **options.get(name, {}))


def halves(net: nn.Module) -> tuple[list[str], int]:
    """The masked paths, and how many SBB encoders there are."""
    modules = dict(net.named_modules())
    encoders = {id(module) for module in modules.values() if isinstance(module, SBBEncoder)}
    return [name for name, module in modules.items() if isinstance(module, MaskedPath)], len(encoders)


def batch(net: Network, height: int, width: int) -> tuple[list[Tensor], Tensor]:
    """Two pictures and their mirror images as inputs of mode ``matting``, and a target."""
    picture = photograph(height, width)
    inputs = net.example(height, width).inputs | net.frame_inputs(picture)
    alpha = (portrait_trimap(height, width).alpha()[None, None] >= 0.5).float()
    return [torch.cat([x, x.flip(3)]) for x in inputs.values()], torch.cat([alpha, alpha])


def train_ten_steps(net: Network) -> list[float]:
    inputs, target = batch(net, 64, 64)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    losses = []
    for _ in range(11):
        results = net.train().run("training" if isinstance(net, MODNet) else "matting", *inputs)
        names = ("coarse", "detail", "alpha") if isinstance(net, MODNet) else net.output_names("matting")
        found = dict(zip(names, results, strict=True))
        alpha = next(found[name] for name in ("pha", "alpha", "out") if name in found)
        coarse = next(found[name] for name in ("pha_s", "alpha_s", "coarse") if name in found)
        small = F.interpolate(target, size=coarse.shape[2:], mode="area")
        loss = (alpha - target).abs().mean() + (coarse - small).abs().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("name", PATHS)
def test_both_halves_on_every_network_are_trained_saved_loaded_and_verified_at_two_sizes(
    name: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net = convert(network(name), "reactnet", settings=BOTH, size=(64, 64))
    paths, encoders = halves(net)
    assert set(PATHS[name]) <= set(paths)
    assert encoders == 1
    losses = train_ten_steps(net)
    assert losses[-1] < losses[0]
    net.eval()
    save(net, tmp_path / "model.safetensors")
    again = load(tmp_path)
    assert again.conversion == net.conversion
    inputs, _ = batch(net, 64, 96)
    with torch.no_grad():
        for a, b in zip(net.run("matting", *inputs), again.run("matting", *inputs), strict=True):
            assert torch.equal(a, b)
    for size in ((64, 64), (64, 96)):
        deploy(again, size).verify().check()


@pytest.mark.parametrize("name", ["modnet", "litematting", "lsa_matting", "pam", "bgmv2_mobilenetv2"])
def test_skipping_equals_computing_everything_on_every_network(name: str) -> None:
    net = convert(randomize(network(name)), "bnn", settings=["decoder=sab", "*=float"]).eval().double()
    inputs = [x.double() for x in batch(net, 64, 96)[0]]
    (mask,) = (module for module in net.modules() if isinstance(module, IncoherenceMask))
    # Half of the cells, whatever fresh weights think of the picture.
    mask.forward = lambda alpha: torch.ones_like(alpha) * (torch.arange(alpha.shape[3]) < alpha.shape[3] // 2)
    results = {}
    with torch.no_grad():
        for execution in ("dense", "sparse"):
            set_execution(net, execution)
            with recorded_density(net) as shares:
                results[execution] = net.run("matting", *inputs)
    assert {path for path, seen in shares.items() if seen and 0.4 < seen[0] < 0.8} >= set(PATHS[name])
    pairs = zip(*((r if isinstance(r, tuple) else (r,)) for r in results.values()), strict=True)
    for dense, sparse in pairs:
        torch.testing.assert_close(sparse, dense, rtol=0, atol=1e-9)


def test_the_coarse_alpha_is_the_trimaps_where_that_knows_it() -> None:
    net = TrimapNetwork()
    # Cells of 2x2 pixels: background, unknown, foreground, and a quarter of foreground in the unknown.
    regions = torch.tensor([[0, 0, 1, 1, 2, 2, 1, 1], [0, 0, 1, 1, 2, 2, 1, 2]]).to(torch.uint8).numpy()
    alpha = torch.tensor([[[[-3.0, -2.0, -5.0, -0.2]]]])
    settled = net.settle_coarse(alpha, one_hot(regions)[None])
    torch.testing.assert_close(settled, torch.tensor([[[[0.0, -2.0, 1.0, 0.25 - 0.75 * 0.2]]]]))


@cache
def sparse_pam() -> Network:
    return convert(randomize(PAM(path="0000")), "bnn", settings=["decoder=sab"], size=(64, 96)).eval()


def test_the_mask_is_empty_where_the_trimap_knows_all_and_not_where_regions_meet() -> None:
    net = sparse_pam()
    image = torch.rand(1, 3, 64, 96)
    for value, share in ((0, 0.0), (2, 0.0)):
        regions = torch.full((64, 96), value, dtype=torch.uint8)
        with recorded_density(net) as shares:
            net(image, one_hot(regions.numpy())[None])
        assert shares["up1.0.0"] == [share]
    regions[:, :40] = 0
    with torch.no_grad(), recorded_density(net) as shares:
        alpha, alpha_s = net(image, one_hot(regions.numpy())[None])
    assert (alpha.shape, alpha_s.shape) == ((1, 1, 64, 96), (1, 1, 8, 12))
    assert 0 < shares["up1.0.0"][0] < 1


def test_a_frame_that_is_padded_has_its_own_part_of_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    from binmat.data.inference import matte_frames
    from binmat.data.mask_picture import FrameMask, with_masks

    net = sparse_pam()
    mask = torch.zeros(1, 1, 8, 12)
    mask[..., 6:, :] = 1
    monkeypatch.setattr(net.get_submodule("coarse_mask"), "forward", lambda alpha: mask)
    image, trimap = torch.rand(1, 3, 50, 70), torch.full((1, 1, 50, 70), 0.5)
    masks: list[FrameMask] = []
    (prediction,) = with_masks(net, matte_frames(net, [image], trimaps=[trimap]), masks)
    assert prediction.alpha.shape == masks[0].mask.shape == (1, 1, 50, 70)
    # 50 rows are padded to 64, in 8 cells: the last two, with half a cell of fading, begin at row 44.
    assert masks[0].mask[..., :44, :].eq(0).all()
    assert masks[0].mask[..., 44:50, :].gt(0).all()
    masks.clear()
    (_,) = with_masks(net, matte_frames(net, [image], trimaps=[torch.ones(1, 1, 50, 70)]), masks)
    assert masks == [FrameMask(masks[0].mask, {})], "the network did not run"
    assert masks[0].mask.eq(0).all()


def test_a_density_is_measured_with_trimaps_and_with_a_background() -> None:
    frame, trimap = photograph(50, 60), portrait_trimap(50, 60).alpha()[None, None]
    made = report(sparse_pam(), clip=[frame], trimaps=[trimap])
    assert made.sparse.measured.frames == 1
    assert set(made.sparse.measured.paths) == set(PATHS["pam"])
    assert 0 < made.sparse.measured.paths["up1.0.0"] < 1
    measured, dense = made.sparse.on_clip("bimatting"), made.after.counts["bimatting"].total.ops
    assert made.sparse.counts["bimatting"].credited(0.0).ops < measured < dense
    for trimaps, message in (
        (None, "the trimap is missing"),
        ([], "there are 0 trimaps and more frames"),
        ([trimap] * 2, "there are more trimaps than frames"),
        ([trimap[..., :20]], "the trimap has 50x20 pixels and the image 50x60"),
        ([torch.ones_like(trimap)], "no trimap of the clip has an unknown pixel"),
    ):
        with pytest.raises(BinmatError, match=message):
            report(sparse_pam(), clip=[frame], trimaps=trimaps)


def test_bgmv2s_refiner_runs_behind_a_sparse_base() -> None:
    net = convert(randomize(BGMv2()), "bnn", settings=["decoder=sab"]).eval()
    picture, plate = photograph(80, 120), torch.full((1, 3, 80, 120), 0.5)
    with torch.no_grad():
        outputs = net(picture, plate)
    names = net.output_names("sampling")
    assert names[-1] == "pha_s"
    assert outputs[-1].shape == (1, 1, 2, 2)
    prediction = net.predict(picture, background=plate)
    assert prediction.memory is None
    assert prediction.alpha.shape == (1, 1, 80, 120)
    with pytest.raises(SizeError, match="leaves 16x24 pixels, too few for bgmv2_mobilenetv2: at least 17"):
        net(torch.rand(1, 3, 64, 96), torch.rand(1, 3, 64, 96))
    made = report(net, size=(64, 96), clip=[picture], background=plate)
    assert set(made.sparse.measured.paths) == set(PATHS["bgmv2_mobilenetv2"])
    with pytest.raises(InputError, match="background has 80x120 pixels and the frames of the clip 64x96: give the"):
        report(net, size=(64, 96), clip=[photograph(64, 96)], background=plate)


def test_a_strided_network_keeps_its_strides() -> None:
    net = DeepLabV3(classes=1)
    assert [net.example(64, 96).inputs["x"].shape[2], net.backbone(torch.rand(1, 3, 64, 96))[3].shape[2]] == [64, 8]
    converted = convert(net, "bnn", settings=BOTH).eval()
    encoder = converted.get_submodule("backbone")
    assert encoder.strides == (8,)
    assert [(row.stride, row.dilation) for row in encoder.plan.blocks] == [(2, 1), (2, 1), (1, 1), (1, 2), (1, 2)]
    found = converted(torch.rand(1, 3, 64, 96))
    assert {name: x.shape for name, x in found.items()} == {"out": (1, 1, 64, 96), "alpha_s": (1, 1, 8, 12)}
    assert converted.predict(torch.rand(1, 3, 64, 96)).alpha.shape == (1, 1, 64, 96)


def test_all_paths_of_pam_have_one_decoder_and_no_encoder_to_replace() -> None:
    net = convert(PAM(), "bnn", settings=["decoder=sab"]).eval()
    image, trimap = torch.rand(2, 3, 64, 64), F.one_hot(torch.randint(3, (2, 64, 64)), 3).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        alpha, coarse = net(image, trimap, path="0110")
        assert torch.equal(net.infer(image, trimap, path="0110").alpha, alpha)
        sample = net.sample(image, trimap, torch.tensor([60, 70]))
    assert sample.coarse.shape == coarse.shape == (2, 1, 8, 8)
    with pytest.raises(PolicyError, match=r"mode encode_8 of pam runs only level2, level4, level8, stages.0 of the"):
        convert(PAM(), "bnn", settings=["encoder=sbb"])


#: The recipe that the documentation shows.
MINE = re.findall(r"```toml\n(.*?)```", (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(), re.DOTALL)[0]


def matting() -> nn.Module:
    return Matting()


def mine(**changes: str) -> Recipe:
    text = MINE
    for old, new in changes.items():
        text = text.replace(LINES[old], new)
    return Recipe.from_toml(text, "mine.toml")


LINES = {
    "encoder": 'encoder = "sbb"',
    "decoder": 'decoder = "sab"',
    "replaces": 'replaces = ["encoder"]',
    "blocks": "blocks = [{channels = 32, stride = 2}, {channels = 32, stride = 2}, {channels = 32}]",
    "features": "features = [0, 1]",
    "after": 'after = "bottleneck"',
    "targets": 'targets = ["up*"]',
    "channels": "channels = 12",
}


def test_a_strangers_network_by_a_recipe_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(MINE)
    net = convert(randomize(Matting()), recipe=tmp_path / "mine.toml", settings=["padding=one"], size=(40, 56)).eval()
    assert halves(net) == (["up2", "up1"], 1)
    assert net.get_submodule("mask_head.0").out_channels == 12
    assert net.get_submodule("encoder").channels == (16, 32, 64)
    assert plan_of(net)["mask_head_alpha"].scheme is None
    recipe = net.conversion.recipe
    assert Recipe.from_toml(recipe.to_toml(), "again") == recipe
    factory = f"{__name__}:matting"
    save(net, tmp_path / "mine.safetensors", factory=factory)
    again = load(tmp_path / "mine.safetensors", factory=factory)
    x = torch.rand(2, 3, 40, 56)
    with torch.no_grad():
        for a, b in zip(net(x), again(x), strict=True):
            assert torch.equal(a, b)
        alpha, alpha_s = again(x)
    assert (alpha.shape, alpha_s.shape) == ((2, 1, 40, 56), (2, 1, 5, 7))


def test_the_coarse_alpha_need_not_be_returned() -> None:
    net = convert(Matting(), recipe=mine(channels="returned = false"))
    assert net.eval()(torch.rand(1, 3, 32, 32)).shape == (1, 1, 32, 32)


def test_tables_change_what_a_network_says_itself() -> None:
    recipe = Recipe(scheme="bnn", decoder="sab").with_settings(['sab={targets = ["up1.*"]}'])
    net = convert(PAM(path="0000"), recipe=recipe)
    assert halves(net)[0] == ["up1.0.0"]
    assert net.output_names("matting") == ("alpha", "alpha_s")


def test_a_strangers_coarse_alpha_has_its_name_in_the_export() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, 4, 1), nn.Upsample(scale_factor=4), nn.Conv2d(4, 1, 3, 1, 1))
    sab = ["decoder=sab", 'sab={after = "0", targets = ["2"]}']
    example = Example("forward", {"input": torch.zeros(1, 3, 8, 12)}, ("alpha",))
    net = convert(module, "bnn", settings=sab, example=example)
    assert deploy(net).lowered.outputs == ("alpha", "alpha_s")
    assert deploy(net, example=example).lowered.outputs == ("alpha", "alpha_s")
    assert net.example(8, 12).outputs == ("alpha", "alpha_s")
    named = replace(example, outputs=("pha", "pha_s"))
    assert deploy(net, example=named).lowered.outputs == ("pha", "pha_s")
    sized = convert(module, "bnn", settings=sab, size=(8, 12))
    assert deploy(sized).lowered.outputs == ("output0", "alpha_s")

    class Taken(nn.Module):
        """Has a coarse alpha of its own."""

        def __init__(self) -> None:
            super().__init__()
            self.own = module

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"alpha_s": self.own(x)}

    taken = convert(Taken(), "bnn", settings=["decoder=sab", 'sab={after = "own.0", targets = ["own.2"]}'])
    assert taken.example(8, 12).outputs == ("alpha_s", "alpha_s_")


class Returning(nn.Module):
    """Returns its alpha as ``wrap`` nests it."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.coarse, self.fine, self.wrap = nn.Conv2d(3, 4, 3, 4, 1), nn.Conv2d(4, 1, 3, 1, 1), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.fine(F.interpolate(self.coarse(x), scale_factor=4.0)))


@pytest.mark.parametrize(
    ("wrap", "kind", "names"),
    [
        (lambda alpha: {"alpha": alpha}, dict, ["alpha", "alpha_s"]),
        (lambda alpha: OrderedDict(alpha=alpha), OrderedDict, ["alpha", "alpha_s"]),
        (lambda alpha: {"alpha_s": alpha}, dict, ["alpha_s", "alpha_s_"]),
        (lambda alpha: [alpha], list, [0, 1]),
        (lambda alpha: (alpha,), tuple, [0, 1]),
        (lambda alpha: alpha, tuple, [0, 1]),
    ],
)
def test_the_coarse_alpha_joins_what_the_network_returns(wrap: Any, kind: type, names: list[Any]) -> None:
    settings = ["decoder=sab", 'sab={after = "coarse", targets = ["fine"]}']
    net = convert(Returning(wrap), "bnn", settings=settings, size=(8, 12)).eval()
    for _ in range(2):
        found = net(torch.rand(1, 3, 8, 12))
        assert type(found) is kind
        assert (list(found) if isinstance(found, dict) else [*range(len(found))]) == names
        assert [found[name].shape[2:] for name in names] == [(8, 12), (2, 3)]


def test_modnet_returns_the_coarse_alpha_of_a_new_mask_head_behind_its_own_outputs() -> None:
    sab = 'sab={after = "lr_branch.conv_lr8x", targets = ["hr_branch.conv_*", "f_branch.conv_*"]}'
    net = convert(MODNet(), "bnn", settings=["decoder=sab", sab], size=(32, 64)).eval()
    img = torch.rand(2, 3, 32, 64)
    with torch.no_grad():
        inferred, trained = net(img), net(img, False)
    assert inferred[:2] == (None, None)
    assert [x.shape[1:] for x in inferred[2:]] == [(1, 32, 64), (1, 4, 8)]
    assert [x.shape[1:] for x in trained] == [(1, 2, 4), (1, 32, 64), (1, 32, 64), (1, 4, 8)]
    assert all(map(torch.equal, inferred[2:], trained[2:]))
    assert net.predict(torch.rand(1, 3, 40, 50)).alpha.shape == (1, 1, 40, 50)


def test_parts_of_an_encoder_may_be_named() -> None:
    class Inline(nn.Module):
        """The same without one module for the encoder."""

        def __init__(self) -> None:
            super().__init__()
            own = Matting()
            self.one, self.two, self.three = own.encoder.stages
            self.bottleneck, self.up2, self.up1, self.out = own.bottleneck, own.up2, own.up1, own.out

        def forward(self, x: Tensor) -> Tensor:
            f1 = self.one(x)
            f2 = self.two(f1)
            y = F.interpolate(self.bottleneck(self.three(f2)), scale_factor=2.0)
            y = F.interpolate(self.up2(torch.cat([y, f2], 1)), scale_factor=2.0)
            return self.out(self.up1(torch.cat([y, f1], 1)))

    net = convert(Inline(), recipe=mine(replaces='replaces = ["one", "two", "three"]')).eval()
    assert not any(hasattr(net, name) for name in ("one", "two", "three"))
    assert isinstance(net.get_submodule("sbb_encoder"), SBBEncoder)
    assert net(torch.rand(1, 3, 32, 32))[0].shape == (1, 1, 16, 16)
    with pytest.raises(PolicyError, match="'one' is named twice, or inside another part"):
        convert(Inline(), recipe=mine(replaces='replaces = ["one", "two", "one"]'))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"replaces": 'replaces = ["backbone"]'}, "no part called 'backbone': it has encoder, bottleneck, up2"),
        ({"after": 'after = "botle"'}, "no part called 'botle': did you mean 'bottleneck'\\? it has encoder"),
        ({"after": 'after = "middle"'}, "no part called 'middle': it has encoder, bottleneck, up2"),
        ({"targets": 'targets = ["down*"]'}, "sparse target 'down\\*' matches no convolution; the nearest layer is"),
        ({"after": 'after = "up1"'}, "'up2.0' runs before the mask is known, which comes behind 'up1'"),
        ({"targets": 'targets = ["out"]'}, "'out' cannot be masked: its kernel is 1x1"),
        ({"features": "features = [0, 1, 2]"}, "reads 3 features of 'encoder' and the new encoder gives 4"),
        ({"features": "features = [0, 2]"}, "feature 2 of the new 'encoder' has size 8x8 where the old one has 16x16"),
    ],
)
def test_places_that_do_not_fit_the_network(changes: dict[str, str], message: str) -> None:
    with pytest.raises(PolicyError, match=message) as error:
        convert(Matting(), recipe=mine(**changes))
    assert "\n" not in str(error.value)


def test_strides_without_a_plan() -> None:
    recipe = Recipe(scheme="bnn", encoder="sbb").with_settings(['sbb={replaces = ["0"]}'])
    with pytest.raises(PolicyError, match=r"reads features at strides \[4\], which BiMatting's Table 4 does not have"):
        convert(nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(8, 1, 1)), recipe=recipe)
    # Features at 1/2, 1/4 and 1/8 are those of the first blocks.
    net = convert(Matting(), recipe=Recipe(scheme="bnn", encoder="sbb").with_settings(['sbb={replaces = ["encoder"]}']))
    assert net.get_submodule("encoder").strides == (2, 4, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": "blocks = [{channels = 32}, {channels = 48}]"}, "an SBB cannot go from 32 to 48 channels"),
        ({"blocks": "blocks = [{channels = 32, stride = 3}, {channels = 32}]"}, "a sub-SBB cannot have stride 3"),
        ({"features": "features = [7]"}, r"an SBB plan of 3 blocks cannot have features \[7\]"),
    ],
)
def test_plans_that_do_not_follow_from_each_other(changes: dict[str, str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        convert(Matting(), recipe=mine(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": "blocks = []"}, "sbb.plan.blocks: its list must not be empty"),
        ({"blocks": "blocks = [{channels = 100000}]"}, "sbb.plan.blocks.0.channels: it must be at most 4096"),
        ({"channels": "channels = 0"}, "sab.channels: it must be at least 1"),
        ({"channels": 'head = ""'}, "sab.head: it must be the name of a part"),
        ({"channels": 'head = "a."'}, "sab.head: it must be the name of a part"),
        ({"channels": 'head = ".a"'}, "sab.head: it must be the name of a part"),
        ({"channels": 'head = "1 x"'}, "sab.head: it must be the name of a part"),
        ({"channels": 'head = "up.1x"'}, "sab.head: it must be the name of a part"),
        ({"channels": "channels = true"}, "sab.channels: it must be a whole number"),
        ({"channels": "channels = 8.0"}, "sab.channels: it must be a whole number"),
        ({"channels": "returned = 1"}, "sab.returned: it must be true or false"),
        ({"replaces": 'replaces = ["encoder"]\nnormalise = "no"'}, "sbb.normalise: it must be true or false"),
        ({"features": "features = [true]"}, "sbb.plan.features.0: it must be a whole number"),
        ({"blocks": 'blocks = [{channels = 32, stride = "2"}]'}, "sbb.plan.blocks.0.stride: it must be a whole number"),
        ({"channels": "behind = 1"}, "sab.behind: there is no such field: .*known: after, targets"),
        ({"channels": "chanels = 1"}, "sab.chanels: there is no such field: did you mean 'channels'\\?"),
        ({"blocks": "blocks = [{chanels = 1}]"}, "sbb.plan.blocks.0.chanels: .* did you mean 'channels'"),
        ({"blocks": "blocks = [{channels = 1, strid = 1}]"}, "sbb.plan.blocks.0.strid: .* did you mean 'stride'"),
        ({"blocks": "blocks = [{stride = 1}]"}, "sbb.plan.blocks.0.channels: it is missing"),
        ({"blocks": "blocks = [3]"}, "sbb.plan.blocks.0: it must be a table"),
        ({"blocks": "blocks = 3"}, "sbb.plan.blocks: it must be a list of tables"),
        ({"features": "features = 1"}, "sbb.plan.features: it must be a list of whole numbers"),
        ({"replaces": 'replaces = "encoder"'}, "sbb.replaces: it must be a list of names"),
        ({"replaces": "replaces = [1]"}, "sbb.replaces.0: it must be a string"),
        ({"encoder": "encoder = 'sab'"}, "encoder: it must be 'keep' or 'sbb'"),
        ({"encoder": "layers = 1"}, "layers: it must be a table"),
        ({"encoder": "options.a = []"}, "options.a: it must be a string, a number, true or false"),
        ({"targets": ""}, "sab: targets are missing"),
        ({"after": ""}, "sab: channels without 'after' would have no effect: name the place too"),
        ({"encoder": ""}, "\\[sbb\\] would have no effect: set encoder = 'sbb' too, or leave the table"),
        ({"decoder": 'decoder = "keep"'}, "\\[sab\\] would have no effect: set decoder = 'sab' too"),
        ({"replaces": "normalise = false"}, "sbb: normalise without 'replaces' would have no effect"),
    ],
)
def test_tables_that_say_too_little_or_too_much(changes: dict[str, str], message: str) -> None:
    with pytest.raises(RecipeError, match=f"mine.toml: {message}") as error:
        mine(**changes)
    assert "\n" not in str(error.value)


def test_a_mask_head_may_be_put_into_a_list() -> None:
    assert mine(channels='head = "up.0.coarse_2"').sab.head == "up.0.coarse_2"


def test_settings_that_keep_a_half_drop_the_recipes_table_of_it() -> None:
    kept = mine().with_settings(["encoder=keep"])
    assert (kept.encoder, kept.sbb, kept.sab) == ("keep", EncoderTable(), mine().sab)
    assert kept.with_settings(["decoder=keep"]).sab == DecoderTable()
    with pytest.raises(RecipeError, match=r"--set: \[sbb\] would have no effect"):
        mine().with_settings(['sbb={replaces = ["encoder"]}', "encoder=keep"])


def test_a_plan_ends_in_the_channels_that_the_network_counts_on() -> None:
    plan = 'sbb={plan = {blocks = [{channels = 32, stride = 2}, {channels = 64, stride = 8}], features = [0, 1]}}'
    with pytest.raises(RecipeError, match="a sub-SBB cannot have stride 8"):
        convert(MODNet(), "bnn", settings=["encoder=sbb", plan])
    with pytest.raises(PolicyError, match="the SBB plan ends in 64 channels and modnet counts on 1280: end its tail"):
        convert(MODNet(), "bnn", settings=["encoder=sbb", plan.replace("stride = 8", "stride = 2")])


def test_the_networks_own_encoder_may_be_named() -> None:
    table = 'sbb={replaces = ["backbone"], normalise = false}'
    net = convert(MODNet(), "bnn", settings=["encoder=sbb", table], size=(32, 32))
    assert net.get_submodule("backbone").channels[-1] == 1280
    assert net.get_submodule("backbone").plan == convert(MODNet(), "bnn", settings=["encoder=sbb"]).backbone.plan
    point = EncoderTable(replaces=("backbone",)).insertion_point(net)
    assert point == replace(MODNet.encoder_insertion_point, normalise=True)


def test_an_encoder_that_reads_more_than_a_frame_cannot_normalise_it() -> None:
    recipe = Recipe(scheme="bnn", encoder="sbb").with_settings(['sbb={replaces = ["backbone"]}'])
    with pytest.raises(RecipeError, match=r"reads 6 channels cannot normalise them: .* set normalise to false"):
        convert(BGMv2(), recipe=recipe)
