"""What a network costs, float and converted, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from itertools import tee
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from binmat.data.image import resize
from binmat.errors import InputError
from binmat.json_text import json_text
from binmat.model_defs import registry
from binmat.model_defs.example_inputs import example_inputs, ratio_of
from binmat.model_defs.network import Example, Network
from binmat.quantizers.activations import THRESHOLDS
from binmat.quantizers.scheme import REPLACEMENTS
from binmat.transforms.convert import convert, recipe_of
from binmat.transforms.nonnegative_inputs import nonnegative_inputs

from . import report_text
from .blocks import Blocks
from .call_recorder import Call, record_calls, traced
from .convention import Convention
from .conventions import CONVENTIONS, CROSS_CHECKS, get_conventions
from .count import is_binary, price
from .layers import list_layers
from .report_content import ReportContent, Side
from .save import save_as
from .sparse import PAPER_DENSITY, ClipDensity, Sparse, measure_density, resized_frames, resized_trimaps
from .storage import as_bytes, saved_bytes, stored_bits


class Report(ReportContent):
    """The numbers of :class:`binmat.reports.report_content.ReportContent` and their texts; made by :func:`report`."""

    def table(self, layers: bool = False) -> str:
        """The report for the terminal: summary, blocks, what else there is, and the layers if asked for."""
        return report_text.terminal(self, layers=layers)

    def to_markdown(self) -> str:
        """Everything, layers included, as Markdown."""
        return report_text.markdown(self)

    def __str__(self) -> str:
        return self.table()

    def save(self, path: str | Path) -> None:
        """Write the report whole or not at all, in the form of the path's suffix: .json or .md.

        Raises UnknownNameError for another suffix, InputError where the file cannot be written.
        """
        save_as(path, {".json": lambda: json_text(self.to_json()) + "\n", ".md": self.to_markdown})


def report(
    *networks: nn.Module,
    size: tuple[int, int] | None = None,
    downsample_ratio: float | None = None,
    example: Example | None = None,
    verification: Mapping[str, Mapping[str, Any]] | None = None,
    files: Iterable[str | Path] | None = None,
    density: float = PAPER_DENSITY,
    clip: Iterable[Tensor] | None = None,
    trimaps: Iterable[Tensor] | None = None,
    background: Tensor | None = None,
    one_sided: Iterable[str] = (),
    notes: Iterable[str] = (),
    conventions: Iterable[str | Convention] = tuple(CONVENTIONS),
) -> Report:
    """Count a float network, a converted one, or both, for one frame.

    >>> network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 1, 1))
    >>> found = report(network, convert(network, "bnn"), size=(6, 6))
    >>> round(found.ratio("textbook"), 1)
    9.0

    networks: a float one, a converted one, or both, in any order. The float counterpart of a converted network of the
    registry is built where it is not passed. For other networks the report then has no ratios.
    size: (height, width), by default the one that it was converted for, else the registry's example size.
    downsample_ratio: likewise, else 1. example: the example inputs themselves, for modules that do not say theirs.
    verification, files: what verifying found and what was written, to be part of the report.
    density: the share of active pixels that a sparse-assisted decoder is credited with. clip: frames [1, 3, H, W] to
    measure that share on as well; they are resized to the size that is counted. Both count for such a decoder alone.
    trimaps, background: of the clip, for networks that need them; see :func:`binmat.data.inference.matte_frames`.
    one_sided: binary layers that saw one sign only (:func:`binmat.transforms.one_sided_layers.one_sided_layers`), to be
    warned of beside those whose input cannot change its sign. notes: more of them for the report.
    conventions: the columns: names, or objects of :class:`binmat.reports.Convention`.

    Raises SizeError, TraceError, UnknownNameError for a convention, and InputError for networks that do not belong
    together, conventions of one name, or files that are not there.
    """
    columns = get_conventions(conventions)
    plain, converted = _sort_out(networks, size, example)
    notes = list(notes)
    if plain is None and converted is not None:
        plain = _counterpart(converted)
        if plain is None:
            notes.append(
                "The float network is not known, so there is nothing to compare with: pass both, report(net, bnet)."
            )
    subject = converted if converted is not None else plain
    assert subject is not None
    downsample_ratio = ratio_of(subject, downsample_ratio)
    call = example_inputs(subject, size, downsample_ratio, example)
    notes += subject.notes_on(call)
    calls = record_calls(subject, call)
    after = None
    if converted is not None:
        after = _side(converted, calls, as_bytes(sum(stored_bits(converted).values())), columns)
    before, cross_checks = None, {}
    if plain is not None:
        plain_calls = calls if plain is subject else record_calls(plain, call)
        before = _side(plain, plain_calls, saved_bytes(plain), columns)
        for name, convention in CROSS_CHECKS.items():
            if name in columns:
                continue
            found = price(plain_calls, convention, binary_network=False)
            cross_checks[name] = found.total.flops
            notes += report_text.not_counted(name, found.not_counted)
    if plain is not None and converted is not None and after is not None and "bimatting" in columns:
        notes += _over_threshold(plain, converted, call, after)
    blind = dict.fromkeys(one_sided, "its input stayed on one side of its threshold on all frames: its signs are equal")
    if converted is not None:
        unsigned = nonnegative_inputs(converted, call.mode)
        blind |= dict.fromkeys(unsigned, "its input is never negative: all its signs are +1")
    recipe = recipe_of(subject)
    height, width = call.size

    def measure() -> ClipDensity | None:
        if clip is None:
            return None
        originals, frames = tee(clip)
        return measure_density(
            subject,
            resized_frames(frames, background, height, width),
            downsample_ratio,
            trimaps=None if trimaps is None else resized_trimaps(trimaps, originals, height, width),
            background=None if background is None else resize(background, height, width),
        )

    written = {Path(file): _content_of(Path(file)) for file in files or ()}
    return Report(
        network=subject.name,
        recipe=recipe.name if recipe else None,
        mode=call.mode,
        height=height,
        width=width,
        downsample_ratio=downsample_ratio,
        before=before,
        after=after,
        blocks=Blocks(subject),
        layers=list_layers(subject, calls, downsample_ratio, blind),
        notes=tuple(notes),
        warnings=report_text.blind_layers(blind, subject),
        files={path.name: len(content) for path, content in written.items()},
        sha256={path.name: sha256(content).hexdigest() for path, content in written.items()},
        verification=verification or {},
        cross_checks=cross_checks,
        sparse=_sparse(after or before, density, measure),
    )


def _sparse(
    side: Side | None, density: float, measure: Callable[[], ClipDensity | None]
) -> Sparse | None:
    if side is None or not any(count.masked for count in side.counts.values()):
        return None
    if not 0 <= density <= 1:
        raise InputError(f"density {density} is not a share of pixels: pass a number from 0 to 1")
    return Sparse(density, measure(), side.counts)


def _sort_out(
    networks: tuple[nn.Module, ...], size: tuple[int, int] | None, example: Example | None
) -> tuple[Network | None, Network | None]:
    """The float network and the converted one, traced."""
    converted = [network for network in networks if recipe_of(network) is not None or is_binary(network)]
    plain = [network for network in networks if not any(network is other for other in converted)]
    if not networks or len(plain) > 1 or len(converted) > 1:
        raise InputError(
            f"a report takes one float network, one converted network or one of each, not {len(plain)} float and "
            f"{len(converted)} converted: make a report of each and pass them to binmat.reports.compare"
        )
    after = traced(converted[0], size, example) if converted else None
    if after is not None and size is None and example is None:
        # The float network is called as the converted one was.
        size = after.conversion.size if after.conversion else None
        example = None if after.takes_an_image else after.traced_example
    before = traced(plain[0], size, example) if plain else None
    if before is not None and after is not None and before.name != after.name:
        raise InputError(f"{after.name} was not made from {before.name}: pass the float network it was made from")
    return before, after


def _counterpart(converted: Network) -> Network | None:
    """The float network of the same architecture. Its weights are fresh, because counting does not read them."""
    if converted.name not in registry.NETWORKS:
        return None
    return registry.build(converted.name, **converted.config)


def _side(network: Network, calls: list[Call], size: float, conventions: Mapping[str, Convention]) -> Side:
    binary = is_binary(network)
    counts = {name: price(calls, convention, binary_network=binary) for name, convention in conventions.items()}
    return Side(counts, stored_bits(network), size)


def _over_threshold(plain: Network, converted: Network, call: Example, after: Side) -> list[str]:
    """What thresholds per channel and RPReLU cost beyond scheme ``threshold``, where the recipe's scheme has them."""
    recipe = recipe_of(converted)
    if recipe is None or not converted.name.startswith("rvm_") or (recipe.encoder, recipe.decoder) != ("keep", "keep"):
        return []  # The paper's row is RVM with its own encoder and decoder.
    scheme = recipe.build_scheme()
    rprelu, threshold = REPLACEMENTS[scheme.replacement].output_shift, THRESHOLDS[scheme.activation.threshold]
    if not rprelu and not threshold.per_channel:
        return []
    baseline = convert(plain, recipe=recipe.model_copy(update={"scheme": "threshold", "options": {}}))
    size = as_bytes(sum(stored_bits(baseline).values()))
    other = _side(baseline, record_calls(baseline, call), size, get_conventions(["bimatting"]))
    return [report_text.over_threshold(scheme.name, after, other)]


def _content_of(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be part of the report: {error.strerror or error}") from error
