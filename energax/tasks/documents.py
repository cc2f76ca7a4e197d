"""How well documents, counts of words, are foreseen: perplexity."""

from typing import Any

import numpy as np

from energax.results import Mean, Scores, half_width
from energax.spaces import Count
from energax.tasks._base import is_single


def perplexity(scores: Scores, X: Any) -> Mean:
    """exp(−Σ log p(words) / Σ D) of documents X, counts of words: among how many words, all as
    likely, the model is left to choose.

    p(words) is the probability of a document's D words in their order, as in Salakhutdinov & Hinton
    2009, section 4.1: log p(v) of the counts less log(D!/Π v_k!). They take the mean over documents
    of (1/D) log p; here every word counts the same. 1 for certainty, the number of words in the
    vocabulary for a model that knows nothing.

    **Arguments:** `scores`: of `X`, by `score_samples`. `X`: (documents, words) of counts.

    **Returns:** `Mean`, with the error of a ratio of means over documents (Cochran 1977, eq. 6.4)
    and of the log Z of each length; the interval is that of the exponent.

    **Raises:** ValueError for other rows than those of the scores, or documents without any words.
    """
    from scipy.special import gammaln

    rows = np.asarray(X)
    space = Count((rows.shape[-1],)) if rows.ndim else Count((1,))
    rows = space.validate(rows, name="X")
    rows = (rows[None] if is_single(space, rows) else rows).astype(np.float64)
    if len(rows) != len(scores.log_prob):
        raise ValueError(
            f"X: expected the {len(scores.log_prob)} documents of the scores, got {len(rows)}"
        )
    lengths = rows.sum(axis=1)
    total = lengths.sum()
    if total == 0:
        raise ValueError("X: expected documents with words, got none")
    log_words = scores.log_prob - gammaln(lengths + 1) + gammaln(rows + 1).sum(axis=1)
    each = log_words.sum() / total
    residual = log_words - each * lengths
    num = len(rows)
    sampling = np.inf
    if num > 1:
        sampling = np.sqrt(num / (num - 1) * np.sum(residual**2)) / total
    shared = 0.0  # all documents of a length share the error of its log Z
    for n in np.unique(lengths):
        shared += np.sum(scores.std_err[lengths == n]) ** 2
    shared = np.sqrt(shared) / total
    value = np.exp(-each)
    half = half_width(sampling, num, shared)
    return Mean(
        value,
        value * np.hypot(sampling, shared),
        value * shared,
        value * sampling,
        np.exp(-each - half),
        np.exp(-each + half),
        scores.reliable,
        scores.reasons,
    )
