"""What is asked of the differences of mean features, for labels as they are and shuffled."""

from typing import Any

import numpy as np

from energax.tasks.two_samples._base import Part

_RIDGE = 0.1  # added to correlations of features before they are inverted
_AT_ONCE = 2**22  # numbers in shuffled labels
_TIE = 1e-7


def permuted(
    features: dict[str, Part],
    is_x: np.ndarray,
    num: int,
    rng: np.random.Generator,
    places: list[tuple[Any, ...]],
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, np.ndarray]:
    """What is asked of δ, of the labels as they are (first) and shuffled `num` times.

    (names of parts, (parts, 3, 1 + num), the largest δ² of each place as it is, and of all places
    (1 + num,)).
    """
    num_x, total = int(is_x.sum()), len(is_x)
    label = np.where(is_x, 1 / num_x, -1 / (total - num_x))
    label *= np.sqrt(num_x * (total - num_x) / total)  # of sd 1 in δ
    delta = {name: np.empty((part.shape[1], 1 + num)) for name, (part, _) in features.items()}
    at_once = max(1, _AT_ONCE // total)
    for start in range(0, 1 + num, at_once):
        labels = np.tile(label, (min(at_once, 1 + num - start), 1))
        if start == 0:
            labels[1:] = rng.permuted(labels[1:], axis=1)
        else:
            labels = rng.permuted(labels, axis=1)
        for name, (part, _) in features.items():
            delta[name][:, start : start + len(labels)] = part.T @ labels.T
    statistics = np.empty((len(features), 3, 1 + num))
    evidence, highest = np.zeros(len(places)), np.zeros(1 + num)
    for each, (name, (part, owners)) in zip(statistics, features.items(), strict=True):
        each[0] = _quadratic(part, delta[name])
        squares = np.square(delta[name], out=delta[name])
        each[1], each[2] = squares.sum(0), squares.max(0)
        for owner in owners:
            np.maximum.at(evidence, owner, squares[:, 0])
        if owners:
            highest = np.maximum(highest, each[2])
    return tuple(features), statistics, evidence, highest


def _quadratic(part: np.ndarray, delta: np.ndarray) -> np.ndarray:
    """δᵀ(R + r I)⁻¹δ of each column of `delta`."""
    from scipy.linalg import solve_triangular

    matrix = part.T @ part / len(part) + _RIDGE * np.eye(part.shape[1])
    white = solve_triangular(np.linalg.cholesky(matrix), delta, lower=True)
    return np.square(white).sum(0)


def log_tails(statistics: np.ndarray) -> np.ndarray:
    """Approximate log p-values of each along the last axis, from its own mean and sd there."""
    from scipy.special import log_ndtr

    root = np.cbrt(statistics)
    centred = root - root.mean(-1, keepdims=True)
    sd = centred.std(-1, keepdims=True)
    return log_ndtr(-centred / np.where(sd > _TIE, sd, np.inf))


def p_value(found: float, among: np.ndarray) -> float:
    """Share of `among`, of which the one found is one, that is at least as large."""
    return float(np.mean(among >= found - _TIE * max(1.0, abs(found))))
