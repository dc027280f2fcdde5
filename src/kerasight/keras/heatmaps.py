"""What is asked of a model and a doc, and the heatmaps that answer it.

One pass gives the terms of a heatmap (`record`), and a formula makes evidence of them (`methods`).
What goes beyond one pass is here: the scores of a model under masks or without some channels,
several layers fused, noise averaged out.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import keras
import numpy as np

from kerasight.cam.maps import normalised, resized, stretched
from kerasight.cam.methods import ALPHA, METHODS, REFERENCES, Method, find_method
from kerasight.keras import backends, layers
from kerasight.keras.backends.common import Rivals
from kerasight.keras.record import Terms, record_batch, scores_of
from kerasight.keras.sites import Site
from kerasight.keras.traces import traces_of
from kerasight.progress import check_progress, progress_bar

__all__ = ["Heatmap", "Question", "heatmaps_of", "mixes_docs"]

# As a share of the range of the values of the doc: the lower end of SmoothGrad's 10 to 20 %, since
# small classifiers see little but noise beyond it.
_NOISE = 0.1

# By how much of the whole a doc may differ from itself in a batch, where it is only computed in
# another order: 1e-6 on a CPU, more on a GPU.
_ROUNDING = 3e-3


@dataclass(frozen=True)
class Question:
    """How to explain, whatever the model, the doc and the class.

    Attributes:
        method: The formula.
        logits: Whether to explain the score before the final softmax or sigmoid.
        relu: Whether to cut off what speaks against the class.
        counterfactual: Whether to show what speaks against the class as if it spoke for it.
        alpha: How strongly to compare the class with others; None for what the method does.
        references: How many others, those with the nearest scores, or which; None likewise.
        smooth: Over how many noisy copies of the doc to average; 0 for the doc itself.
        seed: Seed of the noise.
        batch_size: How many inputs go through the model at a time.
        progress: Whether to show how far a slow method is; None where there is a terminal, and
            only if it takes long.
    """

    method: Method = METHODS["grad-cam"]
    logits: bool = False
    relu: bool = True
    counterfactual: bool = False
    alpha: float | None = None
    references: int | tuple[int, ...] | None = None
    smooth: int = 0
    seed: int = 0
    batch_size: int = 32
    progress: bool | None = None

    @classmethod
    def of(cls, method: Any = "grad-cam", **asked: Any) -> Question:
        """A question of what the user passed, checked.

        Args:
            method: Name of a method.
            **asked: The other attributes; None for their defaults.

        Raises:
            TypeError: If something is of a type that it cannot be.
            ValueError: If something has a value that it cannot have, or that the method cannot do.
        """
        given = {name: value for name, value in asked.items() if value is not None}
        if "alpha" in given:
            given["alpha"] = _strength(given["alpha"])
        if "references" in given:
            given["references"] = _number_or_classes(given["references"])
        question = cls(find_method(method), **given)
        for name in ("logits", "relu", "counterfactual"):
            value = getattr(question, name)
            if not isinstance(value, (bool, np.bool_)):
                raise TypeError(f"{name} must be True or False, got {type(value).__name__}")
        check_progress(question.progress)
        for name, least in (("smooth", 0), ("seed", 0), ("batch_size", 1)):
            value = getattr(question, name)
            if not isinstance(value, Integral) or isinstance(value, bool):
                raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not question.relu and not question.method.is_signed:
            raise ValueError(question._refusal("relu=False", "is_signed"))
        if question.counterfactual and not question.method.has_counterfactual:
            raise ValueError(question._refusal("counterfactual=True", "has_counterfactual"))
        for name in ("alpha", "references"):
            if name in given and not question.method.compares:
                able = ", ".join(known for known, method in METHODS.items() if method.compares)
                opacity = "; how opaque a heatmap is drawn is alpha_limit" * (name == "alpha")
                raise ValueError(
                    f"method {question.method.name!r} has no use for {name}: it compares no "
                    f"classes, as {able} does{opacity}"
                )
        return question

    def _refusal(self, what: str, ability: str) -> str:
        others = [name for name, method in METHODS.items() if getattr(method, ability)]
        reason = (
            "knows no evidence against a class"
            if self.method.is_of_class
            else "does not depend on the class"
        )
        return (
            f"method {self.method.name!r} cannot do {what}: it {reason}; those that can are "
            f"{', '.join(others)}"
        )

    @property
    def rivals(self) -> Rivals | None:
        """What the score of a class is compared with, if the method compares."""
        if not self.method.compares:
            return None
        alpha = ALPHA if self.alpha is None else self.alpha
        if isinstance(self.references, tuple):
            return Rivals(alpha, references=np.array([self.references]))
        return Rivals(alpha, REFERENCES if self.references is None else self.references)

    @property
    def title(self) -> str:
        """What the heatmap is called."""
        notes = [
            note
            for note, holds in (
                ("counterfactual", self.counterfactual),
                ("signed", not self.relu),
                (f"smoothed over {self.smooth}", self.smooth),
            )
            if holds
        ]
        return self.method.title + (f" ({', '.join(notes)})" if notes else "")


def _strength(alpha: Any) -> float:
    """How strongly to compare, checked."""
    if not isinstance(alpha, Real) or isinstance(alpha, (bool, np.bool_)):
        raise TypeError(f"alpha must be a number, got {type(alpha).__name__}")
    strength = float(alpha)
    if not 0 <= strength < np.inf:  # also False for NaN
        raise ValueError(f"alpha must be at least 0, and finite, got {alpha}")
    return strength


def _number_or_classes(references: Any) -> int | tuple[int, ...]:
    """How many classes to compare with, or which, checked."""
    if isinstance(references, (list, tuple, np.ndarray)):
        if len(references) == 0:
            raise ValueError("references must hold at least one class index, got none")
        for one in references:
            if not isinstance(one, Integral) or isinstance(one, bool):
                hint = "; of a name, pass names.index(name)" if isinstance(one, str) else ""
                raise TypeError(
                    f"references must hold integer class indices, got {type(one).__name__}{hint}"
                )
        return tuple(dict.fromkeys(int(one) for one in references))
    if not isinstance(references, Integral) or isinstance(references, bool):
        raise TypeError(
            "references must be a number of classes, or a list of their indices, got "
            f"{type(references).__name__}"
        )
    if references < 1:
        raise ValueError(f"references must be at least 1, got {references}")
    return int(references)


@dataclass(frozen=True)
class Heatmap:
    """The heatmap of one class of one doc, with what it was made of.

    Attributes:
        values: The heatmap, shape ``(height, width)``, float64, in [0, 1]; in [-1, 1] if signed.
        evidence: What it was before its negative part was cut off and it was scaled.
        terms: The terms, at the last of several layers.
        path: Path of the layer, or of several, with ``" + "`` between them.
    """

    values: np.ndarray
    evidence: np.ndarray
    terms: Terms
    path: str

    @property
    def target(self) -> int:
        """Index of the class."""
        return self.terms.target

    @property
    def score(self) -> float:
        """The model's output for the class, or its logit."""
        return self.terms.score


