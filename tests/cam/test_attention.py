from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kerasight.cam.attention import attention_rollout, beyond_intuition, chefer, legrad

# Two blocks of three tokens, the first of which is a class token, with one head and with two.
EYE = np.eye(3)
FIRST = np.array([[[0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5]]])
SECOND = np.array([[[0, 0.5, 0.5], EYE[1], EYE[2]], [[1, 0, 0], EYE[1], EYE[2]]])
ATTENTIONS = [FIRST, SECOND]
GRADIENTS = [
    np.array([[[2, -1, 0], [0, 3, 0], [0, 4, -2]]]),
    np.array([[[0, 4, -8], [0, 0, 0], [0, 2, 0]], [[6, 2, 0], [0, 0, 0], [0, 0, 0]]]),
]
CLASS, MEAN = np.array([1, 0, 0]), np.full(3, 1 / 3)


def close(found: np.ndarray, expected: Any) -> None:
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)


# Each formula by hand


def test_rollout_multiplies_attention_and_shortcuts_of_all_blocks() -> None:
    # The second block's mean over heads has (1/2, 1/4, 1/4) for the class token; with the identity,
    # in rows that sum to 1, (3/4, 1/8, 1/8). The first has rows (3/4, 1/4, 0), (0, 1, 0) and
    # (0, 1/4, 3/4).
    close(attention_rollout(ATTENTIONS, CLASS), [9 / 16, 6 / 32 + 4 / 32 + 1 / 32, 3 / 32])
    # The other tokens keep to themselves in the second block.
    rows = np.array([[18, 11, 3], [0, 32, 0], [0, 8, 24]]) / 32
    close(attention_rollout(ATTENTIONS, MEAN), rows.mean(axis=0))


def test_chefer_weighs_attention_by_its_positive_gradients() -> None:
    # Means over heads of what is positive, the class token's row first:
    # second block (6 / 2, 2 / 2, 0), nothing, nothing; first (1, 0, 0), (0, 3, 0), (0, 2, 0).
    # R - I of the second is that row, and of both (1 + 3 + 3 * 1, 1 + 1 * 3, 0).
    close(chefer(ATTENTIONS[1:], GRADIENTS[1:], CLASS), [3, 1, 0])
    close(chefer(ATTENTIONS, GRADIENTS, CLASS), [7, 4, 0])
    # Of the other rows the first block's are left.
    close(chefer(ATTENTIONS, GRADIENTS, MEAN), [7 / 3, (4 + 3 + 2) / 3, 0])


def test_beyond_intuition_multiplies_paths_by_positive_gradients() -> None:
    # The first head's products with its gradients are 0, (0, 2, -4) and (0, 4, -4), whose absolute
    # values sum to 14; the second's (6, 2, 0), which sum to 8. So the class token hands on
    # (8 / 22, 7 / 22, 7 / 22) of its second block, and the gradients of the class token there are
    # (3, 3, 0) on the mean.
    row = np.array([8 / 22, 7 / 22, 7 / 22])
    close(beyond_intuition(ATTENTIONS[1:], GRADIENTS[1:], CLASS), (CLASS + row) * [3, 3, 0])
    through = (CLASS + row) @ (EYE + FIRST[0])
    close(beyond_intuition(ATTENTIONS, GRADIENTS, CLASS), through * [3, 3, 0])
    # The third token asks for the second by 2 / 2. It reads itself twice in the second block, by
    # its attention and by the shortcut, and the second token by a half in the first.
    others = [0, 2 * 0.5 * 1, 0]
    close(beyond_intuition(ATTENTIONS, GRADIENTS, MEAN), (through * [3, 3, 0] + others) / 3)


def test_beyond_intuition_hands_nothing_on_where_no_head_has_a_gradient() -> None:
    gradients = [np.zeros_like(FIRST), GRADIENTS[1]]
    close(
        beyond_intuition(ATTENTIONS, gradients, CLASS),
        beyond_intuition(ATTENTIONS[1:], GRADIENTS[1:], CLASS),
    )


def test_legrad_is_the_mean_of_positive_gradients_for_each_token_that_is_asked() -> None:
    # Sums over the tokens that ask, of 3 and of 6 rows.
    first, second = np.array([2, 7, 0]) / 3, np.array([6, 8, 0]) / 6
    close(legrad(GRADIENTS), (first + second) / 2)


# Identities


def drawn(blocks: int = 3, heads: int = 2, tokens: int = 5) -> tuple[list[Any], list[Any]]:
    random = np.random.default_rng(0)
    attentions = random.random((blocks, heads, tokens, tokens))
    attentions /= attentions.sum(axis=-1, keepdims=True)
    return list(attentions), list(random.normal(size=attentions.shape))


READERS = np.array([0.5, 0.3, 0, 0.2, 0])

