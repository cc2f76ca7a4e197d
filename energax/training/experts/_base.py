"""Mixtures by expectation and maximisation, for rows of numbers and categories with gaps."""

import dataclasses
import math
from typing import Any

import numpy as np

from energax.energies import Gaussian, IndependentCategorical, Mixture, RecordReference
from energax.energies._base import AbstractNormalised
from energax.spaces import Categorical, Real, Record

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
        return self._filled(rows, patterns, _shares(self._joint(rows, patterns)))

    def _filled(self, rows: np.ndarray, patterns: "_Patterns", shares: np.ndarray) -> np.ndarray:
        """`filled`, given p(component | what is there), (num, components)."""
        out = np.zeros_like(rows)
        for k in range(len(self.mean)):
            out += shares[:, k, None] * self._expected(k, rows, patterns)
        return np.where(np.isnan(rows), out, rows)

    def drawn(self, rows: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
        """`num` times the rows with NaN replaced by draws from p(missing | what is there),
        (num, rows, n), exact: a component by its share, then its normal given what is there."""
        patterns = _patterns(rows)
        shares = _shares(self._joint(rows, patterns))
        return self._drawn(rows, patterns, _chosen(shares, num, rng), rng)

    def _drawn(
        self, rows: np.ndarray, patterns: "_Patterns", chosen: np.ndarray, rng: np.random.Generator
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


@dataclasses.dataclass(frozen=True)
class Columns:
    """Rows of numbers and of categories.

    - `numbers`: (num, n) float64, NaN where a value is missing.
    - `categories`: (num, c) int, from 0, −1 where one is missing.
    - `num_values`: (c,), of each column of categories.
    """

    numbers: np.ndarray
    categories: np.ndarray
    num_values: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Any) -> "Columns":
        return Columns(self.numbers[index], self.categories[index], self.num_values)

    @staticmethod
    def of_numbers(rows: np.ndarray) -> "Columns":
        """Rows without categories."""
        return Columns(rows, np.zeros((len(rows), 0), int), np.zeros(0, int))

    @property
    def width(self) -> int:
        """How many columns there are."""
        return self.numbers.shape[1] + self.categories.shape[1]

    @property
    def space(self) -> Any:
        """Real((n,)); with categories a Record of "numbers", if there are any, and "categories"."""
        parts: dict[str, Any] = {}
        if self.numbers.shape[1]:
            parts["numbers"] = Real((self.numbers.shape[1],))
        if not len(self.num_values):
            return parts["numbers"]
        parts["categories"] = Categorical((len(self.num_values),), self.most_values)
        return Record(**parts)

    @property
    def most_values(self) -> int:
        """Of a column of categories."""
        return int(self.num_values.max(initial=2))

    @property
    def point(self) -> Any:
        """The rows as points of `space`."""
        if not len(self.num_values):
            return self.numbers
        parts = {"numbers": self.numbers, "categories": self.categories}
        return {name: parts[name] for name in self.space.parts}

    @property
    def missing(self) -> bool:
        """Whether any value is."""
        return bool(np.isnan(self.numbers).any() or (self.categories < 0).any())

    def shares(self) -> np.ndarray:
        """How often each column of categories has each value, (c, k): half a row of each is added,
        and 0 is left for values that a column does not have."""
        out = np.zeros((len(self.num_values), self.most_values))
        for j, (codes, size) in enumerate(zip(self.categories.T, self.num_values, strict=True)):
            out[j, :size] = np.bincount(codes[codes >= 0], minlength=size)[:size] + 0.5
        return out / out.sum(1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class MixedMixture:
    """p(x) = Σ_k w_k N(numbers; m_k, C_k) Π_j q_kj(category_j) in float64 (a location mixture of
    conditional Gaussians without interactions within a component; Hunt & Jorgensen 2003, eq. 1).

    `normals`: w, m and C. `shares`: q, (components, c, values), with 0 where a column has no such
    value.
    """

    normals: NormalMixture
    shares: np.ndarray

    def energy(self, space: Any) -> AbstractNormalised:
        """The same as an energy on `space`, that of the rows (`Columns.space`)."""
        if isinstance(space, Real):
            return self.normals.energy()
        parts = []
        each = zip(self.normals.mean, self.normals.covariance, self.shares, strict=True)
        for mean, covariance, shares in each:
            own: dict[str, AbstractNormalised] = {"categories": categorical(space, shares)}
            if "numbers" in space.parts:
                factor = np.linalg.cholesky(covariance)
                own["numbers"] = Gaussian(space.parts["numbers"], mean, cholesky=factor)
            parts.append(RecordReference(space, own))
        weights = np.exp(self.normals.log_weights)
        return parts[0] if len(parts) == 1 else Mixture(parts, weights)

    def given_values(self, allowed: np.ndarray) -> "MixedMixture":
        """p(x | all categories are among the allowed ones), `allowed` (c, values) of bool, with the
        weights of the components left as they are."""
        shares = self.shares * allowed
        return MixedMixture(self.normals, shares / shares.sum(-1, keepdims=True))

    def log_prob(self, rows: Columns) -> np.ndarray:
        """log p of what is there of each row, (num,); what is missing is summed out."""
        return _log_sum(self._joint(rows, _patterns(rows.numbers)))

    def filled(self, rows: Columns) -> Columns:
        """Rows with missing numbers replaced by their means, missing categories by their most
        probable values, given what is there."""
        if not rows.missing:
            return rows
        patterns = _patterns(rows.numbers)
        shares = _shares(self._joint(rows, patterns))
        numbers = self.normals._filled(rows.numbers, patterns, shares)
        return dataclasses.replace(
            rows,
            numbers=np.where(np.isnan(rows.numbers), numbers, rows.numbers),
            categories=self._value_shares(rows, shares).argmax(-1),
        )

    def value_shares(self, rows: Columns) -> np.ndarray:
        """p(value | what is there) of every category, (num, c, values); 1 for one that is there."""
        return self._value_shares(rows, _shares(self._joint(rows, _patterns(rows.numbers))))

    def _value_shares(self, rows: Columns, shares: np.ndarray) -> np.ndarray:
        """`value_shares`, given p(component | what is there), (num, components)."""
        likely = np.einsum("rk,kjv->rjv", shares, self.shares)
        own = rows.categories[:, :, None]
        return np.where(own >= 0, own == np.arange(self.shares.shape[-1]), likely)

    def drawn(self, rows: Columns, num: int, rng: np.random.Generator) -> list[Columns]:
        """`num` times the rows, with what is missing drawn from p(missing | what is there)."""
        patterns = _patterns(rows.numbers)
        chosen = _chosen(_shares(self._joint(rows, patterns)), num, rng)
        numbers = self.normals._drawn(rows.numbers, patterns, chosen, rng)
        above = np.cumsum(self.shares, axis=-1)
        out = []
        for each, which in zip(numbers, chosen, strict=True):
            uniform = rng.random((*rows.categories.shape, 1))
            values = (uniform > above[which][:, :, :-1]).sum(-1)
            values = np.where(rows.categories < 0, values, rows.categories)
            out.append(dataclasses.replace(rows, numbers=each, categories=values))
        return out

    def _joint(self, rows: Columns, patterns: "_Patterns") -> np.ndarray:
        """log w_k + log p_k(what is there), (num, components)."""
        out = self.normals._joint(rows.numbers, patterns)
        log_shares = _log(self.shares)
        for j, codes in enumerate(rows.categories.T):
            each = log_shares[:, j, codes].T
            out += np.where(codes[:, None] < 0, 0.0, each)
        return out

    def _improved(
        self,
        rows: Columns,
        patterns: "_Patterns",
        joint: np.ndarray,
        prior: "MixedPrior",
        strength: float,
    ) -> "MixedMixture":
        """One step of EM, given `_joint(rows, patterns)`; every share is drawn towards the prior's
        as by its rows (a Dirichlet prior)."""
        normals = self.normals._improved(rows.numbers, patterns, joint, prior.covariance, strength)
        return MixedMixture(normals, self._counted(rows, _shares(joint), prior))

    def recounted(self, rows: Columns, prior: "MixedPrior") -> "MixedMixture":
        """The same components with the shares of categories that these rows have in them."""
        weights = _shares(self._joint(rows, _patterns(rows.numbers)))
        return MixedMixture(self.normals, self._counted(rows, weights, prior))

    def _counted(self, rows: Columns, weights: np.ndarray, prior: "MixedPrior") -> np.ndarray:
        """Shares, (components, c, values), of rows of these weights (num, components)."""
        shares = np.empty_like(self.shares)
        for j, codes in enumerate(rows.categories.T):
            there = codes >= 0
            often = np.zeros(self.shares.shape[::2])
            np.add.at(often.T, codes[there], weights[there])
            often += prior.rows * prior.shares[j]
            shares[:, j] = often / often.sum(1, keepdims=True)
        return shares


@dataclasses.dataclass(frozen=True)
class MixedPrior:
    """What components are drawn towards: `covariance` (n, n), and `shares` (c, k) as by `rows`."""

    covariance: np.ndarray
    shares: np.ndarray
    rows: float


def categorical(space: Record, shares: np.ndarray) -> IndependentCategorical:
    """Independent categories of these shares, (c, k), as the part of `space`."""
    return IndependentCategorical(space.parts["categories"], _log(shares))


_Patterns = list[tuple[np.ndarray, np.ndarray]]
_NEVER = -1e4  # nats, of a value that a column does not have: no infinity, whose slopes are NaN


def _log(shares: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(shares, 1e-300), where=shares > 0, out=np.full(shares.shape, _NEVER))


def _chosen(shares: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
    """`num` times a component for each row, (num, rows), by its shares (rows, components)."""
    above = np.cumsum(shares, axis=1)
    return (rng.random((num, len(shares), 1)) > above[:, :-1]).sum(-1)


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


def fitted_by_em(
    rows: Columns,
    start: MixedMixture,
    *,
    prior: MixedPrior,
    strength: float,
    most: int = 50,
    tolerance: float = 1e-3,
) -> MixedMixture:
    """The mixture of greatest penalised likelihood near `start`, by EM (Dempster, Laird & Rubin
    1977), until a round raises the mean log-likelihood by less than `tolerance` nats, or `most`.

    **Arguments:** `prior`: the covariance that each is drawn towards, with the weight of `strength`
    rows, which keeps it positive definite (the mode under an inverse Wishart prior, Fraley &
    Raftery 2007, section 3), and the shares of categories.
    """
    found, before, patterns = start, -np.inf, _patterns(rows.numbers)
    for _ in range(most):
        joint = found._joint(rows, patterns)
        now = float(_log_sum(joint).mean())
        if now - before < tolerance:
            break
        before, found = now, found._improved(rows, patterns, joint, prior, strength)
    return found


def started(rows: Columns, labels: np.ndarray, prior: MixedPrior) -> MixedMixture:
    """The mixture whose components sit at the means of clusters, `labels` (num,) from 0."""
    sizes = np.bincount(labels)
    own = [labels == k for k in np.flatnonzero(sizes)]
    sizes = sizes[sizes > 0]
    mean = np.stack([rows.numbers[which].mean(0) for which in own])
    shares = np.stack([rows[which].shares() for which in own])
    covariance = np.stack([prior.covariance] * len(sizes))
    return MixedMixture(NormalMixture(np.log(sizes / len(rows)), mean, covariance), shares)
