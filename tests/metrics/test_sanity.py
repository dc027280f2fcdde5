from __future__ import annotations

import math
import re
import threading
from typing import Any

import keras
import matplotlib
import numpy as np
import pytest
from frameworks import compiles
from matplotlib import pyplot as plt
from tiny_models import CLASSES, MODELS, SIDE, Chain, doc_for, make_doc, scores_of, state_of

import kerasight
from kerasight import demo
from kerasight.metrics import SanityCheck, sanity_check
from kerasight.metrics.random_weights import drawn
from kerasight.metrics.sanity import spearman

matplotlib.use("agg")


class Positive(keras.layers.Layer):
    """Scores that grow with what comes in, whatever the weights are."""

    def build(self, input_shape: Any) -> None:
        self.kernel = self.add_weight(
            name="kernel", shape=(input_shape[-1], 2), initializer="glorot_uniform"
        )

    def call(self, inputs: Any) -> Any:
        return keras.ops.matmul(inputs, keras.ops.exp(self.kernel))


def blind() -> keras.Model:
    """The heatmap of its one map is that map, whatever the weights are."""
    return keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 1)),
            keras.layers.AveragePooling2D(2, name="shrink"),
            keras.layers.GlobalAveragePooling2D(),
            Positive(name="positive"),
        ],
        name="blind",
    )


def seeing() -> keras.Model:
    """The heatmap comes from eight random maps and random weights of them."""
    return keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            keras.layers.Conv2D(8, 3, padding="same", activation="tanh", name="low"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Conv2D(8, 3, padding="same", activation="tanh", name="high"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, name="scores"),
        ],
        name="seeing",
    )


# Verdicts


def test_a_heatmap_that_weights_do_not_touch_fails() -> None:
    found = sanity_check(blind(), make_doc((1, SIDE, SIDE, 1)))
    assert found.verdict == "fails"
    np.testing.assert_allclose(found.correlations, 1)
    assert found.layers == ("positive",)
    assert "with 1 layer random" in repr(found)
    assert float(found) == found.final == pytest.approx(1)
    np.testing.assert_allclose(found.heatmaps[0, 2, 0], found.originals[0], atol=1e-5)


def test_a_heatmap_that_is_made_of_weights_passes() -> None:
    found = sanity_check(seeing(), make_doc((6, SIDE, SIDE, 3)), relu=False, repeats=4)
    assert found.verdict == "passes"
    assert found.layers == ("scores", "high", "norm", "low")
    np.testing.assert_array_equal(found.counts, [1, 2, 3, 4])
    assert found.correlations.shape == (6, 4, 4)
    assert found.heatmaps.shape == (6, 4, 4, SIDE, SIDE)
    assert found.originals.shape == (6, SIDE, SIDE)


def test_on_the_model_of_the_demo_it_is_told_where_it_can_be() -> None:
    model = demo.load_model()
    docs = np.concatenate([demo.preprocess(demo.draw_picture(seed).image) for seed in range(10)])
    found = sanity_check(model, docs, logits=True, steps=1)
    assert found.verdict == "passes"
    expl = kerasight.explain_prediction(model, docs[3:4], logits=True)
    assert expl.targets
    assert (found.targets[3], found.layer, found.method) == (
        expl.targets[0].target,
        expl.layer,
        "Grad-CAM",
    )
    np.testing.assert_allclose(found.originals[3], expl.targets[0].heatmap, atol=1e-6)
    # Of 40 docs the mean is 0.499, give or take 0.026, and what a few of them give is chance.
    found = sanity_check(model, docs, logits=True, steps=1, method="layercam")
    assert found.verdict == "cannot be told"


