"""ROAD, remove and debias: deletion with the pixels imputed, so that no edge gives them away."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasight.metrics.common import (
    Heatmaps,
    Trial,
    axes,
    docs_of,
    integer,
    is_real,
    of_docs,
    ranks,
)

if TYPE_CHECKING:
    import keras
    from matplotlib.axes import Axes

__all__ = ["Road", "impute", "road"]


@dataclass(frozen=True, eq=False, repr=False)
class Road:
    """The result of `road`.

    ``float(result)`` is ``result.score``.

    Attributes:
        percentiles: How much was removed, in per cent of the pixels, ascending, shape ``(n,)``.
        morf: The score with the most relevant pixels removed first, shape ``(docs, n)``.
        lerf: The score with the least relevant removed first, shape ``(docs, n)``.
        untouched: The score of each doc as it is, shape ``(docs,)``.
        targets: The class of each doc, integers ``(docs,)``.
    """

    percentiles: np.ndarray
    morf: np.ndarray
    lerf: np.ndarray
    untouched: np.ndarray
    targets: np.ndarray

    @property
    def scores(self) -> np.ndarray:
        """Half of how much ``lerf`` lies above ``morf``, on average, shape ``(docs,)``."""
        scores: np.ndarray = (self.lerf - self.morf).mean(axis=1) / 2
        return scores

    @property
    def score(self) -> float:
        """The mean of ``scores``."""
        return float(self.scores.mean())

    def __float__(self) -> float:
        return self.score

    def __repr__(self) -> str:
        removed = ", ".join(f"{percent:g}" for percent in self.percentiles)
        mean = "score" if len(self.morf) == 1 else "mean score"
        return (
            f"ROAD: {mean} {self.score:.4f} of {of_docs(len(self.morf))}, MoRF "
            f"{self.morf.mean():.4f}, LeRF {self.lerf.mean():.4f}, {removed}% removed "
            "(the higher the better)"
        )

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw the score against the share of pixels removed, most and least relevant first.

        Args:
            ax: Where to draw; None makes a new figure.
            **kwargs: Passed on to ``ax.plot``, for both curves.

        Returns:
            The axes.
        """
        from matplotlib.ticker import PercentFormatter

        ax = axes(ax)
        removed = np.concatenate([[0], self.percentiles])
        start = self.untouched.mean()
        least, most = (np.append(start, part.mean(axis=0)) for part in (self.lerf, self.morf))
        kwargs = {"marker": "o", "markersize": 4, **kwargs}
        label = kwargs.pop("label", "")
        before = f"{label}, " if label else ""
        ax.plot(removed, least, label=f"{before}least relevant first (LeRF)", **kwargs)
        ax.plot(removed, most, label=f"{before}most relevant first (MoRF)", **kwargs)
        area: dict[str, Any] = {"color": "0.5", "alpha": 0.15, "linewidth": 0}
        ax.fill_between(removed, most, least, label=f"{before}score {self.score:.3f}", **area)
        ax.set_title("ROAD")
        ax.set_xlabel("pixels removed and imputed")
        number = len(self.morf)
        ax.set_ylabel(
            f"mean score of {number} docs" if number > 1 else f"score of class {self.targets[0]}"
        )
        ax.xaxis.set_major_formatter(PercentFormatter(100))
        ax.legend(frameon=False)
        return ax


