"""Ways that look at a layer: its activations, gradients, and what its channels do to the score."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np

from kerasight.base import RunError
from kerasight.cam.heatmap import Evidence
from kerasight.cam.maps import resized, stretched
from kerasight.cam.methods import grad_cam_plus_plus
from kerasight.keras.record import scores_of
from kerasight.keras.subject import Subject, parts

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = [
    "of_activations",
    "of_curvature",
    "of_drops",
    "of_gradients",
    "of_one_of_layers",
    "of_places",
    "of_scores_through_channels",
]


def of_activations(subject: Subject) -> list[Evidence]:
    """The formula of activations alone."""
    formula = subject.request.method.formula
    return [Evidence(formula(one.activations)) for one in subject.terms]


def of_gradients(subject: Subject) -> list[Evidence]:
    """The formula of activations and gradients."""
    formula = subject.request.method.formula
    return [Evidence(formula(one.activations, one.gradients)) for one in subject.terms]


def of_one_of_layers(subject: Subject) -> list[Evidence]:
    """What a layer has for a formula of the maps of several: that of Grad-CAM++, as its authors."""
    return [Evidence(grad_cam_plus_plus(one.activations, one.gradients)) for one in subject.terms]


def of_curvature(subject: Subject) -> list[Evidence]:
    """The formula of activations, gradients, and the second derivatives times the activations.

    These are how fast the gradients change as the layer's output grows by a share of itself, found
    from a little more and a little less of it. No framework needs to know second derivatives.
    """
    activations = subject.values
    step = _step_of(subject)
    near = np.stack([activations * (1 + step), activations * (1 - step)]).astype(activations.dtype)
    parts_of = parts(2, subject.request.batch_size)
    found = np.concatenate([subject.gradients_at(near[some]) for some in parts_of], axis=1)
    products = (found[:, 0] - found[:, 1]) / (2 * step)
    formula = subject.request.method.formula
    return [
        Evidence(formula(activations, one.gradients, product))
        for one, product in zip(subject.terms, products, strict=True)
    ]


def _step_of(subject: Subject) -> float:
    """The share by which to change a layer's output, to see how its gradients change.

    The error of a difference is that of the numbers divided by the step, plus the square of the
    step, so that the third root of the precision is best: 5e-3 in float32.
    """
    if subject.terms[0].layer.compute_dtype in _PRECISIONS:
        return float(_PRECISIONS[subject.terms[0].layer.compute_dtype] ** (1 / 3))
    return float(np.finfo(subject.values.dtype).eps ** (1 / 3))


# Of types in which a layer computes, and which come out of it as float32.
_PRECISIONS = {"float16": 2.0**-10, "bfloat16": 2.0**-7}


def of_places(subject: Subject) -> list[Evidence]:
    """The formula of the scores with the layer's output at one place alone, and zero elsewhere."""
    activations = subject.values
    spatial, rows = activations.shape[:-1], activations.reshape(-1, activations.shape[-1])

    def scores(places: slice) -> np.ndarray:
        kept = np.arange(places.start, places.stop)
        alone = np.zeros((len(kept), *rows.shape), rows.dtype)
        alone[np.arange(len(kept)), kept] = rows[kept]
        return subject.scores_at(alone.reshape(-1, *activations.shape))

    found = _one_by_one(subject, len(rows), "place", scores)
    formula = subject.request.method.formula
    return [
        Evidence(formula(activations, found[:, rank].reshape(spatial)))
        for rank in range(len(subject.terms))
    ]


def of_scores_through_channels(subject: Subject) -> list[Evidence]:
    """The formula of the scores of the doc seen through each channel of the layer."""
    anatomy, activations = subject.anatomy, subject.values
    doc = subject.numbers(subject.request.method.title + " masks the doc")
    size = anatomy.size_of_docs(subject.inputs)

    def scores(channels: slice) -> np.ndarray:
        maps = np.moveaxis(activations[..., channels], -1, 0)
        masks = np.asarray([stretched(resized(one, size)) for one in maps], doc.dtype)
        masks = anatomy.docs_of(masks[..., np.newaxis], doc.shape)
        return subject.scores(subject.inputs.with_docs(doc * masks))

    through = _one_by_one(subject, activations.shape[-1], "channel", scores)
    are_probabilities = _are_probabilities(subject)
    formula = subject.request.method.formula
    return [
        Evidence(formula(activations, through[:, rank], are_probabilities))
        for rank in range(len(subject.terms))
    ]


def _are_probabilities(subject: Subject) -> bool:
    """Whether the scores that are explained come out of a softmax or sigmoid.

    That is for the model to say, and the same for all docs. Only where it cannot be seen what the
    scores come out of, those of this doc are judged by their range.
    """
    scores = subject.terms[0].scores
    if subject.request.logits or scores.min() < 0 or scores.max() > 1:
        return False
    try:
        logits = scores_of(subject.anatomy, subject.inputs, logits=True)
    except RunError:  # they are not to be found
        return True
    return not np.allclose(logits, scores, rtol=1e-2, atol=1e-4)


def of_drops(subject: Subject) -> list[Evidence]:
    """The formula of how far the scores fall without a channel of the layer."""
    activations = subject.values

    def scores(channels: slice) -> np.ndarray:
        places = np.arange(channels.start, channels.stop)
        without = np.repeat(activations[np.newaxis], len(places), axis=0)
        np.moveaxis(without, -1, 1)[np.arange(len(places)), places] = 0
        return subject.scores_at(without)

    before = subject.score
    drops = before - _one_by_one(subject, activations.shape[-1], "channel", scores)
    formula = subject.request.method.formula
    return [Evidence(formula(activations, drops[:, rank])) for rank in range(len(subject.terms))]


def _one_by_one(
    subject: Subject,
    number: int,
    unit: str,
    scores: Callable[[slice], Float[np.ndarray, "some targets"]],
) -> Float[np.ndarray, "number targets"]:
    """Scores of the targets for each channel or place of the layer, a batch of them at a time.

    Args:
        subject: The doc.
        number: How many there are.
        unit: What one is called.
        scores: Given some of them, the scores for each.
    """
    found = []
    with closing(subject.bar(number, unit)) as bar:
        for some in parts(number, subject.request.batch_size):
            found.append(scores(some))
            bar.update(some.stop - some.start)
    return np.concatenate(found)
