"""What the metrics share: docs and heatmaps checked at the door, orders of pixels, batches."""

from __future__ import annotations

import functools
import hashlib
import heapq
import itertools
import os
import sys
from collections import deque
from collections.abc import (
    Callable,
    Generator,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from numbers import Integral, Real
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from kerasight.base import Explanation, TargetExplanation
from kerasight.cam.maps import resized
from kerasight.checks import flag, integer, is_real, plural
from kerasight.explain import not_supported
from kerasight.progress import check_progress, progress_bar

if TYPE_CHECKING:
    import keras
    from jaxtyping import Float, Float64, Int, Int64, Shaped
    from matplotlib.axes import Axes

__all__ = [
    "Baseline",
    "Docs",
    "Heatmap",
    "Heatmaps",
    "Picture",
    "Plan",
    "Trial",
    "axes",
    "baselines",
    "check_model",
    "classes_of",
    "digest",
    "docs_of",
    "heatmaps_of",
    "maps_of",
    "name_of_baseline",
    "progressing",
    "ranks",
]

Heatmap = Explanation | TargetExplanation | np.ndarray
Heatmaps = Heatmap | Iterable[Heatmap]
Baseline = str | float | np.ndarray

_BASELINES = ("blur", "mean", "noise")

Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class Heat:
    """One heatmap.

    Attributes:
        values: float64, shape ``(height, width)``, finite.
        target: The class that it explains; None if it does not say.
    """

    values: Float64[np.ndarray, "height width"]
    target: int | None = None


def heatmaps_of(explanations: Any) -> list[Heat]:
    """The heatmaps of explanations, checked; of an `Explanation` that of its first target.

    Args:
        explanations: One `Explanation`, `TargetExplanation` or array ``(height, width)``, or
            several: an array ``(docs, height, width)``, or anything to iterate over.

    Raises:
        TypeError: If something else is among them.
        ValueError: If there is none, or one has no heatmap, or that of a wrong shape, or NaN or
            infinity in it.
    """
    if isinstance(explanations, (Explanation, TargetExplanation)):
        explanations = [explanations]
    items = maps_of(
        explanations,
        "explanations",
        "docs",
        "an Explanation, a heatmap of shape (height, width)",
    )
    if not items:
        raise ValueError("there must be at least one explanation, got none")
    return [_heat_of(item, position) for position, item in enumerate(items)]


def maps_of(given: Any, name: str, axis: str, one: str) -> list[Any]:
    """What was passed as one map or as several: an array, or anything to iterate over.

    Args:
        given: What was passed.
        name: Name of the argument.
        axis: The axis of an array of several.
        one: What a single one must be.

    Raises:
        TypeError: If it is neither.
        ValueError: If an array has neither two axes nor three.
    """
    if isinstance(given, np.ndarray):
        if given.ndim not in (2, 3):
            raise ValueError(
                f"{name} must have shape (height, width), or ({axis}, height, width) for several, "
                f"got {given.shape}"
            )
        return [given] if given.ndim == 2 else list(given)
    if isinstance(given, Iterable) and not isinstance(given, (str, bytes, Mapping)):
        return list(given)
    raise TypeError(f"{name} must be {one}, or several of them, got {type(given).__name__}")


def _heat_of(item: Any, position: int) -> Heat:
    target = None
    if isinstance(item, Explanation):
        if not item.targets:
            why = f": {item.error}" if item.error else ""
            raise ValueError(f"explanation {position} explains no class{why}")
        item = item.targets[0]
    if isinstance(item, TargetExplanation):
        if not isinstance(item.target, Integral):
            raise TypeError(
                f"explanation {position} must be of a class index, and is of {item.target!r}"
            )
        target, item = int(item.target), item.heatmap
    if not isinstance(item, np.ndarray):
        raise TypeError(
            f"explanation {position} must be an Explanation, or a heatmap as a numpy.ndarray, got "
            f"{type(item).__name__}"
        )
    if item.ndim != 2 or item.size == 0:
        raise ValueError(
            f"heatmap {position} must have shape (height, width), with at least one cell, got "
            f"{item.shape}"
        )
    if not is_real(item):
        raise TypeError(f"heatmap {position} must hold real numbers, got dtype {item.dtype}")
    values = item.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"heatmap {position} must be finite, got NaN or infinity in it")
    return Heat(values, target)


