"""The page of a job, made without its model."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cli.commands import forbid_keras, make_mean, noise_picture, refused, run_as_it_is, save_model

from kerasight.jobs import run as run_job


@pytest.fixture(autouse=True)
def _job(_here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b\n", "c"):
        noise_picture(f"photos/{name}.png")
    Path("photos/d.png").write_text("no picture")
    model = save_model(make_mean())
    names = ["red", "green", "blue"]
    run_job("job", "photos", model, preprocess="none", class_names=names, progress=False)
    forbid_keras(monkeypatch)


def report(*arguments: str | Path) -> str:
    result = run_as_it_is("report", "job", "--html", "page.html", *arguments)
    assert result.exit_code == 0, result.stderr
    return result.stderr + result.stdout


def test_a_page_of_what_a_job_has_explained() -> None:
    assert report() == "4 pictures of job shown in page.html\n"
    page = Path("page.html").read_text(encoding="utf-8")
    for text in ("a.png", "b\\n.png", "c.png", "not a picture in a format", "model.keras", "copy"):
        assert text in page.replace("<wbr>", "")
    assert "red" in page
    assert report("--colormap", "magma", "--blur", "3") == "4 pictures of job shown in page.html\n"
    assert Path("page.html").read_text(encoding="utf-8") != page


def test_only_so_many_pictures_are_shown() -> None:
    told = report("--pictures", "2")
    assert "the page shows the first 2 of 4 pictures; --pictures takes more" in told
    page = Path("page.html").read_text(encoding="utf-8")
    assert "b\\n.png" in page.replace("<wbr>", "")
    assert "c.png" not in page


def test_a_picture_that_is_gone_or_has_changed_is_told() -> None:
    os.remove("photos/a.png")
    noise_picture("photos/c.png", seed=3)
    assert "2 pictures cannot be shown: not there any more, or changed" in report()
    assert "its picture is not there any more" in Path("page.html").read_text(encoding="utf-8")


def test_what_cannot_be_is_refused() -> None:
    page = ("--html", "page.html")
    assert refused("photos", *page, command="report").startswith("photos is no job")
    assert "at least 1, got 0" in refused("job", *page, "--pictures", "0", command="report")
    assert "unknown --colormap 'x'" in refused("job", *page, "--colormap", "x", command="report")
    Path("page.html").write_text("mine")
    assert "was not made by this command" in refused("job", *page, command="report")
    own = refused("job", "--html", "job/manifest.json", "--force", command="report")
    assert "a file of the job" in own
    report("--force")
    (part,) = Path("job/parts").iterdir()
    part.write_bytes(part.read_bytes()[:100])
    assert "is no whole part of a job" in refused("job", *page, command="report")
    part.unlink()
    assert refused("job", *page, command="report") == "job: nothing is explained yet"
