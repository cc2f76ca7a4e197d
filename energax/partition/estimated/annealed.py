"""log Z by annealed importance sampling, forward from a base and in reverse from the target.

Neal 2001 (arXiv:physics/9803008): points drawn exactly at β = 0 move through β₀ < … < β_T = 1; with
w = Π_t exp(f_{β_{t+1}}(x_t) − f_{β_t}(x_t)), E[w] = Z₁/Z₀ at ANY number of steps. The same run
backwards from draws of the target gives E[1/w] = Z₀/Z₁, so that forward runs bound log Z from below
and reverse runs from above (Grosse, Ghahramani & Adams 2015, arXiv:1511.02543).
"""

import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from energax.energies._base import AbstractNormalised, AbstractPath, check_scalar
from energax.partition._base import Clock, answer
from energax.partition.estimated._base import AbstractEstimate, Evidence, agreement, look_at
from energax.results import LogZ
from energax.samplers._base import AbstractSampler, apart, in_use, mesh_for, run, shared_out
from energax.samplers.choose import default_sampler
from energax.spaces import Point, num_rows

_MOST_CHAINS = 8_192
_PILOT_CHAINS = 256
_SEGMENT = 32  # temperatures in one compiled piece
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
def pilot(path: AbstractPath, sampler: AbstractSampler, x: Point, *, key) -> Schedule:
    """A short run along the path that tunes the kernel at each knot and measures the increments.

    `x`: draws at β = 0, (num_chains, *event).
    """
    knots = jnp.asarray(_KNOTS, float)

    def at_knot(x, inputs):
        beta, previous, key = inputs
        change = jax.vmap(lambda x: path.increment(x, previous, beta))(x)
        # half the way between the 16th and the 84th percentile: a few strays must not rule it
        low, high = jnp.quantile(change, jnp.asarray([0.16, 0.84], change.dtype))
        spread = (high - low) / 2 / jnp.maximum(beta - previous, 1e-12)
        energy = path.at(beta)
        state, tuning = sampler.init(energy, x, key=key)
        state, tuning, _ = run(
            sampler, energy, state, tuning, key=key, num_steps=_PILOT_STEPS, adapt=True, keep=False
        )
        return state.x, (tuning, spread)

    inputs = knots, jnp.concatenate([knots[:1], knots[:-1]]), jax.random.split(key, len(knots))
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
        return apart((state, log_weight + gain)), None

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
) -> tuple[Point, np.ndarray]:
    """Points `x` carried through `betas` in their order, and log weights, float64 (num_chains,).

    Increments are summed in float32 over short pieces and in float64 over the pieces. Pieces have
    one length, the last one filled up with β standing still, so that one compilation serves any
    number of temperatures. Where there are several devices, each carries its share of the points.
    """
    total, mesh = np.zeros(num_rows(x)), mesh_for(num_rows(x))
    x = shared_out(x, mesh)
    left = -(len(betas) - 1) % _SEGMENT
    betas = np.concatenate([betas, np.full(left, betas[-1])])
    for i, first in enumerate(range(0, len(betas) - 1, _SEGMENT)):
        piece = jnp.asarray(betas[first : first + _SEGMENT + 1], float)
        key_piece = jax.random.fold_in(key, i)
        with in_use(mesh):
            x, log_weight = _segment(path, sampler, schedule, x, piece, key=key_piece)
        total += np.asarray(log_weight, np.float64)
    return x, total


@eqx.filter_jit
def _draw(path: AbstractPath, num: int, *, key) -> Point:
    return path.draw(num, key=key)


def forward_log_weights(
    path: AbstractPath,
    sampler: AbstractSampler,
    *,
    num_chains: int,
    num_steps: int,
    key: Key[Array, ""],
) -> np.ndarray:
    """log Z₀ + log w of independent forward runs: E[exp] = Z at any `num_steps`, (num_chains,)."""
    key_base, key_pilot, key_start, key_run = jax.random.split(key, 4)
    x = _draw(path, min(num_chains, 128), key=key_base)
    schedule = pilot(path, sampler, x, key=key_pilot)
    x = _draw(path, num_chains, key=key_start)
    _, log_weights = anneal(path, sampler, schedule, x, schedule.betas(num_steps), key=key_run)
    return float(path.log_z0) + log_weights


