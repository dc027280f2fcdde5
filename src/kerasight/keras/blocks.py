"""A pass that sees all blocks of a transformer: what they attend to, and how scores depend on it.

Like the passes of `kerasight.keras.passes`, it runs eagerly at first and is compiled when it comes
often. One way back through the model gives the gradients of all blocks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from keras import ops

from kerasight.base import RunError
from kerasight.cam.inputs import Inputs
from kerasight.cam.layout import CHANNELS_LAST, Layout
from kerasight.keras import backends, scoring
from kerasight.keras.anatomy import Anatomy
from kerasight.keras.attention import Attention, holds_softmax
from kerasight.keras.backends import Watch
from kerasight.keras.layers import hides_maps, only_drops_or_augments, walk
from kerasight.keras.logits import HiddenLogitsError
from kerasight.keras.passes import classes_of_run, is_finite, scales_here, typed
from kerasight.keras.run import Call, Run, in_plain_words
from kerasight.keras.running import (
    Sizes,
    as_array,
    check_eager,
    if_it_can,
    once_built,
    packed,
    rows_to_run,
    signature_of,
    tensors_of,
    weak,
)
from kerasight.keras.sites import Choice, Site
from kerasight.keras.targets import Target
from kerasight.keras.traces import WORTH_A_TRACE

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Shaped

__all__ = ["Blocks", "layout_of_blocks", "look_at_blocks"]

_INSTEAD = "; take a class activation map of its tokens, such as method='hirescam'"


@dataclass(frozen=True)
class Blocks:
    """What one pass through the blocks of a transformer gave.

    Attributes:
        attentions: What the tokens of each block attend to, shape ``(docs, heads, tokens, tokens)``
            each, the first block first.
        gradients: Gradients of the targets with respect to them, shape ``(targets, docs, heads,
            tokens, tokens)`` each; where they were not asked for, those of the last block alone.
        pooling: What a learnt query attends to that reads the tokens behind the last block, shape
            ``(docs, heads, queries, tokens)``, and the gradients with respect to it; None if none
            does.
        target: What was explained, settled.
        scores: The model's output for all classes, shape ``(docs, classes)``.
        facts: What more was read from the outputs, each of shape ``(docs, ...)``.
    """

    attentions: Sequence[Float[np.ndarray, "docs _ tokens tokens"]]
    gradients: Sequence[Float[np.ndarray, "targets docs _ tokens tokens"]]
    pooling: (
        tuple[
            Float[np.ndarray, "docs _ queries tokens"],
            Float[np.ndarray, "targets docs _ queries tokens"],
        ]
        | None
    )
    target: Target
    scores: Float[np.ndarray, "docs classes"]
    facts: Sequence[Shaped[np.ndarray, "docs ..."]] = ()

    @property
    def tokens(self) -> int:
        """How many tokens there are."""
        return int(self.attentions[0].shape[-1])

    def readers(self, is_of_class: bool) -> Float[np.ndarray, "targets docs tokens"]:
        """How much is read of each token behind the last block: a sum of 1, or zeros.

        Where a learnt query reads them, what it attends to: the mean over its heads, and over those
        of its queries that reach the score; if the method is of a class, of the positive part of
        attention times gradient. Else the tokens that reach the score count alike. Which these are
        tell the gradients with respect to what the last tokens attend to: those of a token are zero
        if nothing reads it.
        """
        if self.pooling is None:
            found = _reaching(self.gradients[-1]).astype(np.float64)
        else:
            attention, gradient = self.pooling
            weights = attention[np.newaxis]
            if is_of_class:
                weights = np.maximum(weights * gradient, 0)
            reaching = _reaching(gradient)[:, :, np.newaxis, :, np.newaxis]
            found = np.sum(weights * reaching, axis=(2, 3), dtype=np.float64)
        total = found.sum(axis=-1, keepdims=True)
        shares: np.ndarray = np.divide(found, total, out=np.zeros_like(found), where=total > 0)
        return shares

    def of_docs(self, docs: int) -> Blocks:
        """The pass of so many docs, the first ones."""
        pooling = self.pooling
        return replace(
            self,
            attentions=[one[:docs] for one in self.attentions],
            gradients=[one[:, :docs] for one in self.gradients],
            pooling=None if pooling is None else (pooling[0][:docs], pooling[1][:, :docs]),
            target=self.target.of_docs(slice(docs)),
            scores=self.scores[:docs],
            facts=[fact[:docs] for fact in self.facts],
        )


def _reaching(
    gradients: Float[np.ndarray, "targets docs heads queries keys"],
) -> Bool[np.ndarray, "targets docs queries"]:
    """Which of the tokens that ask reach the score."""
    found: np.ndarray = np.any(gradients, axis=(2, 4))
    return found


def look_at_blocks(
    anatomy: Anatomy,
    inputs: Inputs,
    target: Target,
    *,
    logits: bool = False,
    needs: str,
) -> Blocks:
    """Run a model once, and differentiate targets by what its blocks attend to.

    Args:
        anatomy: The model.
        inputs: Its inputs.
        target: What to explain.
        logits: Whether the scores are to be those before the final softmax or sigmoid.
        needs: What a formula takes: what blocks attend to; the gradients with respect to it as
            well; or those of the scores that the model's head gives to the tokens of each block.

    Raises:
        RunError: If the attention of the model cannot be seen, or does not go from block to block.
    """
    check_eager()
    traces, docs = anatomy.traces, len(inputs)
    tensors, shapes = tensors_of(anatomy, inputs)
    readout = anatomy.readout.key()
    key = ("blocks", shapes, logits, target.kind(), readout, needs)
    rows = rows_to_run(traces, key, docs)
    if len(rows) > docs:
        asked: dict[str, Any] = {"logits": logits, "needs": needs}
        return look_at_blocks(anatomy, inputs[rows], target.of_docs(rows), **asked).of_docs(docs)
    streams = _streams(anatomy, inputs, target, logits) if needs == "gradients by block" else []
    of_classes = ("classes of blocks", readout)
    classes: int | None = traces.known(of_classes)
    backend = backends.current()
    # Operation by operation, the head would run the whole model on the tokens of each block.
    compiles_first = backend.compiles_each_operation or (backend.compiles and bool(streams))
    compiles_first &= not anatomy.unbuilt
    if classes is None and compiles_first:
        classes = scoring.scores(anatomy, inputs[:1]).shape[1]

    def eagerly(logits: bool) -> _Run:
        def run() -> _Run:
            return _run(anatomy, tensors, target, logits, needs, streams)

        return once_built(anatomy, tensors, run)

    def compiled(classes: int) -> _Run | None:
        checked = target.check(classes)
        arrays = [typed(leaf) for leaf in checked.leaves()]
        of_target = [
            (shape, str(array.dtype)) for shape, array in zip(checked.shapes(), arrays, strict=True)
        ]
        signature = signature_of((*shapes, *of_target), (*tensors.leaves, *arrays))

        def make() -> _Trace:
            return _Trace(anatomy, inputs, signature, checked, logits, needs, streams)

        trace = traces.get((*key, signature), key, make)
        return None if trace is None else trace.run(tensors, arrays)

    run: _Run | None = None
    if classes is not None:
        known = classes
        if docs >= WORTH_A_TRACE or compiles_first:
            traces.count(anatomy.model, key, WORTH_A_TRACE)
        run = if_it_can(anatomy, lambda: compiled(known))
        if run is not None:
            traces.once(of_classes, lambda: known)
            traces.once(Sizes.of(key), Sizes).run.add(docs)
    if run is None:
        try:
            run = eagerly(logits)
            number = int(run.scores.shape[1])
            if traces.count(anatomy.model, key, docs):
                traces.once(of_classes, lambda: number)
        except HiddenLogitsError:
            # A graph tells more: what each operation is, and what went into it.
            number = int(eagerly(logits=False).scores.shape[1])
            traces.count(anatomy.model, key, WORTH_A_TRACE)
            run = compiled(number)
            if run is None:
                raise
    return _blocks(anatomy, run)


def layout_of_blocks(
    anatomy: Anatomy, inputs: Inputs, tokens: int, grid: tuple[int, ...] | None
) -> Layout:
    """Where in the doc the tokens are that all blocks attend to.

    Args:
        anatomy: The model.
        inputs: Its inputs.
        tokens: How many tokens there are.
        grid: The grid, where the user says it.

    Raises:
        RunError: If it cannot be told.
    """
    sizes = tuple(tuple(leaf.shape[1:]) for leaf in inputs.leaves)

    def find() -> Layout:
        choice = Choice(anatomy, None, anatomy.size_of_docs(inputs), grid)
        tensors, _ = tensors_of(anatomy, inputs[:1])
        run = Run(anatomy, tensors, watch=lambda tensor, _: tensor, is_linearised=False)
        return choice.layout_of_blocks(run.calls, tokens)

    known = ("layout of blocks", sizes, inputs.seen, tokens, grid, anatomy.readout.key())
    layout: Layout = anatomy.traces.once(known, find)
    return layout


@dataclass
class _Run:
    """What came of a run, as tensors or arrays: of all attention, whatever tokens it is of."""

    target: Target
    scores: Any
    facts: Sequence[Any]
    weights: Sequence[Any]
    gradients: Sequence[Any]


def _run(
    anatomy: Anatomy,
    tensors: Inputs,
    target: Target,
    logits: bool,
    needs: str,
    streams: Sequence[Site],
) -> _Run:
    """Run a model and differentiate it, eagerly or to be compiled."""
    attention: Attention | None = None
    run: Run | None = None

    def outputs_and_sources(watch: Watch) -> tuple[list[Any], list[Any]]:
        nonlocal attention, run
        attention = Attention(anatomy, watch, streams)
        try:
            run = Run(anatomy, tensors, logits=logits, attention=attention)
        except ValueError as error:
            if attention.refuses is None:
                raise
            raise RunError(
                f"the attention of layer {anatomy.path_of(attention.refuses)!r} cannot be seen: it "
                "does not give its weights, as where it was made while flash attention was on "
                f"({str(error).splitlines()[0]}){_INSTEAD}"
            ) from error
        of_blocks = None
        if streams:
            of_blocks = _scores_of_blocks(anatomy, tensors, logits, streams, attention.streams)
        return [of_blocks, run.scores, *run.facts], attention.weights

    backend = backends.current()
    linear = backend.linearise(outputs_and_sources)
    assert run is not None
    assert attention is not None
    if attention.hidden:
        path = anatomy.path_of(attention.hidden[0])
        raise RunError(
            f"the attention of layer {path!r} cannot be seen: no keras.layers.Softmax puts out its "
            f"weights, as where it is spelled out in operations{_INSTEAD}"
        )
    if not attention.weights:
        raise RunError(
            f"there is no attention to be seen in model {anatomy.model.name!r}: none of its layers "
            "is keras.layers.MultiHeadAttention or the like, or holds a keras.layers.Softmax that "
            "puts out what tokens attend to" + _INSTEAD.replace(" of its tokens", "")
        )
    _, scores, *facts = linear.outputs
    classes = classes_of_run(run, tensors.docs.shape[0])
    settled = (
        target.check(classes).settled(scores) if backend.is_eager() else target.settled(scores)
    )
    weights = list(linear.sources)
    sources = range(len(weights))[-1 if needs == "attention" else 0 :]
    found: list[Any] = []
    for scale in scales_here(run):
        seeds = settled.seed(scores) * ops.cast(scale, scores.dtype)
        with in_plain_words(anatomy.model):
            if streams:
                seeds = ops.concatenate([seeds] * len(streams), axis=1)
            found = linear.pullback(seeds, 0 if streams else 1, sources)
        found = [
            ops.zeros((settled.number, *ops.shape(weights[at]))) if one is None else one / scale
            for at, one in zip(sources, found, strict=True)
        ]
        if not backend.is_eager() or all(map(is_finite, found)):
            break
    return _Run(settled, scores, facts, weights, found)


def _scores_of_blocks(
    anatomy: Anatomy,
    tensors: Inputs,
    logits: bool,
    streams: Sequence[Site],
    tokens: Sequence[Any],
) -> Any:
    """The scores that the head gives to the tokens of each block, as if it were the last.

    Shape ``(blocks * docs, classes)``.
    """
    each = packed(tensors, [ops.concatenate([leaf] * len(streams)) for leaf in tensors.leaves])
    run = Run(
        anatomy,
        each,
        logits=logits,
        watch=lambda tensor, _: tensor,
        wanted=streams[-1],
        replacement=ops.concatenate(tokens),
    )
    return run.scores


def _streams(anatomy: Anatomy, inputs: Inputs, target: Target, logits: bool) -> list[Site]:
    """Where the tokens behind each block are, found once.

    Raises:
        RunError: As in `look_at_blocks`; if that cannot be told.
    """

    def find() -> list[Callable[[], Site]]:
        one = slice(1)
        blocks = look_at_blocks(
            anatomy, inputs[one], target.of_docs(one), logits=logits, needs="attention"
        )
        tensors, _ = tensors_of(anatomy, inputs[one])
        run = Run(anatomy, tensors, watch=lambda tensor, _: tensor, is_linearised=False)
        found = _behind_blocks(anatomy, run.calls, blocks.tokens, len(blocks.attentions))
        if found is None:
            raise RunError(
                f"it cannot be told what model {anatomy.model.name!r} hands on from block to "
                "block; method='chefer' does not ask"
            )
        return [site.weak() for site in found]

    sizes = tuple(tuple(leaf.shape[1:]) for leaf in inputs.leaves)
    found = anatomy.traces.once(("streams of blocks", sizes, anatomy.readout.key()), find)
    return [site() for site in found]


def _behind_blocks(
    anatomy: Anatomy, calls: Sequence[Call], tokens: int, blocks: int
) -> list[Site] | None:
    """Where the tokens behind each block are, as they go on to the next; None if unknown.

    That is the last of what has so many tokens before the next block attends, where what a layer
    normalisation makes of them does not count. Behind the last block it is the last of what a layer
    of the same type has as the block before it.
    """
    holders = [one for one in anatomy.all if holds_softmax(one)]
    around = (outer for one in holders for outer in anatomy.around(one))
    attending = [*holders, *(one for one in around if hides_maps(one))]
    inside = {id(one) for layer in attending for _, one in walk(layer, anatomy.children)}
    inside |= set(map(id, attending))
    of_attention = [
        [at for at, _ in several]
        for is_inside, several in itertools.groupby(
            enumerate(calls), key=lambda item: id(item[1].layer) in inside
        )
        if is_inside
    ]
    if not blocks <= len(of_attention) <= blocks + 1:
        return None
    ends = [*(each[0] for each in of_attention), len(calls)]
    found: list[int] = []
    for number, each in enumerate(of_attention[:blocks]):
        between = [
            at
            for at in range(each[-1] + 1, ends[number + 1])
            if len(calls[at].shape) == 3
            and calls[at].shape[1] == tokens
            and not only_drops_or_augments(calls[at].layer)
            and (calls[at].at_input or "Norm" not in type(calls[at].layer).__name__)
        ]
        if found and number == blocks - 1:
            before = calls[found[-1]]
            kind = (type(before.layer), before.at_input)
            between = [at for at in between if (type(calls[at].layer), calls[at].at_input) == kind]
        if not between:
            return None
        found.append(between[-1])
    if len({calls[at].shape for at in found}) > 1:
        return None
    return [
        Site(calls[at].layer, calls[at].at_input, calls[at].number, CHANNELS_LAST) for at in found
    ]


class _Trace:
    """The pass, compiled for one model, kind of target and shape."""

    def __init__(
        self,
        anatomy: Anatomy,
        inputs: Inputs,
        signature: Sequence[Any],
        target: Target,
        logits: bool,
        needs: str,
        streams: Sequence[Site],
    ) -> None:
        weak_anatomy, number = weak(anatomy), len(inputs.leaves)
        weak_streams = [one.weak() for one in streams]

        def run(*given: Any) -> tuple[Any, ...]:
            found = _run(
                weak_anatomy(),
                packed(inputs, given[:number]),
                target.with_leaves(given[number:]),
                logits,
                needs,
                [one() for one in weak_streams],
            )
            self._settled = found.target
            parts = (found.target.leaves(), found.facts, found.weights, found.gradients)
            self._sizes = [len(one) for one in parts]
            return (found.scores, *(one for part in parts for one in part))

        self._function = backends.current().compiled(run, signature, anatomy.model.variables)

    def run(self, tensors: Inputs, arrays: Sequence[np.ndarray]) -> _Run:
        """Run the pass."""
        given = [ops.convert_to_tensor(array) for array in arrays]
        scores, *rest = self._function(*tensors.leaves, *given)
        parts = []
        for size in self._sizes:
            parts.append(rest[:size])
            rest = rest[size:]
        leaves, facts, weights, gradients = parts
        return _Run(self._settled.with_leaves(leaves), scores, facts, weights, gradients)


def _blocks(anatomy: Anatomy, run: _Run) -> Blocks:
    """The blocks among all attention of a run.

    Raises:
        RunError: If there is attention that does not go from block to block.
    """
    scores = as_array(run.scores)
    weights, gradients = [as_array(one) for one in run.weights], list(map(as_array, run.gradients))
    shapes = [one.shape for one in weights]
    pooling = None
    *blocks, last = weights
    if blocks and last.shape[2] != last.shape[3]:
        pooling = (last, gradients[-1])
        weights, gradients = blocks, gradients[:-1]
    sizes = {(one.shape[0], one.shape[-1], one.shape[-2]) for one in weights}
    number = weights[0].shape[-1]
    if sizes != {(len(scores), number, number)} or last.shape[-1] != number:
        raise RunError(
            f"the attention of model {anatomy.model.name!r} does not go from block to block: what "
            "tokens are worth is passed on by one number of tokens in all blocks, and its layers "
            f"have {_in_words(shapes)}, as where tokens are merged, attend within windows, or to "
            f"others than themselves{_INSTEAD}"
        )
    return Blocks(
        attentions=weights,
        gradients=gradients,
        pooling=pooling,
        target=run.target.with_leaves(map(as_array, run.target.leaves())).named(),
        scores=scores,
        facts=list(map(as_array, run.facts)),
    )


def _in_words(shapes: Sequence[tuple[int, ...]]) -> str:
    """How many tokens ask how many, in the layers whose weights have these shapes."""
    pairs = dict.fromkeys(f"{asking} asking {asked}" for *_, asking, asked in shapes)
    return ", ".join(pairs)
