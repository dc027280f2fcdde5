"""Record a layer's output and the gradients of scores, with ``tf.GradientTape``.

The same few lines run eagerly when a model is first seen, and compiled with ``tf.function`` from
the second time on.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasight.keras.backends.common import (
    LOWEST,
    TOP,
    Call,
    Chooser,
    Pass,
    Rivals,
    check_references,
    check_scores,
    check_targets,
)
from kerasight.keras.layers import children, children_with_maps, declared_inputs, walk
from kerasight.keras.sites import Site, guessed
from kerasight.keras.tap import tapped
from kerasight.keras.traces import WORTH_A_TRACE, outer_scope, traces_of

__all__ = ["forward", "forward_backward", "scorer", "scores", "scores_after"]

# Between 0 and 6e-8 float16 has nothing, and there the gradients of a probability often lie. So
# they are taken of a multiple of the score, the greatest of these at which nothing overflows.
_FLOAT16_SCALES = (2.0**24, 2.0**15, 2.0**8, 1.0)


def forward(
    model: keras.Model, docs: np.ndarray, layers: Sequence[keras.layers.Layer] = ()
) -> list[keras.layers.Layer]:
    """Run the model on ``docs`` in inference mode, so that what is not built yet gets built.

    `kerasight.keras.backends.Backend` has the arguments.
    """
    _check_eager()
    ran: list[keras.layers.Layer] = []

    def note(layer: keras.layers.Layer, output: Any) -> Any:
        ran.append(layer)
        return output

    _scores_alone(model, tf.convert_to_tensor(docs), False, layers, note)
    return ran


def _check_eager() -> None:
    """Raise RuntimeError inside of a tf.function, where there are no numbers to explain."""
    if not tf.executing_eagerly():
        raise RuntimeError(
            "explanations are run eagerly, and this is inside of a tf.function, or of a dry run in "
            "which Keras infers shapes; explain outside of it, or pass the function that explains "
            "to tf.numpy_function"
        )


def _built_first(run: Callable[..., Any]) -> Callable[..., Any]:
    """Repeat a pass ``run(model, inputs, ...)`` in which something was built.

    Where nothing may change, the weights that Keras makes have no values until the pass is over.
    What is not built after a pass is not reached in inference: a head for training alone.
    """

    @functools.wraps(run)
    def repeated(model: keras.Model, inputs: tf.Tensor, *args: Any, **kwargs: Any) -> Any:
        unbuilt = [layer for layer in _all_layers(model) if not layer.built]
        try:
            result = run(model, inputs, *args, **kwargs)
        except _HiddenLogitsError:
            raise
        except ValueError:
            # Weights made of arrays cannot be made where nothing may change.
            if not unbuilt or not tf.executing_eagerly() or outer_scope() is not None:
                raise
            _build(model, inputs)
            return run(model, inputs, *args, **kwargs)
        if any(layer.built for layer in unbuilt):
            return repeated(model, inputs, *args, **kwargs)
        return result

    return repeated


def _build(model: keras.Model, inputs: tf.Tensor) -> None:
    """Run a model so that it is built, and put back the weights that it had before."""
    before = [(variable, variable.numpy()) for variable in model.variables]
    try:
        _scores(model, inputs)
    finally:
        for variable, value in before:
            variable.assign(value)


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
    _check_eager()
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
    return _as_wide(found)


# A trace that holds weights has them several times over while it is made.
_MOST_WEIGHTS = 2**26

Weights = Sequence[tuple[Any, np.ndarray]]
"""Variables, and a value for each."""


def scorer(
    model: keras.Model, docs: np.ndarray, logits: bool = False
) -> Callable[[np.ndarray], np.ndarray]:
    """The scores of inputs like ``docs`` as a function, with the weights as they are now.

    `kerasight.keras.backends.Backend` has the arguments. Weights that do not change are worked into
    each other before the model runs: most of batch normalisation goes into the convolutions.
    """
    _check_eager()

    def as_ever(batch: np.ndarray) -> np.ndarray:
        return scores(model, batch, logits)

    inputs = tf.convert_to_tensor(docs[:1])
    weights = [(variable, variable.numpy()) for variable in model.variables]
    if not model.built or sum(value.nbytes for _, value in weights) > _MOST_WEIGHTS:
        return as_ever
    shape = _traced_shape(model, inputs)
    traces = traces_of(model)
    traces.count(model, key := ("scorer", shape, inputs.dtype, logits), WORTH_A_TRACE)
    mark = _mark(weights)

    def traced() -> Any:
        return mark, _traced_scores(model, shape, inputs.dtype, logits, weights)

    found = traces.get(key, key, traced)
    if found is not None and found[0] != mark:
        traces.drop(key)
        found = traces.get(key, key, traced)
    weights = []  # which the trace holds by now
    if found is None:
        return as_ever
    _, trace = found

    def run(batch: np.ndarray) -> np.ndarray:
        try:
            return _as_wide(trace(tf.convert_to_tensor(batch)))
        except tf.errors.OpError:
            return as_ever(batch)  # which fails with a better message

    return run


def _mark(weights: Weights) -> bytes:
    """What tells weights from others."""
    mark = hashlib.blake2b()
    for _, value in weights:
        mark.update(value.tobytes())
    return mark.digest()


def _traced_scores(
    model: keras.Model,
    shape: tuple[int | None, ...],
    dtype: tf.DType,
    logits: bool,
    weights: Weights = (),
) -> Any:
    weak_model = weakref.ref(model)  # the function lives on in its trace

    def run(inputs: tf.Tensor) -> tf.Tensor:
        return _scores_alone(weak_model(), inputs, logits, weights=weights)

    signature = [tf.TensorSpec(shape, dtype)]
    return tf.function(run, signature, autograph=False).get_concrete_function()


@_built_first
def _scores_alone(
    model: keras.Model,
    inputs: tf.Tensor,
    logits: bool,
    layers: Sequence[keras.layers.Layer] = (),
    see: Callable[[Any, Any], Any] = lambda _, output: output,
    weights: Weights = (),
) -> tf.Tensor:
    """The scores, where no gradient is to be had; what some layers put out goes through ``see``."""
    with tapped([*_compiled(model), *layers], see), _changing_nothing(weights):
        return _scores(model, inputs, logits)


def forward_backward(
    model: keras.Model,
    docs: np.ndarray,
    targets: np.ndarray,
    chooser: Chooser,
    logits: bool = False,
    rivals: Rivals | None = None,
) -> Pass:
    """Run the model once, and differentiate scores with respect to what is seen at a site.

    `kerasight.keras.backends.Backend` has the arguments.
    """
    _check_eager()
    inputs = tf.convert_to_tensor(docs)
    shape = _traced_shape(model, inputs)
    traces = traces_of(model)
    wanted = chooser.wanted
    # What is chosen may depend on the size; where a layer is wished for, it hardly does.
    choice: tuple[Any, ...] = (inputs.dtype, inputs.shape[1:])
    if wanted is not None:
        choice = (inputs.dtype, shape, weakref.ref(wanted.layer), wanted.at_input)
    several = targets.shape[1] > 1

    def counted(site: Site) -> tuple[Any, ...]:
        key = (weakref.ref(site.layer), site.at_input, site.call)
        compares = None if rivals is None else (rivals.number, rivals.references is None)
        return (key, shape, inputs.dtype, logits, compares)

    def count(site: Site, docs: int) -> None:
        """Note that docs went through an eager pass, and where it was looked at."""
        if traces.count(model, counted(site), docs):
            traces.choose(choice, site)

    def traced(site: Site) -> _Trace | None:
        key = counted(site)
        found = traces.get(
            (*key, several),
            key,
            lambda: _Trace(model, site, shape, inputs.dtype, several, logits, rivals),
        )
        return found if isinstance(found, _Trace) else None

    def run_first(docs: int) -> Pass:
        """Run some of the docs eagerly, which tells where to look."""
        result = _run_eagerly(model, inputs[:docs], targets[:docs], chooser, logits, rivals)
        if result.gradients is not None and result.site is not None:
            count(result.site, docs)
        return result

    known = wanted if wanted is not None and wanted.call is not None else traces.chosen(choice)
    trace = None if known is None else traced(known)
    try:
        if trace is None and len(inputs) >= WORTH_A_TRACE:
            # Many at once, eagerly, would take longer than a trace, and more memory by far: Keras
            # keeps what every layer put out.
            known = known or run_first(1).site
            if known is not None:
                count(known, len(inputs))
                trace = traced(known)
        if trace is not None and known is not None:
            # What fails compiled is run again eagerly, where it fails with a better message.
            with contextlib.suppress(tf.errors.OpError):
                return trace.run(known, inputs, targets, rivals)
        return run_first(len(inputs))
    except _HiddenLogitsError:
        # A graph tells more: what each operation is, and what went into it.
        result = _run_eagerly(model, inputs, targets, chooser)
        if result.gradients is None or result.site is None:
            return result
        count(result.site, WORTH_A_TRACE)
        trace = traced(result.site)
        if trace is None:
            raise
        return trace.run(result.site, inputs, targets, rivals)


def scores_after(
    model: keras.Model, doc: np.ndarray, site: Site, logits: bool = False
) -> Callable[[np.ndarray], np.ndarray]:
    """The scores of one doc as a function of what is seen at a site.

    `kerasight.keras.backends.Backend` has the arguments.
    """
    _check_eager()
    inputs = tf.convert_to_tensor(doc)
    shape = _traced_shape(model, inputs)
    traces = traces_of(model)
    place = (weakref.ref(site.layer), site.at_input, site.call)
    key = ("after", place, shape, inputs.dtype, logits)
    traces.count(model, key, WORTH_A_TRACE)  # there are many outputs to come
    rest = traces.get(
        key, key, lambda: _traced_rest(model, site, shape, inputs.dtype, logits)
    ) or _eager_rest(model, site, logits)
    repeated: tf.Tensor = inputs

    def run(outputs: np.ndarray) -> np.ndarray:
        nonlocal repeated
        if len(repeated) != len(outputs):
            repeated = tf.repeat(inputs, len(outputs), axis=0)
        found = rest(tf.convert_to_tensor(outputs), repeated)
        return _as_wide(found)

    return run


def _traced_rest(
    model: keras.Model,
    site: Site,
    shape: tuple[int | None, ...],
    dtype: tf.DType,
    logits: bool,
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """The part of the model's graph that a site leads to, as a function of what is seen there.

    And of the inputs: where a branch goes round the site, what it needs runs as well.
    """
    # The function lives on in its trace, and must not keep the model alive.
    weak_model, weak_site = weakref.ref(model), _weak(site)

    def run(inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        _, recorder, scores = _record(weak_model(), inputs, weak_site(), logits=logits)
        return recorder.at(weak_site()).output, scores

    # Nothing else in TensorFlow's public API cuts a graph.
    whole = tf.compat.v1.wrap_function(run, [tf.TensorSpec(shape, dtype)])
    output, scores = whole.outputs
    return whole.prune([output, whole.inputs[0]], scores)  # type: ignore[no-any-return]


def _eager_rest(
    model: keras.Model, site: Site, logits: bool
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """The whole model, with what is seen at a site replaced."""

    def run(outputs: tf.Tensor, repeated: tf.Tensor) -> tf.Tensor:
        _, _, scores = _record(model, repeated, site, logits=logits, replacement=outputs)
        return scores

    return run


def _weak(site: Site) -> Callable[[], Site]:
    """The site, without keeping its layer alive."""
    layer = weakref.ref(site.layer)
    rest = (site.at_input, site.call, site.data_format)
    return lambda: Site(layer(), *rest)


def _run_eagerly(
    model: keras.Model,
    inputs: tf.Tensor,
    targets: np.ndarray,
    chooser: Chooser,
    logits: bool = False,
    rivals: Rivals | None = None,
    watch_all: bool = False,
) -> Pass:
    """Run a pass operation by operation, which takes no preparation."""
    wanted = chooser.wanted
    guess = guessed(model) if wanted is None and not watch_all else None
    tape, recorder, scores = _record(model, inputs, wanted, guess, logits)
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
    first: int | None = None
    gradients = None
    for position in chooser.positions(recorder.calls, len(inputs)):
        activations = recorder.seen[position].output
        if activations is None and recorder.calls[position].shape:
            # Guessed wrong, and not watched: once more, with an eye on all.
            return _run_eagerly(model, inputs, targets, chooser, logits, rivals, watch_all=True)
        first = position if first is None else first
        for scale in recorder.scales():
            if activations is None:
                break
            gradients = _gradients(tape, scores, activations, chosen, scale, less)
            if gradients is None or _is_finite(gradients):
                break
        if gradients is not None:
            first = position
            break
    site = output = None
    if first is not None:
        site = chooser.site(_Run(tape, recorder), first)
        output = recorder.seen[first].output
    return Pass(
        site=site,
        activations=None if output is None else _as_wide(output),
        gradients=None if gradients is None else _as_wide(gradients),
        targets=chosen.numpy(),
        scores=scores.numpy(),
        rivals=None if shares is None else shares.numpy(),
        calls=recorder.calls,
    )


@dataclass(frozen=True)
class _Run:
    """An eager run, as `backends.common.Run` describes it."""

    _tape: tf.GradientTape
    _recorder: _Recorder

    @property
    def calls(self) -> list[Call]:
        return self._recorder.calls

    def gradient_of_token(self, position: int, tokens: int, number: int) -> np.ndarray | None:
        seen = self._recorder.seen
        source, target = seen[position].output, seen[tokens].tensor
        if source is None or target is None:
            return None
        # Weighed unevenly: the sum of what a layer normalisation puts out never changes.
        seed = np.zeros(target.shape)
        seed[:, number] = np.random.default_rng(0).normal(size=target.shape[2])
        seed = tf.constant(seed, target.dtype)
        found = self._tape.gradient(target, source, output_gradients=seed)
        return None if found is None else tf.convert_to_tensor(found).numpy()


class _Trace:
    """A pass, compiled for one model, site and shape."""

    def __init__(
        self,
        model: keras.Model,
        site: Site,
        shape: tuple[int | None, ...],
        dtype: tf.DType,
        several: bool,
        logits: bool,
        rivals: Rivals | None,
    ) -> None:
        """Trace the pass.

        Args:
            model: The model.
            site: Where to look.
            shape: Shape of the inputs, None where any size goes.
            dtype: Their type.
            several: Whether several classes are explained in one pass.
            logits: As in `forward_backward`.
            rivals: As in `forward_backward`; strength and references may be others at each run.
        """
        # The function lives on in its trace, and must not keep the model alive.
        weak_model, weak_site = weakref.ref(model), _weak(site)
        scales: list[float] = []
        compares, number = rivals is not None, 0 if rivals is None else rivals.number

        def run(
            inputs: tf.Tensor,
            targets: tf.Tensor,
            scale: tf.Tensor,
            references: tf.Tensor,
            alpha: tf.Tensor,
        ) -> tuple[tf.Tensor, ...]:
            tape, recorder, scores = _record(weak_model(), inputs, weak_site(), logits=logits)
            check_scores(tuple(scores.shape))
            activations = recorder.at(weak_site()).output
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
        self, site: Site, inputs: tf.Tensor, targets: np.ndarray, rivals: Rivals | None
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
            site=site,
            activations=_as_wide(activations),
            gradients=_as_wide(gradients),
            targets=chosen.numpy(),
            scores=scores.numpy(),
            rivals=None if rivals is None else shares.numpy(),
        )


def _traced_shape(model: keras.Model, inputs: tf.Tensor) -> tuple[int | None, ...]:
    """The shape to trace for: any number of docs, of the sizes that the model declares."""
    declared = declared_inputs(model)
    # Not the number of docs: a Sequential model declares that of its first call.
    return (None, *(declared[0].shape[1:] if declared else inputs.shape[1:]))


@_built_first
def _record(
    model: keras.Model,
    inputs: tf.Tensor,
    wanted: Site | None,
    guess: keras.layers.Layer | None = None,
    logits: bool = False,
    replacement: tf.Tensor | None = None,
) -> tuple[tf.GradientTape, _Recorder, tf.Tensor]:
    """Run the model forward, and record what is seen at a site, or at all that could be chosen.

    If there is a ``guess`` which layer that will be, gradients are only prepared for from there on.
    If there is a ``replacement``, the model goes on with that in place of what is seen.
    """
    # Persistent, so that it can be asked for several gradients. Variables need no watching: the
    # gradients sought end at the site.
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        recorder = _Recorder(tape, model, wanted, guess, replacement)
        tapped_layers = [model, *_compiled(model), *([] if wanted is None else [wanted.layer])]
        tap = tapped(tapped_layers, recorder.see, children_with_maps, recorder.enter)
        with tap, _changing_nothing():
            scores = _scores(model, inputs, logits)
        recorder.is_float16 |= scores.dtype == tf.float16
        scores = tf.cast(scores, _wide(scores.dtype))
    return tape, recorder, scores


@dataclass
class _Seen:
    """What was seen at a call.

    Attributes:
        output: It, if it was watched, so that it can be differentiated by.
        tensor: It, if it was a batch of sequences.
    """

    output: tf.Tensor | None = None
    tensor: tf.Tensor | None = None


@dataclass
class _Recorder:
    """Keeps what tapped layers put out, and what goes into them, and has the tape watch it.

    Of all layers inside ``model`` (from the first call of ``guess`` on, if there is one), or at
    ``wanted`` alone.
    """

    tape: tf.GradientTape
    model: keras.Model
    wanted: Site | None
    guess: keras.layers.Layer | None
    replacement: tf.Tensor | None = None
    calls: list[Call] = field(default_factory=list)
    seen: list[_Seen] = field(default_factory=list)
    is_float16: bool = False
    # By id: each tensor that goes on, and the position at which it was seen.
    _positions: dict[int, tuple[Any, int | None]] = field(default_factory=dict)
    # By id of a layer: how often it was called.
    _numbers: dict[int, int] = field(default_factory=dict)
    # Of the calls that have begun: layer, number (None of a dry run), positions of what went in.
    _begun: list[tuple[Any, int | None, tuple[int | None, ...]]] = field(default_factory=list)
    _graph: Any = field(default_factory=lambda: _current_graph())

    def at(self, site: Site) -> _Seen:
        """What was seen at a site; raises ValueError if nothing was."""
        for call, seen in zip(self.calls, self.seen, strict=True):
            if call.is_of(site):
                return seen
        raise ValueError(f"layer {site.layer.name!r} is not reached")

    def enter(
        self, layer: keras.layers.Layer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Record what goes into a layer, and return what is to go in."""
        given = tf.nest.flatten((args, kwargs))
        if any(isinstance(one, keras.KerasTensor) or self._is_out_of_reach(one) for one in given):
            self._begun.append((layer, None, ()))
            return args, kwargs
        number = self._numbers.get(id(layer), 0)
        self._numbers[id(layer)] = number + 1
        tensors = [one for one in given if _is_floating(one)]
        if layer is self.model:
            for one in tensors:
                self._positions[id(one)] = (weakref.ref(one), None)
        if len(tensors) == 1 and self._is_worth_seeing(layer, tensors[0]):
            (given_in,) = tensors
            source = self._position_of(given_in)
            onwards = self._see(layer, number, given_in, True, (source,))
            if onwards is not given_in:
                args, kwargs = tf.nest.map_structure(
                    lambda one: onwards if one is given_in else one, (args, kwargs)
                )
            tensors = [onwards]
        self._begun.append((layer, number, tuple(map(self._position_of, tensors))))
        return args, kwargs

    def see(self, layer: keras.layers.Layer, output: Any) -> Any:
        """Record an output, and return the tensor to go on with in its place."""
        begun, number, sources = self._begun.pop()
        while begun is not layer:  # whose call raised, and the user's code went on
            begun, number, sources = self._begun.pop()
        if number is None or isinstance(output, keras.KerasTensor) or self._is_out_of_reach(output):
            return output
        is_wanted = self.wanted is not None and layer is self.wanted.layer
        # The model is not to be looked at as a layer. What a model or layer returns of a layer
        # inside it is recorded already.
        if not is_wanted and (layer is self.model or (self._is_known(output) and children(layer))):
            return output
        return self._see(layer, number, output, False, sources)

    def _see(
        self,
        layer: keras.layers.Layer,
        number: int,
        output: Any,
        at_input: bool,
        sources: tuple[int | None, ...],
    ) -> Any:
        """Record what is seen at a call, and return what is to go on in its place."""
        shape = tuple(output.shape) if _is_floating(output) else ()
        call = Call(layer, number, shape, at_input, sources)
        self.calls.append(call)
        self.seen.append(_Seen(tensor=output if call.has_tokens else None))
        if not _is_floating(output):
            return output
        self.is_float16 |= output.dtype == tf.float16
        if layer is self.guess:
            self.guess = None
        is_wanted = self.wanted is None or call.is_of(self.wanted)
        # Of an input all uses count, also those before the layer that it is the input of.
        is_before_wanted = self.wanted is not None and self.wanted.at_input
        if is_wanted and self.replacement is not None:
            output = tf.cast(self.replacement, output.dtype)
        elif self.guess is None and (
            call.has_rank_of_pictures if self.wanted is None or is_before_wanted else is_wanted
        ):
            watched = output if at_input else _copy(output)
            self.tape.watch(watched)
            if is_wanted:
                self.seen[-1].output = watched
            output = output if at_input else _onwards(watched, output)
        self._positions[id(output)] = (weakref.ref(output), len(self.calls) - 1)
        return output

    def _is_worth_seeing(self, layer: keras.layers.Layer, given: tf.Tensor) -> bool:
        """Whether to record what goes into a layer: if that is wanted, or no layer put it out."""
        if layer is self.model:
            return False
        if self.wanted is not None and self.wanted.at_input and layer is self.wanted.layer:
            return True
        if given.shape.rank not in (3, 4) or self._is_known(given):
            return False
        source = self._before_a_cast(given)
        if source is not None:
            self._positions[id(given)] = (weakref.ref(given), source)
        return source is None

    def _is_known(self, tensor: tf.Tensor) -> bool:
        reference, _ = self._positions.get(id(tensor), (None, None))
        return reference is not None and reference() is tensor

    def _position_of(self, tensor: tf.Tensor) -> int | None:
        return self._positions[id(tensor)][1] if self._is_known(tensor) else None

    def _before_a_cast(self, given: tf.Tensor) -> int | None:
        """The position of what a tensor is but for its type: Keras casts what goes into layers."""
        if tf.is_symbolic_tensor(given):  # the site is known then
            return None
        for position in reversed(range(len(self.calls))):
            seen = self.seen[position].output
            if seen is not None and seen.shape == given.shape:
                is_same = bool(tf.reduce_all(tf.cast(seen, given.dtype) == given))
                return position if is_same else None
        return None

    def _is_out_of_reach(self, output: Any) -> bool:
        """Whether a tensor is of another graph than the one that runs.

        Of Keras's dry runs, which infer shapes to build what is not built yet, or of the trace of a
        tf.function in the user's code.
        """
        return tf.is_symbolic_tensor(output) and output.graph is not self._graph

    def scales(self) -> tuple[float, ...]:
        """The multiples of the scores to try, the first that does not overflow to be taken."""
        return _FLOAT16_SCALES if self.is_float16 else (1.0,)


