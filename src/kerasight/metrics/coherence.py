"""ADCC: one number of what a heatmap leaves of the score, how little it needs, and if it stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasight.cam.baselines import Baseline, name_of_baseline
from kerasight.cam.maps import resized
from kerasight.checks import integer, plural
from kerasight.metrics.common import (
    axes,
    baselines,
    class_of_each,
    docs_of,
    heatmaps_of,
    progressing,
)
from kerasight.metrics.explaining import check_one_class, explained, without_warnings
from kerasight.metrics.perturbation import average_drop, masked
from kerasight.metrics.statistics import Estimate
from kerasight.progress import check_progress

if TYPE_CHECKING:
    import keras
    from jaxtyping import Float64, Int
    from matplotlib.axes import Axes

    from kerasight.keras.explainer import LayerKeys

__all__ = ["Adcc", "adcc"]


@dataclass(frozen=True, eq=False, repr=False)
class Adcc:
    """The result of `adcc`.

    ``float(result)`` is ``result.mean``.

    Attributes:
        coherencies: How much the heatmap of what each heatmap leaves is like that one, in [0, 1],
            shape ``(docs,)``; 0.5 where they have nothing to do with each other.
        complexities: The mean of each heatmap, in [0, 1], shape ``(docs,)``.
        drops: The share of each score that is lost with what the heatmap takes away, in [0, 1],
            shape ``(docs,)``.
        targets: The explained class of each doc, integers ``(docs,)``.
        baseline: What replaced the cold pixels.
        layer: Path of the explained layer.
        method: Name of the method.
    """

    coherencies: Float64[np.ndarray, " docs"]
    complexities: Float64[np.ndarray, " docs"]
    drops: Float64[np.ndarray, " docs"]
    targets: Int[np.ndarray, " docs"]
    baseline: str
    layer: str
    method: str

    @property
    def values(self) -> Float64[np.ndarray, " docs"]:
        """The harmonic mean of the three for each doc, in [0, 1], shape ``(docs,)``."""
        parts = np.stack([self.coherencies, 1 - self.complexities, 1 - self.drops])
        # The harmonic mean is 0 if one of the parts is.
        with np.errstate(divide="ignore"):
            return np.asarray(len(parts) / (1 / parts).sum(axis=0))

    @property
    def mean(self) -> float:
        """The mean of ``values``."""
        return self._estimate.mean

    @property
    def error(self) -> float:
        """The standard error of ``mean``; NaN of fewer than two docs."""
        return self._estimate.error

    @property
    def _estimate(self) -> Estimate:
        return Estimate.of(self.values)

    def __float__(self) -> float:
        return self.mean

    def __repr__(self) -> str:
        error = "" if np.isnan(self.error) else f" ± {self.error:.3f}"
        return (
            f"ADCC: {self.mean:.3f}{error} of {plural(len(self.values), 'doc')}: coherency "
            f"{self.coherencies.mean():.3f}, complexity {self.complexities.mean():.3f}, average "
            f"drop {self.drops.mean():.1%} ({self.method}, layer {self.layer}, baseline "
            f"{self.baseline}; the higher the better)"
        )

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw ADCC and its three parts, each a dot for each doc and a bar for the mean.

        Args:
            ax: Where to draw; None makes a new figure.
            **kwargs: Passed on to ``ax.bar``.

        Returns:
            The axes.
        """
        ax = axes(ax, width=5.0)
        parts = {
            "ADCC": self.values,
            "coherency": self.coherencies,
            "1 \u2212 complexity": 1 - self.complexities,
            "1 \u2212 drop": 1 - self.drops,
        }
        ax.bar([*parts], [part.mean() for part in parts.values()], **{"alpha": 0.5, **kwargs})
        for place, part in enumerate(parts.values()):
            ax.plot(np.full(len(part), place), part, "o", color="k", markersize=3, alpha=0.5)
        ax.set_title(f"ADCC: {self.mean:.3f}")
        ax.set_ylim(0, 1.02)
        return ax