Found = list[list[Heatmap] | ValueError]


def heatmaps_of(
    model: keras.Model,
    docs: np.ndarray,
    targets: np.ndarray,
    chosen: Sequence[Site | None],
    question: Question,
) -> Found:
    """The heatmaps of several classes of several docs.

    Args:
        model: The classifier.
        docs: Inputs, shape ``(docs, height, width, channels)``, or channels first.
        targets: Classes as `record_batch` takes them, shape ``(docs, targets)``.
        chosen: Where to look, fused if there are several; None in place of one to have it chosen.
        question: How to explain.

    Returns:
        For each doc its heatmaps, one for each class; or the error, if there is NaN or infinity.

    Raises:
        ValueError: As `record_batch`.
    """
    of_layers = [_of_site(model, docs, targets, site, question) for site in chosen]
    return [_fused_doc(list(of_doc), question) for of_doc in zip(*of_layers, strict=True)]


def mixes_docs(
    model: keras.Model,
    docs: np.ndarray,
    targets: np.ndarray,
    found: Sequence[list[Heatmap] | ValueError],
    question: Question,
) -> bool | None:
    """Whether a doc gives something else in a batch than by itself.

    Where batch normalisation runs in training mode, say. Found out with the first doc that was
    explained, once for a model known to be explained often.

    Args:
        model: The classifier.
        docs: A batch, as `heatmaps_of` takes it.
        targets: The classes, as `heatmaps_of` takes them.
        found: What it answered.
        question: How it was asked.

    Returns:
        The answer; None if no doc of the batch was explained.
    """
    first = next((one for one in enumerate(found) if isinstance(one[1], list)), None)
    if first is None:
        return None
    place, heatmaps = first
    assert isinstance(heatmaps, list)
    terms, alone = heatmaps[0].terms, slice(place, place + 1)
    return bool(
        traces_of(model).once(
            ("mixes docs", weakref.ref(terms.layer), question.logits),
            lambda: _differs(model, docs[alone], targets[alone], terms, question),
        )
    )


