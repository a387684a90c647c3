"""Every network of the papers as an LCE model: operator by operator what PyTorch computes from the same inputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from official_checkpoints import filled

from binmat.data.image import photograph
from binmat.errors import SizeError
from binmat.model_defs.litematting import LiteMatting
from binmat.model_defs.lsa_matting import LSAMatting
from binmat.model_defs.modnet import MODNet
from binmat.model_defs.network import Network
from binmat.model_defs.pam import PAM
from binmat.model_defs.trimap import portrait_trimap
from binmat.pipeline.deployment import deploy
from binmat.transforms.convert import convert
from binmat.verification.file_check import check_file

Size = tuple[int, int]

BUILD: dict[str, Callable[[], Network]] = {
    "modnet": MODNet,
    "modnet with e-ASPP": lambda: MODNet("easpp"),
    "modnet with a trimap": lambda: MODNet(trimap=True),
    "litematting": LiteMatting,
    "litematting's backbone": lambda: LiteMatting(lsrppm=False, enb=False),
    "litematting with batch norm and max pooling": lambda: LiteMatting(norm="batch", sampling="max"),
    "litematting with a common non-local block": lambda: LiteMatting(sampling="none"),
    "lsa_matting": LSAMatting,
    "pam 1011": lambda: PAM(path="1011"),
    "pam 0100": lambda: PAM(path="0100"),
}
PAPERS = ("modnet", "litematting", "lsa_matting", "pam 1011", "pam 0100")
#: What an exporter may get wrong in each: these operators must be among those that were compared.
OPERATORS = {
    "modnet": {"rsqrt", "sigmoid", "upsample_bilinear2d", "mean"},
    "litematting": {"getitem", "_softmax", "bmm", "_adaptive_avg_pool2d", "upsample_nearest2d", "constant_pad_nd"},
    "lsa_matting": {"getitem", "hardsigmoid", "avg_pool2d", "mean"},
    "pam 1011": {"_adaptive_avg_pool2d", "upsample_bilinear2d", "sigmoid"},
    "pam 0100": {"_adaptive_avg_pool2d", "upsample_bilinear2d", "sigmoid"},
}


@cache
def network(name: str) -> Network:
    return filled(BUILD[name]())


def compared_in_one_frame(name: str, scheme: str | None, size: Size) -> set[str]:
    """Verify on one photograph in LCE's default kernel; the operators that were compared."""
    deployment = deploy(network(name) if scheme is None else convert(network(name), scheme), size)
    frame = deployment.clips()["photograph"][0]
    found = check_file(deployment.backend, deployment.lowered, deployment.model, [frame], "optimized")
    found.check()
    # A matte that is the same everywhere would agree without showing anything.
    (alpha,) = deployment.lowered(*(frame[each] for each in deployment.lowered.inputs))
    assert alpha.shape[2:] == size and alpha.std() > 1e-3
    return {_short(node.operator) for node in found.nodes}


def _short(operator: str) -> str:
    """aten.mean.dim is mean; operator.getitem, by which norms and pools with indices are read, is getitem."""
    return "getitem" if "getitem" in operator else operator.removeprefix("aten.").split(".")[0]


@pytest.mark.parametrize("name", PAPERS)
def test_converted(name: str) -> None:
    compared = compared_in_one_frame(name, "reactnet", (32, 64))
    assert compared >= OPERATORS[name] | {"binmat", "convolution", "_prelu_kernel"}


@pytest.mark.slow
@pytest.mark.parametrize("size", [(64, 96)])
@pytest.mark.parametrize("scheme", ["reactnet", "bimatting"])
@pytest.mark.parametrize("name", [name for name in BUILD if name not in PAPERS])  # tests/cli converts the others
def test_converted_in_every_kernel_over_frames(name: str, scheme: str, size: Size) -> None:
    verdict = deploy(convert(network(name), scheme), size).verify()
    verdict.check()
    assert {kernel for _, kernel in verdict.runs} == {"optimized", "reference"}


@pytest.mark.parametrize("name", PAPERS)
def test_a_size_that_does_not_fit_is_refused(name: str) -> None:
    with pytest.raises(SizeError, match="multiples of 32"):
        deploy(network(name), (40, 64))


@pytest.mark.parametrize("name", PAPERS)
def test_the_photograph_is_given_as_the_network_takes_it(name: str) -> None:
    built, picture, known = network(name), photograph(64, 64), portrait_trimap(64, 64)
    assert set(known.regions.flatten().tolist()) == {0, 1, 2}
    example = built.example(64, 64)
    given = built.frame_inputs(picture)
    assert {key: value.shape for key, value in given.items()} == {key: v.shape for key, v in example.inputs.items()}
    if name == "lsa_matting":  # Its predict adds a border, so it sees another picture.
        assert torch.equal(given["x"][0, 3].unique(), torch.tensor([0, 128 / 255, 1]))
        return
    with torch.no_grad():
        alpha = built.run(example.mode, *given.values()).clamp(0, 1)
    options = {"window": 64} if name == "litematting" else {}
    predicted = built.predict(picture, trimap=None if name == "modnet" else known.alpha(), **options).alpha
    asked = (
        torch.ones_like(alpha, dtype=torch.bool) if name == "modnet" else torch.from_numpy(known.unknown)[None, None]
    )
    torch.testing.assert_close(predicted[asked], alpha[asked], rtol=0, atol=1e-5)
