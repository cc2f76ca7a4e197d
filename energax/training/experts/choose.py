"""Energies fitted to rows of numbers and categories in closed steps: a mixture, and a product of
experts that rows far from the rest do not bend."""

import dataclasses

import numpy as np

from energax.energies import KernelMarginals, Product, RecordReference, Tempered
from energax.energies._base import AbstractEnergy, AbstractNormalised
from energax.training.experts._base import (
    PRIOR_ROWS,
    Columns,
    MixedMixture,
    MixedPrior,
    NormalMixture,
    categorical,
    check,
    fit_components,
    standard,
)

_ROWS_A_COLUMN = 4  # and component, that a mixture asks for
_LEAST_SD = 0.05  # of a column among the rows kept, in sds among all
_RIDGE = 0.1  # weight of the spherical part of the single normal's covariance
_FIRST, _ROUNDS = 0.65, 3  # share of the rows kept at first, and how often they are chosen
_BEYOND = 3.0  # distances from the median to the lowest tenth, above which a row is left out
_REFINED = 2  # times, with the last cut
_EM_ROUNDS = 10
_ROUGHLY = 1e-3  # nats a round, below which EM ends where mixtures are only compared
_TRUST = (1.0, 0.01)  # in the prior of covariances and shares, of the rows that it counts for
_MOST_ROWS = 20_000  # that the experts are fitted to
_GRID = 200
_LEAST_SPREAD = 0.5  # nats, of an expert's energies, which may be one and the same for most rows


@dataclasses.dataclass(frozen=True)
class Experts:
    """A product of experts fitted to most of the rows.

    - `energy`: of rows whose numbers are z = (x − centre) / scale, on their space (`Columns`).
      `centre`, `scale`: (n,).
    - `kept`: (num,) which rows it was fitted to; `threshold`: the energy where the bulk ends.
    - `mixture`: in the units of the rows, which fills their gaps.
    """

    energy: AbstractEnergy
    centre: np.ndarray
    scale: np.ndarray
    kept: np.ndarray
    threshold: float
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


def fit_experts(rows: np.ndarray | Columns, *, max_components: int = 8, seed: int = 0) -> Experts:
    """A product of three experts, E(x) = Σ_i E_i(x)/s_i, fitted to rows of which some may be odd.

    The experts: the columns by themselves (`KernelMarginals`, and how often categories are), one
    normal of all numbers, and a mixture; s_i is the sd of E_i over the rows kept, so that each has
    the same say (Hinton 2002, eq. 1, with every expert to a power). They are fitted to the two
    thirds of the rows that have the lowest energies, three times over, then to all rows whose
    energy is not far above the median (concentration steps, Rousseeuw & Van Driessen 1999, theorem
    1; reweighting, section 4). Categories are counted in all rows, in each component too: else
    values that a third of the rows have would be left out for good. A dense cluster is a mode of
    its own, however far from the rest.

    **Arguments:** `rows`: (num, n) of numbers, NaN where one is missing, or `Columns`; what is
    missing is filled by the mixture. `max_components`: of the mixture, at most one for 4 rows a
    column.

    **Raises:** ValueError for rows of another shape, infinite values, or a column without values.
    """
    if not isinstance(rows, Columns):
        rows = Columns.of_numbers(np.asarray(rows, np.float64))
    check(rows)
    rng = np.random.default_rng(seed)
    num, n = rows.numbers.shape
    count = int(np.clip(num // (_ROWS_A_COLUMN * rows.width), 1, max_components))
    floor = _LEAST_SD * np.nanstd(rows.numbers, 0)
    kept, shares = np.ones(num, bool), rows.shares()
    gaps = fit_mixed_mixture(rows, max_components=1) if rows.missing else None
    for i in range(_ROUNDS + _REFINED + 1):
        known = np.flatnonzero(kept)
        if len(known) > _MOST_ROWS:
            known = rng.choice(known, _MOST_ROWS, replace=False)
        centre, scale = standard(rows.numbers[known], floor)
        z = dataclasses.replace(rows, numbers=(rows.numbers - centre) / scale)
        if gaps is not None:
            z = gaps.moved(-centre / scale, 1 / scale).filled(z)
        parts = fit_components(z[known], count, rng, shares, rounds=_EM_ROUNDS)
        parts = parts.recounted(z, MixedPrior(np.eye(n), shares, PRIOR_ROWS))
        gaps = None if gaps is None else parts.moved(centre, scale)
        experts = [(parts.energy(z.space), -parts.log_prob(z))]
        if n:
            whole = _single(z.numbers[known])
            experts.insert(0, (_of_numbers(whole.energy(), z), -whole.log_prob(z.numbers)))
        experts.insert(0, _by_columns(z, known, shares))
        each = [energies for _, energies in experts]
        spread = [max(float(np.std(e[known])), _LEAST_SPREAD) for e in each]
        total = np.sum([e / s for e, s in zip(each, spread, strict=True)], axis=0)
        if i == _ROUNDS + _REFINED:
            break
        kept = total <= (np.quantile(total, _FIRST) if i < _ROUNDS else _cut(total, spread))
    energy = Product(*(Tempered(e, 1 / s) for (e, _), s in zip(experts, spread, strict=True)))
    mixture = parts.moved(centre, scale)
    return Experts(energy, centre, scale, kept, _cut(total, spread), mixture)


def _cut(energies: np.ndarray, spread: list[float]) -> float:
    """The energy up to which rows are kept."""
    low, middle = np.quantile(energies, [0.1, 0.5])
    return float(middle + _BEYOND * max(middle - low, sum(_LEAST_SPREAD / s for s in spread)))


def _single(z: np.ndarray) -> NormalMixture:
    """One normal, its covariance S drawn towards the sphere: (S + r I) / (1 + r)."""
    covariance = np.cov(z, rowvar=False, bias=True).reshape(z.shape[1], -1)
    covariance = (covariance + _RIDGE * np.eye(len(covariance))) / (1 + _RIDGE)
    return NormalMixture(np.zeros(1), z.mean(0)[None], covariance[None])


def _of_numbers(energy: AbstractNormalised, z: Columns) -> AbstractNormalised:
    """An energy of the numbers alone, on the space of all columns: categories are as likely."""
    if not z.categories.shape[1]:
        return energy
    alike = categorical(z.space, np.ones((len(z.num_values), z.most_values)))
    return RecordReference(z.space, {"numbers": energy, "categories": alike})


def _by_columns(
    z: Columns, known: np.ndarray, shares: np.ndarray
) -> tuple[AbstractNormalised, np.ndarray]:
    """The expert of the columns by themselves, and E of all rows, (num,); of numbers between places
    at which it was computed."""
    total, parts = np.zeros(len(z)), {}
    if z.numbers.shape[1]:
        parts["numbers"] = columns = KernelMarginals.fit(z.numbers[known])
        points, width = np.asarray(columns.points, np.float64), np.asarray(columns.width)
        for x, centres, h in zip(z.numbers.T, points.T, width.astype(np.float64), strict=True):
            places = np.unique(np.concatenate([np.linspace(x.min(), x.max(), _GRID), centres]))
            density = KernelMarginals.density(places, centres, h)
            total -= np.interp(x, places, np.log(density))
    if not z.categories.shape[1]:
        return parts["numbers"], total
    parts["categories"] = categorical(z.space, shares)
    total -= np.take_along_axis(np.log(np.maximum(shares, 1e-300)), z.categories.T, 1).sum(0)
    return RecordReference(z.space, parts), total