def ranks(
    heatmap: Float64[np.ndarray, "_ _"], shape: tuple[int, int], seed: int
) -> Int64[np.ndarray, "height width"]:
    """The order of pixels from the hottest (0) to the coldest, shape ``shape``.

    Pixels of equal heat come in an order drawn with ``seed``. In reading order, the flat areas that
    ReLU leaves would go row by row from the top, and a curve would measure where in the picture
    they lie. The order is the same for each doc of a size, so that a doc's result does not depend
    on those beside it.
    """
    # In float32, since rounding in the resize would else break ties in a pattern of its own.
    heat = resized(heatmap, shape).astype(np.float32).ravel()
    places = np.empty(heat.size, dtype=np.int64)
    places[np.lexsort((_drawn(heat.size, seed), -heat))] = np.arange(heat.size)
    return places.reshape(shape)


@functools.lru_cache(maxsize=1)
def _drawn(number: int, seed: int) -> Int64[np.ndarray, " number"]:
    return np.random.default_rng(seed).permutation(number)


@dataclass(frozen=True, eq=False)
class Docs:
    """Inputs of a model, seen channels last.

    Attributes:
        values: Floats, shape ``(docs, height, width, channels)``.
        channels_first: Whether the model takes them as ``(docs, channels, height, width)``.
    """

    values: Float[np.ndarray, "docs height width channels"]
    channels_first: bool

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.values.shape[1], self.values.shape[2]

    def as_the_model_takes(
        self, batch: Float[np.ndarray, "batch height width channels"]
    ) -> Float[np.ndarray, "batch _ _ _"]:
        """A batch, channels last, in the layout of the model."""
        if not self.channels_first:
            return batch
        return np.ascontiguousarray(np.moveaxis(batch, -1, 1))


def check_model(model: Any) -> None:
    """Raise TypeError unless ``model`` is a Keras 3 model."""
    keras = sys.modules.get("keras")
    if keras is None or not isinstance(model, keras.Model):
        raise TypeError(not_supported(model).error)


def docs_of(model: keras.Model, docs: Any) -> Docs:
    """Inputs, checked.

    Raises:
        TypeError: If they are no NumPy array of numbers, or the model is no Keras model.
        ValueError: If they have another rank than 4, another size than the model declares, or NaN
            or infinity in them, or there is none.
    """
    check_model(model)
    # Imported only now, as they need Keras.
    from kerasight.keras import layers
    from kerasight.keras.explain_prediction import check_shape

    if not isinstance(docs, np.ndarray):
        raise TypeError(
            "docs must be a numpy.ndarray of shape (docs, height, width, channels), got "
            f"{type(docs).__name__}"
        )
    if not is_real(docs):
        raise TypeError(f"docs must be an array of real numbers, got dtype {docs.dtype}")
    if docs.ndim != 4:
        advice = "; add the batch axis with docs[np.newaxis]" if docs.ndim == 3 else ""
        raise ValueError(
            f"docs must have shape (docs, height, width, channels), got {docs.shape}{advice}"
        )
    if docs.size == 0:
        raise ValueError(f"there must be at least one doc, got shape {docs.shape}")
    check_shape(model, docs, number=None)
    if not np.isfinite(docs).all():
        raise ValueError("docs must be finite, got NaN or infinity in them")
    channels_first = layers.doc_format(model, docs) == "channels_first"
    if not np.issubdtype(docs.dtype, np.floating):
        docs = docs.astype(np.float32)  # a mean of two whole numbers is none
    elif docs.dtype.itemsize > 8:
        docs = docs.astype(np.float64)  # no framework takes more
    return Docs(np.moveaxis(docs, 1, -1) if channels_first else docs, channels_first)


