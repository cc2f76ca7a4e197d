"""Classes, each a mixture: p(x, y) = p(y) p(x | y) for rows of numbers and categories with gaps."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from energax.energies import LabelledMixture
from energax.spaces import Real
from energax.training.experts._base import (
    Columns,
    MixedMixture,
    NormalMixture,
    check,
    fit_components,
    log_sum,
    standard,
)

_TRUST = (1.0, 0.1)  # in what classes share, of the rows that it counts for
_LEAST_ROWS = 8  # of a component
_FOLDS, _HELD_OUT = 5, 200  # how many folds, and rows held out in all that are enough
_GRID, _STEPS = ((-5.0, 1.5), (-9.0, 1.0)), 16  # of log beta and the log-odds of noise
_MOST = 30.0  # that either may come to


@dataclasses.dataclass(frozen=True)
class ClassMixtures:
    """p(x, y) = w_y p_y(x) in float64, each p_y a mixture of normals, with shares of categories.

    `log_share` (classes,) log w; `parts` one a class. `beta`, `noise`: of the calibrated p(y | x),
    (1 − noise) p(x, y)^beta / Σ_y' p(x, y')^beta + noise · w_y.
    """

    log_share: np.ndarray
    parts: tuple[MixedMixture, ...]
    beta: float = 1.0
    noise: float = 0.0

    def energy(self, space: Any = None) -> LabelledMixture:
        """p(x, y) as an energy with exact log Z, `space` that of the rows (`Columns.space`), by
        default numbers: on Record(x=Real((n,)), y=Categorical((), classes)), or y beside "numbers"
        and "categories"."""
        space = Real((self.parts[0].normals.mean.shape[1],)) if space is None else space
        return LabelledMixture([p.energy(space) for p in self.parts], np.exp(self.log_share))

    def marginal(self) -> MixedMixture:
        """p(x) = Σ_y p(x, y), one mixture of all components."""
        normals = [p.normals for p in self.parts]
        each = zip(self.log_share, normals, strict=True)
        together = NormalMixture(
            np.concatenate([log_w + p.log_weights for log_w, p in each]),
            np.concatenate([p.mean for p in normals]),
            np.concatenate([p.covariance for p in normals]),
        )
        return MixedMixture(together, np.concatenate([p.shares for p in self.parts]))

    def log_joint(self, rows: np.ndarray | Columns) -> np.ndarray:
        """log p(what is there of x, y), (num, classes); what is missing is summed out."""
        rows = rows if isinstance(rows, Columns) else Columns.of_numbers(rows)
        return np.stack([p.log_prob(rows) for p in self.parts], axis=1) + self.log_share

    def log_posterior(self, rows: np.ndarray | Columns) -> np.ndarray:
        """log p(y | what is there of x), (num, classes), calibrated by `beta` and `noise`."""
        return _calibrated(self.log_joint(rows), self.log_share, self.beta, self.noise)


def fit_class_mixtures(
    rows: np.ndarray | Columns,
    labels: np.ndarray,
    *,
    max_components: int = 8,
    seed: int = 0,
) -> ClassMixtures:
    """A mixture a class, all covariances drawn towards the one that classes share.

    Every covariance is drawn towards the covariance within classes (regularised discriminant
    analysis, Friedman 1989; here the mode under an inverse Wishart prior, Fraley & Raftery 2007,
    section 3), as by n + 2 rows or a tenth of that, so that a class of one row is a normal
    around it, and every share of a category towards that in all rows, as by 2 rows or a tenth of
    that. That choice, and the number of components of a class, which doubles as long as it helps,
    go by log p(x, y) of rows held out: of a fifth of them, or in up to five folds where 200 are not
    reached. `beta` and `noise` are those of greatest p(y | x) of the same rows (temperature, Guo,
    Pleiss, Sun & Weinberger 2017, section 4.2; a share of rows whose class nothing tells), log beta
    under a standard normal prior and noise with half a row more of either kind.

    **Arguments:** `rows`: (num, n), NaN where a value is missing, or `Columns`. `labels`: (num,)
    from 0 without a gap. `max_components`: of a class, which has at least 8 rows for each.

    **Raises:** ValueError for rows of another shape, infinite values, a column without values, or
    labels that leave a class without rows.
    """
    if not isinstance(rows, Columns):
        rows = Columns.of_numbers(np.asarray(rows, np.float64))
    check(rows)
    labels = np.asarray(labels)
    sizes = np.bincount(labels)
    if labels.shape != (len(rows),) or not sizes.all():
        raise ValueError(
            f"labels: expected ({len(rows)},) integers from 0, each class with a row, got shape "
            f"{labels.shape} and {sizes} rows a class"
        )
    centre, scale = standard(rows.numbers, np.zeros(rows.numbers.shape[1]))
    z = dataclasses.replace(rows, numbers=(rows.numbers - centre) / scale)
    rng = np.random.default_rng(seed)
    fold = _folds(labels, rng)
    most = min(max_components, max(1, sizes.max() // _LEAST_ROWS))
    found, count, best, chosen = (1, _TRUST[0]), 1, -np.inf, None
    while (fold >= 0).any() and count <= most:
        for trust in _TRUST:
            joint, own = _held_out(z, labels, fold, count, trust, rng)
            score = float(joint[np.arange(len(own)), own].mean())
            if score > best:
                best, found, chosen = score, (count, trust), (joint, own)
        if count > 2 * found[0]:
            break
        count *= 2
    whole = _fitted(z, labels, *found, rng)
    parts = tuple(p.moved(centre, scale) for p in whole.parts)
    tuned = () if chosen is None else _calibration(*chosen, whole.log_share)
    return ClassMixtures(whole.log_share, parts, *tuned)


def _folds(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Which fold holds each row out, (num,), −1 where none does: classes are spread evenly over
    the folds, and none loses all of its rows."""
    fold = np.empty(len(labels), int)
    fold[np.lexsort((rng.random(len(labels)), labels))] = np.arange(len(labels)) % _FOLDS
    used = math.ceil(_HELD_OUT * _FOLDS / len(labels))
    return np.where((np.bincount(labels)[labels] > 1) & (fold < used), fold, -1)


