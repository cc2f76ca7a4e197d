"""log Z from chains at every temperature: rungs weighed together, integrated, or in populations."""

import math
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from energax.diagnostics import weights_ess
from energax.energies._base import AbstractEnergy, AbstractNormalised, AbstractPath, check_scalar
from energax.partition._base import Clock, answer
from energax.partition.estimated._base import (
    AbstractEstimate,
    Target,
    agreement,
    look_at,
    means_apart,
    too_wide,
)
from energax.results import LogZ, UnreliableResult, half_width
from energax.samplers._base import AbstractSampler, run
from energax.samplers.choose import default_sampler
from energax.samplers.tempering import ParallelTempering, TemperedSMC
from energax.spaces import Point

_NUM_WARMUP = 2048
_NUM_KEPT = 128  # of each chain in the first round
_THIN = 4
_MOST_ROUNDS = 8


class Tempering(AbstractEstimate):
    """log Z from the points of all rungs of parallel tempering, β₀ = 0 < … < β_R = 1.

    By default every point counts for every rung (MBAR; Shirts & Chodera 2008, eq. 11): Z_k = Σ_n
    exp(f_k(x_n)) / Σ_j N_j exp(f_j(x_n))/Z_j. With `integrate`, thermodynamic integration: Σ_j of
    ½(⟨u⟩_j + ⟨u⟩_{j+1}) − (V_{j+1} − V_j)/12, u = f_{β_{j+1}} − f_{β_j} with variances V, the
    corrected trapezoid (Friel, Hurn & Wyse 2014, eq. 7); half as many rungs tell its own error. It
    begins at the third rung, up to which MBAR goes: where f falls faster than the base does, V need
    not exist at β = 0.
    Both come with Σ ⟨u⟩_j ≤ log Z/Z₀ ≤ Σ ⟨u⟩_{j+1} (Gibbs-Bogoliubov) as the bracket.

    The error is a jackknife over the ensembles, which share nothing but the tuning and where they
    start; the interval and the standard error are Student's. Rounds double, and of each only the
    later half of all points so far is read, so that what the start left behind dies out. They go on
    until the error is as small as asked for, both halves of what is read agree, a longer run leaves
    the answer where it was, and the two ways of reading it agree; or the budget ends.

    **Arguments:** `sampler`: the kernel of every rung, instead of the path's default. `base`: an
    AbstractNormalised on the energy's space, instead of one fitted to draws of the target.
    `num_rungs`: R, even, from 4. `num_chains`: ensembles. `max_evaluations`: budget.

    **Raises:** ValueError for numbers that do not fit.
    """

    sampler: AbstractSampler | None = None
    base: AbstractNormalised | None = None
    integrate: bool = eqx.field(static=True, default=False)
    num_rungs: int = eqx.field(static=True, default=16)
    num_chains: int = eqx.field(static=True, default=8)
    max_evaluations: int = eqx.field(static=True, default=50_000_000)

    def __check_init__(self):
        if self.num_rungs < 4 or self.num_rungs % 2 or self.num_chains < 4:
            raise ValueError(
                "Tempering: expected an even num_rungs from 4 and num_chains from 4, got "
                f"{self.num_rungs} and {self.num_chains}"
            )

    def run(self, energy, *, key, precision=0.25, max_seconds=None, progress=False) -> LogZ:
        check_scalar(energy)
        clock = Clock(max_seconds)
        keys = iter(jax.random.split(key, 8 + 2**_MOST_ROUNDS))
        budget = self.max_evaluations // 4
        target = look_at(energy, clock, base=self.base, max_evaluations=budget, key=next(keys))
        path = energy.path(target.base)
        inner = default_sampler(path.at(0.5)) if self.sampler is None else self.sampler
        tempered = ParallelTempering(inner, target.base, self.num_rungs)
        state, tuning = _begin(tempered, energy, _starts(target, self.num_chains), next(keys))
        cost = self.num_chains * tempered.evaluations_per_step(energy)
        clock.num_evaluations += int(_NUM_WARMUP * cost)
        betas = np.asarray(tuning.ladder.all_betas, np.float64)
        tables, rounds, previous = [], 0, None
        while True:
            clock.begin_round()
            for _ in range(max(1, 2 ** (rounds - 1))):
                state, table = _record(tempered, energy, state, tuning, key=next(keys))
                tables.append(np.asarray(table, np.float64))
                clock.num_evaluations += int(_NUM_KEPT * _THIN * cost)
            rounds += 1
            log_z0 = float(path.log_z0)
            found = _Read(np.concatenate(tables[len(tables) // 2 :]), log_z0)
            value, error = found.integrated if self.integrate else found.together
            # what Student's t of so few ensembles spreads: more often far off than a normal
            here = value, error * math.sqrt((self.num_chains - 1) / (self.num_chains - 3))
            reasons = [*target.reasons, *tempered.doubts(state, tuning)]
            reasons += too_wide(here[1], precision)
            if previous is None:
                reasons.append("one round only: whether a longer run moves the answer is open")
            else:
                reasons += agreement("a longer run moved the answer by", here, previous)
            late = clock.is_last_round
            previous = here
            reasons += agreement("both halves of the run differ by", *found.halves)
            reasons += agreement(
                "MBAR and thermodynamic integration differ by", found.together, found.integrated
            )
            more = 2 * clock.num_evaluations <= self.max_evaluations and rounds < _MOST_ROUNDS
            if not reasons or not more or late or target.starts is None:
                break
        width = half_width(error, self.num_chains)  # Student's
        return answer(
            *here,
            clock,
            method=("thermodynamic integration" if self.integrate else "MBAR")
            + f" ({self.num_rungs} rungs, {self.num_chains} ensembles)",
            reasons=reasons,
            ess=found.ess,
            interval=(value - width, value + width),
            bracket=found.bracket(self.num_chains),
            time_limited=bool(reasons) and late,
            details={
                "mbar": found.together[0],
                "integrated": found.integrated[0],
                "betas": betas,
                "swap_rate": np.asarray(tempered.describe(state, tuning)["swap_rate"]),
            },
        )


class SMC(AbstractEstimate):
    """log Z by tempered sequential Monte Carlo (`energax.samplers.TemperedSMC`), particles doubled
    until the answer is narrow and stays put.

    Del Moral, Doucet & Jasra 2006; rungs by effective sample size (Jasra et al. 2011), fixed before
    the populations that count, so that each has E[Ẑ] = Z.

    **Arguments:** `sampler`: the kernel, instead of the path's default. `base`: an
    AbstractNormalised on the energy's space, instead of one fitted to draws of the target.
    `num_populations` of `num_particles` each, in the first round. `max_evaluations`: budget.
    """

    sampler: AbstractSampler | None = None
    base: AbstractNormalised | None = None
    num_populations: int = eqx.field(static=True, default=16)
    num_particles: int = eqx.field(static=True, default=128)
    max_evaluations: int = eqx.field(static=True, default=50_000_000)

    def run(self, energy, *, key, precision=0.25, max_seconds=None, progress=False) -> LogZ:
        check_scalar(energy)
        clock = Clock(max_seconds)
        key_look, *keys = jax.random.split(key, 2 + _MOST_ROUNDS)
        budget = self.max_evaluations // 4
        target = look_at(energy, clock, base=self.base, max_evaluations=budget, key=key_look)
        sampler = self.sampler
        if sampler is None:
            sampler = default_sampler(energy.path(target.base).at(0.5))
        previous, num_particles = None, self.num_particles
        for key_round in keys:
            clock.begin_round()
            method = TemperedSMC(
                sampler, target.base, self.num_populations, num_particles=num_particles
            )
            before = clock.num_evaluations
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UnreliableResult)
                found = method.run(energy, key=key_round, precision=precision)
            clock.num_evaluations += found.num_evaluations
            z = found.log_z
            reasons = [*target.reasons, *found.reasons]
            here = z.value, z.std_err
            if previous is None:
                reasons.append("one round only: whether more particles move the answer is open")
            else:
                reasons += agreement("more particles moved the answer by", here, previous)
            reasons += _misses(found, target)
            spent = clock.num_evaluations - before
            more = clock.num_evaluations + 2 * spent <= self.max_evaluations
            hopeless = target.starts is None and previous is not None
            late = clock.is_last_round
            if not reasons or not more or late or hopeless:
                break
            previous, num_particles = here, 2 * num_particles
        return answer(
            z.value,
            z.std_err,
            clock,
            method=z.method,
            reasons=reasons,
            ess=z.ess,
            interval=(z.lower, z.upper),
            bracket=(z.lower if np.isfinite(z.lower) else None, None),
            time_limited=bool(reasons) and late,
            details={"betas": found.betas},
        )


def _misses(found, target: Target) -> list[str]:
    """A reason where the populations and the chains disagree about the target."""
    if target.starts is None:
        return []
    ends = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), found.x)
    z, where = means_apart(ends, found.weights.ravel(), target.draws, found.mcse_mean)
    if z <= 5.0:
        return []
    return [
        f"populations and chains of the target disagree by {z:.1f} standard errors about the mean "
        f"of {where}: one of them misses a part"
    ]


