"""What the heatmaps of a job have in common, on the command line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from auditing.made import make_job, marked, objects
from cli.commands import forbid_keras, refused, run_as_it_is

pytest.importorskip("sklearn", reason="scikit-learn is no part of this environment")


@pytest.fixture(autouse=True)
def _job(_here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    ducks = objects(300)
    ducks[:30] = map(marked, ducks[:30])
    make_job("job", [ducks, objects(300, 1)])
    forbid_keras(monkeypatch)


def audit(*arguments: str | Path) -> str:
    result = run_as_it_is("audit", "job", *arguments)
    assert result.exit_code == 0, result.stderr
    return result.stderr + result.stdout


def test_findings_are_printed_and_shown_on_a_page() -> None:
    told = audit()
    assert told.startswith("600 pictures of 2 classes by Grad-CAM at last of net.keras: 1 finding")
    assert "duck (0): 30 of 300 pictures have heat in the same place, at the lower right" in told
    assert audit("--html", "a/page.html") == f"{told}\n1 finding of job shown in a/page.html\n"
    page = Path("a/page.html").read_text(encoding="utf-8")
    assert "30 of 300 pictures have heat in the same place" in page
    audit("--html", "a/page.html")  # its own


def test_boxes_say_where_objects_are() -> None:
    lines = [f"duck/{number:03}.png,0,0,0.1,0.1\n" for number in range(300)]
    Path("boxes.csv").write_text("key,left,top,right,bottom\n" + "".join(lines))
    told = audit("--boxes", "boxes.csv", "--seed", "1")
    assert "of the heat is outside of the object, more than the 99.0% by chance" in told


def test_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused("photos", command="audit").startswith("photos is no job")
    assert "--seed must be at least 0" in refused("job", "--seed", "-1", command="audit")
    assert "masks: none is no folder" in refused("job", "--masks", "none", command="audit")
    Path("mine.html").write_text("mine")
    page = ("--html", "mine.html")
    assert "was not made by this command" in refused("job", *page, command="audit")
    own = ("--html", "job/manifest.json", "--force")
    assert "a file of the job" in refused("job", *own, command="audit")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert "pip install 'kerasight[audit]'" in refused("job", command="audit")
