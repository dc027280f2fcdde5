from __future__ import annotations

import re
from typing import Any

import keras
import numpy as np
import pytest
from fresh_python import imported_by
from tiny_pictures import HEAT

from kerasight.base import Explanation, TargetExplanation
from kerasight.metrics import average_drop, deletion, increase, insertion, road
from kerasight.metrics.common import heatmaps_of, progressing, ranks


def mean_model(*weights: float, channels_first: bool = False, size: int = 4) -> keras.Model:
    """Two classes of one input: the mean over pixels of its channels by ``weights``, and 0.25."""
    channels = len(weights)
    shape = (channels, size, size) if channels_first else (size, size, channels)
    data_format = "channels_first" if channels_first else "channels_last"
    model = keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.GlobalAveragePooling2D(data_format=data_format),
            keras.layers.Dense(2),
        ]
    )
    kernel = np.array([weights, np.zeros(channels)], np.float32).T
    model.layers[-1].set_weights([kernel, np.array([0, 0.25], np.float32)])
    return model


def explanation(heatmap: Any, target: Any = 0) -> Explanation:
    return Explanation("net", targets=[TargetExplanation(target, heatmap=heatmap)])


# Heatmaps


def test_heatmaps_come_out_of_all_that_holds_them() -> None:
    target = TargetExplanation(3, heatmap=HEAT)
    both = Explanation("net", targets=[target, TargetExplanation(1, heatmap=1 - HEAT)])
    for given in (both, target, [both], (item for item in [target])):
        (heat,) = heatmaps_of(given)
        assert heat.target == 3
        np.testing.assert_array_equal(heat.values, HEAT)
    for given in (HEAT, HEAT[np.newaxis], [HEAT.astype(np.float32)]):
        (heat,) = heatmaps_of(given)
        assert heat.target is None
        np.testing.assert_array_equal(heat.values, HEAT)
    assert [heat.target for heat in heatmaps_of([HEAT, both, HEAT > 0])] == [None, 3, None]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (5, TypeError, "must be an Explanation, a heatmap of shape .* got int"),
        ("heat", TypeError, "got str"),
        ({"a": HEAT}, TypeError, "got dict"),
        ([HEAT, [0.5]], TypeError, "explanation 1 must be .* got list"),
        (explanation(HEAT, "cat"), TypeError, "of a class index, and is of 'cat'"),
        (explanation(None), TypeError, "explanation 0 must be .* got NoneType"),
        (np.array([["a"]]), TypeError, "must hold real numbers, got dtype <U1"),
        (HEAT * 1j, TypeError, "must hold real numbers, got dtype complex128"),
        (HEAT.astype(object), TypeError, "must hold real numbers, got dtype object"),
        ([], ValueError, "at least one explanation, got none"),
        (HEAT[0], ValueError, r"must have shape \(height, width\), or .* got \(2,\)"),
        ([HEAT[0]], ValueError, r"heatmap 0 must have shape \(height, width\).* got \(2,\)"),
        ([np.zeros((0, 2))], ValueError, "at least one cell"),
        ([HEAT, HEAT * np.nan], ValueError, "heatmap 1 must be finite"),
        (Explanation("net", error="no image model"), ValueError, "no class: no image model"),
        (Explanation("net"), ValueError, "explanation 0 explains no class$"),
    ],
)
def test_what_holds_no_heatmap_is_refused(given: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        heatmaps_of(given)


# Order


def test_pixels_are_ranked_from_the_hottest() -> None:
    np.testing.assert_array_equal(ranks(HEAT, (2, 2), seed=0), [[3, 2], [1, 0]])
    np.testing.assert_array_equal(ranks(-HEAT, (2, 2), seed=0), [[0, 1], [2, 3]])


def test_ties_are_broken_at_random_and_not_by_place() -> None:
    flat = np.full((2, 2), 0.7)
    order = ranks(flat, (32, 32), seed=0)
    assert sorted(order.ravel()) == list(range(1024))
    # Half of the pixels: about half of them in each half of the picture.
    first = order < 512
    for half in (first[:16], first[16:], first[:, :16], first[:, 16:]):
        assert 226 < half.sum() < 286
    np.testing.assert_array_equal(order, ranks(flat, (32, 32), seed=0))
    assert (order != ranks(flat, (32, 32), seed=1)).any()


# Docs and targets

DOCS = np.random.default_rng(0).random((3, 4, 4, 1), dtype=np.float32)


@pytest.mark.parametrize(
    ("docs", "error", "message"),
    [
        (DOCS.tolist(), TypeError, "must be a numpy.ndarray .* got list"),
        (np.array([["a"]]), TypeError, "must be an array of real numbers, got dtype <U1"),
        (DOCS * 1j, TypeError, "must be an array of real numbers, got dtype complex"),
        (DOCS[0], ValueError, r"got \(4, 4, 1\); add the batch axis with docs\[np.newaxis\]"),
        (DOCS[0, 0], ValueError, r"got \(4, 1\)$"),
        (DOCS[:0], ValueError, "at least one doc"),
        (DOCS * np.inf, ValueError, "must be finite"),
        (
            DOCS[:, :2],
            ValueError,
            re.escape("docs must have shape (any, 4, 4, 1), got (3, 2, 4, 1)"),
        ),
        (DOCS.repeat(3, -1), ValueError, re.escape("(any, 4, 4, 1), got (3, 4, 4, 3)")),
    ],
)
def test_what_are_no_docs_is_refused(docs: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        deletion(mean_model(1), docs, HEAT)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"explanations": [HEAT] * 2}, ValueError, "one explanation for each doc, got 2 for 3"),
        ({"targets": [2]}, ValueError, r"target 2 is out of range: .* 2 classes, .* \[0, 2\)"),
        ({"targets": [-1]}, ValueError, "target -1 is out of range"),
        ({"targets": [0, 1]}, ValueError, "for each of the 3 docs, or one for all, and holds 2"),
        ({"targets": 0}, TypeError, "targets must be a list of class indices"),
        ({"targets": [0.5]}, TypeError, "targets must be a list of class indices"),
        ({"targets": [[0]]}, TypeError, "targets must be a list of class indices"),
        ({"targets": [True]}, TypeError, "targets must be a list of class indices"),
        ({"model": None}, TypeError, "estimator None is not supported: kerasight explains Keras 3"),
        ({"model": "m.keras"}, TypeError, "load the file with keras.models.load_model"),
        ({"logits": "x"}, TypeError, "logits must be True or False, got str"),
        ({"progress": "x"}, TypeError, "progress must be True, False or None, got str"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"batch_size": 2.0}, TypeError, "batch_size must be an integer, got float"),
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"seed": True}, TypeError, "seed must be an integer, got bool"),
        ({"baseline": "black"}, ValueError, "unknown baseline 'black'; known are 'zero', 'mean'"),
        ({"baseline": None}, TypeError, "baseline must be .* got NoneType"),
        ({"baseline": False}, TypeError, "baseline must be .* got bool"),
        ({"baseline": np.nan}, ValueError, "baseline must be finite"),
        ({"baseline": DOCS * 1j}, TypeError, "baseline must hold real numbers, got dtype complex"),
        (
            {"baseline": DOCS.astype(str)},
            TypeError,
            "baseline must hold real numbers, got dtype <U",
        ),
        (
            {"baseline": np.zeros((4, 4))},
            ValueError,
            re.escape("a doc, (4, 4, 1), or of all docs, (3, 4, 4, 1), got (4, 4)"),
        ),
    ],
)
def test_arguments_that_cannot_be_are_refused(
    arguments: dict[str, Any], error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        deletion(**{"model": mean_model(1), "docs": DOCS, "explanations": [HEAT] * 3, **arguments})


def test_one_class_has_index_0_alone() -> None:
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.GlobalAveragePooling2D()])
    with pytest.raises(ValueError, match=r"puts out 1 class, so that a target lies in \[0, 1\)"):
        deletion(model, DOCS[:1], HEAT, targets=[1])
    with pytest.raises(ValueError, match=r"got 2 for 1 doc$"):
        deletion(model, DOCS[:1], [HEAT, HEAT])


