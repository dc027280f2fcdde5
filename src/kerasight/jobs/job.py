"""A job: pictures, however many, explained into a folder, from where it stopped the last time."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kerasight.cam.request import check_options, takes_options
from kerasight.checks import one_of, plural
from kerasight.classifiers.pictures import quiet_decoders
from kerasight.errors import SetupError
from kerasight.jobs import manifest, parts, sources
from kerasight.jobs.parts import Parts, Row
from kerasight.jobs.sources import Entry, Pictures
from kerasight.jobs.worker import BatchExplainer
from kerasight.progress import check_progress, progress_bar

if TYPE_CHECKING:
    import keras
    from PIL import Image

    from kerasight.jobs.pipeline import Item
    from kerasight.ray import Cluster

__all__ = ["Explain", "Finished", "Question", "carry_out", "question_of", "run"]

_log = logging.getLogger("kerasight")

Explain = Callable[[Iterator[Entry]], Iterator[list[Row]]]
"""Explains pictures: gives the rows of each, in any order, while it takes others."""


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
    engine: Literal["ray"] | None = None,
    address: str | None = None,
    workers: int | None = None,
    num_cpus: float = 1,
    num_gpus: float = 0,
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
        engine: ``"ray"`` to have workers of a cluster explain, as `kerasight.ray.explain` does, in
            batches of ``batch_size``; this process writes what they send. None explains here.
        address: With an engine: where the cluster is, as ``ray.init`` takes it. None is the one
            that ``RAY_ADDRESS`` names, or one that is made here for the time being.
        workers: With an engine: how many processes explain; None for as many as there is room for.
        num_cpus: With an engine: how many CPUs each has.
        num_gpus: With an engine: how many GPUs each has.
        progress: Whether to show a progress bar, by tqdm. None shows it on a terminal, and only
            after a second.
        **options: How to explain: ``method``, ``logits``, ``relu`` and the others that
            `kerasight.cam.request.Request` has.

    Returns:
        How many pictures were explained, failed, and were explained before.

    Raises:
        ImportError: If the engine is not installed.
        TypeError: If an argument has the wrong type.
        ValueError: If an argument has an invalid value; if the folder holds another job, or other
            things, or another process is at work there; if pictures or model cannot be found.
        OSError: If the folder cannot be written. What is written already stays.
    """
    check_options(options, "progress")
    check_progress(progress)
    cluster = _cluster(engine, address, workers, num_cpus, num_gpus)
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
        question.explain if cluster is None else partial(cluster.rows, question.explainer),
        asked=question.asked,
        facts=question.facts,
        versions=question.versions,
        part_pictures=part_pictures,
        part_seconds=part_seconds,
        progress=progress,
    )


def _cluster(
    engine: str | None, address: str | None, workers: int | None, num_cpus: float, num_gpus: float
) -> Cluster | None:
    """Where to explain, if it is not here."""
    if engine is not None:
        one_of("engine", engine, ("ray",))
        from kerasight.ray import Cluster

        return Cluster(address, workers, num_cpus, num_gpus)
    if (address, workers, num_cpus, num_gpus) != (None, None, 1, 0):
        raise ValueError(
            "address, workers, num_cpus and num_gpus are for an engine: pass engine='ray' as well"
        )
    return None


@dataclass(frozen=True)
class Question:
    """All that a job is asked, checked, with the model loaded.

    Attributes:
        pictures: The pictures.
        explainer: The model, and how to explain.
        asked: The question as the manifest has it.
        facts: What else the manifest tells.
        versions: Of the packages that answer it.
    """

    pictures: Pictures
    explainer: BatchExplainer
    asked: Mapping[str, Any]
    facts: Mapping[str, Any]
    versions: Mapping[str, str]

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
        is_dataset = self.pictures.facts["kind"] == "dataset"
        return self.explainer.rows(pictures, of_docs=is_dataset, finish=finish)


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
    found = sources.find(pictures, column)
    is_dataset = found.facts["kind"] == "dataset"
    if is_dataset and preprocess is not None:
        raise SetupError("preprocess is for pictures, and a dataset holds the model's inputs")
    kept = is_dataset if thumbnails is None else thumbnails
    explainer = BatchExplainer(
        model,
        preprocess=preprocess,
        class_names=class_names,
        targets=targets,
        top_targets=top_targets,
        layer=layer,
        thumbnails=kept,
        draft=draft,
        imports=imports,
        unsafe=unsafe,
        **options,
    )
    loaded, request = explainer.classifier(is_dataset).model, explainer.request
    if is_dataset:
        from kerasight.keras.anatomy import Anatomy
        from kerasight.keras.docs import rank_of_docs

        found = sources.find(pictures, column, rank_of_docs(Anatomy(loaded)))
    if loaded is model:
        hash_of_model = manifest.hash_of_model(model)
    elif os.path.isfile(explainer.called):
        hash_of_model = manifest.hash_of_file(explainer.called)
    else:
        hash_of_model = explainer.called
    asked = manifest.asked_of(
        request,
        model=hash_of_model,
        pictures=found.facts,
        preprocess=preprocess,
        class_names=explainer.class_names,
        targets=targets,
        top_targets=top_targets,
        layer=explainer.layers or None,
        thumbnails=kept,
        draft=draft,
    )
    return Question(
        pictures=found,
        explainer=explainer,
        asked=asked,
        facts={"model": explainer.called, "estimator": loaded.name, "title": request.title},
        versions=manifest.versions(),
    )


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
            quiet_decoders(),
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
