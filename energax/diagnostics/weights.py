"""Importance weights: how many count, and whether their tail spoils their mean."""

from typing import Any

import numpy as np


def weights_ess(log_weights: Any) -> float:
    """Kish's effective number of weights, (Σ w)²/Σ w², between 1 and their number.

    Source: Kish (1965). Computed relative to the largest weight, so nothing overflows.

    **Arguments:** `log_weights`: log w, any shape, −inf for no weight.

    **Returns:** the ESS; 0 if all weights are 0 or one is NaN or infinite.
    """
    log_weights = np.asarray(log_weights, np.float64).ravel()
    top = log_weights.max(initial=-np.inf)
    if not np.isfinite(top):
        return 0.0
    weights = np.exp(log_weights - top)
    return float(weights.sum() ** 2 / np.sum(weights**2))


def pareto_k(log_weights: Any) -> float:
    """Tail index k of importance weights; above about 0.7 their mean and its error mislead.

    The S/5 or 3√S largest of S weights, the fewer, less the largest of the others, are fitted by a
    generalised Pareto density (1 + ky/σ)^{−1/k−1}/σ. Source: Zhang and Stephens (2009) for the fit;
    Vehtari, Simpson, Gelman, Yao and Gabry (2024), arXiv:1507.02646, for its use and the shrinkage
    to 1/2 by ten draws' worth. A tail with under five draws above the rest cannot be fitted; k is
    then 0 if the weights are nearly equal (their ESS is at least half their number), else inf.

    **Arguments:** `log_weights`: log w, any shape, −inf for no weight.

    **Returns:** k; inf if all weights are 0, one is NaN or infinite, or they are too few to tell.
    """
    log_weights = np.sort(np.asarray(log_weights, np.float64).ravel())
    size, ess = log_weights.size, weights_ess(log_weights)
    if ess == 0.0:
        return np.inf
    weights = np.exp(log_weights - log_weights[-1])
    num_tail = int(3 * size**0.5 if size > 225 else size / 5)
    excess = weights[size - num_tail :] - weights[size - num_tail - 1]
    excess = excess[excess > 0]
    num = excess.size
    if num < 5:
        return 0.0 if ess >= size / 2 and (size >= 25 or ess > size * (1 - 1e-9)) else np.inf
    with np.errstate(all="ignore"):  # what overflows ends as inf
        num_grid = 30 + int(num**0.5)
        grid = 1 - np.sqrt(num_grid / (np.arange(1, num_grid + 1) - 0.5))
        grid = grid / (3 * excess[int(num / 4 + 0.5) - 1]) + 1 / excess[-1]
        shape = np.mean(np.log1p(-grid[:, None] * excess), axis=1)
        log_posterior = num * (np.log(-grid / shape) - shape - 1)
        posterior = np.exp(log_posterior - log_posterior.max())
        theta = np.sum(grid * posterior) / posterior.sum()
        k = np.mean(np.log1p(-theta * excess))
    k = (num * k + 10 * 0.5) / (num + 10)
    return float(k) if np.isfinite(k) else np.inf
