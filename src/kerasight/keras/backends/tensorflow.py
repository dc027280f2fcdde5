"""Record a layer's output and the gradients of scores, with ``tf.GradientTape``.

The same few lines run eagerly when a model is first seen, and compiled with ``tf.function`` from
the second time on.
"""

from __future__ import annotations

import contextlib
import re
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasight.keras.backends.common import (
    LOWEST,
    TOP,
    Candidates,
    Pass,
    Rivals,
    check_references,
    check_scores,
    check_targets,
)
from kerasight.keras.layers import children, children_with_maps, declared_inputs, guessed, walk
from kerasight.keras.tap import tapped
from kerasight.keras.traces import WORTH_A_TRACE, Traces, traces_of

__all__ = ["forward", "forward_backward", "scores", "scores_after"]

# Between 0 and 6e-8 float16 has nothing, and there the gradients of a probability often lie. So
# they are taken of a multiple of the score, the greatest of these at which nothing overflows.
_FLOAT16_SCALES = (2.0**24, 2.0**15, 2.0**8, 1.0)


def forward(model: keras.Model, docs: np.ndarray) -> None:
    """Run the model on ``docs`` in inference mode, so that what is not built yet gets built."""
    _scores(model, tf.convert_to_tensor(docs))


# Undocumented: Keras hangs on what comes out of its softmax and sigmoid what went in. Where it does
# not, the graph is asked, which takes longer.
_KERAS_LOGITS = "_keras_logits"

# Operations at the end of a graph that leave the scores what they are.
_PASSING_ON = ("BiasAdd", "Cast", "ExpandDims", "Identity", "Reshape", "Squeeze")


class _HiddenLogitsError(ValueError):
    """The scores look like probabilities, and where they come from is not to be seen."""


def scores(model: keras.Model, docs: np.ndarray, logits: bool = False) -> np.ndarray:
    """Run the model once: its scores, shape ``(docs, classes)``.

    `kerasight.keras.backends.Backend` has the arguments.
    """
    inputs = tf.convert_to_tensor(docs)
    shape = _traced_shape(model, inputs)
    traces = traces_of(model)
    key = ("scores", shape, inputs.dtype, logits)

    def traced() -> Any:
        return traces.get(key, key, lambda: _traced_scores(model, shape, inputs.dtype, logits))

    if len(docs) >= WORTH_A_TRACE and model.built:
        traces.count(model, key, len(docs))  # for the reason given in `forward_backward`
    found, trace = None, traced()
    if trace is not None:
        # What fails compiled is run again eagerly, where it fails with a better message.
        with contextlib.suppress(tf.errors.OpError):
            found = trace(inputs)
    if found is None:
        try:
            found = _scores_alone(model, inputs, logits)
            traces.count(model, key, len(docs))
        except _HiddenLogitsError:
            traces.count(model, key, WORTH_A_TRACE)
            trace = traced()
            if trace is None:
                raise
            found = trace(inputs)
    check_scores(tuple(found.shape))
    return tf.cast(found, _wide(found.dtype)).numpy()  # type: ignore[no-any-return]


def _traced_scores(
    model: keras.Model, shape: tuple[int | None, ...], dtype: tf.DType, logits: bool
) -> Any:
    weak_model = weakref.ref(model)  # the function lives on in its trace

    def run(inputs: tf.Tensor) -> tf.Tensor:
        return _scores_alone(weak_model(), inputs, logits)

    signature = [tf.TensorSpec(shape, dtype)]
    return tf.function(run, signature, autograph=False).get_concrete_function()


def _scores_alone(model: keras.Model, inputs: tf.Tensor, logits: bool) -> tf.Tensor:
    """The scores, where nothing else is to be seen."""
    with tapped(_compiled(model), lambda _, output: output), _changing_nothing(model):
        return _scores(model, inputs, logits)


