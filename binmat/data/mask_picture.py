"""A picture of what a sparse-assisted decoder computed: frame, alpha, mask, and each masked path's active share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from binmat.errors import InputError
from binmat.model_defs.network import Network, Prediction, Window
from binmat.nn.incoherence import IncoherenceMask
from binmat.nn.masked_path import recorded_density

from .image import to_bytes

#: The colour that active pixels are tinted with.
ACTIVE = (255, 96, 0)
_GAP, _LINE, _BAR = 8, 18, 120
_BACKGROUND, _TEXT, _EMPTY = (24, 24, 28), (232, 232, 232), (70, 70, 78)


@dataclass(frozen=True)
class FrameMask:
    """What a sparse-assisted decoder computed of one frame.

    mask: [1, 1, H, W] in [0, 1], enlarged to the frame. levels: masked path -> the share of its pixels that was active,
    in order of execution; of a frame that takes several windows, their mean. Without those that did not run.
    """

    mask: Tensor
    levels: dict[str, float]


def with_masks(network: Network, predictions: Iterable[Prediction], masks: list[FrameMask]) -> Iterator[Prediction]:
    """The same predictions; the mask of each frame is appended to the list as the network computes the frame.

    Raises InputError for a network without a sparse-assisted decoder, and where turned copies of a frame were computed.
    """
    heads = [module for module in network.modules() if isinstance(module, IncoherenceMask)]
    if not heads:
        raise InputError(
            f"{network.name} has no mask to show: convert it with a sparse-assisted decoder, --set decoder=sab"
        )
    return _recorded(network, heads[0], iter(predictions), masks)


def _recorded(
    network: Network, head: IncoherenceMask, predictions: Iterator[Prediction], masks: list[FrameMask]
) -> Iterator[Prediction]:
    while True:
        seen: list[Tensor] = []
        hook = head.register_forward_hook(lambda _, args, result, seen=seen: seen.append(result))
        try:
            with recorded_density(network) as shares:
                prediction = next(predictions, None)
        finally:
            hook.remove()
        if prediction is None:
            return
        height, width = prediction.alpha.shape[2:]
        windows = (Window(0, 0, height, width),) if prediction.windows is None else prediction.windows
        if seen and not windows:
            raise InputError("masks of turned copies make no picture: leave out test-time augmentation or the mask")
        # A refinement computes the same windows several times, the last time for its result.
        last = len(seen) - len(windows)
        mask = _stitched(list(zip(windows, seen[last:], strict=True)), height, width)
        active = {path: fmean(share[last:]) for path, share in shares.items() if share}
        masks.append(FrameMask(mask, active))
        yield prediction


def _stitched(masks: Sequence[tuple[Window, Tensor]], height: int, width: int) -> Tensor:
    """Masks [1, 1, h, w] of windows as one mask of the frame, active where any of them is."""
    whole = torch.zeros(1, 1, height, width)
    for window, mask in masks:
        top, left, down, across = (round(number) for number in window)
        large = F.interpolate(mask.float().cpu(), size=(down, across), mode="bilinear", align_corners=False)
        rows, columns = slice(max(top, 0), min(top + down, height)), slice(max(left, 0), min(left + across, width))
        part = large[..., rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        whole[..., rows, columns] = torch.maximum(whole[..., rows, columns], part)
    return whole


def mask_picture(frame: Tensor, alpha: Tensor, shown: FrameMask) -> Image.Image:
    """Frame, alpha and the frame with its active pixels tinted, side by side; below, a bar for each masked path.

    frame: [1, 3, H, W]; alpha: [1, 1, H, W]; both in [0, 1].
    """
    height, width = frame.shape[2:]
    rgb = frame[0].float().cpu()
    grey = alpha[0].float().cpu().expand(3, -1, -1)
    mask = shown.mask[0]
    tint = torch.tensor(ACTIVE).view(3, 1, 1) / 255
    panels = {"frame": rgb, "alpha": grey, "mask": rgb * (1 - 0.6 * mask) + tint * 0.6 * mask}
    total = len(panels) * width + (len(panels) + 1) * _GAP
    below = _LINE * (len(shown.levels) + 1)
    picture = Image.new("RGB", (max(total, 420), height + 2 * _LINE + below + 2 * _GAP), _BACKGROUND)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default()
    for index, (title, panel) in enumerate(panels.items()):
        left = _GAP + index * (width + _GAP)
        draw.text((left, 4), title, fill=_TEXT, font=font)
        picture.paste(Image.fromarray(to_bytes(panel).numpy()), (left, _LINE))
    top = _LINE + height + _GAP
    draw.text((_GAP, top), "share of each masked path that was active", fill=_TEXT, font=font)
    for row, (name, share) in enumerate(shown.levels.items(), 1):
        y = top + row * _LINE
        draw.rectangle((_GAP, y + 2, _GAP + _BAR, y + 12), fill=_EMPTY)
        if share > 0:
            draw.rectangle((_GAP, y + 2, _GAP + max(1, round(_BAR * share)), y + 12), fill=ACTIVE)
        draw.text((2 * _GAP + _BAR, y), f"{share:6.1%}  {name}", fill=_TEXT, font=font)
    return picture
