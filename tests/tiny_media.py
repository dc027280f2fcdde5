"""Explanations of signals, volumes and videos that the tests of formatters share."""

from __future__ import annotations

from typing import Any

import numpy as np

from kerasight.base import Explanation, TargetExplanation

SHAPES = {"signal": (12, 2), "volume": (6, 8, 10, 1), "video": (10, 6, 8, 3)}
CELLS = {"signal": (4,), "volume": (3, 4, 5), "video": (5, 3, 4)}
# Of each kind the cell that is hottest, and where its middle lies in the doc.
HOT = {"signal": (2,), "volume": (2, 1, 3), "video": (3, 2, 0)}
MIDDLE = {"signal": (7,), "volume": (5, 3, 7), "video": (7, 5, 1)}


def heat(kind: str, value: float = 1.0) -> np.ndarray:
    """A heatmap that is cold but for a single cell."""
    heatmap = np.zeros(CELLS[kind])
    heatmap[HOT[kind]] = value
    return heatmap


def media(kind: str, *heatmaps: Any, **kwargs: Any) -> Explanation:
    """An explanation of a kind, with a target for each heatmap."""
    doc = np.random.default_rng(0).normal(size=SHAPES[kind])
    targets = [
        TargetExplanation(number, score=0.75, heatmap=heatmap, name="house")
        for number, heatmap in enumerate(heatmaps or [heat(kind)])
    ]
    fields = {"method": "Grad-CAM", "kind": kind, "doc": doc, "targets": targets, **kwargs}
    return Explanation("net", **fields)
