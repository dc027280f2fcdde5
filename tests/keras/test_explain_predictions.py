from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
from frameworks import tf
from keras import layers as kl
from PIL import Image
from tiny_models import CLASSES, MODELS, make_doc

import kerasight
from kerasight.base import Explanation
from kerasight.keras.explainer import Explainer

pytestmark = pytest.mark.filterwarnings("ignore::kerasight.base.HeatmapWarning")


def make_docs(number: int) -> np.ndarray:
    return np.concatenate([make_doc(seed=seed) for seed in range(number)])


def assert_as_one_by_one(
    model: keras.Model, docs: np.ndarray, expls: list[Explanation], **kwargs: Any
) -> None:
    assert len(expls) == len(docs)
    for doc, expl in zip(docs, expls, strict=True):
        alone = kerasight.explain_prediction(model, doc[np.newaxis], **kwargs)
        assert (expl.layer, expl.image) == (alone.layer, alone.image)
        assert len(expl.targets) == len(alone.targets)
        for one, other in zip(expl.targets, alone.targets, strict=True):
            assert (one.target, one.name) == (other.target, other.name)
            assert one.score == pytest.approx(other.score, abs=1e-5)
            np.testing.assert_allclose(one.heatmap, other.heatmap, atol=1e-5)


class Pictures(keras.utils.PyDataset):
    """Three batches of two docs with labels."""

    def __init__(self, docs: np.ndarray) -> None:
        super().__init__()
        self.docs = docs

    def __len__(self) -> int:
        return len(self.docs) // 2

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.docs[2 * index : 2 * index + 2], np.zeros(2)


SOURCES = {
    "array": lambda docs: docs,
    "tensor": tf.constant,
    "list of docs": list,
    "list of batches of one": lambda docs: [doc[np.newaxis] for doc in docs],
    "list of lists of docs": lambda docs: [list(docs[:2]), list(docs[2:3]), list(docs[3:])],
    "list of lists of batches": lambda docs: [[docs[:2], docs[2:3]], [docs[3:]]],
    "lists of tensors": lambda docs: [list(tf.constant(docs[:2])), list(tf.constant(docs[2:]))],
    "lists of docs, and labels": lambda docs: [(list(docs[:4]), [0] * 4), (list(docs[4:]), [1, 1])],
    "generator of docs": lambda docs: (doc for doc in docs),
    "generator of batches": lambda docs: (docs[start : start + 4] for start in (0, 4)),
    "generator of docs and labels": lambda docs: ((doc, 1) for doc in docs),
    "dataset of docs": tf.data.Dataset.from_tensor_slices,
    "dataset of batches": lambda docs: tf.data.Dataset.from_tensor_slices(docs).batch(4),
    "dataset of batches and labels": lambda docs: tf.data.Dataset.from_tensor_slices(
        (docs, np.zeros(len(docs)))
    ).batch(4),
    "PyDataset": Pictures,
}


@pytest.mark.parametrize("source", list(SOURCES))
def test_docs_may_come_in_many_ways(model: keras.Model, source: str) -> None:
    docs = make_docs(6)
    expls = list(kerasight.explain_predictions(model, SOURCES[source](docs), batch_size=4))
    assert_as_one_by_one(model, docs, expls)


@pytest.mark.parametrize("name", list(MODELS))
def test_every_kind_of_model_gives_what_it_gives_one_by_one(name: str) -> None:
    model = MODELS[name]()
    docs = make_docs(5)
    if name == "channels first":
        docs = np.moveaxis(docs, -1, 1)
    for _ in range(4):  # eager and compiled
        expls = list(kerasight.explain_predictions(model, docs, batch_size=2))
        assert_as_one_by_one(model, docs, expls)


class InTraining(kl.Layer):
    """Runs a layer in training mode, always."""

    def __init__(self, inner: kl.Layer) -> None:
        super().__init__()
        self.inner = inner

    def call(self, inputs: Any) -> Any:
        return self.inner(inputs, training=True)


class LessTheMean(kl.Layer):
    """Takes half the mean of all docs from each."""

    def call(self, inputs: Any, training: bool = False) -> Any:
        return inputs - 0.5 * keras.ops.mean(inputs, axis=0, keepdims=True)