def baselines(
    baseline: Any, docs: Docs, seed: int
) -> Callable[[int], Float[np.ndarray, "height width channels"]]:
    """What removed pixels are replaced by: given a doc's position, ``(height, width, channels)``.

    Raises:
        TypeError: If ``baseline`` is neither a name, a number nor an array.
        ValueError: If it is an unknown name, an array of another shape than a doc or the docs, or
            not finite.
    """
    if isinstance(baseline, str):
        if baseline not in _BASELINES:
            known = ", ".join(map(repr, _BASELINES))
            raise ValueError(
                f"unknown baseline {baseline!r}; known are {known}, a number, and an array of the "
                "shape of a doc"
            )
        if baseline == "noise":
            return lambda position: _noise(docs.values[position], seed)
        make = _blurred if baseline == "blur" else _mean
        return lambda position: make(docs.values[position])
    if isinstance(baseline, np.ndarray):
        if not is_real(baseline):
            raise TypeError(f"baseline must hold real numbers, got dtype {baseline.dtype}")
        one = docs.as_the_model_takes(docs.values[:1]).shape
        if baseline.shape not in (one[1:], one, (len(docs.values), *one[1:])):
            raise ValueError(
                f"baseline must have the shape of a doc, {one[1:]}, or of all docs, "
                f"{(len(docs.values), *one[1:])}, got {baseline.shape}"
            )
        each = baseline.reshape(-1, *one[1:])
        each = np.moveaxis(each, 1, -1) if docs.channels_first else each
        filled = np.broadcast_to(each, docs.values.shape)
    elif isinstance(baseline, Real) and not isinstance(baseline, bool):
        filled = np.broadcast_to(np.float64(baseline), docs.values.shape)
    else:
        raise TypeError(
            "baseline must be 'blur', 'mean', 'noise', a number, or an array of the shape of a "
            f"doc, got {type(baseline).__name__}"
        )
    if not np.isfinite(filled).all():
        raise ValueError("baseline must be finite, got NaN or infinity in it")
    return lambda position: filled[position].astype(docs.values.dtype)


def name_of_baseline(baseline: Baseline) -> str:
    """What to call a baseline in a result."""
    if isinstance(baseline, np.ndarray):
        return "array"
    return baseline if isinstance(baseline, str) else f"{baseline:g}"


def _mean(
    doc: Float[np.ndarray, "height width channels"],
) -> Float[np.ndarray, "height width channels"]:
    mean = doc.mean(axis=(0, 1), dtype=np.float64)
    filled: np.ndarray = np.broadcast_to(mean, doc.shape).astype(doc.dtype)
    return filled


def _noise(
    doc: Float[np.ndarray, "height width channels"], seed: int
) -> Float[np.ndarray, "height width channels"]:
    wide = doc.astype(np.float64)
    mean, spread = wide.mean(axis=(0, 1)), wide.std(axis=(0, 1))
    drawn = mean + spread * np.random.default_rng(seed).standard_normal(doc.shape)
    # What lies outside of a channel's range is no pixel of such a picture.
    inside: np.ndarray = drawn.clip(wide.min(axis=(0, 1)), wide.max(axis=(0, 1)))
    return inside.astype(doc.dtype)


def _blurred(
    doc: Float[np.ndarray, "height width channels"],
) -> Float[np.ndarray, "height width channels"]:
    # Around the mean colour, which is also what lies beyond the edges. In RISE it is 0, the mean
    # colour of its data; of other preprocessing 0 may be black, and the edges would darken.
    mean = doc.mean(axis=(0, 1), dtype=np.float64)
    kernel = _kernel(max(doc.shape[:2]))
    rows, columns = (_convolution(size, kernel) for size in doc.shape[:2])
    down = np.tensordot(rows, doc - mean, axes=1)
    across = np.einsum("yxc,vx->yvc", down, columns, optimize=True)
    blurred: np.ndarray = (across + mean).astype(doc.dtype)
    return blurred


def _kernel(side: int) -> Float64[np.ndarray, " cells"]:
    """The blur of RISE's code along an axis, for pictures whose longer side has ``side`` pixels.

    At 224 pixels that is a Gaussian of deviation 5 in 11 cells. What of it would lie beyond them is
    reflected at the ends of the 11, so that they are nearly alike, and their deviation is 3.1.
    """
    spread = max(1.0, 5 * side / 224)
    radius = round(spread)
    reach = np.arange(-int(4 * spread + 0.5), int(4 * spread + 0.5) + 1)
    # In a row of cells with the peak in its middle, reflected is the same as wrapped around.
    places = (reach + radius) % (2 * radius + 1)
    kernel = np.bincount(places, np.exp(-0.5 * (reach / spread) ** 2), 2 * radius + 1)
    normalised: np.ndarray = kernel / kernel.sum()
    return normalised


