from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kerasight.base import DocWeightedSpans, FeatureWeight, FeatureWeights, WeightedSpans
from kerasight.cam.words import Words, weighted

WORDS = Words("so so good", (("so", 0, 2), ("so", 3, 5), ("good", 6, 10), None))


def test_each_step_gives_its_word_its_weight_and_equal_words_are_summed() -> None:
    spans, features = weighted(WORDS, np.array([-0.5, 0.25, 1, 0.75]))
    assert spans == WeightedSpans(
        [
            DocWeightedSpans(
                "so so good",
                [("so", [(0, 2)], -0.5), ("so", [(3, 5)], 0.25), ("good", [(6, 10)], 1.0)],
            )
        ]
    )
    assert features == FeatureWeights(
        pos=[FeatureWeight("good", 1.0, value=1)], neg=[FeatureWeight("so", -0.25, value=2)]
    )


def test_words_are_ranked_and_those_of_no_weight_left_out() -> None:
    words = Words("a b c d e", tuple((one, 2 * at, 2 * at + 1) for at, one in enumerate("abcde")))
    _, features = weighted(words, np.array([0.5, -1, 0, 0.75, -0.5]))
    assert [one.feature for one in features.pos] == ["d", "a"]
    assert [one.feature for one in features.neg] == ["b", "e"]


@pytest.mark.parametrize(
    ("heatmap", "weights"),
    [([0.5], [0.5, 0.5, 0.5]), ([0, 1], [0, 0.25, 0.75]), ([0, 1, 1, 0, 1, 1, 0, 0], None)],
)
def test_a_heatmap_of_another_resolution_is_brought_to_that_of_the_words(
    heatmap: Any, weights: Any
) -> None:
    spans, _ = weighted(WORDS, np.array(heatmap))
    found = [weight for _, _, weight in spans.docs_weighted_spans[0].spans]
    if weights is None:  # weighted means: the two cells of a step most, those beside it less
        assert found[0] < found[1] > 0.5
    else:
        np.testing.assert_allclose(found, weights)
    assert {type(weight) for weight in found} == {float}


@pytest.mark.parametrize("shape", [(), (0,), (2, 2)])
def test_a_heatmap_has_one_axis(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must have shape \(cells,\), one value a step, got"):
        weighted(WORDS, np.zeros(shape))
