from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops
from tiny_models import make_doc

import kerasight
from kerasight import targets
from kerasight.keras.anatomy import Anatomy
from kerasight.keras.record import record_batch
from kerasight.keras.targets import Classes

OFTEN = 7


def channels(*heads: kl.Layer, pooled: bool = True, name: str = "model") -> keras.Model:
    """Two channels, the picture and its negative, with heads upon their means or themselves."""
    inputs = keras.Input((2, 2, 1))
    x = kl.Conv2D(2, 1, use_bias=False, name="map")(inputs)
    x = kl.GlobalAveragePooling2D()(x) if pooled else x
    outputs = [head(x) for head in heads]
    model = keras.Model(inputs, outputs if len(heads) > 1 else outputs[0], name=name)
    model.get_layer("map").set_weights([np.array([[[[1.0, -1.0]]]])])
    return model


def dense(kernel: Any, name: str | None = None, activation: str | None = None) -> kl.Layer:
    kernel = np.asarray(kernel, np.float32)
    return kl.Dense(
        kernel.shape[1],
        use_bias=False,
        activation=activation,
        kernel_initializer=keras.initializers.Constant(kernel),
        name=name,
    )


DOC = np.array([[[[1.0], [2.0]], [[-4.0], [0.0]]]], np.float32)
PIXELS = DOC[0, ..., 0]


def explained(model: keras.Model, **asked: Any) -> kerasight.Explanation:
    """The explanation, the same one each time, also once the pass is compiled, and in a stream."""
    each = [kerasight.explain_prediction(model, DOC, **asked) for _ in range(OFTEN)]
    docs = np.concatenate([DOC, DOC / 2])
    each.append(next(iter(kerasight.explain_predictions(model, docs, **asked))))
    for one in each[1:]:
        for mine, other in zip(one.targets, each[0].targets, strict=True):
            np.testing.assert_allclose(mine.heatmap, other.heatmap, atol=1e-5)
            assert (mine.label, mine.detail, mine.box) == (other.label, other.detail, other.box)
            assert mine.score == pytest.approx(other.score, abs=1e-5)
    return each[0]


# A class


def test_a_class_is_what_targets_says() -> None:
    model = channels(dense(np.eye(2)))
    for target in (targets.Class(1), 1, np.int64(1)):
        expl = explained(model, target=target)
        other = kerasight.explain_prediction(model, DOC, targets=[1])
        assert expl.targets == other.targets
        assert expl.description == other.description


def test_the_classes_of_a_target_have_names() -> None:
    model = channels(dense(np.eye(2)))
    expl = explained(model, target=1, target_names=["light", "dark"])
    assert expl.targets[0].label == "dark (1)"


# A number


def test_a_number_is_shown_with_what_raises_and_what_lowers_it() -> None:
    expl = explained(channels(dense([[3.0], [0.0]])), target=targets.Number())
    target = expl.targets[0]
    # By hand: the number is the mean of the first channel, three times.
    np.testing.assert_allclose(target.heatmap, PIXELS / 4, rtol=1e-5)
    assert target.score == pytest.approx(3 * PIXELS.mean(), rel=1e-5)
    assert expl.is_regression
    assert target.signed
    assert not target.is_probability
    assert target.label == "the number"
    assert "raises the score, and below zero what lowers it" in expl.description


def test_a_number_is_cut_off_at_zero_where_that_is_asked_for_or_the_method_has_no_sign() -> None:
    model = channels(dense([[3.0], [0.0]]))
    for asked in ({"relu": True}, {"method": "grad-cam++"}):
        target = explained(model, target=targets.Number(), **asked).targets[0]
        assert not target.signed
        assert target.heatmap.min() >= 0
    against = explained(model, target=targets.Number(), counterfactual=True).targets[0]
    np.testing.assert_allclose(against.heatmap, -PIXELS / 4, rtol=1e-5)


def test_of_several_numbers_one_is_explained() -> None:
    model = channels(dense([[1.0, 0.0], [0.0, 1.0]]))
    target = explained(model, target=targets.Number(1)).targets[0]
    np.testing.assert_allclose(target.heatmap, -PIXELS / 4, rtol=1e-5)
    assert target.label == "number 1"


