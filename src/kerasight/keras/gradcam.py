"""Grad-CAM: the formula, in NumPy, and its terms, taken from a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras

__all__ = ["gradcam", "gradcam_backend", "normalised"]

EPSILON = 1e-7  # below the line, as in eli5: keras.config.epsilon() where nobody has changed it


def gradcam(weights: np.ndarray, activations: np.ndarray) -> np.ndarray:
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
        activations: The layer's output for one image, shape ``(height, width, channels)``.

    Returns:
        float64 array of shape ``(height, width)`` with values in [0, 1]. All zero where no place
        speaks for the class; below 1 everywhere if the weights are so small that the constant
        below the line counts.

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


def checked_terms(activations: Any, **others: Any) -> list[np.ndarray]:
    """The terms of a formula as arrays, once it is clear that they belong together.

    Args:
        activations: To be of shape ``(height, width, channels)``.
        **others: By their names: ``gradients`` are to have the same shape, and all others one
            number a channel.

    Returns:
        All of them, in this order.

    Raises:
        TypeError: If there is something else than real numbers in one.
        ValueError: If a shape is not as above; if there is NaN or infinity in one.
    """
    terms = {
        name: np.asarray(term) for name, term in {"activations": activations, **others}.items()
    }
    shape = terms["activations"].shape
    fits = len(shape) == 3 and 0 not in shape
    for name, term in terms.items():
        if term.dtype.kind in "cmMOSU":
            raise TypeError(f"{name} must be real numbers, got dtype {term.dtype}")
        fits &= term.shape == (shape if name in ("activations", "gradients") else shape[2:])
    if not fits:
        same = "gradients" in others
        shapes = " and ".join(str(term.shape) for term in terms.values())
        raise ValueError(
            "activations must have shape (height, width, channels)"
            + "".join(f" and {name} {'the same' if same else '(channels,)'}" for name in others)
            + f", got {shapes}"
        )
    for name, term in terms.items():
        if not np.isfinite(term).all():
            raise ValueError(f"{name} must be finite, got NaN or infinity")
    return list(terms.values())


def normalised(evidence: np.ndarray, relu: bool = True) -> np.ndarray:
    """Divide evidence by its peak.

    Args:
        evidence: What speaks for a class (positive) and against it (negative), of any shape.
        relu: Whether to cut off what is negative.

    Returns:
        Array of the same shape, float64, with values in [0, 1]; without ``relu`` in [-1, 1], and
        the sign kept.
    """
    heatmap = np.array(evidence, dtype=np.float64)
    if relu:
        np.maximum(heatmap, 0, out=heatmap)
    heatmap /= np.max(np.abs(heatmap)) + EPSILON
    return heatmap


def weighted_sum(weights: np.ndarray, activations: np.ndarray) -> np.ndarray:
    """The map of Grad-CAM before anything is cut off or scaled: evidence for and against.

    Args:
        weights: One weight a channel, shape ``(channels,)``.
        activations: Shape ``(height, width, channels)``.

    Returns:
        float64 array of shape ``(height, width)``.
    """
    evidence: np.ndarray = activations.astype(np.float64) @ weights.astype(np.float64)
    return evidence


def channel_weights(gradients: np.ndarray) -> np.ndarray:
    """The weights of Grad-CAM: the gradients averaged over height and width.

    Args:
        gradients: Gradients of the score, shape ``(height, width, channels)``.

    Returns:
        Array of shape ``(channels,)``, of the type of ``gradients``.
    """
    means: np.ndarray = gradients.mean(axis=(0, 1), dtype=np.float64)
    return means.astype(gradients.dtype)


def gradcam_backend(
    model: keras.Model,
    doc: np.ndarray,
    targets: list[int] | None,
    activation_layer: keras.layers.Layer | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, float]:
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
