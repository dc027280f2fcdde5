"""The demonstration: its pictures, its classifier, and whether explanations find the objects."""

from __future__ import annotations

from importlib import resources

import keras
import numpy as np
import pytest
from demo.train import draw_embedded_picture, draw_empty, grad_cam, look, pack_weights
from fresh_python import imported_by
from PIL import Image

from kerasight import explain_prediction
from kerasight.demo import (
    CLASS_NAMES,
    Picture,
    draw_pair,
    draw_picture,
    load_model,
    load_picture,
    preprocess,
)
from kerasight.metrics import energy_in_mask, pointing_game

# The training draws from seeds that are lists, so no picture of a whole number is one it has seen.
UNSEEN = 10**6
SIZE = 128


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return load_model()


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return [draw_picture(UNSEEN + number, size=SIZE) for number in range(150)]


@pytest.fixture(scope="module")
def pairs() -> list[Picture]:
    return [draw_pair(UNSEEN + number, size=SIZE) for number in range(40)]


def heatmap_of(model: keras.Model, picture: Picture, target: int | None = None) -> np.ndarray:
    targets = None if target is None else [target]
    doc = preprocess(picture.image)
    explanation = explain_prediction(model, doc, image=picture.image, targets=targets)
    return explanation.targets[0].heatmap


# The pictures


def test_there_are_at_least_six_classes_of_different_names() -> None:
    assert len(CLASS_NAMES) >= 6
    assert len(set(CLASS_NAMES)) == len(CLASS_NAMES)


@pytest.mark.parametrize("label", range(len(CLASS_NAMES)), ids=CLASS_NAMES)
def test_a_picture_shows_one_object_of_the_class_asked_for(label: int) -> None:
    picture = draw_picture(3, label=label, size=96)
    assert picture.labels == (label,)
    assert picture.image.mode == "RGB"
    assert picture.image.size == (96, 96)
    (mask,) = picture.masks
    assert mask.dtype == bool
    assert mask.shape == (96, 96)


def test_an_object_is_a_fair_share_of_the_picture_and_within_it(pictures: list[Picture]) -> None:
    for picture in pictures:
        (mask,) = picture.masks
        rows, columns = np.nonzero(mask)
        assert 0.03 < mask.mean() < 0.25
        assert 0.2 < max(np.ptp(rows), np.ptp(columns)) / SIZE < 0.55
        edge = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        assert not edge.any()


def test_a_pair_shows_two_classes_that_do_not_overlap(pairs: list[Picture]) -> None:
    for pair in pairs:
        first, second = pair.masks
        assert pair.labels[0] != pair.labels[1]
        assert first.any()
        assert second.any()
        assert not (first & second).any()


def test_a_pair_shows_the_classes_asked_for_in_their_order() -> None:
    assert draw_pair(0, labels=[5, 2], size=64).labels == (5, 2)


def test_without_a_label_every_class_is_drawn(pictures: list[Picture]) -> None:
    assert {picture.labels[0] for picture in pictures} == set(range(len(CLASS_NAMES)))


@pytest.mark.parametrize("draw", [draw_picture, draw_pair, draw_empty])
def test_a_seed_always_gives_the_same_picture(draw) -> None:  # type: ignore[no-untyped-def]
    one, same, other = draw(7, size=64), draw(np.random.default_rng(7), size=64), draw(8, size=64)
    assert one.image.tobytes() == same.image.tobytes()
    assert one.labels == same.labels
    for mask, same_mask in zip(one.masks, same.masks, strict=True):
        np.testing.assert_array_equal(mask, same_mask)
    assert one.image.tobytes() != other.image.tobytes()


def test_a_seed_gives_the_same_picture_at_every_size() -> None:
    large, small = draw_pair(5, size=384), draw_pair(5, size=128)
    assert large.labels == small.labels
    difference = np.abs(preprocess(large.image) - preprocess(small.image)).mean()
    assert difference < 0.05  # of values from -1 to 1
    for mask, small_mask in zip(large.masks, small.masks, strict=True):
        assert (mask[1::3, 1::3] == small_mask).mean() > 0.98


def test_an_empty_picture_has_no_objects() -> None:
    picture = draw_empty(0, size=64)
    assert picture.labels == ()
    assert picture.masks == ()


@pytest.mark.parametrize("label", [-1, len(CLASS_NAMES)])
def test_a_label_that_is_no_class_is_refused(label: int) -> None:
    with pytest.raises(ValueError, match="label must be a class"):
        draw_picture(0, label=label)


@pytest.mark.parametrize("labels", [[1, 1], [1], [1, 2, 3]])
def test_labels_that_are_not_two_classes_are_refused(labels: list[int]) -> None:
    with pytest.raises(ValueError, match="two different classes"):
        draw_pair(0, labels=labels)


def test_a_size_too_small_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 32"):
        draw_picture(0, size=16)


# What is shipped


def test_weights_and_picture_are_small() -> None:
    folder = resources.files("kerasight.demo")
    assert len(folder.joinpath("classifier.npz").read_bytes()) < 400_000
    assert len(folder.joinpath("pair.png").read_bytes()) < 200_000


