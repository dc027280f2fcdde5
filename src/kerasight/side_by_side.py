"""Several methods on one picture: whether they agree, and whether the model does what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasight.base import Explanation
from kerasight.cam.methods import find_method
from kerasight.checks import integer
from kerasight.explain import explain_prediction
from kerasight.metrics.common import baselines, check_model, docs_of
from kerasight.metrics.consensus import Agreement, agreement
from kerasight.metrics.perturbation import curve
from kerasight.metrics.trial import Trial

if TYPE_CHECKING:
    from jaxtyping import Float64
    from matplotlib.axes import Axes

__all__ = ["METHODS_TO_COMPARE", "Faithfulness", "SideBySide", "compare"]

METHODS_TO_COMPARE = (
    "grad-cam",
    "hirescam",
    "layercam",
    "integrated-gradients",
    "smoothgrad",
    "occlusion",
)
"""The methods that `compare` takes unless told otherwise: quick ones of each family."""


@dataclass(frozen=True)
class Faithfulness:
    """Whether the score goes where a heatmap says, on one picture.

    Attributes:
        deletion: The area below the score as pixels are deleted, the hottest first; the lower the
            better.
        insertion: The area as they are inserted; the higher the better.
        moved: Insertion less deletion of the same heatmap moved elsewhere, for several moves.
    """

    deletion: float
    insertion: float
    moved: tuple[float, ...]

    @property
    def difference(self) -> float:
        """Insertion less deletion: one number for both, the higher the better."""
        return self.insertion - self.deletion

    @property
    def p_value(self) -> float:
        """How likely a heatmap that knows nothing of the picture is to do as well, in (0, 1].

        The share of moved heatmaps that do, this one counted among them.
        """
        as_good = sum(one >= self.difference for one in self.moved)
        return (1 + as_good) / (1 + len(self.moved))

    @property
    def verdict(self) -> str:
        """What that says.

        ``"faithful"`` if one moved heatmap in twenty or fewer does as well; ``"no better than
        chance"`` if most do; else ``"cannot be told"``.
        """
        return next(verdict for verdict, most in _VERDICTS.items() if self.p_value <= most)


# By the greatest p-value for each.
_VERDICTS = {"faithful": 0.05, "cannot be told": 0.5, "no better than chance": 1.0}


@dataclass(frozen=True, eq=False)
class SideBySide:
    """The result of `compare`. In a notebook it shows itself.

    Attributes:
        explanations: The explanation by each method, by its name.
        faithfulness: Whether each can be believed, by its name; empty if the doc is no picture.
        agreement: Whether they show the same places; None of a single method, and if the doc is no
            picture.
    """

    explanations: dict[str, Explanation]
    faithfulness: dict[str, Faithfulness] = field(default_factory=dict)
    agreement: Agreement | None = None

    @cached_property
    def explanation(self) -> Explanation:
        """All of them in one explanation, with methods in the place of classes."""
        first = next(iter(self.explanations.values()))
        of = (first.targets or [])[0]
        targets = [
            replace(
                one.targets[0],
                target=str(one.method),
                name=None,
                detail=self._told(name),
                score=None,
                gap=None,
            )
            for name, one in self.explanations.items()
            if one.targets
        ]
        words = "\n".join(self._sentences())
        return replace(
            first,
            method=f"{len(targets)} methods for {of.label}",
            description=words,
            layer=None,
            targets=targets,
        )

    def _told(self, name: str) -> str:
        """What the caption of a method says beside its name."""
        if name not in self.faithfulness:
            return ""
        found = self.faithfulness[name]
        return f"{found.verdict} (p {found.p_value:.2f})"

    def _sentences(self) -> list[str]:
        """What the numbers say, in words."""
        if not self.faithfulness:
            return ["Whether heatmaps can be believed is measured of pictures alone."]
        moves = len(next(iter(self.faithfulness.values())).moved)
        told = [
            "Pixels were deleted, and inserted, the hottest first. A heatmap is faithful if the "
            "score follows it better than the same heatmap moved elsewhere; p is the share of "
            f"{moves} moves, and itself, that do as well."
        ]
        for verdict in _VERDICTS:
            so = [name for name, one in self.faithfulness.items() if one.verdict == verdict]
            told += [f"{verdict.capitalize()}: {', '.join(so)}."] if so else []
        if self.agreement is not None:
            told.append(f"They agree with a rank correlation of {self.agreement.mean:.2f}.")
        return told

    def __repr__(self) -> str:
        head = ("method", "deletion", "insertion", "difference", "p", "")
        rows: list[tuple[str, ...]] = [
            (
                name,
                f"{one.deletion:.3f}",
                f"{one.insertion:.3f}",
                f"{one.difference:+.3f}",
                f"{one.p_value:.2f}",
                one.verdict,
            )
            for name, one in self.faithfulness.items()
        ] or [(name, *[""] * 5) for name in self.explanations]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (head, *rows)
        ]
        if self.agreement is not None:
            lines.append(repr(self.agreement))
        return "\n".join(lines)

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw whether the methods agree; the arguments are those of `Agreement.plot`.

        Raises:
            ValueError: If there is no agreement to draw.
        """
        if self.agreement is None:
            raise ValueError("there is nothing to draw: it takes two methods, and a picture")
        return self.agreement.plot(ax, **kwargs)

    def _repr_png_(self) -> bytes | None:
        return self.explanation._repr_png_()

    def _repr_html_(self) -> str:
        return self.explanation._repr_html_()


