"""Pictures on their way: in order, lazily, and each with its own errors."""

from __future__ import annotations

import gc
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cli.commands import make_area, make_mean, make_softmax
from PIL import Image

import kerasight
from kerasight.cam.request import Request
from kerasight.classifiers.models import Classifier
from kerasight.classifiers.pictures import Source
from kerasight.errors import PictureError, SetupError
from kerasight.jobs.pipeline import Item, Pipeline
from kerasight.keras.wanted import top_classes


def to_doc(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB"), np.float32)[np.newaxis]


@pytest.fixture(scope="module")
def softmax() -> Classifier:
    return Classifier(make_softmax(), None, to_doc, (4, 4))


@pytest.fixture(scope="module")
def area() -> Classifier:
    return Classifier(make_area(), None, to_doc)


def picture_of(seed: int, size: tuple[int, int] = (4, 4)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def item_of(seed: int, read: Callable[[], Image.Image] | None = None, **fields: Any) -> Item:
    name = str(seed)
    return Item(Source(name, name, read or (lambda: picture_of(seed)), **fields), key=name)


def pipeline_of(classifier: Classifier, **options: Any) -> Pipeline[Item]:
    return Pipeline(classifier, Request(), target=top_classes(None, 1), **options)


def run(classifier: Classifier, items: Iterator[Item], **options: Any) -> list[Item]:
    with pipeline_of(classifier, **options) as pipeline:
        return list(pipeline.run(items))


def test_items_come_in_order_each_explained_as_if_alone(softmax: Classifier) -> None:
    items = run(softmax, map(item_of, range(40)))
    assert [item.key for item in items] == [str(n) for n in range(40)]
    for seed, item in list(enumerate(items))[::9]:
        picture = picture_of(seed)
        alone = kerasight.explain_prediction(softmax.model, to_doc(picture), image=picture)
        assert item.is_done
        assert item.expl is not None
        assert (item.error, item.expl.error) == ("", "")
        assert item.expl.image == item.picture == picture
        (found,), (expected,) = item.expl.targets or (), alone.targets or ()
        assert (found.target, found.score) == (expected.target, pytest.approx(expected.score))
        np.testing.assert_allclose(found.heatmap, expected.heatmap, atol=1e-5)


def test_of_items_without_end_some_are_taken_and_none_is_kept(softmax: Classifier) -> None:
    taken: list[weakref.ref[Item]] = []

    def items() -> Iterator[Item]:
        for seed in itertools.count():
            item = item_of(seed)
            taken.append(weakref.ref(item))
            yield item

    with pipeline_of(softmax) as pipeline:
        for number, item in enumerate(pipeline.run(items())):
            assert item.key == str(number)
            assert len(taken) < number + 150
            del item
            if number == 300:
                gc.collect()
                assert sum(one() is not None for one in taken) < 150
                break


def test_batches_are_of_like_shapes_and_begin_with_one(area: Classifier) -> None:
    batches: list[list[str]] = []
    seen: list[Any] = []

    def item(seed: int) -> Item:
        return item_of(seed, lambda: picture_of(seed, (4, 4) if seed < 20 else (3, 5)))

    def begin(items: list[Item]) -> None:
        batches.append([item.key for item in items])
        seen.append({item.doc.shape for item in items if item.doc is not None})

    items = run(area, map(item, range(40)), begin=begin)
    assert [name for batch in batches for name in batch] == [item.key for item in items]
    assert batches[0] == ["0"]
    assert max(map(len, batches)) > 4
    assert [len(shapes) for shapes in seen] == [1] * len(batches)
    assert {*seen[0], *seen[-1]} == {(1, 4, 4, 3), (1, 5, 3, 3)}
    for item in (items[3], items[33]):
        assert item.expl is not None
        (target,) = item.expl.targets or ()
        sums = np.asarray(item.picture, dtype=int).sum(axis=(0, 1))
        assert target.score == pytest.approx(sums.max())


def test_what_fails_with_a_picture_is_noted_and_leaves_the_others(softmax: Classifier) -> None:
    def broken() -> Image.Image:
        raise PictureError("not a picture")

    special = {
        3: item_of(3, problem="no such file"),
        5: item_of(5, broken),
        7: item_of(7, lambda: picture_of(7, (4, 2))),
    }

    def doc(picture: Image.Image) -> np.ndarray:
        if picture.height == 2:
            raise RuntimeError("too flat\n\nfor this model")
        return to_doc(picture)

    explained: list[str] = []

    def finish(item: Item) -> None:
        assert item.expl is not None
        if item.key == "9":
            raise OSError(28, "No space left on device")
        if item.expl.targets:
            explained.append(item.key)

    items = run(
        replace(softmax, to_doc=doc),
        (special.get(n) or item_of(n) for n in range(12)),
        finish=finish,
    )
    assert {item.key: item.error for item in items if item.error} == {
        "3": "no such file",
        "5": "not a picture",
        "7": "too flat",
        "9": "No space left on device",
    }
    assert [item.expl.error for item in items if item.expl] == [item.error for item in items]
    assert [item.key for item in items if not item.is_read] == ["3", "5"]
    assert sorted(map(int, explained)) == [0, 1, 2, 4, 6, 8, 10, 11]
    # What was explained is there, also where it could not be written.
    assert [item.key for item in items if item.expl and not item.expl.targets] == ["3", "5", "7"]


def test_what_is_wrong_with_the_model_ends_it(softmax: Classifier) -> None:
    with (
        pipeline_of(softmax, layers=["feetures"]) as pipeline,
        pytest.raises(SetupError, match="the nearest name is 'features'"),
    ):
        list(pipeline.run(map(item_of, range(20))))
    with (
        pipeline_of(replace(softmax, names=["one"])) as pipeline,
        pytest.raises(SetupError, match="there are 1 class names"),
    ):
        list(pipeline.run(map(item_of, range(20))))


def test_warnings_are_those_of_the_picture() -> None:
    model = make_mean(classes=3)
    model.get_layer("head").set_weights([-np.eye(3)])

    items = run(Classifier(model, None, to_doc), map(item_of, range(4)))
    assert ["is blank or nearly so" in "".join(item.warnings) for item in items] == [True] * 4


def test_finishing_is_for_threads_and_what_comes_before_is_not(softmax: Classifier) -> None:
    here, threads, order = threading.get_ident(), set(), []

    def finish(item: Item) -> None:
        threads.add(threading.get_ident())

    def explained(item: Item) -> None:
        assert threading.get_ident() == here
        assert item.expl is not None
        assert not item.is_done
        order.append(item.key)

    run(softmax, map(item_of, range(30)), explained=explained, finish=finish)
    assert here not in threads
    assert order == [str(n) for n in range(30)]


def test_after_an_interrupt_what_was_explained_is_finished(softmax: Classifier) -> None:
    given: list[str] = []
    finished: list[str] = []

    def begin(items: list[Item]) -> None:
        if int(items[-1].key) > 8:
            raise KeyboardInterrupt

    with pipeline_of(
        softmax, begin=begin, finish=lambda item: finished.append(item.key)
    ) as pipeline:
        with pytest.raises(KeyboardInterrupt):
            given.extend(item.key for item in pipeline.run(map(item_of, range(100))))
        given.extend(item.key for item in pipeline.rest())
    assert given == sorted(finished) == [str(n) for n in range(9)]


def test_what_is_not_begun_when_it_is_left_is_dropped(softmax: Classifier) -> None:
    with pipeline_of(softmax) as pipeline:
        taken = pipeline.run(map(item_of, itertools.count()))
        assert next(taken).key == "0"
    with pytest.raises(RuntimeError, match="shutdown"):
        list(taken)


def test_a_doc_that_is_there_is_not_read(softmax: Classifier) -> None:
    def read() -> Image.Image:
        raise AssertionError

    docs = [to_doc(picture_of(seed)) for seed in range(3)]
    items = [Item(Source("", "", read), key=str(n), doc=doc) for n, doc in enumerate(docs)]
    for item, doc in zip(run(softmax, iter(items)), docs, strict=True):
        assert item.expl is not None
        (target,) = item.expl.targets or ()
        score = softmax.model.predict(doc, verbose=0).max()
        assert target.score == pytest.approx(score, rel=1e-5)
        assert item.expl.image is None


def test_pictures_that_nobody_needs_are_dropped(softmax: Classifier) -> None:
    kept = run(softmax, map(item_of, range(3)))
    dropped = run(softmax, map(item_of, range(3)), needs_pictures=False)
    for one, other in zip(kept, dropped, strict=True):
        assert (one.expl and one.expl.targets) == (other.expl and other.expl.targets)
        assert other.expl is not None
        assert other.picture is other.expl.image is None
        assert other.is_read


def test_a_draft_is_twice_as_large_as_the_input_at_least(
    softmax: Classifier, area: Classifier
) -> None:
    asked: list[tuple[int, int]] = []

    def draft(least: tuple[int, int]) -> Image.Image:
        asked.append(least)
        return picture_of(1)

    for classifier, is_draft, expected in (
        (softmax, True, [(8, 8)]),
        (softmax, False, []),
        (area, True, []),  # whose input is as large as the picture
    ):
        asked.clear()
        run(classifier, iter([item_of(0, draft=draft)]), is_draft=is_draft)
        assert asked == expected
