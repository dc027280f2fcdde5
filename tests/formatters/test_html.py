from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import Reader, report, skeleton
from PIL import Image
from tiny_media import CELLS, MIDDLE, SHAPES, media
from tiny_pictures import HEAT, noise

import kerasight
from kerasight.base import Explanation, TargetExplanation
from kerasight.formatters.html import format_as_html, format_html_styles, write_report
from kerasight.formatters.image import format_as_image
from kerasight.formatters.kinds import KINDS
from kerasight.formatters.outlines import outline
from kerasight.formatters.overlay import Style


def make(number: int = 2, **kwargs: Any) -> Explanation:
    targets = [
        TargetExplanation(
            k,
            score=0.5 / (k + 1),
            heatmap=np.roll(HEAT, k),
            name=f"class{k}",
            is_probability=True,
        )
        for k in range(number)
    ]
    arguments = {
        "description": "where",
        "error": "",
        "method": "Grad-CAM",
        "targets": targets,
        "image": noise(size=(200, 160)),
        "layer": "backbone/out",
    }
    return Explanation("net", **{**arguments, **kwargs})


def picture_at(address: str) -> Image.Image:
    kind, data = re.fullmatch(r"data:image/(png|jpeg);base64,([\w+/=]+)", address).groups()
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert picture.format.lower() == kind
    return picture


def data_of(text: str) -> dict[str, Any]:
    """What a fragment hands to its script."""
    return json.loads(re.search(r'class="ks-data">(.*?)</script>', text)[1])


def look_of(text: str) -> dict[str, bytes]:
    """The tables by which a fragment's script draws."""
    found = json.loads(re.search(r'class="ks-look" data-kind="\w+">(.*?)</script>', text)[1])
    return {name: base64.b64decode(table) for name, table in found.items()}


def cells_of(target: dict[str, Any]) -> np.ndarray:
    values = np.frombuffer(base64.b64decode(target["cells"]), "<u2") / 65535
    return (2 * values - 1 if target["signed"] else values).reshape(target["shape"])


# What a fragment holds


def test_without_styles_and_script_there_is_the_overlay_of_each_class_with_a_caption() -> None:
    grey = Image.linear_gradient("L").resize((200, 160))
    found = Reader(format_as_html(make(image=grey)))
    overlays = [item for item in found.all("img") if item["alt"].startswith("Overlay")]
    assert [item["alt"] for item in overlays] == [
        "Overlay for class0 (0), score 50.0%, hottest at the lower right",
        "Overlay for class1 (1), score 25.0%, hottest at the upper left",
    ]
    for number, item in enumerate(overlays):
        alone = make(targets=[make().targets[number]], image=grey)
        drawn = np.asarray(picture_at(item["src"]), dtype=int)
        wanted = np.asarray(format_as_image(alone).convert("RGB"), dtype=int)
        assert drawn.shape == wanted.shape
        assert np.abs(drawn - wanted).mean() < 3  # what a JPEG loses
    for caption in ("class0 (0), score 50.0%", "class1 (1), score 25.0%"):
        assert caption in found.visible()
    for words in (
        "net",
        "Grad-CAM · layer\u00a0backbone/out · 2\u00a0\u00d7\u00a02\u00a0cells",
        "where",
    ):
        assert words in found.visible()


def test_everything_is_in_the_text_and_nothing_is_fetched() -> None:
    for text in (format_as_html(make()), format_as_html(make(), page=True), report([make()])):
        assert "://" not in text
        assert "url(" not in text
        assert "@import" not in text
        for _, attributes in Reader(text).elements:
            for name in ("src", "href"):
                assert attributes.get(name, "data:").startswith("data:")


def test_nothing_in_the_markup_waits_for_a_script() -> None:
    for text in (format_as_html(make(3)), format_as_html(make(3), page=True)):
        found = Reader(text)
        assert not [tag for tag in ("input", "button", "select", "fieldset") if found.all(tag)]
    # The tools of a report are hidden, and its script shows them.
    found = Reader(report([make(3)]))
    [tools] = [item for item in found.all("form") if item["class"] == "ks-tools"]
    assert "hidden" in tools
    assert not [item for item in found.all("input") if item["type"] == "radio"]


