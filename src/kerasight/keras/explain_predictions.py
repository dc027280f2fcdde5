"""Many inputs, as a stream: batches through the model, explanations out one by one."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Literal

import keras
import numpy as np
from PIL import Image

from kerasight.base import Explanation
from kerasight.cam.inputs import Inputs
from kerasight.cam.request import check_options, takes_options
from kerasight.checks import plural
from kerasight.explain import explain_predictions
from kerasight.keras import docs as doors
from kerasight.keras.anatomy import Anatomy
from kerasight.keras.explain_prediction import explain_prediction_keras_not_supported
from kerasight.keras.explainer import Batches, Explainer, LayerKeys, TargetNames, request_for
from kerasight.keras.record import NothingToSeeError
from kerasight.keras.targets import Classes, Target
from kerasight.keras.wanted import class_target, classes_of, readout_of, top_classes
from kerasight.progress import check_progress, progress_bar
from kerasight.targets import Readout

__all__ = ["explain_predictions_keras"]


@explain_predictions.register(keras.Model)
@takes_options()
def explain_predictions_keras(
    model: keras.Model,
    docs: Any,
    *,
    targets: list[int] | list[list[int]] | None = None,
    top_targets: int | None = None,
    target_names: TargetNames | None = None,
    target: Any = None,
    output: str | int | None = None,
    seen: str | int | None = None,
    vocabulary: Any = None,
    layer: LayerKeys | None = None,
    images: Iterable[Image.Image | None] | None = None,
    progress: bool | None = None,
    errors: Literal["raise", "keep"] = "raise",
    **options: Any,
) -> Iterator[Explanation]:
    """Explain the predictions of a Keras model for many inputs.

    Results come one by one and in order, each as soon as its batch is done. No more than two
    batches of docs are held at a time. Each result equals that of `explain_prediction` for its doc:
    if the results of a model depend on the rest of the batch, as with batch normalisation in
    training mode, the model runs doc by doc.

    Args:
        model: As in `explain_prediction_keras`.
        docs: An array ``(docs, height, width, channels)``, or of other axes if the model takes
            signals, volumes or numbers of words; texts as strings, in a list or an array; or any
            iterable of docs ``(height, width, channels)`` or batches: a list, a generator, a
            ``tf.data.Dataset``, a ``keras.utils.PyDataset``. A batch is an array, or a list of
            docs; a tuple, such as ``(docs, labels)``, stands for its first item. Channels first if
            the model has them so. For a model of several inputs, a dict of arrays by name takes the
            place of an array; so does a list or tuple, if the model tells its inputs.
        targets: The classes to explain for each doc, a list of indices; or a list with one such
            list for each doc. None explains the class with the highest score.
        top_targets: Explain this many classes: those with the highest scores; if negative, those
            with the lowest. Not together with ``targets``.
        target_names: As in `explain_prediction_keras`.
        target: As in `explain_prediction_keras`; the same for all docs.
        output: As in `explain_prediction_keras`.
        seen: As in `explain_prediction_keras`.
        vocabulary: As in `explain_prediction_keras`.
        layer: As in `explain_prediction_keras`.
        images: The pictures to lay the heatmaps over, an iterable with one for each doc. None, for
            one doc or for all, makes the picture from the doc.
        progress: Whether to show a progress bar, by tqdm, on standard error or in the notebook.
        errors: What to do at a doc that cannot be explained: ``"raise"`` its error, with the doc's
            position, after the results of all docs before it; or ``"keep"`` it, as an
            ``Explanation`` with ``error`` set, and go on.
        **options: How to explain: ``method``, ``logits``, ``relu`` and the others that
            `kerasight.cam.request.Request` has. Docs of different shapes never share a batch of
            ``batch_size``; with ``smooth``, each doc gets the same noise.

    Yields:
        One ``Explanation`` for each doc.

    Raises:
        TypeError: At once, if an argument has the wrong type. While iterating, with its position,
            if a doc is no array of numbers.
        ValueError: At once, if an argument has an invalid value. While iterating, with its
            position, if a doc cannot be explained.

    Warns:
        HeatmapWarning: If a heatmap is blank or nearly so.
    """
    if isinstance(docs, (str, bytes, Image.Image)) or not (
        isinstance(docs, Iterable) or hasattr(docs, "__getitem__")
    ):
        raise TypeError(
            "docs must be an array of shape (docs, height, width, channels), or something to "
            f"iterate over that holds docs or batches, got {type(docs).__name__}"
        )
    if images is not None and (
        isinstance(images, (str, bytes, Image.Image)) or not isinstance(images, Iterable)
    ):
        raise TypeError(f"images must hold a picture for each doc, got {type(images).__name__}")
    check_progress(progress)
    check_options(options)
    readout = readout_of(target, output, targets, top_targets)
    request = request_for(options, readout)
    if errors not in ("raise", "keep"):
        raise ValueError(f"errors must be 'raise' or 'keep', got {errors!r}")
    if progress is not None:
        request = replace(request, progress=False)  # the bar that counts docs is enough
    explainer = Explainer(model, request, layer, target_names, readout, vocabulary)
    if _is_array(docs) and not _texts_in(docs):
        doors.check_batch(explainer.anatomy, np.shape(docs))
    stream = _Stream(explainer, _targets_of_docs(targets, top_targets, readout), errors == "keep")
    explainer.check_layer()
    number = _length(docs, doors.rank_of_docs(explainer.anatomy))
    lengths = {"targets": len(targets)} if targets and _are_of_docs(targets) else {}
    if isinstance(images, Sized):
        lengths["images"] = len(images)
    for what, length in lengths.items():
        if number is not None and length != number:
            raise _wrong_length(what, length, number)
    items = _items(_Door(explainer.anatomy, seen), docs, images, lengths)
    batches = _batches(items, request.batch_size, ends_at_error=errors == "raise")
    return _with_progress(stream.run(batches), number, bool(progress))


_TOP = Classes.top(1)


@dataclass
class _Item:
    """A doc on its way through.

    Attributes:
        position: Its place in the stream, from 0.
        inputs: The doc, with its batch axis.
        batch: The batch that it came in, if it came in one.
        row: Its place in that.
        image: The picture to lay the heatmap over, if one was given.
        target: The classes to explain.
        error: Why it cannot be explained, if it cannot.
        ends: Whether the error is the stream's own, after which nothing comes.
    """

    position: int = 0
    inputs: Inputs | None = None
    batch: Inputs | None = None
    row: int = 0
    image: Image.Image | None = None
    target: Target = _TOP
    error: Exception | None = None
    ends: bool = False


@dataclass
class _Stream:
    """A stream of docs on its way through an explainer.

    Attributes:
        explainer: What is asked of every doc.
        targets: The classes to explain of each.
        keeps_errors: Whether to go on after a doc that cannot be explained.
    """

    explainer: Explainer
    targets: Iterator[Target]
    keeps_errors: bool

    def __post_init__(self) -> None:
        self._batches = Batches(self.explainer)

    def run(self, batches: Iterator[list[_Item]]) -> Iterator[Explanation]:
        for items in batches:
            for item in items:
                self._prepare(item)
            found = self._explained([item for item in items if item.error is None])
            for item in items:
                if item.error is not None:
                    yield self._failed(item)
                else:
                    yield found[item.position]

    def _prepare(self, item: _Item) -> None:
        """Add picture and classes to a doc; what is wrong, so far as can be told, is noted."""
        anatomy = self.explainer.anatomy
        try:
            item.target = next(self.targets)
            if item.inputs is None:
                return
            doors.check_doc(anatomy, item.inputs)
            if item.image is None and anatomy.is_for_images():
                item.image = doors.picture_of(anatomy, item.inputs)
            if item.position == 0:
                doors.hint_at_preprocessor(anatomy, item.inputs)
        except StopIteration:
            item.error = item.error or ValueError("targets has no list for this doc")
        except (TypeError, ValueError) as error:
            item.error = item.error or error

    def _explained(self, items: Sequence[_Item]) -> dict[int, Explanation]:
        """The explanations of a batch by position; what fails has its error noted."""
        found: dict[int, Explanation] = {}
        # Docs that have as many classes explained go through the model together.
        by_number: dict[int, list[_Item]] = {}
        for item in items:
            by_number.setdefault(item.target.number, []).append(item)
        for group in by_number.values():
            self._explain(group, found)
        return found

    def _explain(self, group: Sequence[_Item], found: dict[int, Explanation]) -> None:
        """Add the explanations of docs that share a pass to those that were found."""
        try:
            look = self._batches.look(_stacked(group), _joined([item.target for item in group]))
        except NothingToSeeError as error:
            (item,) = group
            if item.image is not None:
                item.error = error
            else:
                model = self.explainer.model
                found[item.position] = explain_prediction_keras_not_supported(model, item.inputs)
            return
        except (TypeError, ValueError) as error:
            (item,) = group
            item.error = error
            return
        if look is None:
            for item in group:
                self._explain([item], found)
            return
        for place, item in enumerate(group):
            assert item.inputs is not None
            try:
                if item.image is None:
                    item.image = doors.picture_of(self.explainer.anatomy, item.inputs)
                found[item.position] = look.explanation(place, item.image)
            except ValueError as error:
                item.error = error

    def _failed(self, item: _Item) -> Explanation:
        """The explanation of a doc that cannot be explained; raises if it is to be raised."""
        assert item.error is not None
        if item.ends:
            raise item.error
        message = f"doc {item.position}: {item.error}"
        if self.keeps_errors:
            return Explanation(self.explainer.model.name, error=message, image=item.image)
        kind = TypeError if isinstance(item.error, TypeError) else ValueError
        raise kind(message) from item.error


def _stacked(group: Sequence[_Item]) -> Inputs:
    """The docs as a batch; without a copy if that is how they came."""
    first = group[0]
    if first.batch is not None and all(
        item.batch is first.batch and item.row == first.row + place
        for place, item in enumerate(group)
    ):
        return first.batch[first.row : first.row + len(group)]
    return Inputs.joined([item.inputs for item in group if item.inputs is not None])


def _joined(targets: Sequence[Target]) -> Target:
    """The targets of several docs as one."""
    first = targets[0]
    if all(target is first for target in targets):
        return first
    leaves = zip(*(target.leaves() for target in targets), strict=True)
    return first.with_leaves(
        np.concatenate(of_docs) if of_docs[0].ndim else of_docs[0] for of_docs in leaves
    )


def _targets_of_docs(targets: Any, top_targets: Any, readout: Readout) -> Iterator[Target]:
    """The classes to explain of each doc."""
    if readout.index is not None:
        return itertools.repeat(class_target(readout.index))
    if top_targets is not None:
        return itertools.repeat(top_classes(targets, top_targets))
    if targets is None:
        return itertools.repeat(Classes.top(1))
    if not isinstance(targets, list):
        raise TypeError(
            "targets must be a list of class indices, a list of such lists (one for each doc), or "
            f"None, got {type(targets).__name__}"
        )
    if _are_of_docs(targets):
        return map(classes_of, targets)
    return itertools.repeat(classes_of(targets))


def _are_of_docs(targets: list[Any]) -> bool:
    """Whether a list holds a list of classes for each doc, and not the classes of all."""
    return any(isinstance(item, (list, tuple, np.ndarray)) for item in targets)


@dataclass(frozen=True)
class _Door:
    """Makes inputs of a model of what comes.

    Attributes:
        anatomy: The model.
        seen: Which input is the picture, as the user says it.
    """

    anatomy: Anatomy
    seen: str | int | None

    def items(self, given: Any) -> Iterator[_Item]:
        """The docs in what was given: itself, or each of a batch; or why there is none."""
        if self.is_structure(given):
            yield from self._items_of_structure(given)
            return
        if isinstance(given, tuple) and given:
            given = given[0]  # (docs, labels)
        if isinstance(given, tuple) or self.is_structure(given):
            yield from self._items_of_structure(given)
            return
        texts = _texts_in(given) if self.anatomy.takes_words() else []
        if texts:
            for text in texts:
                try:
                    yield _Item(inputs=doors.inputs_of(self.anatomy, text, self.seen))
                except (TypeError, ValueError) as error:
                    yield _Item(error=error)
            return
        if isinstance(given, list) and given and all(map(_is_array, given)):
            if len({np.ndim(one) for one in given}) == 1:
                for one in given:
                    yield from self.items(one)
            else:
                shapes = ", ".join(str(np.shape(one)) for one in given)
                why = (
                    f"a list of docs must hold arrays of one rank, got shapes {shapes}; of docs "
                    "with labels make a tuple (docs, labels)"
                )
                yield _Item(error=TypeError(why))
            return
        if not _is_array(given):
            kinds = sorted({type(one).__name__ for one in given}) if isinstance(given, list) else []
            holding = f" of {' and '.join(kinds)}" if kinds else ""
            why = (
                "a doc must be an array of shape (height, width, channels), and a batch an array "
                f"or a list of docs, got {type(given).__name__}{holding}"
            )
            yield _Item(error=TypeError(why))
            return
        array = np.asarray(given)
        is_batch = array.ndim == doors.rank_of_docs(self.anatomy)
        try:
            whole = doors.inputs_of(
                self.anatomy, array if is_batch else array[np.newaxis], self.seen
            )
        except (TypeError, ValueError) as error:
            yield from (_Item(error=error) for _ in range(len(array) if is_batch else 1))
            return
        yield from _rows(whole)

    def is_structure(self, given: Any) -> bool:
        """Whether it holds the several inputs of a model: in a dict, or as many as it declares."""
        if isinstance(given, dict):
            return True
        ranks = [len(tensor.shape) for tensor in self.anatomy.inputs]
        return (
            isinstance(given, (list, tuple))
            and len(ranks) > 1
            and not isinstance(self.anatomy.input_structure, dict)
            and all(map(_is_array, given))
            and [np.ndim(one) for one in given] in (ranks, [rank - 1 for rank in ranks])
        )

    def _items_of_structure(self, given: Any) -> Iterator[_Item]:
        """The docs in the inputs of one, or of a batch of them."""
        try:
            as_arrays = Inputs(given).packed([np.asarray(leaf) for leaf in Inputs(given).leaves])
            whole = doors.batch_of(self.anatomy, as_arrays, self.seen)
            doors.number_of_docs(whole)
        except (TypeError, ValueError) as error:
            yield _Item(error=error)
            return
        yield from _rows(whole)


def _texts_in(given: Any) -> list[Any]:
    """The texts in a string, a list or an array of strings; none if it is something else."""
    if isinstance(given, (str, bytes)):
        return [given]
    if isinstance(given, np.ndarray) and given.dtype.kind in "OSU":
        given = given.ravel().tolist()
    elif hasattr(given, "numpy") and str(given.dtype).endswith("string'>"):
        given = np.asarray(given).ravel().tolist()
    is_of_texts = isinstance(given, list) and all(isinstance(one, (str, bytes)) for one in given)
    return given if is_of_texts else []


def _rows(batch: Inputs) -> Iterator[_Item]:
    for row in range(len(batch)):
        yield _Item(inputs=batch[row : row + 1], batch=batch, row=row)


def _items(
    door: _Door, docs: Any, images: Iterable[Image.Image | None] | None, lengths: Mapping[str, int]
) -> Iterator[_Item]:
    """The docs one by one, with their pictures.

    Args:
        door: Makes inputs of them.
        docs: As in `explain_predictions_keras`.
        images: As there.
        lengths: The names of the arguments that hold something for each doc, and how much they
            hold, where that can be told.
    """
    pictures = itertools.repeat(None) if images is None else iter(images)
    position = 0
    try:
        for given in [docs] if door.is_structure(docs) else _given(docs):
            for item in door.items(given):
                item.position = position
                try:
                    picture = next(pictures)
                except StopIteration:
                    picture = None
                    item.error = item.error or ValueError("images has no picture for this doc")
                if picture is not None:
                    try:
                        doors.check_image(picture)
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
    return ValueError(
        f"{what} must hold one for each doc, and holds {length} for {plural(number, 'doc')}"
    )


def _given(docs: Any) -> Iterator[Any]:
    """What ``docs`` holds."""
    if isinstance(docs, keras.utils.PyDataset):  # which has an end, but no iterator that stops
        for number in range(len(docs)):
            yield docs[number]
        return
    if isinstance(docs, np.ndarray):  # whole, so that its parts need no copy
        yield docs
        return
    iterator = iter(docs)
    yield from iterator


def _batches(items: Iterator[_Item], batch_size: int, ends_at_error: bool) -> Iterator[list[_Item]]:
    """Docs of one shape and type together, up to ``batch_size`` of them."""
    batch: list[_Item] = []
    for item in items:
        if item.inputs is not None and any(
            other.inputs is not None and _kinds(other.inputs) != _kinds(item.inputs)
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


def _kinds(inputs: Inputs) -> list[Any]:
    return [(leaf.shape, leaf.dtype) for leaf in inputs.leaves]


def _is_array(given: Any) -> bool:
    return hasattr(given, "__array__") and not isinstance(given, Image.Image)


def _length(docs: Any, rank: int) -> int | None:
    """How many docs there are, where that can be told; ``rank`` is that of a batch."""
    if _is_array(docs):
        return len(docs)
    if isinstance(docs, dict):
        return min((len(leaf) for leaf in Inputs(docs).leaves), default=0)
    if isinstance(docs, (list, tuple)) and all(
        _is_array(doc) and np.ndim(doc) == rank - 1 for doc in docs
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
