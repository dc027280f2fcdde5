"""The same maps as pytorch-grad-cam, on the same weights; and where not, by what they differ.

Its maps are taken before it cuts, scales and resizes them. The table "Beside captum and
pytorch-grad-cam" in docs/methods.md says why those that differ do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pytorch_grad_cam import (
    AblationCAM,
    EigenCAM,
    EigenGradCAM,
    FinerCAM,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    RefineCAM,
    ScoreCAM,
    ShapleyCAM,
    XGradCAM,
)
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from twins import CLASSES, EQUAL, SIDE, Twins, distance, make_twins

from kerasight.cam.maps import normalised, resized, stretched
from kerasight.cam.methods import eigen_cam

pytestmark = pytest.mark.peers

LAYERS = ("act_1", "act_2")


@pytest.fixture(scope="module")
def twins() -> Twins:
    return make_twins()


def their_map(
    cam: Any, twins: Twins, target: Any, **options: Any
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """What pytorch-grad-cam makes of a layer, and its activations and gradients, channels last."""
    inner = getattr(cam, "base_cam", cam)
    made: list[Any] = []
    get = inner.get_cam_image

    def keep(*terms: Any) -> Any:
        made.extend((get(*terms), *terms[3:5]))
        return made[0]

    inner.get_cam_image = keep
    if isinstance(target, (int, np.integer)):
        target = ClassifierOutputTarget(target)
    cam(twins.tensor, targets=None if target is None else [target], **options)
    raw, *terms = made
    return (raw[0], *(None if one is None else np.moveaxis(one[0], 0, -1) for one in terms))


def theirs(kind: Any, twins: Twins, target: Any, layer: str, **options: Any) -> np.ndarray:
    """The map alone."""
    return their_map(kind(twins.twin, [twins.twin.get_submodule(layer)]), twins, target, **options)[
        0
    ]


SAME = {
    "grad-cam": GradCAM,
    "hirescam": HiResCAM,
    "xgrad-cam": XGradCAM,
    "layercam": LayerCAM,
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("method", SAME)
def test_methods_of_one_definition_make_the_same_maps(
    twins: Twins, method: str, layer: str
) -> None:
    for target in range(CLASSES):
        raw = theirs(SAME[method], twins, target, layer)
        assert np.ptp(raw) > 0
        assert distance(twins.heatmap(method, target, layer), raw, method) < EQUAL


def test_grad_cam_plus_plus_is_the_same_where_gradients_are_large() -> None:
    # At a layer without gradients that lie so that the divisor is all but zero.
    twins = make_twins(scale=1000)
    for target in range(CLASSES):
        raw = theirs(GradCAMPlusPlus, twins, target, "act_2")
        assert distance(twins.heatmap("grad-cam++", target, "act_2"), raw, "grad-cam++") < EQUAL


@pytest.mark.parametrize("layer", LAYERS)
def test_grad_cam_plus_plus_differs_by_the_constant_in_their_divisor(
    twins: Twins, layer: str
) -> None:
    target = 0
    cam = GradCAMPlusPlus(twins.twin, [twins.twin.get_submodule(layer)])
    raw, activations, gradients = (np.float64(term) for term in their_map(cam, twins, target))
    ours = twins.heatmap("grad-cam++", target, layer)
    assert distance(ours, raw, "grad-cam++") > 0.01
    squares = gradients**2
    below = 2 * squares + activations.sum(axis=(0, 1)) * gradients**3
    for constant, expected in ((1e-6, raw), (0, ours)):
        alpha = np.divide(squares, below + constant, out=np.zeros_like(below), where=gradients != 0)
        weights = (alpha * np.maximum(gradients, 0)).sum(axis=(0, 1))
        evidence = normalised((activations * weights).sum(axis=2))
        np.testing.assert_allclose(evidence, normalised(expected), atol=EQUAL)


@pytest.mark.parametrize("layer", LAYERS)
def test_eigen_cam_differs_by_the_means_alone_which_theirs_takes_away(
    twins: Twins, layer: str
) -> None:
    target = 0
    cam = EigenCAM(twins.twin, [twins.twin.get_submodule(layer)])
    raw, activations, _ = their_map(cam, twins, target)
    ours = twins.heatmap("eigen-cam", target, layer)
    assert min(distance(ours, sign * raw, "eigen-cam") for sign in (1, -1)) > 0.01
    centred = eigen_cam(activations - activations.mean(axis=(0, 1)))
    np.testing.assert_allclose(np.abs(centred), np.abs(raw), atol=EQUAL * np.abs(raw).max())


@pytest.mark.parametrize("layer", LAYERS)
def test_eigengrad_cam_is_the_same_but_for_the_sign(twins: Twins, layer: str) -> None:
    for target in range(CLASSES):
        raw = theirs(EigenGradCAM, twins, target, layer)
        products = theirs(HiResCAM, twins, target, layer)
        # Which of the two a singular vector has, theirs leaves to the library of linear algebra.
        sign = np.sign((raw * products).sum())
        ours = twins.heatmap("eigengrad-cam", target, layer)
        assert distance(ours, sign * raw, "eigengrad-cam") < EQUAL


def test_score_cam_is_the_same_where_channels_need_no_enlarging(twins: Twins) -> None:
    for target in range(CLASSES):
        raw = theirs(ScoreCAM, twins, target, "act_1")
        assert distance(twins.heatmap("score-cam", target, "act_1"), raw, "score-cam") < EQUAL


def test_elsewhere_score_cam_differs_by_how_channels_are_enlarged(
    twins: Twins, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = int(twins.scores.argmax())
    ours = twins.heatmap("score-cam", target, "act_2")
    assert distance(ours, theirs(ScoreCAM, twins, target, "act_2"), "score-cam") > 10 * EQUAL
    # Theirs lays the centres of the corner cells on the corner pixels.
    monkeypatch.setattr(
        torch.nn, "UpsamplingBilinear2d", lambda size: torch.nn.Upsample(size, mode="bilinear")
    )
    assert distance(ours, theirs(ScoreCAM, twins, target, "act_2"), "score-cam") < EQUAL


def test_of_probabilities_their_score_cam_hardly_tells_classes_apart() -> None:
    twins = make_twins(activation="softmax")
    most, least = twins.scores.argmax(), twins.scores.argmin()
    between = {
        name: np.abs(make(most) - make(least)).max()
        for name, make in {
            "ours": lambda target: twins.heatmap("score-cam", target, "act_1"),
            "theirs": lambda target: normalised(theirs(ScoreCAM, twins, target, "act_1")),
        }.items()
    }
    assert between["ours"] > 3 * between["theirs"]


@pytest.mark.parametrize("layer", LAYERS)
def test_ablation_cam_is_the_same_but_turned_over_where_the_score_is_negative(
    twins: Twins, layer: str
) -> None:
    assert twins.scores.min() < 0 < twins.scores.max()
    for target in range(CLASSES):
        # By the score itself theirs divides the drops.
        raw = np.sign(twins.scores[target]) * theirs(AblationCAM, twins, target, layer)
        assert distance(twins.heatmap("ablation-cam", target, layer), raw, "ablation-cam") < EQUAL


def test_of_channels_with_negative_values_their_ablation_cam_sets_none_to_zero() -> None:
    twins = make_twins(relu=False)
    target = int(twins.scores.argmax())
    cam = AblationCAM(twins.twin, [twins.twin.act_2])
    ours = twins.heatmap("ablation-cam", target, "act_2")
    raw, activations, _ = their_map(cam, twins, target)
    assert distance(ours, raw, "ablation-cam") > 0.01
    # It takes ten million less than the least value in place of zero, and for each further channel
    # ten million less than for the one before. Next to that, what the channel held is nothing.
    weights = twins.twin.scores.weight[target].detach().numpy()
    as_theirs = normalised(activations @ (weights * np.arange(1, 7)), relu=False)
    np.testing.assert_allclose(normalised(raw, relu=False), as_theirs, atol=1e-3)
    drops = activations.mean(axis=(0, 1)) * weights
    np.testing.assert_allclose(ours, normalised(activations @ drops, relu=False), atol=EQUAL)


@pytest.mark.parametrize("layer", LAYERS)
def test_finer_cam_is_the_same_beside_one_class(twins: Twins, layer: str) -> None:
    for target in range(CLASSES):
        raw = theirs(
            FinerCAM, twins, None, layer, alpha=0.6, comparison_categories=[1], target_idx=target
        )
        ours = twins.heatmap("finer-cam", target, layer, references=1)
        assert distance(ours, raw, "finer-cam") < EQUAL


@pytest.mark.parametrize("layer", LAYERS)
def test_beside_several_it_weighs_them_alike_as_the_paper_does(twins: Twins, layer: str) -> None:
    target = int(twins.scores.argmax())
    ours = twins.heatmap("finer-cam", target, layer)
    raw = theirs(FinerCAM, twins, None, layer, alpha=0.6, target_idx=target)
    assert distance(ours, raw, "finer-cam") > 0.01
    nearest = np.argsort(np.abs(twins.scores - twins.scores[target]))[1:4]
    raw = theirs(GradCAM, twins, lambda out: out[target] - 0.6 * out[nearest].mean(), layer)
    assert distance(ours, raw, "finer-cam") < EQUAL


def test_refine_cam_differs_by_a_stretch_after_maps_are_enlarged() -> None:
    twins = make_twins(scale=1000)
    modules = [twins.twin.get_submodule(layer) for layer in LAYERS]
    stretches = []
    for target in range(1, CLASSES):
        small = [
            resized(stretched(np.maximum(raw, 0)), (SIDE, SIDE))
            for layer in LAYERS
            for raw in [theirs(GradCAMPlusPlus, twins, target, layer)]
        ]
        ours = twins.heatmap("refine-cam", target, list(LAYERS))
        np.testing.assert_allclose(ours, normalised(np.prod(small, axis=0)), atol=EQUAL)
        cam = RefineCAM(twins.twin, modules)
        (raw,) = cam(twins.tensor, [ClassifierOutputTarget(target)])
        again = np.prod([stretched(one) for one in small], axis=0)
        np.testing.assert_allclose(raw, normalised(again), atol=EQUAL)
        stretches.append(distance(ours, raw, "refine-cam"))
    assert min(stretches) < EQUAL < 0.01 < max(stretches)


@pytest.mark.parametrize("layer", LAYERS)
def test_shapley_cam_is_the_same(layer: str) -> None:
    # A softmax bends: without it, all second derivatives are zero, and this would be Grad-CAM.
    twins = make_twins(activation="softmax")
    target = int(twins.scores.argmax())
    module = twins.twin.get_submodule(layer)
    cam = ShapleyCAM(twins.twin, [module])
    made: list[np.ndarray] = []
    get = cam.get_cam_image
    cam.get_cam_image = lambda *terms: made.append(get(*terms)) or made[0]
    cam(twins.tensor, targets=[ClassifierOutputTarget(target)])
    assert distance(twins.heatmap("grad-cam", target, layer), made[0][0], "grad-cam") > EQUAL
    assert distance(twins.heatmap("shapley-cam", target, layer), made[0][0], "shapley-cam") < EQUAL
