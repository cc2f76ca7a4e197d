"""log Z by annealed importance sampling, forward from a base and in reverse from the target.

Neal 2001 (arXiv:physics/9803008): points drawn exactly at β = 0 move through β₀ < … < β_T = 1; with
w = Π_t exp(f_{β_{t+1}}(x_t) − f_{β_t}(x_t)), E[w] = Z₁/Z₀ at ANY number of steps. The same run
backwards from draws of the target gives E[1/w] = Z₀/Z₁, so that forward runs bound log Z from below
and reverse runs from above (Grosse, Ghahramani & Adams 2015, arXiv:1511.02543).
"""

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from energax.diagnostics import pareto_k, weights_ess
from energax.energies._base import AbstractEnergy, AbstractNormalised, AbstractPath, check_scalar
from energax.energies.reference import default_base, fitted_base
from energax.partition._base import AbstractLogZMethod, Clock, answer, log_sum_exp
from energax.partition.annealed._base import tail_reasons
from energax.results import Draws, LogZ, UnreliableResult
from energax.samplers._base import AbstractSampler, run
from energax.samplers.choose import default_sampler, sample
from energax.spaces import Point, Real

_SEGMENT = 64  # temperatures in one compiled piece
_KNOTS = np.unique(np.concatenate([[0.0], np.logspace(-4, 0, 16), np.linspace(0, 1, 13)]))
_PILOT_STEPS = 40  # of each knot


class Schedule(eqx.Module):
    """What a pilot run learned along the path: tunings at knots, and how fast weights vary."""

    knots: Float[Array, " knots"]
    tunings: Any
    speed: Float[Array, " intervals"]

    def betas(self, num_steps: int) -> np.ndarray:
        """β₀ = 0 < … < β_T = 1 at equal distances of thermodynamic length, T = `num_steps`.

        A tenth of the steps is spread evenly, against a pilot that saw too little.
        """
        knots, speed = np.asarray(self.knots, float), np.asarray(self.speed, float)
        finite = speed[np.isfinite(speed)]
        speed = np.where(np.isfinite(speed), speed, finite.max() if len(finite) else 1.0)
        length = speed * np.diff(knots)
        total = length.sum()
        share = length / total if total > 0 else np.diff(knots)
        cumulative = np.concatenate([[0.0], np.cumsum(0.9 * share + 0.1 * np.diff(knots))])
        betas = np.interp(np.linspace(0, 1, num_steps + 1), cumulative / cumulative[-1], knots)
        betas[0], betas[-1] = 0.0, 1.0
        return betas

    def tuning(self, beta):
        """The frozen tuning at β, linear between knots."""
        right = jnp.clip(jnp.searchsorted(self.knots, beta), 1, len(self.knots) - 1)
        left = right - 1
        weight = (beta - self.knots[left]) / (self.knots[right] - self.knots[left])
        return jax.tree.map(lambda a: (1 - weight) * a[left] + weight * a[right], self.tunings)


@eqx.filter_jit
def pilot(path: AbstractPath, sampler: AbstractSampler, num_chains: int, *, key) -> Schedule:
    """A short run along the path that tunes the kernel at each knot and measures the increments."""
    knots = jnp.asarray(_KNOTS, float)
    key_start, key_run = jax.random.split(key)
    x = path.draw(num_chains, key=key_start)

    def at_knot(x, inputs):
        beta, previous, key = inputs
        change = jax.vmap(lambda x: path.increment(x, previous, beta))(x)
        spread = jnp.std(change, where=jnp.isfinite(change)) / jnp.maximum(beta - previous, 1e-12)
        spread = jnp.where(jnp.all(jnp.isfinite(change)), spread, jnp.inf)
        energy = path.at(beta)
        state, tuning = sampler.init(energy, x, key=key)
        state, tuning, _ = run(
            sampler, energy, state, tuning, key=key, num_steps=_PILOT_STEPS, adapt=True, keep=False
        )
        return state.x, (tuning, spread)

    inputs = knots, jnp.concatenate([knots[:1], knots[:-1]]), jax.random.split(key_run, len(knots))
    _, (tunings, spread) = jax.lax.scan(at_knot, x, inputs)
    return Schedule(knots, tunings, spread[1:])


