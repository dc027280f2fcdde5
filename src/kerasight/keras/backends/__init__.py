"""One file for each framework that Keras runs on, with the same few names in each.

A backend is two primitives, to linearise a run and to compile a function, and what is to be known
about the framework's tensors and errors; all thinking is done above, in ``keras.ops``. It is
imported only when Keras runs on it.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, cast

import keras

from kerasight.base import RunError

__all__ = [
    "Backend",
    "Linear",
    "Reading",
    "Watch",
    "current",
    "environment",
    "keeps_variables_alone",
    "names",
    "no_settings",
    "of_numpy_arrays",
    "of_wrong_shape",
    "out_of_memory",
    "without_colours",
]

# Given a tensor: the tensor to go on with, by which outputs can be differentiated. If the second
# argument is True, it is the same tensor, so that its uses before this one count as well.
Watch = Callable[[Any, bool], Any]


@dataclass(frozen=True)
class Linear:
    """A run of a function, and its derivative there.

    Attributes:
        outputs: What the function returned to be differentiated, with values where operations run
            at once.
        sources: What it returned to differentiate by, so too.
        pullback: ``pullback(seeds, output, sources)``: the gradients of the output at a position,
            weighed by each of ``seeds``, shape ``(seeds, *output.shape)``, with respect to the
            sources at some positions, all of them by one way back: a list with one of shape
            ``(seeds, *source.shape)`` for each; None if the output does not depend on it.
    """

    outputs: Sequence[Any]
    sources: Sequence[Any]
    pullback: Callable[[Any, int, Sequence[int]], list[Any]]


class Backend(Protocol):
    """What each backend module offers.

    Attributes:
        compiles: Whether it compiles functions; else each runs operation by operation, every time.
        compiles_each_operation: Whether operations that run at once are compiled one by one when
            they first run, so that it takes less time to compile a whole pass.
        compiles_for_any_size: Whether what it compiles takes tensors of any size where the
            signature says None; else each size must be given.
        runs_on_symbols: Whether tensors of a linearised run mean nothing outside of it.
    """

    compiles: bool
    compiles_each_operation: bool
    compiles_for_any_size: bool
    runs_on_symbols: bool

    def inference(
        self, layers: Sequence[Any], *, is_linearised: bool, logits: bool
    ) -> AbstractContextManager[Sequence[tuple[Any, Any]]]:
        """A block in which a model runs, and that leaves what the framework keeps of it as it was.

        Args:
            layers: The model, and all layers inside it.
            is_linearised: Whether this is in `linearise`; else nothing is to be differentiated.
            logits: Whether `logits` is to be asked of what comes of it.

        Returns:
            The block. It gives variables, each with the value that it must have there; those that
            it does not name have their own.
        """

    def linearise(self, function: Callable[[Watch], tuple[Sequence[Any], Sequence[Any]]]) -> Linear:
        """Run a function so that its outputs can be differentiated by what it watches.

        Args:
            function: Called with a function ``watch``, through which it passes each tensor that
                the outputs are to be differentiated by. It returns its outputs and what it watched,
                each with None in the place of what is not wanted. While it runs, the tensors may
                be symbols that have values (``bool(tensor)``) but are no arrays.
        """

    def compiled(
        self,
        function: Callable[..., Any],
        signature: Sequence[tuple[tuple[int | None, ...], str]],
        variables: Sequence[Any] = (),
    ) -> Callable[..., Any]:
        """Compile a function of tensors for their shapes and types.

        Operations that the result does not depend on are not run.

        Args:
            function: Takes tensors, and returns one or a tuple of them.
            signature: The shape and type of each, with None for a size that may be any.
            variables: Those of Keras's that the function reads: it has their values at each run.

        Raises:
            Exception: Whatever the function raises; `NotImplementedError` if the backend does not
                compile.
        """

    def is_tensor(self, value: Any) -> bool:
        """Whether something is a dense tensor of the framework's."""

    def is_eager(self) -> bool:
        """Whether operations run at once; else they are noted, to be compiled."""

    def scope(self) -> Any:
        """What operations are noted in, or by what they are transformed; compared by ``==``."""

    def is_foreign(self, value: Any, scope: Any) -> bool:
        """Whether a tensor belongs to another scope than this, and so has no value in it."""

    def settings(self) -> Hashable:
        """The framework's settings that what is compiled holds as they were, beside the model."""

    def logits(self, scores: Any) -> Any:
        """What went into the softmax or sigmoid that scores came out of.

        As far as the framework tells: the scores if they came out of neither, None if it does not.
        Where operations are noted to be compiled, the error may come later, in `compiled`.
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
    if name not in names:
        raise NotImplementedError(
            f"kerasight explains models on Keras's {' and '.join(names)} backends, and Keras runs "
            f"on {name!r}; set the environment variable KERAS_BACKEND={names[0]} before importing "
            "keras"
        )
    return cast(Backend, importlib.import_module(f"{__name__}.{name}"))


def environment(threads: int) -> dict[str, str]:
    """What another process must have in its environment to run Keras as this one does.

    Args:
        threads: How many threads the framework then has on the CPU.
    """
    # Of PyTorch and NumPy; of TensorFlow; of JAX, which has no other way to tell it.
    limits = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "NPROC")
    return {"KERAS_BACKEND": keras.config.backend(), **dict.fromkeys(limits, str(threads))}


names = ("tensorflow", "jax", "torch")
"""What the frameworks are called, as ``KERAS_BACKEND`` takes it."""


def keeps_variables_alone(
    layers: Sequence[Any], *, is_linearised: bool, logits: bool
) -> AbstractContextManager[Sequence[tuple[Any, Any]]]:
    """`Backend.inference` where a model keeps nothing of the framework but Keras's variables."""
    return nullcontext(())


def no_settings() -> Hashable:
    """`Backend.settings` where what is compiled holds none, or nothing is compiled."""
    return ()


class Reading(keras.StatelessScope):  # type: ignore[misc]
    """A scope with values for variables, that notes which others are read in it."""

    def __init__(self, values: Iterable[tuple[Any, Any]], others: dict[int, Any]) -> None:
        """Map variables to values.

        Args:
            values: Variables, and a value for each.
            others: Where to note the others, by their ids.
        """
        super().__init__(state_mapping=list(values))
        self._others = others

    def get_current_value(self, variable: Any) -> Any:
        """The value of a variable in the scope; None if it has none."""
        found = super().get_current_value(variable)
        if found is None:
            self._others[id(variable)] = variable
        return found


# What backends say of errors, in the same words.

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def without_colours(message: str) -> str:
    """A message of Keras, as it is shown where there is no terminal."""
    return _COLOURS.sub("", message)


def out_of_memory(what: str, message: str) -> MemoryError:
    """The error of a run for which the memory did not suffice, and what to do about it."""
    return MemoryError(
        f"memory ran out as {what} ran; pass a smaller batch_size, or smaller docs ({message})"
    )


def of_numpy_arrays(what: str) -> RunError:
    """The error of a run in which tensors are to become arrays, and what to do about it."""
    return RunError(
        f"{what} makes NumPy arrays of its tensors as it runs, so that what it does cannot be "
        "differentiated; write its call in keras.ops"
    )


def of_wrong_shape(what: str, message: str) -> ValueError:
    """The error of a run on docs of a shape that does not fit."""
    return ValueError(f"{what} cannot be run on a doc of this shape: {message}")