def test_a_model_that_leaves_out_the_axis_of_its_one_number_is_explained() -> None:
    model = channels(dense([[1.0], [0.0]]), kl.Dense(1))
    flat = keras.Model(model.inputs, ops.squeeze(model.outputs[0], -1))
    np.testing.assert_allclose(
        explained(flat, target=targets.Number()).targets[0].heatmap, PIXELS / 4, rtol=1e-5
    )


# Outputs


def two_outputs(structure: str) -> keras.Model:
    model = channels(
        dense(np.eye(2), "species", "softmax"), dense([[0.0], [1.0]], "age"), name="two"
    )
    if structure == "list":
        return model
    named = dict(zip(("species", "age"), model.outputs, strict=True))
    return keras.Model(model.inputs, named, name="two")


@pytest.mark.parametrize("structure", ["list", "dict"])
def test_an_output_is_found_by_its_name(structure: str) -> None:
    model = two_outputs(structure)
    for asked in (
        {"target": targets.Number(), "output": "age"},
        {"target": targets.Output("age", targets.Number())},
    ):
        expl = explained(model, **asked)
        np.testing.assert_allclose(expl.targets[0].heatmap, -PIXELS / 4, rtol=1e-5)
        assert (expl.targets[0].label, expl.is_regression) == ("age", True)
    expl = explained(model, output="species", top_targets=2, target_names=["cat", "dog"])
    assert {target.label for target in expl.targets} == {
        "cat (0), of output 'species'",
        "dog (1), of output 'species'",
    }
    assert expl.targets[0].is_probability


def test_an_output_is_found_by_its_position() -> None:
    expl = explained(two_outputs("list"), target=targets.Number(), output=1)
    assert expl.targets[0].label == "output 1"
    np.testing.assert_allclose(expl.targets[0].heatmap, -PIXELS / 4, rtol=1e-5)


def test_logits_are_those_of_the_output_that_is_asked_for() -> None:
    model = two_outputs("dict")
    expl = explained(model, output="species", targets=[0], logits=True)
    assert expl.targets[0].score == pytest.approx(PIXELS.mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"output": "aeg"}, ValueError, "no output 'aeg'; the nearest name is age"),
        ({"output": 2}, ValueError, "no output 2: it puts out 2 tensors"),
        ({"output": -1}, ValueError, "output, if it is no name, must be at least 0"),
        ({"output": 1.0}, TypeError, "output, if it is no name, must be an integer, got float"),
        ({"output": "age", "targets": [1]}, ValueError, "out of range"),
        (
            {"output": "age", "target": targets.Number(3)},
            ValueError,
            "number 3 is out of range: the model puts out 1",
        ),
    ],
)
def test_an_output_that_is_not_there_is_refused(
    asked: dict[str, Any], error: type, says: str
) -> None:
    with pytest.raises(error, match=says):
        kerasight.explain_prediction(two_outputs("dict"), DOC, **asked)


# Several labels


def test_each_label_of_a_multi_label_model_has_its_own_map() -> None:
    model = channels(dense(np.eye(2), activation="sigmoid"))
    both = explained(model, top_targets=2, relu=False).targets
    maps = {target.target: target.heatmap for target in both}
    np.testing.assert_allclose(maps[0], PIXELS / 4, rtol=1e-5)
    np.testing.assert_allclose(maps[1], -PIXELS / 4, rtol=1e-5)


# A region