def _copy(output: tf.Tensor) -> tf.Tensor:
    """A tensor of its own, wide enough for gradients that float16 cannot hold.

    A layer that returns its input would else be taken for the layer before it, with all the other
    paths from there to the score.
    """
    return tf.cast(tf.identity(output), _wide(output.dtype))


def _onwards(copy: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
    """The copy of an output, to go on in its place."""
    onwards = tf.cast(copy, output.dtype)
    if hasattr(output, _KERAS_LOGITS):
        setattr(onwards, _KERAS_LOGITS, getattr(output, _KERAS_LOGITS))
    return onwards


def _is_floating(value: Any) -> bool:
    return isinstance(value, tf.Tensor) and value.dtype.is_floating


def _current_graph() -> Any:
    """The graph that is being traced; None where operations run at once."""
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def _compiled(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers whose ``call`` is a tf.function, which a tap makes run line by line."""
    return [layer for layer in _all_layers(model) if hasattr(layer.call, "python_function")]


def _all_layers(model: keras.Model) -> list[keras.layers.Layer]:
    return [model, *(layer for _, layer in walk(model))]


@contextlib.contextmanager
def _changing_nothing(weights: Weights = ()) -> Iterator[None]:
    """Where what a model does to itself as it runs does not last.

    Batch normalisation that the user's code runs in training mode, counters, seeds, losses. In a
    scope of the user's, the weights are those of that scope; else those given.
    """
    outer = outer_scope()
    with keras.StatelessScope(state_mapping=weights) as scope:
        if outer is not None:
            scope.state_mapping.update(outer.state_mapping)
        yield


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


def _as_wide(values: tf.Tensor) -> np.ndarray:
    return tf.cast(values, _wide(values.dtype)).numpy()  # type: ignore[no-any-return]
