"""Mixtures of normals by expectation and maximisation, for rows of numbers with gaps."""

import dataclasses
import math

import numpy as np

from energax.energies import Gaussian, Mixture
from energax.energies._base import AbstractNormalised
from energax.spaces import Real

_LOG_2PI = math.log(2 * math.pi)
_LARGEST = 1e140
_LEAST = 1e-8  # share of a component that lost its rows


@dataclasses.dataclass(frozen=True)
class NormalMixture:
    """p(x) = Σ_k w_k N(x; m_k, C_k) in float64 (Bishop 2006, eq. 9.7).

    `log_weights` (components,), `mean` (components, n), `covariance` (components, n, n).
    """

    log_weights: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray

    def energy(self) -> AbstractNormalised:
        """The same as an energy on Real((n,)): a `Gaussian`, or a `Mixture` of them."""
        space = Real((self.mean.shape[1],))
        parts = [
            Gaussian(space, m, cholesky=np.linalg.cholesky(c))
            for m, c in zip(self.mean, self.covariance, strict=True)
        ]
        return parts[0] if len(parts) == 1 else Mixture(parts, np.exp(self.log_weights))

    def log_prob(self, rows: np.ndarray) -> np.ndarray:
        """log p of what is there of each row, (num,); entries that are NaN are summed out."""
        return _log_sum(self._joint(rows, _patterns(rows)))

    def responsibilities(self, rows: np.ndarray) -> np.ndarray:
        """p(component | what is there) of each row, (num, components)."""
        return _shares(self._joint(rows, _patterns(rows)))

    def filled(self, rows: np.ndarray) -> np.ndarray:
        """Rows with NaN replaced by E[x | what is there]."""
        if not np.isnan(rows).any():
            return rows
        patterns = _patterns(rows)
        shares = _shares(self._joint(rows, patterns))
        out = np.zeros_like(rows)
        for k in range(len(self.mean)):
            out += shares[:, k, None] * self._expected(k, rows, patterns)
        return np.where(np.isnan(rows), out, rows)

    def drawn(self, rows: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
        """`num` times the rows with NaN replaced by draws from p(missing | what is there),
        (num, rows, n), exact: a component by its share, then its normal given what is there."""
        patterns = _patterns(rows)
        shares = np.cumsum(_shares(self._joint(rows, patterns)), axis=1)
        chosen = (rng.random((num, len(rows), 1)) > shares[:, :-1]).sum(-1)
        out = np.repeat(rows[None], num, axis=0)
        for k in range(len(self.mean)):
            expected = self._expected(k, rows, patterns)
            for gone, own in patterns:
                away = np.flatnonzero(gone)
                at, row = np.nonzero(chosen[:, own] == k)
                if not len(away) or not len(at):
                    continue
                covariance = self._left_over(k, gone)[np.ix_(away, away)]
                spread = rng.normal(size=(len(at), len(away))) @ np.linalg.cholesky(covariance).T
                place = (at[:, None], own[row][:, None], away)
                out[place] = expected[own[row][:, None], away] + spread
        return out

    def improved(self, rows: np.ndarray, prior: np.ndarray, strength: float) -> "NormalMixture":
        """One step of EM (Bishop 2006, eq. 9.24 to 9.26; with gaps Ghahramani & Jordan 1994,
        section 3), every covariance drawn towards `prior` as by `strength` rows."""
        patterns = _patterns(rows)
        return self._improved(rows, patterns, self._joint(rows, patterns), prior, strength)

    def _improved(
        self,
        rows: np.ndarray,
        patterns: "_Patterns",
        joint: np.ndarray,
        prior: np.ndarray,
        strength: float,
    ) -> "NormalMixture":
        """`improved`, given `_joint(rows, patterns)`."""
        shares = _shares(joint)
        total = shares.sum(0) + _LEAST * len(rows)
        mean, covariance = np.empty_like(self.mean), np.empty_like(self.covariance)
        for k in range(len(self.mean)):
            values, weight = self._expected(k, rows, patterns), shares[:, k]
            mean[k] = (weight @ values + _LEAST * len(rows) * self.mean[k]) / total[k]
            centred = (values - mean[k]) * np.sqrt(weight)[:, None]
            scatter = centred.T @ centred
            for gone, own in patterns:
                scatter += weight[own].sum() * self._left_over(k, gone)
            covariance[k] = (scatter + strength * prior) / (total[k] + strength)
        return NormalMixture(np.log(total / total.sum()), mean, covariance)

    def _joint(self, rows: np.ndarray, patterns: "_Patterns") -> np.ndarray:
        """log w_k + log p_k(what is there), (num, components)."""
        rows = np.clip(rows, -_LARGEST, _LARGEST)  # their squares are numbers still
        out = np.empty((len(rows), len(self.mean)))
        for k, (mean, covariance) in enumerate(zip(self.mean, self.covariance, strict=True)):
            for gone, own in patterns:
                here = np.flatnonzero(~gone)
                factor = np.linalg.cholesky(covariance[np.ix_(here, here)])
                white = np.linalg.solve(factor, (rows[np.ix_(own, here)] - mean[here]).T)
                half_log_det = np.log(np.diagonal(factor)).sum() + 0.5 * len(here) * _LOG_2PI
                out[own, k] = -0.5 * (white**2).sum(0) - half_log_det
        return out + self.log_weights

    def _expected(self, k: int, rows: np.ndarray, patterns: "_Patterns") -> np.ndarray:
        """Rows with NaN replaced by E[x | what is there, component k]."""
        mean, covariance = self.mean[k], self.covariance[k]
        out = rows.copy()
        for gone, own in patterns:
            here, away = np.flatnonzero(~gone), np.flatnonzero(gone)
            if len(away):
                slope = _slope(covariance, here, away)
                centred = rows[np.ix_(own, here)] - mean[here]
                out[np.ix_(own, away)] = mean[away] + centred @ slope
        return out

    def _left_over(self, k: int, gone: np.ndarray) -> np.ndarray:
        """Cov[x | what is there, component k], (n, n), 0 where x is there."""
        covariance, out = self.covariance[k], np.zeros_like(self.covariance[k])
        here, away = np.flatnonzero(~gone), np.flatnonzero(gone)
        if len(away):
            among = covariance[np.ix_(away, away)]
            slope = _slope(covariance, here, away)
            out[np.ix_(away, away)] = among - slope.T @ covariance[np.ix_(here, away)]
        return out


_Patterns = list[tuple[np.ndarray, np.ndarray]]


def _patterns(rows: np.ndarray) -> _Patterns:
    """[(which columns are NaN (n,), the rows with just these gaps)]."""
    gone = np.isnan(rows)
    if not gone.any():
        return [(gone[0], np.arange(len(rows)))]
    kinds, which = np.unique(gone, axis=0, return_inverse=True)
    order = np.argsort(which.reshape(-1), kind="stable")
    ends = np.cumsum(np.bincount(which.reshape(-1)))
    return list(zip(kinds, np.split(order, ends[:-1]), strict=True))


def _slope(covariance: np.ndarray, here: np.ndarray, away: np.ndarray) -> np.ndarray:
    """C_oo⁻¹ C_om: what columns that are there tell of those that are not, linearly."""
    return np.linalg.solve(covariance[np.ix_(here, here)], covariance[np.ix_(here, away)])


def _shares(joint: np.ndarray) -> np.ndarray:
    return np.exp(joint - _log_sum(joint)[:, None])


def _log_sum(joint: np.ndarray) -> np.ndarray:
    top = joint.max(1)
    return top + np.log(np.exp(joint - top[:, None]).sum(1))


def fit_normals(
    rows: np.ndarray,
    start: NormalMixture,
    *,
    prior: np.ndarray,
    strength: float,
    most: int = 50,
    tolerance: float = 1e-3,
) -> NormalMixture:
    """The mixture of greatest penalised likelihood near `start`, by EM (Dempster, Laird & Rubin
    1977), until a round raises the mean log-likelihood by less than `tolerance` nats, or `most`.

    **Arguments:** `rows` (num, n), NaN where a value is missing. `prior` (n, n): the covariance
    that each is drawn towards, with the weight of `strength` rows, which keeps it positive definite
    (the mode under an inverse Wishart prior, Fraley & Raftery 2007, section 3).
    """
    found, before, patterns = start, -np.inf, _patterns(rows)
    for _ in range(most):
        joint = found._joint(rows, patterns)
        now = float(_log_sum(joint).mean())
        if now - before < tolerance:
            break
        before, found = now, found._improved(rows, patterns, joint, prior, strength)
    return found


def started(rows: np.ndarray, labels: np.ndarray, prior: np.ndarray) -> NormalMixture:
    """The mixture whose components sit at the means of clusters, `labels` (num,) from 0."""
    sizes = np.bincount(labels)
    mean = np.stack([rows[labels == k].mean(0) for k in np.flatnonzero(sizes)])
    sizes = sizes[sizes > 0]
    return NormalMixture(np.log(sizes / len(rows)), mean, np.stack([prior] * len(sizes)))
