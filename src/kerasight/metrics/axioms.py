"""Completeness: whether attributions sum to the score that they are to explain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasight.cam.baselines import Baseline, name_of_baseline
from kerasight.checks import flag, integer, is_real, plural
from kerasight.metrics.common import (
    axes,
    baselines,
    class_of_each,
    docs_of,
)

if TYPE_CHECKING:
    import keras
    from jaxtyping import Float64, Int
    from matplotlib.axes import Axes

__all__ = ["Completeness", "completeness"]


@dataclass(frozen=True, eq=False, repr=False)
class Completeness:
    """The result of `completeness`.

    ``float(result)`` is ``result.mean``.

    Attributes:
        sums: The sum of the attributions of each doc, shape ``(docs,)``.
        differences: The score of each doc less that of its baseline, shape ``(docs,)``.
        targets: The class of each doc, integers ``(docs,)``.
        baseline: What the docs are compared with.
    """

    sums: Float64[np.ndarray, " docs"]
    differences: Float64[np.ndarray, " docs"]
    targets: Int[np.ndarray, " docs"]
    baseline: str

    @property
    def gaps(self) -> Float64[np.ndarray, " docs"]:
        """How far each sum is from the difference, as a share of its size, shape ``(docs,)``.

        NaN where a doc scores as its baseline does, so that there is nothing to explain.
        """
        size = np.abs(self.differences)
        return np.asarray(np.abs(self.sums - self.differences) / np.where(size, size, np.nan))

    @property
    def mean(self) -> float:
        """The mean of ``gaps``, those that are NaN left out."""
        known = self.gaps[~np.isnan(self.gaps)]
        return float(known.mean()) if known.size else np.nan

    def __float__(self) -> float:
        return self.mean

    def __repr__(self) -> str:
        what = "gap" if len(self.sums) == 1 else "mean gap"
        return (
            f"completeness: {what} {self.mean:.2%} of the difference of scores, "
            f"{plural(len(self.sums), 'doc')}, baseline {self.baseline} (the lower the better)"
        )

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw a point for each doc, the difference of scores across and the sum up.

        Args:
            ax: Where to draw; None makes a new figure.
            **kwargs: Passed on to ``ax.scatter``.

        Returns:
            The axes.
        """
        ax = axes(ax, width=4.6, height=4.6)
        ax.scatter(self.differences, self.sums, **{"zorder": 3, **kwargs})
        ax.axline((0, 0), slope=1, color="0.5", linewidth=1, linestyle="--")
        ax.set_title(f"Completeness: gap {self.mean:.1%}")
        ax.set_xlabel("score less that of the baseline")
        ax.set_ylabel("sum of the attributions")
        return ax


def completeness(
    model: keras.Model,
    docs: Any,
    attributions: Any,
    *,
    baseline: Baseline = 0.0,
    targets: Sequence[int] | None = None,
    logits: bool = False,
    batch_size: int = 32,
    seed: int = 0,
    seen: str | int | None = None,
) -> Completeness:
    r"""See whether attributions sum to the difference of scores that they share out.

    Integrated gradients, SHAP and the like share out the score :math:`y` of a doc less that of a
    baseline, :math:`y_0`, among its pixels. The gap is :math:`|\sum_i a_i - (y - y_0)| / |y -
    y_0|`. From Sundararajan et al., 2017, `Axiomatic Attribution for Deep Networks
    <https://arxiv.org/abs/1703.01365>`_. Of methods that promise no such sum, such as Grad-CAM, it
    says nothing.

    Args:
        model: The classifier.
        docs: Its inputs, preprocessing done, as in `deletion`.
        attributions: What the method gave, neither cut off nor scaled: an array ``(docs, ...)``, of
            which each row is summed, such as ``(docs, height, width)`` or one value for each
            channel of each pixel; or a list with an array of any shape for each doc. The heatmaps
            of explanations are scaled to a peak of 1, and sum to nothing in particular.
        baseline: What the attributions compare the docs with: as in `deletion`. It must be the one
            that they were made with.
        targets: The class of each doc, a list of indices; a list of one holds for all. None takes
            the class with the greatest score.
        logits: Whether the score before the final softmax or sigmoid was explained.
        batch_size: The number of docs that go through the model at a time.
        seed: Seed of the noise, if that is the baseline.
        seen: Of several inputs, the picture, as `kerasight.explain_prediction` takes it.

    Returns:
        A `Completeness`.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If there are not as many attributions as docs, or NaN or infinity in them; if
            there is no such class or baseline; or if docs do not fit the model.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from kerasight import metrics
        >>> flat = [keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(1)]
        >>> model, docs = keras.Sequential(flat), np.ones((1, 2, 2, 1), np.float32)
        >>> weights = np.array([[1.0], [2.0], [3.0], [4.0]])
        >>> model.set_weights([weights, np.zeros(1)])
        >>> metrics.completeness(model, docs, docs * weights.reshape(1, 2, 2, 1)).mean
        0.0
    """
    checked = docs_of(model, docs, seen)
    number = len(checked.values)
    sums = _sums(attributions, number)
    baseline_of = baselines(baseline, checked, integer("seed", seed, least=0))
    batch_size = integer("batch_size", batch_size, least=1)
    logits = flag("logits", logits)
    from kerasight.keras.record import scores_of

    empty = checked.with_pictures(np.stack([*map(baseline_of, range(number))]), range(number))
    before, after = (
        scores_of(model, inputs, logits=logits, batch_size=batch_size).astype(np.float64)
        for inputs in (empty, checked.inputs)
    )
    wanted = after.argmax(axis=1) if targets is None else np.array(class_of_each(targets, number))
    classes = after.shape[1]
    outside = wanted[(wanted < 0) | (wanted >= classes)]
    if outside.size:
        raise ValueError(
            f"target {outside[0]} is out of range: the model puts out {plural(classes, 'class')}, "
            f"so that a target lies in [0, {classes})"
        )
    rows = np.arange(number)
    differences = after[rows, wanted] - before[rows, wanted]
    return Completeness(sums, differences, wanted, name_of_baseline(baseline))


def _sums(attributions: Any, number: int) -> Float64[np.ndarray, " docs"]:
    """The sum of what each doc has."""
    if isinstance(attributions, (str, bytes)) or not isinstance(attributions, Iterable):
        raise TypeError(
            "attributions must be an array of shape (docs, ...), or a list with an array for each "
            f"doc, got {type(attributions).__name__}"
        )
    each = list(attributions)
    if len(each) != number:
        raise ValueError(
            f"there must be attributions for each doc, got {len(each)} for {plural(number, 'doc')}"
        )
    for position, one in enumerate(each):
        if not isinstance(one, np.ndarray) or not is_real(one):
            raise TypeError(
                f"attributions of doc {position} must be a numpy.ndarray of real numbers, got "
                f"{type(one).__name__}"
            )
        if not np.isfinite(one).all():
            raise ValueError(
                f"attributions of doc {position} must be finite, got NaN or infinity in them"
            )
    return np.array([one.sum(dtype=np.float64) for one in each])
