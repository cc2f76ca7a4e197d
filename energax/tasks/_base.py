"""What the tasks share: f of rows, and one posterior a row sampled side by side."""

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from energax.diagnostics import rhat_limit, summarise
from energax.energies._base import AbstractEnergy, batched, check_scalar
from energax.results import Verdict
from energax.samplers._base import AbstractSampler, run_fixed
from energax.samplers.choose import default_sampler
from energax.spaces import (
    AbstractSpace,
    Binary,
    Categorical,
    Count,
    Ordinal,
    Point,
    Record,
    Spin,
    num_rows,
)


def log_density_rows(energy: AbstractEnergy, x: Point, name: str = "x") -> tuple[np.ndarray, bool]:
    """(f of each row in float64, whether `x` was one point); `x` is one point or a batch.

    **Raises:** ValueError for points outside the space, and where f is NaN or +∞.
    """
    check_scalar(energy)
    points = energy.space.validate(x, name=name)
    single = is_single(energy.space, points)
    if single:
        points = jax.tree.map(lambda a: a[None], points)
    values = np.asarray(_log_density(energy, jax.tree.map(jnp.asarray, points)), np.float64)
    bad = np.isnan(values) | (values == np.inf)
    if bad.any():
        raise ValueError(
            f"{name}: the energy gives f = {values[bad][0]} at row {int(np.argmax(bad))}; "
            "a log-density is a finite number or -inf: mend the energy there"
        )
    return values, single


def is_single(space: AbstractSpace, points: Point) -> bool:
    """True if validated `points` are one point rather than a batch."""
    leaf, shape = points, space.shape
    if isinstance(shape, dict):
        name = next(iter(shape))
        leaf, shape = points[name], shape[name]
    return leaf.ndim == len(shape)


def in_blocks(function: Callable[[Point], Any], points: Point, most: int) -> list[Any]:
    """What `function` gives for blocks of at most `most` rows of `points`, in NumPy."""

    def block(start: int) -> Point:
        return jax.tree.map(lambda a: jnp.asarray(a[start : start + most]), points)

    starts = range(0, max(1, num_rows(points)), most)
    return [jax.tree.map(np.asarray, function(block(start))) for start in starts]


def padded_blocks(rows: np.ndarray, sizes: Sequence[int]) -> Iterator[tuple[np.ndarray, slice]]:
    """(a block, which of the rows it begins with), in turn, so that few sizes are ever compiled.

    A block has the largest of `sizes`, in order, but the last one, which has the smallest that
    holds what is left; rows that are there already fill it up.
    """
    for start in range(0, len(rows), sizes[-1]):
        block = rows[start : start + sizes[-1]]
        size = next(size for size in sizes if size >= len(block))
        padding = np.broadcast_to(block[:1], (size - len(block), *block.shape[1:]))
        yield np.concatenate([block, padding]), slice(start, start + len(block))


@eqx.filter_jit
def _log_density(energy, points):
    return batched(energy, points)


@dataclasses.dataclass(frozen=True)
class Restored:
    """The posterior of each row, after noise is taken off or gaps are filled.

    - `mean`, `sd`: (rows, *event) posterior mean and standard deviation (probabilities of the
      values on categorical sites coded by index: (rows, *event, k)).
    - `std_err`: Monte Carlo standard error of `mean`.
    - `x`: (rows, *event) points of the space, the best single value of each site: the mean where
      sites are real, the most probable value where they are discrete.
    - `draws`: (rows, num_kept, *event) posterior draws.
    - `reliable_rows`: (rows,) which rows' chains agree and are long enough.
    """

    x: Any
    mean: Any
    sd: Any
    std_err: Any
    draws: Any
    reliable_rows: np.ndarray
    reliable: bool
    reasons: tuple[str, ...]


