"""A run of a model, as it was seen: what its layers put out, and what went into them.

The run may be eager or a dry one that a framework compiles. The layers of the model are tapped, and
each tensor that passes a tap is noted here with the ones that it was made of.
"""

from __future__ import annotations

import contextlib
import re
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops, tree

from kerasight.base import RunError
from kerasight.cam.inputs import Inputs, names_of
from kerasight.keras import backends
from kerasight.keras.attention import Attention
from kerasight.keras.logits import HiddenLogitsError, logits_of
from kerasight.keras.tap import tapped
from kerasight.keras.traces import outer_scope
from kerasight.targets import SCORES, Outputs

if TYPE_CHECKING:
    from kerasight.keras.anatomy import Anatomy
    from kerasight.keras.sites import Site

__all__ = ["Call", "Run", "Weights", "changing_nothing", "in_plain_words", "outputs_of"]

Weights = Sequence[tuple[Any, np.ndarray]]
"""Variables, and a value for each."""


@dataclass(frozen=True, eq=False)
class Call:
    """What a layer put out at one of its calls, or what went into it and no layer had put out.

    Attributes:
        layer: The layer.
        number: Which of the layer's calls in the run it was, from 0.
        shape: Its shape with batch axis; empty if it was no single float tensor.
        at_input: Whether it is what went in.
        sources: Positions in the run of the tensors that it was made of; None for one that was not
            seen.
        rank_of_maps: The rank that a batch of maps has in this run.
        is_output: Whether the model puts it out, as it is.
    """

    layer: keras.layers.Layer
    number: int
    shape: tuple[int, ...]
    at_input: bool = False
    sources: tuple[int | None, ...] = ()
    rank_of_maps: int = 4
    is_output: bool = False

    @property
    def has_rank_of_maps(self) -> bool:
        """Whether it has the rank of a batch of maps."""
        return len(self.shape) == self.rank_of_maps

    @property
    def has_tokens(self) -> bool:
        """Whether it has the rank of a batch of sequences, where maps have another, and items."""
        return len(self.shape) == 3 < self.rank_of_maps and self.shape[1] != 1

    def is_of(self, site: Site) -> bool:
        """Whether it is what is seen at a site."""
        return (
            self.layer is site.layer
            and self.at_input == site.at_input
            and site.call in (None, self.number)
        )


