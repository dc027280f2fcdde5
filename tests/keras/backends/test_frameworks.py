"""The same answers on each framework, and none that is not Keras's own is imported."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent


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


def needs(*frameworks: str) -> None:
    missing = [one for one in frameworks if importlib.util.find_spec(one) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def test_jax_answers_as_tensorflow_does(tmp_path: Path) -> None:
    needs("tensorflow", "jax")
    files = {name: tmp_path / f"{name}.npz" for name in ("tensorflow", "jax")}
    for name, file in files.items():
        run(name, str(HERE / "answers.py"), str(file))
    expected, found = (dict(np.load(file)) for file in files.values())
    assert found.keys() == expected.keys()
    for what, value in expected.items():
        if value.dtype.kind == "U":
            assert found[what].tolist() == value.tolist(), what
        else:
            np.testing.assert_allclose(found[what], value, atol=1e-5, err_msg=what)


WITHOUT_TENSORFLOW = """
import sys

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow":
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


def test_on_jax_tensorflow_is_not_imported() -> None:
    needs("jax")
    run("jax", "-c", WITHOUT_TENSORFLOW)
