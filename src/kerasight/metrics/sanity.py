"""The sanity check: a heatmap that stays when the weights are drawn at random shows no model."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kerasight.base import Explanation, HeatmapWarning
from kerasight.metrics.common import axes, heatmaps_of, integer, progressing

if TYPE_CHECKING:
    import keras
    from matplotlib.axes import Axes

    from kerasight.keras.explain_prediction import LayerKeys
    from kerasight.metrics.copies import Copy

__all__ = ["SanityCheck", "sanity_check", "spearman"]

Verdict = Literal["passes", "fails", "unclear"]


@dataclass(frozen=True, eq=False, repr=False)
class SanityCheck:
    """The result of `sanity_check`.

    ``float(result)`` is ``result.final``.

    Attributes:
        layers: Paths of the layers down to which weights are random, from the top: one a step.
        counts: How many layers are random at each step, shape ``(steps,)``.
        correlations: Spearman's rank correlation of each heatmap with the first, in [-1, 1], shape
            ``(repeats, steps)``; 0 if one of them is the same everywhere.
        heatmaps: The heatmaps, shape ``(repeats, steps, height, width)``.
        original: The heatmap of the model as it is, shape ``(height, width)``.
        threshold: From which size on a correlation is too great.
        target: Index of the explained class.
        layer: Path of the explained layer.
        method: Name of the method.
    """

    layers: tuple[str, ...]
    counts: np.ndarray
    correlations: np.ndarray
    heatmaps: np.ndarray
    original: np.ndarray
    threshold: float
    target: int
    layer: str
    method: str

    @property
    def final(self) -> float:
        """The mean size of the correlation when all weights are random, in [0, 1]."""
        return float(np.abs(self.correlations[:, -1]).mean())

    @property
    def verdict(self) -> Verdict:
        """The result in a word.

        ``"passes"``: with all weights random the heatmap is another. ``"fails"``: it is much the
        same, so that it shows the picture and not the model. ``"unclear"``: the heatmap of the
        model, or each of those with all weights random, is the same everywhere, so that there is
        nothing to compare; ``logits=True`` mostly helps, as probabilities are often saturated.

        It is a verdict on the last step alone. What is still much the same many steps down depends
        on nothing above, as the plot shows.
        """
        if _is_flat(self.original) or all(map(_is_flat, self.heatmaps[:, -1])):
            return "unclear"
        return "fails" if self.final >= self.threshold else "passes"

    def __float__(self) -> float:
        return self.final

    def __repr__(self) -> str:
        number = self.counts[-1]
        return (
            f"sanity check: {self.verdict}, rank correlation of size {self.final:.4f} with "
            f"{number} {'layer' if number == 1 else 'layers'} random (limit {self.threshold:g}; "
            f"{self.method}, class {self.target}, layer {self.layer})"
        )

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw the size of the correlation against the layers that are random.

        The mean of the repeats, each of them paler, and the limit.

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
        each = np.hstack([np.ones((len(self.correlations), 1)), np.abs(self.correlations)])
        label = f"{kwargs.pop('label', self.method)}: {self.verdict}"
        kwargs = {"marker": "o", "markersize": 4, "label": label, **kwargs}
        (line,) = ax.plot(places, each.mean(axis=0), **kwargs)
        if len(each) > 1:
            ax.plot(places, each.T, color=line.get_color(), alpha=0.25, linewidth=1)
        limit = f"limit {self.threshold:g}"
        if limit not in ax.get_legend_handles_labels()[1]:
            ax.axhline(self.threshold, color="0.5", linewidth=1, linestyle="--", label=limit)
        ax.set_title("Sanity check")
        ax.set_xlabel("weights random down to layer (number of layers)")
        ax.set_ylabel("size of the rank correlation")
        names = [
            f"{_shortened(path)} ({count})"
            for path, count in zip(self.layers, self.counts, strict=True)
        ]
        ax.set_xticks(places, ["none", *names], rotation=60, ha="right", rotation_mode="anchor")
        ax.tick_params(axis="x", labelsize="small")
        ax.set_ylim(0, 1.05)
        ax.legend(frameon=False)
        return ax


def sanity_check(
    model: keras.Model,
    doc: np.ndarray,
    *,
    targets: list[int] | None = None,
    layer: LayerKeys | None = None,
    steps: int | None = 20,
    repeats: int = 3,
    threshold: float = 0.5,
    seed: int = 0,
    progress: bool | None = None,
    **explain_kwargs: Any,
) -> SanityCheck:
    """See whether the heatmap depends on what the model has learnt.

    The cascading parameter randomisation of Adebayo et al., 2018, `Sanity Checks for Saliency Maps
    <https://arxiv.org/abs/1810.03292>`_: weights are drawn anew layer by layer, from the top of the
    model down, and after each step the same class is explained again at the same layer. A heatmap
    that is still much the same when all weights are random does not show what the model has learnt.

    All this is done to a copy; the model is left alone. Kernels are drawn by the layer's own
    initialiser; where that is none that draws, from a normal distribution of mean 0 and the
    kernel's own size. Biases and what batch normalisation keeps go back to where they started;
    other vectors are shuffled. Scalars and whole numbers stay.

    Args:
        model: The classifier.
        doc: One input, as `kerasight.explain_prediction` takes it.
        targets: The class to explain, as a list of one; None for the top class. It stays the same
            throughout.
        layer: The layer to explain, as `kerasight.explain_prediction` takes it.
        steps: In how many steps to go down, of about as many layers each, the first of one; never
            more than there are layers with weights. None takes each layer alone.
        repeats: How often to go down, each time with other random weights. By chance, the heatmap
            of random weights is now and then like any other.
        threshold: From which size of the final correlation on the check fails.
        seed: Of the random weights.
        progress: Whether to show a progress bar; None shows it on a terminal, after a second.
        **explain_kwargs: Passed on to `kerasight.explain_prediction`: ``method``, ``logits``,
            ``relu``, ``image``, ...

    Returns:
        A `SanityCheck`, with the correlation at each step and a ``verdict``.

    Raises:
        TypeError: If an argument is of a type that it cannot be.
        ValueError: If the doc cannot be explained; if ``top_targets`` asks for several classes; if
            the model has no weights; or if no copy can be made of it.

    Example:
        >>> from kerasight import demo, metrics
        >>> model, doc = demo.load_model(), demo.preprocess(demo.load_picture())
        >>> metrics.sanity_check(model, doc).verdict
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
    if "top_targets" in explain_kwargs:
        raise ValueError("one class is checked at a time; pass it as targets, such as [243]")

    explain_kwargs["progress"] = False  # ours alone
    with _without_warnings():
        first = _explained(model, doc, targets=targets, layer=layer, **explain_kwargs)
    # Imported only now, as it needs Keras.
    from kerasight.metrics.copies import copy_of

    copied = copy_of(model, doc)
    groups = _groups(copied, steps)
    target, original = _target_and_heatmap(first)
    same = {**explain_kwargs, "targets": [target], "layer": copied.twin_of(layer)}
    trained = copied.model.get_weights()

    def cascade() -> Iterator[np.ndarray]:
        for repeat in range(repeats):
            rng = np.random.default_rng([seed, repeat])
            copied.model.set_weights(trained)
            for group in groups:
                for unit in group:
                    unit.redraw(rng)
                try:
                    explanation = _explained(copied.model, doc, **same)
                except ValueError as error:
                    raise ValueError(
                        f"with weights random down to layer {group[-1].path!r}: {error}"
                    ) from error
                yield _target_and_heatmap(explanation)[1]

    with _without_warnings():
        heatmaps = list(progressing(cascade(), repeats * len(groups), "randomising", progress))
    correlations = np.array([spearman(original, heatmap) for heatmap in heatmaps])
    return SanityCheck(
        layers=tuple(group[-1].path for group in groups),
        counts=np.cumsum([len(group) for group in groups]),
        correlations=correlations.reshape(repeats, -1),
        heatmaps=np.reshape(heatmaps, (repeats, len(groups), *original.shape)),
        original=original,
        threshold=float(threshold),
        target=target,
        layer=str(first.layer),
        method=str(first.method),
    )


