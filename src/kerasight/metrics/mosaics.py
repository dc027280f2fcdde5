"""The grid pointing game: where in a mosaic of pictures a heatmap finds the one of its class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasight.cam.maps import resized
from kerasight.checks import integer, plural
from kerasight.metrics.common import axes, class_of_each, docs_of, heatmaps_of, progressing
from kerasight.metrics.explaining import check_one_class, explained, without_warnings
from kerasight.metrics.localisation import energy_in_mask, pointing_game
from kerasight.metrics.statistics import Estimate
from kerasight.progress import check_progress

if TYPE_CHECKING:
    import keras
    from jaxtyping import Bool, Float, Float64, Int
    from matplotlib.axes import Axes

    from kerasight.keras.explainer import LayerKeys
    from kerasight.metrics.common import Docs

__all__ = ["GridPointingGame", "grid_pointing_game"]


@dataclass(frozen=True, eq=False, repr=False)
class GridPointingGame:
    """The result of `grid_pointing_game`.

    Cells are numbered row by row. ``float(result)`` is ``result.mean``.

    Attributes:
        shares: For each cell of each mosaic, the share of the positive heat for its class that lies
            in it, in [0, 1], shape ``(mosaics, cells)``; 0 if the heatmap is blank.
        hits: 1 if the hottest point lies in the cell, else 0, shape ``(mosaics, cells)``. Of
            equally hot points, the share of them that does.
        places: Which doc lies in each cell, integers ``(mosaics, cells)``.
        targets: The class of each cell, integers ``(mosaics, cells)``.
        size: Height and width of the mosaics in pixels.
        layer: Path of the explained layer.
        method: Name of the method.
    """

    shares: Float64[np.ndarray, "mosaics cells"]
    hits: Float64[np.ndarray, "mosaics cells"]
    places: Int[np.ndarray, "mosaics cells"]
    targets: Int[np.ndarray, "mosaics cells"]
    size: tuple[int, int]
    layer: str
    method: str

    @property
    def chance(self) -> float:
        """The share of the heat in the right cell by chance: 1 by the number of cells."""
        return 1.0 / int(self.shares.shape[1])

    @property
    def of_mosaics(self) -> Float64[np.ndarray, " mosaics"]:
        """The mean of ``shares`` over the cells of each mosaic, shape ``(mosaics,)``."""
        return np.asarray(self.shares.mean(axis=1))

    @property
    def mean(self) -> float:
        """The mean of ``shares``."""
        return self._of(self.shares).mean

    @property
    def error(self) -> float:
        """The standard error of ``mean``, over mosaics; NaN of a single one.

        The cells of a mosaic are not independent of each other. Mosaics are, but for the docs that
        they share: of few docs, the error of another choice of docs is greater.
        """
        return self._of(self.shares).error

    @property
    def accuracy(self) -> float:
        """The mean of ``hits``."""
        return self._of(self.hits).mean

    @property
    def accuracy_error(self) -> float:
        """The standard error of ``accuracy``, over mosaics; NaN of a single one."""
        return self._of(self.hits).error

    @staticmethod
    def _of(values: Float64[np.ndarray, "mosaics cells"]) -> Estimate:
        return Estimate.of(values.mean(axis=1))

    def __float__(self) -> float:
        return self.mean

    def __repr__(self) -> str:
        mosaics, cells = self.shares.shape
        side = round(cells**0.5)
        errors = ["" if np.isnan(e) else f" ± {e:.4f}" for e in (self.error, self.accuracy_error)]
        return (
            f"grid pointing game: {self.mean:.4f}{errors[0]} of the heat in the right cell; the "
            f"hottest point in it {self.accuracy:.4f}{errors[1]}; {self.chance:.4f} by chance "
            f"({self.method}, layer {self.layer}, {plural(mosaics, 'mosaic')} of {side} x {side} "
            f"docs at {self.size[0]} x {self.size[1]} px; the higher the better)"
        )

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw how often each share of the heat lies in the right cell, with lines at the means.

        Args:
            ax: Where to draw; None makes a new figure. Several results may share their axes.
            **kwargs: Passed on to ``ax.hist``: ``bins``, ``color``, ``label``, ...

        Returns:
            The axes.
        """
        from matplotlib.ticker import PercentFormatter

        ax = axes(ax)
        label = f"{kwargs.pop('label', self.method)}, mean {self.mean:.1%}"
        settings = {"bins": 20, "range": (0, 1), "alpha": 0.5, "label": label, **kwargs}
        ax.hist(self.shares.ravel(), **settings)
        ax.axvline(self.mean, color=ax.patches[-1].get_facecolor(), linewidth=1, alpha=1)
        chance = f"chance {self.chance:.1%}"
        if chance not in ax.get_legend_handles_labels()[1]:
            ax.axvline(self.chance, color="0.3", linewidth=1, linestyle="--", label=chance)
        ax.set_title("Grid pointing game")
        ax.set_xlabel("share of the heat in the right cell")
        ax.set_ylabel("cells of mosaics")
        ax.set_xlim(0, 1)
        ax.xaxis.set_major_formatter(PercentFormatter(1))
        ax.legend(frameon=False)
        return ax


