"""Where a heatmap is hottest, and which slices show most of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Shaped

__all__ = ["evenly", "hottest_in", "strongest"]


def strongest(heatmap: Shaped[np.ndarray, " ..."]) -> tuple[int, ...]:
    """Indices of the cell with the value farthest from 0, the first of equals."""
    place = np.unravel_index(int(np.abs(heatmap).argmax()), heatmap.shape)
    return tuple(int(index) for index in place)


def hottest_in(heatmap: Shaped[np.ndarray, " ..."], shape: Sequence[int]) -> tuple[int, ...]:
    """Where the middle of the strongest cell lies in what the heatmap belongs over.

    Args:
        heatmap: A heatmap, of any number of axes.
        shape: The length of each axis of what it belongs over.

    Returns:
        Indices into an array of that shape.
    """
    return tuple(
        min(length - 1, int((cell + 0.5) * length / cells))
        for cell, cells, length in zip(strongest(heatmap), heatmap.shape, shape, strict=True)
    )


def evenly(count: int, most: int, among: Iterable[int] = ()) -> list[int]:
    """Choose places in a row, as far from one another as can be, from the first to the last.

    Args:
        count: How many places there are.
        most: How many to choose at most.
        among: Places that must be among them; each takes the place of the nearest.

    Returns:
        Places from 0 to ``count - 1``, rising.
    """
    if count <= most:
        return list(range(count))
    chosen = np.rint(np.linspace(0, count - 1, most)).astype(int)
    kept: list[int] = []
    for place in dict.fromkeys(among):
        if place not in chosen and len(kept) < most:
            distances = np.abs(chosen - place)
            distances[np.isin(chosen, kept)] = count
            chosen[distances.argmin()] = place
        kept.append(place)
    return sorted(int(place) for place in chosen)