@pytest.mark.parametrize(
    "make",
    [lambda: kl.BatchNormalization(), lambda: LessTheMean()],
    ids=["batch normalisation", "own"],
)
@pytest.mark.parametrize("layer", [None, "conv"])
def test_a_model_that_mixes_docs_is_run_doc_by_doc(
    make: Callable[[], kl.Layer], layer: str | None
) -> None:
    inputs = keras.Input((8, 8, 3))
    x = InTraining(make())(kl.Conv2D(4, 3, name="conv")(inputs))
    model = keras.Model(inputs, kl.Dense(2)(kl.Flatten()(kl.ReLU()(x))))
    # The mean gradient before a normalisation, Grad-CAM's weight, is nothing but rounding.
    asked = {"layer": layer, "method": "hirescam"}
    docs = make_docs(6) * np.arange(1, 7).reshape(-1, 1, 1, 1)
    for _ in range(3):  # eager and compiled
        expls = list(kerasight.explain_predictions(model, docs, batch_size=4, **asked))
        assert_as_one_by_one(model, docs, expls, **asked)


def test_other_models_are_run_batch_by_batch(
    model: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = []

    def counting(explainer: Explainer, docs: np.ndarray, target: Any) -> Any:
        batches.append(len(docs))
        return look(explainer, docs, target)

    look = Explainer.look
    monkeypatch.setattr(Explainer, "look", counting)
    for _ in range(3):
        list(kerasight.explain_predictions(model, make_docs(6), batch_size=4))
    assert batches == [4, 2] * 3


def test_several_classes_are_explained_for_every_doc(model: keras.Model) -> None:
    docs = make_docs(4)
    expls = list(kerasight.explain_predictions(model, docs, targets=[2, 0]))
    for place, target in enumerate([2, 0]):
        alone = [Explanation(**{**vars(expl), "targets": [expl.targets[place]]}) for expl in expls]
        assert_as_one_by_one(model, docs, alone, targets=[target])


def test_each_doc_may_have_classes_of_its_own(model: keras.Model) -> None:
    targets = [[0], [1, 2], [2], [0, 1]]
    expls = kerasight.explain_predictions(model, make_docs(4), targets=targets)
    assert [[one.target for one in expl.targets] for expl in expls] == targets


@pytest.mark.parametrize("top_targets", [1, 2, 3, 10, -1, -2])
def test_the_classes_of_the_greatest_or_lowest_scores(model: keras.Model, top_targets: int) -> None:
    docs = make_docs(3)
    scores = keras.ops.convert_to_numpy(model(docs, training=False))
    for _ in range(3):
        expls = list(kerasight.explain_predictions(model, docs, top_targets=top_targets))
        assert_as_one_by_one(model, docs, expls, top_targets=top_targets)
        for row, expl in zip(scores, expls, strict=True):
            order = row.argsort()[::-1] if top_targets > 0 else row.argsort()
            wanted = list(order[: abs(top_targets)])
            assert [target.target for target in expl.targets] == wanted


@pytest.mark.parametrize("names", [["ant", "bee", "cat"], ("ant", "bee", "cat"), {1: "bee"}])
def test_classes_may_have_names(model: keras.Model, names: Any) -> None:
    docs = make_docs(2)
    expls = list(kerasight.explain_predictions(model, docs, targets=[1, 2], target_names=names))
    for expl in expls:
        assert [one.name for one in expl.targets] == ["bee", None if len(names) == 1 else "cat"]
        assert [one.target for one in expl.targets] == [1, 2]
    assert expls[0].targets[0].label == "bee (1)"


def test_the_layer_is_chosen_or_given(model: keras.Model) -> None:
    docs = make_docs(3)
    for layer in ("conv", 1, model.get_layer("conv")):
        expls = list(kerasight.explain_predictions(model, docs, layer=layer))
        assert {expl.layer for expl in expls} == {"conv"}
    late = MODELS["custom layer, built late"]()
    assert next(iter(kerasight.explain_predictions(late, docs, layer="inside"))).layer == (
        "block/inside"
    )


def test_pictures_may_be_given_for_all_or_some(model: keras.Model) -> None:
    docs = make_docs(3)
    images = [Image.new("L", (30, 20)), None, Image.new("RGB", (5, 5))]
    expls = list(kerasight.explain_predictions(model, docs, images=iter(images)))
    assert expls[0].image is images[0]
    assert expls[1].image == keras.utils.array_to_img(docs[1])
    assert expls[2].image is images[2]


def test_docs_of_different_sizes_do_not_share_a_batch() -> None:
    model = MODELS["dynamic shape"]()
    docs = [make_doc((1, side, side, 3))[0] for side in (8, 8, 10, 8, 12)]
    expls = list(kerasight.explain_predictions(model, docs))
    assert [expl.targets[0].heatmap.shape for expl in expls] == [
        (side // 2, side // 2) for side in (8, 8, 10, 8, 12)
    ]


def test_results_come_lazily_and_no_more_than_two_batches_are_taken_ahead(
    model: keras.Model,
) -> None:
    taken = []

    def docs() -> Iterator[np.ndarray]:
        for number in range(100):
            taken.append(number)
            yield make_doc(seed=number)[0]

    stream = kerasight.explain_predictions(model, docs(), batch_size=4)
    assert not taken
    for number in range(10):
        next(stream)
        assert len(taken) <= number + 1 + 2 * 4


def test_progress_is_shown(model: keras.Model, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(list(kerasight.explain_predictions(model, make_docs(3), progress=True))) == 3
    assert "3/3" in capsys.readouterr().err
    list(kerasight.explain_predictions(model, (doc for doc in make_docs(3)), progress=True))
    assert "3doc" in capsys.readouterr().err
    list(kerasight.explain_predictions(model, make_docs(3)))
    assert not capsys.readouterr().err


# What cannot be explained


def with_faults() -> list[Any]:
    """Six docs, of which numbers 2 and 4 cannot be explained."""
    docs: list[Any] = list(make_docs(6))
    docs[2] = np.full((8, 8, 3), np.nan)
    docs[4] = np.zeros((8, 9, 3), np.float32)
    return docs


@pytest.mark.parametrize("batch_size", [1, 2, 3, 32])
def test_a_doc_that_cannot_be_explained_stops_the_stream_after_those_before_it(
    model: keras.Model, batch_size: int
) -> None:
    stream = kerasight.explain_predictions(model, with_faults(), batch_size=batch_size)
    assert [next(stream).targets[0].heatmap.shape for _ in range(2)] == [(8, 8)] * 2
    with pytest.raises(ValueError, match="doc 2: doc must be finite"):
        next(stream)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 32])
def test_errors_may_be_kept_in_the_place_of_explanations(
    model: keras.Model, batch_size: int
) -> None:
    expls = list(
        kerasight.explain_predictions(model, with_faults(), batch_size=batch_size, errors="keep")
    )
    assert [bool(expl.error) for expl in expls] == [False, False, True, False, True, False]
    assert "doc 2: doc must be finite" in expls[2].error
    assert "doc 4: doc must have shape (1, 8, 8, 3), got (1, 8, 9, 3)" in expls[4].error
    assert expls[2].targets is None
    assert "doc 2" in expls[2]._repr_html_()
    sound = [expl for expl in expls if not expl.error]
    assert_as_one_by_one(model, np.stack([make_docs(6)[i] for i in (0, 1, 3, 5)]), sound)


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ("picture.png", TypeError, "got str"),
        (Image.new("RGB", (8, 8)), TypeError, "got Image"),
        (np.zeros((8, 3), np.float32), ValueError, "must have shape"),
        (np.full((8, 8, 3), "a"), TypeError, "array of numbers"),
        (make_doc()[0].tolist(), TypeError, "got list of list"),
        ([make_doc()[0], 1], TypeError, "got list of int and ndarray"),
        ([make_doc(), np.zeros(1)], TypeError, r"make a tuple \(docs, labels\)"),
        ({"picture": make_doc()[0]}, ValueError, "no input .*got 'picture'"),
    ],
)
def test_what_is_no_doc_is_refused_with_its_position(
    model: keras.Model, given: Any, error: type[Exception], says: str
) -> None:
    stream = kerasight.explain_predictions(model, [make_docs(1)[0], given])
    next(stream)
    with pytest.raises(error, match=f"doc 1: .*{says}"):
        next(stream)


