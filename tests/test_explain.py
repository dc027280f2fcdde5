from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import keras
import numpy as np
import pytest
from fresh_python import imported_by, run_python
from tiny_models import MODELS, make_doc

import kerasight
from kerasight import Explanation
from kerasight.cam.request import Request
from kerasight.explain import explain_prediction
from kerasight.keras.explain_prediction import (
    explain_prediction_keras,
    explain_prediction_keras_image,
)
from kerasight.keras.explain_predictions import explain_predictions_keras
from kerasight.metrics.evaluation import evaluate


def test_the_top_level_function_is_the_registry() -> None:
    assert kerasight.explain_prediction is explain_prediction
    assert callable(explain_prediction.register)


@pytest.mark.filterwarnings("ignore::kerasight.base.HeatmapWarning")  # their weights are random
def test_keras_models_of_any_class_are_routed_to_the_keras_explainer() -> None:
    for name in ("functional", "sequential", "subclassed, no training argument"):
        model = MODELS[name]()
        ours = explain_prediction(model, make_doc(), targets=[1])
        assert ours == kerasight.explain_prediction_keras(model, make_doc(), targets=[1])
    assert explain_prediction.dispatch(keras.Sequential) is kerasight.explain_prediction_keras


def test_arguments_may_be_passed_by_position_from_the_first_call_on() -> None:
    code = (
        "from tiny_models import MODELS, make_doc; import kerasight; "
        "expl = kerasight.explain_prediction(MODELS['functional'](), make_doc(), [1], 'conv'); "
        "assert (expl.targets[0].target, expl.layer) == (1, 'conv')"
    )
    run_python(code)


@pytest.mark.parametrize(
    ("function", "arguments", "says"),
    [
        ("explain_prediction", {"zebra": 3}, "keyword argument 'zebra'; known are target"),
        ("explain_prediction", {"tragets": [1]}, "'tragets'; the nearest name is targets"),
        ("explain_prediction", {"colormap": "jet"}, "'colormap'; .*show_prediction"),
        ("show_prediction", {"colourmap": "jet"}, "'colourmap'; the nearest name is colormap"),
        ("explain_predictions", {"image": None}, "'image'; the nearest name is images"),
        ("show_predictions", {"tragets": [1]}, "'tragets'; the nearest name is targets"),
    ],
)
def test_an_unknown_argument_is_refused_in_the_name_of_what_was_called(
    function: str, arguments: dict[str, object], says: str
) -> None:
    called = function.replace("show", "explain")
    with pytest.raises(TypeError, match=rf"^{called}\(\) .*{says}"):
        getattr(kerasight, function)(MODELS["functional"](), make_doc(), **arguments)


def test_wrong_numbers_of_arguments_are_refused_likewise() -> None:
    model, doc = MODELS["functional"](), make_doc()
    with pytest.raises(TypeError, match=r"^explain_prediction\(\) missing .*'doc'"):
        explain_prediction(model)
    with pytest.raises(TypeError, match=r"^explain_prediction\(\) too many positional"):
        explain_prediction(model, doc, None, None, None, 1)
    with pytest.raises(TypeError, match=r"^explain_prediction\(\) takes the model by position"):
        explain_prediction(model=model, doc=doc)


def test_an_error_of_ones_own_explainer_is_passed_on_as_it_is() -> None:
    class Mine:
        pass

    @explain_prediction.register(Mine)
    def _(estimator: Mine, doc: object) -> Explanation:
        raise TypeError("of my own")

    with pytest.raises(TypeError, match=r"^of my own$"):
        explain_prediction(Mine(), 5)


def test_anything_else_gets_an_explanation_with_an_error() -> None:
    expl = explain_prediction("a model", np.zeros(3), targets=[1])
    assert isinstance(expl, Explanation)
    assert expl.estimator == "'a model'"
    assert "'a model' is not supported" in expl.error


def test_a_keras_2_model_is_told_apart() -> None:
    old = type("Model", (), {"__module__": "tf_keras.engine.training"})()
    assert "Keras 2" in explain_prediction(old, np.zeros(3)).error


def test_a_type_of_ones_own_can_be_registered() -> None:
    class Mine:
        pass

    @explain_prediction.register(Mine)
    def _(estimator: Mine, doc: object) -> Explanation:
        return Explanation("mine", description=str(doc))

    assert explain_prediction(Mine(), 5).description == "5"


def test_what_is_no_keras_model_imports_no_keras() -> None:
    code = "import kerasight; assert kerasight.explain_prediction(object(), None).error"
    assert imported_by(code) == set()


def test_every_option_is_an_argument_and_says_what_it_means() -> None:
    arguments = inspect.signature(explain_prediction_keras).parameters
    meanings = inspect.getdoc(Request) or ""  # Python 3.13 stores it without its indentation
    for option in fields(Request):
        default = getattr(option.default, "name", option.default)
        assert arguments[option.name].default in (None, default)
        assert f"\n    {option.name}: " in meanings


@pytest.mark.parametrize(
    "function",
    [
        kerasight.explain_prediction,
        kerasight.explain_predictions,
        explain_prediction_keras,
        explain_prediction_keras_image,
        explain_predictions_keras,
        evaluate,
    ],
)
def test_help_leads_to_what_the_options_mean(function: Callable[..., Any]) -> None:
    assert "`kerasight.cam.request.Request`" in (function.__doc__ or "")