class PerPixel(kl.Layer):
    """Class 0 is the first channel of each pixel, class 1 the second; or the first alone."""

    def __init__(self, classes: int = 2, scale: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.classes, self.scale = classes, scale

    def call(self, x: Any) -> Any:
        return x[..., : self.classes] * self.scale


MASK = np.array([[True, True], [False, False]])


def test_the_score_of_a_region_is_the_mean_of_a_class_in_it() -> None:
    model = channels(PerPixel(), pooled=False)
    target = explained(model, target=targets.Region(0, MASK), layer="map", relu=False).targets[0]
    assert target.score == pytest.approx(1.5)
    assert target.label == "class 0, in the region of 2 pixels"
    np.testing.assert_array_equal(target.region, MASK)
    # Gradients are 1/2 at the two pixels of the region, and 0 elsewhere; on the mean 1/4.
    np.testing.assert_allclose(target.heatmap, PIXELS / 4, rtol=1e-5)
    hires = explained(
        model, target=targets.Region(0, MASK), layer="map", relu=False, method="hirescam"
    )
    np.testing.assert_allclose(
        hires.targets[0].heatmap, [[0.5, 1.0], [0.0, 0.0]], rtol=1e-5, atol=1e-7
    )


def test_the_region_that_the_model_gives_a_class_is_where_its_score_is_greatest() -> None:
    model = channels(PerPixel(), pooled=False)
    target = explained(model, target=targets.Region(1), layer="map").targets[0]
    np.testing.assert_array_equal(target.region, [[False, False], [True, False]])
    assert target.score == pytest.approx(4.0)
    assert target.label == "class 1, in the region of 1 pixel"


def test_the_region_of_one_class_is_where_its_score_is_above_a_threshold() -> None:
    model = channels(PerPixel(1), pooled=False)
    target = explained(model, target=targets.Region(0), layer="map").targets[0]
    np.testing.assert_array_equal(target.region, MASK)
    higher = explained(model, target=targets.Region(0, threshold=1.5), layer="map").targets[0]
    np.testing.assert_array_equal(higher.region, [[False, True], [False, False]])


def test_the_region_stays_what_it_is_where_logits_are_explained() -> None:
    inputs = keras.Input((2, 2, 1))
    x = kl.Conv2D(2, 1, use_bias=False, name="map")(inputs)
    outputs = kl.Softmax()(PerPixel(scale=3.0)(x))
    model = keras.Model(inputs, outputs)
    model.get_layer("map").set_weights([np.array([[[[1.0, -1.0]]]])])
    target = explained(model, target=targets.Region(0), logits=True, layer="map").targets[0]
    assert target.score == pytest.approx(3 * (1 + 2 + 0) / 3, rel=1e-5)
    np.testing.assert_array_equal(target.region, [[True, True], [False, True]])  # 0 is a tie


def test_of_a_segmentation_the_scores_themselves_are_not_where_to_look() -> None:
    inputs = keras.Input((8, 8, 3))
    x = kl.Conv2D(4, 3, padding="same", activation="relu", name="last")(inputs)
    x = kl.Conv2D(2, 1, name="scores")(x)
    x = kl.UpSampling2D(2, name="larger")(x)
    model = keras.Model(inputs, kl.Softmax(name="softmax")(x))
    expl = kerasight.explain_prediction(
        model, make_doc(), target=targets.Region(0, np.ones((16, 16)))
    )
    assert expl.layer == "last"


def test_a_region_of_a_volume_or_a_signal_is_one_of_voxels_or_steps() -> None:
    for rank, layer, cell in ((1, kl.Conv1D, "step"), (3, kl.Conv3D, "voxel")):
        inputs = keras.Input((4,) * rank + (1,))
        x = layer(3, 3, padding="same", activation="relu", name="last")(inputs)
        model = keras.Model(inputs, layer(2, 1)(x))
        mask = np.zeros((4,) * rank)
        mask[(0,) * rank] = mask[(1,) * rank] = 1
        doc = make_doc((1, *(4,) * rank, 1))
        expl = kerasight.explain_prediction(model, doc, target=targets.Region(1, mask), relu=False)
        assert expl.targets[0].label == f"class 1, in the region of 2 {cell}s"
        assert (expl.layer, expl.targets[0].heatmap.shape) == ("last", (4,) * rank)


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: targets.Region(0, np.zeros((2, 2))), ValueError, "at least one pixel in it"),
        (lambda: targets.Region(0, np.ones((2, 2, 2, 2))), ValueError, r"shape \(height, width\)"),
        (lambda: targets.Region(0, np.array([["a"]])), ValueError, "got shape .* dtype <U1"),
        (lambda: targets.Region(-1), ValueError, "class of a region must be at least 0"),
        (lambda: targets.Region("tumour"), TypeError, "must be an integer, got str"),
        (lambda: targets.Region(0, np.ones((2, 3))), ValueError, "output, 2 x 2, got 2 x 3"),
        (lambda: targets.Region(5), ValueError, "class 5 is out of range"),
    ],
)
def test_a_region_that_cannot_be_is_refused(make: Any, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        kerasight.explain_prediction(channels(PerPixel(), pooled=False), DOC, target=make())


def test_a_class_that_the_model_gives_no_pixel_is_refused() -> None:
    model = channels(PerPixel(), pooled=False)
    with pytest.raises(ValueError, match=r"class 1 no pixel of this doc; pass .* mask="):
        kerasight.explain_prediction(model, np.abs(DOC) + 1, target=targets.Region(1), layer="map")


def test_a_segmentation_without_a_target_is_told_of_regions() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 2, 2, 2\);.*targets.Region\(class\)"):
        kerasight.explain_prediction(channels(PerPixel(), pooled=False), DOC)


