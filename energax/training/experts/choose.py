"""Energies fitted to rows of numbers and categories in closed steps: a mixture, and a product of
experts that rows far from the rest do not bend."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from energax.energies import KernelDensity, KernelMarginals, Product, RecordReference, Tempered
from energax.energies._base import AbstractEnergy, AbstractNormalised
from energax.energies.choose import square_distances
from energax.training.experts._base import (
    PRIOR_ROWS,
    Columns,
    MixedMixture,
    MixedPrior,
    NormalMixture,
    categorical,
    check,
    fit_components,
    log_sum,
    standard,
)

_ROWS_A_COLUMN = 4  # and component, that a mixture asks for
_LEAST_SD = 0.05  # of a column among the rows kept, in sds among all
_RIDGE = 0.1  # weight of the spherical part of the single normal's covariance
_FIRST, _ROUNDS = 0.65, 3  # share of the rows kept at first, and how often they are chosen
_BEYOND = 3.0  # distances from the median to the lowest tenth, above which a row is left out
_REFINED = 2  # times, with the last cut
_ODD = 1e-3  # of the rows of a normal, that would be called odd
_EM_ROUNDS, _STARTS = 5, 1  # of the mixture, each time
_ROUGHLY = 1e-3  # nats a round, below which EM ends where mixtures are only compared
_TRUST = (1.0, 0.01)  # in the prior of covariances and shares, of the rows that it counts for
_AT_FIRST, _MOST_ROWS = 2_000, 5_000  # rows that are looked at
_MOST_KERNELS = 2_000  # at these
_WIDTHS = (0.05, 2.0)  # of these kernels, in sds of the columns
_GRID = 200
_LEAST_SPREAD = 0.5  # nats, of an expert's energies, which may be one and the same for most rows


@dataclasses.dataclass(frozen=True)
class Experts:
    """A product of experts fitted to most of the rows.

    - `energy`: of rows whose numbers are z = (x − centre) / scale, on their space (`Columns`).
      `centre`, `scale`: (n,).
    - `kept`: (num,) which rows it was fitted to; `threshold`: the energy above which rows are odd.
    - `energies`: (num,) of the rows, NaN where it was not computed; in a fit to clean rows by the
      others.
    - `mixture`: in the units of the rows, which fills their gaps.
    """

    energy: AbstractEnergy
    centre: np.ndarray
    scale: np.ndarray
    kept: np.ndarray
    threshold: float
    energies: np.ndarray
    mixture: MixedMixture


def fit_mixture(
    rows: np.ndarray, *, max_components: int = 16, seed: int = 0, tolerance: float = 1e-4
) -> NormalMixture:
    """A mixture of normals by EM, chosen by the mean log-likelihood of a fifth of the rows, kept
    aside, and then fitted to all of them.

    The number of components doubles as long as that goes up; covariances are drawn towards one of
    independent columns as by n + 2 rows or a hundredth of that, whichever is the better.

    **Arguments:** `rows`: (num, n), NaN where a value is missing.

    **Raises:** ValueError for rows of another shape, infinite values, or a column without values.
    """
    columns = Columns.of_numbers(np.asarray(rows, np.float64))
    options = {"max_components": max_components, "seed": seed, "tolerance": tolerance}
    return fit_mixed_mixture(columns, **options).normals


def fit_mixed_mixture(
    rows: Columns, *, max_components: int = 16, seed: int = 0, tolerance: float = 1e-4
) -> MixedMixture:
    """`fit_mixture` of rows that may have columns of categories, which in a component are
    independent of each other and of the numbers.

    **Raises:** as `fit_mixture`.
    """
    check(rows)
    centre, scale = standard(rows.numbers, np.zeros(rows.numbers.shape[1]))
    z = dataclasses.replace(rows, numbers=(rows.numbers - centre) / scale)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(z))
    aside, train = z[order[: len(z) // 5]], z[order[len(z) // 5 :]]
    best, count, found = -np.inf, 1, (1, 1.0)

    def fitted(rows: Columns, count: int, trust: float) -> MixedMixture:
        close = tolerance if rows is z else max(tolerance, _ROUGHLY)
        options = {"tolerance": close, "rounds": 100, "trust": trust}
        return fit_components(rows, count, rng, z.shares(), **options)

    while len(aside) and count <= max_components and len(train) >= count * 2 * z.width:
        for trust in _TRUST:
            score = float(fitted(train, count, trust).log_prob(aside).mean())
            if score > best:
                best, found = score, (count, trust)
        if count > 2 * found[0]:
            break
        count *= 2
    return fitted(z, *found).moved(centre, scale)


def fit_experts(
    rows: np.ndarray | Columns, *, max_components: int = 8, seed: int = 0, clean: bool = False
) -> Experts:
    """A product of experts, E(x) = Σ_i E_i(x)/s_i, fitted to rows of which some may be odd.

    The experts: the columns by themselves (`KernelMarginals`, and how often categories are), one
    normal of all numbers, and a mixture; s_i is the sd of E_i over the rows kept, so that each has
    the same say (Hinton 2002, eq. 1, with every expert to a power). They are fitted to the two
    thirds of the rows that have the lowest energies, three times over, then to all rows whose
    energy is not far above the median (concentration steps, Rousseeuw & Van Driessen 1999, theorem
    1; reweighting, section 4). The first three times 2,000 rows are looked at, then 5,000 (section
    3.3). Categories are counted in all of these, in each component too: else values that a third of
    the rows have would be left out for good. A dense cluster is a mode of its own, however far from
    the rest.

    Where no row is odd (`clean`) nothing bends experts that can be bent: they are the mixture and a
    `KernelDensity` at up to 2,000 rows, as wide as makes each most likely by the others (Duin
    1976).

    **Arguments:** `rows`: (num, n) of numbers, NaN where one is missing, or `Columns`; what is
    missing is filled by the mixture. `max_components`: of the mixture, at most one for 4 rows a
    column. `clean`: whether no row is odd.

    **Raises:** ValueError for rows of another shape, infinite values, or a column without values.
    """
    if not isinstance(rows, Columns):
        rows = Columns.of_numbers(np.asarray(rows, np.float64))
    check(rows)
    rng = np.random.default_rng(seed)
    num, n = rows.numbers.shape
    count = int(np.clip(num // (_ROWS_A_COLUMN * rows.width), 1, max_components))
    floor = np.zeros(n) if clean else _LEAST_SD * np.nanstd(rows.numbers, 0)
    shares = rows.shares()

    def fitted(own: np.ndarray, kept: np.ndarray, gaps: MixedMixture | None) -> _Fit:
        """Experts for rows `own` of the table, fitted to those of them that are kept."""
        centre, scale = standard(rows.numbers[own[kept]], floor)
        z = _standardised(rows[own], centre, scale, gaps)
        parts = fit_components(z[kept], count, rng, shares, rounds=_EM_ROUNDS, starts=_STARTS)
        parts = parts.recounted(z, MixedPrior(np.eye(n), shares, PRIOR_ROWS))
        experts = [_kernels(z, rng)] if clean and n else [_by_columns(z[kept], shares)]
        if n and not clean:
            experts.append(_single(z[kept]))
        experts.append(_Expert(lambda: parts.energy(z.space), lambda z: -parts.log_prob(z)))
        each = [expert.energies(z) for expert in experts]
        spread = [max(float(np.std(e[kept])), _LEAST_SPREAD) for e in each]
        mixture = parts.moved(centre, scale)
        return _Fit(centre, scale, mixture, experts, spread, _together(each, spread))

    own = _some_of(num, _MOST_ROWS if clean else _AT_FIRST, rng)
    kept = np.ones(len(own), bool)
    fit = fitted(own, kept, fit_mixed_mixture(rows, max_components=1) if rows.missing else None)
    for i in range(0 if clean else _ROUNDS + _REFINED):
        total = fit.total
        if i == _ROUNDS and len(own) < num:
            own = _some_of(num, _MOST_ROWS, rng)
            total = fit.energies(rows[own])
        kept = total <= (np.quantile(total, _FIRST) if i < _ROUNDS else _cut(total, fit.spread))
        fit = fitted(own, kept, fit.mixture if rows.missing else None)
    energies = [expert.energy() for expert in fit.experts]
    powers = [1 / s for s in fit.spread]
    energy = Product(*(Tempered(e, b) for e, b in zip(energies, powers, strict=True)))
    # above they were −log p: a normal's E leaves its log Z out
    total = fit.total - np.dot([float(e.log_z) for e in energies], powers)
    used, found = np.zeros(num, bool), np.full(num, np.nan)
    used[own[kept]], found[own] = True, total
    threshold = _odd_above(total, fit.spread, rows.width)
    return Experts(energy, fit.centre, fit.scale, used, threshold, found, fit.mixture)


@dataclasses.dataclass(frozen=True)
class _Fit:
    """Experts of some rows, `spread` the sds of their energies, and E of the rows, `total` (num,).

    `centre`, `scale`: of the rows; `mixture`: the expert that fills gaps, in their units.
    """

    centre: np.ndarray
    scale: np.ndarray
    mixture: MixedMixture
    experts: list["_Expert"]
    spread: list[float]
    total: np.ndarray

    def energies(self, rows: Columns) -> np.ndarray:
        """E of other rows, (num,)."""
        gaps = self.mixture if rows.missing else None
        z = _standardised(rows, self.centre, self.scale, gaps)
        return _together([expert.energies(z) for expert in self.experts], self.spread)


@dataclasses.dataclass(frozen=True)
class _Expert:
    """`energy`: makes it, of standardised rows; `energies`: −log p of such rows, (num,)."""

    energy: Callable[[], AbstractNormalised]
    energies: Callable[[Columns], np.ndarray]


def _together(each: list[np.ndarray], spread: list[float]) -> np.ndarray:
    """E of the product, (num,)."""
    return np.sum([e / s for e, s in zip(each, spread, strict=True)], axis=0)


def _some_of(num: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers of at most so many rows, in order."""
    return np.arange(num) if num <= most else np.sort(rng.choice(num, most, replace=False))


