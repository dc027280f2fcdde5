"""Model files: what is said of those that Keras cannot load, and what makes it load them."""

from __future__ import annotations

import importlib.util
import json
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import pytest
from cli.commands import explain, make_mean, refused, rows_of, save_model, save_picture
from keras import layers

LAYERS = """
import keras
import factors

class Scaled(keras.layers.Layer):
    def call(self, inputs):
        return inputs * factors.FACTOR

def negative(inputs):
    return -inputs
"""

# TensorFlow warns of models saved as HDF5.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(autouse=True)
def _imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if "my_layers" in name or name == "factors":
            del sys.modules[name]


@pytest.fixture
def own() -> Any:
    """A module of layers of somebody's own, in a folder, with one beside it that it needs."""
    Path("own").mkdir()
    Path("own/factors.py").write_text("FACTOR = 2.0")
    Path("own/my_layers.py").write_text(LAYERS)
    sys.path.insert(0, "own")
    spec = importlib.util.spec_from_file_location("my_layers", "own/my_layers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove("own")
    return module


def around(layer: keras.layers.Layer) -> keras.Model:
    """A model that puts out what a layer makes of the means of the channels."""
    inputs = keras.Input((4, 4, 3))
    ones = layers.Conv2D(3, 1, kernel_initializer="ones", name="copy")(inputs)
    return keras.Model(inputs, layer(layers.GlobalAveragePooling2D()(ones)), name="around")


def rewrite(path: str, change: Callable[[str], str], version: str = "3.0.0") -> None:
    """Change what a .keras file says of its layers, and which Keras wrote it."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["config.json"] = change(parts["config.json"].decode()).encode()
    parts["metadata.json"] = json.dumps({"keras_version": version}).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


class TestLayersOfOnesOwn:
    @pytest.mark.parametrize("file", ["model.keras", "model.h5"])
    @pytest.mark.parametrize("way", ["file", "module"])
    def test_are_named_and_brought(
        self, file: str, way: str, own: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save_model(around(own.Scaled()), file)
        picture = str(Path(save_picture()).absolute())
        line = refused(picture, "-m", file)
        assert line.startswith(f"{file}: the class 'Scaled' in it ")
        assert line.endswith(
            "; pass the module or .py file that defines it, as in --import my_layers.py"
        )
        model, passed = str(Path(file).absolute()), "own/my_layers.py"
        if way == "module":  # in the folder where the command runs
            monkeypatch.chdir("own")
            passed = "my_layers"
        result = explain(picture, "-m", model, "--import", passed)
        assert rows_of(result)[0][2] == "766"
        assert result.stderr == ""

    def test_of_a_registered_class_are_named_as_the_class(self, own: Any) -> None:
        register = keras.saving.register_keras_serializable("test_model_files")
        registered = register(type("Registered", (own.Scaled,), {}))
        file = save_model(around(registered()))
        rewrite(file, lambda text: text.replace(">Registered", ">Unregistered"))
        assert "'Registered' in it " in refused(save_picture(), "-m", file)

    def test_may_be_functions(self, own: Any) -> None:
        file = save_model(around(layers.Activation(own.negative)))
        assert "the function 'negative' in it " in refused(save_picture(), "-m", file)
        result = explain(
            save_picture(), "-m", file, "--import", "own/my_layers.py", "--signed", "-t", "0"
        )
        assert rows_of(result)[0][2] == "-383"

    def test_that_are_not_in_what_is_imported_are_named_with_it(self, own: Any) -> None:
        file = save_model(around(own.Scaled()))
        Path("other.py").touch()
        Path("more.py").touch()
        line = refused(save_picture(), "-m", file, "--import", "other.py", "--import", "more.py")
        assert "other.py, more.py" in line or "comes from my_layers" in line

    def test_never_stand_for_functions_of_keras(self) -> None:
        Path("other_my_layers.py").write_text("def relu(inputs):\n    raise RuntimeError")
        file = save_model(around(layers.Activation("relu")))
        arguments = ("--import", "other_my_layers.py")
        assert rows_of(explain(save_picture(), "-m", file, *arguments))[0][2] == "383"

    @pytest.mark.parametrize(
        ("passed", "text", "why"),
        [
            ("no_layers.py", None, "no such file"),
            (
                "no.layers",
                None,
                "no such module, neither installed nor in this folder; pass a .py ",
            ),
            ("own_my_layers.py", "import nowhere", "cannot be imported: ModuleNotFoundError: No m"),
            ("own_my_layers", "import nowhere", "cannot be imported: ModuleNotFoundError: No mod"),
            ("own_my_layers.py", "1 / 0", "cannot be imported: ZeroDivisionError: division by ze"),
            ("own_my_layers.py", "open('no')", "cannot be imported: FileNotFoundError: [Errno 2]"),
            ("own_my_layers.py", "raise SystemExit", "ends the program when it is imported; it "),
        ],
    )
    def test_that_cannot_be_imported_are_one_line(
        self, passed: str, text: str | None, why: str
    ) -> None:
        if text is not None:
            Path(f"{passed.removesuffix('.py')}.py").write_text(text)
        line = refused(save_picture(), "-m", save_model(make_mean()), "--import", passed)
        assert line.startswith(f"--import {passed}: {why}")

    @pytest.mark.parametrize(
        ("option", "why"),
        [(["--import", "x.py"], "the demo model needs none"), (["--unsafe"], "holds no code")],
    )
    def test_are_for_model_files(self, option: list[str], why: str) -> None:
        line = refused(save_picture(), *option)
        assert line.startswith(f"{option[0]} is for model files; the demo model ")
        assert why in line


class TestCode:
    @pytest.mark.parametrize("file", ["model.keras", "model.h5"])
    def test_is_loaded_only_if_it_is_trusted(self, file: str) -> None:
        save_model(around(layers.Lambda(lambda x: x * 3, name="triple")), file)
        assert refused(save_picture(), "-m", file) == (
            f"{file} holds Python code, in 'triple', which runs when the model is loaded; pass "
            "--unsafe if you trust whoever made the file"
        )
        result = explain(save_picture(), "-m", file, "--unsafe")
        assert rows_of(result)[0][2] == "1149"

    def test_in_a_function_of_a_layer_is_seen(self) -> None:
        file = save_model(around(layers.Activation("relu", name="act")))
        function = json.dumps({"class_name": "__lambda__", "config": {"value": "x"}})
        rewrite(file, lambda text: text.replace('"relu"', function))
        assert "holds Python code, in 'act', which runs" in refused(save_picture(), "-m", file)


class TestFile:
    @pytest.mark.parametrize(
        ("name", "content", "text"),
        [
            ("model.keras", b"", "model.keras: the file is empty"),
            ("model.h5", b"", "model.h5: the file is empty"),
            ("model.keras", b"text", "model.keras: the file is no model: it is no ZIP archive, as"),
            ("model.h5", b"text", "model.h5: the file is no model: it is no HDF5 file"),
        ],
    )
    def test_that_is_something_else_is_told(self, name: str, content: bytes, text: str) -> None:
        Path(name).write_bytes(content)
        assert refused(save_picture(), "-m", name).startswith(text)

    @pytest.mark.parametrize("name", ["model.keras", "model.h5"])
    def test_that_was_cut_short_is_told(self, name: str) -> None:
        whole = Path(save_model(make_mean(), name)).read_bytes()
        Path(name).write_bytes(whole[: len(whole) // 2])
        assert refused(save_picture(), "-m", name).startswith(
            f"{name}: the file is damaged or incomplete; copy or download it again ("
        )

    @pytest.mark.parametrize(
        ("made", "name", "text"),
        [
            ("model.h5", "a.keras", "a.keras has the content of an HDF5 file; name it a.h5"),
            ("model.keras", "a.h5", "a.h5 has the content of a .keras file; name it a.keras"),
        ],
    )
    def test_of_another_kind_is_told(self, made: str, name: str, text: str) -> None:
        Path(save_model(make_mean(), made)).rename(name)
        assert refused(save_picture(), "-m", name) == text

    def test_that_is_another_archive_is_told(self) -> None:
        with zipfile.ZipFile("model.keras", "w") as archive:
            archive.writestr("a.txt", "a")
        assert refused(save_picture(), "-m", "model.keras") == (
            "model.keras: the file is no model: it has no config.json"
        )

    def test_of_weights_alone_is_told(self) -> None:
        make_mean().save_weights("model.weights.h5")
        assert refused(save_picture(), "-m", "model.weights.h5") == (
            "model.weights.h5 holds no model, but at most weights; build the model in Python, load "
            "the weights with model.load_weights, and save the model with model.save('model.keras')"
        )

    def test_without_weights_has_the_reason_of_keras(self) -> None:
        file = save_model(make_mean())
        with zipfile.ZipFile(file) as archive:
            config = archive.read("config.json")
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("config.json", config)
        line = refused(save_picture(), "-m", file)
        assert line.startswith("model.keras: Keras cannot load this model: ")


class TestKeras2:
    END = (
        "; build the model in Keras 3 by the code that made it, load the weights with "
        "model.load_weights('model.{}'), and save it as .keras"
    )

    def test_that_can_be_loaded_is_explained(self) -> None:
        file = save_model(make_mean())
        rewrite(file, str, version="2.15.0")
        explain(save_picture(), "-m", file)

    def test_that_cannot_be_loaded_is_told(self) -> None:
        file = save_model(make_mean())

        def old(text: str) -> str:
            config = json.loads(text)
            config |= {"module": "keras.src.engine.functional", "registered_name": "Functional"}
            return json.dumps(config)

        rewrite(file, old, version="2.15.0")
        assert refused(save_picture(), "-m", file) == (
            f"model.keras was written by Keras 2.15.0, and Keras {keras.__version__} cannot load "
            f"it: the two store models differently{self.END.format('keras')}"
        )

    @pytest.mark.parametrize(
        ("layer", "argument", "why"),
        [
            ("TFOpLambda", None, "it has no layer TFOpLambda"),
            ("Activation", "groups", "Unrecognized keyword arguments passed to Activation: "),
        ],
    )
    def test_in_hdf5_that_cannot_be_loaded_is_told(
        self, layer: str, argument: str | None, why: str
    ) -> None:
        save_model(around(layers.Activation("relu", name="act")), "model.h5")
        with h5py.File("model.h5", "a") as file:
            config = json.loads(file.attrs["model_config"])
            config["config"]["layers"][-1]["class_name"] = layer
            if argument is not None:
                config["config"]["layers"][-1]["config"][argument] = 1
            file.attrs["model_config"] = json.dumps(config)
            file.attrs["keras_version"] = b"2.11.0"
        line = refused(save_picture(), "-m", "model.h5")
        start = f"model.h5 was written by Keras 2.11.0, and Keras {keras.__version__} cannot load "
        assert line.startswith(f"{start}it: {why}")
        assert line.endswith(self.END.format("h5"))