def test_a_region_of_a_classifier_is_refused() -> None:
    with pytest.raises(ValueError, match=r"puts out \(docs, height, width, classes\), got"):
        kerasight.explain_prediction(channels(dense(np.eye(2))), DOC, target=targets.Region(0))


# A box


class Detector(kl.Layer):
    """A box for each pixel, with the pixel's value as logit of class 0, its negative of class 1."""

    BOXES = (
        (0.5, 0.5, 0.2, 0.2),
        (0.52, 0.5, 0.2, 0.2),
        (0.1, 0.1, 0.2, 0.4),
        (0.9, 0.9, 0.1, 0.1),
    )

    def call(self, x: Any) -> Any:
        logits = ops.reshape(x, (-1, 4, 2))
        boxes = ops.zeros_like(logits[..., :1]) + ops.convert_to_tensor([self.BOXES], x.dtype)
        return {"logits": logits, "pred_boxes": boxes}


def detector() -> keras.Model:
    return channels(Detector(), pooled=False, name="detector")


def test_boxes_are_counted_from_the_surest_one() -> None:
    # The surest is the third pixel, of class 1; then the second and the first, which overlap.
    target = explained(detector(), target=targets.Box(), layer="map").targets[0]
    assert (target.target, target.score) == (1, pytest.approx(4.0))
    assert target.box == pytest.approx((0.0, 0.0, 0.2, 0.3), abs=1e-6)
    assert target.label == "class 1, in box 0"
    np.testing.assert_allclose(target.heatmap, [[0.0, 0.0], [1.0, 0.0]], atol=1e-5)


def test_a_box_that_overlaps_with_a_surer_one_is_the_same() -> None:
    second = explained(detector(), target=targets.Box(1), layer="map").targets[0]
    assert (second.target, second.score) == (0, pytest.approx(2.0))
    third = explained(detector(), target=targets.Box(2), layer="map").targets[0]
    assert third.score == pytest.approx(0.0, abs=1e-6)
    apart = explained(detector(), target=targets.Box(2, overlap=1.0), layer="map").targets[0]
    assert apart.score == pytest.approx(1.0)


def test_the_class_of_a_box_can_be_asked_for() -> None:
    target = explained(detector(), target=targets.Box(1, class_index=1), layer="map").targets[0]
    assert (target.target, target.score) == (1, pytest.approx(-2.0))
    both = explained(detector(), target=targets.Box(0), layer="map", top_targets=2).targets
    assert [one.target for one in both] == [1, 0]


def test_boxes_of_other_names_and_forms_can_be_told() -> None:
    model = detector()
    renamed = keras.Model(
        model.inputs, {"a": model.output["logits"], "b": model.output["pred_boxes"]}
    )
    box = targets.Box(scores_of="a", boxes_of="b", decode=lambda boxes: boxes)
    target = explained(renamed, target=box, layer="map").targets[0]
    assert target.box == pytest.approx((0.1, 0.1, 0.2, 0.4), abs=1e-6)


def test_a_box_that_is_not_in_the_doc_is_refused() -> None:
    # Of four boxes two are the same.
    with pytest.raises(ValueError, match="no box 3 in this doc: the model finds fewer"):
        explained(detector(), target=targets.Box(3), layer="map")


def test_boxes_without_extent_do_not_count() -> None:
    def turned(boxes: Any) -> Any:  # the surest box, and the last one, end before they begin
        left, size = boxes[..., :2], boxes[..., 2:]
        is_turned = ops.convert_to_tensor([[[1.0], [1.0], [-1.0], [-1.0]]], boxes.dtype)
        return ops.concatenate([left, left + size * is_turned], axis=-1)

    target = explained(detector(), target=targets.Box(decode=turned), layer="map").targets[0]
    assert target.score == pytest.approx(2.0)
    assert target.box == pytest.approx((0.52, 0.5, 0.72, 0.7), abs=1e-6)
    with pytest.raises(ValueError, match="no box 1 in this doc"):
        explained(detector(), target=targets.Box(1, decode=turned), layer="map")


