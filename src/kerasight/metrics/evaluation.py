"""An evaluation: several methods explain each doc, and several metrics judge each heatmap."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kerasight.cam.inputs import Inputs
from kerasight.cam.methods import CAMS
from kerasight.cam.request import Request, check_options, takes_options
from kerasight.checks import flag, integer
from kerasight.metrics import columns
from kerasight.metrics.columns import DEFAULT, Case, Metric
from kerasight.metrics.common import check_model, docs_of
from kerasight.metrics.comparison import RANDOM, Row
from kerasight.metrics.result import Evaluation
from kerasight.metrics.trial import Trial
from kerasight.progress import check_progress, progress_bar

if TYPE_CHECKING:
    import keras
    from jaxtyping import Bool, Float64

    from kerasight.cam.heatmap import Heatmap
    from kerasight.keras.explainer import Explainer, LayerKeys, TargetNames

__all__ = ["Study", "evaluate"]

# Options of an explanation that an evaluation does not take: it has ``methods``, and its metrics
# judge what speaks for a class.
_NO_OPTIONS = ("method", "counterfactual")

# A method that takes so many seconds is not run once more to be prepared: that would hardly show.
_LONG = 2.0


@dataclass
class Study:
    """Everything about an evaluation but the docs; `evaluate` makes one, and runs it over docs.

    Attributes:
        model: The classifier.
        requests: The methods, with their options.
        metrics: The metrics.
        layer: The layer to explain, as `kerasight.explain_prediction` takes it.
        steps: The number of steps of deletion and insertion.
        random: Whether to judge random heatmaps too.
        batch_size: The number of inputs that go through the model at a time.
        seed: Seed of random heatmaps, of the order of equally hot pixels, and of noise.
        leaves_out: Whether to leave out methods that compare classes if the model has only one.
        logits: Whether to explain the score before the final softmax or sigmoid; None until a doc
            shows whether it can be found.
        progress: Whether slow methods and metrics show a progress bar.
        tell: Called with the name of the next method, or with "metrics", and with the share of the
            doc that is done; may be None.
        seen: Of several inputs, the picture, as the user says it.
    """

    model: keras.Model
    requests: tuple[Request, ...]
    metrics: tuple[Metric, ...]
    layer: LayerKeys | None
    steps: int
    random: bool
    batch_size: int
    seed: int
    leaves_out: bool
    logits: bool | None
    progress: bool | None = None
    tell: Callable[[str, float], None] | None = None
    seen: str | int | None = None
    _warm: dict[bool, list[Explainer]] = field(default_factory=dict, init=False, repr=False)
    _first: dict[str, tuple[list[Heatmap], float]] = field(
        default_factory=dict, init=False, repr=False
    )

    @classmethod
    def of(
        cls,
        model: keras.Model,
        *,
        methods: Sequence[str] | None = None,
        metrics: Sequence[str] | None = None,
        layer: LayerKeys | None = None,
        logits: bool | None = None,
        steps: int = 50,
        random: bool = True,
        batch_size: int = 32,
        seed: int = 0,
        progress: bool | None = None,
        tell: Callable[[str, float], None] | None = None,
        seen: str | int | None = None,
        **options: Any,
    ) -> Study:
        """A study of what the user passed, checked; the arguments are those of `evaluate`."""
        check_model(model)
        check_options(options, *_NO_OPTIONS)
        from kerasight.keras.explainer import Explainer

        for name, value in (("methods", methods), ("metrics", metrics)):
            is_list = isinstance(value, Collection) and not isinstance(value, str)
            if value is not None and not (is_list and len(value)):
                raise ValueError(f"{name} must be a list of names, or None for all, got {value!r}")
        asked = {"logits": logits, "seed": seed, "batch_size": batch_size, "progress": progress}
        Explainer(model, layer=layer)  # which refuses what can be no layer
        return cls(
            model=model,
            requests=Request.of_methods(methods or CAMS, {**options, **asked}),
            metrics=tuple(dict.fromkeys(map(columns.find_metric, metrics or DEFAULT))),
            layer=layer,
            steps=integer("steps", steps, least=1),
            random=flag("random", random),
            batch_size=batch_size,
            seed=seed,
            leaves_out=methods is None,
            logits=logits,
            progress=progress,
            tell=tell,
            seen=seen,
        )

    def rows(
        self,
        doc: Any,
        *,
        targets: Sequence[int] | None = None,
        masks: Sequence[Bool[np.ndarray, "_ _"] | None] | None = None,
        target_names: TargetNames | None = None,
        name: str = "",
        position: int = 0,
    ) -> list[Row]:
        """Explain a doc by every method, and judge the heatmaps by every metric.

        Args:
            doc: One input, shape ``(1, height, width, channels)``, or channels first; or several.
            targets: The classes to explain; None for the class with the greatest score.
            masks: The mask of the object of each class, booleans ``(height, width)``, or None.
            target_names: Names of all classes.
            name: Name of the doc.
            position: Its place among the docs.

        Returns:
            One row for each class and method, class by class.

        Raises:
            TypeError: If ``doc`` is no array of numbers.
            ValueError: If the doc does not fit the model, or cannot be explained or judged.
        """
        from kerasight.keras.anatomy import Anatomy
        from kerasight.keras.docs import batch_of, check_doc
        from kerasight.keras.explainer import name_of
        from kerasight.keras.record import scores_of

        anatomy = Anatomy(self.model)
        inputs = batch_of(anatomy, doc, self.seen)
        check_doc(anatomy, inputs)
        scores = scores_of(self.model, inputs)[0]
        targets = [int(scores.argmax())] if targets is None else list(targets)
        masks = [None] * len(targets) if masks is None else list(masks)
        if len(masks) != len(targets):
            raise ValueError(
                f"there must be a mask for each of the {len(targets)} classes, got {len(masks)}"
            )
        if self.logits is None:
            self.logits = _has_logits(self.model, inputs)
        requests = [
            replace(request, logits=self.logits)
            for request in self.requests
            if not (self.leaves_out and request.method.compares and len(scores) == 1)
        ]
        explainers = self._ready(inputs, targets, requests)
        steps = len(explainers) + len(self.metrics)
        found: dict[str, tuple[list[Heatmap], float]] = {}
        for explainer in explainers:
            method = explainer.request.method.name
            self._tell(method, len(found), steps)
            if method in self._first:
                found[method] = self._first.pop(method)
            else:
                found[method] = _timed(explainer, inputs, targets)
        # All heatmaps, class by class: rank of the class, method, heatmap, layer, seconds.
        shown: list[tuple[int, str, np.ndarray, str, float]] = []
        for rank, target in enumerate(targets):
            for method, (heatmaps, seconds) in found.items():
                one = heatmaps[rank]
                shown.append((rank, method, one.values, one.path, seconds))
            if self.random:
                noise = np.random.default_rng([self.seed, position, target])
                shape, path = shown[0][2].shape, shown[-1][3]
                shown.append((rank, RANDOM, noise.random(shape), path, math.nan))
        ranks, _, maps, _, _ = zip(*shown, strict=True)
        trial = Trial.of(
            self.model,
            docs_of(self.model, inputs),
            maps,
            [targets[rank] for rank in ranks],
            self.batch_size,
            False,
            self.progress,
            is_one_doc=True,
        )
        case = Case(trial, [masks[rank] for rank in ranks], self.steps, self.seed)
        values = self._measured(case, len(explainers), steps)
        return [
            Row(
                position=position,
                doc=name,
                target=targets[rank],
                name=name_of(targets[rank], target_names, len(scores)),
                score=float(scores[targets[rank]]),
                method=method,
                layer=path,
                seconds=seconds,
                values={metric: float(each[place]) for metric, each in values.items()},
            )
            for place, (rank, method, _, path, seconds) in enumerate(shown)
        ]

    def _tell(self, what: str, done: float, steps: int) -> None:
        if self.tell is not None:
            self.tell(what, done / steps)

    def _ready(
        self, doc: Inputs, targets: Sequence[int], requests: Sequence[Request]
    ) -> list[Explainer]:
        """An explainer for each method, once it has run for the first time.

        What a method takes is then measured without what is compiled at its first run. A method
        that takes long does not run twice: compiling is a small part of its time.
        """
        from kerasight.keras.explainer import Explainer
        from kerasight.keras.record import scores_of
        from kerasight.keras.traces import WORTH_A_TRACE

        several = len(targets) > 1
        if several not in self._warm:
            layer, explainers = self.layer, []
            docs = doc.repeated(WORTH_A_TRACE)
            for request in requests:
                # What looks at several layers chooses them by itself, and others look at none.
                of_method = {"layer": layer, "layers": self.layer}
                if not request.method.is_slow:
                    here = of_method.get(request.method.at)
                    first, *_ = _heatmaps(Explainer(self.model, request, here), docs, targets)
                    if layer is None and request.method.at == "layer":
                        layer = of_method["layer"] = first.site
                else:
                    for _ in range(2):
                        scores_of(self.model, docs, logits=request.logits)
                explainer = Explainer(self.model, request, of_method.get(request.method.at))
                heatmaps, seconds = _timed(explainer, doc, targets)
                if seconds > _LONG:
                    self._first[request.method.name] = heatmaps, seconds
                explainers.append(explainer)
            self._warm[several] = explainers
        return self._warm[several]

    def _measured(
        self, case: Case, done: int, steps: int
    ) -> dict[str, Float64[np.ndarray, " heatmaps"]]:
        """All metrics of the heatmaps of a doc."""
        has_mask = any(mask is not None for mask in case.masks)
        plans = {
            metric.name: metric.measure(case)
            for metric in self.metrics
            if metric.measure is not None and (has_mask or not metric.needs_mask)
        }

        def tell(share: float) -> None:
            self._tell("metrics", done + share * (steps - done), steps)

        tell(0)
        results = case.trial.results([*plans.values()], tell)
        return columns.with_difference(dict(zip(plans, results, strict=True)))

    def evaluation(self, rows: Iterable[Row], errors: Iterable[tuple[str, str]] = ()) -> Evaluation:
        """The result of what was measured."""
        metrics = tuple(metric.name for metric in self.metrics)
        return Evaluation(tuple(rows), metrics, bool(self.logits), tuple(errors))


def _timed(
    explainer: Explainer, doc: Inputs, targets: Sequence[int]
) -> tuple[list[Heatmap], float]:
    start = time.perf_counter()
    heatmaps = _heatmaps(explainer, doc, targets)
    return heatmaps, time.perf_counter() - start


def _heatmaps(explainer: Explainer, docs: Inputs, targets: Sequence[int]) -> list[Heatmap]:
    """The heatmaps of the first doc, one for each class; the other docs are as it is."""
    from kerasight.keras.targets import Classes

    return explainer.look(docs, Classes(np.array([targets]))).heatmaps()


def _has_logits(model: keras.Model, doc: Inputs) -> bool:
    """Whether the score before the final softmax or sigmoid can be found."""
    from kerasight.keras.record import scores_of

    try:
        scores_of(model, doc, logits=True)
    except ValueError:
        return False
    return True


@takes_options(*_NO_OPTIONS)
def evaluate(
    model: keras.Model,
    docs: Iterable[Any],
    *,
    methods: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    targets: Iterable[int | Sequence[int]] | None = None,
    masks: Iterable[Bool[np.ndarray, "_ _"] | Sequence[Bool[np.ndarray, "_ _"] | None] | None]
    | None = None,
    names: Iterable[object] | None = None,
    target_names: TargetNames | None = None,
    layer: LayerKeys | None = None,
    logits: bool | None = None,
    steps: int = 50,
    random: bool = True,
    batch_size: int = 32,
    seed: int = 0,
    errors: Literal["raise", "keep"] = "raise",
    progress: bool | None = None,
    seen: str | int | None = None,
    **options: Any,
) -> Evaluation:
    """Explain docs by several methods, and judge the heatmaps by several metrics.

    The metrics always watch the model's output, mostly a probability. ``logits`` says which score
    is explained. The default is the score before the final softmax or sigmoid, where it can be
    found: the papers of the methods take it, and it does not saturate.

    Args:
        model: The classifier.
        docs: Its inputs, preprocessing done: an array ``(docs, height, width, channels)``, or
            anything to iterate over that holds docs, each ``(height, width, channels)`` or
            ``(1, height, width, channels)``; channels first for a channels-first model. They may
            differ in size if the model takes that. For a model of several inputs, docs are dicts,
            lists or tuples of arrays; or one dict of batches.
        methods: Names of methods, as in `kerasight.explain_prediction`; None for all class
            activation maps.
        metrics: Names of metrics: ``"pointing_game"``, ``"energy_in_mask"``, ``"deletion"``,
            ``"insertion"``, ``"average_drop"``, ``"increase"``, ``"road"`` and ``"complexity"``;
            None for all but the last. The first two need masks.
        targets: For each doc the class to explain, or a list of classes; None for the class with
            the greatest score.
        masks: For each doc the mask of the object: booleans ``(height, width)``, of any size; a
            list with a mask for each of its classes; or None where it is not known.
        names: The name of each doc in the rows; None numbers them.
        target_names: Names of the classes: a list with one for each, or a dict from index to name.
        layer: The layer of class activation maps, as in `kerasight.explain_prediction`.
        logits: Whether to explain the score before the final softmax or sigmoid. None explains it
            where it can be found.
        steps: The number of steps of deletion and insertion.
        random: Whether to judge random heatmaps too: uniform noise at the resolution of the layer.
        batch_size: The number of inputs that go through the model at a time.
        seed: Seed of random heatmaps, of the order of equally hot pixels, and of noise.
        errors: What to do with the error of a doc: ``"raise"`` it with the name of the doc, or
            ``"keep"`` it in the ``errors`` of the result, and go on.
        progress: Whether to show a progress bar, by tqdm; None shows it on a terminal.
        seen: Of several inputs, the picture, as `kerasight.explain_prediction` takes it.
        **options: ``relu``, ``alpha``, ``references`` and ``smooth``, as in
            `kerasight.cam.request.Request`. Each goes to all methods that can do with it: ``alpha``
            and ``references`` to those that compare classes, ``relu=False`` to those whose heatmaps
            have a sign.

    Returns:
        A `kerasight.metrics.result.Evaluation`.

    Raises:
        TypeError: If an argument has a wrong type, or there is no such option.
        ValueError: If an argument has a wrong value; if none of the methods can do with an option;
            if ``names``, ``targets`` or ``masks`` are fewer than docs; if a doc cannot be explained
            or judged.

    Example:
        >>> import numpy as np
        >>> from kerasight import demo
        >>> from kerasight.metrics.evaluation import evaluate
        >>> model = demo.load_model()
        >>> pictures = [demo.draw_picture(seed, size=96) for seed in range(2)]
        >>> docs = np.concatenate([demo.preprocess(picture.image) for picture in pictures])
        >>> found = evaluate(
        ...     model,
        ...     docs,
        ...     targets=[picture.labels for picture in pictures],
        ...     masks=[picture.masks for picture in pictures],
        ...     methods=["grad-cam", "layercam"],
        ...     metrics=["pointing_game", "deletion"],
        ... )
        >>> found
        evaluation of 3 methods by 2 metrics on 2 docs
        >>> found.mean("grad-cam", "deletion") < found.mean("random", "deletion")
        True
    """
    if errors not in ("raise", "keep"):
        raise ValueError(f"errors must be 'raise' or 'keep', got {errors!r}")
    check_progress(progress)
    study = Study.of(
        model,
        methods=methods,
        metrics=metrics,
        layer=layer,
        logits=logits,
        steps=steps,
        random=random,
        batch_size=batch_size,
        seed=seed,
        progress=None if progress is None else False,  # the bar that counts docs is enough
        seen=seen,
        **options,
    )
    # Imported only now, as it needs Keras.
    from kerasight.keras.explainer import check_names

    check_names(target_names)
    rows: list[Row] = []
    failures: list[tuple[str, str]] = []
    with closing(_bar(docs, progress)) as bar:
        for position, (doc, name, of_doc, where) in enumerate(
            _together(docs, names, targets, masks)
        ):
            try:
                rows += study.rows(
                    doc,
                    targets=of_doc,
                    masks=where,
                    target_names=target_names,
                    name=name,
                    position=position,
                )
            except (TypeError, ValueError) as error:
                if errors == "raise":
                    kind = TypeError if isinstance(error, TypeError) else ValueError
                    raise kind(f"doc {name}: {error}") from error
                failures.append((name, str(error)))
            bar.update()
    return study.evaluation(rows, failures)


def _bar(docs: Any, progress: bool | None) -> Any:
    total = len(docs) if hasattr(docs, "__len__") else None
    return progress_bar(progress=progress, total=total, desc="evaluating", unit="doc")


def _together(
    docs: Iterable[Any],
    names: Iterable[object] | None,
    targets: Iterable[int | Sequence[int]] | None,
    masks: Iterable[Any] | None,
) -> Iterator[tuple[Any, str, list[int] | None, list[Bool[np.ndarray, "_ _"] | None] | None]]:
    """Each doc with its name, its classes and their masks."""
    from kerasight.keras.wanted import class_index

    if not hasattr(docs, "__iter__") and not hasattr(docs, "__getitem__"):
        raise TypeError(
            "docs must be an array of shape (docs, height, width, channels), or something to "
            f"iterate over that holds docs, got {type(docs).__name__}"
        )
    given = [
        (what, _one_by_one(what, values))
        for what, values in (("names", names), ("targets", targets), ("masks", masks))
    ]
    if isinstance(docs, dict):
        batch = Inputs(docs)
        docs = [batch[row : row + 1].structure for row in range(len(batch))]
    for position, doc in enumerate(docs):
        found: list[Any] = []
        for what, values in given:
            try:
                found.append(None if values is None else next(values))
            except StopIteration:
                raise ValueError(
                    f"{what} must hold one for each doc, and ends at doc {position}"
                ) from None
        name, of_doc, where = found
        yield (
            doc,
            str(position if name is None else name),
            None if of_doc is None else [class_index(target) for target in np.atleast_1d(of_doc)],
            None if where is None else [where] if _is_array(where, 2) else list(where),
        )


def _one_by_one(what: str, values: Any) -> Iterator[Any] | None:
    """What was given for each doc; None if nothing was."""
    if values is None:
        return None
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise TypeError(
            f"{what} must be a list with one for each doc, or None, got {type(values).__name__}"
        )
    return iter(values)


def _is_array(value: Any, rank: int) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == rank
