from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kerasight.cam.baselines import BASELINES, baseline_of, check_baseline, name_of_baseline

# Four steps of two channels, with the means 2 and 0.
SIGNAL = np.array([[1, -2], [2, 2], [3, -2], [2, 2]], np.float32)


@pytest.mark.parametrize(
    ("baseline", "expected"), [("zero", [0, 0]), ("mean", [2, 0]), (0.5, [0.5, 0.5])]
)
def test_some_baselines_are_the_same_everywhere(baseline: Any, expected: list[float]) -> None:
    for space in ((4,), (2, 2), (1, 2, 2)):
        doc = SIGNAL.reshape(*space, 2)
        found = baseline_of(doc, baseline)
        assert (found.shape, found.dtype) == (doc.shape, doc.dtype)
        np.testing.assert_array_equal(found, np.broadcast_to(expected, doc.shape))


def test_a_blurred_signal_has_its_mean_and_less_spread() -> None:
    random = np.random.default_rng(0).normal(size=(300, 2))
    found = baseline_of(random, "blur")
    assert found.std() < random.std() / 2
    np.testing.assert_allclose(found.mean(axis=0), random.mean(axis=0), atol=0.02)


def test_noise_is_seeded_and_within_the_range_of_each_channel() -> None:
    random = np.random.default_rng(0).random((40, 40, 2)) * [1, 10]
    found = baseline_of(random, "noise", seed=1)
    np.testing.assert_array_equal(found, baseline_of(random, "noise", seed=1))
    assert not np.allclose(found, baseline_of(random, "noise", seed=2))
    assert (found.max(axis=(0, 1)) <= random.max(axis=(0, 1))).all()
    assert found[..., 1].std() > 5 * found[..., 0].std()


@pytest.mark.parametrize("value", [*BASELINES, 0, 1.5, np.float32(2), np.ones((2, 2, 3))])
def test_a_name_a_number_and_an_array_are_baselines(value: Any) -> None:
    found = check_baseline("baseline", value)
    np.testing.assert_array_equal(found, value)
    name = name_of_baseline(found)
    assert name == ("array" if isinstance(value, np.ndarray) else name_of_baseline(value))


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (
            "black",
            ValueError,
            "unknown baseline 'black'; known are 'zero', 'mean', 'blur', 'noise'",
        ),
        (True, TypeError, "must be 'zero', .*, a number, or an array of .*, got bool"),
        (None, TypeError, "got NoneType"),
        (np.array(["a"]), TypeError, "must hold real numbers, got dtype <U1"),
        (float("nan"), ValueError, "must be finite"),
        (np.array([np.inf]), ValueError, "must be finite"),
    ],
)
def test_anything_else_is_refused(value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_baseline("baseline", value)
