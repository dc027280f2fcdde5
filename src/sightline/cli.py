"""The ``sightline`` command: pictures in, overlays and a table of classes and scores out.

Keras and TensorFlow take seconds to import, so each comes with the function that needs it: help and
mistakes in the options are answered at once.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import itertools
import json
import os
import re
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import keras
    from PIL import Image

    from sightline.base import Explanation
    from sightline.keras.heatmaps import Heatmap

__all__ = ["app", "explain", "main"]

_MODEL_SUFFIXES = (".keras", ".h5", ".hdf5")
_PIXEL_RANGES = ("none", "unit", "signed")
_IMAGENET_MODES = ("caffe", "torch")

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's modes by number of channels

# Of the input of a model that takes any size: what a laptop still explains in a second or two.
_LONGEST_SIDE = 512

_QUIET = "3"  # TF_CPP_MIN_LOG_LEVEL: nothing but what ends the process

app = typer.Typer(
    add_completion=False,
    # The long tracebacks of rich print local variables, whole arrays among them.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class _RunError(Exception):
    """Nothing can be done for any picture. The message is the line that the user reads."""


class _PictureError(Exception):
    """One picture cannot be explained. The message is the line that the user reads."""


class _Source(NamedTuple):
    """A picture to explain.

    Attributes:
        name: What the user calls it: the path as given.
        stem: What the names of its overlays begin with.
        read: Reads it, upright, as RGBA.
    """

    name: str
    stem: str
    read: Callable[[], Image.Image]


class _Request(NamedTuple):
    """What the options ask for, about classes, layer and overlay."""

    target: str | None
    top: int
    layer: int | str | None
    output: Path
    colormap: str
    alpha: float


@dataclass(frozen=True)
class _Classifier:
    """A model with what belongs to it.

    Attributes:
        model: The model.
        names: Names of its classes, where they are known.
        to_doc: Makes its input, with batch axis, of an RGBA picture.
    """

    model: keras.Model
    names: Sequence[str] | None
    to_doc: Callable[[Image.Image], np.ndarray]


class _Row(NamedTuple):
    """A line of the table."""

    image: str
    label: str
    score: str
    layer: str
    overlay: str


class _Form(NamedTuple):
    """What pictures a model takes; None for a side that may have any length."""

    height: int | None
    width: int | None
    channels: int
    data_format: Literal["channels_last", "channels_first"]


def main() -> None:
    """Run the command, as installed under the name ``sightline``."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", _QUIET)
    for stream in (sys.stdout, sys.stderr):
        # A file name may hold what the terminal's encoding does not.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="sightline")


def _print_version(wanted: bool) -> None:
    if wanted:
        import sightline

        typer.echo(f"sightline {sightline.__version__}")
        raise typer.Exit


