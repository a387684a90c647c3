"""Checkpoints made to hang, to take memory or to run code."""

from __future__ import annotations

import argparse
import io
import pickle
import struct
import tracemalloc
import zipfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from binmat.errors import CheckpointError
from binmat.model_defs.inert_pickle import ForbiddenNameError, Unread, read_pickle
from binmat.model_defs.load import load_state

GLOBAL_BYTEARRAY = b"c__builtin__\nbytearray\n"


def refused(path: Path, *words: str) -> None:
    with pytest.raises(CheckpointError) as error:
        load_state(path)
    message = str(error.value)
    assert "\n" not in message and len(message) < 500
    assert all(word in message for word in (str(path), *words)), message


def saved(stored: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(stored, stream)
    return stream.getvalue()


def rewritten(content: bytes, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """The archive with other members."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(made, "w", compression) as after:
        for name in before.namelist():
            after.writestr(name, change(name.partition("/")[2], before.read(name)))
    return made.getvalue()


def with_pickle(program: bytes) -> bytes:
    """A checkpoint whose content is this pickle."""
    return rewritten(saved({"weight": torch.zeros(2)}), lambda name, old: program if name == "data.pkl" else old)


def test_a_dictionary_that_contains_itself(tmp_path: Path) -> None:
    stored: dict[str, Any] = {"weight": torch.zeros(2)}
    stored["state_dict"] = stored
    (tmp_path / "net.pth").write_bytes(saved(stored))
    refused(tmp_path / "net.pth", "contains itself under the key 'state_dict'", "save net.state_dict()")


def test_two_dictionaries_that_contain_each_other(tmp_path: Path) -> None:
    first: dict[str, Any] = {}
    first["model"] = {"state_dict": first}
    (tmp_path / "net.pth").write_bytes(saved(first))
    refused(tmp_path / "net.pth", "contains itself")


def test_a_small_pickle_that_asks_for_gigabytes(tmp_path: Path) -> None:
    one = GLOBAL_BYTEARRAY + b"J" + struct.pack("<i", 2**30) + b"\x85R"
    (tmp_path / "net.pth").write_bytes(with_pickle(b"\x80\x02](" + 8 * one + b"e."))
    tracemalloc.start()
    try:
        refused(tmp_path / "net.pth", "holds a list")
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_keys_that_take_forever_to_hash(tmp_path: Path) -> None:
    nested = b")" + 60 * b"2\x86"  # () -> ((), ()) -> ...: 2^60 empty tuples.
    (tmp_path / "net.pth").write_bytes(with_pickle(b"\x80\x02}" + nested + b"K\x01s."))
    refused(tmp_path / "net.pth", "holds no tensors (it has 'tuple')")


def test_integer_keys_with_equal_hashes(tmp_path: Path) -> None:
    keys = {number * (2**61 - 1): None for number in range(1, 30)}
    (tmp_path / "net.pth").write_bytes(with_pickle(pickle.dumps(keys, 2)))
    refused(tmp_path / "net.pth", "holds no tensors")


def test_too_many_operations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("binmat.model_defs.inert_pickle.MOST_OPERATIONS", 1000)
    (tmp_path / "net.pth").write_bytes(with_pickle(b"\x80\x02" + 2000 * b"(" + b"."))
    refused(tmp_path / "net.pth", "more than 1,000 operations")


@pytest.mark.filterwarnings("ignore:TypedStorage:UserWarning")
@pytest.mark.parametrize(
    ("size", "stride"),
    [
        *(((2**20, 2**20), (0, 0)), ((5, 5), (0, 1)), ((2**40,), (1,)), ((3, 2), (2, 1))),
        *(((2,), (-1,)), ((2,), (2**70,)), ((2, 2), (1,))),
    ],
)
def test_views_that_claim_more_than_their_storage(tmp_path: Path, size: tuple, stride: tuple) -> None:
    class Claim:
        def __reduce__(self) -> Any:
            storage = torch.zeros(4).storage()
            return torch._utils._rebuild_tensor_v2, (storage, 0, size, stride, False, {})

    (tmp_path / "net.pth").write_bytes(saved({"conv.weight": Claim(), "bias": torch.zeros(1)}))
    refused(tmp_path / "net.pth", "conv.weight", "save the weights dense")


@pytest.mark.parametrize("length", [0, 4, 15, 17, 400])
def test_a_storage_of_another_size_than_its_tensors_say(tmp_path: Path, length: int) -> None:
    whole = saved({"weight": torch.zeros(4)})
    cut = rewritten(whole, lambda name, old: bytes(length) if name == "data/0" else old)
    (tmp_path / "net.pth").write_bytes(cut)
    refused(tmp_path / "net.pth", f"storage 0 has {length} bytes instead of 16", "download it again")


def test_an_archive_that_is_larger_unpacked(tmp_path: Path) -> None:
    whole = saved({"weight": torch.zeros(2**20)})
    (tmp_path / "net.pth").write_bytes(rewritten(whole, lambda _, old: old, zipfile.ZIP_DEFLATED))
    assert (tmp_path / "net.pth").stat().st_size < 2**15
    refused(tmp_path / "net.pth", "too large for the file")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_archive_that_is_packed_by_another_method(tmp_path: Path, method: int) -> None:
    (tmp_path / "net.pth").write_bytes(rewritten(saved({"weight": torch.zeros(4)}), lambda _, old: old, method))
    refused(tmp_path / "net.pth", "compressed by another method")


def test_a_part_that_inflates_to_more_than_it_says(tmp_path: Path) -> None:
    whole = saved({"weight": torch.zeros(4)})
    bomb = rewritten(whole, lambda name, old: bytes(2**26) if name == "data/0" else old, zipfile.ZIP_DEFLATED)
    (tmp_path / "net.pth").write_bytes(bomb.replace(struct.pack("<I", 2**26), struct.pack("<I", 16)))
    tracemalloc.start()
    try:
        refused(tmp_path / "net.pth", "cut short or damaged")
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_storages_that_share_their_bytes(tmp_path: Path) -> None:
    """Many entries of an archive may name the same place in it."""
    whole = saved({f"weight{index}": torch.zeros(2**16) for index in range(8)})
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as before, zipfile.ZipFile(made, "w") as after:
        for name in before.namelist():
            if name.endswith(tuple(f"data/{index}" for index in range(1, 8))):
                twin = zipfile.ZipInfo(name)
                first = after.getinfo(name[:-1] + "0")
                for field in ("header_offset", "CRC", "compress_size", "file_size"):
                    setattr(twin, field, getattr(first, field))
                twin.orig_filename = first.filename
                after.filelist.append(twin)
            else:
                after.writestr(name, before.read(name))
    (tmp_path / "net.pth").write_bytes(made.getvalue())
    refused(tmp_path / "net.pth", "cut short or damaged")


class Runs:
    """Pickles into a call that writes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_that_a_pickle_names_is_imported_or_called(tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps({"weight": [Runs(tmp_path / "mark")]}, protocol)
    with pytest.raises(ForbiddenNameError, match=r"pathlib|builtins\.getattr"):
        read_pickle(io.BytesIO(content), {}, Unread)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_what_pickle_says(protocol: int) -> None:
    value = {"a": [1, -(2**70), 2.5, True, None, ("x", "ü\n", (1, 2, 3, 4)), [], {}, ()], "b": {"c": ["d"] * 2}}
    assert read_pickle(io.BytesIO(pickle.dumps(value, protocol)), {}, Unread) == value


def test_views_and_shared_storages_come_back(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    stored: dict[str, Tensor] = {"t": base.t(), "row": base[2, 1:5:2], "whole": base, "none": torch.zeros(0, 3)}
    for zipped in (True, False):
        torch.save(stored, tmp_path / "net.pth", _use_new_zipfile_serialization=zipped)
        loaded = load_state(tmp_path / "net.pth")
        assert all(torch.equal(loaded[key], value) for key, value in stored.items())
        assert loaded["t"].untyped_storage().data_ptr() == loaded["whole"].untyped_storage().data_ptr()


def test_repeated_numbers_come_back(tmp_path: Path) -> None:
    stored = {"a": torch.ones(1).expand(5), "b": torch.arange(3.0)[:, None].expand(3, 4)}
    torch.save(stored, tmp_path / "net.pth")
    loaded = load_state(tmp_path / "net.pth")
    assert all(torch.equal(loaded[key], value) for key, value in stored.items())


def test_an_archive_that_was_packed_again_comes_back(tmp_path: Path) -> None:
    stored = {"x": torch.randn(2000), "y": torch.zeros(1000)}
    (tmp_path / "net.pth").write_bytes(rewritten(saved(stored), lambda _, old: old, zipfile.ZIP_DEFLATED))
    loaded = load_state(tmp_path / "net.pth")
    assert all(torch.equal(loaded[key], value) for key, value in stored.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint16])
def test_numbers_that_are_to_be_negated_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.save({"x": torch._neg_view(torch.ones(2, dtype=dtype))}, tmp_path / "net.pth")
    refused(tmp_path / "net.pth", "x is a lazily negated or conjugated tensor", "save the weights dense")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.uint16, torch.int16, torch.bool, torch.complex128])
def test_every_type_comes_back(tmp_path: Path, dtype: torch.dtype) -> None:
    value = torch.tensor([0, 1, 2]).to(dtype)
    torch.save({"x": value}, tmp_path / "net.pth")
    assert torch.equal(load_state(tmp_path / "net.pth")["x"].view(torch.uint8), value.view(torch.uint8))


def test_a_file_without_check_sums(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"x": torch.arange(5.0)}, tmp_path / "net.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert load_state(tmp_path / "net.pth")["x"].tolist() == [0, 1, 2, 3, 4]


def test_the_rest_of_a_training_checkpoint_is_no_obstacle(tmp_path: Path) -> None:
    network = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(2)).sum().backward()
    optimizer.step()
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.note = "attributes come with a class"  # type: ignore[attr-defined]
    stored = {"state_dict": network.state_dict() | {"own": parameter}, "optimizer": optimizer.state_dict()}
    stored |= {"device": torch.device("cuda:0"), "rng": torch.get_rng_state(), "dtype": torch.float16, "raw": b"bytes"}
    stored |= {"size": torch.Size([1, 2]), "seen": {1, 2}, "sparse": torch.eye(2).to_sparse()}
    torch.save(stored, tmp_path / "net.ckpt")
    loaded = load_state(tmp_path / "net.ckpt")
    assert all(torch.equal(loaded[key], value) for key, value in stored["state_dict"].items())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_objects_beside_the_weights_are_left_out(tmp_path: Path, protocol: int) -> None:
    weights = {"x": torch.arange(3.0)}
    beside = [
        *(bytearray(b"raw"), frozenset({1}), range(3), slice(1, 2), {1}, 1j, defaultdict(list, a=[1])),
        *(np.float32(1), np.bool_(True), np.arange(3.0), np.array(["a", None], dtype=object), np.random.get_state()),
        *(argparse.Namespace(lr=1), Path("runs"), torch.torch_version.TorchVersion(torch.__version__), int, str),
    ]
    torch.save({"state_dict": weights, "beside": beside}, tmp_path / "net.pth", pickle_protocol=protocol)
    assert load_state(tmp_path / "net.pth").keys() == {"x"}
    torch.save(defaultdict(list, weights), tmp_path / "net.pth", pickle_protocol=protocol)
    assert load_state(tmp_path / "net.pth")["x"].tolist() == [0, 1, 2]


def test_arrays_are_no_tensors(tmp_path: Path) -> None:
    torch.save(np.zeros(3), tmp_path / "net.pth")
    refused(tmp_path / "net.pth", "holds a NumPy array instead of a state_dict")
    torch.save({"weight": np.zeros(3)}, tmp_path / "net.pth")
    refused(tmp_path / "net.pth", "holds no tensors (it has 'weight')")
