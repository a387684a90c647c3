"""PAM, path-adaptive matting (Liu et al., AAAI 2025): one network with 16 paths, chosen under a cost limit.

No code or checkpoint is public: the paper is the only source. What it leaves open is decided here and listed in
docs/networks/pam.md.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from binmat.errors import InputError, SizeError, TraceError
from binmat.progress import Progress

from .network import Network, NetworkSpec, Prediction
from .network_option import NetworkOption
from .pam_body import CONSTRAINTS, PathNetwork, path_costs
from .pam_learning import gumbel_gates, gumbel_noise
from .pam_paths import GIGA, SELECTIONS, WHOLE, check_path, dearest_within, limit_in_macs, open_bits, within
from .resizing import pad_to_multiple
from .trimap import Trimap, one_hot, portrait_trimap

#: The size of the paper's costs; a limit for another size is brought to it by the area.
REFERENCE_SIZE = (1024, 1024)


@dataclass(frozen=True)
class PathMatte:
    """A matte and how it was made.

    alpha: [N, 1, H, W] in [0, 1]; paths: the path of each image; macs: that path's cost, for each image, in
    multiply-accumulates at this size (see :func:`binmat.model_defs.pam_body.path_costs`).
    """

    alpha: Tensor
    paths: tuple[str, ...]
    macs: tuple[int, ...]


class PathSample(NamedTuple):
    """A training forward: alpha [N, 1, H, W], logits Q^e [N, 4, 2], sampled one-hot gates V [N, 4, 2]."""

    alpha: Tensor
    logits: Tensor
    gates: Tensor


class PAM(PathNetwork):
    """The network with all its paths, or one path of it as a static network.

    ``PAM()`` has every layer. Its mode ``matting`` is the whole network, path 1111; the other modes are the five
    parts that all paths share and, of each of the four stages, the estimate and the two branches, so that a path can be
    chosen on the way.
    ``PAM(path="1011")``, or ``net.path("1011")`` with the weights of ``net``, has only that path's layers, under the
    same keys, and ``matting`` as its only mode: the form to convert, count and export.

    A path is a string of four bits, one per path selection layer in the order of execution: encoder at 1/8, 1/16 and
    1/32, decoder at 1/8; 1 where the stage's layers run, 0 where the learnable connect layer replaces them.
    """

    options = (
        NetworkOption("path", str, "the path to take, 1 where a stage's layers run, such as 1011", converts=True),
        NetworkOption("cost_limit", float, "a path of at most this many G multiply-accumulates", converts=True),
    )

    def forward(
        self, image: Tensor, trimap: Tensor, cost_limit: float | None = None, path: str | None = None
    ) -> Tensor:
        """The matte of :meth:`infer`: alpha [N, 1, H, W] in [0, 1]. Costs are counted only for a cost limit."""
        if cost_limit is not None:
            return self.infer(image, trimap, cost_limit, path).alpha
        self._check_inputs(image, trimap)
        return self._follow(image, trimap, self._given_path(path))

    def infer(
        self, image: Tensor, trimap: Tensor, cost_limit: float | None = None, path: str | None = None
    ) -> PathMatte:
        """Inference along a path, with the path and its cost.

        image: [N, 3, H, W] RGB in [0, 1]; trimap: [N, 3, H, W] one-hot background, unknown, foreground; H and W are
        multiples of 32. cost_limit: G multiply-accumulates per image at this size, counted as :func:`path_costs`
        does: each image takes the path that its path selection layers estimate, among those that keep the limit. A
        limit above the dearest path takes the dearest, with a warning. path: the path to take. With neither: the whole
        network (or a static network's only path). Alpha is also estimated where the trimap already knows it.

        Raises SizeError for a size that does not fit; InputError for a limit below the cheapest path, a path that
        does not exist, both arguments at once, or what a static network's path cannot satisfy.
        """
        self._check_inputs(image, trimap)
        choice, note = self._choose(cost_limit, path, image.shape[2], image.shape[3])
        if note:
            warnings.warn(note, stacklevel=2)
        return self._take(choice, image, trimap)

    def frame_inputs(self, image: Tensor) -> dict[str, Tensor]:
        regions = portrait_trimap(image.shape[2], image.shape[3]).regions
        return {"image": image, "trimap": one_hot(regions)[None].to(image)}

    def estimate(
        self,
        image: Tensor,
        trimap: Trimap,
        downsample_ratio: float,
        progress: Progress,
        *,
        cost_limit: float | None = None,
        path: str | None = None,
    ) -> Prediction:
        """Image and trimap are padded to multiples of 32 by repeating their borders.

        Costs are those of the padded size. cost_limit, path: see :meth:`infer`. The path that was taken and its cost in
        G multiply-accumulates are the prediction's details. Raises InputError for what :meth:`infer` refuses,
        SizeError for a downsample ratio.
        """
        self.refuse_ratio(downsample_ratio)
        height, width = trimap.size
        padded = pad_to_multiple(image, self.size_multiple)
        choice, note = self._choose(cost_limit, path, padded.shape[2], padded.shape[3])
        notes = (note,) if note else ()
        if trimap.all_known:
            return Prediction(trimap.alpha().to(image)[None, None], notes=notes)
        regions = pad_to_multiple(one_hot(trimap.regions)[None].to(image), self.size_multiple)
        taken = self._take(choice, padded, regions)
        alpha = trimap.settle(taken.alpha[0, 0, :height, :width])[None, None]
        return Prediction(alpha, notes=notes, details={"path": taken.paths[0], "gmacs": taken.macs[0] / GIGA})

    def path(self, path: str) -> PAM:
        """One path as a static network of its own, with a copy of this network's weights and only the layers it needs.

        Raises InputError for a path that this network does not have, TraceError for a traced or converted network.
        """
        self._check_has(path)
        if self.programs:
            raise TraceError(f"this pam is already traced or converted: take .path('{path}') first and convert that")
        with torch.device("meta"):
            static = PAM(path=path)
        weights = self.state_dict()
        static.load_state_dict({key: weights[key].clone() for key in static.state_dict()}, assign=True)
        return static.train(self.training)

    def specialised(
        self,
        size: tuple[int, int] | None = None,
        *,
        path: str | None = None,
        cost_limit: float | None = None,
        **others: Any,
    ) -> Network:
        """The static network of a path, or of the dearest path within a cost limit; without either the network itself.

        cost_limit: G multiply-accumulates at this size, by default the registry's. Raises the errors of :meth:`path`
        and :meth:`dearest_path`, InputError for both options at once, UnknownNameError for any other.
        """
        _check_not_both(cost_limit, path)
        if cost_limit is not None:
            path = self.dearest_path(cost_limit, *(size or SPECS[0].example_size))
        network = super().specialised(size, **others)
        return network if path is None else self.path(path)

    def dearest_path(self, cost_limit: float, height: int, width: int) -> str:
        """The dearest path that costs at most ``cost_limit`` G multiply-accumulates at this size, whatever the image.

        A static network's is its own. Raises SizeError for a size that does not fit, InputError for a limit below the
        cheapest path, or below a static network's.
        """
        self.check_size(height, width)
        choice, _ = self._choose(cost_limit, None, height, width)
        return choice if isinstance(choice, str) else dearest_within(path_costs(height, width), choice)

    def sample(
        self,
        image: Tensor,
        trimap: Tensor,
        constraint: Tensor,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> PathSample:
        """A training forward along paths sampled from the network's own estimates (Eq. 8), differentiable.

        constraint: integers [N] within CONSTRAINTS, G multiply-accumulates at 1024x1024, which the path selection
        layers see; the sampled path may exceed it, as in the paper. generator: makes the Gumbel noise, the default one
        without it; the order of the draws is that of the stages.
        """
        if self.fixed is not None:
            raise InputError(f"this network is pam's path {self.fixed} alone: sampling needs all paths")
        if not all(int(value) in CONSTRAINTS for value in constraint):
            known = f"{CONSTRAINTS[0]} to {CONSTRAINTS[-1]}"
            raise InputError(f"pam's constraints are the whole numbers {known}, in G: got {constraint.tolist()}")
        feature = self.constraint_embedding(constraint - CONSTRAINTS[0])
        logits: list[Tensor] = []
        gates: list[Tensor] = []

        def pass_stage(stage: int, x: Tensor, semantics: Tensor) -> Tensor:
            logits.append(self.run_estimate(stage, semantics, feature))
            noise = gumbel_noise(x.shape[0], 2, generator=generator, device=x.device, dtype=x.dtype)
            gates.append(gumbel_gates(logits[-1], noise, temperature))
            bypass, layers = gates[-1][:, :, None, None, None].unbind(1)
            return bypass * self.run_branch(stage, "0", x) + layers * self.run_branch(stage, "1", x)

        alpha = self.walk(image, trimap, self.run, pass_stage)
        return PathSample(alpha, torch.stack(logits, 1), torch.stack(gates, 1))

    def constraint_feature(self, limit: int, height: int, width: int) -> Tensor:
        """F^c [1, 32] of a limit in multiply-accumulates at this size: that of the whole G at 1024x1024 within it."""
        at_reference = limit * REFERENCE_SIZE[0] * REFERENCE_SIZE[1] // (height * width) // GIGA
        constraint = min(max(at_reference, CONSTRAINTS[0]), CONSTRAINTS[-1])
        row = torch.tensor([constraint - CONSTRAINTS[0]], device=self.constraint_embedding.weight.device)
        return self.constraint_embedding(row)

    def _given_path(self, path: str | None) -> str:
        if path is None:
            return self.fixed or WHOLE
        self._check_has(path)
        return path

    def _follow(self, image: Tensor, trimap: Tensor, path: str) -> Tensor:
        """Alpha along one path."""
        if self.fixed is not None:
            return self.run("matting", image, trimap)
        return self.walk(image, trimap, self.run, lambda stage, x, _: self.run_branch(stage, path[stage], x))

    def _follow_estimates(self, image: Tensor, trimap: Tensor, limit: int) -> tuple[Tensor, list[str]]:
        """Alpha and path of each image along what its path selection layers prefer of what costs at most ``limit``."""
        costs = path_costs(image.shape[2], image.shape[3])
        feature = self.constraint_feature(limit, image.shape[2], image.shape[3])
        path = ""

        def pass_stage(stage: int, x: Tensor, semantics: Tensor) -> Tensor:
            nonlocal path
            logits = self.run_estimate(stage, semantics, feature)[0].tolist()
            path += max(open_bits(costs, path, limit), key=lambda bit: logits[int(bit)])
            return self.run_branch(stage, path[stage], x)

        alphas, paths = [], []
        for one_image, one_trimap in zip(image.split(1), trimap.split(1), strict=True):
            path = ""
            alphas.append(self.walk(one_image, one_trimap, self.run, pass_stage))
            paths.append(path)
        return torch.cat(alphas), paths

    def _choose(self, cost_limit: float | None, path: str | None, height: int, width: int) -> tuple[str | int, str]:
        """What a cost limit or a path asks for at this size, and a note for the user, empty where there is none.

        That is a path, or the limit in multiply-accumulates within which each image's path is to be estimated. Raises
        the errors of :meth:`infer`.
        """
        _check_not_both(cost_limit, path)
        given = self._given_path(path)
        if cost_limit is None:
            return given, ""
        costs, size = path_costs(height, width), f"{height}x{width}"
        if self.fixed is not None:
            if not within(costs[given], cost_limit):
                raise InputError(
                    f"pam's path {given} costs {costs[given] / GIGA:.3f} G at {size}, more than the cost limit "
                    f"{cost_limit:g} G: take a cheaper path, or the network with all paths"
                )
            return given, ""
        limit = limit_in_macs(cost_limit, costs, size)
        if limit < costs[WHOLE]:
            return limit, ""
        if cost_limit * GIGA <= limit + 0.5:
            return WHOLE, ""
        return WHOLE, (
            f"the cost limit {cost_limit:g} G is above pam's dearest path, {WHOLE}, at {size}: "
            f"that path runs and costs {limit / GIGA:.3f} G"
        )

    def _take(self, choice: str | int, image: Tensor, trimap: Tensor) -> PathMatte:
        """The matte by what :meth:`_choose` gave for this size."""
        if isinstance(choice, str):
            alpha, paths = self._follow(image, trimap, choice), [choice] * image.shape[0]
        else:
            alpha, paths = self._follow_estimates(image, trimap, choice)
        costs = path_costs(image.shape[2], image.shape[3])
        return PathMatte(alpha, tuple(paths), tuple(costs[path] for path in paths))

    def _check_inputs(self, image: Tensor, trimap: Tensor) -> None:
        if image.shape[1] != 3 or trimap.shape[1] != 3:
            raise InputError(
                "pam takes an RGB image and a one-hot trimap (background, unknown, foreground), got "
                f"{image.shape[1]} and {trimap.shape[1]} channels: give 3 channels each"
            )
        if image.shape[2:] != trimap.shape[2:]:
            sizes = "the image is {}x{} and the trimap {}x{}".format(*image.shape[2:], *trimap.shape[2:])
            raise SizeError(f"{sizes}: give both in one size")
        self.check_size(image.shape[2], image.shape[3])

    def _check_has(self, path: str) -> None:
        if self.fixed not in (None, check_path(path)):
            raise InputError(
                f"this network is pam's path {self.fixed} alone: path {path} needs the network with all paths"
            )


def recognise(shapes: Mapping[str, Any]) -> dict[str, str | None] | None:
    """The constructor's arguments for a checkpoint's {key: shape}; None where it is another network's."""
    if not {"level2.0.0.weight", "stages.3.attention.squeeze.weight", "matte.weight"} <= shapes.keys():
        return None
    if "constraint_embedding.weight" in shapes:
        return {"path": None}
    has_layers = (f"stages.{stage}.layers.0.depthwise.weight" in shapes for stage in range(SELECTIONS))
    return {"path": "".join("1" if present else "0" for present in has_layers)}


def _check_not_both(cost_limit: float | None, path: str | None) -> None:
    if cost_limit is not None and path is not None:
        raise InputError("pam takes a cost limit or a path, not both: leave one of them out")


SPECS = (
    NetworkSpec(
        name="pam",
        task="image matting with a trimap, under a cost limit",
        inputs="image [N, 3, H, W] in [0, 1], trimap one-hot [N, 3, H, W], height and width multiples of 32",
        paper="Liu et al., Path-Adaptive Matting for Efficient Inference under Various Computational Cost Constraints, "
        "AAAI 2025",
        build=PAM,
        recognise=recognise,
        layouts=("binmat's own (no public checkpoint): all paths, or one path as a static network",),
    ),
)
