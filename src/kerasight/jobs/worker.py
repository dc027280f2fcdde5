"""One class that explains pictures wherever it is carried: in this process, or on a cluster."""

from __future__ import annotations

import io
import logging
import os
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kerasight.cam.request import Request, check_options
from kerasight.checks import plural
from kerasight.classifiers import model_files, models, preprocessing
from kerasight.classifiers.pictures import Source, read_picture
from kerasight.errors import PictureError, SetupError, reason
from kerasight.jobs import manifest, parts
from kerasight.jobs.parts import Row
from kerasight.jobs.pipeline import Item, Pipeline
from kerasight.jobs.sources import Entry

if TYPE_CHECKING:
    import keras
    from PIL import Image

    from kerasight.classifiers.models import Classifier
    from kerasight.keras.targets import Target

__all__ = ["COLUMNS", "BatchExplainer", "thumbnail_of"]

_log = logging.getLogger("kerasight")

COLUMNS = ("path", "bytes", "image", "doc")
"""The columns that pictures come in, one of which a batch has."""

_THUMBNAIL = (160, 160)


class BatchExplainer:
    """Explains batches of pictures: columns in, the rows of a job out.

    It can be pickled, by any pickle, and so be sent to the workers of Ray, Spark or Beam, which
    call it as a function. It then holds what was asked, and the path or the name of the model; of a
    model in memory, its bytes in Keras's ``.keras`` form. The model is loaded once in each process,
    at the first batch; copies of one explainer share it.

    With Spark, columns of ``schema`` as Spark has them::

        explainer = BatchExplainer("/shared/model.keras", preprocess="unit")

        def explain(frames):
            for frame in frames:
                yield pandas.DataFrame(explainer({name: frame[name] for name in frame}))

        spark.createDataFrame(paths, ["path"]).mapInPandas(explain, schema)

    With Beam, whose ``BatchElements`` gives lists of dicts::

        class Explain(beam.DoFn):
            def process(self, batch):
                found = explainer({name: [one[name] for one in batch] for name in batch[0]})
                yield from (dict(zip(found, row)) for row in zip(*found.values()))

        paths | beam.BatchElements(16, 32) | beam.ParDo(Explain())

    With Ray, `kerasight.ray.explain` does it all.

    Args:
        model: A model; the path of a ``.keras`` or ``.h5`` file; the name of a model of
            ``keras.applications``; or None for the demo model. A file must be there, under the same
            path, wherever a copy works.
        preprocess: How pixels become the model's input: a name as of ``kerasight explain
            --preprocess``, or a function from a picture, RGB or RGBA, to the input with its batch
            axis. None is what the model shows. Docs are taken as they are.
        class_names: The names of the classes, or a file with them. Not with an application.
        targets: The classes to explain of each picture, by their indices; None explains the class
            with the highest score.
        top_targets: Explain this many classes: those with the highest scores; if negative, those
            with the lowest. Not together with ``targets``.
        layer: Where to look, as in `kerasight.explain_prediction_keras`.
        thumbnails: Whether rows have a small JPEG of the picture.
        draft: Whether a JPEG of many times the size of the model's input is read at a fraction of
            its size. It takes half the time, and scores differ by some 0.01.
        imports: Modules and ``.py`` files that define classes and functions of the model, to be
            imported before it is loaded.
        unsafe: Whether Python code in a model, such as a ``lambda``, may run.
        **options: How to explain: ``method``, ``logits``, ``relu`` and the others that
            `kerasight.cam.request.Request` has.

    Attributes:
        threads: How many threads read pictures beside the model; None for one for each CPU.
        request: The options, checked.
        class_names: The names of the classes, read.
        layers: The layers in a list, which is empty if one is to be chosen.
        called: What the model is called: its file, its application, or its own name.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument has an invalid value, or there is no such model.
    """

    def __init__(
        self,
        model: keras.Model | str | os.PathLike[str] | None,
        *,
        preprocess: str | Callable[[Image.Image], np.ndarray] | None = None,
        class_names: Sequence[str] | str | os.PathLike[str] | None = None,
        targets: Sequence[int] | None = None,
        top_targets: int | None = None,
        layer: int | str | Sequence[int | str] | None = None,
        thumbnails: bool = False,
        draft: bool = False,
        imports: Sequence[str] = (),
        unsafe: bool = False,
        **options: Any,
    ) -> None:
        """Nothing is loaded yet."""
        check_options(options, "progress")
        self._options = options
        if isinstance(class_names, (str, os.PathLike)):
            class_names = models.read_class_names(Path(class_names))
        models.import_keras()
        import keras

        self._targets, self._top_targets = targets, top_targets
        self._check()
        self.class_names = class_names
        if isinstance(preprocess, str):
            preprocessing.by_name(preprocess)  # raises if there is none
        self._preprocess = preprocess
        self.layers = [layer] if isinstance(layer, (int, str)) else list(layer or ())
        self._thumbnails = thumbnails
        self._draft = draft
        self._imports = [_absolute(one, (".py",)) for one in imports]
        self._unsafe = unsafe
        self.threads: int | None = None
        if not isinstance(model, keras.Model):
            name = None if model is None else _absolute(os.fspath(model), model_files.SUFFIXES)
            models.check_model_options("explain", self._model_options(name), [Path()])
            model = name
        self._model: keras.Model | _Saved | str | None = model
        self._id = uuid.uuid4().hex
        self._here = _Here()

    @property
    def request(self) -> Request:
        """The options, checked."""
        return replace(Request.of(self._options), progress=False)

    def _target(self) -> Target:
        from kerasight.keras.wanted import classes_of, top_classes

        if self._targets is None or self._top_targets is not None:
            top = 1 if self._top_targets is None else self._top_targets
            return top_classes(self._targets, top)
        return classes_of(self._targets)

    def asked(
        self, *, targets: Sequence[int] | None = None, references: Sequence[int] | None = None
    ) -> BatchExplainer:
        """The same model with other classes to explain, or to compare with; None leaves them.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If an argument has an invalid value.
        """
        other = object.__new__(BatchExplainer)  # to copy it would save a model in memory
        vars(other).update(vars(self))
        if targets is not None:
            other._targets = targets
        if references is not None:
            other._options = {**self._options, "references": references}
        other._check()
        other._id = uuid.uuid4().hex
        other._here = _Here(model=self._here.model, classifiers=self._here.classifiers)
        return other

    def _check(self) -> None:
        """Raise what is wrong with the options, or with the classes."""
        self.request, self._target()

    def _model_options(self, model: str | None) -> models.ModelOptions:
        name = self._preprocess if isinstance(self._preprocess, str) else None
        return models.ModelOptions(model, name, None, self._imports, self._unsafe)

    # Elsewhere

    def __getstate__(self) -> dict[str, Any]:
        """What is sent to other processes: what was asked, and the model or where it is.

        Raises:
            SetupError: If the model is in memory, and other processes could not load it.
        """
        state = {**vars(self)}
        del state["_here"]
        if not isinstance(self._model, (_Saved, str, type(None))):
            state["_model"] = self._saved(self._model)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Have what this process has loaded already for another copy."""
        vars(self).update(state)
        if self._id not in _HERE:
            _HERE.clear()
            _HERE[self._id] = _Here()
        self._here = _HERE[self._id]

    def _saved(self, model: keras.Model) -> _Saved:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.keras")
            try:
                model.save(path)
                lambdas, others = model_files.not_of_keras(path)
            except Exception as error:  # of any kind: it comes from the model's own code
                raise SetupError(
                    f"model {model.name!r} cannot be sent to other processes, as Keras cannot save "
                    f"it: {reason(error)}; save it to a file that keras.saving.load_model can load,"
                    " and pass the path, with imports= for what defines its layers"
                ) from None
            if lambdas and not self._unsafe:
                raise SetupError(
                    f"model {model.name!r} cannot be sent to other processes, as it holds Python "
                    f"code, in {', '.join(map(repr, lambdas))}; pass unsafe=True to have them run "
                    "it"
                )
            if others and not self._imports:
                raise SetupError(
                    f"model {model.name!r} cannot be sent to other processes, as they do not know "
                    f"{', '.join(map(repr, others))}; pass imports=, the module or .py file that "
                    "defines it, for a model in memory as for one that you save to a file"
                )
            return _Saved(model.name, path.read_bytes())

    # Here

    def classifier(self, of_docs: bool = False) -> Classifier:
        """The model, loaded when it is first asked for.

        Args:
            of_docs: Whether its inputs are there already, so that none are made of pictures.

        Raises:
            SetupError: If it cannot be loaded, or takes no pictures.
        """
        with self._here.lock:
            if of_docs not in self._here.classifiers:
                found = self._load(of_docs)
                self._check_classes(found.model)
                self._here.classifiers[of_docs] = found
            return self._here.classifiers[of_docs]

    def _check_classes(self, model: keras.Model) -> None:
        """Raise SetupError if a class is none of the model's: each picture would be answered so."""
        from kerasight.keras.targets import check_classes

        classes = models.number_of_classes(model)
        if self._targets is not None and classes is not None:
            try:
                check_classes(np.array(self._targets), classes, "target")
            except ValueError as error:
                raise SetupError(str(error)) from None

    def _load(self, of_docs: bool) -> Classifier:
        models.import_keras()
        names, preprocess = self.class_names, self._preprocess
        given = self._model
        if given is None or (isinstance(given, str) and not models.is_file_name(given)):
            found = models.load(self._model_options(given), names)
            return replace(found, to_doc=preprocess, size=None) if callable(preprocess) else found
        if self._here.model is None:
            self._here.model = self._load_model()
        model = self._here.model
        if callable(preprocess):
            return models.Classifier(model, names, preprocess)
        if of_docs:
            return models.Classifier(model, names, _nothing)
        return models.classifier_of(model, names, preprocess, self.called)

    def _load_model(self) -> keras.Model:
        if isinstance(self._model, str):
            return model_files.load_file(Path(self._model), self._imports, self._unsafe)
        if not isinstance(self._model, _Saved):
            return self._model
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.keras")
            path.write_bytes(self._model.data)
            return model_files.load_file(path, self._imports, self._unsafe)

    @property
    def called(self) -> str:
        """What the model is called."""
        if self._model is None:
            return "the demo model"
        return self._model if isinstance(self._model, str) else str(self._model.name)

    def rows(
        self,
        pictures: Iterable[Entry],
        *,
        of_docs: bool = False,
        finish: Callable[[Item], object] | None = None,
    ) -> Iterator[list[Row]]:
        """Explain any number of pictures, in order, each as if by itself.

        Args:
            pictures: The pictures; each is taken only once there is room for it.
            of_docs: Whether they come with their docs.
            finish: As in `Pipeline`; what needs their explanations with the pictures.

        Yields:
            The rows of each. Interrupted by Ctrl-C, those that are explained come before it ends.

        Raises:
            SetupError: If the model cannot be loaded, or asked so, whatever the picture.
        """
        with self._pipeline(of_docs, finish) as pipeline:
            try:
                yield from self._through(pipeline, map(self._item, pictures))
            except KeyboardInterrupt:
                yield from map(_rows, pipeline.rest())
                raise

    def _pipeline(
        self, of_docs: bool, finish: Callable[[Item], object] | None = None
    ) -> Pipeline[_Item]:
        return Pipeline[_Item](
            self.classifier(of_docs),
            self.request,
            target=self._target(),
            layers=self.layers,
            needs_pictures=finish is not None,
            is_draft=self._draft,
            threads=self.threads,
            finish=finish,
        )

    def _through(self, pipeline: Pipeline[_Item], items: Iterable[_Item]) -> Iterator[list[Row]]:
        blank = 0
        for item in pipeline.run(items):
            blank += bool(item.warnings)
            if item.warnings and not self._here.is_blank_told:
                self._here.is_blank_told = True
                _log.warning("%s: %s", item.key, item.warnings[0])
            yield _rows(item)
        if blank > 1:
            _log.warning("heatmaps of %s are blank or nearly so", plural(blank, "picture"))

    def explain(self, pictures: Sequence[Entry]) -> list[list[Row]]:
        """Explain a batch of pictures: the rows of each. What runs them is kept for the next.

        Raises:
            SetupError: As from `rows`.
        """
        return self._explain([*map(self._item, pictures)])

    def _explain(self, items: Sequence[_Item]) -> list[list[Row]]:
        of_docs = any(item.is_doc for item in items)
        with self._here.lock:
            pipeline = self._here.pipelines.get(of_docs)
            if pipeline is None:
                pipeline = self._here.pipelines[of_docs] = self._pipeline(of_docs).__enter__()
            try:
                return list(self._through(pipeline, items))
            except BaseException:
                del self._here.pipelines[of_docs]  # pictures may still be on their way in it
                pipeline.__exit__()
                raise

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Explain a batch of pictures.

        Args:
            batch: Arrays or other sequences of one length by name: one of ``path``, the files;
                ``bytes``, what is in files; ``image``, uint8 arrays ``(height, width, channels)``
                of 1, 3 or 4 channels, or ``(height, width)``, of any size each; ``doc``, inputs
                of the model without their batch axis. With it, if there is one, ``key``: what each
                is called; paths are called so else, and others have no name. Arrays may be
                read-only, and other columns are left out.

        Returns:
            The columns of `kerasight.jobs.schema` as object arrays of one length, with None where
            there is nothing. For each picture in order there is a row for each class explained; or
            one whose ``error`` is not None, if it could not be explained.

        Raises:
            ValueError: If there is none of these columns, or more than one; as from `rows`.
        """
        return _columns(self.batch_rows(batch))

    def batch_rows(self, batch: Mapping[str, Any]) -> list[Row]:
        """`__call__`, with rows, one dict each, in place of columns."""
        given = [name for name in COLUMNS if name in batch]
        if len(given) != 1:
            there = ", ".join(map(repr, batch)) or "none"
            raise SetupError(
                f"a batch must have one of the columns {', '.join(COLUMNS)}; it has {there}"
            )
        (name,) = given
        things = batch[name]
        keys = (
            batch["key"] if "key" in batch else things if name == "path" else [None] * len(things)
        )
        make = {
            "path": self._item_of_path,
            "bytes": self._item_of_bytes,
            "image": self._item_of_image,
            "doc": self._item_of_doc,
        }[name]
        items = []
        for key, thing in zip(keys, things, strict=True):
            item = make("" if key is None else str(key), thing)
            item.has_key = key is not None
            items.append(item)
        return [row for rows in self._explain(items) for row in rows]

    # Pictures on their way

    def _item(self, picture: Entry) -> _Item:
        if picture.doc is not None:
            return self._item_of_doc(picture.key, picture.doc[0])
        assert picture.read is not None
        return self._item_of_file(picture.key, picture.read, picture.path)

    def _item_of_path(self, key: str, path: Any) -> _Item:
        if not isinstance(path, (str, os.PathLike)):
            return _failed(key, f"its path must be a text, got {type(path).__name__}")
        return self._item_of_file(key, Path(path).read_bytes, Path(path))

    def _item_of_bytes(self, key: str, data: Any) -> _Item:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            return _failed(key, f"it must be the bytes of a file, got {type(data).__name__}")
        return self._item_of_file(key, partial(bytes, data))

    def _item_of_file(
        self, key: str, read_bytes: Callable[[], bytes], path: Path | None = None
    ) -> _Item:
        def read(least: tuple[int, int] | None = None) -> Image.Image:
            try:
                data = read_bytes()
            except FileNotFoundError:
                raise PictureError("no such file") from None
            except OSError as error:
                raise PictureError(f"cannot be read: {reason(error)}") from None
            seen.hash = manifest.hash_of([data])
            return self._note(seen, read_picture(io.BytesIO(data), least))

        seen = _Seen()
        return _Item(Source(key, "", read, path, draft=read), key, seen=seen)

    def _item_of_image(self, key: str, array: Any) -> _Item:
        def read() -> Image.Image:
            seen.hash = manifest.hash_of_doc(pixels[np.newaxis])
            return self._note(seen, Image.fromarray(pixels))

        from PIL import Image

        pixels = np.asarray(array)
        if pixels.ndim == 3 and pixels.shape[2] == 1:
            pixels = pixels[..., 0]
        if pixels.dtype != np.uint8 or pixels.shape[2:] not in ((), (3,), (4,)) or not pixels.size:
            return _failed(
                key,
                "a picture must be a uint8 array (height, width, channels) of 1, 3 or 4 channels, "
                f"got {np.shape(array)}, {pixels.dtype}",
            )
        seen = _Seen()
        return _Item(Source(key, "", read), key, seen=seen)

    def _note(self, seen: _Seen, picture: Image.Image) -> Image.Image:
        """Keep a small one of a picture that was read, if it is wanted."""
        if self._thumbnails:
            seen.thumbnail = thumbnail_of(picture)
        return picture

    def _item_of_doc(self, key: str, doc: Any) -> _Item:
        from kerasight.keras import docs
        from kerasight.keras.anatomy import Anatomy

        array = np.ascontiguousarray(doc)[np.newaxis]
        seen = _Seen(manifest.hash_of_doc(array))
        item = _Item(Source(key, "", _nothing), key, is_doc=True, seen=seen)
        anatomy = Anatomy(self.classifier(of_docs=True).model)
        try:
            inputs = docs.inputs_of(anatomy, array)
            docs.check_doc(anatomy, inputs)
            picture = docs.picture_of(anatomy, inputs) if self._thumbnails else None
        except (TypeError, ValueError) as error:
            return replace(item, source=item.source._replace(problem=reason(error)))
        item.doc = inputs.docs
        if picture is not None:
            seen.thumbnail = thumbnail_of(picture)
        return item


class _Saved(NamedTuple):
    """A model that was in memory, as it is sent to other processes."""

    name: str
    data: bytes


@dataclass(eq=False)
class _Here:
    """What one process has of an explainer.

    Attributes:
        lock: To be held by the thread that loads or explains.
        model: The model, if it is none that brings its own preprocessing.
        classifiers: It with its preprocessing, by whether that is for docs.
        pipelines: Those that explain batches, likewise.
        is_blank_told: Whether it was said that a heatmap is blank.
    """

    lock: Any = field(default_factory=RLock)
    model: keras.Model | None = None
    classifiers: dict[bool, Classifier] = field(default_factory=dict)
    pipelines: dict[bool, Pipeline[_Item]] = field(default_factory=dict)
    is_blank_told: bool = False


_HERE: dict[str, _Here] = {}  # of the last explainer that this process was sent


@dataclass
class _Seen:
    """What is noted of a picture as it is read.

    What reads it holds this, and not the item: a picture and what reads it would hold each other,
    and be freed much later.

    Attributes:
        hash: That of its file, or of its array.
        thumbnail: A small JPEG of it.
    """

    hash: str | None = None
    thumbnail: bytes | None = None


@dataclass(eq=False)
class _Item(Item):
    """A picture on its way.

    Attributes:
        seen: What is noted of it.
        is_doc: Whether it comes as the model's input.
        has_key: Whether it has a name.
    """

    seen: _Seen = field(default_factory=_Seen)
    is_doc: bool = False
    has_key: bool = True


def _failed(key: str, problem: str) -> _Item:
    return _Item(Source(key, "", _nothing, problem=problem), key)


def _nothing(*_: Any) -> Any:
    raise AssertionError("what has no file has a doc")


def _absolute(name: str, endings: tuple[str, ...]) -> str:
    """The path of a file from the root, as others work in other folders; else the name."""
    return os.path.abspath(name) if name.lower().endswith(endings) else name


def _rows(item: _Item) -> list[Row]:
    assert item.expl is not None
    rows = parts.rows_of(item.key, item.seen.hash, item.expl, item.seen.thumbnail)
    return rows if item.has_key else [{**row, "key": None} for row in rows]


def _columns(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    columns = {}
    for name in parts.schema().names:
        columns[name] = np.empty(len(rows), object)
        for place, row in enumerate(rows):  # or NumPy would make one array of heatmaps of one size
            columns[name][place] = row.get(name)
    return columns


def thumbnail_of(picture: Image.Image) -> bytes:
    """A small JPEG of a picture, what is transparent in it on white."""
    from PIL import Image

    small = picture.convert("RGBA") if picture.mode != "RGB" else picture.copy()
    small.thumbnail(_THUMBNAIL)
    if small.mode == "RGBA":
        white = Image.new("RGBA", small.size, "white")
        white.alpha_composite(small)
        small = white.convert("RGB")
    data = io.BytesIO()
    small.save(data, "JPEG", quality=85)
    return data.getvalue()
