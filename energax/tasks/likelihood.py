"""How likely is each row, and which model makes the rows likeliest? log p(x) = f(x) − log Z."""

from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np

from energax.energies._base import AbstractDeepEnergy, AbstractEnergy, AbstractOfLengths
from energax.partition._base import Clock, answer
from energax.partition.choose import log_z as estimate_log_z
from energax.partition.choose import log_z_by_length
from energax.random import as_key
from energax.results import Comparison, LogZ, Scores, Verdict, half_width, mean_of_rows
from energax.spaces import AbstractSpace, Point, Record
from energax.tasks._base import in_blocks, is_single, log_density_rows

_AT_ONCE = 4096  # rows


def score_samples(
    energy: AbstractEnergy,
    X: Point,
    *,
    key,
    log_z: LogZ | Mapping[int, LogZ] | None = None,
    **options,
) -> Scores:
    """log p(x) = f(x) − log Z for every row of `X`.

    Where each length of rows is a distribution of its own (`ReplicatedSoftmax`) it is log p(x |
    length) = f(x) − log Z(length), and `Scores.log_z` the mean over the rows of log Z(length).

    **Arguments:** `X`: (rows, *event), or one point. `log_z`: an answer of `energax.log_z` to use
    again; by default it is estimated with `options` passed on (`precision=`, `max_seconds=`, ...).
    For lengths one of `partition.log_z_by_length`.

    **Returns:** `Scores`: `log_prob` (rows,), `std_err` (rows,) the standard error of each row,
    `log_z_std_err` the error that all rows share. −inf for a row of density 0.

    **Raises:** ValueError for rows outside the space, or lengths that are missing from `log_z`;
    TypeError for options beside `log_z=`, or another kind of `log_z`.
    """
    values, _ = log_density_rows(energy, X, "X")
    _check_options(log_z, options)
    if isinstance(energy, AbstractOfLengths):
        if log_z is not None and not isinstance(log_z, Mapping):
            raise TypeError(
                "log_z: each length has its own; expected an answer of partition.log_z_by_length"
            )
        return _scores_by_length(values, energy, X, key, log_z, options)
    if isinstance(log_z, Mapping):
        raise TypeError("log_z: expected an answer of energax.log_z, got those of many lengths")
    return _scores(values, energy, energy.space, key, log_z, options)


def variational_bound(
    energy: AbstractDeepEnergy,
    V: Point,
    *,
    key,
    log_z: LogZ | None = None,
    num_updates: int = 100,
    **options,
) -> Scores:
    """A lower bound on log p(v) of every row, for energies with hidden layers in their points.

    log p(v) ≥ E_q[f(v, hidden)] + H(q) − log Z with q the mean field of the row (Salakhutdinov &
    Hinton 2009, eq. 12 and section 3.3).

    **Arguments:** `V`: (rows, visible), or one row. `num_updates`: of the mean field. `log_z`: an
    answer of `energax.log_z` to use again; else it is estimated with `options`.

    **Returns:** `Scores` whose `log_prob` are the bounds; errors are those of log Z.

    **Raises:** TypeError for another energy; ValueError for rows outside `energy.data_space`.
    """
    if not isinstance(energy, AbstractDeepEnergy):
        raise TypeError(
            "variational_bound is for energies with hidden layers in their points, such as "
            f"DeepBoltzmannMachine, got {type(energy).__name__}: score_samples gives log p itself"
        )
    rows = energy.data_space.validate(V, name="V")
    rows = rows[None] if is_single(energy.data_space, rows) else rows
    _check_options(log_z, options)
    bounds = in_blocks(lambda x: _bounds(energy, x, num_updates), rows, _AT_ONCE)
    values = np.concatenate(bounds).astype(np.float64)
    return _scores(values, energy, energy.data_space, key, log_z, options)


def _scores(
    values: np.ndarray,
    energy: AbstractEnergy,
    space: AbstractSpace,
    key: Any,
    log_z: LogZ | None,
    options: dict[str, Any],
) -> Scores:
    """`values` (rows,) less log Z of the energy, given or estimated; rows live on `space`."""
    z = estimate_log_z(energy, key=key, **options) if log_z is None else log_z
    with np.errstate(invalid="ignore"):
        log_prob = values - z.value
    return Scores(
        log_prob=log_prob,
        std_err=np.full(len(values), z.std_err),
        log_z_std_err=z.std_err,
        log_z=z,
        reliable=z.reliable,
        reasons=z.reasons,
        num_sites=space.num_sites,
        measure=_measure(space),
    )


def _check_options(log_z: Any, options: dict[str, Any]) -> None:
    if log_z is not None and options:
        raise TypeError(f"log_z= is given, so {sorted(options)} would have no effect")