class Clamped(AbstractEnergy):
    """p(missing | observed) on the whole space: observed sites follow the base and do not matter.

    E(x) = E(observed sites from `point`, others from x) + E_base(x at observed sites)
    """

    energy: AbstractEnergy
    base: AbstractEnergy
    point: Point
    missing: Any

    @property
    def space(self):  # type: ignore[override]
        return self.energy.space

    def __call__(self, x):
        whole = jax.tree.map(jnp.where, self.missing, x, self.point)
        dummy = jax.tree.map(jnp.where, self.missing, self.point, x)
        return self.energy(whole) + self.base(dummy)


NUM_CHAINS, NUM_KEPT = 4, 250


class AbstractPosteriors(eqx.Module):
    """What to draw from, one posterior a row of observations.

    A pytree rather than functions, so that what was compiled for it serves the next call.
    """

    @abstractmethod
    def posterior(self, row: Any) -> AbstractEnergy:
        """The energy of one row, from that row's slice of the observations."""

    @abstractmethod
    def starts(self, row: Any, *, key: Key[Array, ""]) -> Point:
        """(NUM_CHAINS, *event) starting points of one row."""

    @abstractmethod
    def finish(self, x: Point, row: Any) -> Point:
        """What to report of draws `x` (kept, NUM_CHAINS, *event) of a row."""


@eqx.filter_jit
def _run_chunk(posteriors: AbstractPosteriors, sampler: AbstractSampler, rows, keys, thin: int):
    """Draws of every row, (rows, kept, chains, *event)."""

    def one_row(row, key):
        energy = posteriors.posterior(row)
        key_start, key_run = jax.random.split(key)
        trace = run_fixed(
            sampler,
            energy,
            posteriors.starts(row, key=key_start),
            key=key_run,
            num_warmup=200 * thin,
            num_steps=NUM_KEPT * thin,
            thin=thin,
        )
        return posteriors.finish(trace.x, row)

    return jax.vmap(one_row)(rows, keys)