def grid_pointing_game(
    model: keras.Model,
    docs: Any,
    targets: Sequence[int],
    *,
    n: int = 2,
    mosaics: int = 50,
    size: Sequence[int] | None = None,
    layer: LayerKeys | None = None,
    seed: int = 0,
    progress: bool | None = None,
    **explain_kwargs: Any,
) -> GridPointingGame:
    """Lay pictures of different classes side by side, and see if heatmaps find that of their class.

    For each cell of a mosaic of ``n`` x ``n`` docs, its class is explained: the share of the
    positive heat that lies in the cell, which is ``1 / n**2`` by chance, and whether the hottest
    point does. From Boehle et al., 2021, `Convolutional Dynamic Alignment Networks for
    Interpretable Classifications <https://arxiv.org/abs/2104.00032>`_, and Rao et al., 2022,
    `Towards Better Understanding Attribution Methods <https://arxiv.org/abs/2205.10435>`_. It needs
    no masks, and no doc is painted over.

    Pass docs that the model is right and sure of, as the papers do: a heatmap for a class that the
    model does not see in the doc has no place to be.

    What a mosaic looks like depends on the model:

    - A model of any size, such as one that ends in global pooling, sees docs as they are: the
      mosaic is ``n`` times as high and wide. Global pooling sees all cells then, as in the papers.
    - A model that declares a fixed size sees mosaics of that size: docs are shrunk to a cell,
      linearly, by weighted means. The docs are then smaller than what the model was trained on, and
      each class is found by fewer cells of the layer, so that numbers are lower, and compare with
      those of the same model and ``n`` alone. Where the layers could do with any size, build the
      model without a fixed one, and give it the same weights.

    Args:
        model: The classifier.
        docs: Its inputs, preprocessing done, as in `deletion`, of a model with one input.
        targets: The class of each doc, a list of indices; ``n**2`` different ones at the least.
        n: How many docs stand side by side, and below each other; at least 2. The papers take 3.
        mosaics: How many mosaics to draw. Each has different classes, drawn at random of those that
            there are, and for each class one of its docs.
        size: Height and width of the mosaics in pixels, at least ``n`` each. None takes the size
            that the model declares; along an axis where it declares none, ``n`` times that of the
            docs.
        layer: The layer to explain, as `kerasight.explain_prediction` takes it.
        seed: Seed of the mosaics. The same docs, targets and seed give the same mosaics for all
            methods, so that results compare mosaic by mosaic.
        progress: Whether to show a progress bar; None shows it on a terminal, after a second.
        **explain_kwargs: Passed on to `kerasight.explain_predictions`: ``method``, ``logits``,
            ``smooth``, ...

    Returns:
        A `GridPointingGame`.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If an argument has a wrong value; if there are too few classes; if the model has
            several inputs; or if it cannot be explained on a mosaic.

    Example:
        >>> import numpy as np
        >>> from kerasight import demo, metrics
        >>> model, pictures = demo.load_model(), [demo.draw_picture(seed) for seed in range(12)]
        >>> docs = np.concatenate([demo.preprocess(picture.image) for picture in pictures])
        >>> targets = [picture.labels[0] for picture in pictures]
        >>> found = metrics.grid_pointing_game(model, docs, targets, mosaics=5, logits=True)
        >>> found.mean > found.chance
        True
    """
    n = integer("n", n, least=2)
    mosaics = integer("mosaics", mosaics, least=1)
    seed = integer("seed", seed, least=0)
    check_one_class(explain_kwargs)
    check_progress(progress)
    checked = docs_of(model, docs, explain_kwargs.get("seen"))
    if len(checked.inputs.leaves) > 1:
        raise ValueError(
            "mosaics are of pictures alone, and the model takes "
            f"{plural(len(checked.inputs.leaves), 'input')}"
        )
    classes = np.array(class_of_each(targets, len(checked.values)))
    different = np.unique(classes)
    if len(different) < n * n:
        raise ValueError(
            f"a mosaic of {n} x {n} takes docs of {n * n} different classes, got "
            f"{plural(len(different), 'class')}"
        )
    height, width = _size(model, checked, n, size)
    rng = np.random.default_rng(seed)
    drawn = np.array([rng.choice(different, n * n, replace=False) for _ in range(mosaics)])
    places = np.vectorize(lambda one: rng.choice(np.flatnonzero(classes == one)))(drawn)
    rows, columns = (np.rint(np.linspace(0, side, n + 1)).astype(int) for side in (height, width))
    cells = [
        (slice(*rows[row : row + 2]), slice(*columns[column : column + 2]))
        for row, column in np.ndindex(n, n)
    ]
    masks = np.zeros((n * n, height, width), bool)
    for mask, cell in zip(masks, cells, strict=True):
        mask[cell] = True

    def made() -> Iterator[Any]:
        for of_mosaic in places:
            mosaic = _laid(checked.values[of_mosaic], cells, (height, width))
            yield checked.with_pictures(mosaic[np.newaxis], [0]).structure

    found, method, path = [], "", ""
    with without_warnings():
        given = explained(model, made(), drawn.tolist(), layer, explain_kwargs, "mosaics")
        for explanation in progressing(given, mosaics, "mosaics", progress):
            heatmaps = [heat.values for heat in heatmaps_of(explanation.targets)]
            found.append(_judged(heatmaps, masks))
            method, path = str(explanation.method), str(explanation.layer)
    shares, hits = np.moveaxis(np.array(found), 1, 0)
    return GridPointingGame(shares, hits, places, drawn, (height, width), path, method)