def test_of_a_blank_heatmap_nothing_can_be_told() -> None:
    model = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            keras.layers.AveragePooling2D(2),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(1),
        ]
    )
    model.layers[-1].set_weights([-np.ones((3, 1), np.float32), np.zeros(1, np.float32)])
    # Nothing speaks for the class; the warning of that would fail the test.
    found = sanity_check(model, make_doc())
    assert found.verdict == "cannot be told"
    assert np.isnan(found.correlations).all()
    assert np.isnan(found.final)
    assert np.isnan(found.error)
    assert "nothing to compare" in repr(found)
    assert "logits=True mostly helps" in repr(found)


NAN = math.nan


def make(finals: list[list[float]], threshold: float = 0.5) -> SanityCheck:
    """A check whose last correlations are ``finals``, shape ``(docs, repeats)``."""
    last = np.array(finals)
    docs, repeats = last.shape
    return SanityCheck(
        layers=("scores", "backbone/conv_of_a_very_long_name_indeed"),
        counts=np.array([1, 5]),
        correlations=np.stack([np.full_like(last, 0.9), last], axis=-1),
        heatmaps=np.ones((docs, repeats, 2, 2, 2)),
        originals=np.ones((docs, 2, 2)),
        threshold=threshold,
        targets=np.arange(7, 7 + docs),
        layer="conv",
        method="Grad-CAM",
    )


def test_the_interval_is_over_docs_of_which_each_is_the_mean_of_its_repeats() -> None:
    # Means of docs: 0.1, 0.2, 0.3. Their deviation is 0.1, and 4.303 the quantile of 2 degrees.
    found = make([[0.0, -0.2], [0.2, 0.2], [-0.5, 0.1]])
    assert found.final == pytest.approx(0.2)
    assert found.error == pytest.approx(0.1 / math.sqrt(3))
    assert found.interval == pytest.approx((0, 0.2 + 4.3027 * 0.1 / math.sqrt(3)), abs=1e-4)
    assert found.verdict == "passes"


def test_more_repeats_do_not_make_up_for_docs() -> None:
    few, many = ([[0.2] * n, [0.4] * n, [0.6] * n] for n in (2, 50))
    assert make(many).interval == pytest.approx(make(few).interval)
    assert make(few).verdict == "cannot be told"


def test_of_a_single_doc_the_interval_is_over_its_repeats() -> None:
    found = make([[0.1, 0.2, 0.3]])
    assert found.error == pytest.approx(0.1 / math.sqrt(3))
    assert found.verdict == "passes"
    assert make([[0.1, 0.2]]).verdict == "cannot be told"  # 0.15, give or take 0.64
    only = make([[0.1]])
    assert only.final == pytest.approx(0.1)
    assert np.isnan([only.error, *only.interval]).all()
    assert only.verdict == "cannot be told"


def test_the_verdict_takes_the_whole_interval() -> None:
    # The half width is 12.706 * 0.01 = 0.12706.
    assert make([[0.37], [-0.35]]).interval == pytest.approx((0.2329, 0.4871), abs=1e-4)
    assert make([[0.37], [0.35]]).verdict == "passes"
    assert make([[0.39], [-0.37]]).verdict == "cannot be told"
    assert make([[0.62], [0.60]]).verdict == "cannot be told"
    assert make([[-0.65], [0.63]]).verdict == "fails"
    assert make([[0.37], [0.35]], threshold=0.2).verdict == "fails"
    assert make([[0.9], [0.9]], threshold=0.9).verdict == "fails"


def test_what_is_the_same_everywhere_is_left_out() -> None:
    full = make([[0.1, 0.3], [0.4, 0.4]])
    assert make([[0.1, 0.3], [0.4, NAN], [NAN, NAN]]).interval == pytest.approx(full.interval)
    assert make([[0.1, 0.2, NAN], [NAN] * 3]).interval == make([[0.1, 0.2]]).interval
    found = make([[0.1], [0.1], [NAN]])
    assert found.verdict == "passes"
    assert "1 doc with nothing to compare left out" in repr(found)