def _scores_by_length(
    values: np.ndarray,
    energy: AbstractOfLengths,
    X: Point,
    key: Any,
    log_z: Mapping[int, LogZ] | None,
    options: dict[str, Any],
) -> Scores:
    """`values` (rows,) less log Z of each row's length."""
    rows = energy.space.validate(X, name="X")
    lengths = np.atleast_1d(np.asarray(energy.lengths(rows)))
    distinct, place, often = np.unique(lengths, return_inverse=True, return_counts=True)
    found = log_z
    if found is None:
        found = log_z_by_length(energy, distinct.tolist(), key=key, **options)
    missing = [int(n) for n in distinct if int(n) not in found]
    if missing:
        raise ValueError(f"log_z: there is none of length {missing[0]}, which is in X")
    each = {int(n): found[int(n)] for n in distinct}
    value, std_err = (
        np.array([getattr(z, name) for z in each.values()]) for name in ("value", "std_err")
    )
    share = often / len(lengths)
    mean = answer(
        float(share @ value),
        float(np.sqrt(np.sum((share * std_err) ** 2))),
        Clock(),
        method="by length: " + ", ".join(sorted({z.method for z in each.values()})),
        reasons=[f"length {n}: {reason}" for n, z in each.items() for reason in z.reasons],
        ess=min(z.ess for z in each.values()),
        time_limited=any(z.time_limited for z in each.values()),
        details={f"length {n}": z.value for n, z in each.items()},
    )
    return Scores(
        log_prob=values - value[place],
        std_err=std_err[place],
        log_z_std_err=mean.std_err,
        log_z=mean,
        reliable=mean.reliable,
        reasons=mean.reasons,
        num_sites=energy.space.num_sites,
        measure=_measure(energy.space),
    )


@eqx.filter_jit
def _bounds(energy: AbstractDeepEnergy, rows, num_updates: int):
    return energy.bound(energy.mean_field(rows, num_updates))


