from __future__ import annotations

import inspect
import re
from typing import Any

import numpy as np
import pytest

from kerasight.cam.methods import METHODS
from kerasight.cam.request import OPTIONS, Request, check_options, takes_options

FINER = {"method": "finer-cam"}
SHAP = {"method": "kernel-shap"}
LABELS = np.array([[0, 1], [1, 1]])


@pytest.mark.parametrize(
    "name", ["grad-cam++", "layercam", "eigen-cam", "eigengrad-cam", "score-cam"]
)
def test_a_method_that_knows_no_sign_refuses_to_show_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{re.escape(name)}' cannot do relu=False: it"):
        Request.of({"method": name, "relu": False})


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("eigen-cam", "does not depend on the class"),
        ("eigengrad-cam", "knows no"),
        ("score-cam", "knows no"),
    ],
)
def test_a_method_without_counterfactual_refuses_one(name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"counterfactual=True: it {reason}.*grad-cam, grad-cam"):
        Request.of({"method": name, "counterfactual": True})


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"method": "gradcan"}, ValueError, "unknown method 'gradcan'; .*; known are grad-cam, "),
        ({"method": 3}, TypeError, "got int"),
        ({"relu": 0}, TypeError, "relu must be True or False, got int"),
        ({"logits": "yes"}, TypeError, "logits must be True or False, got str"),
        ({"counterfactual": 1}, TypeError, "counterfactual must be True or False"),
        ({"smooth": -1}, ValueError, "smooth must be at least 0, got -1"),
        ({"smooth": 2.5}, TypeError, "smooth must be an integer, got float"),
        ({"smooth": True}, TypeError, "smooth must be an integer, got bool"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"progress": "x"}, TypeError, "progress must be True, False or None"),
        ({"progress": 1}, TypeError, "progress must be True, False or None"),
        ({"progress": []}, TypeError, "progress must be True, False or None"),
        (
            {"alpha": 0.5},
            ValueError,
            "'grad-cam' has no use for alpha: .* finer-cam does; .* alpha_limit",
        ),
        ({"references": [1]}, ValueError, "'grad-cam' has no use for references"),
        ({**FINER, "alpha": "1"}, TypeError, "alpha must be a number, got str"),
        ({**FINER, "alpha": True}, TypeError, "alpha must be a number, got bool"),
        ({**FINER, "alpha": -0.1}, ValueError, "at least 0, and finite, got -0.1"),
        ({**FINER, "alpha": np.nan}, ValueError, "at least 0, and finite, got nan"),
        ({**FINER, "references": 0}, ValueError, "must be at least 1, got 0"),
        ({**FINER, "references": True}, TypeError, "or a list .* got bool"),
        ({**FINER, "references": 1.5}, TypeError, "or a list .* got float"),
        ({**FINER, "references": []}, ValueError, "at least one class index, got"),
        ({**FINER, "references": ["a"]}, TypeError, "got str; of a name, pass"),
        ({"window": 3}, ValueError, "no use for window: it hides no parts .* are occlusion, rise"),
        (
            {"method": "rise", "stride": 3},
            ValueError,
            "slides no window .* that have are occlusion",
        ),
        ({"method": "rise", "segments": LABELS}, ValueError, "hides no segments; .* kernel-shap"),
        ({"method": "occlusion", "samples": 3}, ValueError, "no use for samples"),
        ({"method": "rise", "window": 0}, ValueError, "window must be at least 1, got 0"),
        ({"method": "rise", "window": (3, 0)}, ValueError, "each number must be at least 1"),
        ({"method": "rise", "window": 2.5}, TypeError, r"or one for each axis, .* got 2\.5"),
        ({"method": "rise", "window": True}, TypeError, "got True"),
        ({**SHAP, "segments": [1, 2]}, TypeError, "array of whole numbers, .* got list"),
        ({**SHAP, "segments": LABELS / 2}, TypeError, "got float64"),
        ({**SHAP, "segments": LABELS, "window": 2}, ValueError, "exclude each other"),
    ],
)
def test_what_makes_no_sense_is_refused(
    asked: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Request.of(asked)


def test_numpy_booleans_and_integers_are_taken() -> None:
    request = Request.of({"relu": np.bool_(False), "smooth": np.int64(3)})
    assert request.title == "Grad-CAM (signed, smoothed over 3)"


def test_none_stands_for_the_default_and_other_names_are_left_to_others() -> None:
    assert Request.of({**dict.fromkeys(OPTIONS), "layer": "conv"}) == Request()
    assert Request().title == METHODS["grad-cam"].title


def test_classes_to_compare_with_count_once() -> None:
    assert Request.of({**FINER, "references": np.array([4, 1, 4])}).references == (4, 1)
    assert Request.of({**FINER, "references": np.int64(2)}).references == 2


def test_of_several_methods_each_takes_the_options_that_it_can_do_with() -> None:
    asked = {"relu": False, "alpha": 0.5, "smooth": 3}
    first, second, third = Request.of_methods(
        ["finer-cam", "score-cam", "grad-cam", "finer-cam"], asked
    )
    assert [one.method.name for one in (first, second, third)] == [
        "finer-cam",
        "score-cam",
        "grad-cam",
    ]
    assert [(one.relu, one.alpha) for one in (first, second, third)] == [
        (False, 0.5),
        (True, None),
        (False, None),
    ]
    assert first.smooth == second.smooth == third.smooth == 3


def test_what_none_of_several_methods_can_do_with_is_refused() -> None:
    with pytest.raises(ValueError, match="'score-cam' cannot do relu=False"):
        Request.of_methods(["score-cam", "layercam"], {"relu": False})


@pytest.mark.parametrize("without", [(), ("method", "seed")])
def test_a_function_shows_the_options_that_it_takes(without: tuple[str, ...]) -> None:
    @takes_options(*without)
    def explain(model: Any, *, smooth: int = 7, **options: Any) -> None:
        """Has a default of its own."""

    parameters = inspect.signature(explain).parameters
    shown = [name for name in OPTIONS if name not in ("smooth", *without)]
    assert list(parameters) == ["model", "smooth", *shown]
    assert parameters["smooth"].default == 7
    assert parameters["relu"].default is True
    assert all(parameters[name].kind is inspect.Parameter.KEYWORD_ONLY for name in shown)
    assert without or parameters["method"].default is None


def test_an_option_that_is_not_there_is_refused_with_the_nearest() -> None:
    check_options(dict.fromkeys(OPTIONS))
    with pytest.raises(TypeError, match="no option 'smoth'; the nearest name is smooth"):
        check_options({"smoth": 3})
    with pytest.raises(TypeError, match="no option 'x'; known are method, logits"):
        check_options({"x": 3})
    with pytest.raises(TypeError, match="no option 'method'; known are logits, relu"):
        check_options({"method": "grad-cam"}, "method")
