"""Judge every method on a model of the demonstration's pictures, and print tables of the docs.

Run as ``python tests/demo/judge_methods.py transformer --kept transformer.json``. What is measured
is written to the file as soon as it is there, and not measured again: a run that was stopped goes
on. RISE sees each picture under 4,000 masks, and so gets fewer of them than other methods do. Of a
model without attention, the methods that look at attention are left out.

What methods cost is measured apart, on a machine that does nothing else, by ``--costs``.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parents[1]))

import keras
import numpy as np
from demo.transformer import load_transformer, load_with_head
from timing import seconds

from kerasight.cam.maps import resized
from kerasight.cam.methods import METHODS
from kerasight.cam.request import Request
from kerasight.demo import Picture, draw_pair, draw_picture, load_model, preprocess
from kerasight.files import whole_file
from kerasight.keras.explainer import Explainer
from kerasight.keras.targets import Classes
from kerasight.metrics import adcc, agreement, completeness, grid_pointing_game, sensitivity
from kerasight.metrics.columns import METRICS, Case, with_difference
from kerasight.metrics.common import docs_of
from kerasight.metrics.comparison import RANDOM, Row
from kerasight.metrics.result import Evaluation
from kerasight.metrics.statistics import Estimate
from kerasight.metrics.trial import Trial

MODELS = {"classifier": load_model, "transformer": load_transformer, "head": load_with_head}
STEPS = 25
SAMPLES = 4
# The cells of the layer that class activation maps look at, in all three models.
GRID = (12, 12)
FAMILIES = {
    "layer": "Class activation maps",
    "layers": "Class activation maps",
    "doc": "Gradients at the doc",
    "outside": "Masks",
    "blocks": "Attention",
}
NOISE = "Noise"
# The methods whose attributions are to sum to a difference of scores, and how many baselines they
# compare the picture with: expected gradients draws one for each of its samples.
COMPLETE = {
    name: METHODS[name].samples if name == "expected-gradients" else 1
    for name in ("integrated-gradients", "expected-gradients", "kernel-shap")
}


@dataclass(frozen=True)
class Amounts:
    """What a method is measured on.

    Attributes:
        pictures: Those that it explains once.
        mosaics: Those of four pictures, in each of which it explains four classes.
        again: The pictures that it explains several times.
        rounds: How often its time is taken.
    """

    pictures: int
    mosaics: int
    again: int
    rounds: int

    @classmethod
    def of(cls, method: str) -> Amounts:
        """As many as it can be given time for."""
        if method == "rise":
            return cls(20, 6, 4, 3)
        runs_often = METHODS[method].is_slow and METHODS[method].needs != "curvature"
        return cls(60, 10, 6, 7) if runs_often else cls(60, 40, 60, 40)


class Kept:
    """What was measured of a model: by its kind, and by method."""

    def __init__(self, path: Path | None) -> None:
        """Read what is there; without a path, nothing is kept."""
        self.path = path
        is_there = path is not None and path.exists()
        self.parts = json.loads(path.read_text()) if path is not None and is_there else {}

    def once(self, part: str, method: str, measure: Callable[[], Any]) -> None:
        """Measure what is not there yet."""
        known = self.parts.setdefault(part, {})
        if method not in known:
            known[method] = measure()
            if self.path is not None:
                with whole_file(self.path) as file:
                    json.dump(self.parts, file)

    def part(self, name: str) -> dict[str, Any]:
        """What is there of a kind, by method."""
        found: dict[str, Any] = self.parts.get(name, {})
        return found


@dataclass(frozen=True)
class Judge:
    """A model, and what its methods are judged on."""

    model: keras.Model
    kept: Kept

    @property
    def methods(self) -> list[str]:
        """The methods that can explain the model."""
        attends = any(isinstance(one, keras.layers.MultiHeadAttention) for one in self.model.layers)
        return [name for name, method in METHODS.items() if attends or method.at != "blocks"]

    @cached_property
    def pictures(self) -> list[Picture]:
        """Those of ``kerasight evaluate``: one with one object, one with two, and so on."""
        random = np.random.default_rng(0)
        draws, number = (draw_picture, draw_pair), Amounts.of(self.methods[0]).pictures
        return [draws[place % 2](random, size=192) for place in range(number)]

    @cached_property
    def singles(self) -> tuple[np.ndarray, list[int]]:
        """Pictures with one object, for mosaics and to be explained again, and their classes."""
        pictures = [draw_picture(seed, size=192) for seed in range(60)]
        return as_docs(pictures), [picture.labels[0] for picture in pictures]

    def measure(self) -> None:
        """All but the costs. What takes longest comes last."""
        self.kept.once("pictures", RANDOM, self._of_noise)
        methods = sorted(self.methods, key=lambda name: Amounts.of(name).pictures, reverse=True)
        for method in methods:
            for part, measure in (
                ("pictures", self._of_pictures),
                ("mosaics", self._of_mosaics),
                ("again", self._of_pictures_again),
            ):
                self.kept.once(part, method, lambda method=method, of=measure: of(method))
                print(method, part, file=sys.stderr, flush=True)
            if method in COMPLETE:
                self.kept.once("gaps", method, lambda method=method: self._gaps(method))

    def measure_costs(self) -> None:
        """How long each method takes, as a multiple of HiResCAM on the same picture."""
        doc, label = as_docs(self.pictures[:1]), self.pictures[0].labels[:1]
        for method in self.methods:
            self.kept.once("costs", method, lambda method=method: self._cost(method, doc, label))
            print(method, file=sys.stderr, flush=True)

    def _cost(self, method: str, doc: np.ndarray, label: Sequence[int]) -> float:
        def explained(name: str) -> Callable[[], Any]:
            explainer = Explainer(self.model, request_of(name))
            return lambda: explainer.look(doc, Classes(np.array([label]))).heatmaps()

        one, other = explained(method), explained("hirescam")
        for _ in range(8):  # the first few runs are eager, or trace
            other()
            if Amounts.of(method).rounds > 7:
                one()
        if Amounts.of(method).rounds <= 7:
            one()
        turns = [(seconds(one), seconds(other)) for _ in range(Amounts.of(method).rounds)]
        return statistics.median(own / of_other for own, of_other in turns)

    def _of_pictures(self, method: str) -> list[dict[str, Any]]:
        explainer = Explainer(self.model, request_of(method))
        heatmaps = []
        for picture in self.pictures[: Amounts.of(method).pictures]:
            classes = Classes(np.array([picture.labels]))
            heatmaps.append(explainer.look(as_docs([picture]), classes).heatmaps())
        return self._judged(
            [[one.values for one in of_picture] for of_picture in heatmaps],
            [float(one.evidence.sum()) for of_picture in heatmaps for one in of_picture],
        )

    def _of_noise(self) -> list[dict[str, Any]]:
        return self._judged(
            [
                [np.random.default_rng([0, position, label]).random(GRID) for label in one.labels]
                for position, one in enumerate(self.pictures)
            ]
        )

    def _judged(
        self, heatmaps: Sequence[Sequence[np.ndarray]], sums: Sequence[float] | None = None
    ) -> list[dict[str, Any]]:
        """Judge heatmaps of the classes of the first pictures: a line for each class of each."""
        shown = [
            (position, label, mask, heatmap)
            for position, (picture, of_picture) in enumerate(
                zip(self.pictures, heatmaps, strict=False)
            )
            for label, mask, heatmap in zip(picture.labels, picture.masks, of_picture, strict=True)
        ]
        positions, labels, masks, maps = map(list, zip(*shown, strict=True))
        docs = as_docs([self.pictures[position] for position in positions])
        trial = Trial.of(
            self.model, docs_of(self.model, docs), maps, labels, 32, False, progress=False
        )
        case = Case(trial, masks, STEPS, seed=0)
        plans = {name: metric.measure(case) for name, metric in METRICS.items() if metric.measure}
        found = with_difference(dict(zip(plans, trial.results([*plans.values()]), strict=True)))
        return [
            {
                "position": positions[place],
                "target": labels[place],
                "score": float(trial.untouched[place]),
                "values": {name: float(values[place]) for name, values in found.items()},
                "cells": resized(maps[place], GRID).ravel().round(5).tolist(),
                "sum": None if sums is None else sums[place],
            }
            for place in range(len(shown))
        ]

    def _of_mosaics(self, method: str) -> dict[str, float]:
        docs, targets = self.singles
        game = grid_pointing_game(
            self.model, docs, targets, mosaics=Amounts.of(method).mosaics, **options_of(method)
        )
        return {
            "heat": game.mean,
            "heat error": game.error,
            "hottest": game.accuracy,
            "hottest error": game.accuracy_error,
        }

    def _of_pictures_again(self, method: str) -> dict[str, float]:
        docs, targets = (some[: Amounts.of(method).again] for some in self.singles)
        how = {"targets": targets, **options_of(method)}
        moved = sensitivity(self.model, docs, samples=SAMPLES, **how)
        left = adcc(self.model, docs, **how)
        return {
            "sensitivity": moved.greatest,
            "sensitivity error": moved.error,
            "adcc": left.mean,
            "adcc error": left.error,
        }

    def _gaps(self, method: str) -> list[float]:
        """How far the attributions of each class of each picture are from complete."""
        lines = self.kept.part("pictures")[method]
        found = [
            completeness(
                self.model,
                as_docs([self.pictures[line["position"]] for line in lines]),
                [np.array([line["sum"]]) for line in lines],
                baseline=METHODS[method].baseline,
                targets=[line["target"] for line in lines],
                logits=True,
                seed=seed,
            )
            for seed in range(COMPLETE[method])
        ]
        mean = np.mean([one.differences for one in found], axis=0)
        gaps: list[float] = replace(found[0], differences=mean).gaps.tolist()
        return gaps

    def evaluation(self) -> Evaluation:
        """The methods by the metrics that take one explanation of each picture."""
        measured = self.kept.part("pictures")
        rows = [
            Row(
                position=line["position"],
                doc=str(line["position"]),
                target=line["target"],
                name=None,
                score=line["score"],
                method=method,
                layer="",
                seconds=math.nan,
                values=line["values"],
            )
            for method in (*self.methods, RANDOM)
            for line in measured.get(method, [])
        ]
        return Evaluation(tuple(rows), tuple(METRICS), logits=True)

    def table(self) -> str:
        """The table of the evaluation, with the number of pictures of each method."""
        found = self.evaluation()
        head, ruler, *lines = found.to_markdown().splitlines()
        numbers = {
            method: len({line["position"] for line in of_method})
            for method, of_method in self.kept.part("pictures").items()
        }
        head = head.replace("| Method |", "| Method | n |", 1)
        ruler = ruler.replace("| --- |", "| --- | ---: |", 1)
        lines = [
            line.replace(f"| {method} |", f"| {method} | {numbers[method]} |", 1)
            for method, line in zip(found.methods, lines, strict=True)
        ]
        return by_family([head, ruler, *lines])

    def table_of_the_rest(self) -> str:
        """The table of what explains pictures several times, of agreement, and of costs."""
        mosaics, again, gaps, costs = map(self.kept.part, ("mosaics", "again", "gaps", "costs"))
        agreeing = self.agreements()
        lines = [
            "| Method | Mosaics | Grid, heat ↑ | Grid, hottest ↑ | Pictures | Sensitivity ↓ "
            "| ADCC ↑ | Agreement | Gap ↓ | Cost ↓ |",
            f"| --- |{' ---: |' * 9}",
        ]
        for method in (*self.methods, RANDOM):
            cells = [""] * 9
            if method in mosaics:
                found = mosaics[method]
                cells[0] = f"{Amounts.of(method).mosaics}"
                cells[1] = f"{found['heat']:.1%} ±{found['heat error']:.1%}"
                cells[2] = f"{found['hottest']:.1%} ±{found['hottest error']:.1%}"
            if method in again:
                found = again[method]
                cells[3] = f"{Amounts.of(method).again}"
                cells[4] = f"{found['sensitivity']:.3f} ±{found['sensitivity error']:.3f}"
                cells[5] = f"{found['adcc']:.3f} ±{found['adcc error']:.3f}"
            if method in agreeing:
                cells[6] = f"{agreeing[method].mean:.2f} ±{agreeing[method].error:.2f}"
            if method in gaps:
                cells[7] = f"{np.median(gaps[method]):.1%}"
            if method in costs:
                cost = costs[method]
                cells[8] = f"{cost:.1f}" if cost < 100 else f"{cost:.0f}"
            lines.append(f"| {method} | {' | '.join(cells)} |")
        return by_family(lines)

    @cached_property
    def correlations(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Names, the pictures that all of them explained, and rank correlations of each two."""
        measured = self.kept.part("pictures")
        names = [name for name in (*self.methods, RANDOM) if name in measured]
        number = min(len(measured[name]) for name in names)
        heatmaps = {
            name: [np.reshape(line["cells"], GRID) for line in measured[name][:number]]
            for name in names
        }
        positions = np.array([line["position"] for line in measured[names[0]][:number]])
        return names, positions, agreement(heatmaps).correlations

    def agreements(self) -> dict[str, Estimate]:
        """Of each method, its mean rank correlation with those of other families.

        Relatives share their assumptions, and some are the same formula on a model, so that to
        agree with them tells little. Each of the other families counts alike, however many methods
        it has.
        """
        names, positions, found = self.correlations
        families = [family_of(name) for name in names]
        agreeing = {}
        for place, name in enumerate(names):
            others = dict.fromkeys(families)
            for left_out in (families[place], NOISE):
                others.pop(left_out, None)
            of_families = [
                np.nanmean(found[:, place, [one == family for one in families]], axis=1)
                for family in others
            ]
            of_cases = np.mean(of_families, axis=0)
            of_pictures = [of_cases[positions == one] for one in np.unique(positions)]
            means = [one[~np.isnan(one)].mean() for one in of_pictures if not np.isnan(one).all()]
            agreeing[name] = Estimate.of(np.array(means))
        return agreeing

    def table_of_families(self) -> str:
        """How far the methods of each two families agree, a method with itself left out."""
        names, _, found = self.correlations
        means = np.nanmean(found, axis=0)
        np.fill_diagonal(means, np.nan)
        families = np.array([family_of(name) for name in names])
        kinds = list(dict.fromkeys(families[families != NOISE].tolist()))
        lines = [f"| | {' | '.join(kinds)} |", f"| --- |{' ---: |' * len(kinds)}"]
        for one in (*kinds, NOISE):
            cells = [
                f"{np.nanmean(means[np.ix_(families == one, families == other)]):.2f}"
                for other in kinds
            ]
            lines.append(f"| {one} | {' | '.join(cells)} |")
        return "\n".join(lines)


