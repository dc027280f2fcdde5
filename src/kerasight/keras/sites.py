"""Where to look: which call of which layer, chosen among those of a run, and the layout of its map.

The choice is made on what a run really did: which layers were called, in which order, and which
call's output went into which other (`run.Call`).
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import keras
import numpy as np

from kerasight.base import RunError
from kerasight.cam.layout import Layout
from kerasight.checks import plural
from kerasight.keras import layers

if TYPE_CHECKING:
    from kerasight.keras.anatomy import Anatomy
    from kerasight.keras.run import Call

__all__ = ["Choice", "Site", "find_site", "guessed", "rows_differ"]

# A name that ends so stands for what goes into a layer, and not for what it puts out.
_INPUT = ":input"

# These work on pictures, and so do the layers around them.
_OF_PICTURES = (
    *layers.IMAGE_LAYERS,
    keras.layers.UpSampling2D,
    keras.layers.ZeroPadding2D,
    keras.layers.Cropping2D,
)

# Layers that mix neighbouring tokens, as those of a signal: the map before them still tells where.
_OF_SEQUENCES = (
    keras.layers.AveragePooling1D,
    keras.layers.Bidirectional,
    keras.layers.Conv1D,
    keras.layers.Conv1DTranspose,
    keras.layers.MaxPooling1D,
    keras.layers.RNN,
    keras.layers.SeparableConv1D,
)


# Given the calls of a run and a position among them: the positions next to it.
_Neighbours = Callable[[Sequence["Call"], int], Sequence[int | None]]

# Given the position of a map, that of a batch of sequences, and the index of an item in these: the
# gradient of the item, a weighted sum of its channels, by the map; None if there is no path.
GradientOfToken = Callable[[int, int, int], np.ndarray | None]


@dataclass(frozen=True, eq=False)
class Site:
    """Where a model is looked at.

    Attributes:
        layer: The layer.
        at_input: Whether it is what goes into the layer, and not what it puts out.
        call: Which of the layer's calls in a run, from 0; None until a run has told.
        layout: Where the channels are; None until a run has told.
    """

    layer: keras.layers.Layer
    at_input: bool = False
    call: int | None = None
    layout: Layout | None = None

    @property
    def is_settled(self) -> bool:
        """Whether a run needs to see no other layer, since an earlier one has told all of it.

        Before an input that is wanted, everything is watched.
        """
        return self.layout is not None and not self.at_input

    def path(self, anatomy: Anatomy) -> str:
        """What it is called, as `find_site` takes it."""
        return anatomy.path_of(self.layer) + (_INPUT if self.at_input else "")

    def weak(self) -> Callable[[], Site]:
        """What gives the site, without keeping its layer alive."""
        layer, rest = weakref.ref(self.layer), (self.at_input, self.call, self.layout)
        return lambda: Site(layer(), *rest)

    def key(self) -> tuple[Hashable, ...]:
        """What tells it from other sites, without keeping its layer alive."""
        return (weakref.ref(self.layer), self.at_input, self.call)


def find_site(anatomy: Anatomy, key: int | str | keras.layers.Layer | Site) -> Site:
    """Find a site in a model.

    Args:
        anatomy: The model to look in.
        key: What `Anatomy.find` takes, for the output of a layer; a name or path with ``:input`` at
            its end, for what goes into it; or a site, which is returned as it is.

    Raises:
        TypeError: If ``key`` is of another type.
        ValueError: If there is no such layer, or several.
    """
    if isinstance(key, Site):
        return key
    if isinstance(key, str) and key.endswith(_INPUT):
        return Site(anatomy.find(key.removesuffix(_INPUT)), at_input=True)
    return Site(anatomy.find(key))


class Choice:
    """Which call of a run to look at.

    Where no layer is asked for, eli5's rule holds: the last layer to run whose output has the rank
    of an image batch. If the next layer takes something that no layer put out, such as the sum of
    two outputs, that is taken instead. Passed over are maps of one cell, whose heatmap would be one
    flat colour; layers that only drop out or augment; and tensors that look like maps, but have
    heads and tokens for axes.
    """

    def __init__(self, anatomy: Anatomy, wanted: Site | None) -> None:
        """Choose in runs of a model.

        Args:
            anatomy: The model.
            wanted: The site that is asked for; None to have one chosen.
        """
        self._anatomy = anatomy
        self.wanted = wanted

    def positions(self, calls: Sequence[Call], docs: int) -> Iterator[int]:
        """The positions of those to explain in a run of some docs, the best first."""
        if self.wanted is None:
            yield from filter(self._is_candidate(calls, docs), reversed(range(len(calls))))
            return
        own = [
            position
            for position in reversed(range(len(calls)))
            if calls[position].is_of(self.wanted)
        ]
        maps = list(filter(self._is_map(calls, docs), own))
        # The last call with a map. Where none has one, the error is to be of the last.
        yield from maps or own[:1]

    def site(
        self, calls: Sequence[Call], position: int, gradient_of_token: GradientOfToken
    ) -> Site:
        """The site at a position of a run.

        Raises:
            RunError: If it was chosen, and comes before an attention.
        """
        call = calls[position]
        layout = self.layout(calls, position)
        site = Site(call.layer, call.at_input, call.number, layout)
        if self.wanted is None and _mixes_tokens(calls, position, layout, gradient_of_token):
            name = site.path(self._anatomy)
            raise RunError(
                f"the last map of model {self._anatomy.model.name!r} is that of layer {name!r}, "
                "and what comes after it mixes the tokens that the map is cut into, as the "
                "attention of a transformer does: what the model makes of the picture is in the "
                "tokens, which cannot be explained yet, and the map before them is not where the "
                "model looked. "
                f"Pass layer={name!r} to see that map all the same"
            )
        return site

    def why_none(self, calls: Sequence[Call], docs: int) -> str:
        """Why there is no site to choose in a run of some docs."""
        model = self._anatomy.model.name
        for call in reversed(calls):
            if call.has_rank_of_pictures and call.shape[0] != docs:
                return f"no layer of model {model!r} is suitable: " + rows_differ(
                    call.shape[0], docs
                )
        return (
            f"no layer of model {model!r} is suitable: none has an output of shape (1, "
            "height, width, channels) with more than one cell; pass layer= if there is one"
        )

    def layout(self, calls: Sequence[Call], position: int) -> Layout:
        """Where the channels are in what was seen at a position of a run.

        Only some layers tell it. For the others, those that take the map do, or else those that it
        was made by, both also across layers that keep its shape; and if none of these does, the
        layers before them in the model.
        """
        if self.wanted is not None and self.wanted.layout is not None:
            return self.wanted.layout
        call = calls[position]
        return (
            _own_layout(call)
            or _layout_nearby(calls, position, _takers)
            or _layout_nearby(calls, position, _sources)
            or self._anatomy.layout_of(call.layer)
        )

    def _is_map(self, calls: Sequence[Call], docs: int) -> Callable[[int], bool]:
        def is_map(position: int) -> bool:
            call = calls[position]
            return (
                call.has_rank_of_pictures
                and call.shape[0] == docs
                and self.layout(calls, position).spatial(call.shape) != (1, 1)
            )

        return is_map

    def _is_candidate(self, calls: Sequence[Call], docs: int) -> Callable[[int], bool]:
        is_map = self._is_map(calls, docs)
        first_map = _first(calls, lambda call: call.has_rank_of_pictures and not call.at_input)
        first_tokens = _first(calls, lambda call: call.has_tokens)

        def is_candidate(position: int) -> bool:
            call = calls[position]
            if call.at_input and position < first_map:  # the doc itself
                return False
            if not call.at_input and layers.only_drops_or_augments(call.layer):
                return False
            return is_map(position) and (
                position < first_tokens or _is_of_a_picture(calls, position)
            )

        return is_candidate


def rows_differ(rows: int, docs: int) -> str:
    """Why an output that has another number of rows than there are docs cannot be explained."""
    return (
        f"an output of {rows} rows, as for several views of a picture, for {plural(docs, 'doc')}; "
        "explain the model inside that takes one view"
    )


def guessed(anatomy: Anatomy) -> keras.layers.Layer | None:
    """The layer that will most likely be chosen, as far as that can be told before a run.

    Only a hint where to look: the choice is made among the calls that a run really has.
    """
    model = anatomy.model
    if len(getattr(model, "output_names", ())) > 1:  # the last layer may be of another output
        return None
    with_maps = [layer for _, layer in layers.walk(model, anatomy.children_with_maps)]
    for layer in reversed(with_maps):
        try:
            shape = layer.output.shape
        except (AttributeError, ValueError):  # of several calls, or in no graph
            continue
        if (
            len(shape) == 4
            and not anatomy.children(layer)
            and not layers.only_drops_or_augments(layer)
        ):
            may_be_one_cell = 1 in shape[1:3] + shape[2:4]
            if may_be_one_cell and anatomy.layout_of(layer).spatial(shape) == (1, 1):
                continue
            return layer
    return None


def _own_layout(call: Call) -> Layout | None:
    """The layout of what was seen at a call, if the layer or a layer inside it says so."""
    if call.at_input:
        return layers.input_layout(call.layer)
    return layers.output_layout(call.layer)


def _layout_nearby(calls: Sequence[Call], position: int, neighbours: _Neighbours) -> Layout | None:
    """The layout that the nearest neighbour with one has."""
    for here, other in _nearby(calls, position, neighbours):
        call = calls[other]
        is_taker = here in call.sources
        said = layers.input_layout(call.layer) if is_taker else _own_layout(call)
        if said is not None:
            return said
    return None


def _nearby(
    calls: Sequence[Call], position: int, neighbours: _Neighbours
) -> Iterator[tuple[int, int]]:
    """Neighbours, nearest first, and theirs for as long as the shape stays what it is.

    Yields:
        ``(here, other)``: where the walk stood, and the neighbour.
    """
    seen, queue = {position}, [position]
    while queue:
        here = queue.pop(0)
        for other in neighbours(calls, here):
            if other is None or other in seen:
                continue
            seen.add(other)
            yield here, other
            if calls[other].shape == calls[position].shape:
                queue.append(other)


def _sources(calls: Sequence[Call], position: int) -> Sequence[int | None]:
    return calls[position].sources


def _takers(calls: Sequence[Call], position: int) -> list[int]:
    return [other for other, call in enumerate(calls) if position in call.sources]


def _is_of_a_picture(calls: Sequence[Call], position: int) -> bool:
    """Whether what has the rank of a picture is one, in a run that has had tokens before.

    It is one if a layer for pictures put it out or takes it, also across layers that keep its
    shape, or if it is made of as many tokens as it has cells. Else it may be what an attention
    holds, which has the same rank, but heads and tokens for axes.
    """
    _, first, second, channels = calls[position].shape
    sources = [calls[at].shape for at in calls[position].sources if at is not None]
    if any(shape[1:] == (first * second, channels) for shape in sources):
        return True
    return _works_on_pictures(calls[position].layer) or any(
        _works_on_pictures(calls[other].layer)
        for neighbours in (_takers, _sources)
        for _, other in _nearby(calls, position, neighbours)
    )


def _works_on_pictures(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, _OF_PICTURES) or any(map(_works_on_pictures, layers.children(layer)))


def _first(calls: Sequence[Call], holds: Callable[[Call], bool]) -> float:
    """The position of the first call for which something holds; infinite if there is none."""
    return next((position for position, call in enumerate(calls) if holds(call)), math.inf)


def _mixes_tokens(
    calls: Sequence[Call], position: int, layout: Layout, gradient_of_token: GradientOfToken
) -> bool:
    """Whether a map is cut into tokens, and each token later depends on others as well.

    Attention does that, under whatever name or spelled out in operations, and so does a mixer. The
    gradients tell: they show on how many cells of the map a token depends, first and last.
    """
    tokens = [at for at in range(position + 1, len(calls)) if calls[at].has_tokens]
    # A layer that only weighs tokens, to pool them, leaves each what it was.
    made = [at for at in tokens if not calls[at].at_input and _makes_tokens(calls[at].layer)]
    if not made or any(isinstance(call.layer, _OF_SEQUENCES) for call in calls[position:]):
        return False

    def cells(at: int) -> int | None:
        gradients = gradient_of_token(position, at, calls[at].shape[1] // 2)
        return None if gradients is None else int(np.any(gradients, axis=layout.axis).sum())

    first = next((found for found in map(cells, tokens) if found is not None), None)
    last = cells(made[-1])
    return first is not None and last is not None and last > first


def _makes_tokens(layer: keras.layers.Layer) -> bool:
    return bool(layer.weights) or "Attention" in type(layer).__name__
