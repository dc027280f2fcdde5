"""Clusters of heatmaps, and what tells their pictures from others."""

from __future__ import annotations

import numpy as np
import pytest
from auditing.made import marked, objects

pytest.importorskip("sklearn", reason="scikit-learn is no part of this environment")

from kerasight.auditing.clusters import Others, clusterings, pattern_of


def roots_of(heatmaps: list[np.ndarray]) -> np.ndarray:
    maps = np.stack([heat / heat.sum() for heat in heatmaps]).astype(np.float32)
    roots: np.ndarray = np.sqrt(maps.reshape(len(maps), -1))
    return roots


def test_maps_of_two_kinds_are_two_clusters() -> None:
    kinds = [np.eye(4)[0] * 5, np.eye(4)[3] * 5]
    random = np.random.default_rng(0)
    heatmaps = [
        np.tile(kinds[number % 2], (4, 1)) + 0.1 * random.random((4, 4)) for number in range(60)
    ]
    found, usual = clusterings(roots_of(heatmaps), seed=0)
    assert [*found] == [*range(2, 13)]
    assert usual == 2
    first, second = found[2][::2], found[2][1::2]
    assert len({*first}) == len({*second}) == 1
    assert first[0] != second[0]
    again, _ = clusterings(roots_of(heatmaps), seed=0)
    for number, clusters in found.items():
        assert {*clusters} == {*range(number)}
        np.testing.assert_array_equal(clusters, again[number])


def test_a_pattern_tells_a_mark_from_objects_though_the_cluster_is_not_pure() -> None:
    heatmaps = objects(200)
    heatmaps[:30] = map(marked, heatmaps[:30])
    is_in = np.arange(200) < 20
    is_in[100:110] = True  # a third of the cluster has none, and a third of the marks is not in it
    roots = roots_of(heatmaps)
    pattern = pattern_of(roots, is_in, Others.of(roots_of(objects(200, 1))))
    assert pattern is not None
    has = pattern.is_in(roots)
    assert has[:30].all()
    assert np.count_nonzero(has[30:]) <= 1
    others = roots_of(objects(200, 2))
    assert not pattern.is_in(others).any()
    upside_down = roots_of([heat[::-1] for heat in heatmaps])
    np.testing.assert_array_equal(pattern.flipped((7, 7), 0).is_in(upside_down), has)
    assert not pattern.flipped((7, 7), 1).is_in(roots[:30]).any()


def test_too_few_pictures_have_no_pattern() -> None:
    roots = roots_of(objects(50))
    for few in (np.arange(50) < 2, np.arange(50) < 48):
        assert pattern_of(roots, few, Others.of(roots)) is None
