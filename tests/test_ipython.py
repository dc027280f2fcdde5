from __future__ import annotations

from dataclasses import fields

import keras
import matplotlib
import numpy as np
import pytest
from PIL import Image
from tiny_media import media
from tiny_models import make_doc
from tiny_texts import text

import kerasight
from kerasight import Explanation
from kerasight.formatters.image import format_as_sheet
from kerasight.formatters.overlay import Style
from kerasight.ipython import FORMAT_KWARGS


def test_it_explains_then_formats(model: keras.Model) -> None:
    shown = kerasight.show_prediction(model, make_doc())
    expl = kerasight.explain_prediction(model, make_doc())
    assert shown == kerasight.format_as_image(expl)
    assert shown.mode == "RGBA"
    assert shown.size == expl.image.size


def test_arguments_go_where_they_belong(model: keras.Model) -> None:
    picture = Image.new("RGB", (30, 20), "white")
    colormap = matplotlib.colormaps["cividis"]
    shown = kerasight.show_prediction(
        model,
        make_doc(),
        targets=[2],
        layer="conv",
        image=picture,
        colormap=colormap,
        alpha_limit=1.0,
        resampling_filter=Image.Resampling.BOX,
    )
    expl = kerasight.explain_prediction(model, make_doc(), targets=[2], layer="conv", image=picture)
    assert shown == kerasight.format_as_image(expl, Image.Resampling.BOX, colormap, 1.0)
    with pytest.raises(TypeError, match="sharpen"):
        kerasight.show_prediction(model, make_doc(), sharpen=2)


def test_all_that_the_picture_has_is_heeded(model: keras.Model) -> None:
    look = {"outliers": 30, "absolute": True, "blur": 10}
    asked = {"relu": False, "layer": "conv"}
    expl = kerasight.explain_prediction(model, make_doc(), **asked)
    shown = kerasight.show_prediction(model, make_doc(), **asked, **look)
    assert shown == kerasight.format_as_image(expl, **look)
    sheet = kerasight.show_predictions(model, make_doc(), **asked, **look)
    assert sheet == format_as_sheet([expl], **look)
    assert {field.name for field in fields(Style)} == FORMAT_KWARGS


def test_a_model_that_is_not_supported_shows_its_error() -> None:
    shown = kerasight.show_prediction("a model", np.zeros(3))
    assert isinstance(shown, Explanation)
    assert "not supported" in shown._repr_html_()
    table = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    assert "not supported" in kerasight.show_prediction(table, np.zeros((1, 4)))._repr_html_()


def test_without_the_means_to_draw_the_explanation_comes_with_a_warning(
    model: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kerasight.ipython, "format_as_image", ImportError("no Pillow"))
    with pytest.warns(UserWarning, match="dependencies are missing") as record:
        expl = kerasight.show_prediction(model, make_doc())
    assert isinstance(expl, Explanation)
    assert record[-1].filename == __file__


@pytest.mark.parametrize("kind", ["signal", "volume", "video"])
def test_docs_that_are_no_pictures_are_drawn_too(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expl = media(kind)
    monkeypatch.setattr(kerasight.ipython, "explain_prediction", lambda *args: expl)
    monkeypatch.setattr(kerasight.ipython, "explain_predictions", lambda *args: [expl, expl])
    shown = kerasight.show_prediction("a model", None, colormap="jet")
    assert shown == kerasight.format_as_image(expl, colormap="jet")
    assert kerasight.show_predictions("a model", None).height > 1.8 * shown.height


def test_the_explanation_of_a_text_shows_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    expl = text()
    monkeypatch.setattr(kerasight.ipython, "explain_prediction", lambda *args, **kwargs: expl)
    assert kerasight.show_prediction("a model", "a text") is expl