@eqx.filter_jit
def _segment(path, sampler, schedule, x, betas, *, key):
    """Moves `x` through `betas` (segment + 1,): (x, log weights of this piece)."""

    def step(carry, inputs):
        state, log_weight = carry
        here, there, key = inputs
        gain = jax.vmap(lambda x: path.increment(x, here, there))(state.x)
        energy = path.at(there)
        state = sampler.refresh(energy, state)  # the energy has changed under x
        state, _ = sampler.step(energy, state, schedule.tuning(there), key=key)
        return (state, log_weight + gain), None

    key_init, key_run = jax.random.split(key)
    state, _ = sampler.init(path.at(betas[0]), x, key=key_init)
    inputs = betas[:-1], betas[1:], jax.random.split(key_run, len(betas) - 1)
    start = state, jnp.zeros(state.log_density.shape)
    (state, log_weight), _ = jax.lax.scan(step, start, inputs)
    return state.x, log_weight


def anneal(
    path: AbstractPath,
    sampler: AbstractSampler,
    schedule: Schedule,
    x: Point,
    betas: np.ndarray,
    *,
    key: Key[Array, ""],
) -> np.ndarray:
    """log weights, float64 (num_chains,), of points `x` carried through `betas` in their order.

    Increments are summed in float32 over short pieces and in float64 over the pieces.
    """
    total = np.zeros(len(jax.tree.leaves(x)[0]))
    for i, first in enumerate(range(0, len(betas) - 1, _SEGMENT)):
        piece = jnp.asarray(betas[first : first + _SEGMENT + 1], float)
        x, log_weight = _segment(path, sampler, schedule, x, piece, key=jax.random.fold_in(key, i))
        total += np.asarray(log_weight, np.float64)
    return total


def forward_log_weights(
    path: AbstractPath,
    sampler: AbstractSampler,
    *,
    num_chains: int,
    num_steps: int,
    key: Key[Array, ""],
) -> np.ndarray:
    """log Z₀ + log w of independent forward runs: E[exp] = Z at any `num_steps`, (num_chains,)."""
    key_pilot, key_start, key_run = jax.random.split(key, 3)
    schedule = pilot(path, sampler, min(num_chains, 128), key=key_pilot)
    x = path.draw(num_chains, key=key_start)
    log_weights = anneal(path, sampler, schedule, x, schedule.betas(num_steps), key=key_run)
    return float(path.log_z0) + log_weights


def _mean_of(log_weights: np.ndarray) -> tuple[float, float]:
    """(log mean w with its bias of second order taken off, standard error)."""
    n = len(log_weights)
    value = float(log_sum_exp(log_weights)) - np.log(n)
    if not np.isfinite(value):
        return value, np.inf
    ratio = np.exp(log_weights - value)
    error = float(ratio.std(ddof=1) / np.sqrt(n))
    return value + error**2 / 2, error