# What is done


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_model_is_checked_and_left_as_it_was(name: str) -> None:
    model, doc = MODELS[name](), doc_for(name)
    scores = scores_of(model, doc)
    kerasight.explain_prediction(model, doc, layer=None)
    before = state_of(model)
    found = sanity_check(model, np.concatenate([doc, doc]), repeats=2)
    assert state_of(model) == before
    np.testing.assert_array_equal(scores_of(model, doc), scores)
    assert found.correlations.shape == (2, 2, len(found.layers))
    assert (np.abs(found.correlations[~np.isnan(found.correlations)]) <= 1).all()
    assert found.counts[-1] == len({id(layer) for layer in with_weights(model)})


def with_weights(model: keras.Model) -> list[keras.layers.Layer]:
    from kerasight.keras.layers import children, walk

    return [layer for _, layer in walk(model) if layer.weights and not children(layer)]


class Holding(keras.Model):
    """Holds its layers in a closure, and knows them by their ids."""

    def __init__(self) -> None:
        super().__init__(name="holding")
        conv, pool, scores = self.stack = [
            keras.layers.Conv2D(4, 3, name="conv"),
            keras.layers.GlobalAveragePooling2D(name="pool"),
            keras.layers.Dense(CLASSES, name="scores"),
        ]
        self.known = frozenset(map(id, self.stack))
        self.run = lambda inputs: scores(pool(conv(inputs)))

    def call(self, inputs: Any) -> Any:
        assert self.known == frozenset(map(id, self.stack))
        return self.run(inputs)


class Unhashable(keras.layers.Layer):
    """Equal to any other of its kind, and so without a hash."""

    def __init__(self) -> None:
        super().__init__(name="same")

    def build(self, input_shape: Any) -> None:
        self.scale = self.add_weight(name="scale", shape=(3, 3), initializer="ones")

    def call(self, inputs: Any) -> Any:
        return keras.ops.matmul(inputs, self.scale)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unhashable)

    __hash__ = None  # type: ignore[assignment]


class OwnSoftmax(keras.Model):
    """Counts its calls, and ends in a softmax that only a graph shows."""

    def __init__(self) -> None:
        super().__init__(name="own_softmax")
        self.rest = seeing()
        self.calls = self.add_weight(name="calls", shape=(), initializer="zeros", trainable=False)

    def call(self, inputs: Any) -> Any:
        from frameworks import tf

        self.calls.assign(self.calls + 1)
        return tf.nn.softmax(self.rest(inputs))


def deep() -> keras.Model:
    inputs = x = keras.Input((SIDE, SIDE, 3))
    for _ in range(400):
        x = keras.layers.Activation("linear")(x)
    x = keras.layers.Conv2D(4, 3, name="conv")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(2, name="scores")(x))


def trained() -> keras.Model:
    model = seeing()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    model.fit(make_doc((4, SIDE, SIDE, 3)), np.zeros(4), verbose=0)
    model.predict(make_doc(), verbose=0)
    return model


def mixed() -> keras.Model:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        return seeing()
    finally:
        keras.config.set_dtype_policy(before)


def quantised() -> keras.Model:
    model = seeing()
    model(make_doc())
    model.get_layer("scores").quantize("int8")
    return model


@pytest.mark.parametrize(
    ("make", "layers"),
    [
        (Holding, ("scores", "conv")),
        (OwnSoftmax, ("own_softmax", "rest/scores", "rest/high", "rest/norm", "rest/low")),
        (deep, ("scores", "conv")),
        (
            lambda: Chain([Unhashable(), *seeing().layers]),
            ("scores", "high", "norm", "low", "same"),
        ),
        (trained, ("scores", "high", "norm", "low")),
        (mixed, ("scores", "high", "norm", "low")),
        (quantised, ("scores", "high", "norm", "low")),
    ],
)
@pytest.mark.parametrize("logits", [False, True])
def test_a_model_may_be_anything_that_can_be_explained(
    make: Any, layers: tuple[str, ...], logits: bool
) -> None:
    model, doc = make(), make_doc()
    scores = scores_of(model, doc)
    before = [keras.ops.convert_to_numpy(weight) for weight in model.variables]
    found = sanity_check(model, doc, relu=False, repeats=2, logits=logits)
    assert tuple(path.replace("seeing", "rest") for path in found.layers) == layers
    assert not np.allclose(found.heatmaps[0, 0, -1], found.originals[0], atol=1e-3)
    assert not np.allclose(found.heatmaps[0, 0, -1], found.heatmaps[0, 1, -1], atol=1e-3)
    for was, weight in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(was, weight)
    np.testing.assert_array_equal(scores_of(model, doc), scores)


