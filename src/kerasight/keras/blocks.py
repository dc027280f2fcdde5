"""A pass that sees all blocks of a transformer: what they attend to, and how scores depend on it.

Like the passes of `kerasight.keras.passes`, it runs eagerly at first and is compiled when it comes
often. One way back through the model gives the gradients of all blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from keras import ops

from kerasight.base import RunError
from kerasight.cam.inputs import Inputs
from kerasight.cam.layout import Layout
from kerasight.keras import backends, scoring
from kerasight.keras.anatomy import Anatomy
from kerasight.keras.attention import Attention
from kerasight.keras.backends import Watch
from kerasight.keras.logits import HiddenLogitsError
from kerasight.keras.passes import classes_of, is_finite, scales, typed
from kerasight.keras.run import Run, in_plain_words
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
from kerasight.keras.sites import Choice
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
    pooling: tuple[np.ndarray, np.ndarray] | None
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
    found: np.ndarray = gradients.any(axis=(2, 4))
    return found


def look_at_blocks(
    anatomy: Anatomy,
    inputs: Inputs,
    target: Target,
    *,
    logits: bool = False,
    needs_gradients: bool = True,
) -> Blocks:
    """Run a model once, and differentiate targets by what its blocks attend to.

    Args:
        anatomy: The model.
        inputs: Its inputs.
        target: What to explain.
        logits: Whether the scores are to be those before the final softmax or sigmoid.
        needs_gradients: Whether to differentiate by all blocks, and not by the last alone.

    Raises:
        RunError: If the attention of the model cannot be seen, or does not go from block to block.
    """
    check_eager()
    traces, docs = anatomy.traces, len(inputs)
    tensors, shapes = tensors_of(anatomy, inputs)
    readout = anatomy.readout.key()
    key = ("blocks", shapes, logits, target.kind(), readout, needs_gradients)
    rows = rows_to_run(traces, key, docs)
    if len(rows) > docs:
        asked: dict[str, Any] = {"logits": logits, "needs_gradients": needs_gradients}
        return look_at_blocks(anatomy, inputs[rows], target.of_docs(rows), **asked).of_docs(docs)
    of_classes = ("classes of blocks", readout)
    classes: int | None = traces.known(of_classes)
    compiles_first = backends.current().compiles_each_operation and not anatomy.unbuilt
    if classes is None and compiles_first:
        classes = scoring.scores(anatomy, inputs[:1]).shape[1]

    def eagerly(logits: bool) -> _Run:
        def run() -> _Run:
            return _run(anatomy, tensors, target, logits, needs_gradients)

        return once_built(anatomy, tensors, run)

    def compiled(classes: int) -> _Run | None:
        checked = target.check(classes)
        arrays = [typed(leaf) for leaf in checked.leaves()]
        of_target = [
            (shape, str(array.dtype))
            for shape, array in zip(checked.shapes(), arrays, strict=True)
        ]
        signature = signature_of((*shapes, *of_target), (*tensors.leaves, *arrays))

        def make() -> _Trace:
            return _Trace(anatomy, inputs, signature, checked, logits, needs_gradients)

        trace = traces.get((*key, signature), key, make)
        return None if trace is None else trace.run(tensors, arrays)

    run: _Run | None = None
    if classes is not None:
        known = classes
        if docs >= WORTH_A_TRACE or compiles_first:
            # Operation by operation, many docs would take more memory by far.
            traces.count(anatomy.model, key, WORTH_A_TRACE)
        run = if_it_can(anatomy, lambda: compiled(known))
        if run is not None:
            traces.once(of_classes, lambda: known)
            traces.once(Sizes.of(key), Sizes).run.add(docs)
    if run is None:
        try:
            run = eagerly(logits)
            if traces.count(anatomy.model, key, docs):
                traces.once(of_classes, lambda: int(run.scores.shape[1]))
        except HiddenLogitsError:
            # A graph tells more: what each operation is, and what went into it.
            found = eagerly(logits=False).scores.shape[1]
            traces.count(anatomy.model, key, WORTH_A_TRACE)
            run = compiled(found)
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
    needs_gradients: bool,
) -> _Run:
    """Run a model and differentiate it, eagerly or to be compiled."""
    attention: Attention | None = None
    run: Run | None = None

    def outputs_and_sources(watch: Watch) -> tuple[list[Any], list[Any]]:
        nonlocal attention, run
        attention = Attention(anatomy, watch)
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
        return [run.scores, *run.facts], attention.weights

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
    scores, *facts = linear.outputs
    classes = classes_of(run, tensors.docs.shape[0])
    settled = target.check(classes).settled(scores) if backend.is_eager() else target.settled(scores)
    weights = list(linear.sources)
    sources = range(len(weights))[0 if needs_gradients else -1 :]
    multiples = scales(run)
    if not backend.is_eager():  # one at which hardly anything overflows
        multiples = multiples[-2:-1] or multiples
    found: list[Any] = []
    for scale in multiples:
        seeds = settled.seed(scores) * ops.cast(scale, scores.dtype)
        with in_plain_words(anatomy.model):
            found = linear.pullback(seeds, 0, sources)
        found = [
            ops.zeros((settled.number, *ops.shape(weights[at]))) if one is None else one / scale
            for at, one in zip(sources, found, strict=True)
        ]
        if not backend.is_eager() or all(map(is_finite, found)):
            break
    return _Run(settled, scores, facts, weights, found)


class _Trace:
    """The pass, compiled for one model, kind of target and shape."""

    def __init__(
        self,
        anatomy: Anatomy,
        inputs: Inputs,
        signature: Sequence[Any],
        target: Target,
        logits: bool,
        needs_gradients: bool,
    ) -> None:
        weak_anatomy, number = weak(anatomy), len(inputs.leaves)

        def run(*given: Any) -> tuple[Any, ...]:
            found = _run(
                weak_anatomy(),
                packed(inputs, given[:number]),
                target.with_leaves(given[number:]),
                logits,
                needs_gradients,
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
