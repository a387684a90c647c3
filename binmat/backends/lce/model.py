"""A lowered graph as a Larq Compute Engine model: the file, and the values of its nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from binmat.backends.backend import Group
from binmat.backends.lce.intermediate_values import TensorGroup, run_in_segments
from binmat.backends.lce.interpreter import run_segment
from binmat.backends.lce.tflite.builder import ModelBuilder
from binmat.backends.lce.tflite.schema import Array
from binmat.backends.lce.values import StoredValue, to_stored

#: Bytes of requested values that one segment computes.
SEGMENT_BYTES = 64 * 2**20


@dataclass(frozen=True)
class LceModel:
    """A written model; see :class:`binmat.backends.backend.Model`.

    inputs: the tensors of its inputs. builder: its operators and tensors, from which parts of it can be built.
    """

    content: bytes
    form: str
    stored: Mapping[str, StoredValue]
    inputs: Sequence[int]
    builder: ModelBuilder = field(repr=False)

    def values(
        self, groups: Sequence[Group], inputs: Sequence[Tensor], kernel: str, segment_bytes: int = SEGMENT_BYTES
    ) -> Iterator[tuple[list[Group], Mapping[str, Tensor]]]:
        """See :class:`binmat.backends.backend.Model`. LCE returns outputs only, so the model runs in segments.

        segment_bytes: how many bytes of values one segment may compute; more mean fewer and larger segments.
        """
        by_tensors: dict[TensorGroup, list[Group]] = {}
        for group in groups:
            tensors = tuple(dict.fromkeys(self.stored[node].tensor for node in group))
            by_tensors.setdefault(tensors, []).append(group)
        given = {t: to_stored(value) for t, value in zip(self.inputs, inputs, strict=True)}

        def run(content: bytes, arrays: Sequence[Array]) -> Sequence[Array]:
            return run_segment(content, arrays, kernel)

        for found, arrays in run_in_segments(self.builder, list(by_tensors), given, run, segment_bytes):
            ready = [group for tensors in found for group in by_tensors[tensors]]
            stored = {node: self.stored[node] for group in ready for node in group}
            values = {node: where.read(arrays[where.tensor]) for node, where in stored.items()}
            del arrays  # The next segment needs the memory.
            yield ready, values
            del values
