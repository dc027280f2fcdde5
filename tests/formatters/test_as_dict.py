from __future__ import annotations

import base64
import io
import json
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_media import media

from kerasight.base import Explanation, TargetExplanation
from kerasight.formatters.as_dict import format_as_dict


def make(**kwargs: Any) -> Explanation:
    target = TargetExplanation(
        np.int64(3), score=np.float32(0.75), heatmap=np.array([[0, 0.5]]), name="house"
    )
    picture = Image.new("RGB", (4, 2), (255, 128, 0))
    arguments = {"targets": [target], "image": picture, "layer": "out", "error": ""}
    return Explanation("net", **{**arguments, **kwargs})


def test_it_is_what_json_makes_of_it() -> None:
    found = format_as_dict(make())
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert list(found) == [item.name for item in fields(Explanation)]
    assert found["estimator"] == "net"
    assert found["layer"] == "out"
    assert found["is_regression"] is False
    assert found["decision_tree"] is None
    assert found["targets"] == [
        {
            "target": 3,
            "feature_weights": None,
            "proba": None,
            "score": 0.75,
            "weighted_spans": None,
            "heatmap": [[0.0, 0.5]],
            "name": "house",
            "signed": False,
            "is_probability": False,
            "detail": "",
            "box": None,
            "region": None,
            "gap": None,
        }
    ]


def picture_in(found: dict[str, Any]) -> Image.Image:
    picture = Image.open(io.BytesIO(base64.b64decode(found["image"]["data"])))
    assert picture.format == "PNG"
    return picture


def test_the_picture_can_be_had_back() -> None:
    found = format_as_dict(make())
    assert {key: found["image"][key] for key in ("format", "mode", "width", "height")} == {
        "format": "png",
        "mode": "RGB",
        "width": 4,
        "height": 2,
    }
    assert picture_in(found).copy() == make().image


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "I", "F", "CMYK", "HSV"])
def test_pictures_of_any_mode_are_taken(mode: str) -> None:
    if mode == "I;16":
        picture = Image.fromarray(np.array([[0, 40000]], np.uint16))
    else:
        picture = Image.new("RGB", (2, 1), (10, 20, 30)).convert(mode)
    found = format_as_dict(make(image=picture))
    drawn = picture_in(found)
    assert drawn.size == picture.size
    if mode in {"1", "L", "LA", "P", "RGBA", "I;16"}:
        assert found["image"]["mode"] == mode
        np.testing.assert_array_equal(np.asarray(drawn), np.asarray(picture))


def test_the_picture_may_be_left_out() -> None:
    found = format_as_dict(make(), include_image=False)["image"]
    assert found == {"format": "png", "mode": "RGB", "width": 4, "height": 2, "data": None}
    assert format_as_dict(make(image=None))["image"] is None


def test_where_a_photograph_was_taken_is_left_out() -> None:
    picture = Image.new("RGB", (4, 2))
    exif = Image.Exif()
    exif[0x010E] = "at home"
    with io.BytesIO() as file:
        picture.save(file, format="PNG", exif=exif)
        picture = Image.open(io.BytesIO(file.getvalue()))
    assert "exif" in picture.info
    data = base64.b64decode(format_as_dict(make(image=picture))["image"]["data"])
    assert b"at home" not in data
    assert "exif" in picture.info


def test_one_target_is_taken_too() -> None:
    assert format_as_dict(make().targets[0]) == format_as_dict(make())["targets"][0]


def test_what_json_has_no_number_for_becomes_none() -> None:
    target = TargetExplanation(
        "a", score=float("-inf"), heatmap=np.array([[np.nan, 1, np.float32(0.5)]])
    )
    found = format_as_dict(Explanation("net", targets=[target]))
    assert found["targets"][0]["score"] is None
    assert found["targets"][0]["heatmap"] == [[None, 1.0, 0.5]]
    json.dumps(found, allow_nan=False)


def test_values_of_all_plain_kinds_are_taken() -> None:
    values = {1: (np.bool_(True), np.uint8(7), 2.5), "none": None, "target": TargetExplanation(0)}
    found = format_as_dict(Explanation("net", feature_importances=values))["feature_importances"]
    assert found["1"] == [True, 7, 2.5]
    assert [type(item) for item in found["1"]] == [bool, int, float]
    assert found["none"] is None
    assert found["target"]["target"] == 0


def test_it_shares_nothing_with_the_explanation() -> None:
    expl = make(targets=[TargetExplanation(0, feature_weights=[1, 2])])
    found = format_as_dict(expl)
    found["targets"][0]["feature_weights"].append(3)
    assert expl.targets[0].feature_weights == [1, 2]


def test_an_explanation_that_failed_is_taken() -> None:
    assert format_as_dict(Explanation("net", error="is not supported"))["targets"] is None


def test_other_things_are_refused() -> None:
    with pytest.raises(TypeError, match="must be an Explanation or one of its targets"):
        format_as_dict({"estimator": "net"})
    with pytest.raises(TypeError, match=r"decision_tree holds .*: object"):
        format_as_dict(make(decision_tree=object()))


@pytest.mark.parametrize("kind", ["signal", "volume", "video"])
def test_docs_and_heatmaps_of_all_kinds_become_nested_lists(kind: str) -> None:
    expl = media(kind)
    found = format_as_dict(expl)
    json.dumps(found, allow_nan=False)
    np.testing.assert_array_equal(np.array(found["doc"]), expl.doc)
    np.testing.assert_array_equal(np.array(found["targets"][0]["heatmap"]), expl.targets[0].heatmap)
    assert found["kind"] == kind
    assert format_as_dict(expl, include_image=False)["doc"] is None


def test_boxes_and_regions_become_lists() -> None:
    target = TargetExplanation(0, box=(0.0, 0.25, 0.5, 1.0), region=np.array([[True, False]]))
    found = format_as_dict(target, include_image=False)
    assert found["box"] == [0.0, 0.25, 0.5, 1.0]
    assert found["region"] == [[True, False]]