def sample_posteriors(
    posteriors: AbstractPosteriors,
    observed: Any,
    space: AbstractSpace,
    *,
    key: Key[Array, ""],
    max_rounds: int = 3,
) -> Restored:
    """Draws from one posterior a row, all rows side by side.

    Rows whose chains have not converged are run again four times as long, up to `max_rounds` times.

    **Arguments:** `observed`: a pytree of arrays with the rows as leading axis.
    """
    num_rows = len(jax.tree.leaves(observed)[0])
    sites = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(space.example()))
    chunk = max(1, min(num_rows, 2**24 // (NUM_CHAINS * NUM_KEPT * sites)))
    one = jax.tree.map(lambda a: a[0], observed)
    sampler = default_sampler(posteriors.posterior(one))

    def draws_of(chosen: np.ndarray, key: Key[Array, ""], thin: int) -> Point:
        """Draws of the chosen rows, (rows, kept, chains, *event), padded to one compiled size."""
        padded = jnp.asarray(np.resize(chosen, chunk))
        keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(padded)
        rows = jax.tree.map(lambda a: a[padded], observed)
        x = _run_chunk(posteriors, sampler, rows, keys, thin)
        return jax.tree.map(lambda a: np.asarray(a)[: len(chosen)], x)

    draws: Any = None
    waiting = np.arange(num_rows)
    for attempt in range(max_rounds):
        failed = []
        for start in range(0, len(waiting), chunk):
            chosen = waiting[start : start + chunk]
            x = draws_of(chosen, jax.random.fold_in(key, attempt), 2 * 4**attempt)
            if draws is None:
                draws = jax.tree.map(lambda a: np.zeros((num_rows, *a.shape[1:]), a.dtype), x)
            for out, new in zip(jax.tree.leaves(draws), jax.tree.leaves(x), strict=True):
                out[chosen] = new
            failed.append(chosen[~_converged(x, space)])
        waiting = np.concatenate(failed)
        if len(waiting) == 0:
            break
    reliable_rows = np.ones(num_rows, bool)
    reliable_rows[waiting] = False
    return _restored(draws, space, reliable_rows)


def _columns(x: Point) -> np.ndarray:
    """(rows, kept, chains, *event) as (chains, kept, rows, sites) float64."""
    leaves = [np.asarray(a, np.float64) for a in jax.tree.leaves(x)]
    flat = [a.reshape(*a.shape[:3], -1).transpose(2, 1, 0, 3) for a in leaves]
    return np.concatenate(flat, axis=-1)


def _converged(x: Point, space: AbstractSpace) -> np.ndarray:
    """(rows,): chains of the row agree, and Monte Carlo errors are small beside the spread."""
    least = np.concatenate(
        [
            np.full(math.prod(leaf.shape[3:]), 0.0 if part.is_continuous else _UNIT)
            for leaf, part in zip(jax.tree.leaves(x), _parts(space), strict=True)
        ]
    )
    columns = _columns(x)
    chains, kept, rows, sites = columns.shape
    found = summarise(columns.reshape(chains, kept, rows * sites))
    attained = np.maximum(100, np.minimum(found.ess_bulk, found.ess_tail))
    limit = rhat_limit(rows * sites, chains, attained)
    spread = np.maximum(found.sd, np.tile(least, rows))
    good = (found.rhat <= limit) & (found.mcse_mean <= 0.1 * spread)
    return (good | found.is_constant).reshape(rows, sites).all(-1)


def _parts(space: AbstractSpace) -> list[AbstractSpace]:
    """The spaces of the leaves of a point, in their order."""
    if isinstance(space, Record):
        return [part for name in sorted(space.parts) for part in _parts(space.parts[name])]
    return [space]


_UNIT = 0.5
"""Spread of a fair two-valued site: errors of nearly certain sites are held against it."""


def _restored(draws: Any, space: AbstractSpace, reliable_rows: np.ndarray) -> Restored:
    parts = space.parts if isinstance(space, Record) else {"": space}
    summary: dict[str, tuple] = {}
    merged: dict[str, np.ndarray] = {}
    for name, part in parts.items():
        x = draws[name] if isinstance(space, Record) else draws
        values = x
        if isinstance(part, Categorical) and part.encoding == "index":
            values = np.asarray(x)[..., None] == np.arange(part.num_values)
        values = np.asarray(values, np.float64)
        mean, sd = values.mean((1, 2)), values.std((1, 2))
        rows, kept, chains = values.shape[:3]
        flat = values.reshape(rows, kept, chains, -1).transpose(2, 1, 0, 3)
        error = summarise(flat.reshape(chains, kept, -1)).mcse_mean.reshape(mean.shape)
        summary[name] = (_decide(part, mean), mean, sd, error)
        merged[name] = x.reshape(rows, kept * chains, *x.shape[3:])
    verdict = verdict_of(reliable_rows)
    verdict.warn("the posterior of the rows")
    if isinstance(space, Record):
        x, mean, sd, error = ({k: v[i] for k, v in summary.items()} for i in range(4))
        kept_draws: Any = merged
    else:
        (x, mean, sd, error), kept_draws = summary[""], merged[""]
    return Restored(
        x, mean, sd, error, kept_draws, reliable_rows, verdict.reliable, verdict.reasons
    )


def verdict_of(reliable_rows: np.ndarray) -> Verdict:
    """Reliable where all rows are."""
    unreliable = int((~reliable_rows).sum())
    return Verdict.of(
        [
            (
                unreliable == 0,
                f"{unreliable} of {len(reliable_rows)} rows have chains that disagree or are too "
                "short: see reliable_rows",
            )
        ]
    )


def _decide(part: AbstractSpace, mean: np.ndarray) -> np.ndarray:
    """The best single value of each site given its marginal (mean, or probabilities)."""
    match part:
        case Binary():
            return (mean > 0.5).astype(part.dtype)
        case Spin():
            return np.where(mean > 0, 1.0, -1.0).astype(part.dtype)
        case Categorical():
            best = mean.argmax(-1)
            return np.asarray(part.encode(jnp.asarray(best)))
        case Ordinal() | Count():
            return np.round(mean).astype(part.dtype)
        case _:
            return mean.astype(part.dtype)
