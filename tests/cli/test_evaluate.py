"""`kerasight evaluate`: what it measures, writes, prints and refuses."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cli.commands as given
import numpy as np
import pytest
from cli.commands import (
    doc_of,
    forbid_keras,
    make_hidden,
    make_mean,
    make_softmax,
    make_unit,
    noise_picture,
    run,
    save_model,
    save_picture,
)
from PIL import Image
from rich.console import Console
from typer.testing import Result

from kerasight import demo
from kerasight.cam.methods import CAMS
from kerasight.cli.tables import print_numbers
from kerasight.metrics.columns import METRICS
from kerasight.metrics.comparison import Row
from kerasight.metrics.evaluation import Study
from kerasight.metrics.evaluation import evaluate as of_library
from kerasight.metrics.result import Evaluation

pytestmark = pytest.mark.filterwarnings("ignore::kerasight.base.HeatmapWarning")

# Two methods and quick metrics, so that there is little to wait for.
QUICK = ("--method", "grad-cam", "--method", "LayerCAM", "--metric", "increase")


def evaluate(*arguments: str | Path) -> Result:
    result = run("evaluate", *arguments)
    assert result.exit_code == 0, result.stderr
    return result


def refused(*arguments: str | Path) -> str:
    return given.refused(*arguments, command="evaluate")


def rows_of(result: Result) -> list[list[str]]:
    """The table's lines, cell by cell, the heading first."""
    head, _, *lines = result.stdout.splitlines()
    lines = lines[: lines.index("")]
    return [re.split(r"\s{2,}", line.strip()) for line in (head, *lines)]


def lines_of(path: str = "evaluation.csv") -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class TestDemo:
    def test_is_judged_by_the_masks_of_its_pictures(self) -> None:
        result = evaluate(
            *("--pictures", "2", "--seed", "3", "--steps", "4"),
            *("--method", "grad-cam", "--method", "hirescam"),
            *("--metric", "pointing-game", "--metric", "energy_in_mask", "--metric", "deletion"),
        )
        random = np.random.default_rng(3)
        pictures = [demo.draw_picture(random, size=192), demo.draw_pair(random, size=192)]
        expected = of_library(
            demo.load_model(),
            [demo.preprocess(picture.image) for picture in pictures],
            methods=["grad-cam", "hirescam"],
            metrics=["pointing_game", "energy_in_mask", "deletion"],
            targets=[picture.labels for picture in pictures],
            masks=[picture.masks for picture in pictures],
            names=["demo picture 1", "demo picture 2"],
            target_names=demo.CLASS_NAMES,
            steps=4,
            seed=3,
        )
        assert result.stderr == ""
        lines = lines_of()
        assert len(lines) == len(expected.rows) == 9
        for line, row in zip(lines, expected.rows, strict=True):
            assert (line["doc"], line["method"], line["layer"]) == (row.doc, row.method, "features")
            assert (int(line["target"]), line["name"]) == (row.target, row.name)
            assert float(line["score"]) == pytest.approx(row.score, abs=1e-6)
            for name, value in row.values.items():
                assert float(line[name]) == pytest.approx(value, abs=1e-5), name
            assert (line["seconds"] == "") == (row.method == "random")
        assert rows_of(result)[0] == [
            *("Method", "Pointing game ↑", "Energy in mask ↑", "Deletion ↓", "Seconds ↓")
        ]
        # All but the time, which is another one each time.
        assert [row[:4] for row in rows_of(result)] == [row[:4] for row in expected.table()]
        assert result.stdout.splitlines()[-3:] == [
            "Means of 2 pictures, 3 classes, logits explained, ± the standard error over pictures.",
            *expected.summary("picture")[1:],
            "9 lines written to evaluation.csv",
        ]

    def test_pictures_are_the_same_for_a_seed_and_fewer_are_the_first_of_more(self) -> None:
        arguments = (*QUICK, "--no-random")
        evaluate(*arguments, "--pictures", "3", "-o", "three.csv")
        evaluate(*arguments, "--pictures", "1", "-o", "one.csv")
        evaluate(*arguments, "--pictures", "1", "--seed", "1", "-o", "other.csv")

        def scores(path: str) -> list[float]:
            return [float(line["score"]) for line in lines_of(path)]

        assert scores("one.csv") == pytest.approx(scores("three.csv")[:2])
        assert scores("one.csv") != pytest.approx(scores("other.csv"))
        assert [line["doc"] for line in lines_of("three.csv")][2::2] == [
            *("demo picture 2", "demo picture 2", "demo picture 3")
        ]

    def test_probabilities_can_be_explained(self) -> None:
        result = evaluate(*QUICK, "--pictures", "1", "--probabilities")
        assert "Means of 1 picture, scores explained." in result.stdout


