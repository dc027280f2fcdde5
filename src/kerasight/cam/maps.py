"""What the formulas share: their terms checked and summed, and maps scaled and resized.

A map has shape ``(*spatial)``: one number for each place.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Float64, Real

__all__ = [
    "EPSILON",
    "channel_weights",
    "checked_terms",
    "normalised",
    "resized",
    "slopes_before_resized",
    "slopes_before_stretched",
    "spatial_axes",
    "stretched",
    "sum_of_products",
    "weighted_sum",
]

EPSILON = 1e-7  # in the divisor, as in eli5: keras.config.epsilon() where nobody has changed it


def checked_terms(activations: Any, **others: Any) -> list[Real[np.ndarray, " ..."]]:
    """The terms of a formula as arrays, once it is clear that they belong together.

    Args:
        activations: To be of shape ``(*spatial, channels)``, with one to three spatial axes.
        **others: By their names: ``gradients`` and ``products`` are to have the same shape,
            ``place_scores`` one number a place, and all others one a channel.

    Returns:
        All of them, in this order.

    Raises:
        TypeError: If there is something else than real numbers in one.
        ValueError: If a shape is not as above; if there is NaN or infinity in one.
    """
    terms = {
        name: np.asarray(term) for name, term in {"activations": activations, **others}.items()
    }
    shape = terms["activations"].shape
    fits = 2 <= len(shape) <= 4 and 0 not in shape
    for name, term in terms.items():
        if term.dtype.kind in "cmMOSU":
            raise TypeError(f"{name} must be real numbers, got dtype {term.dtype}")
        fits &= term.shape == shape[_PARTS.get(name, _OF_CHANNELS)[0]]
    if not fits:
        shapes = " and ".join(str(term.shape) for term in terms.values())
        raise ValueError(
            "activations must have shape (*spatial, channels), with one to three spatial axes"
            + "".join(f", and {name} {_PARTS.get(name, _OF_CHANNELS)[1]}" for name in others)
            + f"; got {shapes}"
        )
    for name, term in terms.items():
        if not np.isfinite(term).all():
            raise ValueError(f"{name} must be finite, got NaN or infinity")
    return list(terms.values())


# Which part of the activations' shape a term has, and what it is called in the error.
_OF_CHANNELS = slice(-1, None), "(channels,)"
_PARTS = {
    "activations": (slice(None), ""),
    "gradients": (slice(None), "the same"),
    "products": (slice(None), "the same"),
    "place_scores": (slice(-1), "(*spatial)"),
}


def spatial_axes(values: Real[np.ndarray, "*spatial channels"]) -> tuple[int, ...]:
    """All axes but the last, which are those of space where channels come last."""
    return tuple(range(values.ndim - 1))


def channel_weights(
    gradients: Real[np.ndarray, "*spatial channels"],
) -> Float[np.ndarray, " channels"]:
    """The weights of Grad-CAM: the gradients averaged over space.

    Args:
        gradients: Gradients of the score, shape ``(*spatial, channels)``.

    Returns:
        Array of shape ``(channels,)``, of the type of ``gradients``; float64 if these are integers.
    """
    means: np.ndarray = gradients.mean(axis=spatial_axes(gradients), dtype=np.float64)
    return means.astype(gradients.dtype) if gradients.dtype.kind == "f" else means


def weighted_sum(
    weights: Real[np.ndarray, " channels"], activations: Real[np.ndarray, "*spatial channels"]
) -> Float64[np.ndarray, "*spatial"]:
    """The map of Grad-CAM before anything is cut off or scaled: evidence for and against.

    Args:
        weights: One weight a channel, shape ``(channels,)``.
        activations: Shape ``(*spatial, channels)``.

    Returns:
        float64 array of shape ``(*spatial)``.
    """
    evidence: np.ndarray = activations.astype(np.float64) @ weights.astype(np.float64)
    return evidence


def sum_of_products(
    activations: Real[np.ndarray, "*spatial channels"],
    gradients: Real[np.ndarray, "*spatial channels"],
) -> Float64[np.ndarray, "*spatial"]:
    """The sum over channels of activations times gradients, shape ``(*spatial)``."""
    wide = (np.asarray(terms, np.float64) for terms in (activations, gradients))
    products: np.ndarray = np.einsum("...k,...k->...", *wide)
    return products


def normalised(
    evidence: Real[np.ndarray, "*shape"], relu: bool = True
) -> Float64[np.ndarray, "*shape"]:
    """Divide evidence by its peak.

    Args:
        evidence: What speaks for a class (positive) and against it (negative), of any shape.
        relu: Whether to cut off what is negative.

    Returns:
        Array of the same shape, float64, with values in [0, 1]; without ``relu`` in [-1, 1], and
        the sign kept.
    """
    heatmap = np.array(evidence, dtype=np.float64)
    if relu:
        np.maximum(heatmap, 0, out=heatmap)
    heatmap /= np.max(np.abs(heatmap)) + EPSILON
    return heatmap


def stretched(values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Values of any shape, moved and scaled to reach from 0 to 1; zeros if all are the same."""
    moved: np.ndarray = values - values.min()
    moved /= moved.max() or 1
    return moved