def _standardised(
    rows: Columns, centre: np.ndarray, scale: np.ndarray, gaps: MixedMixture | None
) -> Columns:
    """(x − centre) / scale, what is missing filled by `gaps`, a mixture in units of the rows."""
    z = dataclasses.replace(rows, numbers=(rows.numbers - centre) / scale)
    return z if gaps is None else gaps.moved(-centre / scale, 1 / scale).filled(z)


def _cut(energies: np.ndarray, spread: list[float], beyond: float = _BEYOND) -> float:
    """The energy so many distances from the lowest tenth to the median above the median."""
    low, middle = np.quantile(energies, [0.1, 0.5])
    return float(middle + beyond * max(middle - low, sum(_LEAST_SPREAD / s for s in spread)))


def _odd_above(energies: np.ndarray, spread: list[float], columns: int) -> float:
    """As far above the median, in distances from there to the lowest tenth, as lies the energy of
    one row in a thousand of a normal of as many columns, ½χ²."""
    from scipy.special import chdtri

    low, middle, high = chdtri(columns, np.array([0.9, 0.5, _ODD]))
    return _cut(energies, spread, beyond=(high - middle) / (middle - low))


def _single(z: Columns) -> _Expert:
    """One normal, its covariance S drawn towards the sphere: (S + r I) / (1 + r)."""
    covariance = np.cov(z.numbers, rowvar=False, bias=True).reshape(z.numbers.shape[1], -1)
    covariance = (covariance + _RIDGE * np.eye(len(covariance))) / (1 + _RIDGE)
    normal = NormalMixture(np.zeros(1), z.numbers.mean(0)[None], covariance[None])
    return _Expert(
        lambda: _of_numbers(normal.energy(), z),
        lambda z: _log_alike(z) - normal.log_prob(z.numbers),
    )


