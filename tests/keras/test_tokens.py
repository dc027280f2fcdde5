from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops
from tiny_models import make_doc
from tiny_transformers import TRANSFORMERS, Prefix, patches, scores, vit

import kerasight
from kerasight.cam.layout import CHANNELS_LAST, Layout
from kerasight.cam.methods import CAMS, METHODS
from kerasight.cam.request import Request
from kerasight.keras.anatomy import Anatomy
from kerasight.keras.explainer import Explainer
from kerasight.keras.scoring import scores_from
from kerasight.keras.targets import Classes
from kerasight.keras.tokens import layout_of_tokens

OFTEN = 7


def doc_of(model: keras.Model) -> np.ndarray:
    return make_doc((1, *model.input_shape[1:]))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_are_explained_where_their_patches_last_reach_the_score(name: str) -> None:
    make, path, grid = TRANSFORMERS[name]
    model = make()
    each = [
        kerasight.explain_prediction(model, doc_of(model), targets=[0], relu=False)
        for _ in range(OFTEN)
    ]
    for expl in each:
        assert expl.layer == path
        assert expl.targets[0].heatmap.shape == grid
        np.testing.assert_allclose(expl.targets[0].heatmap, each[0].targets[0].heatmap, atol=1e-5)
    assert each[0].targets[0].heatmap.any()


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_gradients_of_tokens_are_those_of_finite_differences(name: str) -> None:
    model = TRANSFORMERS[name][0]()
    doc = doc_of(model).astype(np.float64)
    look = Explainer(model).look(doc, Classes(np.array([[1]])))
    (terms,) = look.records[0].terms(0)
    run = scores_from(Anatomy(model), look.inputs, terms.site)
    layout, step = terms.site.layout, 1e-5
    assert layout is not None
    random = np.random.default_rng(0)
    for _ in range(5):
        place = tuple(int(random.integers(size)) for size in terms.activations.shape)
        changed = np.repeat(terms.activations[np.newaxis], 2, axis=0)
        changed[(0, *place)] += step
        changed[(1, *place)] -= step
        more, less = run(layout.fold(changed, terms.before))[:, 1]
        assert (more - less) / (2 * step) == pytest.approx(terms.gradients[place], abs=1e-7)


class Mixing(kl.Layer):
    """Adds the mean of all tokens to each."""

    def call(self, x: Any) -> Any:
        return x + ops.mean(x, axis=1, keepdims=True)


def test_a_map_of_tokens_worked_out_by_hand() -> None:
    inputs = keras.Input((2, 2, 1))
    x = kl.Conv2D(2, 1, use_bias=False, name="patches")(inputs)
    x = kl.Reshape((4, 2))(x)
    x = kl.Dense(2, use_bias=False, name="mixed")(Mixing()(x))
    outputs = kl.Dense(2, use_bias=False)(kl.GlobalAveragePooling1D()(x))
    model = keras.Model(inputs, outputs)
    model.set_weights([np.array([[[[1.0, -1.0]]]]), np.eye(2), np.eye(2)])
    doc = np.array([[[[1.0], [2.0]], [[-4.0], [0.0]]]], np.float32)
    expl = kerasight.explain_prediction(model, doc, targets=[0], relu=False)
    # The mean is -0.25. Class 0 is the mean over the tokens of their first channel.
    tokens = doc[0, ..., 0] - 0.25
    assert expl.layer == "mixed"
    np.testing.assert_allclose(expl.targets[0].heatmap, tokens / np.abs(tokens).max(), rtol=1e-5)


@pytest.mark.parametrize("method", CAMS)
@pytest.mark.filterwarnings("ignore::kerasight.base.HeatmapWarning")  # weights are random
def test_all_methods_take_tokens(method: str) -> None:
    model = vit(2)
    asked: dict[str, Any] = {"method": method, "relu": not METHODS[method].is_signed}
    if METHODS[method].samples:
        asked["samples"] = 2
    expl = kerasight.explain_prediction(model, doc_of(model), **asked)
    assert expl.targets[0].heatmap.shape == (4, 4)
    assert np.isfinite(expl.targets[0].heatmap).all()