def test_a_doc_that_only_the_model_refuses_is_found_in_its_batch() -> None:
    class Picky(kl.Layer):
        def call(self, inputs: Any) -> Any:
            tf.debugging.assert_less(inputs, 5.0)
            return inputs

    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            Picky(),
            *MODELS["functional"]().layers[1:2],
            kl.GlobalAveragePooling2D(),
            kl.Dense(2),
        ]
    )
    docs = make_docs(5)
    docs[3] += 10
    expls = list(kerasight.explain_predictions(model, docs, errors="keep"))
    assert [bool(expl.error) for expl in expls] == [False, False, False, True, False]
    assert "doc 3" in expls[3].error


def test_nan_in_the_gradients_of_one_doc_is_its_own_error() -> None:
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            kl.Conv2D(2, 1, name="conv"),
            kl.Lambda(keras.ops.log),
            kl.GlobalAveragePooling2D(),
            kl.Dense(2),
        ]
    )
    model.get_layer("conv").set_weights([np.ones((1, 1, 3, 2)), np.zeros(2)])
    docs = make_docs(3) + 1
    docs[1] = 0
    expls = list(kerasight.explain_predictions(model, docs, layer="conv", errors="keep"))
    assert [bool(expl.error) for expl in expls] == [False, True, False]
    assert "doc 1: there is NaN or infinity in the gradient of layer 'conv'" in expls[1].error


