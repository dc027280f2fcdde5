"""Heatmaps, pictures and names that the tests share."""

from __future__ import annotations

import numpy as np
from PIL import Image

HEAT = np.array([[0.0, 0.25], [0.5, 1.0]])

EVIL = '<script>alert("it\'s")</script>\'"><img src=x onerror=alert(1)><!--'


def noise(mode: str = "RGB", size: tuple[int, int] = (5, 4)) -> Image.Image:
    """A picture of random colours."""
    values = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)