def adcc(
    model: keras.Model,
    docs: Any,
    *,
    targets: Sequence[int] | None = None,
    layer: LayerKeys | None = None,
    baseline: Baseline = "mean",
    batch_size: int = 32,
    seed: int = 0,
    progress: bool | None = None,
    **explain_kwargs: Any,
) -> Adcc:
    r"""Explain docs, and again what their heatmaps leave of them: one number of three.

    From Poppi et al., 2021, `Revisiting The Evaluation of Class Activation Mapping for
    Explainability <https://arxiv.org/abs/2104.10252>`_: the harmonic mean of

    - coherency: the heatmap of what the heatmap leaves of the doc is the heatmap itself. Pearson's
      correlation :math:`r` of the two, as :math:`(r + 1) / 2`;
    - 1 less complexity: the heatmap is small. Complexity is the mean of its values, which are in
      [0, 1]. It is no entropy, as that of `complexity` is;
    - 1 less the drop: the score stays. As in `average_drop`, as a share.

    No part alone is to be won: a heatmap of ones loses nothing of the score, and one of zeros is
    the smallest.

    Where the second heatmap is the same everywhere, the correlation is taken to be 0; where the
    first is, there is none to be like it, and coherency is 0.5 as well. The drop is always of the
    model's output, whatever score is explained.

    Args:
        model: The classifier.
        docs: Its inputs, preprocessing done, as in `deletion`.
        targets: The class to explain for each doc, a list of indices; a list of one holds for all.
            None takes the class with the greatest score.
        layer: The layer to explain, as `kerasight.explain_prediction` takes it.
        baseline: What cold pixels fade to: as in `average_drop`. The paper multiplies the picture
            by the heatmap, which is ``baseline=0``.
        batch_size: The number of docs that go through the model at a time.
        seed: Seed of noise, if that is the baseline.
        progress: Whether to show a progress bar; None shows it on a terminal, after a second.
        **explain_kwargs: Passed on to `kerasight.explain_predictions`: ``method``, ``logits``,
            ``smooth``, ... Of heatmaps with a sign, what is below 0 counts as 0.

    Returns:
        An `Adcc`.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If an argument has a wrong value; if ``top_targets`` asks for several classes;
            if a doc cannot be explained; or if the model's output for its class is not above 0.

    Example:
        >>> import numpy as np
        >>> from kerasight import demo, metrics
        >>> model, doc = demo.load_model(), demo.preprocess(demo.load_picture())
        >>> 0 < metrics.adcc(model, doc, logits=True).mean < 1
        True
    """
    check_one_class(explain_kwargs)
    check_progress(progress)
    seen = explain_kwargs.get("seen")
    checked = docs_of(model, docs, seen)
    number = len(checked.values)
    baseline_of = baselines(baseline, checked, integer("seed", seed, least=0))
    wanted = None if targets is None else [[one] for one in class_of_each(targets, number)]
    explain_kwargs["batch_size"] = batch_size
    with without_warnings():
        given = explained(model, checked.inputs.structure, wanted, layer, explain_kwargs)
        firsts = list(progressing(given, number, "explaining", progress))
        heats = heatmaps_of(firsts)
        maps = [heat.values.clip(0, 1) for heat in heats]
        left = (
            checked.with_pictures(
                masked(doc, resized(heat, checked.size), baseline_of(position))[np.newaxis],
                [position],
            ).structure
            for position, (doc, heat) in enumerate(zip(checked.values, maps, strict=True))
        )
        chosen = np.array([heat.target for heat in heats])
        each = [[one] for one in chosen.tolist()]
        again = explained(
            model, left, each, layer, explain_kwargs, "what the heatmaps leave of the docs"
        )
        seconds = heatmaps_of(list(progressing(again, number, "explaining", progress)))
    drops = average_drop(
        model,
        checked.inputs,
        maps,
        targets=chosen.tolist(),
        baseline=baseline,
        batch_size=batch_size,
        seed=seed,
        progress=progress,
        seen=seen,
    ).drops
    return Adcc(
        coherencies=np.array(
            [
                (_pearson(one, other.values.clip(0, 1)) + 1) / 2
                for one, other in zip(maps, seconds, strict=True)
            ]
        ),
        complexities=np.array([heat.mean() for heat in maps]),
        drops=drops / 100,
        targets=chosen,
        baseline=name_of_baseline(baseline),
        layer=str(firsts[0].layer),
        method=str(firsts[0].method),
    )


def _pearson(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's correlation of two maps; 0 if one of them is the same everywhere."""
    first, second = (values.ravel() - values.mean() for values in (one, other))
    size = np.sqrt((first @ first) * (second @ second))
    return float(np.clip(first @ second / size, -1, 1)) if size else 0.0