def _explained(model: keras.Model, doc: np.ndarray, **kwargs: Any) -> Explanation:
    """The explanation; raises ValueError if there is none."""
    from kerasight.explain import explain_prediction

    explanation = explain_prediction(model, doc, **kwargs)
    if not explanation.targets:
        raise ValueError(f"the doc cannot be explained: {explanation.error}")
    return explanation


def _target_and_heatmap(explanation: Explanation) -> tuple[int, np.ndarray]:
    heat = heatmaps_of(explanation)[0]
    assert heat.target is not None
    return heat.target, heat.values


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Where blank heatmaps are no surprise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HeatmapWarning)
        yield


@dataclass(frozen=True, eq=False)
class _Unit:
    """A layer with weights of its own.

    Attributes:
        path: Its path.
        layer: The layer.
        weights: Its weights, less those of layers inside it and those of whole numbers.
    """

    path: str
    layer: Any
    weights: list[Any]

    def redraw(self, rng: np.random.Generator) -> None:
        """Draw its weights anew."""
        for weight in self.weights:
            weight.assign(_drawn(self.layer, weight, rng))


def _groups(copied: Copy, steps: int | None) -> list[list[_Unit]]:
    """The layers to randomise at each step, from the top.

    Raises:
        ValueError: If no layer has weights.
    """
    from kerasight.keras.layers import children, walk

    paths = {id(layer): path for path, layer in walk(copied.model)}
    units = []
    for layer in reversed(copied.layers):
        inside = {id(weight) for child in children(layer) for weight in child.weights}
        own = [
            weight
            for weight in layer.weights
            if id(weight) not in inside and "float" in str(weight.dtype)
        ]
        if own:
            units.append(_Unit(paths.get(id(layer), layer.name), layer, own))
    if not units:
        raise ValueError(f"model {copied.model.name!r} has no weights to draw at random")
    number = len(units)
    counts = np.linspace(1, number, min(steps or number, number))
    # All of them at the end, also if that is the only step.
    ends = sorted({*np.rint(counts[:-1]).astype(int).tolist(), number})
    return [units[start:end] for start, end in itertools.pairwise([0, *ends])]


