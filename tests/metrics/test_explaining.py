"""What metrics explain by themselves."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from tiny_models import by_hand

from kerasight.base import HeatmapWarning
from kerasight.metrics.explaining import check_one_class, explained, without_warnings

HIRESCAM = {"method": "hirescam", "relu": False}
DOCS = np.ones((2, 2, 2, 1), np.float32)


def test_classes_and_options_are_those_that_are_asked_for() -> None:
    found = list(explained(by_hand(), DOCS, [[0], [0, 1]], "map", HIRESCAM))
    assert [[one.target for one in expl.targets or ()] for expl in found] == [[0], [0, 1]]
    assert [expl.method for expl in found] == ["HiResCAM (signed)"] * 2


def test_docs_of_which_no_picture_can_be_made_are_explained() -> None:
    model = keras.Sequential(
        [keras.Input((4, 4, 7)), layers.Conv2D(2, 1), layers.GlobalAveragePooling2D()]
    )
    (found,) = explained(model, np.ones((1, 4, 4, 7), np.float32), [[0]], None, {"relu": False})
    assert found.targets


def test_what_cannot_be_explained_is_named() -> None:
    with pytest.raises(ValueError, match="mosaics cannot be explained: no layer 'mop'"):
        list(explained(by_hand(), DOCS, None, "mop", {}, "mosaics"))
    flat = keras.Sequential([keras.Input((2, 2, 1)), layers.Flatten(), layers.Dense(2)])
    with pytest.raises(ValueError, match=r"the docs cannot be explained: .*no layer"):
        list(explained(flat, DOCS, None, None, {}))
    with pytest.raises(ValueError, match="one class of a doc is checked at a time"):
        check_one_class({"top_targets": 2})


def test_blank_heatmaps_need_no_warning() -> None:
    with pytest.warns(HeatmapWarning):
        list(explained(by_hand(), DOCS, [[1], [1]], None, {}))
    with without_warnings():  # elsewhere, they are errors
        list(explained(by_hand(), DOCS, [[1], [1]], None, {}))