def test_scores_are_told_in_per_cent_where_they_are_probabilities() -> None:
    shares, logits = make(), make(targets=[TargetExplanation(0, score=12.345, heatmap=HEAT)])
    assert "50.0%" in Reader(format_as_html(shares)).visible()
    assert "score 12.35" in Reader(format_as_html(logits)).visible()
    cards = Reader(report([shares, logits, Explanation("net", error="wrong")])).all("article")
    assert ["data-percent" in card for card in cards] == [True, False, False]
    # What is compared with a limit is the number.
    assert json.loads(cards[0]["data-scores"]) == [0.5, 0.25]


def test_names_of_the_code_are_set_as_such() -> None:
    expl = make(description="The `heatmap` of a `<b>`.", error="pass `layer=`, not `a\nb`")
    text = format_as_html(expl)
    assert "<p>The <code>heatmap</code> of a <code>&lt;b&gt;</code>.</p>" in text
    assert "pass <code>layer=</code>, not `a\nb`" in text


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("window_screen", "window_|screen"),
        ("fox-terrier", "fox-terrier"),
        ("a/b\\c.png", "a/|b\\|c.png"),
        ("holiday_2024/IMG_1001.jpeg", "holiday_2024/|IMG_1001.jpeg"),
        ("pets/a_photo_of_my_very_old_cat.jpeg", "pets/|a_|photo_|of_|my_|very_|old_|cat.jpeg"),
        ("_", "_"),
        ("a/", "a/"),
        ("<&/_>", "&lt;&amp;/|_&gt;"),
    ],
)
def test_a_name_is_broken_where_its_parts_end(name: str, broken: str) -> None:
    assert f"<h2><bdi>{broken.replace('|', '<wbr>')}</bdi></h2>" in report([make()], names=[name])


def test_the_script_gets_the_picture_and_the_cells() -> None:
    data = data_of(format_as_html(make(), resampling_filter="box", alpha_limit=0.4))
    assert (data["size"], data["opacity"]) == ([200, 160], 0.4)
    assert picture_at(data["picture"]).size == (200, 160)
    for number, target in enumerate(data["targets"]):
        np.testing.assert_allclose(cells_of(target), np.roll(HEAT, number), atol=1 / 65535)
    assert data_of(format_as_html(make(), alpha_limit=None))["opacity"] == 1


def test_signed_cells_keep_their_sign() -> None:
    heatmap = np.array([[-1.0, -0.25], [0.0, 1.0]])
    target = TargetExplanation(0, heatmap=heatmap, signed=True)
    text = format_as_html(make(targets=[target]))
    np.testing.assert_allclose(cells_of(data_of(text)["targets"][0]), heatmap, atol=1 / 32767)
    assert [item["data-kind"] for item in Reader(text).all("div", "ks-scale")] == ["signed"]
    assert "+1" in Reader(text).visible()


def test_the_table_has_the_colours_and_the_opacity_of_the_overlay() -> None:
    import matplotlib

    def table(text: str) -> np.ndarray:
        return np.frombuffer(look_of(text)["colours"], np.uint8).reshape(-1, 4)

    jet = table(format_as_html(make(), colormap="jet"))
    wanted = matplotlib.colormaps["jet"](np.arange(256), bytes=True)[:, :3].repeat(2, axis=0)
    np.testing.assert_allclose(jet[2:, :3].astype(int), wanted[2:], atol=1)
    np.testing.assert_allclose(jet[:, 3], (np.arange(512) + 0.5) / 512 * 255, atol=0.54)
    target = TargetExplanation(0, heatmap=HEAT, signed=True)
    signed = table(format_as_html(make(targets=[target])))
    np.testing.assert_allclose(signed[:, 3], np.abs(np.arange(512) - 255.5) / 256 * 255, atol=0.57)
    # Where nothing is to be seen, the scale still has a colour.
    assert signed[255, :3].any()
    assert np.abs(signed[255, :3].astype(int) - signed[253, :3]).max() < 10


