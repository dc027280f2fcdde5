"""Ways that look at a layer: its activations, gradients, and what its channels do to the score."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np

from kerasight.base import RunError
from kerasight.cam.heatmap import Evidence
from kerasight.cam.maps import resized, stretched
from kerasight.keras.record import scores_of
from kerasight.keras.subject import Subject, parts

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["of_activations", "of_drops", "of_gradients", "of_scores_through_channels"]


def of_activations(subject: Subject) -> list[Evidence]:
    """The formula of activations alone."""
    formula = subject.request.method.formula
    return [Evidence(formula(one.activations)) for one in subject.terms]


def of_gradients(subject: Subject) -> list[Evidence]:
    """The formula of activations and gradients."""
    formula = subject.request.method.formula
    return [Evidence(formula(one.activations, one.gradients)) for one in subject.terms]


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

    through, are_probabilities = _by_channel(subject, scores), _are_probabilities(subject)
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
    drops = before - _by_channel(subject, scores)
    formula = subject.request.method.formula
    return [Evidence(formula(activations, drops[:, rank])) for rank in range(len(subject.terms))]


def _by_channel(
    subject: Subject, scores: Callable[[slice], Float[np.ndarray, "channels targets"]]
) -> Float[np.ndarray, "all targets"]:
    """Scores of the targets for each channel of the layer, a batch of them at a time.

    Args:
        subject: The doc.
        scores: Given some of the channels, the scores for each.
    """
    channels = subject.values.shape[-1]
    found = []
    with closing(subject.bar(channels, "channel")) as bar:
        for some in parts(channels, subject.request.batch_size):
            found.append(scores(some))
            bar.update(some.stop - some.start)
    return np.concatenate(found)
