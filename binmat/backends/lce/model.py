"""A lowered graph as a Larq Compute Engine model: the file, and the values of its nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

from torch import Tensor

from binmat.backends.backend import Group
from binmat.backends.lce.intermediate_values import TensorGroup, run_in_segments
from binmat.backends.lce.interpreter import run_segment
from binmat.backends.lce.operators_alone import Step, run_alone
from binmat.backends.lce.tflite.builder import ModelBuilder
from binmat.backends.lce.tflite.schema import Array
from binmat.backends.lce.values import StoredValue, to_stored

#: Bytes of requested values that one segment computes.
SEGMENT_BYTES = 64 * 2**20


@dataclass(frozen=True)
class LceModel:
    """A written model; see :class:`binmat.backends.backend.Model`.

    inputs: the tensors of its inputs. builder: its operators and tensors, from which parts of it can be built.
    without_negative_zero: tensors that never hold -0.0, on which some operators rely.
    """

    content: bytes
    form: str
    stored: Mapping[str, StoredValue]
    inputs: Sequence[int]
    builder: ModelBuilder = field(repr=False)
    without_negative_zero: Set[int] = frozenset()

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

    def alone(
        self, groups: Sequence[Group], operand: Callable[[str], Tensor], kernel: str
    ) -> Iterator[tuple[Group, Mapping[str, Tensor]]]:
        """See :class:`binmat.backends.backend.Model`. Many steps run in one model, beside each other."""

        def step(group: Group) -> Step:
            given: dict[int, Array] = {}
            for name in group[1:]:
                where = self.stored[name]
                if where.tensor not in given:
                    array = where.store(operand(name), self.builder.tensors[where.tensor])
                    given[where.tensor] = array + 0 if where.tensor in self.without_negative_zero else array
            return Step(group, self.stored[group[0]].tensor, given)

        def run(content: bytes, arrays: Sequence[Array]) -> Sequence[Array]:
            return run_segment(content, arrays, kernel)

        for done, result in run_alone(self.builder, map(step, groups), run, SEGMENT_BYTES):
            arrays = {**done.given, done.wanted: result}
            yield done.nodes, {name: self.stored[name].read(arrays[self.stored[name].tensor]) for name in done.nodes}