def test_ablation_leaves_the_tokens_of_no_place_what_they_are() -> None:
    model = vit(2, head="mean")
    doc = doc_of(model)
    request = Request.of({"method": "ablation-cam", "relu": False})
    look = Explainer(model, request).look(doc, Classes(np.array([[0]])))
    (terms,) = look.records[0].terms(0)
    assert terms.before.shape == (2, 8)
    run = scores_from(Anatomy(model), look.inputs, terms.site)
    layout = terms.site.layout
    assert layout is not None
    drops = []
    for channel in range(8):
        ablated = terms.activations.copy()
        ablated[..., channel] = 0
        found = run(layout.fold(ablated[np.newaxis], terms.before))
        drops.append(terms.score - float(found[0, 0]))
    evidence = look.heatmaps()[0].evidence
    expected = METHODS["ablation-cam"].formula(terms.activations, np.array(drops))
    np.testing.assert_allclose(evidence, expected, rtol=1e-4, atol=1e-6)


def test_several_docs_and_classes_of_tokens_are_those_of_each_alone() -> None:
    model = vit()
    docs = np.concatenate([make_doc((1, 16, 16, 3), seed=seed) for seed in range(7)])
    found = kerasight.explain_predictions(model, docs, top_targets=2, relu=False, batch_size=3)
    for doc, expl in zip(docs, found, strict=True):
        alone = kerasight.explain_prediction(model, doc[np.newaxis], top_targets=2, relu=False)
        for one, other in zip(expl.targets, alone.targets, strict=True):
            assert one.target == other.target
            np.testing.assert_allclose(one.heatmap, other.heatmap, atol=1e-5)


@pytest.mark.parametrize("layer", ["block_0", "block_0/attention", "prefix", "norm"])
def test_a_layer_of_tokens_can_be_asked_for(layer: str) -> None:
    model = vit(head="mean")
    expl = kerasight.explain_prediction(model, doc_of(model), layer=layer, relu=False)
    assert (expl.layer, expl.targets[0].heatmap.shape) == (layer, (4, 4))


def test_a_layer_whose_patches_do_not_reach_the_score_is_said_to() -> None:
    model = vit()
    with pytest.warns(kerasight.HeatmapWarning, match=r"'norm'.*class token.*earlier layer"):
        expl = kerasight.explain_prediction(model, doc_of(model), layer="norm")
    assert not expl.targets[0].heatmap.any()


def test_the_map_before_the_tokens_can_be_asked_for() -> None:
    model = vit()
    expl = kerasight.explain_prediction(model, doc_of(model), layer="patches", relu=False)
    assert (expl.layer, expl.targets[0].heatmap.shape) == ("patches", (4, 4))


# The grid


@pytest.mark.parametrize("extra", [0, 1, 2, 5])
def test_what_is_left_over_of_a_map_are_tokens_of_no_place(extra: int) -> None:
    found = layout_of_tokens(6 + extra, [(2, 3)], (None, None))
    assert found == Layout("channels_last", (2, 3), extra)


def test_stages_merge_tokens_by_two_along_each_axis() -> None:
    assert layout_of_tokens(6, [(4, 6)], (None, None)) == Layout("channels_last", (2, 3))
    assert layout_of_tokens(7, [(4, 6)], (None, None)) is None


def test_without_a_map_the_sizes_of_doc_and_patches_tell() -> None:
    assert layout_of_tokens(24, [], (18, 26), [None, 4]) == Layout("channels_last", (4, 6))
    assert layout_of_tokens(13, [], (18, 26), [(6, 4)]) is None
    assert layout_of_tokens(22, [], (18, 26), [(6, 4)]) is None  # four more are of no transformer
    assert layout_of_tokens(19, [], (18, 26), [(6, 4)]) == Layout("channels_last", (3, 6), 1)
    assert layout_of_tokens(198, [], (224, 224)) == Layout("channels_last", (14, 14), 2)
    assert layout_of_tokens(6, [], (16, 24)) == Layout("channels_last", (2, 3))
    assert layout_of_tokens(30, [], (16, 16)) is None  # of no patch that divides the doc
    assert layout_of_tokens(16, [], (None, None), [4]) is None


