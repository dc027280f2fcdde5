"""Ways that look at all blocks of a transformer: what each attends to, and how the score asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kerasight.cam.heatmap import Evidence
from kerasight.keras.subject import Subject

if TYPE_CHECKING:
    from jaxtyping import Float64

__all__ = ["of_blocks", "of_blocks_and_gradients", "of_gradients_by_block"]


def of_blocks(subject: Subject) -> list[Evidence]:
    """The formula of what all blocks attend to."""
    formula = subject.request.method.formula
    return [_at_places(subject, formula(one.attentions, one.readers)) for one in subject.terms]


def of_blocks_and_gradients(subject: Subject) -> list[Evidence]:
    """The formula of what all blocks attend to, and of the gradients with respect to it."""
    formula = subject.request.method.formula
    return [
        _at_places(subject, formula(one.attentions, one.slopes, one.readers))
        for one in subject.terms
    ]


def of_gradients_by_block(subject: Subject) -> list[Evidence]:
    """The formula of the gradients of what the head gives to each block's tokens.

    Where a mask forbids attention, as to padding, it is zero, and there is none to be asked for.
    """
    formula = subject.request.method.formula
    return [
        _at_places(
            subject,
            formula(
                [
                    np.where(attention, slope, 0)
                    for attention, slope in zip(one.attentions, one.slopes, strict=True)
                ]
            ),
        )
        for one in subject.terms
    ]


def _at_places(subject: Subject, relevance: Float64[np.ndarray, " tokens"]) -> Evidence:
    """The relevance of tokens as evidence: of those that have a place, and there."""
    layout = subject.site.layout
    assert layout is not None
    return Evidence(layout.unfold(relevance[np.newaxis, :, np.newaxis])[0, ..., 0])