def _judged(
    heatmaps: list[np.ndarray], masks: Bool[np.ndarray, "cells height width"]
) -> tuple[Float64[np.ndarray, " cells"], Float64[np.ndarray, " cells"]]:
    """The share of the heat in each cell, and whether the hottest point lies in it."""
    return energy_in_mask(heatmaps, masks).shares, pointing_game(heatmaps, masks).hits


def _size(model: keras.Model, docs: Docs, n: int, size: Any) -> tuple[int, int]:
    """Height and width of a mosaic."""
    if size is not None:
        if not isinstance(size, (list, tuple)) or len(size) != 2:
            raise TypeError(f"size must be a height and a width in pixels, got {size!r}")
        height, width = (integer("size: each number", one, least=n) for one in size)
        return height, width
    from kerasight.keras.anatomy import Anatomy
    from kerasight.keras.docs import input_shape

    declared = input_shape(Anatomy(model), docs.inputs.seen)
    free = (n * docs.size[0], n * docs.size[1])
    if declared is None:
        return free
    height, width = (
        own if said is None else said
        for said, own in zip(docs.layout.spatial(declared), free, strict=True)
    )
    return height, width


def _laid(
    docs: Float[np.ndarray, "cells height width channels"],
    cells: Sequence[tuple[slice, slice]],
    size: tuple[int, int],
) -> Float[np.ndarray, "_ _ channels"]:
    """A mosaic of docs, each resized to its cell."""
    mosaic = np.empty((*size, docs.shape[-1]), docs.dtype)
    for doc, cell in zip(docs, cells, strict=True):
        mosaic[cell] = resized(doc, mosaic[cell].shape)
    return mosaic