def test_never_by_a_square_root() -> None:
    assert layout_of_tokens(16, [], (8, 32)) == Layout("channels_last", (2, 8))
    assert layout_of_tokens(16, [(2, 8)], (8, 32)) == Layout("channels_last", (2, 8))


def test_the_grid_can_be_said() -> None:
    model = vit(head="mean")
    expl = kerasight.explain_prediction(model, doc_of(model), grid=(2, 8), relu=False)
    square = kerasight.explain_prediction(model, doc_of(model), relu=False)
    assert expl.targets[0].heatmap.shape == (2, 8)
    np.testing.assert_allclose(
        expl.targets[0].heatmap.ravel(), square.targets[0].heatmap.ravel(), atol=1e-6
    )
    for _ in range(OFTEN):  # and in a compiled pass, one after the other
        for grid in ((2, 8), (4, 4)):
            expl = kerasight.explain_prediction(model, doc_of(model), grid=grid)
            assert expl.targets[0].heatmap.shape == grid


def odd() -> keras.Model:
    """Tokens of which nobody can tell where they come from: a learnt pooling of patches."""
    inputs = keras.Input((16, 16, 3))
    x = kl.Reshape((16, 8))(patches()(inputs))
    x = kl.Permute((2, 1))(kl.Dense(12)(kl.Permute((2, 1))(x)))
    x = kl.LayerNormalization(name="norm")(kl.MultiHeadAttention(2, 4)(x, x))
    return keras.Model(inputs, scores(kl.GlobalAveragePooling1D()(x)), name="odd")


class Queries(kl.Layer):
    """Learnt tokens of no place, of which there are as many for each doc."""

    def build(self, shape: Any) -> None:
        self.learnt = self.add_weight(shape=(1, 7, 8), initializer="normal")

    def call(self, x: Any) -> Any:
        return ops.broadcast_to(self.learnt, (ops.shape(x)[0], 7, 8))


def asked_by_queries() -> keras.Model:
    """Patches that are not mixed, and queries that read them, as in the decoder of a detector."""
    inputs = keras.Input((16, 16, 3))
    x = kl.Reshape((16, 8))(patches()(inputs))
    queries = kl.LayerNormalization()(Queries()(x))
    read = kl.Add()([queries, kl.MultiHeadAttention(2, 4)(queries, x)])
    read = kl.Add()([read, kl.MultiHeadAttention(2, 4)(read, read)])
    return keras.Model(inputs, scores(kl.GlobalAveragePooling1D()(read)), name="asked_by_queries")


def cut_oddly() -> keras.Model:
    """Patches that overlap, cut by operations: neither a map nor a size tells their grid."""

    class Overlapping(kl.Layer):
        def call(self, x: Any) -> Any:
            rows = [x[:, at : at + 6] for at in (0, 3, 6, 9, 10)]
            cells = [row[:, :, at : at + 6] for row in rows for at in (0, 3, 6, 9, 10)]
            return ops.stack([ops.reshape(cell, (-1, 108)) for cell in cells], axis=1)

    inputs = keras.Input((16, 16, 3))
    x = Prefix(0)(kl.Dense(8)(Overlapping()(inputs)))
    x = kl.LayerNormalization(name="norm")(kl.Add()([x, kl.MultiHeadAttention(2, 4)(x, x)]))
    return keras.Model(inputs, scores(kl.GlobalAveragePooling1D()(x)), name="cut_oddly")


def test_a_grid_that_cannot_be_told_is_asked_for() -> None:
    model = cut_oddly()
    with pytest.raises(ValueError, match=r"25 of them.*\(16, 16\).*pass grid=\(rows, columns\)"):
        kerasight.explain_prediction(model, doc_of(model))
    expl = kerasight.explain_prediction(model, doc_of(model), grid=(5, 5))
    assert (expl.layer, expl.targets[0].heatmap.shape) == ("norm", (5, 5))


@pytest.mark.parametrize(
    ("grid", "error", "says"),
    [
        ((4, 5), ValueError, r"grid=\(4, 5\) does not fit"),
        ((2, 2), ValueError, r"grid=\(2, 2\) does not fit"),
        ((0, 4), ValueError, "grid: each number must be at least 1, got 0"),
        ((4, 4.0), TypeError, "grid: each number must be an integer, got float"),
        (16, TypeError, r"grid must be the number of cells along each axis.*got 16"),
        ("4x4", TypeError, "grid must be the number of cells"),
        ((), TypeError, "grid must be the number of cells"),
    ],
)
def test_a_grid_that_does_not_fit_is_refused(grid: Any, error: type, says: str) -> None:
    model = vit(head="mean")
    with pytest.raises(error, match=says):
        kerasight.explain_prediction(model, doc_of(model), grid=grid)


