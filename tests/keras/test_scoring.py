from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from frameworks import compiles
from keras import layers as kl
from tiny_models import (
    MODELS,
    Chain,
    by_hand,
    doc_for,
    make_doc,
    scores_of,
    state_of,
)

from kerasight.cam.inputs import Inputs
from kerasight.cam.layout import CHANNELS_LAST
from kerasight.keras import record as recording
from kerasight.keras import scoring
from kerasight.keras.anatomy import Anatomy
from kerasight.keras.record import record
from kerasight.keras.scoring import scores_from
from kerasight.keras.sites import Site
from kerasight.targets import Region


@pytest.fixture(params=list(MODELS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def scorer(model: keras.Model, docs: np.ndarray) -> Any:
    score = recording.scorer(model, Inputs(docs))
    return lambda batch: score(Inputs(batch))


def test_scores_of_many_are_those_of_the_model_one_by_one(name: str) -> None:
    model, doc = MODELS[name](), doc_for(name)
    scores_of(model, doc)  # builds it
    before = state_of(model)
    docs = np.concatenate([doc, doc**2, -doc])
    found = scorer(model, docs)(docs)
    np.testing.assert_allclose(
        found, [scores_of(model, docs[i : i + 1]) for i in range(3)], rtol=1e-5, atol=1e-6
    )
    assert state_of(model) == before


def test_the_facts_of_a_target_are_those_of_the_run_that_gave_the_scores() -> None:
    """Class 0 is where a pixel is above zero; eagerly, compiled, and of more docs than before."""
    signs = keras.initializers.Constant(np.float32([[[[1, -1]]]]))
    model = keras.Sequential([keras.Input((2, 2, 1)), kl.Conv2D(2, 1, kernel_initializer=signs)])
    anatomy = Anatomy(model, Region(0))
    docs = np.random.default_rng(0).normal(size=(7, 2, 2, 1)).astype(np.float32)
    for number in (1, 7, 7, 3):
        anatomy.refresh()
        found = scoring.scored(anatomy, Inputs(docs[:number]))
        (region,) = found.facts
        expected = docs[:number, :, :, 0] > 0
        np.testing.assert_array_equal(region, expected)
        means = (docs[:number, :, :, 0] * expected).sum((1, 2)) / expected.sum((1, 2)).clip(1)
        np.testing.assert_allclose(found.scores[:, 0], means, atol=1e-6)


def normalised() -> keras.Model:
    """Scores are the means of two channels, normalised to mean 0 and variance 1 of the past."""
    model = keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            kl.BatchNormalization(epsilon=0, name="norm"),
            kl.GlobalAveragePooling2D(),
        ]
    )
    model.set_weights(np.float32([[1, 1], [0, 0], [3, 0], [4, 1]]))  # times, plus; mean, variance
    return model


@compiles
def test_scores_of_many_are_with_the_weights_of_when_they_were_first_asked_for() -> None:
    model, doc = normalised(), np.full((1, 4, 4, 2), 5, np.float32)
    score = scorer(model, doc)
    np.testing.assert_allclose(score(doc), [[1, 5]])
    model.set_weights(np.float32([[1, 1], [0, 0], [1, 0], [4, 25]]))
    np.testing.assert_allclose(score(doc), [[1, 5]])
    np.testing.assert_allclose(scorer(model, doc)(doc), [[2, 1]])


def test_of_a_large_model_no_copy_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "_MOST_WEIGHTS", 31)
    model, doc = normalised(), np.full((1, 4, 4, 2), 5, np.float32)
    score = scorer(model, doc)
    model.set_weights(np.float32([[1, 1], [0, 0], [1, 0], [4, 25]]))
    np.testing.assert_allclose(score(doc), [[2, 1]])


def test_what_cannot_be_compiled_is_scored_all_the_same() -> None:
    class Eager(kl.Layer):
        def call(self, inputs: Any) -> Any:
            return keras.ops.convert_to_tensor(np.asarray(inputs) * 2)

    model = Chain([Eager(), kl.GlobalAveragePooling2D()], name="eager")
    doc = np.full((1, 4, 4, 2), 5, np.float32)
    scores_of(model, doc)
    np.testing.assert_allclose(scorer(model, doc)(doc), [[10, 10]])


@pytest.mark.parametrize("at_input", [False, True])
def test_a_model_goes_on_with_what_stands_in_the_place_of_what_was_seen(at_input: bool) -> None:
    model, docs = by_hand(), np.array([[[[3.0], [1.0]], [[0.0], [0.0]]]], np.float32)
    layer = model.layers[1] if at_input else model.layers[0]
    anatomy = Anatomy(model)
    scores = scores_from(anatomy, anatomy.inputs_of(docs), Site(layer, at_input, 0, CHANNELS_LAST))
    # The scores are the means of the two channels.
    for number in (1, 3, 2):
        maps = np.arange(number * 8, dtype=np.float32).reshape(number, 2, 2, 2)
        np.testing.assert_allclose(scores(maps), maps.mean(axis=(1, 2)))


def test_maps_of_another_size_are_gone_on_with_as_well() -> None:
    model = MODELS["dynamic shape"]()
    anatomy = Anatomy(model)
    site = record(model, make_doc()).site
    assert site.layer.name == "mix"
    scores = scores_from(anatomy, anatomy.inputs_of(make_doc()), site, logits=True)
    kernel, bias = model.layers[-1].get_weights()
    for side in (4, 6):
        maps = make_doc((2, side, side, 5))
        np.testing.assert_allclose(scores(maps), maps.mean((1, 2)) @ kernel + bias, atol=1e-5)


# Compiled functions that fail