def _differs(
    model: keras.Model, doc: np.ndarray, targets: np.ndarray, terms: Terms, question: Question
) -> bool:
    """Whether a doc by itself gives other terms than these."""
    (alone,) = record_batch(
        model, doc, targets, terms.site, logits=question.logits, needs_gradients=False
    )
    rounding = _ROUNDING * (10 if terms.layer.compute_dtype.endswith("float16") else 1)
    return isinstance(alone, ValueError) or any(
        np.linalg.norm(one - other) > rounding * np.linalg.norm(other)
        for one, other in (
            (terms.scores, alone[0].scores),
            (terms.activations, alone[0].activations),
        )
    )


def _fused_doc(of_layers: Sequence[Any], question: Question) -> list[Heatmap] | ValueError:
    """The heatmaps of one doc, given those at each layer."""
    for found in of_layers:
        if isinstance(found, ValueError):
            return found
    return [_fused(of_class, question) for of_class in zip(*of_layers, strict=True)]


def _fused(maps: Sequence[Heatmap], question: Question) -> Heatmap:
    """The mean of heatmaps at several layers, at the greatest of their resolutions."""
    if len(maps) == 1:
        return maps[0]
    height, width = np.max([one.values.shape for one in maps], axis=0)
    sizes = [resized(one.values, (height, width)) for one in maps]
    mean = np.asarray(sizes, dtype=np.float64).mean(axis=0)
    # As bright as the brightest of them: what is blank at each layer is blank.
    brightest = max(np.abs(one.values).max() for one in maps)
    return Heatmap(
        values=normalised(mean, question.relu) * brightest,
        evidence=mean,
        terms=maps[-1].terms,
        path=" + ".join(one.path for one in maps),
    )


def _of_site(
    model: keras.Model,
    docs: np.ndarray,
    targets: np.ndarray,
    site: Site | None,
    question: Question,
) -> Found:
    """The heatmaps at one site."""
    found = _recorded(model, docs, targets, site, question)
    answers: Found = []
    for position, terms in enumerate(found):
        if isinstance(terms, ValueError):
            answers.append(terms)
            continue
        try:
            doc = docs[position : position + 1]
            evidence = (_smooth_evidence if question.smooth else _evidence)(
                model, doc, terms, question
            )
        except ValueError as error:
            answers.append(error)
            continue
        answers.append(
            [
                Heatmap(normalised(one, question.relu), one, term, term.path)
                for one, term in zip(evidence, terms, strict=True)
            ]
        )
    return answers


def _recorded(
    model: keras.Model,
    docs: np.ndarray,
    targets: np.ndarray,
    site: Site | None,
    question: Question,
    rivals: Rivals | None = None,
) -> list[list[Terms] | ValueError]:
    return record_batch(
        model,
        docs,
        targets,
        site,
        logits=question.logits,
        rivals=rivals or question.rivals,
        # Where the site is chosen, that it has a gradient is what tells it from others.
        needs_gradients=site is None or question.method.needs == "gradients",
    )


def _evidence(
    model: keras.Model, doc: np.ndarray, terms: Sequence[Terms], question: Question
) -> list[np.ndarray]:
    """The evidence for each class of one doc, shape ``(height, width)``."""
    method = question.method
    sign = -1 if question.counterfactual else 1
    if method.needs == "nothing":
        return [method.formula(one.activations) for one in terms]
    if method.needs == "gradients":
        return [method.formula(one.activations, sign * one.gradients) for one in terms]
    if method.needs == "scores":
        scores = _scores_through_channels(model, doc, terms[0], question)
        are_probabilities = _are_probabilities(model, doc, terms[0], question)
        return [
            method.formula(one.activations, scores[:, one.target], are_probabilities)
            for one in terms
        ]
    drops = _drops(model, doc, terms[0], question)
    return [method.formula(one.activations, sign * drops[:, one.target]) for one in terms]


def _smooth_evidence(
    model: keras.Model, doc: np.ndarray, terms: Sequence[Terms], question: Question
) -> list[np.ndarray]:
    """The mean evidence over noisy copies of a doc."""
    random = np.random.default_rng(question.seed)
    targets = np.array([[one.target for one in terms]])
    rivals = _rivals_of_doc(terms, question)
    deviation = _NOISE * float(np.ptp(doc))
    sums = [np.zeros(one.activations.shape[:2]) for one in terms]
    for size in _sizes(question.smooth, question.batch_size):
        noise = random.normal(0, deviation, (size, *doc.shape[1:]))
        noisy = _floating(doc) + noise.astype(_floating(doc).dtype)
        found = _recorded(
            model, noisy, np.repeat(targets, size, axis=0), terms[0].site, question, rivals
        )
        for position, of_copy in enumerate(found):
            if isinstance(of_copy, ValueError):
                raise of_copy
            copy = noisy[position : position + 1]
            for total, evidence in zip(
                sums, _evidence(model, copy, of_copy, question), strict=True
            ):
                total += evidence
    return [total / question.smooth for total in sums]