@pytest.mark.parametrize("smooth", [None, 3])
def test_random_weights_are_those_that_the_model_would_have_with_them(smooth: int | None) -> None:
    model, doc = seeing(), make_doc()
    found = sanity_check(model, doc, targets=[1], relu=False, repeats=1, smooth=smooth)
    assert ("smoothed over 3" in repr(found)) == (smooth is not None)
    rng = np.random.default_rng([0, 0, 0])  # the seed, the repeat, the doc
    for step, name in enumerate(found.layers):
        redraw(model.get_layer(name), rng)
        expl = kerasight.explain_prediction(model, doc, [1], relu=False, smooth=smooth)
        np.testing.assert_allclose(found.heatmaps[0, 0, step], expl.targets[0].heatmap, atol=1e-5)


class Counted(keras.layers.Layer):
    """Counts how often its Python code runs."""

    def call(self, inputs: Any) -> Any:
        RUNS.append(self.name)
        return inputs


RUNS: list[str] = []


@compiles
def test_compiled_passes_follow_the_weights() -> None:
    model, doc = keras.Sequential([*seeing().layers, Counted()]), make_doc()
    RUNS.clear()
    found = sanity_check(model, doc, relu=False, repeats=10)
    assert len(RUNS) < 40 / 2
    # All differ, but that batch normalisation was never trained, and drawing it changes nothing.
    each = found.heatmaps.reshape(-1, SIDE * SIDE)
    assert len(np.unique(each.round(5), axis=0)) == 30


def test_other_threads_see_the_weights_of_the_model() -> None:
    model, doc = seeing(), make_doc()
    scores = scores_of(model, doc)
    seen: list[np.ndarray] = []
    is_done = threading.Event()

    def watch() -> None:
        while not is_done.is_set():
            seen.append(scores_of(model, doc))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        sanity_check(model, doc, repeats=10)
    finally:
        is_done.set()
        thread.join()
    assert len(seen) > 1
    np.testing.assert_array_equal(seen, np.broadcast_to(scores, (len(seen), *scores.shape)))