class Run:
    """One run of a model, in which either all that may be a map is seen, or one site alone.

    Attributes:
        calls: What was seen, in the order in which it came to be.
        watched: For each of the calls the tensor to differentiate by; None if it is not watched.
        tokens: For each of the calls the tensor itself, if it was a batch of sequences.
        is_float16: Whether some of it was of that type.
        scores: What is read from the model's outputs, most often the first of them, or the logits
            that it was made of, shape ``(docs, classes)``, float32 or float64.
        facts: What more is read from them.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        inputs: Inputs,
        *,
        logits: bool = False,
        watch: backends.Watch | None = None,
        wanted: Site | None = None,
        guess: keras.layers.Layer | None = None,
        replacement: Any = None,
        is_linearised: bool = True,
        weights: Weights = (),
        attention: Attention | None = None,
    ) -> None:
        """Run a model in inference mode, so that nothing that it does to itself lasts.

        Args:
            anatomy: The model.
            inputs: Its inputs, as tensors.
            logits: Whether the scores are to be those before the final softmax or sigmoid.
            watch: What prepares a tensor for gradients; None where the scores alone are wanted,
                and no layer is to be seen.
            wanted: Where to look; None for all that may be a map.
            guess: A layer, before whose first call nothing is watched; None watches all.
            replacement: The tensor that goes on in the place of what is seen at ``wanted``.
            is_linearised: Whether ``watch`` is that of `Backend.linearise`.
            weights: The values that variables have in this run.
            attention: What is to see the attention of the model, in the place of ``watch``.
        """
        self.calls: list[Call] = []
        self.watched: list[Any] = []
        self.tokens: list[Any] = []
        self.is_float16 = False
        self._model = anatomy.model
        self._rank = inputs.rank_of_maps
        self._seen = inputs.seen
        # Whether the doc itself is to be seen, and no layer.
        self._sees_doc = watch is not None and wanted is not None and wanted.layer is anatomy.model
        self._children = anatomy.children
        self._watch = watch
        self._wanted = wanted
        self._guess = guess
        self._replacement = replacement
        # By id: each tensor that goes on in the place of a layer's own, and that.
        self._own: dict[int, tuple[Any, Any]] = {}
        # By id: each tensor that goes on, and the position at which it was seen.
        self._positions: dict[int, tuple[Any, int | None]] = {}
        self._types: set[str] = set()  # of the outputs
        # By id of a layer: how often it was called.
        self._numbers: dict[int, int] = {}
        # Of the calls that have begun: layer, number (None of a dry run), positions of the inputs.
        self._begun: list[tuple[Any, int | None, tuple[int | None, ...]]] = []
        self._scope = backends.current().scope()
        ends: list[tuple[Any, Any]] = []

        def activated(given: Any, output: Any) -> None:
            ends.append((given, output))

        is_settled = wanted is not None and wanted.is_settled
        first = anatomy.compiled_calls
        see: Any = _pass_on
        enter: Any = None
        settings: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if attention is not None:
            first = [*first, *attention.layers]
            see, enter, settings = attention.see, attention.enter, attention.leaving_settings()
        elif watch is not None:
            first = self._first_tapped(anatomy, is_settled)
            see, enter = self._see_output, self._see_inputs
        tap = tapped(
            first,
            see,
            children=(
                None
                if watch is None or is_settled or self._sees_doc
                else anatomy.children_with_maps
            ),
            enter=enter,
            ends=anatomy.ends if logits else (),
            activated=activated,
        )
        if self._sees_doc:  # and not what layers put out
            self.is_float16 = any(one.compute_dtype == "float16" for one in anatomy.all)
        is_linearised &= watch is not None or attention is not None
        with settings, tap, changing_nothing(anatomy, weights, is_linearised, logits):
            outputs = _readable(anatomy, outputs_of(anatomy.model, inputs))

        for output in tree.flatten(outputs):
            position = self._position_of(output)
            if position is not None:
                self.calls[position] = replace(self.calls[position], is_output=True)

        def explained(output: Any) -> Any:
            _, own = self._own.get(id(output), (None, output))
            return logits_of(anatomy.model, own, ends) if logits else output

        given = Outputs(outputs, names_of_outputs(anatomy, outputs), explained)
        try:
            scores = anatomy.readout.scores(given)
            self.facts = anatomy.readout.facts(given)
        except HiddenLogitsError:
            raise
        except ValueError as error:  # the outputs are not such as the readout needs
            raise RunError(f"model {anatomy.model.name!r}: {error}") from error
        self.is_float16 |= _type_of(scores) == "float16"
        self.is_float16 |= attention is not None and attention.is_float16
        # Of one class, some models leave out the axis.
        scores = ops.expand_dims(scores, -1) if len(scores.shape) == 1 else scores
        self.scores = ops.cast(scores, _wide(scores))

    def _first_tapped(self, anatomy: Anatomy, is_settled: bool) -> list[keras.layers.Layer]:
        wanted = [] if self._wanted is None else [self._wanted.layer]
        around = anatomy.around(wanted[0]) if is_settled else []
        return [anatomy.model, *anatomy.compiled_calls, *around, *wanted]

    def _see_inputs(
        self, layer: keras.layers.Layer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Note what goes into a layer, and return what is to go in."""
        given = tree.flatten((args, kwargs))
        if any(isinstance(one, keras.KerasTensor) or self._is_foreign(one) for one in given):
            self._begun.append((layer, None, ()))
            return args, kwargs
        number = self._numbers.get(id(layer), 0)
        self._numbers[id(layer)] = number + 1
        tensors = [one for one in given if _is_floating(one)]
        if self._sees_doc:
            seen = tree.flatten(args)[self._seen]
            onwards = self._see(layer, number, seen, True, (None,))
            args = tree.map_structure(lambda one: onwards if one is seen else one, args)
            self._begun.append((layer, number, ()))
            return args, kwargs
        if layer is self._model:
            if self._wanted is not None and self._wanted.at_input and self._watch is not None:
                watched = {id(one): self._watch(one, True) for one in tensors}
                args, kwargs = tree.map_structure(
                    lambda one: watched.get(id(one), one), (args, kwargs)
                )
                tensors = list(watched.values())
            for one in tensors:
                self._positions[id(one)] = (weakref.ref(one), None)
        if len(tensors) == 1 and self._is_worth_seeing(layer, tensors[0]):
            (given_in,) = tensors
            onwards = self._see(layer, number, given_in, True, (self._position_of(given_in),))
            if onwards is not given_in:
                args, kwargs = tree.map_structure(
                    lambda one: onwards if one is given_in else one, (args, kwargs)
                )
            tensors = [onwards]
        self._begun.append((layer, number, tuple(map(self._position_of, tensors))))
        return args, kwargs

    def _see_output(self, layer: keras.layers.Layer, output: Any) -> Any:
        """Note an output, and return the tensor to go on with in its place."""
        begun, number, sources = self._begun.pop()
        while begun is not layer:  # whose call raised, and the user's code went on
            begun, number, sources = self._begun.pop()
        if number is None or isinstance(output, keras.KerasTensor) or self._is_foreign(output):
            return output
        is_wanted = self._wanted is not None and layer is self._wanted.layer
        # The model itself counts as no layer. An output that a layer returns as it came from a
        # layer inside it is noted already.
        is_noted = self._is_known(output) and bool(self._children(layer))
        if layer is self._model or (is_noted and not is_wanted):
            return output
        if isinstance(output, (list, tuple)) and output and _is_floating(output[0]):
            # Such as attention weights or a state beside what goes on.
            first = self._see(layer, number, output[0], False, sources)
            return tree.pack_sequence_as(output, [first, *tree.flatten(output)[1:]])
        return self._see(layer, number, output, False, sources)

    def _see(
        self,
        layer: keras.layers.Layer,
        number: int,
        output: Any,
        at_input: bool,
        sources: tuple[int | None, ...],
    ) -> Any:
        """Note what is seen at a call, and return what is to go on in its place."""
        shape = tuple(output.shape) if _is_floating(output) else ()
        call = Call(layer, number, shape, at_input, sources, self._rank)
        self.calls.append(call)
        self.watched.append(None)
        self.tokens.append(output if call.has_tokens else None)
        if not _is_floating(output):
            return output
        self._types.add(_type_of(output))
        self.is_float16 |= _type_of(output) == "float16"
        if layer is self._guess:
            self._guess = None
        is_wanted = self._wanted is None or call.is_of(self._wanted)
        # At an input all uses of the tensor count, also those before the layer runs.
        is_watched = call.has_rank_of_maps or call.has_tokens
        if self._wanted is not None:
            is_watched = is_wanted or (self._wanted.at_input and is_watched)
        if is_wanted and self._replacement is not None:
            output = ops.cast(self._replacement, output.dtype)
        if self._guess is None and is_watched:
            assert self._watch is not None
            # Of the doc there is no use before this one.
            is_itself = at_input and not self._sees_doc
            # Wide enough for gradients that float16 cannot hold.
            wide = output if is_itself else ops.cast(output, _wide(output))
            watched = self._watch(wide, is_itself)
            if is_wanted:
                self.watched[-1] = watched
            onwards = watched if is_itself else ops.cast(watched, output.dtype)
            if at_input:  # of which other layers may take what it was
                self._positions[id(output)] = (weakref.ref(output), len(self.calls) - 1)
            self._own[id(onwards)] = (onwards, output)
            output = onwards
        self._positions[id(output)] = (weakref.ref(output), len(self.calls) - 1)
        return output

    def _is_worth_seeing(self, layer: keras.layers.Layer, given: Any) -> bool:
        """Whether to note what goes into a layer: if that is wanted, or no layer put it out."""
        if layer is self._model:
            return False
        if self._wanted is not None and self._wanted.at_input and layer is self._wanted.layer:
            return True
        if given.shape is None or self._is_known(given):
            return False
        if len(given.shape) not in (3, self._rank):
            return False
        source = self._before_a_cast(given)
        if source is not None:
            self._positions[id(given)] = (weakref.ref(given), source)
        return source is None

    def _is_known(self, tensor: Any) -> bool:
        reference, _ = self._positions.get(id(tensor), (None, None))
        return reference is not None and reference() is tensor

    def _position_of(self, tensor: Any) -> int | None:
        return self._positions[id(tensor)][1] if self._is_known(tensor) else None

    def _before_a_cast(self, given: Any) -> int | None:
        """The position of the tensor that Keras cast to this one, to give it to a layer."""
        is_known = self._wanted is not None and self._wanted.call is not None
        if is_known and not backends.current().is_eager():  # so that nothing can be compared
            return None
        if self._types == {_type_of(given)}:  # nothing was cast
            return None
        for position in reversed(range(len(self.calls))):
            seen = self.watched[position]
            if seen is not None and seen.shape == given.shape:
                is_same = bool(ops.all(ops.cast(seen, given.dtype) == given))
                return position if is_same else None
        return None

    def _is_foreign(self, value: Any) -> bool:
        """Whether a tensor belongs to another run.

        Such as a dry run, in which Keras infers shapes to build what is not built yet, or a
        function that the user's code has compiled.
        """
        return backends.current().is_foreign(value, self._scope)