def test_the_class_is_the_explained_one_else_the_top_one_unless_another_is_asked_for() -> None:
    model = mean_model(1)
    docs = np.stack([np.full((4, 4, 1), value, np.float32) for value in (0.1, 0.9, 0.9)])
    mixed = [HEAT, HEAT, explanation(HEAT, 1)]
    np.testing.assert_array_equal(deletion(model, docs, mixed).targets, [1, 0, 1])
    np.testing.assert_array_equal(deletion(model, docs, mixed, targets=[0]).targets, [0, 0, 0])
    asked = np.array([1, 0, 0])
    np.testing.assert_array_equal(deletion(model, docs, mixed, targets=asked).targets, asked)


def test_docs_of_whole_numbers_have_means_that_are_none() -> None:
    doc = np.array([[[[0], [1]], [[2], [2]]]], np.uint8)
    curve = deletion(mean_model(1, size=2), doc, HEAT, targets=[0], baseline="mean")
    # From the hottest: 2, 2, 1 and 0 each become 1.25.
    np.testing.assert_allclose(curve.scores, [[1.25, 1.0625, 0.875, 0.9375, 1.25]])


def test_docs_of_more_digits_than_a_model_takes_are_rounded() -> None:
    wide = deletion(mean_model(1), DOCS.astype(np.longdouble), [HEAT] * 3, targets=[0])
    expected = deletion(mean_model(1), DOCS, [HEAT] * 3, targets=[0])
    np.testing.assert_allclose(wide.scores, expected.scores, rtol=1e-5)


