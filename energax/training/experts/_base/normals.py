"""Mixtures of normals, for rows of numbers with gaps."""

import dataclasses
import math
import warnings

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
        return log_sum(self.joint(rows, patterns_of(rows)))

    def moved(self, centre: np.ndarray, scale: np.ndarray) -> "NormalMixture":
        """The distribution of scale · x + centre."""
        covariance = self.covariance * np.outer(scale, scale)
        return NormalMixture(self.log_weights, self.mean * scale + centre, covariance)

    def expected_energy(self, rows: np.ndarray) -> np.ndarray:
        """−log p(what is there) + Σ_k p(k | what is there) H_k of each row, (num,).

        H_k is the entropy of what is not there given what is there and the component k. Of one
        normal it is E[−log p(x) | what is there], so that rows with gaps and rows without can be
        held against one another; of several it leaves out which component what is missing tells.
        Of a row without gaps it is −log p(x).
        """
        patterns = patterns_of(rows)
        joint = self.joint(rows, patterns)
        left = np.zeros_like(joint)
        for gone, own in patterns:
            if gone.any():
                here = np.ix_(~gone, ~gone)
                both = [_log_det(c) - _log_det(c[here]) for c in self.covariance]
                left[own] = 0.5 * (np.array(both) + gone.sum() * (1 + _LOG_2PI))
        return (shares_of(joint) * left).sum(1) - log_sum(joint)

    def responsibilities(self, rows: np.ndarray) -> np.ndarray:
        """p(component | what is there) of each row, (num, components)."""
        return shares_of(self.joint(rows, patterns_of(rows)))

    def filled(self, rows: np.ndarray) -> np.ndarray:
        """Rows with NaN replaced by E[x | what is there]."""
        if not np.isnan(rows).any():
            return rows
        patterns = patterns_of(rows)
        return self.filled_by(rows, patterns, shares_of(self.joint(rows, patterns)))

    def filled_by(self, rows: np.ndarray, patterns: "Patterns", shares: np.ndarray) -> np.ndarray:
        """`filled`, given p(component | what is there), (num, components)."""
        out = np.zeros_like(rows)
        for k in range(len(self.mean)):
            out += shares[:, k, None] * self._expected(k, rows, patterns)
        return np.where(np.isnan(rows), out, rows)

    def drawn(self, rows: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
        """`num` times the rows with NaN replaced by draws from p(missing | what is there),
        (num, rows, n), exact: a component by its share, then its normal given what is there."""
        patterns = patterns_of(rows)
        shares = shares_of(self.joint(rows, patterns))
        return self.drawn_from(rows, patterns, chosen_of(shares, num, rng), rng)

    def drawn_from(
        self, rows: np.ndarray, patterns: "Patterns", chosen: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """`drawn`, given the component of each row of each table, (num, rows)."""
        out = np.repeat(rows[None], len(chosen), axis=0)
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
        patterns = patterns_of(rows)
        return self.stepped(rows, patterns, self.joint(rows, patterns), prior, strength)

    def stepped(
        self,
        rows: np.ndarray,
        patterns: "Patterns",
        joint: np.ndarray,
        prior: np.ndarray,
        strength: float,
    ) -> "NormalMixture":
        """`improved`, given `joint(rows, patterns)`."""
        shares = shares_of(joint)
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

    def joint(self, rows: np.ndarray, patterns: "Patterns") -> np.ndarray:
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

    def _expected(self, k: int, rows: np.ndarray, patterns: "Patterns") -> np.ndarray:
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


Patterns = list[tuple[np.ndarray, np.ndarray]]


def chosen_of(shares: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
    """`num` times a component for each row, (num, rows), by its shares (rows, components)."""
    above = np.cumsum(shares, axis=1)
    return (rng.random((num, len(shares), 1)) > above[:, :-1]).sum(-1)


def patterns_of(rows: np.ndarray) -> Patterns:
    """[(which columns are NaN (n,), the rows with just these gaps)]."""
    gone = np.isnan(rows)
    if not gone.any():
        return [(gone[0], np.arange(len(rows)))]
    kinds, which = np.unique(gone, axis=0, return_inverse=True)
    order = np.argsort(which.reshape(-1), kind="stable")
    ends = np.cumsum(np.bincount(which.reshape(-1)))
    return list(zip(kinds, np.split(order, ends[:-1]), strict=True))


def shares_of(joint: np.ndarray) -> np.ndarray:
    return np.exp(joint - log_sum(joint)[:, None])


def log_sum(joint: np.ndarray) -> np.ndarray:
    top = joint.max(1)
    return top + np.log(np.exp(joint - top[:, None]).sum(1))


def standard(rows: np.ndarray, floor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(means, sds) of what is there of the columns, the sds not below `floor`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a column of gaps alone
        centre, scale = np.nanmean(rows, 0), np.nanstd(rows, 0)
    scale = np.maximum(np.nan_to_num(scale), floor)
    return np.nan_to_num(centre), np.where(scale > 0, scale, 1.0)


def _slope(covariance: np.ndarray, here: np.ndarray, away: np.ndarray) -> np.ndarray:
    """C_oo⁻¹ C_om: what columns that are there tell of those that are not, linearly."""
    return np.linalg.solve(covariance[np.ix_(here, here)], covariance[np.ix_(here, away)])


def _log_det(covariance: np.ndarray) -> float:
    return 2 * float(np.log(np.diagonal(np.linalg.cholesky(covariance))).sum())
