"""Record a layer's output and the gradients of scores, with ``tf.GradientTape``.

The same few lines run eagerly when a model is first seen, and compiled with ``tf.function`` from
the second time on.
"""

from __future__ import annotations

import contextlib
import weakref
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from sightline.keras.backends.common import (
    LOWEST,
    TOP,
    Candidates,
    Pass,
    check_scores,
    check_targets,
)
from sightline.keras.layers import children, children_with_maps, declared_inputs, guessed, walk
from sightline.keras.tap import tapped
from sightline.keras.traces import traces_of

__all__ = ["forward", "forward_backward"]

# Between 0 and 6e-8 float16 has nothing, and there the gradients of a probability often lie. So
# they are taken of a multiple of the score, the greatest of these at which nothing overflows.
_FLOAT16_SCALES = (2.0**24, 2.0**15, 2.0**8, 1.0)


def forward(model: keras.Model, docs: np.ndarray) -> None:
    """Run the model on ``docs`` in inference mode, so that what is not built yet gets built."""
    _scores(model, tf.convert_to_tensor(docs))


def forward_backward(
    model: keras.Model,
    docs: np.ndarray,
    targets: np.ndarray,
    layer: keras.layers.Layer | None,
    candidates: Candidates,
) -> Pass:
    """Run the model once, and differentiate scores with respect to a layer's output.

    `sightline.keras.backends.Backend` has the arguments.
    """
    inputs = tf.convert_to_tensor(docs)
    shape = _traced_shape(model, inputs)
    traces = traces_of(model)
    choice = (inputs.shape[1:], inputs.dtype)
    known = traces.chosen(choice) if layer is None else layer
    if known is not None:
        counted = (weakref.ref(known), shape, inputs.dtype)
        several = targets.shape[1] > 1
        trace = traces.get(
            (*counted, several),
            counted,
            lambda: _Trace(model, known, shape, inputs.dtype, several),
        )
        if isinstance(trace, _Trace):
            # What fails compiled is run again eagerly, where it fails with a better message.
            with contextlib.suppress(tf.errors.OpError):
                return trace.run(known, inputs, targets)
    result = _run_eagerly(model, inputs, targets, layer, candidates)
    if result.gradients is not None:
        counted = (weakref.ref(result.layer), shape, inputs.dtype)
        if traces.count(model, counted, len(docs)) and layer is None:
            traces.choose(choice, result.layer)
    return result


def _run_eagerly(
    model: keras.Model,
    inputs: tf.Tensor,
    targets: np.ndarray,
    layer: keras.layers.Layer | None,
    candidates: Candidates,
    watch_all: bool = False,
) -> Pass:
    """Run a pass operation by operation, which takes no preparation."""
    guess = guessed(model) if layer is None and not watch_all else None
    tape, recorder, scores = _record(model, inputs, layer, guess)
    classes = check_scores(tuple(scores.shape))
    if len(scores) != len(inputs):
        raise ValueError(
            f"the model's output must have one row a doc, got shape {tuple(scores.shape)} for "
            f"{len(inputs)} {'doc' if len(inputs) == 1 else 'docs'}"
        )
    chosen = _class_indices(scores, check_targets(targets, classes))
    calls = [(call.layer, call.shape) for call in recorder.calls]
    activations = gradients = None
    for position in range(len(calls))[-1:] if layer is not None else candidates(calls):
        layer, activations = recorder.calls[position].layer, recorder.calls[position].output
        if activations is None:
            if not recorder.calls[position].shape:
                continue
            # Guessed wrong, and not watched: once more, with an eye on all.
            return _run_eagerly(model, inputs, targets, None, candidates, watch_all=True)
        for scale in recorder.scales():
            gradients = _gradients(tape, scores, activations, chosen, scale)
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
    ) -> None:
        """Trace the pass.

        Args:
            model: The model.
            layer: The layer to record.
            shape: Shape of the inputs, None where any size goes.
            dtype: Their type.
            several: Whether several classes are explained in one pass.
        """
        # The function lives on in its trace, and must not keep the model alive.
        weak_model, weak_layer = weakref.ref(model), weakref.ref(layer)
        scales: list[float] = []

        def run(inputs: tf.Tensor, targets: tf.Tensor, scale: tf.Tensor) -> tuple[tf.Tensor, ...]:
            tape, recorder, scores = _record(weak_model(), inputs, weak_layer())
            check_scores(tuple(scores.shape))
            activations = recorder.calls[-1].output
            scales.extend(recorder.scales())
            chosen = _class_indices(scores, targets)
            gradients = _gradients(tape, scores, activations, chosen, scale, several)
            if gradients is None:
                raise ValueError("no gradient")  # which the eager pass reports as it should be
            return activations, gradients, chosen, scores

        signature = [
            tf.TensorSpec(shape, dtype),
            tf.TensorSpec((None, None), tf.int32),
            tf.TensorSpec((), tf.float32),
        ]
        self._function = tf.function(run, signature, autograph=False).get_concrete_function()
        self._classes = self._function.structured_outputs[-1].shape[1]
        self._scales = scales

    def run(self, layer: keras.layers.Layer, inputs: tf.Tensor, targets: np.ndarray) -> Pass:
        """Run the pass."""
        given = tf.constant(check_targets(targets, self._classes), tf.int32)
        for place, scale in enumerate(self._scales):
            activations, gradients, chosen, scores = self._function(
                inputs, given, tf.constant(scale, tf.float32)
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
            scores = _scores(model, inputs)
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


def _scores(model: keras.Model, inputs: tf.Tensor) -> tf.Tensor:
    """The model's first output, shape ``(docs, classes)``."""
    try:
        outputs = model(_as_made(model, inputs), training=False)
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(
            f"model {model.name!r} cannot be run on a doc of this shape: {error.message}"
        ) from error
    scores = tf.convert_to_tensor(tf.nest.flatten(outputs)[0])
    # Of one class, some models leave out the axis.
    return tf.expand_dims(scores, axis=-1) if scores.shape.rank == 1 else scores


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
        several: Where the number of targets is not known yet, whether it is more than one.
    """
    seeds = tf.one_hot(tf.transpose(chosen), scores.shape[1], dtype=scores.dtype)
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


def _is_finite(values: tf.Tensor) -> bool:
    return bool(tf.reduce_all(tf.math.is_finite(values)))


def _wide(dtype: tf.DType) -> tf.DType:
    """The type that results are given in: float64 for float64, else float32."""
    return tf.float64 if dtype == tf.float64 else tf.float32