def test_after_an_interrupt_the_model_has_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    from kerasight import explain

    model, doc = seeing(), make_doc()
    scores = scores_of(model, doc)
    real, asked = explain.explain_prediction, []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        found = real(*args, **kwargs)
        asked.append(found)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(explain, "explain_prediction", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sanity_check(model, doc)
    np.testing.assert_array_equal(scores_of(model, doc), scores)


def test_what_keeps_to_the_weights_that_it_has_is_refused() -> None:
    from frameworks import tf

    class Embedding(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="embedding")
            self.conv = keras.layers.Conv2D(4, 3, name="conv")
            self.pool = keras.layers.GlobalAveragePooling2D()

        @tf.function
        def embed(self, inputs: Any) -> Any:
            return self.conv(inputs)

        def call(self, inputs: Any) -> Any:
            return self.pool(self.embed(inputs))

    class Calling(Embedding):
        call = tf.function(Embedding.call)  # which is run line by line

        def embed(self, inputs: Any) -> Any:
            return self.conv(inputs)

    with pytest.raises(ValueError, match=r"layer 'embedding' has a tf.function, 'embed', which"):
        sanity_check(Embedding(), make_doc(), layer="pool:input")
    assert sanity_check(Calling(), make_doc()).layers == ("conv",)


def test_a_model_that_was_never_called_is_built_first() -> None:
    found = sanity_check(MODELS["sequential, never called"](), make_doc())
    assert found.layers == ("scores", "mix", "conv")


def test_the_same_seed_gives_the_same_and_another_other_weights() -> None:
    model, doc = seeing(), make_doc()
    kwargs: dict[str, Any] = {"relu": False, "repeats": 2}
    first = sanity_check(model, doc, **kwargs)
    np.testing.assert_allclose(sanity_check(model, doc, **kwargs).heatmaps, first.heatmaps, 1e-5)
    assert not np.allclose(sanity_check(model, doc, seed=1, **kwargs).heatmaps, first.heatmaps)
    assert not np.allclose(first.heatmaps[0, 0], first.heatmaps[0, 1])


def test_each_doc_has_random_weights_of_its_own() -> None:
    model, doc = seeing(), make_doc()
    both = sanity_check(model, np.concatenate([doc, doc]), relu=False, repeats=2)
    np.testing.assert_allclose(both.originals[0], both.originals[1], atol=1e-6)
    assert not np.allclose(both.heatmaps[0], both.heatmaps[1])
    # And they do not depend on how many there are.
    alone = sanity_check(model, doc, relu=False, repeats=2)
    np.testing.assert_allclose(alone.heatmaps[0], both.heatmaps[0], atol=1e-4)


def test_classes_are_those_of_each_doc_or_one_for_all() -> None:
    model, docs = seeing(), make_doc((3, SIDE, SIDE, 3))
    asked: dict[str, Any] = {"relu": False, "repeats": 1, "steps": 1}
    top = keras.ops.convert_to_numpy(model(docs)).argmax(axis=1)
    np.testing.assert_array_equal(sanity_check(model, docs, **asked).targets, top)
    found = sanity_check(model, docs, targets=[2, 0, 1], **asked)
    np.testing.assert_array_equal(found.targets, [2, 0, 1])
    for place, target in enumerate(found.targets):
        expl = kerasight.explain_prediction(model, docs[place : place + 1], [target], relu=False)
        np.testing.assert_array_equal(found.originals[place], expl.targets[0].heatmap)
    found = sanity_check(model, docs, targets=[1], **asked)
    np.testing.assert_array_equal(found.targets, [1, 1, 1])


def test_each_repeat_begins_with_the_trained_weights() -> None:
    # Eigen-CAM looks at what the layer puts out, and at nothing above.
    found = sanity_check(seeing(), make_doc(), layer="low", method="eigen-cam", repeats=3)
    assert found.layers == ("scores", "high", "norm", "low")
    np.testing.assert_allclose(
        found.heatmaps[0, :, :3],
        np.broadcast_to(found.originals[0], (3, 3, SIDE, SIDE)),
        atol=1e-5,
    )
    assert not np.allclose(found.heatmaps[0, :, 3], found.originals[0], atol=0.1)


@pytest.mark.parametrize(
    ("steps", "counts"),
    [
        (1, [4]),
        (2, [1, 4]),
        (3, [1, 2, 4]),
        (4, [1, 2, 3, 4]),
        (20, [1, 2, 3, 4]),
        (None, [1, 2, 3, 4]),
    ],
)
def test_steps_begin_with_the_top_layer_and_end_with_all(
    steps: int | None, counts: list[int]
) -> None:
    found = sanity_check(seeing(), make_doc(), steps=steps, repeats=1)
    np.testing.assert_array_equal(found.counts, counts)
    assert found.layers[-1] == "low"


def test_the_class_and_the_layer_stay_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from kerasight import explain

    asked = []
    real = explain.explain_prediction

    def watched(model: Any, doc: Any, **kwargs: Any) -> Any:
        asked.append((model, kwargs))
        return real(model, doc, **kwargs)

    monkeypatch.setattr(explain, "explain_prediction", watched)
    model, doc = seeing(), make_doc()
    found = sanity_check(
        model, doc, layer=model.get_layer("low"), steps=1, repeats=1, logits=True, relu=False
    )
    (first, how), (then, how_then) = asked
    assert first is model
    assert then is model
    assert how["layer"] is model.get_layer("low")
    assert how_then["layer"] is model.get_layer("low")
    assert how_then["targets"] == found.targets.tolist() == [int(scores_of(model, doc).argmax())]
    assert how_then["logits"] is how["logits"] is True
    assert how_then["relu"] is how["relu"] is False
    assert found.layer == "low"


def test_a_target_and_several_layers_are_passed_on() -> None:
    model = seeing()
    found = sanity_check(
        model, make_doc(), targets=[1], layer=["low", model.get_layer("high")], repeats=1
    )
    assert found.targets.tolist() == [1]
    assert "low" in found.layer
    assert "high" in found.layer


# Random weights


def redraw(layer: keras.layers.Layer, rng: np.random.Generator) -> None:
    """Give a layer random weights, as the check draws them."""
    for weight in layer.weights:
        weight.assign(drawn(layer, weight, rng))


def redrawn(layer: keras.layers.Layer, inputs: np.ndarray) -> dict[str, tuple[Any, Any]]:
    """The weights of a layer by name, before and after."""
    layer(inputs)
    before = [weight.numpy() for weight in layer.weights]
    redraw(layer, np.random.default_rng(0))
    return {
        weight.name: (was, weight.numpy())
        for was, weight in zip(before, layer.weights, strict=True)
    }


def test_kernels_are_drawn_by_their_own_initialiser_but_anew() -> None:
    dense = keras.layers.Dense(50, kernel_initializer=keras.initializers.RandomNormal(3, 0.01, 5))
    before, after = redrawn(dense, np.ones((1, 40)))["kernel"]
    assert (before != after).all()
    assert after.mean() == pytest.approx(3, abs=0.01)
    assert after.std() == pytest.approx(0.01, rel=0.2)
    for layer, names in (
        (keras.layers.DepthwiseConv2D(3), {"kernel"}),
        (keras.layers.SeparableConv2D(8, 3), {"depthwise_kernel", "pointwise_kernel"}),
    ):
        weights = redrawn(layer, make_doc())
        assert names < set(weights)
        for name in names:
            before, after = weights[name]
            # Glorot's bounds, which the fallback would not keep.
            assert np.abs(after).max() <= np.abs(before).max() * 1.5
            assert not np.allclose(before, after)


def test_kernels_that_nothing_draws_get_their_own_size_and_any_sign() -> None:
    values = np.full((60, 70), 2.0)
    for initializer in (
        keras.initializers.Constant(2.0),
        lambda shape, dtype: 0 * shape[0] + values,
    ):
        dense = keras.layers.Dense(70, kernel_initializer=initializer)
        _, after = redrawn(dense, np.ones((1, 60)))["kernel"]
        assert after.mean() == pytest.approx(0, abs=0.1)
        assert np.sqrt(np.mean(after**2)) == pytest.approx(2, rel=0.05)


def test_biases_and_statistics_go_back_to_where_they_started() -> None:
    norm = keras.layers.BatchNormalization()
    norm.build((None, 8, 8, 3))
    norm.set_weights([np.array([i, 2, 3], np.float32) for i in range(4)])
    found = {name: after.tolist() for name, (_, after) in redrawn(norm, make_doc()).items()}
    assert found == {
        "gamma": [1, 1, 1],
        "beta": [0, 0, 0],
        "moving_mean": [0, 0, 0],
        "moving_variance": [1, 1, 1],
    }


class Odd(keras.layers.Layer):
    def build(self, input_shape: Any) -> None:
        self.scale = self.add_weight(name="scale", shape=(50,), initializer="random_normal")
        self.temperature = self.add_weight(name="temperature", shape=(), initializer="ones")
        self.count = self.add_weight(
            name="count", shape=(), dtype="int32", initializer="zeros", trainable=False
        )

    def call(self, inputs: Any) -> Any:
        return inputs * keras.ops.mean(self.scale) * self.temperature


def test_other_vectors_are_shuffled_and_scalars_stay() -> None:
    weights = redrawn(Odd(), np.ones((1, 3)))
    before, after = weights["scale"]
    assert (before != after).any()
    np.testing.assert_array_equal(np.sort(before), np.sort(after))
    assert weights["temperature"][0] == weights["temperature"][1]


def test_whole_numbers_stay_and_a_layer_s_own_weights_are_a_step_of_their_own() -> None:
    class Around(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="around")
            self.conv = keras.layers.Conv2D(4, 3, name="conv")
            self.odd = Odd(name="odd")
            self.pool = keras.layers.GlobalAveragePooling2D(name="pool")
            self.kernel = self.add_weight(name="own", shape=(4, 2), initializer="ones")

        def call(self, inputs: Any) -> Any:
            return keras.ops.matmul(self.pool(self.odd(self.conv(inputs))), self.kernel)

    found = sanity_check(Around(), make_doc(), repeats=1)
    assert found.layers == ("around", "odd", "conv")


# Rank correlation


def test_rank_correlations_worked_out_by_hand() -> None:
    assert spearman(np.array([1, 2, 3, 4]), np.array([10, 20, 30, 25])) == pytest.approx(0.8)
    # Ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4: 4.5 / sqrt(4.5 * 5)
    assert spearman(np.array([[1, 2], [2, 3]]), np.array([[1, 3], [2, 4]])) == pytest.approx(
        4.5 / np.sqrt(22.5)
    )


def test_only_the_order_counts() -> None:
    values = np.random.default_rng(0).random((5, 6))
    assert spearman(values, np.exp(9 * values)) == pytest.approx(1)
    assert spearman(values, -(values**3)) == pytest.approx(-1)


def test_a_flat_map_is_correlated_with_nothing() -> None:
    assert np.isnan(spearman(np.eye(2), np.ones((2, 2))))
    assert np.isnan(spearman(np.zeros((2, 2)), np.zeros((2, 2))))


# Errors


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"steps": 2.5}, TypeError, "steps must be an integer"),
        ({"repeats": 0}, ValueError, "repeats must be at least 1, got 0"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"threshold": 0}, ValueError, "threshold must be above 0 and at most 1, got 0"),
        ({"threshold": 1.1}, ValueError, "threshold must be above 0 and at most 1"),
        ({"threshold": "half"}, TypeError, "threshold must be a number, got str"),
        ({"top_targets": 2}, ValueError, r"one class .* pass it as targets, as in \[243\]"),
        ({"layer": "missing"}, ValueError, "no layer 'missing'"),
        ({"targets": [9]}, ValueError, "doc 0: target 9 is out of range"),
        ({"targets": [0, 1, 2]}, ValueError, "targets must hold a class for each of the 2 docs"),
        ({"targets": 1}, TypeError, "targets must be a list of class indices, one for each doc"),
        ({"progress": "x"}, TypeError, "progress must be True, False or None, got str"),
        ({"docs": None}, TypeError, "docs must be a numpy.ndarray .* got NoneType"),
        (
            {"docs": np.ones((2, 4, SIDE, 3))},
            ValueError,
            re.escape(f"docs must have shape (any, {SIDE}, {SIDE}, 3), got (2, 4, {SIDE}, 3)"),
        ),
        ({"docs": make_doc()[0]}, ValueError, "add the batch axis with np.expand_dims"),
        ({"docs": make_doc()[:0]}, ValueError, "docs must have shape"),
        ({"model": "m.keras"}, TypeError, "load the file with keras.models.load_model"),
    ],
)
def test_arguments_that_cannot_be_are_refused(
    arguments: dict[str, Any], error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        sanity_check(**{"model": seeing(), "docs": make_doc((2, SIDE, SIDE, 3)), **arguments})


def test_what_cannot_be_explained_cannot_be_checked() -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"doc 0 cannot be explained: model .* is not supported"):
        sanity_check(model, np.ones((1, 3)))


