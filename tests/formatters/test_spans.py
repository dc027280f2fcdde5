"""Texts in all forms: HTML, lines and pictures."""

from __future__ import annotations

import html
import io
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pages import Reader, report, skeleton
from PIL import Image, ImageChops
from tiny_pictures import noise
from tiny_texts import SIGNED, TEXT, WORDS, target_of_text, text

from kerasight.base import (
    DocWeightedSpans,
    Explanation,
    FeatureWeight,
    FeatureWeights,
    TargetExplanation,
    WeightedSpans,
)
from kerasight.cam.words import Words
from kerasight.formatters.as_dict import format_as_dict
from kerasight.formatters.html import format_as_html
from kerasight.formatters.image import format_as_image, format_as_sheet
from kerasight.formatters.spans import (
    Passage,
    scale_of_tints,
    spans_as_html,
    spans_as_image,
    spans_as_lines,
)
from kerasight.formatters.text import format_as_text

FOR, AGAINST = "240,96,48", "47,140,255"


def spanning(document: str, *spans: Any, **kwargs: Any) -> TargetExplanation:
    found = WeightedSpans([DocWeightedSpans(document, list(spans))])
    return TargetExplanation(0, weighted_spans=found, **kwargs)


# HTML


def test_the_text_stands_as_it_was_with_a_tint_behind_each_word_that_has_weight() -> None:
    markup = re.search(r"<p .*?</p>", spans_as_html(target_of_text()), re.DOTALL)[0]

    def word(shown: str, told: str, colour: str, opacity: str, sign: str = "") -> str:
        return (
            f'<span class="ks-word{sign}" title="{told}" '
            f'style="background-color:rgba({colour},{opacity})">{shown}</span>'
        )

    against = " ks-against"
    assert markup == (
        '<p class="ks-words" dir="auto" style="white-space:pre-wrap">'
        + word("Good", "good: +1.00", FOR, "0.65")
        + " &lt;b&gt;, but &quot;"
        + word("so", "so: −0.30", AGAINST, "0.20", against)  # noqa: RUF001
        + "&quot; "
        + word("so", "so: −0.50", AGAINST, "0.33", against)  # noqa: RUF001
        + " "
        + word("bad", "bad: −1.00", AGAINST, "0.65", against)  # noqa: RUF001
        + ".\n\t"
        + word("The", "the: +0.05", FOR, "0.03")
        + '<span class="ks-unread" title="not seen by the model"> end &amp; more</span></p>'
    )
    assert html.unescape(re.sub("<[^>]+>", "", markup)) == TEXT


def test_weights_without_a_sign_are_told_without_one() -> None:
    markup = spans_as_html(target_of_text(np.abs(SIGNED), signed=False))
    assert 'title="bad: 1.00"' in markup
    assert AGAINST not in markup
    assert "ks-against" not in markup


def test_the_words_of_the_greatest_weights_are_in_a_table_that_unfolds() -> None:
    reader = Reader(format_as_html(text()))
    assert reader.text("summary") == "Words by weight"
    assert "open" not in reader.all("details")[0]
    assert reader.text("th").split("\n") == ["Word", "Weight", "Times"]
    rows = np.reshape(reader.text("td").split("\n"), (-1, 3)).tolist()
    assert rows == [
        ["", "+1.00", "1"],
        ["", "+0.05", "1"],
        ["", "+0.00", "1"],
        ["", "−0.80", "2"],  # noqa: RUF001
        ["", "−1.00", "1"],  # noqa: RUF001
    ]
    assert reader.text("bdi").split("\n")[-5:] == ["good", "the", "but", "so", "bad"]


def test_a_table_has_ten_words_and_tells_how_many_more_there_are() -> None:
    weights = [FeatureWeight(f"w{at}", at / 20) for at in range(12, 0, -1)]
    target = target_of_text()
    target.feature_weights = FeatureWeights(weights, [FeatureWeight("no", -1.0)], 3, 4)
    markup = spans_as_html(target)
    assert re.findall(r"<bdi>(\w+)", markup) == [*(f"w{at}" for at in range(12, 3, -1)), "no"]
    assert "<p>and 10 more</p>" in markup
    assert "<td></td>" in markup  # how often is not known
    assert spans_as_lines(target)[-1].split() == ["and", "10", "more"]


