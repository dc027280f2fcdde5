"""A job: pictures, however many, explained into a folder, from where it stopped the last time."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasight.cam.request import Request, check_options, takes_options
from kerasight.checks import plural
from kerasight.classifiers import models
from kerasight.classifiers.pictures import Source, read_picture
from kerasight.errors import PictureError, SetupError, reason
from kerasight.jobs import manifest, parts, sources
from kerasight.jobs.parts import Parts, Row
from kerasight.jobs.pipeline import Item, Pipeline
from kerasight.jobs.sources import Entry, Pictures
from kerasight.progress import check_progress, progress_bar

if TYPE_CHECKING:
    import keras
    from PIL import Image

    from kerasight.classifiers.models import Classifier
    from kerasight.keras.anatomy import Anatomy

__all__ = ["Explain", "Finished", "Question", "carry_out", "question_of", "run", "thumbnail_of"]

_log = logging.getLogger("kerasight")

Explain = Callable[[Iterator[Entry]], Iterator[list[Row]]]
"""Explains pictures: gives the rows of each, in any order, while it takes others."""

_THUMBNAIL = (160, 160)


@dataclass(frozen=True)
class Finished:
    """What became of a run of a job.

    Attributes:
        done: How many pictures it explained.
        failed: How many it could not explain; the job's rows say why, and they are tried again
            when it goes on.
        skipped: How many were explained before.
        folder: The job's folder.
    """

    done: int
    failed: int
    skipped: int
    folder: Path


@takes_options("progress")
def run(
    folder: str | os.PathLike[str],
    pictures: Any,
    model: keras.Model | str | os.PathLike[str] | None,
    *,
    preprocess: str | Callable[[Image.Image], np.ndarray] | None = None,
    class_names: Sequence[str] | str | os.PathLike[str] | None = None,
    targets: Sequence[int] | None = None,
    top_targets: int | None = None,
    layer: int | str | Sequence[int | str] | None = None,
    column: str = "path",
    thumbnails: bool | None = None,
    draft: bool = False,
    imports: Sequence[str] = (),
    unsafe: bool = False,
    part_pictures: int = 1024,
    part_seconds: float = 30,
    progress: bool | None = None,
    **options: Any,
) -> Finished:
    """Explain pictures into a folder, or go on with what was begun there.

    Pictures that are explained already are left out before they are opened; those that failed are
    tried again. However a run ends, what it has written stays, and `kerasight.jobs.read` gives it.

    Args:
        folder: The job's folder; made if it does not exist. It holds ``manifest.json``, which says
            what was asked, and ``parts/`` with the rows, in Parquet.
        pictures: The path of a folder, a table or a tar, a list of paths, or a dataset of docs, as
            `kerasight.jobs.sources.find` takes them.
        model: A model; the path of a ``.keras`` or ``.h5`` file; the name of a model of
            ``keras.applications``, which brings its ImageNet weights, preprocessing and class
            names; or None for the demo model.
        preprocess: How pixels become the model's input: a name as of ``kerasight explain
            --preprocess``, or a function from a picture, RGB or RGBA, to the input with its batch
            axis. None is what the model shows. Not with a dataset, nor with an application.
        class_names: The names of the classes, or a file with them. Not with an application.
        targets: The classes to explain of each picture, by their indices; None explains the class
            with the highest score.
        top_targets: Explain this many classes: those with the highest scores; if negative, those
            with the lowest. Not together with ``targets``.
        layer: Where to look, as in `kerasight.explain_prediction_keras`.
        column: The column of a table that holds the paths.
        thumbnails: Whether to keep a small JPEG of each picture beside its heatmaps. None keeps it
            of datasets alone, whose pictures cannot be read again by themselves.
        draft: Whether a JPEG of many times the size of the model's input is read at a fraction of
            its size. It takes half the time, and scores differ by some 0.01.
        imports: Modules and ``.py`` files to import before a model file is loaded.
        unsafe: Whether Python code in a model file may run.
        part_pictures: How many pictures a part holds, at most.
        part_seconds: How many seconds an explanation waits, at most, to be written with others.
        progress: Whether to show a progress bar, by tqdm. None shows it on a terminal, and only
            after a second.
        **options: How to explain: ``method``, ``logits``, ``relu`` and the others that
            `kerasight.cam.request.Request` has.

    Returns:
        How many pictures were explained, failed, and were explained before.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument has an invalid value; if the folder holds another job, or other
            things, or another process is at work there; if pictures or model cannot be found.
        OSError: If the folder cannot be written. What is written already stays.
    """
    check_options(options, "progress")
    check_progress(progress)
    question = question_of(
        pictures,
        model,
        preprocess=preprocess,
        class_names=class_names,
        targets=targets,
        top_targets=top_targets,
        layer=layer,
        column=column,
        thumbnails=thumbnails,
        draft=draft,
        imports=imports,
        unsafe=unsafe,
        **options,
    )
    return carry_out(
        Path(folder),
        question.pictures,
        question.explain,
        asked=question.asked,
        facts=question.facts,
        versions=question.versions,
        part_pictures=part_pictures,
        part_seconds=part_seconds,
        progress=progress,
    )


@dataclass(frozen=True)
class Question:
    """All that a job is asked, checked, with the model loaded.

    Attributes:
        pictures: The pictures.
        asked: The question as the manifest has it.
        facts: What else the manifest tells.
        versions: Of the packages that answer it.
        classifier: The model.
        request: The options.
        targets: The classes to explain.
        top_targets: How many of the best, if no classes are named.
        layers: Where to look; none to have the layer chosen.
        thumbnails: Whether to keep small pictures.
        draft: Whether to read large ones at a fraction of their size.
    """

    pictures: Pictures
    asked: Mapping[str, Any]
    facts: Mapping[str, Any]
    versions: Mapping[str, str]
    classifier: Classifier
    request: Request
    targets: Sequence[int] | None
    top_targets: int | None
    layers: Sequence[int | str]
    thumbnails: bool
    draft: bool

    def explain(
        self, pictures: Iterator[Entry], finish: Callable[[Item], object] | None = None
    ) -> Iterator[list[Row]]:
        """Explain pictures, in order, in this process.

        Args:
            pictures: The pictures.
            finish: As in `Pipeline`; what needs their explanations with the pictures.

        Raises:
            SetupError: If the model cannot be asked so, whatever the picture.
        """
        from kerasight.keras.anatomy import Anatomy
        from kerasight.keras.wanted import classes_of, top_classes

        if self.targets is None:
            target = top_classes(None, 1 if self.top_targets is None else self.top_targets)
        else:
            target = classes_of(self.targets)
        blank = 0
        with Pipeline[_Item](
            self.classifier,
            self.request,
            target=target,
            layers=self.layers,
            needs_pictures=finish is not None,
            is_draft=self.draft,
            finish=finish,
        ) as pipeline:
            anatomy = Anatomy(self.classifier.model)
            items = (self._item(picture, anatomy) for picture in pictures)
            try:
                for item in pipeline.run(items):
                    blank += bool(item.warnings)
                    if blank == 1 and item.warnings:
                        _log.warning("%s: %s", item.key, item.warnings[0])
                    yield _rows(item)
            except KeyboardInterrupt:
                yield from map(_rows, pipeline.rest())
                raise
        if blank > 1:
            _log.warning("heatmaps of %s are blank or nearly so", plural(blank, "picture"))

    def _item(self, picture: Entry, anatomy: Anatomy) -> _Item:
        """A picture for the pipeline."""
        if picture.read is None:
            return self._item_of_doc(picture, anatomy)
        read_bytes = picture.read

        def read(least: tuple[int, int] | None = None) -> Image.Image:
            try:
                data = read_bytes()
            except FileNotFoundError:
                raise PictureError("no such file") from None
            except OSError as error:
                raise PictureError(f"cannot be read: {reason(error)}") from None
            item.hash = manifest.hash_of([data])
            image = read_picture(io.BytesIO(data), least)
            if self.thumbnails:
                item.thumbnail = thumbnail_of(image)
            return image

        item = _Item(Source(picture.key, "", read, picture.path, draft=read), picture.key)
        return item

    def _item_of_doc(self, picture: Entry, anatomy: Anatomy) -> _Item:
        from kerasight.keras import docs

        assert picture.doc is not None
        item = _Item(Source(picture.key, "", _nothing), picture.key)
        item.hash = manifest.hash_of_doc(picture.doc)
        try:
            inputs = docs.inputs_of(anatomy, picture.doc)
            docs.check_doc(anatomy, inputs)
            image = docs.picture_of(anatomy, inputs) if self.thumbnails else None
        except (TypeError, ValueError) as error:
            return replace(item, source=item.source._replace(problem=reason(error)))
        item.doc = inputs.docs
        if image is not None:
            item.thumbnail = thumbnail_of(image)
        return item


@dataclass(eq=False)
class _Item(Item):
    """A picture of a job on its way."""

    hash: str | None = None
    thumbnail: bytes | None = None


def _nothing(*_: Any) -> Any:
    raise AssertionError("what has no file has a doc")


def _rows(item: _Item) -> list[Row]:
    assert item.expl is not None
    return parts.rows_of(item.key, item.hash, item.expl, item.thumbnail)


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


def question_of(
    pictures: Any,
    model: keras.Model | str | os.PathLike[str] | None,
    *,
    preprocess: str | Callable[..., Any] | None = None,
    class_names: Sequence[str] | str | os.PathLike[str] | None = None,
    targets: Sequence[int] | None = None,
    top_targets: int | None = None,
    layer: int | str | Sequence[int | str] | None = None,
    column: str = "path",
    thumbnails: bool | None = None,
    draft: bool = False,
    imports: Sequence[str] = (),
    unsafe: bool = False,
    **options: Any,
) -> Question:
    """Check what `run` is asked, and load the model. The arguments are as there.

    Raises:
        TypeError: As from `run`.
        ValueError: As from `run`.
    """
    request = replace(Request.of(options), progress=False)
    if targets is not None and top_targets is not None:
        raise ValueError("pass either targets or top_targets, not both")
    found = sources.find(pictures, column)
    is_dataset = found.facts["kind"] == "dataset"
    if is_dataset and preprocess is not None:
        raise SetupError("preprocess is for pictures, and a dataset holds the model's inputs")
    names = class_names
    if isinstance(names, (str, os.PathLike)):
        names = models.read_class_names(Path(names))
    models.import_keras()
    import keras

    from kerasight.keras.targets import check_classes

    if isinstance(model, keras.Model):
        called, hash_of_model = model.name, manifest.hash_of_model(model)
        classifier = _in_memory(model, names, preprocess, is_dataset)
    else:
        called = "the demo model" if model is None else os.fspath(model)
        is_file = os.path.isfile(called)
        classifier = _loaded(model, names, preprocess, imports, unsafe)
        hash_of_model = manifest.hash_of_file(called) if is_file else called
    if is_dataset:
        from kerasight.keras.anatomy import Anatomy
        from kerasight.keras.docs import rank_of_docs

        found = sources.find(pictures, column, rank_of_docs(Anatomy(classifier.model)))
    classes = models.number_of_classes(classifier.model)
    if targets is not None and classes is not None:  # or each picture would be answered so
        check_classes(np.array(targets), classes, "target")
    layers = [layer] if isinstance(layer, (int, str)) else list(layer or ())
    kept = is_dataset if thumbnails is None else thumbnails
    asked = manifest.asked_of(
        request,
        model=hash_of_model,
        pictures=found.facts,
        preprocess=preprocess,
        class_names=names,
        targets=targets,
        top_targets=top_targets,
        layer=layers or None,
        thumbnails=kept,
        draft=draft,
    )
    return Question(
        pictures=found,
        asked=asked,
        facts={"model": called, "estimator": classifier.model.name, "title": request.title},
        versions=manifest.versions(),
        classifier=classifier,
        request=request,
        targets=targets,
        top_targets=top_targets,
        layers=layers,
        thumbnails=kept,
        draft=draft,
    )


def _in_memory(
    model: keras.Model, names: Any, preprocess: Any, is_dataset: bool
) -> models.Classifier:
    if is_dataset:
        return models.Classifier(model, names, _nothing)
    if callable(preprocess):
        return models.Classifier(model, names, preprocess)
    return models.classifier_of(model, names, preprocess, model.name)


def _loaded(
    model: Any, names: Any, preprocess: Any, imports: Sequence[str], unsafe: bool
) -> models.Classifier:
    name = preprocess if isinstance(preprocess, str) else None
    of_model = models.ModelOptions(
        None if model is None else os.fspath(model), name, None, imports, unsafe
    )
    models.check_model_options("explain", of_model, [Path()])
    classifier = models.load(of_model, names)
    if callable(preprocess):
        return replace(classifier, to_doc=preprocess, size=None)
    return classifier


# Going on


def carry_out(
    folder: Path,
    pictures: Pictures,
    explain: Explain,
    *,
    asked: Mapping[str, Any],
    facts: Mapping[str, Any],
    versions: Mapping[str, str],
    part_pictures: int = 1024,
    part_seconds: float = 30,
    progress: bool | None = None,
) -> Finished:
    """Explain what is left to explain of a job, and write it to its folder.

    Args:
        folder: The job's folder; made if it does not exist.
        pictures: Its pictures.
        explain: What explains them, here or on other machines.
        asked: As of `Question`.
        facts: As of `Question`.
        versions: As of `Question`.
        part_pictures: As in `run`.
        part_seconds: As in `run`.
        progress: As in `run`.

    Raises:
        ValueError: As from `run`.
        OSError: As from `run`.
    """
    done = failed = 0
    with manifest.locked(folder):
        manifest.settle(folder, asked, facts, versions)
        parts.mend(folder)
        bar = progress_bar(
            progress=progress, total=pictures.total, desc="explaining", unit="picture"
        )
        if pictures.facts["kind"] == "dataset":
            hashes = parts.finished_hashes(folder)
            wanted = _Wanted(hashes, bar, hashes)
        else:
            wanted = _Wanted(parts.finished_keys(folder), bar)
        metadata = {f"version of {name}": one for name, one in versions.items()}
        with (
            closing(bar),
            Parts(folder, metadata, pictures=part_pictures, seconds=part_seconds) as written,
        ):
            for rows in explain(pictures.each(wanted)):
                written.add(rows)
                is_failed = rows[0].get("error") is not None
                failed, done = failed + is_failed, done + (not is_failed)
                bar.update()
    if not wanted.seen:
        raise SetupError(f"there is no picture in {pictures.facts['root']}")
    if wanted.again:
        _log.warning("%s came more than once, and counted once", plural(wanted.again, "picture"))
    return Finished(done, failed, wanted.skipped, folder)


class _Wanted:
    """Which pictures are still to be explained.

    Attributes:
        seen: The keys that were asked for.
        skipped: How many are explained already.
        again: How many keys came once more.
    """

    def __init__(
        self, done: Container[str], bar: Any, hashes: Mapping[str, str | None] | None = None
    ) -> None:
        self.seen: set[str] = set()
        self.skipped = self.again = 0
        self._done = done
        self._bar = bar
        self._hashes = hashes or {}

    def __call__(self, key: str, doc: Any = None) -> bool:
        """Whether a picture is to be explained.

        Raises:
            SetupError: If it is explained already, and was another doc then.
        """
        if key in self.seen:
            self.again += 1
            self._bar.update()
            return False
        self.seen.add(key)
        if key not in self._done:
            return True
        if doc is not None and self._hashes[key] != manifest.hash_of_doc(doc):
            raise SetupError(
                f"doc {key} of the dataset is another than when the job explained it; a dataset "
                "must come in the same order each time: turn its shuffling off"
            )
        self.skipped += 1
        self._bar.update()
        return False
