"""The same maps as captum, on the same weights; and where not, by what they differ.

Of its attributions ``(channels, height, width)``, kerasight shows the sum over channels, or the
greatest of them where a method has no sign. The table "Beside captum and pytorch-grad-cam" in
docs/methods.md says why those that differ do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import (
    GradientShap,
    InputXGradient,
    IntegratedGradients,
    KernelShap,
    LayerGradCam,
    NoiseTunnel,
    Occlusion,
    Saliency,
    ShapleyValues,
)
from twins import CLASSES, EQUAL, SIDE, Twins, channels_first, distance, make_twins

pytestmark = pytest.mark.peers

OCTANTS = np.kron(np.arange(8).reshape(2, 4), np.ones((SIDE // 2, SIDE // 4), int))


@pytest.fixture(scope="module")
def twins() -> Twins:
    return make_twins()


@pytest.fixture(scope="module")
def probable() -> Twins:
    """Twins whose scores bend wherever the doc changes."""
    return make_twins(activation="softmax")


def theirs(attribution: Any, twins: Twins, target: int, **options: Any) -> np.ndarray:
    """What captum attributes, ``(channels, height, width)``."""
    doc = twins.tensor.clone().requires_grad_()
    attributed = attribution.attribute(doc, target=target, **options)
    array: np.ndarray = attributed[0].detach().numpy()
    return array


@pytest.mark.parametrize("layer", ["act_1", "act_2"])
def test_grad_cam_is_the_same(twins: Twins, layer: str) -> None:
    attribution = LayerGradCam(twins.twin, twins.twin.get_submodule(layer))
    for target in range(CLASSES):
        raw = theirs(attribution, twins, target).sum(axis=0)
        assert distance(twins.heatmap("grad-cam", target, layer), raw, "grad-cam") < EQUAL


def test_saliency_is_the_same(twins: Twins) -> None:
    for target in range(CLASSES):
        raw = theirs(Saliency(twins.twin), twins, target).max(axis=0)
        assert distance(twins.heatmap("saliency", target), raw, "saliency") < EQUAL


def test_input_x_gradient_is_the_same(twins: Twins) -> None:
    for target in range(CLASSES):
        raw = theirs(InputXGradient(twins.twin), twins, target).sum(axis=0)
        assert distance(twins.heatmap("input-x-gradient", target), raw, "input-x-gradient") < EQUAL


@pytest.mark.parametrize("baseline", [0.0, -0.5])
def test_integrated_gradients_are_the_same_by_the_same_rule(
    probable: Twins, baseline: float
) -> None:
    options: dict[str, Any] = {"samples": 50, "baseline": baseline or "zero"}
    for target in range(CLASSES):
        raw = theirs(
            IntegratedGradients(probable.twin),
            probable,
            target,
            n_steps=50,
            method="riemann_middle",
            baselines=baseline,
        )
        ours = probable.heatmap("integrated-gradients", target, **options)
        assert distance(ours, raw.sum(axis=0), "integrated-gradients") < EQUAL


def test_by_another_rule_captum_comes_to_the_same_integral(probable: Twins) -> None:
    target = int(probable.scores.argmax())
    ours = probable.heatmap("integrated-gradients", target, samples=1000)
    apart = [
        distance(ours, raw.sum(axis=0), "integrated-gradients")
        for steps in (50, 1000)
        for raw in [theirs(IntegratedGradients(probable.twin), probable, target, n_steps=steps)]
    ]
    assert apart[0] > apart[1] < 1e-3


@pytest.mark.parametrize(
    ("method", "kind", "summed"),
    [
        pytest.param("smoothgrad", "smoothgrad", np.abs),
        pytest.param("smoothgrad-squared", "smoothgrad_sq", np.asarray),
        pytest.param("vargrad", "vargrad", np.asarray),
    ],
)
def test_smoothgrad_and_its_kin_are_the_same_of_the_same_noise(
    probable: Twins,
    method: str,
    kind: str,
    summed: Callable[[np.ndarray], np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = int(probable.scores.argmax())
    ours, docs = probable.docs_of(method, target, samples=20)
    assert len(docs) == 20
    noise = channels_first(docs - probable.doc)
    monkeypatch.setattr(torch, "normal", lambda *_: noise)
    # The mean of gradients with their signs, which Saliency by itself drops.
    raw = theirs(
        NoiseTunnel(Saliency(probable.twin)),
        probable,
        target,
        nt_type=kind,
        nt_samples=20,
        abs=False,
    )
    assert distance(ours, summed(raw).max(axis=0), method) < EQUAL


def test_expected_gradients_are_the_same_of_the_same_draws(
    probable: Twins, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = int(probable.scores.argmax())
    baseline = np.zeros_like(probable.doc)
    ours, docs = probable.docs_of("expected-gradients", target, samples=20, baseline=baseline)
    assert len(docs) == 20
    # How far from the baseline each of them is.
    shares = (docs * probable.doc).sum(axis=(1, 2, 3)) / np.square(probable.doc).sum()
    monkeypatch.setattr(np.random, "uniform", lambda *_: shares)
    raw = theirs(
        GradientShap(probable.twin),
        probable,
        target,
        baselines=channels_first(baseline),
        n_samples=20,
    )
    assert distance(ours, raw.sum(axis=0), "expected-gradients") < EQUAL


@pytest.mark.parametrize("baseline", [0.0, -0.5])
@pytest.mark.parametrize(("window", "stride"), [(4, 4), (5, 3), (6, 2)])
def test_occlusion_is_the_same(twins: Twins, window: int, stride: int, baseline: float) -> None:
    options: dict[str, Any] = {"window": window, "stride": stride, "baseline": baseline or "zero"}
    for target in range(CLASSES):
        raw = theirs(
            Occlusion(twins.twin),
            twins,
            target,
            sliding_window_shapes=(3, window, window),
            strides=(3, stride, stride),
            baselines=baseline,
        )
        ours = twins.heatmap("occlusion", target, **options)
        assert distance(ours, raw.sum(axis=0), "occlusion") < EQUAL


def test_of_all_coalitions_kernel_shap_is_shapley_values(probable: Twins) -> None:
    quarters = OCTANTS // 2
    ours = probable.heatmap("kernel-shap", 0, segments=quarters, samples=16, baseline="zero")
    mask = torch.from_numpy(quarters)[None, None]
    raw = theirs(ShapleyValues(probable.twin), probable, 0, feature_mask=mask)
    # Of a quarter's value, which captum gives to all its places, each has a share here.
    shares = raw[0] / (quarters == 0).sum()
    assert distance(ours, shares, "kernel-shap") < EQUAL


def test_their_kernel_shap_draws_coalitions_and_comes_near(probable: Twins) -> None:
    torch.manual_seed(0)
    ours = probable.heatmap("kernel-shap", 0, segments=OCTANTS, samples=256, baseline="zero")
    mask = torch.from_numpy(OCTANTS)[None, None]
    raw = theirs(
        KernelShap(probable.twin),
        probable,
        0,
        feature_mask=mask,
        n_samples=4000,
        perturbations_per_eval=100,
    )
    assert EQUAL < distance(ours, raw.sum(axis=0), "kernel-shap") < 0.1
