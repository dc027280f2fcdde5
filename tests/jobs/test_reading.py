"""Jobs that are read back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.commands import noise_picture
from PIL import Image

import kerasight
from kerasight.base import Explanation, TargetExplanation
from kerasight.jobs import manifest, parts, read, reading

HEAT = np.array([[0.25, -0.5], [1.0, 0.0]])


@pytest.fixture(autouse=True)
def _job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job of two pictures that are there, one that has changed, and one that failed."""
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        noise_picture(f"photos/{name}.png")
    asked: dict[str, Any] = {"pictures": {"kind": "folder", "root": str(tmp_path / "photos")}}
    with manifest.locked(Path("job")):
        manifest.settle(Path("job"), asked, {"estimator": "net"}, {})
        with parts.Parts(Path("job"), pictures=2) as written:
            for number, name in enumerate("abc"):
                expl = Explanation(
                    "net",
                    method="LayerCAM (signed)",
                    layer="last",
                    targets=[
                        TargetExplanation(
                            target,
                            score=number + target / 4,
                            heatmap=HEAT,
                            name="cat" if target else None,
                            signed=True,
                            is_probability=True,
                        )
                        for target in (1, 0)
                    ],
                )
                hash = manifest.hash_of_file(f"photos/{name}.png")
                written.add(parts.rows_of(f"{name}.png", hash, expl))
            written.add([parts.failed_row("d.png", None, "no picture")])
    noise_picture("photos/c.png", seed=1)


def test_as_a_table_of_arrow() -> None:
    table = read("job")
    assert table.schema == parts.schema()
    assert table["key"].to_pylist() == [*("a.png",) * 2, *("b.png",) * 2, *("c.png",) * 2, "d.png"]
    assert read(Path("job"), errors=False)["error"].null_count == 6
    names = [name for name in table.schema.names if name != "picture"]
    assert read("job", pictures=False).schema.names == names


def test_as_a_frame_of_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    frame = read("job", "pandas", errors=False)
    assert isinstance(frame, pandas.DataFrame)
    assert frame.groupby("key").size().to_dict() == {"a.png": 2, "b.png": 2, "c.png": 2}
    assert frame["heatmap"][0].tolist() == HEAT.ravel().tolist()
    raw = pandas.read_parquet("job/parts")  # as anybody may
    assert raw[raw["error"].isna()]["score"].tolist() == frame["score"].tolist()


def test_without_pandas_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        read("job", "pandas")


def test_as_the_explanations_that_were_made() -> None:
    a, b, c, d = read("job", "explanations")
    assert b == Explanation(
        "net",
        method="LayerCAM (signed)",
        layer="last",
        targets=[
            TargetExplanation(
                1, score=1.25, heatmap=HEAT, name="cat", signed=True, is_probability=True
            ),
            TargetExplanation(0, score=1.0, heatmap=HEAT, signed=True, is_probability=True),
        ],
        image=b.image,
    )
    with Image.open("photos/a.png") as picture:
        np.testing.assert_array_equal(np.asarray(a.image.convert("RGB")), np.asarray(picture))
    assert c.image is None  # another one has come in its place
    assert (d.error, d.targets, d.image) == ("no picture", None, None)
    kerasight.format_as_image(a)
    assert len(list(read("job", "explanations", errors=False))) == 3
    assert all(expl.image is None for expl in read("job", "explanations", pictures=False))
    assert [key for key, _ in reading.explanations(Path("job"))] == [f"{one}.png" for one in "abcd"]


def test_of_what_has_no_file_the_small_picture_is_read() -> None:
    noise_picture("kept.jpg")
    row = parts.rows_of(
        "e", None, Explanation("net", targets=[TargetExplanation(0, heatmap=HEAT)]), b"broken"
    )
    with parts.Parts(Path("job")) as written:
        written.add(row)
        kept = Path("kept.jpg").read_bytes()
        written.add([{**row[0], "key": "f", "picture": kept}])
    *_, broken, whole = read("job", "explanations")
    assert broken.image is None
    assert whole.image.size == (9, 7)


def test_what_is_no_class_and_what_is_no_picture() -> None:
    target = TargetExplanation("age", score=41.5, heatmap=np.linspace(0, 1, 3))
    with parts.Parts(Path("job")) as written:
        written.add(parts.rows_of("e", None, Explanation("net", targets=[target])))
    *_, expl = read("job", "explanations")
    assert expl.is_regression
    assert expl.kind == "signal"
    assert (expl.targets[0].target, expl.targets[0].name) == ("age", None)


def test_what_is_no_job_or_no_form_is_refused() -> None:
    with pytest.raises(ValueError, match=r"photos is no job: it has no manifest.json"):
        read("photos")
    with pytest.raises(ValueError, match="unknown form 'csv'; known are arrow, pandas"):
        read("job", "csv")  # type: ignore[arg-type]
