"""Pictures of several metrics, made beside the model and scored in batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest

from kerasight.cam.inputs import Inputs
from kerasight.metrics import road, trial
from kerasight.metrics.common import docs_of
from kerasight.metrics.trial import Plan, Trial, Version, _made, digest


def test_batches_are_made_in_order_and_only_two_ahead() -> None:
    asked: list[int] = []

    def pictures() -> Iterator[tuple[int, Any]]:
        for number in range(98):
            asked.append(number)
            yield number, lambda number=number: np.full(3, number)

    made = _made(pictures(), 4, (3,), np.dtype(np.float32))
    for first in range(0, 40, 4):
        keys, batch = next(made)
        assert keys == [first, first + 1, first + 2, first + 3]
        np.testing.assert_array_equal(batch, np.repeat(keys, 3).reshape(4, 3))
        assert batch.dtype == np.float32
        assert len(asked) == first + 12
    *_, (keys, batch) = made
    assert keys == [96, 97]
    np.testing.assert_array_equal(batch, [[96] * 3, [97] * 3])
    closed = _made(pictures(), 4, (3,), np.dtype(np.float32))
    next(closed)
    closed.close()
    assert len(asked) == 98 + 12


def test_what_fails_as_a_picture_is_made_is_raised() -> None:
    def fails() -> np.ndarray:
        raise RuntimeError("no such colour")

    pictures = iter([(0, lambda: np.zeros(1)), (1, lambda: np.ones(1)), (2, fails), (3, fails)])
    made = _made(pictures, 2, (1,), np.dtype(np.float64))
    assert next(made)[0] == [0, 1]
    with pytest.raises(RuntimeError, match="no such colour"):
        next(made)


def test_a_digest_tells_arrays_apart() -> None:
    masks = [np.arange(9) < count for count in range(10)]
    assert len({digest(mask) for mask in masks}) == 10
    assert digest(masks[3]) == digest(masks[3].copy())
    assert digest(np.eye(3)[:, ::-1]) == digest(np.eye(3)[:, ::-1].copy()) != digest(np.eye(3))


def test_pictures_of_all_metrics_are_spread_over_all_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten()])
    docs, heatmaps = np.zeros((2, 2, 2, 1), np.float32), np.ones((2, 2, 2))
    checked = docs_of(model, docs)
    of_both = Trial.of(model, checked, heatmaps, [0], 4, logits=False, progress=False)
    batches: list[list[float]] = []
    run = trial._scores

    def noted(of: keras.Model, batch: Inputs, logits: bool) -> np.ndarray:
        batches.append(batch.docs[:, 0, 0, 0].tolist())
        return run(of, batch, logits)

    def metric(first: int, each: int) -> Plan[np.ndarray]:
        def changed(place: int) -> Iterator[Version]:
            for column in range(each):
                value = first + each * place + column
                yield value, lambda value=value: np.full((2, 2, 1), value, np.float32)

        scores = yield changed, each
        return scores

    monkeypatch.setattr(trial, "_scores", noted)
    told: list[float] = []
    dear, cheap = of_both.results([metric(0, 2), metric(100, 6)], told.append)
    # Each metric gets its own, and each batch holds one picture in four of the first.
    np.testing.assert_array_equal(dear, np.arange(4).reshape(2, 2))
    np.testing.assert_array_equal(cheap, 100 + np.arange(12).reshape(2, 6))
    assert [sum(value < 100 for value in batch) for batch in batches] == [1, 1, 1, 1]
    assert told == [0, 0.25, 0.5, 0.75]


def test_many_scores_are_what_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = keras.Input((3, 4, 4))
    x = keras.layers.BatchNormalization(axis=1)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)))
    docs = np.random.default_rng(0).random((2, 3, 4, 4), dtype=np.float32)
    heatmaps = np.random.default_rng(1).random((2, 4, 4))
    few = road(model, docs, heatmaps, batch_size=3)
    monkeypatch.setattr(trial, "_MANY", 16)
    monkeypatch.setattr(trial, "_scores", lambda model, batch, logits: untouched)
    untouched = model.predict(docs, verbose=0)
    many = road(model, docs, heatmaps, batch_size=3)
    np.testing.assert_allclose(many.morf, few.morf, rtol=1e-4)
    np.testing.assert_allclose(many.lerf, few.lerf, rtol=1e-4)