def request_of(method: str) -> Request:
    """How a method explains."""
    return Request.of(options_of(method))


def options_of(method: str) -> dict[str, Any]:
    """The same, as options."""
    return {"method": method, "logits": True, "progress": False}


def as_docs(pictures: Sequence[Picture]) -> np.ndarray:
    """Pictures as the models take them."""
    return np.concatenate([preprocess(picture.image) for picture in pictures])


def family_of(method: str) -> str:
    """The family of a method, or of noise."""
    return FAMILIES[METHODS[method].at] if method in METHODS else NOISE


def by_family(lines: Sequence[str]) -> str:
    """Lines of a table, each after the name of the family of its method, where that is new."""
    told, shown = None, [*lines[:2]]
    for line in lines[2:]:
        family = family_of(line.split()[1])
        if family != told:
            shown.append(f"| *{family}* |")
        told = family
        shown.append(line)
    return "\n".join(shown)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--kept", type=Path, metavar="FILE", help="what was measured, as JSON")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--costs", action="store_true", help="measure the costs, and nothing else")
    what.add_argument("--show", action="store_true", help="measure nothing, and print what is kept")
    options = parser.parse_args(arguments)
    judge = Judge(MODELS[options.model](), Kept(options.kept))
    if options.costs:
        judge.measure_costs()
    elif not options.show:
        judge.measure()
    if judge.kept.part("pictures"):
        print(judge.table(), *judge.evaluation().summary("picture"), sep="\n")
        print(judge.table_of_the_rest(), judge.table_of_families(), sep="\n\n")


if __name__ == "__main__":
    main()
