"""The sanity check: a heatmap that stays when the weights are drawn at random shows no model."""

from __future__ import annotations

import contextlib
import itertools
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kerasight.base import Explanation, HeatmapWarning
from kerasight.checks import integer, plural
from kerasight.metrics.common import (
    axes,
    check_model,
    classes_of,
    heatmaps_of,
    progressing,
)
from kerasight.metrics.statistics import LEVEL, standard_error, t_quantile
from kerasight.progress import check_progress

if TYPE_CHECKING:
    import keras
    from jaxtyping import Float64, Int, Shaped
    from matplotlib.axes import Axes

    from kerasight.keras.explain_prediction import LayerKeys

__all__ = ["SanityCheck", "sanity_check", "spearman"]

Verdict = Literal["passes", "fails", "cannot be told"]


@dataclass(frozen=True, eq=False, repr=False)
class SanityCheck:
    """The result of `sanity_check`.

    ``float(result)`` is ``result.final``.

    Attributes:
        layers: Paths of the layers down to which weights are random, from the top: one a step.
        counts: How many layers are random at each step, shape ``(steps,)``.
        correlations: Spearman's rank correlation of each heatmap with that of the model as it is,
            in [-1, 1], shape ``(docs, repeats, steps)``; NaN if one of the two is the same
            everywhere, so that there is nothing to compare.
        heatmaps: The heatmaps, shape ``(docs, repeats, steps, height, width)``.
        originals: Those of the model as it is, shape ``(docs, height, width)``.
        threshold: From which size on a correlation is too great.
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

        First of the repeats of each doc, and then of docs; NaN if there is nothing to compare.
        """
        return self._final.mean

    @property
    def error(self) -> float:
        """The standard error of ``final``.

        The docs are what is independent, and the repeats of a doc say how well it is known itself.
        Of a single doc it is the error over its repeats, and holds for that doc alone. NaN of fewer
        than two values.
        """
        return self._final.error

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of ``final``, by Student's t; NaN of fewer than two values.

        Over as many docs as there are, or over the repeats of a single one.
        """
        return self._final.low, self._final.high

    @property
    def verdict(self) -> Verdict:
        """The result in a word.

        ``"passes"``: with all weights random the heatmap is another, so that the whole interval
        lies below the threshold. ``"fails"``: it is much the same, and the whole interval lies
        above, so that heatmaps show the picture and not the model. ``"cannot be told"``: the
        interval has the threshold in it; more docs make it narrower. Or there is nothing to
        compare, since the heatmaps of the model, or those of random weights, are the same
        everywhere; ``logits=True`` mostly helps, as probabilities are often saturated.

        It is a verdict on the last step alone. What is still much the same many steps down depends
        on nothing above, as the plot shows.
        """
        low, high = self.interval
        if high < self.threshold:
            return "passes"
        return "fails" if low >= self.threshold else "cannot be told"

    @property
    def _final(self) -> _Estimate:
        return _Estimate.of(self.correlations[..., -1])

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
        each = [_Estimate.of(self.correlations[..., step]) for step in range(steps)]
        # A heatmap is like itself, without a doubt.
        mean, low, high = np.array(
            [(1.0, 1.0, 1.0), *((one.mean, one.low, one.high) for one in each)]
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


@dataclass(frozen=True)
class _Estimate:
    """A mean, its standard error, and its confidence interval; NaN where they are not known."""

    mean: float
    error: float = math.nan
    low: float = math.nan
    high: float = math.nan

    @classmethod
    def of(cls, correlations: Float64[np.ndarray, "docs repeats"]) -> _Estimate:
        """That of the size of correlations ``(docs, repeats)``, less those that are NaN."""
        known = ~np.isnan(correlations)
        docs = known.any(axis=1)
        sizes = np.abs(correlations[docs])
        values = np.nanmean(sizes, axis=1) if docs.sum() > 1 else sizes[known[docs]]
        if not values.size:
            return cls(math.nan)
        mean, error = float(values.mean()), standard_error(values)
        if math.isnan(error):
            return cls(mean)
        margin = t_quantile(1 - LEVEL / 2, len(values) - 1) * error
        return cls(mean, error, max(0.0, mean - margin), min(1.0, mean + margin))


def sanity_check(
    model: keras.Model,
    docs: Shaped[np.ndarray, "docs ..."],
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
    <https://arxiv.org/abs/1810.03292>`_: weights are drawn anew layer by layer, from the top of the
    model down, and after each step the same class is explained again at the same layer. A heatmap
    that is still much the same when all weights are random does not show what the model has learnt.

    What one doc and one draw of weights give is mostly chance, so pass several docs: ten tell most
    methods, where two or three often tell nothing, and the result says so. Each doc gets random
    weights of its own, so that docs are independent of each other.

    The model runs with the random weights in the place of its own, which stay what they are, also
    for other threads. Kernels are drawn by the layer's own initialiser; where that is none that
    draws, from a normal distribution of mean 0 and the kernel's own size. Biases and what batch
    normalisation keeps go back to where they started; other vectors are shuffled. Scalars and whole
    numbers stay, and so does a ``tf.Variable`` that is no weight of Keras's.

    Args:
        model: The classifier.
        docs: Its inputs, preprocessing done, shape ``(docs, height, width, channels)``, or
            ``(docs, channels, height, width)`` for a channels-first model; one or many.
        targets: The class to explain for each doc, a list of indices; a list of one holds for all.
            None takes the class with the greatest score. It stays the same throughout.
        layer: The layer to explain, as `kerasight.explain_prediction` takes it.
        steps: In how many steps to go down, of about as many layers each, the first of one; never
            more than there are layers with weights. None takes each layer alone. 1 draws all at
            once, which is all that the verdict takes.
        repeats: How often to go down for each doc, each time with other random weights. By chance,
            the heatmap of random weights is now and then like any other.
        threshold: Which size of the final correlation is too great.
        seed: Of the random weights.
        progress: Whether to show a progress bar; None shows it on a terminal, after a second.
        **explain_kwargs: Passed on to `kerasight.explain_prediction`: ``method``, ``logits``,
            ``relu``, ``image``, ...

    Returns:
        A `SanityCheck`, with the correlations at each step and a ``verdict``.

    Raises:
        TypeError: If an argument is of a type that it cannot be.
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
    if "top_targets" in explain_kwargs:
        raise ValueError("one class of a doc is checked at a time; pass it as targets, as in [243]")
    check_progress(progress)
    check_model(model)
    if not isinstance(docs, np.ndarray):
        raise TypeError(
            "docs must be a numpy.ndarray of shape (docs, height, width, channels), got "
            f"{type(docs).__name__}"
        )
    # Imported only now, as they need Keras.
    from kerasight.keras.explain_prediction import check_shape
    from kerasight.keras.traces import lasting_scope

    check_shape(model, docs, number=None)
    explain_kwargs["progress"] = False  # ours alone
    wanted = None if targets is None else classes_of(targets, len(docs))
    with _without_warnings():
        firsts = [
            _explained(
                f"doc {position}",
                model,
                docs[position : position + 1],
                targets=None if wanted is None else [wanted[position]],
                layer=layer,
                **explain_kwargs,
            )
            for position in range(len(docs))
        ]
    _check_functions(model)
    groups = _groups(model, docs[:1], steps)
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
            doc, target = docs[position : position + 1], chosen[position]
            with scope:
                explanation = _explained(
                    what, model, doc, targets=[target], layer=layer, **explain_kwargs
                )
            yield _target_and_heatmap(explanation)[1]

    shape = (len(docs), repeats, len(groups))
    cascades = itertools.starmap(cascade, np.ndindex(shape[:2]))
    with _without_warnings():
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


def _explained(
    what: str, model: keras.Model, doc: Shaped[np.ndarray, "1 ..."], **kwargs: Any
) -> Explanation:
    """The explanation; raises ValueError if there is none, saying of ``what``."""
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
        weights: Its weights, less those of layers inside it and those of whole numbers; each with
            the variable that stands in for it.
    """

    path: str
    layer: Any
    weights: list[tuple[Any, Any]]

    def fill(self, scope: keras.StatelessScope, rng: np.random.Generator | None) -> None:
        """Give it random weights in a scope; those that it was trained to, if ``rng`` is None."""
        for weight, other in self.weights:
            other.assign(weight if rng is None else _drawn(self.layer, weight, rng))
            scope.add_update((weight, other.value))


