from __future__ import annotations

import io
import os
import pickle
import random
import shutil
import zipfile
from collections import OrderedDict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from official_checkpoints import official_shapes, official_state
from safetensors.torch import save_file
from torch import Tensor, nn

from binmat.errors import CheckpointError, UnknownNameError
from binmat.model_defs.load import is_converted, load, load_state

RVM = "rvm_mobilenetv3_dgf"


@cache
def _state() -> dict[str, Tensor]:
    return official_state(RVM)


def state() -> dict[str, Tensor]:
    return {key: value.clone() for key, value in _state().items()}


class Runs:
    """Pickles into a call that leaves a mark on the disk."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def prefixed(prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state().items()}


def refused(path: Path, *words: str, call=load, **options: Any) -> str:
    """The one-line message of the CheckpointError; each word must be in it."""
    with pytest.raises(CheckpointError) as error:
        call(path, **options)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 500
    assert all(word in message for word in (str(path), *words)), message
    return message


@pytest.mark.parametrize(
    ("file", "name", "refiner"),
    [
        ("rvm_mobilenetv3_dgf", "rvm_mobilenetv3", "deep_guided_filter"),
        ("rvm_mobilenetv3_fgf", "rvm_mobilenetv3", "fast_guided_filter"),
        ("rvm_resnet50_dgf", "rvm_resnet50", "deep_guided_filter"),
        ("rvm_resnet50_fgf", "rvm_resnet50", "fast_guided_filter"),
    ],
)
def test_official_checkpoints_are_recognised_and_loaded_whole(tmp_path, file, name, refiner):
    official = official_state(file)
    torch.save(official, tmp_path / "net.pth")
    net = load(tmp_path / "net.pth")
    assert net.name == name
    assert net.config["refiner"] == refiner
    assert not net.training
    loaded = net.state_dict()
    assert list(loaded) == list(official)
    assert all(torch.equal(loaded[key], value) for key, value in official.items())


@pytest.mark.parametrize(
    "stored",
    [
        lambda: OrderedDict(state()),
        lambda: prefixed("module."),
        lambda: {"state_dict": state(), "epoch": 3},
        lambda: {"model": prefixed("module."), "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3}]}},
        lambda: {"net": state()},
        lambda: {"network": state()},
        lambda: {"model_state_dict": state(), "loss": torch.tensor(0.1)},
        lambda: {"model": {"state_dict": state()}},
        lambda: {"epoch": 1, "pytorch-lightning_version": "2.5", "state_dict": prefixed("model."), "callbacks": {}},
        lambda: {"state_dict": prefixed("network.")},
        lambda: prefixed("_orig_mod.module."),
        lambda: {**state(), "epoch": 7, "note": "best"},
        lambda: {key: nn.Parameter(v) if v.is_floating_point() else v for key, v in state().items()},
    ],
)
def test_wrappers_and_prefixes_are_seen_through(tmp_path, stored):
    torch.save(stored(), tmp_path / "net.ckpt")
    loaded = load_state(tmp_path / "net.ckpt")
    assert list(loaded) == list(state())
    assert all(torch.equal(loaded[key], value) and not loaded[key].requires_grad for key, value in state().items())
    assert load(tmp_path / "net.ckpt").name == "rvm_mobilenetv3"


@pytest.mark.parametrize("name", ["net.pth", "net.pth.tar", "net.pt", "net.ckpt", "net.safetensors", "net.bin", "net"])
def test_the_content_decides_on_the_format_not_the_name(tmp_path, name):
    for write in (
        lambda path: torch.save(state(), path),
        lambda path: torch.save(state(), path, _use_new_zipfile_serialization=False),
        lambda path: torch.save(state(), path, _use_new_zipfile_serialization=False, pickle_protocol=3),
        lambda path: save_file(state(), path),
    ):
        write(tmp_path / name)
        loaded = load_state(str(tmp_path / name))
        assert loaded.keys() == state().keys()
        assert all(torch.equal(loaded[key], value) for key, value in state().items())


def test_safetensors_do_not_depend_on_their_file_once_they_are_read(tmp_path):
    save_file(state(), tmp_path / "net.safetensors")
    loaded = load_state(tmp_path / "net.safetensors")
    with (tmp_path / "net.safetensors").open("r+b") as file:
        file.write(bytes((tmp_path / "net.safetensors").stat().st_size))
    assert all(torch.equal(loaded[key], value) for key, value in state().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_become_float32(tmp_path, dtype):
    stored = {key: value.to(dtype) if value.is_floating_point() else value for key, value in state().items()}
    torch.save(stored, tmp_path / "net.pth")
    net = load(tmp_path / "net.pth")
    for key, value in net.state_dict().items():
        assert value.dtype == (torch.int64 if key.endswith("num_batches_tracked") else torch.float32)
        assert torch.equal(value, stored[key].to(value.dtype))


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool])
def test_weights_that_are_no_floats(tmp_path, dtype):
    """Quantized weights whose scale is elsewhere."""
    stored = state()
    stored["project_mat.conv.weight"] = torch.ones(4, 16, 1, 1, dtype=dtype)
    torch.save(stored, tmp_path / "net.pth")
    kind = str(dtype).removeprefix("torch.")
    refused(tmp_path / "net.pth", f"project_mat.conv.weight holds {kind} numbers", "save the weights as float32")


@pytest.mark.parametrize("zipped", [True, False])
def test_negative_variances(tmp_path, zipped):
    stored = state()
    stored["aspp.aspp1.1.running_var"][3] = -0.5
    torch.save(stored, tmp_path / "net.pth", _use_new_zipfile_serialization=zipped)
    refused(tmp_path / "net.pth", "aspp.aspp1.1.running_var has 1 of 128 variances below 0, down to -0.5", "diverged")


def test_counters_that_old_files_lack_start_at_zero(tmp_path):
    stored = {key: value for key, value in state().items() if not key.endswith("num_batches_tracked")}
    torch.save(stored, tmp_path / "net.pth")
    loaded = load(tmp_path / "net.pth").state_dict()
    assert all(value == 0 for key, value in loaded.items() if key.endswith("num_batches_tracked"))


def test_no_such_file(tmp_path):
    refused(tmp_path / "none.pth", "no such file", "check the path")
    (tmp_path / "broken.pth").symlink_to(tmp_path / "none.pth")
    refused(tmp_path / "broken.pth", "no such file")


def test_a_folder(tmp_path):
    refused(tmp_path, "is a folder", "pass the checkpoint file")


def test_a_device(tmp_path):
    refused(Path(os.devnull), "not a regular file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_permission(tmp_path):
    torch.save(state(), tmp_path / "net.pth")
    (tmp_path / "net.pth").chmod(0)
    refused(tmp_path / "net.pth", "cannot be read", "permissions")


def test_an_empty_file(tmp_path):
    (tmp_path / "net.pth").touch()
    refused(tmp_path / "net.pth", "is empty", "again")


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory) -> list[bytes]:
    """The same checkpoint in each format."""
    small = {key: value for key, value in state().items() if key.startswith(("decoder.", "aspp.", "project"))}
    streams = [io.BytesIO(), io.BytesIO()]
    torch.save(small, streams[0])
    torch.save(small, streams[1], _use_new_zipfile_serialization=False)
    path = tmp_path_factory.mktemp("whole") / "net.safetensors"
    save_file(small, path)
    return [*(stream.getvalue() for stream in streams), path.read_bytes()]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.integers(0, 2), share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_named_wherever_it_is_cut(tmp_path, whole_files, kind, share):
    whole = whole_files[kind]
    path = tmp_path / "net.pth"
    path.write_bytes(whole[: 1 + int(share * (len(whole) - 1))])
    message = refused(path)
    assert "damaged" in message or "is not a checkpoint" in message


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.integers(0, 2), share=st.floats(0, 1, exclude_max=True), noise=st.binary(min_size=8, max_size=64))
def test_a_damaged_file_is_read_right_or_refused(tmp_path, whole_files, kind, share, noise):
    """Neither another exception nor a process that dies."""
    whole = bytearray(whole_files[kind])
    start = int(share * (len(whole) - 64))
    whole[start : start + len(noise)] = noise
    (tmp_path / "net.pth").write_bytes(whole)
    try:
        loaded = load_state(tmp_path / "net.pth")
    except CheckpointError as error:
        assert "\n" not in str(error)
    else:
        assert all(isinstance(value, Tensor) for value in loaded.values())


@pytest.mark.parametrize(
    "content",
    [
        b"a text file\n",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"\x00" * 100,
        b"\x80",
        b"\x80\x02not a pickle at all",
        b"{}",
        b"P",
        pickle.dumps([1, 2, "three"]),
    ],
)
def test_not_a_checkpoint(tmp_path, content):
    (tmp_path / "net.pth").write_bytes(content)
    refused(tmp_path / "net.pth", "is not a checkpoint", "pass a .pth, .pt, .ckpt or .safetensors file")


def test_an_archive_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "net.pth", "w") as archive:
        archive.writestr("folder/letter.txt", "hello")
    refused(tmp_path / "net.pth", "is not a checkpoint", "zip archive")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol(tmp_path, protocol):
    for zipped in (True, False):
        torch.save(state(), tmp_path / "net.pth", _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
        loaded = load_state(tmp_path / "net.pth")
        assert all(torch.equal(loaded[key], value) for key, value in state().items())


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_program(tmp_path):
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "net.pt"))
    refused(tmp_path / "net.pt", "TorchScript", "state_dict")


@pytest.mark.parametrize(
    "write",
    [
        lambda stored, path: torch.save(stored, path),
        lambda stored, path: torch.save(stored, path, _use_new_zipfile_serialization=False),
        lambda stored, path: path.write_bytes(pickle.dumps(stored)),
        lambda stored, path: path.write_bytes(pickle.dumps(stored, protocol=0)),
    ],
)
def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path, write):
    path, mark = tmp_path / "net.pth", tmp_path / "mark"
    write({"weight": torch.zeros(2), "payload": Runs(mark)}, path)
    if path.read_bytes().startswith((b"P", b"\x80")):
        refused(path, "would run code", "refused", "save its state_dict")
    else:
        refused(path, "is not a checkpoint")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("stored", "culprit"),
    [
        (lambda: nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        (lambda: {"state_dict": state(), "random": random.Random(0)}, "random.Random"),
    ],
)
def test_objects_that_only_code_can_rebuild_are_named(tmp_path, stored, culprit):
    torch.save(stored(), tmp_path / "net.pth")
    refused(tmp_path / "net.pth", culprit, "would run code", "save its state_dict")


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (lambda: torch.zeros(3), ["holds a Tensor instead of a state_dict"]),
        (lambda: [torch.zeros(3)], ["holds a list instead of a state_dict"]),
        (dict, ["holds no tensors (it has nothing)"]),
        (lambda: {"epoch": 3, "config": {"lr": 1.0}}, ["holds no tensors", "'epoch', 'config'", "state_dict"]),
        (lambda: {"state_dict": {}}, ["holds no tensors"]),
        (lambda: {0: torch.zeros(3)}, ["has the key 0"]),
    ],
)
def test_what_holds_no_state_dict(tmp_path, stored, words):
    torch.save(stored(), tmp_path / "net.pth")
    refused(tmp_path / "net.pth", *words)


def test_keys_of_another_network(tmp_path):
    torch.save(nn.Conv2d(3, 4, 1).state_dict(), tmp_path / "net.pth")
    refused(tmp_path / "net.pth", "none of the networks binmat knows", "shares no tensor", "binmat.convert")
    torch.save({k: v for k, v in state().items() if k.startswith("backbone.")}, tmp_path / "net.pth")
    refused(tmp_path / "net.pth", "the closest is rvm_mobilenetv3", "308 of whose 380 tensors")


def test_the_network_that_was_asked_for_must_be_the_one_that_is_there(tmp_path):
    torch.save(state(), tmp_path / "net.pth")
    assert load(tmp_path / "net.pth", network="rvm_mobilenetv3").name == "rvm_mobilenetv3"
    refused(tmp_path / "net.pth", "holds rvm_mobilenetv3, not rvm_resnet50", network="rvm_resnet50")
    with pytest.raises(UnknownNameError, match="did you mean 'rvm_mobilenetv3'"):
        load(tmp_path / "none.pth", network="rvm_mobilenet")
    torch.save(nn.Conv2d(3, 4, 1).state_dict(), tmp_path / "net.pth")
    refused(tmp_path / "net.pth", "does not fit rvm_resnet50", "missing", "left over", network="rvm_resnet50")


def test_missing_extra_and_misshapen_tensors_are_counted_and_named(tmp_path):
    stored = state()
    for key in [key for key in stored if key.startswith("decoder.decode2.conv.")][:5]:
        del stored[key]
    stored["head.weight"] = torch.zeros(2)
    stored["aspp.aspp1.0.weight"] = torch.zeros(128, 960)
    torch.save(stored, tmp_path / "net.pth")
    for options in ({}, {"strict": False}):
        refused(
            tmp_path / "net.pth",
            "does not fit rvm_mobilenetv3",
            "1 misshapen (aspp.aspp1.0.weight is [128, 960] instead of [128, 960, 1, 1])",
            "5 missing (decoder.decode2.conv.0.weight, decoder.decode2.conv.1.weight, ",
            "decoder.decode2.conv.1.bias, ...)",
            "1 left over (head.weight)",
            **options,
        )


def test_a_key_with_and_without_prefix_is_left_over(tmp_path):
    stored = prefixed("module.") | {"project_seg.conv.bias": torch.zeros(1)}
    torch.save(stored, tmp_path / "net.pth")
    assert load_state(tmp_path / "net.pth").keys() == stored.keys()
    refused(tmp_path / "net.pth", "none of the networks", "1 of whose 380")


def test_keys_beside_the_prefixed_ones_are_left_over(tmp_path):
    torch.save({"state_dict": prefixed("model.") | {"loss.weight": torch.ones(1)}}, tmp_path / "net.ckpt")
    refused(tmp_path / "net.ckpt", "1 left over (loss.weight)")


def test_not_strict_keeps_what_fits_and_says_what_does_not(tmp_path):
    stored = state()
    del stored["project_seg.conv.bias"]
    stored["head.weight"] = torch.zeros(2)
    torch.save(stored, tmp_path / "net.pth")
    with pytest.warns(UserWarning, match=r"1 missing \(project_seg.conv.bias\), 1 left over \(head.weight\)") as caught:
        net = load(tmp_path / "net.pth", strict=False)
    assert caught[0].filename == __file__
    loaded = net.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in stored.items() if key != "head.weight")
    assert loaded["project_seg.conv.bias"].isfinite().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key", ["decoder.decode4.gru.hh.0.bias", "backbone.features.3.block.1.1.running_var"])
def test_weights_that_are_not_finite(tmp_path, value, key):
    stored = state()
    stored[key].view(-1)[-2:] = value
    torch.save(stored, tmp_path / "net.pth")
    refused(tmp_path / "net.pth", key, f"2 of {stored[key].numel()} values that are NaN or infinite")


def test_weights_beyond_float32(tmp_path):
    stored = state()
    stored["project_mat.conv.bias"] = torch.tensor([0.0, 1e300, 0.0, 0.0], dtype=torch.float64)
    torch.save(stored, tmp_path / "net.pth")
    refused(tmp_path / "net.pth", "project_mat.conv.bias has 1 of 4 values", "float32")


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning", "ignore:TypedStorage:UserWarning")
@pytest.mark.parametrize(
    ("kind", "convert"),
    [
        ("complex64", lambda x: x.to(torch.complex64)),
        ("sparse_coo", lambda x: x.to_sparse()),
        ("quantized", lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)),
        ("meta", lambda x: x.to("meta")),
        ("nested", lambda x: torch.nested.nested_tensor([x, x[:2]])),
        ("nested", lambda x: torch.nested.nested_tensor([x, x[:2]], layout=torch.jagged)),
    ],
)
def test_tensors_of_a_kind_that_is_no_weight(tmp_path, kind, convert):
    stored = state()
    stored["project_mat.conv.bias"] = convert(stored["project_mat.conv.bias"])
    torch.save(stored, tmp_path / "net.pth")
    refused(tmp_path / "net.pth", "project_mat.conv.bias", kind)


def test_converted_networks_are_told_apart_by_their_metadata(tmp_path):
    save_file(state(), tmp_path / "float.safetensors", metadata={"format": "pt"})
    save_file(state(), tmp_path / "plain.safetensors")
    save_file(state(), tmp_path / "converted.safetensors", metadata={"binmat": "{}"})
    torch.save({"binmat": state()}, tmp_path / "net.pth")
    assert not is_converted(tmp_path / "float.safetensors")
    assert not is_converted(tmp_path / "plain.safetensors")
    assert not is_converted(tmp_path / "net.pth")
    assert is_converted(str(tmp_path / "converted.safetensors"))
    refused(tmp_path / "converted.safetensors", "binmat converted", "binmat.load")
    refused(tmp_path / "none.safetensors", "no such file", call=is_converted)


def test_the_file_is_left_as_it_was(tmp_path):
    torch.save(state(), tmp_path / "net.pth")
    shutil.copy(tmp_path / "net.pth", tmp_path / "copy.pth")
    net = load(tmp_path / "net.pth")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert (tmp_path / "net.pth").read_bytes() == (tmp_path / "copy.pth").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy.pth", "net.pth"]


def test_shapes_of_the_golden_keys_are_those_of_the_file(tmp_path):
    torch.save(state(), tmp_path / "net.pth")
    assert {k: tuple(v.shape) for k, v in load_state(tmp_path / "net.pth").items()} == official_shapes(RVM)
