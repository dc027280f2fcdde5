"""Ways that look from outside: parts of the doc are hidden, and the scores of the rest tell.

The model may be anything that gives scores. There are never more changed docs at a time than go
through the model in one batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kerasight.base import DocError, RunError
from kerasight.cam.heatmap import Evidence
from kerasight.cam.inputs import Inputs
from kerasight.cam.masking import coalitions, relabelled, rise_masks, segments, windows
from kerasight.checks import is_real
from kerasight.keras.subject import Subject, parts
from kerasight.keras.words import words_of

if TYPE_CHECKING:
    from jaxtyping import Float, Float64, Int, Real

__all__ = ["of_coalitions", "of_random_masks", "of_windows"]

# The probability that RISE keeps a cell, as in the paper.
_SHARE = 0.5

# Of an axis that is no row of words or of a few numbers, this share is hidden at a time.
_SEVENTH = 7
# So many words or numbers of a row are hidden one by one.
_FEW = 64

# What stands for hidden words, or for a text without any, where a model has no scores of padding
# alone: a word that Keras's vocabularies do not know, by its number, and one that none knows.
_UNKNOWN = 1
_UNKNOWN_WORD = "\N{REPLACEMENT CHARACTER}"


def of_windows(subject: Subject) -> list[Evidence]:
    """The formula of how far the score drops while a window is hidden."""
    request, doc = subject.request, _hideable(subject)
    window = _window(subject, doc.size)
    # Of a volume, windows that overlap by half would be eight times as many.
    stride = tuple(wide if len(window) > 2 else math.ceil(wide / 2) for wide in window)
    if request.stride is not None:
        stride = _per_axis("stride", request.stride, doc.size)
    places = windows(doc.size, window, stride)

    def masks(some: slice) -> np.ndarray:
        kept = np.ones((some.stop - some.start, *doc.size), bool)
        for mask, place in zip(kept, places[some], strict=True):
            mask[place] = False
        return kept

    scores = np.concatenate([each for _, each in _scored(subject, doc, len(places), masks)])
    formula, drops = request.method.formula, subject.score - scores
    return [Evidence(doc.placed(formula(one, places, doc.size))) for one in drops.T]


def of_random_masks(subject: Subject) -> list[Evidence]:
    r"""The formula of the scores under random masks, less what a place of no effect would have.

    That is the mean score times the mean mask, so that evidence is
    :math:`\frac{1}{p N} \sum_m (y_m - \bar y) M_m`: zero where a place does not matter, and
    negative where the score rises without it. The formula alone has no sign, and is bright
    everywhere.
    """
    request, doc, number = subject.request, _hideable(subject), subject.samples
    random = np.random.default_rng(request.seed)
    axes = zip(doc.size, _window(subject, doc.size), strict=True)
    cells = [math.ceil(length / wide) for length, wide in axes]

    def masks(some: slice) -> np.ndarray:
        drawn = rise_masks(doc.size, cells, some.stop - some.start, _SHARE, random)
        return drawn if doc.is_soft else np.rint(drawn)

    formula = request.method.formula
    sums = np.zeros((1 + len(subject.terms), *doc.size))
    means = np.zeros(len(subject.terms))
    for kept, scores in _scored(subject, doc, number, masks):
        rises = scores - subject.score  # from any number; from this one they are small
        means += rises.sum(axis=0, dtype=np.float64) / number
        for total, row in zip(sums, [np.ones(len(kept)), *rises.T], strict=True):
            total += formula(kept, row, _SHARE) * (len(kept) / number)
    of_all, *of_targets = sums
    return [
        Evidence(doc.placed(one - mean * of_all))
        for one, mean in zip(of_targets, means, strict=True)
    ]


def of_coalitions(subject: Subject) -> list[Evidence]:
    """The formula of the scores of coalitions of segments, all others hidden.

    What a segment adds is shared out evenly among its places, so that the sum over all places is
    the difference of the scores of the doc and of nothing.
    """
    request, doc = subject.request, _hideable(subject)
    if request.segments is None:
        labels = segments(doc.size, _window(subject, doc.size))
    else:
        labels = doc.taken(relabelled(request.segments, doc.spatial))
    counts = np.bincount(labels.ravel())
    random = np.random.default_rng(request.seed)
    joined = coalitions(len(counts), subject.samples, random)
    rows = np.concatenate([np.zeros((1, len(counts)), bool), joined])
    scored = _scored(subject, doc, len(rows), lambda some: rows[some][:, labels])
    scores = np.concatenate([each for _, each in scored])
    found = []
    for full, (empty, *others) in zip(subject.score, scores.T, strict=True):
        values = request.method.formula(joined, np.array(others), empty, full) / counts
        found.append(Evidence(doc.placed(values[labels]), float(full) - float(empty)))
    return found


@dataclass(frozen=True)
class _Hideable:
    """A doc, and what of it can be hidden.

    Attributes:
        spatial: The length of each axis of the doc.
        without: The doc under each of some masks ``(number, *size)``, from 0, hidden, to 1, kept.
        steps: Of a text, those that have a word; None if all places can be hidden.
        is_soft: Whether a place can be hidden in part.
    """

    spatial: tuple[int, ...]
    without: Callable[[np.ndarray], Inputs]
    steps: Int[np.ndarray, " words"] | None = None
    is_soft: bool = False

    @property
    def size(self) -> tuple[int, ...]:
        """The length of each axis of what can be hidden."""
        return self.spatial if self.steps is None else self.steps.shape

    def taken(self, labels: Int[np.ndarray, "*spatial"]) -> Int[np.ndarray, "*size"]:
        """Labels of all places as labels of what can be hidden."""
        return labels if self.steps is None else relabelled(labels[self.steps], self.size)

    def placed(self, evidence: Float64[np.ndarray, "*size"]) -> Float64[np.ndarray, "*spatial"]:
        """Evidence at all places: zero where nothing can be hidden."""
        if self.steps is None:
            return evidence
        everywhere = np.zeros(self.spatial)
        everywhere[self.steps] = evidence
        return everywhere


def _hideable(subject: Subject) -> _Hideable:
    """What of a doc can be hidden, and how."""
    docs = subject.inputs.docs
    if not is_real(docs):
        return _of_strings(subject)
    values = subject.anatomy.places_of(docs)[0]
    spatial, is_floating = values.shape[:-1], np.issubdtype(docs.dtype, np.floating)
    is_text = subject.kind == "text"
    steps = _steps_of(subject) if is_text else None
    baseline = subject.one_baseline()
    if not np.array_equal(baseline, np.rint(baseline)) and (is_text or not is_floating):
        raise RunError(
            "baseline must be a whole number where a doc holds whole numbers, such as those of "
            "words"
        )
    if is_text and subject.request.baseline is None and not _has_scores(subject, baseline):
        baseline = np.full_like(baseline, _UNKNOWN)
    baseline = baseline.astype(values.dtype)
    is_soft = is_floating and not is_text
    # NumPy is several times as fast where no axis is as short as that of the channels.
    channels, shown, hidden = values.shape[-1], values.ravel(), baseline.ravel()
    difference = shown - hidden

    def without(masks: np.ndarray) -> Inputs:
        kept = masks
        if steps is not None:
            kept = np.ones((len(masks), *spatial), masks.dtype)
            kept[:, steps] = masks
        kept = np.repeat(kept.reshape(len(masks), -1), channels, axis=1)
        if is_soft and kept.dtype != bool:
            changed = kept.astype(values.dtype, copy=False)
            changed *= difference
            changed += hidden
        else:
            changed = np.where(kept, shown, hidden)
        return subject.with_values(changed.reshape(-1, *values.shape))

    return _Hideable(spatial, without, steps, is_soft)


def _has_scores(subject: Subject, values: Real[np.ndarray, "*spatial channels"]) -> bool:
    """Whether the model has scores of a doc; of padding alone, the mean of its words has none."""
    given = values[np.newaxis].astype(subject.inputs.docs.dtype)
    return bool(np.isfinite(subject.scores(subject.with_values(given))).all())


def _steps_of(subject: Subject) -> Int[np.ndarray, " words"]:
    """The steps of a text that have a word, and are no padding."""
    words = words_of(subject.anatomy, subject.inputs.docs)
    return np.flatnonzero([step is not None for step in words.steps])


def _of_strings(subject: Subject) -> _Hideable:
    """A text as a string, whose hidden words are taken out.

    What stands behind the last word that the model reads is left away, since it would move up. If
    the model has no scores of a text without words, such a text has one that it does not know.
    """
    docs = subject.inputs.docs
    if subject.request.baseline is not None:
        raise RunError(
            "baseline has no use for a text as a string: words that are hidden are taken out of it"
        )
    text = docs.ravel()[0]
    words = words_of(subject.anatomy, docs)
    if words.document != text:
        raise RunError(
            "words cannot be taken out of this text, since it cannot be told where they stand: the "
            "TextVectorization standardises or splits it in a way of its own; pass the numbers of "
            "its words to a model that takes these"
        )
    steps = np.flatnonzero([step is not None for step in words.steps])
    spans = [step[1:] for step in words.steps if step is not None]
    # What is between words stays: before the first, and behind each but the last.
    starts = [0, *(end for _, end in spans)]
    pieces = [
        (text[before:start], text[start:end])
        for before, (start, end) in zip(starts, spans, strict=False)
    ]

    def texts(masks: np.ndarray, nothing: str) -> Inputs:
        found = [
            "".join(
                between + word if keeps else between
                for keeps, (between, word) in zip(mask, pieces, strict=True)
            )
            if mask.any()
            else nothing
            for mask in masks
        ]
        return subject.inputs.with_docs(np.array(found, object).reshape(-1, *docs.shape[1:]))

    of_none = subject.scores(texts(np.zeros((1, len(steps)), bool), ""))
    nothing = "" if np.isfinite(of_none).all() else _UNKNOWN_WORD

    def without(masks: np.ndarray) -> Inputs:
        return texts(masks, nothing)

    return _Hideable((len(words.steps),), without, steps)


def _scored(
    subject: Subject,
    doc: _Hideable,
    number: int,
    masks: Callable[[slice], np.ndarray],
) -> Iterator[tuple[np.ndarray, Float[np.ndarray, "batch targets"]]]:
    """Masks, and the scores of the doc under each, a batch at a time, with a progress bar.

    Raises:
        DocError: If a score is NaN or infinite.
    """
    score = subject.scorer(number)
    with closing(subject.bar(number, "mask")) as bar:
        for some in parts(number, subject.request.batch_size):
            kept = masks(some)
            scores = score(doc.without(kept))
            if not np.isfinite(scores).all():
                raise DocError(
                    "there is NaN or infinity in the scores of the doc with parts hidden; look at "
                    "the model's weights, at the range of doc, and at baseline"
                )
            yield kept, scores
            bar.update(some.stop - some.start)


def _window(subject: Subject, size: Sequence[int]) -> tuple[int, ...]:
    """How much of each axis is hidden at a time."""
    asked = subject.request.window
    if asked is not None:
        return _per_axis("window", asked, size)
    is_row = subject.inputs.docs.ndim <= 2
    return tuple(
        1 if is_row and length <= _FEW else math.ceil(length / _SEVENTH) for length in size
    )


def _per_axis(name: str, asked: int | tuple[int, ...], size: Sequence[int]) -> tuple[int, ...]:
    """A length for each axis, and none longer than it."""
    lengths = (asked,) * len(size) if isinstance(asked, int) else asked
    if len(lengths) != len(size):
        raise ValueError(
            f"{name} must be a whole number, or one for each axis of {tuple(size)}, got {asked}"
        )
    return tuple(min(pair) for pair in zip(lengths, size, strict=True))
