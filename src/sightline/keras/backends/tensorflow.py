"""Record a layer's output and the gradient of a score, with ``tf.GradientTape``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from sightline.keras.backends.common import Candidates, Pass, check_scores, check_target
from sightline.keras.layers import children, walk
from sightline.keras.tap import tapped

__all__ = ["forward", "forward_backward"]

# Between 0 and 6e-8 float16 has nothing, and there the gradients of a probability often lie. So
# they are taken of a multiple of the score, the greatest of these at which nothing overflows.
_FLOAT16_SCALES = (2.0**24, 2.0**15, 2.0**8, 1.0)


def forward(model: keras.Model, doc: np.ndarray) -> None:
    """Run the model on ``doc`` in inference mode, so that what is not built yet gets built."""
    _scores(model, tf.convert_to_tensor(doc))


def forward_backward(
    model: keras.Model,
    doc: np.ndarray,
    target: int | None,
    layer: keras.layers.Layer | None,
    candidates: Candidates,
) -> Pass:
    """Run the model once, and differentiate a score with respect to a layer's output.

    `sightline.keras.backends.Backend` has the arguments.
    """
    inputs = tf.convert_to_tensor(doc)
    # Persistent, so that it can be asked for another candidate, or at another scale. Variables need
    # no watching: the gradient sought ends at the layer's output.
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        recorder = _Recorder(tape, model, layer)
        if layer is None:
            tap = tapped([model], recorder.see, children)
        else:
            tap = tapped([layer, *_compiled(model)], recorder.see)
        with tap:
            scores = _scores(model, inputs)
        classes = check_scores(tuple(scores.shape))
        if target is None:
            target = int(tf.argmax(scores[0]))
        check_target(target, classes)
        score = tf.cast(scores[0, target], _wide(scores.dtype))
    is_float16 = scores.dtype == tf.float16 or recorder.is_float16
    calls = [(call.layer, call.shape) for call in recorder.calls]
    positions = range(len(calls))[-1:] if layer else candidates(calls)
    activations = gradients = None
    for position in positions:
        layer, activations = recorder.calls[position].layer, recorder.calls[position].output
        if activations is not None:
            gradients = _gradient(
                tape, score, activations, _FLOAT16_SCALES if is_float16 else (1.0,)
            )
        if gradients is not None:
            break
    return Pass(
        layer=layer,
        reached=bool(calls),
        activations=None if activations is None else activations.numpy(),
        gradients=None if gradients is None else gradients.numpy(),
        target=target,
        scores=tf.cast(scores[0], score.dtype).numpy(),
    )


@dataclass
class _Seen:
    """One call of a tapped layer, and its output, if that was a tensor to differentiate by."""

    layer: keras.layers.Layer
    output: tf.Tensor | None

    @property
    def shape(self) -> tuple[int | None, ...] | None:
        return None if self.output is None else tuple(self.output.shape)


@dataclass
class _Recorder:
    """Keeps what tapped layers put out, and has the tape watch it.

    Of all layers inside ``model``, or of ``wanted`` alone.
    """

    tape: tf.GradientTape
    model: keras.Model
    wanted: keras.layers.Layer | None
    calls: list[_Seen] = field(default_factory=list)
    is_float16: bool = False
    _returned: dict[int, tf.Tensor] = field(default_factory=dict)

    def see(self, layer: keras.layers.Layer, output: Any) -> Any:
        """Record an output, and return the tensor to go on with in its place."""
        if layer is not self.wanted and (self.wanted is not None or layer is self.model):
            return output
        # A model returns what a layer inside it did; that call is recorded already.
        if id(output) in self._returned and children(layer):
            return output
        # Symbolic are Keras's dry runs, which infer shapes to build what is not built yet, and
        # traces of a tf.function in the user's code, out of which no tensor may be taken.
        if not tf.is_tensor(output) or tf.is_symbolic_tensor(output):
            if tf.is_tensor(output) or isinstance(output, keras.KerasTensor):
                return output
            self.calls.append(_Seen(layer, None))
            return output
        if not output.dtype.is_floating:
            self.calls.append(_Seen(layer, None))
            return output
        self.is_float16 |= output.dtype == tf.float16
        # A tensor of its own: a layer that returns its input would else be taken for the layer
        # before it, with all the other paths from there to the score. Wide enough for gradients
        # that float16 cannot hold.
        watched = tf.cast(tf.identity(output), _wide(output.dtype))
        self.tape.watch(watched)
        self.calls.append(_Seen(layer, watched))
        onwards = tf.cast(watched, output.dtype)
        self._returned[id(onwards)] = onwards
        return onwards


def _compiled(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers whose ``call`` is a tf.function, which a tap makes run line by line."""
    everything = [model, *(layer for _, layer in walk(model))]
    return [layer for layer in everything if hasattr(layer.call, "python_function")]


def _scores(model: keras.Model, inputs: tf.Tensor) -> tf.Tensor:
    """The model's first output for a batch of one, shape ``(1, classes)``."""
    try:
        outputs = model(_as_made(model, inputs), training=False)
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(
            f"model {model.name!r} cannot be run on a doc of this shape: {error.message}"
        ) from error
    scores = tf.convert_to_tensor(tf.nest.flatten(outputs)[0])
    return tf.reshape(scores, (1, 1)) if scores.shape == (1,) else scores


def _as_made(model: keras.Model, inputs: tf.Tensor) -> Any:
    """The one input in the structure that the model was made with: by name, or in a list."""
    try:
        structure = model.input
    except (AttributeError, ValueError):  # a subclassed model, or a Sequential one
        return inputs
    if isinstance(structure, (dict, list, tuple)):
        return tf.nest.map_structure(lambda _: inputs, structure)
    return inputs


def _gradient(
    tape: tf.GradientTape, score: tf.Tensor, activations: tf.Tensor, scales: tuple[float, ...]
) -> tf.Tensor | None:
    """The gradient of ``score``, at the first scale at which all of it is finite."""
    gradient = None
    for scale in scales:
        scaled = tape.gradient(
            score, activations, output_gradients=tf.constant(scale, dtype=score.dtype)
        )
        if scaled is None:
            return None
        gradient = tf.convert_to_tensor(scaled) / tf.constant(scale, dtype=activations.dtype)
        if bool(tf.reduce_all(tf.math.is_finite(gradient))):
            break
    return gradient


def _wide(dtype: tf.DType) -> tf.DType:
    """The type that results are given in: float64 for float64, else float32."""
    return tf.float64 if dtype == tf.float64 else tf.float32
