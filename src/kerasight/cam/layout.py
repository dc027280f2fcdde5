"""Where channels, space and extra tokens are: in what a layer puts out, and in a doc."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Shaped

__all__ = ["CHANNELS_FIRST", "CHANNELS_LAST", "Layout"]


@dataclass(frozen=True)
class Layout:
    """The order of the axes of a batch: ``(docs, *spatial, channels)``, or channels first.

    Formulas see channels last, whatever the model has. `unfold` brings a batch from the model's
    order into that one, and `fold` brings it back. Tokens ``(docs, tokens, channels)`` are the
    cells of a grid, row by row, after some that are of no place, such as a class token.

    Attributes:
        name: What Keras calls it.
        grid: The sizes of the spatial axes that tokens are cut from; None if they are no tokens.
        prefix: How many tokens of no place come first.
    """

    name: Literal["channels_last", "channels_first"]
    grid: tuple[int, ...] | None = None
    prefix: int = 0

    @staticmethod
    def of(name: Any) -> Layout | None:
        """The layout that Keras calls so; None for any other name."""
        return {layout.name: layout for layout in (CHANNELS_LAST, CHANNELS_FIRST)}.get(name)

    @staticmethod
    def of_tokens(tokens: int, grid: tuple[int, ...]) -> Layout | None:
        """The layout of so many tokens, cut from a grid; None if they are too few for it."""
        prefix = tokens - math.prod(grid)
        return Layout("channels_last", grid, prefix) if prefix >= 0 else None

    @property
    def other(self) -> Layout:
        """The other layout."""
        return CHANNELS_LAST if self == CHANNELS_FIRST else CHANNELS_FIRST

    @property
    def axis(self) -> int:
        """The axis of the channels in a batch."""
        return 1 if self == CHANNELS_FIRST else -1

    def channels(self, shape: tuple[Any, ...]) -> Any:
        """How many channels a batch of a shape has."""
        return shape[self.axis]

    def spatial(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """The sizes of the spatial axes of a batch of a shape."""
        if self.grid is not None:
            return self.grid
        return shape[2:] if self == CHANNELS_FIRST else shape[1:-1]

    def unfold(
        self, values: Shaped[np.ndarray, " ..."], axis: int = 0
    ) -> Shaped[np.ndarray, " ..."]:
        """A batch as ``(docs, *spatial, channels)``, without a copy, and tokens of no place.

        Args:
            values: The batch, in this layout.
            axis: Which axis the docs are on; those before it stay as they are.
        """
        if self.grid is not None:
            lead = values.shape[: axis + 1]
            places = np.moveaxis(values, axis + 1, 0)[self.prefix :]
            return np.moveaxis(places, 0, axis + 1).reshape(*lead, *self.grid, values.shape[-1])
        return np.moveaxis(values, axis + 1, -1) if self == CHANNELS_FIRST else values

    def fold(
        self,
        values: Shaped[np.ndarray, "docs ..."],
        before: Shaped[np.ndarray, "prefix channels"] | None = None,
    ) -> Shaped[np.ndarray, "docs ..."]:
        """A batch ``(docs, *spatial, channels)`` in this layout, contiguous.

        Args:
            values: The batch.
            before: The tokens of no place, the same for each of the docs; none if left out.
        """
        if self.grid is not None:
            tokens = values.reshape(len(values), -1, values.shape[-1])
            if before is None:
                return tokens
            extra = np.broadcast_to(before, (len(values), *before.shape))
            return np.concatenate([extra.astype(values.dtype), tokens], axis=1)
        if self == CHANNELS_FIRST:
            return np.ascontiguousarray(np.moveaxis(values, -1, 1))
        return values


CHANNELS_LAST = Layout("channels_last")
CHANNELS_FIRST = Layout("channels_first")
