"""How far two sets of rows are apart: a log ratio, judged on rows that it was not fitted to."""

import math
from typing import Any

import numpy as np

from energax.results import half_width
from energax.tasks.two_samples._base import Part

_PENALTIES = (1.0, 0.03)  # of the log ratio's squared parameters
_FEWEST, _MOST = 2, 512  # features that it is tried with, four times as many each time
_FOLDS, _MOST_ROWS = 5, 10_000  # of each set


def divergence(
    features: dict[str, Part], is_x: np.ndarray, rng: np.random.Generator
) -> tuple[float, float, float]:
    """(log 2 − the mean loss of held-out rows, its standard error, half of its interval)."""
    own = [rng.permutation(np.flatnonzero(group))[:_MOST_ROWS] for group in (is_x, ~is_x)]
    chosen = np.concatenate(own)
    folds = min(_FOLDS, *map(len, own))
    fold = np.concatenate([np.arange(len(rows)) % folds for rows in own])
    sign = np.where(is_x[chosen], 1.0, -1.0)
    phi = np.concatenate([np.zeros((len(is_x), 0)), *(f for f, _ in features.values())], 1)[chosen]
    loss = np.empty(len(chosen))
    for k in range(folds):
        held, others = fold == k, np.flatnonzero(fold != k)
        count, penalty = _best_size(phi[others], sign[others], fold[others])
        some = _clearest(phi[others], sign[others])[:count]
        theta = _log_ratio(phi[np.ix_(others, some)], sign[others], penalty)
        loss[held] = _losses(theta, phi[np.ix_(held, some)], sign[held])
    groups = [loss[sign > 0], loss[sign < 0]]
    value = math.log(2) - float(np.mean([group.mean() for group in groups]))
    std_err = 0.5 * math.sqrt(sum(group.var(ddof=1) / len(group) for group in groups))
    return value, std_err, half_width(std_err, min(map(len, groups)))


def _best_size(phi: np.ndarray, sign: np.ndarray, fold: np.ndarray) -> tuple[int, float]:
    """(how many features, penalty) with the least loss of the rows of each fold kept aside."""
    most = min(phi.shape[1], _MOST)
    sizes = [_FEWEST * 4**i for i in range(6) if i == 0 or _FEWEST * 4 ** (i - 1) < most]
    total = {(size, penalty): 0.0 for size in sizes for penalty in _PENALTIES}
    for k in np.unique(fold):
        train, aside = fold != k, fold == k
        order = _clearest(phi[train], sign[train])
        for size, penalty in total:
            some = order[:size]
            theta = _log_ratio(phi[np.ix_(train, some)], sign[train], penalty)
            losses = _losses(theta, phi[np.ix_(aside, some)], sign[aside])
            total[size, penalty] += float(_balance(sign[aside]) @ losses)
    return min(total, key=lambda choice: total[choice])


def _clearest(phi: np.ndarray, sign: np.ndarray) -> np.ndarray:
    """Features in the order of their differences of means, largest first."""
    return np.argsort(-np.abs(phi.T @ (_balance(sign) * sign)), kind="stable")


def _log_ratio(phi: np.ndarray, sign: np.ndarray, penalty: float) -> np.ndarray:
    """(θ, c) of log p_X − log p_Y = θ·φ + c, both sets weighing the same: the least mean
    log(1 + exp(∓(θ·φ + c))) + penalty |θ|²/2."""
    from scipy.optimize import minimize
    from scipy.special import expit

    weight = _balance(sign)

    def loss(theta: np.ndarray) -> tuple[Any, np.ndarray]:
        slope = -weight * sign * expit(-sign * (phi @ theta[:-1] + theta[-1]))
        value = float(weight @ _losses(theta, phi, sign)) + penalty / 2 * theta[:-1] @ theta[:-1]
        return value, np.append(phi.T @ slope + penalty * theta[:-1], slope.sum())

    start = np.zeros(phi.shape[1] + 1)
    found: Any = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 100})
    return found.x


def _losses(theta: np.ndarray, phi: np.ndarray, sign: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, -sign * (phi @ theta[:-1] + theta[-1]))


def _balance(sign: np.ndarray) -> np.ndarray:
    """Weights under which both sets have a half each."""
    return np.where(sign > 0, 0.5 / (sign > 0).sum(), 0.5 / (sign < 0).sum())
