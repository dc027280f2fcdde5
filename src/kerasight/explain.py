"""The registry: which explainer answers for which type of model."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterator
from functools import singledispatch
from typing import Any

from kerasight.base import Explanation

__all__ = ["explain_prediction", "explain_predictions"]


@singledispatch
def explain_prediction(estimator: Any, doc: Any, **kwargs: Any) -> Explanation:
    """Explain one prediction of a model.

    Does no work of its own: it calls the explainer registered for the type of ``estimator``. Keras
    models go to `kerasight.explain_prediction_keras`, whose documentation lists the arguments. Add
    a type of your own with ``@explain_prediction.register(YourType)``.

    Args:
        estimator: The model. Must be passed by position.
        doc: The input whose prediction is to be explained, with its batch axis: for a Keras image
            model an array of shape ``(1, height, width, channels)``.
        **kwargs: Passed on to the explainer: for Keras models ``targets`` or ``top_targets``,
            ``target_names``, ``layer``, ``image``, ``method``, ``logits``, ``relu``,
            ``counterfactual``, ``smooth``, ``seed``, ``batch_size`` and ``progress``.

    Returns:
        The explanation. For a model of an unknown type, an ``Explanation`` whose ``error`` says so.
    """
    if _registers_now(estimator, explain_prediction):
        return explain_prediction(estimator, doc, **kwargs)
    return _not_supported(estimator)


@singledispatch
def explain_predictions(estimator: Any, docs: Any, **kwargs: Any) -> Iterator[Explanation]:
    """Explain the predictions of a model for many inputs, as a stream.

    Does no work of its own: Keras models go to
    `kerasight.keras.explain_predictions.explain_predictions_keras`, whose documentation lists the
    arguments.

    Args:
        estimator: The model. Must be passed by position.
        docs: The inputs: an array ``(docs, height, width, channels)``, or anything to iterate over
            that holds docs or batches.
        **kwargs: Passed on to the explainer: for Keras models ``targets`` or ``top_targets``,
            ``target_names``, ``layer``, ``images``, ``batch_size``, ``progress``, ``errors``,
            ``method``, ``logits``, ``relu``, ``counterfactual``, ``smooth`` and ``seed``.

    Returns:
        An iterator over explanations, one for each doc and in order. For a model of an unknown
        type, explanations whose ``error`` says so.

    Example:
        >>> import numpy as np
        >>> import kerasight
        >>> from kerasight import demo
        >>> model = demo.load_model()
        >>> docs = np.concatenate([demo.preprocess(demo.load_picture())] * 3)
        >>> names = demo.CLASS_NAMES
        >>> for expl in kerasight.explain_predictions(model, docs, target_names=names):
        ...     print(expl.targets[0].name)
        rocket
        rocket
        rocket
    """
    if _registers_now(estimator, explain_predictions):
        return explain_predictions(estimator, docs, **kwargs)
    return (_not_supported(estimator) for _ in docs)


def _not_supported(estimator: Any) -> Explanation:
    shown = textwrap.shorten(repr(estimator), 200, placeholder=" ...")
    error = f"estimator {shown} is not supported: kerasight explains Keras 3 models"
    if isinstance(estimator, (str, os.PathLike)):
        error += "; load the file with keras.models.load_model, and pass what that gives"
    if type(estimator).__module__.startswith("tf_keras"):
        error += ", and this is a model of Keras 2 (tf_keras); rebuild or load it with Keras 3"
    return Explanation(estimator=shown, error=error)


def _registers_now(estimator: Any, registry: Any) -> bool:
    """Register the Keras explainers for a Keras model, if ``registry`` does not have them yet.

    A framework is imported only once an object of the user's comes from it.
    """
    keras = sys.modules.get("keras")
    if keras is None or not isinstance(estimator, keras.Model):
        return False
    unregistered = registry.dispatch(type(estimator))
    # These register themselves.
    import kerasight.keras.explain_prediction
    import kerasight.keras.explain_predictions  # noqa: F401

    return registry.dispatch(type(estimator)) is not unregistered
