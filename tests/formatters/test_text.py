from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_media import HOT, heat, media

from kerasight.base import Explanation, TargetExplanation
from kerasight.formatters.text import fewer_cells, format_as_text, format_score, place_in_words


def make(heatmap: Any, **kwargs: Any) -> Explanation:
    target = TargetExplanation(3, score=0.75, heatmap=heatmap, name="house", **kwargs)
    return Explanation("net", "Where.", "", "Grad-CAM", targets=[target], layer="backbone/out")


def test_a_card_worked_out_by_hand() -> None:
    heatmap = np.array([[0, 0.2, 0.4], [0.6, 0.8, 1.0]])
    assert format_as_text(make(heatmap)) == "\n".join(
        [
            "net",
            "method: Grad-CAM",
            "layer: backbone/out",
            "",
            "Where.",
            "",
            "house (3)  score 0.75",
            "hottest at the lower right: 1.00 in row 2, column 3 of 2 x 3",
            "┌──────┐",
            "│  ··░░│",
            "│▒▒▓▓██│",
            "└──────┘",
        ]
    )


def test_what_speaks_against_a_class_has_other_characters() -> None:
    text = format_as_text(make(np.array([[-1, -0.8, -0.6, -0.4, -0.2, 0, 1]]), signed=True))
    assert "│≡≡≈≈==~~--  ██│" in text
    assert "strongest against it at the left: -1.00 in row 1, column 1 of 1 x 7" in text


def test_large_heatmaps_are_averaged() -> None:
    text = format_as_text(make(np.ones((128, 64))))
    rows = [line for line in text.splitlines() if line.startswith("│")]
    assert rows == ["│" + "█" * 32 + "│"] * 32
    assert "of 128 x 64" in text
    fewer = fewer_cells(np.array([[0.0, 1.0], [0.5, 0.5]]), 1)
    np.testing.assert_array_equal(fewer, [[0.5]])
    assert fewer_cells(np.zeros((300, 1)), 10).shape == (10, 1)


def test_spikes_do_not_make_the_block_blank() -> None:
    spiky = np.zeros((96, 96))
    spiky[:48:3, ::3] = 0.3
    spiky[0, 0] = 1
    rows = [line for line in format_as_text(make(spiky)).splitlines() if line.startswith("│")]
    assert rows == ["│" + "█" * 64 + "│"] * 16 + ["│" + " " * 64 + "│"] * 16


def test_every_target_has_its_block() -> None:
    expl = make(np.eye(3))
    expl.targets.append(TargetExplanation(7, heatmap=np.zeros((3, 3))))
    text = format_as_text(expl)
    assert text.count("┌") == 1
    assert text.endswith("class 7\nblank")


def test_nothing_in_it_is_obeyed_by_a_terminal() -> None:
    evil = "\x1b]0;pwned\x07\x9b31m\u202e\r\udcff"
    expl = make(np.eye(2))
    expl.estimator = expl.method = expl.layer = expl.targets[0].name = f"{evil}\n"
    expl.description, expl.error = f"two\nlines {evil}.", f"{evil}."
    text = format_as_text(expl)
    escaped = r"\x1b]0;pwned\x07\x9b31m\u202e\r\udcff"
    lines = text.splitlines()
    assert lines[:3] == [rf"{escaped}\n", rf"method: {escaped}\n", rf"layer: {escaped}\n"]
    assert f"Error: {escaped}." in lines
    assert f"two\nlines {escaped}." in text
    assert rf"{escaped}\n (3)  score 0.75" in lines
    assert not set(text) & {"\x1b", "\x07", "\x9b", "\u202e", "\r", "\udcff"}


@pytest.mark.parametrize("expl", [None, "net", [make(np.eye(2))], make(np.eye(2)).targets[0]])
def test_what_is_no_explanation_is_refused(expl: Any) -> None:
    with pytest.raises(TypeError, match="expl must be an Explanation, got"):
        format_as_text(expl)


@pytest.mark.parametrize(
    "heatmap",
    [
        None,
        "no array",
        np.array([["a"]]),
        np.array([[1j]]),
        np.zeros((0, 2)),
        np.zeros(3),
        np.array([[np.nan]]),
    ],
)
def test_a_heatmap_that_cannot_be_drawn_is_left_out(heatmap: Any) -> None:
    assert format_as_text(make(heatmap)).endswith("house (3)  score 0.75")
    assert place_in_words(heatmap) == ""


def test_it_is_there_without_picture_targets_or_method() -> None:
    assert format_as_text(Explanation("net")) == "net"
    assert format_as_text(Explanation("net", error="is not supported\n")) == (
        "net\n\nError: is not supported"
    )
    with_picture = make(np.eye(2))
    with_picture.image = Image.new("RGB", (2, 2))
    assert format_as_text(with_picture) == format_as_text(make(np.eye(2)))