def _starts(target: Target, num: int) -> Point:
    """`num` points of the target's chains."""
    flat = target.draws.flat()
    total = len(jax.tree.leaves(flat)[0])
    chosen = np.linspace(0, total - 1, num).astype(int)
    return jax.tree.map(lambda a: jnp.asarray(a[chosen]), flat)


def _begin(tempered: ParallelTempering, energy: AbstractEnergy, x: Point, key: Key[Array, ""]):
    """(State, Tuning) after warm-up from `x`."""
    key_init, key_run = jax.random.split(key)
    state, tuning = eqx.filter_jit(tempered.init)(energy, x, key=key_init)
    state, tuning, _ = run(
        tempered, energy, state, tuning, key=key_run, num_steps=_NUM_WARMUP, adapt=True, keep=False
    )
    return state, tuning


@eqx.filter_jit
def _record(tempered: ParallelTempering, energy: AbstractEnergy, state, tuning, *, key):
    """(State, f at every β (kept, betas, chains, betas)) of points of every β, the base's first."""
    path = energy.path(tuning.ladder.base)
    betas = tuning.ladder.all_betas
    num_chains = state.log_density.shape[0]

    def step(state, key):
        state, _ = tempered.step(energy, state, tuning, key=key)
        return state, None

    def kept(state, key):
        key_base, *key_steps = jax.random.split(key, 1 + _THIN)
        state, _ = jax.lax.scan(step, state, jnp.stack(key_steps))
        x0 = path.draw(num_chains, key=key_base)
        x = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), x0, state.rungs.x)
        return state, jax.vmap(jax.vmap(lambda x: _at_all(path, betas, x)))(x)

    return jax.lax.scan(kept, state, jax.random.split(key, _NUM_KEPT))