def test_the_filter_is_what_pillow_makes_of_one_hot_cell() -> None:
    def shares(name: str | None) -> np.ndarray:
        text = format_as_html(make(), resampling_filter=name)
        return np.frombuffer(look_of(text)["filter"], "<i2") / 2**14

    # From 3.5 cells before the middle of the cell to 3.5 after it.
    count = len(shares("box"))
    away = np.abs((np.arange(count) + 0.5) / count * 7 - 3.5)
    np.testing.assert_array_equal(shares("box"), away < 0.5)
    np.testing.assert_array_equal(shares("nearest"), away < 0.5)
    np.testing.assert_allclose(shares("bilinear"), (1 - away).clip(0), atol=1e-4)
    lanczos = (np.sinc(away) * np.sinc(away / 3)) * (away < 3)
    np.testing.assert_allclose(shares("lanczos"), lanczos, atol=0.02)
    # What all cells together give to a place is one.
    np.testing.assert_allclose(shares("lanczos").reshape(7, -1).sum(axis=0), 1, atol=5e-4)
    np.testing.assert_array_equal(shares(None), shares("bicubic"))


def test_large_pictures_and_heatmaps_are_reduced_and_small_pictures_enlarged() -> None:
    data = data_of(format_as_html(make(1, image=noise(size=(2000, 1000)))))
    assert data["size"] == [640, 320]
    data = data_of(format_as_html(make(1, image=noise(size=(32, 16)))))
    assert data["size"] == [160, 80]
    target = TargetExplanation(0, heatmap=np.ones((300, 150)))
    data = data_of(format_as_html(make(targets=[target])))
    assert data["targets"][0]["shape"] == [256, 128]
    assert data_of(report([make(targets=[target])]))["targets"][0]["shape"] == [128, 64]


def scales_of(text: str) -> dict[str, str]:
    """The kinds of scales, and what stands below each."""
    found = re.findall(r'class="ks-scale" data-kind="([^"]+)">(.*?)</div>', text)
    return {kind: re.sub("<[^>]+>| ", "", inside) for kind, inside in found}


def test_heat_that_is_cut_is_told_as_it_is_and_its_scale_says_so() -> None:
    spiky = np.full((100, 100), 0.1)
    spiky[:, 0] = 0.25  # as many as are the hottest
    spiky[5, 0] = 1
    targets = [
        TargetExplanation(0, heatmap=spiky),
        TargetExplanation(1, heatmap=-spiky, signed=True),
        TargetExplanation(2, heatmap=HEAT),
    ]
    text = format_as_html(make(targets=targets))
    plain, signed, small = data_of(text)["targets"]
    assert scales_of(text) == {
        "plain-1": "Heat011:hottest1%",
        "signed-1": "Heat\u22121+1±1:hottest1%",
        "plain": "Heat01",
    }
    assert [item["scale"] for item in (plain, signed, small)] == list(scales_of(text))
    for item, heatmap in ((plain, spiky), (signed, -spiky)):
        assert (item["factor"], item["most"]) == (4, 1)
        np.testing.assert_allclose(cells_of(item), heatmap, atol=1 / 32767)
    assert (small["factor"], small["most"]) == (1, 1)
    # The colours are the same whatever is cut.
    assert (
        text.count('class="ks-look"')
        == report([make(targets=targets)]).count('class="ks-look"')
        == 2
    )
    assert scales_of(report([make(targets=[target]) for target in targets])) == scales_of(text)


def test_fewer_cells_are_cut_by_themselves() -> None:
    fine = np.zeros((512, 512))
    fine[::2, ::2] = np.linspace(0.5, 1, 256 * 256).reshape(256, 256)
    [target] = data_of(format_as_html(make(targets=[TargetExplanation(0, heatmap=fine)])))[
        "targets"
    ]
    # Means of four, of which one is hot: the hottest are drawn as if they had all of the heat.
    assert cells_of(target).max() == pytest.approx(0.25, abs=1e-4)
    assert target["factor"] == pytest.approx(1 / (0.99 * 0.25 + 0.01 * 0.125), rel=1e-3)


