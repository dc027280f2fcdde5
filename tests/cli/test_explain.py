"""`kerasight explain`: what it writes, prints and refuses."""

from __future__ import annotations

import errno
import html
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from cli.commands import (
    Subclassed,
    doc_of,
    explain,
    forbid_keras,
    make_hidden,
    make_mean,
    make_softmax,
    make_unit,
    noise_picture,
    refused,
    rows_of,
    run,
    save_model,
    save_picture,
    scores_of,
)
from keras import layers
from PIL import Image, ImageOps

import kerasight
from kerasight import jobs
from kerasight.cam.methods import METHODS
from kerasight.cam.request import Request
from kerasight.classifiers import models


@keras.saving.register_keras_serializable("test_explain")
class Mixing(keras.Model):
    """Its scores depend on what else is in the batch."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.copy = layers.Conv2D(3, 1, use_bias=False, kernel_initializer="ones", name="copy")
        self.average = layers.GlobalAveragePooling2D()

    def call(self, inputs: Any) -> Any:
        scores = self.average(self.copy(inputs))
        return scores + keras.ops.max(scores, axis=0, keepdims=True) - scores[:1]


class TestDemo:
    def test_explains_both_objects_of_its_own_picture(self) -> None:
        from kerasight import demo

        result = explain()
        rows = rows_of(result)
        assert [row[1] for row in rows] == ["rocket (6)", "house (3)"]
        for image, label, score, layer, overlay in rows:
            name = label.split(" (")[0]
            assert image == "demo picture"
            assert label == f"{name} ({demo.CLASS_NAMES.index(name)})"
            assert score.endswith("%")
            assert layer == "features"
            assert Path(overlay) == Path("overlays") / f"demo-{name}.png"
            assert Image.open(overlay).size == demo.load_picture().size
        assert result.stderr == ""
        assert len(rows_of(explain("--top", "1"))) == 1

    def test_explains_other_pictures_and_says_who_does(self) -> None:
        result = explain(save_picture(), "--target", "Duck")
        ((image, label, *_),) = rows_of(result)
        assert (image, label.split()[0]) == ("cat.png", "duck")
        assert result.stderr.startswith("Note: without --model, the demo model")

    @pytest.mark.parametrize("option", ["--preprocess", "--class-names"])
    def test_takes_no_options_for_files(self, option: str) -> None:
        assert refused(option, "unit") == (
            f"{option} is for model files; the demo model brings its own"
        )


class TestOverlay:
    def test_is_what_the_library_draws(self) -> None:
        model = make_softmax()
        name = noise_picture()
        explain(name, "-m", save_model(model), "-t", "0", "--colormap", "magma")
        expl = kerasight.explain_prediction(
            model, doc_of(name), targets=[0], image=Image.open(name)
        )
        expected = kerasight.format_as_image(expl, colormap="magma")
        assert Image.open("overlays/noise-0.png").convert("RGBA").tobytes() == expected.tobytes()

    def test_lies_over_the_upright_picture(self) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels)
        exif = picture.getexif()
        exif[0x0112] = 6  # the camera was turned by 90 degrees
        picture.save("turned.jpg", exif=exif)
        explain("turned.jpg", "-m", save_model(make_mean()), "--alpha", "0", "-o", "a/b")
        overlay = Image.open("a/b/turned-0.png")
        assert overlay.size == (16, 24)
        upright = ImageOps.exif_transpose(Image.open("turned.jpg"))
        assert overlay.convert("RGB").tobytes() == upright.tobytes()

    def test_of_16_bits_is_not_white(self) -> None:
        Image.fromarray(np.full((5, 6), 128 * 257, dtype=np.uint16)).save("deep.png")
        assert scores_of("deep.png", "-m", save_model(make_mean((4, 4, 1)))) == [128]

    def test_replaces_that_of_an_earlier_run(self) -> None:
        arguments = (save_picture(), "-m", save_model(make_mean()))
        explain(*arguments)
        explain(*arguments)
        assert [path.name for path in Path("overlays").iterdir()] == ["cat-0.png"]

    @pytest.mark.parametrize(
        ("form", "ending"), [("jpeg", "jpg"), ("WebP", "webp"), ("png", "png")]
    )
    def test_of_any_format_is_replaced_by_the_next_run_and_explained_by_none(
        self, form: str, ending: str
    ) -> None:
        save_picture("photos/cat.png", size=(30, 20))
        arguments = ("photos", "-m", save_model(make_mean()), "--format", form, "-o", "photos")
        for _ in range(2):
            ((*_, overlay),) = rows_of(explain(*arguments))
            assert overlay == str(Path(f"photos/cat-0.{ending}"))
        expected = kerasight.format_as_image(
            kerasight.explain_prediction(
                make_mean(), doc_of("photos/cat.png"), image=Image.open("photos/cat.png")
            )
        )
        found = np.asarray(Image.open(overlay).convert("RGB"), dtype=int)
        np.testing.assert_allclose(found, np.asarray(expected.convert("RGB"), int), atol=9)
        assert "left out: 1 overlay by kerasight" in explain(*arguments).stderr

    @pytest.mark.parametrize("name", ["cat-0.jpg", "cat-0.webp"])
    def test_in_another_format_never_replaces_a_picture_of_the_user(self, name: str) -> None:
        before = Path(save_picture(f"overlays/{name}")).read_bytes()
        form = {".jpg": "jpeg", ".webp": "webp"}[Path(name).suffix]
        result = explain(save_picture(), "-m", save_model(make_mean()), "--format", form)
        assert Path(rows_of(result)[0][4]).name == name.replace("0.", "0-2.")
        assert Path(f"overlays/{name}").read_bytes() == before

    def test_never_replaces_one_of_the_same_run(self) -> None:
        pictures = [save_picture(name) for name in ("a/cat.png", "b/cat.png", "c/Cat.png")]
        result = explain(*pictures, pictures[0], "-m", save_model(make_mean()))
        expected = ["cat-0.png", "cat-0-2.png", "Cat-0-3.png", "cat-0-4.png"]
        assert [Path(row[4]).name for row in rows_of(result)] == expected
        assert sorted(path.name for path in Path("overlays").iterdir()) == sorted(expected)
        assert result.stdout.splitlines()[-1] == "4 overlays written to overlays"

    def test_never_replaces_a_picture(self) -> None:
        pictures = [save_picture("cat.png"), save_picture("cat-0.png")]
        before = Path("cat-0.png").read_bytes()
        result = explain(*pictures, "-m", save_model(make_mean()), "-o", ".")
        assert [row[4] for row in rows_of(result)] == ["cat-0-2.png", "cat-0-0.png"]
        assert Path("cat-0.png").read_bytes() == before


class TestClasses:
    def test_the_top_class_is_explained_by_default(self) -> None:
        ((_, label, score, layer, overlay),) = rows_of(
            explain(save_picture(colour="black"), "-m", save_model(make_softmax()))
        )
        assert (label, score, layer) == ("0", "50.0%", "features")
        assert Path(overlay) == Path("overlays/cat-0.png")

    @pytest.mark.parametrize("number", [2, 9])
    def test_the_n_top_classes_have_a_row_and_an_overlay_each(self, number: int) -> None:
        picture = save_picture(colour="black")
        result = explain(picture, "-m", save_model(make_softmax()), "--top", str(number))
        expected = [("0", "50.0%"), ("1", "30.0%"), ("2", "20.0%")][:number]
        assert [(row[1], row[2]) for row in rows_of(result)] == expected
        assert all(Path(row[4]).is_file() for row in rows_of(result))
        assert len({row[4] for row in rows_of(result)}) == len(expected)

    @pytest.mark.parametrize("top", ["0", "-1"])
    def test_top_must_be_positive(self, top: str) -> None:
        assert refused("--top", top) == f"--top must be at least 1, got {top}"

    def test_top_has_a_bound(self) -> None:
        assert refused("--top", "101").startswith("--top may be at most 100, got 101: each class ")

    def test_top_of_fewer_classes_says_so_once(self) -> None:
        arguments = (save_picture(), save_picture("dog.png"), "-m", save_model(make_softmax()))
        assert "--top" not in explain(*arguments, "--top", "3").stderr
        result = explain(*arguments, "--top", "99")
        assert len(rows_of(result)) == 6
        assert [line for line in result.stderr.splitlines() if "--top" in line] == [
            "Note: --top 99 is more than the model's 3 classes; all are explained"
        ]

    def test_scores_that_are_no_probabilities_are_plain(self) -> None:
        ((*_, score, _, _),) = rows_of(explain(save_picture(), "-m", save_model(make_mean())))
        assert score == "255"

    def test_one_sigmoid_is_one_class(self) -> None:
        arguments = (save_picture(), "-m", save_model(make_unit()), "--top", "3")
        ((_, label, score, *_),) = rows_of(explain(*arguments))
        assert (label, score) == ("0", "50.0%")

    def test_the_first_of_several_outputs_is_explained(self) -> None:
        inputs = keras.Input((4, 4, 3))
        x = layers.Conv2D(3, 1, kernel_initializer="ones", name="features")(inputs)
        outputs = {"b": layers.Dense(7)(x), "a": layers.GlobalAveragePooling2D()(x)}
        model = save_model(keras.Model(inputs, outputs))
        assert scores_of(save_picture(), "-m", model) == [383, 383, 383]

    def test_a_target_out_of_range_is_refused(self) -> None:
        assert refused(save_picture(), "-m", save_model(make_mean()), "-t", "3") == (
            "target 3 is out of range: the model puts out 3 classes, so that a target lies "
            "in [0, 3)"
        )


class TestLayer:
    @pytest.mark.parametrize("layer", ["copy", "1", "-3"])
    def test_is_found_by_name_and_index(self, layer: str) -> None:
        arguments = (save_picture(), "-m", save_model(make_mean()), "--layer", layer)
        assert [row[3] for row in rows_of(explain(*arguments))] == ["copy"]

    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_is_found_in_a_model_that_was_never_called(self) -> None:
        model = save_model(Subclassed(name="fresh"))
        result = explain(save_picture(), "-m", model, "-l", "copy")
        assert [row[3] for row in rows_of(result)] == ["copy"]

    def test_is_found_by_path(self) -> None:
        model = save_model(keras.Sequential([keras.Input((4, 4, 3)), make_mean()], name="outer"))
        result = explain(save_picture(), "-m", model, "-l", "mean/copy")
        assert [row[3] for row in rows_of(result)] == ["mean/copy"]

    @pytest.mark.parametrize(
        ("layer", "line"),
        [
            ("copi", "no layer 'copi' in model 'mean'; the nearest name is 'copy'"),
            ("9", "no layer 9 in model 'mean': it has 4 layers, so that an index lies between"),
            ("head", "cat.png: layer 'head' has no spatial axes to draw a heatmap over"),
        ],
    )
    def test_that_is_not_there_or_has_no_map_is_refused(self, layer: str, line: str) -> None:
        model = save_model(make_mean())
        assert refused(save_picture(), "-m", model, "-l", layer).startswith(line)

    def test_passed_several_times_fuses_them(self) -> None:
        inputs = keras.Input((8, 8, 3))
        x = layers.Conv2D(4, 3, kernel_initializer="ones", name="early")(inputs)
        x = layers.Conv2D(4, 3, 2, kernel_initializer="ones", name="late")(x)
        model = keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
        name = noise_picture()
        result = explain(name, "-m", save_model(model), "-l", "early", "-l", "2", "-t", "0")
        assert rows_of(result)[0][3] == "early + late"
        expl = kerasight.explain_prediction(
            model, doc_of(name, 8), [0], ["early", "late"], image=Image.open(name)
        )
        expected = kerasight.format_as_image(expl)
        assert Image.open("overlays/noise-0.png").convert("RGBA").tobytes() == expected.tobytes()


class TestMethod:
    @pytest.mark.parametrize(
        ("options", "asked", "title"),
        [
            (["--method", "LayerCAM"], {"method": "layercam"}, "LayerCAM"),
            (["--method", "score_cam", "--logits"], {"method": "score-cam", "logits": True}, None),
            (["--signed"], {"relu": False}, "Grad-CAM (signed)"),
            (["--smooth", "3"], {"smooth": 3}, "Grad-CAM (smoothed over 3)"),
            (
                ["--method", "ablation-cam", "--counterfactual", "--signed", "--smooth", "0"],
                {"method": "ablation-cam", "counterfactual": True, "relu": False},
                "Ablation-CAM (counterfactual, signed)",
            ),
            (
                ["--method", "finer-cam", "--similar", "1", "--strength", "2"],
                {"method": "finer-cam", "references": 1, "alpha": 2},
                "Finer-CAM",
            ),
            (
                ["--method", "finer-cam", "--reference", "0", "--reference", "1"],
                {"method": "finer-cam", "references": [0]},
                "Finer-CAM",
            ),
            (
                ["--method", "occlusion", "--window", "2", "--stride", "1", "--baseline", "zero"],
                {"method": "occlusion", "window": 2, "stride": 1, "baseline": "zero"},
                "Occlusion",
            ),
            (
                ["--method", "rise", "--samples", "20", "--baseline", "0.5", "--signed"],
                {"method": "rise", "samples": 20, "baseline": 0.5, "relu": False},
                "RISE (signed)",
            ),
            (
                ["--smooth", "2", "--noise", "0.5"],
                {"smooth": 2, "noise": 0.5},
                "Grad-CAM (smoothed over 2)",
            ),
        ],
    )
    @pytest.mark.filterwarnings("ignore::kerasight.base.HeatmapWarning")
    def test_is_that_of_the_library_and_is_named(
        self, options: list[str], asked: dict[str, Any], title: str | None
    ) -> None:
        model, name = make_softmax(), noise_picture()
        result = explain(name, "-m", save_model(model), "-t", "1", *options)
        expl = kerasight.explain_prediction(
            model, doc_of(name), [1], image=Image.open(name), **asked
        )
        expected = kerasight.format_as_image(expl)
        assert Image.open("overlays/noise-1.png").convert("RGBA").tobytes() == expected.tobytes()
        title = title or expl.method
        assert result.stdout.splitlines()[-1] == f"1 overlay by {title} written to overlays"

    def test_the_grid_of_tokens_is_that_of_the_library(self) -> None:
        inputs = keras.Input((16, 16, 3))
        x = layers.Reshape((16, 4))(layers.Conv2D(4, 4, 4)(inputs))
        x = layers.Add()([x, layers.MultiHeadAttention(1, 4)(x, x)])
        model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))
        name = save_picture("picture.png", size=(16, 16))
        arguments = [name, "-m", save_model(model), "-t", "1", "--signed", "--grid", "2", "8"]
        assert refused(*arguments[:-2], "0", "8") == "--grid: each number must be at least 1, got 0"
        explain(*arguments)
        doc = np.asarray(Image.open(name), np.float32)[np.newaxis]
        expl = kerasight.explain_prediction(
            model, doc, [1], image=Image.open(name), relu=False, grid=(2, 8)
        )
        assert expl.targets[0].heatmap.shape == (2, 8)
        expected = kerasight.format_as_image(expl)
        assert Image.open("overlays/picture-1.png").convert("RGBA").tobytes() == expected.tobytes()

    def test_the_heat_may_be_cut_smoothed_and_without_its_sign(self) -> None:
        model, name = make_softmax(), noise_picture()
        asked = ["-t", "1", "--signed", "--outliers", "20", "--absolute", "--blur", "10"]
        explain(name, "-m", save_model(model), *asked, "--html", "page.html")
        expl = kerasight.explain_prediction(
            model, doc_of(name), targets=[1], relu=False, image=Image.open(name)
        )
        look = {"outliers": 20, "absolute": True, "blur": 10}
        expected = kerasight.format_as_image(expl, **look)
        assert expected != kerasight.format_as_image(expl, absolute=True)
        assert Image.open("overlays/noise-1.png").convert("RGBA").tobytes() == expected.tobytes()
        assert 'data-kind="plain-20"' in Path("page.html").read_text(encoding="utf-8")

    def test_signed_takes_the_colormap_that_is_given(self) -> None:
        model, name = make_softmax(), noise_picture()
        explain(name, "-m", save_model(model), "-t", "1", "--signed", "--colormap", "magma")
        expl = kerasight.explain_prediction(
            model, doc_of(name), [1], image=Image.open(name), relu=False
        )
        expected = kerasight.format_as_image(expl, colormap="magma")
        assert Image.open("overlays/noise-1.png").convert("RGBA").tobytes() == expected.tobytes()

    def test_a_logit_is_no_per_cent(self) -> None:
        arguments = (save_picture(colour="black"), "-m", save_model(make_softmax()), "--top", "3")
        rows = rows_of(explain(*arguments, "--logits"))
        assert [row[2] for row in rows] == ["-0.6931", "-1.204", "-1.609"]
        # Nor is one that might be a probability.
        ((*_, score, _, _),) = rows_of(
            explain(save_picture(), "-m", save_model(make_unit()), "--logits")
        )
        assert score == "0"

    def test_the_logits_of_a_model_without_softmax_are_its_scores(self) -> None:
        arguments = (save_picture(), "-m", save_model(make_mean()), "--logits")
        assert rows_of(explain(*arguments))[0][2] == "255"

    def test_logits_that_cannot_be_found_are_one_line(self) -> None:
        pictures = (save_picture("a.png"), save_picture("b.png"))
        model = save_model(make_hidden())
        assert rows_of(explain(*pictures, "-m", model, "-o", "plain"))[0][2] == "33.3%"
        assert refused(*pictures, "-m", model, "--logits") == (
            "the logits of model 'hidden' cannot be found: its scores look like probabilities, but "
            "come from no softmax or sigmoid that can be seen; pass a model that ends in logits, "
            "and leave --logits out"
        )

    def test_that_compares_classes_needs_several(self) -> None:
        pictures = (save_picture("a.png"), save_picture("b.png"))
        assert refused(*pictures, "-m", save_model(make_unit()), "--method", "finer-cam") == (
            "--method finer-cam compares classes, and the model has only one"
        )

    def test_references_are_classes_of_the_model(self) -> None:
        arguments = (save_picture(), "-m", save_model(make_softmax()), "--method", "finer-cam")
        assert refused(*arguments, "--reference", "3") == (
            "reference 3 is out of range: the model puts out 3 classes, so that a reference lies "
            "in [0, 3)"
        )
        assert refused(*arguments, "--reference", "cat").startswith(
            "--reference 'cat' is no index, and the names of the classes are not known"
        )
        Path("names.txt").write_text("cat\ndog\nfox\n")
        arguments += ("--class-names", "names.txt", "--target", "fox")
        assert "'dogg'; the nearest name is dog" in refused(*arguments, "--reference", "dogg")
        assert refused(*arguments, "--reference", "fox").endswith(
            "class 2 has no class to be compared with: --reference names none but itself; pass "
            "others"
        )
        assert rows_of(explain(*arguments, "--reference", "cat", "--reference", "dog"))

    def test_a_warning_names_the_option_that_shows_more(self) -> None:
        model = make_softmax()
        kernel = np.zeros((4, 3))
        kernel[0] = [100, 0, 0]
        model.get_layer("head").set_weights([kernel, np.zeros(3)])
        result = explain(save_picture(colour="black"), "-m", save_model(model))
        assert result.stderr.startswith("Warning: cat.png: the heatmap of class 0 at layer")
        assert "; --logits explains the logit instead" in result.stderr


class TestMany:
    """Pictures that go through the model together, with work beside it in threads."""

    @pytest.fixture
    def pictures(self) -> list[str]:
        return [noise_picture(f"{n:02}.png", (9 + n % 3, 7), seed=n) for n in range(20)]

    def test_are_each_explained_as_if_alone_and_in_order(self, pictures: list[str]) -> None:
        Path("05.png").write_text("text")
        model = save_model(make_softmax())
        result = run("explain", *pictures, "-m", model, "--top", "2", "-o", "together")
        assert result.stderr == "Error: 05.png: not a picture in a format that Pillow reads\n"
        rows = rows_of(result)
        sound = [name for name in pictures if name != "05.png"]
        assert [row[0] for row in rows] == [name for name in sound for _ in range(2)]
        for name in sound[::6]:
            alone = rows_of(explain(name, "-m", model, "--top", "2", "-o", "alone"))
            assert [row[:4] for row in alone] == [row[:4] for row in rows if row[0] == name]
            for *_, overlay in alone:
                expected = np.asarray(Image.open(overlay), dtype=int)
                found = np.asarray(Image.open(overlay.replace("alone", "together")), dtype=int)
                np.testing.assert_allclose(found, expected, atol=1)

    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_are_explained_one_by_one_where_the_model_mixes_them(self) -> None:
        pictures = [save_picture(f"{n}.png", (20 * n + 20, 0, 0)) for n in range(6)]
        model = save_model(Mixing(name="mixing"))
        found = {row[0]: row[2] for row in rows_of(explain(*pictures, "-m", model, "-t", "0"))}
        assert found == {f"{n}.png": str(20 * n + 20) for n in range(6)}

    def test_that_fail_alike_are_told_once_and_counted(self, pictures: list[str]) -> None:
        result = run("explain", *pictures, "-m", save_model(make_mean()), "-l", "head")
        assert result.exit_code == 2
        first, *rest = result.stderr.splitlines()
        assert first.startswith("Error: 00.png: layer 'head' has no spatial axes")
        assert rest == [first.replace("00.png", "19 more pictures")]

    def test_with_blank_heatmaps_are_told_once_and_counted(self) -> None:
        pictures = [save_picture(f"{n}.png", (0, n + 1, 0)) for n in range(5)]
        model = make_mean(classes=3)
        model.get_layer("head").set_weights([-np.eye(3)])
        result = explain(*pictures, "-m", save_model(model), "-t", "1")
        first, rest = result.stderr.splitlines()
        assert first.startswith("Warning: 0.png: the heatmap of class 1 at layer 'copy' is blank")
        assert rest.startswith("Warning: 4 more pictures: the heatmap is blank or nearly so: ")

    def test_on_a_full_disk_are_one_line(
        self, pictures: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(picture: Image.Image, path: Path) -> None:
            if path.name != "07-0.png":
                raise OSError(errno.ENOSPC, "No space left on device", str(path))

        monkeypatch.setattr("kerasight.cli.overlays.write_overlay", full)
        result = run("explain", *pictures, "-m", save_model(make_softmax()), "-t", "0")
        assert result.exit_code == 2
        path = Path("overlays/00-0.png")
        assert result.stderr.splitlines() == [
            f"Error: 00.png: {path} cannot be written: No space left on device",
            "Error: 18 more pictures: overlays cannot be written: No space left on device",
        ]
        assert [row[0] for row in rows_of(result)] == ["07.png"]

    def test_have_a_line_each_up_to_a_number(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("kerasight.cli.explain.MOST_ROWS", 3)
        pictures = [noise_picture(f"{n}.png", seed=n) for n in range(5)]
        result = explain(*pictures, "-m", save_model(make_mean()), "-t", "0")
        *table, more, empty, last = result.stdout.splitlines()
        assert [line.split()[0] for line in table[2:]] == pictures[:3]
        assert (more, empty) == ("... and 2 more", "")
        assert last == "5 overlays written to overlays"


class TestNoOverlays:
    def test_prints_what_it_prints_with_them(self) -> None:
        arguments = (noise_picture(), "-m", save_model(make_softmax()), "--top", "2")
        rows = rows_of(explain(*arguments))
        result = explain(*arguments, "--no-overlays", "--method", "layercam")
        heading, _, *lines, empty, last = result.stdout.splitlines()
        assert heading.split() == ["Image", "Class", "Score", "Layer"]
        assert [re.split(r"\s{2,}", line.strip()) for line in lines] == [row[:4] for row in rows]
        assert (empty, last) == ("", "2 heatmaps by LayerCAM, and no overlay written")

    def test_writes_nothing_but_the_page(self) -> None:
        arguments = (noise_picture(), "-m", save_model(make_softmax()), "--no-overlays")
        explain(*arguments)
        assert not Path("overlays").exists()
        result = explain(*arguments, "--html", "report.html")
        assert result.stdout.splitlines()[-1] == "1 picture shown in report.html"
        assert "data:image/jpeg;base64," in Path("report.html").read_text(encoding="utf-8")
        assert not Path("overlays").exists()

    def test_counts_what_failed(self) -> None:
        Path("text.png").write_text("text")
        arguments = (noise_picture(), "text.png", "-m", save_model(make_mean()), "-l", "head")
        result = run("explain", *arguments, "--no-overlays")
        assert result.exit_code == 2
        assert result.stdout == "0 heatmaps, and no overlay written\n"
        assert "noise.png: layer 'head' has no spatial axes" in result.stderr
        assert "text.png: not a picture" in result.stderr

    def test_may_read_pictures_at_a_fraction_of_their_size(self) -> None:
        rows, columns = np.indices((64, 64))
        grey = Image.fromarray((rows + 2 * columns).astype(np.uint8))
        grey.convert("RGB").save("large.jpg", quality=95)
        arguments = ("large.jpg", "-m", save_model(make_mean()), "--no-overlays")
        whole, draft = (
            float(explain(*arguments, *more).stdout.splitlines()[2].split()[2])
            for more in ((), ("--draft",))
        )
        assert draft != whole
        assert draft == pytest.approx(whole, abs=1)


class TestJob:
    @pytest.fixture
    def arguments(self) -> list[str]:
        for seed, name in enumerate(("a.png", "sub/b.jpg", "sub/c.png")):
            noise_picture(f"photos/{name}", seed=seed)
        Path("names.txt").write_text("cat\ndog\nred fox")
        model = save_model(make_softmax())
        return ["photos", "-m", model, "--class-names", "names.txt", "--job", "job"]

    def test_keeps_rows_and_overlays_and_goes_on(self, arguments: list[str]) -> None:
        Path("photos/broken.png").write_text("text")
        result = run("explain", *arguments, "--target", "red fox", "--format", "webp")
        assert result.exit_code == 2
        assert result.stdout.splitlines() == [
            "3 pictures explained, 1 failed, 0 explained before",
            f"Rows written to job, overlays to {Path('job/overlays')}",
        ]
        assert result.stderr == "Error: broken.png: not a picture in a format that Pillow reads\n"
        rows = jobs.read("job").to_pylist()
        assert [(row["key"], row["name"], row["error"]) for row in rows] == [
            ("a.png", "red fox", None),
            ("broken.png", None, "not a picture in a format that Pillow reads"),
            ("sub/b.jpg", "red fox", None),
            ("sub/c.png", "red fox", None),
        ]
        overlays = [path for path in Path("job/overlays").rglob("*") if path.is_file()]
        assert sorted(path.relative_to("job/overlays").as_posix() for path in overlays) == [
            "a.png-red_fox.webp",
            "sub/b.jpg-red_fox.webp",
            "sub/c.png-red_fox.webp",
        ]
        noise_picture("photos/broken.png")
        result = explain(*arguments, "--target", "2", "--no-overlays")
        assert result.stdout.splitlines() == [
            "1 picture explained, 0 failed, 3 explained before",
            "Rows written to job",
        ]
        # Python goes on with the same.
        names = ["cat", "dog", "red fox"]
        done = jobs.run(
            "job", "photos", arguments[2], preprocess="none", class_names=names, targets=[2]
        )
        assert (done.done, done.failed, done.skipped) == (0, 0, 4)

    def test_has_overlays_as_without_it(self, arguments: list[str]) -> None:
        explain(*arguments, "--top", "2", "--colormap", "magma", "-o", "of job")
        explain(*arguments[:-2], "--top", "2", "--colormap", "magma", "-o", "plain")
        for name in ("cat", "dog"):
            expected = Path(f"plain/sub/b-{name}.png").read_bytes()
            assert Path(f"of job/sub/b.jpg-{name}.png").read_bytes() == expected

    def test_on_a_cluster_is_of_numbers_alone(
        self, arguments: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        forbid_keras(monkeypatch)
        told = "--engine is for the numbers of a job: pass --job and --no-overlays"
        assert refused(*arguments, "--workers", "2") == (
            "--workers is for an engine: pass --engine ray"
        )
        assert "known are ray" in refused(*arguments, "--engine", "spark")
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
        assert 'pip install "kerasight[ray]"' in refused(*arguments, "--engine", "ray")
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: "there")
        assert refused(*arguments, "--engine", "ray") == told
        assert refused(*arguments[:-2], "--no-overlays", "--engine", "ray") == told
        assert "--workers must be at least 1" in refused(
            *arguments, "--engine", "ray", "--workers", "0"
        )
        assert not Path("job").exists()

    def test_that_is_asked_something_else_is_refused(self, arguments: list[str]) -> None:
        arguments += ["--method", "finer-cam", "--no-overlays", "--target", "0"]
        explain(*arguments, "--reference", "dog")
        assert explain(*arguments, "--reference", "1").stdout.startswith("0 pictures explained")
        assert "references was [1], is [2]" in refused(*arguments, "--reference", "2")

    def test_takes_a_table_of_paths(self, arguments: list[str]) -> None:
        Path("table.csv").write_text("file\nphotos/sub/c.png\ngone.png\n")
        result = run("explain", "table.csv", *arguments[1:], "--column", "file")
        assert result.exit_code == 2
        assert result.stderr == "Error: gone.png: no such file\n"
        assert Path("job/overlays/photos/sub/c.png-cat.png").exists()
        assert refused("table.csv", *arguments[1:], "--job", "other").endswith(
            "table.csv has no column 'path', but 'file'; pass --column"
        )

    def test_never_replaces_a_file_of_the_user(self, arguments: list[str]) -> None:
        foreign = Path(save_picture("job/overlays/a.png-cat.png"))
        before = foreign.read_bytes()
        arguments[-1:] = ["rows", "-o", "job/overlays"]
        result = run("explain", *arguments)
        assert result.exit_code == 2
        assert result.stderr == (
            f"Error: a.png: {foreign} exists, and was not made by this command: pass --output\n"
        )
        assert foreign.read_bytes() == before

    def test_is_one_line_where_the_disk_is_full(
        self, arguments: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_: Any, path: Path) -> None:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

        with monkeypatch.context() as patch:
            patch.setattr("kerasight.cli.overlays.write_overlay", full)
            result = run("explain", *arguments)
        assert result.stderr.splitlines()[1:] == [
            "Error: 2 more pictures: overlays cannot be written: No space left on device"
        ]
        with monkeypatch.context() as patch:
            patch.setattr("kerasight.jobs.parts.whole_file", lambda path, mode: full(path, path))
            result = run("explain", *arguments)
        assert result.exit_code == 2
        note, line = result.stderr.splitlines()
        assert note == "Note: to be tried again, as they failed before: 3 pictures"
        assert line.startswith(
            "Error: the job's part cannot be written: No space left on device; make room, and "
        )
        assert explain(*arguments).stdout.startswith("3 pictures explained")

    def test_goes_on_after_an_interrupt(
        self, arguments: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(expl: Any, place: int, path: Path, look: Any) -> None:
            if path.name == "b.jpg-cat.png":
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("kerasight.cli.explain.draw_overlay", interrupted)
            result = run("explain", *arguments)
        assert result.exit_code == 130
        assert re.fullmatch(
            r"Error: interrupted: [12] pictures? done; the same command goes on\n", result.stderr
        )
        assert "a.png" in jobs.read("job")["key"].to_pylist()
        explain(*arguments)
        keys = jobs.read("job")["key"].to_pylist()
        assert sorted(keys) == ["a.png", "sub/b.jpg", "sub/c.png"]

    def test_without_a_model_is_of_the_demo_model(self, arguments: list[str]) -> None:
        result = explain("photos", *arguments[-2:], "--no-overlays")
        assert result.stderr.startswith("Note: without --model, the demo model is used")
        assert {row["layer"] for row in jobs.read("job").to_pylist()} == {"features"}


class TestStandardOutput:
    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
    @pytest.mark.parametrize("command", ["explain", "evaluate", "--help"])
    def test_on_a_full_disk_is_one_line(self, command: str) -> None:
        arguments = {"evaluate": ["--pictures", "1", "--metric", "increase"]}.get(command, [])
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "kerasight", command, *arguments],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
            )
        assert done.stderr == "Error: standard output cannot be written: No space left on device\n"
        assert done.returncode == 2
        assert (command == "explain") == Path("overlays/demo-house.png").exists()

    @pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
    def test_that_nobody_reads_is_one_line(self) -> None:
        read, write = os.pipe()
        os.close(read)
        with os.fdopen(write, "w") as pipe:
            done = subprocess.run(
                [sys.executable, "-m", "kerasight", "explain"],
                stdout=pipe,
                stderr=subprocess.PIPE,
                text=True,
            )
        assert done.stderr == "Error: standard output cannot be written: Broken pipe\n"
        assert done.returncode == 2


class TestReport:
    def test_shows_what_the_table_and_the_overlays_show(self) -> None:
        pictures = [noise_picture(f"{name}.png", seed=i) for i, name in enumerate("ab")]
        arguments = (*pictures, "-m", save_model(make_softmax()), "--top", "2", "--signed")
        result = explain(*arguments, "--html", "new/folder/report.html")
        assert len(rows_of(result)) == len(list(Path("overlays").iterdir())) == 4
        assert result.stdout.splitlines()[-2:] == [
            "4 overlays by Grad-CAM (signed) written to overlays",
            "2 pictures shown in new/folder/report.html",
        ]
        assert result.stderr == ""
        page = Path("new/folder/report.html").read_text(encoding="utf-8")
        assert re.findall(r"<h2><bdi>(.+?)</bdi></h2>", page) == pictures
        assert page.count("<article") == 2
        about = re.findall(r'<p class="ks-meta">(.+?)</p>', page)[0]
        assert re.sub(r"\s", " ", about).startswith("softmax · Grad-CAM (signed) · layer features")
        assert 'data-kind="signed"' in page
        facts = re.findall(r"<dt>(.+?)</dt> <dd><bdi>(.+?)</bdi></dd>", page)
        assert facts[0] == ("Model", arguments[3].replace("_", "_<wbr>"))
        assert facts[1][0] == "Date"
        written = datetime.fromisoformat(html.unescape(facts[1][1].replace("<wbr>", "")))
        assert abs(datetime.now().astimezone() - written) < timedelta(minutes=3)

    def test_has_the_pictures_that_failed_with_their_errors(self) -> None:
        Path("text.png").write_text("text")
        arguments = ("gone.png", noise_picture(), "text.png", "-m", save_model(make_softmax()))
        result = run("explain", *arguments, "--html", "report.html")
        assert result.exit_code == 2
        assert result.stderr.splitlines() == [
            "Error: gone.png: no such file",
            "Error: text.png: not a picture in a format that Pillow reads",
        ]
        assert result.stdout.splitlines()[-1] == "3 pictures shown in report.html"
        page = Path("report.html").read_text(encoding="utf-8")
        assert re.findall(r'<p class="ks-error">(.+?)</p>', page) == [
            "no such file",
            "not a picture in a format that Pillow reads",
        ]

    def test_shows_a_picture_whose_explanation_failed(self) -> None:
        arguments = (noise_picture(), "-m", save_model(make_mean()), "-l", "head")
        result = run("explain", *arguments, "--html", "report.html")
        assert result.exit_code == 2
        assert result.stdout.splitlines() == [
            "No overlay written",
            "1 picture shown in report.html",
        ]
        page = Path("report.html").read_text(encoding="utf-8")
        assert "has no spatial axes" in page
        assert "data:image/jpeg;base64," in page

    @pytest.mark.skipif(sys.platform == "win32", reason="no file may be called that")
    def test_escapes_names_from_outside(self) -> None:
        name = noise_picture("<img src=x onerror=alert(1)>.png")
        names = ["\"quoted\" & 'quoted'", "</script><script>alert(2)</script>", "third"]
        Path("names.json").write_text(json.dumps(names))
        model = save_model(make_softmax())
        arguments = (name, "-m", model, "--class-names", "names.json", "--top", "3")
        explain(*arguments, "--html", "report.html")
        page = Path("report.html").read_text(encoding="utf-8")
        assert "<img src=x" not in page
        assert "<script>alert" not in page
        assert "&lt;img src=x onerror=alert(1)&gt;.png" in page
        assert "&quot;quoted&quot; &amp; &#x27;quoted&#x27;" in page
        (labels,) = re.findall(r'data-labels="(.+?)"', page)
        assert sorted(json.loads(html.unescape(labels))) == sorted(
            f"{label} ({index})" for index, label in enumerate(names)
        )

    def test_is_not_made_where_nothing_can_be_explained(self) -> None:
        Path("report.html").write_text("an earlier one")
        model = save_model(make_mean())
        refused(noise_picture(), "-m", model, "-l", "copi", "--html", "report.html", "--force")
        assert Path("report.html").read_text() == "an earlier one"

    def test_that_cannot_be_written_does_not_keep_the_overlays_from_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: Any, **__: Any) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("kerasight.formatters.html.write_report", full)
        pictures = [noise_picture(f"{name}.png") for name in "ab"]
        result = run("explain", *pictures, "-m", save_model(make_mean()), "--html", "report.html")
        assert result.exit_code == 2
        assert result.stderr == "Error: report.html: cannot be written: No space left on device\n"
        assert result.stdout.splitlines()[-1] == "2 overlays written to overlays"


class TestOptions:
    """What is checked before the model is loaded: the model here cannot be."""

    @pytest.fixture(autouse=True)
    def _no_keras(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def load() -> None:
            raise AssertionError("Keras was asked for")

        monkeypatch.setattr(models, "import_keras", load)

    @pytest.mark.parametrize("alpha", ["-0.1", "1.5", "nan"])
    def test_alpha_lies_between_0_and_1(self, alpha: str) -> None:
        assert refused("--alpha", alpha) == f"--alpha must lie between 0 and 1, got {alpha}"

    @pytest.mark.parametrize("option", ["--outliers", "--blur"])
    def test_a_share_lies_between_0_and_100(self, option: str) -> None:
        for share in ("-1", "101", "nan"):
            assert refused(option, share) == (
                f"{option} must lie between 0 and 100 per cent, got {share}"
            )

    def test_colormap_is_known(self) -> None:
        assert refused("--colormap", "Viridi").startswith(
            "unknown --colormap 'Viridi'; the nearest names are viridis, "
        )
        assert refused("--colormap", "%%%%").startswith("unknown --colormap '%%%%'; Matplotlib")

    def test_top_and_target_exclude_each_other(self) -> None:
        line = refused("--top", "2", "--target", "1")
        assert line == "--top and --target exclude each other: pass one of them"

    def test_a_target_is_a_class_as_far_as_names_are_known(self) -> None:
        assert refused("-t", "dack") == ("no class is called 'dack'; the nearest name is duck")
        assert refused("-t", "zzzzzz") == "no class is called 'zzzzzz'"
        assert refused("-t", "-1") == "--target -1 is no class: classes are numbered from 0"
        model = (save_picture(), "-m", save_model(make_mean()))
        assert refused(*model, "-t", "cat").startswith(
            "--target 'cat' is no index, and the names of the classes are not known"
        )
        Path("names.txt").write_text("cat\ndog\ncat")
        model += ("--class-names", "names.txt")
        assert refused(*model, "-t", "dgo") == "no class is called 'dgo'; the nearest name is dog"
        assert refused(*model, "-t", "cat").startswith("several classes are called 'cat'")

    def test_output_is_a_folder(self) -> None:
        Path("file").touch()
        assert refused("-o", "file") == "--output must be a folder, and file is a file"
        assert refused("-o", "file/a/b") == (
            f"--output file/a/b cannot be written: {Path('file').absolute()} is not a folder"
        )

    @pytest.mark.parametrize("option", ["-o", "--html"])
    def test_a_folder_that_may_not_be_written_to_is_told_at_once(
        self, option: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = Path("locked").absolute()
        folder.mkdir()
        monkeypatch.setattr("os.access", lambda path, mode: Path(path) != folder)
        full = {"-o": "--output"}.get(option, option)
        assert refused(option, "locked/new/name") == (
            f"{full} locked/new/name cannot be written: no permission to write to {folder}"
        )

    def test_format_is_known(self) -> None:
        assert refused("--format", "jpg") == (
            "unknown --format 'jpg'; the nearest name is jpeg; known are png, webp, jpeg"
        )

    @pytest.mark.parametrize("option", ["--output", "--format"])
    def test_what_is_about_overlays_needs_some(self, option: str) -> None:
        assert refused("--no-overlays", option, "png") == (
            f"--no-overlays and {option} exclude each other: leave one out"
        )

    def test_a_draft_is_for_numbers_alone(self) -> None:
        line = "--draft is for numbers alone: pass --no-overlays, and leave --html out"
        assert refused("--draft") == line
        assert refused("--draft", "--no-overlays", "--html", "page.html") == line

    def test_a_job_needs_pictures_and_replaces_nothing_of_others(self) -> None:
        assert refused("--job", "job").startswith("--job needs pictures: pass a folder, a table")
        assert refused("photos", "--job", "job", "--html", "page.html") == (
            "--job and --html exclude each other: the page is made of a job by kerasight report "
            "job --html page.html"
        )
        assert refused("photos", "--job", "job", "--force") == (
            "--job and --force exclude each other: a job replaces its own files alone"
        )
        Path("file").touch()
        assert refused("photos", "--job", "file") == "--job must be a folder, and file is a file"
        assert refused("--column", "file") == "--column is for the tables of a job: pass --job"

    def test_method_is_known(self) -> None:
        assert refused("--method", "layrcam") == (
            "unknown --method 'layrcam'; the nearest name is layercam; known are "
            + ", ".join(METHODS)
        )
        assert refused("--method", "zzz").startswith("unknown --method 'zzz'; known are grad-cam,")

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("option", ["--signed", "--counterfactual"])
    def test_method_can_do_what_the_library_says(self, method: str, option: str) -> None:
        asked = {"relu": False} if option == "--signed" else {"counterfactual": True}
        try:
            Request.of({"method": method, **asked})
        except ValueError as error:
            able = str(error).rpartition("those that can are ")[2]
            assert refused("--method", method, option) == (
                f"--method {method} cannot do {option}; those that can are {able}"
            )
        else:
            with pytest.raises(AssertionError, match="Keras was asked for"):
                raise run("explain", "--method", method, option).exception

    @pytest.mark.parametrize("option", ["--similar", "--reference", "--strength"])
    def test_methods_that_compare_nothing_have_no_use_for_references(self, option: str) -> None:
        assert refused(option, "1") == (
            f"--method grad-cam cannot use {option}: only finer-cam compares classes"
        )

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            (["--similar", "0"], "--similar must be at least 1, got 0"),
            (["--strength", "-1"], "--strength must be at least 0, and finite, got -1"),
            (["--strength", "nan"], "--strength must be at least 0, and finite, got nan"),
            (
                ["--similar", "1", "--reference", "1"],
                "--similar and --reference exclude each other: pass one of them",
            ),
        ],
    )
    def test_references_are_such_as_there_can_be(self, arguments: list[str], error: str) -> None:
        assert refused("--method", "finer-cam", *arguments) == error

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            (["--method", "occlusion", "--layer", "0"], "--method occlusion cannot do --layer"),
            (["--method", "rise", "--baseline", "men"], "unknown --baseline 'men'; .* mean"),
            (["--method", "rise", "--baseline", "nan"], "--baseline must be finite"),
            (["--method", "rise", "--window", "0"], "--window must be at least 1, got 0"),
            (["--window", "3"], "--method 'grad-cam' has no use for window"),
            (["--noise", "0.2"], "--method 'grad-cam' adds no noise"),
        ],
    )
    def test_what_is_hidden_is_what_can_be(self, arguments: list[str], error: str) -> None:
        assert re.match(error, refused(*arguments))

    def test_smooth_is_not_below_0(self) -> None:
        assert refused("--smooth", "-1") == "--smooth must be at least 0, got -1"

    def test_html_is_a_file_that_can_be_written(self) -> None:
        Path("folder").mkdir()
        Path("file").touch()
        assert refused("--html", "folder") == "--html must be a file, and folder is a folder"
        assert refused("--html", "file/a/b.html") == (
            f"--html file/a/b.html cannot be written: {Path('file').absolute()} is not a folder"
        )
        assert refused(save_picture(), "--html", "./cat.png") == (
            "--html cat.png is one of the pictures, and is never replaced: pass another name"
        )

    @pytest.mark.parametrize("arguments", [["--alpha", "much"], ["--top", "x"], ["--nonsense"]])
    def test_are_of_their_kind(self, arguments: list[str]) -> None:
        result = run("explain", *arguments)
        assert result.exit_code == 2
        assert "Error" in result.stderr
        assert "Traceback" not in result.stderr


def test_keras_models_with_real_weights(
    imagenet: Callable[[str], Path], mobilenet_v2: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = json.loads(imagenet("imagenet_class_index.json").read_text())
    names = [index[str(i)] for i in range(1000)]
    monkeypatch.setattr(keras.applications, "MobileNetV2", lambda weights: mobilenet_v2)
    monkeypatch.setattr(
        keras.applications.mobilenet_v2,
        "decode_predictions",
        lambda predictions, top: [[(*names[i], 0.0) for i in predictions[0].argsort()[::-1]]],
    )
    result = explain(imagenet("cat_dog.jpg"), "-m", "MobileNetV2", "--top", "2")
    assert [row[1] for row in rows_of(result)] == ["bull_mastiff (243)", "boxer (242)"]