@pytest.mark.parametrize("metric", [average_drop, deletion, increase, insertion, road])
def test_a_model_that_says_no_size_takes_docs_of_any(metric: Any) -> None:
    model = keras.Sequential([keras.Input((None, 4, 1)), keras.layers.GlobalAveragePooling2D()])
    assert np.isfinite(float(metric(model, DOCS[:, :2], [HEAT] * 3)))
    with pytest.raises(ValueError, match=re.escape("(any, any, 4, 1), got (3, 4, 2, 1)")):
        metric(model, DOCS[:, :, :2], [HEAT] * 3)


# Baselines, seen by a model that only looks at the baseline: the end of a deletion


def last(docs: np.ndarray, baseline: Any, **kwargs: Any) -> np.ndarray:
    """The mean of each doc's baseline."""
    weights = np.ones(docs.shape[-1])
    model = mean_model(*weights, size=docs.shape[1])
    heat = [HEAT] * len(docs)
    return deletion(model, docs, heat, targets=[0], baseline=baseline, **kwargs).scores[:, -1]


def test_a_number_or_an_array_is_the_baseline_itself() -> None:
    np.testing.assert_allclose(last(DOCS, 2), 2)
    np.testing.assert_allclose(last(DOCS, np.float32(-0.5)), -0.5)
    np.testing.assert_allclose(last(DOCS, 1 - DOCS[0]), 1 - DOCS[0].mean(), rtol=1e-5)
    np.testing.assert_allclose(last(DOCS, 1 - DOCS[:1]), 1 - DOCS[0].mean(), rtol=1e-5)
    np.testing.assert_allclose(last(DOCS, 1 - DOCS), 1 - DOCS.mean((1, 2, 3)), rtol=1e-5)


def test_the_mean_is_that_of_each_channel_of_each_doc() -> None:
    docs = np.random.default_rng(0).random((2, 4, 4, 3), dtype=np.float32)
    np.testing.assert_allclose(last(docs, "mean"), docs.sum(-1).mean((1, 2)), rtol=1e-5)
    model = mean_model(0, 1, 0)
    curve = deletion(model, docs, [HEAT] * 2, targets=[0], baseline="mean")
    np.testing.assert_allclose(curve.scores[:, -1], docs[..., 1].mean((1, 2)), rtol=1e-5)


def blurred(doc: np.ndarray) -> np.ndarray:
    """The blur of a doc, seen by a model that puts out every pixel."""
    model = keras.Sequential([keras.Input(doc.shape), keras.layers.Flatten()])
    pixels = int(np.prod(doc.shape))
    scores = [
        deletion(model, doc[np.newaxis], HEAT, baseline="blur", steps=1, targets=[place])
        for place in range(pixels)
    ]
    return np.array([curve.scores[0, -1] for curve in scores]).reshape(doc.shape)


def test_blur_keeps_what_is_flat_to_the_edges() -> None:
    flat = np.full((6, 6, 1), 0.3, np.float32)
    np.testing.assert_allclose(blurred(flat), 0.3, rtol=1e-6)


# What the code of RISE convolves a picture of 224 x 224 with: a peak in 11 cells, after
# scipy.ndimage.gaussian_filter1d(peak, 5), which reflects at the ends.
RISE = [0.08795815, 0.08889612, 0.09047420, 0.09219112, 0.09348939, 0.09398206]


def test_at_224_pixels_blur_is_the_kernel_of_rise() -> None:
    doc = np.zeros((1, 224, 224, 1), np.float32)
    doc[0, 100, 100], doc[0, 20, 20] = 1, -1  # of mean 0, where edges change nothing
    column = keras.Sequential(
        [
            keras.Input((224, 224, 1)),
            keras.layers.Cropping2D(((94, 118), (100, 123))),
            keras.layers.Flatten(),
        ]
    )
    seen = [
        deletion(column, doc, HEAT, baseline="blur", steps=1, targets=[place]).scores[0, -1]
        for place in range(12)
    ]
    kernel = np.array([*RISE, *RISE[-2::-1]])
    np.testing.assert_allclose(seen, [0, *kernel * RISE[-1]], atol=1e-7)
    assert np.sqrt(kernel @ np.arange(-5, 6) ** 2) == pytest.approx(3.13, abs=0.005)


