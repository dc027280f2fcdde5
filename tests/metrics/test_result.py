"""An evaluation as a table, in sentences, in files, and drawn."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from metrics.rows import RESULT, TOLD, make_rows

from kerasight.metrics.comparison import RANDOM, Row
from kerasight.metrics.result import Evaluation


def test_the_table_is_text() -> None:
    assert str(TOLD) == "\n".join(
        [
            "Method      Insertion ↑     Deletion ↓  Insertion \u2212 deletion ↑    Increase ↑  "
            "Seconds ↓",
            "─" * 87,
            f"grad-cam   1.000 ±0.000  *0.102 ±0.000{'*0.898 ±0.000':>24}   50.0% ±0.0%     *6.000",
            f"hirescam   1.000 ±0.000  *0.103 ±0.000{'*0.897 ±0.000':>24}  *75.0% ±0.0%     *6.000",
            f"eigen-cam  1.000 ±0.000   0.304 ±0.001{'0.696 ±0.001':>24}   50.0% ±0.0%     35.500",
            f"random     1.000 ±0.000   0.510 ±0.001{'0.490 ±0.001':>24}   50.0% ±0.0%",
            "",
            "Means of 12 docs, 24 classes, scores explained, ± the standard error over docs.",
            "* marks methods that no other is significantly better than; a column without * shows "
            "no significant difference.",
            "Best by insertion \u2212 deletion is one of grad-cam and hirescam.",
            "By insertion \u2212 deletion, doc by doc: grad-cam is ahead of eigen-cam by 0.202 "
            "±0.000 and random by 0.408 ±0.001; no difference from grad-cam can be told for "
            "hirescam (0.001 ±0.001).",
            "Not significantly better than random in Insertion and Increase: grad-cam and "
            "eigen-cam.",
            "Not significantly better than random in Insertion: hirescam.",
        ]
    )
    assert repr(TOLD) == "evaluation of 4 methods by 3 metrics on 12 docs, 24 classes"


def test_few_docs_tell_nothing_and_say_so() -> None:
    rows = [row for row in TOLD.rows if row.position < 2]
    few = Evaluation(tuple(rows), TOLD.metrics)
    assert few.summary("picture") == [
        "Means of 2 pictures, 4 classes, scores explained, ± the standard error over pictures.",
        "2 pictures are too few to compare methods: at least 6 are needed, and often many more.",
    ]
    assert not any("*" in cell for line in few.table() for cell in line[1:-1])
    one = Evaluation(tuple(row for row in rows if row.position < 1), TOLD.metrics)
    assert one.summary() == [
        "Means of 1 doc, 2 classes, scores explained.",
        "1 doc is too few to compare methods: at least 6 are needed, and often many more.",
    ]
    assert one.table()[1][1] == "1.000"


def test_where_chance_explains_all_differences_no_method_is_named() -> None:
    random = np.random.default_rng(3)
    rows = [row for name in "abc" for row in make_rows(name, random.random(20).tolist())]
    found = Evaluation((*rows, *make_rows(RANDOM, random.random(20).tolist())), ("deletion",))
    assert found.summary()[1:] == ["No two methods differ significantly: that takes more docs."]
    assert found.best("deletion") == found.methods
    assert found.beaten_by_random() == dict.fromkeys("abc", ("deletion",))
    assert not any("*" in line[1] for line in found.table())


def test_one_best_is_named_with_its_value() -> None:
    rows = [row for row in TOLD.rows if row.method != "hirescam"]
    found = Evaluation(tuple(rows), TOLD.metrics)
    assert found.summary(mark="Bold")[1:3] == [
        "Bold marks methods that no other is significantly better than; a column without Bold "
        "shows no significant difference.",
        "Best by insertion \u2212 deletion: grad-cam (0.898 ±0.000).",
    ]
    alone = Evaluation(tuple(row for row in rows if row.method == "grad-cam"), TOLD.metrics)
    assert len(alone.summary()) == 1  # nothing to compare with


def test_what_no_method_is_better_at_than_random_is_said_in_one_sentence() -> None:
    rows = [row for name in "abc" for row in make_rows(name, [0.2, 0.3] * 9, increase=0)]
    found = Evaluation(
        (*rows, *make_rows(RANDOM, [0.5, 0.5] * 9, increase=50)), ("increase", "deletion")
    )
    # What is worse is not better, though it can be told apart.
    assert found.tells_apart("a", RANDOM, "increase")
    assert found.summary()[-1] == "Not significantly better than random in Increase: all methods."
    assert found.beaten_by_random() == dict.fromkeys("abc", ("increase",))
    both = tuple(row for row in TOLD.rows if row.method in ("grad-cam", "hirescam", RANDOM))
    assert Evaluation(both, TOLD.metrics).summary()[2] == (
        "By insertion \u2212 deletion, only random is significantly worse than the best."
    )


def test_methods_are_led_by_the_first_metric_of_faithfulness_that_was_measured() -> None:
    rows = [
        Row(doc, str(doc), 0, None, 0.5, method, "map", 0.1, {"deletion": value, "increase": 50.0})
        for doc in range(8)
        for method, value in (("a", 0.2 + 0.01 * (doc % 2)), ("b", 0.5), ("c", 0.1))
    ]
    found = Evaluation(tuple(rows), ("increase", "deletion"))
    assert found.summary("picture")[-1] == (
        "By deletion, picture by picture: c is ahead of a by 0.105 ±0.002 and b by 0.400 ±0.000."
    )
    other = Evaluation(tuple(rows), ("increase",))
    assert not any("ahead" in sentence for sentence in other.summary())


def test_markdown_has_the_best_in_bold() -> None:
    lines = TOLD.to_markdown().splitlines()
    assert lines[0].startswith(
        "| Method | Insertion ↑ | Deletion ↓ | Insertion \u2212 deletion ↑ |"
    )
    assert lines[1] == "| --- | ---: | ---: | ---: | ---: | ---: |"
    assert lines[3] == (
        "| hirescam | 1.000 ±0.000 | **0.103 ±0.000** | **0.897 ±0.000** | **75.0% ±0.0%** | "
        "**6.000** |"
    )
    assert lines[5] == ("| random | 1.000 ±0.000 | 0.510 ±0.001 | 0.490 ±0.001 | 50.0% ±0.0% |  |")


def test_a_csv_file_has_every_number(tmp_path: Path) -> None:
    RESULT.to_csv(tmp_path / "new.csv")
    with open(tmp_path / "new.csv", encoding="utf-8", newline="") as file:
        head, *lines = csv.reader(file)
    assert head == [
        *("doc", "target", "name", "score", "method", "layer", "seconds"),
        *("insertion", "deletion", "increase", "insertion_minus_deletion"),
    ]
    assert len(lines) == len(RESULT.rows)
    assert lines[0] == [
        *("doc, 0", "0", "", "0.25", "random", "map", ""),
        *("1.0", "0.9", "50.0", repr(1 - 0.9)),
    ]
    for line, row in zip(lines, RESULT.rows, strict=True):
        numbers = dict(zip(head[6:], line[6:], strict=True))
        for column, text in numbers.items():
            value = row.value(column)
            assert text == "" if math.isnan(value) else float(text) == value


def test_a_csv_file_of_means_has_their_errors(tmp_path: Path) -> None:
    TOLD.to_csv(tmp_path / "means.csv", means=True)
    with open(tmp_path / "means.csv", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(TOLD.methods) * len(TOLD.columns)
    for line in lines:
        method, column = line["method"], line["metric"]
        numbers = {"mean": TOLD.mean(method, column), "error": TOLD.error(method, column)}
        for name, number in numbers.items():
            assert line[name] == "" if math.isnan(number) else float(line[name]) == number
        assert line["docs"] == ("0" if (method, column) == (RANDOM, "seconds") else "12")
        assert line["best"] == str(int(method in TOLD.best(column)))


def test_a_csv_file_takes_the_place_of_another_when_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "found.csv"
    row = Row(0, "caf\udce9.png", 0, None, 0.5, "grad-cam", "map", 0.1, {"deletion": 0.25})
    found = Evaluation((row,), ("deletion",))
    found.to_csv(path)
    earlier = path.read_text(encoding="utf-8")
    assert earlier.splitlines()[1] == r"caf\udce9.png,0,,0.5,grad-cam,map,0.1,0.25"

    def interrupted(*_: object) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(Row, "cells", interrupted)
    with pytest.raises(KeyboardInterrupt):
        found.to_csv(path)
    assert path.read_text(encoding="utf-8") == earlier
    assert [one.name for one in tmp_path.iterdir()] == ["found.csv"]


def test_the_plot_is_the_table() -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    ax = TOLD.plot()
    texts = [text.get_text() for text in ax.texts]
    assert texts == [cell for line in TOLD.table()[1:] for cell in line[1:]]
    assert [label.get_text() for label in ax.get_yticklabels()] == list(TOLD.methods)
    drawn = ax.images[0].get_array()
    means = [TOLD.mean(method, "deletion") for method in TOLD.methods]
    shares = (np.array(means) - means[0]) / (means[3] - means[0])
    assert drawn[:, 1].tolist() == pytest.approx(1 - shares)
    assert math.isnan(drawn.filled(np.nan)[3, 4])
    _, own = pyplot.subplots()
    assert TOLD.plot(own, cmap="Greens") is own
    assert own.images[0].cmap.name == "Greens"
    pyplot.close("all")


def test_the_plot_has_error_bars() -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    rows = (*make_rows("a", [0.2] * 4 + [0.4] * 4), *make_rows("b", [0.7] * 8))
    ax = Evaluation(rows, ("deletion",)).plot()
    (bar, _), (none, dot) = ax.lines[:2], ax.lines[2:4]
    # Of the 0.4 between the means; a cell is drawn from -0.4 to 0.4. What leaves it is cut off.
    error = 0.1 / math.sqrt(3)
    assert bar.get_xdata().tolist() == pytest.approx([-0.4, -0.4 + 0.8 * error / 0.4])
    assert none.get_xdata().tolist() == pytest.approx([0.4, 0.4])
    assert np.ravel(dot.get_xdata()).tolist() == pytest.approx([0.4])
    pyplot.close("all")
