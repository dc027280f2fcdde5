r"""The methods of masks: what is hidden in them, and what the scores of the rest say of each place.

All that they need of a model is its score of a doc with some places hidden. Space has one to three
axes, for sequences, pictures and volumes. What is random is drawn from a generator that is passed,
and so is the same for the same seed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasight.cam.maps import resized
from kerasight.checks import integer, plural

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float32, Float64, Int64, Real

__all__ = [
    "coalitions",
    "kernel_shap",
    "occlusion",
    "relabelled",
    "rise",
    "rise_masks",
    "segments",
    "windows",
]


def windows(
    size: Sequence[int], window: Sequence[int], stride: Sequence[int]
) -> list[tuple[slice, ...]]:
    """The windows that cover all places, as the slices of each, the last axis fastest.

    The first stands at the start of each axis, and the others follow at steps of ``stride``, until
    the end is covered. Where the steps do not end there, the last window is cut off at the end: it
    hides fewer places, as in captum's ``Occlusion``, whose windows these are.

    Args:
        size: The length of each axis.
        window: The length of a window along each.
        stride: The step along each: at most the window, so that no place is left out.

    Raises:
        TypeError: If a length is no whole number.
        ValueError: If not all of them have one length for each axis, or a window is longer than its
            axis, or a step than its window.
    """
    axes = _lengths(size, window=window, stride=stride)
    spans = []
    for axis, (length, wide, step) in enumerate(axes):
        if not step <= wide <= length:
            raise ValueError(
                f"along axis {axis} the window must be at most as long as the axis, {length}, and "
                f"the stride at most as long as the window; got window {wide} and stride {step}"
            )
        spans.append(
            [slice(at, min(at + wide, length)) for at in range(0, length - wide + step, step)]
        )
    return list(itertools.product(*spans))


def occlusion(
    drops: Real[np.ndarray, " windows"],
    windows: Sequence[tuple[slice, ...]],
    size: Sequence[int],
) -> Float64[np.ndarray, "*size"]:
    r"""Occlusion: how far the score drops while a place is hidden.

    .. math:: \frac{1}{|W_i|} \sum_{w \in W_i} (y - y_w)

    with :math:`W_i` the windows that hide place :math:`i`, and :math:`y_w` the score while window
    :math:`w` is hidden. The paper shows the scores themselves; the drops, averaged where windows
    overlap, are those of captum's ``Occlusion``.

    Paper: Zeiler & Fergus 2014, "Visualizing and Understanding Convolutional Networks",
    https://arxiv.org/abs/1311.2901.

    Args:
        drops: The :math:`y - y_w`, shape ``(windows,)``.
        windows: The windows, in the same order.
        size: The length of each axis.

    Returns:
        Evidence, float64, shape ``(*size)``; 0 where no window hides a place.
    """
    sums, counts = np.zeros(tuple(size)), np.zeros(tuple(size))
    for drop, window in zip(np.asarray(drops), windows, strict=True):
        sums[window] += drop
        counts[window] += 1
    evidence: np.ndarray = sums / np.maximum(counts, 1)
    return evidence


def rise_masks(
    size: Sequence[int],
    cells: Sequence[int],
    number: int,
    share: float,
    random: np.random.Generator,
) -> Float32[np.ndarray, " number *size"]:
    """Masks of RISE: coarse grids of cells, each kept or hidden by chance, with soft edges.

    Grids are enlarged linearly to one cell more than the doc has, and cut to its size at a random
    place. An axis with as many cells as steps, such as words, is left as it is. On the mean over
    all masks, each place has the value ``share``.

    Each mask is drawn in one go: many of them are the same, in whatever batches they are asked for.

    Args:
        size: The length of each axis.
        cells: The number of cells along each.
        number: How many masks.
        share: The probability that a cell is kept, between 0 and 1.
        random: What they are drawn from.

    Returns:
        float32 array of shape ``(number, *size)``, with values from 0, hidden, to 1, kept.

    Raises:
        TypeError: If a length or the number is no whole number.
        ValueError: If not all have one length for each axis, or there are more cells than steps
            along one; if ``share`` is not between 0 and 1.
    """
    axes = _lengths(size, cells=cells)
    if any(steps < grid for steps, grid in axes):
        raise ValueError(
            f"there can be at most as many cells as steps along each axis, {tuple(size)}; got "
            f"{tuple(cells)}"
        )
    if not 0 < share < 1:
        raise ValueError(f"share must be between 0 and 1, got {share}")
    places = math.prod(cells)
    drawn = random.random((integer("number", number, least=1), places + len(axes)))
    masks = (drawn[:, :places] < share).astype(np.float32)
    for (steps, grid), where in zip(axes, drawn[:, places:].T, strict=True):
        # The axis is contracted and goes to the end, so that after all of them their order is back.
        masks = masks.reshape(number, grid, -1).swapaxes(1, 2)
        if steps != grid:
            cell = math.ceil(steps / grid)
            weights = resized(np.eye(grid), ((grid + 1) * cell, grid)).astype(np.float32)
            cuts = np.lib.stride_tricks.sliding_window_view(weights, steps, axis=0)
            masks = masks @ cuts[(where * cell).astype(int)]
    return masks.reshape(number, *size)


def rise(
    masks: Float[np.ndarray, " number *size"], scores: Real[np.ndarray, " number"], share: float
) -> Float64[np.ndarray, "*size"]:
    r"""RISE: the scores of the doc under random masks, summed up where these keep a place.

    .. math:: \frac{1}{p N} \sum_{m} y_m\, M_m

    with :math:`N` masks :math:`M_m`, the score :math:`y_m` of the doc under each, and :math:`p` the
    ``share``. Evidence of several batches is their mean, each weighted by its number of masks.

    A place that does not matter has the mean score, not zero.

    Paper: Petsiuk et al. 2018, "RISE: Randomized Input Sampling for Explanation of Black-box
    Models", https://arxiv.org/abs/1806.07421.

    Args:
        masks: The masks, shape ``(number, *size)``, with values from 0, hidden, to 1, kept.
        scores: The :math:`y_m`, shape ``(number,)``.
        share: The mean of all masks at any place.

    Returns:
        Evidence, float64, shape ``(*size)``.
    """
    # In the type of the masks, which are too large to be copied.
    sums = np.asarray(scores).astype(masks.dtype) @ masks.reshape(len(masks), -1)
    evidence: np.ndarray = sums.reshape(masks.shape[1:]).astype(np.float64)
    return evidence / (share * len(masks))


def segments(size: Sequence[int], window: Sequence[int]) -> Int64[np.ndarray, "*size"]:
    """Square superpixels: which block of the size of a window each place is in.

    Where blocks do not fit, the last along an axis is smaller.

    Args:
        size: The length of each axis.
        window: The length of a block along each.

    Returns:
        int64 array of shape ``(*size)``, with labels from 0, the last axis fastest.

    Raises:
        TypeError: If a length is no whole number.
        ValueError: If not both have one length for each axis.
    """
    axes = _lengths(size, window=window)
    blocks = np.ix_(*(np.arange(length) // wide for length, wide in axes))
    counts = [math.ceil(length / wide) for length, wide in axes]
    labels: np.ndarray = np.ravel_multi_index(blocks, counts)
    return labels


def relabelled(labels: Any, size: Sequence[int]) -> Int64[np.ndarray, "*size"]:
    """Segments that somebody else made, with labels from 0 on and none left out.

    Args:
        labels: Whole numbers of shape ``(*size)``: places with the same one are one segment, even
            where they do not touch.
        size: The length of each axis.

    Returns:
        int64 array of shape ``(*size)``, with labels in the same order.

    Raises:
        TypeError: If they are no whole numbers.
        ValueError: If they have another shape.
    """
    array = np.asarray(labels)
    if array.dtype.kind not in "iu":
        raise TypeError(f"segments must be whole numbers (a label each), got dtype {array.dtype}")
    if array.shape != tuple(size):
        raise ValueError(
            f"segments must have a label for each place, shape {tuple(size)}; got {array.shape}"
        )
    dense: np.ndarray = np.unique(array, return_inverse=True)[1]
    return dense.reshape(array.shape).astype(np.int64, copy=False)


def coalitions(
    players: int, number: int, random: np.random.Generator
) -> Bool[np.ndarray, "coalitions players"]:
    r"""The coalitions of players whose scores KernelSHAP asks for.

    All of them, but for that of nobody and that of all players, where these are ``number`` or
    fewer. Else pairs are drawn of a coalition and the rest of the players: how large it is by the
    weight that the Shapley kernel gives to all coalitions of its size together, proportional to
    :math:`1 / (s (n - s))` for :math:`s` of :math:`n` players, and which of these by chance.

    Args:
        players: How many players: segments, tokens or inputs.
        number: How many coalitions at most.
        random: What they are drawn from.

    Returns:
        bool array of shape ``(coalitions, players)``: True for players that are in.

    Raises:
        TypeError: If one is no whole number.
        ValueError: If ``number`` is too small to tell all players apart.
    """
    players = integer("players", players, least=1)
    least = 2 * (players - 1)
    if integer("number", number) < least:
        raise ValueError(
            f"{plural(players, 'player')} cannot be told apart by fewer than {least} coalitions, "
            f"got {number}; take more of them, or larger segments"
        )
    if 2**players - 2 <= number:
        counted = np.arange(1, 2**players - 1)[:, np.newaxis]
        everyone: np.ndarray = (counted >> np.arange(players)) % 2 == 1
        return everyone
    sizes = np.arange(1, players)
    kernel = 1 / (sizes * (players - sizes))
    drawn = random.choice(sizes, number // 2, p=kernel / kernel.sum())
    ranks = random.random((number // 2, players)).argsort(axis=1).argsort(axis=1)
    half = ranks < drawn[:, np.newaxis]
    return np.concatenate([half, ~half])


def kernel_shap(
    coalitions: Bool[np.ndarray, "coalitions players"],
    scores: Real[np.ndarray, " coalitions"],
    empty: float,
    full: float,
) -> Float64[np.ndarray, " players"]:
    r"""KernelSHAP: what each player adds to the score, on the mean over all orders of joining.

    .. math::
        \min_\phi \sum_S \pi_S \Big(y_\emptyset + \sum_{i \in S} \phi_i - y_S\Big)^2
        \quad \text{with} \quad \sum_i \phi_i = y - y_\emptyset, \qquad
        \pi_S = \frac{n - 1}{\binom{n}{|S|}\, |S|\, (n - |S|)}

    Of all coalitions these are the Shapley values. Of coalitions that were drawn by the kernel
    :math:`\pi`, each counts the same, as often as it was drawn; since they are drawn in pairs, the
    values are still exact where no more than two players act together.

    Paper: Lundberg & Lee 2017, "A Unified Approach to Interpreting Model Predictions",
    https://arxiv.org/abs/1705.07874. The pairs: Covert & Lee 2021, "Improving KernelSHAP: Practical
    Shapley Value Estimation via Linear Regression", https://arxiv.org/abs/2012.01536.

    Args:
        coalitions: As `coalitions` draws them, shape ``(coalitions, players)``.
        scores: The :math:`y_S`, shape ``(coalitions,)``.
        empty: The score with no player, :math:`y_\emptyset`.
        full: The score with all of them, :math:`y`.

    Returns:
        The :math:`\phi`, float64, shape ``(players,)``, whose sum is ``full - empty``.
    """
    number, players = coalitions.shape
    total = float(full) - float(empty)
    sizes = coalitions.sum(axis=1)
    weights = np.ones(number)
    if number == 2**players - 2:  # all of them, each once
        counts = np.array([math.comb(players, size) for size in range(players + 1)], dtype=float)
        weights = 1 / (counts[sizes] * sizes * (players - sizes))
    # An equal share of the total for each, and a difference from it. Of all solutions the least is
    # taken, whose differences sum to zero, since each row does.
    rows = coalitions - (sizes / players)[:, np.newaxis]
    left = np.asarray(scores, dtype=np.float64) - empty - sizes / players * total
    weighted = rows.T * weights
    differences = np.linalg.lstsq(weighted @ rows, weighted @ left, rcond=1e-10)[0]
    values: np.ndarray = total / players + differences
    return values


def _lengths(size: Sequence[int], **others: Sequence[int]) -> list[tuple[int, ...]]:
    """The lengths along each axis: that of the axis, and then of the others by their names."""
    for name, lengths in {"size": size, **others}.items():
        if len(lengths) != len(size):
            raise ValueError(
                f"{name} must have one length for each axis of {tuple(size)}, got {tuple(lengths)}"
            )
        for length in lengths:
            integer(name, length, least=1)
    return list(zip(size, *others.values(), strict=True))