def _drawn(layer: Any, weight: Any, rng: np.random.Generator) -> Any:
    """New values for a weight."""
    import keras

    values = np.asarray(weight.numpy(), dtype=np.float64)
    initializer = _initializer_of(layer, weight.name)
    config = {} if initializer is None else initializer.get_config()
    if "seed" in config:
        # Called as it is, it would give the values that it gave before.
        config["seed"] = int(rng.integers(2**31))
        return type(initializer).from_config(config)(weight.shape, dtype=weight.dtype)
    if values.ndim > 1:
        return rng.normal(0, np.sqrt(np.mean(values**2)), values.shape)
    if isinstance(initializer, (keras.initializers.Zeros, keras.initializers.Ones)):
        return initializer(weight.shape, dtype=weight.dtype)
    return rng.permutation(values) if values.ndim else values


def _initializer_of(layer: Any, name: str) -> Any:
    """What a layer first drew the weight of this name with; None if it does not say."""
    import keras

    # Separable convolutions have a "depthwise_kernel", depthwise ones a "kernel".
    for prefix in (name, name.removesuffix("_kernel"), "depthwise"):
        found = getattr(layer, f"{prefix}_initializer", None)
        if isinstance(found, keras.initializers.Initializer):
            return found
    return None


def spearman(left: np.ndarray, right: np.ndarray) -> float:
    """Spearman's rank correlation of two maps of as many cells.

    Equal values share the mean of their ranks.

    Returns:
        The correlation, in [-1, 1]; 0 if either map is the same everywhere.
    """
    first, second = (_mean_ranks(values) for values in (left, right))
    first, second = first - first.mean(), second - second.mean()
    size = np.sqrt((first @ first) * (second @ second))
    return float(np.clip(first @ second / size, -1, 1)) if size else 0.0


def _mean_ranks(values: np.ndarray) -> np.ndarray:
    _, place, number = np.unique(values.ravel(), return_inverse=True, return_counts=True)
    ranks = np.cumsum(number) - (number - 1) / 2
    found: np.ndarray = ranks[place.ravel()]
    return found


def _is_flat(heatmap: np.ndarray) -> bool:
    return bool(heatmap.max() == heatmap.min())


def _shortened(path: str, most: int = 28) -> str:
    """The name of a layer, short enough to stand below an axis."""
    name = path.rsplit("/", 1)[-1]
    return name if len(name) <= most else name[: most - 1] + "…"