class AIS(AbstractLogZMethod):
    """Annealed importance sampling, its schedule doubled until the answer is narrow and stays put.

    Neal 2001; reverse runs after Grosse et al. 2015. The target is first sampled by Markov chains:
    where they converge, the base is fitted to their moments and reverse runs start from them.

    **Arguments:** `base`: an AbstractNormalised on the energy's space, instead of the default.
    `sampler`: the kernel, instead of the default of the path. `num_chains`: independent weights.
    `num_steps`: temperatures of the first round. `max_evaluations`: budget.
    """

    base: AbstractNormalised | None = None
    sampler: AbstractSampler | None = None
    num_chains: int = eqx.field(static=True, default=256)
    num_steps: int = eqx.field(static=True, default=256)
    max_evaluations: int = eqx.field(static=True, default=50_000_000)

    def cost(self, energy: AbstractEnergy) -> float:
        return float(self.max_evaluations)

    def run(self, energy, *, key, precision=0.25, max_seconds=None, progress=False) -> LogZ:
        check_scalar(energy)
        clock = Clock(max_seconds)
        keys = iter(jax.random.split(key, 64))
        draws = self._target_draws(energy, clock, key=next(keys))
        path = energy.path(self._base(energy, draws))
        sampler = default_sampler(path.at(0.5)) if self.sampler is None else self.sampler
        schedule = pilot(path, sampler, self.num_chains, key=next(keys))
        clock.num_evaluations += self.num_chains * len(_KNOTS) * _PILOT_STEPS
        always = [] if draws.reliable else [_unconverged(draws)]
        always += tail_reasons(energy, draws.flat(), key=next(keys))
        num_steps, previous = self.num_steps, None
        while True:
            betas = schedule.betas(num_steps)
            x = path.draw(self.num_chains, key=next(keys))
            forward = float(path.log_z0) + anneal(path, sampler, schedule, x, betas, key=next(keys))
            backward = None
            if draws.reliable:
                x = _spread(draws, self.num_chains)
                backward = float(path.log_z0) - anneal(
                    path, sampler, schedule, x, betas[::-1], key=next(keys)
                )
            spent = (1 + draws.reliable) * self.num_chains * num_steps
            clock.num_evaluations += int(spent * (2 + sampler.evaluations_per_step(energy)))
            found = _Round(forward, backward, previous, num_steps, draws)
            reasons = found.reasons(precision)
            more = clock.num_evaluations + 2 * spent * 3 <= self.max_evaluations
            hopeless = not draws.reliable and num_steps >= 4 * self.num_steps
            if not reasons or not more or clock.out_of_time or hopeless:
                break
            num_steps, previous = 2 * num_steps, (found.value, found.std_err)
        if reasons and not hopeless:
            limit = "max_seconds" if clock.out_of_time else "max_evaluations"
            reasons.append(f"stopped by {limit} at {num_steps} temperatures")
        return answer(
            found.value,
            found.std_err,
            clock,
            method=f"AIS ({num_steps} temperatures, {self.num_chains} chains)",
            reasons=always + reasons,
            ess=found.ess,
            bracket=found.bracket,
            time_limited=clock.out_of_time,
        )

    def _target_draws(self, energy: AbstractEnergy, clock: Clock, *, key) -> Draws:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnreliableResult)  # the verdict on log Z says it
            draws = sample(
                energy,
                8 * 128,
                key=key,
                max_evaluations=min(2_000_000, self.max_evaluations // 4),
                max_seconds=None if np.isinf(clock.max_seconds) else clock.max_seconds / 3,
            )
        clock.num_evaluations += draws.num_evaluations
        return draws

    def _base(self, energy: AbstractEnergy, draws: Draws) -> AbstractNormalised:
        if self.base is not None:
            return self.base
        if not draws.reliable:
            return default_base(energy.space)
        full = isinstance(energy.space, Real) and energy.space.num_sites <= 50
        return fitted_base(energy.space, draws.flat(), full=full)


def _unconverged(draws: Draws) -> str:
    return (
        "draws of the target did not converge, so nothing bounds log Z from above: "
        + draws.reasons[0]
    )


def _spread(draws: Draws, num: int) -> Point:
    """`num` draws, evenly spaced over all chains."""
    flat = draws.flat()
    total = len(jax.tree.leaves(flat)[0])
    chosen = np.linspace(0, total - 1, num).astype(int)
    return jax.tree.map(lambda a: jnp.asarray(a[chosen]), flat)


class _Round:
    """The weights of one schedule, and what may be said against them."""

    def __init__(self, forward, backward, previous, num_steps: int, draws: Draws):
        self.forward, self.previous, self.num_steps = forward, previous, num_steps
        self.value, self.std_err = _mean_of(forward)
        self.ess = weights_ess(forward)
        self.upper = None
        if backward is not None:
            value, error = _mean_of(-backward)
            independent = min(1.0, draws.ess_log_density / len(backward))
            self.upper = -value, error / np.sqrt(independent)

    @property
    def bracket(self) -> tuple[float | None, float | None]:
        low = self.value - 2 * self.std_err if np.isfinite(self.value) else None
        if self.upper is None or not np.isfinite(self.upper[0]):
            return low, None
        return low, max(self.upper[0] + 2 * self.upper[1], self.value)

    def reasons(self, precision: float) -> list[str]:
        """Why this round's value is not to be trusted, in words; empty if it is."""
        if not np.isfinite(self.value):
            return [
                f"the weights give log Z = {self.value}: no point has a finite, positive weight"
            ]
        out = []
        n, k = len(self.forward), pareto_k(self.forward)
        if self.std_err > precision:
            out.append(
                f"standard error {self.std_err:.3g} nat is above the {precision:g} asked for"
            )
        if self.ess < 0.1 * n:
            out.append(f"{self.ess:.1f} effective weights of {n}: a few of them decide the answer")
        if k > 0.7:
            out.append(f"the weights' tail index {k:.2f} is above 0.7: their mean may not settle")
        if self.upper is not None:
            gap = self.upper[0] - self.value
            if abs(gap) > 4 * np.hypot(self.std_err, self.upper[1]) + 0.02:
                out.append(
                    f"forward and reverse runs differ by {gap:.3g} nat, more than their errors"
                )
        if self.previous is None:
            out.append("one schedule only: whether a longer one moves the answer is not known")
        else:
            moved = self.value - self.previous[0]
            if abs(moved) > 4 * np.hypot(self.std_err, self.previous[1]) + 0.02:
                out.append(f"doubling the schedule moved the answer by {moved:.3g} nat")
        return out
