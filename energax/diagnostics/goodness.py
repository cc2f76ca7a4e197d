"""Goodness of fit: do independent draws come from a given distribution?"""

from typing import Any

import numpy as np


def chi_square(counts: Any, probabilities: Any, smallest: float = 5.0) -> tuple[float, float]:
    """Pearson's test of counts: X² = Σ (observed − expected)²/expected, χ² with cells − 1 degrees.

    Cells that expect fewer than `smallest` are merged, from the least probable on, until none does.
    Source: Pearson (1900); Cochran (1954) for the merging.

    **Arguments:** `counts` of independent draws; `probabilities` of the same shape, adding up to 1.

    **Returns:** (X², p-value); (inf, 0) if a cell of probability 0 was hit.

    **Raises:** ValueError for unlike shapes or probabilities that are none.
    """
    from scipy.special import chdtrc

    counts = np.asarray(counts, np.float64).ravel()
    probabilities = np.asarray(probabilities, np.float64).ravel()
    if counts.shape != probabilities.shape:
        raise ValueError(
            f"one probability a cell is expected: {counts.size} counts, "
            f"{probabilities.size} probabilities"
        )
    if not np.all(probabilities >= 0) or abs(probabilities.sum() - 1) > 1e-6:
        raise ValueError(
            f"probabilities are ≥ 0 and add up to 1; these add up to {probabilities.sum()}, "
            f"the least is {probabilities.min(initial=np.inf)}; normalise them first"
        )
    if np.any(counts[probabilities == 0] > 0):
        return np.inf, 0.0
    order = np.argsort(probabilities, kind="stable")
    expected = probabilities[order] * counts.sum()
    starts, pooled = [0], 0.0
    for i, cell in enumerate(expected):
        if pooled >= smallest:
            starts.append(i)
            pooled = 0.0
        pooled += cell
    if pooled < smallest and len(starts) > 1:  # what is left over joins the cell before
        starts.pop()
    expected = np.add.reduceat(expected, starts)
    observed = np.add.reduceat(counts[order], starts)
    if len(starts) == 1:
        return 0.0, 1.0
    statistic = float(np.sum((observed - expected) ** 2 / expected))
    return statistic, float(chdtrc(len(starts) - 1, statistic))


def ks_one_sample(x: Any, cdf: Any) -> tuple[float, float]:
    """Kolmogorov and Smirnov's test: D = max |F_n(x) − F(x)|, with its exact two-sided p-value.

    Source: Kolmogorov (1933); p by Simard and L'Ecuyer (2011), an upper bound where F is discrete.

    **Arguments:** `x`: independent draws, any shape; `cdf`: the function F of an array.

    **Returns:** (D, p-value); (1, 0) if a draw is NaN. **Raises:** ValueError if `x` is empty.
    """
    from scipy.stats import kstwo

    x = np.sort(np.asarray(x, np.float64).ravel())
    if not x.size:
        raise ValueError("a Kolmogorov-Smirnov test needs at least one draw, got none")
    if np.isnan(x[-1]):
        return 1.0, 0.0
    below = np.asarray(cdf(x), np.float64)
    steps = np.arange(x.size + 1) / x.size
    distance = float(max(np.max(steps[1:] - below), np.max(below - steps[:-1])))
    return distance, float(kstwo.sf(distance, x.size))