def test_the_picture_says_what_raises_and_what_lowers_a_number() -> None:
    of_class, same, of_number = (
        spans_as_image([Passage(replace(target_of_text(), target=what), "title")])
        for what in (3, 5, "the number")
    )
    assert of_class.tobytes() == same.tobytes()
    assert of_class.size == of_number.size
    difference = ImageChops.difference(of_class.convert("RGB"), of_number.convert("RGB"))
    assert difference.getbbox()[1] > of_class.height / 2  # in the legend alone


def luminance(colour: Any) -> float:
    parts = np.asarray(colour) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize(
    ("ground", "ink"), [("ffffff", "1b1f24"), ("16181b", "e8eaed"), ("ffffff", "181818")]
)
@pytest.mark.parametrize("weight", [-7, -1, -0.5, 0.5, 1])
def test_letters_stand_out_from_each_tint(ground: str, ink: str, weight: float) -> None:
    [tint] = re.findall(r"rgba\((.*?)\)", spans_as_html(spanning("a", ("a", [(0, 1)], weight))))
    *colour, opacity = map(float, tint.split(","))
    behind = np.array(list(bytes.fromhex(ground)))
    ratio = [
        luminance(behind + opacity * (np.array(colour) - behind)) + 0.05,
        luminance(list(bytes.fromhex(ink))) + 0.05,
    ]
    assert max(ratio) / min(ratio) >= 4.5


def test_each_class_has_its_text_below_its_score_and_one_scale_is_enough() -> None:
    other = target_of_text(-SIGNED, name="negative", score=0.25)
    reader = Reader(format_as_html(text(target_of_text(), other), page=True))
    assert [one.get("class") for one in reader.all("figure")] == ["ks-text"] * 2
    assert re.sub(r"\s+", " ", reader.text("figcaption")) != ""
    assert [one for tag, one in reader.texts if tag == "span" and "%" in one] == ["75.0%", "25.0%"]
    assert len(reader.all("div", "ks-scale")) == 1
    assert len(reader.all("p", "ks-words")) == 2
    assert reader.all("div", "ks-targets") == []
    assert len(reader.all("script")) == 1  # that of every page


def test_a_fragment_of_a_text_has_no_script() -> None:
    assert "<script" not in format_as_html(text())
    assert "<style" in format_as_html(text())
    assert "<style" not in format_as_html(text(), include_styles=False)


def test_the_scale_has_the_tints_of_the_words() -> None:
    assert f"rgba({AGAINST},0.65) 0%" in scale_of_tints(signed=True)
    assert f"rgba({FOR},0.65) 100%" in scale_of_tints(signed=True)
    assert AGAINST not in scale_of_tints(signed=False)
    assert f"rgba({FOR},0.00) 0%,rgba({FOR},0.65) 100%" in scale_of_tints(signed=False)


def test_a_report_has_a_card_of_each_text_and_the_scale_of_each_kind_once() -> None:
    unsigned = text(target_of_text(np.abs(SIGNED), signed=False))
    picture = Explanation(
        "net", image=noise(), targets=[TargetExplanation(0, heatmap=np.eye(2))], error=""
    )
    page = report([text(), unsigned, picture, text()])
    reader = Reader(page)
    assert len(reader.all("article")) == 4
    assert len(reader.all("p", "ks-words")) == 3
    assert [one["data-kind"] for one in reader.all("div", "ks-scale")] == [
        "signed",
        "plain",
        "plain",
    ]
    assert page.count('class="ks-look"') == 1
    assert "&quot;positive (1)&quot;" in page


def test_a_text_that_failed_tells_why() -> None:
    failed = Explanation("net", kind="text", error="no words")
    assert "no words" in Reader(format_as_html(failed)).visible()
    assert "no words" in Reader(report([failed])).visible()
    assert format_as_text(failed) == "net\n\nError: no words"
    assert failed._repr_png_() is None
    with pytest.raises(ValueError, match="expl has no text to draw: no words"):
        format_as_image(failed)
    with pytest.raises(ValueError, match="expl has no text to draw: it has no targets"):
        format_as_image(Explanation("net", kind="text"))


HOSTILE = "<script>alert(1)</script> </p> & \"quoted\" 'single' &lt; \x1b[31m \u202e \ud800 -->"


