"""Pictures on their way: read and finished in threads, beside the model that explains them."""

from __future__ import annotations

import itertools
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from kerasight.classifiers import models
from kerasight.classifiers.pictures import Source
from kerasight.errors import PictureError, SetupError, reason
from kerasight.jobs.ahead import ahead

if TYPE_CHECKING:
    from jaxtyping import Shaped
    from PIL import Image

    from kerasight.base import Explanation
    from kerasight.cam.request import Request
    from kerasight.classifiers.models import Classifier
    from kerasight.keras.explainer import Look
    from kerasight.keras.targets import Target

__all__ = ["Item", "Pipeline"]


# Enough pictures to keep model and threads busy, and no more of them than fit into memory: of each
# pixel of a picture of average size there are some 40 bytes while its overlay is drawn.
_THREADS = 16
_AT_ONCE = 16  # through the model
_VALUES = 4_000_000  # in the inputs of these
_PICTURES = 32  # being read, and as many being finished
_PIXELS = 32_000_000  # in these
_USUAL = 2_000_000  # in a picture of which it is not known before it is read


@dataclass(eq=False)
class Item:
    """A picture on its way: read, explained, finished.

    Attributes:
        source: Where it comes from.
        key: What it is called in a job.
        picture: The picture, from when it is read; None of a doc that came without, and where
            pictures are not needed.
        doc: The model's input, with batch axis. Where it is there from the start, nothing is read.
        error: Why it, or a part of it, could not be done.
        common: What part of the error other pictures share; all, if empty.
        warnings: What is said of its heatmaps.
        expl: The explanation; without targets, and with the error, if there is none.
        is_read: Whether it could be read.
        is_done: Whether nothing is left to do.
    """

    source: Source
    key: str = ""
    picture: Image.Image | None = None
    doc: Shaped[np.ndarray, "1 ..."] | None = None
    error: str = ""
    common: str = ""
    warnings: list[str] = field(default_factory=list)
    expl: Explanation | None = None
    is_read: bool = False
    is_done: bool = False

    @property
    def weight(self) -> float:
        """What it takes of memory, as a share of what all that are worked on may take."""
        if self.picture is not None:
            pixels = self.picture.width * self.picture.height
        else:
            pixels = self._pixels if self.doc is None else 0
        return max(pixels / _PIXELS, 1 / _PICTURES)

    @cached_property
    def _pixels(self) -> int:
        pixels = self.source.pixels()
        return _USUAL if pixels is None else pixels

    def fail(self, error: Exception) -> None:
        """Note why it could not be done."""
        self.error = str(error)
        self.common = getattr(error, "common", "")


Made = TypeVar("Made", bound=Item)


