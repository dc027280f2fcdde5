"""Metrics that change the doc and watch the score: deletion, insertion, average drop, increase."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kerasight.cam.baselines import Baseline, name_of_baseline
from kerasight.cam.maps import resized
from kerasight.checks import integer, plural
from kerasight.metrics.common import Heatmaps, axes, baselines, docs_of
from kerasight.metrics.trial import Plan, Trial, Version, digest

if TYPE_CHECKING:
    import keras
    from jaxtyping import Bool, Float, Float64, Int, Shaped
    from matplotlib.axes import Axes

__all__ = [
    "AverageDrop",
    "Curve",
    "Increase",
    "average_drop",
    "curve",
    "deletion",
    "increase",
    "insertion",
    "masked",
    "masked_scores",
]


@dataclass(frozen=True, eq=False, repr=False)
class Curve:
    """The result of `deletion` or `insertion`: a score curve for each doc, and the area below it.

    ``float(curve)`` is ``curve.area``.

    Attributes:
        metric: ``"deletion"`` or ``"insertion"``.
        fractions: The shares of pixels deleted or inserted, from 0 to 1, shape ``(points,)``.
        scores: The score at each share, shape ``(docs, points)``.
        targets: The class of each doc, integers ``(docs,)``.
        baseline: What replaces the pixels that are deleted, or not yet inserted.
    """

    metric: Literal["deletion", "insertion"]
    fractions: Float64[np.ndarray, " points"]
    scores: Float64[np.ndarray, "docs points"]
    targets: Int[np.ndarray, " docs"]
    baseline: str

    @property
    def areas(self) -> Float64[np.ndarray, " docs"]:
        """The area below each curve, by the trapezoidal rule, shape ``(docs,)``."""
        heights = (self.scores[:, 1:] + self.scores[:, :-1]) / 2
        areas: np.ndarray = heights @ np.diff(self.fractions)
        return areas

    @property
    def area(self) -> float:
        """The mean of ``areas``."""
        return float(self.areas.mean())

    def __float__(self) -> float:
        return self.area

    def __repr__(self) -> str:
        better = "lower" if self.metric == "deletion" else "higher"
        mean = "area" if len(self.scores) == 1 else "mean area"
        return (
            f"{self.metric}: {mean} {self.area:.4f} of {plural(len(self.scores), 'doc')}, "
            f"{len(self.fractions) - 1} steps, baseline {self.baseline} (the {better} the better)"
        )

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw the curve; of several docs their mean, in a band with the middle half of them.

        Args:
            ax: Where to draw; None makes a new figure. Several curves may share their axes.
            **kwargs: Passed on to ``ax.plot``: ``label``, ``color``, ...

        Returns:
            The axes.
        """
        from matplotlib.ticker import PercentFormatter

        ax = axes(ax)
        done = "deleted" if self.metric == "deletion" else "inserted"
        label = f"{kwargs.pop('label', self.metric)}, area {self.area:.3f}"
        several = len(self.scores) > 1
        (line,) = ax.plot(self.fractions, self.scores.mean(axis=0), label=label, **kwargs)
        low, high = (
            np.quantile(self.scores, [0.25, 0.75], axis=0)
            if several
            else (np.zeros_like(self.fractions), self.scores[0])
        )
        ax.fill_between(self.fractions, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        of = f"mean score of {len(self.scores)} docs" if several else f"class {self.targets[0]}"
        ax.set_title(f"{self.metric.capitalize()}, baseline {self.baseline}")
        ax.set_xlabel(f"pixels {done}, the hottest first")
        ax.set_ylabel(of if several else f"score of {of}")
        ax.set_xlim(0, 1)
        ax.xaxis.set_major_formatter(PercentFormatter(1))
        ax.legend(frameon=False)
        return ax


def deletion(
    model: keras.Model,
    docs: Any,
    explanations: Heatmaps,
    *,
    targets: Sequence[int] | None = None,
    baseline: Baseline = "mean",
    steps: int = 50,
    batch_size: int = 32,
    logits: bool = False,
    seed: int = 0,
    progress: bool | None = None,
    seen: str | int | None = None,
) -> Curve:
    """Delete pixels, the hottest first, and watch the score fall.

    If the heatmap is right, the score falls at once, and the area below the curve is small. From
    Petsiuk et al., 2018, `RISE <https://arxiv.org/abs/1806.07421>`_.

    Args:
        model: The classifier.
        docs: Its inputs, preprocessing done, shape ``(docs, height, width, channels)``, or
            ``(docs, channels, height, width)`` for a channels-first model.
        explanations: One for each doc: an `Explanation`, of which the first target counts; a
            `TargetExplanation`; or a heatmap ``(height, width)``, of any size, with or without
            sign. A list of them, an array ``(docs, height, width)``, or what `explain_predictions`
            gives; for a single doc, the explanation itself. Heatmaps are resized to the docs,
            bilinearly.
        targets: The class to watch for each doc, a list of indices; a list of one holds for all.
            None takes the class that was explained; for a bare heatmap, the class with the greatest
            score.
        baseline: What replaces pixels. ``"mean"``: the mean colour of the doc. ``"blur"``: the doc,
            blurred as in the paper's code: at a longer side of 224 pixels the kernel has 11 x 11
            pixels and a standard deviation of 3.1 (a Gaussian of 5, folded into them); at other
            sizes it is in proportion, but at least 3 x 3. Beyond the edges lies the mean colour.
            ``"noise"``: normal noise with the mean and standard deviation of each channel, within
            its range. Or a number, or an array of the shape of a doc or of all docs. The paper
            deletes with a constant colour.
        steps: The number of steps, of equally many pixels each; at most one for each pixel.
        batch_size: The number of docs that go through the model at a time.
        logits: Whether to watch the score before the final softmax or sigmoid.
        seed: Seed of the order of equally hot pixels, and of noise.
        progress: Whether to show a progress bar; None shows it on a terminal, after a second.
        seen: Of several inputs, the picture, as `kerasight.explain_prediction` takes it.

    Returns:
        A `Curve`. The first point is the doc, the last the baseline.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If there are not as many explanations as docs; if an explanation has no heatmap;
            if there is no such class or baseline; if docs do not have the size that the model
            declares; if docs or heatmaps have a wrong shape, or NaN or infinity in them.

    Example:
        >>> import kerasight
        >>> from kerasight import demo, metrics
        >>> model, doc = demo.load_model(), demo.preprocess(demo.load_picture())
        >>> heatmap = kerasight.explain_prediction(model, doc).targets[0].heatmap
        >>> right = metrics.deletion(model, doc, heatmap)
        >>> wrong = metrics.deletion(model, doc, 1 - heatmap)
        >>> right.area < wrong.area
        True
    """
    steps = integer("steps", steps, least=1)
    trial, baseline_of = _checked(
        model, docs, explanations, targets, baseline, batch_size, logits, seed, progress, seen
    )
    name = name_of_baseline(baseline)
    return trial.result(curve("deletion", trial, baseline_of, steps, seed, name))


def insertion(
    model: keras.Model,
    docs: Any,
    explanations: Heatmaps,
    *,
    targets: Sequence[int] | None = None,
    baseline: Baseline = "blur",
    steps: int = 50,
    batch_size: int = 32,
    logits: bool = False,
    seed: int = 0,
    progress: bool | None = None,
    seen: str | int | None = None,
) -> Curve:
    """Insert pixels into a baseline, the hottest first, and watch the score rise.

    If the heatmap is right, the score rises at once, and the area below the curve is large. From
    Petsiuk et al., 2018, `RISE <https://arxiv.org/abs/1806.07421>`_.

    The arguments and errors are those of `deletion`. ``baseline`` is what the pixels are inserted
    into; the paper takes the blurred doc.

    Returns:
        A `Curve`. The first point is the baseline, the last the doc.
    """
    steps = integer("steps", steps, least=1)
    trial, baseline_of = _checked(
        model, docs, explanations, targets, baseline, batch_size, logits, seed, progress, seen
    )
    name = name_of_baseline(baseline)
    return trial.result(curve("insertion", trial, baseline_of, steps, seed, name))


def _checked(
    model: keras.Model,
    docs: Any,
    explanations: Heatmaps,
    targets: Sequence[int] | None,
    baseline: Baseline,
    batch_size: int,
    logits: bool,
    seed: int,
    progress: bool | None,
    seen: str | int | None,
) -> tuple[Trial, Callable[[int], np.ndarray]]:
    """What was passed, checked; and the baseline of a doc, given its position."""
    checked = docs_of(model, docs, seen)
    baseline_of = baselines(baseline, checked, integer("seed", seed, least=0))
    trial = Trial.of(model, checked, explanations, targets, batch_size, logits, progress)
    return trial, baseline_of


def curve(
    metric: Literal["deletion", "insertion"],
    trial: Trial,
    baseline_of: Callable[[int], Float[np.ndarray, "height width channels"]],
    steps: int,
    seed: int,
    name: str,
) -> Plan[Curve]:
    """`deletion` or `insertion` of what was checked.

    Args:
        metric: Which of them.
        trial: The model, the docs and the heatmaps.
        baseline_of: Given the position of a doc, its baseline.
        steps: The number of steps.
        seed: Seed of the order of equally hot pixels.
        name: Name of the baseline.
    """
    pixels = trial.docs.size[0] * trial.docs.size[1]
    steps = min(steps, pixels)
    counts = np.rint(np.linspace(0, pixels, steps + 1)).astype(np.int64)
    deletes = metric == "deletion"

    def changed(place: int) -> Iterator[Version]:
        position = trial.places[place]
        doc = trial.docs.values[position]
        empty = trial.once((name, position), lambda: baseline_of(position))
        order = trial.order(place, seed)
        before, after = map(np.ascontiguousarray, (doc, empty) if deletes else (empty, doc))
        # The score of the untouched doc is known already.
        for count in counts[1:] if deletes else counts[:-1]:
            mask = order < count
            key = (metric, name, digest(mask)) if trial.is_shared else None
            yield key, partial(_chosen, mask, after, before)

    scores = yield changed, steps
    known = trial.untouched[:, np.newaxis]
    return Curve(
        metric=metric,
        fractions=counts / pixels,
        scores=np.hstack([known, scores] if deletes else [scores, known]),
        targets=trial.targets,
        baseline=name,
    )


def _chosen(
    mask: Bool[np.ndarray, "height width"],
    inside: Float[np.ndarray, "height width channels"],
    outside: Float[np.ndarray, "height width channels"],
) -> Float[np.ndarray, "height width channels"]:
    # NumPy copies whole pixels much faster than the channels of each.
    chosen: np.ndarray = outside.copy()
    np.copyto(_pixels(chosen), _pixels(inside), where=mask)
    return chosen


def _pixels(
    picture: Float[np.ndarray, "height width channels"],
) -> Shaped[np.ndarray, "height width"]:
    """A view in which a pixel is one item."""
    height, width, channels = picture.shape
    whole = np.dtype((np.void, channels * picture.itemsize))
    pixels: np.ndarray = picture.view(whole).reshape(height, width)
    return pixels


@dataclass(frozen=True, eq=False, repr=False)
class _Masked:
    before: Float64[np.ndarray, " docs"]
    after: Float64[np.ndarray, " docs"]
    targets: Int[np.ndarray, " docs"]
    baseline: str

    @property
    def _title(self) -> str:
        raise NotImplementedError

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw a point for each doc, its score across and the score of its hot pixels up.

        Args:
            ax: Where to draw; None makes a new figure.
            **kwargs: Passed on to ``ax.scatter``.

        Returns:
            The axes.
        """
        ax = axes(ax, width=4.6, height=4.6)
        ax.scatter(self.before, self.after, **{"zorder": 3, **kwargs})
        both = np.concatenate([self.before, self.after, [0.0]])
        low, high = float(both.min()), float(both.max())
        margin = 0.05 * (high - low or 1.0)
        low, high = low - margin * (low < 0), high + margin
        ax.plot([low, high], [low, high], color="0.5", linewidth=1, linestyle="--")
        ax.fill_between([low, high], [low, high], high, color="0.5", alpha=0.08, linewidth=0)
        at: dict[str, Any] = {"transform": ax.transAxes, "color": "0.4"}
        ax.text(0.04, 0.96, "the score rises", ha="left", va="top", **at)
        ax.text(0.96, 0.04, "the score drops", ha="right", va="bottom", **at)
        ax.set_xlim(low, high)
        ax.set_ylim(low, high)
        ax.set_aspect("equal")
        ax.set_title(self._title)
        ax.set_xlabel("score of the doc")
        ax.set_ylabel("score of its hot pixels alone")
        return ax


@dataclass(frozen=True, eq=False, repr=False)
class AverageDrop(_Masked):
    """The result of `average_drop`: what each doc's score loses, in per cent.

    ``float(result)`` is ``result.average``.

    Attributes:
        before: The score of each doc, shape ``(docs,)``.
        after: The score of its hot pixels alone, shape ``(docs,)``.
        targets: The class of each doc, integers ``(docs,)``.
        baseline: What replaced the cold pixels.
    """

    @property
    def drops(self) -> Float64[np.ndarray, " docs"]:
        """The drop of each score in per cent of it, 0 where it rises, shape ``(docs,)``."""
        drops: np.ndarray = 100 * np.maximum(0, self.before - self.after) / self.before
        return drops

    @property
    def average(self) -> float:
        """The mean of ``drops``."""
        return float(self.drops.mean())

    @property
    def _title(self) -> str:
        return f"Average drop: {self.average:.1f}%"

    def __float__(self) -> float:
        return self.average

    def __repr__(self) -> str:
        return (
            f"average drop: {self.average:.2f}% of the score, {plural(len(self.before), 'doc')}, "
            f"baseline {self.baseline} (the lower the better)"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Increase(_Masked):
    """The result of `increase`: which docs' scores rise.

    ``float(result)`` is ``result.percent``. ``before``, ``after``, ``targets`` and ``baseline`` are
    those of `AverageDrop`.
    """

    @property
    def increased(self) -> Bool[np.ndarray, " docs"]:
        """Whether each score rises, booleans ``(docs,)``."""
        return np.asarray(self.after > self.before)

    @property
    def percent(self) -> float:
        """The share of docs whose score rises, in per cent."""
        return float(100 * self.increased.mean())

    @property
    def _title(self) -> str:
        return f"Increase: {self.percent:.1f}% of docs"

    def __float__(self) -> float:
        return self.percent

    def __repr__(self) -> str:
        return (
            f"increase: the score rises for {self.percent:.2f}% of "
            f"{plural(len(self.before), 'doc')}, baseline {self.baseline} (the higher the better)"
        )


def average_drop(
    model: keras.Model,
    docs: Any,
    explanations: Heatmaps,
    *,
    targets: Sequence[int] | None = None,
    baseline: Baseline = "mean",
    batch_size: int = 32,
    logits: bool = False,
    seed: int = 0,
    progress: bool | None = None,
    seen: str | int | None = None,
) -> AverageDrop:
    r"""Leave only the hot pixels, and see how much of the score goes.

    With the score :math:`y` of a doc and :math:`o` of what its heatmap leaves of it, the drop is
    :math:`100 \cdot \max(0, y - o) / y` per cent. If the heatmap is right, it is small. From
    Chattopadhyay et al., 2018, `Grad-CAM++ <https://arxiv.org/abs/1710.11063>`_.

    The heatmap leaves ``heatmap * doc + (1 - heatmap) * baseline``, where values below 0 count as
    0. The paper multiplies the picture by the heatmap, which is ``baseline=0``. But after
    preprocessing, 0 is black for one model and grey for another; the mean colour of the doc is the
    same for all, and so the default.

    The arguments are those of `deletion`; heatmaps have values up to 1.

    Returns:
        An `AverageDrop`.

    Raises:
        TypeError: As in `deletion`.
        ValueError: As in `deletion`; if a heatmap has values above 1; or if a doc's score is not
            above 0, so that there is no share of it to lose.
    """
    trial, baseline_of = _checked(
        model, docs, explanations, targets, baseline, batch_size, logits, seed, progress, seen
    )
    for position, score in enumerate(trial.untouched):
        if not score > 0:
            raise ValueError(
                f"the score of doc {position} for class {trial.targets[position]} is {score:.6g}, "
                "and a drop is a share of a positive score; measure probabilities: leave logits "
                "out, or end the model in a softmax, as keras.Sequential([model, "
                "keras.layers.Softmax()]) does"
            )
    name = name_of_baseline(baseline)
    after = trial.result(masked_scores(trial, baseline_of, name))
    return AverageDrop(trial.untouched, after, trial.targets, name)


def increase(
    model: keras.Model,
    docs: Any,
    explanations: Heatmaps,
    *,
    targets: Sequence[int] | None = None,
    baseline: Baseline = "mean",
    batch_size: int = 32,
    logits: bool = False,
    seed: int = 0,
    progress: bool | None = None,
    seen: str | int | None = None,
) -> Increase:
    """Leave only the hot pixels, and see how often the score rises.

    If the heatmap is right, what it takes away only distracts. From Chattopadhyay et al., 2018,
    `Grad-CAM++ <https://arxiv.org/abs/1710.11063>`_, there called increase in confidence.

    The arguments and errors are those of `average_drop`; a score of 0 is no error here.

    Returns:
        An `Increase`.
    """
    trial, baseline_of = _checked(
        model, docs, explanations, targets, baseline, batch_size, logits, seed, progress, seen
    )
    name = name_of_baseline(baseline)
    after = trial.result(masked_scores(trial, baseline_of, name))
    return Increase(trial.untouched, after, trial.targets, name)


def masked_scores(
    trial: Trial,
    baseline_of: Callable[[int], Float[np.ndarray, "height width channels"]],
    name: str,
) -> Plan[Float64[np.ndarray, " heatmaps"]]:
    """The scores of what the heatmaps leave of the docs, shape ``(heatmaps,)``.

    Args:
        trial: The model, the docs and the heatmaps.
        baseline_of: Given the position of a doc, its baseline.
        name: Name of the baseline.

    Raises:
        ValueError: If a heatmap has values above 1.
    """
    for position, heatmap in enumerate(trial.heatmaps):
        if heatmap.max() > 1 + 1e-6:
            raise ValueError(
                f"heatmap {position} must have values up to 1 to be a mask, got {heatmap.max():.6g}"
                "; divide it by its maximum"
            )

    def changed(place: int) -> Iterator[Version]:
        position = trial.places[place]
        doc = trial.docs.values[position]
        empty = trial.once((name, position), lambda: baseline_of(position))
        heat = resized(trial.heatmaps[place].clip(0, 1), trial.docs.size)
        key = ("masked", name, digest(heat)) if trial.is_shared else None
        yield key, lambda: masked(doc, heat, empty)

    scores = yield changed, 1
    return scores[:, 0]


def masked(
    doc: Float[np.ndarray, "height width channels"],
    heat: Float[np.ndarray, "height width"],
    empty: Float[np.ndarray, "height width channels"],
) -> Float[np.ndarray, "height width channels"]:
    """What a heatmap of values in [0, 1] leaves of a doc; the rest fades to its baseline."""
    share = heat[..., np.newaxis]
    left: np.ndarray = share * doc + (1 - share) * empty
    return left.astype(doc.dtype)
