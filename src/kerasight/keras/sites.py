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

from kerasight.base import RunError
from kerasight.cam.layout import Layout
from kerasight.checks import plural, readable
from kerasight.keras import layers, tokens
from kerasight.keras.tokens import GradientOfToken

if TYPE_CHECKING:
    from kerasight.cam.inputs import Inputs
    from kerasight.keras.anatomy import Anatomy
    from kerasight.keras.run import Call

__all__ = ["AXES", "Choice", "Site", "find_site", "guessed", "rows_differ", "site_of_docs"]

# A name that ends so stands for what goes into a layer, and not for what it puts out.
_INPUT = ":input"

# These work on pictures, and so do the layers around them.
_OF_PICTURES = (
    *layers.IMAGE_LAYERS,
    keras.layers.UpSampling2D,
    keras.layers.ZeroPadding2D,
    keras.layers.Cropping2D,
    keras.layers.Conv3D,
    keras.layers.Conv3DTranspose,
    keras.layers.AveragePooling3D,
    keras.layers.MaxPooling3D,
    keras.layers.GlobalAveragePooling3D,
    keras.layers.GlobalMaxPooling3D,
)

# Given the calls of a run and a position among them: the positions next to it.
_Neighbours = Callable[[Sequence["Call"], int], Sequence[int | None]]


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
        """What it is called, as `find_site` takes it; empty if it is the doc itself."""
        if self.layer is anatomy.model:
            return ""
        return anatomy.path_of(self.layer) + (_INPUT if self.at_input else "")

    def title(self, anatomy: Anatomy) -> str:
        """What errors call it."""
        path = self.path(anatomy)
        return f"layer {path!r}" if path else "the doc"

    def weak(self) -> Callable[[], Site]:
        """What gives the site, without keeping its layer alive."""
        layer, rest = weakref.ref(self.layer), (self.at_input, self.call, self.layout)
        return lambda: Site(layer(), *rest)

    def key(self) -> tuple[Hashable, ...]:
        """What tells it from other sites, without keeping its layer alive."""
        return (weakref.ref(self.layer), self.at_input, self.call, self.layout)


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


def site_of_docs(anatomy: Anatomy, inputs: Inputs) -> Site:
    """The docs themselves, as they go into a model."""
    layout = anatomy.layout_of_docs(tuple(inputs.docs.shape))
    return Site(anatomy.model, at_input=True, layout=layout)


