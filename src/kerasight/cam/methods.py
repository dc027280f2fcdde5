r"""The methods: one formula each, in NumPy. Here are those of class activation maps.

A formula makes evidence of the terms of one layer: an array ``(*spatial)``, positive where a place
speaks for the class, negative where it speaks against it. `maps.normalised` makes a heatmap of it.
Space has one to three axes, for sequences, pictures and volumes, and no formula asks which places
are neighbours. In all of them :math:`A^k` is what channel :math:`k` put out, :math:`g^k` the
gradient of the score with respect to it, and :math:`i` one of :math:`n` places. Terms of other
shapes, and NaN or infinity in them, are a ``ValueError``.

A new method is one function, and one line in `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kerasight.cam import attention, attributions, masking
from kerasight.cam.maps import (
    channel_weights,
    checked_terms,
    resized,
    spatial_axes,
    stretched,
    sum_of_products,
    weighted_sum,
)
from kerasight.checks import one_of

if TYPE_CHECKING:
    from jaxtyping import Float64, Real

__all__ = [
    "ALPHA",
    "CAMS",
    "DEFAULT",
    "METHODS",
    "REFERENCES",
    "Method",
    "Needs",
    "ablation_cam",
    "eigen_cam",
    "eigengrad_cam",
    "find_method",
    "finer_cam",
    "grad_cam",
    "grad_cam_plus_plus",
    "hirescam",
    "layercam",
    "opti_cam",
    "recipro_cam",
    "refine_cam",
    "score_cam",
    "shapley_cam",
    "xgrad_cam",
]


def grad_cam(
    activations: Real[np.ndarray, "*spatial channels"],
    gradients: Real[np.ndarray, "*spatial channels"],
) -> Float64[np.ndarray, "*spatial"]:
    r"""Grad-CAM: channels weighted by their mean gradients.

    .. math:: \sum_k \Big(\frac{1}{n} \sum_i g^k_i\Big) A^k

    Paper: Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via
    Gradient-based Localization", https://arxiv.org/abs/1610.02391.

    Args:
        activations: The layer's output for one image, shape ``(*spatial, channels)``.
        gradients: Gradients of the score with respect to it, same shape.

    Returns:
        Evidence, float64, shape ``(*spatial)``.

    Example:
        >>> import numpy as np
        >>> from kerasight.cam.methods import grad_cam
        >>> activations = np.array([[[1.0, 0.0], [0.0, 1.0]], [[2.0, 1.0], [0.0, 0.0]]])
        >>> gradients = np.array([[[4.0, 0.0], [0.0, 0.0]], [[0.0, -4.0], [0.0, 0.0]]])
        >>> grad_cam(activations, gradients)
        array([[ 1., -1.],
               [ 1.,  0.]])
    """
    activations, gradients = checked_terms(activations, gradients=gradients)
    return weighted_sum(channel_weights(gradients), activations)


def grad_cam_plus_plus(
    activations: Real[np.ndarray, "*spatial channels"],
    gradients: Real[np.ndarray, "*spatial channels"],
) -> Float64[np.ndarray, "*spatial"]:
    r"""Grad-CAM++: positive gradients, weighted so that each of several objects counts.

    .. math::
        \sum_k \Big(\sum_i \alpha^k_i \max(0, g^k_i)\Big) A^k, \qquad
        \alpha^k_i = \frac{(g^k_i)^2}{2 (g^k_i)^2 + \sum_j A^k_j (g^k_i)^3}

    As in the paper, the score is taken through an exponential, whose derivatives are these powers;
    the factor that all of them share is left out, since it changes no heatmap.

    Paper: Chattopadhay et al. 2018, "Grad-CAM++: Generalized Gradient-based Visual Explanations for
    Deep Convolutional Networks", https://arxiv.org/abs/1710.11063.

    Args:
        activations: The layer's output for one image, shape ``(*spatial, channels)``.
        gradients: Gradients of the score with respect to it, same shape.

    Returns:
        Evidence, float64, shape ``(*spatial)``. Never negative where no activation is.
    """
    activations, gradients = map(_float64, checked_terms(activations, gradients=gradients))
    # Divided by the squares of the gradients above and below, which vanish where these are tiny.
    space = spatial_axes(activations)
    below = 2 + activations.sum(axis=space) * gradients
    alpha = np.divide(1, below, out=np.zeros_like(below), where=(gradients != 0) & (below != 0))
    weights = (alpha * np.maximum(gradients, 0)).sum(axis=space)
    return weighted_sum(weights, activations)


def hirescam(
    activations: Real[np.ndarray, "*spatial channels"],
    gradients: Real[np.ndarray, "*spatial channels"],
) -> Float64[np.ndarray, "*spatial"]:
    r"""HiResCAM: each place by its own gradients, so that it shows what the score is made of.

    .. math:: \sum_k g^k \odot A^k

    Paper: Draelos & Carin 2020, "Use HiResCAM instead of Grad-CAM for faithful explanations of
    convolutional neural networks", https://arxiv.org/abs/2011.08891.

    Args:
        activations: The layer's output for one image, shape ``(*spatial, channels)``.
        gradients: Gradients of the score with respect to it, same shape.

    Returns:
        Evidence, float64, shape ``(*spatial)``.
    """
    activations, gradients = checked_terms(activations, gradients=gradients)
    return sum_of_products(activations, gradients)


def xgrad_cam(
    activations: Real[np.ndarray, "*spatial channels"],
    gradients: Real[np.ndarray, "*spatial channels"],
) -> Float64[np.ndarray, "*spatial"]:
    r"""XGrad-CAM: channels weighted by their gradients where they are active.

    .. math:: \sum_k \Big(\sum_i \frac{A^k_i}{\sum_j A^k_j}\, g^k_i\Big) A^k

    A channel whose activations sum to zero has no weight.

    Paper: Fu et al. 2020, "Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of
    CNNs", https://arxiv.org/abs/2008.02312.

    Args:
        activations: The layer's output for one image, shape ``(*spatial, channels)``.
        gradients: Gradients of the score with respect to it, same shape.

    Returns:
        Evidence, float64, shape ``(*spatial)``.
    """
    activations, gradients = checked_terms(activations, gradients=gradients)
    sums = activations.sum(axis=spatial_axes(activations), dtype=np.float64)
    products = np.einsum("ik,ik->k", _matrix(activations), _matrix(gradients))
    weights = np.divide(products, sums, out=np.zeros_like(sums), where=sums != 0)
    return weighted_sum(weights, activations)


def layercam(
    activations: Real[np.ndarray, "*spatial channels"],
    gradients: Real[np.ndarray, "*spatial channels"],
) -> Float64[np.ndarray, "*spatial"]:
    r"""LayerCAM: each place by its own positive gradients, which serves early layers well.

    .. math:: \sum_k \max(0, g^k) \odot A^k

    Paper: Jiang et al. 2021, "LayerCAM: Exploring Hierarchical Class Activation Maps for
    Localization", IEEE Transactions on Image Processing,
    https://doi.org/10.1109/TIP.2021.3089943.

    Args:
        activations: The layer's output for one image, shape ``(*spatial, channels)``.
        gradients: Gradients of the score with respect to it, same shape.

    Returns:
        Evidence, float64, shape ``(*spatial)``. Never negative where no activation is.
    """
    activations, gradients = checked_terms(activations, gradients=gradients)
    return sum_of_products(activations, np.maximum(gradients, 0))


def eigen_cam(
    activations: Real[np.ndarray, "*spatial channels"],
) -> Float64[np.ndarray, "*spatial"]:
    r"""Eigen-CAM: what the layer responds to most, whatever the class.

    .. math:: A\, v_1

    with :math:`A` as a matrix of a row for each place and a column for each channel, not centred,
    and :math:`v_1` its first right singular vector. Of the two signs, the one with the greater sum
    is taken.

    Paper: Muhammad & Yeasin 2020, "Eigen-CAM: Class Activation Map using Principal Components",
    https://arxiv.org/abs/2008.00299.

    Args:
        activations: The layer's output for one image, shape ``(*spatial, channels)``.

    Returns:
        Evidence, float64, shape ``(*spatial)``.
    """
    (activations,) = checked_terms(activations)
    projection = _first_projection(activations)
    return projection if projection.sum() >= 0 else -projection


def eigengrad_cam(
    activations: Real[np.ndarray, "*spatial channels"],
    gradients: Real[np.ndarray, "*spatial channels"],
) -> Float64[np.ndarray, "*spatial"]:
    r"""EigenGrad-CAM: what varies most in the activations times their gradients, so of a class.

    .. math:: M v_1, \qquad M = A \odot g - \overline{A \odot g}

    with :math:`M` as a matrix of a row for each place and a column for each channel, the mean of
    each column taken away, and :math:`v_1` its first right singular vector. A singular vector has
    no sign of its own, and its source leaves that to chance: here the one is taken that goes better
    with the sum :math:`\sum_k g^k \odot A^k`.

    Zero is the mean of the picture, and not the line between for and against: where a class has
    evidence against it alone, places without any are hot.

    Source: no paper, but ``EigenGradCAM`` of pytorch-grad-cam,
    https://github.com/jacobgil/pytorch-grad-cam. Unlike `eigen_cam`, it has the means taken away.

    Args:
        activations: The layer's output for one image, shape ``(*spatial, channels)``.
        gradients: Gradients of the score with respect to it, same shape.

    Returns:
        Evidence, float64, shape ``(*spatial)``, with a mean of zero.
    """
    activations, gradients = checked_terms(activations, gradients=gradients)
    products = _float64(activations) * gradients
    projection = _first_projection(products - products.mean(axis=spatial_axes(products)))
    agreement = (projection * products.sum(axis=-1)).sum()
    return projection if agreement >= 0 else -projection


def score_cam(
    activations: Real[np.ndarray, "*spatial channels"],
    scores: Real[np.ndarray, " channels"],
    are_probabilities: bool = False,
) -> Float64[np.ndarray, "*spatial"]:
    r"""Score-CAM: channels weighted by the score of the image seen through them, no gradients.

    .. math::
        \sum_k \frac{w_k}{\sum_l w_l}\, A^k, \qquad
        w_k = \begin{cases} e^{y_k} & \text{of logits} \\ y_k & \text{of probabilities} \end{cases}
        , \qquad y_k = y(x \odot H^k)

    with :math:`H^k` the activations of the channel, enlarged to the size of the image :math:`x`,
    bilinearly, and then scaled to [0, 1]. A channel that is the same everywhere has no weight.

    Of logits this is the paper's formula; the score of a baseline, which the paper takes away from
    each :math:`y_k`, cancels out. Probabilities differ by 1 at most, so that their exponentials
    would be much the same for all channels and for all classes: they are weights as they are, as in
    the authors' code, https://github.com/haofanwang/Score-CAM.

    Paper: Wang et al. 2020, "Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural
    Networks", https://arxiv.org/abs/1910.01279.

    Args:
        activations: The layer's output for one image, shape ``(*spatial, channels)``.
        scores: The :math:`y_k`, shape ``(channels,)``.
        are_probabilities: Whether they come out of a softmax or sigmoid.

    Returns:
        Evidence, float64, shape ``(*spatial)``. Never negative where no activation is.
    """
    activations, scores = checked_terms(activations, scores=scores)
    varies = np.ptp(activations, axis=spatial_axes(activations)) > 0
    weights = _float64(scores)[varies]
    if not are_probabilities:
        weights = np.exp(weights - weights.max(initial=-np.inf))
    return weighted_sum(weights / (np.abs(weights).sum() or 1), activations[..., varies])


def ablation_cam(
    activations: Real[np.ndarray, "*spatial channels"], drops: Real[np.ndarray, " channels"]
) -> Float64[np.ndarray, "*spatial"]:
    r"""Ablation-CAM: channels weighted by how far the score drops without them, no gradients.

    .. math:: \sum_k (y - y_k)\, A^k

    with :math:`y_k` the score after channel :math:`k` was set to zero. The paper divides by
    :math:`y`, which is left out: it changes no heatmap, unless it is negative, as logits can be,
    and then turns it over.

    Paper: Desai & Ramaswamy 2020, "Ablation-CAM: Visual Explanations for Deep Convolutional Network
    via Gradient-free Localization", WACV, https://doi.org/10.1109/WACV45572.2020.9093360.

    Args:
        activations: The layer's output for one image, shape ``(*spatial, channels)``.
        drops: The :math:`y - y_k`, shape ``(channels,)``.

    Returns:
        Evidence, float64, shape ``(*spatial)``.
    """
    activations, drops = checked_terms(activations, drops=drops)
    return weighted_sum(drops, activations)


def finer_cam(
    activations: Real[np.ndarray, "*spatial channels"],
    gradients: Real[np.ndarray, "*spatial channels"],
) -> Float64[np.ndarray, "*spatial"]:
    r"""Finer-CAM: Grad-CAM of what tells a class from those most similar to it.

    .. math::
        \sum_k \Big(\frac{1}{n} \sum_i g^k_i\Big) A^k, \qquad
        g = \frac{\partial}{\partial A} \Big(y_c - \alpha \frac{1}{m} \sum_{d} y_d\Big)

    where :math:`d` runs over the :math:`m` = `REFERENCES` classes whose scores are nearest to that
    of the class :math:`c` (fewer if the model has no more), and :math:`\alpha` = `ALPHA` is how
    strong the comparison is: the paper's :math:`\gamma`. The ``references`` and ``alpha`` of
    `kerasight.explain_prediction` take others. The paper's scores are logits.

    Paper: Zhang et al. 2025, "Finer-CAM: Spotting the Difference Reveals Finer Details for Visual
    Explanation", https://arxiv.org/abs/2501.11309. The authors' code,
    https://github.com/Imageomics/Finer-CAM, weighs the references by their softmax probabilities
    since March 2025, and takes 1 for :math:`\alpha`; this is the paper's formula.

    Args:
        activations: The layer's output for one image, shape ``(*spatial, channels)``.
        gradients: The :math:`g`, same shape.

    Returns:
        Evidence, float64, shape ``(*spatial)``.
    """
    return grad_cam(activations, gradients)


def refine_cam(maps: Sequence[Real[np.ndarray, " ..."]]) -> Float64[np.ndarray, " ..."]:
    r"""RefineCAM: the product of the maps of several layers, as sharp as that of the largest.

    .. math::
        \prod_l \operatorname{resize}\Big(\frac{m^l - \min m^l}{\max m^l - \min m^l}\Big), \qquad
        m^l = \max(0, M^l)

    with :math:`M^l` the evidence of layer :math:`l`, by any method: Grad-CAM++ in the authors'
    implementation, in pytorch-grad-cam, and in ``method="refine-cam"``. That resizes to the picture
    before it multiplies; here the product has the size of the largest map along each axis. What one
    layer does not show is not in the product: a layer with the same evidence everywhere leaves
    nothing of it.

    The authors take the last layer of each stage of a ResNet. Where no layers are asked for, they
    are here the one that other methods look at, and the last one before it of each resolution that
    has twice as many cells, up to a quarter of the length of the doc along each axis.

    Paper: Domeniconi et al. 2026, "How to Evaluate and Refine your CAM",
    https://arxiv.org/abs/2605.14641.

    Args:
        maps: The :math:`M^l`, with as many axes each, in any order.

    Returns:
        Evidence, float64, with the length of the longest along each axis. Never negative.

    Raises:
        ValueError: If there is no map, or not all of them have as many axes.
    """
    arrays = [_float64(one) for one in maps]
    shapes = [one.shape for one in arrays]
    if len({len(shape) for shape in shapes}) != 1:
        raise ValueError(
            "maps must be those of one layer or more, with as many axes each; got "
            + (", ".join(map(str, shapes)) or "none")
        )
    size = [max(lengths) for lengths in zip(*shapes, strict=True)]
    product: np.ndarray = np.prod(
        [resized(stretched(np.maximum(one, 0)), size) for one in arrays], axis=0
    )
    return product


def shapley_cam(
    activations: Real[np.ndarray, "*spatial channels"],
    gradients: Real[np.ndarray, "*spatial channels"],
    products: Real[np.ndarray, "*spatial channels"],
) -> Float64[np.ndarray, "*spatial"]:
    r"""ShapleyCAM: Grad-CAM with the curvature of the score, by which channels share out effects.

    .. math:: \sum_k \Big(\frac{1}{n} \sum_i \big(g^k_i - \tfrac{1}{2} (H A)^k_i\big)\Big) A^k

    with :math:`H` the second derivatives of the score with respect to :math:`A`. What is in the
    inner brackets, times :math:`A^k_i`, is the Shapley value of a place in a channel, as far as the
    second order of the score tells it. Where the score is linear in the activations, the map is
    that of Grad-CAM, exactly: so it is of a logit, if all that comes after the layer is pooling,
    dense layers and ReLU, but for units that are near zero. A probability is not linear. The paper
    has a score of its own, ReST, the logit plus the logarithm of the softmax; kerasight explains
    the score that it reports, the probability or with ``logits=True`` the logit.

    Paper: Cai 2025, "CAMs as Shapley Value-based Explainers", https://arxiv.org/abs/2501.06261.

    Args:
        activations: The layer's output for one image, shape ``(*spatial, channels)``.
        gradients: Gradients of the score with respect to it, same shape.
        products: The :math:`H A`, same shape.

    Returns:
        Evidence, float64, shape ``(*spatial)``.
    """
    activations, gradients, products = checked_terms(
        activations, gradients=gradients, products=products
    )
    return weighted_sum(channel_weights(gradients - _float64(products) / 2), activations)


def recipro_cam(
    activations: Real[np.ndarray, "*spatial channels"], place_scores: Real[np.ndarray, "*spatial"]
) -> Float64[np.ndarray, "*spatial"]:
    r"""Recipro-CAM: each place by the score of the layer's output with this place alone.

    .. math:: y_i - \min_j y_j, \qquad y_i = y(A \odot M_i)

    with :math:`M_i` the mask that keeps place :math:`i` and sets all others to
    zero. The place that scores least is the line of zero, as in the paper, which scales to [0, 1].

    The paper has a second form, whose masks reach into the 3 x 3 neighbours of a place with the
    weights of a Gaussian. This is the plain one, as it runs in the authors' code,
    https://github.com/sybyun/ReciproCAM: the score is that of one place alone, on any number of
    axes.

    Paper: Byun & Lee 2022, "Recipro-CAM: Fast gradient-free visual explanations for convolutional
    neural networks", https://arxiv.org/abs/2209.14074.

    Args:
        activations: The layer's output for one image, shape ``(*spatial, channels)``.
        place_scores: The :math:`y_i`, shape ``(*spatial)``.

    Returns:
        Evidence, float64, shape ``(*spatial)``. Never negative, with a least value of zero.
    """
    _, scores = map(_float64, checked_terms(activations, place_scores=place_scores))
    evidence: np.ndarray = scores - scores.min()
    return evidence


def opti_cam(
    activations: Real[np.ndarray, "*spatial channels"], weights: Real[np.ndarray, " channels"]
) -> Float64[np.ndarray, "*spatial"]:
    r"""Opti-CAM: channels weighted so that the image seen through their map scores best.

    .. math::
        \sum_k \operatorname{softmax}(u)_k\, A^k, \qquad
        u = \operatorname*{argmax}_u\; y\big(x \odot H(u)\big)

    with :math:`H(u)` the map of the weights :math:`u`, enlarged to the size of the image :math:`x`,
    bilinearly, and scaled to [0, 1]. The search for :math:`u` is not part of the formula: it starts
    at zero, and takes 100 steps of Adam at the rate 0.1, as in the paper; ``samples`` of
    `kerasight.explain_prediction` takes another number. In place of Adam's epsilon stands a share
    of the greatest slope, so that a probability of 1e-6 is searched for as a logit is.

    Paper: Zhang et al. 2023, "Opti-CAM: Optimizing saliency maps for interpretability",
    https://arxiv.org/abs/2301.07002.

    Args:
        activations: The layer's output for one image, shape ``(*spatial, channels)``.
        weights: The :math:`u`, before the softmax, shape ``(channels,)``.

    Returns:
        Evidence, float64, shape ``(*spatial)``. Never negative where no activation is.
    """
    activations, weights = checked_terms(activations, weights=weights)
    powers = np.exp(_float64(weights) - weights.max())
    return weighted_sum(powers / powers.sum(), activations)


REFERENCES = 3
"""How many similar classes `finer_cam` compares with, unless told otherwise."""

ALPHA = 0.6
"""How strongly `finer_cam` compares, unless told otherwise, gamma in the paper."""

Needs = Literal[
    "gradients",
    "nothing",
    "scores",
    "drops",
    "places",
    "weights",
    "curvature",
    "layers",
    "path",
    "baselines",
    "noise",
    "windows",
    "masks",
    "coalitions",
    "attention",
    "attention gradients",
    "gradients by block",
]

Place = Literal["layer", "layers", "doc", "outside", "blocks"]


@dataclass(frozen=True)
class Method:
    """A method, and what it can do.

    Attributes:
        name: What users call it.
        title: What it is called in a text.
        formula: The function: of the activations, and of what it ``needs`` beside them.
        needs: What a formula takes, a key of `kerasight.keras.ways.WAYS`: ``"gradients"``;
            ``"scores"`` of the image seen through each channel, as in `score_cam`; ``"drops"``, as
            in `ablation_cam`; the scores of ``"places"``, as in `recipro_cam`; the ``"weights"`` of
            `opti_cam`; the ``"curvature"`` of the score beside its gradients, as in `shapley_cam`;
            the maps of ``"layers"``, as in `refine_cam`; ``"nothing"``; the gradients along a
            ``"path"`` from a baseline, or from many ``"baselines"``; those of copies with
            ``"noise"``; the scores with ``"windows"``, random ``"masks"`` or ``"coalitions"`` of
            segments hidden; the ``"attention"`` of all blocks of a transformer; the ``"attention
            gradients"`` as well; or ``"gradients by block"``, as in `attention.legrad`.
        at: Where it looks, if no layer is asked for: at a ``"layer"`` that still has places, at
            the ``"layers"`` that end at that one, or at the ``"doc"``; or from ``"outside"``, or at
            all ``"blocks"`` of a transformer, where no layer can be asked for.
        is_signed: Whether its evidence is negative where a place speaks against the class, which
            ``relu=False`` shows.
        is_of_class: Whether it depends on the class.
        has_counterfactual: Whether it can show what speaks against a class, as
            ``counterfactual=True`` asks.
        compares: Whether it compares the score with those of other classes, as `finer_cam`.
        samples: How many changed docs it takes, if the user does not say; 0 if that is not for the
            user to say.
        baseline: What stands for nothing there, if the user does not say; empty if it needs none.
        of_tokens: The name of the method that is taken in its place where the tokens of a
            transformer are explained; empty if it is taken there as well.
    """

    name: str
    title: str
    formula: Callable[..., Float64[np.ndarray, "*spatial"]]
    needs: Needs = "gradients"
    at: Place = "layer"
    is_signed: bool = True
    is_of_class: bool = True
    has_counterfactual: bool = True
    compares: bool = False
    samples: int = 0
    baseline: str = ""
    of_tokens: str = ""

    @property
    def is_slow(self) -> bool:
        """Whether it runs the model more than once for each layer that it looks at."""
        return self.at != "blocks" and self.needs not in ("gradients", "nothing", "layers")

    @property
    def takes_gradients(self) -> bool:
        """Whether it needs gradients of the score with respect to what it looks at."""
        return self.needs in ("gradients", "curvature", "layers")

    @property
    def sees_layers(self) -> bool:
        """Whether it can look at a layer."""
        return self.at not in ("outside", "blocks")

    @property
    def hides(self) -> bool:
        """Whether it hides parts of the doc."""
        return self.needs in ("windows", "masks", "coalitions")

    @property
    def slides(self) -> bool:
        """Whether it hides windows that slide over the doc."""
        return self.needs == "windows"

    @property
    def segments(self) -> bool:
        """Whether it hides segments, of whatever form."""
        return self.needs == "coalitions"


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("grad-cam", "Grad-CAM", grad_cam),
        Method("grad-cam++", "Grad-CAM++", grad_cam_plus_plus, is_signed=False),
        Method("hirescam", "HiResCAM", hirescam),
        Method("xgrad-cam", "XGrad-CAM", xgrad_cam),
        Method("layercam", "LayerCAM", layercam, is_signed=False),
        Method(
            "eigen-cam",
            "Eigen-CAM",
            eigen_cam,
            "nothing",
            is_signed=False,
            is_of_class=False,
            has_counterfactual=False,
        ),
        # It shows how much a place matters, not whether for or against the class.
        Method(
            "eigengrad-cam",
            "EigenGrad-CAM",
            eigengrad_cam,
            is_signed=False,
            has_counterfactual=False,
        ),
        Method(
            "score-cam",
            "Score-CAM",
            score_cam,
            "scores",
            is_signed=False,
            has_counterfactual=False,
        ),
        Method("ablation-cam", "Ablation-CAM", ablation_cam, "drops"),
        Method("finer-cam", "Finer-CAM", finer_cam, compares=True),
        Method("shapley-cam", "ShapleyCAM", shapley_cam, "curvature"),
        Method("refine-cam", "RefineCAM", refine_cam, "layers", "layers", is_signed=False),
        Method(
            "recipro-cam",
            "Recipro-CAM",
            recipro_cam,
            "places",
            is_signed=False,
            has_counterfactual=False,
        ),
        Method(
            "opti-cam",
            "Opti-CAM",
            opti_cam,
            "weights",
            is_signed=False,
            has_counterfactual=False,
            samples=100,
        ),
        Method(
            "saliency",
            "Saliency",
            attributions.saliency,
            at="doc",
            is_signed=False,
            has_counterfactual=False,
        ),
        Method("input-x-gradient", "Input x gradient", attributions.input_x_gradient, at="doc"),
        Method(
            "integrated-gradients",
            "Integrated gradients",
            attributions.integrated_gradients,
            "path",
            "doc",
            samples=50,
            baseline="zero",
        ),
        Method(
            "expected-gradients",
            "Expected gradients",
            attributions.expected_gradients,
            "baselines",
            "doc",
            samples=100,
            baseline="noise",
        ),
        *(
            Method(
                name,
                title,
                formula,
                "noise",
                "doc",
                is_signed=False,
                has_counterfactual=False,
                samples=50,
            )
            for name, title, formula in (
                ("smoothgrad", "SmoothGrad", attributions.smoothgrad),
                ("smoothgrad-squared", "SmoothGrad squared", attributions.smoothgrad_squared),
                ("vargrad", "VarGrad", attributions.vargrad),
            )
        ),
        Method("occlusion", "Occlusion", masking.occlusion, "windows", "outside", baseline="mean"),
        Method("rise", "RISE", masking.rise, "masks", "outside", samples=4000, baseline="mean"),
        Method(
            "kernel-shap",
            "KernelSHAP",
            masking.kernel_shap,
            "coalitions",
            "outside",
            samples=1000,
            baseline="mean",
        ),
        Method(
            "attention-rollout",
            "Attention rollout",
            attention.attention_rollout,
            "attention",
            "blocks",
            is_signed=False,
            is_of_class=False,
            has_counterfactual=False,
        ),
        *(
            Method(name, title, formula, "attention gradients", "blocks", is_signed=False)
            for name, title, formula in (
                ("chefer", "Chefer", attention.chefer),
                ("beyond-intuition", "Beyond Intuition", attention.beyond_intuition),
            )
        ),
        Method(
            "legrad", "LeGrad", attention.legrad, "gradients by block", "blocks", is_signed=False
        ),
    )
}
"""The methods by the names that ``method`` takes."""

DEFAULT = replace(METHODS["grad-cam"], of_tokens="hirescam")
"""The method that is taken if none is asked for."""

CAMS = tuple(name for name, method in METHODS.items() if method.at in ("layer", "layers"))
"""The names of those that make class activation maps."""


def find_method(name: Any) -> Method:
    """Find a method by its name; case, hyphens and spaces do not count.

    Raises:
        TypeError: If ``name`` is no string.
        ValueError: If there is no such method.
    """
    return METHODS[one_of("method", name, METHODS)]


def _float64(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, dtype=np.float64)


def _matrix(
    values: Real[np.ndarray, "*spatial channels"],
) -> Float64[np.ndarray, "places channels"]:
    """A row for each place, a column for each channel, float64."""
    return _float64(values).reshape(-1, values.shape[-1])


def _first_projection(
    values: Real[np.ndarray, "*spatial channels"],
) -> Float64[np.ndarray, "*spatial"]:
    """The projection on the first right singular vector, shape ``(*spatial)``, any sign."""
    matrix = _matrix(values)
    # By the smaller of the two products of the matrix with itself, which is far quicker.
    if matrix.shape[0] <= matrix.shape[1]:
        vector = _first_eigenvector(matrix @ matrix.T)
        projection = vector * np.linalg.norm(vector @ matrix)
    else:
        projection = matrix @ _first_eigenvector(matrix.T @ matrix)
    shaped: np.ndarray = projection.reshape(values.shape[:-1])
    return shaped


def _first_eigenvector(symmetric: Float64[np.ndarray, "n n"]) -> Float64[np.ndarray, " n"]:
    """The eigenvector of the greatest eigenvalue, of length 1; zeros for a matrix of zeros."""
    if len(symmetric) > _SMALL:
        largest: np.ndarray = np.linalg.eigh(symmetric)[1][:, -1]
        return largest
    # A matrix that is squared again and again ends with that vector in each column. For the few
    # cells of a last layer this takes a tenth of the time of LAPACK, whose threads wait for others.
    for _ in range(14):
        symmetric = symmetric / (np.abs(symmetric).max() or 1)
        symmetric = symmetric @ symmetric
    column: np.ndarray = symmetric[:, np.abs(symmetric).sum(axis=0).argmax()]
    return column / (np.linalg.norm(column) or 1)


_SMALL = 128