def forward_backward(
    model: keras.Model,
    docs: np.ndarray,
    targets: np.ndarray,
    layer: keras.layers.Layer | None,
    candidates: Candidates,
    logits: bool = False,
    rivals: Rivals | None = None,
) -> Pass:
    """Run the model once, and differentiate scores with respect to a layer's output.

    `kerasight.keras.backends.Backend` has the arguments.
    """
    inputs = tf.convert_to_tensor(docs)
    shape = _traced_shape(model, inputs)
    traces = traces_of(model)
    choice = (inputs.shape[1:], inputs.dtype)
    several = targets.shape[1] > 1

    def counted(layer: keras.layers.Layer) -> tuple[Any, ...]:
        compares = None if rivals is None else (rivals.number, rivals.references is None)
        return (weakref.ref(layer), shape, inputs.dtype, logits, compares)

    def traced(layer: keras.layers.Layer) -> _Trace | None:
        key = counted(layer)
        found = traces.get(
            (*key, several),
            key,
            lambda: _Trace(model, layer, shape, inputs.dtype, several, logits, rivals),
        )
        return found if isinstance(found, _Trace) else None

    def run_first(docs: int) -> Pass:
        """Run some of the docs eagerly, which tells which layer it is."""
        result = _run_eagerly(
            model, inputs[:docs], targets[:docs], layer, candidates, logits, rivals
        )
        if result.gradients is not None:
            _count(traces, model, counted(result.layer), docs, choice, layer)
        return result

    known = traces.chosen(choice) if layer is None else layer
    trace = None if known is None else traced(known)
    try:
        if trace is None and len(inputs) >= WORTH_A_TRACE:
            # Many at once, eagerly, would take longer than a trace, and more memory by far: Keras
            # keeps what every layer put out.
            known = known or run_first(1).layer
            if known is not None:
                _count(traces, model, counted(known), len(inputs), choice, layer)
                trace = traced(known)
        if trace is not None:
            # What fails compiled is run again eagerly, where it fails with a better message.
            with contextlib.suppress(tf.errors.OpError):
                return trace.run(known, inputs, targets, rivals)
        return run_first(len(inputs))
    except _HiddenLogitsError:
        # A graph tells more: what each operation is, and what went into it.
        result = _run_eagerly(model, inputs, targets, layer, candidates)
        if result.gradients is None:
            return result
        _count(traces, model, counted(result.layer), WORTH_A_TRACE, choice, layer)
        trace = traced(result.layer)
        if trace is None:
            raise
        return trace.run(result.layer, inputs, targets, rivals)


def _count(
    traces: Traces, model: keras.Model, key: Any, docs: int, choice: Any, given: Any
) -> None:
    """Note that docs went through an eager pass, and which layer was chosen for them."""
    if traces.count(model, key, docs) and given is None:
        traces.choose(choice, key[0]())


def scores_after(
    model: keras.Model, doc: np.ndarray, layer: keras.layers.Layer, logits: bool = False
) -> Callable[[np.ndarray], np.ndarray]:
    """The scores of one doc as a function of what a layer puts out.

    `kerasight.keras.backends.Backend` has the arguments.
    """
    inputs = tf.convert_to_tensor(doc)
    shape = _traced_shape(model, inputs)
    traces = traces_of(model)
    key = ("after", weakref.ref(layer), shape, inputs.dtype, logits)
    traces.count(model, key, WORTH_A_TRACE)  # there are many outputs to come
    rest = traces.get(
        key, key, lambda: _traced_rest(model, layer, shape, inputs.dtype, logits)
    ) or _eager_rest(model, layer, inputs, logits)
    repeated: tf.Tensor = inputs

    def run(outputs: np.ndarray) -> np.ndarray:
        nonlocal repeated
        if len(repeated) != len(outputs):
            repeated = tf.repeat(inputs, len(outputs), axis=0)
        found = rest(tf.convert_to_tensor(outputs), repeated)
        return tf.cast(found, _wide(found.dtype)).numpy()  # type: ignore[no-any-return]

    return run


