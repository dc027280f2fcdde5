"""What all backends take, return and check."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from kerasight.keras.sites import Site

__all__ = [
    "LOWEST",
    "TOP",
    "Call",
    "Chooser",
    "Pass",
    "Rivals",
    "Run",
    "check_references",
    "check_scores",
    "check_target",
    "check_targets",
]

# In the place of a class index: the class with the greatest score, in the next column the second,
# and so on; or from the lowest score upwards.
TOP = -(2**30)
LOWEST = TOP - 1


@dataclass(frozen=True, eq=False)
class Call:
    """What a layer put out at one of its calls, or what went into it and no layer had put out.

    Attributes:
        layer: The layer.
        number: Which of the layer's calls in the run it was, from 0.
        shape: Its shape with batch axis; empty if it was no single float tensor.
        at_input: Whether it is what went in.
        sources: Positions in the run of what it was made of; None in the place of what was not
            seen.
    """

    layer: Any
    number: int
    shape: tuple[int, ...]
    at_input: bool = False
    sources: tuple[int | None, ...] = ()

    @property
    def has_rank_of_pictures(self) -> bool:
        """Whether it has the rank of a batch of pictures."""
        return len(self.shape) == 4

    @property
    def has_tokens(self) -> bool:
        """Whether it has the rank of a batch of sequences, of more than one item."""
        return len(self.shape) == 3 and self.shape[1] != 1

    def is_of(self, site: Site) -> bool:
        """Whether it is what is seen at a site."""
        return (
            self.layer is site.layer
            and self.at_input == site.at_input
            and site.call in (None, self.number)
        )


class Run(Protocol):
    """An eager run of a model, that can be asked about."""

    @property
    def calls(self) -> Sequence[Call]:
        """What was seen, in the order in which it came to be."""

    def gradient_of_token(self, position: int, tokens: int, number: int) -> np.ndarray | None:
        """The gradient of one token, its channels weighed, by what was seen at a position.

        Args:
            position: The position of what to differentiate by.
            tokens: The position of a batch of sequences.
            number: Which item of the sequences.

        Returns:
            Array of the shape of what was seen; None if there is no path.
        """


class Chooser(Protocol):
    """Who says where to look."""

    @property
    def wanted(self) -> Site | None:
        """The site that is wished for; None to have one chosen."""

    def positions(self, calls: Sequence[Call], docs: int) -> Iterator[int]:
        """The positions of those to explain in a run of some docs, the best first."""

    def site(self, run: Run, position: int) -> Site:
        """The site at a position of a run; raises ValueError if it is not to be taken."""


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
        site: Where the model was looked at; None if there was nowhere.
        activations: What was seen there, shape ``(docs, ...)``, in the model's layout; None if it
            was no single float tensor.
        gradients: Gradients of the scores with respect to it, shape ``(targets, docs, ...)``; None
            if the scores do not depend on it.
        targets: Indices of the explained classes, shape ``(docs, targets)``.
        scores: The model's output for all classes, shape ``(docs, classes)``.
        rivals: If the scores of classes were compared with others, the weight of each class in the
            mean of those, shape ``(targets, docs, classes)``.
        calls: The calls of the run; none if it was compiled.
    """

    site: Site | None
    activations: np.ndarray | None
    gradients: np.ndarray | None
    targets: np.ndarray
    scores: np.ndarray
    rivals: np.ndarray | None = None
    calls: Sequence[Call] = ()


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
