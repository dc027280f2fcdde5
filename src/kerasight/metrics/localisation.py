"""Metrics that ask whether the heat lies on the object: the pointing game, energy in the mask."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasight.cam.maps import resized
from kerasight.metrics.common import Heatmaps, axes, heatmaps_of, maps_of

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64
    from matplotlib.axes import Axes

__all__ = ["EnergyInMask", "PointingGame", "energy_in_mask", "pointing_game"]

# A cell is as hot as the peak if it differs by no more than this share of it, as by rounding.
_EQUALLY_HOT = 1e-6


@dataclass(frozen=True, eq=False, repr=False)
class PointingGame:
    """The result of `pointing_game`.

    ``float(result)`` is ``result.accuracy``.

    Attributes:
        distances: For each explanation, the distances in pixels of its hottest points (mostly there
            is one) from the mask: 0 on the mask, infinity if the heatmap is blank.
        tolerance: The greatest distance of a hit, in pixels.
    """

    distances: tuple[Float64[np.ndarray, " _"], ...]
    tolerance: float

    @property
    def hits(self) -> Float64[np.ndarray, " explanations"]:
        """1 for a hit, 0 for a miss, shape ``(explanations,)``.

        If several points are equally hot, the share of them that hits.
        """
        return np.array([(each <= self.tolerance).mean() for each in self.distances])

    @property
    def accuracy(self) -> float:
        """The mean of ``hits``."""
        return float(self.hits.mean())

    def __float__(self) -> float:
        return self.accuracy

    def __repr__(self) -> str:
        return (
            f"pointing game: accuracy {self.accuracy:.4f}, {self.hits.sum():g} of "
            f"{len(self.distances)} hit, tolerance {self.tolerance:g} px (the higher the better)"
        )

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw the accuracy for each tolerance.

        Args:
            ax: Where to draw; None makes a new figure. Several results may share their axes.
            **kwargs: Passed on to ``ax.step``: ``label``, ``color``, ...

        Returns:
            The axes.
        """
        from matplotlib.ticker import PercentFormatter

        ax = axes(ax)
        distances = np.concatenate(self.distances)
        weights = np.concatenate([np.full(len(each), 1 / len(each)) for each in self.distances])
        tolerances = np.unique([0.0, self.tolerance, *distances[np.isfinite(distances)]])
        hits = [weights[distances <= tolerance].sum() for tolerance in tolerances]
        end = 1.08 * tolerances[-1] or 1.0
        label = f"{kwargs.pop('label', 'accuracy')} {self.accuracy:.3f}"
        (line,) = ax.step(
            np.append(tolerances, end),
            np.append(hits, hits[-1]) / len(self.distances),
            where="post",
            label=label,
            **kwargs,
        )
        ax.plot(self.tolerance, self.accuracy, "o", color=line.get_color(), clip_on=False, zorder=3)
        ax.set_title("Pointing game")
        ax.set_xlabel("tolerance (pixels)")
        ax.set_ylabel(
            "hits" if len(self.distances) == 1 else f"hits of {len(self.distances)} explanations"
        )
        ax.margins(x=0)
        ax.set_ylim(0, 1.02)
        ax.yaxis.set_major_formatter(PercentFormatter(1))
        ax.legend(frameon=False)
        return ax


