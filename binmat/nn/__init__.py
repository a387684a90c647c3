"""Layers built on the quantizers: binary convolution and linear layer, RPReLU."""

from __future__ import annotations

from binmat.nn.binary_conv import BinaryConv2d as BinaryConv2d
from binmat.nn.binary_layer import BinaryLayer as BinaryLayer
from binmat.nn.binary_layer import clip_latent_weights as clip_latent_weights
from binmat.nn.binary_layer import set_progress as set_progress
from binmat.nn.binary_linear import BinaryLinear as BinaryLinear
from binmat.nn.rprelu import RPReLU as RPReLU