class Pipeline(Generic[Made]):
    """Explains pictures, however many, as fast as the slowest of three parts.

    Pictures are read, and what is made of their explanations is written, in threads beside the
    model, which takes pictures in batches. An explanation does not depend on what else is in its
    batch. Enter it as a context before it runs; as it is left, its threads end. Items may be of a
    class with more fields.

    Args:
        classifier: The model, the names of its classes, and what makes its input of a picture.
        request: How to explain.
        target: The classes to explain.
        layers: Where to look, as names, paths or indices; none to have the layer chosen.
        needs_pictures: Whether explanations must have their pictures. Without, more of them fit
            into memory, as each is dropped once there is an input of it.
        is_draft: Whether a JPEG of four times the size of the input or more is decoded at a
            fraction of its size, not below twice that of the input. It takes half the time, and
            scores differ by some 0.01.
        threads: How many threads read and finish; None for one for each CPU, 16 at most.
        begin: Called with each batch just before it goes through the model.
        explained: Called with each item, in order, once it is explained. Like ``begin`` it runs in
            the thread that takes the items.
        finish: Called in a thread with each item once it is explained, as to draw and to write.
            What it raises is noted as the error of the item, but for a `SetupError`, which ends
            the run.
    """

    def __init__(
        self,
        classifier: Classifier,
        request: Request,
        *,
        target: Target,
        layers: Sequence[int | str] = (),
        needs_pictures: bool = True,
        is_draft: bool = False,
        threads: int | None = None,
        begin: Callable[[Sequence[Made]], object] | None = None,
        explained: Callable[[Made], object] | None = None,
        finish: Callable[[Made], object] | None = None,
    ) -> None:
        """Nothing runs yet."""
        from kerasight.keras.explainer import Batches, Explainer

        self._classifier = classifier
        self._looks = Batches(Explainer(classifier.model, request, names=classifier.names))
        self._target = target
        self._layers = layers
        self._needs_pictures = needs_pictures
        size = classifier.size if is_draft else None
        self._least = None if size is None else (2 * size[0], 2 * size[1])
        self._begin = begin
        self._after = explained
        self._finish = finish
        # A slow method runs the model on many inputs for each picture, in batches of its own.
        is_slow = request.smooth or request.method.is_slow
        self._most_at_once = 1 if is_slow else _AT_ONCE
        self._at_once = 1
        self._is_over = False
        self._is_checked = False
        self._finishing: deque[Made] = deque()
        self._pool = ThreadPoolExecutor(threads or min(_THREADS, os.cpu_count() or 1))

    def __enter__(self) -> Pipeline[Made]:
        """Nothing runs yet: threads begin with the first picture."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for what threads have begun; drop what they have not."""
        self._is_over = True
        self._pool.shutdown(cancel_futures=True)

    def run(self, items: Iterable[Made]) -> Iterator[Made]:
        """Do everything about items.

        Args:
            items: The items; each is taken only once there is room for it.

        Yields:
            Each item, in order, when all of it is done. Nothing of it is kept here then.

        Raises:
            SetupError: If the model cannot be asked so, whatever the picture.
        """

        def weigh(item: Made) -> float:
            return item.weight

        def noted(items: Iterable[Made]) -> Iterator[Made]:
            for item in items:
                self._finishing.append(item)
                yield item

        read = ahead(self._pool, self._read, items, weigh)
        explained = itertools.chain.from_iterable(map(self._explained, self._batches(read)))
        finished = ahead(self._pool, self._finished, noted(explained), weigh, is_prompt=True)
        for _ in finished:
            yield self._finishing.popleft()

    def rest(self) -> Iterator[Made]:
        """After an interrupt: the items that were explained before it, once they are finished."""
        self._is_over = True
        self._pool.shutdown()
        while self._finishing:
            item = self._finishing.popleft()
            if item.is_done:
                yield item

    def _read(self, item: Made) -> Made:
        if item.doc is not None:
            item.is_read = True
        if self._is_over or item.is_read:
            return item
        try:
            if item.source.problem:
                raise PictureError(item.source.problem)
            with models.failing_on_the_picture():
                source = item.source
                if self._least is None or source.draft is None:
                    picture = source.read()
                else:
                    picture = source.draft(self._least)
                item.is_read = True
                if self._needs_pictures:
                    item.picture = picture
                item.doc = self._classifier.to_doc(picture)
        except PictureError as error:
            item.fail(error)
        return item

    def _batches(self, items: Iterator[Made]) -> Iterator[list[Made]]:
        """Pictures that go through the model together: their inputs are alike, and they fit."""
        batch: list[Made] = []
        for item in items:
            docs = [other.doc for other in (*batch, item) if other.doc is not None]
            if batch and (
                len(batch) >= self._at_once
                or sum(other.weight for other in (*batch, item)) > 1
                or sum(doc.size for doc in docs) > _VALUES
                or len({(doc.shape, doc.dtype) for doc in docs}) > 1
            ):
                yield batch
                # The first by itself, so that there is soon something to see, and to keep.
                self._at_once = min(8 * self._at_once, self._most_at_once)
                batch = []
            batch.append(item)
        if batch:
            yield batch

    def _explained(self, items: list[Made]) -> list[Made]:
        from kerasight.base import Explanation

        if self._begin is not None:
            self._begin(items)
        self._explain([item for item in items if item.doc is not None])
        for item in items:
            if item.expl is None:
                item.expl = Explanation(
                    self._classifier.model.name, error=item.error, image=item.picture
                )
            if self._after is not None:
                self._after(item)
        return items

    def _explain(self, items: Sequence[Made]) -> None:
        """Explain pictures that have inputs; what fails has its error noted."""
        if not items:
            return
        docs, look = np.concatenate([item.doc for item in items if item.doc is not None]), None
        try:
            self._check(docs[:1])
            with models.failing_on_the_picture():
                look = self._looks.look(docs, self._target)
        except PictureError as error:
            if len(items) == 1:
                if isinstance(error.__context__, MemoryError):  # no other would do better
                    raise SetupError(
                        f"memory ran out at {items[0].source.name}, by itself; have fewer "
                        f"processes or workers run at a time, or give each more memory ({error})"
                    ) from None
                items[0].fail(error)
                return
        if look is None:
            for item in items:
                self._explain([item])
            return
        for place, item in enumerate(items):
            try:
                self._answer(item, look, place)
            except PictureError as error:
                item.fail(error)

    def _check(self, doc: Shaped[np.ndarray, "1 ..."]) -> None:
        """What is wrong with the model, or with what is asked of it, shows here."""
        if self._is_checked:
            return
        explainer = self._looks.explainer
        layers = models.find_sites(self._classifier.model, doc, self._layers)
        models.check_scores(self._classifier.model, doc, explainer.request)
        self._looks = replace(self._looks, explainer=replace(explainer, layer=layers))
        self._is_checked = True

    def _answer(self, item: Made, look: Look, place: int) -> None:
        """Make the explanation."""
        from kerasight.base import HeatmapWarning

        models.check_class_names(self._classifier.names, len(look.records[0].scores[place]))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", HeatmapWarning)
            with models.failing_on_the_picture():
                item.expl = look.explanation(place, item.picture)
        # Decoders in other threads may have warned as well.
        item.warnings += [
            reason(one.message) for one in caught if issubclass(one.category, HeatmapWarning)
        ]

    def _finished(self, item: Made) -> None:
        assert item.expl is not None
        if self._finish is not None:
            try:
                with models.failing_on_the_picture():
                    self._finish(item)
            except PictureError as error:
                item.fail(error)
        item.expl.error = item.error
        item.is_done = True