def road(
    model: keras.Model,
    docs: np.ndarray,
    explanations: Heatmaps,
    *,
    targets: Sequence[int] | None = None,
    percentiles: Sequence[float] = (20, 40, 60, 80),
    noise: float = 0.01,
    batch_size: int = 32,
    logits: bool = False,
    seed: int = 0,
    progress: bool | None = None,
) -> Road:
    """Remove the most, and the least, relevant pixels, impute them, and compare the scores.

    Pixels that are painted over show the model the shape of what was removed, and the shape alone
    may give the class away. So each removed pixel is imputed as the weighted mean of its eight
    neighbours (1/6 for those beside it, 1/12 for those across a corner, in proportion at the edge
    of the picture), be they removed or not, plus a little noise. If the heatmap is right, the score
    falls fast with the most relevant pixels removed first (MoRF), and slowly with the least
    relevant first (LeRF). From Rong et al., 2022, `A Consistent and Efficient Evaluation Strategy
    for Attribution Methods <https://arxiv.org/abs/2202.00449>`_, who report the two apart. Half of
    the mean difference, (LeRF - MoRF) / 2, is how `pytorch-grad-cam
    <https://github.com/jacobgil/pytorch-grad-cam>`_ makes one number of them, and so is the result.

    Args:
        model: As in `deletion`, and so all that is not told here.
        docs: The inputs.
        explanations: Their explanations or heatmaps.
        targets: The class to watch for each doc.
        percentiles: How much to remove, in per cent of the pixels, each between 0 and 100. At least
            one pixel always stays.
        noise: Standard deviation of the noise, in those of the doc's channels.
        batch_size: How many docs go through the model at a time.
        logits: Whether to watch the score before the final softmax or sigmoid.
        seed: Of the order of equally hot pixels, and of noise.
        progress: Whether to show a progress bar; None shows it on a terminal, after a second.

    Returns:
        A `Road`.

    Raises:
        TypeError: As in `deletion`.
        ValueError: As in `deletion`; or if ``percentiles`` is empty or holds one that is not
            between 0 and 100, or ``noise`` is below 0.
    """
    shares = _percentiles(percentiles)
    if isinstance(noise, bool) or not isinstance(noise, Real):
        raise TypeError(f"noise must be a number, got {type(noise).__name__}")
    if not 0 <= noise < np.inf:
        raise ValueError(f"noise must be finite and not below 0, got {noise}")
    seed = integer("seed", seed, least=0)
    checked = docs_of(model, docs)
    trial = Trial.of(model, checked, explanations, targets, batch_size, logits, progress)
    size = trial.docs.size
    pixels = size[0] * size[1]
    counts = np.rint(shares / 100 * pixels).astype(np.int64).clip(0, pixels - 1)

    def changed(position: int) -> Iterator[np.ndarray]:
        doc = trial.docs.values[position]
        order = ranks(trial.heatmaps[position], size, seed)
        spread = noise * doc.std(axis=(0, 1), dtype=np.float64)
        grain = spread * np.random.default_rng(seed).standard_normal(doc.shape)
        for removed in (
            *(order < count for count in counts),
            *(order >= pixels - count for count in counts),
        ):
            filled = impute(doc, removed) + grain
            yield np.where(removed[..., np.newaxis], filled, doc).astype(doc.dtype)

    scores = trial.scores(changed, each=2 * len(counts))
    return Road(
        percentiles=shares,
        morf=scores[:, : len(counts)],
        lerf=scores[:, len(counts) :],
        untouched=trial.untouched,
        targets=trial.targets,
    )


def _percentiles(percentiles: Any) -> np.ndarray:
    """Shares to remove in per cent, ascending, each once."""
    given = np.asarray(percentiles)
    if given.size and not (is_real(given) and given.dtype != np.bool_):
        raise TypeError(f"percentiles must be a list of numbers, got {percentiles!r}")
    shares = np.unique(given.astype(np.float64))
    if not shares.size or not (shares[0] > 0 and shares[-1] < 100):
        raise ValueError(
            f"percentiles must hold numbers between 0 and 100, those excluded, got {percentiles!r}"
        )
    return shares


# From here on, pictures are (channels, height, width): a plane a channel, which NumPy adds fastest.
# And what works on them keeps its buffers: fetching memory takes longer than adding numbers up.

Operator = Callable[[np.ndarray], np.ndarray]

# Of the residual, beside the right-hand side. An 8-bit picture has steps of 4e-3.
_TOLERANCE = 1e-7
# A hole of 224 x 224 takes less than a hundred.
_MOST_ITERATIONS = 2000


