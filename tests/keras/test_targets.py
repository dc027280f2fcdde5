from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from keras import ops

from kerasight.keras.targets import Classes, Contrast, Negative, Target

SCORES = np.array([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3]], np.float32)


def numbers(target: Target, scores: np.ndarray = SCORES) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(target.score(scores)))


def classes(target: Target) -> list[list[int]]:
    found: list[list[int]] = np.asarray(target.settled(SCORES).classes()).tolist()
    return found


def contrast(of: Target, alpha: float = 0.5, **others: Any) -> Contrast:
    return Contrast(of, np.array(alpha, np.float32), **others)


def test_classes_are_those_named() -> None:
    target = Classes(np.array([[2, 0], [1, 2]]))
    assert classes(target) == [[2, 0], [1, 2]]
    np.testing.assert_allclose(numbers(target), [[0.3, 0.1], [0.2, 0.3]])


def test_one_row_of_classes_stands_for_all_docs() -> None:
    assert classes(Classes(np.array([[2, 0]]))) == [[2, 0], [2, 0]]


def test_ranks_count_from_the_greatest_score_or_from_the_lowest() -> None:
    assert classes(Classes.top(2)) == [[1, 2], [0, 2]]
    assert classes(Classes.top(-2)) == [[0, 2], [1, 2]]


def test_of_equal_scores_the_first_is_the_greatest() -> None:
    settled = Classes.top(2).settled(np.float32([[0.5, 0.5, 0.5]]))
    assert np.asarray(settled.classes()).tolist() == [[0, 1]]


def test_there_are_no_more_ranks_than_classes() -> None:
    assert Classes.top(5).check(3).number == 3
    assert Classes(np.array([[2, 2]])).check(3).number == 2


@pytest.mark.parametrize("target", [Classes(np.array([[3]])), Classes(np.array([[-1]]))])
def test_a_class_that_is_not_there_is_refused(target: Target) -> None:
    with pytest.raises(ValueError, match=r"target -?\d is out of range: .* 3 classes.*\[0, 3\)"):
        target.check(3)
    with pytest.raises(ValueError, match="is out of range"):
        Negative(contrast(target, nearest=1)).check(3)


def test_the_negative_has_the_other_sign() -> None:
    target = Negative(Classes.top(1))
    np.testing.assert_allclose(numbers(target), [[-0.6], [-0.5]])
    assert classes(target) == [[1], [0]]


def test_a_contrast_takes_a_share_of_the_mean_of_the_nearest_away() -> None:
    target = contrast(Classes.top(1), nearest=2)
    # 0.6 - 0.5 * (0.1 + 0.3) / 2, and 0.5 - 0.5 * (0.2 + 0.3) / 2
    np.testing.assert_allclose(numbers(target), [[0.5], [0.375]], rtol=1e-6)
    nearest = contrast(Classes.top(1), nearest=1).settled(SCORES)
    assert np.asarray(nearest.rivals()).tolist() == [[[2]], [[2]]]


def test_a_contrast_of_more_than_there_are_takes_all_others() -> None:
    settled = contrast(Classes.top(1), nearest=9).settled(SCORES)
    assert np.sort(np.asarray(settled.rivals())).tolist() == [[[0, 2]], [[1, 2]]]


def test_a_class_is_not_its_own_rival() -> None:
    target = contrast(Classes.top(1), references=np.array([[[0, 1]]]))
    np.testing.assert_allclose(numbers(target), [[0.6 - 0.05], [0.5 - 0.1]], rtol=1e-6)


def test_a_contrast_with_itself_alone_is_the_class() -> None:
    target = contrast(Classes(np.array([[2]])), references=np.array([[[2]]]))
    np.testing.assert_allclose(numbers(target), [[0.3], [0.3]])


def test_there_is_nothing_to_compare_a_single_class_with() -> None:
    with pytest.raises(ValueError, match="no class to compare with: there is one score"):
        contrast(Classes.top(1), nearest=3).check(1)
    with pytest.raises(ValueError, match=r"reference 3 is out of range.*\[0, 3\)"):
        contrast(Classes.top(1), references=np.array([[[3]]])).check(3)


@pytest.mark.parametrize(
    "target",
    [
        Classes(np.array([[2, 0], [1, 2]])),
        Classes.top(2),
        Negative(Classes.top(-1)),
        contrast(Classes.top(2), nearest=1),
        Negative(contrast(Classes.top(2), references=np.array([[[0, 1]]]))),
    ],
)
def test_the_seed_is_the_derivative_of_the_score(target: Target) -> None:
    settled, step = target.settled(SCORES), 1e-2
    seed = np.asarray(ops.convert_to_numpy(settled.seed(SCORES)))
    assert seed.shape == (target.number, *SCORES.shape)
    for doc in range(len(SCORES)):
        for index in range(SCORES.shape[1]):
            bump = np.zeros_like(SCORES)
            bump[doc, index] = step
            difference = numbers(settled, SCORES + bump) - numbers(settled, SCORES - bump)
            np.testing.assert_allclose(seed[:, doc, index], difference[doc] / (2 * step), atol=1e-4)


def test_once_settled_a_target_means_the_same_of_other_scores() -> None:
    settled = contrast(Classes.top(1), nearest=1).settled(SCORES)
    turned = SCORES[:, ::-1].copy()
    # Still class 1 less half of class 2, and class 0 less half of class 2.
    np.testing.assert_allclose(numbers(settled, turned), [[0.55], [0.05]], rtol=1e-5)


def test_what_compiles_once_is_told_from_what_may_change() -> None:
    one, other = Classes(np.array([[2]])), Classes.top(1)
    assert (one.kind(), one.shapes()) == (other.kind(), other.shapes())
    assert Classes.top(2).shapes() == Classes.top(3).shapes() != one.shapes()
    assert contrast(one, nearest=1).kind() != contrast(one, nearest=2).kind()
    assert contrast(one, 0.1, nearest=1).kind() == contrast(one, 0.2, nearest=1).kind()


def test_a_target_is_made_again_of_its_arrays() -> None:
    target = Negative(contrast(Classes.top(2), 0.25, references=np.array([[[0, 1]]])))
    again = Negative(contrast(Classes.top(1), references=np.array([[[2]]]))).with_leaves(
        target.leaves()
    )
    np.testing.assert_array_equal(numbers(again), numbers(target))


def test_a_target_of_some_docs_is_cut_as_they_are() -> None:
    target = Classes(np.array([[2], [1], [0]]))
    assert np.asarray(target.of_docs(slice(1, 3)).classes()).tolist() == [[1], [0]]
    assert Classes.top(1).of_docs(slice(1, 3)).number == 1
