"""What one pass through a model says of each doc: the terms of heatmaps, checked, channels last."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import keras
import numpy as np

from kerasight.base import DocError, RunError
from kerasight.cam.inputs import Inputs
from kerasight.cam.layout import CHANNELS_LAST, Layout
from kerasight.checks import is_real
from kerasight.keras import passes, scoring
from kerasight.keras.anatomy import Anatomy
from kerasight.keras.blocks import Blocks, layout_of_blocks, look_at_blocks
from kerasight.keras.running import as_floats
from kerasight.keras.sites import AXES, Choice, Site, rows_differ
from kerasight.keras.targets import Classes, Target
from kerasight.keras.wanted import target_index

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped

__all__ = [
    "NothingToSeeError",
    "Record",
    "RecordOfBlocks",
    "Terms",
    "record",
    "record_batch",
    "record_blocks",
    "record_from_outside",
    "scorer",
    "scores_of",
]


class NothingToSeeError(RunError):
    """A model has no layer whose output still has the places of a doc."""


@dataclass(frozen=True)
class Terms:
    """The terms of the heatmap of one class of one doc.

    Attributes:
        activations: What was seen at the site, shape ``(*spatial, channels)``, float32 or float64.
        gradients: Gradients of what is explained with respect to ``activations``, same shape and
            type.
        target: Index of the explained class.
        scores: The model's output, shape ``(classes,)``, or the logits that it was made of.
        rivals: Indices of the classes that ``target`` was compared with, the greatest score first.
        site: Where the model was looked at.
        path: What that is called: the layer's path in the model.
        before: The tokens of no place that come before those of the map, shape ``(prefix,
            channels)``; none if it is no map of tokens.
        attentions: Where all blocks of a transformer were looked at, what each attends to, shape
            ``(heads, tokens, tokens)``.
        slopes: Gradients of what is explained with respect to them, as far as they are needed.
        readers: How much is read of each token behind the last block.
    """

    activations: Float[np.ndarray, "*spatial channels"]
    gradients: Float[np.ndarray, "*spatial channels"]
    target: int
    scores: Float[np.ndarray, " classes"]
    rivals: tuple[int, ...]
    site: Site
    path: str
    before: Float[np.ndarray, "prefix channels"]
    attentions: Sequence[Float[np.ndarray, "_ tokens tokens"]] = ()
    slopes: Sequence[Float[np.ndarray, "_ tokens tokens"]] = ()
    readers: Float[np.ndarray, " tokens"] | None = None

    @property
    def layer(self) -> keras.layers.Layer:
        """The layer."""
        return self.site.layer

    @property
    def score(self) -> float:
        """The model's output for ``target``."""
        return float(self.scores[self.target])


@dataclass(frozen=True)
class Record:
    """A pass over a batch of docs.

    Attributes:
        site: Where the model was looked at.
        path: What that is called.
        activations: What was seen there, shape ``(docs, *spatial, channels)``.
        gradients: Gradients of the targets, shape ``(targets, docs, *spatial, channels)``.
        target: What was explained, settled: of each doc its classes.
        scores: The model's output, shape ``(docs, classes)``.
        before: Tokens of no place, shape ``(docs, prefix, channels)``.
        facts: What more was read from the outputs, each of shape ``(docs, ...)``.
    """

    site: Site
    path: str
    activations: Float[np.ndarray, "docs *spatial channels"]
    gradients: Float[np.ndarray, "targets docs *spatial channels"]
    target: Target
    scores: Float[np.ndarray, "docs classes"]
    before: Float[np.ndarray, "docs prefix channels"]
    facts: Sequence[Shaped[np.ndarray, "docs ..."]] = ()

    _where: ClassVar[str] = "the doc"

    def terms(self, doc: int) -> list[Terms]:
        """The terms of a doc, one for each of its targets.

        Raises:
            DocError: If there is NaN or infinity in them, or a class has no rivals but itself.
        """
        where = f"layer {self.path!r}" if self.path else self._where
        for what, values in (
            ("output", self.activations[doc]),
            ("gradient", self.gradients[:, doc]),
        ):
            if not np.isfinite(values).all():
                raise DocError(
                    f"there is NaN or infinity in the {what} of {where}; look at the "
                    "model's weights and at the range of doc"
                )
        return [
            Terms(
                activations=self.activations[doc],
                gradients=self.gradients[rank, doc],
                target=int(target),
                scores=self.scores[doc],
                rivals=self._rivals(doc, rank, int(target)),
                site=self.site,
                path=self.path,
                before=self.before[doc],
            )
            for rank, target in enumerate(self.target.classes()[doc])
        ]

    def _rivals(self, doc: int, rank: int, target: int) -> tuple[int, ...]:
        """The classes that a class was compared with, the greatest score first."""
        rivals = self.target.rivals()
        if rivals is None:
            return ()
        found = sorted({int(rival) for rival in rivals[doc, rank]} - {target})
        if not found:
            raise DocError(
                f"class {target} has no class to be compared with: references holds none but "
                "itself; pass others"
            )
        return tuple(sorted(found, key=lambda rival: -self.scores[doc, rival]))


