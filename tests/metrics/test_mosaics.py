"""The grid pointing game, on a model whose heatmap of a class is a channel of the picture."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from kerasight.metrics import GridPointingGame, grid_pointing_game
from kerasight.metrics import mosaics as module

CLASSES = 5


def seeing(side: int | None = None, first: bool = False) -> keras.Model:
    """Sees class ``c`` where channel ``c`` of the picture is."""
    shape = (CLASSES, side, side) if first else (side, side, CLASSES)
    inputs = x = keras.Input(shape)
    if first:
        x = layers.Permute((2, 3, 1))(x)
    conv = layers.Conv2D(CLASSES, 1, use_bias=False, name="map")
    head = layers.Dense(CLASSES, use_bias=False)
    model = keras.Model(inputs, head(layers.GlobalAveragePooling2D()(conv(x))), name="seeing")
    conv.set_weights([np.eye(CLASSES).reshape(1, 1, CLASSES, CLASSES)])
    head.set_weights([np.eye(CLASSES)])
    return model


def pure(side: int = 2) -> np.ndarray:
    """Two docs of each class, all of which is the class."""
    docs = np.zeros((2 * CLASSES, side, side, CLASSES), np.float32)
    docs[np.arange(2 * CLASSES), :, :, np.arange(2 * CLASSES) // 2] = 1
    return docs


TARGETS = np.repeat(np.arange(CLASSES), 2).tolist()


def test_heat_in_the_cell_of_the_class_is_right() -> None:
    found = grid_pointing_game(seeing(), pure(), TARGETS, mosaics=6)
    assert found.size == (4, 4)
    np.testing.assert_allclose(found.shares, 1)
    np.testing.assert_array_equal(found.hits, 1)
    assert (found.layer, found.method, found.chance) == ("map", "Grad-CAM", 0.25)


def test_mosaics_are_of_different_classes_each_by_one_of_its_docs() -> None:
    found = grid_pointing_game(seeing(), pure(), TARGETS, mosaics=20)
    np.testing.assert_array_equal(np.array(TARGETS)[found.places], found.targets)
    assert all(len({*classes}) == 4 for classes in found.targets.tolist())
    assert {*found.places.ravel().tolist()} == {*range(10)}
    again, other = (
        grid_pointing_game(seeing(), pure(), TARGETS, mosaics=20, seed=seed) for seed in (0, 1)
    )
    np.testing.assert_array_equal(again.places, found.places)
    assert (other.places != found.places).any()


def test_heat_in_other_cells_is_wrong_and_heat_below_0_is_none() -> None:
    docs = pure()
    docs[TARGETS.index(0)] = docs[TARGETS.index(0) + 1]
    docs[:2, :, :, 1] = 1  # docs of class 0 show class 1 as well,
    docs[:2, :, :, 2] = -1  # and speak against class 2
    found = grid_pointing_game(seeing(), docs, TARGETS, mosaics=20, relu=False)
    for classes, shares, hits in zip(found.targets, found.shares, found.hits, strict=True):
        expected = np.where((classes == 1) & (0 in classes), 0.5, 1)
        np.testing.assert_allclose(shares, expected)
        np.testing.assert_allclose(hits, expected)
    assert 0.8 < found.mean < 1


def test_a_class_that_is_not_seen_has_no_share() -> None:
    docs = pure()
    docs[:2] = 0
    found = grid_pointing_game(seeing(), docs, TARGETS, mosaics=10)
    np.testing.assert_allclose(found.shares, found.targets != 0)


@pytest.mark.parametrize(("side", "size"), [(None, (6, 6)), (3, (3, 3))])
def test_a_model_of_a_fixed_size_sees_docs_shrunk_to_cells(
    side: int | None, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    docs, made, lay = pure(3), [], module._laid
    docs[:, 0] *= 4  # the mean of a doc is 2, row by row 4, 1 and 1

    def kept(*given: Any) -> np.ndarray:
        made.append(lay(*given))
        return made[-1]

    monkeypatch.setattr(module, "_laid", kept)
    found = grid_pointing_game(seeing(side), docs, TARGETS, mosaics=2)
    assert found.size == size
    np.testing.assert_allclose(found.shares, 1)
    for mosaic, places in zip(made, found.places, strict=True):
        assert mosaic.shape == (*size, CLASSES)
        if side is None:
            np.testing.assert_array_equal(mosaic[3:, :3], docs[places[2]])
        else:
            # Of three rows and columns the first cell has two, as 1.5 is rounded to even.
            assert mosaic[0, 0, TARGETS[places[0]]] > mosaic[1, 0, TARGETS[places[0]]]
            np.testing.assert_allclose(mosaic[2, 2], docs[places[3]].mean((0, 1)), rtol=0.2)


def test_the_size_may_be_chosen_and_channels_may_come_first() -> None:
    docs = np.moveaxis(pure(), -1, 1)
    found = grid_pointing_game(seeing(first=True), docs, TARGETS, mosaics=3, size=(6, 8))
    assert found.size == (6, 8)
    np.testing.assert_allclose(found.shares, 1)


def make() -> GridPointingGame:
    shares = np.array([[1.0, 0.5, 0.5, 0.0], [1.0, 1.0, 1.0, 0.0]])
    places = np.zeros((2, 4), int)
    return GridPointingGame(
        shares, (shares > 0.6) * 1.0, places, places, (64, 64), "conv", "Grad-CAM"
    )


def test_the_mean_has_an_error_over_mosaics() -> None:
    found = make()
    np.testing.assert_allclose(found.of_mosaics, [0.5, 0.75])
    assert float(found) == found.mean == 0.625
    assert found.error == pytest.approx(0.125)
    assert found.accuracy == 0.5
    assert found.accuracy_error == pytest.approx(0.25)
    assert repr(found) == (
        "grid pointing game: 0.6250 ± 0.1250 of the heat in the right cell; the hottest point in "
        "it 0.5000 ± 0.2500; 0.2500 by chance (Grad-CAM, layer conv, 2 mosaics of 2 x 2 docs at "
        "64 x 64 px; the higher the better)"
    )
    one = GridPointingGame(
        found.shares[:1], found.hits[:1], found.places[:1], found.targets[:1], (4, 4), "c", "m"
    )
    assert math.isnan(one.error)
    assert "0.5000 of the heat" in repr(one)


def test_shares_are_drawn_with_chance_beside_them() -> None:
    ax = make().plot(bins=2)
    assert [bar.get_height() for bar in ax.patches] == [2, 6]
    assert [line.get_xdata()[0] for line in ax.lines] == [0.625, 0.25]
    assert make().plot(ax, label="other") is ax
    assert len(ax.lines) == 3  # chance is drawn once


@pytest.mark.parametrize(
    ("targets", "settings", "error", "message"),
    [
        (TARGETS, {"n": 1}, ValueError, "n must be at least 2"),
        (TARGETS, {"n": 3}, ValueError, "9 different classes, got 5 classes"),
        (TARGETS, {"mosaics": 0}, ValueError, "mosaics must be at least 1"),
        (TARGETS, {"size": 8}, TypeError, "a height and a width in pixels, got 8"),
        (TARGETS, {"size": (1, 8)}, ValueError, "each number must be at least 2"),
        (TARGETS[:3], {}, ValueError, "a class for each of the 10 docs"),
        (TARGETS, {"top_targets": 2}, ValueError, "one class of a doc"),
        (TARGETS, {"layer": "mop"}, ValueError, "mosaics cannot be explained: no layer 'mop'"),
    ],
)
def test_what_makes_no_mosaic_is_refused(
    targets: list[int], settings: dict[str, Any], error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        grid_pointing_game(seeing(), pure(), targets, **settings)


def test_a_model_of_several_inputs_is_refused() -> None:
    inputs = [keras.Input((2, 2, CLASSES), name="one"), keras.Input((3,), name="two")]
    scores = layers.Dense(CLASSES)(layers.Flatten()(inputs[0]))
    model = keras.Model(inputs, layers.Add()([scores, layers.Dense(CLASSES)(inputs[1])]))
    with pytest.raises(ValueError, match="the model takes 2 inputs"):
        grid_pointing_game(model, [pure(), np.ones((10, 3), np.float32)], TARGETS)