def _pass_on(layer: keras.layers.Layer, output: Any) -> Any:
    return output


def _is_floating(value: Any) -> bool:
    """Whether something is a tensor of floats."""
    return backends.current().is_tensor(value) and "float" in _type_of(value)


def _type_of(tensor: Any) -> str:
    try:
        name: str = keras.backend.standardize_dtype(tensor.dtype)
    except ValueError:  # a type that Keras does not know
        return str(getattr(tensor.dtype, "name", tensor.dtype))
    return name


def _wide(values: Any) -> str:
    """The type that results are given in: float64 for float64, else float32."""
    return "float64" if _type_of(values) == "float64" else "float32"


@contextlib.contextmanager
def changing_nothing(
    anatomy: Anatomy, weights: Weights = (), is_linearised: bool = False, logits: bool = False
) -> Iterator[None]:
    """A block in which a model's changes to itself do not last.

    Such as those of batch normalisation in training mode, of counters, seeds and losses. Variables
    have the values in ``weights``, and else those of a scope around this one. The other two are
    those of `Backend.inference`.
    """
    inference = backends.current().inference
    running = inference(anatomy.all, is_linearised=is_linearised, logits=logits)
    with running as values, _ChangingNothing(state_mapping=[*values, *weights]):
        yield


class _ChangingNothing(keras.StatelessScope):  # type: ignore[misc]
    def __enter__(self) -> _ChangingNothing:
        self._outer = outer_scope()
        super().__enter__()
        return self

    def get_current_value(self, variable: Any) -> Any:
        found = super().get_current_value(variable)
        if found is None and self._outer is not None:
            return self._outer.get_current_value(variable)
        return found


