"""An explanation of a text, for tests of formatters."""

from __future__ import annotations

from typing import Any

import numpy as np

from kerasight.base import Explanation, TargetExplanation
from kerasight.cam.words import Words, weighted

TEXT = 'Good <b>, but "so" so bad.\n\tThe end & more'
# The last two were cut off; the step after them is padding.
WORDS = Words(
    TEXT,
    (
        ("good", 0, 4),
        ("b", 6, 7),
        ("but", 10, 13),
        ("so", 15, 17),
        ("so", 19, 21),
        ("bad", 22, 25),
        ("the", 28, 31),
        None,
    ),
)
SIGNED = np.array([1.0, 0, 0.004, -0.3, -0.5, -1, 0.05, 0])


def target_of_text(heatmap: Any = SIGNED, words: Words = WORDS, **kwargs: Any) -> TargetExplanation:
    spans, features = weighted(words, np.asarray(heatmap))
    given = {"score": 0.75, "name": "positive", "signed": True, "is_probability": True, **kwargs}
    return TargetExplanation(1, features, weighted_spans=spans, heatmap=heatmap, **given)


def text(*targets: TargetExplanation, **kwargs: Any) -> Explanation:
    shown = list(targets) or [target_of_text()]
    given = {"method": "Grad-CAM", "layer": "conv", "error": "", **kwargs}
    return Explanation("net", targets=shown, kind="text", **given)