def test_an_error_of_the_source_comes_after_what_came_before_it(model: keras.Model) -> None:
    def docs() -> Iterator[np.ndarray]:
        yield from make_docs(3)
        raise OSError("the disk is gone")

    for errors in ("raise", "keep"):
        stream = kerasight.explain_predictions(model, docs(), errors=errors)
        assert [next(stream).error for _ in range(3)] == ["", "", ""]
        with pytest.raises(OSError, match="the disk is gone"):
            next(stream)


def test_too_few_targets_or_pictures_are_an_error_of_the_first_doc_without(
    model: keras.Model,
) -> None:
    stream = kerasight.explain_predictions(model, iter(make_docs(3)), targets=[[0], [1]])
    assert len([next(stream), next(stream)]) == 2
    with pytest.raises(ValueError, match="doc 2: targets has no list for this doc"):
        next(stream)
    stream = kerasight.explain_predictions(model, iter(make_docs(3)), images=[None])
    next(stream)
    with pytest.raises(ValueError, match="doc 1: images has no picture"):
        next(stream)
    with pytest.raises(TypeError, match="doc 0: image must be a PIL"):
        next(kerasight.explain_predictions(model, make_docs(1), images=["cat.png"]))
    with pytest.raises(ValueError, match="doc 1: targets must hold at least one"):
        list(kerasight.explain_predictions(model, make_docs(2), targets=[[0], []]))
    with pytest.raises(TypeError, match="doc 1: the targets of a doc must be a list"):
        list(kerasight.explain_predictions(model, make_docs(2), targets=[[0], 1]))
    with pytest.raises(ValueError, match=r"doc 1: target 7 is out of range.*\[0, 3\)"):
        list(kerasight.explain_predictions(model, make_docs(2), targets=[[0], [7]]))


@pytest.mark.parametrize("errors", ["raise", "keep"])
@pytest.mark.parametrize("arguments", [{"targets": [[0]] * 3}, {"images": [None] * 3}])
def test_too_many_targets_or_pictures_are_an_error_after_the_last_doc(
    model: keras.Model, arguments: dict[str, Any], errors: Any
) -> None:
    stream = kerasight.explain_predictions(model, iter(make_docs(2)), errors=errors, **arguments)
    assert [next(stream).error for _ in range(2)] == ["", ""]
    (what,) = arguments
    with pytest.raises(ValueError, match=f"^{what} must hold one for each doc, and holds 3 for 2"):
        next(stream)


def test_pictures_without_end_are_fine(model: keras.Model) -> None:
    picture = Image.new("L", (4, 4))
    expls = kerasight.explain_predictions(model, make_docs(2), images=itertools.repeat(picture))
    assert [expl.image for expl in expls] == [picture, picture]


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"docs": "docs"}, TypeError, "got str"),
        ({"docs": 5}, TypeError, "got int"),
        ({"docs": np.zeros((8, 8, 3))}, ValueError, r"docs\[np.newaxis\]"),
        (
            {"docs": keras.ops.zeros((8, 8, 3))},
            ValueError,
            r"got \(8, 8, 3\); .*docs\[np.newaxis\]",
        ),
        ({"targets": 1}, TypeError, "targets must be a list"),
        ({"targets": []}, ValueError, "at least one"),
        ({"targets": [1.5]}, TypeError, "integer"),
        ({"targets": [1], "top_targets": 2}, ValueError, "not both"),
        ({"top_targets": 0}, ValueError, "at least 1"),
        ({"top_targets": 1.5}, TypeError, "integer"),
        ({"top_targets": True}, TypeError, "integer"),
        ({"target_names": "abc"}, TypeError, "target_names"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"batch_size": 2.0}, TypeError, "batch_size"),
        ({"errors": "ignore"}, ValueError, "'raise' or 'keep'"),
        ({"images": Image.new("L", (2, 2))}, TypeError, "a picture for each doc"),
        ({"images": 3}, TypeError, "a picture for each doc"),
        ({"images": [None]}, ValueError, "images must hold one .* holds 1 for 2 docs"),
        ({"images": [None] * 3, "docs": list(make_docs(2))}, ValueError, "holds 3 for 2 docs"),
        ({"targets": [[0]] * 3}, ValueError, "targets must hold one .* holds 3 for 2 docs"),
        ({"targets": [-(2**30)]}, ValueError, "target -1073741824 is out of range"),
        ({"progress": "x"}, TypeError, "progress must be"),
        ({"target_names": ["a", None]}, TypeError, "target_names must hold names"),
        ({"layer": "no such"}, ValueError, "no layer 'no such'"),
        ({"layer": 2.5}, TypeError, "layer must be"),
    ],
)
def test_bad_arguments_are_refused_at_once(
    model: keras.Model, arguments: dict[str, Any], error: type[Exception], says: str
) -> None:
    docs = arguments.pop("docs", make_docs(2))
    with pytest.raises(error, match=says):
        kerasight.explain_predictions(model, docs, **arguments)