def whole_picture(boxes: Any) -> Any:
    return ops.concatenate([ops.zeros_like(boxes[..., :2]), ops.ones_like(boxes[..., :2])], axis=-1)


def test_a_box_is_looked_at_in_the_level_of_a_pyramid_that_it_is_of() -> None:
    inputs = keras.Input((8, 8, 1))
    fine = kl.Conv2D(2, 3, padding="same", activation="relu", name="fine")(inputs)
    coarse = kl.Conv2D(2, 3, strides=2, padding="same", activation="relu", name="coarse")(fine)
    head = kl.Conv2D(1, 1, kernel_initializer="ones", name="head")
    flat = [kl.Reshape((-1, 1))(head(x)) for x in (fine, coarse)]
    logits = kl.Concatenate(axis=1)(flat)
    boxes = ops.concatenate([logits] * 4, axis=-1)
    model = keras.Model(inputs, {"logits": logits, "pred_boxes": boxes})
    rng = np.random.default_rng(0)
    layers = set()
    for _ in range(12):
        doc = rng.random((1, 8, 8, 1), dtype=np.float32)
        for weights in (model.get_layer("fine"), model.get_layer("coarse")):
            weights.kernel.assign(rng.random(weights.kernel.shape) - 0.3)
        expl = kerasight.explain_prediction(
            model, doc, target=targets.Box(decode=whole_picture), method="hirescam"
        )
        assert expl.targets[0].heatmap.any()
        layers.add(expl.layer)
    assert layers <= {"fine", "coarse"}