def _traced_rest(
    model: keras.Model,
    layer: keras.layers.Layer,
    shape: tuple[int | None, ...],
    dtype: tf.DType,
    logits: bool,
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """The part of the model's graph that a layer's output leads to, as a function of that output.

    And of the inputs: where a branch goes round the layer, what it needs runs as well.
    """
    # The function lives on in its trace, and must not keep the model alive.
    weak_model, weak_layer = weakref.ref(model), weakref.ref(layer)

    def run(inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        _, recorder, scores = _record(weak_model(), inputs, weak_layer(), logits=logits)
        return recorder.calls[-1].output, scores

    # Nothing else in TensorFlow's public API cuts a graph.
    whole = tf.compat.v1.wrap_function(run, [tf.TensorSpec(shape, dtype)])
    output, scores = whole.outputs
    return whole.prune([output, whole.inputs[0]], scores)  # type: ignore[no-any-return]


def _eager_rest(
    model: keras.Model, layer: keras.layers.Layer, inputs: tf.Tensor, logits: bool
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """The whole model, with the output of a layer's last call replaced."""
    _, recorder, _ = _record(model, inputs, layer, logits=logits)
    last = len(recorder.calls)

    def run(outputs: tf.Tensor, repeated: tf.Tensor) -> tf.Tensor:
        calls = 0

        def replace(called: keras.layers.Layer, output: Any) -> Any:
            nonlocal calls
            calls += called is layer
            return tf.cast(outputs, output.dtype) if called is layer and calls == last else output

        with tapped([layer, *_compiled(model)], replace), _changing_nothing(model):
            return _scores(model, repeated, logits)

    return run


def _run_eagerly(
    model: keras.Model,
    inputs: tf.Tensor,
    targets: np.ndarray,
    layer: keras.layers.Layer | None,
    candidates: Candidates,
    logits: bool = False,
    rivals: Rivals | None = None,
    watch_all: bool = False,
) -> Pass:
    """Run a pass operation by operation, which takes no preparation."""
    guess = guessed(model) if layer is None and not watch_all else None
    tape, recorder, scores = _record(model, inputs, layer, guess, logits)
    classes = check_scores(tuple(scores.shape))
    if len(scores) != len(inputs):
        raise ValueError(
            f"the model's output must have one row a doc, got shape {tuple(scores.shape)} for "
            f"{len(inputs)} {'doc' if len(inputs) == 1 else 'docs'}"
        )
    chosen = _class_indices(scores, check_targets(targets, classes))
    shares = less = None
    if rivals is not None:
        shares = _shares_of_rivals(scores, chosen, rivals.number, _references(rivals, classes))
        less = tf.cast(rivals.alpha, shares.dtype) * shares
    calls = [(call.layer, call.shape) for call in recorder.calls]
    activations = gradients = None
    for position in range(len(calls))[-1:] if layer is not None else candidates(calls):
        layer, activations = recorder.calls[position].layer, recorder.calls[position].output
        if activations is None:
            if not recorder.calls[position].shape:
                continue
            # Guessed wrong, and not watched: once more, with an eye on all.
            return _run_eagerly(
                model, inputs, targets, None, candidates, logits, rivals, watch_all=True
            )
        for scale in recorder.scales():
            gradients = _gradients(tape, scores, activations, chosen, scale, less)
            if gradients is None or _is_finite(gradients):
                break
        if gradients is not None:
            break
    return Pass(
        layer=layer,
        reached=bool(calls),
        activations=None if activations is None else activations.numpy(),
        gradients=None if gradients is None else gradients.numpy(),
        targets=chosen.numpy(),
        scores=scores.numpy(),
        rivals=None if shares is None else shares.numpy(),
    )


class _Trace:
    """A pass, compiled for one model, layer and shape."""

    def __init__(
        self,
        model: keras.Model,
        layer: keras.layers.Layer,
        shape: tuple[int | None, ...],
        dtype: tf.DType,
        several: bool,
        logits: bool,
        rivals: Rivals | None,
    ) -> None:
        """Trace the pass.

        Args:
            model: The model.
            layer: The layer to record.
            shape: Shape of the inputs, None where any size goes.
            dtype: Their type.
            several: Whether several classes are explained in one pass.
            logits: As in `forward_backward`.
            rivals: As in `forward_backward`; strength and references may be others at each run.
        """
        # The function lives on in its trace, and must not keep the model alive.
        weak_model, weak_layer = weakref.ref(model), weakref.ref(layer)
        scales: list[float] = []
        compares, number = rivals is not None, 0 if rivals is None else rivals.number

        def run(
            inputs: tf.Tensor,
            targets: tf.Tensor,
            scale: tf.Tensor,
            references: tf.Tensor,
            alpha: tf.Tensor,
        ) -> tuple[tf.Tensor, ...]:
            tape, recorder, scores = _record(weak_model(), inputs, weak_layer(), logits=logits)
            check_scores(tuple(scores.shape))
            activations = recorder.calls[-1].output
            scales.extend(recorder.scales())
            chosen = _class_indices(scores, targets)
            shares, less = tf.zeros((0, 0, 0), scores.dtype), None
            if compares:
                shares = _shares_of_rivals(scores, chosen, number, references)
                less = tf.cast(alpha, shares.dtype) * shares
            gradients = _gradients(tape, scores, activations, chosen, scale, less, several)
            if gradients is None:
                raise ValueError("no gradient")  # which the eager pass reports as it should be
            return activations, gradients, chosen, shares, scores

        signature = [
            tf.TensorSpec(shape, dtype),
            tf.TensorSpec((None, None), tf.int32),
            tf.TensorSpec((), tf.float32),
            tf.TensorSpec((None, None), tf.int32),
            tf.TensorSpec((), tf.float32),
        ]
        self._function = tf.function(run, signature, autograph=False).get_concrete_function()
        self._classes = self._function.structured_outputs[-1].shape[1]
        self._scales = scales

    def run(
        self,
        layer: keras.layers.Layer,
        inputs: tf.Tensor,
        targets: np.ndarray,
        rivals: Rivals | None,
    ) -> Pass:
        """Run the pass."""
        given = tf.constant(check_targets(targets, self._classes), tf.int32)
        references = _references(rivals, self._classes)
        alpha = tf.constant(0.0 if rivals is None else rivals.alpha, tf.float32)
        for place, scale in enumerate(self._scales):
            activations, gradients, chosen, shares, scores = self._function(
                inputs, given, tf.constant(scale, tf.float32), references, alpha
            )
            if len(self._scales) == 1 or _is_finite(gradients):
                # One that overflowed would most likely do so again.
                self._scales = self._scales[place:]
                break
        return Pass(
            layer=layer,
            reached=True,
            activations=activations.numpy(),
            gradients=gradients.numpy(),
            targets=chosen.numpy(),
            scores=scores.numpy(),
            rivals=None if rivals is None else shares.numpy(),
        )


def _traced_shape(model: keras.Model, inputs: tf.Tensor) -> tuple[int | None, ...]:
    """The shape to trace for: any number of docs, of the sizes that the model declares."""
    declared = declared_inputs(model)
    # Not the number of docs: a Sequential model declares that of its first call.
    return (None, *(declared[0].shape[1:] if declared else inputs.shape[1:]))


def _record(
    model: keras.Model,
    inputs: tf.Tensor,
    layer: keras.layers.Layer | None,
    guess: keras.layers.Layer | None = None,
    logits: bool = False,
) -> tuple[tf.GradientTape, _Recorder, tf.Tensor]:
    """Run the model forward, and record ``layer``, or all that could be chosen.

    If there is a ``guess`` which that will be, gradients are only prepared for from there on.
    """
    # Persistent, so that it can be asked for several gradients. Variables need no watching: the
    # gradients sought end at the layer's output.
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        recorder = _Recorder(tape, model, layer, guess)
        if layer is None:
            tap = tapped([model], recorder.see, children_with_maps)
        else:
            tap = tapped([layer, *_compiled(model)], recorder.see)
        with tap, _changing_nothing(model):
            scores = _scores(model, inputs, logits)
        recorder.is_float16 |= scores.dtype == tf.float16
        scores = tf.cast(scores, _wide(scores.dtype))
    return tape, recorder, scores


@dataclass
class _Seen:
    """One call of a tapped layer.

    Attributes:
        layer: The layer.
        shape: Shape of its output, if that was a tensor to differentiate by.
        output: That output, if it was watched.
    """

    layer: keras.layers.Layer
    shape: tuple[int | None, ...] | None = None
    output: tf.Tensor | None = None


@dataclass
class _Recorder:
    """Keeps what tapped layers put out, and has the tape watch it.

    Of all layers inside ``model`` (from the first call of ``guess`` on, if there is one), or of
    ``wanted`` alone.
    """

    tape: tf.GradientTape
    model: keras.Model
    wanted: keras.layers.Layer | None
    guess: keras.layers.Layer | None
    calls: list[_Seen] = field(default_factory=list)
    is_float16: bool = False
    _returned: dict[int, tf.Tensor] = field(default_factory=dict)
    _graph: Any = field(default_factory=lambda: _current_graph())

    def see(self, layer: keras.layers.Layer, output: Any) -> Any:
        """Record an output, and return the tensor to go on with in its place."""
        if layer is not self.wanted and (self.wanted is not None or layer is self.model):
            return output
        # A model returns what a layer inside it did; that call is recorded already.
        if id(output) in self._returned and children(layer):
            return output
        if isinstance(output, keras.KerasTensor) or self._is_out_of_reach(output):
            return output
        if not tf.is_tensor(output) or not output.dtype.is_floating:
            self.calls.append(_Seen(layer))
            return output
        self.is_float16 |= output.dtype == tf.float16
        shape = tuple(output.shape)
        if self.guess is not None:
            if layer is not self.guess:
                self.calls.append(_Seen(layer, shape))
                return output
            self.guess = None
        # A tensor of its own: a layer that returns its input would else be taken for the layer
        # before it, with all the other paths from there to the score. Wide enough for gradients
        # that float16 cannot hold.
        watched = tf.cast(tf.identity(output), _wide(output.dtype))
        self.tape.watch(watched)
        self.calls.append(_Seen(layer, shape, watched))
        onwards = tf.cast(watched, output.dtype)
        if hasattr(output, _KERAS_LOGITS):
            setattr(onwards, _KERAS_LOGITS, getattr(output, _KERAS_LOGITS))
        self._returned[id(onwards)] = onwards
        return onwards

    def _is_out_of_reach(self, output: Any) -> bool:
        """Whether a tensor is of another graph than the one that runs.

        Of Keras's dry runs, which infer shapes to build what is not built yet, or of the trace of a
        tf.function in the user's code.
        """
        return tf.is_symbolic_tensor(output) and output.graph is not self._graph

    def scales(self) -> tuple[float, ...]:
        """The multiples of the scores to try, the first that does not overflow to be taken."""
        return _FLOAT16_SCALES if self.is_float16 else (1.0,)


def _current_graph() -> Any:
    """The graph that is being traced; None where operations run at once."""
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def _compiled(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers whose ``call`` is a tf.function, which a tap makes run line by line."""
    everything = [model, *(layer for _, layer in walk(model))]
    return [layer for layer in everything if hasattr(layer.call, "python_function")]


def _changing_nothing(model: keras.Model) -> contextlib.AbstractContextManager[Any]:
    """Where what a model does to itself as it runs does not last.

    Batch normalisation that the user's code runs in training mode, counters, seeds, losses. A model
    with something left to build needs the right to make its variables.
    """
    if all(layer.built for layer in (model, *(layer for _, layer in walk(model)))):
        return keras.StatelessScope()  # type: ignore[no-any-return]
    return contextlib.nullcontext()


def _scores(model: keras.Model, inputs: tf.Tensor, logits: bool = False) -> tf.Tensor:
    """The model's first output, shape ``(docs, classes)``, or what it was made of by a softmax."""
    try:
        outputs = model(_as_made(model, inputs), training=False)
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(
            f"model {model.name!r} cannot be run on a doc of this shape: {_plain(error.message)}"
        ) from error
    except tf.errors.OpError as error:
        raise type(error)(error.node_def, error.op, _plain(error.message)) from error
    except Exception as error:
        error.args = tuple(_plain(one) if isinstance(one, str) else one for one in error.args)
        raise
    scores = _first_output(model, outputs)
    if logits:
        scores = _logits(model, scores)
    # Of one class, some models leave out the axis.
    return tf.expand_dims(scores, axis=-1) if scores.shape.rank == 1 else scores


# Where an operation ran, as TensorFlow names it, and the colours of Keras.
_NOISE = re.compile(r"\x1b\[[0-9;]*m|\{\{function_node [^}]*\}\} ?")


def _plain(message: str) -> str:
    """A message of Keras or TensorFlow, as it is shown where there is no terminal."""
    return _NOISE.sub("", message)


def _first_output(model: keras.Model, outputs: Any) -> tf.Tensor:
    """The first output, a tensor of real numbers."""
    flat = tf.nest.flatten(outputs)
    if not flat or flat[0] is None:
        got = "none; does its call return them?"
    else:
        got = type(flat[0]).__name__
        with contextlib.suppress(TypeError, ValueError):
            first = tf.convert_to_tensor(flat[0])
            if first.dtype.is_floating or first.dtype.is_integer or first.dtype.is_bool:
                return first
            got = f"dtype {first.dtype.name}"
    raise ValueError(
        f"the first output of model {model.name!r} must be class scores, real numbers of shape (1, "
        f"classes), got {got}"
    )


def _logits(model: keras.Model, scores: tf.Tensor) -> tf.Tensor:
    """What went into the softmax or sigmoid that scores came out of.

    Scores that came out of neither are returned as they are.
    """
    found = getattr(scores, _KERAS_LOGITS, None)
    if found is not None and found.shape.is_compatible_with(scores.shape):
        return found
    if tf.is_symbolic_tensor(scores):
        found = _logits_in_graph(scores)
    elif tf.reduce_any((scores < 0) | (scores > 1)):
        found = scores  # no probabilities
    if found is None:
        raise _HiddenLogitsError(
            f"the logits of model {model.name!r} cannot be found: its scores look like "
            "probabilities, but come from no softmax or sigmoid that can be seen; pass a model "
            "that ends in logits, and leave logits=True out"
        )
    return found


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


def _as_made(model: keras.Model, inputs: tf.Tensor) -> Any:
    """The one input in the structure that the model was made with: by name, or in a list."""
    try:
        structure = model.input
    except (AttributeError, ValueError):  # a subclassed model, or a Sequential one
        return inputs
    if isinstance(structure, (dict, list, tuple)):
        return tf.nest.map_structure(lambda _: inputs, structure)
    return inputs


def _class_indices(scores: tf.Tensor, targets: Any) -> tf.Tensor:
    """Class indices in the place of `TOP` and `LOWEST`, shape ``(docs, targets)``."""
    targets = tf.cast(targets, tf.int32)
    order = tf.argsort(scores, axis=-1, direction="DESCENDING", stable=True)
    classes = scores.shape[1]
    rank = tf.minimum(tf.range(tf.shape(targets)[1]), classes - 1)
    top = tf.gather(order, rank, axis=1)
    lowest = tf.gather(order, classes - 1 - rank, axis=1)
    return tf.where(targets == TOP, top, tf.where(targets == LOWEST, lowest, targets))


def _gradients(
    tape: tf.GradientTape,
    scores: tf.Tensor,
    activations: tf.Tensor,
    chosen: tf.Tensor,
    scale: Any,
    less: tf.Tensor | None = None,
    several: bool | None = None,
) -> tf.Tensor | None:
    """Gradients of the chosen scores, shape ``(targets, docs, ...)``; None if there are none.

    No doc's score depends on another doc, so that the gradient of all of one rank is that of each.

    Args:
        tape: The tape that recorded the pass.
        scores: The scores, shape ``(docs, classes)``.
        activations: What to differentiate by.
        chosen: Indices of the classes, shape ``(docs, targets)``.
        scale: What to multiply the scores by on the way.
        less: How much of each score to take away from the chosen one, shape ``(targets, docs,
            classes)``.
        several: Where the number of targets is not known yet, whether it is more than one.
    """
    seeds = tf.one_hot(tf.transpose(chosen), scores.shape[1], dtype=scores.dtype)
    if less is not None:
        seeds -= less
    seeds *= tf.cast(scale, scores.dtype)

    def gradient(seed: tf.Tensor) -> tf.Tensor | None:
        found = tape.gradient(scores, activations, output_gradients=seed)
        return None if found is None else tf.convert_to_tensor(found)

    if several:
        found = tf.map_fn(gradient, seeds, fn_output_signature=activations.dtype)
    else:
        ranks = 1 if several is False else len(seeds)
        each = [gradient(seeds[rank]) for rank in range(ranks)]
        if each[0] is None:
            return None
        found = tf.stack(each)
    return found / tf.cast(scale, found.dtype)


def _references(rivals: Rivals | None, classes: int) -> tf.Tensor:
    """The classes to compare with, where they are named, shape ``(targets, rivals)``."""
    named = None if rivals is None else rivals.references
    if named is None:
        return tf.zeros((0, 0), tf.int32)
    return tf.constant(check_references(named, classes), tf.int32)


def _shares_of_rivals(
    scores: tf.Tensor, chosen: tf.Tensor, number: int, references: tf.Tensor
) -> tf.Tensor:
    """What the score of each chosen class is compared with.

    Args:
        scores: The scores, shape ``(docs, classes)``.
        chosen: Indices of the classes, shape ``(docs, targets)``.
        number: How many to compare with, those whose scores are nearest; 0 for ``references``.
        references: Indices of those to compare with, shape ``(targets, rivals)``.

    Returns:
        The weight of each class in the mean, shape ``(targets, docs, classes)``; zero throughout if
        there is none but the class itself.
    """
    classes = scores.shape[1]
    itself = tf.one_hot(tf.transpose(chosen), classes, dtype=scores.dtype)
    if number:
        score = tf.reduce_sum(itself * scores, axis=-1, keepdims=True)
        far = tf.constant(float("inf"), scores.dtype)
        distance = tf.where(itself > 0, far, abs(scores - score))
        nearest = tf.math.top_k(-distance, min(number, classes)).indices
        rivals = tf.reduce_sum(tf.one_hot(nearest, classes, dtype=scores.dtype), axis=-2)
    else:
        rivals = tf.reduce_sum(tf.one_hot(references, classes, dtype=scores.dtype), axis=-2)
        rivals = tf.expand_dims(rivals, axis=1)
    rivals *= 1 - itself
    return tf.math.divide_no_nan(rivals, tf.reduce_sum(rivals, axis=-1, keepdims=True))


def _is_finite(values: tf.Tensor) -> bool:
    return bool(tf.reduce_all(tf.math.is_finite(values)))


def _wide(dtype: tf.DType) -> tf.DType:
    """The type that results are given in: float64 for float64, else float32."""
    return tf.float64 if dtype == tf.float64 else tf.float32
