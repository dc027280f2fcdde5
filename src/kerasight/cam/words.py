"""`Words`: what a text has at each step, and a heatmap as weights of its words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kerasight.base import DocWeightedSpans, FeatureWeight, FeatureWeights, WeightedSpans
from kerasight.cam.maps import resized

if TYPE_CHECKING:
    from jaxtyping import Real

__all__ = ["Words", "weighted"]


@dataclass(frozen=True)
class Words:
    """A text, and what a model that takes it step by step has at each step.

    Attributes:
        document: The text.
        steps: For each step ``(word, start, end)``: what its word is called, and where it stands in
            ``document``; None for padding.
    """

    document: str
    steps: tuple[tuple[str, int, int] | None, ...]


def weighted(
    words: Words, heatmap: Real[np.ndarray, " cells"]
) -> tuple[WeightedSpans, FeatureWeights]:
    """A heatmap over the steps of a text, told by its words.

    Args:
        words: The text and its words.
        heatmap: A heatmap ``(cells,)`` of any layer. One of fewer or more cells than the text has
            steps, as after strides and pooling, is brought to one value a step linearly.

    Returns:
        Where each word stands with its weight, in the order of the text; and the words with their
        weights, those of equal words summed. Padding is in neither, a sum of 0 not in the latter.

    Raises:
        ValueError: If ``heatmap`` is not of shape ``(cells,)``.
    """
    heatmap = np.asarray(heatmap)
    if heatmap.ndim != 1 or not heatmap.size:
        raise ValueError(
            f"the heatmap of a text must have shape (cells,), one value a step, got {heatmap.shape}"
        )
    weights = resized(heatmap, (len(words.steps),)).tolist()
    found = [(*step, weight) for step, weight in zip(words.steps, weights, strict=True) if step]
    sums: dict[str, FeatureWeight] = {}
    for word, _, _, weight in found:
        one = sums.setdefault(word, FeatureWeight(word, 0.0, value=0))
        one.weight += weight
        one.value = (one.value or 0) + 1
    ranked = sorted(sums.values(), key=lambda one: -one.weight)
    spans = [(word, [(start, end)], weight) for word, start, end, weight in found]
    return (
        WeightedSpans([DocWeightedSpans(words.document, spans)]),
        FeatureWeights(
            pos=[one for one in ranked if one.weight > 0],
            neg=[one for one in reversed(ranked) if one.weight < 0],
        ),
    )