class Choice:
    """Which call of a run to look at.

    Where no layer is asked for, eli5's rule holds: the last layer to run whose output has the rank
    of an image batch. If the next layer takes something that no layer put out, such as the sum of
    two outputs, that is taken instead. Passed over are maps of one cell, whose heatmap would be one
    flat colour; layers that only drop out or augment; and tensors that look like maps, but have
    heads and tokens for axes. If what comes after the map mixes the tokens that it is cut into, the
    last tokens are taken of which more than one patch reaches the score.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        wanted: Site | None,
        size: tuple[int | None, ...] = (None, None),
        grid: tuple[int, ...] | None = None,
    ) -> None:
        """Choose in runs of a model.

        Args:
            anatomy: The model.
            wanted: The site that is asked for; None to have one chosen.
            size: Spatial size of the docs.
            grid: The grid that tokens are the cells of, where the user says it.
        """
        self._anatomy = anatomy
        self.wanted = wanted
        self.size = size
        self.grid = grid

    def at(self, wanted: Site | None) -> Choice:
        """The same, for another site."""
        return Choice(self._anatomy, wanted, self.size, self.grid)

    def positions(self, calls: Sequence[Call], docs: int) -> Iterator[int]:
        """The positions of those to explain in a run of some docs, the best first."""
        if self.wanted is None:
            of_outputs = _made_into_outputs(calls)
            able = filter(self._is_candidate(calls, docs), reversed(range(len(calls))))
            last = []
            for position in able:
                if position not in of_outputs:
                    yield position
                else:
                    last.append(position)
            yield from last
            return
        own = [
            position
            for position in reversed(range(len(calls)))
            if calls[position].is_of(self.wanted)
        ]
        maps = list(filter(self._is_map(calls, docs), own))
        # The last call with a map. Where none has one, the error is to be of the last.
        yield from maps or own[:1]

    def site(self, calls: Sequence[Call], position: int) -> Site:
        """The site at a position of a run."""
        call = calls[position]
        return Site(call.layer, call.at_input, call.number, self.layout(calls, position))

    def tokens(
        self, calls: Sequence[Call], position: int | None, gradient_of_token: GradientOfToken
    ) -> list[int]:
        """The positions of the tokens to look at in place of a map, the best first.

        Args:
            calls: The calls of a run.
            position: That of the map that would be chosen; None if there is none.
            gradient_of_token: Tells whether the tokens are mixed that the map is cut into.

        Returns:
            None at all if the map is where to look.

        Raises:
            RunError: If the tokens are mixed, and it cannot be told where in the doc they are.
        """
        if self.wanted is not None:
            return []

        def layout_at(at: int) -> Layout | None:
            return self._layout_of_tokens(calls, at, calls[at].shape[1])

        are_mixed = None
        if position is not None:
            axis = self.layout(calls, position).axis
            are_mixed = tokens.mixed_tokens(calls, position, axis, gradient_of_token, layout_at)
            if are_mixed is None:
                return []
        after = -1 if position is None else position
        found = list(tokens.candidates(calls, after, layout_at))
        if found and are_mixed is not None and not are_mixed(found[0]):
            found = []  # of the tokens that were mixed none are cells: those before are not it
        if not found and any(call.has_tokens for call in calls[after + 1 :]):
            if position is None and self.grid is None and not self._has_attention(calls):
                return []  # whatever it is, it is no transformer
            raise RunError(self._why_no_grid(calls, position))
        return found

    @staticmethod
    def _has_attention(calls: Sequence[Call]) -> bool:
        return any("Attention" in type(call.layer).__name__ for call in calls)

    def _why_no_grid(self, calls: Sequence[Call], position: int | None) -> str:
        last = next(call for call in reversed(calls) if call.has_tokens)
        model, name = self._anatomy.model.name, self._anatomy.path_of(last.layer)
        what = (
            f"model {model!r} looks at tokens, {last.shape[1]} of them in what layer {name!r} puts "
            f"out, for a doc of size {readable(self.size)}"
        )
        other = ""
        if position is not None and self.grid is None:
            before = self.site(calls, position).path(self._anatomy)
            other = (
                f"; to see the map before them all the same, which is not where the model looked, "
                f"pass layer={before!r}"
            )
        return self._why_not_on_grid(what) + other

    def _why_not_on_grid(self, what: str) -> str:
        """Why tokens cannot be laid out, after ``what`` they are."""
        if self.grid is not None:
            return (
                f"{what}, and grid={self.grid} does not fit: it must have as many cells as there "
                "are tokens, less a few of no place, such as a class token"
            )
        return (
            f"{what}, and it cannot be told where in the doc they are; pass grid=(rows, columns), "
            "the cells that it is cut into"
        )

    def token_source(self, calls: Sequence[Call], position: int) -> int:
        """The position to look at in place of tokens that were projected, along with others."""
        return tokens.source_of(calls, position)

    def why_none(self, calls: Sequence[Call], docs: int) -> str:
        """Why there is no site to choose in a run of some docs."""
        model = self._anatomy.model.name
        for call in reversed(calls):
            if call.has_rank_of_maps and call.shape[0] != docs:
                return f"no layer of model {model!r} is suitable: " + rows_differ(
                    call.shape[0], docs
                )
        axes = ", ".join(AXES[len(self.size)])
        return (
            f"no layer of model {model!r} is suitable: none has an output of shape (1, "
            f"{axes}, channels) with more than one cell; pass layer= if there is one"
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
        if call.has_tokens:
            of_tokens = self._layout_of_tokens(calls, position, call.shape[1])
            if of_tokens is not None:
                return of_tokens
        return (
            _own_layout(call)
            or _layout_nearby(calls, position, _takers)
            or _layout_nearby(calls, position, _sources)
            or self._anatomy.layout_of(call.layer)
        )

    def layout_of_blocks(self, calls: Sequence[Call], number: int) -> Layout:
        """The layout of the tokens that all blocks of a transformer attend to.

        Args:
            calls: The calls of a run.
            number: How many tokens there are.

        Raises:
            RunError: If it cannot be told where in the doc they are.
        """
        if len(self.size) > 1:
            sizes = [call.shape[1] if call.has_tokens else None for call in calls]
            last = next((at for at in reversed(range(len(calls))) if sizes[at] == number), None)
            found = self._layout_of_tokens(calls, len(calls) if last is None else last, number)
        else:
            # Each step may be a token, or each cell of a map that strides and pooling made of them.
            maps = [call.shape[1:2] for call in calls if call.has_rank_of_maps]
            steps = tuple(length or 1 for length in self.size)
            found = tokens.layout_of_tokens(number, [steps, *maps], steps, (), self.grid)
        if found is None:
            what = (
                f"the blocks of model {self._anatomy.model.name!r} attend to {number} tokens, for "
                f"a doc of size {readable(self.size)}"
            )
            raise RunError(self._why_not_on_grid(what))
        return found

    def _layout_of_tokens(self, calls: Sequence[Call], position: int, number: int) -> Layout | None:
        """The layout of so many tokens at a position; None if they cannot be laid out."""
        maps = [
            self.layout(calls, at).spatial(calls[at].shape)
            for at in reversed(range(position))
            if calls[at].has_rank_of_maps and _is_of_a_picture(calls, at)
        ]
        patches = [getattr(one, "patch_size", None) for one in self._anatomy.all]
        return tokens.layout_of_tokens(number, maps, self.size, patches, self.grid)

    def _is_map(self, calls: Sequence[Call], docs: int) -> Callable[[int], bool]:
        def is_map(position: int) -> bool:
            call = calls[position]
            if call.shape[:1] != (docs,):
                return False
            if not call.has_rank_of_maps and not (self.wanted is not None and call.has_tokens):
                return False
            # A size is None where a pass is traced for any.
            return any(size != 1 for size in self.layout(calls, position).spatial(call.shape))

        return is_map

    def _is_candidate(self, calls: Sequence[Call], docs: int) -> Callable[[int], bool]:
        is_map = self._is_map(calls, docs)
        first_map = _first(calls, lambda call: call.has_rank_of_maps and not call.at_input)
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


# What the spatial axes are called, by their number.
AXES = {1: ("steps",), 2: ("height", "width"), 3: ("depth", "height", "width")}


def guessed(anatomy: Anatomy, rank: int) -> keras.layers.Layer | None:
    """The layer that will most likely be chosen, as far as that can be told before a run.

    Only a hint where to look: the choice is made among the calls that a run really has.

    Args:
        anatomy: The model.
        rank: That of a batch of maps.
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
            len(shape) == rank
            and not anatomy.children(layer)
            and not layers.only_drops_or_augments(layer)
        ):
            if 1 in shape[1:] and set(anatomy.layout_of(layer).spatial(shape)) == {1}:
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
    _, *spatial, channels = calls[position].shape
    sources = [calls[at].shape for at in calls[position].sources if at is not None]
    cells = None if None in spatial else math.prod(spatial)
    if any(shape[1:] == (cells, channels) for shape in sources):
        return True
    return _works_on_pictures(calls[position].layer) or any(
        _works_on_pictures(calls[other].layer)
        for neighbours in (_takers, _sources)
        for _, other in _nearby(calls, position, neighbours)
    )


def _works_on_pictures(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, _OF_PICTURES) or any(map(_works_on_pictures, layers.children(layer)))


def _made_into_outputs(calls: Sequence[Call]) -> set[int]:
    """The positions of maps that are what the model puts out, but for their shape and scale.

    As the scores of a segmentation and the logits that they are made of: a heatmap of them would
    show nothing but which of them are explained.
    """
    found: set[int] = set()
    ahead = [at for at, call in enumerate(calls) if call.is_output]
    while ahead:
        at = ahead.pop()
        if at not in found:
            found.add(at)
            if not calls[at].layer.weights:
                ahead += [
                    source
                    for source in calls[at].sources
                    # Else it is pooled, and its places are places no more.
                    if source is not None and _length(calls[source]) <= _length(calls[at])
                ]
    return found


def _length(call: Call) -> int:
    """How many numbers there are at a call; sizes that may be any count as 1."""
    length: int = math.prod(size or 1 for size in call.shape)
    return length


def _first(calls: Sequence[Call], holds: Callable[[Call], bool]) -> float:
    """The position of the first call for which something holds; infinite if there is none."""
    return next((position for position, call in enumerate(calls) if holds(call)), math.inf)
