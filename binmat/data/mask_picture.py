"""A picture of what a sparse-assisted decoder computed: frame, alpha, mask, and the share of each level."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.nn import functional as F

from binmat.errors import InputError
from binmat.model_defs.network import Network
from binmat.nn.incoherence import IncoherenceMask
from binmat.nn.masked_path import MaskedPath

from .matte import matte_frames

#: The colour that active pixels are tinted with.
ACTIVE = (255, 96, 0)
_GAP, _LINE, _BAR = 8, 18, 120
_BACKGROUND, _TEXT, _EMPTY = (24, 24, 28), (232, 232, 232), (70, 70, 78)


@dataclass(frozen=True)
class MaskedFrame:
    """One frame and what was computed of it.

    frame: [1, 3, H, W]; alpha: [1, 1, H, W]; mask: [1, 1, h, w] of 0 and 1, on the coarse grid.
    levels: masked path -> the share of its pixels that was active, in order of execution.
    """

    frame: Tensor
    alpha: Tensor
    mask: Tensor
    levels: dict[str, float]


def masked_frames(network: Network, frames: Iterable[Tensor], downsample_ratio: float = 1.0) -> Iterator[MaskedFrame]:
    """Run consecutive frames [1, 3, H, W] in [0, 1] and keep their masks.

    Raises InputError for a network without a sparse-assisted decoder, and the errors of
    :func:`binmat.data.matte.matte_frames`.
    """
    if not any(isinstance(module, IncoherenceMask) for module in network.modules()):
        raise InputError(
            f"{network.name} has no mask to show: convert it with a sparse-assisted decoder, --set decoder=sab"
        )
    kept = list(frames)
    predictions = matte_frames(network, kept, downsample_ratio=downsample_ratio)
    for frame in kept:
        masks: list[Tensor] = []
        levels: dict[str, float] = {}
        hooks = _watch(network, masks, levels)
        try:
            prediction = next(predictions)
        finally:
            for hook in hooks:
                hook.remove()
        yield MaskedFrame(frame, prediction.alpha, masks[-1], levels)


def mask_picture(shown: MaskedFrame) -> Image.Image:
    """Frame, alpha and the frame with its active pixels tinted, side by side; below, a bar for each masked path."""
    height, width = shown.frame.shape[2:]
    rgb = shown.frame[0].float().cpu()
    alpha = shown.alpha[0].float().cpu().expand(3, -1, -1)
    mask = F.interpolate(shown.mask.float().cpu(), size=(height, width), mode="bilinear", align_corners=False)[0]
    tint = torch.tensor(ACTIVE).view(3, 1, 1) / 255
    panels = {"frame": rgb, "alpha": alpha, "mask": rgb * (1 - 0.6 * mask) + tint * 0.6 * mask}
    total = len(panels) * width + (len(panels) + 1) * _GAP
    below = _LINE * (len(shown.levels) + 1)
    picture = Image.new("RGB", (max(total, 420), height + 2 * _LINE + below + 2 * _GAP), _BACKGROUND)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default()
    for index, (title, panel) in enumerate(panels.items()):
        left = _GAP + index * (width + _GAP)
        draw.text((left, 4), title, fill=_TEXT, font=font)
        pixels = (panel.clamp(0, 1) * 255 + 0.5).to(torch.uint8).permute(1, 2, 0).numpy()
        picture.paste(Image.fromarray(pixels), (left, _LINE))
    top = _LINE + height + _GAP
    draw.text((_GAP, top), "share of each masked path that was active", fill=_TEXT, font=font)
    for row, (name, share) in enumerate(shown.levels.items(), 1):
        y = top + row * _LINE
        draw.rectangle((_GAP, y + 2, _GAP + _BAR, y + 12), fill=_EMPTY)
        if share > 0:
            draw.rectangle((_GAP, y + 2, _GAP + max(1, round(_BAR * share)), y + 12), fill=ACTIVE)
        draw.text((2 * _GAP + _BAR, y), f"{share:6.1%}  {name}", fill=_TEXT, font=font)
    return picture


def _watch(
    network: nn.Module, masks: list[Tensor], levels: dict[str, float]
) -> list[torch.utils.hooks.RemovableHandle]:
    hooks = []
    for name, module in network.named_modules():
        if isinstance(module, IncoherenceMask):
            hooks.append(module.register_forward_hook(lambda _, args, result: masks.append(result)))
        elif isinstance(module, MaskedPath):

            def note(_: nn.Module, args: tuple[Tensor, ...], name: str = name) -> None:
                levels[name] = int(args[1].count_nonzero()) / args[1].numel()

            hooks.append(module.register_forward_pre_hook(note))
    return hooks
