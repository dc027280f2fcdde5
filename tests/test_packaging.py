"""What the distribution says of itself, and that it is so."""

from __future__ import annotations

import configparser
import os
import re
from importlib import metadata
from pathlib import Path

import kerasight

ROOT = Path(__file__).resolve().parents[1]


def lower_bounds(extra: str = "") -> dict[str, str]:
    """The least version of each dependency, or of those of an extra, from the metadata."""
    bounds = {}
    for requirement in metadata.requires("kerasight") or ():
        match = re.fullmatch(
            r"([\w.-]+)(?:\[\w+\])?>=([\d.]+)(?:; extra == ['\"](\w+)['\"])?", requirement
        )
        assert match, f"{requirement} has no lower bound alone"
        if extra == (match[3] or ""):
            bounds[match[1]] = match[2]
    return bounds


def as_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def test_every_dependency_has_a_lower_bound_and_is_above_it() -> None:
    bounds = lower_bounds()
    assert set(bounds) == {
        "keras",
        "matplotlib",
        "numpy",
        "pillow",
        "pyarrow",
        "rich",
        "tensorflow",
        "tqdm",
        "typer",
    }
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        del bounds["tensorflow"]  # it may be missing
    for name, bound in bounds.items():
        installed = as_numbers(metadata.version(name))
        if os.environ.get("KERASIGHT_LOWEST"):
            assert installed == as_numbers(bound), name
        else:
            assert installed >= as_numbers(bound), name


def test_tox_installs_exactly_the_lower_bounds() -> None:
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini", encoding="utf-8")
    pins = dict(re.findall(r"^([\w.-]+)==([\d.]+)$", tox["testenv:lowest"]["deps"], re.MULTILINE))
    assert pins == lower_bounds()


def test_each_framework_beside_tensorflow_is_an_extra_and_so_is_ray() -> None:
    assert all(set(lower_bounds(name)) == {name} for name in ("jax", "ray", "torch"))


def test_types_and_data_are_part_of_the_package() -> None:
    package = Path(kerasight.__file__).parent
    assert (package / "py.typed").exists()
    assert (package / "demo" / "classifier.npz").stat().st_size < 1_000_000


def test_nothing_else_is_part_of_it() -> None:
    files = [path for path in Path(kerasight.__file__).parent.rglob("*.*") if path.is_file()]
    kinds = {path.suffix for path in files} - {".pyc"}
    assert kinds == {".css", ".js", ".npz", ".png", ".py", ".typed"}
    # The command is the only thing to run: scripts of ours stay at home.
    code = {path: path.read_text(encoding="utf-8") for path in files if path.suffix == ".py"}
    assert [path.name for path in code if "__name__ ==" in code[path]] == ["__main__.py"]


def test_the_top_level_of_the_repository_is_the_agreed_one() -> None:
    agreed = {
        "CHANGELOG.md",
        "LICENSE",
        "README.md",
        "docs",
        "notebooks",
        "pyproject.toml",
        "src",
        "tests",
        "tox.ini",
    }
    made = {
        "build",
        "dist",
        "evaluation.csv",
        "overlay.png",
        "overlays",
    }  # by the README's commands, and ignored by git
    found = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert found - made == agreed
