"""Load the model that the options name, and make its input from a picture."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from kerasight.checks import nearest, plain, plural
from kerasight.classifiers import model_files, preprocessing
from kerasight.errors import PictureError, SetupError, reason
from kerasight.interrupts import Heard

if TYPE_CHECKING:
    import keras
    from PIL import Image

    from kerasight.cam.request import Request
    from kerasight.keras.explainer import LayerKey

__all__ = [
    "QUIET",
    "Classifier",
    "ModelOptions",
    "check_class_names",
    "check_model_options",
    "check_scores",
    "classifier_of",
    "failing_on_the_picture",
    "find_sites",
    "import_keras",
    "is_file_name",
    "is_integer",
    "load",
    "number_of_classes",
    "read_class_names",
]

_log = logging.getLogger("kerasight")

QUIET = "3"  # TF_CPP_MIN_LOG_LEVEL: nothing but what ends the process

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's modes by number of channels

# Of the input of a model that takes any size: a laptop explains this in a second or two.
_LONGEST_SIDE = 512


@dataclass(frozen=True)
class Classifier:
    """A model with its class names and its preprocessing.

    Attributes:
        model: The model.
        names: Names of its classes, if known.
        to_doc: Makes its input, with batch axis, from an RGB or RGBA picture.
        size: Width and height of its input; None if it takes more than one.
    """

    model: keras.Model
    names: Sequence[str] | None
    to_doc: Callable[[Image.Image], np.ndarray]
    size: tuple[int, int] | None = None


class ModelOptions(NamedTuple):
    """The options about the model.

    Attributes:
        model: File of a model, or name of one of ``keras.applications``; None for the embedded one.
        preprocess: How pixels become its input.
        class_names: File with the names of its classes.
        imports: Modules and ``.py`` files to import before it is loaded.
        unsafe: Whether Python code in its file may run.
    """

    model: str | None
    preprocess: str | None
    class_names: Path | None
    imports: Sequence[str]
    unsafe: bool


class _Form(NamedTuple):
    """The form of a model's input; None for a side of any length."""

    height: int | None
    width: int | None
    channels: int
    data_format: Literal["channels_last", "channels_first"]

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height, if both are fixed."""
        return (self.width, self.height) if self.width and self.height else None


def check_model_options(command: str, options: ModelOptions, images: Sequence[Path]) -> None:
    """Raise SetupError if these options exclude each other, before anything slow.

    Args:
        command: The command with these options.
        options: The options.
        images: The pictures.
    """
    model = options.model
    if model is not None and not images:
        raise SetupError(
            f"--model needs pictures to {command}: pass their files, as in "
            f"kerasight {command} --model {model} cat.jpg"
        )
    if model is not None and is_file_name(model):
        model_files.check(Path(model), options.unsafe)
        return
    owner = "the demo model" if model is None else f"the application {model}"
    for option, value, does in (
        ("--preprocess", options.preprocess, "brings its own"),
        ("--class-names", options.class_names, "brings its own"),
        ("--import", options.imports, "needs none"),
        ("--unsafe", options.unsafe, "holds no code"),
    ):
        if value:
            raise SetupError(f"{option} is for model files; {owner} {does}")


def is_file_name(model: str) -> bool:
    """Whether what a model is called is the name of a file, and not of an application."""
    return Path(model).suffix.lower() in model_files.SUFFIXES


def is_integer(text: str) -> bool:
    """Whether a text is a whole number."""
    return re.fullmatch(r"[+-]?[0-9]+", text) is not None


def read_class_names(path: Path) -> list[str]:
    """The names of classes in a file.

    Raises:
        SetupError: If there is no such file, or it holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() != ".json":
            # Not by splitlines, which also splits at characters that a name may hold.
            return [line.strip() for line in text.strip().split("\n")]
        names = json.loads(text)
        if isinstance(names, dict):
            # {"0": ["n01440764", "tench"], ...} or {"0": "tench", ...}
            entries = [names[str(index)] for index in range(len(names))]
            names = [entry if isinstance(entry, str) else entry[-1] for entry in entries]
    except FileNotFoundError:
        raise SetupError(f"--class-names {path}: no such file") from None
    except OSError as error:
        raise SetupError(f"--class-names {path}: {reason(error)}") from None
    except (ValueError, LookupError, TypeError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SetupError(
            f"--class-names {path}: expected UTF-8 text with one name a line, or as .json a list "
            'of names or a table such as {"0": "cat", "1": "dog"}'
        )
    return names


# Loading


def import_keras() -> None:
    """Import Keras, and check that kerasight supports its backend."""
    hushed = os.environ.get("TF_CPP_MIN_LOG_LEVEL") == QUIET
    try:
        with _hushed() if hushed else contextlib.nullcontext(), Heard():
            import keras  # noqa: F401

            from kerasight.keras import backends

            backends.current()
    except (ImportError, NotImplementedError) as error:
        raise SetupError(f"Keras cannot be used: {reason(error)}") from None


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Drop what C code writes to standard error, unless an exception follows.

    TensorFlow 2.21 logs during its import, before it has read TF_CPP_MIN_LOG_LEVEL.
    """
    try:
        descriptor = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except Exception:
            kept.seek(0)
            os.write(descriptor, kept.read())
            raise
        finally:
            os.dup2(descriptor, 2)
            os.close(descriptor)


def load(options: ModelOptions, names: Sequence[str] | None) -> Classifier:
    """Import Keras, and load the model that the options name.

    Args:
        options: The options, which were checked.
        names: The names of its classes, if it is a file.

    Raises:
        SetupError: If that cannot be done.
    """
    import_keras()
    # Keras shows downloads on standard output, but that is for the table.
    with contextlib.redirect_stdout(sys.stderr):
        if options.model is None:
            return _load_demo()
        if is_file_name(options.model):
            return _load_file(Path(options.model), options, names)
        return _load_application(options.model)


def _load_demo() -> Classifier:
    from kerasight import demo

    model = demo.load_model()
    return Classifier(model, demo.CLASS_NAMES, demo.preprocess, _form(model).size)


def _load_file(path: Path, options: ModelOptions, names: Sequence[str] | None) -> Classifier:
    preprocess = options.preprocess
    if preprocess is not None:
        preprocessing.by_name(preprocess)  # raises if the name is unknown
    model = model_files.load_file(path, options.imports, options.unsafe)
    return classifier_of(model, names, preprocess, str(path))


def classifier_of(
    model: keras.Model, names: Sequence[str] | None, preprocess: str | None, called: str
) -> Classifier:
    """A classifier of a model that is there already.

    Args:
        model: The model.
        names: The names of its classes, if they are known.
        preprocess: How pixels become its input; None for what the model shows, which is logged.
        called: What messages call the model.

    Raises:
        SetupError: If it takes no pictures, or there is no such preprocessing for them.
    """
    form = _form(model)
    if preprocess is None:
        preprocess = preprocessing.of_model(called, model, form.channels)
    if form.channels != 3 and preprocess not in preprocessing.RANGES:
        *ranges, last = preprocessing.RANGES
        raise SetupError(
            f"--preprocess {preprocess} is for RGB, and {called} takes {_MODES[form.channels]}; "
            f"pass {', '.join(ranges)} or {last}"
        )
    return Classifier(model, names, _to_doc(form, preprocessing.by_name(preprocess)), form.size)


def _load_application(name: str) -> Classifier:
    import keras

    known = {plain(item): item for item in preprocessing.applications()}
    found = known.get(plain(name))
    if found is None:
        near = nearest(name, list(known.values()))
        raise SetupError(
            f"--model {name!r} is neither a .keras or .h5 file nor a model of keras.applications"
            f"{near}"
        )
    module = getattr(keras.applications, preprocessing.module_of(found))
    try:
        model = getattr(keras.applications, found)(weights="imagenet")
    except Exception as error:  # Keras raises plain Exception where a download fails
        raise SetupError(
            f"{found}: its ImageNet weights cannot be loaded: {reason(error)}"
        ) from None
    form = _form(model)
    to_doc = _to_doc(form, module.preprocess_input)
    return Classifier(model, _imagenet_names(module), to_doc, form.size)


def _imagenet_names(module: Any) -> list[str] | None:
    """The names of the 1000 classes, which Keras only tells by decoding predictions."""
    import numpy as np

    rising = np.arange(1000, dtype=np.float32)[np.newaxis]
    try:
        decoded = module.decode_predictions(rising, top=1000)[0]
    except Exception as error:  # as with the weights; but classes can be shown by index
        _log.warning("the names of the classes cannot be loaded: %s", reason(error))
        return None
    return [str(name) for _, name, _ in reversed(decoded)]


# Inputs


def _to_doc(form: _Form, prepare: Callable[..., Any]) -> Callable[[Image.Image], np.ndarray]:
    """The function that makes the input of a model from a picture."""
    import numpy as np
    from PIL import Image

    def to_doc(picture: Image.Image) -> np.ndarray:
        size, mode = _input_size(picture, form), _MODES[form.channels]
        # To convert it to what it is would copy all of it.
        of_mode = picture if picture.mode == mode else picture.convert(mode)
        small = of_mode.resize(size, Image.Resampling.BILINEAR)
        pixels = np.array(small, dtype=np.float32).reshape(1, size[1], size[0], form.channels)
        doc = np.asarray(prepare(pixels, data_format="channels_last"), dtype=np.float32)
        return doc if form.data_format == "channels_last" else np.moveaxis(doc, -1, 1)

    return to_doc


def _input_size(picture: Image.Image, form: _Form) -> tuple[int, int]:
    """Width and height of the model's input for a picture."""
    shrink = min(1.0, _LONGEST_SIDE / max(picture.size))
    width, height = (max(1, round(side * shrink)) for side in picture.size)
    return form.width or width, form.height or height


def _form(model: keras.Model) -> _Form:
    from kerasight.cam.layout import CHANNELS_FIRST
    from kerasight.keras.anatomy import Anatomy

    shape = _input_shape(model)
    if len(shape) != 4:
        raise SetupError(
            f"model {model.name!r} takes no pictures: its input has shape {shape}, and not (batch, "
            "height, width, channels)"
        )
    _, first, second, last = shape
    # The shape is a better sign than the layers, which may start with a Permute.
    if first in _MODES and _is_side(last):
        front = True
    elif last in _MODES and _is_side(first):
        front = False
    else:
        front = Anatomy(model).layout == CHANNELS_FIRST
    channels = first if front else last
    if channels is None:
        channels = 3
    if channels not in _MODES:
        raise SetupError(
            f"model {model.name!r} takes inputs of {channels} channels, shape {shape}; a picture "
            "has 1 (grey), 3 (RGB) or 4 (RGBA)"
        )
    if front:
        return _Form(second, last, channels, "channels_first")
    return _Form(first, second, channels, "channels_last")


def _is_side(length: int | None) -> bool:
    """Whether a length is that of a side, since it cannot be a number of channels."""
    return length is None or length > max(_MODES)


def _input_shape(model: keras.Model) -> tuple[int | None, ...]:
    """The shape of a model's input with batch axis, as far as it is known before a call."""
    from kerasight.keras.anatomy import Anatomy

    inputs = Anatomy(model).inputs
    if not inputs:
        return (None, None, None, None)
    if len(inputs) > 1:
        raise SetupError(
            f"model {model.name!r} has {len(inputs)} inputs; only a model of one picture can be "
            "explained"
        )
    return tuple(inputs[0].shape)


# What a model has


def find_sites(
    model: keras.Model, doc: np.ndarray, keys: Sequence[int | str]
) -> list[LayerKey] | None:
    """The sites that ``--layer`` names, or None for the default site.

    Raises:
        SetupError: If there is no such layer.
        PictureError: If the model must run first, and fails.
    """
    from kerasight.keras import running, sites
    from kerasight.keras.anatomy import Anatomy

    if not keys:
        return None
    anatomy = Anatomy(model)
    if not model.built:  # its layers may be made when it is first called
        with failing_on_the_picture():
            running.build(anatomy, anatomy.inputs_of(doc))
    try:
        return [sites.find_site(anatomy, key) for key in keys]
    except ValueError as error:
        raise SetupError(reason(error)) from None


@contextlib.contextmanager
def failing_on_the_picture() -> Iterator[None]:
    """Turn whatever is raised into a `PictureError`: a model's own code may raise anything."""
    try:
        yield
    except (SetupError, PictureError):
        raise
    except Exception as error:
        raise PictureError(reason(error)) from None


def check_class_names(names: Sequence[str] | None, classes: int) -> None:
    """Raise SetupError if names are known, but not one for each class."""
    if names is not None and len(names) != classes:
        raise SetupError(
            f"there are {len(names)} class names, and the model has {plural(classes, 'class')}"
        )


def check_scores(model: keras.Model, doc: np.ndarray, request: Request) -> None:
    """Raise SetupError if a model's scores cannot answer a request, whatever the picture."""
    from kerasight.keras.record import scores_of

    if not (request.logits or request.method.compares):
        return
    try:
        scores = scores_of(model, doc)
    except Exception:  # of this picture, or of more than its scores: the explanation will say it
        return
    if request.method.compares and scores.shape[1] == 1:
        raise SetupError(
            f"--method {request.method.name} compares classes, and the model has only one"
        )
    if not request.logits:
        return
    try:
        scores_of(model, doc, logits=True)
    except ValueError as error:
        raise SetupError(reason(error)) from None


def number_of_classes(model: keras.Model) -> int | None:
    """How many classes a model has, if that is known before a call."""
    try:
        shape = model.outputs[0].shape
    except (AttributeError, ValueError, IndexError, TypeError):  # a subclassed model
        return None
    return shape[1] if len(shape) == 2 else None