class TestPictures:
    def test_are_explained_for_their_best_class_by_the_model(self) -> None:
        names = [noise_picture(f"folder/{name}.png", seed=i) for i, name in enumerate("ab")]
        model = make_softmax()
        Path("names.txt").write_text("cat\ndog\ncrane")
        result = evaluate(
            *("folder", "-m", save_model(model), "--class-names", "names.txt", *QUICK),
            *("--metric", "road", "-o", "new/folder/out.csv"),
        )
        expected = of_library(
            model,
            [doc_of(name) for name in names],
            methods=["grad-cam", "layercam"],
            metrics=["increase", "road"],
            names=names,
            target_names=["cat", "dog", "crane"],
        )
        lines = lines_of("new/folder/out.csv")
        assert [line["doc"] for line in lines] == [row.doc for row in expected.rows]
        assert [line["name"] for line in lines] == [row.name for row in expected.rows]
        for line, row in zip(lines, expected.rows, strict=True):
            assert float(line["road"]) == pytest.approx(row.values["road"], abs=1e-5)
        assert result.stdout.splitlines()[-1] == "6 lines written to new/folder/out.csv"

    def test_have_masks_of_the_same_name(self) -> None:
        for name in ("a.jpg", "b.png", "c.png"):
            noise_picture(f"folder/{name}")
        mask = np.zeros((7, 9), dtype=np.uint8)
        mask[2:, 3:] = 1
        for name in ("a.png", "c.gif", "other.png"):
            Path("masks").mkdir(exist_ok=True)
            Image.fromarray(mask).save(Path("masks", name))
        model = make_softmax()
        arguments = ("folder", "-m", save_model(model), "--masks", "masks", *QUICK)
        result = evaluate(*arguments, "--metric", "energy_in_mask", "--no-random")
        assert result.stderr == f"Warning: no mask for {Path('folder/b.png')}\n"
        expected = of_library(
            model,
            [doc_of("folder/c.png")],
            methods=["grad-cam", "layercam"],
            metrics=["energy_in_mask"],
            masks=[mask > 0],
            random=False,
        )
        energies = [line["energy_in_mask"] for line in lines_of()]
        assert energies[2:4] == ["", ""]
        assert [float(energy) for energy in energies[4:]] == pytest.approx(
            [row.values["energy_in_mask"] for row in expected.rows], abs=1e-5
        )

    def test_have_masks_in_folders_as_they_are_themselves(self) -> None:
        mask = np.zeros((4, 4), np.uint8)
        for place, name in enumerate(("cat/1", "dog/1")):
            noise_picture(f"photos/{name}.jpg", seed=place)
            Path(f"masks/{name}").parent.mkdir(parents=True)
            mask[place] = 1
            Image.fromarray(mask).save(f"masks/{name}.png")
        model = save_model(make_softmax())
        run("evaluate", "photos", "-m", model, "--masks", "masks", "--metric", "energy_in_mask")
        found = {line["doc"]: line["energy_in_mask"] for line in lines_of()}
        assert set(found) == {str(Path("photos/cat/1.jpg")), str(Path("photos/dog/1.jpg"))}
        assert all(found.values())
        Path("evaluation.csv").unlink()
        line = refused("photos", "-m", model, "--masks", "masks/cat")
        assert line.startswith("--masks masks/cat: no mask for any of the pictures")

    def test_without_masks_are_told_in_one_line(self) -> None:
        names = [noise_picture(f"{name}.png") for name in "abcd"]
        save_picture("masks/b.png", "white")
        arguments = (*names, "-m", save_model(make_softmax()), "--masks", "masks", *QUICK)
        assert evaluate(*arguments).stderr == "Warning: no mask for a.png and 2 more of 4\n"

    def test_that_fail_are_reported_and_the_rest_counts(self) -> None:
        Path("text.png").write_text("text")
        good = [noise_picture(f"{name}.png") for name in "ab"]
        save_picture("masks/b.png", "black")
        arguments = ("text.png", *good, "gone.png", "-m", save_model(make_softmax()))
        result = run("evaluate", *arguments, *QUICK)
        assert result.exit_code == 2
        assert result.stderr.splitlines() == [
            "Error: gone.png: no such file",
            "Error: text.png: not a picture in a format that Pillow reads",
        ]
        assert {line["doc"] for line in lines_of()} == set(good)
        assert "Means of 2 pictures" in result.stdout
        result = run("evaluate", *arguments[1:3], "--masks", "masks", *arguments[4:], *QUICK)
        assert result.exit_code == 2
        mask = Path("masks/b.png")
        assert f"Error: b.png: its mask {mask}: no object in it" in result.stderr
        assert {line["doc"] for line in lines_of()} == {"a.png"}

    def test_that_all_fail_leave_an_earlier_file_alone(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Path("evaluation.csv").write_text("an earlier one")
        forbid_keras(monkeypatch)
        result = run("evaluate", "gone.png", "-m", save_model(make_softmax()), "--force")
        assert result.exit_code == 2
        assert result.stdout == "No picture evaluated\n"
        assert Path("evaluation.csv").read_text() == "an earlier one"

    def test_may_be_shown_to_the_demo_model(self) -> None:
        result = evaluate(noise_picture(), *QUICK)
        assert result.stderr.startswith("Note: without --model, the demo model")


class TestOutput:
    def test_is_not_lost_when_interrupted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rows = Study.rows

        def interrupted(self: Study, doc: np.ndarray, **asked: Any) -> list[Row]:
            if asked["position"] == 1:
                raise KeyboardInterrupt
            return rows(self, doc, **asked)

        monkeypatch.setattr(Study, "rows", interrupted)
        result = run("evaluate", *QUICK, "--pictures", "3")
        assert result.exit_code == 130
        assert result.stderr == "Error: interrupted at demo picture 2, 2 of 3\n"
        assert "Means of 1 picture" in result.stdout
        assert result.stdout.splitlines()[-1] == "3 lines written to evaluation.csv"
        assert len(lines_of()) == 3

    def test_that_cannot_be_written_is_one_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: Any) -> list[str]:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Row, "cells", full)
        result = run("evaluate", *QUICK, "--pictures", "2")
        assert result.exit_code == 2
        assert result.stdout == ""
        assert result.stderr == (
            "Error: evaluation.csv cannot be written: No space left on device\n"
        )

    def test_that_cannot_be_written_later_does_not_cost_the_table(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cells = Row.cells

        def full(self: Row, columns: Any) -> list[str]:
            if self.position == 1:
                raise OSError(28, "No space left on device")
            return cells(self, columns)

        monkeypatch.setattr(Row, "cells", full)
        result = run("evaluate", *QUICK, "--pictures", "2")
        assert result.exit_code == 2
        assert result.stderr == (
            "Error: evaluation.csv cannot be written: No space left on device\n"
        )
        assert "Means of 2 pictures, 3 classes" in result.stdout
        assert result.stdout.splitlines()[-1] == "3 lines written to evaluation.csv"

    def test_may_be_markdown(self) -> None:
        result = evaluate(*QUICK, "--pictures", "1", "--markdown")
        head, ruler, *lines = result.stdout.splitlines()
        assert head == "| Method | Increase ↑ | Seconds ↓ |"
        assert ruler == "| --- | ---: | ---: |"
        assert [line.split(" | ")[0] for line in lines[:3]] == [
            *("| grad-cam", "| layercam", "| random")
        ]
        assert lines[3] == ""

    def test_of_all_metrics_has_room_in_a_terminal(self) -> None:
        """The widest that there is stands in one part."""
        names = (*METRICS, "insertion_minus_deletion")
        rows = tuple(
            Row(doc, "doc", 0, None, 0.5, name, "map", 0.25, dict.fromkeys(names, 0.123 + value))
            for doc in range(2)
            for name, value in (("eigengrad-cam", 0.002 * doc), ("random", 0.1))
        )
        found = Evaluation(rows, tuple(METRICS))
        (head, *lines), (short, *_) = found.table(), found.table(is_short=True)
        console = Console(width=80, force_terminal=True, record=True, file=io.StringIO())
        print_numbers(console, head, short, lines)
        text = console.export_text()
        assert text.count("eigengrad-cam") == 1
        place = text.index("eigengrad-cam")
        cells = text[place : text.index("random")].split()
        means, errors = (
            [cell for cell in cells if cell.startswith("±") == is_error]
            for is_error in (False, True)
        )
        assert means == [
            *("eigengrad-cam", "12.4%", "12.4%", "0.124", "0.124", "0.124", "0.1%"),
            *("0.1%", "0.124", "12.4%", "0.250"),
        ]
        assert errors == [*("±0.1%",) * 2, *("±0.001",) * 3, *("±0.0%",) * 2, "±0.001", "±0.1%"]

    def test_has_one_bar_that_moves_within_pictures(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[Any] = []
        make = Study.of

        def of(*arguments: Any, **options: Any) -> Study:
            asked.append(options.get("progress"))
            return make(*arguments, **options)

        monkeypatch.setattr(Study, "of", of)
        evaluate(*QUICK, "--pictures", "1")
        assert asked == [False]


class TestModel:
    """What only the model can tell is told once, not picture by picture."""

    @pytest.mark.parametrize(
        ("make", "options", "line"),
        [
            (make_mean, ["--layer", "copi"], "no layer 'copi' in model 'mean'; the nearest name"),
            (make_hidden, ["--logits"], "the logits of model 'hidden' cannot be found"),
            (make_unit, ["--method", "finer-cam"], "--method finer-cam compares classes, and the"),
            (make_mean, ["--class-names", "names.txt"], "there are 2 class names, and the model"),
        ],
    )
    def test_that_cannot_do_it_is_one_line(
        self, make: Callable[[], Any], options: list[str], line: str
    ) -> None:
        Path("names.txt").write_text("cat\ndog")
        pictures = [noise_picture(f"{name}.png") for name in "ab"]
        arguments = (*pictures, "-m", save_model(make()), "--metric", "increase", *options)
        assert refused(*arguments).startswith(line)

    def test_of_one_class_does_without_a_method_that_compares(self) -> None:
        result = evaluate(
            noise_picture(), "-m", save_model(make_unit()), "--metric", "increase", "--no-random"
        )
        methods = [row[0] for row in rows_of(result)[1:]]
        assert methods == [name for name in CAMS if name != "finer-cam"]

    def test_without_logits_has_its_scores_explained(self) -> None:
        result = evaluate(noise_picture(), "-m", save_model(make_hidden()), *QUICK)
        assert "scores explained" in result.stdout

    def test_layers_can_be_fused(self) -> None:
        arguments = (noise_picture(), "-m", save_model(make_mean()), *QUICK)
        evaluate(*arguments, "-l", "copy", "-l", "1")
        assert {line["layer"] for line in lines_of()} == {"copy + copy"}


class TestOptions:
    """What is checked before the model is loaded: the model here cannot be."""

    @pytest.fixture(autouse=True)
    def _no_keras(self, monkeypatch: pytest.MonkeyPatch) -> None:
        forbid_keras(monkeypatch)

    @pytest.mark.parametrize(
        ("arguments", "line"),
        [
            (["--pictures", "0"], "--pictures must be at least 1, got 0"),
            (["--steps", "0"], "--steps must be at least 1, got 0"),
            (["--seed", "-1"], "--seed must be at least 0, got -1"),
            (["-o", "folder"], "--output must be a file, and folder is a folder"),
            (
                ["-o", "cat.png", "cat.png"],
                "--output cat.png is one of the pictures, and is never replaced: pass another name",
            ),
            (
                ["--pictures", "3", "cat.png"],
                "--pictures is for the embedded pictures; leave it out, or the images",
            ),
            (
                ["--masks", "folder"],
                "--masks is for pictures of your own; the embedded pictures have masks",
            ),
            (["cat.png", "--masks", "cat.png"], "--masks cat.png: not a folder"),
            (["cat.png", "--masks", "gone"], "--masks gone: no such folder"),
            (["cat.png", "--masks", "folder"], "folder: no picture in this folder"),
            (
                ["cat.png", "--masks", "others"],
                "--masks others: no mask for any of the pictures; the mask of cat.jpg is cat.png, "
                "or cat with another ending",
            ),
            (
                ["cat.png", "--masks", "two"],
                "--masks two: two masks of one name, cat.bmp and cat.png",
            ),
            (
                ["cat.png", "--metric", "pointing-game"],
                "--metric pointing_game needs --masks",
            ),
            (
                ["--metric", "deltion"],
                "unknown --metric 'deltion'; the nearest name is deletion; known are "
                "pointing_game, energy_in_mask, deletion, insertion, average_drop, increase, road, "
                "complexity",
            ),
            (
                ["-m", "model.keras"],
                "--model needs pictures to evaluate: pass their files, as in kerasight evaluate "
                "--model model.keras cat.jpg",
            ),
        ],
    )
    def test_are_checked(self, arguments: list[str], line: str) -> None:
        Path("folder").mkdir()
        save_picture()
        save_picture("others/dog.png")
        for name in ("cat.png", "cat.bmp"):
            save_picture(f"two/{name}")
        assert refused(*arguments) == line

    def test_method_is_known(self) -> None:
        assert refused("--method", "gradcam", "--method", "score").startswith(
            "unknown --method 'score'; the nearest name is score-cam; known are grad-cam, "
        )

    def test_help_says_what_there_is(self) -> None:
        result = run("evaluate", "--help")
        assert result.exit_code == 0
        text = re.sub(r"[\s│]+", " ", result.stdout)
        for word in ("--markdown", "score-cam,", "energy_in_mask,", "Default: logits,"):
            assert word in text