def _at_all(path: AbstractPath, betas, x):
    """f_β(x) at every β of a ladder, (betas,)."""
    if path.is_linear:
        f0, f1 = path.start_log_density(x), path.at(1.0).log_density(x)
        along = f0 + betas * (f1 - f0)  # where f is −∞, at every β but 0
        return jnp.where(betas == 0, f0, along)
    return jax.vmap(lambda beta: path.at(beta).log_density(x))(betas)


class _Read:
    """What a table of f_k (kept, rungs, chains, rungs) tells of log Z.

    `together`, `integrated`: (value, standard error); `halves`: of the run, by MBAR.
    """

    def __init__(self, table: np.ndarray, log_z0: float):
        kept, _, num_chains, num_betas = table.shape
        self.table, self.log_z0 = table, log_z0
        all_, start = np.arange(num_chains), np.zeros(num_betas)
        whole = _mbar(table, start)
        left_out = np.array([_mbar(table[:, :, all_ != i], whole)[-1] for i in all_])
        self.together = log_z0 + whole[-1], _jackknife(left_out)
        value, rough = self._integral(all_)
        parts = np.array([self._integral(all_[all_ != i])[0] for i in all_])
        self.integrated = log_z0 + value, math.hypot(_jackknife(parts), rough)
        early, late = table[: kept // 2], table[kept // 2 :]
        error = math.sqrt(2) * self.together[1]
        self.halves = (_mbar(early, whole)[-1], error), (_mbar(late, whole)[-1], error)
        self.ess = weights_ess(table[..., -1] - np.logaddexp.reduce(table - whole, axis=3))

    def _integral(self, chains) -> tuple[float, float]:
        """(corrected trapezoid from the third rung, its error as half as many rungs tell it)."""
        head = self.table[:, :3, :, :3][:, :, chains]
        near_base = float(_mbar(head, np.zeros(3))[-1])

        def trapezoid(stride: int) -> float:
            table = self.table[:, 2::stride, :, 2::stride][:, :, chains]
            total = near_base
            for j in range(table.shape[3] - 1):
                lower = table[:, j, :, j + 1] - table[:, j, :, j]
                upper = table[:, j + 1, :, j + 1] - table[:, j + 1, :, j]
                total += (lower.mean() + upper.mean()) / 2 - (upper.var() - lower.var()) / 12
            return float(total)

        fine = trapezoid(1)
        return fine, (fine - trapezoid(2)) / 15

    def bracket(self, num_chains: int) -> tuple[float | None, float | None]:
        """Σ ⟨u⟩_j and Σ ⟨u⟩_{j+1}, each with room for its error."""
        ends = []
        for shift, sign in ((0, -1), (1, 1)):
            each = sum(
                np.diff(self.table[:, j + shift], axis=2)[:, :, j].mean(0)
                for j in range(self.table.shape[3] - 1)
            )
            error = float(np.std(each, ddof=1)) / math.sqrt(num_chains)
            end = self.log_z0 + float(np.mean(each)) + sign * half_width(error, num_chains)
            ends.append(end if math.isfinite(end) else None)
        return ends[0], ends[1]


def _jackknife(left_out: np.ndarray) -> float:
    n = len(left_out)
    return float(np.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum()))