def _check_functions(model: keras.Model) -> None:
    """Raise ValueError if a layer holds what runs with the weights that it was traced with."""
    import keras

    from kerasight.keras.layers import walk

    # A call is run line by line; all else of these is for training, or the work of `predict`.
    known = {*dir(keras.Model), "predict_function", "test_function", "train_function"}
    for path, layer in [(model.name, model), *walk(model)]:
        theirs = [kind for kind in type(layer).__mro__ if not kind.__module__.startswith("keras.")]
        held = {name: one for owner in (*theirs[::-1], layer) for name, one in vars(owner).items()}
        for name in held.keys() - known:
            if hasattr(held[name], "get_concrete_function"):
                raise ValueError(
                    f"layer {path!r} has a tf.function, {name!r}, which keeps to the weights that "
                    "it was traced with; make it a plain method, so that others can be tried"
                )


def _groups(model: keras.Model, doc: np.ndarray, steps: int | None) -> list[list[_Unit]]:
    """The layers to randomise at each step, from the top: the last to run first.

    Raises:
        ValueError: If no layer has weights.
    """
    import keras

    from kerasight.keras import backends
    from kerasight.keras.layers import children, walk

    paths = {layer: path for path, layer in walk(model)}
    layers = [*paths, model]
    ran = backends.current().forward(model, doc, layers)
    last_call = {layer: place for place, layer in enumerate(ran)}
    layers.sort(key=lambda layer: last_call.get(layer, -1), reverse=True)
    units = []
    for layer in layers:
        inside = {id(weight) for child in children(layer) for weight in child.weights}
        own = [
            # Not trainable, as functions with gradients of their own would ask for its gradient.
            (weight, keras.Variable(weight, trainable=False, dtype=weight.dtype, name="random"))
            for weight in layer.weights
            if id(weight) not in inside and "float" in str(weight.dtype)
        ]
        if own:
            units.append(_Unit(paths.get(layer, layer.name), layer, own))
    if not units:
        raise ValueError(f"model {model.name!r} has no weights to draw at random")
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
