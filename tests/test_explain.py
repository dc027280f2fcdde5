from __future__ import annotations

import subprocess
import sys

import keras
import numpy as np
from tiny_models import MODELS, make_doc

import kerasight
from kerasight import Explanation
from kerasight.explain import explain_prediction


def test_the_top_level_function_is_the_registry() -> None:
    assert kerasight.explain_prediction is explain_prediction
    assert callable(explain_prediction.register)


def test_keras_models_of_any_class_are_routed_to_the_keras_explainer() -> None:
    for name in ("functional", "sequential", "subclassed, no training argument"):
        model = MODELS[name]()
        ours = explain_prediction(model, make_doc(), targets=[1])
        assert ours == kerasight.explain_prediction_keras(model, make_doc(), targets=[1])
    assert explain_prediction.dispatch(keras.Sequential) is kerasight.explain_prediction_keras


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
    code = (
        "import sys, kerasight; assert kerasight.explain_prediction(object(), None).error; "
        "assert not {'keras', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
