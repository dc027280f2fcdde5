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
    "Rivals",
    "check_references",
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


@dataclass(frozen=True, eq=False)
class Rivals:
    """The classes that the score of a class is compared with, all with the same weight.

    Attributes:
        alpha: How much of the mean of their scores is taken away from that of the class.
        number: How many there are, those whose scores are nearest to that of the class.
        references: Which they are, in the place of a number: indices of shape ``(1, rivals)``, or
            ``(targets, rivals)``. A class among its own rivals does not count.
    """

    alpha: float
    number: int = 0
    references: np.ndarray | None = None


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
        rivals: If the scores of classes were compared with others, the weight of each class in the
            mean of those, shape ``(targets, docs, classes)``.
    """

    layer: Any
    reached: bool
    activations: np.ndarray | None
    gradients: np.ndarray | None
    targets: np.ndarray
    scores: np.ndarray
    rivals: np.ndarray | None = None


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
    return _check_indices(targets, classes, "target")


def check_references(references: np.ndarray, classes: int) -> np.ndarray:
    """The classes to compare with, if they are there.

    Args:
        references: Class indices, of any shape.
        classes: How many classes the model has.

    Raises:
        ValueError: If there is no such class.
    """
    return _check_indices(references, classes, "reference")


def _check_indices(indices: np.ndarray, classes: int, what: str) -> np.ndarray:
    outside = indices[(indices < 0) | (indices >= classes)]
    if outside.size:
        check_target(outside[0], classes, what)
    return indices


def check_target(target: int, classes: int, what: str = "target") -> None:
    """Raise ValueError unless a model of so many classes has this one."""
    if not 0 <= target < classes:
        raise ValueError(
            f"{what} {target} is out of range: the model puts out {classes} "
            f"{'class' if classes == 1 else 'classes'}, so that a {what} lies in [0, {classes})"
        )
