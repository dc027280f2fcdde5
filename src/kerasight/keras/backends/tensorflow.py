"""TensorFlow: ``tf.GradientTape`` and ``tf.function``.

`kerasight.keras.backends.Backend` says what each function is for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from kerasight.keras.backends import (
    Linear,
    Watch,
    keeps_variables_alone,
    no_settings,
    of_wrong_shape,
    out_of_memory,
    without_colours,
)

__all__ = [
    "compiled",
    "compiles",
    "compiles_each_operation",
    "compiles_for_any_size",
    "inference",
    "is_eager",
    "is_foreign",
    "is_own",
    "is_tensor",
    "linearise",
    "logits",
    "runs_on_symbols",
    "scope",
    "settings",
    "told",
]

compiles = True
compiles_each_operation = False
inference = keeps_variables_alone
compiles_for_any_size = True
runs_on_symbols = False
settings = no_settings


def linearise(function: Callable[[Watch], tuple[Sequence[Any], Sequence[Any]]]) -> Linear:
    """Run a function under a tape."""
    # Persistent, so that it can be asked for several gradients. Variables need no watching: the
    # gradients end at what is watched.
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:

        def watch(tensor: tf.Tensor, is_itself: bool) -> tf.Tensor:
            # A layer may return its input. Without a copy, that would be taken for the output of
            # the layer before it, with all the other paths from there to the score.
            seen = tensor if is_itself else tf.identity(tensor)
            tape.watch(seen)
            return seen

        outputs, sources = function(watch)

    def pullback(seeds: tf.Tensor, output: int, of: Sequence[int]) -> list[tf.Tensor | None]:
        wanted = [sources[one] for one in of]

        def gradients(seed: tf.Tensor) -> list[tf.Tensor | None]:
            found = tape.gradient(outputs[output], wanted, output_gradients=seed)
            # They may be in slices.
            return [None if one is None else tf.convert_to_tensor(one) for one in found]

        if seeds.shape[0] is None:
            types = [one.dtype for one in wanted]
            several: list[tf.Tensor] = tf.map_fn(gradients, seeds, fn_output_signature=types)
            return several
        each = zip(*map(gradients, tf.unstack(seeds)), strict=True)
        return [None if one[0] is None else tf.stack(one) for one in each]

    return Linear(outputs, sources, pullback)


def compiled(
    function: Callable[..., Any],
    signature: Sequence[tuple[tuple[int | None, ...], str]],
    variables: Sequence[Any] = (),
) -> Callable[..., Any]:
    """Compile a function as a graph; TensorFlow prunes what its outputs do not need.

    A graph reads each variable when it runs, whichever they are.
    """
    specs = [tf.TensorSpec(shape, dtype) for shape, dtype in signature]
    made: Callable[..., Any] = tf.function(function, specs, autograph=False).get_concrete_function()
    return made


def is_tensor(value: Any) -> bool:
    """Whether something is neither ragged nor sparse."""
    return isinstance(value, tf.Tensor)


def is_eager() -> bool:
    """Whether no graph is being traced."""
    return bool(tf.executing_eagerly())


def scope() -> Any:
    """The graph that is being traced."""
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def is_foreign(value: Any, scope: Any) -> bool:
    """Whether a tensor is of another graph."""
    return tf.is_symbolic_tensor(value) and value.graph is not scope


# Where an operation ran, as TensorFlow names it.
_NODE = re.compile(r"\{\{function_node [^}]*\}\} ?")


def told(error: Exception, what: str) -> Exception:
    """An error without colours and names of nodes."""
    if isinstance(error, tf.errors.ResourceExhaustedError):
        return out_of_memory(what, _plain(error.message))
    if isinstance(error, tf.errors.InvalidArgumentError):
        return of_wrong_shape(what, _plain(error.message))
    if isinstance(error, tf.errors.OpError):
        plain: Exception = type(error)(error.node_def, error.op, _plain(error.message))
        return plain
    error.args = tuple(_plain(one) if isinstance(one, str) else one for one in error.args)
    return error


def _plain(message: str) -> str:
    return _NODE.sub("", without_colours(message))


def is_own(error: Exception) -> bool:
    """Whether an error was raised by an operation."""
    return isinstance(error, tf.errors.OpError)


# Undocumented: Keras notes the logits on the result of its softmax and sigmoid. Where it does not,
# the graph tells, which takes a trace.
_KERAS_LOGITS = "_keras_logits"

# Operations at the end of a graph that leave the scores what they are.
_PASSING_ON = ("BiasAdd", "Cast", "ExpandDims", "Identity", "Reshape", "Squeeze")


def logits(scores: tf.Tensor) -> tf.Tensor | None:
    """What Keras noted, or what the graph says."""
    found = getattr(scores, _KERAS_LOGITS, None)
    if found is not None and found.shape.is_compatible_with(scores.shape):
        return found
    return _logits_in_graph(scores) if tf.is_symbolic_tensor(scores) else None


def _logits_in_graph(scores: tf.Tensor) -> tf.Tensor | None:
    """What went into the softmax or sigmoid at the end of a graph, in the shape of the scores.

    The scores themselves if they come from a matrix multiplication or convolution; None if neither
    can be told.
    """
    tensor = scores
    while True:
        operation = tensor.op
        if operation.type in ("Softmax", "Sigmoid"):
            return tf.reshape(operation.inputs[0], tf.shape(scores))
        if operation.type in ("MatMul", "BatchMatMulV2", "Einsum", "Conv2D"):
            return scores
        is_passed_on = operation.type in _PASSING_ON or (
            operation.type in ("Add", "AddV2") and _is_variable(operation.inputs[1])
        )
        if not is_passed_on:
            return None
        tensor = operation.inputs[0]


def _is_variable(tensor: tf.Tensor) -> bool:
    """Whether a tensor in a graph is a weight, whatever its shape was made to be."""
    while tensor.op.type in _PASSING_ON and tensor.op.type != "BiasAdd":
        tensor = tensor.op.inputs[0]
    return bool(tensor.op.type == "ReadVariableOp")
