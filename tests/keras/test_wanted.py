from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from tiny_models import MODELS, make_doc, scores_of

import kerasight
from kerasight.keras.record import record

# Tiny random models have small gradients; what warns is tested where it says so.
pytestmark = pytest.mark.filterwarnings("ignore::kerasight.base.HeatmapWarning")


@pytest.mark.parametrize("target", [-1, -(2**30), -(2**30) - 1, 2**70])
def test_no_number_out_of_range_is_a_class(model: keras.Model, target: int) -> None:
    with pytest.raises(ValueError, match=rf"target {target} is out of range"):
        kerasight.explain_prediction(model, make_doc(), targets=[target])


@pytest.mark.parametrize("number", [10**12, 2**100, -(10**12)])
def test_more_classes_than_there_are_are_all(model: keras.Model, number: int) -> None:
    expl = kerasight.explain_prediction(model, make_doc(), top_targets=number)
    order = scores_of(model, make_doc()).argsort()
    wanted = order[::-1] if number > 0 else order
    assert [target.target for target in expl.targets] == list(wanted)


@pytest.mark.parametrize(
    ("targets", "error"),
    [
        (0, TypeError),
        ((0,), TypeError),
        (np.array([0]), TypeError),
        ("0", TypeError),
        ([], ValueError),
        ([0, 1], ValueError),
        (["0"], TypeError),
        ([0.0], TypeError),
        ([True], TypeError),
        ([None], TypeError),
        ([-1], ValueError),
        ([3], ValueError),
    ],
)
def test_targets_that_are_no_list_of_one_class_are_refused(
    targets: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match="target"):
        record(MODELS["functional"](), make_doc(), targets)


def test_numpy_integers_are_integers() -> None:
    assert record(MODELS["functional"](), make_doc(), [np.int64(2)]).target == 2
    assert type(record(MODELS["functional"](), make_doc(), [np.uint8(2)]).target) is int
