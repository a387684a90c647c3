"""Read the tensors of a checkpoint file, whatever wraps them, without running any code from the file."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from binmat.errors import LONGEST_NAME, CheckpointError, first_line
from binmat.model_defs.inert_pickle import ForbiddenNameError, Unread, read_pickle
from binmat.model_defs.torch_file import ZIP, StoredTensor, open_torch_file
from binmat.model_defs.weights_metadata import METADATA_KEY

#: Keys under which training code stores the state_dict, in the order in which they are tried.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "net")
#: Prefixes that DataParallel, torch.compile and Lightning modules put before every key.
_PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.")

_PICKLE = b"\x80"
# The number that torch.save wrote first before it wrote zip archives, as pickle stores it.
_LEGACY_TORCH = b"l\xfc\x9cF\xf9 j\xa8P\x19"
_TRUSTED = "if you trust it, read it in Python and save its state_dict by torch.save or safetensors"


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
    return _strip_prefixes(read_safetensors(path) if _sniff(path) == "safetensors" else _read_torch(path))


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
    if head.startswith(ZIP):
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
            read_pickle(file, {}, Unread)
    except ForbiddenNameError as error:
        raise CheckpointError(
            f"{path} is a pickle that would run code when read ({shown(error)}), so it was refused: {_TRUSTED}"
        ) from error
    except Exception as error:
        raise _not_a_checkpoint(path, "it is no valid pickle") from error
    raise _not_a_checkpoint(path, "it is a pickle without tensors")


def _read_torch(path: Path) -> dict[str, Tensor]:
    with _damage_named(path):
        try:
            with open_torch_file(path) as file:
                tensors: dict[str, Tensor] = {}
                for key, value in _unwrap(file.content, path).items():
                    if isinstance(value, StoredTensor):
                        if fault := value.fault():
                            raise CheckpointError(
                                f"{path}: {shown(key)} {fault}: save the weights dense and real, for example as float32"
                            )
                        tensors[key] = file.read(value)
        except ForbiddenNameError as error:
            raise CheckpointError(
                f"{path} holds more than tensors: reading it would run code ({shown(error)}), so it was refused: "
                f"{_TRUSTED}"
            ) from error
    return tensors


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name. Raises CheckpointError."""
    with _damage_named(path), safe_open(path, framework="pt") as file:
        # Copies: the tensors that safetensors hands out lie in the mapped file, which may change or go away.
        tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors: pass a file with the weights of a network")
    return tensors


def _unwrap(stored: Any, path: Path) -> Mapping[str, Any]:
    seen: set[int] = set()
    while isinstance(stored, Mapping):
        seen.add(id(stored))
        found = next((key for key in _WRAPPERS if isinstance(stored.get(key), Mapping)), None)
        if found is None:
            break
        stored = stored[found]
        if id(stored) in seen:
            raise CheckpointError(f"{path} contains itself under the key '{found}': save net.state_dict() alone")
    if not isinstance(stored, Mapping):
        kind = "Tensor" if isinstance(stored, StoredTensor) else type(stored).__name__
        kind = stored.kind if isinstance(stored, Unread) else kind
        raise CheckpointError(f"{path} holds a {kind} instead of a state_dict: save net.state_dict() by torch.save")
    if not any(isinstance(value, StoredTensor) for value in stored.values()):
        keys = ", ".join(f"'{shown(key)}'" for key in list(stored)[:5]) or "nothing"
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


def shown(name: object) -> str:
    """A name from a file as a message shows it: cut where it is long."""
    return str(name)[:LONGEST_NAME]


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} is cut short or damaged ({shown(first_line(error))}): copy or download it again")


def _not_a_checkpoint(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path} is not a checkpoint ({reason}): pass a .pth, .pt, .ckpt or .safetensors file")
