"""The names at the top, what importing costs, and the walls between the modules."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import re
from pathlib import Path

import pytest
from fresh_python import imported_by, run_python

import kerasight

SOURCE = Path(kerasight.__file__).parent
CONTRIBUTING = Path(__file__).resolve().parents[1] / ".github" / "CONTRIBUTING.md"


def test_every_public_name_is_there() -> None:
    for name in kerasight.__all__:
        assert getattr(kerasight, name) is not None
    assert set(kerasight.__all__) <= set(dir(kerasight))
    with pytest.raises(AttributeError, match="explain_weights"):
        _ = kerasight.explain_weights


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("kerasight.base", ["Explanation", "TargetExplanation"]),
        ("kerasight.explain", ["explain_prediction"]),
        ("kerasight.ipython", ["show_prediction"]),
        (
            "kerasight.keras.explain_prediction",
            [
                "explain_prediction_keras",
                "explain_prediction_keras_image",
                "explain_prediction_keras_not_supported",
                "_validate_doc",
                "_get_activation_layer",
            ],
        ),
        ("kerasight.keras", ["explain_prediction_keras", "gradcam", "gradcam_backend"]),
        ("kerasight.keras.gradcam", ["gradcam", "gradcam_backend"]),
        ("kerasight.formatters", ["format_as_image"]),
        (
            "kerasight.formatters.image",
            [
                "format_as_image",
                "heatmap_to_image",
                "expand_heatmap",
                "_validate_heatmap",
                "_cap_alpha",
                "_update_alpha",
                "_overlay_heatmap",
            ],
        ),
    ],
)
def test_names_stand_under_the_paths_of_eli5(module: str, names: list[str]) -> None:
    loaded = importlib.import_module(module)
    for name in names:
        assert callable(getattr(loaded, name))


def test_the_version_is_that_of_the_distribution() -> None:
    assert kerasight.__version__.count(".") == 2


@pytest.mark.parametrize(
    "use",
    [
        "import kerasight",
        "import kerasight; kerasight.Explanation('net')",
        "import kerasight; kerasight.explain_prediction, kerasight.show_prediction",
        "import kerasight; kerasight.format_as_image, kerasight.formatters.image.expand_heatmap",
        "import kerasight; kerasight.keras.gradcam.gradcam_backend, kerasight.install_as_eli5",
        "import kerasight; kerasight.cam.methods.METHODS, kerasight.cam.request.Request",
        "import kerasight; kerasight.jobs.run, kerasight.jobs.read",
        "import kerasight.cli, kerasight.demo",
    ],
)
def test_nothing_heavy_is_imported_until_it_is_used(use: str) -> None:
    assert imported_by(use) == set()


def test_modules_are_there_as_attributes_after_a_bare_import() -> None:
    code = (
        "import kerasight as eli5; eli5.formatters.image.heatmap_to_image; eli5.base.Explanation; "
        "eli5.keras.explain_prediction.explain_prediction_keras; eli5.keras.layers.walk; "
        "eli5.keras.gradcam.gradcam"
    )
    run_python(code)


@functools.cache
def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def users_of(library: str) -> set[str]:
    return {
        str(path.relative_to(SOURCE).as_posix())
        for path in SOURCE.rglob("*.py")
        if any(name == library or name.startswith(library + ".") for name in imports_of(path))
    }


TOGETHER = ("keras/backends/", "keras/ways/")
INIT = "__init__.py"


def modules_in_order() -> list[str]:
    """The modules in the order in which CONTRIBUTING lists them; of some folders all in one."""
    text = CONTRIBUTING.read_text(encoding="utf-8")
    (block,) = re.findall(r"^src/kerasight/\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    found, folder = [], ""
    for indent, name in re.findall(r"^( +)(\S+)", block, re.MULTILINE):
        if len(indent) == 4 and name.endswith("/"):
            folder = name
        else:
            found.append((folder if len(indent) == 8 else "") + name)
    return found


def listed(path: Path) -> str:
    """What CONTRIBUTING calls a file."""
    name = path.relative_to(SOURCE).as_posix()
    return next((folder for folder in TOGETHER if name.startswith(folder)), name)


def imports_at_once(path: Path) -> set[Path]:
    """The modules of the package that one imports when it is imported itself."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kerasight"):
            above = SOURCE.parent.joinpath(*(node.module or "").split("."))
            for alias in node.names:
                places = (above / alias.name, above)
                files = [file for one in places for file in (one.with_suffix(".py"), one / INIT)]
                found.add(next(file for file in files if file.exists()))
    return found


def test_contributing_lists_every_module() -> None:
    there = {
        listed(path)
        for path in SOURCE.rglob("*.py")
        if path.name != INIT
        or path.parent in (SOURCE, SOURCE / "cli", *(SOURCE / folder for folder in TOGETHER))
    }
    assert sorted(modules_in_order()) == sorted(there)


def test_a_module_imports_those_below_it_in_the_list_of_contributing() -> None:
    place = {module: place for place, module in enumerate(modules_in_order())}
    up = [
        f"{listed(path)} imports {listed(other)}"
        for path in SOURCE.rglob("*.py")
        if path.name != INIT
        for other in imports_at_once(path)
        if not (listed(path) == listed(other) and listed(path) in TOGETHER)
        and place[listed(other)] <= place[listed(path)]
    ]
    assert not up


@pytest.mark.parametrize(
    ("framework", "files"),
    [("tensorflow", ["tensorflow.py"]), ("jax", ["jax.py", "jaxprs.py"]), ("torch", ["torch.py"])],
)
def test_a_framework_is_imported_by_its_backend_alone(framework: str, files: list[str]) -> None:
    assert users_of(framework) == {TOGETHER[0] + file for file in files}


def test_no_private_module_of_a_framework_is_imported() -> None:
    for library, private in {"jax": "_src", "keras": "src", "tensorflow": "python"}.items():
        assert not users_of(f"{library}.{private}")


def test_nothing_else_asks_which_framework_runs() -> None:
    asking = re.compile(r"backend\.backend\(|config\.backend\(|KERAS_BACKEND")
    users = [path for path in SOURCE.rglob("*.py") if asking.search(path.read_text("utf-8"))]
    assert users == [SOURCE / "keras/backends/__init__.py"]


def test_matplotlib_is_imported_by_the_formatters_alone() -> None:
    users = users_of("matplotlib")
    assert "formatters/overlay.py" in users
    assert not [user for user in users if user.startswith("keras/") or user == "base.py"]


def test_the_formatters_see_no_model() -> None:
    assert not [user for user in users_of("keras") if user.startswith("formatters/")]
    assert not [user for user in users_of("kerasight.keras") if user.startswith("formatters/")]


def test_the_version_is_unknown_where_nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert kerasight.__version__ == "unknown"
