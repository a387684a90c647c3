"""Networks that the registry cannot build: saved with the name of a factory, or refused when they are saved."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from example_networks import UNet, randomize
from safetensors import safe_open
from torch import Tensor, nn

import binmat
from binmat.backends.registry import get_backend
from binmat.errors import CheckpointError
from binmat.model_defs.rvm import RVM
from binmat.nn.sbb import SBBEncoder, SBBPlan, SBBRow
from binmat.pipeline.converted_folder import WEIGHTS, export_folder, verify_folder
from binmat.transforms.checkpoint import load, save
from binmat.transforms.convert import convert
from binmat.transforms.sbb import ReplaceEncoder
from binmat.transforms.trace import trace

SIZE = (32, 48)


class TwoInputs(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first, self.middle = nn.Conv2d(4, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.norm, self.last = nn.BatchNorm2d(width), nn.Conv2d(width, 1, 1)

    def forward(self, image: Tensor, trimap: Tensor) -> dict[str, Tensor]:
        x = torch.cat([image, trimap], dim=1)
        return {"alpha": self.last(self.norm(self.middle(self.first(x))).relu())}


def two_inputs() -> tuple[nn.Module, binmat.Example]:
    inputs = {"image": torch.zeros(1, 3, *SIZE), "trimap": torch.zeros(1, 1, *SIZE)}
    return TwoInputs(), binmat.Example("forward", inputs, ())


def wider() -> tuple[nn.Module, binmat.Example]:
    return TwoInputs(16), two_inputs()[1]


def unet() -> nn.Module:
    return UNet()


def fails() -> nn.Module:
    return nn.Conv2d(-1, 8, 1)


def nothing() -> str:
    return "no module"


def dilated() -> nn.Module:
    """The paper's encoder in RVM: its last block is dilated, which no recipe says."""
    plan = SBBPlan(blocks=(SBBRow(32, 2), SBBRow(64, 2), SBBRow(64), SBBRow(128, 2), SBBRow(128, 1, 2)))
    network = trace(RVM())
    return ReplaceEncoder(SBBEncoder(plan)).apply(network)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def here(function: str) -> str:
    return f"{Path(__file__).stem}:{function}"


def test_a_foreign_network_comes_back_whole(tmp_path: Path) -> None:
    module, example = two_inputs()
    network = randomize(convert(module, "reactnet", settings=["padding=one"], example=example)).eval()
    save(network, tmp_path / WEIGHTS, factory=here("two_inputs"))
    with safe_open(tmp_path / WEIGHTS, "pt") as file:
        assert f'"factory": "{here("two_inputs")}"' in file.metadata()["binmat"]
    again = load(tmp_path, factory=here("two_inputs"))
    assert again.conversion == network.conversion and not again.training
    image, trimap = torch.rand(1, 3, *SIZE), torch.rand(1, 1, *SIZE)
    assert torch.equal(again(image, trimap=trimap)["alpha"], network(image, trimap)["alpha"])


def test_a_float_foreign_network_comes_back_too(tmp_path: Path) -> None:
    network = randomize(trace(UNet(), SIZE)).eval()
    save(network, tmp_path / "unet.safetensors", factory=here("unet"))
    again = load(tmp_path / "unet.safetensors", factory=here("unet"))
    x = torch.rand(1, 3, *SIZE)
    assert again.conversion is None and torch.equal(again(x), network(x))


def test_a_file_imports_nothing_that_the_caller_does_not_name(tmp_path: Path) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "strange_code.py").write_text("from example_networks import UNet\n")
    sys.path.append(str(folder))
    try:
        path = tmp_path / "model.safetensors"
        save(convert(UNet(), "bnn", size=SIZE), path, factory="strange_code:UNet")
        del sys.modules["strange_code"]
        with pytest.raises(CheckpointError, match=r"built by 'strange_code:UNet': .* pass factory='strange_code:UNet'"):
            load(path)
        with pytest.raises(CheckpointError, match=r"built by 'strange_code:UNet', not by 'os:getcwd'"):
            load(path, factory="os:getcwd")
        assert "strange_code" not in sys.modules
        load(path, factory="strange_code:UNet")
        assert sys.modules.pop("strange_code")
    finally:
        sys.path.remove(str(folder))


