"""Definitions of torchvision's operators that its Python code asks for at import.

torchvision's wheel holds kernels for a CUDA build of torch, which do not load beside the CPU build. Import this module
before torchvision. The operators have no kernels: calling one fails. A CUDA build of torch loads torchvision's own.
"""

from __future__ import annotations

import torch

if torch.version.cuda is None:
    LIBRARY = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
