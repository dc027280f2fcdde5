"""Tokens: the cells of a map in a row, as a transformer sees them, and which of them to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from kerasight.cam.layout import Layout
from kerasight.keras import layers

if TYPE_CHECKING:
    from kerasight.keras.run import Call

__all__ = ["GradientOfToken", "candidates", "layout_of_tokens", "mixed_tokens", "source_of"]

# Layers that mix neighbouring tokens, as those of a signal: the map before them still tells where.
_OF_SEQUENCES = (
    keras.layers.AveragePooling1D,
    keras.layers.Bidirectional,
    keras.layers.Conv1D,
    keras.layers.Conv1DTranspose,
    keras.layers.MaxPooling1D,
    keras.layers.RNN,
    keras.layers.SeparableConv1D,
)

# Given the position of a map, that of a batch of sequences, and the index of an item in these: the
# gradient of the item, a weighted sum of its channels, by the map; None if there is no path.
GradientOfToken = Callable[[int, int, int], np.ndarray | None]

# How many tokens of no place there are in the transformers that people have: none, a class token,
# one of a teacher beside it, four registers beside it.
_USUAL_EXTRA = (0, 1, 2, 5)
# Where the user says the grid, there may be others.
_ANY_EXTRA = range(9)
# A transformer in stages merges tokens by 2 x 2 from one stage to the next.
_MERGED = (2, 4, 8)


def layout_of_tokens(
    tokens: int,
    maps: Sequence[tuple[int, ...]],
    size: tuple[int | None, ...],
    patches: Sequence[Any] = (),
    grid: tuple[int, ...] | None = None,
) -> Layout | None:
    """The grid that tokens are the cells of, and how many tokens of no place come first.

    Never by a square root: the grid is that of a map that the tokens were cut from, or the doc's
    size divided by that of a patch, and what is left over are the tokens of no place.

    Args:
        tokens: How many there are.
        maps: Spatial sizes of the maps before them, the last first.
        size: Spatial size of the doc.
        patches: Sizes of patches that layers of the model name.
        grid: The grid, where the user says it.

    Returns:
        The layout; None if it cannot be told, or ``grid`` does not fit.
    """
    if grid is not None:
        return _fitting(tokens, grid, _ANY_EXTRA)
    for of_map in maps:
        found = _fitting(tokens, of_map, _USUAL_EXTRA)
        for merged in _MERGED:
            if found is None and all(length % merged == 0 for length in of_map):
                found = _fitting(tokens, tuple(length // merged for length in of_map), (0,))
        if found is not None:
            return found
    known = [length for length in size if length is not None]
    if len(known) < len(size):
        return None
    for patch in patches:
        sizes = patch if isinstance(patch, (tuple, list)) else (patch,) * len(known)
        if len(sizes) == len(known) and all(isinstance(one, int) and one > 0 for one in sizes):
            cells = tuple(a // b for a, b in zip(known, sizes, strict=True))
            found = _fitting(tokens, cells, _USUAL_EXTRA)
            if found is not None:
                return found
    each = [
        _fitting(tokens, tuple(length // patch for length in known), _USUAL_EXTRA)
        for patch in range(2, min(known) + 1)
        if all(length % patch == 0 for length in known)
    ]
    fitting = [one for one in each if one is not None]
    return fitting[0] if len(fitting) == 1 else None


def _fitting(tokens: int, grid: tuple[int, ...], extra: Sequence[int]) -> Layout | None:
    layout = Layout.of_tokens(tokens, grid)
    return layout if layout is not None and layout.prefix in extra else None


def mixed_tokens(
    calls: Sequence[Call],
    position: int,
    axis: int,
    gradient_of_token: GradientOfToken,
    layout_at: Callable[[int], Layout | None],
) -> Callable[[int], bool] | None:
    """Whether a map is cut into tokens, and each token later depends on others as well.

    Attention does that, under whatever name or spelled out in operations, and so does a mixer. The
    gradients tell: they show on how many cells of the map a token depends, first and last.

    Tokens that read the cells are not asked, such as the queries of a detector's decoder: they fit
    no grid, begin without any cell of the map, and then depend on several at once.

    Args:
        calls: The calls of a run.
        position: That of the map.
        axis: The axis of its channels.
        gradient_of_token: Gives the gradients.
        layout_at: The layout of the tokens at a position; None if they do not fit a grid.

    Returns:
        What tells whether the tokens at a position do so; None if none do.
    """
    tokens = [at for at in range(position + 1, len(calls)) if calls[at].has_tokens]
    # A layer that only weighs tokens, to pool them, leaves each what it was.
    made = [at for at in tokens if not calls[at].at_input and _makes_tokens(calls[at].layer)]
    if not made or any(isinstance(call.layer, _OF_SEQUENCES) for call in calls[position:]):
        return None

    @cache  # the first of all tokens are asked again as the first of their number
    def cells(at: int) -> int | None:
        gradients = gradient_of_token(position, at, calls[at].shape[1] // 2)
        return None if gradients is None else int(np.any(gradients, axis=axis).sum())

    def first_of(some: Sequence[int]) -> int | None:
        return next((found for found in map(cells, some) if found is not None), None)

    first = first_of(tokens)

    def are_mixed(at: int) -> bool:
        found = cells(at)
        return first is not None and found is not None and found > first

    last_of: dict[int, int] = {}  # by how many tokens there are, those made last first
    for at in reversed(made):
        last_of.setdefault(calls[at].shape[1], at)
    for number, last in last_of.items():
        if not are_mixed(last):
            continue
        alike = [at for at in tokens if calls[at].shape[1] == number]
        if layout_at(last) is not None or cells(alike[0]) is not None or first_of(alike) == first:
            return are_mixed
    return None


def _makes_tokens(layer: keras.layers.Layer) -> bool:
    return bool(layer.weights) or "Attention" in type(layer).__name__


def candidates(
    calls: Sequence[Call], after: int, layout_at: Callable[[int], Layout | None]
) -> Iterator[int]:
    """The positions of the tokens to look at, the last first.

    They are those of the stream that all blocks add to, as far as that can be told: as wide as the
    last tokens are, so that what an attention or a block holds inside of it is none of them.

    Args:
        calls: The calls of a run.
        after: The position of the map that tokens are cut from; -1 if there is none.
        layout_at: The layout of the tokens at a position; None if they do not fit a grid.
    """
    width: int | None = None
    for at in reversed(range(after + 1, len(calls))):
        call = calls[at]
        if not call.has_tokens or layers.only_drops_or_augments(call.layer):
            continue
        layout = layout_at(at)
        if layout is None:
            continue
        width = call.shape[2] if width is None else width
        if call.shape[2] == width:
            yield at


def source_of(calls: Sequence[Call], position: int) -> int:
    """The position of the tokens that some were projected from, along with others; else their own.

    Queries, keys and values are made of the same tokens, and these are what the model looked at.
    """
    call = calls[position]
    if not isinstance(call.layer, (keras.layers.Dense, keras.layers.EinsumDense)):
        return position
    for source in call.sources:
        if source is None or calls[source].shape != call.shape:
            continue
        if sum(source in other.sources for other in calls) > 1:
            return source
    return position
