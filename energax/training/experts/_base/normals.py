"""Mixtures of normals, for rows of numbers with gaps."""

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from energax.energies import Gaussian, Mixture
from energax.energies._base import AbstractNormalised
from energax.spaces import Real

_LOG_2PI = math.log(2 * math.pi)
_LARGEST = 1e140
_LEAST = 1e-8  # share of a component that lost its rows
_MOST_NUMBERS = 4_000_000  # of the covariances of a group's gaps, 32 MB


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
        return log_sum(self.joint(rows, gaps_of(rows)))

    def moved(self, centre: np.ndarray, scale: np.ndarray) -> "NormalMixture":
        """The distribution of scale · x + centre."""
        covariance = self.covariance * np.outer(scale, scale)
        return NormalMixture(self.log_weights, self.mean * scale + centre, covariance)

    def entropy_left(self, rows: np.ndarray, gaps: "Gaps") -> np.ndarray:
        """Entropy of what is not there of each row, given what is there and each component, (num,
        components); 0 of rows without gaps."""
        left = np.zeros((len(rows), len(self.mean)))
        for k in range(len(self.mean)):
            for group, given in self._conditionals(k, rows, gaps):
                entropy = group.num_gone * (1 + _LOG_2PI) - given.log_det[group.which]
                left[group.own, k] = 0.5 * entropy
        return left

    def responsibilities(self, rows: np.ndarray) -> np.ndarray:
        """p(component | what is there) of each row, (num, components)."""
        return shares_of(self.joint(rows, gaps_of(rows)))

    def filled(self, rows: np.ndarray) -> np.ndarray:
        """Rows with NaN replaced by E[x | what is there]."""
        if not np.isnan(rows).any():
            return rows
        gaps = gaps_of(rows)
        return self.filled_by(rows, gaps, shares_of(self.joint(rows, gaps)))

    def filled_by(self, rows: np.ndarray, gaps: "Gaps", shares: np.ndarray) -> np.ndarray:
        """`filled`, given p(component | what is there), (num, components)."""
        out = np.zeros_like(rows)
        for k in range(len(self.mean)):
            for group, given in self._conditionals(k, rows, gaps):
                out[group.own] += shares[group.own, k, None] * given.expected
        return np.where(np.isnan(rows), out, rows)

    def drawn(self, rows: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
        """`num` times the rows with NaN replaced by draws from p(missing | what is there),
        (num, rows, n), exact: a component by its share, then its normal given what is there."""
        gaps = gaps_of(rows)
        shares = shares_of(self.joint(rows, gaps))
        return self.drawn_from(rows, gaps, chosen_of(shares, num, rng), rng)

    def drawn_from(
        self, rows: np.ndarray, gaps: "Gaps", chosen: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """`drawn`, given the component of each row of each table, (num, rows)."""
        out = np.repeat(rows[None], len(chosen), axis=0)
        for k in range(len(self.mean)):
            for group, given in self._conditionals(k, rows, gaps):
                at, row = np.nonzero(chosen[:, group.own] == k)
                if not group.num_gone or not len(at):
                    continue
                away, factor = group.away[group.which[row]], given.factor
                noise = rng.normal(size=away.shape)
                spread = np.einsum("rij,rj->ri", factor[group.which[row]], noise)
                expected = np.take_along_axis(given.expected[row], away, 1)
                out[at[:, None], group.own[row][:, None], away] = expected + spread
        return out

    def improved(self, rows: np.ndarray, prior: np.ndarray, strength: float) -> "NormalMixture":
        """One step of EM (Bishop 2006, eq. 9.24 to 9.26; with gaps Ghahramani & Jordan 1994,
        section 3), every covariance drawn towards `prior` as by `strength` rows."""
        gaps = gaps_of(rows)
        return self.stepped(rows, gaps, self.joint(rows, gaps), prior, strength)

    def stepped(
        self,
        rows: np.ndarray,
        gaps: "Gaps",
        joint: np.ndarray,
        prior: np.ndarray,
        strength: float,
        told: "Told | None" = None,
    ) -> "NormalMixture":
        """`improved`, given `joint(rows, gaps)`, and `conditionals` where they are at hand."""
        told = self._told(rows, gaps) if told is None else told
        shares = shares_of(joint)
        total = shares.sum(0) + _LEAST * len(rows)
        mean, covariance = np.empty_like(self.mean), np.empty_like(self.covariance)
        for k in range(len(self.mean)):
            values, weight, left = np.empty_like(rows), shares[:, k], np.zeros_like(covariance[k])
            for group, given in told(k):
                values[group.own] = given.expected
                often = np.bincount(group.which, weight[group.own], len(group.away))
                place = (group.away[:, :, None], group.away[:, None, :])
                np.add.at(left, place, often[:, None, None] * given.left)
            mean[k] = (weight @ values + _LEAST * len(rows) * self.mean[k]) / total[k]
            centred = (values - mean[k]) * np.sqrt(weight)[:, None]
            scatter = centred.T @ centred + left
            covariance[k] = (scatter + strength * prior) / (total[k] + strength)
        return NormalMixture(np.log(total / total.sum()), mean, covariance)

    def conditionals(self, rows: np.ndarray, gaps: "Gaps") -> "Told":
        """What each component says of the gaps, component by component; kept if that is little."""
        numbers = rows.size + sum(len(group.away) * group.num_gone**2 for group in gaps)
        if len(self.mean) * numbers > _MOST_NUMBERS:
            return self._told(rows, gaps)
        return [list(self._conditionals(k, rows, gaps)) for k in range(len(self.mean))].__getitem__

    def _told(self, rows: np.ndarray, gaps: "Gaps") -> "Told":
        return lambda k: self._conditionals(k, rows, gaps)

    def joint(self, rows: np.ndarray, gaps: "Gaps", told: "Told | None" = None) -> np.ndarray:
        """log w_k + log p_k(what is there), (num, components)."""
        rows = np.clip(rows, -_LARGEST, _LARGEST)  # their squares are numbers still
        told = self._told(rows, gaps) if told is None else told
        out = np.empty((len(rows), len(self.mean)))
        inverse, n = _inverse_factor(self.covariance), self.mean.shape[1]
        log_det = -2 * np.log(np.diagonal(inverse, axis1=1, axis2=2)).sum(1)
        for k, mean in enumerate(self.mean):
            for group, given in told(k):
                # Of all values of what is missing the expected ones make the distance smallest:
                # it is that of what is there.
                white = (given.expected - mean) @ inverse[k].T
                square = np.einsum("ri,ri->r", white, white)
                there = (n - group.num_gone) * _LOG_2PI
                log_dets = there + log_det[k] + given.log_det[group.which]
                out[group.own, k] = -0.5 * (square + log_dets)
        return out + self.log_weights

    def _conditionals(
        self, k: int, rows: np.ndarray, gaps: "Gaps"
    ) -> "Iterator[tuple[Group, Conditional]]":
        """Each group of rows with what component k says of its gaps."""
        mean, inverse = self.mean[k], _inverse_factor(self.covariance[k])
        precision = inverse.T @ inverse
        for group in gaps:
            away, expected = group.away, rows[group.own]
            if not group.num_gone:
                none = np.zeros((len(away), 0, 0))
                yield group, Conditional(expected, none, none)
                continue
            block = precision[away[:, :, None], away[:, None, :]]
            left = np.linalg.inv(block)
            own = away[group.which]
            np.put_along_axis(expected, own, mean[own], 1)
            slope = np.take_along_axis((expected - mean) @ precision, own, 1)
            shift = np.einsum("rij,rj->ri", left[group.which], slope)
            np.put_along_axis(expected, own, mean[own] - shift, 1)
            yield group, Conditional(expected, left, block)


@dataclasses.dataclass(frozen=True)
class Group:
    """Rows with as many gaps each.

    `own` (rows,): which these are; `away` (kinds, gaps): the columns that are missing together;
    `which` (rows,): the kind of each row.
    """

    own: np.ndarray
    away: np.ndarray
    which: np.ndarray

    @property
    def num_gone(self) -> int:
        """Gaps of a row."""
        return self.away.shape[1]


@dataclasses.dataclass(frozen=True)
class Conditional:
    """What one normal says of the gaps of a group, given what is there; P is its precision.

    `expected` (rows, n): the rows with E[x_m | x_o] in the gaps; `left` (kinds, gaps, gaps):
    Cov[x_m | x_o] = P_mm⁻¹; `block` (kinds, gaps, gaps): P_mm.
    """

    expected: np.ndarray
    left: np.ndarray
    block: np.ndarray

    @property
    def log_det(self) -> np.ndarray:
        """log det C_oo − log det C = log det P_mm, (kinds,)."""
        return np.linalg.slogdet(self.block)[1]

    @property
    def factor(self) -> np.ndarray:
        """A with A Aᵀ = Cov[x_m | x_o], (kinds, gaps, gaps)."""
        return np.swapaxes(np.linalg.inv(np.linalg.cholesky(self.block)), 1, 2)


Gaps = list[Group]
Told = Callable[[int], Iterable[tuple[Group, Conditional]]]


def _inverse_factor(covariance: np.ndarray) -> np.ndarray:
    """L⁻¹ of covariances LLᵀ, (..., n, n)."""
    sd = np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))
    correlation = covariance / (sd[..., :, None] * sd[..., None, :])
    return np.linalg.inv(np.linalg.cholesky(correlation)) / sd[..., None, :]


def chosen_of(shares: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
    """`num` times a component for each row, (num, rows), by its shares (rows, components)."""
    above = np.cumsum(shares, axis=1)
    return (rng.random((num, len(shares), 1)) > above[:, :-1]).sum(-1)


def gaps_of(rows: np.ndarray) -> Gaps:
    """The rows in groups, none of them of more than some memory."""
    gone = np.isnan(rows)
    if not gone.any():
        return [Group(np.arange(len(rows)), np.zeros((1, 0), int), np.zeros(len(rows), int))]
    kinds, which = np.unique(gone, axis=0, return_inverse=True)
    order = np.argsort(which.reshape(-1), kind="stable")  # rows of a kind beside one another
    num_gone = kinds.sum(1)
    groups = []
    for num in np.unique(num_gone):
        rows_of = order[num_gone[which.reshape(-1)[order]] == num]
        for part in np.array_split(rows_of, 1 + len(rows_of) * num**2 // _MOST_NUMBERS):
            own_kinds, own_which = np.unique(which.reshape(-1)[part], return_inverse=True)
            away = np.nonzero(kinds[own_kinds])[1].reshape(len(own_kinds), num)
            groups.append(Group(part, away, own_which))
    return groups


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