def slopes_before_stretched(
    slopes: Float[np.ndarray, "*shape"], values: Float[np.ndarray, "*shape"]
) -> Float64[np.ndarray, "*shape"]:
    """The derivative by the values that were `stretched`, of the derivative by what came of them.

    It moves with the least and the greatest of them, too. Where several are the least, or the
    greatest, they share what it has of that; where all values are the same, it is zero.

    Args:
        slopes: Derivatives with respect to the stretched values.
        values: The values before.

    Returns:
        float64 array of the same shape.
    """
    least, greatest = values.min(), values.max()
    if least == greatest:
        return np.zeros(values.shape)
    wide = np.asarray(slopes, dtype=np.float64)
    shares = (values - least) / (greatest - least)
    back: np.ndarray = wide.copy()
    for end, moved in ((least, wide * (1 - shares)), (greatest, wide * shares)):
        is_end = values == end
        back -= is_end * (moved.sum() / is_end.sum())
    back /= greatest - least
    return back


def resized(values: Real[np.ndarray, "*old"], shape: Sequence[int]) -> Float64[np.ndarray, "*new"]:
    """Bring a map to another size, linearly along each axis; where it shrinks, by weighted means.

    Of a map ``(height, width)`` this is bilinear, with the values of Pillow's ``BILINEAR``.

    Args:
        values: A map, of any number of axes.
        shape: The new length of each axis.

    Returns:
        float64 array of that shape.
    """
    new = np.asarray(values, dtype=np.float64)
    for axis, (old, length) in enumerate(zip(values.shape, shape, strict=True)):
        if old != length:
            weights = _weights(old, int(length))
            new = np.moveaxis(np.tensordot(weights, new, axes=(1, axis)), 0, axis)
    return new


def slopes_before_resized(
    slopes: Real[np.ndarray, "*new"], shape: Sequence[int]
) -> Float64[np.ndarray, "*old"]:
    """The derivative by the map that was `resized`, of the derivative by what came of it.

    As `resized` is linear, this is its transpose.

    Args:
        slopes: Derivatives with respect to the map of the new size.
        shape: The length of each axis of the old one.

    Returns:
        float64 array of that shape.
    """
    back = np.asarray(slopes, dtype=np.float64)
    for axis, (new, length) in enumerate(zip(slopes.shape, shape, strict=True)):
        if new != length:
            weights = _weights(int(length), new)
            back = np.moveaxis(np.tensordot(weights, back, axes=(0, axis)), 0, axis)
    return back


@functools.lru_cache(maxsize=32)
def _weights(old: int, new: int) -> Float64[np.ndarray, "new old"]:
    """How much of each old cell is in each new one along an axis, shape ``(new, old)``."""
    scale = old / new
    # Beyond the centres of the outermost cells the map goes on as flat as it ended.
    centres = np.clip((np.arange(new) + 0.5) * scale - 0.5, 0, old - 1)
    distances = np.abs(centres[:, np.newaxis] - np.arange(old))
    weights = np.maximum(0, 1 - distances / max(scale, 1))
    shares: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
    shares.flags.writeable = False  # as they are kept
    return shares