@dataclass(frozen=True)
class RecordOfBlocks(Record):
    """A pass over a batch of docs that saw all blocks of a transformer.

    What was seen at its site is how much each head of the last block attends to each place, the
    mean over the tokens that ask.

    Attributes:
        blocks: What each block attends to.
        readers: How much is read of each token behind the last block, shape ``(targets, docs,
            tokens)``.
    """

    blocks: Blocks | None = None
    readers: Float[np.ndarray, "targets docs tokens"] | None = None

    _where: ClassVar[str] = "the blocks"

    def terms(self, doc: int) -> list[Terms]:
        """As `Record.terms`, and with what all blocks attend to."""
        blocks, readers = self.blocks, self.readers
        assert blocks is not None
        assert readers is not None
        return [
            replace(
                one,
                attentions=[block[doc] for block in blocks.attentions],
                slopes=[block[rank, doc] for block in blocks.gradients],
                readers=readers[rank, doc],
            )
            for rank, one in enumerate(super().terms(doc))
        ]


def record(
    model: keras.Model,
    doc: Shaped[np.ndarray, "1 ..."],
    targets: list[int] | None = None,
    layer: keras.layers.Layer | Site | None = None,
) -> Terms:
    """Run a model forward and backward once, and see one layer, for one class of one input.

    Args:
        model: The classifier. Of several outputs the first is explained.
        doc: One input, shape ``(1, height, width, channels)``, or channels first.
        targets: The index of the class, as a list of one, or None for the top class.
        layer: The layer, at any depth, or the site; None to have it chosen, see `sites.Choice`. Of
            a layer called several times the last call with a map is taken.

    Raises:
        TypeError: If ``targets`` is neither a list nor None, or its item no integer.
        ValueError: If ``targets`` does not hold exactly one class; if the layer was not reached,
            has no map, or no gradient to the score; if there is NaN or infinity in either.
    """
    index = target_index(targets)
    target = Classes.top(1) if index is None else Classes(np.array([[index]]))
    wanted = Site(layer) if isinstance(layer, keras.layers.Layer) else layer
    anatomy = Anatomy(model)
    anatomy.refresh()
    (terms,) = record_batch(anatomy, anatomy.inputs_of(doc), target, wanted).terms(0)
    return terms


