"""One file for each framework that Keras runs on, with the same few names in each.

A backend is two primitives, to linearise a run and to compile a function, and what is to be known
about the framework's tensors and errors; all thinking is done above, in ``keras.ops``. It is
imported only when Keras runs on it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import keras

__all__ = ["Backend", "Linear", "Watch", "current"]

# Given a tensor: the tensor to go on with, by which outputs can be differentiated. If the second
# argument is True, it is the same tensor, so that its uses before this one count as well.
Watch = Callable[[Any, bool], Any]


@dataclass(frozen=True)
class Linear:
    """A run of a function, and its derivative there.

    Attributes:
        found: What the function returned.
        pullback: ``pullback(seeds, output, source)``: the gradients of a tensor ``output`` of the
            run, weighed by each of ``seeds``, shape ``(seeds, *output.shape)``, with respect to a
            tensor ``source`` that was watched: shape ``(seeds, *source.shape)``; None if the one
            does not depend on the other.
    """

    found: Any
    pullback: Callable[[Any, Any, Any], Any]


class Backend(Protocol):
    """What each backend module offers."""

    def linearise(self, function: Callable[[Watch], Any]) -> Linear:
        """Run a function so that its outputs can be differentiated by what it watches.

        Args:
            function: Called with a function ``watch``, through which it passes each tensor that
                the outputs are to be differentiated by.
        """

    def compiled(
        self,
        function: Callable[..., Any],
        signature: Sequence[tuple[tuple[int | None, ...], str]],
    ) -> Callable[..., Any]:
        """Compile a function of tensors for their shapes and types.

        Operations that the result does not depend on are not run.

        Args:
            function: Takes tensors, and returns one or a tuple of them.
            signature: The shape and type of each, with None for a size that may be any.

        Raises:
            Exception: Whatever the function raises; `NotImplementedError` if the framework
                compiles nothing.
        """

    def is_tensor(self, value: Any) -> bool:
        """Whether something is a dense tensor of the framework's."""

    def scope(self) -> Any:
        """What operations are noted in instead of being run; None where they run at once."""

    def is_foreign(self, value: Any, scope: Any) -> bool:
        """Whether a tensor belongs to another scope than this, and so has no value in it."""

    def logits(self, scores: Any) -> Any:
        """What went into the softmax or sigmoid that scores came out of.

        As far as the framework tells: the scores if they came out of neither, None if it does not.
        """

    def told(self, error: Exception, what: str) -> Exception:
        """An error of a run as a person reads it.

        Args:
            error: What Keras or the framework raised.
            what: What was run.

        Returns:
            A ``MemoryError`` if memory ran out, a ``ValueError`` if shapes do not fit; or the error
            itself, in plain words.
        """

    def is_own(self, error: Exception) -> bool:
        """Whether an error is the framework's, raised where its operations run."""


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
