"""A file against a fresh export: what differs, and whether the rounding of another machine explains it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from binmat.backends.lce.metadata import checksum_fits, read_metadata, written_by
from binmat.backends.lce.model import LceModel
from binmat.backends.lce.tflite.builder import ModelBuilder
from binmat.backends.lce.tflite.contents import Contents, read_contents
from binmat.backends.lce.tflite.graph import Operator, Tensor
from binmat.backends.lce.tflite.schema import Array
from binmat.errors import VerificationError

#: Relative to a constant's largest value: what another processor or another torch may round otherwise.
ROUNDING = 1e-6


def model_of_file(content: bytes, fresh: LceModel) -> LceModel:
    """The model that is in a file, where it is the fresh one up to rounding.

    Equal bytes are the fresh model itself. A file that other versions or another processor wrote may differ in the last
    bits of its constants: then the model has those of the file. Raises VerificationError in all other cases, naming
    what differs; ExportError for a damaged file.
    """
    if content == fresh.content:
        return fresh
    intact = checksum_fits(content)
    found, wanted = read_contents(content), read_contents(fresh.content)
    if not intact:
        changed = next(differences(found, wanted, 0.0), "its checksum does not fit")
        raise VerificationError(f"the file was changed after it was written: {changed}; export it again")
    writer = read_metadata(content)["written_by"]
    foreign = writer != written_by()
    difference = next(differences(found, wanted, ROUNDING if foreign else 0.0), None)
    if difference is None and not foreign:
        difference = "it has other bytes"
    if difference is not None:
        by = f" (written by {writer}, judged by {written_by()})" if foreign else ""
        raise VerificationError(f"the file is not the export of this network: {difference}{by}; export it again")
    return replace(fresh, content=content, builder=_with_constants(fresh.builder, found, wanted))


def differences(found: Contents, wanted: Contents, rounding: float) -> Iterator[str]:
    """What a file has and another one has not. rounding: how far constants may lie apart, relative to the largest."""
    for side, has, should in (("inputs", found.inputs, wanted.inputs), ("outputs", found.outputs, wanted.outputs)):
        names, expected = ([name for name, _ in ports] for ports in (has, should))
        if names != expected:
            yield f"its {side} are called {', '.join(names)}, not {', '.join(expected)}"
        elif has != should:
            yield f"its {side} are other tensors"
    yield from _other_operators(found.operators, wanted.operators)
    if len(found.tensors) != len(wanted.tensors):
        yield f"it has {len(found.tensors)} tensors, not {len(wanted.tensors)}"
    for here, there in zip(found.tensors, wanted.tensors, strict=False):
        if (here.name, here.shape, here.dtype) != (there.name, there.shape, there.dtype):
            yield f"tensor '{there.name}' {list(there.shape)} is '{here.name}' {list(here.shape)} of {here.dtype}"
        elif not _alike(here.data, there.data, rounding):
            yield _apart(here, there)


def _other_operators(found: Sequence[Operator], wanted: Sequence[Operator]) -> Iterator[str]:
    if len(found) != len(wanted):
        yield f"it has {len(found)} operators, not {len(wanted)}"
    for index, (here, there) in enumerate(zip(found, wanted, strict=False)):
        if replace(here, options={}) != replace(there, options={}):
            yield f"operator {index} is {here.kind} of tensors {here.inputs}, not {there.kind} of {there.inputs}"
        for key in sorted({*here.options, *there.options}):
            if here.options.get(key) != there.options.get(key):
                yield f"operator {index} ({there.kind}) has {key} {here.options.get(key)}, not {there.options.get(key)}"


def _alike(found: Array | None, wanted: Array | None, rounding: float) -> bool:
    if found is None or wanted is None or not rounding or found.dtype != np.float32:
        return (found is None) == (wanted is None) and (found is None or found.tobytes() == wanted.tobytes())
    finite = np.isfinite(wanted)
    if not np.array_equal(found[~finite], wanted[~finite], equal_nan=True):
        return False
    apart, largest = np.abs(found[finite] - wanted[finite]), np.abs(wanted[finite])
    return bool(apart.max(initial=0) <= rounding * largest.max(initial=0))


def _apart(found: Tensor, wanted: Tensor) -> str:
    if found.data is None or wanted.data is None:
        return f"tensor '{wanted.name}' is {'computed' if found.data is None else 'a constant'}"
    differs = (found.data != wanted.data) & ~((found.data != found.data) & (wanted.data != wanted.data))
    count = f"{max(int(differs.sum()), 1):,} of {differs.size:,} values"
    if found.dtype != np.float32:
        return f"tensor '{wanted.name}' differs in {count}"
    with np.errstate(all="ignore"):
        largest = float(np.nanmax(np.abs(found.data.astype(float) - wanted.data), initial=0))
    return f"tensor '{wanted.name}' differs in {count}, by up to {largest:.2g}"


def _with_constants(builder: ModelBuilder, found: Contents, wanted: Contents) -> ModelBuilder:
    """The builder with the constants of a file; its own are stored once each, so their content finds them."""
    place = {_content(tensor): index for index, tensor in enumerate(builder.tensors) if tensor.data is not None}
    changed = copy.copy(builder)
    changed.tensors = list(builder.tensors)
    for here, there in zip(found.tensors, wanted.tensors, strict=True):
        if there.data is not None:
            index = place[_content(there)]
            changed.tensors[index] = replace(changed.tensors[index], data=here.data)
    return changed


def _content(tensor: Tensor) -> tuple[str, tuple[int, ...], bytes]:
    assert tensor.data is not None
    return tensor.dtype.str, tensor.shape, tensor.data.tobytes()