def record_batch(
    anatomy: Anatomy,
    inputs: Inputs,
    target: Target,
    site: Site | None = None,
    *,
    logits: bool = False,
    needs_gradients: bool = True,
    grid: tuple[int, ...] | None = None,
) -> Record:
    """Run a model forward and backward once, for several targets of several docs.

    Args:
        anatomy: The model.
        inputs: Its inputs.
        target: What to explain.
        site: Where to look; None to have it chosen.
        logits: Whether the scores are to be those before the final softmax or sigmoid.
        needs_gradients: Whether it is an error if the scores do not depend on the layer in a way
            that can be differentiated; else the gradients are zero.
        grid: The grid that tokens are the cells of; None if that is to be found out.

    Raises:
        RunError: If there is no such class; if the layer was not reached, has no map, or no
            gradient to the score; if there are no logits to be found, or there is but one class and
            it is to be compared.
    """
    size = anatomy.size_of_docs(inputs)
    choice, docs = Choice(anatomy, site, size, grid), len(inputs)
    found = passes.look(anatomy, inputs, target, choice, logits=logits)
    site = found.site
    if site is None:
        why = _why_nothing(anatomy, choice, found)
        has_places = any(call.has_rank_of_maps or call.has_tokens for call in found.calls)
        raise (RunError if choice.wanted is not None or has_places else NothingToSeeError)(why)
    assert site.layout is not None
    title = site.title(anatomy)
    activations, gradients = found.activations, found.gradients
    if site.layer is anatomy.model:  # the doc itself, which may have no axis of channels
        activations, gradients = (
            one[..., np.newaxis] if one is not None and inputs.docs.ndim == 2 else one
            for one in (activations, gradients)
        )
    rank = 3 if site.layout.grid else inputs.rank_of_maps
    if activations is not None and activations.ndim == rank and len(activations) != docs:
        raise RunError(f"{title} has " + rows_differ(len(activations), docs))
    if activations is None or activations.ndim != rank:
        raise RunError(_why_no_map(choice, title, activations))
    if math.prod(site.layout.spatial(activations.shape)) == 1:
        raise RunError(
            f"{title} has a map of one cell (output shape {activations.shape}), of which a "
            "heatmap would be one flat colour; pass a layer before the last global pooling"
        )
    if gradients is None and not needs_gradients:
        gradients = np.zeros((found.target.number, *activations.shape), activations.dtype)
    if gradients is None:
        raise RunError(
            f"{title} has no gradient to the score: the score does not depend on it, or only "
            "through an operation that cannot be differentiated, or that is rematerialised "
            "(keras.remat, tf.recompute_grad, torch.utils.checkpoint): what runs inside of it "
            "cannot be seen, and the layer around it can"
        )
    return Record(
        site=site,
        path=anatomy.name_of(site),
        activations=site.layout.unfold(activations),
        gradients=site.layout.unfold(gradients, axis=1),
        target=found.target,
        scores=found.scores,
        before=_of_no_place(activations, site.layout),
        facts=found.facts,
    )


def record_from_outside(
    anatomy: Anatomy,
    inputs: Inputs,
    target: Target,
    site: Site | None = None,
    *,
    logits: bool = False,
) -> Record:
    """Run a model forward once, and see its scores alone; nothing needs to be differentiable.

    Args:
        anatomy: The model.
        inputs: Its inputs.
        target: What to explain.
        site: The docs, where their gradients will be asked for; None if they will not.
        logits: Whether the scores are to be those before the final softmax or sigmoid.

    Returns:
        A record of the docs themselves, with gradients of zero. Of texts as strings, which are no
        numbers, it has a 1 each.

    Raises:
        RunError: If there is no such class, or there are no logits to be found.
    """
    read = scoring.scored(anatomy, inputs, logits=logits)
    if len(read.scores) != len(inputs):
        raise RunError("the model's output has " + rows_differ(len(read.scores), len(inputs)))
    settled = target.check(read.scores.shape[1]).settled(read.scores)
    settled = settled.with_leaves(map(keras.ops.convert_to_numpy, settled.leaves())).named()
    docs = inputs.docs
    if not is_real(docs):
        docs = np.ones((len(docs), 1), np.float32)
    places = anatomy.places_of(as_floats(docs))
    site = site or Site(anatomy.model, at_input=True, layout=CHANNELS_LAST)
    return Record(
        site=site,
        path=anatomy.name_of(site),
        activations=places,
        gradients=np.broadcast_to(np.zeros((), places.dtype), (settled.number, *places.shape)),
        target=settled,
        scores=read.scores,
        before=_of_no_place(places, CHANNELS_LAST),
        facts=read.facts,
    )


def record_blocks(
    anatomy: Anatomy,
    inputs: Inputs,
    target: Target,
    *,
    logits: bool = False,
    needs: str,
    grid: tuple[int, ...] | None = None,
) -> RecordOfBlocks:
    """Run a model once, and see all blocks of a transformer.

    Args:
        anatomy: The model.
        inputs: Its inputs.
        target: What to explain.
        logits: Whether the scores are to be those before the final softmax or sigmoid.
        needs: As in `look_at_blocks`.
        grid: The grid that tokens are the cells of; None if that is to be found out.

    Raises:
        RunError: If the attention of the model cannot be seen, or does not go from block to block;
            if it cannot be told where in the doc the tokens are.
    """
    blocks = look_at_blocks(anatomy, inputs, target, logits=logits, needs=needs)
    layout = layout_of_blocks(anatomy, inputs, blocks.tokens, grid)
    activations = np.moveaxis(blocks.attentions[-1].mean(axis=2), 1, -1)
    if blocks.gradients:
        gradients = np.moveaxis(blocks.gradients[-1].mean(axis=3), 2, -1)
    else:
        gradients = np.zeros((blocks.target.number, *activations.shape), activations.dtype)
    return RecordOfBlocks(
        site=Site(anatomy.model, layout=layout),
        path="",
        activations=layout.unfold(activations),
        gradients=layout.unfold(gradients, axis=1),
        target=blocks.target,
        scores=blocks.scores,
        before=_of_no_place(activations, layout),
        facts=blocks.facts,
        blocks=blocks,
        readers=blocks.readers(needs != "attention"),
    )


