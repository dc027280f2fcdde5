"""Ways that take the gradients of many changed docs: along a path, from baselines, under noise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np

from kerasight.cam.baselines import baseline_of
from kerasight.cam.heatmap import Evidence
from kerasight.keras.subject import Subject, parts

if TYPE_CHECKING:
    pass

__all__ = ["along_path", "from_baselines", "under_noise"]


def along_path(subject: Subject) -> list[Evidence]:
    """The formula of the mean gradients on the straight line from the baseline to the doc."""
    baseline = subject.one_baseline()
    difference, steps = subject.values - baseline, subject.samples
    middles = ((np.arange(steps) + 0.5) / steps).astype(difference.dtype)
    total = np.zeros((len(subject.terms), *difference.shape))
    for some in _parts(subject):
        path = np.multiply.outer(middles[some], difference)
        path += baseline
        for gradients in np.moveaxis(subject.gradients_at(path), 1, 0):
            total += gradients
    totals = subject.score - subject.scores_at(baseline[np.newaxis])[0]
    formula = subject.request.method.formula
    return [
        Evidence(formula(difference, mean), float(one))
        for mean, one in zip(total / steps, totals, strict=True)
    ]


def from_baselines(subject: Subject) -> list[Evidence]:
    """The formula of the gradients at random points between the doc and random baselines."""
    random = np.random.default_rng(subject.request.seed)
    values, given, asked = subject.values, subject.baselines(), subject.baseline
    formula, number = subject.request.method.formula, subject.samples
    sums = [np.zeros(values.shape[:-1]) for _ in subject.terms]
    shares = random.random((number, *[1] * values.ndim)).astype(values.dtype)
    drawn = random.integers(2**31 if given is None else len(given), size=number)
    for some in _parts(subject):
        if given is None:
            assert not isinstance(asked, np.ndarray)
            baselines = np.stack([baseline_of(values, asked, int(seed)) for seed in drawn[some]])
        else:
            baselines = given[drawn[some]]
        differences = values - baselines
        gradients = subject.gradients_at(baselines + shares[some] * differences)
        for total, of_target in zip(sums, gradients, strict=True):
            for difference, gradient in zip(differences, of_target, strict=True):
                total += formula(difference, gradient)
    return [Evidence(total / number) for total in sums]


def under_noise(subject: Subject) -> list[Evidence]:
    """The formula of the mean gradients, and of their mean squares, of noisy copies."""
    random = np.random.default_rng(subject.request.seed)
    values = subject.values
    shape = (len(subject.terms), *values.shape)
    means, squares = np.zeros(shape), np.zeros(shape)
    for some in _parts(subject):
        noisy = subject.noise(random, (some.stop - some.start, *values.shape))
        noisy += values
        for gradients in np.moveaxis(subject.gradients_at(noisy), 1, 0):
            means += gradients
            squares += np.square(gradients, dtype=np.float64)
    formula, number = subject.request.method.formula, subject.samples
    return [
        Evidence(formula(mean, square))
        for mean, square in zip(means / number, squares / number, strict=True)
    ]


def _parts(subject: Subject) -> Iterator[slice]:
    """The samples in batches, with a progress bar."""
    # A gradient at the doc keeps what all layers put out, which takes twice the memory and more.
    most = max(1, subject.request.batch_size // 2)
    with closing(subject.bar(subject.samples, "pass")) as bar:
        for some in parts(subject.samples, most):
            yield some
            bar.update(some.stop - some.start)
