"""Sensitivity: how far a heatmap moves if the doc changes a little."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasight.checks import integer, plural
from kerasight.metrics.common import axes, class_of_each, docs_of, heatmaps_of, progressing
from kerasight.metrics.explaining import check_one_class, explained, without_warnings
from kerasight.metrics.statistics import Estimate
from kerasight.progress import check_progress

if TYPE_CHECKING:
    import keras
    from jaxtyping import Float64, Int
    from matplotlib.axes import Axes

    from kerasight.keras.explainer import LayerKeys

__all__ = ["Sensitivity", "sensitivity"]


@dataclass(frozen=True, eq=False, repr=False)
class Sensitivity:
    """The result of `sensitivity`.

    ``float(result)`` is ``result.greatest``.

    Attributes:
        changes: How far the heatmap of each changed doc is from that of the doc: the norm of their
            difference, as a share of the norm of the latter; shape ``(docs, samples)``. NaN if the
            heatmap of the doc is blank.
        radius: The greatest change of a value of a doc, as a share of the range of its values.
        targets: The explained class of each doc, integers ``(docs,)``.
        layer: Path of the explained layer.
        method: Name of the method.
    """

    changes: Float64[np.ndarray, "docs samples"]
    radius: float
    targets: Int[np.ndarray, " docs"]
    layer: str
    method: str

    @property
    def maxima(self) -> Float64[np.ndarray, " docs"]:
        """The greatest change of each doc, shape ``(docs,)``: the paper's max-sensitivity.

        It grows with the number of samples, as more of them find a greater one.
        """
        return np.asarray(self.changes.max(axis=1))

    @property
    def greatest(self) -> float:
        """The mean of ``maxima`` over docs; those with a blank heatmap are left out."""
        return self._estimate(self.maxima).mean

    @property
    def error(self) -> float:
        """The standard error of ``greatest``; NaN of fewer than two docs."""
        return self._estimate(self.maxima).error

    @property
    def mean(self) -> float:
        """The mean change over samples and docs; docs with a blank heatmap are left out."""
        return self._estimate(self.changes.mean(axis=1)).mean

    @staticmethod
    def _estimate(values: Float64[np.ndarray, " docs"]) -> Estimate:
        return Estimate.of(values[~np.isnan(values)])

    def __float__(self) -> float:
        return self.greatest

    def __repr__(self) -> str:
        docs, samples = self.changes.shape
        error = "" if np.isnan(self.error) else f" ± {self.error:.3f}"
        blank = int(np.isnan(self.maxima).sum())
        left = f"; {plural(blank, 'doc')} with a blank heatmap left out" if blank else ""
        return (
            f"sensitivity: the heatmap moves by up to {self.greatest:.3f}{error} of its size, by "
            f"{self.mean:.3f} on average, if the doc changes by {self.radius:.1%} of its range "
            f"({self.method}, layer {self.layer}, {plural(docs, 'doc')}, "
            f"{plural(samples, 'sample')} each; the lower the steadier){left}"
        )

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw for each doc the change of each sample, with a mark at their mean.

        Args:
            ax: Where to draw; None makes a new figure.
            **kwargs: Passed on to ``ax.plot``, for the samples.

        Returns:
            The axes.
        """
        from matplotlib.ticker import MaxNLocator

        docs, samples = self.changes.shape
        ax = axes(ax, width=min(12.0, max(4.0, 2.5 + 0.3 * docs)))
        places = np.repeat(np.arange(docs), samples)
        settings = {"markersize": 3, "alpha": 0.5, "label": f"{self.method}, samples", **kwargs}
        (dots,) = ax.plot(places, self.changes.ravel(), "o", **settings)
        color = dots.get_color()
        ax.plot(self.changes.mean(axis=1), "_", markersize=14, color=color, label="their mean")
        ax.set_title(f"Sensitivity to changes of {self.radius:.1%}: up to {self.greatest:.2f}")
        ax.set_xlabel("doc")
        ax.set_ylabel("change of the heatmap")
        ax.set_ylim(bottom=0)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend(frameon=False)
        return ax