def _rivals_of_doc(terms: Sequence[Terms], question: Question) -> Rivals | None:
    """The rivals of the classes of a doc, for its noisy copies, whose scores are nearest to others.

    Args:
        terms: The terms of the doc, one for each class.
        question: Says how strongly to compare.
    """
    if question.rivals is None:
        return None
    most = max(len(one.rivals) for one in terms)
    # Of unequal numbers the shorter are filled up with the class itself, which does not count.
    padded = [[*one.rivals, *[one.target] * (most - len(one.rivals))] for one in terms]
    return Rivals(question.rivals.alpha, references=np.array(padded))


def _scores_through_channels(
    model: keras.Model, doc: np.ndarray, terms: Terms, question: Question
) -> np.ndarray:
    """The scores of a doc seen through each channel of the layer.

    Returns:
        Array of shape ``(channels, classes)``.
    """
    channels_first = layers.doc_format(model, doc) == "channels_first"
    size = doc.shape[2:] if channels_first else doc.shape[1:3]

    def masked(start: int, stop: int) -> np.ndarray:
        masks = np.empty((stop - start, *size), doc.dtype)
        for place, channel in enumerate(range(start, stop)):
            values = terms.activations[..., channel]
            masks[place] = stretched(resized(values, size))
        seen: np.ndarray = doc * np.expand_dims(masks, 1 if channels_first else -1)
        return seen

    def scores(docs: np.ndarray) -> np.ndarray:
        return scores_of(model, docs, logits=question.logits, batch_size=question.batch_size)

    doc = _floating(doc)
    return _by_channel(lambda *bounds: scores(masked(*bounds)), terms, question)


def _are_probabilities(
    model: keras.Model, doc: np.ndarray, terms: Terms, question: Question
) -> bool:
    """Whether the scores that are explained come out of a softmax or sigmoid.

    That is for the model to say, and the same for all docs. Only where it cannot be seen what the
    scores come out of, those of this doc are judged by their range.
    """
    if question.logits or terms.scores.min() < 0 or terms.scores.max() > 1:
        return False
    try:
        logits = scores_of(model, doc, logits=True)
    except ValueError:  # they are not to be found
        return True
    return not np.allclose(logits, terms.scores, rtol=1e-2, atol=1e-4)


def _drops(model: keras.Model, doc: np.ndarray, terms: Terms, question: Question) -> np.ndarray:
    """How far the scores fall if a channel of the layer is set to zero.

    Returns:
        Array of shape ``(channels, classes)``.
    """
    scores = backends.current().scores_after(model, doc, terms.site, question.logits)
    # In the model's own layout, which `Terms` has no more.
    axis = -1 if terms.site.data_format == "channels_last" else 1
    activations = np.moveaxis(terms.activations, -1, axis if axis < 0 else axis - 1)

    def ablated(start: int, stop: int) -> np.ndarray:
        outputs = np.repeat(activations[np.newaxis], stop - start, axis=0)
        by_channel = np.moveaxis(outputs, axis, 1)
        by_channel[np.arange(stop - start), np.arange(start, stop)] = 0
        found: np.ndarray = scores(outputs)
        return found

    drops: np.ndarray = terms.scores - _by_channel(ablated, terms, question)
    return drops


def _by_channel(
    scores: Callable[[int, int], np.ndarray], terms: Terms, question: Question
) -> np.ndarray:
    """Scores for each channel of a layer, a batch of them at a time.

    Args:
        scores: Given the first channel and the one after the last, their scores.
        terms: The terms of the layer.
        question: Says how many channels make a batch.
    """
    channels = terms.activations.shape[-1]
    found = []
    bar = progress_bar(
        progress=question.progress,
        total=channels,
        desc=question.method.name,
        unit="channel",
        leave=False,
    )
    with closing(bar):
        start = 0
        for size in _sizes(channels, question.batch_size):
            found.append(scores(start, start + size))
            start += size
            bar.update(size)
    return np.concatenate(found)


def _floating(doc: np.ndarray) -> np.ndarray:
    return doc if np.issubdtype(doc.dtype, np.floating) else doc.astype(np.float32)


def _sizes(number: int, most: int) -> Iterator[int]:
    """How ``number`` splits into parts of at most ``most``."""
    for start in range(0, number, most):
        yield min(most, number - start)
