"""Many inputs, as a stream: batches through the model, explanations out one by one."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
from PIL import Image

from kerasight.base import Explanation
from kerasight.explain import explain_predictions
from kerasight.keras import sites
from kerasight.keras.backends.common import TOP
from kerasight.keras.explain_prediction import (
    LayerKeys,
    TargetNames,
    _validate_doc,
    check_image,
    check_layers,
    check_names,
    explain_prediction_keras_not_supported,
    explanation_of,
    find_sites,
    hint_at_preprocessor,
    is_image_model,
    picture_of,
    top_indices,
)
from kerasight.keras.heatmaps import Heatmap, Question, heatmaps_of, mixes_docs
from kerasight.keras.record import class_index
from kerasight.progress import check_progress, progress_bar

__all__ = ["explain_predictions_keras"]


@explain_predictions.register(keras.Model)
def explain_predictions_keras(
    model: keras.Model,
    docs: Any,
    *,
    targets: list[int] | list[list[int]] | None = None,
    top_targets: int | None = None,
    target_names: TargetNames | None = None,
    layer: LayerKeys | None = None,
    images: Iterable[Image.Image | None] | None = None,
    batch_size: int = 32,
    progress: bool | None = None,
    errors: Literal["raise", "keep"] = "raise",
    method: str = "grad-cam",
    logits: bool = False,
    relu: bool = True,
    counterfactual: bool = False,
    alpha: float | None = None,
    references: int | list[int] | None = None,
    smooth: int | None = None,
    seed: int = 0,
) -> Iterator[Explanation]:
    """Explain the predictions of a Keras image classifier for many inputs.

    Results come one by one and in order, each as soon as its batch is done. No more than the docs
    of two batches are held at a time. Each result is what `explain_prediction` gives for its doc: a
    model in which a doc depends on those beside it, as with batch normalisation in training mode,
    is run doc by doc.

    Args:
        model: As in `explain_prediction_keras`.
        docs: An array ``(docs, height, width, channels)``; or anything to iterate over that holds
            docs ``(height, width, channels)`` or batches of them: a list, a generator, a
            ``tf.data.Dataset``, a ``keras.utils.PyDataset``. A batch is an array, or a list of
            docs; of a tuple, such as ``(docs, labels)``, the first is taken. Channels first where
            the model has them so.
        targets: The classes to explain for each doc, a list of indices; or a list with one such
            list for each doc. None explains the class with the greatest score.
        top_targets: Explain this many classes, those with the greatest scores; if negative, those
            with the lowest. Not together with ``targets``.
        target_names: As in `explain_prediction_keras`.
        layer: As in `explain_prediction_keras`.
        images: The pictures to lay the heatmaps over, one for each doc, anything to iterate over;
            None among them, or in their place, makes one from the doc.
        batch_size: How many docs go through the model at a time. Docs of different shapes never
            share a batch.
        progress: Whether to show a progress bar, by tqdm, on standard error or in the notebook.
        errors: What to do at a doc that cannot be explained: ``"raise"`` its error, with the doc's
            position, once all before it have been given; or ``"keep"`` it, as an ``Explanation``
            with ``error`` set, and go on.
        method: As in `explain_prediction_keras`.
        logits: As in `explain_prediction_keras`.
        relu: As in `explain_prediction_keras`.
        counterfactual: As in `explain_prediction_keras`.
        alpha: As in `explain_prediction_keras`.
        references: As in `explain_prediction_keras`.
        smooth: As in `explain_prediction_keras`.
        seed: As in `explain_prediction_keras`; each doc gets the same noise.

    Yields:
        One ``Explanation`` for each doc.

    Raises:
        TypeError: At once, if an argument is of a type that it cannot be. While iterating, if a doc
            is no array of numbers, with its position.
        ValueError: At once, if an argument has a value that it cannot have. While iterating, if a
            doc cannot be explained, with its position.

    Warns:
        HeatmapWarning: If a heatmap is blank or nearly so.
    """
    if isinstance(docs, (str, bytes, dict, Image.Image)) or not (
        isinstance(docs, Iterable) or hasattr(docs, "__getitem__")
    ):
        raise TypeError(
            "docs must be an array of shape (docs, height, width, channels), or something to "
            f"iterate over that holds docs or batches, got {type(docs).__name__}"
        )
    if _is_array(docs) and np.ndim(docs) != 4:
        raise ValueError(
            f"docs must have shape (docs, height, width, channels), got {tuple(np.shape(docs))}; "
            "of one doc make a batch with docs[np.newaxis]"
        )
    if images is not None and (
        isinstance(images, (str, bytes, Image.Image)) or not isinstance(images, Iterable)
    ):
        raise TypeError(f"images must hold a picture for each doc, got {type(images).__name__}")
    check_progress(progress)
    question = Question.of(
        method,
        logits=logits,
        relu=relu,
        counterfactual=counterfactual,
        alpha=alpha,
        references=references,
        smooth=smooth,
        seed=seed,
        batch_size=batch_size,
        progress=None if progress is None else False,  # the bar that counts docs is enough
    )
    if errors not in ("raise", "keep"):
        raise ValueError(f"errors must be 'raise' or 'keep', got {errors!r}")
    check_names(target_names)
    stream = _Stream(
        model=model,
        targets=_targets_of_docs(targets, top_targets),
        names=target_names,
        layer=layer,
        keeps_errors=errors == "keep",
        question=question,
    )
    check_layers(layer)
    for one in layer if isinstance(layer, list) else [layer]:
        if one is not None and (model.built or not isinstance(one, str)):
            sites.find(model, one)  # which refuses it now if it is not there
    number = _length(docs)
    lengths = {"targets": len(targets)} if targets and _are_of_docs(targets) else {}
    if isinstance(images, Sized):
        lengths["images"] = len(images)
    for what, length in lengths.items():
        if number is not None and length != number:
            raise _wrong_length(what, length, number)
    items = _items(docs, images, lengths)
    batches = _batches(items, question.batch_size, ends_at_error=errors == "raise")
    return _with_progress(stream.run(batches), number, bool(progress))


@dataclass
class _Item:
    """A doc on its way through.

    Attributes:
        position: Its place in the stream, from 0.
        doc: The doc, shape ``(height, width, channels)``.
        image: The picture to lay the heatmap over, if one was given.
        error: Why it cannot be explained, if it cannot.
        ends: Whether the error is the stream's own, after which nothing comes.
    """

    position: int
    doc: np.ndarray | None = None
    image: Image.Image | None = None
    error: Exception | None = None
    ends: bool = False


@dataclass
class _Stream:
    """What is asked of every doc."""

    model: keras.Model
    targets: Iterator[np.ndarray]
    names: TargetNames | None
    layer: LayerKeys | None
    keeps_errors: bool
    question: Question
    is_for_images: bool | None = None
    mixes_docs: bool | None = None

    def run(self, batches: Iterator[list[_Item]]) -> Iterator[Explanation]:
        for items in batches:
            for item in items:
                if item.error is None:
                    item.error = self._error_of(item)
            wanted = [self._next_targets(item) for item in items]
            found = self._explained(items, wanted)
            for item in items:
                if item.error is not None:
                    yield self._failed(item)
                else:
                    yield found[item.position]

    def _next_targets(self, item: _Item) -> np.ndarray:
        try:
            return next(self.targets)
        except StopIteration:
            if item.error is None:
                item.error = ValueError("targets has no list for this doc")
        except (TypeError, ValueError) as error:
            item.error = item.error or error
        return np.array([TOP])

    def _error_of(self, item: _Item) -> Exception | None:
        """What is wrong with a doc, as far as that can be told without running the model."""
        assert item.doc is not None
        doc = item.doc[np.newaxis]
        try:
            if self.is_for_images is None:
                self.is_for_images = is_image_model(self.model, doc, item.image)
            if self.is_for_images:
                _validate_doc(self.model, doc)
                if item.image is None:
                    item.image = picture_of(self.model, doc)
                if item.position == 0:
                    hint_at_preprocessor(self.model, doc)
        except (TypeError, ValueError) as error:
            return error
        return None

    def _explained(
        self, items: Sequence[_Item], wanted: Sequence[np.ndarray]
    ) -> dict[int, Explanation]:
        """The explanations of a batch by position; what fails has its error noted."""
        sound = [
            (item, targets)
            for item, targets in zip(items, wanted, strict=True)
            if item.error is None
        ]
        if not self.is_for_images:
            return {
                item.position: explain_prediction_keras_not_supported(self.model, item.doc)
                for item, _ in sound
            }
        found: dict[int, Explanation] = {}
        # Docs that have as many classes explained go through the model together.
        by_number: dict[int, list[tuple[_Item, np.ndarray]]] = {}
        for item, targets in sound:
            by_number.setdefault(len(targets), []).append((item, targets))
        for group in by_number.values():
            for (item, _), heatmaps in zip(group, self._heatmaps(group), strict=True):
                if isinstance(heatmaps, Exception):
                    item.error = heatmaps
                    continue
                assert item.doc is not None
                assert item.image is not None
                doc = item.doc[np.newaxis]
                try:
                    found[item.position] = explanation_of(
                        self.model, doc, heatmaps, item.image, self.names, self.question
                    )
                except ValueError as error:
                    item.error = error
        return found

    def _heatmaps(
        self, group: Sequence[tuple[_Item, np.ndarray]]
    ) -> Sequence[list[Heatmap] | Exception]:
        docs = np.stack([item.doc for item, _ in group if item.doc is not None])
        targets = np.stack([targets for _, targets in group])
        if len(group) == 1 or not self.mixes_docs:
            try:
                chosen = find_sites(self.model, docs, self.layer)
                found = heatmaps_of(self.model, docs, targets, chosen, self.question)
                if len(group) > 1 and self.mixes_docs is None:
                    self.mixes_docs = mixes_docs(self.model, docs, targets, found, self.question)
                if len(group) == 1 or not self.mixes_docs:
                    return found
            except (TypeError, ValueError) as error:
                if len(group) == 1:
                    return [error]
            # One of them, or all: only one by one can it be told.
        return [heatmaps for one in group for heatmaps in self._heatmaps([one])]

    def _failed(self, item: _Item) -> Explanation:
        """The explanation of a doc that cannot be explained; raises if it is to be raised."""
        assert item.error is not None
        if item.ends:
            raise item.error
        message = f"doc {item.position}: {item.error}"
        if self.keeps_errors:
            return Explanation(self.model.name, error=message, image=item.image)
        kind = TypeError if isinstance(item.error, TypeError) else ValueError
        raise kind(message) from item.error


def _targets_of_docs(targets: Any, top_targets: Any) -> Iterator[np.ndarray]:
    """The classes to explain for each doc, as `record_batch` takes them, shape ``(targets,)``."""
    if top_targets is not None:
        if targets is not None:
            raise ValueError("pass either targets or top_targets, not both")
        return itertools.repeat(top_indices(top_targets))
    if targets is None:
        return itertools.repeat(np.array([TOP]))
    if not isinstance(targets, list):
        raise TypeError(
            "targets must be a list of class indices, a list of such lists (one for each doc), or "
            f"None, got {type(targets).__name__}"
        )
    if _are_of_docs(targets):
        return map(_indices, targets)
    return itertools.repeat(_indices(targets))


def _are_of_docs(targets: list[Any]) -> bool:
    """Whether a list holds a list of classes for each doc, and not the classes of all."""
    return any(isinstance(item, (list, tuple, np.ndarray)) for item in targets)


def _indices(targets: Any) -> np.ndarray:
    if not isinstance(targets, (list, tuple, np.ndarray)):
        raise TypeError(
            f"the targets of a doc must be a list of class indices, got {type(targets).__name__}"
        )
    if len(targets) == 0:
        raise ValueError("targets must hold at least one class index, got none")
    return np.array([class_index(target) for target in targets])


def _items(
    docs: Any, images: Iterable[Image.Image | None] | None, lengths: Mapping[str, int]
) -> Iterator[_Item]:
    """The docs one by one, with their pictures.

    Args:
        docs: As in `explain_predictions_keras`.
        images: As there.
        lengths: The names of the arguments that hold something for each doc, and how much they
            hold, where that can be told.
    """
    pictures = itertools.repeat(None) if images is None else iter(images)
    position = 0
    try:
        for given in _given(docs):
            for doc in _docs_in(given):
                item = _Item(position)
                if isinstance(doc, Exception):
                    item.error = doc
                else:
                    item.doc = doc
                try:
                    picture = next(pictures)
                except StopIteration:
                    picture = None
                    item.error = item.error or ValueError("images has no picture for this doc")
                if picture is not None:
                    try:
                        check_image(picture)
                        item.image = picture
                    except (TypeError, ValueError) as error:
                        item.error = item.error or error
                yield item
                position += 1
        for what, length in lengths.items():
            if length > position:
                raise _wrong_length(what, length, position)
    except Exception as error:  # the stream's own: what came before it is still explained
        yield _Item(position, error=error, ends=True)


def _wrong_length(what: str, length: int, number: int) -> ValueError:
    return ValueError(f"{what} must hold one for each doc, and holds {length} for {number} docs")


def _given(docs: Any) -> Iterator[Any]:
    """What ``docs`` holds."""
    if isinstance(docs, keras.utils.PyDataset):  # which has an end, but no iterator that stops
        for number in range(len(docs)):
            yield docs[number]
        return
    iterator = iter(docs)
    yield from iterator


def _docs_in(given: Any) -> Iterator[np.ndarray | Exception]:
    """The docs in what was given: itself, or each of a batch."""
    if isinstance(given, tuple) and given:
        given = given[0]  # (docs, labels)
    if isinstance(given, list) and given and all(map(_is_array, given)):
        if len({np.ndim(one) for one in given}) == 1:
            for one in given:
                yield from _docs_in(one)
        else:
            yield TypeError(
                "a list of docs must hold arrays of one rank, got shapes "
                f"{', '.join(str(np.shape(one)) for one in given)}; of docs with labels make a "
                "tuple (docs, labels)"
            )
        return
    if not _is_array(given):
        kinds = sorted({type(one).__name__ for one in given}) if isinstance(given, list) else []
        holding = f" of {' and '.join(kinds)}" if kinds else ""
        yield TypeError(
            "a doc must be an array of shape (height, width, channels), and a batch an array or a "
            f"list of docs, got {type(given).__name__}{holding}"
        )
        return
    array = np.asarray(given)
    if array.ndim == 4:
        yield from array
    else:
        yield array


def _batches(items: Iterator[_Item], batch_size: int, ends_at_error: bool) -> Iterator[list[_Item]]:
    """Docs of one shape and type together, up to ``batch_size`` of them."""
    batch: list[_Item] = []
    for item in items:
        if item.doc is not None and any(
            other.doc is not None
            and (other.doc.shape, other.doc.dtype) != (item.doc.shape, item.doc.dtype)
            for other in batch[-1:]
        ):
            yield batch
            batch = []
        batch.append(item)
        # What comes before an error does not wait for what comes after it.
        if len(batch) == batch_size or (item.error is not None and (ends_at_error or item.ends)):
            yield batch
            batch = []
    if batch:
        yield batch


def _is_array(given: Any) -> bool:
    return hasattr(given, "__array__") and not isinstance(given, Image.Image)


def _length(docs: Any) -> int | None:
    """How many docs there are, where that can be told."""
    if _is_array(docs):
        return len(docs)
    if isinstance(docs, (list, tuple)) and all(
        _is_array(doc) and np.ndim(doc) == 3 for doc in docs
    ):
        return len(docs)
    return None


def _with_progress(
    explanations: Iterator[Explanation], total: int | None, progress: bool
) -> Iterator[Explanation]:
    if not progress:
        return explanations

    def counted() -> Iterator[Explanation]:
        bar = progress_bar(progress=True, total=total, desc="explaining", unit="doc")
        with closing(bar):
            for explanation in explanations:
                yield explanation
                bar.update()

    return counted()
