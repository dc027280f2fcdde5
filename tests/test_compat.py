from __future__ import annotations

import pytest
from fresh_python import run_python

# As if eli5 were not installed, also where it is.
HIDE = """
import sys
import importlib.machinery as machinery
_real = machinery.PathFinder.find_spec
class PathFinder(machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "eli5" else _real(name, path, target)
sys.meta_path = [PathFinder if one is machinery.PathFinder else one for one in sys.meta_path]
import kerasight
kerasight.install_as_eli5()
kerasight.install_as_eli5()
"""


def test_kerasight_answers_to_the_name_where_eli5_is_not_installed() -> None:
    run_python(
        HIDE
        + """
import eli5
from eli5 import explain_prediction, format_as_image, show_prediction
from eli5.base import Explanation, TargetExplanation
from eli5.formatters.image import expand_heatmap
from eli5.keras import gradcam
from eli5.keras.gradcam import gradcam_backend
import eli5.ipython, eli5.explain
assert not {"keras", "tensorflow", "matplotlib"} & set(sys.modules)
assert eli5 is kerasight
assert Explanation is kerasight.Explanation
assert gradcam is eli5.keras.gradcam is kerasight.keras.gradcam
assert gradcam.gradcam_backend is gradcam_backend
"""
    )


def test_the_module_that_needs_keras_is_the_same_under_both_names() -> None:
    run_python(
        HIDE
        + """
from eli5.keras.explain_prediction import explain_prediction_keras, _validate_doc
import eli5.keras.explain_prediction as module
assert module is kerasight.keras.explain_prediction
assert module.__spec__.name == "kerasight.keras.explain_prediction"
assert explain_prediction_keras is kerasight.explain_prediction_keras
assert kerasight.keras.gradcam is kerasight.keras.gradcam.gradcam
"""
    )


def test_the_rest_of_eli5_is_said_not_to_be_there() -> None:
    out = run_python(
        HIDE
        + """
try:
    import eli5.sklearn
except ModuleNotFoundError as error:
    print(error)
"""
    ).stdout
    assert "No module named 'eli5.sklearn'" in out
    assert "Keras API" in out


@pytest.mark.parity
def test_kerasight_registers_itself_where_eli5_is_installed() -> None:
    run_python(
        """
import kerasight
kerasight.install_as_eli5()
kerasight.install_as_eli5()
import eli5, keras, numpy as np
from PIL import Image
assert eli5 is not kerasight
assert eli5.explain_prediction.dispatch(keras.Sequential) is kerasight.explain_prediction_keras
inner = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3, name="conv")])
model = keras.Sequential([inner, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)])
doc = np.random.default_rng(0).random((1, 8, 8, 3), np.float32)
expl = eli5.explain_prediction(model, doc, layer="conv")  # nested, which eli5 cannot do
assert isinstance(expl, kerasight.Explanation)
assert isinstance(eli5.show_prediction(model, doc, layer="conv"), Image.Image)
from sklearn.linear_model import LogisticRegression
clf = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
assert eli5.explain_prediction(clf, np.array([1.0])).targets
assert "not supported" in eli5.show_prediction(keras.Sequential(), np.zeros((1, 4))).data
"""
    )