def compare(
    models: Mapping[str, Any] | Sequence[Any],
    data: Point,
    *,
    key,
    baseline: str | None = None,
    log_z: Mapping[str, LogZ] | None = None,
    **options,
) -> Comparison:
    """Which model gives the rows the highest likelihood, by differences with 95 % intervals.

    With d_r = log p_i(x_r) − log p_j(x_r), the difference of models i and j is the mean of d over
    rows. Its error is √(s²/n + σ_i² + σ_j²), s the sd of d over the n rows: rows are paired, so
    that what makes a row hard for both models cancels (Vehtari, Gelman & Gabry 2017,
    arXiv:1507.04544, eq. 24). σ are the errors of the two log Z; of equal energies, or where both
    were given one and the same answer of `log_z`, they are one error and cancel, so a model
    compared with itself differs by exactly 0 ± 0.

    The rows should be ones that no model was trained on or chosen by.

    **Arguments:**

    - `models`: {name: model} or a list of models: energies, or fits. In a list they are named by
      their classes.
    - `data`: (rows, *event), at least two.
    - `baseline`: the model that the printed table compares with; None takes the best.
    - `log_z`: {name: LogZ}, answers to use again; what is missing is estimated with `options`
      passed to `energax.log_z` (`precision=`, `method=`, `max_seconds=`).

    **Returns:** `Comparison`. `candidates` are the models that may be the best, allowing for how
    many are compared (Bonferroni over all pairs).

    **Raises:** ValueError for no models, an unknown name, rows that do not suit a model, or models
    of which some give densities and others probabilities: these have no common measure.
    """
    key = as_key(key)
    energies = _named(models)
    names = tuple(energies)
    for what, given in (("baseline", [baseline] if baseline else []), ("log_z", log_z or {})):
        unknown = sorted(set(given) - set(names))
        if unknown:
            raise ValueError(f"{what}: no model is called {unknown[0]!r}; there are {list(names)}")
    measures = {name: _measure(energy.space) for name, energy in energies.items()}
    if len(set(measures.values())) > 1:
        raise ValueError(
            "a density and a probability have no common measure, so these models cannot be "
            "compared: " + ", ".join(f"{n} is relative to {m} measure" for n, m in measures.items())
        )
    f = {n: log_density_rows(e, data, f"data (for {n})")[0] for n, e in energies.items()}
    found: dict[str, LogZ] = {}
    for i, (name, energy) in enumerate(energies.items()):
        twin = next((n for n in found if _same(energies[n], energy)), None)
        if log_z is not None and name in log_z:
            found[name] = log_z[name]
        elif twin is not None:
            found[name] = found[twin]
        else:
            found[name] = estimate_log_z(energy, key=jax.random.fold_in(key, i), **options)
    log_prob = np.stack([f[name] - found[name].value for name in names])
    scores = [_mean(log_prob[i], found[name]) for i, name in enumerate(names)]
    order = sorted(range(len(names)), key=lambda i: -np.nan_to_num(scores[i][0], nan=-np.inf))
    count = len(names)
    difference, std_err, half, wide = (np.zeros((count, count)) for _ in range(4))
    num_pairs = max(1, count * (count - 1) // 2)
    reasons = [f"{name}: {reason}" for name in names for reason in found[name].reasons]
    for i in range(count):
        for j in range(i):
            a, b = found[names[i]], found[names[j]]
            pair = _pair(log_prob[i], log_prob[j], a, b, num_pairs)
            difference[i, j], std_err[i, j], half[i, j], wide[i, j] = pair[:4]
            reasons += [f"{names[i]} and {names[j]}: {reason}" for reason in pair[4]]
    lower_half = np.tril(np.ones((count, count), bool), -1)
    difference = np.where(lower_half, difference, -difference.T) + 0.0  # no −0
    std_err, half, wide = (np.where(lower_half, a, a.T) for a in (std_err, half, wide))
    with np.errstate(invalid="ignore"):
        beaten = np.any(difference + wide < 0, axis=1)
    verdict = Verdict(tuple(dict.fromkeys(reasons)))
    verdict.warn("the comparison")
    return Comparison(
        names=names,
        num_rows=log_prob.shape[1],
        mean_log_prob=np.array([mean for mean, _ in scores], np.float64),
        mean_std_err=np.array([error for _, error in scores], np.float64),
        difference=difference,
        std_err=std_err,
        lower=difference - half,
        upper=difference + half,
        ranking=tuple(names[i] for i in order),
        candidates=tuple(names[i] for i in order if not beaten[i]),
        baseline=names[order[0]] if baseline is None else baseline,
        log_z=found,
        reliable=verdict.reliable,
        reasons=verdict.reasons,
    )


def _measure(space: AbstractSpace) -> str:
    """What log p is relative to: "counting", "lebesgue", or on a mix of both "mixed"."""
    parts = space.parts.values() if isinstance(space, Record) else [space]
    kinds = {"lebesgue" if part.is_continuous else "counting" for part in parts}
    return kinds.pop() if len(kinds) == 1 else "mixed"


def _named(models: Mapping[str, Any] | Sequence[Any]) -> dict[str, AbstractEnergy]:
    """The models' energies by name."""
    if isinstance(models, Mapping):
        given = {str(name): model for name, model in models.items()}
    else:
        given = {}
        for model in models:
            name = base = type(getattr(model, "energy", model)).__name__
            number = 1
            while name in given:
                number += 1
                name = f"{base} {number}"
            given[name] = model
    if not given:
        raise ValueError("models: expected at least one energy or fit, got none")
    out = {}
    for name, model in given.items():
        energy = model if isinstance(model, AbstractEnergy) else getattr(model, "energy", None)
        if not isinstance(energy, AbstractEnergy):
            raise TypeError(
                f"models: {name} is a {type(model).__name__}; expected an energy or a fit. Wrap a "
                "function f(x) by energax.from_log_density(f, space)"
            )
        out[name] = energy
    return out


def _same(a: AbstractEnergy, b: AbstractEnergy) -> bool:
    return a is b or bool(eqx.tree_equal(a, b))


def _mean(log_prob: np.ndarray, z: LogZ) -> tuple[float, float]:
    """(mean log p, its standard error)."""
    value, sampling = mean_of_rows(log_prob)
    return value, 0.0 if value == -np.inf else float(np.hypot(sampling, z.std_err))


def _pair(
    log_prob: np.ndarray, other: np.ndarray, a: LogZ, b: LogZ, num_pairs: int
) -> tuple[float, float, float, float, list[str]]:
    """(difference, standard error, half of its interval, half of one for all pairs, reasons)."""
    with np.errstate(invalid="ignore"):
        d = log_prob - other
        undefined = int(np.isnan(d).sum())
    if undefined:
        both = f"{undefined} row(s) have density 0 under both: their difference is undefined"
        return np.nan, np.inf, np.inf, np.inf, [both]
    if np.isinf(d).any():
        if not (d == np.inf).any() or not (d == -np.inf).any():
            return float(d[np.isinf(d)][0]), 0.0, 0.0, 0.0, []
        return (
            np.nan,
            np.inf,
            np.inf,
            np.inf,
            ["each gives density 0 to rows that the other allows"],
        )
    value, sampling = mean_of_rows(d)
    reasons = []
    if len(d) < 2:
        reasons.append("one row has no spread: the error over rows is not known")
    squares = (d - d.mean()) ** 2
    if len(d) > 4 and squares.max() > 0.5 * squares.sum() > 0:
        reasons.append(
            f"row {int(squares.argmax())} makes up most of the spread of the differences: their "
            "mean may not settle"
        )
    shared = a is b
    errors = 0.0 if shared else float(np.hypot(a.std_err, b.std_err))
    # Where an interval of log Z is wider than its standard error says, so is this one.
    widths = [max(z.upper - z.value, z.value - z.lower) / 1.959964 for z in (a, b)]
    other_error = 0.0 if shared else max(errors, float(np.hypot(widths[0], widths[1])))
    half, wide = (
        half_width(sampling, len(d), other_error, level) for level in (0.95, 1 - 0.05 / num_pairs)
    )
    return float(value), float(np.hypot(sampling, errors)), half, wide, reasons
