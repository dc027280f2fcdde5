"""Scores of changed docs: several metrics ask for them, and the model runs in batches.

A metric is a generator (`Plan`), so that the pictures of all metrics of a doc share the batches,
and a picture that two of them ask for is scored once.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import os
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from kerasight.cam.inputs import Inputs
from kerasight.checks import flag, integer, plural
from kerasight.metrics.common import Docs, class_of_each, heatmaps_of, progressing, ranks
from kerasight.progress import check_progress

if TYPE_CHECKING:
    import keras
    from jaxtyping import Float, Float64, Int, Int64, Shaped

__all__ = ["Plan", "Trial", "Version", "digest"]

Item = TypeVar("Item")

Version = tuple[Hashable, Callable[[], np.ndarray]]
"""A changed doc: a key that tells it from others, and a function that makes it, channels last."""

Asked = tuple[Callable[[int], Iterator[Version]], int]
"""A function from the place of a heatmap to the changed versions of its doc; and their number."""

Plan = Generator[Asked, np.ndarray, Item]
"""A metric: it asks for the scores of changed docs, at most once, and returns its result.

It is sent the scores for the class of each heatmap, float64 ``(heatmaps, number)``.
"""

# From this many pictures on it takes less time to compile the weights into the model first.
_MANY = 1000

# NumPy releases Python's lock for a part of the time only; more threads would only wait.
_THREADS = min(4, os.cpu_count() or 1)
# How many batches are made, or are ready, while the model runs on another.
_AHEAD = 2


@dataclass(frozen=True, eq=False)
class Trial:
    """Heatmaps of docs, and the model whose scores tell how good they are; all checked.

    Attributes:
        model: The classifier.
        docs: The docs.
        places: The place of the doc of each heatmap, integers ``(heatmaps,)``.
        heatmaps: Each ``(height, width)``, of any size.
        targets: The class of each heatmap, integers ``(heatmaps,)``.
        untouched: The score of the untouched doc for that class, float64 ``(heatmaps,)``.
        batch_size: The number of docs that go through the model at a time.
        logits: Whether scores are those before the final softmax or sigmoid.
        progress: Whether to show a progress bar; None shows it on a terminal, after a second.
    """

    model: keras.Model
    docs: Docs
    places: Int[np.ndarray, " heatmaps"]
    heatmaps: list[Float64[np.ndarray, "_ _"]]
    targets: Int[np.ndarray, " heatmaps"]
    untouched: Float64[np.ndarray, " heatmaps"]
    batch_size: int
    logits: bool
    progress: bool | None
    _known: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        model: keras.Model,
        docs: Docs,
        explanations: Any,
        targets: Any,
        batch_size: Any,
        logits: bool,
        progress: bool | None,
        is_one_doc: bool = False,
    ) -> Trial:
        """Check what was passed, and score the untouched docs.

        Args:
            model: The classifier.
            docs: The docs.
            explanations: One for each doc.
            targets: The class of each explanation.
            batch_size: The number of docs that go through the model at a time.
            logits: Whether scores are those before the final softmax or sigmoid.
            progress: Whether to show a progress bar.
            is_one_doc: Whether all explanations are of a single doc, whose changed versions they
                then share.

        Raises:
            TypeError: If an argument has a wrong type.
            ValueError: If an argument has a wrong value, or there are not as many heatmaps or
                targets as docs.
        """
        number = len(docs.values)
        heats = heatmaps_of(explanations)
        if len(heats) != number and not is_one_doc:
            raise ValueError(
                f"there must be one explanation for each doc, got {len(heats)} for "
                f"{plural(number, 'doc')}"
            )
        places = np.zeros(len(heats), np.int64) if is_one_doc else np.arange(number)
        batch_size = integer("batch_size", batch_size, least=1)
        logits = flag("logits", logits)
        check_progress(progress)
        wanted: list[int | None] = (
            [heat.target for heat in heats]
            if targets is None
            else [*class_of_each(targets, len(heats))]
        )
        scores = np.concatenate(
            [
                _scores(model, docs.inputs[start : start + batch_size], logits)
                for start in range(0, number, batch_size)
            ]
        )
        classes = scores.shape[1]
        top = scores.argmax(axis=1)[places]
        found = np.array([top[i] if one is None else one for i, one in enumerate(wanted)])
        outside = found[(found < 0) | (found >= classes)]
        if outside.size:
            raise ValueError(
                f"target {outside[0]} is out of range: the model puts out "
                f"{plural(classes, 'class')}, so that a target lies in [0, {classes})"
            )
        untouched = scores[places, found].astype(np.float64)
        heatmaps = [heat.values for heat in heats]
        return cls(model, docs, places, heatmaps, found, untouched, batch_size, logits, progress)

    @property
    def is_shared(self) -> bool:
        """Whether heatmaps share a doc."""
        return len(self.heatmaps) > len(self.docs.values)

    def once(self, key: Hashable, make: Callable[[], Item]) -> Item:
        """What ``make`` gives; if heatmaps share a doc, it is made once, and kept under the key."""
        if not self.is_shared:
            return make()
        if key not in self._known:
            self._known[key] = make()
        value: Item = self._known[key]
        return value

    def order(self, place: int, seed: int) -> Int64[np.ndarray, "height width"]:
        """The `ranks` of a heatmap at the size of the docs."""
        return self.once(
            ("order", place, seed), lambda: ranks(self.heatmaps[place], self.docs.size, seed)
        )

    def result(self, plan: Plan[Item]) -> Item:
        """The result of one metric."""
        return self.results([plan])[0]

    def results(
        self, plans: Sequence[Plan[Item]], tell: Callable[[float], None] | None = None
    ) -> list[Item]:
        """The results of several metrics.

        While the model runs on a batch, threads make the pictures of the next. Each batch has
        pictures of all metrics, as some take long to make, and the threads would idle at others.

        Args:
            plans: The metrics.
            tell: Called now and then with the share of the scores that are known; may be None.
        """
        results: dict[int, Item] = {}
        asked: dict[int, Asked] = {}
        for number, plan in enumerate(plans):
            try:
                asked[number] = next(plan)
            except StopIteration as end:
                results[number] = end.value
        found = {
            number: np.empty((len(self.heatmaps), each)) for number, (_, each) in asked.items()
        }
        total = sum(scores.size for scores in found.values())
        filled = self._filled(found, asked)
        for done, _ in enumerate(progressing(filled, total, "scoring", self.progress)):
            if tell is not None and done % self.batch_size == 0:
                tell(done / total)
        for number, scores in found.items():
            try:
                plans[number].send(scores)
            except StopIteration as end:
                results[number] = end.value
        return [results[number] for number in range(len(plans))]

    def _filled(
        self, found: dict[int, np.ndarray], asked: dict[int, Asked]
    ) -> Iterator[tuple[int, int, int]]:
        """Fill in the scores of each metric; yields the place of each score once it is known."""
        score = self._scorer(sum(scores.size for scores in found.values()))
        waiting: dict[Hashable, list[tuple[int, int, int]]] = {}
        done: list[tuple[int, int, int]] = []

        def of_metric(number: int) -> Iterator[tuple[float, tuple[int, int, int], Version]]:
            changed, each = asked[number]
            for place in range(len(self.heatmaps)):
                for column, picture in enumerate(changed(place)):
                    share = (place + (column + 0.5) / each) / len(self.heatmaps)
                    yield share, (number, place, column), picture

        def pictures() -> Iterator[tuple[tuple[Hashable, int], Callable[[], np.ndarray]]]:
            spread = heapq.merge(*map(of_metric, asked), key=itemgetter(0))
            for _, where, (what, make) in spread:
                key = ("scores", what) if self.is_shared else where
                if key in self._known:
                    fill(where, self._known[key])
                elif key in waiting:
                    waiting[key].append(where)
                else:
                    waiting[key] = [where]
                    yield (key, int(self.places[where[1]])), make

        def fill(where: tuple[int, int, int], row: np.ndarray) -> None:
            number, place, column = where
            found[number][place, column] = row[self.targets[place]]
            done.append(where)

        values = self.docs.values
        with closing(_made(pictures(), self.batch_size, values.shape[1:], values.dtype)) as made:
            for keys, batch in made:
                scores = score(self.docs.with_pictures(batch, [place for _, place in keys]))
                for (key, _), row in zip(keys, scores, strict=True):
                    for where in waiting.pop(key):
                        fill(where, row)
                    if self.is_shared:
                        self._known[key] = row
                yield from done
                done.clear()
        yield from done

    def _scorer(self, number: int) -> Callable[[Inputs], np.ndarray]:
        """A function that scores batches; ``number`` of docs in all."""
        if number < _MANY:
            return lambda batch: _scores(self.model, batch, self.logits)
        from kerasight.keras.record import scorer

        return scorer(self.model, self.docs.inputs[:1], logits=self.logits)


def digest(values: Shaped[np.ndarray, " ..."]) -> bytes:
    """A key that tells an array from others of its shape."""
    exact = np.packbits(values) if values.dtype == np.bool_ else np.ascontiguousarray(values)
    return hashlib.blake2b(exact.data, digest_size=16).digest()


def _made(
    pictures: Iterator[tuple[Item, Callable[[], np.ndarray]]],
    number: int,
    shape: tuple[int, ...],
    dtype: np.dtype,
) -> Generator[tuple[list[Item], np.ndarray], None, None]:
    """Batches of ``number`` pictures with their keys, made by threads, some batches ahead."""
    pool = ThreadPoolExecutor(_THREADS)

    def begun() -> Iterator[tuple[list[Item], np.ndarray, list[Future[None]]]]:
        while some := list(itertools.islice(pictures, number)):
            keys, makes = zip(*some, strict=True)
            batch = np.empty((len(some), *shape), dtype)
            parts = [slice(first, None, _THREADS) for first in range(_THREADS)]
            yield [*keys], batch, [pool.submit(_make, makes[part], batch[part]) for part in parts]

    try:
        batches = begun()
        ahead = deque(itertools.islice(batches, _AHEAD))
        while ahead:
            ahead.extend(itertools.islice(batches, 1))
            keys, batch, parts = ahead.popleft()
            for part in parts:
                part.result()
            yield keys, batch
    finally:
        pool.shutdown(cancel_futures=True)


def _make(makes: Sequence[Callable[[], np.ndarray]], places: np.ndarray) -> None:
    """Make pictures where they are to be."""
    for place, make in zip(places, makes, strict=True):
        place[...] = make()


def _scores(model: keras.Model, batch: Inputs, logits: bool) -> Float[np.ndarray, "batch classes"]:
    """The scores of a batch, shape ``(batch, classes)``."""
    from kerasight.keras.record import scores_of

    return scores_of(model, batch, logits=logits, batch_size=len(batch))