def test_a_layer_whose_tokens_fit_no_grid_is_refused() -> None:
    model = odd()
    with pytest.raises(ValueError, match=r"puts out tokens, shape \(1, 12, 8\).*grid="):
        kerasight.explain_prediction(model, doc_of(model), layer="norm")
    expl = kerasight.explain_prediction(model, doc_of(model), layer="norm", grid=(3, 4))
    assert expl.targets[0].heatmap.shape == (3, 4)


def test_tokens_that_are_no_cells_are_not_exchanged_for_those_before_them() -> None:
    model = odd()
    with pytest.raises(ValueError, match=r"12 of them.*pass grid=.*layer='patches'"):
        kerasight.explain_prediction(model, doc_of(model))
    expl = kerasight.explain_prediction(model, doc_of(model), grid=(3, 4), relu=False)
    assert (expl.layer, expl.targets[0].heatmap.shape) == ("norm", (3, 4))


def test_the_cells_that_queries_read_are_where_to_look() -> None:
    model = asked_by_queries()
    expl = kerasight.explain_prediction(model, doc_of(model), relu=False)
    assert (expl.layer, expl.targets[0].heatmap.shape) == ("patches", (4, 4))


@pytest.mark.parametrize("head", ["token", "mean"])
def test_a_saturated_probability_does_not_hide_where_to_look(head: str) -> None:
    model = vit(head=head)
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel * 1e4, bias])
    saturated = keras.Model(model.input, kl.Softmax()(model.output))
    path = kerasight.explain_prediction(model, doc_of(model), relu=False).layer
    with pytest.warns(kerasight.HeatmapWarning, match=r"saturated.*logits=True"):
        expl = kerasight.explain_prediction(saturated, doc_of(model))
    assert expl.layer == path
    eigen = kerasight.explain_prediction(saturated, doc_of(model), method="eigen-cam")
    assert eigen.layer == path


def test_tokens_are_unfolded_and_folded_again() -> None:
    layout = Layout("channels_last", (2, 3), 1)
    tokens = np.arange(2 * 7 * 4.0).reshape(2, 7, 4)
    unfolded = layout.unfold(tokens)
    assert unfolded.shape == (2, 2, 3, 4)
    np.testing.assert_array_equal(unfolded[1, 1, 0], tokens[1, 4])
    np.testing.assert_array_equal(layout.fold(unfolded[:1], tokens[0, :1])[0], tokens[0])
    assert layout.unfold(tokens[np.newaxis], axis=1).shape == (1, 2, 2, 3, 4)
    assert layout.spatial(tokens.shape) == (2, 3)
    assert layout != CHANNELS_LAST
    assert Layout.of_tokens(5, (2, 3)) is None


def test_tokens_are_explained_by_hirescam_if_no_method_is_asked_for() -> None:
    model = vit()
    doc = doc_of(model)
    maps = {
        method: kerasight.explain_prediction(model, doc, method=method, logits=True, relu=False)
        for method in (None, "hirescam", "grad-cam")
    }
    assert [one.method for one in maps.values()] == [
        "HiResCAM (signed)",
        "HiResCAM (signed)",
        "Grad-CAM (signed)",
    ]
    found, hirescam, grad_cam = (one.targets[0].heatmap for one in maps.values())
    np.testing.assert_array_equal(found, hirescam)
    assert not np.allclose(found, grad_cam, atol=1e-2)
    (streamed,) = kerasight.explain_predictions(model, doc, logits=True, relu=False)
    np.testing.assert_allclose(streamed.targets[0].heatmap, hirescam, atol=1e-6)
    # The map that the tokens are cut from is none of tokens.
    of_map = kerasight.explain_prediction(model, doc, layer="patches", logits=True, relu=False)
    assert of_map.method == "Grad-CAM (signed)"
