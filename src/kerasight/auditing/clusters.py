"""Spectral clustering of heatmaps, and what tells the pictures of a cluster from others.

`Lapuschkin et al. 2019 <https://doi.org/10.1038/s41467-019-08987-4>`_, Unmasking Clever Hans
predictors and assessing what machines really learn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Float64, Int64

__all__ = ["Others", "Pattern", "clusterings", "pattern_of"]

_NEIGHBOURS = 5
_MOST = 12  # clusters
_SHRUNK = 0.3  # of covariances, towards those of cells that are independent and alike
_ROUNDS = 2
_TINY = 1e-12  # or maps that are all the same could not be told apart


def clusterings(
    maps: Float32[np.ndarray, "pictures cells"], seed: int
) -> tuple[dict[int, Int64[np.ndarray, " pictures"]], int]:
    """Maps in 2 to 12 clusters, by the eigenvectors of the graph of their nearest neighbours.

    Args:
        maps: Square roots of shares of heat, of more than 12 pictures: whose distances are those of
            Hellinger.
        seed: Of what is drawn.

    Returns:
        The cluster of each picture, by the number of clusters; and the number after which the
        eigenvalues of the graph rise most.
    """
    from scipy.linalg import eigh
    from scipy.sparse.csgraph import laplacian
    from sklearn.cluster import KMeans
    from sklearn.neighbors import kneighbors_graph
    from threadpoolctl import threadpool_limits  # which scikit-learn depends on

    graph = kneighbors_graph(maps, _NEIGHBOURS).toarray()
    matrix, degrees = laplacian((graph + graph.T) / 2, normed=True, return_diag=True)
    values, vectors = eigh(matrix, subset_by_index=(0, _MOST))
    vectors = vectors / degrees[:, None]
    # So few points take less time than threads take to meet.
    with threadpool_limits(1):
        found = {
            number: KMeans(number, n_init=5, random_state=seed)
            .fit_predict(vectors[:, :number])
            .astype(np.int64)
            for number in range(2, _MOST + 1)
        }
    return found, int(np.diff(values)[1:].argmax()) + 2


@dataclass(frozen=True, eq=False)
class Pattern:
    """What tells the pictures of a cluster from others: a weight for each cell, and a threshold.

    Attributes:
        weights: Of the square roots of shares of heat, ``(cells,)``.
        least: What their sum is above in the pictures of the cluster.
    """

    weights: Float64[np.ndarray, " cells"]
    least: float

    def is_in(self, roots: Float32[np.ndarray, "pictures cells"]) -> Bool[np.ndarray, " pictures"]:
        """Which pictures have it, of the square roots of their shares of heat."""
        has: np.ndarray = roots @ self.weights.astype(np.float32) > self.least
        return has

    def flipped(self, shape: tuple[int, int], axis: int) -> Pattern:
        """The same at the mirrored place."""
        return Pattern(np.flip(self.weights.reshape(shape), axis).ravel(), self.least)


@dataclass(frozen=True, eq=False)
class Others:
    """Pictures of other classes: the mean and the covariances of the roots of shares of heat."""

    mean: Float64[np.ndarray, " cells"]
    spread: Float64[np.ndarray, "cells cells"]

    @classmethod
    def of(cls, roots: Float32[np.ndarray, "pictures cells"]) -> Others:
        """Of square roots of shares of heat."""
        return cls(roots.mean(axis=0, dtype=np.float64), np.cov(roots, rowvar=False))


def pattern_of(
    roots: Float32[np.ndarray, "pictures cells"],
    is_in: Bool[np.ndarray, " pictures"],
    others: Others,
) -> Pattern | None:
    """What tells a cluster from the rest of its class, and from other classes.

    Fisher's linear discriminant between the cluster and these two, which count alike. The pictures
    that have the pattern then take the place of the cluster, and it is found anew, as clusters are
    seldom pure.

    Args:
        roots: Square roots of the shares of heat of pictures of the class.
        is_in: Which of them are in the cluster.
        others: Pictures of other classes.

    Returns:
        The pattern; None if it ends in too few pictures, or in all of them.
    """
    found = None
    for _ in range(_ROUNDS):
        if np.count_nonzero(is_in) < 3 or np.count_nonzero(~is_in) < 3:
            return None
        inside, rest = roots[is_in], roots[~is_in]
        mean = (rest.mean(axis=0, dtype=np.float64) + others.mean) / 2
        spread = (np.cov(inside, rowvar=False) + np.cov(rest, rowvar=False) + others.spread) / 3
        even = np.trace(spread) / len(spread)
        spread = (1 - _SHRUNK) * spread + (_SHRUNK * even + _TINY) * np.eye(len(spread))
        weights = np.linalg.solve(spread, inside.mean(axis=0, dtype=np.float64) - mean)
        found = Pattern(weights, float((inside @ weights).mean() + mean @ weights) / 2)
        is_in = found.is_in(roots)
    return found
