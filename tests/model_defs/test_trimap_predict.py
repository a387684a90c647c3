"""LiteMatting, LSA-Matting and PAM behind the hook that mattes an image of any size with its trimap."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from official_checkpoints import filled
from torch import Tensor
from torch.nn import functional as F

from binmat.data.inference import matte, matte_frames
from binmat.errors import InputError, SizeError, UnknownNameError
from binmat.model_defs.crop_and_stitch import crop_and_stitch
from binmat.model_defs.litematting import LiteMatting
from binmat.model_defs.lsa_matting import UNKNOWN_VALUE, LSAMatting, network_input
from binmat.model_defs.network import Network, Prediction
from binmat.model_defs.pam import PAM
from binmat.model_defs.pam_body import path_costs
from binmat.model_defs.trimap import one_hot, read_trimap
from binmat.reports import count
from binmat.transforms.convert import convert

#: What keeps LiteMatting's windows, 640 by default, small.
OPTIONS: dict[str, dict[str, Any]] = {"litematting": {"window": 64}}
#: Around the last two of three axes.
BORDER = [(0, 0), (16, 16), (16, 16)]
NAMES = ("litematting", "lsa_matting", "pam")


@pytest.fixture(scope="module")
def networks() -> dict[str, Network]:
    built: list[Network] = [LiteMatting(), LSAMatting(), PAM()]
    return {network.name: filled(network) for network in built}


def stripes(height: int, width: int) -> Tensor:
    """8-bit trimap [H, W]: a third background, a third unknown, a third foreground."""
    values = torch.full((height, width), 128, dtype=torch.uint8)
    values[:, : width // 3], values[:, width - width // 3 :] = 0, 255
    return values


def predict(network: Network, image: Tensor, trimap: Tensor, **options: Any) -> Prediction:
    return next(matte_frames(network, [image], trimaps=[trimap], **OPTIONS.get(network.name, {}), **options))


def by_hand(network: Network, image: Tensor, trimap: Tensor) -> Tensor:
    height, width = image.shape[2:]
    known = read_trimap(trimap, height, width)
    if isinstance(network, LSAMatting):
        colours, levels = image[0].numpy(), np.array([0, UNKNOWN_VALUE, 1], np.float32)[known.regions[None]]
        to_multiple = [(0, 0), (0, -height % 64), (0, -width % 64)]
        for padding, mode in ((to_multiple, "reflect"), (BORDER, "reflect"), (BORDER, "constant")):
            colours, levels = (np.pad(values, padding, mode=mode) for values in (colours, levels))
        alpha = network(network_input(torch.from_numpy(colours)[None], torch.from_numpy(levels)[None]))
        return known.settle(alpha[0, 0, 32 : 32 + height, 32 : 32 + width])[None, None]
    if isinstance(network, LiteMatting):
        return crop_and_stitch(network, image[0], known, window=64)[None, None]
    padding = (0, -width % 32, 0, -height % 32)
    hot = F.pad(one_hot(known.regions)[None], padding, mode="replicate")
    alpha = network(F.pad(image, padding, mode="replicate"), hot)[0, 0, :height, :width]
    return known.settle(alpha)[None, None]


@pytest.mark.parametrize("size", [(64, 64), (40, 70)])
@pytest.mark.parametrize("name", NAMES)
def test_any_size_is_padded_and_cropped_back(networks: dict[str, Network], name: str, size: tuple[int, int]) -> None:
    network, image, trimap = networks[name], torch.rand(1, 3, *size), stripes(*size)
    prediction = predict(network, image, trimap)
    with torch.no_grad():
        torch.testing.assert_close(prediction.alpha, by_hand(network, image, trimap))
    assert prediction.alpha.shape == (1, 1, *size) and prediction.notes == () and prediction.memory is None
    assert (prediction.alpha[..., : size[1] // 3] == 0).all() and (prediction.alpha[..., -(size[1] // 3) :] == 1).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_trimap_is_needed_and_must_fit(networks: dict[str, Network], name: str) -> None:
    image = torch.rand(1, 3, 32, 64)
    with pytest.raises(InputError, match="the trimap is missing"):
        matte(networks[name], image)
    with pytest.raises(InputError, match="the trimap has 64x32 pixels and the image 32x64"):
        matte(networks[name], image, trimap=stripes(64, 32))
    with pytest.raises(InputError, match="is a colour image"):
        matte(networks[name], image, trimap=np.random.default_rng(0).integers(0, 255, (32, 64, 3)))


@pytest.mark.parametrize("name", NAMES)
def test_how_other_values_were_read_is_said(networks: dict[str, Network], name: str) -> None:
    image, trimap = torch.rand(1, 3, 32, 60), stripes(32, 60)
    plain = matte(networks[name], image, trimap=trimap, **OPTIONS.get(name, {}))
    trimap[0, :5] = 20
    with pytest.warns(UserWarning, match="5 of the trimap's 1920 pixels are not 0, 128 or 255"):
        alpha = matte(networks[name], image, trimap=trimap, **OPTIONS.get(name, {}))
    assert torch.equal(alpha, plain)
    sixteen_bits = stripes(32, 60).int() * 257
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(matte(networks[name], image, trimap=sixteen_bits, **OPTIONS.get(name, {})), plain)
        assert torch.equal(matte(networks[name], image, trimap=sixteen_bits / 65535, **OPTIONS.get(name, {})), plain)


@pytest.mark.parametrize("build", [LiteMatting, LSAMatting, PAM])
def test_an_all_known_trimap_is_answered_without_the_network(build: Callable[[], Network]) -> None:
    network = build()
    network.register_forward_pre_hook(lambda *_: pytest.fail("the network ran"))
    network.run = lambda *_: pytest.fail("the network ran")  # type: ignore[method-assign]
    trimap = torch.tensor([[0, 255, 255]], dtype=torch.uint8)
    prediction = next(matte_frames(network, [torch.rand(1, 3, 1, 3)], trimaps=[trimap]))
    assert prediction.alpha.tolist() == [[[[0, 1, 1]]]]
    assert any("no unknown pixel" in note for note in prediction.notes)


@pytest.mark.parametrize("name", ["litematting", "pam"])
def test_a_downsample_ratio_is_refused_where_there_is_none(networks: dict[str, Network], name: str) -> None:
    with pytest.raises(SizeError, match="no downsample ratio"):
        matte(networks[name], torch.rand(1, 3, 32, 64), trimap=stripes(32, 64), downsample_ratio=0.5)


def test_lsa_reduces_image_and_trimap_and_settles_at_full_size(networks: dict[str, Network]) -> None:
    network = networks["lsa_matting"]
    image, trimap = torch.rand(1, 3, 64, 96), stripes(64, 96)
    small = matte(network, F.avg_pool2d(image, 2), trimap=trimap[::2, ::2].contiguous())
    alpha = matte(network, image, trimap=trimap, downsample_ratio=0.5)
    expected = F.interpolate(small, size=(64, 96), mode="bilinear")
    # Beside known pixels the unsettled reduced matte is interpolated: compare further inside.
    torch.testing.assert_close(alpha[..., 36:60], expected[..., 36:60])
    assert (alpha[..., :32] == 0).all() and (alpha[..., 64:] == 1).all()


def test_options_are_those_that_are_declared(networks: dict[str, Network]) -> None:
    image, trimap = torch.rand(1, 3, 32, 64), stripes(32, 64)
    with pytest.raises(UnknownNameError, match="no option of lsa_matting is called 'cost_limit': known: refinement_st"):
        matte_frames(networks["lsa_matting"], [image], trimaps=[trimap], cost_limit=60)
    with pytest.raises(InputError, match="cannot take -1 steps"):
        matte(networks["lsa_matting"], image, trimap=trimap, refinement_steps=-1)
    with pytest.raises(SizeError, match="multiples of 32"):
        matte(networks["litematting"], image, trimap=trimap, window=50)


def test_refinement_is_an_option(networks: dict[str, Network]) -> None:
    image, trimap, steps = torch.rand(1, 3, 32, 60), stripes(32, 60), []
    plain = predict(networks["lsa_matting"], image, trimap).alpha
    refined = predict(
        networks["lsa_matting"], image, trimap, refinement_steps=4, progress=lambda *done: steps.append(done)
    ).alpha
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert (refined - plain)[..., 20:40].abs().max() > 1e-4
    assert torch.equal(refined[..., :20], plain[..., :20])


def test_a_given_path_and_its_cost_are_told(networks: dict[str, Network]) -> None:
    image, trimap = torch.rand(1, 3, 40, 64), stripes(40, 64)
    whole = networks["pam"]
    assert isinstance(whole, PAM)
    prediction = predict(whole, image, trimap, path="0110")
    assert prediction.details == {"path": "0110", "gmacs": path_costs(64, 64)["0110"] / 1e9}
    static = whole.path("0110")
    assert torch.equal(predict(static, image, trimap).alpha, prediction.alpha)
    assert predict(static, image, trimap).details == prediction.details
    with pytest.raises(InputError, match="path 1111 needs the network with all paths"):
        predict(static, image, trimap, path="1111")


def test_cost_limits_hold_at_the_padded_size(networks: dict[str, Network]) -> None:
    network = networks["pam"]
    assert isinstance(network, PAM)
    costs = {path: macs / 1e9 for path, macs in path_costs(64, 64).items()}
    draw = random.Random(4)
    counted: dict[str, float] = {}
    for _ in range(20):
        limit = draw.uniform(min(costs.values()), max(costs.values()))
        details = predict(network, torch.rand(1, 3, 50, 40), stripes(50, 40), cost_limit=limit).details
        path = str(details["path"])
        if path not in counted:
            counted[path] = count(network.path(path), "textbook", size=(64, 64)).total.flops / 1e9
        assert details["gmacs"] == counted[path] <= limit


def test_limits_outside_the_paths_costs(networks: dict[str, Network]) -> None:
    image, trimap = torch.rand(1, 3, 32, 32), stripes(32, 32)
    costs = path_costs(32, 32)
    with pytest.raises(InputError, match="below pam's cheapest path, 0000, at 32x32: give at least"):
        predict(networks["pam"], image, trimap, cost_limit=min(costs.values()) / 1e9 * 0.99)
    prediction = predict(networks["pam"], image, trimap, cost_limit=100)
    assert prediction.details["path"] == "1111"
    assert prediction.notes == (
        "the cost limit 100 G is above pam's dearest path, 1111, at 32x32: "
        f"that path runs and costs {costs['1111'] / 1e9:.3f} G",
    )
    with pytest.raises(InputError, match="a cost limit or a path, not both"):
        predict(networks["pam"], image, trimap, cost_limit=70, path="1111")


@pytest.mark.parametrize("name", NAMES)
def test_a_converted_network_is_called_likewise(networks: dict[str, Network], name: str) -> None:
    converted = convert(networks[name], "reactnet").eval()
    image, trimap = torch.rand(1, 3, 40, 64), stripes(40, 64)
    with torch.no_grad():
        torch.testing.assert_close(predict(converted, image, trimap).alpha, by_hand(converted, image, trimap))
