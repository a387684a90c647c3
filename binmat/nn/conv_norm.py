"""Convolution, batch norm and ReLU in a row, as most networks have them."""

from __future__ import annotations

from torch import nn


def conv_norm(
    in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, dilation: int = 1, groups: int = 1
) -> list[nn.Module]:
    """A convolution without bias that keeps the size (up to its stride), and its batch norm."""
    padding = kernel_size // 2 * dilation
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias=False)
    return [conv, nn.BatchNorm2d(out_channels)]


def conv_norm_relu(
    in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    """:func:`conv_norm` and ReLU."""
    return nn.Sequential(*conv_norm(in_channels, out_channels, kernel_size, stride, dilation, groups), nn.ReLU())
