"""The registry of explainers by type of model."""

from __future__ import annotations

import inspect
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import singledispatch, wraps
from typing import Any, TypeVar, cast

from kerasight.base import Explanation
from kerasight.checks import nearest

__all__ = ["explain_prediction", "explain_predictions", "not_supported"]

Registry = TypeVar("Registry", bound=Callable[..., Any])


def _front_of(registry: Registry) -> Registry:
    """The function that users call: it registers the Keras explainers when they are first needed.

    Its errors about arguments have its own name. Python's would have the name of the explainer
    behind it, which the user did not call.
    """

    @wraps(registry)  # with ``register``, ``dispatch`` and ``registry``
    def call(*args: Any, **kwargs: Any) -> Any:
        if args:
            _register_for(args[0])
        try:
            return registry(*args, **kwargs)
        except TypeError:
            problem = _problem_of(registry, args, kwargs)
            if problem is None:
                raise
            raise TypeError(f"{registry.__name__}() {problem}") from None

    return cast(Registry, call)


def _problem_of(registry: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """What is wrong with the names or the number of arguments; None if nothing is."""
    if not args:
        return f"takes the model by position, as in {registry.__name__}(model, doc)"
    signature = inspect.signature(registry.dispatch(type(args[0])))
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        unknown = [name for name in kwargs if name not in signature.parameters]
        return f"{error}{_advice(unknown[0], list(signature.parameters)[2:]) if unknown else ''}"
    return None


def _advice(unknown: str, known: list[str]) -> str:
    """What to pass instead of an unknown argument."""
    from kerasight.ipython import FORMAT_KWARGS

    if unknown in FORMAT_KWARGS:
        return "; it is about the picture: pass it to show_prediction or format_as_image"
    return nearest(unknown, [*known, *FORMAT_KWARGS], most=1) or f"; known are {', '.join(known)}"


@_front_of
@singledispatch
def explain_prediction(estimator: Any, doc: Any, **kwargs: Any) -> Explanation:
    """Explain one prediction of a model.

    Calls the explainer that is registered for the type of ``estimator``. For Keras models this is
    `kerasight.explain_prediction_keras`. Its documentation says what ``targets``, ``layer`` and
    ``image`` mean; that of `kerasight.cam.request.Request` says it of ``method``, ``logits`` and
    all other options. Add a type of your own with ``@explain_prediction.register(YourType)``.

    Args:
        estimator: The model. Must be passed by position.
        doc: The input, with its batch axis: for a Keras model of pictures an array of shape
            ``(1, height, width, channels)``.
        **kwargs: Passed on to the explainer: for Keras models ``targets``, ``layer`` and ``image``,
            which may also come by position, in this order; ``top_targets`` and ``target_names``;
            and the options.

    Returns:
        The explanation. For a model of an unknown type, an ``Explanation`` whose ``error`` says so.

    Raises:
        TypeError: If an argument is unknown. The explainer raises all other errors.
    """
    return not_supported(estimator)


@_front_of
@singledispatch
def explain_predictions(estimator: Any, docs: Any, **kwargs: Any) -> Iterator[Explanation]:
    """Explain the predictions of a model for many inputs, as a stream.

    Calls the explainer that is registered for the type of ``estimator``. For Keras models this is
    `kerasight.keras.explain_predictions.explain_predictions_keras`. Its documentation says what
    ``targets``, ``layer`` and ``images`` mean; that of `kerasight.cam.request.Request` says it of
    ``method``, ``logits`` and all other options.

    Args:
        estimator: The model. Must be passed by position.
        docs: The inputs: an array ``(docs, height, width, channels)``, or any iterable of docs or
            batches.
        **kwargs: Passed on to the explainer: for Keras models ``targets`` or ``top_targets``,
            ``target_names``, ``layer``, ``images``, ``errors``, and the options.

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
    return (not_supported(estimator) for _ in docs)


def not_supported(estimator: Any) -> Explanation:
    """The result for an object of an unknown type: an ``Explanation`` with an ``error``."""
    shown = textwrap.shorten(repr(estimator), 200, placeholder=" ...")
    error = f"estimator {shown} is not supported: kerasight explains Keras 3 models"
    if isinstance(estimator, (str, os.PathLike)):
        error += "; load the file with keras.models.load_model, and pass the model"
    if type(estimator).__module__.startswith("tf_keras"):
        error += ", and this is a model of Keras 2 (tf_keras); rebuild or load it with Keras 3"
    return Explanation(estimator=shown, error=error)


def _register_for(estimator: Any) -> None:
    """Register the Keras explainers for a Keras model.

    kerasight imports a framework only once the user passes an object of it.
    """
    keras = sys.modules.get("keras")
    if keras is not None and isinstance(estimator, keras.Model):
        # These register themselves.
        import kerasight.keras.explain_prediction
        import kerasight.keras.explain_predictions  # noqa: F401
