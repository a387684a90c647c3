"""Layers built on the quantizers: binary convolution and linear layer, RPReLU."""

from __future__ import annotations

from binmat.nn.binary_conv import BinaryConv2d
from binmat.nn.binary_layer import BinaryLayer, clip_latent_weights, set_progress
from binmat.nn.binary_linear import BinaryLinear
from binmat.nn.rprelu import RPReLU

__all__ = [
    "BinaryConv2d",
    "BinaryLayer",
    "BinaryLinear",
    "RPReLU",
    "clip_latent_weights",
    "set_progress",
]
