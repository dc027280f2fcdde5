from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kerasight.base import Explanation, TargetExplanation
from kerasight.formatters.html import format_as_html


def make(heat: float = 1.0, **kwargs: object) -> Explanation:
    target = TargetExplanation(243, score=0.75, heatmap=np.array([[0, heat], [0.5, 0]]))
    fields = {
        "description": "where",
        "error": "",
        "method": "Grad-CAM",
        "targets": [target],
        "image": Image.new("RGB", (4, 4), "red"),
        "layer": "backbone/out",
    }
    return Explanation("net", **{**fields, **kwargs})


def test_it_prints_eli5s_fields_in_eli5s_order() -> None:
    assert repr(make(image=None)) == (
        "Explanation(estimator='net', description='where', error='', method='Grad-CAM', "
        "is_regression=False, targets=[TargetExplanation(target=243, feature_weights=None, "
        "proba=None, score=0.75, weighted_spans=None, heatmap=array([[0. , 1. ],\n"
        "       [0.5, 0. ]]))], feature_importances=None, decision_tree=None, "
        "highlight_spaces=None, transition_features=None, image=None)"
    )


def test_arguments_may_be_given_by_position_as_in_eli5() -> None:
    expl = Explanation("net", "where", "wrong", "Grad-CAM", True, [])
    assert (expl.description, expl.error, expl.method) == ("where", "wrong", "Grad-CAM")
    assert (expl.is_regression, expl.targets, expl.layer) == (True, [], None)
    assert TargetExplanation(1, None, 0.5, 2.0).proba == 0.5


def test_two_explanations_compare_by_value() -> None:
    assert make() == make()
    assert make() != make(heat=0.9)
    assert make() != make(layer="other")
    assert make() != make(image=Image.new("RGB", (4, 4), "blue"))
    assert make() != make(targets=None)
    assert make().targets[0] != TargetExplanation(243, score=0.75)
    assert make().targets[0] != TargetExplanation(243, score=0.75, heatmap=np.zeros((3, 3)))
    assert make() != "an explanation"
    with pytest.raises(TypeError, match="unhashable"):
        hash(make())


def test_fields_can_be_set() -> None:
    expl = make()
    expl.image = expl.image.convert("RGBA")
    assert expl.image.mode == "RGBA"


def test_it_shows_itself_as_the_overlay() -> None:
    expl = make()
    with Image.open(io.BytesIO(expl._repr_png_())) as picture:
        assert (picture.format, picture.size, picture.mode) == ("PNG", (4, 4), "RGBA")
    html = expl._repr_html_()
    assert html == format_as_html(expl)
    assert 'alt="Overlay for class 243, score 0.75' in html
    assert "backbone/<wbr>out" in html


def test_an_error_is_shown_in_the_place_of_a_picture() -> None:
    expl = Explanation("net", error="is not supported")
    assert expl._repr_png_() is None
    assert "is not supported" in expl._repr_html_()
    assert "<img" not in expl._repr_html_()


def test_without_a_picture_the_class_and_the_score_are_shown() -> None:
    html = make(image=None)._repr_html_()
    for words in ("net", "class 243", "0.75", "backbone/<wbr>out"):
        assert words in html
    assert "<img" not in html


@pytest.mark.parametrize("error", ["", "<script>alert('error')</script>"])
def test_names_from_outside_are_escaped(error: str) -> None:
    evil = '<script>alert("it\'s")</script>'
    expl = make(layer=evil, error=error)
    expl.estimator = evil
    assert "<script>alert" not in expl._repr_html_()
    assert "&lt;script&gt;" in expl._repr_html_()


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({"target": 3}, "class 3"),
        ({"target": 3, "name": "house"}, "house (3)"),
        (
            {"target": 3, "detail": "in the region of 5 pixels"},
            "class 3, in the region of 5 pixels",
        ),
        ({"target": "age"}, "age"),
    ],
)
def test_a_label_tells_what_is_explained(fields: dict[str, Any], label: str) -> None:
    assert TargetExplanation(**fields).label == label
