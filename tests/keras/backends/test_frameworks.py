"""The same answers on each framework, and none that is not Keras's own is imported."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from printed import PRINTED

import kerasight
from kerasight.keras import backends

HERE = Path(__file__).parent
FRAMEWORKS = backends.names
INSTALLED = [name for name in FRAMEWORKS if importlib.util.find_spec(name) is not None]


def run(framework: str, *command: str) -> None:
    environment = {**os.environ, "KERAS_BACKEND": framework}
    done = subprocess.run(
        [sys.executable, *command],
        env=environment,
        cwd=HERE.parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each framework that is installed answers, of the same weights and docs."""
    if len(INSTALLED) < 2:
        pytest.skip(f"nothing to compare with, as {' and '.join(INSTALLED)} alone is installed")
    folder, script = tmp_path_factory.mktemp("answers"), str(HERE / "answers.py")
    given = str(folder / "given.npz")
    run(INSTALLED[0], script, "make", given)
    for name in INSTALLED:
        run(name, script, "explain", given, str(folder / f"{name}.npz"))
    return {name: dict(np.load(folder / f"{name}.npz")) for name in INSTALLED}


def agree(answers: dict[str, dict[str, Any]], names: re.Pattern[str], atol: float) -> None:
    expected, *others = answers.values()
    compared = [what for what in expected if names.match(what)]
    assert compared
    for found in others:
        assert found.keys() == expected.keys()
        for what in compared:
            if expected[what].dtype.kind == "U":
                assert found[what].tolist() == expected[what].tolist(), what
            else:
                np.testing.assert_allclose(found[what], expected[what], atol=atol, err_msg=what)


OF_DIFFERENCES = ".*, (shapley-cam|recipro-cam|occlusion|rise|kernel-shap),"


def test_tiny_models_are_explained_alike(answers: dict[str, dict[str, Any]]) -> None:
    agree(answers, re.compile(f"(?!MobileNet|the photo|{OF_DIFFERENCES})"), 1e-5)
    # In these, the rounding of small differences is scaled up with them.
    agree(answers, re.compile(OF_DIFFERENCES), 1e-4)


def test_a_whole_model_of_keras_is_explained_alike(answers: dict[str, dict[str, Any]]) -> None:
    agree(answers, re.compile("MobileNet"), 1e-4)


def test_the_photograph_is_explained_as_it_was_printed(
    answers: dict[str, dict[str, Any]], imagenet: Any
) -> None:
    imagenet("mobilenet_v2.weights.h5")  # skips where it is not
    for found in answers.values():
        np.testing.assert_allclose(found["the photograph, heatmap 0"], PRINTED, atol=1e-3)
        assert found["the photograph, class and layer 0"].tolist() == ["243", "out_relu"]


WITHOUT_TENSORFLOW = """
import sys
from importlib.machinery import ModuleSpec

class Refusing:
    # PyTorch asks whether there is one, which is no harm.
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name.partition(".")[0] == "tensorflow" else None

    def create_module(self, spec):
        raise AssertionError("TensorFlow is imported")

sys.path.insert(0, "tests")
sys.meta_path.insert(0, Refusing())
import numpy as np
import kerasight
from tiny_models import MODELS, make_doc

model, docs = MODELS["functional"](), np.concatenate([make_doc(seed=seed) for seed in range(6)])
explained = kerasight.explain_prediction(model, docs[:1])
kerasight.format_as_image(explained)
assert len(list(kerasight.explain_predictions(model, docs, method="score-cam"))) == 6
assert "tensorflow" not in sys.modules
"""


@pytest.mark.parametrize("framework", [name for name in FRAMEWORKS if name != "tensorflow"])
def test_on_another_framework_tensorflow_is_not_imported(framework: str) -> None:
    if framework not in INSTALLED:
        pytest.skip(f"{framework} is not installed")
    run(framework, "-c", WITHOUT_TENSORFLOW)


ASKS = re.compile(r"\b(?:backend\.backend|config\.backend|KERAS_BACKEND)\b")


def test_nothing_but_the_backends_asks_which_framework_runs() -> None:
    package = Path(kerasight.__file__).parent
    asking = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if ASKS.search(path.read_text(encoding="utf-8"))
    }
    assert asking == {"keras/backends/__init__.py"}