def test_the_training_script_makes_what_is_shipped(model: keras.Model) -> None:
    folder = resources.files("kerasight.demo")
    with folder.joinpath("classifier.npz").open("rb") as file, np.load(file) as shipped:
        packed = pack_weights(model)
        assert list(packed) == list(shipped)
        assert all(np.array_equal(packed[name], shipped[name]) for name in packed)
    drawn = np.asarray(draw_embedded_picture(), dtype=float)
    assert np.abs(drawn - np.asarray(load_picture())).mean() < 1


def test_the_embedded_picture_is_large_enough_to_look_at() -> None:
    picture = load_picture()
    assert picture.mode == "RGB"
    assert picture.size == (384, 384)


@pytest.mark.parametrize(
    "statement",
    [
        "import kerasight.demo",
        "import kerasight.demo; kerasight.demo.draw_picture(0, size=64)",
        "import kerasight.demo as d; d.preprocess(d.load_picture())",
    ],
)
def test_only_the_model_needs_a_framework(statement: str) -> None:
    assert imported_by(statement) == set()


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    import kerasight.demo

    assert set(kerasight.demo.__all__) <= set(dir(kerasight.demo))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = kerasight.demo.nothing


# The classifier


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "F"])
def test_a_picture_of_any_mode_and_size_becomes_an_input(mode: str) -> None:
    doc = preprocess(draw_picture(1, size=64).image.convert("L").convert(mode).resize((150, 90)))
    assert doc.dtype == np.float32
    assert doc.shape == (1, 96, 96, 3)
    assert doc.min() >= -1
    assert doc.max() <= 1


def test_inputs_run_from_minus_one_for_black_to_one_for_white() -> None:
    assert (preprocess(Image.new("RGB", (10, 10), "black")) == -1).all()
    assert (preprocess(Image.new("RGB", (10, 10), "white")) == 1).all()


def test_the_model_always_loads_with_the_same_weights(model: keras.Model) -> None:
    again = load_model()
    for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_model_reads_its_own_pictures_and_gives_probabilities(model: keras.Model) -> None:
    assert model.input_shape == (None, *preprocess(load_picture()).shape[1:])
    probabilities = model.predict(preprocess(load_picture()), verbose=0)
    assert probabilities.shape == (1, len(CLASS_NAMES))
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_the_classifier_is_right_and_not_saturated(
    model: keras.Model, pictures: list[Picture]
) -> None:
    docs = np.concatenate([preprocess(picture.image) for picture in pictures])
    probabilities = model.predict(docs, verbose=0)
    labels = [picture.labels[0] for picture in pictures]
    assert (probabilities.argmax(axis=1) == labels).mean() >= 0.97
    assert 0.8 < np.median(probabilities.max(axis=1)) < 0.95
    assert probabilities.max() < 0.99


def test_the_classifier_has_no_opinion_on_a_picture_without_objects(model: keras.Model) -> None:
    docs = np.concatenate([preprocess(draw_empty(seed, size=SIZE).image) for seed in range(20)])
    assert np.median(model.predict(docs, verbose=0).max(axis=1)) < 0.3


# The explanations


def test_the_hottest_cell_lies_on_the_object(model: keras.Model, pictures: list[Picture]) -> None:
    heatmaps = [heatmap_of(model, picture) for picture in pictures]
    assert pointing_game(heatmaps, [picture.masks[0] for picture in pictures]).accuracy >= 0.95
    assert min(heatmap.max() for heatmap in heatmaps) > 0.99


def test_each_class_of_a_pair_is_found_on_its_own_object(
    model: keras.Model, pairs: list[Picture]
) -> None:
    heatmaps = [heatmap_of(model, pair, target=label) for pair in pairs for label in pair.labels]
    own = [mask for pair in pairs for mask in pair.masks]
    other = [mask for pair in pairs for mask in pair.masks[::-1]]
    own_heat, other_heat = (energy_in_mask(heatmaps, masks).shares for masks in (own, other))
    assert np.mean(own_heat > other_heat) >= 0.95
    assert pointing_game(heatmaps, own).accuracy >= 0.9


def test_the_embedded_picture_shows_two_classes_in_two_places(model: keras.Model) -> None:
    picture = load_picture()
    doc = preprocess(picture)
    top_two = np.argsort(model.predict(doc, verbose=0)[0])[-2:]
    assert {CLASS_NAMES[target] for target in top_two} == {"rocket", "house"}
    hottest = {}
    for target in top_two:
        explanation = explain_prediction(model, doc, image=picture, targets=[int(target)])
        heatmap = explanation.targets[0].heatmap
        row, column = np.unravel_index(heatmap.argmax(), heatmap.shape)
        hottest[CLASS_NAMES[target]] = (row / heatmap.shape[0], column / heatmap.shape[1])
    assert hottest["rocket"][1] > 0.5 > hottest["house"][1]


def test_the_closed_form_of_the_training_report_is_grad_cam(
    model: keras.Model, pairs: list[Picture]
) -> None:
    docs = np.concatenate([preprocess(pair.image) for pair in pairs[:5]])
    targets = np.array([pair.labels[0] for pair in pairs[:5]])
    closed = grad_cam(model, *look(model, docs), targets)
    for pair, heatmap in zip(pairs, closed, strict=False):
        explained = heatmap_of(model, pair, target=pair.labels[0])
        np.testing.assert_allclose(explained, heatmap / heatmap.max(), atol=1e-3)
