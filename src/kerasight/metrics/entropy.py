"""Complexity: over how many places a heatmap is spread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasight.checks import plural
from kerasight.metrics.common import Heatmaps, axes, heatmaps_of
from kerasight.metrics.statistics import Estimate

if TYPE_CHECKING:
    from jaxtyping import Float64, Int
    from matplotlib.axes import Axes

__all__ = ["Complexity", "complexity"]


@dataclass(frozen=True, eq=False, repr=False)
class Complexity:
    """The result of `complexity`.

    ``float(result)`` is ``result.mean``.

    Attributes:
        entropies: The entropy of each heatmap in nats, in [0, log(cells)], shape
            ``(explanations,)``; NaN if the heatmap is blank.
        cells: The number of cells of each heatmap, integers ``(explanations,)``.
    """

    entropies: Float64[np.ndarray, " explanations"]
    cells: Int[np.ndarray, " explanations"]

    @property
    def shares(self) -> Float64[np.ndarray, " explanations"]:
        """Each entropy as a share of the greatest that there is, in [0, 1]; NaN of a single cell.

        0 of a heatmap of one hot cell, 1 of one that is the same everywhere.
        """
        most = np.where(self.cells > 1, np.log(self.cells), np.nan)
        return np.asarray(self.entropies / most)

    @property
    def mean(self) -> float:
        """The mean of ``shares``, those that are NaN left out."""
        return self._estimate.mean

    @property
    def error(self) -> float:
        """The standard error of ``mean``; NaN of fewer than two heatmaps."""
        return self._estimate.error

    @property
    def _estimate(self) -> Estimate:
        return Estimate.of(self.shares[~np.isnan(self.shares)])

    def __float__(self) -> float:
        return self.mean

    def __repr__(self) -> str:
        error = "" if np.isnan(self.error) else f" ± {self.error:.4f}"
        return (
            f"complexity: {self.mean:.4f}{error} of the greatest entropy, "
            f"{plural(len(self.entropies), 'explanation')} (the lower the simpler)"
        )

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw a bar for each explanation.

        Args:
            ax: Where to draw; None makes a new figure.
            **kwargs: Passed on to ``ax.bar``.

        Returns:
            The axes.
        """
        from matplotlib.ticker import MaxNLocator

        number = len(self.shares)
        ax = axes(ax, width=min(12.0, max(4.0, 2.5 + 0.3 * number)))
        ax.bar(np.arange(number), self.shares, **kwargs)
        if number > 1:
            ax.axhline(self.mean, color="0.5", linestyle="--", linewidth=1)
        ax.set_title(f"Complexity: {self.mean:.3f}")
        ax.set_xlabel("explanation")
        ax.set_ylabel("share of the greatest entropy")
        ax.set_ylim(0, 1)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        return ax


def complexity(explanations: Heatmaps) -> Complexity:
    r"""See over how many places the heat is spread.

    The entropy :math:`-\sum_i p_i \log p_i` of the share :math:`p_i = |h_i| / \sum_j |h_j|` that
    each cell has of all heat. From Bhatt et al., 2020, `Evaluating and Aggregating Feature-based
    Model Explanations <https://arxiv.org/abs/2005.00631>`_, there of features.

    The entropy of a heat of ``k`` cells, all as hot, is ``log(k)``. It grows with the number of
    cells, so that heatmaps of different resolutions compare by its share of ``log(cells)``. That
    is not quite fair either: a heatmap of few cells, drawn larger, comes nearer to 1.

    A simple heatmap is easier to read. It is not the truer one: the lowest complexity of all is
    that of a single hot cell, wherever it lies.

    Args:
        explanations: An `Explanation`, of which the first target counts; a `TargetExplanation`; a
            heatmap ``(height, width)``, with or without sign; or several of these.

    Returns:
        A `Complexity`.

    Raises:
        TypeError: If explanations have a wrong type.
        ValueError: If there are none; if a heatmap has a wrong shape, or NaN or infinity in it.

    Example:
        >>> import numpy as np
        >>> from kerasight import metrics
        >>> metrics.complexity(np.array([[0.5, 0.5], [0.0, 0.0]]))
        complexity: 0.5000 of the greatest entropy, 1 explanation (the lower the simpler)
    """
    heatmaps = [heat.values for heat in heatmaps_of(explanations)]
    return Complexity(
        np.array([_entropy(heatmap) for heatmap in heatmaps]),
        np.array([heatmap.size for heatmap in heatmaps]),
    )


def _entropy(heatmap: Float64[np.ndarray, "_ _"]) -> float:
    heat = np.abs(heatmap[heatmap != 0])
    if not heat.size:
        return np.nan
    heat = heat / heat.max()  # first, as the sum of tiny values may be rounded to 0
    shares = heat / heat.sum()
    shares = shares[shares > 0]
    return float(max(0.0, -(shares @ np.log(shares))))
