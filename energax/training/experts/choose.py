"""Energies fitted to rows of numbers in closed steps: a mixture of normals, and a product of
experts that rows far from the rest do not bend."""

import dataclasses
import warnings

import numpy as np

from energax.energies import KernelMarginals, Product, Tempered
from energax.energies._base import AbstractEnergy
from energax.energies.choose import k_means
from energax.training.experts._base import NormalMixture, fit_normals, started

_ROWS_A_COLUMN = 4  # and component, that a mixture asks for
_LEAST_SD = 0.05  # of a column among the rows kept, in sds among all
_RIDGE = 0.1  # weight of the spherical part of the single normal's covariance
_FIRST, _ROUNDS = 0.65, 3  # share of the rows kept at first, and how often they are chosen
_BEYOND = 3.0  # distances from the median to the lowest tenth, above which a row is left out
_REFINED = 2  # times, with the last cut
_EM_ROUNDS = 10
_TRUST = (1.0, 0.01)  # in the prior of covariances, of the rows that it counts for
_MOST_ROWS = 20_000  # that the experts are fitted to
_GRID = 200
_LEAST_SPREAD = 0.5  # nats, of an expert's energies, which may be one and the same for most rows


@dataclasses.dataclass(frozen=True)
class Experts:
    """A product of experts fitted to most of the rows.

    - `energy`: on Real((n,)), of z = (x − centre) / scale. `centre`, `scale`: (n,).
    - `kept`: (num,) which rows it was fitted to; `threshold`: the energy where the bulk ends.
    - `mixture`: of normals in the units of the rows, which fills their gaps.
    """

    energy: AbstractEnergy
    centre: np.ndarray
    scale: np.ndarray
    kept: np.ndarray
    threshold: float
    mixture: NormalMixture


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
    rows = _checked(rows)
    centre, scale = _standard(rows, np.zeros(rows.shape[1]))
    z = (rows - centre) / scale
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(z))
    aside, train = z[order[: len(z) // 5]], z[order[len(z) // 5 :]]
    best, count, found = -np.inf, 1, (1, 1.0)

    def fitted(rows: np.ndarray, count: int, trust: float) -> NormalMixture:
        return _normals(rows, count, rng, tolerance=tolerance, rounds=100, trust=trust)

    while len(aside) and count <= max_components and len(train) >= count * 2 * z.shape[1]:
        for trust in _TRUST:
            score = float(fitted(train, count, trust).log_prob(aside).mean())
            if score > best:
                best, found = score, (count, trust)
        if count > 2 * found[0]:
            break
        count *= 2
    return _moved(fitted(z, *found), centre, scale)


def fit_experts(rows: np.ndarray, *, max_components: int = 8, seed: int = 0) -> Experts:
    """A product of three experts, E(x) = Σ_i E_i(x)/s_i, fitted to rows of which some may be odd.

    The experts: the columns by themselves (`KernelMarginals`), one normal of all columns, and a
    mixture of normals; s_i is the sd of E_i over the rows kept, so that each has the same say
    (Hinton 2002, eq. 1, with every expert to a power). They are fitted to the two thirds of the
    rows that have the lowest energies, three times over, then to all rows whose energy is not far
    above the median (concentration steps, Rousseeuw & Van Driessen 1999, theorem 1; reweighting,
    section 4). A dense cluster is a mode of its own, however far from the rest.

    **Arguments:** `rows`: (num, n), NaN where a value is missing: gaps are filled by the mixture's
    conditional mean. `max_components`: of the mixture, at most one for 4 n rows.

    **Raises:** ValueError for rows of another shape, infinite values, or a column without values.
    """
    rows = _checked(rows)
    rng = np.random.default_rng(seed)
    num, n = rows.shape
    count = int(np.clip(num // (_ROWS_A_COLUMN * n), 1, max_components))
    floor = _LEAST_SD * np.nanstd(rows, 0)
    kept = np.ones(num, bool)
    gaps = fit_mixture(rows, max_components=1) if np.isnan(rows).any() else None
    for i in range(_ROUNDS + _REFINED + 1):
        known = np.flatnonzero(kept)
        if len(known) > _MOST_ROWS:
            known = rng.choice(known, _MOST_ROWS, replace=False)
        centre, scale = _standard(rows[known], floor)
        z = (rows - centre) / scale
        if gaps is not None:
            z = _moved(gaps, -centre / scale, 1 / scale).filled(z)
        columns, whole = KernelMarginals.fit(z[known]), _single(z[known])
        parts = _normals(z[known], count, rng, rounds=_EM_ROUNDS)
        gaps = None if gaps is None else _moved(parts, centre, scale)
        each = (_column_energies(columns, z), -whole.log_prob(z), -parts.log_prob(z))
        spread = [max(float(np.std(e[known])), _LEAST_SPREAD) for e in each]
        total = np.sum([e / s for e, s in zip(each, spread, strict=True)], axis=0)
        if i == _ROUNDS + _REFINED:
            break
        kept = total <= (np.quantile(total, _FIRST) if i < _ROUNDS else _cut(total, spread))
    experts = (columns, whole.energy(), parts.energy())
    energy = Product(*(Tempered(e, 1 / s) for e, s in zip(experts, spread, strict=True)))
    mixture = _moved(parts, centre, scale)
    return Experts(energy, centre, scale, kept, _cut(total, spread), mixture)


def _checked(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(f"rows: expected (num, n), got shape {rows.shape}")
    if np.isinf(rows).any():
        raise ValueError("rows: expected finite numbers or NaN where one is missing, got infinity")
    empty = np.isnan(rows).all(0)
    if empty.any():
        raise ValueError(f"rows: column {int(np.argmax(empty))} holds no value at all")
    return rows


def _standard(rows: np.ndarray, floor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(means, sds) of what is there of the columns, the sds not below `floor`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a column of gaps alone
        centre, scale = np.nanmean(rows, 0), np.nanstd(rows, 0)
    scale = np.maximum(np.nan_to_num(scale), floor)
    return np.nan_to_num(centre), np.where(scale > 0, scale, 1.0)


def _cut(energies: np.ndarray, spread: list[float]) -> float:
    """The energy up to which rows are kept."""
    low, middle = np.quantile(energies, [0.1, 0.5])
    return float(middle + _BEYOND * max(middle - low, sum(_LEAST_SPREAD / s for s in spread)))


def _single(z: np.ndarray) -> NormalMixture:
    """One normal, its covariance S drawn towards the sphere: (S + r I) / (1 + r)."""
    covariance = np.cov(z, rowvar=False, bias=True).reshape(z.shape[1], -1)
    covariance = (covariance + _RIDGE * np.eye(len(covariance))) / (1 + _RIDGE)
    return NormalMixture(np.zeros(1), z.mean(0)[None], covariance[None])


def _normals(
    z: np.ndarray,
    count: int,
    rng: np.random.Generator,
    *,
    rounds: int,
    tolerance: float = 1e-3,
    trust: float = 1.0,
) -> NormalMixture:
    """`count` normals by EM from k-means. Each covariance is drawn, as by `trust` (n + 2) rows,
    towards that of independent columns of sd 1, shared out (Fraley & Raftery 2007, eq. 8)."""
    n = z.shape[1]
    whole = np.where(np.isnan(z), 0.0, z)  # columns have mean 0
    prior = np.eye(n) * count ** (-2 / n)
    labels = np.zeros(len(z), int) if count == 1 else k_means(whole, count, rng)
    start = started(whole, labels, prior)
    strength = trust * (n + 2)
    return fit_normals(z, start, prior=prior, strength=strength, most=rounds, tolerance=tolerance)


def _moved(mixture: NormalMixture, centre: np.ndarray, scale: np.ndarray) -> NormalMixture:
    """The distribution of scale · z + centre."""
    covariance = mixture.covariance * np.outer(scale, scale)
    return NormalMixture(mixture.log_weights, mixture.mean * scale + centre, covariance)


def _column_energies(columns: KernelMarginals, z: np.ndarray) -> np.ndarray:
    """E of the columns expert for all rows, (num,), between places at which it was computed."""
    points, width = np.asarray(columns.points, np.float64), np.asarray(columns.width, np.float64)
    total = np.zeros(len(z))
    for x, centres, h in zip(z.T, points.T, width, strict=True):
        places = np.unique(np.concatenate([np.linspace(x.min(), x.max(), _GRID), centres]))
        density = KernelMarginals.density(places, centres, h)
        total -= np.interp(x, places, np.log(density))
    return total