def _mbar(table: np.ndarray, log_z: np.ndarray) -> np.ndarray:
    """log Z_k − log Z_0 of every rung, the fixed point of Shirts & Chodera 2008, eq. 11.

    By Newton's method on the convex function whose minimum it is (their eq. C1).
    """
    number = table.shape[0] * table.shape[2]
    flat = table.reshape(-1, table.shape[3])
    if not log_z.any():  # neighbours give a start
        log_z = np.zeros(len(log_z))
        for j in range(len(log_z) - 1):
            u = (table[:, j, :, j + 1] - table[:, j, :, j]).ravel()
            v = (table[:, j + 1, :, j + 1] - table[:, j + 1, :, j]).ravel()
            log_z[j + 1] = log_z[j] + (np.mean(u[np.isfinite(u)]) + np.mean(v)) / 2
    for i in range(100):
        logits = flat - log_z
        mixed = np.logaddexp.reduce(logits, axis=1, keepdims=True)
        share = np.exp(logits - mixed)  # of each rung in each point
        if i < 5:
            move = np.log(share.sum(0) / number)
        else:
            hessian = np.diag(share.sum(0)) - share.T @ share
            move = np.zeros(len(log_z))
            gradient = share.sum(0) - number
            move[1:] = np.linalg.lstsq(hessian[1:, 1:], gradient[1:], rcond=None)[0]
            move = np.clip(move, -1.0, 1.0)
        log_z = log_z + move
        log_z = log_z - log_z[0]
        if i >= 5 and np.max(abs(move)) < 1e-8:
            break
    return log_z