def hostile() -> Explanation:
    words = tuple((m[0], *m.span()) for m in re.finditer(r"\S+", HOSTILE))
    target = target_of_text(np.linspace(-1, 1, len(words)), Words(HOSTILE, words))
    target.name = HOSTILE
    return text(target)


def test_nothing_of_a_text_is_obeyed_by_a_page() -> None:
    expl = hostile()
    shown = format_as_html(expl)
    count = len(expl.targets[0].weighted_spans.docs_weighted_spans[0].spans)
    tame = text(target_of_text(np.linspace(-1, 1, count), Words("x " * count, words_of(count))))
    assert skeleton(shown) == skeleton(format_as_html(tame))
    assert "alert" in Reader(shown).visible()
    shown.encode("utf-8")
    Reader(report([expl]))


def words_of(count: int) -> tuple[tuple[str, int, int], ...]:
    return tuple((f"w{at}", 2 * at, 2 * at + 1) for at in range(count))


# Lines


def test_below_a_line_are_the_shades_of_its_words() -> None:
    assert format_as_text(text()).split("\n") == [
        "net",
        "method: Grad-CAM",
        "layer: conv",
        "",
        "positive (1)  score 75.0%",
        'Good <b>, but "so" so bad.',
        "████           ~~  ~~ ≡≡≡",
        "    The end & more",
        "",
        " +1.00  ██████████  good",
        " +0.05              the",
        " +0.00              but",
        " -0.80  ≡≡≡≡≡≡≡≡    so (2 times)",
        " -1.00  ≡≡≡≡≡≡≡≡≡≡  bad",
    ]


def test_in_colour_the_words_have_backgrounds() -> None:
    lines = format_as_text(text(), colour=True).split("\n")
    black = "\x1b[38;5;16;48;5;"
    assert lines[5] == (
        f'{black}202mGood\x1b[0m <b>, but "{black}153mso\x1b[0m" {black}153mso\x1b[0m '
        f"{black}69mbad\x1b[0m."
    )
    assert lines[6] == "    The end & more"
    with pytest.raises(TypeError, match="colour must be True or False"):
        format_as_text(text(), colour="yes")


def test_long_texts_are_wrapped_at_spaces_and_long_words_where_the_line_ends() -> None:
    document = f"{'ab ' * 40}{'x' * 100} end\n\n映画{'映' * 50}"
    lines = spans_as_lines(spanning(document, ("ab", [(117, 119)], 1.0)))
    assert lines == [
        ("ab " * 26).strip(),
        ("ab " * 14).strip(),
        " " * 39 + "██",
        "x" * 78,
        "x" * 22 + " end",
        "",
        "映画" + "映" * 37,
        "映" * 13,
    ]


def test_a_full_line_ends_once() -> None:
    full = "x" * 78
    assert spans_as_lines(spanning(f"{full} \r\n{full}  y", ("y", [(161, 162)], 1.0))) == [
        full,
        full,
        "y",
        "█",
    ]


def test_shades_stand_below_letters_of_any_width() -> None:
    lines = spans_as_lines(spanning("映画 e\u0301 b", ("b", [(6, 7)], 1.0), ("e", [(3, 5)], -1.0)))
    assert lines == ["映画 e\u0301 b", "     ≡ █"]


def test_nothing_of_a_text_is_obeyed_by_a_terminal() -> None:
    for colour in (False, True):
        told = re.sub(r"\x1b\[(0|38;5;16;48;5;\d+)m", "", format_as_text(hostile(), colour=colour))
        assert not set(told) & {"\x1b", "\u202e", "\ud800"}
        assert r"\x1b[31m \u202e \ud800" in told


@pytest.mark.parametrize(
    ("heatmap", "told"),
    [
        (np.zeros(8), "blank"),
        ([0, 0, 0.05, 0, 0, 0, 0, 0], "nearly blank"),
        ([0, 0, 0.05, 0, 0, 0, 0, 1], "hardly a word has weight: the heat is on padding"),
    ],
)
def test_a_text_of_no_weights_says_so(heatmap: Any, told: str) -> None:
    expl = text(target_of_text(np.array(heatmap)))
    assert told in format_as_text(expl).split("\n")
    assert f"{told.capitalize()}." in Reader(format_as_html(expl)).visible()
    assert format_as_image(expl).height > format_as_image(text()).height - 2 * 26