def test_none_is_the_default_batch_size(model: keras.Model) -> None:
    docs = make_docs(2)
    expls = list(kerasight.explain_predictions(model, docs, batch_size=None))
    assert_as_one_by_one(model, docs, expls, batch_size=None)


def test_names_for_another_number_of_classes_are_refused(model: keras.Model) -> None:
    stream = kerasight.explain_predictions(model, make_docs(2), target_names=["a", "b"])
    with pytest.raises(ValueError, match=f"{CLASSES} classes, and holds 2"):
        next(stream)


def test_a_model_not_for_images_gets_errors() -> None:
    table = keras.Sequential([keras.Input((4,)), kl.Dense(2)])
    expls = list(kerasight.explain_predictions(table, [np.zeros(4)] * 2))
    assert ["supported" in expl.error for expl in expls] == [True, True]
    expls = list(kerasight.explain_predictions("a model", [np.zeros(4)] * 2))
    assert ["supported" in expl.error for expl in expls] == [True, True]


# The same words for one doc


def test_one_doc_may_have_several_classes_from_one_pass(model: keras.Model) -> None:
    runs = []
    conv = model.get_layer("conv")
    own = conv.call
    vars(conv)["call"] = lambda inputs: runs.append(1) or own(inputs)
    names = ["ant", "bee", "cat"]
    expl = kerasight.explain_prediction(model, make_doc(), top_targets=3, target_names=names)
    assert len(runs) == 1
    del vars(conv)["call"]
    scores = keras.ops.convert_to_numpy(model(make_doc()))[0]
    assert [one.target for one in expl.targets] == list(scores.argsort()[::-1])
    assert [one.name for one in expl.targets] == [names[one.target] for one in expl.targets]
    for one in expl.targets:
        alone = kerasight.explain_prediction(model, make_doc(), targets=[one.target])
        np.testing.assert_allclose(one.heatmap, alone.targets[0].heatmap, atol=1e-5)


def test_targets_stays_a_list_of_one_and_points_to_the_stream(model: keras.Model) -> None:
    with pytest.raises(ValueError, match="explain_predictions"):
        kerasight.explain_prediction(model, make_doc(), targets=[0, 1])
    with pytest.raises(ValueError, match="not both"):
        kerasight.explain_prediction(model, make_doc(), targets=[0], top_targets=1)
    with pytest.raises(TypeError, match="target_names must be"):
        kerasight.explain_prediction(model, make_doc(), target_names="names")


# Pictures of many


def test_several_classes_are_shown_as_panels(model: keras.Model) -> None:
    shown = kerasight.show_prediction(model, make_doc(), top_targets=3, colormap="jet")
    expl = kerasight.explain_prediction(model, make_doc(), top_targets=3)
    assert shown == kerasight.format_as_image(expl, colormap="jet")
    assert shown.width > 3 * 160


def test_many_are_shown_on_a_contact_sheet(model: keras.Model) -> None:
    shown = kerasight.show_predictions(model, make_docs(4), top_targets=2, alpha_limit=0.3)
    expls = list(kerasight.explain_predictions(model, make_docs(4), top_targets=2))
    assert shown == kerasight.formatters.image.format_as_sheet(expls, alpha_limit=0.3)


def test_what_cannot_be_shown_comes_as_explanations(
    model: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "supported" in kerasight.show_predictions("a model", [1, 2])[1].error
    monkeypatch.setattr(kerasight.ipython, "format_as_sheet", ImportError("no Pillow"))
    with pytest.warns(UserWarning, match="dependencies are missing"):
        expls = kerasight.show_predictions(model, make_docs(2))
    assert len(expls) == 2