@pytest.mark.parametrize(
    ("side", "taps"), [(5, 3), (67, 3), (68, 5), (96, 5), (224, 11), (300, 15)]
)
def test_the_kernel_of_the_blur_grows_with_the_picture(side: int, taps: int) -> None:
    from kerasight.cam.baselines import _kernel

    kernel = _kernel(side)
    assert len(kernel) == taps
    assert kernel.sum() == pytest.approx(1)
    np.testing.assert_allclose(kernel, kernel[::-1])


def test_beyond_the_edges_of_a_blurred_doc_lies_its_mean() -> None:
    doc = np.zeros((6, 6, 1), np.float32)
    doc[0, 0] = 36  # the mean is 1
    found = blurred(doc)
    from kerasight.cam.baselines import _kernel

    low, peak, _ = _kernel(6)
    # A corner: 35 times the peak above the mean, its three neighbours inside are 1 below it.
    around = 2 * low * peak + low**2
    assert found[0, 0, 0] == pytest.approx(1 + 35 * peak**2 - around, rel=1e-5)
    assert found[3, 3, 0] == pytest.approx(0, abs=1e-6)


def test_noise_has_the_mean_and_spread_of_the_doc_within_its_range() -> None:
    rng = np.random.default_rng(0)
    docs = rng.normal(3, 0.5, (1, 64, 64, 1)).astype(np.float32)
    assert last(docs, "noise")[0] == pytest.approx(3, abs=0.03)
    square = keras.Sequential([keras.Input((64, 64, 1)), keras.layers.GlobalMaxPooling2D()])
    greatest = deletion(square, docs, HEAT, baseline="noise", steps=1).scores[0, -1]
    assert docs.mean() + docs.std() < greatest <= docs.max()


def test_noise_depends_on_the_seed_alone() -> None:
    both = last(DOCS[:2], "noise")
    np.testing.assert_array_equal(both, last(DOCS[:2], "noise"))
    np.testing.assert_allclose(both[1:], last(DOCS[1:2], "noise"), rtol=1e-6)
    assert (both != last(DOCS[:2], "noise", seed=1)).all()


def test_a_baseline_is_named_in_the_result() -> None:
    named = {"blur": "blur", 0: "0", 0.5: "0.5"}
    for baseline, name in named.items():
        assert deletion(mean_model(1), DOCS[:1], HEAT, baseline=baseline).baseline == name
    assert deletion(mean_model(1), DOCS[:1], HEAT, baseline=DOCS[0]).baseline == "array"


# Layouts


@pytest.mark.parametrize("baseline", ["mean", "blur", "noise", 0.5, "array"])
@pytest.mark.parametrize("metric", [deletion, insertion])
def test_channels_first_gives_the_same_as_channels_last(metric: Any, baseline: Any) -> None:
    docs = np.random.default_rng(0).random((2, 4, 4, 3), dtype=np.float32)
    turned = np.ascontiguousarray(np.moveaxis(docs, -1, 1))
    heat, targets = [HEAT, HEAT.T], [0, 1]
    given = docs[::-1] if baseline == "array" else baseline
    there = turned[::-1] if baseline == "array" else baseline
    last_one = metric(mean_model(1, 2, -1), docs, heat, targets=targets, baseline=given)
    first = mean_model(1, 2, -1, channels_first=True)
    first_one = metric(first, turned, heat, targets=targets, baseline=there)
    np.testing.assert_allclose(first_one.scores, last_one.scores, rtol=1e-5, atol=1e-6)


def test_a_model_that_starts_with_a_permutation_is_seen_through() -> None:
    docs = np.random.default_rng(0).random((1, 3, 8, 8), dtype=np.float32)
    inner = mean_model(1, 2, -1, size=8)
    permuted = keras.Sequential(
        [keras.Input((3, 8, 8)), keras.layers.Permute((2, 3, 1)), *inner.layers]
    )
    expected = deletion(inner, np.moveaxis(docs, 1, -1), HEAT, targets=[0])
    found = deletion(permuted, docs, HEAT, targets=[0])
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)


# Progress


def test_progress_is_shown_if_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progressing(iter("abc"), 3, "spelling", None)) == ["a", "b", "c"]
    assert list(progressing(iter("abc"), 3, "spelling", False)) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""
    assert list(progressing(iter("abc"), 3, "spelling", True)) == ["a", "b", "c"]
    assert "spelling" in capsys.readouterr().err


def test_importing_the_metrics_imports_no_framework() -> None:
    assert imported_by("import kerasight.metrics") == set()


def test_every_public_name_is_there() -> None:
    from kerasight import metrics

    for name in metrics.__all__:
        assert getattr(metrics, name).__doc__
