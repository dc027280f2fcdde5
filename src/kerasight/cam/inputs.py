"""What goes into a model: arrays in the structure that it takes, of one or several docs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Integer, Shaped

__all__ = ["Inputs", "names_of"]


@dataclass(frozen=True, eq=False)
class Inputs:
    """Docs, as a model takes them.

    Attributes:
        structure: An array with one row a doc; or a dict, list or tuple of such, nested at will, as
            the model was made with.
        seen: Which of the arrays, in the order of `leaves`, the heatmaps belong over.
    """

    structure: Any
    seen: int = 0

    @staticmethod
    def like(structure: Any, docs: Shaped[np.ndarray, "docs ..."]) -> Inputs:
        """Docs in the structure that a model was made with, such as ``{"image": ...}``.

        Args:
            structure: What the model was made with, of which only the structure counts.
            docs: The docs, shape ``(docs, ...)``.
        """
        return Inputs(_packed(structure, iter([docs] * len(list(_leaves(structure))))))

    @staticmethod
    def joined(parts: Sequence[Inputs]) -> Inputs:
        """The docs of several, one after the other."""
        each = zip(*(part.leaves for part in parts), strict=True)
        return parts[0]._with_leaves([np.concatenate(leaves) for leaves in each])

    @property
    def leaves(self) -> list[Any]:
        """The arrays; of a dict in the order of its names, as Keras has them."""
        return list(_leaves(self.structure))

    @property
    def docs(self) -> Shaped[np.ndarray, "docs ..."]:
        """The array that is seen."""
        docs: np.ndarray = self.leaves[self.seen]
        return docs

    @property
    def rank_of_maps(self) -> int:
        """The rank of a batch of maps: that of the docs, and at least that of sequences."""
        return max(3, len(self.docs.shape))

    def packed(self, leaves: Sequence[Any]) -> Any:
        """Other arrays or tensors in the same structure."""
        return _packed(self.structure, iter(leaves))

    def __len__(self) -> int:
        return len(self.docs)

    def __getitem__(self, docs: slice | Integer[np.ndarray, " rows"]) -> Inputs:
        """Some of the docs."""
        return self._with_leaves([leaf[docs] for leaf in self.leaves])

    def repeated(self, number: int) -> Inputs:
        """One doc, so many times."""
        return self._with_leaves([np.repeat(leaf, number, axis=0) for leaf in self.leaves])

    def with_docs(self, docs: Shaped[np.ndarray, "docs ..."]) -> Inputs:
        """Other docs in the place of those that are seen; of the other inputs each row is kept.

        Args:
            docs: As many as there are; or any number, if there is one.
        """
        rows = len(docs) if len(self) == 1 else 1
        return self._with_leaves(
            [
                docs if place == self.seen else leaf if rows == 1 else np.repeat(leaf, rows, axis=0)
                for place, leaf in enumerate(self.leaves)
            ]
        )

    def _with_leaves(self, leaves: Sequence[Any]) -> Inputs:
        return replace(self, structure=self.packed(leaves))


def names_of(structure: Any) -> list[str]:
    """What tells the arrays of a structure apart: names of dicts, and positions, with slashes."""
    if isinstance(structure, dict):
        parts = [(str(name), structure[name]) for name in sorted(structure)]
    elif isinstance(structure, (list, tuple)):
        parts = [(str(place), part) for place, part in enumerate(structure)]
    else:
        return [""]
    return [f"{name}/{rest}".rstrip("/") for name, part in parts for rest in names_of(part)]


def _leaves(structure: Any) -> Iterator[Any]:
    if isinstance(structure, dict):
        for name in sorted(structure):
            yield from _leaves(structure[name])
    elif isinstance(structure, (list, tuple)):
        for part in structure:
            yield from _leaves(part)
    else:
        yield structure


def _packed(structure: Any, leaves: Iterator[Any]) -> Any:
    if isinstance(structure, dict):
        packed = {name: _packed(structure[name], leaves) for name in sorted(structure)}
        return {name: packed[name] for name in structure}
    if isinstance(structure, (list, tuple)):
        parts = [_packed(part, leaves) for part in structure]
        of_names = getattr(structure, "_make", None)
        return type(structure)(parts) if of_names is None else of_names(parts)
    return next(leaves)
