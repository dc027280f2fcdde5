"""One file for each framework that Keras runs on, with the same functions in each.

A backend is imported only when Keras runs on it.
"""

from __future__ import annotations

import importlib
from typing import Any, Protocol, cast

import keras

from sightline.keras.backends.common import Candidates, Pass

__all__ = ["Backend", "current"]


class Backend(Protocol):
    """What each backend module offers."""

    def forward(self, model: keras.Model, docs: Any) -> None:
        """Run the model on ``docs`` in inference mode, so that what is not built yet gets built."""

    def forward_backward(
        self,
        model: keras.Model,
        docs: Any,
        targets: Any,
        layer: keras.layers.Layer | None,
        candidates: Candidates,
    ) -> Pass:
        """Run the model once, and differentiate scores with respect to a layer's output.

        Args:
            model: The classifier.
            docs: Array of shape ``(docs, ...)``.
            targets: Integer array of shape ``(docs, targets)``: indices of classes, not negative;
                or all `common.TOP` or all `common.LOWEST` for the classes with the greatest or
                the lowest scores.
            layer: The layer, or None to take the first of ``candidates`` that has a gradient.
            candidates: Given the calls of the pass, the positions of those to explain, the best
                first.
        """


def current() -> Backend:
    """The backend for the framework that Keras runs on.

    Raises:
        NotImplementedError: If there is none for it.
    """
    name = keras.config.backend()
    if name != "tensorflow":
        raise NotImplementedError(
            f"sightline explains models on Keras's tensorflow backend, and Keras runs on {name!r}; "
            "set the environment variable KERAS_BACKEND=tensorflow before importing keras"
        )
    return cast(Backend, importlib.import_module(f"{__name__}.{name}"))
