"""Attention, as a run of a model sees it: what each attention layer weighs its tokens by.

Keras's attention layers put out their weights if they are asked to, by the public argument
``return_attention_scores``. They then compute them one by one, where they else would take an
operation that holds them inside, and a `keras.layers.Softmax` puts them out on their way to what
they weigh. So the layers are asked, whoever called them gets what it asked for, and the softmax is
tapped. A layer of one's own that holds such a softmax is seen as well.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import keras
from keras import ops, tree

from kerasight.keras import backends
from kerasight.keras.layers import children

if TYPE_CHECKING:
    from kerasight.keras.anatomy import Anatomy
    from kerasight.keras.sites import Site

__all__ = ["Attention", "holds_softmax"]

_SCORES = "return_attention_scores"


class Attention:
    """What there is of attention in one run, for a tap on the layers of a model.

    Attributes:
        layers: The layers to tap.
        weights: The weights, in the order in which they came to be, each to differentiate by:
            shape ``(docs, heads, queries, keys)``.
        softmaxes: The layers that put them out.
        hidden: Attention layers whose weights were not seen.
        is_float16: Whether some of the weights were of that type.
        streams: The tokens behind each block, where they were asked for.
    """

    def __init__(
        self, anatomy: Anatomy, watch: backends.Watch, streams: Sequence[Site] = ()
    ) -> None:
        """Nothing is seen yet.

        Args:
            anatomy: The model.
            watch: What prepares a tensor for gradients.
            streams: Where the tokens behind each block are to be seen, the last block's last. No
                gradients go back from one block to the one before it then.
        """
        self.streams: list[Any] = []
        self._sites = streams
        # By id of a layer: how often it was called.
        self._numbers: dict[int, int] = {}
        self.weights: list[Any] = []
        self.softmaxes: list[keras.layers.Layer] = []
        self.hidden: list[keras.layers.Layer] = []
        self.is_float16 = False
        self._watch = watch
        self._scope = backends.current().scope()
        able = [one for one in anatomy.all if holds_softmax(one)]
        named = [one for one in anatomy.all if "Attention" in type(one).__name__]
        self._asked = [one for one in able if _SCORES in inspect.signature(one.call).parameters]
        seen = [one for one in anatomy.all if isinstance(one, keras.layers.Softmax)]
        seen += [one.layer for one in streams]
        around = [outer for one in (*able, *named, *seen) for outer in anatomy.around(one)]
        self.layers = list({id(one): one for one in (*around, *able, *named, *seen)}.values())
        # Of the calls that have begun: the layer, its number, how many weights and hidden layers
        # there were, and whether its caller gets the weights less.
        self._begun: list[tuple[keras.layers.Layer, int, int, bool]] = []

    def enter(
        self, layer: keras.layers.Layer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Ask an attention layer that is about to run for its weights."""
        is_asked = any(one is layer for one in self._asked)
        if is_asked:
            bound = inspect.signature(layer.call).bind(*args, **kwargs)
            is_asked = not bound.arguments.get(_SCORES)
            bound.arguments[_SCORES] = True
            args, kwargs = bound.args, bound.kwargs
        given = tree.flatten((args, kwargs))
        number = self._numbers.get(id(layer), 0)
        if not any(map(self._is_foreign, given)):
            self._numbers[id(layer)] = number + 1
            tokens = next(filter(backends.current().is_tensor, given), None)
            onwards = self._stream(layer, number, True, tokens)
            if onwards is not tokens:
                args, kwargs = tree.map_structure(
                    lambda one: onwards if one is tokens else one, (args, kwargs)
                )
        self._begun.append((layer, number, self._found, is_asked))
        return args, kwargs

    def see(self, layer: keras.layers.Layer, output: Any) -> Any:
        """Note the weights, and return what is to go on."""
        begun, number, before, is_asked = self._begun.pop()
        while begun is not layer:  # whose call raised, and the user's code went on
            begun, number, before, is_asked = self._begun.pop()
        if is_asked:
            output, *rest = output
            output = (output, *rest[:-1]) if rest[:-1] else output
        if any(self._is_foreign(one) for one in tree.flatten(output)):
            return output
        if isinstance(layer, keras.layers.Softmax):
            return self._weights(layer, output) if len(output.shape) == 4 else output
        if "Attention" in type(layer).__name__ and self._found == before:
            self.hidden.append(layer)
        if isinstance(output, (list, tuple)) and output:
            first = self._stream(layer, number, False, output[0])
            return tree.pack_sequence_as(output, [first, *tree.flatten(output)[1:]])
        return self._stream(layer, number, False, output)

    def _stream(self, layer: keras.layers.Layer, number: int, at_input: bool, tokens: Any) -> Any:
        """Note tokens if they are those behind a block, and return what is to go on."""
        place = (layer, at_input, number)
        found = [(one.layer, one.at_input, one.call) == place for one in self._sites]
        if not any(found):
            return tokens
        self.streams.append(tokens)
        return tokens if found[-1] else ops.stop_gradient(tokens)

    def _weights(self, layer: keras.layers.Layer, output: Any) -> Any:
        name = keras.backend.standardize_dtype(output.dtype)
        self.is_float16 |= name == "float16"
        wide = ops.cast(output, "float64" if name == "float64" else "float32")
        self.softmaxes.append(layer)
        self.weights.append(self._watch(wide, False))
        return ops.cast(self.weights[-1], output.dtype)

    @property
    def _found(self) -> int:
        return len(self.weights) + len(self.hidden)

    @property
    def refuses(self) -> keras.layers.Layer | None:
        """The layer that was asked for its weights and has not come back; None if all have."""
        return next((layer for layer, *_, is_asked in reversed(self._begun) if is_asked), None)

    def _is_foreign(self, value: Any) -> bool:
        return isinstance(value, keras.KerasTensor) or backends.current().is_foreign(
            value, self._scope
        )

    @contextmanager
    def leaving_settings(self) -> Iterator[None]:
        """A block after which the layers that are asked have the settings that they had.

        Some versions of Keras keep what they were last asked for.
        """
        before = [
            (vars(one), {name: value for name, value in vars(one).items() if type(value) is bool})
            for one in self._asked
        ]
        try:
            yield
        finally:
            for attributes, settings in before:
                attributes.update(settings)


def holds_softmax(layer: keras.layers.Layer) -> bool:
    """Whether a layer, and no model, holds a softmax layer of its own."""
    return not isinstance(layer, keras.Model) and any(
        isinstance(one, keras.layers.Softmax) for one in children(layer)
    )