@app.callback(
    invoke_without_command=True,
    help="Shows where a Keras image classifier looked.",
)
def _command(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(
    help="Show where a model looked in pictures: for each an overlay with the Grad-CAM heatmap of "
    "a class, and a line in a table of class, score, layer and file.\n\n"
    "Without IMAGES and --model, the embedded demo model explains its embedded picture.",
)
def explain(
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[IMAGES]...",
            show_default=False,
            help="Pictures, in any format that Pillow reads.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="FILE|NAME",
            show_default=False,
            help="A .keras or .h5 file, or the name of a keras.applications model, such as "
            "MobileNetV2, which brings its ImageNet weights, preprocessing and class names. "
            "Default: the embedded demo model.",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            "-t",
            metavar="INDEX|NAME",
            show_default=False,
            help="The class to explain: its index, or its name where names are known. "
            "Default: the class with the highest score.",
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            "--top",
            metavar="N",
            show_default=False,
            help="Explain the N classes with the highest scores, each in an overlay of its own. "
            "Default: 1, and 2 for the embedded picture, which holds two objects.",
        ),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(
            "--layer",
            "-l",
            metavar="NAME|PATH|INDEX",
            show_default=False,
            help="The layer to explain. Default: the last one that still has a map.",
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Where the overlays go, as STEM-CLASS.png; made if it is not there.",
        ),
    ] = Path("overlays"),
    colormap: Annotated[
        str, typer.Option("--colormap", metavar="NAME", help="A Matplotlib colormap.")
    ] = "viridis",
    alpha: Annotated[
        float,
        typer.Option(
            "--alpha", metavar="0..1", help="How opaque the heatmap is where it is hottest."
        ),
    ] = 0.65,
    preprocess: Annotated[
        str | None,
        typer.Option(
            "--preprocess",
            metavar="NAME",
            show_default=False,
            help="For model files: how pixels become the model's input. none (0..255), unit "
            "(0..1), signed (-1..1), caffe, torch, or a module of keras.applications, such as "
            "resnet50. Default: none.",
        ),
    ] = None,
    class_names: Annotated[
        Path | None,
        typer.Option(
            "--class-names",
            metavar="FILE",
            show_default=False,
            help="For model files: the names of the classes, in order. A text file with one name a "
            "line, a JSON list, or JSON as in imagenet_class_index.json.",
        ),
    ] = None,
) -> None:
    """Explain pictures and write the overlays; the arguments are the options of the command.

    Args:
        images: Files of pictures.
        model: File of a model, or name of one of ``keras.applications``.
        target: Index or name of the class to explain.
        top: How many of the classes with the highest scores to explain.
        layer: Name, path or index of the layer.
        output: Folder for the overlays.
        colormap: Name of a Matplotlib colormap.
        alpha: The greatest opacity of the heatmap.
        preprocess: How pixels become the input of a model file.
        class_names: File with the names of the classes of a model file.

    Raises:
        typer.Exit: With code 2, if anything asked for could not be done.
    """
    paths = images or []
    # The embedded picture holds two objects.
    default_top = 1 if paths else 2
    request = _Request(
        target, default_top if top is None else top, _layer_key(layer), output, colormap, alpha
    )
    try:
        if target is not None and top is not None:
            raise _RunError("--top and --target exclude each other: pass one of them")
        _check_request(request)
        _check_model_options(model, paths, preprocess, class_names)
        names = None if class_names is None else _read_class_names(class_names)
        _import_keras()
        classifier = _load(model, preprocess or "none", names)
        if model is None and paths:
            _say("Note", "cyan", "without --model, the demo model tells its own toy objects apart")
        rows, failures = _explain_all(_sources(paths), classifier, request, _taken(paths))
    except _RunError as error:
        _say("Error", "red", str(error))
        raise typer.Exit(2) from None
    _report(rows, output)
    if failures:
        raise typer.Exit(2)


def _layer_key(layer: str | None) -> int | str | None:
    return int(layer) if layer is not None and _is_integer(layer) else layer


def _is_integer(text: str) -> bool:
    return re.fullmatch(r"[+-]?[0-9]+", text) is not None


# Options, checked before anything slow


def _check_request(request: _Request) -> None:
    if request.top < 1:
        raise _RunError(f"--top must be at least 1, got {request.top}")
    if not 0 <= request.alpha <= 1:  # also False for NaN
        raise _RunError(f"--alpha must lie between 0 and 1, got {request.alpha:g}")
    if request.output.exists() and not request.output.is_dir():
        raise _RunError(f"--output must be a folder, and {request.output} is a file")
    from matplotlib import colormaps

    if request.colormap not in colormaps:
        nearest = _nearest(request.colormap, list(colormaps))
        raise _RunError(
            f"unknown --colormap {request.colormap!r}"
            f"{nearest or '; Matplotlib lists the names in matplotlib.colormaps'}"
        )