def sensitivity(
    model: keras.Model,
    docs: Any,
    *,
    targets: Sequence[int] | None = None,
    layer: LayerKeys | None = None,
    radius: float = 0.02,
    samples: int = 10,
    seed: int = 0,
    progress: bool | None = None,
    **explain_kwargs: Any,
) -> Sensitivity:
    """See how far heatmaps move if the docs change by too little for anyone to see.

    Each value of a doc changes by uniform noise of at most ``radius``, and the same class is
    explained again. The greatest of these changes is the max-sensitivity of Yeh et al., 2019, `On
    the (In)fidelity and Sensitivity of Explanations <https://arxiv.org/abs/1901.09392>`_. Heatmaps
    are taken as they are shown, with a peak of 1, so that a score that rises as a whole is no
    change.

    A heatmap that jumps is of no use, as another picture of the same thing would show another
    place. One that never moves may still be wrong: that of the edges of the picture is steady.

    Args:
        model: The classifier.
        docs: Its inputs, preprocessing done, as in `deletion`.
        targets: The class to explain for each doc, a list of indices; a list of one holds for all.
            None takes the class with the greatest score of the unchanged doc.
        layer: The layer to explain, as `kerasight.explain_prediction` takes it.
        radius: The greatest change, as a share of the range of a doc's values, above 0.
        samples: How many changed versions of each doc to explain.
        seed: Seed of the changes.
        progress: Whether to show a progress bar; None shows it on a terminal, after a second.
        **explain_kwargs: Passed on to `kerasight.explain_predictions`: ``method``, ``logits``,
            ``relu``, ``smooth``, ...

    Returns:
        A `Sensitivity`.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If an argument has a wrong value; if ``top_targets`` asks for several classes;
            or if a doc cannot be explained.

    Example:
        >>> import numpy as np
        >>> from kerasight import demo, metrics
        >>> model, doc = demo.load_model(), demo.preprocess(demo.load_picture())
        >>> found = metrics.sensitivity(model, doc, logits=True)
        >>> found.greatest < 0.5
        True
    """
    if isinstance(radius, bool) or not isinstance(radius, Real):
        raise TypeError(f"radius must be a number, got {type(radius).__name__}")
    if not 0 < radius < np.inf:
        raise ValueError(f"radius must be above 0, and finite, got {radius}")
    samples = integer("samples", samples, least=1)
    seed = integer("seed", seed, least=0)
    check_one_class(explain_kwargs)
    check_progress(progress)
    checked = docs_of(model, docs, explain_kwargs.get("seen"))
    number = len(checked.values)
    wanted = None if targets is None else [[one] for one in class_of_each(targets, number)]

    def changed() -> Iterator[Any]:
        for position, doc in enumerate(checked.values):
            rng = np.random.default_rng([seed, position])
            reach = radius * float(np.ptp(doc))
            for _ in range(samples):
                noise = rng.uniform(-reach, reach, doc.shape)
                noisy = (doc + noise).astype(doc.dtype)
                yield checked.with_pictures(noisy[np.newaxis], [position]).structure

    with without_warnings():
        firsts = list(explained(model, checked.inputs.structure, wanted, layer, explain_kwargs))
        originals = heatmaps_of(firsts)
        chosen = np.array([heat.target for heat in originals])
        each = [[one] for one in chosen.repeat(samples).tolist()]
        again = explained(
            model, changed(), each, layer, explain_kwargs, "the docs, changed a little,"
        )
        changes = [
            _distance(heatmaps_of(one)[0].values, originals[place // samples].values)
            for place, one in enumerate(progressing(again, number * samples, "changing", progress))
        ]
    return Sensitivity(
        changes=np.reshape(changes, (number, samples)),
        radius=float(radius),
        targets=chosen,
        layer=str(firsts[0].layer),
        method=str(firsts[0].method),
    )


def _distance(heatmap: np.ndarray, original: np.ndarray) -> float:
    size = np.linalg.norm(original)
    return float(np.linalg.norm(heatmap - original) / size) if size else np.nan
