from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kerasight.cam import attributions
from kerasight.cam.methods import METHODS

# Channel by channel, as they stand in a picture.
DOC = np.stack([[[1, 2], [0, 1]], [[3, 0], [1, 4]]], axis=-1).astype(np.float32)
GRADIENTS = np.stack([[[1, 0], [-2, 3]], [[-1, 1], [2, -6]]], axis=-1).astype(np.float32)

FORMULAS = [getattr(attributions, name) for name in attributions.__all__]


def close(found: np.ndarray, expected: Any) -> None:
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)


def test_saliency_is_the_steepest_channel() -> None:
    close(attributions.saliency(DOC, GRADIENTS), [[1, 1], [2, 6]])


def test_input_x_gradient_sums_over_channels() -> None:
    close(attributions.input_x_gradient(DOC, GRADIENTS), [[1 - 3, 0], [2, 3 - 24]])


@pytest.mark.parametrize(
    "formula", [attributions.integrated_gradients, attributions.expected_gradients]
)
def test_on_a_path_differences_are_multiplied(formula: Callable[..., np.ndarray]) -> None:
    close(formula(DOC - 1, GRADIENTS), [[0 - 2, 0 - 1], [2 + 0, 0 - 18]])


def test_smoothgrad_is_the_saliency_of_the_mean() -> None:
    close(attributions.smoothgrad(GRADIENTS, GRADIENTS**2), [[1, 1], [2, 6]])


def test_smoothgrad_squared_is_the_greatest_mean_of_squares() -> None:
    close(attributions.smoothgrad_squared(GRADIENTS, DOC), [[3, 2], [1, 4]])


def test_vargrad_is_the_greatest_variance_and_never_negative() -> None:
    squares = GRADIENTS**2 + np.array([0.5, -1e-9], np.float32)
    close(attributions.vargrad(GRADIENTS, squares), np.full((2, 2), 0.5))


@pytest.mark.parametrize("formula", FORMULAS)
def test_space_has_one_to_three_axes_and_terms_fit(formula: Callable[..., np.ndarray]) -> None:
    expected = formula(DOC, GRADIENTS)
    for space in ((4,), (1, 4), (2, 1, 2)):
        found = formula(DOC.reshape(*space, 2), GRADIENTS.reshape(*space, 2))
        close(found, expected.reshape(space))
    with pytest.raises(ValueError, match=r"the same; got \(2, 2, 2\) and \(2, 2, 1\)"):
        formula(DOC, GRADIENTS[..., :1])
    with pytest.raises(ValueError, match="gradients must be finite"):
        formula(DOC, np.full_like(DOC, np.nan))


@pytest.mark.parametrize("formula", FORMULAS)
def test_each_formula_is_documented_with_its_paper(formula: Callable[..., np.ndarray]) -> None:
    text = formula.__doc__ or ""
    assert ".. math::" in text
    assert re.search(r"https://arxiv\.org/abs/\d{4}\.\d{4,5}", text)


def test_each_formula_is_that_of_a_method() -> None:
    of_methods = {method.formula for method in METHODS.values() if method.at == "doc"}
    assert of_methods == set(FORMULAS)