def test_the_page_has_the_heat_without_its_sign_and_smoothed() -> None:
    heatmap = np.eye(1, 20, 10) - np.eye(1, 20, 11)
    expl = make(targets=[TargetExplanation(0, heatmap=heatmap, signed=True)])
    [target] = data_of(format_as_html(expl, absolute=True, blur=5))["targets"]
    assert (target["signed"], target["scale"]) == (False, "plain")
    away = np.exp(-0.5 * np.arange(6) ** 2)
    wanted = (away[:5] + away[1:]) / (away[0] + away[1])
    np.testing.assert_allclose(cells_of(target)[0, 11:15], wanted[:4], atol=1e-4)
    assert data_of(report([expl], absolute=True, blur=5))["targets"] == [target]


def test_a_transparent_picture_stays_transparent() -> None:
    picture = noise(size=(200, 160)).convert("RGBA")
    picture.putalpha(100)
    assert picture_at(data_of(format_as_html(make(image=picture)))["picture"]).mode == "RGBA"


def test_a_rotation_in_the_file_of_a_picture_turns_nothing() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = noise(size=(200, 160)).convert("RGBA")
    picture.putalpha(254)
    picture.info["exif"] = exif.tobytes()
    shown = picture_at(data_of(format_as_html(make(image=picture)))["picture"])
    assert not shown.getexif()
    assert "exif" in picture.info


def test_an_explanation_is_always_the_same_text_and_no_element_has_an_id() -> None:
    for text in (format_as_html(make()), format_as_html(make(), page=True), report([make()] * 2)):
        assert not [item for _, item in Reader(text).elements if "id" in item]
    assert format_as_html(make()) == format_as_html(make())
    assert report([make()]) == report([make()])


def test_the_explanation_is_left_as_it_was() -> None:
    expl = make(image=noise(size=(700, 20)))
    format_as_html(expl)
    assert expl == make(image=noise(size=(700, 20)))


def test_a_small_fragment_is_small() -> None:
    # The styles and the script alone.
    assert len(format_html_styles()) < 22_500
    flat = make(1, image=Image.new("RGB", (224, 224), "grey"))
    assert len(format_as_html(flat)) < 45_000


# Whatever is missing


def test_an_error_is_shown_in_the_place_of_a_picture() -> None:
    text = format_as_html(Explanation("net", error="is not supported"))
    assert "is not supported" in Reader(text).visible()
    assert "<img" not in text
    assert "<script" not in text


def test_an_error_is_shown_above_the_picture_if_there_is_one() -> None:
    found = Reader(format_as_html(make(targets=None, error="no such layer")))
    assert "no such layer" in found.visible()
    assert [item["alt"] for item in found.all("img")] == ["Picture without a heatmap"]


def test_without_a_picture_there_are_the_classes_and_nothing_to_choose() -> None:
    found = Reader(format_as_html(make(image=None)))
    assert not found.all("img")
    assert not [item for item in found.all("div", "ks-targets") if "hidden" in item]
    for words in ("class0", "50.0%", "class1", "25.0%"):
        assert words in found.visible()


def test_a_target_without_a_heatmap_is_the_picture_alone() -> None:
    targets = [TargetExplanation(0, heatmap=HEAT), TargetExplanation("other")]
    text = format_as_html(make(targets=targets))
    assert "Overlay for other, without a heatmap" in text
    assert data_of(text)["targets"][1] == {
        "alt": "Picture and heatmap for other, without a heatmap"
    }


def test_a_blank_heatmap_is_called_blank() -> None:
    text = format_as_html(make(targets=[TargetExplanation(0, heatmap=np.zeros((2, 2)))]))
    assert "Overlay for class 0, where the heatmap is blank" in text
    assert data_of(text)["targets"][0]["where"] == "The heatmap is blank."


