r"""The methods of transformers: from what tokens attend to, block by block, to what each is worth.

In all of them :math:`A^l_h` is the attention of head :math:`h` in block :math:`l`, after the
softmax: a row for each token that asks, a column for each that is asked. :math:`G^l_h` is the
gradient of the score with respect to it, and :math:`\rho` how much the model's head reads of each
token behind the last of :math:`L` blocks: 1 at the class token, or the same of all where it takes
their mean. :math:`E_h` is the mean over heads. No formula asks which tokens are patches, or where
in space they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasight.checks import is_real

if TYPE_CHECKING:
    from jaxtyping import Float64, Real

__all__ = ["attention_rollout", "beyond_intuition", "chefer", "legrad"]


def attention_rollout(
    attentions: Sequence[Real[np.ndarray, "_ tokens tokens"]],
    readers: Real[np.ndarray, " tokens"],
) -> Float64[np.ndarray, " tokens"]:
    r"""Attention rollout: attention through all blocks, whatever the class, no gradients.

    .. math:: \rho\, \tilde A^L \cdots \tilde A^1, \qquad \tilde A^l \propto E_h A^l_h + I

    where each row of :math:`\tilde A^l` sums to 1. The identity stands for the shortcut around the
    attention.

    Paper: Abnar & Zuidema 2020, "Quantifying Attention Flow in Transformers",
    https://arxiv.org/abs/2005.00928.

    Args:
        attentions: The attention of each block, from the first to the last, shape
            ``(heads, tokens, tokens)``.
        readers: The :math:`\rho`, shape ``(tokens,)``, with a sum of 1.

    Returns:
        Relevance of each token, float64, shape ``(tokens,)``: never negative, with a sum of 1.

    Raises:
        TypeError: If there is something else than real numbers in one.
        ValueError: If a shape is not as above; if there is NaN or infinity in one.
    """
    blocks = _checked("attentions", attentions)
    relevance = _checked_readers(readers, blocks)
    for attention in reversed(blocks):
        mean = attention.mean(axis=0, dtype=np.float64)
        relevance = relevance / (mean.sum(axis=1) + 1)
        relevance = relevance + relevance @ mean
    return relevance


def chefer(
    attentions: Sequence[Real[np.ndarray, "_ tokens tokens"]],
    gradients: Sequence[Real[np.ndarray, "_ tokens tokens"]],
    readers: Real[np.ndarray, " tokens"],
) -> Float64[np.ndarray, " tokens"]:
    r"""Chefer's generic rule: attention times its gradient, through all blocks.

    .. math::
        \rho\, (R^L - I), \qquad R^l = R^{l-1} + \bar A^l R^{l-1}, \qquad R^0 = I, \qquad
        \bar A^l = E_h \max(0, G^l_h \odot A^l_h)

    The identity is what each token is to itself before any block. It tells no token from another,
    and is taken away: of a model that reads its class token, this changes the relevance of that
    token alone, and of one that reads the mean of all it takes the same from each.

    Paper: Chefer et al. 2021, "Generic Attention-model Explainability for Interpreting Bi-Modal and
    Encoder-Decoder Transformers", https://arxiv.org/abs/2103.15679, equations 5 and 6.

    Args:
        attentions: The attention of each block, from the first to the last, shape
            ``(heads, tokens, tokens)``.
        gradients: Gradients of the score with respect to them, same shapes.
        readers: The :math:`\rho`, shape ``(tokens,)``, with a sum of 1.

    Returns:
        Relevance of each token, float64, shape ``(tokens,)``, never negative.

    Raises:
        TypeError: If there is something else than real numbers in one.
        ValueError: If a shape is not as above; if there is NaN or infinity in one.
    """
    blocks, slopes = _checked_pairs(attentions, gradients)
    start = _checked_readers(readers, blocks)
    # Without the identity all along: beside it, what is tiny would be lost.
    relevance = np.zeros_like(start)
    for attention, gradient in zip(reversed(blocks), reversed(slopes), strict=True):
        mean = np.maximum(attention * gradient, 0).mean(axis=0, dtype=np.float64)
        relevance = relevance + (start + relevance) @ mean
    return relevance


def beyond_intuition(
    attentions: Sequence[Real[np.ndarray, "_ tokens tokens"]],
    gradients: Sequence[Real[np.ndarray, "_ tokens tokens"]],
    readers: Real[np.ndarray, " tokens"],
) -> Float64[np.ndarray, " tokens"]:
    r"""Beyond Intuition, head-wise: what tokens hand on, times how the score asks for it.

    .. math::
        \rho\, (P^L \odot F), \qquad P^l = P^{l-1} + \Big(\sum_h \theta^l_h A^l_h\Big) P^{l-1},
        \qquad P^0 = I

    .. math::
        \theta^l_h \propto \operatorname{mean} \big|(A^l_h)^{\mathsf T} G^l_h\big|, \qquad
        \sum_h \theta^l_h = 1, \qquad F = E_h \max(0, G^L_h)

    A head whose gradients are zero hands on nothing. The paper's :math:`F` has gradients integrated
    over darker versions of the picture; these are the plain ones, which take one pass, and are a
    variant that it measures. Of a model that reads the mean of all tokens, :math:`P` and :math:`F`
    are multiplied before that mean is taken, as in the authors' code,
    https://github.com/jiaminchen-1031/transformerinterp, which leaves out the first blocks: pass
    fewer of them for that.

    Paper: Chen et al. 2023, "Beyond Intuition: Rethinking Token Attributions inside Transformers",
    Transactions on Machine Learning Research, https://openreview.net/forum?id=rm0zIzlhcX.

    Args:
        attentions: The attention of each block, from the first to the last, shape
            ``(heads, tokens, tokens)``.
        gradients: Gradients of the score with respect to them, same shapes.
        readers: The :math:`\rho`, shape ``(tokens,)``, with a sum of 1.

    Returns:
        Relevance of each token, float64, shape ``(tokens,)``, never negative.

    Raises:
        TypeError: If there is something else than real numbers in one.
        ValueError: If a shape is not as above; if there is NaN or infinity in one.
    """
    blocks, slopes = _checked_pairs(attentions, gradients)
    start = _checked_readers(readers, blocks)
    are_read = start != 0
    paths = np.eye(len(start))[are_read]
    for attention, gradient in zip(reversed(blocks), reversed(slopes), strict=True):
        products = np.abs(attention.swapaxes(1, 2) @ gradient)
        shares = products.mean(axis=(1, 2), dtype=np.float64)
        shares /= shares.sum() or 1
        # In the type of the attention, of which no copy is made so.
        mixed = np.tensordot(shares.astype(attention.dtype), attention, axes=1)
        paths = paths + paths @ mixed
    asked = np.maximum(slopes[-1], 0).mean(axis=0, dtype=np.float64)[are_read]
    relevance: np.ndarray = start[are_read] @ (paths * asked)
    return relevance


def legrad(
    gradients: Sequence[Real[np.ndarray, "_ tokens tokens"]],
) -> Float64[np.ndarray, " tokens"]:
    r"""LeGrad: how the score asks for attention to each token, over all blocks alike.

    .. math::
        \frac{1}{L} \sum_l E_h \frac{1}{n} \sum_i \max(0, G^l_{h, i}), \qquad
        G^l = \frac{\partial y^l}{\partial A^l}

    with :math:`y^l` the score that the model's head gives to the tokens behind block :math:`l`, as
    if it were the last, and :math:`i` one of the :math:`n` tokens that ask.

    Paper: Bousselham et al. 2024, "LeGrad: An Explainability Method for Vision Transformers via
    Feature Formation Sensitivity", https://arxiv.org/abs/2404.03214.

    Args:
        gradients: The :math:`G^l`, shape ``(heads, tokens, tokens)`` each.

    Returns:
        Relevance of each token, float64, shape ``(tokens,)``, never negative.

    Raises:
        TypeError: If there is something else than real numbers in one.
        ValueError: If a shape is not as above; if there is NaN or infinity in one.
    """
    blocks = _checked("gradients", gradients)
    means = [np.maximum(block, 0).mean(axis=(0, 1), dtype=np.float64) for block in blocks]
    relevance: np.ndarray = np.mean(means, axis=0)
    return relevance


def _checked(name: str, blocks: Sequence[Any]) -> list[np.ndarray]:
    """The blocks as arrays of floats, once it is clear that they follow on each other."""
    arrays = [np.asarray(block) for block in blocks]
    if not arrays:
        raise ValueError(f"{name} must have one block or more, got none")
    for array in arrays:
        _check_numbers(name, array)
    tokens = arrays[0].shape[-1:]
    if any(len(one.shape) != 3 or one.shape[1:] != 2 * tokens or not one.size for one in arrays):
        shapes = ", ".join(dict.fromkeys(str(one.shape) for one in arrays))
        raise ValueError(
            f"{name} must have shape (heads, tokens, tokens), with as many tokens in all blocks, "
            f"as relevance goes from block to block; got {shapes}. Where a model merges tokens or "
            "attends within windows, as Swin does, take a method of one layer, such as grad-cam"
        )
    # What comes in half precision is not summed up in it.
    return [one.astype(np.result_type(one, np.float32), copy=False) for one in arrays]


def _checked_pairs(
    attentions: Sequence[Any], gradients: Sequence[Any]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Both as arrays of floats, once it is clear that they belong together."""
    blocks, slopes = _checked("attentions", attentions), _checked("gradients", gradients)
    if (shapes := [one.shape for one in blocks]) != (others := [one.shape for one in slopes]):
        raise ValueError(
            f"gradients must have the shapes of attentions, block by block: {shapes}; got {others}"
        )
    return blocks, slopes


def _checked_readers(readers: Any, blocks: list[np.ndarray]) -> np.ndarray:
    """How much is read of each token, as float64, once it is clear that it is one number each."""
    array = np.asarray(readers)
    _check_numbers("readers", array)
    if array.shape != (shape := blocks[0].shape[-1:]):
        raise ValueError(
            f"readers must have one number for each token, shape {shape}; got {array.shape}"
        )
    return array.astype(np.float64)


def _check_numbers(name: str, array: np.ndarray) -> None:
    if not is_real(array):
        raise TypeError(f"{name} must be real numbers, got dtype {array.dtype}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
