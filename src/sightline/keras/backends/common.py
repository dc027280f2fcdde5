"""What all backends take, return and check."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Call", "Candidates", "Pass", "check_scores", "check_target"]

# (layer, shape of its output with batch axis, or None where that was no single float tensor)
Call = tuple[Any, tuple[int | None, ...] | None]
Candidates = Callable[[Sequence[Call]], Iterator[int]]


@dataclass(frozen=True)
class Pass:
    """What one forward and one backward pass gave.

    Attributes:
        layer: The layer that was recorded; None if there was none to choose.
        reached: Whether the layer ran.
        activations: Its output, shape ``(1, ...)``, in the model's layout; None if it did not run
            or put out something else than one float tensor.
        gradients: Gradients of the score with respect to it, same shape; None if the score does not
            depend on it.
        target: Index of the explained class.
        scores: The model's output for all classes, shape ``(classes,)``.
    """

    layer: Any
    reached: bool
    activations: np.ndarray | None
    gradients: np.ndarray | None
    target: int
    scores: np.ndarray


def check_scores(shape: tuple[int | None, ...]) -> int:
    """The number of classes, given the shape of a model's output for a batch of one.

    Raises:
        ValueError: If the output is not one score a class.
    """
    if len(shape) != 2 or shape[1] is None:
        raise ValueError(
            "the model's output must be class scores of shape (1, classes) to be explained, "
            f"got shape {shape}"
        )
    return shape[1]


def check_target(target: int, classes: int) -> None:
    """Raise unless ``target`` is the index of a class."""
    if not 0 <= target < classes:
        raise ValueError(
            f"target {target} is out of range: the model puts out {classes} "
            f"{'class' if classes == 1 else 'classes'}, so that a target lies in [0, {classes})"
        )