def test_a_model_without_weights_has_nothing_to_randomise() -> None:
    model = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            keras.layers.AveragePooling2D(2),
            keras.layers.GlobalAveragePooling2D(),
        ],
        name="bare",
    )
    with pytest.raises(ValueError, match="model 'bare' has no weights to draw at random"):
        sanity_check(model, make_doc())


class Fragile(keras.layers.Layer):
    """Divides by 0 as soon as its kernel is not what it was."""

    def build(self, input_shape: Any) -> None:
        self.kernel = self.add_weight(name="kernel", shape=(1, 1), initializer="ones")

    def call(self, inputs: Any) -> Any:
        return inputs / keras.ops.cast(keras.ops.equal(self.kernel, 1.0), inputs.dtype)


def test_the_layer_is_named_at_which_random_weights_break_the_model() -> None:
    model = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            Fragile(name="fragile"),
            keras.layers.AveragePooling2D(2),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]
    )
    with pytest.raises(
        ValueError, match="doc 0, with weights random down to layer 'fragile': there is NaN"
    ):
        sanity_check(model, make_doc())


# Printing, drawing, progress


def test_the_check_prints_its_verdict() -> None:
    assert repr(make([[0.37, 0.37], [-0.35, 0.35]])) == (
        "sanity check: passes; rank correlation of size 0.360 ± 0.010 (95% interval 0.233 to "
        "0.487) with 5 layers random, limit 0.5 (Grad-CAM, layer conv, 2 docs, 2 repeats)"
    )
    assert repr(make([[0.25]])) == (
        "sanity check: cannot be told; rank correlation of size 0.250 with 5 layers random, limit "
        "0.5; pass more docs (Grad-CAM, layer conv, class 7, 1 repeat)"
    )