def test_a_factory_for_a_file_without_one_is_refused(tmp_path: Path) -> None:
    save(RVM(), tmp_path / "rvm.safetensors")
    with pytest.raises(CheckpointError, match="saved without a factory"):
        load(tmp_path / "rvm.safetensors", factory=here("unet"))


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        (None, "not a network of the registry: name a function"),
        ("unet", "is not 'module:function'"),
        ("__main__:unet", "is not 'module:function'"),
        ("no.such.module:unet", "cannot be imported"),
        (here("absent"), "cannot be imported"),
        (here("fails"), "fails: RuntimeError: "),
        (here("nothing"), "returned str: it must return"),
        (here("wider"), r"'first.weight' is \[8, 4, 3, 3\] instead of \[16, 4, 3, 3\]"),
    ],
)
def test_what_cannot_come_back_is_not_saved(tmp_path: Path, factory: str | None, reason: str) -> None:
    module, example = two_inputs()
    network = convert(module, "bnn", example=example)
    with pytest.raises(CheckpointError, match=reason):
        save(network, tmp_path / WEIGHTS, factory=factory)
    assert list(tmp_path.iterdir()) == []


def test_a_plain_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="UNet is not converted"):
        save(UNet(), tmp_path / WEIGHTS, factory=here("unet"))


def test_an_example_that_the_factory_does_not_give_is_missed(tmp_path: Path) -> None:
    example = binmat.Example("forward", {"x": torch.zeros(1, 3, *SIZE)}, ())
    network = convert(UNet(), "bnn", example=example)
    with pytest.raises(CheckpointError, match=r"'input x' is \[1, 3, 32, 48\] instead of absent"):
        save(network, tmp_path / WEIGHTS, factory=here("unet"))


def _other_stride(network: nn.Module) -> None:
    network.get_submodule("decoder.decode3.conv.0").dilation = (2, 2)


def _other_scheme(network: nn.Module) -> None:
    layer = network.get_submodule("decoder.decode3.conv.0")
    layer.scheme = layer.scheme.with_options(estimator="polynomial")


def _other_constant(network: nn.Module) -> None:
    network.get_buffer("backbone.mean").mul_(2)


def _other_layer(network: nn.Module) -> None:
    network.decoder.decode3.conv[1] = nn.Identity()


@pytest.mark.parametrize("change", [_other_stride, _other_scheme, _other_constant, _other_layer])
def test_layers_changed_by_hand_are_named(tmp_path: Path, change) -> None:
    network = convert(RVM(), "bnn")
    change(network)
    with pytest.raises(CheckpointError, match=r"another rvm_mobilenetv3, here '(decoder|backbone).*: name a function"):
        save(network, tmp_path / WEIGHTS)
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_put_in_by_hand_is_saved_with_a_factory(tmp_path: Path) -> None:
    network = convert(dilated(), "bnn").eval()
    with pytest.raises(CheckpointError, match=r"another rvm_mobilenetv3, here 'backbone"):
        save(network, tmp_path / WEIGHTS)
    save(network, tmp_path / WEIGHTS, factory=here("dilated"))
    x = torch.rand(1, 3, 64, 96)
    for got, want in zip(load(tmp_path, factory=here("dilated"))(x), network(x), strict=True):
        assert torch.equal(got, want)


def test_saving_leaves_the_random_numbers_alone(tmp_path: Path) -> None:
    network = convert(UNet(), "bnn", size=SIZE)
    torch.manual_seed(0)
    want = torch.rand(3)
    torch.manual_seed(0)
    save(network, tmp_path / WEIGHTS, factory=here("unet"))
    assert torch.equal(torch.rand(3), want)


def test_a_folder_of_a_foreign_network_is_exported_and_verified(tmp_path: Path) -> None:
    network = randomize(convert(UNet(), "bnn", size=SIZE)).eval()
    save(network, tmp_path / WEIGHTS, factory=here("unet"))
    path, _ = export_folder(tmp_path, "lce", factory=here("unet"))
    assert path.suffix == get_backend("lce").suffix
    for verification in verify_folder(tmp_path, factory=here("unet")).values():
        verification.check()
