"""Ways that search: the weights of channels whose map, as a mask, lets the doc score best."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np

from kerasight.cam.heatmap import Evidence
from kerasight.cam.maps import (
    resized,
    slopes_before_resized,
    slopes_before_stretched,
    stretched,
)
from kerasight.keras.subject import Subject, parts

if TYPE_CHECKING:
    from jaxtyping import Float, Float64

__all__ = ["of_weights"]

# Those of the paper, and of Adam.
_RATE = 0.1
_DECAY, _DECAY_OF_SQUARES = 0.9, 0.999

# Slopes that are so much smaller than the greatest, for all that is known, are rounding.
_LEAST = 1e-4


def of_weights(subject: Subject) -> list[Evidence]:
    """The formula of the weights by which Adam lets the doc score best, seen through their map.

    All channels begin alike. As many steps are taken as there are samples, at the rate of the paper
    of Opti-CAM, 0.1. Each takes the model forward and backward once, for all targets.
    """
    formula, activations = subject.request.method.formula, subject.values
    doc = subject.at_doc(subject.request.method.title + " masks the doc")
    shape = (len(subject.terms), activations.shape[-1])
    weights, means, squares = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    with closing(doc.bar(subject.samples, "step")) as bar:
        for step in range(1, subject.samples + 1):
            maps = np.stack([formula(activations, one) for one in weights])
            slopes = np.stack(
                [
                    _slopes_of_weights(one, activations, of_map)
                    for one, of_map in zip(weights, _slopes_of_maps(doc, maps), strict=True)
                ]
            )
            means = _DECAY * means + (1 - _DECAY) * slopes
            squares = _DECAY_OF_SQUARES * squares + (1 - _DECAY_OF_SQUARES) * slopes**2
            mean = means / (1 - _DECAY**step)
            size = np.sqrt(squares / (1 - _DECAY_OF_SQUARES**step))
            # In place of Adam's epsilon, which would depend on the scale of the score.
            size += _LEAST * size.max(axis=1, keepdims=True)
            weights += _RATE * np.divide(mean, size, out=np.zeros(shape), where=size > 0)
            bar.update(1)
    return [Evidence(formula(activations, one)) for one in weights]


def _slopes_of_maps(
    doc: Subject, maps: Float64[np.ndarray, " targets *spatial"]
) -> list[Float64[np.ndarray, "*spatial"]]:
    """The derivatives of the score of each target by the map that it is seen through."""
    size, space = doc.values.shape[:-1], maps.shape[1:]
    enlarged = [resized(one, size) for one in maps]
    masks = np.stack([stretched(one) for one in enlarged]).astype(doc.values.dtype)
    found = []
    for some in parts(len(maps), doc.request.batch_size):
        # Of each target as the doc is seen through its own map, and not through those of others.
        each = range(some.stop - some.start)
        gradients = doc.gradients_at(masks[some, ..., np.newaxis] * doc.values)
        found += list(gradients[[*range(some.start, some.stop)], [*each]])
    return [
        slopes_before_resized(
            slopes_before_stretched((gradient * doc.values).sum(axis=-1), one), space
        )
        for gradient, one in zip(found, enlarged, strict=True)
    ]


def _slopes_of_weights(
    weights: Float64[np.ndarray, " channels"],
    activations: Float[np.ndarray, "*spatial channels"],
    of_map: Float64[np.ndarray, "*spatial"],
) -> Float64[np.ndarray, " channels"]:
    """The derivatives by weights of which a softmax is taken, from those by the map."""
    shares = np.exp(weights - weights.max())
    shares /= shares.sum()
    by_share = np.tensordot(of_map, activations.astype(np.float64), axes=of_map.ndim)
    slopes: np.ndarray = shares * (by_share - shares @ by_share)
    return slopes