@dataclass(frozen=True, eq=False, repr=False)
class EnergyInMask:
    """The result of `energy_in_mask`.

    ``float(result)`` is ``result.mean``.

    Attributes:
        shares: The share of each heatmap's positive heat that lies in its mask, in [0, 1], shape
            ``(explanations,)``; 0 if the heatmap is blank.
        areas: The share of the picture that each mask covers, shape ``(explanations,)``: by chance,
            this share of the heat would lie in it.
    """

    shares: Float64[np.ndarray, " explanations"]
    areas: Float64[np.ndarray, " explanations"]

    @property
    def mean(self) -> float:
        """The mean of ``shares``."""
        return float(self.shares.mean())

    def __float__(self) -> float:
        return self.mean

    def __repr__(self) -> str:
        number = len(self.shares)
        of = "of 1 explanation" if number == 1 else f"of {number} explanations on average"
        return (
            f"energy in mask: {self.mean:.4f} of the heat {of}; {self.areas.mean():.4f} by chance"
        )

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw a bar for each explanation, with a mark at the share by chance.

        Args:
            ax: Where to draw; None makes a new figure.
            **kwargs: Passed on to ``ax.bar``.

        Returns:
            The axes.
        """
        from matplotlib.ticker import MaxNLocator, PercentFormatter

        number = len(self.shares)
        ax = axes(ax, width=min(12.0, max(4.0, 2.5 + 0.3 * number)))
        places = np.arange(number)
        width = 0.8 if number <= 60 else 1.0  # where gaps are too narrow to be drawn evenly
        ax.bar(places, self.shares, **{"label": "in the mask", "width": width, **kwargs})
        ax.hlines(
            self.areas,
            places - width / 2,
            places + width / 2,
            color="k",
            linewidth=2,
            label="by chance",
        )
        if number > 1:
            ax.axhline(
                self.mean, color="0.5", linestyle="--", linewidth=1, label=f"mean {self.mean:.1%}"
            )
        ax.set_title(f"Energy in mask: {self.mean:.1%}")
        ax.set_xlabel("explanation")
        ax.set_ylabel("share of the heat")
        ax.set_xlim(-1, number)
        ax.set_ylim(0, 1)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xticks([tick for tick in ax.get_xticks() if 0 <= tick < number])
        ax.yaxis.set_major_formatter(PercentFormatter(1))
        ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
        return ax


def pointing_game(
    explanations: Heatmaps,
    masks: Bool[np.ndarray, "height width"] | Iterable[Bool[np.ndarray, "_ _"]],
    *,
    tolerance: float = 0,
) -> PointingGame:
    """See whether the hottest point of each heatmap lies on the object.

    From Zhang et al., 2016, `Top-down Neural Attention by Excitation Backprop
    <https://arxiv.org/abs/1608.00507>`_.

    The hottest point is the centre of the hottest cell, where the heatmap has its peak at the size
    of the mask too. If several cells are equally hot, the result is the share of them that hits, so
    that a heatmap that is the same everywhere scores as chance does. A blank heatmap, with nothing
    above 0, misses.

    Args:
        explanations: An `Explanation`, of which the first target counts; a `TargetExplanation`; a
            heatmap ``(height, width)``, with or without sign; or several of these.
        masks: For each explanation the mask of the object: booleans ``(height, width)``, of the
            size of the picture or any other. A list of them, or an array ``(explanations, height,
            width)``; for a single explanation, the mask itself.
        tolerance: The greatest distance from the mask of a hit, in pixels of the mask. The paper
            allows 15, in photographs of about 500 x 375.

    Returns:
        A `PointingGame`.

    Raises:
        TypeError: If explanations or masks have a wrong type.
        ValueError: If there are not as many masks as explanations; if a mask has a wrong shape, or
            is empty; if ``tolerance`` is below 0.

    Example:
        >>> import numpy as np
        >>> from kerasight import metrics
        >>> heatmap = np.array([[0.1, 0.2], [0.4, 1.0]])
        >>> mask = np.zeros((100, 100), dtype=bool)
        >>> mask[60:, 60:] = True
        >>> metrics.pointing_game(heatmap, mask)
        pointing game: accuracy 1.0000, 1 of 1 hit, tolerance 0 px (the higher the better)
    """
    if isinstance(tolerance, bool) or not isinstance(tolerance, Real):
        raise TypeError(f"tolerance must be a number of pixels, got {type(tolerance).__name__}")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0 pixels, got {tolerance}")
    pairs = _pairs(explanations, masks)
    distances = tuple(_distances(heatmap, mask) for heatmap, mask in pairs)
    return PointingGame(distances, float(tolerance))


def _distances(
    heatmap: Float64[np.ndarray, "_ _"], mask: Bool[np.ndarray, "_ _"]
) -> Float64[np.ndarray, " points"]:
    """The distance of each of the hottest points from the mask, in pixels."""
    peak = heatmap.max()
    if peak <= 0:
        return np.array([np.inf])
    cells = np.argwhere(heatmap >= peak * (1 - _EQUALLY_HOT))
    down = {row: _gaps(row, heatmap.shape[0], mask.shape[0]) for row in np.unique(cells[:, 0])}
    across = {
        column: np.where(mask, _gaps(column, heatmap.shape[1], mask.shape[1]), np.inf).min(axis=1)
        for column in np.unique(cells[:, 1])
    }
    distances = [np.hypot(down[row], across[column]).min() for row, column in cells]
    # Without rounding, a distance of 0 is sometimes a little more.
    return np.round(distances, 9)


def _gaps(cell: int, cells: int, pixels: int) -> Float64[np.ndarray, " pixels"]:
    """The distance of the centre of a cell from the nearest edge of each pixel along an axis.

    A centre on the border of two pixels lies in both.
    """
    centre = (cell + 0.5) * pixels / cells
    gaps: np.ndarray = np.abs(np.arange(pixels) + 0.5 - centre) - 0.5
    return gaps.clip(0, None)


def energy_in_mask(
    explanations: Heatmaps,
    masks: Bool[np.ndarray, "height width"] | Iterable[Bool[np.ndarray, "_ _"]],
) -> EnergyInMask:
    """See how much of the heat lies on the object.

    The energy-based pointing game of Wang et al., 2020, `Score-CAM
    <https://arxiv.org/abs/1910.01279>`_: the sum of the heatmap in the mask, divided by its sum
    over the whole picture. Values below 0 count as 0. The share of a blank heatmap is 0.

    Args:
        explanations: As in `pointing_game`. They are resized to the masks, bilinearly.
        masks: As in `pointing_game`.

    Returns:
        An `EnergyInMask`.

    Raises:
        TypeError: As in `pointing_game`.
        ValueError: As in `pointing_game`.

    Example:
        >>> import numpy as np
        >>> from kerasight import metrics
        >>> heatmap = np.array([[0.0, 0.2], [0.2, 0.6]])
        >>> mask = np.array([[False, False], [False, True]])
        >>> metrics.energy_in_mask(heatmap, mask).mean
        0.6
    """
    pairs = _pairs(explanations, masks)
    shares = np.zeros(len(pairs))
    for position, (heatmap, mask) in enumerate(pairs):
        heat = resized(heatmap.clip(0, None), mask.shape)
        if heat.any():
            # Divided first, as the sum of tiny values may be rounded to 0.
            heat = heat / heat.max()
            shares[position] = heat[mask].sum() / heat.sum()
    return EnergyInMask(shares, np.array([mask.mean() for _, mask in pairs]))


def _pairs(
    explanations: Any, masks: Any
) -> list[tuple[Float64[np.ndarray, "_ _"], Bool[np.ndarray, "_ _"]]]:
    """Heatmaps with their masks, checked."""
    heats = heatmaps_of(explanations)
    masks = maps_of(masks, "masks", "explanations", "an array of booleans of shape (height, width)")
    if len(masks) != len(heats):
        raise ValueError(
            f"there must be one mask for each explanation, got {len(masks)} for {len(heats)}"
        )
    for position, mask in enumerate(masks):
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            was = f"dtype {mask.dtype}" if hasattr(mask, "dtype") else type(mask).__name__
            raise TypeError(
                f"mask {position} must be a numpy.ndarray of booleans, got {was}; of a mask of "
                "numbers make one with mask > 0"
            )
        if mask.ndim != 2:
            raise ValueError(f"mask {position} must have shape (height, width), got {mask.shape}")
        if not mask.any():
            raise ValueError(
                f"mask {position} is empty, so that nothing can lie in it; leave it out, and its "
                "explanation"
            )
    return [(heat.values, mask) for heat, mask in zip(heats, masks, strict=True)]
