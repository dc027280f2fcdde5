"""The heat of a target as it is drawn: its size alone, smoothed, and cut where it is hottest.

Maps as fine as the input are spiky: hardly a cell in a hundred has a third of the greatest heat, so
that all others would be drawn as if there were none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from kerasight.formatters.overlay import Style, checked_heatmap

if TYPE_CHECKING:
    from jaxtyping import Float64, Real, Shaped

    from kerasight.base import TargetExplanation

__all__ = ["DrawnHeat", "heat_of", "usual_outliers"]

# Heatmaps of more cells are cut: of so many, more than forty are the hottest 1 %, and no few of
# them decide. The maps of a model's last layers are smaller, and smooth.
_MOST_UNCUT = 64 * 64
_USUAL = 1.0

# Of the greatest heat: what is less may be the noise of rounding, which is not to be drawn as heat.
_NO_HEAT = 1e-3

# Of a Gaussian, in standard deviations: what lies beyond would not be seen.
_REACH = 4


class DrawnHeat(NamedTuple):
    """A heatmap on its way to be drawn.

    Attributes:
        values: The heat of each cell, not cut.
        is_signed: Whether it has a sign.
        outliers: How many cells, in per cent, are drawn as hot as the hottest; 0 if none are.
        most: The greatest heat of the heatmap, whatever its sign. Where several cells have become
            one, none in ``values`` may have so much.
    """

    values: Real[np.ndarray, " ..."]
    is_signed: bool
    outliers: float
    most: float

    @property
    def factor(self) -> float:
        """What heat is multiplied by, to be cut off at ``most`` then; 1 if nothing is cut."""
        count = int(self.values.size * self.outliers / 100)
        if not count:
            return 1.0
        limit = float(np.partition(np.abs(self.values), -count, axis=None)[-count])
        # If there are fewer cells with any heat, none of it is cut.
        return self.most / limit if limit > _NO_HEAT * self.most else 1.0

    @property
    def drawn(self) -> Real[np.ndarray, " ..."]:
        """The heat of each cell, with that of the hottest cut off: what is resized and coloured."""
        factor = self.factor
        if factor == 1:
            return self.values
        return np.clip(self.values * factor, -self.most, self.most)


def usual_outliers(heatmap: Shaped[np.ndarray, " ..."]) -> float:
    """How many cells of a heatmap, in per cent, are drawn as hot as the hottest by default."""
    return _USUAL if heatmap.size > _MOST_UNCUT else 0


def heat_of(target: TargetExplanation, axes: Sequence[str], style: Style) -> DrawnHeat:
    """The heat of a target; raises if it has no heatmap with these axes.

    Args:
        target: A target.
        axes: The names of the axes that its heatmap must have.
        style: How to draw it.
    """
    heatmap = checked_heatmap(target.heatmap, -1 if target.signed else 0)
    if heatmap.ndim != len(axes):
        comma = "," if len(axes) == 1 else ""
        raise ValueError(f"heatmap must have shape ({', '.join(axes)}{comma}), got {heatmap.shape}")
    outliers = usual_outliers(heatmap) if style.outliers is None else style.outliers
    values = np.abs(heatmap) if style.absolute else heatmap
    most = _greatest(heatmap)
    if style.blur:
        values = _blurred(values, style.blur / 100 * max(values.shape))
        # Its peak is as great as it was.
        values = np.clip(values * (most / (_greatest(values) or 1)), -most, most)
    return DrawnHeat(values, target.signed and not style.absolute, outliers, most)


def _greatest(heatmap: Shaped[np.ndarray, " ..."]) -> float:
    """The greatest heat, whatever its sign."""
    return float(np.abs(heatmap).max())


def _blurred(
    heatmap: Shaped[np.ndarray, "*shape"], deviation: float
) -> Float64[np.ndarray, "*shape"]:
    """A heatmap smoothed by a Gaussian along each axis.

    Beyond the edges it is reflected, so that no heat is lost there.

    Args:
        heatmap: Values in [-1, 1].
        deviation: The standard deviation of the Gaussian, in cells.
    """
    smooth = np.asarray(heatmap, dtype=np.float64)
    for axis, length in enumerate(heatmap.shape):
        reach = min(math.ceil(_REACH * deviation), length)
        shares = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
        room = [(reach, reach) if one == axis else (0, 0) for one in range(heatmap.ndim)]
        padded = np.pad(smooth, room, mode="symmetric")
        smooth = sliding_window_view(padded, len(shares), axis=axis) @ (shares / shares.sum())
    return smooth
