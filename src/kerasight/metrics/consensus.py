"""Agreement: whether several methods show the same places."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasight.cam.maps import resized
from kerasight.checks import integer, plural
from kerasight.metrics.common import Heatmaps, axes, heatmaps_of
from kerasight.metrics.sanity import spearman
from kerasight.metrics.statistics import Estimate

if TYPE_CHECKING:
    from jaxtyping import Float64
    from matplotlib.axes import Axes

__all__ = ["Agreement", "agreement"]


@dataclass(frozen=True, eq=False, repr=False)
class Agreement:
    """The result of `agreement`.

    ``float(result)`` is ``result.mean``.

    Attributes:
        names: Names of the methods.
        correlations: For each doc, Spearman's rank correlation of the heatmaps of each two methods,
            in [-1, 1], shape ``(docs, methods, methods)``; NaN if one of the two is the same
            everywhere.
        overlaps: For each doc, the share of the hottest cells of one heatmap that are among the
            hottest of the other, in [0, 1], same shape; NaN likewise. By chance it is ``share``.
        size: The height and the width at which heatmaps were compared, in cells.
        share: The share of the cells that are the hottest.
    """

    names: tuple[str, ...]
    correlations: Float64[np.ndarray, "docs methods methods"]
    overlaps: Float64[np.ndarray, "docs methods methods"]
    size: tuple[int, int]
    share: float

    @property
    def correlation(self) -> Float64[np.ndarray, "methods methods"]:
        """The mean of ``correlations`` over docs, shape ``(methods, methods)``."""
        return _over_docs(self.correlations, "mean")

    @property
    def overlap(self) -> Float64[np.ndarray, "methods methods"]:
        """The mean of ``overlaps`` over docs, shape ``(methods, methods)``."""
        return _over_docs(self.overlaps, "mean")

    @property
    def errors(self) -> Float64[np.ndarray, "methods methods"]:
        """The standard errors of ``correlation``; NaN of fewer than two docs."""
        return _over_docs(self.correlations, "error")

    @property
    def mean(self) -> float:
        """The mean of ``correlation`` over all pairs of methods."""
        pairs = self.correlation[np.triu_indices(len(self.names), 1)]
        return Estimate.of(pairs[~np.isnan(pairs)]).mean

    def __float__(self) -> float:
        return self.mean

    def __repr__(self) -> str:
        docs = plural(len(self.correlations), "doc")
        height, width = self.size
        text = (
            f"agreement of {len(self.names)} methods on {docs} at {height} x {width} cells: rank "
            f"correlation {self.mean:.3f} on average"
        )
        pairs = {
            pair: self.correlation[pair]
            for pair in itertools.combinations(range(len(self.names)), 2)
            if not np.isnan(self.correlation[pair])
        }
        if len(pairs) > 1:
            ends = [
                f"{pairs[pair]:.3f} ({self.names[pair[0]]}, {self.names[pair[1]]})"
                for pair in (min(pairs, key=pairs.__getitem__), max(pairs, key=pairs.__getitem__))
            ]
            text += f", from {ends[0]} to {ends[1]}"
        return text

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw the rank correlations as a matrix, each with the overlap below it.

        Args:
            ax: Where to draw; None makes a new figure.
            **kwargs: Passed on to ``ax.imshow``, such as ``cmap``.

        Returns:
            The axes.
        """
        number = len(self.names)
        ax = axes(ax, width=2.5 + 0.75 * number, height=2.2 + 0.6 * number)
        settings = {"cmap": "RdBu", "vmin": -1.0, "vmax": 1.0, "aspect": "auto", **kwargs}
        image = ax.imshow(self.correlation, **settings)
        for (row, column), value in np.ndenumerate(self.correlation):
            shade = np.array(image.cmap(image.norm(value)))[:3] if value == value else np.ones(3)
            color = "white" if shade @ (0.299, 0.587, 0.114) < 0.5 else "black"
            text = "" if np.isnan(value) else f"{value:.2f}\n{self.overlap[row, column]:.0%}"
            ax.text(column, row, text, ha="center", va="center", color=color, fontsize="small")
        ax.set_xticks(range(number), self.names, rotation=45, ha="right", rotation_mode="anchor")
        ax.set_yticks(range(number), self.names)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set_title(f"Rank correlation, and overlap of the hottest {self.share:.0%}")
        return ax


def _over_docs(
    values: Float64[np.ndarray, "docs methods methods"], what: str
) -> Float64[np.ndarray, "methods methods"]:
    """The mean or the error over docs; those that are NaN are left out."""
    found = np.empty(values.shape[1:])
    for place in np.ndindex(*found.shape):
        of_docs = values[:, place[0], place[1]]
        found[place] = getattr(Estimate.of(of_docs[~np.isnan(of_docs)]), what)
    return found