def _held_out(
    z: Columns,
    labels: np.ndarray,
    fold: np.ndarray,
    count: int,
    trust: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """(log p(x, y) of the rows held out by a fit to the others, (num, classes), their labels)."""

    def each() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for i in np.unique(fold[fold >= 0]):
            out = fold == i
            yield _fitted(z[~out], labels[~out], count, trust, rng).log_joint(z[out]), labels[out]

    joint, own = zip(*each(), strict=True)
    return np.concatenate(joint), np.concatenate(own)


def _fitted(
    z: Columns, labels: np.ndarray, count: int, trust: float, rng: np.random.Generator
) -> ClassMixtures:
    """`count` components a class of rows of standardised numbers, fewer where it has too few."""
    n, sizes, often = z.numbers.shape[1], np.bincount(labels), z.shares()
    means = np.stack([standard(z.numbers[labels == k], np.zeros(n))[0] for k in range(len(sizes))])
    away = z.numbers - means[labels]
    away *= math.sqrt(len(z) / max(1, len(z) - len(sizes)))  # each class has a mean of its own
    shared = fit_components(Columns.of_numbers(away), 1, rng).normals.covariance[0]
    # A normal of m rows has the scatter of m − 1 around its own mean: the prior stands in for one
    prior = shared * (1 + 1 / (trust * (n + 2)))
    parts = []
    for k, mean in enumerate(means):
        own = z[labels == k]
        own = dataclasses.replace(own, numbers=own.numbers - mean)
        num = min(count, max(1, len(own) // _LEAST_ROWS))
        found = fit_components(own, num, rng, often, trust=trust, covariance=prior)
        parts.append(found.moved(mean, np.ones(n)))
    return ClassMixtures(np.log(sizes / len(z)), tuple(parts))


def _calibrated(
    log_joint: np.ndarray, log_share: np.ndarray, beta: float, noise: float
) -> np.ndarray:
    tempered = beta * (log_joint - log_joint.max(1, keepdims=True))
    tempered -= log_sum(tempered)[:, None]
    if noise == 0:
        return tempered
    return np.logaddexp(math.log1p(-noise) + tempered, math.log(noise) + log_share)


def _calibration(
    log_joint: np.ndarray, labels: np.ndarray, log_share: np.ndarray
) -> tuple[float, float]:
    """(beta, noise) of greatest penalised p(y | x) of the rows of `log_joint`."""
    from scipy.optimize import brute

    def values(at: np.ndarray) -> tuple[float, float]:
        log_beta, log_odds = np.clip(at, -_MOST, _MOST)
        return math.exp(log_beta), 1 / (1 + math.exp(-log_odds))

    def loss(at: np.ndarray) -> float:
        beta, noise = values(at)
        log_p = _calibrated(log_joint, log_share, beta, noise)
        own = log_p[np.arange(len(labels)), labels].sum()
        half_rows = 0.5 * math.log(noise) + 0.5 * math.log1p(-noise)
        return float(-own - half_rows + 0.5 * math.log(beta) ** 2)

    return values(brute(loss, _GRID, Ns=_STEPS))  # the best of a grid, then by Nelder and Mead
