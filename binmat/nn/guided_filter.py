"""Guided filters: carry a matte that was predicted at a low resolution over to the full one.

Both fit, in every 3x3 window of the small frame, the foreground residual and alpha (y) as a linear function of the
frame and its grey value (x): y = A x + b. A and b are then enlarged and applied to the full frame (He and Sun,
"Fast Guided Filter", 2015; Wu et al., "Fast End-to-End Trainable Guided Filter", CVPR 2018).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binmat.nn.conv_norm import conv_norm_relu


def _with_grey(frame: Tensor) -> Tensor:
    """Append the mean of the colours: [N, 3, H, W] -> [N, 4, H, W]."""
    return torch.cat([frame, frame.mean(1, keepdim=True)], dim=1)


class GuidedFilter(nn.Module):
    """What both filters share. A subclass has a ``box_filter``, the mean over a window, and gives ``coefficients``."""

    box_filter: nn.Module

    def coefficients(self, covariance: Tensor, variance: Tensor, base_hid: Tensor) -> Tensor:
        """A [N, 4, h, w], of cov(x, y) and var(x) [N, 4, h, w]; base_hid: as for :meth:`forward`."""
        raise NotImplementedError

    def forward(
        self, fine_src: Tensor, base_src: Tensor, base_fgr: Tensor, base_pha: Tensor, base_hid: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Enlarge a matte.

        fine_src: [N, 3, H, W]; base_src and base_fgr (residual): [N, 3, h, w]; base_pha: [N, 1, h, w];
        base_hid: [N, hidden_channels, h, w]. Returns the foreground residual [N, 3, H, W] and alpha [N, 1, H, W],
        neither of them clamped.
        """
        x = _with_grey(base_src)
        y = torch.cat([base_fgr, base_pha], dim=1)
        mean_x, mean_y = self.box_filter(x), self.box_filter(y)
        covariance = self.box_filter(x * y) - mean_x * mean_y
        variance = self.box_filter(x * x) - mean_x * mean_x
        a = self.coefficients(covariance, variance, base_hid)
        b = mean_y - a * mean_x
        fine = _with_grey(fine_src)
        size = (fine.shape[2], fine.shape[3])
        a, b = (F.interpolate(v, size=size, mode="bilinear", align_corners=False) for v in (a, b))
        out = a * fine + b
        return out[:, :3], out[:, 3:]


class DeepGuidedFilter(GuidedFilter):
    """Guided filter whose coefficients A are predicted by a small 1x1 network (RVM, section 3.2).

    hidden_channels: channels of the decoder's last features, which the network sees beside the statistics.
    """

    def __init__(self, hidden_channels: int = 16) -> None:
        super().__init__()
        self.box_filter = nn.Conv2d(4, 4, kernel_size=3, padding=1, bias=False, groups=4)
        nn.init.constant_(self.box_filter.weight, 1 / 9)
        self.box_filter.weight.requires_grad_(False)
        self.conv = nn.Sequential(
            *conv_norm_relu(4 * 2 + hidden_channels, hidden_channels, kernel_size=1),
            *conv_norm_relu(hidden_channels, hidden_channels, kernel_size=1),
            nn.Conv2d(hidden_channels, 4, kernel_size=1),
        )

    def coefficients(self, covariance: Tensor, variance: Tensor, base_hid: Tensor) -> Tensor:
        return self.conv(torch.cat([covariance, variance, base_hid], dim=1))


class FastGuidedFilter(GuidedFilter):
    """Guided filter in closed form, A = cov(x, y) / (var(x) + eps): no weights, base_hid unused (He and Sun, 2015).

    radius: the window is 2 * radius + 1 wide; zeros count outside the frame, as for the deep filter.
    eps: regularises flat windows.
    """

    def __init__(self, radius: int = 1, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.box_filter = nn.AvgPool2d(2 * radius + 1, stride=1, padding=radius)

    def coefficients(self, covariance: Tensor, variance: Tensor, base_hid: Tensor) -> Tensor:
        return covariance / (variance + self.eps)