def impute(doc: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """Fill removed pixels so that each is the weighted mean of its neighbours.

    These are as many linear equations as there are removed pixels. They are solved by the method of
    conjugate gradients. Alone it would carry values across a hole by one pixel an iteration; a
    preconditioner that works on all scales at once (Bramble, Pasciak and Xu, 1990, `Parallel
    Multilevel Preconditioners <https://doi.org/10.1090/S0025-5718-1990-1023042-6>`_) spares most of
    them.

    Args:
        doc: Shape ``(height, width, channels)``.
        removed: Booleans ``(height, width)``; at least one pixel must stay.

    Returns:
        float64 array of the shape of ``doc``, the pixels that stay as they are.
    """
    picture = np.moveaxis(doc, -1, 0).astype(np.float64)
    # Around their mean, the pixels that stay have no more to say than what is to be found.
    mean = picture[:, ~removed].mean(axis=1)[:, np.newaxis, np.newaxis]
    inside = removed.astype(np.float64)
    neighbours_of_one, neighbours = _neighbours(1, *removed.shape), _neighbours(*picture.shape)
    degree = neighbours_of_one(np.ones((1, *removed.shape)))
    held = (degree - neighbours_of_one(inside)) * inside

    def equations(values: np.ndarray) -> np.ndarray:
        image: np.ndarray = (degree * values - neighbours(values)) * inside
        return image

    right = neighbours((picture - mean) * ~removed) * inside
    precondition = _preconditioner(len(picture), inside, degree, held)
    found = _conjugate_gradients(equations, right, precondition)
    filled: np.ndarray = np.where(removed, found + mean, picture)
    return np.moveaxis(filled, 0, -1)


def _neighbours(channels: int, height: int, width: int) -> Operator:
    """What sums the eight neighbours of each pixel by their weights; outside the picture is 0."""
    padded = np.zeros((channels, height + 2, width + 2))
    down = np.empty((channels, height, width + 2))
    total = np.empty((channels, height, width))

    def neighbours(values: np.ndarray) -> np.ndarray:
        padded[:, 1:-1, 1:-1] = values
        # The weights are those of (1, 2, 1) down times (1, 2, 1) across, less the pixel itself.
        np.add(padded[:, :-2], padded[:, 2:], out=down)
        for _ in range(2):
            np.add(down, padded[:, 1:-1], out=down)
        np.add(down[..., :-2], down[..., 2:], out=total)
        for _ in range(2):
            np.add(total, down[..., 1:-1], out=total)
        summed: np.ndarray = (total - 4 * values) / 12
        return summed

    return neighbours


def _conjugate_gradients(
    equations: Operator, right: np.ndarray, precondition: Operator
) -> np.ndarray:
    """Solve symmetric positive definite equations, for all channels side by side."""
    found = np.zeros_like(right)
    residual = right.copy()
    direction = precondition(residual)
    size = _dot(residual, direction)
    enough = _TOLERANCE**2 * _dot(right, right)
    for _ in range(_MOST_ITERATIONS):
        if (_dot(residual, residual) <= enough).all():
            break
        image = equations(direction)
        step = _ratio(size, _dot(direction, image))
        found += step * direction
        residual -= step * image
        towards = precondition(residual)
        previous, size = size, _dot(residual, towards)
        direction = towards + _ratio(size, previous) * direction
    return found


def _dot(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The scalar product of each channel, shape ``(channels, 1, 1)``."""
    product: np.ndarray = np.einsum("cyx,cyx->c", left, right)
    return product[:, np.newaxis, np.newaxis]


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """A quotient, 0 where a channel is done and there is nothing to divide by."""
    ratio: np.ndarray = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
    return ratio


def _preconditioner(
    channels: int, inside: np.ndarray, degree: np.ndarray, held: np.ndarray
) -> Operator:
    """An approximate inverse of the equations: the sum of a diagonal one for each scale.

    Args:
        channels: How many planes it will be applied to.
        inside: 1 where a pixel is to be found, else 0, ``(height, width)``.
        degree: The sum of the weights of each pixel's neighbours, ``(1, height, width)``.
        held: Of those that are known, 0 where nothing is to be found, ``(1, height, width)``.
    """
    inverses = [inside / degree]
    scales: list[tuple[Operator, Operator]] = []
    present, area = inside[np.newaxis], 1.0
    while max(present.shape) > 1:
        once, _ = _scale(1, *present.shape[1:])
        scales.append(_scale(channels, *present.shape[1:]))
        held, present, area = once(held).copy(), once(present).copy(), area * 4
        # A bump of any width has about the same energy in its slopes, which are as much flatter as
        # it is wider; and it pulls at all the known pixels beside it.
        energy = held + 0.5 * present / area
        inverses.append(np.divide(1, energy, out=np.zeros_like(energy), where=present > 0))

    def precondition(residual: np.ndarray) -> np.ndarray:
        residuals = [residual]
        for coarser, _ in scales:
            residuals.append(coarser(residuals[-1]))
        found: np.ndarray = residuals[-1] * inverses[-1]
        for level in reversed(range(len(scales))):
            _, finer = scales[level]
            found = finer(found) + residuals[level] * inverses[level]
        within: np.ndarray = found * inside
        return within

    return precondition


def _scale(channels: int, height: int, width: int) -> tuple[Operator, Operator]:
    """What brings pictures to half their size, and what brings them back, each other's transpose.

    Back goes bilinear interpolation, with 0 around the picture.
    """
    rows, columns = (height + 1) // 2, (width + 1) // 2
    fine = np.zeros((channels, 2 * rows + 2, 2 * columns + 2))
    down = np.empty((channels, rows, 2 * columns + 2))
    half = np.empty((channels, rows, columns))
    coarse = np.zeros((channels, rows + 2, columns + 2))
    up = np.empty((channels, 2 * rows, columns + 2))
    whole = np.empty((channels, 2 * rows, 2 * columns))

    def coarser(values: np.ndarray) -> np.ndarray:
        fine[:, 1 : height + 1, 1 : width + 1] = values
        np.add(fine[:, 1:-1:2], fine[:, 2::2], out=down)
        np.multiply(down, 3, out=down)
        np.add(down, fine[:, :-2:2], out=down)
        np.add(down, fine[:, 3::2], out=down)
        np.add(down[..., 1:-1:2], down[..., 2::2], out=half)
        np.multiply(half, 3, out=half)
        np.add(half, down[..., :-2:2], out=half)
        np.add(half, down[..., 3::2], out=half)
        return np.divide(half, 16, out=half)

    def finer(values: np.ndarray) -> np.ndarray:
        coarse[:, 1:-1, 1:-1] = values
        middle = 3 * coarse[:, 1:-1]
        np.add(middle, coarse[:, :-2], out=up[:, 0::2])
        np.add(middle, coarse[:, 2:], out=up[:, 1::2])
        middle = 3 * up[..., 1:-1]
        np.add(middle, up[..., :-2], out=whole[..., 0::2])
        np.add(middle, up[..., 2:], out=whole[..., 1::2])
        return np.divide(whole, 16, out=whole)[:, :height, :width]

    return coarser, finer
