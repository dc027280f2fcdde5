"""What the metrics share: docs, heatmaps and classes, checked; baselines; the order of pixels."""

from __future__ import annotations

import functools
import sys
from collections.abc import (
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from kerasight.base import Explanation, TargetExplanation
from kerasight.cam.baselines import baseline_of, check_baseline
from kerasight.cam.inputs import Inputs
from kerasight.cam.layout import Layout
from kerasight.cam.maps import resized
from kerasight.checks import is_real
from kerasight.explain import not_supported
from kerasight.progress import progress_bar

if TYPE_CHECKING:
    import keras
    from jaxtyping import Float, Float64, Int64
    from matplotlib.axes import Axes

__all__ = [
    "Docs",
    "HeatmapLike",
    "Heatmaps",
    "axes",
    "baselines",
    "check_model",
    "class_of_each",
    "docs_of",
    "heatmaps_of",
    "maps_of",
    "progressing",
    "ranks",
]

HeatmapLike = Explanation | TargetExplanation | np.ndarray
Heatmaps = HeatmapLike | Iterable[HeatmapLike]
Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class Heat:
    """One heatmap.

    Attributes:
        values: float64, shape ``(height, width)``, finite.
        target: The class that it explains; None if that is not known.
    """

    values: Float64[np.ndarray, "height width"]
    target: int | None = None


def heatmaps_of(explanations: Any) -> list[Heat]:
    """The heatmaps of explanations, checked; of an `Explanation`, the heatmap of its first target.

    Args:
        explanations: One `Explanation`, `TargetExplanation` or array ``(height, width)``, or
            several: an array ``(docs, height, width)``, or anything to iterate over.

    Raises:
        TypeError: If something else is among them.
        ValueError: If there are none; if an explanation has no heatmap; if a heatmap has a wrong
            shape, or NaN or infinity in it.
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

    Pixels of equal heat come in an order drawn with ``seed``. In reading order, the flat areas of a
    heatmap would go row by row from the top, and a curve would measure where in the picture they
    lie. The drawn order is the same for all docs of a size, so that the result of a doc does not
    depend on the others.
    """
    # In float32, as rounding errors of the resize would break ties in a pattern of their own.
    heat = resized(heatmap, shape).astype(np.float32).ravel()
    places = np.empty(heat.size, dtype=np.int64)
    places[np.lexsort((_drawn(heat.size, seed), -heat))] = np.arange(heat.size)
    return places.reshape(shape)


@functools.lru_cache(maxsize=1)
def _drawn(number: int, seed: int) -> Int64[np.ndarray, " number"]:
    return np.random.default_rng(seed).permutation(number)


@dataclass(frozen=True, eq=False)
class Docs:
    """Inputs of a model, channels last.

    Attributes:
        values: The pictures, floats ``(docs, height, width, channels)``.
        layout: The layout that the model takes.
        inputs: The docs as the model takes them, with whatever else it takes.
    """

    values: Float[np.ndarray, "docs height width channels"]
    layout: Layout
    inputs: Inputs

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.values.shape[1], self.values.shape[2]

    def with_pictures(
        self, batch: Float[np.ndarray, "batch height width channels"], places: Sequence[int]
    ) -> Inputs:
        """What the model takes for other pictures, of the docs at some places."""
        leaves = self.inputs.leaves
        if len(leaves) > 1:
            leaves = [leaf[np.asarray(places)] for leaf in leaves]
        leaves[self.inputs.seen] = self.layout.fold(batch)
        return replace(self.inputs, structure=self.inputs.packed(leaves))


def check_model(model: Any) -> None:
    """Raise TypeError unless ``model`` is a Keras 3 model."""
    keras = sys.modules.get("keras")
    if keras is None or not isinstance(model, keras.Model):
        raise TypeError(not_supported(model).error)


def docs_of(model: keras.Model, docs: Any, seen: str | int | None = None) -> Docs:
    """Inputs, checked.

    Args:
        model: The classifier.
        docs: A NumPy array; or a dict, list or tuple of such, for a model of several inputs; or
            inputs.
        seen: Which of them is the picture.

    Raises:
        TypeError: If they are no NumPy arrays of numbers, or the model is no Keras model.
        ValueError: If they have another rank than 4, another size than the model declares, or NaN
            or infinity in them, or there is none.
    """
    check_model(model)
    # Imported only now, as they need Keras.
    from kerasight.keras.anatomy import Anatomy
    from kerasight.keras.docs import check_shape, inputs_of, number_of_docs

    anatomy = Anatomy(model)
    inputs = docs if isinstance(docs, Inputs) else None
    if isinstance(docs, (dict, list, tuple)) and len(anatomy.inputs) != 1:
        inputs = inputs_of(anatomy, docs, seen)
        number_of_docs(inputs)
    docs = docs if inputs is None else inputs.docs
    if not isinstance(docs, np.ndarray):
        raise TypeError(
            "docs must be a numpy.ndarray of shape (docs, height, width, channels), got "
            f"{type(docs).__name__}"
        )
    if not is_real(docs):
        raise TypeError(f"docs must be an array of real numbers, got dtype {docs.dtype}")
    if docs.ndim != 4:
        is_picture = docs.ndim == 3 and all(len(one.shape) == 4 for one in anatomy.inputs)
        advice = "; add the batch axis with docs[np.newaxis]" if is_picture else ""
        raise ValueError(
            "metrics are of pictures: docs must have shape (docs, height, width, channels), got "
            f"{docs.shape}{advice}"
        )
    if docs.size == 0:
        raise ValueError(f"there must be at least one doc, got shape {docs.shape}")
    if not np.issubdtype(docs.dtype, np.floating):
        docs = docs.astype(np.float32)  # a mean of two whole numbers is none
    elif docs.dtype.itemsize > 8:
        docs = docs.astype(np.float64)  # no framework takes more
    inputs = inputs_of(anatomy, docs, seen) if inputs is None else inputs.with_docs(docs)
    check_shape(anatomy, inputs, number=None)
    if not all(np.isfinite(leaf).all() for leaf in inputs.leaves):
        raise ValueError("docs must be finite, got NaN or infinity in them")
    layout = anatomy.layout_of_docs(docs.shape)
    return Docs(layout.unfold(docs), layout, inputs)


def baselines(
    baseline: Any, docs: Docs, seed: int
) -> Callable[[int], Float[np.ndarray, "height width channels"]]:
    """What replaces pixels: a function from the position of a doc to its baseline.

    Raises:
        TypeError: If ``baseline`` is neither a name, a number nor an array.
        ValueError: If it is an unknown name, or an array whose shape is not that of a doc or of all
            docs, or not finite.
    """
    checked = check_baseline("baseline", baseline)
    if not isinstance(checked, np.ndarray):
        return lambda position: baseline_of(docs.values[position], checked, seed)
    one = docs.inputs.docs[:1].shape
    if checked.shape not in (one[1:], one, (len(docs.values), *one[1:])):
        raise ValueError(
            f"baseline must have the shape of a doc, {one[1:]}, or of all docs, "
            f"{(len(docs.values), *one[1:])}, got {checked.shape}"
        )
    each = docs.layout.unfold(checked.reshape(-1, *one[1:]))
    filled = np.broadcast_to(each, docs.values.shape)
    return lambda position: filled[position].astype(docs.values.dtype)


def class_of_each(targets: Any, number: int) -> list[int]:
    """The class of each of ``number`` docs, from a list of indices; a list of one holds for all.

    Raises:
        TypeError: If ``targets`` is no list of integers.
        ValueError: If it does not hold one class, or as many as docs.
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
    """Items, counted by a progress bar; if ``progress`` is None, on a terminal after a second."""
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
