"""Model files: what they hold, how to load them, and what to do if Keras cannot."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import re
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from kerasight.errors import SetupError, reason

if TYPE_CHECKING:
    import keras

__all__ = ["SUFFIXES", "check", "load_file", "not_of_keras"]

SUFFIXES = (".keras", ".h5", ".hdf5")

_ZIP, _HDF5 = b"PK\x03\x04", b"\x89HDF\r\n\x1a\n"  # how the files begin


class _Contents(NamedTuple):
    """What a file says about its model.

    Attributes:
        config: The layers, in Keras's JSON.
        version: The version of the Keras that wrote the file; empty if the file does not say.
    """

    config: Any
    version: str


def check(path: Path, unsafe: bool) -> None:
    """Look into a file, without Keras.

    Args:
        path: The file.
        unsafe: Whether Python code in it may run.

    Raises:
        SetupError: If no model can be loaded from it.
    """
    layers = list(dict.fromkeys(_with_code(_contents(path).config)))
    if layers and not unsafe:
        raise SetupError(_of_code(path, f", in {', '.join(map(repr, layers))}"))


def not_of_keras(path: Path) -> tuple[list[str], list[str]]:
    """What a file needs beside Keras: its layers with Python code, and classes and functions.

    Raises:
        SetupError: If it holds no model.
    """
    config = _contents(path).config
    return list(dict.fromkeys(_with_code(config))), list(dict.fromkeys(_foreign(config)))


def _of_code(path: Path, where: str = "") -> str:
    return (
        f"{path} holds Python code{where}, which runs when the model is loaded; pass --unsafe if "
        "you trust whoever made the file"
    )


def _contents(path: Path) -> _Contents:
    """Read the config of a model.

    Raises:
        SetupError: If there is none.
    """
    if not path.is_file():
        raise SetupError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    try:
        with path.open("rb") as file:
            start = file.read(len(_HDF5))
    except OSError as error:
        raise SetupError(f"{path}: {reason(error)}") from None
    if not start:
        raise SetupError(f"{path}: the file is empty")
    is_zip, is_hdf5 = start.startswith(_ZIP), start == _HDF5
    wants_zip = path.suffix.lower() == ".keras"
    if (is_hdf5 and wants_zip) or (is_zip and not wants_zip):
        kind, suffix = ("an HDF5", ".h5") if is_hdf5 else ("a .keras", ".keras")
        raise SetupError(f"{path} has the content of {kind} file; name it {path.stem}{suffix}")
    kind = "ZIP archive, as .keras files are" if wants_zip else "HDF5 file"
    try:
        contents = _of_zip(path) if wants_zip else _of_hdf5(path)
    except Exception as error:  # of any kind: it comes from the file
        if isinstance(error, KeyError):
            why = "no model: it has no config.json"
        elif is_zip or is_hdf5:
            why = f"damaged or incomplete; copy or download it again ({reason(error)})"
        else:
            why = f"no model: it is no {kind}"
        raise SetupError(f"{path}: the file is {why}") from None
    if contents is None:
        raise SetupError(
            f"{path} holds no model, but at most weights; build the model in Python, load the "
            "weights with model.load_weights, and save the model with model.save('model.keras')"
        )
    return contents


def _of_zip(path: Path) -> _Contents | None:
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
        has_metadata = "metadata.json" in archive.namelist()
        metadata = json.loads(archive.read("metadata.json")) if has_metadata else {}
    return _Contents(config, str(metadata.get("keras_version", "")))


def _of_hdf5(path: Path) -> _Contents | None:
    import h5py

    with h5py.File(path, "r") as file:
        config, version = file.attrs.get("model_config"), file.attrs.get("keras_version", "")
    return None if config is None else _Contents(json.loads(config), _text(version))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _with_code(config: Any, name: str = "the model") -> Iterator[str]:
    """The names of the layers that hold a function as Python's bytecode."""
    if isinstance(config, list):
        for item in config:
            yield from _with_code(item, name)
    if not isinstance(config, dict):
        return
    inner = config.get("config")
    if isinstance(inner, dict):
        name = inner.get("name", name)
        # The form of Keras 2, and of Keras 3 in HDF5 files.
        if config.get("class_name") == "Lambda" and isinstance(inner.get("function"), list):
            yield name
    if config.get("class_name") == "__lambda__":
        yield name
    for item in config.values():
        yield from _with_code(item, name)


def _foreign(config: Any) -> Iterator[str]:
    """The names of the classes and functions that are not Keras's."""
    if isinstance(config, list):
        for item in config:
            yield from _foreign(item)
    if not isinstance(config, dict):
        return
    is_of_keras = str(config.get("module")).split(".")[0] == "keras"
    if config.get("registered_name") and not is_of_keras:
        is_function = config.get("class_name") == "function"
        yield str(config["config"] if is_function else config.get("class_name"))
    for key, item in config.items():
        if key != "compile_config":  # a model is loaded without
            yield from _foreign(item)