def outputs_of(model: keras.Model, inputs: Inputs) -> Any:
    """What the model puts out; errors in plain words."""
    with in_plain_words(model):
        return model(inputs.structure, training=False)


@contextlib.contextmanager
def in_plain_words(model: keras.Model) -> Iterator[None]:
    """A block in which errors of the framework become those that `Backend.told` makes of them."""
    try:
        yield
    except Exception as error:
        told = backends.current().told(error, f"model {model.name!r}")
        if told is error:
            raise
        raise told from error


def _readable(anatomy: Anatomy, outputs: Any) -> Any:
    """What a model puts out, all of it tensors of real numbers; of a classifier, the first."""
    flat = tree.flatten(outputs)
    first = flat[0] if flat else None
    tensors = [_tensor_of_numbers(one) for one in flat]
    if tensors and tensors[0] is not None:
        if anatomy.readout is SCORES:
            return tensors[0]
        if all(one is not None for one in tensors):
            return tree.pack_sequence_as(outputs, tensors)
        return [one for one in tensors if one is not None]
    got = "none; does its call return them?" if first is None else type(first).__name__
    with contextlib.suppress(TypeError, ValueError):
        converted = None if first is None else ops.convert_to_tensor(first)
        if converted is not None and not _is_real(converted):
            got = f"dtype {_type_of(converted)}"
    raise RunError(
        f"the first output of model {anatomy.model.name!r} must be class scores, real numbers of "
        f"shape (1, classes), got {got}"
    )


def _tensor_of_numbers(value: Any) -> Any:
    """An output as a tensor of real numbers; None if it is no such thing."""
    with contextlib.suppress(TypeError, ValueError):
        tensor = None if value is None else ops.convert_to_tensor(value)
        if tensor is not None and _is_real(tensor) and backends.current().is_tensor(tensor):
            return tensor
    return None


def _is_real(tensor: Any) -> bool:
    return bool(re.match("float|bfloat|int|uint|bool", _type_of(tensor)))


def names_of_outputs(anatomy: Anatomy, outputs: Any) -> list[str]:
    """What the tensors that a model puts out are called, in their order."""
    named = names_of(outputs)
    declared = anatomy.output_names
    if isinstance(outputs, dict) or len(declared) != len(named):
        return named
    return declared