def _convolution(
    size: int, kernel: Float64[np.ndarray, " cells"]
) -> Float64[np.ndarray, "size size"]:
    """A blur along an axis as a matrix, with 0 beyond the edges."""
    radius = len(kernel) // 2
    distances = np.subtract.outer(np.arange(size), np.arange(size))
    inside = np.abs(distances) <= radius
    return np.where(inside, kernel[np.where(inside, distances, 0) + radius], 0.0)


Picture = tuple[Hashable, Callable[[], np.ndarray]]
"""What tells a changed doc from others, and what makes it, channels last."""

Asked = tuple[Callable[[int], Iterator[Picture]], int]
"""Given the place of a heatmap, the changed versions of its doc; and how many these are."""

Plan = Generator[Asked, np.ndarray, Item]
"""A metric: asks for the scores of changed docs, once or never, and returns what it makes of them.

The scores are those for the class of each heatmap, float64 ``(heatmaps, each)``.
"""

# From this many pictures on it takes less time to compile the weights into the model first.
_MANY = 1000

# NumPy lets go of Python's lock for a part of the time only, so that more of them only wait.
_THREADS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True, eq=False)
class Trial:
    """A model, docs and heatmaps of them, checked, and what is to be measured.

    Attributes:
        model: The classifier.
        docs: The docs.
        places: Which of the docs each heatmap is of, integers ``(heatmaps,)``.
        heatmaps: Each shape ``(height, width)`` of its own.
        targets: The class of each heatmap, integers ``(heatmaps,)``.
        untouched: The score of its doc as it is, for its class, float64 ``(heatmaps,)``.
        batch_size: How many docs go through the model at a time.
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
        """Check what was given, and run the docs as they are.

        Args:
            model: The classifier.
            docs: The docs.
            explanations: One for each doc.
            targets: The class of each explanation.
            batch_size: How many docs go through the model at a time.
            logits: Whether scores are those before the final softmax or sigmoid.
            progress: Whether to show a progress bar.
            is_one_doc: Whether all explanations are of the one doc there is. What is made of it is
                then made once, and a picture that was scored is not scored again.

        Raises:
            TypeError: If something is of a type that it cannot be.
            ValueError: If something has a value that it cannot have, or there are not as many
                heatmaps or targets as docs.
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
            else [*classes_of(targets, len(heats))]
        )
        scores = np.concatenate(
            [
                _scores(model, docs, docs.values[start : start + batch_size], logits)
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
        """Whether several heatmaps are of one doc."""
        return len(self.heatmaps) > len(self.docs.values)

    def once(self, key: Hashable, make: Callable[[], Item]) -> Item:
        """What is made only once where heatmaps share a doc, and then found under this key."""
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
        """What one metric returns."""
        return self.results([plan])[0]

    def results(
        self, plans: Sequence[Plan[Item]], tell: Callable[[float], None] | None = None
    ) -> list[Item]:
        """What several metrics return, the scores that they ask for found a batch at a time.

        While the model runs, threads make the pictures of the next batch. The pictures of all
        metrics are spread over all batches: some are dear, and others would leave the threads idle.

        Args:
            plans: The metrics.
            tell: If given, is called with the share of the scores that are found, now and then.
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
        """Fill in the scores of each metric; yields each place that is done."""
        score = self._scorer(sum(scores.size for scores in found.values()))
        waiting: dict[Hashable, list[tuple[int, int, int]]] = {}
        done: list[tuple[int, int, int]] = []

        def of_metric(number: int) -> Iterator[tuple[float, tuple[int, int, int], Picture]]:
            changed, each = asked[number]
            for place in range(len(self.heatmaps)):
                for column, picture in enumerate(changed(place)):
                    share = (place + (column + 0.5) / each) / len(self.heatmaps)
                    yield share, (number, place, column), picture

        def pictures() -> Iterator[Picture]:
            spread = heapq.merge(*map(of_metric, asked), key=itemgetter(0))
            for _, where, (what, make) in spread:
                key = ("scores", what) if self.is_shared else where
                if key in self._known:
                    fill(where, self._known[key])
                elif key in waiting:
                    waiting[key].append(where)
                else:
                    waiting[key] = [where]
                    yield key, make

        def fill(where: tuple[int, int, int], row: np.ndarray) -> None:
            number, place, column = where
            found[number][place, column] = row[self.targets[place]]
            done.append(where)

        with closing(_made(pictures(), self.batch_size)) as made:
            while batch := list(itertools.islice(made, self.batch_size)):
                scores = score(np.stack([picture for _, picture in batch]))
                for (key, _), row in zip(batch, scores, strict=True):
                    for where in waiting.pop(key):
                        fill(where, row)
                    if self.is_shared:
                        self._known[key] = row
                yield from done
                done.clear()
        yield from done

    def _scorer(self, number: int) -> Callable[[np.ndarray], np.ndarray]:
        """What gives the scores of batches of pictures, channels last, of so many in all."""
        if number < _MANY:
            return lambda batch: _scores(self.model, self.docs, batch, self.logits)
        from kerasight.keras.record import scorer

        as_taken = self.docs.as_the_model_takes
        score = scorer(self.model, as_taken(self.docs.values[:1]), logits=self.logits)
        return lambda batch: score(as_taken(batch))


def digest(values: Shaped[np.ndarray, " ..."]) -> bytes:
    """What tells an array from others of its shape."""
    exact = np.packbits(values) if values.dtype == np.bool_ else np.ascontiguousarray(values)
    return hashlib.blake2b(exact.data, digest_size=16).digest()


def _made(
    pictures: Iterator[Picture], number: int
) -> Generator[tuple[Hashable, np.ndarray], None, None]:
    """Pictures, made by threads, up to ``number`` of them before they are asked for."""
    pool = ThreadPoolExecutor(_THREADS)
    try:
        ahead: deque[tuple[Hashable, Future[np.ndarray]]] = deque()
        for key, make in pictures:
            ahead.append((key, pool.submit(make)))
            if len(ahead) > number:
                key, future = ahead.popleft()
                yield key, future.result()
        for key, future in ahead:
            yield key, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _scores(
    model: keras.Model,
    docs: Docs,
    batch: Float[np.ndarray, "batch height width channels"],
    logits: bool,
) -> Float[np.ndarray, "batch classes"]:
    """The scores of a batch of pictures, channels last, shape ``(batch, classes)``."""
    from kerasight.keras.record import scores_of

    return scores_of(model, docs.as_the_model_takes(batch), logits=logits, batch_size=len(batch))


def classes_of(targets: Any, number: int) -> list[int]:
    """The class of each of so many docs: a list of indices, of which one holds for all.

    Raises:
        TypeError: If ``targets`` is no list of integers.
        ValueError: If there are neither one nor as many as docs.
    """
    is_list = isinstance(targets, (list, tuple, np.ndarray)) and np.ndim(targets) == 1
    if not is_list or not all(
        isinstance(target, Integral) and not isinstance(target, bool) for target in targets
    ):
        raise TypeError(
            f"targets must be a list of class indices, one for each doc, or None, got {targets!r}"
        )
    if len(targets) not in (1, number):
        raise ValueError(
            f"targets must hold a class for each of the {number} docs, or one for all, and holds "
            f"{len(targets)}"
        )
    return [int(target) for target in targets] * (number // len(targets))


def progressing(
    items: Iterable[Item], total: int, what: str, progress: bool | None
) -> Iterable[Item]:
    """``items``, under a progress bar if one is wanted; if None, on a terminal after a second."""
    bar: Iterable[Item] = progress_bar(
        items, progress=progress, total=total, desc=what, leave=False
    )
    return bar


def axes(ax: Axes | None, width: float = 6.0, height: float = 4.0) -> Axes:
    """The axes to draw on: those given, else those of a new figure, its size in inches."""
    if ax is not None:
        return ax
    from matplotlib import pyplot as plt

    return plt.subplots(figsize=(width, height), layout="constrained")[1]