# Loading


def load_file(path: Path, imports: Sequence[str], unsafe: bool) -> keras.Model:
    """Load a model.

    Args:
        path: The file, which was checked.
        imports: Modules and ``.py`` files to import first, which define layers and functions of
            the model.
        unsafe: Whether Python code in the file may run.

    Raises:
        SetupError: If the model cannot be loaded.
    """
    import keras

    known: dict[str, Any] = {}
    for name in imports:
        known |= _custom_objects(_imported(name))
    try:
        return keras.saving.load_model(
            path, custom_objects=known, compile=False, safe_mode=not unsafe
        )
    except Exception as error:  # of any kind: it comes from the file
        raise SetupError(_why_not(path, str(error) or type(error).__name__, imports)) from None


def _imported(name: str) -> ModuleType:
    """Import what ``--import`` names."""
    try:
        if name.endswith(".py"):
            return _run_file(Path(name))
        # As with python -m, modules in the current folder can be imported.
        _put_first(Path.cwd())
        return importlib.import_module(name)
    except SystemExit:
        why = "ends the program when it is imported; it should only define layers"
    except Exception as error:  # whatever is in it
        why = f"cannot be imported: {type(error).__name__}: {reason(str(error))}"
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            why = (
                "no such module, neither installed nor in this folder; pass a .py file by its path"
            )
        if isinstance(error, FileNotFoundError) and error.filename == str(Path(name).absolute()):
            why = "no such file"
    raise SetupError(f"--import {name}: {why}")


def _run_file(path: Path) -> ModuleType:
    """Import a file as a module of its name; it can import the modules in its folder."""
    path = path.absolute()
    name = path.stem if path.stem not in sys.modules else f"{path.stem}_imported"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # for it ends in .py
    assert spec.loader is not None
    _put_first(path.parent)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # Keras looks for it there, too
    spec.loader.exec_module(module)
    return module


def _put_first(folder: Path) -> None:
    """Have Python look for modules in a folder first, as in the folder of a script."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _custom_objects(module: ModuleType) -> dict[str, Any]:
    """The classes and functions of a module, as Keras takes them."""
    import keras

    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isclass(value)
        # A function with the name of one of Keras's own would replace that one, too.
        or (inspect.isfunction(value) and not hasattr(keras.activations, name))
    }


# Why not

_UNKNOWN = re.compile(
    r"(?:Could not locate|Could not deserialize|Unknown) "
    r"(?P<kind>[a-z ]+?):? '(?P<name>[^']+)'"
    r"(?: because its parent module (?P<module>\S+) cannot be imported)?"
)
_UNKNOWN_IN_KERAS_3_3 = re.compile(
    r"Could not interpret (?P<kind>[a-z ]+) identifier: .*'config': '(?P<name>[^']+)'(?P<module>)"
)

# Classes of Keras 2 that Keras 3 has not, or has in another module.
_OF_KERAS_2 = re.compile(
    r"(?P<model>Functional|Model|Sequential)$"
    r"|(\w+OpLambda|TensorFlowOpLayer|ClassMethod|Instance\w+)$"
)


def _why_not(path: Path, text: str, imports: Sequence[str]) -> str:
    """Why Keras cannot load a file, and what to do."""
    if "safe_mode" in text:
        return _of_code(path)
    # Each layer, from the outermost on, says that it could not be built, and then why.
    why = reason(text.rsplit("Exception encountered: ", 1)[-1])
    unknown = _UNKNOWN.search(text) or _UNKNOWN_IN_KERAS_3_3.search(text)
    version = _contents(path).version
    is_old = version.split(".")[0] in ("1", "2")
    if unknown is not None:
        old = _OF_KERAS_2.match(unknown["name"]) if is_old else None
        if old is None:
            return _of_unknown(path, unknown, imports)
        why = f"it has no layer {old[0]}"
        if old["model"]:
            why = "the two store models differently"
    if is_old:
        import keras

        return (
            f"{path} was written by Keras {version}, and Keras {keras.__version__} cannot load it: "
            f"{why}; build the model in Keras 3 by the code that made it, load the weights with "
            f"model.load_weights({path.name!r}), and save it as .keras"
        )
    return f"{path}: Keras cannot load this model: {why}"


def _of_unknown(path: Path, unknown: re.Match[str], imports: Sequence[str]) -> str:
    kind = "function" if "function" in unknown["kind"] else "class"
    what = f"{path}: the {kind} {unknown['name'].split('>')[-1]!r} in it "
    if unknown["module"]:
        what += f"comes from {unknown['module']}, which is not installed"
    elif imports:
        what += f"is not known to Keras, nor defined in {', '.join(imports)}"
    else:
        what += "is not known to Keras"
    return f"{what}; pass the module or .py file that defines it, as in --import my_layers.py"