def compare(
    model: Any,
    doc: Any,
    methods: Sequence[str] = METHODS_TO_COMPARE,
    *,
    targets: list[int] | None = None,
    moves: int = 19,
    steps: int = 10,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    **asked: Any,
) -> SideBySide:
    """Explain a prediction by several methods, and say which of them can be believed here.

    Heatmaps of one picture often differ, and all look convincing. This asks the model: pixels are
    deleted and inserted, the hottest of each heatmap first (`kerasight.metrics.deletion`), and the
    same is done with the heatmap moved elsewhere in the picture, and turned over, at random. A
    heatmap that knows where the model looked beats what it is elsewhere. And it asks the methods
    whether they agree (`kerasight.metrics.agreement`).

    Args:
        model: A Keras model.
        doc: One input, as `kerasight.explain_prediction` takes it.
        methods: Names of methods.
        targets: The class, as a list of one; None for the class with the highest score.
        moves: How often each heatmap is moved. No p-value is less than one in ``moves`` + 1.
        steps: The number of steps of deletion, and of insertion.
        options: Options of some methods alone, by their names, such as ``{"occlusion": {"window":
            16}}``.
        **asked: What `kerasight.explain_prediction` takes beside that, for all methods:
            ``target_names``, ``image``, ``logits``, ``batch_size``, ``seed``, ... ``layer`` goes to
            class activation maps.

    Returns:
        A `SideBySide`: pictures side by side, and the numbers. Of docs that are no pictures, or of
        targets that are no classes, it has the heatmaps alone.

    Raises:
        TypeError: If ``model`` is no Keras model; else as `kerasight.explain_prediction`.
        ValueError: As `kerasight.explain_prediction`; if there is no method, or an option is of
            none.

    Example:
        >>> import kerasight
        >>> from kerasight import demo
        >>> model, doc = demo.load_model(), demo.preprocess(demo.load_picture())
        >>> found = kerasight.compare(model, doc, ["grad-cam", "eigen-cam"])
        >>> found.faithfulness["grad-cam"].verdict
        'faithful'
    """
    check_model(model)
    moves, steps = integer("moves", moves, least=1), integer("steps", steps, least=1)
    names = list(dict.fromkeys(find_method(name).name for name in _list_of_names(methods)))
    own = {find_method(name).name: dict(value) for name, value in (options or {}).items()}
    for name in own.keys() - set(names):
        raise ValueError(f"options has {name!r}, which is none of the methods: {', '.join(names)}")
    explanations: dict[str, Explanation] = {}
    for name in names:
        given = {**asked, **own.get(name, {})}
        if find_method(name).at != "layer" and "layer" not in own.get(name, {}):
            given.pop("layer", None)
        expl = explain_prediction(model, doc, targets=targets, method=name, **given)
        if not expl.targets:
            raise ValueError(expl.error)
        explanations[name] = expl
        target = expl.targets[0].target
        if targets is None and isinstance(target, int) and asked.get("target") is None:
            targets = [target]  # the same of all
    first = explanations[names[0]]
    is_of_class = first.targets is not None and isinstance(first.targets[0].target, int)
    if first.kind != "picture" or not is_of_class or asked.get("target") is not None:
        return SideBySide(explanations)
    heatmaps = {
        name: expl.targets[0].heatmap for name, expl in explanations.items() if expl.targets
    }
    return SideBySide(
        explanations,
        _faithfulness(model, doc, heatmaps, targets or [], moves, steps, asked),
        agreement(explanations) if len(names) > 1 else None,
    )


def _list_of_names(methods: Any) -> list[str]:
    if isinstance(methods, str) or not isinstance(methods, Sequence) or not methods:
        raise ValueError(f"methods must be a list of names of methods, got {methods!r}")
    return list(methods)


def _faithfulness(
    model: Any,
    doc: Any,
    heatmaps: Mapping[str, Any],
    targets: list[int],
    moves: int,
    steps: int,
    asked: Mapping[str, Any],
) -> dict[str, Faithfulness]:
    """Deletion and insertion of each heatmap, as it is and moved."""
    seed = asked.get("seed") or 0
    random = np.random.default_rng(seed)
    # A quarter of the sides and more, so that little is left where it was; the same for all.
    by, turns = random.uniform(0.25, 0.75, (moves, 2)), random.random((moves, 2)) < 0.5
    maps = [
        moved
        for heatmap in heatmaps.values()
        for moved in (heatmap, *(_moved(heatmap, *one) for one in zip(by, turns, strict=True)))
    ]
    trial = Trial.of(
        model,
        docs_of(model, doc, asked.get("seen")),
        maps,
        targets * len(maps),
        asked.get("batch_size") or 32,
        False,
        asked.get("progress"),
        is_one_doc=True,
    )
    mean, blur = (baselines(name, trial.docs, seed) for name in ("mean", "blur"))
    deleted, inserted = trial.results(
        [
            curve("deletion", trial, mean, steps, seed, "mean"),
            curve("insertion", trial, blur, steps, seed, "blur"),
        ]
    )
    differences = inserted.areas - deleted.areas
    found = {}
    for number, name in enumerate(heatmaps):
        first = number * (moves + 1)
        found[name] = Faithfulness(
            float(deleted.areas[first]),
            float(inserted.areas[first]),
            tuple(differences[first + 1 : first + 1 + moves].tolist()),
        )
    return found


def _moved(
    heatmap: Float64[np.ndarray, "height width"], move: Sequence[float], turns: Sequence[bool]
) -> Float64[np.ndarray, "height width"]:
    """A heatmap elsewhere: moved around the edges, by shares of its sides, and turned over."""
    cells = [max(1, round(share * side)) for share, side in zip(move, heatmap.shape, strict=True)]
    moved = np.roll(heatmap, cells, axis=(0, 1))
    turned = np.flip(moved, tuple(axis for axis in (0, 1) if turns[axis]))
    return np.ascontiguousarray(turned)
