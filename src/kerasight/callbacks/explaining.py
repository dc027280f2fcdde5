"""The callback: it explains the same docs again and again while a model trains."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np
from PIL import Image

from kerasight.base import Explanation, TargetExplanation
from kerasight.callbacks.writers import FolderWriter, Writer
from kerasight.cam.request import OPTIONS
from kerasight.checks import integer, nearest
from kerasight.explain import explain_predictions
from kerasight.formatters.image import format_as_image, format_as_sheet
from kerasight.formatters.text import format_score
from kerasight.ipython import FORMAT_KWARGS
from kerasight.keras.explain_predictions import explain_predictions_keras
from kerasight.keras.explainer import check_names, request_for
from kerasight.keras.wanted import readout_of, top_classes

__all__ = ["ExplainPredictions"]

_log = logging.getLogger("kerasight")

# What the callback decides by itself.
_OWN = {"model", "docs", "images", "progress", "errors"}


class ExplainPredictions(keras.callbacks.Callback):  # type: ignore[misc]
    """Explains the same docs before the first epoch and after each, and writes the overlays.

    The model is trained as it would be without: its weights, the state of the optimizer and of the
    metrics, and what is drawn at random afterwards are the same, bit for bit, and no function of
    Keras is compiled anew.

    The first pictures are made before the first batch, at step 0, or ``initial_epoch``. Whatever
    cannot be explained or written is an error then. Later it ends no training: it is told once, as
    a warning of the logger ``"kerasight"``, and the callback tries again when the time comes. A doc
    that cannot be explained, as when the model puts out NaN, is a picture that says why.

    Args:
        docs: The docs to explain, as `kerasight.explain_predictions` takes them: an array ``(docs,
            height, width, channels)``, a list of docs or of texts, or a dict of arrays. Of a
            dataset, take a batch.
        to: Where the pictures go: a folder for PNG files; a `Writer`, which is any function of a
            tag, a list of pictures, the step and a list of captions; or a list of such.
        every: ``"epoch"``, or after how many batches. Steps count epochs or batches accordingly.
        tag: What the pictures are called, in names of files and on the pages of TensorBoard.
        images: The pictures to lay the heatmaps over, one for each doc; None makes them from the
            docs.
        **kwargs: ``resampling_filter``, ``colormap``, ``alpha_limit``, ``outliers``, ``absolute``
            and ``blur`` are passed to `kerasight.formatters.image.format_as_sheet`; all others
            (``targets``, ``top_targets``, ``target_names``, ``target``, ``layer``, ``method``, ...)
            to `kerasight.explain_predictions`.

    Raises:
        TypeError: If an argument is unknown or has the wrong type. What only the model can tell,
            such as that it has no such layer, is told before the first batch.
        ValueError: If an argument has a value that it cannot have.
    """

    def __init__(
        self,
        docs: Any,
        to: str | os.PathLike[str] | Writer | Sequence[str | os.PathLike[str] | Writer] = (
            "explanations"
        ),
        *,
        every: int | Literal["epoch"] = "epoch",
        tag: str = "explanations",
        images: Iterable[Image.Image | None] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        _check_docs(docs)
        self._docs = docs
        self._writers = _writers_of(to)
        if not isinstance(tag, str):
            raise TypeError(f"tag must be a str, got {type(tag).__name__}")
        self._tag = tag
        self._images = list(images) if isinstance(images, Iterator) else images
        self._look = {name: kwargs[name] for name in FORMAT_KWARGS & kwargs.keys()}
        self._asked = {name: kwargs[name] for name in kwargs.keys() - FORMAT_KWARGS}
        _check_asked(self._asked)
        format_as_image(_SMALLEST, **self._look)  # refuses what does not say how to draw
        self._is_first = self._is_told = False
        self._before = self._step = 0  # batches before this epoch, and up to now
        if every == "epoch":
            self._every = 0
        elif isinstance(every, str):
            raise ValueError(f'every must be "epoch" or a number of batches, got {every!r}')
        else:
            self._every = integer("every", every, least=1)
            # Where a callback has no such method, Keras need not wait for each batch.
            self.on_train_batch_end = self._after_batch

    def on_train_begin(self, logs: Any = None) -> None:
        """Note that the first pictures are to come."""
        self._is_first, self._is_told = True, False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Write the first pictures: here it is known which epoch a training goes on from."""
        if not self._is_first:
            return
        self._is_first = False
        self._before = self._step = epoch * (self.params.get("steps") or 0)
        expls = self._explained("raise")
        for expl in expls:
            if not expl.targets:
                raise ValueError(expl.error)
        pictures = self._drawn(expls)
        for writer in self._writers:
            writer(self._tag, pictures, self._step if self._every else epoch, _captions(expls))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write the pictures of an epoch."""
        self._before = self._step
        if not self._every:
            self._show(epoch + 1)

    def _after_batch(self, batch: int, logs: Any = None) -> None:
        before, self._step = self._step, self._before + batch + 1
        if self._step // self._every > before // self._every:
            self._show(self._step)

    def _show(self, step: int) -> None:
        """Write pictures, and let nothing that fails end the training."""
        try:
            expls = self._explained("keep")
            pictures, captions = self._drawn(expls), _captions(expls)
        except Exception as error:
            self._tell("the docs cannot be explained", step, error)
            return
        for writer in self._writers:
            try:
                writer(self._tag, pictures, step, captions)
            except Exception as error:
                self._tell("the pictures cannot be written", step, error)

    def _tell(self, what: str, step: int, error: Exception) -> None:
        """Log what failed, the first time in a training."""
        if self._is_told:
            return
        self._is_told = True
        unit = "batch" if self._every else "epoch"
        why = f"{type(error).__name__}: {error}"
        _log.warning("%s after %s %d, and training goes on: %s", what, unit, step, why)

    def _explained(self, errors: str) -> list[Explanation]:
        asked = {"images": self._images, "errors": errors, **self._asked}
        return list(explain_predictions(self.model, self._docs, **asked))

    def _drawn(self, expls: Sequence[Explanation]) -> list[Image.Image]:
        return [format_as_sheet([expl], **self._look).convert("RGB") for expl in expls]


_SMALLEST = Explanation(
    "",
    image=Image.new("RGB", (1, 1)),
    targets=[TargetExplanation(0, heatmap=np.zeros((1, 1)))],
)


def _captions(expls: Sequence[Explanation]) -> list[str]:
    """Class and score of each doc, or why there is none."""
    return [
        "; ".join(
            ": ".join(filter(None, (one.label, format_score(one.score, one.is_probability))))
            for one in expl.targets or ()
        )
        or str(expl.error)
        for expl in expls
    ]


def _check_docs(docs: Any) -> None:
    is_array = hasattr(docs, "__array__") and not isinstance(docs, Image.Image)
    if not (is_array or isinstance(docs, (list, tuple, dict))):
        raise TypeError(
            "docs must be an array or a list, which are the same after each epoch, got "
            f"{type(docs).__name__}; of a dataset take a batch: docs, _ = next(iter(dataset))"
        )
    if len(docs) == 0:
        raise ValueError("docs must hold at least one doc, got none")


def _writers_of(to: Any) -> list[Writer]:
    """The writers that were asked for, a folder as the one that writes into it."""
    writers: list[Writer] = []
    for one in to if isinstance(to, (list, tuple)) else [to]:
        if isinstance(one, (str, os.PathLike)):
            writers.append(FolderWriter(one))
        elif callable(one):
            writers.append(one)
        else:
            raise TypeError(
                "to must be a folder, a function that writes pictures, or a list of such, got "
                f"{type(one).__name__}"
            )
    return writers


def _check_asked(asked: Mapping[str, Any]) -> None:
    """Refuse what can be told to be wrong before there is a model."""
    known = inspect.signature(explain_predictions_keras).parameters.keys() - _OWN
    for name in asked.keys() - known:
        raise TypeError(
            f"ExplainPredictions() takes no argument {name!r}{nearest(name, known | FORMAT_KWARGS)}"
        )
    target, output, targets, top_targets = map(
        asked.get, ("target", "output", "targets", "top_targets")
    )
    readout = readout_of(target, output, targets, top_targets)
    if top_targets is not None:
        top_classes(targets, top_targets)
    request_for({name: asked[name] for name in OPTIONS if name in asked}, readout)
    check_names(asked.get("target_names"))
