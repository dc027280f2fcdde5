"""The classes that a user asks for, checked and made targets."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np

from kerasight.checks import integer
from kerasight.keras.targets import Classes, Target
from kerasight.targets import SCORES, Output, Readout, readout_from

__all__ = [
    "class_index",
    "class_target",
    "classes_of",
    "readout_of",
    "target_index",
    "target_of",
    "top_classes",
]


def readout_of(target: Any, output: Any, targets: Any = None, top_targets: Any = None) -> Readout:
    """What scores to read from a model's outputs.

    Args:
        target: As in `explain_prediction_keras`; None for the scores of classes.
        output: Which output; None for the first, or what ``target`` says.
        targets: As in `target_of`.
        top_targets: As in `target_of`.

    Raises:
        TypeError: If one of them is of a type that it cannot be.
        ValueError: If ``target`` says what to explain, and others say so, too.
    """
    readout = SCORES if target is None else readout_from(target)
    if output is not None:
        readout = Output(output, readout)
    if readout.index is not None and not (targets is None and top_targets is None):
        raise ValueError(
            f"pass either targets or top_targets, or a target that says what to explain: {readout}"
        )
    return readout


def target_of(targets: Any, top_targets: Any, readout: Readout = SCORES) -> Target:
    """What to explain of one doc.

    Args:
        targets: The class, as a list of one index; None for the top class.
        top_targets: How many of the classes with the greatest scores, or if negative with the
            lowest; None for ``targets``.
        readout: What the scores are; it may say itself which of them.

    Raises:
        TypeError: If one of them is of a type that it cannot be.
        ValueError: If one of them has a value that it cannot have, or both are given.
    """
    if readout.index is not None:
        return class_target(readout.index)
    if top_targets is not None:
        return top_classes(targets, top_targets)
    index = target_index(targets)
    return Classes.top(1) if index is None else class_target(index)


def class_target(index: int) -> Classes:
    """One class, by its index, of any number of docs."""
    return Classes(np.array([[index]]))


def top_classes(targets: Any, top_targets: Any) -> Classes:
    """The classes with the greatest scores, or the lowest; ``targets`` must be None."""
    if targets is not None:
        raise ValueError("pass either targets or top_targets, not both")
    number = integer("top_targets", top_targets)
    if number == 0:
        raise ValueError("top_targets must be at least 1, or negative for the lowest scores, got 0")
    # More than any model has: to ask for more is to ask for all.
    return Classes.top(max(-_MOST_CLASSES, min(number, _MOST_CLASSES)))


_MOST_CLASSES = 2**20


def target_index(targets: Any) -> int | None:
    """The one class in ``targets``, or None where the top class is to be taken.

    Raises:
        TypeError: If ``targets`` is neither a list nor None, or its item no integer.
        ValueError: If it does not hold exactly one item.
    """
    if targets is None:
        return None
    if not isinstance(targets, list):
        raise TypeError(
            "targets must be a list of one class index, such as [243], or None for the top class, "
            f"got {type(targets).__name__}"
        )
    if len(targets) != 1:
        raise ValueError(
            f"targets must hold exactly one class index, got {len(targets)}; for several "
            "classes pass top_targets, or targets to explain_predictions"
        )
    return class_index(targets[0])


def classes_of(targets: Any) -> Classes:
    """The classes to explain of one doc, given a list of their indices.

    Raises:
        TypeError: If it is no list of integers.
        ValueError: If it is empty, or one of them is negative.
    """
    if not isinstance(targets, (list, tuple, np.ndarray)):
        raise TypeError(
            f"the targets of a doc must be a list of class indices, got {type(targets).__name__}"
        )
    if len(targets) == 0:
        raise ValueError("targets must hold at least one class index, got none")
    return Classes(np.array([[class_index(target) for target in targets]]))


def class_index(target: Any) -> int:
    """A class index as a Python integer.

    Raises:
        TypeError: If it is no integer.
        ValueError: If it is negative: classes are not counted from the end.
    """
    if not isinstance(target, Integral) or isinstance(target, bool):
        hint = "; of a name, pass names.index(name)" if isinstance(target, str) else ""
        raise TypeError(
            f"a target must be an integer class index, got {type(target).__name__}{hint}"
        )
    if target < 0:
        raise ValueError(f"target {target} is out of range: classes are counted from 0 upwards")
    return int(target)