def _check_model_options(
    model: str | None, images: Sequence[Path], preprocess: str | None, class_names: Path | None
) -> None:
    if model is not None and not images:
        raise _RunError(
            "--model needs pictures to explain: pass their files, as in "
            f"sightline explain --model {model} cat.jpg"
        )
    if model is not None and _is_file_name(model):
        if not Path(model).is_file():
            raise _RunError(f"{model}: {'not a file' if Path(model).exists() else 'no such file'}")
        return
    for option, value in (("--preprocess", preprocess), ("--class-names", class_names)):
        if value is not None:
            owner = "the demo model" if model is None else f"the application {model}"
            raise _RunError(f"{option} is for model files; {owner} brings its own")


def _is_file_name(model: str) -> bool:
    return Path(model).suffix.lower() in _MODEL_SUFFIXES


def _nearest(name: str, names: Sequence[str]) -> str:
    """The end of an error about a name that is not there; empty if none is near."""
    plain = {_plain(known): known for known in reversed(names)}
    close = difflib.get_close_matches(_plain(name), plain, n=3, cutoff=0.5)
    if not close:
        return ""
    are = "name is" if len(close) == 1 else "names are"
    return f"; the nearest {are} {', '.join(plain[match] for match in close)}"


def _plain(name: str) -> str:
    """A name without what people write now one way, now the other."""
    return re.sub(r"[\s_-]+", "", name).casefold()


