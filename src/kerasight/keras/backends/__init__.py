"""One file for each framework that Keras runs on, with the same functions in each.

A backend is imported only when Keras runs on it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

import keras

from kerasight.keras.backends.common import Chooser, Pass, Rivals

if TYPE_CHECKING:
    from kerasight.keras.sites import Site

__all__ = ["Backend", "current"]


class Backend(Protocol):
    """What each backend module offers."""

    def forward(
        self, model: keras.Model, docs: Any, layers: Sequence[keras.layers.Layer] = ()
    ) -> list[keras.layers.Layer]:
        """Run the model on ``docs`` in inference mode, so that what is not built yet gets built.

        Args:
            model: The model.
            docs: Array of shape ``(docs, ...)``.
            layers: Layers of which to note when they run.

        Returns:
            Those of ``layers`` that ran, in the order in which they ended, as often as they ran.
        """

    def scores(self, model: keras.Model, docs: Any, logits: bool) -> Any:
        """Run the model on ``docs``: its scores, array of shape ``(docs, classes)``.

        Args:
            model: The classifier.
            docs: Array of shape ``(docs, ...)``.
            logits: Whether to give what went into the final softmax or sigmoid. A model without
                one gives what it puts out.

        Raises:
            ValueError: If the output is not one score a class, or the logits cannot be found.
        """

    def scorer(self, model: keras.Model, docs: Any, logits: bool) -> Callable[[Any], Any]:
        """`scores` as a function of the docs, for a thousand and more; it takes time to make.

        Args:
            model: The classifier, which has run.
            docs: Array of the shape and type that docs will have, however many.
            logits: As in `scores`.

        Returns:
            The function. It holds while the model stays as it is, weights included.
        """

    def forward_backward(
        self,
        model: keras.Model,
        docs: Any,
        targets: Any,
        chooser: Chooser,
        logits: bool,
        rivals: Rivals | None,
    ) -> Pass:
        """Run the model once, and differentiate scores with respect to what is seen at a site.

        Args:
            model: The classifier.
            docs: Array of shape ``(docs, ...)``.
            targets: Integer array of shape ``(docs, targets)``: indices of classes, not negative;
                or all `common.TOP` or all `common.LOWEST` for the classes with the greatest or
                the lowest scores.
            chooser: Says where to look; of the positions that it gives, the first that has a
                gradient is taken.
            logits: As in `scores`.
            rivals: If given, what is differentiated is the score of a class less a share of the
                mean score of these others.
        """

    def scores_after(
        self, model: keras.Model, doc: Any, site: Site, logits: bool
    ) -> Callable[[Any], Any]:
        """The scores of one doc as a function of what is seen at a site.

        No more of the model is run than needs to be, as far as it can be told.

        Args:
            model: The classifier.
            doc: Array of shape ``(1, ...)``.
            site: The site, as a pass gave it.
            logits: As in `scores`.

        Returns:
            A function from what could be seen there ``(outputs, ...)``, in the model's layout, to
            scores ``(outputs, classes)``.
        """


def current() -> Backend:
    """The backend for the framework that Keras runs on.

    Raises:
        NotImplementedError: If there is none for it.
    """
    name = keras.config.backend()
    if name != "tensorflow":
        raise NotImplementedError(
            f"kerasight explains models on Keras's tensorflow backend, and Keras runs on {name!r}; "
            "set the environment variable KERAS_BACKEND=tensorflow before importing keras"
        )
    return cast(Backend, importlib.import_module(f"{__name__}.{name}"))
