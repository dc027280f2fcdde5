"""What an audit finds, and what it does not."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from auditing.made import SIDE, make_job, marked, objects, spot
from PIL import Image

import kerasight
from kerasight.auditing import Audit
from kerasight.auditing.findings import LEVEL
from kerasight.jobs import parts

pytest.importorskip("sklearn", reason="scikit-learn is no part of this environment")

MARKED = [f"duck/{number:03}.png" for number in range(30)]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    """Of 300 ducks, the first 30 have a mark; 300 houses have none."""
    ducks = objects(300)
    ducks[:30] = map(marked, ducks[:30])
    folder = make_job(tmp_path_factory.mktemp("planted") / "job", [ducks, objects(300, 1)])
    return kerasight.audit(folder)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    classes = [objects(200, seed) for seed in range(3)]
    return make_job(tmp_path_factory.mktemp("clean") / "job", classes, failed=["x", "y"])


def test_a_mark_on_a_tenth_of_a_class_is_found_with_its_pictures(planted: Audit) -> None:
    (found,) = planted.findings
    assert (found.kind, found.target, found.label) == ("cluster", 0, "duck (0)")
    assert {*found.keys} == {*MARKED}
    assert (found.number, found.of, found.observed) == (30, 300, 0.1)
    assert found.p_value < 1e-6
    assert found.sentence.startswith("30 of 300 pictures have heat in the same place, at the lower")
    assert found.place is not None
    assert found.place[-1, -2]
    assert not found.place[: SIDE // 2].any()
    np.testing.assert_allclose(found.mean.sum(), 1, atol=1e-6)
    assert found.mean[-1, -2] == found.mean.max()


def test_the_first_pictures_are_those_that_show_it_most(planted: Audit) -> None:
    (found,) = planted.findings
    values = [one.value for one in found.pictures]
    assert values == sorted(values, reverse=True)
    assert [one.key for one in found.pictures] == [*found.keys[: len(found.pictures)]]
    for one in found.pictures:
        assert one.score == 0.9
        assert one.value == pytest.approx(one.heatmap[found.place].sum(), abs=1e-6)


def test_in_objects_that_lie_anywhere_nothing_is_found(clean: Path) -> None:
    for seed in range(3):
        found = kerasight.audit(clean, seed=seed)
        assert found.findings == ()
        assert (found.number, found.errors, found.left_out) == (600, 2, 0)
        assert [one.label for one in found.classes] == ["duck (0)", "house (1)", "car (2)"]


def test_the_same_seed_gives_the_same(clean: Path) -> None:
    once, again = (kerasight.audit(clean, seed=4) for _ in range(2))
    for one, other in zip(once.classes, again.classes, strict=True):
        assert [cluster.number for cluster in one.clusters] == [
            cluster.number for cluster in other.clusters
        ]
        assert [shown.key for shown in one.unlike] == [shown.key for shown in other.unlike]


@pytest.mark.parametrize("flips", [False, True])
def test_what_stands_as_often_on_the_other_side_is_no_fault(tmp_path: Path, flips: bool) -> None:
    # A third of the ducks have something in one corner, or each in this or in that.
    ducks = objects(300)
    for number in range(100):
        heat = spot(0, 6, 0.8)
        ducks[number] = heat[:, ::-1] if flips and number % 2 else heat
    found = kerasight.audit(make_job(tmp_path / "job", [ducks, objects(300, 1)])).findings
    clusters = [one for one in found if one.kind == "cluster"]
    assert [one.number for one in clusters] == ([] if flips else [100])


def test_what_other_classes_have_as_well_is_no_finding(tmp_path: Path) -> None:
    classes = [objects(300, seed) for seed in range(2)]
    for heatmaps in classes:
        heatmaps[:30] = map(marked, heatmaps[:30])
    assert kerasight.audit(make_job(tmp_path / "job", classes)).findings == ()


def test_of_one_class_alone_clusters_are_no_finding(tmp_path: Path) -> None:
    ducks = objects(300)
    ducks[:30] = map(marked, ducks[:30])
    found = kerasight.audit(make_job(tmp_path / "job", [ducks]))
    assert found.findings == ()
    assert len(found.classes[0].clusters) > 1


def test_means_spreads_and_shares_of_a_class(tmp_path: Path) -> None:
    middle, corner = np.zeros((3, 3)), np.zeros((3, 3))
    middle[1, 1] = 2
    corner[0, 0] = 1
    found = kerasight.audit(make_job(tmp_path / "job", [[middle, middle, middle, corner]]))
    (one,) = found.classes
    np.testing.assert_allclose(one.mean, 0.75 * middle / 2 + 0.25 * corner)
    np.testing.assert_allclose(one.spread, (middle / 2 + corner) * np.sqrt(0.75 * 0.25), atol=1e-7)
    assert one.border is not None
    assert one.corners is not None
    assert (one.border.value, one.corners.value) == (0.25, 0.25)
    assert one.border.chance == pytest.approx(8 / 9)
    assert one.corners.chance == pytest.approx(4 / 9)
    assert one.unlike[0].key == "duck/003.png"
    assert one.unlike[0].value == 0.25
    assert (one.clusters, one.outside, found.findings) == ((), None, ())  # there are too few


def test_heat_at_the_border_is_found(tmp_path: Path) -> None:
    border = np.ones((SIDE, SIDE))
    border[1:-1, 1:-1] = 0
    ducks = [border + 0.1 * heat for heat in objects(60)]
    found = kerasight.audit(make_job(tmp_path / "job", [ducks, objects(60, 1)]))
    first = found.findings[0]
    assert (first.kind, first.label, first.number) == ("border", "duck (0)", 60)
    assert first.observed > 0.9
    assert "% of the heat is at the border. By chance it would be 49.0%" in first.sentence
    np.testing.assert_array_equal(first.place, border > 0)


def mask(side: int, rows: slice, columns: slice) -> np.ndarray:
    inside = np.zeros((side, side), bool)
    inside[rows, columns] = True
    return inside


@pytest.mark.parametrize("form", ["masks", "folder", "boxes", "table"])
def test_heat_outside_of_objects_is_found(tmp_path: Path, form: str) -> None:
    # Heat of ducks is at the left, and that of houses at the right, where all objects are.
    job = make_job(
        tmp_path / "job", [[spot(3, 1)] * 50, [spot(3, 5)] * 50], failed=["duck/050.png"]
    )
    keys = [f"{name}/{number:03}.png" for name in ("duck", "house") for number in range(50)]
    given: Any
    if form == "masks":
        given = {"masks": dict.fromkeys(keys, mask(70, slice(20, 50), slice(40, 70)))}
    elif form == "folder":
        for key in keys:
            path = (tmp_path / "masks" / key).with_suffix(".bmp")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask(70, slice(20, 50), slice(40, 70))).save(path)
        given = {"masks": tmp_path / "masks"}
    else:
        box = [4 / 7, 2 / 7, 1, 5 / 7]
        given = {"boxes": dict.fromkeys(keys, box)}
        if form == "table":
            with (tmp_path / "boxes.csv").open("w", newline="") as file:
                rows = csv.writer(file)
                rows.writerow(["top", "key", "left", "right", "bottom"])
                rows.writerows([box[1], key, box[0], box[2], box[3]] for key in keys)
            given = {"boxes": tmp_path / "boxes.csv"}
    found = kerasight.audit(job, **given)
    ducks, houses = (one.outside for one in found.classes)
    assert ducks is not None
    assert houses is not None
    assert ducks.value > 0.99
    assert houses.value < 0.2
    assert ducks.chance == pytest.approx(1 - 9 / 49)
    (finding,) = [one for one in found.findings if one.kind == "outside"]
    assert (finding.label, finding.number, finding.place) == ("duck (0)", 50, None)


def test_pictures_without_a_mask_do_not_count(tmp_path: Path) -> None:
    job = make_job(tmp_path / "job", [[spot(3, 1), spot(3, 5)]])
    known = {"duck/000.png": mask(7, slice(2, 5), slice(4, 7))}
    (one,) = kerasight.audit(job, masks=known).classes
    assert one.outside is not None
    assert one.outside.value > 0.99
    assert kerasight.audit(job, masks={}).classes[0].outside is None


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("heat", [spot(3, 3), np.ones((1, 1)), np.ones((2, 2)), np.ones((3, 3))])
def test_maps_that_are_all_the_same_are_no_finding(tmp_path: Path, heat: np.ndarray) -> None:
    found = kerasight.audit(make_job(tmp_path / "job", [[heat] * 100, [heat] * 100]))
    assert found.findings == ()
    assert not found.classes[0].spread.any()


def test_blank_heatmaps_and_those_of_another_shape_are_left_out(tmp_path: Path) -> None:
    job = make_job(
        tmp_path / "job",
        [[spot(3, 3), np.zeros((SIDE, SIDE)), -spot(1, 1), spot(3, 3), np.ones((2, 2))]],
        signed=True,
    )
    found = kerasight.audit(job)
    assert (found.number, found.left_out, found.classes[0].number) == (5, 3, 2)
    assert "3 were left out" in str(found)


def test_it_prints_what_it_found(planted: Audit, clean: Path) -> None:
    lines = str(planted).splitlines()
    assert lines[0] == "600 pictures of 2 classes by Grad-CAM at last of net.keras: 1 finding"
    assert lines[2].startswith("duck (0): 30 of 300 pictures have heat in the same place")
    assert lines[3].count("duck/0") == 4
    assert str(kerasight.audit(clean)).endswith("0 findings, 2 more could not be explained")


def test_columns_that_it_does_not_need_are_not_read(
    clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = parts.batches_of

    def noting(folder: Path, columns: Any = None, **options: Any) -> Any:
        read.extend(columns)
        return original(folder, columns, **options)

    monkeypatch.setattr(parts, "batches_of", noting)
    kerasight.audit(clean)
    assert "picture" not in read


@pytest.mark.parametrize(
    ("heatmap", "kind"), [(np.ones(4), "signals"), (np.ones((2, 2, 2)), "volumes")]
)
def test_heatmaps_that_are_of_no_picture_are_refused(
    tmp_path: Path, heatmap: np.ndarray, kind: str
) -> None:
    with pytest.raises(ValueError, match=f"are of {kind}"):
        kerasight.audit(make_job(tmp_path / "job", [[heatmap]]))


def test_what_cannot_be_audited_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no job"):
        kerasight.audit(tmp_path)
    with pytest.raises(ValueError, match="nothing is explained yet"):
        kerasight.audit(make_job(tmp_path / "empty", [], failed=["a"]))
    with pytest.raises(ValueError, match="no heatmap of a picture has any heat"):
        kerasight.audit(make_job(tmp_path / "blank", [[np.zeros((3, 3))]]))
    job = make_job(tmp_path / "job", [objects(3)])
    with pytest.raises(ValueError, match="exclude each other"):
        kerasight.audit(job, masks={}, boxes={})
    with pytest.raises(ValueError, match="no folder"):
        kerasight.audit(job, masks=tmp_path / "none")
    with pytest.raises(ValueError, match="as shares of the picture's sides, from 0 to 1, got 0, 0"):
        kerasight.audit(job, boxes={"duck/000.png": [0, 0, 20, 30]})
    with pytest.raises(ValueError, match="seed must be"):
        kerasight.audit(job, seed=-1)
    table = tmp_path / "boxes.csv"
    for text, why in (
        ("a,b\n", "must have the columns key, left"),
        ("key,left,top,right,bottom\nx,0,0,1,one\n", "a side that is no number"),
        ("key,left,top,right,bottom\nx,0,0\n", "a side that is no number"),
    ):
        table.write_text(text)
        with pytest.raises(ValueError, match=why):
            kerasight.audit(job, boxes=table)
    with pytest.raises(ValueError, match="cannot be read"):
        kerasight.audit(job, boxes=tmp_path)
    (tmp_path / "masks" / "duck").mkdir(parents=True)
    (tmp_path / "masks" / "duck" / "000.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"masks: .*000\.png: not a picture"):
        kerasight.audit(job, masks=tmp_path / "masks")


def test_without_scikit_learn_it_says_what_to_install(
    clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"pip install 'kerasight\[audit\]'"):
        kerasight.audit(clean)


def test_where_there_is_nothing_findings_are_as_rare_as_said(tmp_path: Path) -> None:
    # The probability is that of any finding in an audit: one in a hundred, at most.
    found = 0
    for seed in range(20):
        classes = [objects(60, 10 * seed + one) for one in range(3)]
        found += bool(kerasight.audit(make_job(tmp_path / str(seed), classes)).findings)
    assert LEVEL == 0.01
    assert found == 0