def test_parts_can_be_left_out() -> None:
    expl = make(np.eye(2))
    assert format_as_text(expl, show=("method",)) == "net\nmethod: Grad-CAM\nlayer: backbone/out"
    assert format_as_text(expl, show=["description"]) == "net\n\nWhere."
    assert format_as_text(expl, show={"targets"}).startswith("net\n\nhouse (3)")
    assert format_as_text(Explanation("net", error="wrong"), show=()) == "net\n\nError: wrong"


def test_the_parts_that_eli5_has_for_other_models_are_empty() -> None:
    everything = (
        "method",
        "description",
        "transition_features",
        "targets",
        "feature_importances",
        "decision_tree",
    )
    expl = make(np.eye(2))
    assert format_as_text(expl, show=everything) == format_as_text(expl)


@pytest.mark.parametrize("show", ["method", ["methods"], ("targets", "heatmap"), [["method"]]])
def test_unknown_parts_are_refused(show: Any) -> None:
    with pytest.raises(ValueError, match="show must be a collection of names out of method"):
        format_as_text(make(np.eye(2)), show=show)
    with pytest.raises(TypeError, match="show must be a collection of names, got int"):
        format_as_text(make(np.eye(2)), show=3)


@pytest.mark.parametrize(
    ("row", "column", "words"),
    [
        (0, 0, "at the upper left"),
        (0, 4, "at the top"),
        (1, 8, "at the upper right"),
        (4, 1, "at the left"),
        (4, 4, "in the centre"),
        (3, 6, "at the right"),
        (8, 2, "at the lower left"),
        (6, 3, "at the bottom"),
        (7, 7, "at the lower right"),
    ],
)
def test_places_have_names(row: int, column: int, words: str) -> None:
    heatmap = np.zeros((9, 9))
    heatmap[row, column] = 0.5
    assert place_in_words(heatmap) == f"hottest {words}"
    assert place_in_words(-heatmap) == f"strongest against it {words}"


def test_a_single_cell_is_in_the_centre_and_a_blank_map_is_blank() -> None:
    assert place_in_words(np.ones((1, 1))) == "hottest in the centre"
    assert place_in_words(np.zeros((4, 4))) == "blank"


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (None, ""),
        (0.93125, "0.9313"),
        (1.0, "1"),
        (0, "0"),
        (np.float32(12.5), "12.5"),
        (-3.25, "-3.25"),
        (0.00012, "0.00012"),
        (12345.6, "1.235e+04"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
    ],
)
def test_scores_are_short(score: Any, text: str) -> None:
    assert format_score(score) == text


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (None, ""),
        (0.93125, "93.1%"),
        (0, "0.0%"),
        (1e-7, "<0.1%"),
        (0.00051, "0.1%"),
        (0.9994, "99.9%"),
        (np.float32(0.99999), ">99.9%"),
        (1.0, "100.0%"),
        (float("nan"), "nan%"),
    ],
)
def test_probabilities_are_told_in_per_cent(score: Any, text: str) -> None:
    assert format_score(score, is_probability=True) == text
    expl = make(None)
    expl.targets[0].score, expl.targets[0].is_probability = score, True
    assert format_as_text(expl).endswith(f"score {text}" if text else "house (3)")


def test_a_signal_is_a_row_with_its_hottest_step_in_words() -> None:
    text = format_as_text(media("signal", np.array([0.0, 0.2, 1.0, 0.4])))
    assert text.endswith(
        "house (0)  score 0.75\nhottest at step 8 of 12: 1.00\n┌────────┐\n│  ··██░░│\n└────────┘"
    )


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        ("volume", "hottest at depth 6 of 6, at the right: 1.00 in row 2, column 4 of 4 x 5"),
        ("video", "hottest at frame 8 of 10, at the lower left: 1.00 in row 3, column 1 of 3 x 4"),
    ],
)
def test_of_a_stack_there_is_the_slice_through_the_hottest_place(kind: str, where: str) -> None:
    heatmap = heat(kind)
    lines = format_as_text(media(kind, heatmap)).splitlines()
    assert where in lines
    block = [line for line in lines if line.startswith("│")]
    row, column = HOT[kind][1:]
    assert [line.count("█") for line in block] == list(2 * heatmap[HOT[kind][0]].sum(axis=1))
    assert block[row].index("█") == 1 + 2 * column


@pytest.mark.parametrize("kind", ["signal", "volume", "video"])
def test_blank_and_wrong_heatmaps_of_other_kinds(kind: str) -> None:
    assert format_as_text(media(kind, heat(kind, 0.0))).endswith("0.75\nblank")
    assert format_as_text(media(kind, heat(kind, 0.01))).endswith("0.75\nnearly blank")
    assert format_as_text(media(kind, np.eye(2))).endswith("score 0.75")
    assert "\nstrongest against it at " in format_as_text(media(kind, heat(kind, -1.0)))


def test_places_are_told_in_the_cells_where_there_is_no_doc() -> None:
    assert place_in_words(heat("signal"), "signal") == "hottest at step 3 of 4"
    assert place_in_words(heat("signal"), "signal", (128,)) == "hottest at step 81 of 128"
    assert "hottest at step 3 of 4: 1.00" in format_as_text(media("signal", doc=None))
    assert place_in_words(heat("signal"), "texture") == ""