def _of_no_place(
    activations: Float[np.ndarray, "docs ..."], layout: Layout
) -> Float[np.ndarray, "docs prefix channels"]:
    """The tokens of no place among what was seen; none if it is no map of tokens."""
    if layout.grid is None:
        channels = layout.channels(activations.shape)
        return np.zeros((len(activations), 0, channels), activations.dtype)
    before: np.ndarray = activations[:, : layout.prefix]
    return before


def _why_no_map(choice: Choice, title: str, activations: Any) -> str:
    """Why a heatmap cannot be made of what a layer puts out."""
    was = "no single float tensor" if activations is None else f"shape {activations.shape}"
    wanted = ", ".join(AXES[len(choice.size)])
    if activations is not None and activations.ndim == 3:
        how = "passed does not fit" if choice.grid else "cannot be told; pass it as grid="
        return (
            f"{title} puts out tokens, shape {activations.shape}, and the grid of {wanted} "
            f"that they are the cells of {how}"
        )
    return (
        f"{title} has no spatial axes to draw a heatmap over: its output has {was}, "
        f"where (1, {wanted}, channels) is needed; pass a convolution, an activation or a "
        "pooling layer before the last global pooling"
    )


def scores_of(
    model: keras.Model | Anatomy,
    docs: Shaped[np.ndarray, "docs ..."] | Inputs,
    *,
    logits: bool = False,
    batch_size: int = 32,
) -> Float[np.ndarray, "docs classes"]:
    """The scores of many inputs, a batch at a time; the fast way to run a model often.

    Args:
        model: The classifier.
        docs: Inputs, shape ``(docs, height, width, channels)``, or channels first.
        logits: Whether the scores are to be those before the final softmax or sigmoid.
        batch_size: How many go through the model at a time.

    Returns:
        The model's first output, shape ``(docs, classes)``, float32 or float64.

    Raises:
        ValueError: If the output is not one score a class, or there are no logits to be found.
    """
    anatomy = model if isinstance(model, Anatomy) else Anatomy(model)
    inputs = docs if isinstance(docs, Inputs) else anatomy.inputs_of(docs)
    anatomy.refresh()
    batches = [inputs[start : start + batch_size] for start in range(0, len(inputs), batch_size)]
    return np.concatenate([scoring.scores(anatomy, batch, logits=logits) for batch in batches])


def scorer(
    model: keras.Model, docs: Inputs, *, logits: bool = False
) -> Callable[[Inputs], Float[np.ndarray, "batch classes"]]:
    """A function that gives the scores of a batch, for a thousand inputs and more.

    Making it takes as long as scoring about a hundred inputs. It is up to a quarter faster than
    `scores_of`, since the weights are compiled in, and as exact.

    Args:
        model: The classifier. It has run, and stays as it is while its scores are asked for.
        docs: Inputs of the shape and type that all will have, however many.
        logits: Whether the scores are to be those before the final softmax or sigmoid.

    Returns:
        A function from a batch of inputs to scores ``(batch, classes)``, float32 or float64.
    """
    anatomy = Anatomy(model)
    anatomy.refresh()
    return scoring.frozen_scores(anatomy, docs, logits=logits)


def _why_nothing(anatomy: Anatomy, choice: Choice, found: passes.Pass) -> str:
    """Why a run has shown nowhere to look."""
    if choice.wanted is None:
        return choice.why_none(found.calls, len(found.scores))
    name, model = choice.wanted.path(anatomy), anatomy.model.name
    if not anatomy.holds(choice.wanted.layer):
        return f"layer {name!r} is not in model {model!r}, nor does the model call it"
    return (
        f"layer {name!r} is never reached when model {model!r} runs, or only inside a function "
        "that is compiled or rematerialised by itself (tf.function, jax.jit, keras.remat), where "
        "it cannot be seen"
    )
