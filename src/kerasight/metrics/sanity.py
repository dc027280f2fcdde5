"""The sanity check: a heatmap that stays when the weights are drawn at random shows no model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kerasight.base import Explanation
from kerasight.checks import integer, plural
from kerasight.metrics.common import (
    axes,
    check_model,
    class_of_each,
    heatmaps_of,
    progressing,
)
from kerasight.metrics.explaining import check_one_class, without_warnings
from kerasight.metrics.statistics import Estimate
from kerasight.progress import check_progress

if TYPE_CHECKING:
    import keras
    from jaxtyping import Float64, Int, Shaped
    from matplotlib.axes import Axes

    from kerasight.keras.explainer import LayerKeys

__all__ = ["SanityCheck", "sanity_check", "spearman"]

Verdict = Literal["passes", "fails", "cannot be told"]


@dataclass(frozen=True, eq=False, repr=False)
class SanityCheck:
    """The result of `sanity_check`.

    ``float(result)`` is ``result.final``.

    Attributes:
        layers: For each step the path of the lowest layer with random weights.
        counts: The number of layers with random weights at each step, shape ``(steps,)``.
        correlations: Spearman's rank correlation of each heatmap with the original one, in [-1, 1],
            shape ``(docs, repeats, steps)``; NaN if one of the two is the same everywhere, so that
            there is nothing to compare.
        heatmaps: The heatmaps, shape ``(docs, repeats, steps, height, width)``.
        originals: The heatmaps with the trained weights, shape ``(docs, height, width)``.
        threshold: The check passes if the size of the correlation is below this.
        targets: The explained class of each doc, integers ``(docs,)``.
        layer: Path of the explained layer.
        method: Name of the method.
    """

    layers: tuple[str, ...]
    counts: Int[np.ndarray, " steps"]
    correlations: Float64[np.ndarray, "docs repeats steps"]
    heatmaps: Float64[np.ndarray, "docs repeats steps height width"]
    originals: Float64[np.ndarray, "docs height width"]
    threshold: float
    targets: Int[np.ndarray, " docs"]
    layer: str
    method: str

    @property
    def final(self) -> float:
        """The mean size of the correlation when all weights are random, in [0, 1].

        The mean over docs of their means over repeats; NaN if there is nothing to compare.
        """
        return self._final.mean

    @property
    def error(self) -> float:
        """The standard error of ``final``.

        Over docs, as the repeats of a doc are not independent of each other. For a single doc it is
        the error over its repeats, and holds for that doc alone. NaN of fewer than two values.
        """
        return self._final.error

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of ``final``, by Student's t; NaN of fewer than two values.

        Over docs, or over the repeats of a single doc.
        """
        low, high = np.clip([self._final.low, self._final.high], 0, 1).tolist()
        return low, high

    @property
    def verdict(self) -> Verdict:
        """The result in a word.

        ``"passes"``: the whole interval lies below the threshold: with all weights random, the
        heatmap is a different one. ``"fails"``: the whole interval lies above: the heatmap is much
        the same, and so shows the picture and not the model. ``"cannot be told"``: the threshold
        lies in the interval, which more docs make narrower; or there is nothing to compare, as
        heatmaps are the same everywhere. Then ``logits=True`` mostly helps, as probabilities are
        often saturated.

        The verdict is about the last step alone. The plot shows the steps before: where the
        heatmap stays the same, it does not depend on the layers that are random so far.
        """
        low, high = self.interval
        if high < self.threshold:
            return "passes"
        return "fails" if low >= self.threshold else "cannot be told"

    @property
    def _final(self) -> Estimate:
        return _estimate(self.correlations[..., -1])

    def __float__(self) -> float:
        return self.final

    def __repr__(self) -> str:
        docs, repeats, _ = self.correlations.shape
        each = f"class {self.targets[0]}" if docs == 1 else f"{docs} docs"
        settings = f"{self.method}, layer {self.layer}, {each}, {plural(repeats, 'repeat')}"
        return f"sanity check: {self.verdict}; {self._findings()} ({settings})"

    def _findings(self) -> str:
        docs = len(self.correlations)
        compared = int((~np.isnan(self.correlations[..., -1])).any(axis=1).sum())
        if not compared:
            return (
                "there is nothing to compare: the heatmap of the model, or each of random weights, "
                "is the same everywhere; logits=True mostly helps"
            )
        findings = f"rank correlation of size {self.final:.3f}"
        if not np.isnan(self.error):
            low, high = self.interval
            findings += f" ± {self.error:.3f} (95% interval {low:.3f} to {high:.3f})"
        findings += f" with {plural(self.counts[-1], 'layer')} random, limit {self.threshold:g}"
        if compared < docs:
            findings += f"; {plural(docs - compared, 'doc')} with nothing to compare left out"
        return findings + ("; pass more docs" if self.verdict == "cannot be told" else "")

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw the size of the correlation against the layers that are random.

        The mean, in a band with its 95 % confidence interval, and the limit.

        Args:
            ax: Where to draw; None makes a new figure. Several results of the same model and steps
                may share their axes.
            **kwargs: Passed on to ``ax.plot``, for the mean: ``label``, ``color``, ...

        Returns:
            The axes.
        """
        steps = len(self.layers)
        ax = axes(ax, width=min(14.0, max(5.0, 2.5 + 0.32 * steps)), height=4.8)
        places = np.arange(steps + 1)
        each = [_estimate(self.correlations[..., step]) for step in range(steps)]
        # Before the first step, each heatmap is compared with itself.
        mean, low, high = np.clip(
            [(1.0, 1.0, 1.0), *((one.mean, one.low, one.high) for one in each)], 0, 1
        ).T
        label = f"{kwargs.pop('label', self.method)}: {self.verdict}"
        kwargs = {"marker": "o", "markersize": 4, "label": label, **kwargs}
        (line,) = ax.plot(places, mean, **kwargs)
        ax.fill_between(places, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        limit = f"limit {self.threshold:g}"
        if limit not in ax.get_legend_handles_labels()[1]:
            ax.axhline(self.threshold, color="0.5", linewidth=1, linestyle="--", label=limit)
        ax.set_title("Sanity check, with 95% intervals")
        ax.set_xlabel("weights random down to layer (number of layers)")
        of = "" if len(self.targets) == 1 else f", mean of {len(self.targets)} docs"
        ax.set_ylabel(f"size of the rank correlation{of}")
        names = [
            f"{_shortened(path)} ({count})"
            for path, count in zip(self.layers, self.counts, strict=True)
        ]
        ax.set_xticks(places, ["none", *names], rotation=60, ha="right", rotation_mode="anchor")
        ax.tick_params(axis="x", labelsize="small")
        ax.set_ylim(0, 1.05)
        ax.legend(frameon=False)
        return ax


def _estimate(correlations: Float64[np.ndarray, "docs repeats"]) -> Estimate:
    """The mean size of correlations ``(docs, repeats)``; those that are NaN are left out."""
    known = ~np.isnan(correlations)
    docs = known.any(axis=1)
    sizes = np.abs(correlations[docs])
    return Estimate.of(np.nanmean(sizes, axis=1) if docs.sum() > 1 else sizes[known[docs]])


def sanity_check(
    model: keras.Model,
    docs: Any,
    *,
    targets: Sequence[int] | None = None,
    layer: LayerKeys | None = None,
    steps: int | None = 20,
    repeats: int = 3,
    threshold: float = 0.5,
    seed: int = 0,
    progress: bool | None = None,
    **explain_kwargs: Any,
) -> SanityCheck:
    """See whether heatmaps depend on what the model has learnt.

    The cascading parameter randomisation of Adebayo et al., 2018, `Sanity Checks for Saliency Maps
    <https://arxiv.org/abs/1810.03292>`_: layer by layer, from the top of the model down, weights
    are replaced by random ones, and after each step the same class is explained again at the same
    layer. A heatmap that is still much the same when all weights are random does not show what the
    model has learnt.

    The result for one doc and one draw of weights is mostly chance, so pass several docs: ten are
    enough for most methods, two or three often for none, and then the result says so. Each doc gets
    random weights of its own, so that docs are independent of each other.

    The model keeps its weights, also for other threads: it runs in a ``keras.StatelessScope`` with
    the random ones. Kernels are drawn by the layer's own initialiser; if that does not draw, from a
    normal distribution with mean 0 and the root mean square of the kernel. Biases and the weights
    of batch normalisation get their initial values; other vectors are shuffled. Scalars, integers,
    and a ``tf.Variable`` that Keras does not know stay as they are.

    Flaws of this test are known, and Hedström et al., 2024, `Sanity Checks Revisited
    <https://arxiv.org/abs/2401.06465>`_, sum them up:

    - The order of the layers: while those below keep their weights, much of what they see goes
      through, so that heatmaps are alike at the first steps whatever the method. The steps are
      there to be seen, and no verdict is made of them: it takes the last alone, where no layer has
      kept its weights and the order is of no account. ``steps=1`` goes there at once.
    - The scale of the heatmap: divided by its peak, or its values squared, a heatmap seems to
      change. A rank correlation sees the order of the cells, and no scale. The cut at zero it does
      see; ``relu=False`` compares the evidence before that. Its size counts, so that a heatmap
      turned upside down, which shows the same edges, does not pass.
    - Noise: heatmaps of much noise differ from any other, and pass for that alone. ``smooth=50``
      explains many noisy copies of each doc at each step, and compares their means, as the paper's
      smooth variant does. The noise is the same at each step. Chance in the weights is met by
      ``repeats``, and by the interval over docs.
    - What counts as alike: unrelated heatmaps of few cells, or smooth ones, are alike by chance.
      Their correlations are around 0, and the size of those is not. The threshold is far above 0
      therefore, and a convention.

    Args:
        model: The classifier.
        docs: Its inputs, preprocessing done, shape ``(docs, height, width, channels)``, or
            ``(docs, channels, height, width)`` for a channels-first model. For a model of several
            inputs, a dict, list or tuple of such arrays.
        targets: The class to explain for each doc, a list of indices; a list of one holds for all.
            None takes the class with the greatest score. It is the same at each step.
        layer: The layer to explain, as `kerasight.explain_prediction` takes it.
        steps: The number of steps: the first randomises one layer, the others about equally many
            each; at most one for each layer with weights. None randomises one layer a step. 1
            randomises all at once, which is enough for the verdict.
        repeats: How often to go through the steps for each doc, each time with other random
            weights. By chance, the heatmap of random weights is sometimes like the original.
        threshold: The least size of the final correlation at which the check fails.
        seed: Seed of the random weights.
        progress: Whether to show a progress bar; None shows it on a terminal, after a second.
        **explain_kwargs: Passed on to `kerasight.explain_prediction`: ``method``, ``logits``,
            ``relu``, ``smooth``, ``image``, ...

    Returns:
        A `SanityCheck`, with the correlations at each step and a ``verdict``.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If a doc cannot be explained; if ``top_targets`` asks for several classes; if
            the model has no weights; or if a layer runs a ``tf.function`` other than its ``call``.

    Example:
        >>> import numpy as np
        >>> from kerasight import demo, metrics
        >>> model, pictures = demo.load_model(), [demo.draw_picture(seed) for seed in range(5)]
        >>> docs = np.concatenate([demo.preprocess(picture.image) for picture in pictures])
        >>> metrics.sanity_check(model, docs, logits=True, steps=1).verdict
        'passes'
    """
    if steps is not None:
        steps = integer("steps", steps, least=1)
    repeats = integer("repeats", repeats, least=1)
    seed = integer("seed", seed, least=0)
    if isinstance(threshold, bool) or not isinstance(threshold, Real):
        raise TypeError(f"threshold must be a number, got {type(threshold).__name__}")
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, got {threshold}")
    check_one_class(explain_kwargs)
    check_progress(progress)
    check_model(model)
    # Imported only now, as they need Keras.
    from kerasight.keras.anatomy import Anatomy
    from kerasight.keras.docs import check_shape, inputs_of, number_of_docs
    from kerasight.keras.traces import lasting_scope
    from kerasight.metrics.random_weights import groups_of

    anatomy = Anatomy(model)
    several = () if len(anatomy.inputs) == 1 else (dict, list, tuple)
    if not isinstance(docs, (np.ndarray, *several)):
        raise TypeError(
            "docs must be a numpy.ndarray of shape (docs, height, width, channels), got "
            f"{type(docs).__name__}"
        )
    inputs = inputs_of(anatomy, docs, explain_kwargs.get("seen"))
    number = number_of_docs(inputs)
    check_shape(anatomy, inputs, number=None)
    each = [inputs[place : place + 1].structure for place in range(number)]
    explain_kwargs["progress"] = False  # the bar that counts steps is enough
    wanted = None if targets is None else class_of_each(targets, number)
    with without_warnings():
        firsts = [
            _explained(
                f"doc {position}",
                model,
                doc,
                targets=None if wanted is None else [wanted[position]],
                layer=layer,
                **explain_kwargs,
            )
            for position, doc in enumerate(each)
        ]
    groups = groups_of(model, inputs[:1], steps)
    scope = lasting_scope(model)
    chosen, originals = zip(*map(_target_and_heatmap, firsts), strict=True)

    def cascade(position: int, repeat: int) -> Iterator[np.ndarray]:
        rng = np.random.default_rng([seed, repeat, position])
        for unit in itertools.chain.from_iterable(groups):
            unit.fill(scope, None)
        for group in groups:
            for unit in group:
                unit.fill(scope, rng)
            what = f"doc {position}, with weights random down to layer {group[-1].path!r}"
            doc, target = each[position], chosen[position]
            with scope:
                explanation = _explained(
                    what, model, doc, targets=[target], layer=layer, **explain_kwargs
                )
            yield _target_and_heatmap(explanation)[1]

    shape = (number, repeats, len(groups))
    cascades = itertools.starmap(cascade, np.ndindex(shape[:2]))
    with without_warnings():
        heatmaps = np.array(
            list(
                progressing(
                    itertools.chain.from_iterable(cascades),
                    math.prod(shape),
                    "randomising",
                    progress,
                )
            )
        ).reshape(*shape, *originals[0].shape)
    correlations = [spearman(originals[place[0]], heatmaps[place]) for place in np.ndindex(shape)]
    return SanityCheck(
        layers=tuple(group[-1].path for group in groups),
        counts=np.cumsum([len(group) for group in groups]),
        correlations=np.reshape(correlations, shape),
        heatmaps=heatmaps,
        originals=np.array(originals),
        threshold=float(threshold),
        targets=np.array(chosen),
        layer=str(firsts[0].layer),
        method=str(firsts[0].method),
    )


def _explained(what: str, model: keras.Model, doc: Any, **kwargs: Any) -> Explanation:
    """The explanation; raises ValueError if there is none, which names ``what``."""
    from kerasight.explain import explain_prediction

    try:
        explanation = explain_prediction(model, doc, **kwargs)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
    if not explanation.targets:
        raise ValueError(f"{what} cannot be explained: {explanation.error}")
    return explanation


def _target_and_heatmap(
    explanation: Explanation,
) -> tuple[int, Float64[np.ndarray, "height width"]]:
    heat = heatmaps_of(explanation)[0]
    assert heat.target is not None
    return heat.target, heat.values


def spearman(left: Shaped[np.ndarray, " ..."], right: Shaped[np.ndarray, " ..."]) -> float:
    """Spearman's rank correlation of two maps of as many cells.

    Equal values share the mean of their ranks.

    Returns:
        The correlation, in [-1, 1]; NaN if either map is the same everywhere.
    """
    first, second = (_mean_ranks(values) for values in (left, right))
    first, second = first - first.mean(), second - second.mean()
    size = np.sqrt((first @ first) * (second @ second))
    return float(np.clip(first @ second / size, -1, 1)) if size else math.nan


def _mean_ranks(values: Shaped[np.ndarray, " ..."]) -> Float64[np.ndarray, " cells"]:
    _, place, number = np.unique(values.ravel(), return_inverse=True, return_counts=True)
    ranks = np.cumsum(number) - (number - 1) / 2
    found: np.ndarray = ranks[place.ravel()]
    return found


def _shortened(path: str, most: int = 28) -> str:
    """The name of a layer, short enough to stand below an axis."""
    name = path.rsplit("/", 1)[-1]
    return name if len(name) <= most else name[: most - 1] + "…"
