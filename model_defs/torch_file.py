"""Read what torch.save wrote, in either format, as data: nothing in the file is imported or called."""

from __future__ import annotations

import io
import math
import mmap
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from binmat.model_defs.inert_pickle import Unread, as_key, read_pickle

#: How a zip archive begins.
ZIP = b"PK\x03\x04"
#: What the five pickles of the older format are: magic number, version, system, content, keys of the storages.
_LEGACY_PICKLES = 5
_CONTENT = 3
#: Numbers that a tensor may repeat by strides of 0: what copies it takes bounded memory.
_MOST_REPEATED = 2**24
#: How many times as large as the file its compressed parts may be together: deflate alone would allow a thousand.
_MOST_INFLATED = 16


@dataclass(frozen=True)
class _Storage:
    """A block of numbers in the file. dtype: None where only its tensors know. count: of numbers, then of bytes."""

    dtype: torch.dtype | None
    key: str
    count: int

    @property
    def bytes(self) -> int:
        return self.count * (self.dtype.itemsize if self.dtype else 1)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that lies in the file. kind: of one that cannot be read, in words; empty for a plain one."""

    storage: Any = None
    offset: Any = 0
    size: Any = ()
    stride: Any = ()
    dtype: Any = None
    kind: str = ""

    def fault(self) -> str:
        """What is wrong with it, for a message that begins with its name; empty where nothing is."""
        if self.kind:
            return f"is a {self.kind} tensor"
        size, stride = self.size, self.stride
        tuples = isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride)
        if not tuples or not isinstance(self.storage, _Storage):
            return "is no tensor"
        numbers = (self.offset, *size, *stride)
        if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
            return "has a size, strides or an offset that no tensor has"
        dtype = self.dtype or self.storage.dtype
        if not isinstance(dtype, torch.dtype):
            return "has no type"
        count = self.storage.bytes // dtype.itemsize
        last = self.offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        most = max(count, _MOST_REPEATED) if 0 in stride else count
        if math.prod(size) > most or (all(size) and last >= count):
            return f"claims the shape {list(size)}"[:100] + f", and its storage holds {count} numbers"
        return ""


@dataclass(frozen=True)
class TorchFile:
    """content: what was saved, its tensors as :class:`StoredTensor`."""

    content: Any
    _read_storage: Callable[[_Storage], bytearray]
    _storages: dict[_Storage, bytearray]

    def read(self, tensor: StoredTensor) -> Tensor:
        """A tensor without fault. Raises ValueError for a bad storage.

        Tensors that share a storage share memory, and so do the repeated numbers of one with strides of 0.
        """
        storage, dtype = tensor.storage, tensor.dtype or tensor.storage.dtype
        if not math.prod(tensor.size):
            return torch.empty(tensor.size, dtype=dtype)
        if storage not in self._storages:
            self._storages[storage] = self._read_storage(storage)
        numbers = torch.frombuffer(self._storages[storage], dtype=dtype)
        return numbers.as_strided(tensor.size, tensor.stride, tensor.offset)


@contextmanager
def open_torch_file(path: Path) -> Iterator[TorchFile]:
    """Open a file for as long as its tensors are read.

    Raises OSError, zipfile.BadZipFile, and what :func:`binmat.model_defs.inert_pickle.read_pickle` raises.
    """
    with path.open("rb") as file:
        if file.read(len(ZIP)) == ZIP:
            with zipfile.ZipFile(file) as archive:
                yield _open_archive(archive, path.stat().st_size)
        else:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                yield _open_legacy(content)


def _open_archive(archive: zipfile.ZipFile, size: int) -> TorchFile:
    pickled = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
    root = pickled.removesuffix("data.pkl")
    inflated = any(info.compress_type == zipfile.ZIP_DEFLATED for info in archive.infolist())
    left = size * (_MOST_INFLATED if inflated else 1)
    if not any(info.CRC for info in archive.infolist()):
        for info in archive.infolist():
            del info.CRC  # Written by torch.serialization.set_crc32_options(False); zipfile then compares none.

    def member(name: str) -> bytearray:
        nonlocal left
        info = archive.getinfo(root + name)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{name} is compressed by another method than deflate")
        left -= info.file_size
        if left < 0:
            raise ValueError("its parts claim to be too large for the file")
        with archive.open(info) as part:
            return bytearray(part.read(info.file_size))  # Without a size it reads all that the part inflates to.

    def read_storage(storage: _Storage) -> bytearray:
        content = member(f"data/{storage.key}")
        if len(content) != storage.bytes:
            raise ValueError(f"storage {storage.key} has {len(content)} bytes instead of {storage.bytes}")
        return content

    if root + "byteorder" in archive.NameToInfo and bytes(member("byteorder")) != b"little":
        raise ValueError("it was written on a big-endian machine, and is not read on others")
    content = read_pickle(io.BytesIO(member("data.pkl")), _NAMES, _stored)
    return TorchFile(content, read_storage, {})


def _open_legacy(file: mmap.mmap) -> TorchFile:
    known: dict[str, _Storage] = {}

    def stored(pickled: Any) -> Any:
        storage = _stored(pickled)
        if isinstance(storage, _Storage):
            known[storage.key] = storage
        return storage

    stream: IO[bytes] = file  # type: ignore[assignment]
    pickles = [read_pickle(stream, _NAMES, stored) for _ in range(_LEGACY_PICKLES)]
    places, position = {}, file.tell()
    for key in pickles[-1]:
        places[key] = position + 8  # Behind the count of its numbers.
        position = places[key] + known[key].bytes
        if position > len(file):
            raise ValueError(f"storage {key} lies beyond its end")

    def read_storage(storage: _Storage) -> bytearray:
        start = places[storage.key]
        if int.from_bytes(file[start - 8 : start], "little") != storage.count:
            raise ValueError(f"storage {storage.key} has another size than its tensors say")
        return bytearray(file[start : start + storage.bytes])

    return TorchFile(pickles[_CONTENT], read_storage, {})


def _stored(pickled: Any) -> Any:
    """What stands for ("storage", type, key, device, count, ...)."""
    if not isinstance(pickled, tuple) or len(pickled) < 5 or pickled[0] not in ("storage", b"storage"):
        raise ValueError("it refers to something that is no storage")
    kind, key, count = pickled[1], pickled[2], pickled[4]
    if not isinstance(kind, _StorageType) or not isinstance(key, str) or type(count) is not int or count < 0:
        raise ValueError("it describes a storage wrongly")
    if len(pickled) > 5 and pickled[5] is not None:
        raise ValueError("it stores views as Torch 0.3 and older did")
    return _Storage(kind.dtype, key, count)


@dataclass(frozen=True)
class _StorageType:
    dtype: torch.dtype | None


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any = None, hooks: Any = None, metadata: Any = None
) -> StoredTensor:
    """metadata: {"conj": True}, {"neg": True} or both where the numbers in the file are not those of the tensor."""
    return StoredTensor(storage, offset, size, stride, kind="lazily negated or conjugated" if metadata else "")


def _tensor_v3(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, metadata: Any = None
) -> StoredTensor:
    return replace(_tensor(storage, offset, size, stride, grad, hooks, metadata), dtype=dtype)


def _sparse_tensor(layout: Any, *_: Any) -> StoredTensor:
    return StoredTensor(kind=layout.kind if isinstance(layout, Unread) else "sparse")


def _subclass(function: Any, kind: Any, arguments: Any, *_: Any) -> Any:
    if kind is _PLAIN or kind is _parameter:
        return function(*arguments)
    return StoredTensor(kind=kind.kind if isinstance(kind, Unread) else "Tensor subclass")


def _parameter(data: Any = None, *_: Any) -> Any:
    return data


def _dictionary(pairs: Any = (), *_: Any) -> dict[Any, Any]:
    return pairs if isinstance(pairs, dict) else {as_key(key): value for key, value in pairs}


def _unread(kind: str) -> Callable[..., Unread]:
    return lambda *_: Unread(kind)


def _unusable(kind: str) -> Callable[..., StoredTensor]:
    return lambda *_: StoredTensor(kind=kind)


_PLAIN = Unread("Tensor")
_TYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexDouble": torch.complex128,
    "ComplexFloat": torch.complex64,
    "QInt8": torch.qint8,
    "QInt32": torch.qint32,
    "QUInt8": torch.quint8,
}
_NAMES: dict[str, Any] = {
    **{f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)},
    **{
        f"torch.{place}{name}Storage": _StorageType(dtype)
        for place in ("", "cuda.")
        for name, dtype in _TYPES.items()
    },
    **{f"torch.{place}{name}Tensor": _PLAIN for place in ("", "cuda.") for name in _TYPES},
    "torch.storage.UntypedStorage": _StorageType(None),
    "torch.Tensor": _PLAIN,
    "torch.nn.parameter.Parameter": _parameter,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch._utils._rebuild_sparse_tensor": _sparse_tensor,
    "torch._utils._rebuild_qtensor": _unusable("quantized"),
    "torch._utils._rebuild_meta_tensor_no_storage": _unusable("meta"),
    "torch._utils._rebuild_nested_tensor": _unusable("nested"),
    "torch.nested._internal.nested_tensor._rebuild_njt": _unusable("nested"),
    "torch.nested._internal.nested_tensor.NestedTensor": Unread("nested"),
    "torch._dynamo.decorators._DimRange": _unread("range"),
    "torch._utils._rebuild_wrapper_subclass": _unusable("Tensor subclass"),
    "torch._utils._rebuild_device_tensor_from_numpy": _unusable("device"),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _parameter,
    "torch.serialization._get_layout": lambda name: Unread(str(name).removeprefix("torch.")[:20]),
    "collections.OrderedDict": _dictionary,
    "collections.Counter": _dictionary,
    **{f"torch.per_{name}": Unread(name) for name in ("tensor_affine", "tensor_symmetric", "channel_affine")},
    **{f"torch.{name}": _unread(name) for name in ("Size", "device")},
    **{f"builtins.{name}": _unread(name) for name in ("set", "frozenset", "complex", "bytearray", "range", "slice")},
    **{f"builtins.{name}": _unread(name) for name in ("bool", "int", "float", "str", "list", "dict", "tuple")},
    **{f"builtins.{name}": _unread(name) for name in ("long", "unicode", "xrange")},  # Of Python 2, by protocol 2.
    "_codecs.encode": _unread("bytes"),
    "collections.defaultdict": lambda *_: {},
    "argparse.Namespace": _unread("Namespace"),
    **{f"pathlib{module}.{kind}Path": _unread("path") for module in ("", "._local") for kind in ("Posix", "Windows")},
    "torch.torch_version.TorchVersion": _unread("TorchVersion"),
    "numpy.dtype": _unread("dtype"),
    "numpy.ndarray": _unread("NumPy array"),
    **{f"numpy.{core}.multiarray._reconstruct": _unread("NumPy array") for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _unread("NumPy number") for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _unread("NumPy array") for core in ("core", "_core")},
}