def test_spaces_have_a_sign_where_they_are_words() -> None:
    target = target_of_text(np.ones(2), Words("a b", (("a", 0, 1), (" ", 1, 2))))
    assert 'title="␣: +1.00"> ' not in spans_as_html(target)
    assert 'title="␣: +1.00"' in spans_as_html(target)
    assert spans_as_lines(target)[-1].endswith("  ␣")


@pytest.mark.parametrize(
    ("spans", "words"),
    [
        ([("b", [(1, 3)], 1.0), ("a", [(0, 2)], 0.5)], ["ab", "c"]),  # they overlap
        ([("a", [(0, 2)], 0.5), ("b", [(0, 2)], 1.0)], ["ab"]),
        ([("a", [(-3, 1), (2, 99)], 0.5), ("b", [(2, 1), (50, 60)], 1.0)], ["a", "cd"]),
        ([("a", [(0, 1)], float("nan")), ("b", [(1, 2)], float("inf"))], []),
    ],
)
def test_spans_that_do_not_fit_lose_nothing_of_the_text(spans: Any, words: list[str]) -> None:
    markup = spans_as_html(spanning("abcd", *spans))
    assert re.findall(r'ks-word"[^>]*>(\w+)', markup) == words
    assert re.sub("<[^>]+>", "", markup).startswith("abcd")


def test_without_spans_there_is_the_class_alone() -> None:
    expl = text(TargetExplanation(1, score=0.5))
    assert format_as_text(expl).endswith("class 1  score 0.5")
    assert "class 1" in Reader(format_as_html(expl)).visible()
    assert format_as_image(expl).size[0] == 800


# Pictures and dicts


def colours_in(picture: Image.Image) -> set[Any]:
    return {colour for _, colour in picture.getcolors(1 << 20)}


def test_a_picture_has_the_text_on_tints_below_its_class() -> None:
    picture = format_as_image(text())
    assert picture.mode == "RGBA"
    assert picture.size == (800, 2 * 20 + 26 * 5)  # class, two lines, a space, and the colours
    assert {(245, 152, 120, 255), (120, 180, 255, 255), (255, 255, 255, 255)} <= colours_in(picture)
    unsigned = format_as_image(text(target_of_text(np.abs(SIGNED), signed=False)))
    assert (120, 180, 255, 255) not in colours_in(unsigned)
    assert unsigned.height == picture.height - 2 * 26


def test_a_picture_has_all_classes_and_ends_where_a_text_is_too_long() -> None:
    one, two = format_as_image(text()), format_as_image(text(target_of_text(), target_of_text()))
    assert two.height == one.height + 4 * 26
    long = spanning("word\n" * 300)
    assert format_as_image(text(long)).height == 2 * 20 + 26 * (
        1 + 200 + 2
    )  # … and that it is blank


def test_it_shows_itself() -> None:
    with Image.open(io.BytesIO(text()._repr_png_())) as picture:
        assert picture.convert("RGBA") == format_as_image(text())
    assert text()._repr_html_() == format_as_html(text())


def test_a_sheet_has_texts_side_by_side() -> None:
    both = format_as_sheet([text(target_of_text(), target_of_text()), text()])
    assert both.width > 1600
    failed = Explanation("net", kind="text", error="no words")
    assert format_as_sheet([text(), failed]).height > format_as_image(text()).height


def test_a_dict_has_the_words_and_their_weights() -> None:
    found = format_as_dict(text(target_of_text(words=Words("a", (("a", 0, 1),)), heatmap=SIGNED)))
    assert found["kind"] == "text"
    weight = found["targets"][0]["weighted_spans"]["docs_weighted_spans"][0]["spans"][0][2]
    assert found["targets"][0]["weighted_spans"] == {
        "docs_weighted_spans": [
            {
                "document": "a",
                "spans": [["a", [[0, 1]], weight]],
                "preserve_density": None,
                "vec_name": None,
            }
        ],
        "other": None,
    }
    assert found["targets"][0]["feature_weights"] == {
        "pos": [],
        "neg": [{"feature": "a", "weight": weight, "std": None, "value": 1.0}],
        "pos_remaining": 0,
        "neg_remaining": 0,
    }


def test_words_of_the_fixture_stand_where_they_are_said_to() -> None:
    shown = [TEXT[start:end].lower() for _, start, end in filter(None, WORDS.steps)]
    assert shown == [word for word, _, _ in filter(None, WORDS.steps)]