def test_the_mean_is_drawn_step_by_step_in_its_interval() -> None:
    found = make([[0.37], [-0.35]])
    ax = found.plot()
    mean, limit = ax.lines
    np.testing.assert_array_equal(mean.get_xdata(), [0, 1, 2])
    np.testing.assert_allclose(mean.get_ydata(), [1, 0.9, 0.36])
    np.testing.assert_allclose(limit.get_ydata(), 0.5)
    (band,) = ax.collections
    corners = band.get_paths()[0].vertices
    at_the_end = corners[corners[:, 0] == 2, 1]
    np.testing.assert_allclose([at_the_end.min(), at_the_end.max()], found.interval)
    np.testing.assert_allclose(corners[corners[:, 0] == 0, 1], 1)
    assert (mean.get_label(), limit.get_label()) == ("Grad-CAM: passes", "limit 0.5")
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert labels == ["none", "scores (1)", "conv_of_a_very_long_name_in… (5)"]
    assert ax.get_title() == "Sanity check, with 95% intervals"
    assert ax.get_ylabel() == "size of the rank correlation, mean of 2 docs"


def test_several_checks_share_their_axes_and_the_limit() -> None:
    ax = plt.subplots()[1]
    assert make([[0.25], [0.25]]).plot(ax, label="LayerCAM") is ax
    make([[0.75]]).plot(ax)
    assert len(ax.lines) == 3
    assert ax.get_legend_handles_labels()[1] == [
        "LayerCAM: passes",
        "limit 0.5",
        "Grad-CAM: cannot be told",
    ]


def test_progress_is_shown_if_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    sanity_check(seeing(), make_doc(), steps=2, repeats=1)
    assert capsys.readouterr().err == ""
    sanity_check(seeing(), make_doc(), steps=2, repeats=1, progress=True)
    assert "randomising" in capsys.readouterr().err
