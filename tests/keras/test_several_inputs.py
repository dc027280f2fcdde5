"""Models of several inputs: what users pass, which input is seen, and that the others stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as kl
from tiny_models import ON_ANY_MODEL, few, make_doc

import kerasight
from kerasight import metrics
from kerasight.keras.anatomy import Anatomy
from kerasight.keras.docs import inputs_of
from kerasight.keras.record import record_batch
from kerasight.keras.targets import Classes
from kerasight.keras.traces import WORTH_A_TRACE
from kerasight.metrics.evaluation import evaluate

IMAGE, AGE = make_doc(), np.array([[3.0]], np.float32)


class Three(kl.Layer):
    """Passes on a three, and makes NaN of all else."""

    def call(self, inputs: Any) -> Any:
        return keras.ops.where(inputs == 3, inputs, np.nan)


def aged(pack: Callable[[Any, Any], Any], *on_age: kl.Layer) -> keras.Model:
    """Class 0 has the mean of the map times the age, class 1 its negative."""
    image, age = keras.Input((8, 8, 3), name="image"), keras.Input((1,), name="age")
    pooled = kl.GlobalAveragePooling2D()(kl.Conv2D(1, 1, activation="relu", name="map")(image))
    known = age
    for layer in on_age:
        known = layer(known)
    scores = kl.Dense(2, use_bias=False, name="scores")(kl.Multiply()([pooled, known]))
    model = keras.Model(pack(image, age), scores, name="aged")
    model.get_layer("scores").set_weights([np.array([[1.0, -1.0]])])
    return model


def as_dict(image: Any, age: Any) -> dict[str, Any]:
    return {"image": image, "age": age}


def as_list(image: Any, age: Any) -> list[Any]:
    return [image, age]


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__(name="subclassed")
        self.inner = aged(as_list)

    def call(self, inputs: Any) -> Any:
        return self.inner([inputs["image"], inputs["age"]])


@pytest.mark.parametrize("pack", [as_dict, as_list])
@pytest.mark.parametrize("given", [as_dict, as_list])
def test_they_come_as_the_model_takes_them(pack: Any, given: Any) -> None:
    model = aged(pack)
    if (pack, given) == (as_dict, as_list):
        with pytest.raises(ValueError, match="'aged' takes a dict of 2 inputs, 'age' of shape"):
            inputs_of(Anatomy(model), given(IMAGE, AGE))
        return
    for _ in range(WORTH_A_TRACE + 2):  # eagerly, and compiled
        anatomy = Anatomy(model)
        inputs = inputs_of(anatomy, given(IMAGE, AGE))
        (found,) = record_batch(anatomy, inputs, Classes(np.array([[0]]))).terms(0)
        assert found.path == "map"
        np.testing.assert_allclose(found.gradients, 3 / 64, atol=1e-6)
        expl = kerasight.explain_prediction(model, given(IMAGE, AGE), targets=[0])
        assert expl.image.size == (8, 8)
        assert expl.targets[0].score == pytest.approx(3 * found.activations.mean(), abs=1e-5)


def test_a_subclassed_model_takes_the_structure_as_it_is() -> None:
    model, inner = Subclassed(), aged(as_list)
    model.inner = inner
    expl = kerasight.explain_prediction(model, as_dict(IMAGE, AGE), targets=[0])
    plain = kerasight.explain_prediction(inner, [IMAGE, AGE], targets=[0])
    np.testing.assert_allclose(expl.targets[0].heatmap, plain.targets[0].heatmap, atol=1e-6)


def test_more_than_the_model_takes_is_left_out() -> None:
    more = {**as_dict(IMAGE, AGE), "patient": np.array([[7.0]])}
    assert kerasight.explain_prediction(aged(as_dict), more).layer == "map"


@pytest.mark.parametrize("method", ON_ANY_MODEL)
@pytest.mark.parametrize("smooth", [None, 2])
def test_whatever_changes_the_picture_leaves_the_others(method: str, smooth: int | None) -> None:
    model, changed = aged(as_list, Three()), [IMAGE, AGE + 1]
    asked = {"method": method, "smooth": smooth, **few(method)}
    expl = kerasight.explain_prediction(model, [IMAGE, AGE], **asked)
    assert np.isfinite(expl.targets[0].heatmap).all()
    with pytest.raises(ValueError, match="NaN"):
        kerasight.explain_prediction(model, changed, **asked)


def siamese() -> keras.Model:
    """Two pictures go through one convolution, and the class compares what is pooled."""
    left, right = keras.Input((8, 8, 3), name="left"), keras.Input((8, 8, 3), name="right")
    body = keras.Sequential([kl.Conv2D(4, 3, activation="relu", name="conv")], name="body")
    pool = kl.GlobalAveragePooling2D()
    scores = kl.Dense(2)(kl.Concatenate()([pool(body(left)), pool(body(right))]))
    return keras.Model([left, right], scores, name="pair")


def corner(rows: slice) -> np.ndarray:
    doc = np.zeros((1, 8, 8, 3), np.float32)
    doc[:, rows, rows] = 1
    return doc


@pytest.mark.parametrize("layer", [None, "conv"])
@pytest.mark.parametrize(("seen", "rows"), [("left", slice(0, 3)), (1, slice(3, 6))])
def test_of_two_pictures_the_map_of_the_one_that_is_seen_is_explained(
    layer: str | None, seen: str | int, rows: slice
) -> None:
    keras.utils.set_random_seed(1)
    model, pictures = siamese(), [corner(slice(0, 3)), corner(slice(5, 8))]
    for _ in range(WORTH_A_TRACE + 2):
        expl = kerasight.explain_prediction(model, pictures, seen=seen, layer=layer, relu=False)
        heat = np.abs(expl.targets[0].heatmap)
        assert heat[rows, rows].any()
        heat[rows, rows] = 0
        assert not heat.any()


def test_of_two_pictures_one_must_be_said() -> None:
    with pytest.raises(ValueError, match=r"pass seen=.*'left' of shape .*, 'right' of shape"):
        kerasight.explain_prediction(siamese(), [IMAGE, IMAGE])


def test_a_layer_of_the_other_picture_is_refused() -> None:
    left, right = keras.Input((8, 8, 3), name="left"), keras.Input((8, 8, 3), name="right")
    ones = kl.Conv2D(2, 3, activation="relu", name="of_left")(left)
    others = kl.Conv2D(2, 3, activation="relu", name="of_right")(right)
    pool = kl.GlobalAveragePooling2D()
    scores = kl.Dense(2)(kl.Concatenate()([pool(ones), pool(others)]))
    model = keras.Model([left, right], scores)
    pictures = [IMAGE, make_doc(seed=1)]
    assert kerasight.explain_prediction(model, pictures, seen="left").layer == "of_left"
    with pytest.raises(ValueError, match="'of_right' does not depend on the input"):
        kerasight.explain_prediction(model, pictures, seen="left", layer="of_right")


@pytest.mark.parametrize(
    ("doc", "error", "says"),
    [
        (IMAGE, ValueError, r"has 2 inputs, 'age' of shape \(any, 1\), 'image' of shape"),
        ({"image": IMAGE}, ValueError, "no input 'age' .*got 'image'"),
        ({}, ValueError, "no input 'age' .*got none"),
        ([IMAGE], ValueError, "a dict of 2 inputs, .*got a list of 1 array"),
        (as_dict(IMAGE, AGE[0]), ValueError, r"input 'age' of doc .*\(1, 1\), got \(1,\).*batch"),
        (as_dict(IMAGE, [3.0]), TypeError, "input 'age/0'|no input 'age'"),
        (as_dict(IMAGE, np.array([["old"]])), TypeError, "input 'age' of doc must be .*numbers"),
        (as_dict(IMAGE, AGE * np.nan), ValueError, "input 'age' of doc must be finite"),
        (as_dict(IMAGE[:, :4], AGE), ValueError, r"input 'image' of doc .*\(1, 8, 8, 3\), got"),
    ],
)
def test_what_does_not_fit_is_refused(doc: Any, error: type, says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        kerasight.explain_prediction(aged(as_dict), doc)


@pytest.mark.parametrize(
    ("seen", "error", "says"),
    [
        ("imag", ValueError, "no input 'imag'; .*image"),
        (2, ValueError, "one of 2 inputs"),
        (1.0, TypeError, "seen, if it is no name, must be an integer, got float"),
        (True, TypeError, "got bool"),
    ],
)
def test_an_input_that_is_not_there_cannot_be_seen(seen: Any, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        kerasight.explain_prediction(aged(as_dict), as_dict(IMAGE, AGE), seen=seen)


def test_an_input_that_is_no_picture_is_not_supported() -> None:
    expl = kerasight.explain_prediction(aged(as_dict), as_dict(IMAGE, AGE), seen="age")
    assert "'image' of shape (any, 8, 8, 3); seen= says" in expl.error


IMAGES = np.concatenate([make_doc(seed=seed) for seed in range(5)])
AGES = np.arange(1.0, 6.0, dtype=np.float32)[:, np.newaxis]
PAIRS = list(zip(IMAGES, AGES, strict=True))


@pytest.mark.parametrize(
    ("pack", "docs"),
    [
        (as_dict, as_dict(IMAGES, AGES)),
        (as_dict, [as_dict(*pair) for pair in PAIRS]),
        (as_dict, [(as_dict(*pair), "label") for pair in PAIRS]),
        (as_dict, [as_dict(IMAGES[:3], AGES[:3]), (as_dict(IMAGES[3:], AGES[3:]), [0, 1])]),
        (as_list, [IMAGES, AGES]),
        (as_list, (IMAGES, AGES)),
        (as_list, [list(pair) for pair in PAIRS]),
        (as_list, [(pair, "label") for pair in PAIRS]),
    ],
)
@pytest.mark.parametrize("batch_size", [2, 32])
def test_a_stream_gives_what_each_gives_alone(pack: Any, docs: Any, batch_size: int) -> None:
    model = aged(pack)
    found = list(kerasight.explain_predictions(model, docs, batch_size=batch_size, targets=[0]))
    assert len(found) == 5
    for expl, image, age in zip(found, IMAGES, AGES, strict=True):
        alone = kerasight.explain_prediction(
            model, pack(image[np.newaxis], age[np.newaxis]), targets=[0]
        )
        np.testing.assert_allclose(expl.targets[0].heatmap, alone.targets[0].heatmap, atol=1e-5)
        assert expl.targets[0].score == pytest.approx(alone.targets[0].score, abs=1e-5)


def test_in_a_stream_each_that_does_not_fit_is_told_with_its_position() -> None:
    docs = [as_dict(*PAIRS[0]), {"image": PAIRS[1][0]}, as_dict(*PAIRS[2])]
    found = list(kerasight.explain_predictions(aged(as_dict), docs, errors="keep"))
    assert [bool(expl.error) for expl in found] == [False, True, False]
    assert found[1].error.startswith("doc 1: doc has no input 'age'")


def test_inputs_of_a_batch_that_differ_in_number_are_refused() -> None:
    docs = as_dict(IMAGES, AGES[:4])
    with pytest.raises(ValueError, match=r"as many rows, got shapes \(4, 1\), \(5, 8, 8, 3\)"):
        list(kerasight.explain_predictions(aged(as_dict), docs))


def test_a_keras_dataset_of_several_inputs_is_a_stream() -> None:
    class Pairs(keras.utils.PyDataset):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> Any:
            rows = slice(3 * index, 3 * index + 3)
            return as_dict(IMAGES[rows], AGES[rows]), np.zeros(3)

    model = aged(as_dict)
    assert len(list(kerasight.explain_predictions(model, Pairs(workers=1)))) == 5


@pytest.mark.parametrize(
    "metric",
    [
        metrics.deletion,
        metrics.insertion,
        metrics.average_drop,
        metrics.increase,
        metrics.road,
    ],
)
def test_a_metric_changes_the_picture_of_each_doc_alone(metric: Any) -> None:
    model, docs = aged(as_dict), as_dict(IMAGES, AGES)
    heatmaps = [make_doc((4, 4), seed=seed) for seed in range(5)]
    found = metric(model, docs, heatmaps, targets=[0], batch_size=2)
    for place, heatmap in enumerate(heatmaps):
        one = as_dict(IMAGES[place : place + 1], AGES[place : place + 1])
        alone = metric(model, one, heatmap, targets=[0])
        for name in ("scores", "before", "after", "morf"):
            if hasattr(found, name):
                np.testing.assert_allclose(
                    getattr(found, name)[place], getattr(alone, name)[0], rtol=1e-5
                )


def test_metrics_want_to_know_which_of_two_pictures() -> None:
    model, pictures = siamese(), [IMAGES, IMAGES[::-1]]
    with pytest.raises(ValueError, match="pass seen="):
        metrics.deletion(model, pictures, np.ones((5, 4, 4)))
    left, right = (
        metrics.deletion(model, pictures, IMAGES[..., 0], seen=seen, steps=3, targets=[0])
        for seen in ("left", "right")
    )
    np.testing.assert_allclose(left.scores[:, 0], right.scores[:, 0], rtol=1e-5)
    assert not np.isclose(left.scores[:, -1], right.scores[:, -1]).any()


@pytest.mark.parametrize("docs", [as_dict(IMAGES, AGES), [as_dict(*pair) for pair in PAIRS]])
def test_methods_are_evaluated_on_docs_of_several_inputs(docs: Any) -> None:
    found = evaluate(
        aged(as_dict),
        docs,
        methods=["grad-cam", "score-cam"],
        metrics=["deletion"],
        targets=[0] * 5,
        steps=4,
        random=False,
    )
    assert len(found.rows) == 10
    assert all(np.isfinite(row.values["deletion"]) for row in found.rows)


def test_the_sanity_check_takes_several_inputs() -> None:
    model = aged(as_dict)
    found = metrics.sanity_check(model, as_dict(IMAGES[:2], AGES[:2]), steps=1, repeats=1, seed=1)
    assert found.correlations.shape == (2, 1, 1)
    with pytest.raises(ValueError, match="pass seen="):
        metrics.sanity_check(siamese(), [IMAGES, IMAGES], steps=1)
    of_right = metrics.sanity_check(siamese(), [IMAGES[:1], IMAGES[1:2]], steps=1, seen="right")
    assert of_right.correlations.shape == (1, 3, 1)
