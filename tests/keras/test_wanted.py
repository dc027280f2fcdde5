from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from tiny_models import MODELS, make_doc, scores_of

import kerasight
from kerasight.keras.record import record
from kerasight.keras.targets import Classes, Target
from kerasight.keras.wanted import class_target, classes_of, target_of, top_classes

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


def test_one_class_several_or_those_of_the_greatest_scores_are_wanted() -> None:
    def wanted(target: Target) -> tuple[list[list[int]], bool]:
        assert isinstance(target, Classes)
        return target.indices.tolist(), bool(target.are_ranks)

    assert wanted(target_of(None, None)) == ([[0]], True)
    assert wanted(target_of([4], None)) == wanted(class_target(4)) == ([[4]], False)
    assert wanted(target_of(None, 2)) == wanted(top_classes(None, 2)) == ([[0, 1]], True)
    assert wanted(target_of(None, np.int64(-2))) == ([[-1, -2]], True)
    assert wanted(classes_of((4, np.uint8(2)))) == ([[4, 2]], False)


@pytest.mark.parametrize(
    ("targets", "top_targets", "error", "says"),
    [
        ([1], 2, ValueError, "either targets or top_targets"),
        (None, 0, ValueError, "at least 1, or negative for the lowest scores, got 0"),
        (None, 2.0, TypeError, "top_targets must be an integer, got float"),
        (None, True, TypeError, "top_targets must be an integer, got bool"),
        (["cat"], None, TypeError, r"got str; of a name, pass names.index\(name\)"),
    ],
)
def test_what_cannot_be_wanted_is_refused(
    targets: Any, top_targets: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        target_of(targets, top_targets)
