from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as kl
from tiny_models import make_doc

import kerasight
from kerasight import demo
from kerasight.side_by_side import METHODS_TO_COMPARE, Faithfulness, SideBySide, compare

pytestmark = pytest.mark.filterwarnings("ignore::kerasight.base.HeatmapWarning")

TWO = ["grad-cam", "saliency"]


def corner() -> tuple[keras.Model, np.ndarray]:
    """A model that is sure of class 0 as long as one corner is bright, and such a picture."""

    class Corner(kl.Layer):
        def call(self, x: Any) -> Any:
            bright = keras.ops.mean(x[:, :4, :4], axis=(1, 2))
            return keras.ops.concatenate([8 * bright, 0 * bright], axis=-1)

    inputs = keras.Input((16, 16, 1))
    seen = kl.AveragePooling2D(2, name="map")(inputs)
    large = kl.UpSampling2D(2)(seen)
    model = keras.Model(inputs, kl.Softmax()(Corner()(large)))
    doc = np.zeros((1, 16, 16, 1), np.float32)
    doc[0, :4, :4] = 1
    return model, doc


@pytest.fixture(scope="module")
def found() -> SideBySide:
    model, doc = corner()
    return compare(model, doc, [*TWO, "eigen-cam"], logits=True, target_names=["bright", "dark"])


def test_a_heatmap_that_knows_where_the_model_looked_is_called_faithful(found: SideBySide) -> None:
    for name in TWO:
        one = found.faithfulness[name]
        assert one.verdict == "faithful"
        assert one.p_value == 1 / 20
        assert one.difference == one.insertion - one.deletion > max(one.moved)
        assert len(one.moved) == 19
    assert found.agreement is not None
    assert found.agreement.names == (*TWO, "eigen-cam")


def test_equal_heatmaps_get_equal_numbers() -> None:
    model, doc = corner()
    found = compare(model, doc, ["grad-cam", "hirescam", "layercam"], logits=True, moves=5)
    (first, *others) = found.faithfulness.values()
    assert first.p_value == 1 / 6
    assert first.verdict == "cannot be told"  # as five moves are too few to tell
    for other in others:
        assert other == first


def test_a_heatmap_of_the_wrong_place_is_no_better_than_chance() -> None:
    model, doc = corner()
    wrong = Faithfulness(0.9, 0.2, (-0.7, 0.0, 0.1))
    assert (wrong.p_value, wrong.verdict) == (1.0, "no better than chance")
    assert Faithfulness(0.5, 0.5, (1.0, -1.0, -1.0)).verdict == "cannot be told"
    # What speaks for the other class lies elsewhere: deleting it does nothing.
    found = compare(model, doc, ["eigen-cam"], targets=[1])
    assert found.agreement is None
    assert found.faithfulness["eigen-cam"].verdict != "faithful"


def test_all_explain_the_class_of_the_first() -> None:
    model, doc = corner()
    found = compare(model, doc, TWO, targets=[1], moves=1)
    for expl in found.explanations.values():
        assert [target.target for target in expl.targets or ()] == [1]


def test_it_shows_methods_in_the_place_of_classes(found: SideBySide) -> None:
    shown = found.explanation
    assert shown.method == "3 methods for bright (0)"
    assert [target.target for target in shown.targets or ()] == [
        "Grad-CAM",
        "Saliency",
        "Eigen-CAM",
    ]
    assert (shown.targets or [])[0].label == "Grad-CAM, faithful (p 0.05)"
    assert "Faithful: grad-cam, saliency" in (shown.description or "")
    assert "rank correlation" in (shown.description or "")
    html = found._repr_html_()
    for words in ("Saliency", "Eigen-CAM", "faithful (p 0.05)"):
        assert words in html
    assert (found._repr_png_() or b"").startswith(b"\x89PNG")
    # Three pictures side by side.
    picture = kerasight.format_as_image(shown)
    assert picture.width > 2 * picture.height


def test_its_text_is_a_table(found: SideBySide) -> None:
    head, *lines = repr(found).splitlines()
    assert head.split() == ["method", "deletion", "insertion", "difference", "p"]
    assert [line.split()[0] for line in lines[:3]] == [*TWO, "eigen-cam"]
    assert lines[3].startswith("agreement of 3 methods")


def test_options_go_to_all_or_to_one() -> None:
    model, doc = corner()
    found = compare(
        model,
        doc,
        ["grad-cam", "smoothgrad"],
        layer="map",
        options={"SmoothGrad": {"samples": 2}, "grad-cam": {"relu": False}},
        moves=1,
        steps=2,
        seed=3,
    )
    grad_cam, smoothgrad = found.explanations.values()
    assert (grad_cam.layer, smoothgrad.layer) == ("map", None)
    assert (grad_cam.targets or [])[0].signed
    assert not (smoothgrad.targets or [])[0].signed


def test_what_is_no_picture_is_shown_without_numbers() -> None:
    inputs = keras.Input((12, 2))
    x = kl.GlobalAveragePooling1D()(kl.Conv1D(4, 3, activation="relu")(inputs))
    model = keras.Model(inputs, kl.Dense(2)(x))
    found = compare(model, make_doc((1, 12, 2)), TWO)
    assert (found.faithfulness, found.agreement) == ({}, None)
    assert "of pictures alone" in (found.explanation.description or "")
    assert repr(found).splitlines()[1:] == TWO
    with pytest.raises(ValueError, match="takes two methods, and a picture"):
        found.plot()


def test_a_target_that_is_no_class_is_shown_without_numbers() -> None:
    model, doc = corner()
    found = compare(model, doc, TWO, target=lambda outputs: outputs[:, 0])
    assert found.faithfulness == {}
    assert len(found.explanation.targets or ()) == 2


@pytest.mark.parametrize(
    ("methods", "asked", "error", "message"),
    [
        ([], {}, ValueError, "must be a list of names of methods"),
        ("grad-cam", {}, ValueError, "must be a list of names of methods"),
        (["lime"], {}, ValueError, "unknown method 'lime'"),
        (TWO, {"options": {"rise": {}}}, ValueError, "options has 'rise', which is none of"),
        (TWO, {"moves": 0}, ValueError, "moves must be at least 1"),
        (TWO, {"steps": 2.5}, TypeError, "steps must be an integer"),
    ],
)
def test_what_makes_no_sense_is_refused(
    methods: Any, asked: dict[str, Any], error: type[Exception], message: str
) -> None:
    model, doc = corner()
    with pytest.raises(error, match=message):
        compare(model, doc, methods, **asked)


def test_a_model_of_another_library_is_refused() -> None:
    with pytest.raises(TypeError, match="is not supported"):
        compare(object(), np.zeros((1, 8, 8, 3)))


def test_the_methods_that_are_compared_by_default_are_there() -> None:
    assert set(METHODS_TO_COMPARE) <= kerasight.cam.methods.METHODS.keys()


@pytest.mark.filterwarnings("error::kerasight.base.HeatmapWarning")
def test_the_demo_is_compared_without_a_warning() -> None:
    model, doc = demo.load_model(), demo.preprocess(demo.load_picture())
    found = kerasight.compare(model, doc, TWO, moves=2, steps=3)
    assert set(found.explanations) == set(TWO)
