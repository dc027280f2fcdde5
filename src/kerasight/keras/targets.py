"""What is explained: functions of a model's outputs, in ``keras.ops``.

A target gives each doc one or several numbers to explain (`Target.score`), and their derivatives by
the outputs (`Target.seed`). The same lines run on numbers and in a compiled pass. A new kind of
target is one class here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from keras import ops

from kerasight.checks import plural

if TYPE_CHECKING:
    from jaxtyping import Integer

__all__ = ["Classes", "Contrast", "Negative", "Target", "check_classes"]


def _leaf(*axes: str, **options: Any) -> Any:
    """A field that holds an array, whose values a compiled pass takes anew at each run."""
    return field(metadata={"axes": axes}, **options)


class Target(ABC):
    """What is explained of each doc, one or several at a time.

    All its methods take scores ``(docs, classes)``. Once `settled`, a target means the same classes
    whatever the scores: those of a noisy copy of the doc, or of one without some channel.
    """

    @property
    def number(self) -> int:
        """How many there are of each doc."""
        return int(self.classes().shape[1])

    @abstractmethod
    def settled(self, scores: Any) -> Target:
        """The target with indices of classes where it had ranks among the scores."""

    @abstractmethod
    def seed(self, scores: Any) -> Any:
        """The derivative of `score` by the scores, shape ``(targets, docs, classes)``."""

    @abstractmethod
    def classes(self) -> Any:
        """Indices of the explained classes, or their ranks before it is settled.

        Shape ``(docs, targets)``, where one row may stand for all docs before it is settled.
        """

    def score(self, scores: Any) -> Any:
        """The numbers that are explained, shape ``(docs, targets)``.

        All targets so far are linear in the scores, so that their derivatives suffice.
        """
        scores = ops.convert_to_tensor(scores)
        return ops.transpose(ops.sum(self.seed(scores) * scores, axis=-1))

    def rivals(self) -> Integer[np.ndarray, "docs targets rivals"] | None:
        """What the classes are compared with, ``(docs, targets, rivals)``; None if with nothing."""
        return None

    def check(self, classes: int) -> Target:
        """The target for a model of so many classes; of more ranks than that, those that it has.

        Raises:
            ValueError: If it names a class that there is not.
        """
        return self

    # The arrays in it, which differ from run to run, apart from all else.

    def named(self) -> Target:
        """The target by the indices of its classes, as a user may give it, once it is settled."""
        parts = {item.name: value for item, value in self._items() if isinstance(value, Target)}
        return replace(self, **{name: part.named() for name, part in parts.items()})  # type: ignore[type-var]

    def leaves(self) -> list[Any]:
        """The arrays in it."""
        return [leaf for leaf, _ in self._leaves_and_axes()]

    def kind(self) -> tuple[Any, ...]:
        """All but its arrays."""
        return (
            type(self),
            *(
                value.kind() if isinstance(value, Target) else value
                for item, value in self._items()
                if "axes" not in item.metadata
            ),
        )

    def shapes(self) -> list[tuple[int | None, ...]]:
        """The shapes of its arrays, None where another run may have another size."""
        return [
            tuple(
                1 if axis == "targets" and size == 1 else None
                for axis, size in zip(axes, leaf.shape, strict=True)
            )
            for leaf, axes in self._leaves_and_axes()
        ]

    def with_leaves(self, leaves: Iterable[Any]) -> Target:
        """The target with other arrays."""
        return self._with(iter(leaves))

    def of_docs(self, docs: slice | Integer[np.ndarray, " rows"]) -> Target:
        """The target of some of the docs."""
        return self.with_leaves(
            leaf[docs] if axes[:1] == ("docs",) and len(leaf) > 1 else leaf
            for leaf, axes in self._leaves_and_axes()
        )

    def _with(self, leaves: Iterator[Any]) -> Target:
        changed: dict[str, Any] = {}
        for item, value in self._items():
            if isinstance(value, Target):
                changed[item.name] = value._with(leaves)
            elif value is not None and "axes" in item.metadata:
                changed[item.name] = next(leaves)
        return replace(self, **changed)  # type: ignore[type-var]

    def _leaves_and_axes(self) -> Iterator[tuple[Any, tuple[str, ...]]]:
        for item, value in self._items():
            if isinstance(value, Target):
                yield from value._leaves_and_axes()
            elif value is not None and "axes" in item.metadata:
                yield value, item.metadata["axes"]

    def _items(self) -> Iterator[tuple[Any, Any]]:
        for item in fields(self):  # type: ignore[arg-type]
            yield item, getattr(self, item.name)


@dataclass(frozen=True, eq=False)
class Classes(Target):
    """Classes by their indices, or by the order of their scores.

    Attributes:
        indices: Integers, shape ``(docs, targets)``, where one row stands for any number of docs.
        are_ranks: Whether they count the classes in the order of their scores: 0 is the greatest
            score, 1 the second; -1 the lowest, -2 the second lowest. An array of shape ``()``.
    """

    indices: Any = _leaf("docs", "targets")
    are_ranks: Any = _leaf(default_factory=lambda: np.array(False))

    @staticmethod
    def top(number: int) -> Classes:
        """The classes with the greatest scores; with the lowest if negative."""
        ranks = np.arange(abs(number))
        return Classes((ranks if number > 0 else -1 - ranks)[np.newaxis], np.array(True))

    def settled(self, scores: Any) -> Target:
        order = ops.argsort(-scores, axis=-1)
        indices = _row_for_each(self.indices, scores)
        ranks = ops.where(indices < 0, indices + scores.shape[1], indices)
        places = ops.one_hot(ranks, scores.shape[1], dtype="int32")
        by_rank = ops.sum(places * ops.cast(order, "int32")[:, None], axis=-1)
        return _Settled(ops.where(ops.cast(self.are_ranks, "bool"), by_rank, indices))

    def seed(self, scores: Any) -> Any:
        return self.settled(scores).seed(scores)

    def classes(self) -> Any:
        return self.indices

    def check(self, classes: int) -> Classes:
        if self.are_ranks:
            return replace(self, indices=self.indices[:, :classes])
        check_classes(self.indices, classes, "target")
        return self


@dataclass(frozen=True, eq=False)
class _Settled(Target):
    """Classes of each doc.

    Attributes:
        indices: Integers, shape ``(docs, targets)``.
    """

    indices: Any = _leaf("docs", "targets")

    def settled(self, scores: Any) -> Target:
        return _Settled(_row_for_each(self.indices, scores))

    def named(self) -> Classes:
        return Classes(self.indices)

    def seed(self, scores: Any) -> Any:
        indices = _row_for_each(self.indices, scores)
        return ops.one_hot(ops.transpose(indices), scores.shape[1], dtype=scores.dtype)

    def classes(self) -> Any:
        return self.indices


@dataclass(frozen=True, eq=False)
class Contrast(Target):
    r"""A class and others that it is compared with: :math:`y_c - \alpha\,\mathrm{mean}_d\,y_d`.

    Attributes:
        of: The class.
        alpha: How strongly to compare, a number in an array of shape ``()``.
        nearest: How many classes to compare with: those whose scores are nearest to that of the
            class. 0 compares with ``references``.
        references: Indices of the classes to compare with, shape ``(docs, targets, rivals)``, where
            1 stands for any number of docs or targets. A class does not count as its own rival.
    """

    of: Target
    alpha: Any = _leaf()
    nearest: int = 0
    references: Any = _leaf("docs", "any", "any", default=None)

    def settled(self, scores: Any) -> Contrast:
        of = self.of.settled(scores)
        if not self.nearest:
            return replace(self, of=of)
        scores = ops.convert_to_tensor(scores)
        itself = ops.transpose(of.seed(scores), (1, 0, 2))  # docs, targets, classes
        score = ops.sum(itself * scores[:, None], axis=-1, keepdims=True)
        distance = ops.where(itself > 0, float("inf"), ops.absolute(scores[:, None] - score))
        number = min(self.nearest, scores.shape[1] - 1)
        _, references = ops.top_k(-distance, number)
        return replace(self, of=of, nearest=0, references=ops.cast(references, "int32"))

    def seed(self, scores: Any) -> Any:
        settled = self.settled(scores)
        itself = settled.of.seed(scores)
        each = ops.one_hot(settled.references, scores.shape[1], dtype=scores.dtype)
        rivals = ops.transpose(ops.sum(each, axis=-2), (1, 0, 2)) * (1 - itself)
        number = ops.sum(rivals, axis=-1, keepdims=True)
        return itself - ops.cast(self.alpha, scores.dtype) * rivals / ops.maximum(number, 1)

    def classes(self) -> Any:
        return self.of.classes()

    def rivals(self) -> Integer[np.ndarray, "docs targets rivals"]:
        shape = (*self.classes().shape, self.references.shape[-1])
        rivals: np.ndarray = np.broadcast_to(self.references, shape)
        return rivals

    def check(self, classes: int) -> Contrast:
        if classes == 1:
            raise ValueError(
                "there is no class to compare with: there is one score; pass another method than "
                "finer-cam"
            )
        if self.references is not None:
            check_classes(self.references, classes, "reference")
        return replace(self, of=self.of.check(classes))


@dataclass(frozen=True, eq=False)
class Negative(Target):
    """What speaks against a target: the same with the other sign.

    Attributes:
        of: The target.
    """

    of: Target

    def settled(self, scores: Any) -> Negative:
        return Negative(self.of.settled(scores))

    def seed(self, scores: Any) -> Any:
        return -self.of.seed(scores)

    def classes(self) -> Any:
        return self.of.classes()

    def rivals(self) -> Integer[np.ndarray, "docs targets rivals"] | None:
        return self.of.rivals()

    def check(self, classes: int) -> Negative:
        return Negative(self.of.check(classes))


def _row_for_each(indices: Any, scores: Any) -> Any:
    """Indices with a row for each of the docs, where one may stand for all."""
    indices = ops.cast(indices, "int32")
    return indices + ops.cast(ops.zeros_like(scores[:, :1]), "int32")


def check_classes(indices: Integer[np.ndarray, " ..."], classes: int, what: str = "target") -> None:
    """Raise ValueError unless a model of so many classes has all of these.

    Args:
        indices: Class indices, of any shape.
        classes: How many classes the model has.
        what: What the indices are called.
    """
    indices = np.asarray(indices)
    outside = indices[(indices < 0) | (indices >= classes)]
    if outside.size:
        raise ValueError(
            f"{what} {outside[0]} is out of range: the model puts out {plural(classes, 'class')}, "
            f"so that a {what} lies in [0, {classes})"
        )
