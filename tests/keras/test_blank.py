from __future__ import annotations

import warnings
from typing import Any

import keras
import numpy as np
import pytest
from tiny_models import DOC_BY_HAND, MODELS, by_hand, make_doc, state_of

import kerasight
from kerasight.base import HeatmapWarning
from kerasight.keras.traces import WORTH_A_TRACE

pytestmark = pytest.mark.filterwarnings("ignore::kerasight.base.HeatmapWarning")


def heatmap(model: keras.Model, doc: np.ndarray, **asked: Any) -> np.ndarray:
    return kerasight.explain_prediction(model, doc, **asked).targets[0].heatmap


def the_warning(model: keras.Model, doc: np.ndarray = DOC_BY_HAND, **asked: Any) -> str:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", HeatmapWarning)
        heatmap(model, doc, **asked)
    (warning,) = [item for item in caught if item.category is HeatmapWarning]
    return str(warning.message)


def saturated(sign: int = 1) -> keras.Model:
    model = by_hand("softmax")
    model.layers[-1].set_weights([sign * np.eye(2) * 1000])
    return model


def test_a_saturated_softmax_is_told_of_logits() -> None:
    text = the_warning(saturated())
    assert "saturated (score 1)" in text
    assert text.endswith("; logits=True explains the logit instead")
    assert heatmap(saturated(), DOC_BY_HAND, logits=True).max() > 0.9


def test_negative_evidence_is_told_of_relu() -> None:
    model = by_hand()
    model.layers[-1].set_weights([-np.eye(2)])
    text = the_warning(model, np.abs(DOC_BY_HAND), targets=[0])
    assert "no positive evidence" in text
    assert text.endswith("; relu=False shows what speaks against it")


def test_a_saturated_class_that_nothing_speaks_for_is_told_of_both() -> None:
    text = the_warning(saturated(-1), np.abs(DOC_BY_HAND), targets=[0])
    assert "saturated (score 0)" in text
    assert text.endswith("logits=True, relu=False shows what speaks against it")
    shown = heatmap(saturated(-1), np.abs(DOC_BY_HAND), targets=[0], logits=True, relu=False)
    assert shown.min() < -0.9


def test_a_method_without_signs_is_not_told_of_relu() -> None:
    model = by_hand("softmax")
    model.set_weights([-np.ones((1, 1, 1, 2)), np.eye(2)])
    text = the_warning(model, np.abs(DOC_BY_HAND), method="layercam", targets=[0])
    assert "no positive evidence" in text
    assert "relu=False" not in text
    assert text.endswith("try another class, or another layer; logits=True does not help here")


def test_saturation_whose_logits_are_hidden_is_told_of_another_model() -> None:
    class Mixed(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="mixed")
            self.inner = by_hand()

        def call(self, inputs: Any) -> Any:
            logits = 1000 * self.inner(inputs)
            return (keras.ops.softmax(logits) + keras.ops.softmax(2 * logits)) / 2

    text = the_warning(Mixed())
    assert "saturated" in text
    assert text.endswith("explain the logits: pass a model that ends in them")


def test_a_score_that_does_not_depend_on_the_layer_is_told_of_other_layers() -> None:
    model = by_hand()
    model.layers[-1].set_weights([np.eye(2) * 1e-9])
    assert the_warning(model, logits=True).endswith("; try another class, or another layer")


def test_a_warning_calls_the_class_by_its_name() -> None:
    text = the_warning(saturated(), target_names=["cat", "dog"])
    assert text.startswith("the heatmap of dog (1) at layer 'map' is blank")


def test_no_remedy_is_looked_for_where_nobody_would_hear(monkeypatch: pytest.MonkeyPatch) -> None:
    def look(*_: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr("kerasight.keras.blank._remedy", look)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HeatmapWarning)
        heatmap(saturated(), DOC_BY_HAND)
    with pytest.raises(AssertionError):
        the_warning(saturated())


def test_a_remedy_is_that_of_the_weights_as_they_are_now() -> None:
    model = saturated()
    texts = {the_warning(model) for _ in range(2 * WORTH_A_TRACE)}
    assert texts == {the_warning(saturated())}
    assert "logits=True explains the logit" in texts.pop()
    # The logit depends on the map no more.
    model.layers[-1].set_weights([np.zeros((2, 2))])
    assert the_warning(model).endswith("logits=True does not help here")


def test_looking_for_a_remedy_changes_nothing() -> None:
    model = saturated()
    before = state_of(model)
    the_warning(model)
    assert state_of(model) == before


def test_a_saturated_softmax_is_warned_of() -> None:
    model = by_hand("softmax")
    model.layers[-1].set_weights([np.eye(2) * 1000])
    with pytest.warns(HeatmapWarning, match=r"saturated \(score 1\).*logits=True") as caught:
        expl = kerasight.explain_prediction(model, DOC_BY_HAND)
    assert expl.targets[0].heatmap.max() < 0.01
    assert __file__ in {one.filename for one in caught if one.category is HeatmapWarning}


def test_no_positive_evidence_is_warned_of() -> None:
    model = by_hand()
    model.layers[-1].set_weights([-np.eye(2)])
    with pytest.warns(HeatmapWarning, match=r"class 0 at layer 'map'.*no positive evidence"):
        kerasight.explain_prediction(model, np.abs(DOC_BY_HAND), targets=[0])


def test_a_layer_that_puts_out_zeros_is_warned_of() -> None:
    with pytest.warns(HeatmapWarning, match="output is zero everywhere"):
        kerasight.explain_prediction(by_hand(), np.zeros_like(DOC_BY_HAND))


def test_vanishing_gradients_of_logits_are_warned_of() -> None:
    model = by_hand()
    model.layers[-1].set_weights([np.eye(2) * 1e-9])
    with pytest.warns(HeatmapWarning, match="hardly depends on this layer"):
        kerasight.explain_prediction(model, DOC_BY_HAND)


def test_a_bright_heatmap_is_not_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        kerasight.explain_prediction(by_hand("softmax"), DOC_BY_HAND)


def test_layers_whose_heatmaps_are_blank_are_blank_together() -> None:
    model = MODELS["functional"]()
    model.layers[-1].set_weights([1e-7 * weight for weight in model.layers[-1].get_weights()])
    layers = ["conv", "seen"]
    for layer in [*layers, layers]:
        assert heatmap(model, make_doc(), layer=layer, logits=True).max() < 0.01
    assert "conv + seen" in the_warning(model, make_doc(), layer=layers, logits=True)