# Arguments


def test_the_title_stands_above() -> None:
    assert Reader(format_as_html(make(), title="My cat")).text("bdi").startswith("My cat")
    assert "net · Grad-CAM" in Reader(format_as_html(make(), title="My cat")).visible()
    assert Reader(format_as_html(make())).text("bdi").startswith("net")
    assert Reader(format_as_html(make(), title="My cat", page=True)).text("title") == "My cat"
    assert Reader(format_as_html(make(), page=True)).text("title") == "Grad-CAM of net"


def test_styles_may_stand_on_the_page_once() -> None:
    whole, bare = format_as_html(make()), format_as_html(make(), include_styles=False)
    style, script, _ = format_html_styles().partition("<script>")
    assert whole.replace(style, "").replace(script + _, "") == bare
    assert "<style" not in bare
    with pytest.raises(ValueError, match="include_styles"):
        format_as_html(make(), page=True, include_styles=False)


def test_a_page_runs_its_own_script_alone_and_may_fetch_nothing() -> None:
    for text in (format_as_html(make(), page=True), report([make()])):
        assert text.startswith("<!DOCTYPE html>")
        found = Reader(text)
        policy = next(item["content"] for item in found.all("meta") if "http-equiv" in item)
        assert policy.startswith("default-src 'none'; img-src data:;")
        [script] = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"script-src 'sha256-{digest}'" in policy


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"colormap": "yet"}, ValueError, "unknown colormap"),
        ({"resampling_filter": "sharp"}, ValueError, "unknown resampling_filter"),
        ({"alpha_limit": 1.5}, ValueError, "alpha_limit"),
        ({"alpha_limit": "0.5"}, TypeError, "alpha_limit"),
    ],
)
def test_arguments_are_those_of_format_as_image(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        format_as_html(make(), **arguments)
    with pytest.raises(error, match=message):
        report([make()], **arguments)


@pytest.mark.parametrize("heatmap", ["no array", np.full((2, 2), 1.1), np.full((2, 2), np.nan)])
def test_a_heatmap_that_is_none_is_refused(heatmap: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="heatmap"):
        format_as_html(make(targets=[TargetExplanation(0, heatmap=heatmap)]))
    with pytest.raises(TypeError, match=r"expl\.image"):
        format_as_html(make(image=np.zeros((2, 2, 3))))


@pytest.mark.parametrize("expl", [None, "net", [make(1)], make(1).targets[0]])
def test_what_is_no_explanation_is_refused(expl: Any) -> None:
    with pytest.raises(TypeError, match="expl must be an Explanation, got"):
        format_as_html(expl)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((make(1), io.StringIO()), "expls must be explanations .*, got Explanation: put it into"),
        ((None, io.StringIO()), "expls must be explanations to iterate over, .*, got NoneType"),
        (("report.html", [make(1)]), "expls must be explanations to iterate over, .*, got str"),
        ((Path("report.html"), [make(1)]), "expls must be explanations .*, got P"),
        ((["a.png"], io.StringIO()), "explanation 1 must be an Explanation, got str"),
        (([make(1), None], io.StringIO()), "explanation 2 must be an Explanation, got NoneType"),
        (([make(1)], None), "file must be a path, or a text file .*, got NoneType"),
        (([make(1)], io.BytesIO()), "file must be a path, or a text file .*, got BytesIO"),
    ],
)
def test_a_report_of_what_are_no_explanations_is_refused(
    arguments: tuple[Any, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        write_report(*arguments)


@pytest.mark.parametrize("names", [3, "a"])
def test_names_that_are_no_list_are_refused(names: Any) -> None:
    with pytest.raises(TypeError, match="names must be a list of names"):
        report([make(1)], names=names)


# What comes from outside

EVIL = '<script>alert("it\'s")</script>\'"><img src=x onerror=alert(1)>&lt;<!--\u202e\udcff'


def hostile(expl: Explanation) -> Explanation:
    for name in ("estimator", "description", "error", "method", "layer"):
        setattr(expl, name, EVIL)
    for target in expl.targets or ():
        target.name = target.target = EVIL
    return expl


def each_form(expl: Explanation, words: str) -> Iterator[str]:
    yield format_as_html(expl)
    yield format_as_html(expl, title=words)
    yield format_as_html(expl, title=words, page=True)
    yield report([expl, expl], names=[words, words], title=words)


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("image", [None, noise(size=(20, 20))])
def test_names_from_outside_are_escaped_in_every_place(number: int, image: Any) -> None:
    tame = make(number, image=image, error="wrong")
    for target in tame.targets:
        target.target = "x"
    evil = hostile(make(number, image=image))
    for ours, theirs in zip(each_form(tame, "words"), each_form(evil, EVIL), strict=True):
        assert skeleton(theirs) == skeleton(ours)
        assert "<script>alert" not in theirs
        assert "onerror=alert(1)>" not in theirs.replace("onerror=alert(1)&gt;", "").replace(
            "onerror=alert(1)\\u003e", ""
        )
        # Half a character cannot be written, and is replaced.
        theirs.encode("utf-8")


def test_what_was_escaped_reads_as_it_was() -> None:
    expl = make(1)
    expl.targets[0].name = 'a "quoted" <b>name</b> & more'
    found = Reader(format_as_html(expl))
    assert 'a "quoted" <b>name</b> & more (0), score 50.0%' in found.visible()
    [label] = json.loads(Reader(report([expl])).all("article")[0]["data-labels"])
    assert label == 'a "quoted" <b>name</b> & more (0)'


# Reports


def test_a_report_tells_what_it_is_of_and_what_made_it() -> None:
    facts = {"Model": Path("models/cats_2.keras"), "<Date>": "2026-11-21"}
    found = Reader(report([make()], facts=facts))
    version = kerasight.__version__
    assert found.text("dt").splitlines() == ["Model", "<Date>", "kerasight"]
    values = found.text("bdi").splitlines()[1:4]
    assert values == ["models/cats_2.keras", "2026-11-21", version]
    assert Reader(report([make()])).text("dt") == "kerasight"
    for text in (report([]), format_as_html(make(), page=True)):
        assert {"name": "generator", "content": f"kerasight {version}"} in Reader(text).all("meta")
    with pytest.raises(TypeError, match="facts must be a dict of names and values, got str"):
        report([make()], facts="cats.keras")


def test_a_report_has_a_card_for_each_explanation() -> None:
    failed = Explanation("net", error="cannot be read")
    text = report([make(), failed, make(1)], names=["a.png", Path("b.png"), "c.png"], title="Pets")
    found = Reader(text)
    assert found.text("title") == "Pets"
    assert found.text("bdi").splitlines()[:3] == ["Pets", kerasight.__version__, "a.png"]
    cards = found.all("article")
    assert [json.loads(card["data-labels"]) for card in cards] == [
        ["class0 (0)", "class1 (1)"],
        [],
        ["class0 (0)"],
    ]
    assert [json.loads(card["data-scores"]) for card in cards] == [[0.5, 0.25], [], [0.5]]
    assert "cannot be read" in found.visible()
    assert "b.png" in found.visible()


def test_without_scripts_a_report_shows_the_overlay_of_the_first_class() -> None:
    overlays = re.findall(r"<noscript>(<img.*?>)</noscript>", report([make(), make(1)]))
    assert len(overlays) == 2
    for overlay in overlays:
        [image] = Reader(overlay).all("img")
        assert image["alt"].startswith("Overlay for class0 (0), score 50.0%")
        assert picture_at(image["src"]).size == (200, 160)


def test_a_picture_without_targets_is_shown_in_a_report() -> None:
    text = report([make(targets=None)])
    [image] = [item for item in Reader(text).all("img") if item["alt"].startswith("Picture")]
    assert picture_at(image["src"]).size == (200, 160)
    assert "<noscript><img" not in text
    assert 'class="ks-stage"' not in text


def test_a_heatmap_that_is_none_is_refused_on_any_place_of_a_card() -> None:
    targets = [*make(1).targets, TargetExplanation(1, heatmap=np.full((2, 2), np.nan))]
    with pytest.raises(ValueError, match="heatmap"):
        report([make(targets=targets)])


def test_what_is_the_same_for_all_is_said_once() -> None:
    other = make(1)
    other.layer = "early"
    text = report([Explanation("net", error="wrong"), make(), make(), other])
    assert text.count("layer\u00a0backbone/<wbr>out") == 1
    assert text.count("layer\u00a0early") == 1
    assert text.count('class="ks-look"') == 1
    signed = make(targets=[TargetExplanation(0, heatmap=-HEAT, signed=True)])
    assert report([make(), signed, make(), signed]).count('class="ks-look"') == 2


def test_scores_that_are_no_numbers_are_none() -> None:
    targets = [TargetExplanation(0, heatmap=HEAT, score=float("nan")), TargetExplanation(1)]
    [card] = Reader(report([make(targets=targets)])).all("article")
    assert json.loads(card["data-scores"]) == [None, None]


def test_a_report_goes_to_a_path_or_an_open_file(tmp_path: Path) -> None:
    expls = [make(1), make(2)]
    assert write_report(expls, tmp_path / "one.html") == 2
    assert write_report(iter(expls), str(tmp_path / "two.html")) == 2
    with open(tmp_path / "three.html", "w", encoding="utf-8", newline="\n") as file:
        assert write_report(expls, file) == 2
        assert not file.closed
    texts = {path.read_bytes() for path in tmp_path.iterdir()}
    assert texts == {report(expls).encode()}
    assert "Picture 2" in report(expls)
    assert report([]).endswith("</html>\n")


def test_explanations_are_written_as_they_come() -> None:
    out, sizes = io.StringIO(), []

    def stream() -> Iterator[Explanation]:
        for _ in range(4):
            yield make(1)
            sizes.append(out.tell())

    write_report(stream(), out)
    steps = np.diff(sizes)
    assert (steps > 1000).all()
    assert steps.max() - steps.min() < 100


def test_a_report_that_is_interrupted_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report([make(1)], path)
    before = path.read_bytes()

    def stream() -> Iterator[Explanation]:
        yield make(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_report(stream(), path)
    assert [item.read_bytes() for item in tmp_path.iterdir()] == [before]


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c"], []])
def test_there_must_be_as_many_names_as_explanations(names: list[str]) -> None:
    with pytest.raises(ValueError, match="name"):
        report([make(1), make(1)], names=names)


def test_a_card_is_small_enough_for_500_of_them() -> None:
    # Nothing takes more room than noise; a photograph takes a third of it.
    assert len(report([make(image=noise(size=(1024, 1024)))])) - len(report([])) < 3 * 120_000


def test_styles_and_scripts_are_part_of_the_package() -> None:
    folder = resources.files("kerasight.formatters") / "page"
    names = {item.name for item in folder.iterdir()}
    assert {"viewer.css", "viewer.js", "fragment.js", "report.css", "report.js"} <= names


# Signals, volumes, videos; boxes and regions


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        ("signal", "hottest at step 8 of 12"),
        ("volume", "hottest at depth 6 of 6, at the right"),
        ("video", "hottest at frame 8 of 10, at the lower left"),
    ],
)
def test_without_a_script_there_is_the_still_picture_with_a_caption(kind: str, where: str) -> None:
    expl = media(kind)
    found = Reader(format_as_html(expl, page=True))
    [still] = [item for item in found.all("img") if item["alt"].startswith("Overlay")]
    assert still["alt"] == f"Overlay for house (0), score 0.75, {where}"
    drawn = np.asarray(picture_at(still["src"]).convert("RGB"), dtype=int)
    wanted = KINDS[kind].still(expl, expl.targets[0], Style()).convert("RGB")
    assert np.abs(drawn - np.asarray(wanted, dtype=int)).mean() < 4
    assert "house (0), score 0.75" in found.visible()
    cells = "\u00a0\u00d7\u00a0".join(map(str, CELLS[kind]))
    assert f"{cells}\u00a0cells" in found.visible()
    assert bool(found.all("script", "ks-data")) == (kind != "signal")


@pytest.mark.parametrize("kind", ["volume", "video"])
def test_the_script_gets_each_slice_and_its_cells(kind: str) -> None:
    expl = media(kind)
    data = data_of(format_as_html(expl, resampling_filter="nearest"))
    count = SHAPES[kind][0]
    assert data["numbers"] == list(range(1, count + 1))
    assert (data["count"], data["start"]) == (count, MIDDLE[kind][0])
    assert data["name"] == {"volume": "depth", "video": "frame"}[kind]
    assert [picture_at(item).size for item in data["slices"]] == [tuple(data["size"])] * count
    [target] = data["targets"]
    assert target["shape"] == list(CELLS[kind][1:])
    cells = cells_of({**target, "shape": (count, *target["shape"])})
    np.testing.assert_array_equal(cells, expl.targets[0].heatmap.repeat(2, axis=0))


def test_of_a_long_video_there_are_64_frames_and_the_hottest_is_among_them() -> None:
    heatmap = np.zeros((100, 1, 1))
    heatmap[[30, 71]] = [[[0.5]], [[1.0]]]
    expl = media("video", heatmap[::-1], heatmap, doc=np.zeros((200, 500, 40, 1)))
    data = data_of(format_as_html(expl))
    assert len(data["slices"]) == len(data["numbers"]) == len(set(data["numbers"])) == 64
    assert data["numbers"][data["start"]] == 58  # the first target's: 2 * 28 + 1, counted from 1
    assert 144 in data["numbers"]
    assert max(data["size"]) == 320


@pytest.mark.parametrize("kind", ["signal", "volume", "video"])
def test_other_kinds_are_shown_without_targets_and_heatmaps(kind: str) -> None:
    found = Reader(format_as_html(media(kind, targets=[])))
    assert [item["alt"] for item in found.all("img")] == [f"{kind.capitalize()} without a heatmap"]
    assert "without a heatmap" in format_as_html(media(kind, None))
    with pytest.raises(ValueError, match="heatmap must have shape"):
        format_as_html(media(kind, np.eye(2)))


def test_a_report_has_the_still_picture_of_each_kind() -> None:
    expls = [*map(media, SHAPES), make(1), media("video", targets=[])]
    text = report(expls)
    found = Reader(text)
    are_wide = ["ks-wide" in item["class"].split() for item in found.all("article")]
    assert are_wide == [True, True, True, False, True]
    assert len(found.all("script", "ks-data")) == 1
    assert text.count('class="ks-look"') == 1
    stills = [item["alt"] for item in found.all("img") if ", hottest" in item["alt"]]
    assert len([alt for alt in stills if alt.startswith("Overlay for")]) == 4


def test_a_kind_that_is_not_drawn_shows_its_classes() -> None:
    expl = media("signal", doc=None)
    expl.kind = "texture"
    for text in (format_as_html(expl), report([expl])):
        assert "house" in Reader(text).visible()


def test_boxes_and_regions_lie_over_the_heatmap() -> None:
    expl = make()
    expl.targets[0].box = (0.25, 0.25, 0.75, 0.75)
    text = format_as_html(expl)
    first, second = data_of(text)["targets"]
    wanted = outline(expl.targets[0], (200, 160))
    assert picture_at(first["outline"]).convert("RGBA") == wanted
    assert "outline" not in second
    overlays = [item for item in Reader(text).all("img") if item["alt"].startswith("Overlay")]
    drawn = np.asarray(picture_at(overlays[0]["src"]).convert("L"), dtype=int)
    assert drawn[80, 50:52].mean() > drawn[80, 48:50].mean() + 60  # a light line, a dark edge
