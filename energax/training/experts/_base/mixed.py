"""Rows of numbers and categories with gaps, and mixtures of them by EM."""

import dataclasses
from typing import Any

import numpy as np

from energax.energies import Gaussian, IndependentCategorical, Mixture, RecordReference
from energax.energies._base import AbstractNormalised
from energax.energies.choose import k_means
from energax.spaces import Categorical, Real, Record
from energax.training.experts._base.normals import (
    Gaps,
    NormalMixture,
    Told,
    chosen_of,
    gaps_of,
    log_sum,
    shares_of,
)

PRIOR_ROWS = 2.0  # of a component, that shares of categories are drawn to all rows' by
_NEVER = -1e4  # nats, of a value that a column does not have: no infinity, whose slopes are NaN


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

    def moved(self, centre: np.ndarray, scale: np.ndarray) -> "MixedMixture":
        """The distribution of rows whose numbers are scale · x + centre."""
        return MixedMixture(self.normals.moved(centre, scale), self.shares)

    def given_values(self, allowed: np.ndarray) -> "MixedMixture":
        """p(x | all categories are among the allowed ones), `allowed` (c, values) of bool, with the
        weights of the components left as they are."""
        shares = self.shares * allowed
        return MixedMixture(self.normals, shares / shares.sum(-1, keepdims=True))

    def log_prob(self, rows: Columns) -> np.ndarray:
        """log p of what is there of each row, (num,); what is missing is summed out."""
        return log_sum(self.joint(rows, gaps_of(rows.numbers)))

    def expected_energy(self, rows: Columns) -> np.ndarray:
        """−log p(what is there) + Σ_k p(k | what is there) H_k of each row, (num,).

        H_k is the entropy of what is not there given what is there and the component k. Of one
        component it is E[−log p(x) | what is there], so that rows with gaps and rows without can be
        held against one another; of several it leaves out which component what is missing tells.
        Of a row without gaps it is −log p(x).
        """
        gaps = gaps_of(rows.numbers)
        joint = self.joint(rows, gaps)
        left = self.normals.entropy_left(rows.numbers, gaps)
        each = -np.where(self.shares > 0, self.shares * _log(self.shares), 0.0).sum(-1)
        left += (rows.categories < 0) @ each.T
        return (shares_of(joint) * left).sum(1) - log_sum(joint)

    def filled(self, rows: Columns) -> Columns:
        """Rows with missing numbers replaced by their means, missing categories by their most
        probable values, given what is there."""
        if not rows.missing:
            return rows
        gaps = gaps_of(rows.numbers)
        shares = shares_of(self.joint(rows, gaps))
        numbers = self.normals.filled_by(rows.numbers, gaps, shares)
        return dataclasses.replace(
            rows,
            numbers=np.where(np.isnan(rows.numbers), numbers, rows.numbers),
            categories=self._value_shares(rows, shares).argmax(-1),
        )

    def value_shares(self, rows: Columns) -> np.ndarray:
        """p(value | what is there) of every category, (num, c, values); 1 for one that is there."""
        return self._value_shares(rows, shares_of(self.joint(rows, gaps_of(rows.numbers))))

    def _value_shares(self, rows: Columns, shares: np.ndarray) -> np.ndarray:
        """`value_shares`, given p(component | what is there), (num, components)."""
        likely = np.einsum("rk,kjv->rjv", shares, self.shares)
        own = rows.categories[:, :, None]
        return np.where(own >= 0, own == np.arange(self.shares.shape[-1]), likely)

    def drawn(self, rows: Columns, num: int, rng: np.random.Generator) -> list[Columns]:
        """`num` times the rows, with what is missing drawn from p(missing | what is there)."""
        gaps = gaps_of(rows.numbers)
        chosen = chosen_of(shares_of(self.joint(rows, gaps)), num, rng)
        numbers = self.normals.drawn_from(rows.numbers, gaps, chosen, rng)
        above = np.cumsum(self.shares, axis=-1)
        out = []
        for each, which in zip(numbers, chosen, strict=True):
            uniform = rng.random((*rows.categories.shape, 1))
            values = (uniform > above[which][:, :, :-1]).sum(-1)
            values = np.where(rows.categories < 0, values, rows.categories)
            out.append(dataclasses.replace(rows, numbers=each, categories=values))
        return out

    def joint(self, rows: Columns, gaps: "Gaps", told: "Told | None" = None) -> np.ndarray:
        """log w_k + log p_k(what is there), (num, components)."""
        out = self.normals.joint(rows.numbers, gaps, told)
        log_shares = _log(self.shares)
        for j, codes in enumerate(rows.categories.T):
            each = log_shares[:, j, codes].T
            out += np.where(codes[:, None] < 0, 0.0, each)
        return out

    def stepped(
        self,
        rows: Columns,
        gaps: "Gaps",
        joint: np.ndarray,
        prior: "MixedPrior",
        strength: float,
        told: "Told | None" = None,
    ) -> "MixedMixture":
        """One step of EM, given `joint(rows, gaps)`; every share is drawn towards the prior's
        as by its rows (a Dirichlet prior)."""
        normals = self.normals.stepped(rows.numbers, gaps, joint, prior.covariance, strength, told)
        return MixedMixture(normals, self._counted(rows, shares_of(joint), prior))

    def recounted(self, rows: Columns, prior: "MixedPrior") -> "MixedMixture":
        """The same components with the shares of categories that these rows have in them."""
        if not self.shares.shape[1]:
            return self
        weights = shares_of(self.joint(rows, gaps_of(rows.numbers)))
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


