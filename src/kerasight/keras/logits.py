"""The scores before the final softmax or sigmoid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from kerasight.base import RunError
from kerasight.keras import backends

__all__ = ["HiddenLogitsError", "logits_of", "may_end_a_model"]


class HiddenLogitsError(RunError):
    """The scores look like probabilities, and it cannot be seen what they were made of."""


def may_end_a_model(layer: keras.layers.Layer) -> bool:
    """Whether a layer puts out what a softmax or sigmoid of Keras makes, or a sum with weights."""
    functions = [keras.activations.softmax, keras.activations.sigmoid]
    if isinstance(layer, (keras.layers.Dense, keras.layers.Conv2D)):
        functions.append(keras.activations.linear)
    activation = getattr(layer, "activation", None)
    return isinstance(layer, keras.layers.Softmax) or any(activation is one for one in functions)


def logits_of(model: keras.Model, scores: Any, ends: Sequence[tuple[Any, Any]]) -> Any:
    """What went into the softmax or sigmoid that scores came out of.

    Args:
        model: The model.
        scores: Its first output.
        ends: What went into the activations of layers that `may_end_a_model`, and what came out of
            them, in the order in which they ran.

    Returns:
        The logits, in the shape of the scores; the scores as they are if they came out of neither.

    Raises:
        HiddenLogitsError: If it cannot be told.
    """
    for given, output in reversed(ends):
        if output is scores:
            return given
    backend = backends.current()
    found = backend.logits(scores)
    # What lies outside of [0, 1] is no probability.
    if found is None and backend.is_eager() and bool(ops.any((scores < 0) | (scores > 1))):
        found = scores
    if found is None:
        raise HiddenLogitsError(
            f"the logits of model {model.name!r} cannot be found: its scores look like "
            "probabilities, but come from no softmax or sigmoid that can be seen; pass a model "
            "that ends in logits, and leave logits=True out"
        )
    return found