METHODS: dict[str, Callable[[list[Any], list[Any], np.ndarray], np.ndarray]] = {
    "rollout": lambda attentions, gradients, readers: attention_rollout(attentions, readers),
    "chefer": chefer,
    "beyond-intuition": beyond_intuition,
    "legrad": lambda attentions, gradients, readers: legrad(gradients),
}
every = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@every
def test_order_of_heads_is_nothing_and_order_of_tokens_is_kept(method: Callable[..., Any]) -> None:
    attentions, gradients = drawn()
    expected = method(attentions, gradients, READERS)
    assert (expected > 0).sum() > 3
    swapped = [one[::-1] for one in attentions], [one[::-1] for one in gradients]
    close(method(*swapped, READERS), expected)
    order = [3, 0, 4, 1, 2]
    sorted_anew = [[one[:, order][:, :, order] for one in ones] for ones in (attentions, gradients)]
    close(method(*sorted_anew, READERS[order]), expected[order])


@pytest.mark.parametrize("name", ["rollout", "chefer", "beyond-intuition"])
def test_relevance_is_linear_in_what_is_read(name: str) -> None:
    rows = [METHODS[name](*drawn(), row) for row in np.eye(5)]
    close(METHODS[name](*drawn(), READERS), READERS @ rows)


@pytest.mark.parametrize("name", ["beyond-intuition", "legrad"])
def test_the_scale_of_the_score_is_that_of_the_relevance(name: str) -> None:
    attentions, gradients = drawn()
    expected = 7 * METHODS[name](attentions, gradients, READERS)
    close(METHODS[name](attentions, [7 * one for one in gradients], READERS), expected)


def test_rollout_shares_out_what_is_read() -> None:
    attentions, _ = drawn()
    assert attention_rollout(attentions, READERS).sum() == pytest.approx(1)
    unmasked = [np.where(one > 0.2, one, 0) for one in attentions]  # rows that do not sum to 1
    assert attention_rollout(unmasked, READERS).sum() == pytest.approx(1)


def test_chefer_is_the_recursion_of_the_paper_without_the_identity() -> None:
    attentions, gradients = drawn()
    relevance = np.eye(5)
    for attention, gradient in zip(attentions, gradients, strict=True):
        relevance = relevance + np.maximum(attention * gradient, 0).mean(axis=0) @ relevance
    close(chefer(attentions, gradients, READERS), READERS @ (relevance - np.eye(5)))


def test_chefer_loses_no_gradient_for_being_tiny() -> None:
    attentions, gradients = drawn()
    readers = np.full(5, 0.2)
    tiny = chefer(attentions, [1e-30 * one for one in gradients], readers)
    # So small that no two of them are multiplied.
    steps = [np.maximum(a * g, 0).mean(axis=0) for a, g in zip(attentions, gradients, strict=True)]
    close(1e30 * tiny, readers @ np.sum(steps, axis=0))


@every
def test_half_precision_is_not_summed_up_in_itself(method: Callable[..., Any]) -> None:
    random = np.random.default_rng(0)
    attentions, gradients = [random.random((2, 200, 200))], [random.random((2, 200, 200)) * 1e3]
    halves = [one[0].astype(np.float16) for one in (attentions, gradients)]
    readers = np.full(200, 1 / 200)
    expected = method([halves[0].astype(float)], [halves[1].astype(float)], readers)
    close(method([halves[0]], [halves[1]], readers), expected)


# What is refused


@every
def test_blocks_that_do_not_follow_on_each_other_are_refused(method: Callable[..., Any]) -> None:
    merged = [np.ones((2, 4, 4)), np.ones((2, 2, 2))]
    with pytest.raises(ValueError, match=r"got \(2, 4, 4\), \(2, 2, 2\)\. Where a model merges"):
        method(merged, merged, np.ones(4) / 4)
    for wrong in ((4, 4), (1, 2, 4, 4), (2, 3, 4), (0, 4, 4)):
        with pytest.raises(ValueError, match=r"must have shape \(heads, tokens, tokens\)"):
            method([np.ones(wrong)], [np.ones(wrong)], np.ones(4) / 4)
    with pytest.raises(ValueError, match="must have one block or more, got none"):
        method([], [], MEAN)


@every
def test_what_is_no_finite_real_number_is_refused(method: Callable[..., Any]) -> None:
    for value in (np.nan, -np.inf):
        wrong = [np.full((1, 3, 3), value)]
        with pytest.raises(ValueError, match="must be finite, got NaN or infinity"):
            method(wrong, wrong, MEAN)
    with pytest.raises(TypeError, match="must be real numbers, got dtype complex128"):
        method([FIRST * 1j], [FIRST * 1j], MEAN)


def test_gradients_and_readers_must_fit_the_attention() -> None:
    for method in (chefer, beyond_intuition):
        with pytest.raises(ValueError, match=r"gradients must have the shapes of attentions"):
            method(ATTENTIONS, GRADIENTS[1:], CLASS)
        with pytest.raises(ValueError, match=r"block by block: \[\(1, 3, 3\)\]; got \[\(2, 3, 3"):
            method(ATTENTIONS[:1], GRADIENTS[1:], CLASS)
    for wrong in ((2,), (1, 3), ()):
        with pytest.raises(ValueError, match=r"readers must have one number for each token"):
            attention_rollout(ATTENTIONS, np.ones(wrong))
    with pytest.raises(ValueError, match="readers must be finite"):
        attention_rollout(ATTENTIONS, np.full(3, np.nan))