class AIS(AbstractEstimate):
    """Annealed importance sampling from both ends, until the answer is narrow and stays put.

    The target is first sampled by Markov chains. Where they converge, a base is fitted to half of
    the draws, and from the others runs go back to the base; forward and reverse weights together
    give log Z (Bennett 1976, eq. 12, for annealed weights Crooks 2000, arXiv:cond-mat/9911038), and
    each by itself an end of the bracket. Where they do not, there are forward runs only (Neal 2001)
    and the answer is not reliable.

    Rounds go on, with twice the chains or, where under half of the weights count, with twice the
    temperatures, until the standard error is as small as asked for, two rounds agree and
    nothing else speaks against the answer, or the budget ends.

    **Arguments:** `base`: an AbstractNormalised on the energy's space, instead of the fitted one.
    `sampler`: the kernel, instead of the default of the path. `num_chains`: independent weights of
    the first round in each direction; `num_steps`: its temperatures. `max_evaluations`: budget.
    """

    base: AbstractNormalised | None = None
    sampler: AbstractSampler | None = None
    num_chains: int = eqx.field(static=True, default=256)
    num_steps: int = eqx.field(static=True, default=32)
    max_evaluations: int = eqx.field(static=True, default=50_000_000)

    def run(self, energy, *, key, precision=0.25, max_seconds=None, progress=False) -> LogZ:
        check_scalar(energy)
        clock = Clock(max_seconds)
        keys = (jax.random.fold_in(key, i) for i in itertools.count())
        budget = self.max_evaluations // 4
        target = look_at(energy, clock, base=self.base, max_evaluations=budget, key=next(keys))
        path = energy.path(target.base)
        sampler = default_sampler(path.at(0.5)) if self.sampler is None else self.sampler
        num_pilots = min(self.num_chains, _PILOT_CHAINS)
        x = _draw(path, num_pilots, key=next(keys))
        schedule = pilot(path, sampler, x, key=next(keys))
        a_step = sampler.evaluations_per_step(energy)
        clock.num_evaluations += int(num_pilots * len(_KNOTS) * _PILOT_STEPS * a_step)
        two, each = target.starts is not None, 2 + a_step
        num_steps, num_chains, previous = self.num_steps, self.num_chains, None
        while True:
            clock.begin_round()
            found = self._round(path, sampler, schedule, target, num_chains, num_steps, keys)
            spent = (1 + two) * num_chains * num_steps * each
            clock.num_evaluations += int(spent)
            reasons = found.reasons(precision)
            if previous is None:
                reasons.append("one schedule only: whether a longer one moves the answer is open")
            else:
                here = found.value, found.std_err
                reasons += agreement("a longer schedule moved the answer by", here, previous)
            more = clock.num_evaluations + 2 * spent <= self.max_evaluations
            hopeless = not two and num_steps >= 16 * self.num_steps
            late = clock.is_last_round
            if not reasons or not more or late or hopeless:
                break
            previous = found.value, found.std_err
            if found.wants_chains and num_chains < _MOST_CHAINS:
                num_chains *= 2
            else:
                num_steps *= 2
        if reasons and not hopeless:
            limit = "max_seconds" if late else "max_evaluations"
            reasons.append(f"stopped by {limit} at {num_steps} temperatures, {num_chains} chains")
        return answer(
            found.value,
            found.std_err,
            clock,
            method=f"AIS ({num_steps} temperatures, {num_chains} chains)",
            reasons=[*target.reasons, *reasons],
            ess=found.ess,
            bracket=found.bracket,
            time_limited=bool(reasons) and late,
            details=found.details(),
        )

    def _round(self, path, sampler, schedule, target, num_chains, num_steps, keys) -> Evidence:
        """`num_chains` of each direction, in groups of one size, which compile once."""
        betas, log_z0 = schedule.betas(num_steps), float(path.log_z0)
        ends, forward, backward, rows = [], [], [], 1
        starts: Any = None
        if target.starts is not None:
            starts, rows = target.start(num_chains)
        for first in range(0, num_chains, self.num_chains):
            key_draw, key_run, key_back = jax.random.split(next(keys), 3)
            x = _draw(path, self.num_chains, key=key_draw)
            x, log_weights = anneal(path, sampler, schedule, x, betas, key=key_run)
            ends.append(jax.tree.map(np.asarray, x))
            forward.append(log_z0 + log_weights)
            if starts is not None and first < num_rows(starts):
                here = slice(first, first + self.num_chains)
                some = jax.tree.map(lambda a, here=here: a[here], starts)
                back = sampler.reversal()
                _, log_weights = anneal(path, back, schedule, some, betas[::-1], key=key_back)
                backward.append(log_z0 - log_weights)
        end = jax.tree.map(lambda *a: np.concatenate(a), *ends)
        both = np.concatenate(backward) if backward else None
        return Evidence(np.concatenate(forward), both, target, rows, ends=end)


class Bridge(AbstractEstimate):
    """log Z between draws of a base and draws of the target, without anything in between.

    Meng & Wong 1996, "Simulating ratios of normalizing constants via a simple identity", eq. 4.1
    with its optimal bridge. The base is fitted to one half of the target's draws, by a mixture
    where that suits them better; the other half is bridged to. Cheap, as nothing moves but the
    chains that draw from the target, and good as far as the base resembles the target.

    **Arguments:** `base`: an AbstractNormalised on the energy's space, instead of the fitted one.
    `num_draws`: of the base. `max_evaluations`: budget.
    """

    base: AbstractNormalised | None = None
    num_draws: int = eqx.field(static=True, default=4_096)
    max_evaluations: int = eqx.field(static=True, default=50_000_000)

    def run(self, energy, *, key, precision=0.25, max_seconds=None, progress=False) -> LogZ:
        check_scalar(energy)
        clock = Clock(max_seconds)
        key_look, key_draw = jax.random.split(key)
        budget = self.max_evaluations - self.num_draws
        target = look_at(energy, clock, base=self.base, max_evaluations=budget, key=key_look)
        path = energy.path(target.base)
        log_z0 = float(path.log_z0)
        x = _draw(path, self.num_draws, key=key_draw)
        forward = log_z0 + _whole_increments(path, x)
        clock.num_evaluations += self.num_draws
        rows, backward = 1, None
        if target.starts is not None:
            start, rows = target.start(self.num_draws)
            backward = log_z0 + _whole_increments(path, start)
            clock.num_evaluations += len(backward)
        found = Evidence(forward, backward, target, rows, ends=x)
        return answer(
            found.value,
            found.std_err,
            clock,
            method=f"bridge ({self.num_draws} draws of the base)",
            reasons=[*target.reasons, *found.reasons(precision)],
            ess=found.ess,
            bracket=found.bracket,
            time_limited=clock.out_of_time,
            details=found.details(),
        )


def _whole_increments(path: AbstractPath, x: Point) -> np.ndarray:
    """f₁(x) − f₀(x) of each point."""
    gain = eqx.filter_jit(lambda path, x: jax.vmap(lambda x: path.increment(x, 0.0, 1.0))(x))
    return np.asarray(gain(path, x), np.float64)
