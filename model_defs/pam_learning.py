"""What trains PAM's path selection: Gumbel sampling, the path loss and the distillation loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def gumbel_noise(
    *shape: int,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Samples of the standard Gumbel distribution, -log(E) with E exponential of rate 1; G of Eq. 8.

    generator: of the same device; the default generator without it.
    """
    return -torch.empty(shape, device=device, dtype=dtype).exponential_(generator=generator).log()


def gumbel_gates(logits: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
    """One-hot gates sampled from unnormalised log-probabilities, differentiable (Eq. 8 and the Gumbel-max trick).

    logits, noise: [..., 2], index 0 to bypass and 1 to run. With V = softmax((logits + noise) / temperature) the
    value is the one-hot argmax of V and the gradient is that of V (straight-through). Returns [..., 2] of 0 and 1.
    """
    soft = torch.softmax((logits + noise) / temperature, -1)
    hard = F.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft.dtype)
    # The difference is exactly zero, so the gates are exactly 0 and 1; (hard + soft) - soft would not be.
    return hard + (soft - soft.detach())


def path_loss(logits: Tensor, paths: Sequence[str]) -> Tensor:
    """L_pt (Eq. 12): cross entropy of the estimates with the optimal paths, summed over the path selection layers.

    logits: [N, N^a, 2], Q^e of every image; paths: N optimal paths R^o of N^a bits. Mean over images, a scalar in nats.
    """
    target = torch.tensor([[int(bit) for bit in path] for path in paths], device=logits.device)
    return F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="sum") / len(paths)


def distillation_loss(alpha: Tensor, teacher: Tensor, unknown: Tensor, epsilon: float = 1e-6) -> Tensor:
    """L_ds (Eq. 11): mean of sqrt((alpha - teacher)^2 + epsilon^2) over the unknown pixels.

    alpha, teacher: [N, 1, H, W], the path's matte and the trained whole network's; unknown: [N, 1, H, W], 1 where the
    trimap is unknown and 0 elsewhere. A scalar; 0 where no pixel is unknown. No gradient reaches the teacher.
    """
    distance = torch.sqrt((alpha - teacher.detach()) ** 2 + epsilon**2)
    return (distance * unknown).sum() / unknown.sum().clamp(min=1)