def _kernels(z: Columns, rng: np.random.Generator) -> _Expert:
    """Kernels at rows, of the width that makes each row most likely by the others; energies are
    those of these rows, of one that is the place of a kernel by the others."""
    from scipy.optimize import minimize_scalar

    num, n = z.numbers.shape
    places = _some_of(num, _MOST_KERNELS, rng)
    points = z.numbers[places]
    square = square_distances(z.numbers, points)
    square[places, np.arange(len(places))] = np.inf if num > 1 else 0.0  # one row has no others
    others = np.isfinite(square).sum(1)

    def energies(log_width: float, square: np.ndarray, others: np.ndarray) -> np.ndarray:
        log_kernels = log_sum(-0.5 * square * math.exp(-2 * log_width))
        normal = n * (0.5 * math.log(2 * math.pi) + log_width) + _log_alike(z)
        return normal + np.log(others) - log_kernels

    loss = lambda log_width: energies(log_width, square[places], others[places]).mean()
    best: Any = minimize_scalar(loss, bounds=np.log(_WIDTHS), options={"xatol": 0.05})
    log_width = float(best.x)
    return _Expert(
        lambda: _of_numbers(KernelDensity(points, math.exp(log_width)), z),
        lambda _: energies(log_width, square, others),
    )


def _of_numbers(energy: AbstractNormalised, z: Columns) -> AbstractNormalised:
    """An energy of the numbers alone, on the space of all columns: categories are as likely."""
    if not z.categories.shape[1]:
        return energy
    alike = categorical(z.space, np.ones((len(z.num_values), z.most_values)))
    return RecordReference(z.space, {"numbers": energy, "categories": alike})


def _log_alike(z: Columns) -> float:
    """−log p of the categories of a row where all are as likely."""
    return len(z.num_values) * math.log(z.most_values)


def _by_columns(z: Columns, shares: np.ndarray) -> _Expert:
    """The columns by themselves; E of numbers between places at which it was computed."""
    parts: dict[str, Callable[[], AbstractNormalised]] = {}
    if z.numbers.shape[1]:
        points, width = KernelMarginals.quantiles(z.numbers)
        parts["numbers"] = lambda: KernelMarginals(points, width)

    def energies(z: Columns) -> np.ndarray:
        total = np.zeros(len(z))
        if z.numbers.shape[1]:
            for x, centres, h in zip(z.numbers.T, points.T, width, strict=True):
                places = np.unique(np.concatenate([np.linspace(x.min(), x.max(), _GRID), centres]))
                density = KernelMarginals.density(places, centres, h)
                total -= np.interp(x, places, np.log(density))
        if z.categories.shape[1]:
            each = np.log(np.maximum(shares, 1e-300))
            total -= np.take_along_axis(each, z.categories.T, 1).sum(0)
        return total

    if not z.categories.shape[1]:
        return _Expert(parts["numbers"], energies)
    parts["categories"] = lambda: categorical(z.space, shares)
    each = lambda: {name: energy() for name, energy in parts.items()}
    return _Expert(lambda: RecordReference(z.space, each()), energies)