def _read_class_names(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() != ".json":
            return [line.strip() for line in text.strip().splitlines()]
        names = json.loads(text)
        if isinstance(names, dict):
            # {"0": ["n01440764", "tench"], ...} or {"0": "tench", ...}
            entries = [names[str(index)] for index in range(len(names))]
            names = [entry if isinstance(entry, str) else entry[-1] for entry in entries]
    except FileNotFoundError:
        raise _RunError(f"--class-names {path}: no such file") from None
    except OSError as error:
        raise _RunError(f"--class-names {path}: {_reason(error)}") from None
    except (ValueError, LookupError, TypeError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _RunError(
            f"--class-names {path}: neither UTF-8 text with one name a line, nor (as .json) a list "
            'of names, or a table such as {"0": "cat", "1": "dog"}'
        )
    return names


# Models


def _import_keras() -> None:
    """Import Keras, and see that it runs on a framework that can be explained."""
    hushed = os.environ.get("TF_CPP_MIN_LOG_LEVEL") == _QUIET
    try:
        with _hushed() if hushed else contextlib.nullcontext():
            import keras  # noqa: F401

            from sightline.keras import backends

            backends.current()
    except (ImportError, NotImplementedError) as error:
        raise _RunError(f"Keras cannot be used: {_reason(error)}") from None


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Keep away what is written to standard error below Python, unless an exception follows.

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
        except BaseException:
            kept.seek(0)
            os.write(descriptor, kept.read())
            raise
        finally:
            os.dup2(descriptor, 2)
            os.close(descriptor)


def _load(model: str | None, preprocess: str, names: Sequence[str] | None) -> _Classifier:
    # Keras shows downloads on standard output, which is for the table.
    with contextlib.redirect_stdout(sys.stderr):
        if model is None:
            return _load_demo()
        if _is_file_name(model):
            return _load_file(Path(model), preprocess, names)
        return _load_application(model)


def _load_demo() -> _Classifier:
    from sightline import demo

    return _Classifier(demo.load_model(), demo.CLASS_NAMES, demo.preprocess)


def _load_file(path: Path, preprocess: str, names: Sequence[str] | None) -> _Classifier:
    import keras

    prepare = _preprocessing(preprocess)
    try:
        model = keras.saving.load_model(path, safe_mode=True, compile=False)
    except Exception as error:  # of whatever kind: it comes from the file
        raise _RunError(f"{path}: Keras cannot load this model: {_reason(error)}") from None
    form = _form(model)
    if form.channels != 3 and preprocess not in _PIXEL_RANGES:
        raise _RunError(
            f"--preprocess {preprocess} is for RGB, and {path} takes {_MODES[form.channels]}; pass "
            f"{', '.join(_PIXEL_RANGES[:-1])} or {_PIXEL_RANGES[-1]}"
        )
    return _Classifier(model, names, _to_doc(form, prepare))


def _load_application(name: str) -> _Classifier:
    import keras

    known = {_plain(item): item for item in _application_names()}
    found = known.get(_plain(name))
    if found is None:
        reason = _nearest(name, list(known.values()))
        raise _RunError(
            f"--model {name!r} is neither a .keras or .h5 file nor a model of keras.applications"
            f"{reason}"
        )
    module = _application_module(found)
    try:
        model = getattr(keras.applications, found)(weights="imagenet")
    except Exception as error:  # Keras raises plain Exception where a download fails
        raise _RunError(f"{found}: its ImageNet weights cannot be had: {_reason(error)}") from None
    return _Classifier(
        model, _imagenet_names(module), _to_doc(_form(model), module.preprocess_input)
    )


def _application_names() -> list[str]:
    import keras

    public = [name for name in dir(keras.applications) if not name.startswith("_")]
    return [name for name in public if callable(getattr(keras.applications, name))]


def _application_modules() -> dict[str, Any]:
    """The modules of ``keras.applications`` that preprocess for a family of models."""
    import keras

    members = {name: getattr(keras.applications, name) for name in dir(keras.applications)}
    return {
        name: member
        for name, member in members.items()
        if hasattr(member, "preprocess_input") and name != "imagenet_utils"
    }


def _application_module(application: str) -> Any:
    """The module of an application, with its ``preprocess_input`` and ``decode_predictions``."""
    modules = _application_modules()
    for module in modules.values():
        if hasattr(module, application):
            return module
    # MobileNetV3Small and its like stand in no module; its name begins as theirs.
    families = [name for name in modules if _plain(application).startswith(_plain(name))]
    return modules[max(families, key=len)]


def _imagenet_names(module: Any) -> list[str] | None:
    """The names of the 1000 classes, which Keras gives out only as those of predictions."""
    import numpy as np

    rising = np.arange(1000, dtype=np.float32)[np.newaxis]
    try:
        decoded = module.decode_predictions(rising, top=1000)[0]
    except Exception as error:  # as with the weights; but indices do without names
        _say("Warning", "yellow", f"the names of the classes cannot be had: {_reason(error)}")
        return None
    return [str(name) for _, name, _ in reversed(decoded)]


def _preprocessing(name: str) -> Callable[..., Any]:
    """A function as ``preprocess_input`` of the applications, by its name.

    It takes a float array ``(1, height, width, channels)`` of pixels 0..255, which it may change,
    and ``data_format``.
    """
    import keras

    if name in _PIXEL_RANGES:
        divisor, offset = {"none": (1, 0), "unit": (255, 0), "signed": (127.5, 1)}[name]
        return lambda pixels, data_format: pixels / divisor - offset
    if name in _IMAGENET_MODES:
        of_mode = keras.applications.imagenet_utils.preprocess_input
        return lambda pixels, data_format: of_mode(pixels, data_format=data_format, mode=name)
    modules = _application_modules()
    if name not in modules:
        known = ", ".join([*_PIXEL_RANGES, *_IMAGENET_MODES, *modules])
        raise _RunError(f"unknown --preprocess {name!r}; known are {known}")
    preprocess_input: Callable[..., Any] = modules[name].preprocess_input
    return preprocess_input


# Inputs


def _to_doc(form: _Form, prepare: Callable[..., Any]) -> Callable[[Image.Image], np.ndarray]:
    """How a picture becomes the input of a model."""
    import numpy as np
    from PIL import Image

    def to_doc(picture: Image.Image) -> np.ndarray:
        size = _input_size(picture, form)
        small = picture.convert(_MODES[form.channels]).resize(size, Image.Resampling.BILINEAR)
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
    from sightline.keras.layers import data_format

    shape = _input_shape(model)
    if len(shape) != 4:
        raise _RunError(
            f"model {model.name!r} takes no pictures: its input has shape {shape}, where (batch, "
            "height, width, channels) is needed"
        )
    _, first, second, last = shape
    # The shape tells where the channels are, before the layers: those may start with a Permute.
    if first in _MODES and _is_side(last):
        front = True
    elif last in _MODES and _is_side(first):
        front = False
    else:
        front = data_format(model) == "channels_first"
    channels = first if front else last
    if channels is None:
        channels = 3
    if channels not in _MODES:
        raise _RunError(
            f"model {model.name!r} takes inputs of {channels} channels, shape {shape}; a picture "
            "has 1 (grey), 3 (RGB) or 4 (RGBA)"
        )
    if front:
        return _Form(second, last, channels, "channels_first")
    return _Form(first, second, channels, "channels_last")


def _is_side(length: int | None) -> bool:
    """Whether a length can be no number of channels, so that it is that of a side."""
    return length is None or length > max(_MODES)


def _input_shape(model: keras.Model) -> tuple[int | None, ...]:
    """The shape of a model's input with batch axis, as far as the model tells before a call."""
    from sightline.keras.layers import declared_inputs

    inputs = declared_inputs(model)
    if not inputs:
        return (None, None, None, None)
    if len(inputs) > 1:
        raise _RunError(
            f"model {model.name!r} has {len(inputs)} inputs, and only models of one picture can be "
            "explained"
        )
    return tuple(inputs[0].shape)


# Pictures


def _sources(paths: Sequence[Path]) -> list[_Source]:
    if paths:
        return [_Source(str(path), path.stem, _reader(path)) for path in paths]
    from sightline import demo

    return [_Source("demo picture", "demo", lambda: _to_rgba(demo.load_picture()))]


def _reader(path: Path) -> Callable[[], Image.Image]:
    return lambda: _read_picture(path)


def _read_picture(path: Path) -> Image.Image:
    """A picture as the photographer held the camera, RGBA."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                return _to_rgba(ImageOps.exif_transpose(file))
    except FileNotFoundError:
        reason = "no such file"
    except UnidentifiedImageError:
        reason = "not a picture in a format that Pillow reads"
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        reason = f"too large: a picture may have {Image.MAX_IMAGE_PIXELS:,} pixels"
    except Exception as error:  # decoders raise all kinds of them on broken files
        reason = f"cannot be read: {_reason(error)}"
    raise _PictureError(reason)


def _to_rgba(picture: Image.Image) -> Image.Image:
    # Pillow's own convert clips pictures of 16 bits to white; the overlay's does not.
    from sightline.base import Explanation
    from sightline.formatters.image import format_as_image

    return format_as_image(Explanation(estimator="", image=picture))


# Explaining


def _explain_all(
    sources: Sequence[_Source], classifier: _Classifier, request: _Request, taken: set[str]
) -> tuple[list[_Row], int]:
    """Explain picture after picture.

    Returns:
        The lines of the table, and how many pictures failed.
    """
    rows: list[_Row] = []
    failures = 0
    for number, source in enumerate(sources, start=1):
        with _status(f"{source.name} ({number} of {len(sources)})"):
            try:
                for row in _explain_picture(source, classifier, request, taken):
                    rows.append(row)  # one by one: those before an error count
            except _PictureError as error:
                _say("Error", "red", f"{source.name}: {error}")
                failures += 1
    return rows, failures


def _explain_picture(
    source: _Source, classifier: _Classifier, request: _Request, taken: set[str]
) -> Iterator[_Row]:
    """Explain the classes asked for, and write their overlays."""
    picture = source.read()
    doc = classifier.to_doc(picture)
    layer = _find_layer(classifier.model, doc, request.layer)
    heatmaps = _heatmaps(classifier, request, doc, layer)
    scores = heatmaps[0].terms.scores
    _check_names(classifier.names, len(scores))
    are_probabilities = bool((scores >= 0).all() and (scores <= 1).all())
    expl = _explanation(source, classifier, doc, heatmaps, picture)
    for target in expl.targets or ():
        index = int(target.target)
        part = f"{source.stem}-{_file_part(target.name, index)}"
        overlay = _write_overlay(replace(expl, targets=[target]), part, request, taken)
        yield _Row(
            image=source.name,
            label=str(index) if target.name is None else target.label,
            score=_format_score(float(scores[index]), are_probabilities),
            layer=expl.layer or "",
            overlay=str(overlay),
        )


def _find_layer(
    model: keras.Model, doc: np.ndarray, layer: int | str | None
) -> keras.layers.Layer | None:
    from sightline.keras import backends, layers

    if layer is None:
        return None
    if not model.built:  # its layers may be made when it is first called
        with _failing_on_the_picture():
            backends.current().forward(model, doc)
    try:
        return layers.find(model, layer)
    except ValueError as error:
        raise _RunError(_reason(error)) from None


@contextlib.contextmanager
def _failing_on_the_picture() -> Iterator[None]:
    """Turn whatever is raised into a `_PictureError`: a model's own code may raise anything."""
    try:
        yield
    except Exception as error:
        raise _PictureError(_reason(error)) from None


def _check_names(names: Sequence[str] | None, classes: int) -> None:
    if names is not None and len(names) != classes:
        raise _RunError(
            f"there are {len(names)} class names, and the model puts out {classes} "
            f"{'class' if classes == 1 else 'classes'}"
        )


def _target_index(target: str, classifier: _Classifier) -> int:
    """The index of the class that ``--target`` names."""
    from sightline.keras.backends.common import check_targets

    names = classifier.names
    if _is_integer(target):
        classes = _number_of_classes(classifier.model)
        if classes is not None:  # or each picture would be answered so
            try:
                check_targets(np.array([[int(target)]]), classes)
            except ValueError as error:
                raise _RunError(_reason(error)) from None
        return int(target)
    if names is None:
        raise _RunError(
            f"--target {target!r} is no index, and the names of the classes are not known; pass an "
            "index, or --class-names"
        )
    found = [index for index, name in enumerate(names) if _plain(name) == _plain(target)]
    if not found:
        raise _RunError(f"no class is called {target!r}{_nearest(target, names)}")
    if len(found) > 1:
        raise _RunError(
            f"several classes are called {target!r}; pass one of the indices "
            f"{', '.join(map(str, found))}"
        )
    return found[0]


def _number_of_classes(model: keras.Model) -> int | None:
    """How many classes a model has, if it tells before a call."""
    try:
        shape = model.outputs[0].shape
    except (AttributeError, ValueError, IndexError, TypeError):  # a subclassed model
        return None
    return shape[1] if len(shape) == 2 else None


def _heatmaps(
    classifier: _Classifier,
    request: _Request,
    doc: np.ndarray,
    layer: keras.layers.Layer | None,
) -> list[Heatmap]:
    """The heatmaps of the classes asked for."""
    from sightline.keras.explain_prediction import top_indices
    from sightline.keras.heatmaps import Question, heatmaps_of

    if request.target is None:
        wanted = top_indices(request.top)
    else:
        wanted = np.array([_target_index(request.target, classifier)])
    with _failing_on_the_picture():
        (found,) = heatmaps_of(classifier.model, doc, wanted[np.newaxis], [layer], Question())
        if isinstance(found, ValueError):
            raise found
    return found


def _explanation(
    source: _Source,
    classifier: _Classifier,
    doc: np.ndarray,
    heatmaps: list[Heatmap],
    picture: Image.Image,
) -> Explanation:
    from sightline.base import HeatmapWarning
    from sightline.keras.explain_prediction import explanation_of
    from sightline.keras.heatmaps import Question

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", HeatmapWarning)
        expl = explanation_of(
            classifier.model, doc, heatmaps, picture, classifier.names, Question()
        )
    for warning in caught:
        _say("Warning", "yellow", f"{source.name}: {_reason(warning.message)}")
    return expl


def _format_score(score: float, is_probability: bool) -> str:
    if not is_probability:
        return f"{score:.4g}"
    return "<0.1%" if 0 < score < 0.0005 else f"{score:.1%}"


# Overlays


def _taken(images: Sequence[Path]) -> set[str]:
    """The files that no overlay may be written to: the pictures themselves."""
    return {_same_file_key(path) for path in images}


def _same_file_key(path: Path) -> str:
    # Some file systems take two names for one that differ in case only.
    return str(path.resolve()).casefold()


def _file_part(name: str | None, index: int) -> str:
    """A class as part of a file name."""
    safe = re.sub(r"[^\w.-]+", "_", name or "").strip("_")[:80]
    return safe or str(index)


def _write_overlay(expl: Explanation, name: str, request: _Request, taken: set[str]) -> Path:
    from sightline.formatters.image import format_as_image

    path = _free_path(request.output, name, taken)
    overlay = format_as_image(expl, colormap=request.colormap, alpha_limit=request.alpha)
    try:
        request.output.mkdir(parents=True, exist_ok=True)
        overlay.save(path, format="PNG")
    except OSError as error:
        raise _PictureError(f"{path} cannot be written: {_reason(error)}") from None
    return path


def _free_path(folder: Path, name: str, taken: set[str]) -> Path:
    """A file that this run has not written yet, which is then taken."""
    endings = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    path = next(
        path
        for path in (folder / f"{name}{ending}.png" for ending in endings)
        if _same_file_key(path) not in taken
    )
    taken.add(_same_file_key(path))
    return path


# What the user reads


def _report(rows: Sequence[_Row], output: Path) -> None:
    console = _console(sys.stdout)
    if rows:
        console.print(_table(rows), Text())
    written = "1 overlay" if len(rows) == 1 else f"{len(rows)} overlays"
    line = f"{written} written to {output}" if rows else "No overlay written"
    console.print(Text(_printable(line)), soft_wrap=True)


def _table(rows: Sequence[_Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("Image", overflow="fold")
    table.add_column("Class", overflow="fold")
    table.add_column("Score", justify="right", no_wrap=True)
    table.add_column("Layer", overflow="fold")
    table.add_column("Overlay", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_printable(cell)) for cell in row))
    return table


def _console(stream: Any) -> Console:
    # Where there is no terminal, there is no width to keep to.
    return Console(file=stream, width=None if stream.isatty() else 10_000)


def _say(kind: str, colour: str, message: str) -> None:
    """Print one line on standard error."""
    line = Text.assemble((f"{kind}: ", f"bold {colour}"), _printable(message))
    _console(sys.stderr).print(line, soft_wrap=True)


def _status(text: str) -> contextlib.AbstractContextManager[Any]:
    console = _console(sys.stderr)
    if not console.is_terminal:
        return contextlib.nullcontext()
    return console.status(Text(_printable(text)))


def _printable(text: str) -> str:
    """A text on one line: file names may hold line breaks, and worse."""
    return re.sub(r"[\x00-\x1f\x7f]", lambda match: repr(match[0])[1:-1], text)


def _reason(error: BaseException | str) -> str:
    """An exception's message in one line."""
    strerror = getattr(error, "strerror", None)
    text = strerror if isinstance(strerror, str) else str(error)
    text = re.sub(r"\x1b\[[0-9;]*m", "", text).strip() or type(error).__name__
    paragraphs = re.split(r"\n\s*\n", text)
    # Keras says what it called, then the reason, then all arguments.
    if len(paragraphs) > 1 and paragraphs[0].startswith("Exception encountered"):
        paragraphs.pop(0)
    return textwrap.shorten(paragraphs[0], 500, placeholder=" ...")


if __name__ == "__main__":
    main()
