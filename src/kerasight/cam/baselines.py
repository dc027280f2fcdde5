"""Baselines: what stands in the place of a doc, or a part of it, where nothing is to be there."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real as Number
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasight.cam.maps import spatial_axes
from kerasight.checks import is_real

if TYPE_CHECKING:
    from jaxtyping import Float, Float64

__all__ = ["BASELINES", "Baseline", "baseline_of", "check_baseline", "name_of_baseline"]

Baseline = str | float | np.ndarray


def _zero(
    doc: Float[np.ndarray, "*spatial channels"], seed: int
) -> Float[np.ndarray, "*spatial channels"]:
    return np.zeros_like(doc)


def _mean(
    doc: Float[np.ndarray, "*spatial channels"], seed: int
) -> Float[np.ndarray, "*spatial channels"]:
    mean = doc.mean(axis=spatial_axes(doc), dtype=np.float64)
    filled: np.ndarray = np.broadcast_to(mean, doc.shape).astype(doc.dtype)
    return filled


def _noise(
    doc: Float[np.ndarray, "*spatial channels"], seed: int
) -> Float[np.ndarray, "*spatial channels"]:
    wide, space = doc.astype(np.float64), spatial_axes(doc)
    mean, spread = wide.mean(axis=space), wide.std(axis=space)
    drawn = mean + spread * np.random.default_rng(seed).standard_normal(doc.shape)
    # Values outside of a channel's range stand for no pixel.
    inside: np.ndarray = drawn.clip(wide.min(axis=space), wide.max(axis=space))
    return inside.astype(doc.dtype)


def _blurred(
    doc: Float[np.ndarray, "*spatial channels"], seed: int
) -> Float[np.ndarray, "*spatial channels"]:
    # Beyond the edges lies the mean colour. RISE puts 0 there, the mean colour of its data; after
    # other preprocessing, 0 may be black, and the edges would darken.
    space = spatial_axes(doc)
    mean = doc.mean(axis=space, dtype=np.float64)
    kernel = _kernel(max(doc.shape[:-1]))
    blurred = doc - mean
    for axis in space:
        convolution = _convolution(doc.shape[axis], kernel)
        blurred = np.moveaxis(np.tensordot(convolution, blurred, axes=(1, axis)), 0, axis)
    summed: np.ndarray = (blurred + mean).astype(doc.dtype)
    return summed


_Make = Callable[["Float[np.ndarray, '*spatial channels']", int], np.ndarray]

BASELINES: dict[str, _Make] = {"zero": _zero, "mean": _mean, "blur": _blurred, "noise": _noise}
"""The baselines that have a name."""


def check_baseline(name: str, value: Any) -> Baseline:
    """A baseline that a user passed, checked as far as it can be without a doc.

    Raises:
        TypeError: If it is neither a name, a number nor an array of real numbers.
        ValueError: If it is an unknown name, or not finite.
    """
    if isinstance(value, str):
        if value not in BASELINES:
            known = ", ".join(map(repr, BASELINES))
            raise ValueError(
                f"unknown {name} {value!r}; known are {known}, a number, and an array of the "
                "shape of a doc"
            )
        return value
    is_number = isinstance(value, Number) and not isinstance(value, (bool, np.bool_))
    if not (is_number or isinstance(value, np.ndarray)):
        known = ", ".join(map(repr, BASELINES))
        raise TypeError(
            f"{name} must be {known}, a number, or an array of the shape of a doc, got "
            f"{type(value).__name__}"
        )
    if isinstance(value, np.ndarray) and not is_real(value):
        raise TypeError(f"{name} must hold real numbers, got dtype {value.dtype}")
    if not np.isfinite(value).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity in it")
    return value if isinstance(value, np.ndarray) else float(value)


def baseline_of(
    doc: Float[np.ndarray, "*spatial channels"], baseline: str | float, seed: int = 0
) -> Float[np.ndarray, "*spatial channels"]:
    """The baseline of a doc, by its name, or a number everywhere.

    Args:
        doc: A doc, channels last.
        baseline: ``"zero"``; ``"mean"``, that of each channel; ``"blur"``, the doc blurred as in
            RISE's code; ``"noise"``, normal noise with the mean and standard deviation of each
            channel, within its range; or a number.
        seed: Seed of the noise.

    Returns:
        Array of the shape and type of ``doc``.
    """
    if isinstance(baseline, str):
        return BASELINES[baseline](doc, seed)
    return np.full_like(doc, baseline)


def name_of_baseline(baseline: Baseline) -> str:
    """The name of a baseline in a result."""
    if isinstance(baseline, np.ndarray):
        return "array"
    return baseline if isinstance(baseline, str) else f"{baseline:g}"


def _kernel(side: int) -> Float64[np.ndarray, " cells"]:
    """The blur of RISE's code along an axis, for docs whose longest side has ``side`` places.

    At 224 pixels, it is a Gaussian of deviation 5 in 11 cells. The part beyond them is reflected at
    their ends, so that all cells are nearly alike, and the deviation of the kernel is 3.1.
    """
    spread = max(1.0, 5 * side / 224)
    radius = round(spread)
    reach = np.arange(-int(4 * spread + 0.5), int(4 * spread + 0.5) + 1)
    # The kernel is symmetric, so that wrapping around is the same as reflecting at the ends.
    places = (reach + radius) % (2 * radius + 1)
    kernel = np.bincount(places, np.exp(-0.5 * (reach / spread) ** 2), 2 * radius + 1)
    normalised: np.ndarray = kernel / kernel.sum()
    return normalised


def _convolution(
    size: int, kernel: Float64[np.ndarray, " cells"]
) -> Float64[np.ndarray, "size size"]:
    """A blur along an axis as a matrix, with 0 beyond the edges."""
    radius = len(kernel) // 2
    distances = np.subtract.outer(np.arange(size), np.arange(size))
    inside = np.abs(distances) <= radius
    return np.where(inside, kernel[np.where(inside, distances, 0) + radius], 0.0)