def agreement(
    explanations: Mapping[str, Heatmaps],
    *,
    size: Sequence[int] | None = None,
    share: float = 0.1,
) -> Agreement:
    """See whether several methods show the same places.

    For each two methods: the rank correlation of their heatmaps, which has an eye for all cells,
    and the overlap of their hottest tenths, which is what people look at. Krishna et al., 2022,
    `The Disagreement Problem in Explainable Machine Learning <https://arxiv.org/abs/2202.01602>`_,
    compare features so.

    Where methods disagree, at most one of them is right. Where they agree, all of them may be
    wrong: those of one family share their assumptions.

    Of equally hot cells at the edge of the hottest tenth, each counts for its share.

    Args:
        explanations: The heatmaps by the name of their method. For each, as in `pointing_game`: an
            `Explanation`, a heatmap ``(height, width)``, or several, one for each doc.
        size: The height and the width to compare at, in cells. None takes the least height and the
            least width of all heatmaps, as a coarse one tells nothing about the places within its
            cells. Heatmaps are resized bilinearly, by weighted means where they shrink.
        share: The share of the cells that are the hottest, above 0 and below 1.

    Returns:
        An `Agreement`.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If there are fewer than two methods, or they have not as many heatmaps; if
            heatmaps are of different classes; or if an argument has a wrong value.

    Example:
        >>> import numpy as np
        >>> from kerasight import metrics
        >>> left = np.arange(16.0).reshape(4, 4)
        >>> found = metrics.agreement({"one": left, "same": 2 * left, "other": left[::-1]})
        >>> found.correlation.round(2)
        array([[ 1.  ,  1.  , -0.88],
               [ 1.  ,  1.  , -0.88],
               [-0.88, -0.88,  1.  ]])
    """
    if not isinstance(explanations, Mapping):
        raise TypeError(
            "explanations must be a dict of heatmaps by the name of their method, got "
            f"{type(explanations).__name__}"
        )
    if len(explanations) < 2:
        raise ValueError(f"it takes two methods to agree, got {len(explanations)}")
    if isinstance(share, bool) or not isinstance(share, Real):
        raise TypeError(f"share must be a number, got {type(share).__name__}")
    if not 0 < share < 1:
        raise ValueError(f"share must be above 0 and below 1, got {share}")
    by_method = {str(name): heatmaps_of(given) for name, given in explanations.items()}
    numbers = {name: len(heats) for name, heats in by_method.items()}
    if len(set(numbers.values())) > 1:
        raise ValueError(f"methods must have a heatmap for each doc, got as many as {numbers}")
    docs = list(zip(*by_method.values(), strict=True))
    for position, heats in enumerate(docs):
        classes = {heat.target for heat in heats if heat.target is not None}
        if len(classes) > 1:
            raise ValueError(
                f"heatmaps of doc {position} are of different classes, {sorted(classes)}; pass "
                "targets when you explain"
            )
    shapes = [heat.values.shape for heats in docs for heat in heats]
    height, width = np.min(shapes, axis=0).tolist() if size is None else _checked(size)
    maps = [[resized(heat.values, (height, width)) for heat in heats] for heats in docs]
    return Agreement(
        names=tuple(by_method),
        correlations=np.array([_matrix(of_doc, spearman) for of_doc in maps]),
        overlaps=np.array(
            [_matrix(of_doc, lambda one, other: _overlap(one, other, share)) for of_doc in maps]
        ),
        size=(height, width),
        share=float(share),
    )


def _checked(size: Any) -> tuple[int, int]:
    if not isinstance(size, (list, tuple)) or len(size) != 2:
        raise TypeError(f"size must be a height and a width in cells, got {size!r}")
    height, width = (integer("size: each number", one, least=1) for one in size)
    return height, width


def _matrix(maps: Sequence[np.ndarray], of: Any) -> Float64[np.ndarray, "methods methods"]:
    """A symmetric measure of each two maps."""
    found = np.empty((len(maps),) * 2)
    for one, other in itertools.combinations_with_replacement(range(len(maps)), 2):
        found[one, other] = found[other, one] = of(maps[one], maps[other])
    return found


def _overlap(one: np.ndarray, other: np.ndarray, share: float) -> float:
    if not np.ptp(one) or not np.ptp(other):
        return np.nan
    number = share * one.size
    return float(np.minimum(_hottest(one, number), _hottest(other, number)).sum() / number)


def _hottest(heatmap: np.ndarray, number: float) -> Float64[np.ndarray, "_ _"]:
    """How much of each cell is among the hottest, which sums to ``number``."""
    _, place, counts = np.unique(-heatmap, return_inverse=True, return_counts=True)
    before = np.cumsum(counts) - counts
    shares = ((number - before) / counts).clip(0, 1)
    found: np.ndarray = shares[place.ravel()].reshape(heatmap.shape)
    return found
