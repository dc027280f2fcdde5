"""The registry: which explainer answers for which type of model."""

from __future__ import annotations

import sys
from functools import singledispatch
from typing import Any

from sightline.base import Explanation

__all__ = ["explain_prediction"]


@singledispatch
def explain_prediction(estimator: Any, doc: Any, **kwargs: Any) -> Explanation:
    """Explain one prediction of a model.

    Does no work of its own: it calls the explainer registered for the type of ``estimator``. Keras
    models go to `sightline.keras.explain_prediction.explain_prediction_keras`, whose documentation
    lists the arguments. Add a type of your own with ``@explain_prediction.register(YourType)``.

    Args:
        estimator: The model. Must be passed by position.
        doc: The input whose prediction is to be explained, with its batch axis: for a Keras image
            model an array of shape ``(1, height, width, channels)``.
        **kwargs: Passed on to the explainer: ``targets``, ``layer`` and ``image`` for Keras models.

    Returns:
        The explanation. For a model of an unknown type, an ``Explanation`` whose ``error`` says so.
    """
    if _registers_now(estimator):
        return explain_prediction(estimator, doc, **kwargs)
    error = f"estimator {estimator!r} is not supported: sightline explains Keras 3 models"
    if type(estimator).__module__.startswith("tf_keras"):
        error += ", and this is a model of Keras 2 (tf_keras); rebuild or load it with Keras 3"
    return Explanation(estimator=repr(estimator), error=error)


def _registers_now(estimator: Any) -> bool:
    """Register the Keras explainer if ``estimator`` is a Keras model and it is not there yet.

    A framework is imported only once an object of the user's comes from it.
    """
    keras = sys.modules.get("keras")
    if keras is None or not isinstance(estimator, keras.Model):
        return False
    unregistered = explain_prediction.dispatch(type(estimator))
    import sightline.keras.explain_prediction  # noqa: F401  # registers itself

    return explain_prediction.dispatch(type(estimator)) is not unregistered