def check(rows: Columns) -> None:
    """Raises ValueError for no rows, infinite numbers, or a column of numbers without any."""
    numbers = rows.numbers
    if numbers.ndim != 2 or not len(numbers) or not rows.width:
        raise ValueError(f"rows: expected (num, n), got shape {numbers.shape}")
    if np.isinf(numbers).any():
        raise ValueError("rows: expected finite numbers or NaN where one is missing, got infinity")
    empty = np.isnan(numbers).all(0)
    if empty.any():
        raise ValueError(f"rows: column {int(np.argmax(empty))} holds no value at all")


def fit_components(
    z: Columns,
    count: int,
    rng: np.random.Generator,
    often: np.ndarray | None = None,
    *,
    rounds: int = 50,
    tolerance: float = 1e-3,
    trust: float = 1.0,
    covariance: np.ndarray | None = None,
    starts: int = 4,
) -> MixedMixture:
    """`count` components by EM, of rows whose numbers have mean 0 and sd 1; it begins at the best
    of `starts` k-means.

    Each covariance is drawn, as by `trust` (n + 2) rows, towards `covariance` (n, n), by default
    that of independent columns of sd 1, shared out (Fraley & Raftery 2007, eq. 8), the shares of
    categories, as by 2 `trust` rows, towards `often` (c, k), by default those of all rows.
    """
    often = z.shares() if often is None else often
    n = z.numbers.shape[1]
    whole = dataclasses.replace(z, numbers=np.where(np.isnan(z.numbers), 0.0, z.numbers))
    shared = np.eye(n) if covariance is None else covariance
    prior = MixedPrior(shared * count ** (-2 / max(n, 1)), often, trust * PRIOR_ROWS)
    labels = (
        np.zeros(len(z), int)
        if count == 1
        else k_means(_features(whole), count, rng, starts=starts)
    )
    start, strength = started(whole, labels, prior), trust * (n + 2)
    return fitted_by_em(z, start, prior=prior, strength=strength, most=rounds, tolerance=tolerance)


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
    found, before, gaps = start, -np.inf, gaps_of(rows.numbers)
    for _ in range(most):
        told = found.normals.conditionals(rows.numbers, gaps)
        joint = found.joint(rows, gaps, told)
        now = float(log_sum(joint).mean())
        if now - before < tolerance:
            break
        before, found = now, found.stepped(rows, gaps, joint, prior, strength, told)
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


def _features(z: Columns) -> np.ndarray:
    """The numbers, and for each column of categories an indicator of each value, of mean 0 and of
    variance 1 in all; (num, _)."""
    parts = [z.numbers]
    for codes, share in zip(z.categories.T, z.shares(), strict=True):
        there = (codes >= 0)[:, None]
        indicator = np.where(there, (codes[:, None] == np.arange(len(share))) - share, 0.0)
        parts.append(indicator / np.sqrt(max(1 - np.sum(share**2), 1e-6)))
    return np.concatenate(parts, axis=1)


def _log(shares: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(shares, 1e-300), where=shares > 0, out=np.full(shares.shape, _NEVER))
