"""README and documentation: the commands and the code that stand there, and where they lead."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest
from PIL import Image

import kerasight
import kerasight.demo
import kerasight.formatters.html
import kerasight.formatters.image
import kerasight.keras.explain_prediction
import kerasight.metrics.evaluation
import kerasight.targets

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, ROOT / "CHANGELOG.md", ROOT / ".github" / "CONTRIBUTING.md", *DOCS]

# Whose own docstrings stand in the reference as well.
MODULES = {"kerasight.demo", "kerasight.metrics", "kerasight.targets"}

COMMANDS = [
    "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/kerasight explain",
    ".venv/bin/pip install tox && .venv/bin/tox -e py",
]


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The README's code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(README), re.MULTILINE | re.DOTALL)


def targets(path: Path) -> list[str]:
    """The files of this repository that a page links to, shows or downloads."""
    text = re.sub(r"^```\w+\n.*?^```$", "", text_of(path), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    found += re.findall(r"^```\{(?:figure|image|include)\} (\S+)$", text, re.MULTILINE)
    found += re.findall(r"^:file: (\S+)$", text, re.MULTILINE)
    found += re.findall(r"\{download\}`[^`<]*<([^`>]+)>`", text)
    return [item.split("#")[0] for item in found if not re.match(r"https?:|#", item)]


def test_the_readme_is_short() -> None:
    assert len(text_of(README).splitlines()) < 150


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_stands_alone_in_a_block_of_its_own(command: str) -> None:
    assert blocks("bash").count(command + "\n") == 1


def test_the_python_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("python")
    names: dict[str, object] = {}
    exec(compile(ast.parse(block), "README.md", "exec"), names)
    with Image.open("overlay.png") as overlay:
        assert overlay.size == kerasight.demo.load_picture().size
    expl = names["expl"]
    assert isinstance(expl, kerasight.Explanation)
    assert expl.targets is not None
    assert expl.targets[0].target == 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_to_files(page: Path) -> None:
    for target in targets(page):
        path = page.parent / target
        if target.startswith("notebooks/"):  # which docs/conf.py copies beside the pages
            path = ROOT / target
        assert path.exists(), f"{page.name} leads to {target}"


def test_the_readme_and_the_docs_have_pictures() -> None:
    for page in (README, ROOT / "docs" / "index.md"):
        assert any(target.endswith(".png") for target in targets(page))


def test_every_picture_is_shown_somewhere() -> None:
    shown = {(page.parent / target).resolve() for page in PAGES for target in targets(page)}
    there = {path.resolve() for path in (ROOT / "docs" / "images").iterdir()}
    assert there <= shown


def test_the_reference_has_every_public_name_once_under_its_shortest_path() -> None:
    pages = sorted((ROOT / "docs" / "api").glob("*.md"))
    documented = re.findall(r"^\.\. auto\w+:: (\S+)$", "".join(map(text_of, pages)), re.M)
    in_tables = re.findall(r"^   ~(kerasight\.\S+)$", text_of(ROOT / "docs" / "api.md"), re.M)
    short = {name for name in kerasight.__all__ if not inspect.ismodule(getattr(kerasight, name))}
    public = {f"kerasight.{name}" for name in short}
    public |= {f"kerasight.keras.gradcam.{name}" for name in ("gradcam", "gradcam_backend")}
    public |= {"kerasight.cam.maps.normalised", "kerasight.cam.request.Request"}
    public |= {"kerasight.jobs.sources.find", "kerasight.jobs.worker.BatchExplainer"}
    public |= {"kerasight.ray.Cluster", "kerasight.ray.explain"}
    public |= {"kerasight.metrics.result.Evaluation", "kerasight.metrics.statistics.Estimate"}
    public |= {f"kerasight.metrics.columns.{name}" for name in ("METRICS", "Metric")}
    public |= {f"kerasight.metrics.comparison.{name}" for name in ("RANDOM", "Row")}
    for module in (
        kerasight.auditing,
        kerasight.callbacks,
        kerasight.demo,
        kerasight.jobs,
        kerasight.metrics,
        kerasight.metrics.evaluation,
        kerasight.cam.attention,
        kerasight.cam.attributions,
        kerasight.cam.masking,
        kerasight.cam.methods,
        kerasight.formatters.html,
        kerasight.formatters.image,
        kerasight.keras.explain_prediction,
        kerasight.keras.explain_predictions,
        kerasight.side_by_side,
    ):
        public |= {f"{module.__name__}.{name}" for name in module.__all__ if name not in short}
    public |= {
        f"kerasight.targets.{name}"
        for name in kerasight.targets.__all__
        if inspect.isclass(getattr(kerasight.targets, name))
    }
    of_words = ("FeatureWeight", "FeatureWeights", "DocWeightedSpans", "WeightedSpans")
    public |= {f"kerasight.base.{name}" for name in of_words}
    # A module, and the function in it.
    public = public - {"kerasight.metrics.road"} | {"kerasight.metrics.road.road"}
    assert sorted(documented) == sorted(public | MODULES)
    assert sorted(in_tables) == sorted(public)
