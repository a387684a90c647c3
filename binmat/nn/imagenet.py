"""ImageNet's statistics, by which encoders that were trained on it expect RGB in [0, 1] to be normalised."""

from __future__ import annotations

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
