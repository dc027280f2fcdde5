"""What all backends take, return and check."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = [
    "LOWEST",
    "TOP",
    "Call",
    "Candidates",
    "Pass",
    "check_scores",
    "check_target",
    "check_targets",
]

# In the place of a class index: the class with the greatest score, in the next column the second,
# and so on; or from the lowest score upwards.
TOP = -(2**30)
LOWEST = TOP - 1

# (layer, shape of its output with batch axis, or None where that was no single float tensor)
Call = tuple[Any, tuple[int | None, ...] | None]
Candidates = Callable[[Sequence[Call]], Iterator[int]]


@dataclass(frozen=True)
class Pass:
    """What one forward and one backward pass gave.

    Attributes:
        layer: The layer that was recorded; None if there was none to choose.
        reached: Whether the layer ran.
        activations: Its output, shape ``(docs, ...)``, in the model's layout; None if it did not
            run or put out something else than one float tensor.
        gradients: Gradients of the scores with respect to it, shape ``(targets, docs, ...)``; None
            if the scores do not depend on it.
        targets: Indices of the explained classes, shape ``(docs, targets)``.
        scores: The model's output for all classes, shape ``(docs, classes)``.
    """

    layer: Any
    reached: bool
    activations: np.ndarray | None
    gradients: np.ndarray | None
    targets: np.ndarray
    scores: np.ndarray


def check_scores(shape: tuple[int | None, ...]) -> int:
    """The number of classes, given the shape of a model's output.

    Raises:
        ValueError: If the output is not one score a class.
    """
    if len(shape) != 2 or shape[1] is None:
        raise ValueError(
            "the model's output must be class scores of shape (1, classes) to be explained, "
            f"got shape {(1, *shape[1:])}"
        )
    return shape[1]


def check_targets(targets: np.ndarray, classes: int) -> np.ndarray:
    """The targets that there are: all, or no more top classes than classes.

    Args:
        targets: Class indices, `TOP` or `LOWEST`, shape ``(docs, targets)``.
        classes: How many classes the model has.

    Raises:
        ValueError: If there is no such class.
    """
    if ((targets == TOP) | (targets == LOWEST)).all():
        return targets[:, :classes]
    outside = targets[(targets < 0) | (targets >= classes)]
    if outside.size:
        check_target(outside[0], classes)
    return targets


def check_target(target: int, classes: int) -> None:
    """Raise ValueError unless a model of so many classes has this one."""
    if not 0 <= target < classes:
        raise ValueError(
            f"target {target} is out of range: the model puts out {classes} "
            f"{'class' if classes == 1 else 'classes'}, so that a target lies in [0, {classes})"
        )
