"""Where the channels are: in what a layer puts out, and in a doc."""

from __future__ import annotations

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
    order into that one, and `fold` brings it back.

    Attributes:
        name: What Keras calls it.
    """

    name: Literal["channels_last", "channels_first"]

    @staticmethod
    def of(name: Any) -> Layout | None:
        """The layout that Keras calls so; None for any other name."""
        return {layout.name: layout for layout in (CHANNELS_LAST, CHANNELS_FIRST)}.get(name)

    @property
    def other(self) -> Layout:
        """The other layout."""
        return CHANNELS_LAST if self == CHANNELS_FIRST else CHANNELS_FIRST

    @property
    def axis(self) -> int:
        """The axis of the channels in a batch."""
        return -1 if self == CHANNELS_LAST else 1

    def channels(self, shape: tuple[Any, ...]) -> Any:
        """How many channels a batch of a shape has."""
        return shape[self.axis]

    def spatial(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """The sizes of the spatial axes of a batch of a shape."""
        return shape[1:-1] if self == CHANNELS_LAST else shape[2:]

    def unfold(
        self, values: Shaped[np.ndarray, " ..."], axis: int = 0
    ) -> Shaped[np.ndarray, " ..."]:
        """A batch as ``(docs, *spatial, channels)``, without a copy.

        Args:
            values: The batch, in this layout.
            axis: Which axis the docs are on; those before it stay as they are.
        """
        return values if self == CHANNELS_LAST else np.moveaxis(values, axis + 1, -1)

    def fold(self, values: Shaped[np.ndarray, "docs ..."]) -> Shaped[np.ndarray, "docs ..."]:
        """A batch ``(docs, *spatial, channels)`` in this layout, contiguous."""
        if self == CHANNELS_LAST:
            return values
        return np.ascontiguousarray(np.moveaxis(values, -1, 1))


CHANNELS_LAST = Layout("channels_last")
CHANNELS_FIRST = Layout("channels_first")
