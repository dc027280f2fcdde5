from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fresh_python import run_python
from PIL import Image

import kerasight
from kerasight.cam.maps import (
    channel_weights,
    normalised,
    resized,
    slopes_before_resized,
    slopes_before_stretched,
    stretched,
    weighted_sum,
)

MAP = np.array([[0.0, 1.0], [2.0, 3.0]])


def test_the_folder_needs_numpy_and_nothing_else() -> None:
    folder = Path(kerasight.__file__).parent / "cam"
    modules = [
        "kerasight.cam",
        *(f"kerasight.cam.{path.stem}" for path in folder.glob("[a-z]*.py")),
    ]
    code = f"""if True:
        import importlib, sys

        class Refused:
            def find_spec(self, name, path=None, target=None):
                library = name.partition(".")[0]
                if library not in {{*sys.stdlib_module_names, "kerasight", "numpy"}}:
                    raise ImportError(f"{{name}} was imported")

        sys.meta_path.insert(0, Refused())
        for name in {modules}:
            importlib.import_module(name)
        import numpy as np
        from kerasight.cam.maps import normalised, resized
        from kerasight.cam.methods import METHODS, find_method

        terms = np.ones((2, 2, 3)), np.ones((2, 2, 3))
        resized(normalised(find_method("Grad-CAM").formula(*terms)), (4, 4))
        """
    assert len(modules) > 2
    run_python(code)


# Terms


def test_channel_weights_are_means_over_space() -> None:
    gradients = np.array([[[1, 0], [2, 0]], [[3, 0], [6, 8]]], dtype=np.float32)
    for shape in ((2, 2), (4,), (1, 2, 2)):
        weights = channel_weights(gradients.reshape(*shape, 2))
        np.testing.assert_array_equal(weights, np.array([3, 2], dtype=np.float32))
        assert weights.dtype == np.float32


def test_channel_weights_of_whole_numbers_are_not_rounded() -> None:
    np.testing.assert_array_equal(channel_weights(np.array([[1, -1], [2, 0]])), [1.5, -0.5])


def test_the_weighted_sum_is_over_channels() -> None:
    activations = np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float32)
    for shape in ((3,), (1, 3), (3, 1, 1)):
        found = weighted_sum(np.array([1, -2]), activations.reshape(*shape, 2))
        np.testing.assert_array_equal(found, np.reshape([-3, -5, -7], shape))
        assert found.dtype == np.float64


# Scale


def test_a_map_is_divided_by_its_peak() -> None:
    np.testing.assert_allclose(normalised(np.array([-8, 0, 4])), [0, 0, 1], rtol=1e-6)
    np.testing.assert_allclose(normalised(np.array([-8, 0, 4]), relu=False), [-1, 0, 0.5])
    assert not normalised(np.zeros((2, 1, 2))).any()


def test_a_map_is_stretched_from_0_to_1() -> None:
    np.testing.assert_array_equal(
        stretched(np.array([[-2.0, 0.0], [1.0, 2.0]])), [[0, 0.5], [0.75, 1]]
    )
    np.testing.assert_array_equal(stretched(np.full(3, 7.0)), [0, 0, 0])


# Size


def test_resizing_is_linear_between_the_centres_of_cells() -> None:
    # Centres of the old cells at 1 and 3 of 4, of the new ones at 0.5, 1.5, 2.5 and 3.5.
    expected = np.array([0, 0.25, 0.75, 1])
    np.testing.assert_allclose(resized(np.array([0.0, 1.0]), (4,)), expected, atol=1e-15)
    np.testing.assert_allclose(resized(np.array([[0.0, 1.0]]), (1, 4)), [expected], atol=1e-15)
    # Of MAP, which is linear in both directions, all columns and rows are.
    two = 2 * expected[:, np.newaxis] + expected
    np.testing.assert_allclose(resized(MAP, (4, 4)), two, atol=1e-15)
    volume = np.stack([MAP, MAP + 10])
    three = 10 * expected[:, np.newaxis, np.newaxis] + two
    np.testing.assert_allclose(resized(volume, (4, 4, 4)), three, atol=1e-14)


def test_resizing_keeps_what_is_flat_and_what_has_the_size() -> None:
    np.testing.assert_allclose(resized(np.full((3, 2), 0.3), (7, 11)), 0.3, rtol=1e-15)
    assert resized(MAP, (2, 2)) is MAP
    assert resized(MAP.astype(np.float32), (2, 2)).dtype == np.float64


def test_shrinking_weighs_all_cells() -> None:
    spike = np.zeros((9, 9))
    spike[4, 4] = 9
    small = resized(spike, (3, 3))
    # Triangles as wide as three cells each way: the weights of a row are 1, 2, 3, 2, 1 of 9.
    assert small[1, 1] == pytest.approx(9 * (3 / 9) ** 2)
    assert small[0, 0] == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [((7, 7), (224, 224)), ((5, 3), (64, 48)), ((30, 20), (7, 9)), ((4, 40), (31, 6))],
)
def test_maps_are_resized_as_pillow_does(old: tuple[int, int], new: tuple[int, int]) -> None:
    values = np.random.default_rng(0).random(old).astype(np.float32)
    theirs = Image.fromarray(values).resize(new[::-1], Image.Resampling.BILINEAR)
    np.testing.assert_allclose(resized(values, new), np.asarray(theirs), rtol=1e-6)


def test_a_map_of_another_number_of_axes_is_refused() -> None:
    with pytest.raises(ValueError, match="argument 2 is"):
        resized(MAP, (4, 4, 4))


# Derivatives


@pytest.mark.parametrize(
    ("old", "new"), [((3,), (7,)), ((2, 3), (5, 3)), ((9, 4), (4, 6)), ((2, 1, 3), (4, 4, 4))]
)
def test_the_slopes_before_resizing_are_by_the_transpose(
    old: tuple[int, ...], new: tuple[int, ...]
) -> None:
    random = np.random.default_rng(0)
    values, slopes = random.normal(size=old), random.normal(size=new)
    before = slopes_before_resized(slopes, old)
    assert before.shape == old
    # A linear function and its transpose have the same inner products.
    assert (before * values).sum() == pytest.approx((slopes * resized(values, new)).sum())


def test_the_slopes_before_stretching_are_those_of_finite_differences() -> None:
    random = np.random.default_rng(0)
    values, slopes, step = random.normal(size=(2, 4)), random.normal(size=(2, 4)), 1e-6
    found = slopes_before_stretched(slopes, values)
    for place in np.ndindex(values.shape):
        more, less = values.copy(), values.copy()
        more[place] += step
        less[place] -= step
        change = (slopes * (stretched(more) - stretched(less))).sum() / (2 * step)
        assert found[place] == pytest.approx(change, abs=1e-8)


def test_what_is_least_in_several_places_shares_the_slope_of_the_least() -> None:
    # By the least: -slopes times (1 - shares), which sum to 3 + 4 + 5 / 2, in halves.
    values, slopes = np.array([0.0, 0.0, 1.0, 2.0]), np.array([3.0, 4.0, 5.0, 0.0])
    found = slopes_before_stretched(slopes, values)
    np.testing.assert_allclose(found, [(3 - 4.75) / 2, (4 - 4.75) / 2, 5 / 2, -2.5 / 2])
    assert not slopes_before_stretched(slopes, np.ones(4)).any()