@pytest.mark.parametrize(
    ("box", "error", "says"),
    [
        (lambda: targets.Box(4), ValueError, "no box 4: the model puts out 4"),
        (lambda: targets.Box(-1), ValueError, "number of a box must be at least 0"),
        (lambda: targets.Box(class_index=2), ValueError, "class 2 is out of range"),
        (lambda: targets.Box(overlap=0), ValueError, r"overlap must lie in \(0, 1\]"),
        (lambda: targets.Box(scores_of="logit"), ValueError, "no output 'logit'; the nearest"),
    ],
)
def test_a_box_that_is_not_there_is_refused(box: Any, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        kerasight.explain_prediction(detector(), DOC, target=box(), layer="map")


def test_a_classifier_has_no_boxes() -> None:
    with pytest.raises(ValueError, match="no output 'cls_logits'"):
        kerasight.explain_prediction(channels(dense(np.eye(2))), DOC, target=targets.Box())


# Likeness, differences, functions


def test_likeness_is_the_cosine_between_embeddings() -> None:
    model = channels(dense(np.eye(2)))
    target = explained(model, target=targets.Likeness(np.array([3.0, 4.0])), relu=False).targets[0]
    mean = PIXELS.mean()  # the embedding is (mean, -mean)
    assert target.score == pytest.approx(
        (3 * mean - 4 * mean) / (5 * np.sqrt(2) * abs(mean)), rel=1e-5
    )
    assert target.label == "likeness"


@pytest.mark.parametrize(
    ("embedding", "says"),
    [
        (np.zeros(2), "not all zeros"),
        (np.ones((2, 2)), r"array \(numbers,\)"),
        (np.ones(3), "puts out 2 numbers a doc, and the embedding to compare with has 3"),
    ],
)
def test_an_embedding_that_does_not_fit_is_refused(embedding: np.ndarray, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        kerasight.explain_prediction(
            channels(dense(np.eye(2))), DOC, target=targets.Likeness(embedding)
        )


def test_a_difference_of_two_targets() -> None:
    model = channels(dense(np.eye(2)))
    target = explained(model, target=targets.Difference(0, targets.Class(1))).targets[0]
    assert target.score == pytest.approx(2 * PIXELS.mean(), rel=1e-5)
    assert target.label == "class 0 less class 1"
    np.testing.assert_allclose(target.heatmap, np.maximum(PIXELS, 0) / 2, atol=1e-5)
    nested = targets.Difference(targets.Difference(0, 1), targets.Number())
    assert explained(model, target=nested).targets[0].label == (
        "(class 0 less class 1) less the number"
    )


def test_a_function_of_the_outputs_is_a_target() -> None:
    model = channels(dense(np.eye(2)))

    def energy(outputs: Any) -> Any:
        return ops.sum(outputs**2, axis=-1)

    expl = explained(model, target=energy, relu=False)
    mean = PIXELS.mean()
    assert expl.targets[0].score == pytest.approx(2 * mean**2, rel=1e-5)
    assert expl.targets[0].label == "energy"
    # Its gradient is 2 mean for the first channel, and -2 mean for the second.
    np.testing.assert_allclose(expl.targets[0].heatmap, np.sign(mean) * PIXELS / 4, rtol=1e-4)


def test_a_function_takes_the_outputs_in_their_structure() -> None:
    target = explained(
        two_outputs("dict"), target=lambda outputs: outputs["age"] + outputs["species"][:, :1]
    ).targets[0]
    assert target.label == "lambda"


@pytest.mark.parametrize(
    ("target", "error", "says"),
    [
        (lambda outputs: outputs, ValueError, r"one number a doc.*got shape \(1, 2\)"),
        (lambda outputs: 3.0, ValueError, "one number a doc.*got float"),
        (targets.Number, TypeError, r"got Number; call it, as in target=targets.Number\(\)"),
        ("dog", TypeError, "got str"),
        ([1], TypeError, "got list; a list of classes is passed as targets="),
        (True, TypeError, "got bool"),
        (2, ValueError, "target 2 is out of range"),
        (targets.Difference(0, targets.Output(0)), ValueError, "does not say which of its scores"),
        (targets.Difference(0, 7), ValueError, "class 7 is out of range"),
    ],
)
def test_what_is_no_target_is_refused(target: Any, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        kerasight.explain_prediction(channels(dense(np.eye(2))), DOC, target=target)


@pytest.mark.parametrize("asked", [{"targets": [1]}, {"top_targets": 2}])
def test_a_target_that_says_what_to_explain_goes_with_no_other(asked: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="pass either targets or top_targets, or a target"):
        kerasight.explain_prediction(channels(dense(np.eye(2))), DOC, target=0, **asked)


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize(
    "target",
    [
        targets.Number(1),
        targets.Difference(0, 2),
        targets.Likeness(np.array([1.0, -2.0, 0.5])),
        targets.Function(lambda outputs: ops.logsumexp(outputs, axis=-1)),
    ],
    ids=["number", "difference", "likeness", "function"],
)
def test_gradients_are_those_of_finite_differences(target: targets.Readout) -> None:
    inputs = keras.Input((6, 6, 3))
    x = kl.Conv2D(4, 3, activation="tanh", name="map")(inputs)
    x = kl.Flatten()(x)
    model = keras.Model(inputs, kl.Dense(3)(x))
    doc = make_doc((1, 6, 6, 3)).astype(np.float64)
    anatomy = Anatomy(model, target)
    found = record_batch(anatomy, anatomy.inputs_of(doc), Classes(np.array([[target.index]])))
    rest = keras.Model(model.layers[2].input, model.output)

    def value(activations: np.ndarray) -> float:
        outputs = targets.Outputs(rest(activations), ["output"], lambda tensor: tensor)
        return float(target.scores(outputs)[0, target.index])

    step, random = 1e-5, np.random.default_rng(0)
    for _ in range(5):
        place = tuple(int(random.integers(size)) for size in found.activations[0].shape)
        change = np.zeros_like(found.activations)
        change[(0, *place)] = step
        more, less = value(found.activations + change), value(found.activations - change)
        assert (more - less) / (2 * step) == pytest.approx(
            found.gradients[(0, 0, *place)], abs=1e-7
        )


@pytest.mark.parametrize(
    "target", [targets.Number(), targets.Difference(0, 1), targets.Region(0, MASK)], ids=str
)
@pytest.mark.parametrize("method", ["ablation-cam", "score-cam", "layercam", "eigen-cam"])
@pytest.mark.filterwarnings("ignore::kerasight.base.HeatmapWarning")  # some speak against it
def test_methods_of_every_kind_take_targets(target: targets.Readout, method: str) -> None:
    is_region = isinstance(target, targets.Region)
    model = channels(PerPixel() if is_region else dense(np.eye(2)), pooled=not is_region)
    expl = explained(model, target=target, method=method, layer="map")
    assert np.isfinite(expl.targets[0].heatmap).all()
