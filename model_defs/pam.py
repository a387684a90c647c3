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
from binmat.progress import Progress, silent

from .network import Network, NetworkSpec, Prediction
from .network_option import NetworkOption
from .pam_body import CONSTRAINTS, PathNetwork, path_costs
from .pam_learning import gumbel_gates, gumbel_noise
from .pam_paths import (
    GIGA,
    SELECTIONS,
    WHOLE,
    check_path,
    dearest_within,
    limit_in_macs,
    open_bits,
    within,
)
from .resizing import pad_to_multiple
from .trimap import portrait_trimap, read_trimap

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


@dataclass(frozen=True)
class _Choice:
    """A path, or None where each image's is to be estimated within the limit; costs and limit in multiply-accumulates.

    note: what the user should know about it.
    """

    costs: Mapping[str, int]
    limit: int
    path: str | None = None
    note: str = ""


class PAM(PathNetwork):
    """The network with all its paths, or one path of it as a static network.

    ``PAM()`` has every layer. Its mode ``matting`` is the whole network, path 1111; the other modes are the five
    parts that all paths share and the two branches of each of the four stages, so that a path can be chosen on the way.
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
        """The matte of :meth:`infer`: alpha [N, 1, H, W] in [0, 1]. Only a cost limit makes it count costs."""
        if cost_limit is not None:
            return self.infer(image, trimap, cost_limit, path).alpha
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
        choice = self._choose(cost_limit, path, image.shape[2], image.shape[3])
        if choice.note:
            warnings.warn(choice.note, stacklevel=2)
        return self._take(choice, image, trimap)

    def frame_inputs(self, image: Tensor) -> dict[str, Tensor]:
        return {"image": image, "trimap": portrait_trimap(image.shape[2], image.shape[3]).one_hot()[None].to(image)}

    def predict(
        self,
        image: Tensor,
        memory: None = None,
        *,
        trimap: Tensor | None = None,
        downsample_ratio: float = 1.0,
        progress: Progress = silent,
        cost_limit: float | None = None,
        path: str | None = None,
    ) -> Prediction:
        """Alpha of an image [1, 3, H, W] in [0, 1] of any size, with the trimap's known pixels.

        Image and trimap are padded to multiples of 32 by repeating their borders; costs are those of the padded size.
        trimap: see :func:`binmat.model_defs.trimap.read_trimap`. cost_limit, path: see :meth:`infer`; the path that
        was taken and its G multiply-accumulates are the prediction's details. Raises InputError where the trimap is
        missing or does not fit and for what :meth:`infer` refuses, SizeError for a downsample ratio, which it has not.
        """
        self.refuse_ratio(downsample_ratio)
        height, width = image.shape[2:]
        known = read_trimap(trimap, height, width)
        padded = pad_to_multiple(image, self.size_multiple)
        choice = self._choose(cost_limit, path, padded.shape[2], padded.shape[3])
        notes = (*known.remarks, *([choice.note] if choice.note else []))
        if known.all_known:
            return Prediction(known.alpha().to(image)[None, None], notes=notes)
        one_hot = pad_to_multiple(known.one_hot()[None].to(image), self.size_multiple)
        taken = self._take(choice, padded, one_hot)
        alpha = known.settle(taken.alpha[0, 0, :height, :width])[None, None]
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
        costs = path_costs(height, width)
        if self.fixed is not None:
            self._check_fits(cost_limit, costs[self.fixed], f"{height}x{width}")
            return self.fixed
        return dearest_within(costs, limit_in_macs(cost_limit, costs, f"{height}x{width}"))

    def gated(self, image: Tensor, trimap: Tensor, gates: Tensor) -> Tensor:
        """Alpha [N, 1, H, W] with both branches of every stage computed and weighed by ``gates`` [N, 4, 2].

        gates: index 0 for the connect layer, 1 for the layers; one-hot gates give exactly that path's alpha.
        """
        self._require_all_paths()
        return self.walk(image, trimap, self.run, lambda stage, x, _: self._blend(stage, x, gates[:, stage]))

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
        self._require_all_paths()
        if not all(int(value) in CONSTRAINTS for value in constraint):
            known = f"{CONSTRAINTS[0]} to {CONSTRAINTS[-1]}"
            raise InputError(f"pam's constraints are the whole numbers {known}, in G: got {constraint.tolist()}")
        feature = self.constraint_embedding(constraint - CONSTRAINTS[0])
        logits: list[Tensor] = []
        gates: list[Tensor] = []

        def pass_stage(stage: int, x: Tensor, semantics: Tensor) -> Tensor:
            logits.append(self._logits(stage, semantics, feature))
            noise = gumbel_noise(x.shape[0], 2, generator=generator, device=x.device, dtype=x.dtype)
            gates.append(gumbel_gates(logits[-1], noise, temperature))
            return self._blend(stage, x, gates[-1])

        alpha = self.walk(image, trimap, self.run, pass_stage)
        return PathSample(alpha, torch.stack(logits, 1), torch.stack(gates, 1))

    def _blend(self, stage: int, x: Tensor, gate: Tensor) -> Tensor:
        bypass, layers = gate[:, :, None, None, None].unbind(1)
        return bypass * self.run_branch(stage, "0", x) + layers * self.run_branch(stage, "1", x)

    def _logits(self, stage: int, semantics: Tensor, feature: Tensor) -> Tensor:
        logits: Tensor = self.stage(stage).estimator(semantics, feature)
        return logits

    def _given_path(self, path: str | None) -> str:
        if path is None:
            return self.fixed or WHOLE
        self._check_has(path)
        return path

    def _follow(self, image: Tensor, trimap: Tensor, path: str) -> Tensor:
        """Alpha along one path."""
        self._check_inputs(image, trimap)
        if self.fixed is not None:
            alpha: Tensor = self.run("matting", image, trimap)
            return alpha
        return self.walk(image, trimap, self.run, lambda stage, x, _: self.run_branch(stage, path[stage], x))

    def _estimate(self, image: Tensor, trimap: Tensor, limit: int, costs: Mapping[str, int]) -> PathMatte:
        """Each image along the path that its path selection layers prefer among those that cost at most ``limit``."""
        at_reference = limit * REFERENCE_SIZE[0] * REFERENCE_SIZE[1] // (image.shape[2] * image.shape[3]) // GIGA
        constraint = min(max(at_reference, CONSTRAINTS[0]), CONSTRAINTS[-1])
        feature = self.constraint_embedding(torch.tensor([constraint - CONSTRAINTS[0]], device=image.device))
        path = ""

        def pass_stage(stage: int, x: Tensor, semantics: Tensor) -> Tensor:
            nonlocal path
            logits = self._logits(stage, semantics, feature)[0].tolist()
            path += max(open_bits(costs, path, limit), key=lambda bit: logits[int(bit)])
            return self.run_branch(stage, path[stage], x)

        alphas, paths = [], []
        for one_image, one_trimap in zip(image.split(1), trimap.split(1), strict=True):
            path = ""
            alphas.append(self.walk(one_image, one_trimap, self.run, pass_stage))
            paths.append(path)
        return PathMatte(torch.cat(alphas), tuple(paths), tuple(costs[path] for path in paths))

    def _choose(self, cost_limit: float | None, path: str | None, height: int, width: int) -> _Choice:
        """What a cost limit or a path asks for at this size. Raises the errors of :meth:`infer`."""
        _check_not_both(cost_limit, path)
        given = self._given_path(path)
        costs = path_costs(height, width)
        if cost_limit is None:
            return _Choice(costs, costs[given], given)
        size = f"{height}x{width}"
        if self.fixed is not None:
            self._check_fits(cost_limit, costs[self.fixed], size)
            return _Choice(costs, costs[self.fixed], self.fixed)
        limit = limit_in_macs(cost_limit, costs, size)
        if limit < costs[WHOLE]:
            return _Choice(costs, limit)
        note = ""
        if cost_limit * GIGA > limit + 0.5:
            note = (
                f"the cost limit {cost_limit:g} G is above pam's dearest path, {WHOLE}, at {size}: "
                f"that path runs and costs {limit / GIGA:.3f} G"
            )
        return _Choice(costs, limit, WHOLE, note)

    def _take(self, choice: _Choice, image: Tensor, trimap: Tensor) -> PathMatte:
        if choice.path is None:
            return self._estimate(image, trimap, choice.limit, choice.costs)
        alpha = self._follow(image, trimap, choice.path)
        count = image.shape[0]
        return PathMatte(alpha, (choice.path,) * count, (choice.costs[choice.path],) * count)

    def _check_fits(self, cost_limit: float, macs: int, where: str) -> None:
        if not within(macs, cost_limit):
            raise InputError(
                f"pam's path {self.fixed} costs {macs / GIGA:.3f} G at {where}, more than the cost limit "
                f"{cost_limit:g} G: take a cheaper path, or the network with all paths"
            )

    def _check_inputs(self, image: Tensor, trimap: Tensor) -> None:
        if image.shape[1] != 3 or trimap.shape[1] != 3:
            raise InputError(
                "pam takes an RGB image and a one-hot trimap (background, unknown, foreground), got "
                f"{image.shape[1]} and {trimap.shape[1]} channels: give 3 channels each"
            )
        if image.shape[2:] != trimap.shape[2:]:
            raise SizeError(f"the image is {_size(image)} and the trimap {_size(trimap)}: give both in one size")
        self.check_size(image.shape[2], image.shape[3])

    def _check_has(self, path: str) -> None:
        if self.fixed not in (None, check_path(path)):
            raise InputError(
                f"this network is pam's path {self.fixed} alone: path {path} needs the network with all paths"
            )

    def _require_all_paths(self) -> None:
        if self.fixed is not None:
            raise InputError(f"this network is pam's path {self.fixed} alone: gates need the network with all paths")


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


def _size(x: Tensor) -> str:
    return f"{x.shape[2]}x{x.shape[3]}"


SPECS = (
    NetworkSpec(
        name="pam",
        task="image matting with a trimap, under a cost limit",
        inputs="image [N, 3, H, W] in [0, 1], trimap one-hot [N, 3, H, W], height and width multiples of 32",
        paper="Liu et al., Path-Adaptive Matting for Efficient Inference under Various Computational Cost Constraints, "
        "AAAI 2025",
        build=PAM,
        recognise=recognise,
        config={"path": None},
        layouts=("binmat's own (no public checkpoint): all paths, or one path as a static network",),
    ),
)
