r"""The formulas of attributions: what each number of a doc adds to the score.

They look at the doc itself, or at a layer in its place, with a cell of evidence for each of its
places. In all of them :math:`x` is the doc, :math:`x'` a baseline that stands for nothing there,
:math:`k` one of its channels, and :math:`g` the gradient of the score with respect to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kerasight.cam.maps import checked_terms, sum_of_products

if TYPE_CHECKING:
    from jaxtyping import Float64, Real

__all__ = [
    "expected_gradients",
    "input_x_gradient",
    "integrated_gradients",
    "saliency",
    "smoothgrad",
    "smoothgrad_squared",
    "vargrad",
]


def saliency(
    activations: Real[np.ndarray, "*spatial channels"],
    gradients: Real[np.ndarray, "*spatial channels"],
) -> Float64[np.ndarray, "*spatial"]:
    r"""Saliency: how fast the score changes with a place, whichever way.

    .. math:: \max_k |g^k|

    Paper: Simonyan et al. 2013, "Deep Inside Convolutional Networks: Visualising Image
    Classification Models and Saliency Maps", https://arxiv.org/abs/1312.6034.

    Args:
        activations: The doc, shape ``(*spatial, channels)``.
        gradients: Gradients of the score with respect to it, same shape.

    Returns:
        Evidence, float64, shape ``(*spatial)``. Never negative.
    """
    _, gradients = checked_terms(activations, gradients=gradients)
    return _greatest(np.abs(gradients))


def input_x_gradient(
    activations: Real[np.ndarray, "*spatial channels"],
    gradients: Real[np.ndarray, "*spatial channels"],
) -> Float64[np.ndarray, "*spatial"]:
    r"""Input x gradient: what each number would add to the score, were the model linear.

    .. math:: \sum_k x^k \odot g^k

    A number that is 0 after preprocessing adds nothing, whatever it stands for. At a layer, this is
    `hirescam`.

    Paper: Shrikumar et al. 2016, "Not Just a Black Box: Learning Important Features Through
    Propagating Activation Differences", https://arxiv.org/abs/1605.01713.

    Args:
        activations: The doc, shape ``(*spatial, channels)``.
        gradients: Gradients of the score with respect to it, same shape.

    Returns:
        Evidence, float64, shape ``(*spatial)``.
    """
    activations, gradients = checked_terms(activations, gradients=gradients)
    return sum_of_products(activations, gradients)


def integrated_gradients(
    differences: Real[np.ndarray, "*spatial channels"],
    gradients: Real[np.ndarray, "*spatial channels"],
) -> Float64[np.ndarray, "*spatial"]:
    r"""Integrated gradients: what each number adds on the way from a baseline to the doc.

    .. math::
        \sum_k (x - x')^k \odot \int_0^1 g^k\big(x' + t\,(x - x')\big)\,dt

    Over all places this sums to the score of the doc less that of the baseline (completeness), but
    for the steps that the integral is taken in: the middles of equal ones.

    Paper: Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks",
    https://arxiv.org/abs/1703.01365.

    Args:
        differences: The :math:`x - x'`, shape ``(*spatial, channels)``.
        gradients: The mean of the gradients along the way, same shape.

    Returns:
        Evidence, float64, shape ``(*spatial)``.
    """
    differences, gradients = checked_terms(differences, gradients=gradients)
    return sum_of_products(differences, gradients)


def expected_gradients(
    differences: Real[np.ndarray, "*spatial channels"],
    gradients: Real[np.ndarray, "*spatial channels"],
) -> Float64[np.ndarray, "*spatial"]:
    r"""Expected gradients: integrated gradients, from all baselines at once.

    .. math::
        \mathop{\mathbb{E}}_{x',\, t} \Big[\sum_k (x - x')^k \odot
        g^k\big(x' + t\,(x - x')\big)\Big]

    over baselines :math:`x'` and :math:`t` uniform in [0, 1]. This is the summand of one draw; the
    evidence is the mean of several.

    Paper: Erion et al. 2021, "Improving performance of deep learning models with axiomatic
    attribution priors and expected gradients", https://arxiv.org/abs/1906.10670.

    Args:
        differences: The :math:`x - x'` of a draw, shape ``(*spatial, channels)``.
        gradients: The gradients there, same shape.

    Returns:
        Evidence, float64, shape ``(*spatial)``.
    """
    return integrated_gradients(differences, gradients)


def smoothgrad(
    means: Real[np.ndarray, "*spatial channels"], squares: Real[np.ndarray, "*spatial channels"]
) -> Float64[np.ndarray, "*spatial"]:
    r"""SmoothGrad: saliency of the mean gradient over noisy copies of the doc.

    .. math:: \max_k \big|\mathbb{E}[g^k]\big|

    Paper: Smilkov et al. 2017, "SmoothGrad: removing noise by adding noise",
    https://arxiv.org/abs/1706.03825.

    Args:
        means: The mean of the gradients, shape ``(*spatial, channels)``.
        squares: The mean of their squares, same shape; it does not count here.

    Returns:
        Evidence, float64, shape ``(*spatial)``. Never negative.
    """
    means, _ = checked_terms(means, gradients=squares)
    return _greatest(np.abs(means))


def smoothgrad_squared(
    means: Real[np.ndarray, "*spatial channels"], squares: Real[np.ndarray, "*spatial channels"]
) -> Float64[np.ndarray, "*spatial"]:
    r"""SmoothGrad squared: the mean of squared gradients over noisy copies of the doc.

    .. math:: \max_k \mathbb{E}\big[(g^k)^2\big]

    Paper: Hooker et al. 2019, "A Benchmark for Interpretability Methods in Deep Neural Networks",
    https://arxiv.org/abs/1806.10758.

    Args:
        means: The mean of the gradients, shape ``(*spatial, channels)``; it does not count here.
        squares: The mean of their squares, same shape.

    Returns:
        Evidence, float64, shape ``(*spatial)``. Never negative.
    """
    _, squares = checked_terms(means, gradients=squares)
    return _greatest(squares)


def vargrad(
    means: Real[np.ndarray, "*spatial channels"], squares: Real[np.ndarray, "*spatial channels"]
) -> Float64[np.ndarray, "*spatial"]:
    r"""VarGrad: the variance of the gradients over noisy copies of the doc.

    .. math:: \max_k \Big(\mathbb{E}\big[(g^k)^2\big] - \mathbb{E}[g^k]^2\Big)

    Paper: Adebayo et al. 2018, "Local Explanation Methods for Deep Neural Networks Lack Sensitivity
    to Parameter Values", https://arxiv.org/abs/1810.03307.

    Args:
        means: The mean of the gradients, shape ``(*spatial, channels)``.
        squares: The mean of their squares, same shape.

    Returns:
        Evidence, float64, shape ``(*spatial)``. Never negative.
    """
    means, squares = checked_terms(means, gradients=squares)
    # Rounding may make it a little less than 0.
    return _greatest(np.maximum(squares - np.square(means, dtype=np.float64), 0))


def _greatest(
    values: Real[np.ndarray, "*spatial channels"],
) -> Float64[np.ndarray, "*spatial"]:
    """The greatest value of all channels."""
    greatest: np.ndarray = values.max(axis=-1).astype(np.float64)
    return greatest
