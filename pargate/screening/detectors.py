"""Scores of suspicion for image-text pairs, as functions of arrays; higher is more suspicious.

The scores of density are those of Huang et al., "Detecting Backdoor Samples in Contrastive Language Image Pretraining"
(ICLR 2025, arXiv:2502.01385): a poisoned image has few of its kind in a random batch, so its neighbours are far for
where it is. Embeddings of images are not normalised there, distances are Euclidean, and no image is its own neighbour.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pargate.core.model import Vectors, unit

Scores = NDArray[np.float64]

K = 16
"""Number of neighbours."""

TREES = 100
"""Number of trees of an isolation forest."""

_OFFSET = 1e-4
"""Number added to a ratio of distances before its logarithm, as in the paper's code."""

_LARGEST = 1000.0
"""Score in place of one that is infinite or not a number, as for a distance to copies of one image."""


def finite(scores: NDArray[np.floating]) -> Scores:
    """Return scores with 1000 for +∞ and NaN, and 0 for −∞."""
    return np.nan_to_num(np.asarray(scores, dtype=np.float64), nan=_LARGEST, posinf=_LARGEST, neginf=0.0)


def k_distance(distances: NDArray[np.floating]) -> Scores:
    """Return the distance d_k(x) to the k-th neighbour.

    Args:
        distances: [n, k], distances to the k nearest neighbours, nearest first.
    """
    return np.asarray(distances[:, -1], dtype=np.float64)


def lid(distances: NDArray[np.floating]) -> Scores:
    """Return the local intrinsic dimension −k / Σ_j ln(d_j / d_k + 10⁻⁴), from distances [n, k], nearest first."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(distances / distances[:, -1:] + _OFFSET)
        return finite(-distances.shape[1] / logs.sum(axis=1))


def slof(own: Scores, neighbours: Scores) -> Scores:
    """Return the simplified local outlier factor: the mean over the neighbours o of d_k(x) / d_k(o).

    Args:
        own: [n], d_k of each image.
        neighbours: [n, k], d_k of each of its neighbours.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return finite((own[:, None] / neighbours).mean(axis=1))


def dao(own: Scores, neighbours: Scores, dimensions: Scores) -> Scores:
    """Return the dimensionality-aware outlier score: the mean over the neighbours o of LID(o) · ln(d_k(x) / d_k(o)).

    Args:
        own: [n], d_k of each image.
        neighbours: [n, k], d_k of each of its neighbours.
        dimensions: [n, k], local intrinsic dimension of each of its neighbours.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return finite((dimensions * np.log(own[:, None] / neighbours)).mean(axis=1))


def grown(reference: Vectors, seed: int) -> Any:
    """Return scikit-learn's isolation forest of 100 trees on embeddings [m, d]; `seed` is that of the trees."""
    from sklearn.ensemble import IsolationForest

    return IsolationForest(n_estimators=TREES, random_state=seed).fit(reference)


def isolation(forest: Any, images: Vectors) -> Scores:
    """Return how few random cuts isolate each embedding of [n, d] in a forest of `grown`, between 0 and 1."""
    return np.asarray(-forest.score_samples(images), dtype=np.float64)


def disagreement(images: Vectors, texts: Vectors) -> Scores:
    """Return the negative cosine of each image and its own caption, from [n, d] each."""
    return np.asarray(-(unit(images) * unit(texts)).sum(axis=1), dtype=np.float64)


def repetition(images: Vectors, texts: Vectors, near: NDArray[np.integer], others: tuple[Vectors, Vectors]) -> Scores:
    """Return how much more alike the captions around a pair's caption are than their images are to its image.

    That is the mean, over the pairs with the nearest captions, of the cosine of the captions minus that of the images:
    large where a caption is repeated over images of other things.

    Args:
        images: [n, d].
        texts: [n, d].
        near: [n, k], rows in `others` of the nearest captions.
        others: images [m, d] and captions [m, d].
    """
    seen, told = (unit(vectors)[near] for vectors in others)
    alike = np.einsum("nd,nkd->nk", unit(texts), told) - np.einsum("nd,nkd->nk", unit(images), seen)
    return np.asarray(alike.mean(axis=1), dtype=np.float64)


def toward(vectors: Vectors, direction: Vectors) -> Scores:
    """Return the cosine of each vector of [n, d] with a direction [d]."""
    return np.asarray(unit(vectors) @ unit(direction[None])[0], dtype=np.float64)


def ranks(scores: Scores, population: Scores) -> Scores:
    """Return for each score the share of the population below it, in [0, 1]; equal scores count half."""
    ordered = np.sort(population)
    below = np.searchsorted(ordered, scores, "left")
    upto = np.searchsorted(ordered, scores, "right")
    return np.asarray((below + upto) / (2 * len(ordered)), dtype=np.float64)


def ranks_among(population: Scores) -> Scores:
    """Return for each score of a population the share of the others below it, as `ranks` would for a new score."""
    n = len(population)
    return np.asarray((n * ranks(population, population) - 0.5) / (n - 1), dtype=np.float64)
