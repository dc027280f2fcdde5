"""Grad-CAM: the formula, in NumPy, and its terms, taken from a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kerasight.cam.maps import channel_weights, checked_terms, normalised, weighted_sum

if TYPE_CHECKING:
    import keras
    from jaxtyping import Float, Float64, Real

__all__ = ["gradcam", "gradcam_backend"]


def gradcam(
    weights: Real[np.ndarray, " channels"], activations: Real[np.ndarray, "*spatial channels"]
) -> Float64[np.ndarray, "*spatial"]:
    r"""Localisation map (heatmap) of Gradient-weighted Class Activation Mapping, Grad-CAM.

    .. math::
        L = \mathrm{ReLU}\Big(\sum_k \alpha_k A^k\Big), \qquad
        \text{heatmap} = \frac{L}{\max L + 10^{-7}}

    with the weights :math:`\alpha_k` and the activation maps :math:`A^k` of the channels of one
    layer, as `gradcam_backend` returns them.

    Paper: Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via
    Gradient-based Localization", https://arxiv.org/abs/1610.02391.

    Args:
        weights: One weight a channel, shape ``(channels,)``.
        activations: The layer's output for one image, shape ``(height, width, channels)``; or with
            one or three spatial axes in the place of two.

    Returns:
        float64 array of shape ``(height, width)``, or as ``activations`` have it, with values in
        [0, 1]: all zero if no place speaks for the class, and all below 1 if the weights are so
        small that the constant in the divisor counts.

    Raises:
        TypeError: If one of them holds something else than real numbers.
        ValueError: If a shape is not as above, or the numbers of channels differ; if there is NaN
            or infinity in one of them.

    Example:
        >>> import numpy as np
        >>> from kerasight.keras.gradcam import gradcam
        >>> activations = np.array([[[1.0, 0.0], [0.0, 1.0]], [[2.0, 1.0], [0.0, 0.0]]])
        >>> gradcam(np.array([1.0, -1.0]), activations).round(3)
        array([[1., 0.],
               [1., 0.]])
    """
    activations, weights = checked_terms(activations, weights=weights)
    return normalised(weighted_sum(weights, activations))


def gradcam_backend(
    model: keras.Model,
    doc: Real[np.ndarray, "1 ..."],
    targets: list[int] | None,
    activation_layer: keras.layers.Layer | None,
) -> tuple[
    Float[np.ndarray, " channels"],
    Float[np.ndarray, "height width channels"],
    Float[np.ndarray, "height width channels"],
    int,
    float,
]:
    """Take the terms of the Grad-CAM formula from one forward and one backward pass.

    Args:
        model: The classifier.
        doc: One input, shape ``(1, height, width, channels)``, or ``(1, channels, height, width)``
            for a channels-first model.
        targets: The index of the class to explain, as a list of one, or None for the class with the
            greatest score.
        activation_layer: The layer to explain, at any depth in the model; None to have it chosen.
            Of a layer called several times in one pass, the last call is taken.

    Returns:
        ``(weights, activations, gradients, predicted_idx, predicted_val)``. The arrays have the
        shapes ``(channels,)``, ``(height, width, channels)`` and ``(height, width, channels)``,
        channels last whatever the model's layout, in float32 (float64 for a float64 model).
        ``predicted_idx`` is the index of the explained class, ``predicted_val`` the model's output
        for it.

    Raises:
        TypeError: If ``targets`` is neither a list nor None, or its item no integer.
        ValueError: If ``targets`` does not hold exactly one class of the model; if the layer is not
            reached, has no map or no gradient to the score; if there is NaN in either.
    """
    # Imported here, so that the formula above needs no framework.
    from kerasight.keras.record import record

    terms = record(model, doc, targets, activation_layer)
    return (
        channel_weights(terms.gradients),
        terms.activations,
        terms.gradients,
        terms.target,
        terms.score,
    )
