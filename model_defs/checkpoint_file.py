"""Read the tensors of a checkpoint file, whatever wraps them, without running any code from the file."""

from __future__ import annotations

import os
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from binmat.errors import CheckpointError
from binmat.model_defs.weights_metadata import METADATA_KEY

#: Keys under which training code stores the state_dict, in the order in which they are tried.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "net")
#: Prefixes that DataParallel, torch.compile and Lightning modules put before every key.
_PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.")

_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
# The number that torch.save wrote first before it wrote zip archives, as pickle stores it.
_LEGACY_TORCH = b"l\xfc\x9cF\xf9 j\xa8P\x19"
_RUNS_CODE = {"GLOBAL", "STACK_GLOBAL", "INST", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ", "BUILD"}


def load_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU, in the types the file has.

    Reads .pth, .pth.tar, .pt, .ckpt (torch.save, either format) and .safetensors; the content decides, not the name.
    A state_dict is found below the keys ``state_dict``, ``model_state_dict``, ``model``, ``network`` and ``net``, and
    the prefixes ``module.``, ``_orig_mod.``, ``model.``, ``network.`` and ``net.`` are taken off where most names have
    them. Numbers and strings between the tensors (an epoch, say) are left out.

    Raises CheckpointError for a path that is no readable file, a file that is empty, cut short or no checkpoint, one
    that only running its code could read, and one without tensors.
    """
    path = Path(path)
    kind = _sniff(path)
    stored = _read_safetensors(path) if kind == "safetensors" else _read_torch(path)
    tensors = {key: value.detach() for key, value in _unwrap(stored, path).items() if isinstance(value, Tensor)}
    return _strip_prefixes(tensors)


def is_converted(path: str | os.PathLike[str]) -> bool:
    """Whether this is a safetensors file of a network that binmat converted.

    Raises CheckpointError for a path that is no readable file and for a file that is empty, damaged or no checkpoint.
    """
    path = Path(path)
    if _sniff(path) != "safetensors":
        return False
    with _damage_named(path), safe_open(path, framework="pt") as file:
        return METADATA_KEY in (file.metadata() or {})


def _sniff(path: Path) -> str:
    """ "torch" or "safetensors", by the first bytes."""
    try:
        if not path.exists():
            raise CheckpointError(f"no such file: {path}: check the path")
        if path.is_dir():
            raise CheckpointError(f"{path} is a folder: pass the checkpoint file in it")
        if not path.is_file():
            raise CheckpointError(f"{path} is not a regular file: pass a checkpoint file")
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}): check its permissions") from error
    if not head:
        raise CheckpointError(f"{path} is empty: copy or download it again")
    if head.startswith(_ZIP):
        _check_archive(path)
        return "torch"
    if _LEGACY_TORCH in head:
        return "torch"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000:
        return "safetensors"
    if head.startswith(_PICKLE):
        _reject_pickle(path)
    raise _not_a_checkpoint(path, "it is neither a torch.save nor a safetensors file")


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turn whatever a reader raises on a damaged file, from KeyError to NotImplementedError, into a CheckpointError."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise _damaged(path, error) from error


def _check_archive(path: Path) -> None:
    with _damage_named(path), zipfile.ZipFile(path) as archive:
        members = {name.partition("/")[2] for name in archive.namelist()}
    if "constants.pkl" in members:
        raise CheckpointError(
            f"{path} is a TorchScript program, not a checkpoint: pass the .pth file with the weights, "
            "or save torch.jit.load(...).state_dict() by torch.save"
        )
    if "data.pkl" not in members:
        raise _not_a_checkpoint(path, "it is a zip archive that torch.save did not write")


def _reject_pickle(path: Path) -> None:
    """Refuse a pickle that torch.save did not write: it can hold tensors only as code."""
    try:
        with path.open("rb") as file:
            runs_code = any(opcode.name in _RUNS_CODE for opcode, _, _ in pickletools.genops(file))
    except Exception as error:
        raise _not_a_checkpoint(path, "it is no valid pickle") from error
    if runs_code:
        raise CheckpointError(
            f"{path} is a pickle that would run code when read, so it was refused: "
            "if you trust it, read it in Python and save its state_dict by torch.save or safetensors"
        )
    raise _not_a_checkpoint(path, "it is a pickle without tensors")


def _read_torch(path: Path) -> Any:
    # An open file: given a path, torch.load trusts its ending.
    with _damage_named(path), path.open("rb") as file, warnings.catch_warnings():
        # torch warns of pickle protocols and storage classes; where they matter, an error says so.
        warnings.simplefilter("ignore", UserWarning)
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise _unpickling_error(path, error) from error


def _unpickling_error(path: Path, error: pickle.UnpicklingError) -> CheckpointError:
    forbidden = re.search(r"GLOBAL ([\w.]+)", str(error))
    if forbidden:
        return CheckpointError(
            f"{path} holds more than tensors: reading it would run code ({forbidden[1]}), so it was refused: "
            "if you trust it, read it in Python and save its state_dict by torch.save or safetensors"
        )
    if "Unsupported operand" in str(error):
        return CheckpointError(
            f"{path} is damaged, or pickled by a protocol that torch reads only by running code: "
            "download it again, or save its state_dict by torch.save with the default protocol"
        )
    reason = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
    return _damaged(path, pickle.UnpicklingError(reason[1]) if reason else error)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with _damage_named(path), safe_open(path, framework="pt") as file:
        # Copies: the tensors that safetensors hands out lie in the mapped file, which may change or go away.
        return {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118


def _unwrap(stored: Any, path: Path) -> Mapping[str, Any]:
    while isinstance(stored, Mapping):
        inner = next((stored[key] for key in _WRAPPERS if isinstance(stored.get(key), Mapping)), None)
        if inner is None:
            break
        stored = inner
    if not isinstance(stored, Mapping):
        raise CheckpointError(
            f"{path} holds a {type(stored).__name__} instead of a state_dict: save net.state_dict() by torch.save"
        )
    if not any(isinstance(value, Tensor) for value in stored.values()):
        keys = ", ".join(f"'{key}'" for key in list(stored)[:5]) or "nothing"
        raise CheckpointError(
            f"{path} holds no tensors (it has {keys}): pass a file with a state_dict, plain or under one of "
            f"the keys {', '.join(_WRAPPERS)}"
        )
    for key in stored:
        if not isinstance(key, str):
            raise CheckpointError(f"{path} has the key {key!r} where a state_dict has names: save net.state_dict()")
    return stored


def _strip_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take off prefixes that most keys have. Keys without one stay, so that errors about them can name them."""
    while True:
        prefix = next((p for p in _PREFIXES if 2 * sum(key.startswith(p) for key in state) > len(state)), None)
        if prefix is None:
            return state
        stripped = {key.removeprefix(prefix): value for key, value in state.items()}
        if len(stripped) < len(state):
            return state
        state = stripped


def _damaged(path: Path, error: Exception) -> CheckpointError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return CheckpointError(f"{path} is cut short or damaged ({reason[:120]}): copy or download it again")


def _not_a_checkpoint(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path} is not a checkpoint ({reason}): pass a .pth, .pt, .ckpt or .safetensors file")
