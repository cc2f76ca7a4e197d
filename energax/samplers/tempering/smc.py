"""Tempered sequential Monte Carlo: populations carried from a base to the target by weights.

Del Moral, Doucet & Jasra 2006, "Sequential Monte Carlo samplers"; the rungs by effective sample
size as Jasra, Stephens, Doucet & Tsagaris 2011, "Inference for Lévy-driven stochastic volatility
models via adaptive sequential Monte Carlo".
"""

import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from energax.energies._base import (
    AbstractEnergy,
    AbstractNormalised,
    AbstractPath,
    batched,
    check_scalar,
)
from energax.energies.reference import default_base
from energax.random import as_key
from energax.results import LogZ, Population, Verdict
from energax.samplers._base import AbstractPopulationMethod, AbstractSampler, State, run
from energax.samplers.tempering._base import at_other_beta, systematic

_TUNING_STEPS = 24
"""Of the pilot population at each rung."""
_BISECTIONS = 24


class PopulationSchedule(eqx.Module):
    """What the pilot found: rungs above 0 and the tuning at each; only the first `num` are used.

    `is_carried`: whether f and ∇f of a state go along the path without evaluations.
    """

    betas: Float[Array, " most"]
    tunings: Any
    num: Int[Array, ""]
    is_carried: bool = eqx.field(static=True)


class TemperedSMC(AbstractPopulationMethod):
    """Particles drawn at β = 0 move through 0 < β₁ < … < β_R = 1: weighed by w = exp(f_{β_{r+1}} −
    f_{β_r}), resampled, moved by a Markov kernel of p_{β_{r+1}}; Z ≈ Z₀ Π_r mean w.

    Del Moral, Doucet & Jasra 2006, algorithm of section 3.1.1 with the weights of eq. 31. A pilot
    population chooses each next rung by bisection, so that the effective number of the weights is
    the share `ess` of the particles (Jasra et al. 2011), with exactly 1 as soon as that is within
    reach, and tunes the kernel there. Rungs and tunings are then fixed for the populations that
    count, so that each has E[Ẑ] = Z at any number of particles; their spread gives the errors.
    Resampling is systematic (Kitagawa 1996).

    **Arguments:** `sampler`: the kernel. `base`: an AbstractNormalised on the energy's space, else
    its default; it should cover the target. `num_populations` of `num_particles` each. `num_moves`:
    kernel steps a rung. `ess`: share of particles. `betas`: increasing rungs above 0 that end at 1,
    instead of chosen ones. `max_rungs`: limit to their number.

    **Raises:** ValueError for numbers out of range.
    """

    sampler: AbstractSampler
    base: AbstractNormalised | None = None
    num_populations: int = eqx.field(static=True, default=16)
    num_particles: int = eqx.field(static=True, default=256)
    num_moves: int = eqx.field(static=True, default=4)
    ess: float = eqx.field(static=True, default=0.5)
    betas: Float[Array, " rungs"] | None = eqx.field(
        default=None, converter=lambda b: None if b is None else jnp.asarray(b, float)
    )
    max_rungs: int = eqx.field(static=True, default=128)

    def __check_init__(self):
        least = {"num_populations": 2, "num_particles": 2, "num_moves": 1, "max_rungs": 1}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ValueError(
                    f"TemperedSMC: expected {name} from {smallest}, got {getattr(self, name)}"
                )
        if not 0 < self.ess < 1:
            raise ValueError(f"TemperedSMC: expected ess between 0 and 1, got {self.ess}")
        if self.betas is not None:
            betas = np.asarray(self.betas)
            if betas.ndim != 1 or betas[0] <= 0 or betas[-1] != 1 or np.any(np.diff(betas) <= 0):
                raise ValueError(
                    f"TemperedSMC: expected betas that rise from above 0 to 1, got {betas}"
                )

    def run(
        self, energy: AbstractEnergy, *, key: Key[Array, ""], precision: float = 0.25
    ) -> Population:
        """Draws and log Z with its verdict.

        **Arguments:** `precision`: the largest standard error of log Z, in nats, that may be called
        reliable.

        **Raises:** TypeError where the space has no default base or the sampler refuses.
        """
        start = time.perf_counter()
        check_scalar(energy)
        path = energy.path(default_base(energy.space) if self.base is None else self.base)
        key_pilot, key_run = jax.random.split(as_key(key))
        schedule = _pilot(self, path, key_pilot)
        x, log_density, log_means, acceptance = _populations(self, path, schedule, key_run)
        num = int(schedule.num)
        log_weights = float(path.log_z0) + np.asarray(log_means, np.float64)[:num].sum(0)
        betas = np.concatenate([[0.0], np.asarray(schedule.betas, np.float64)[:num]])
        return _answer(
            self,
            energy,
            jax.tree.map(np.asarray, x),
            np.asarray(log_density, np.float64),
            log_weights,
            betas,
            np.asarray(acceptance, np.float64)[:num],
            schedule.is_carried,
            start,
            precision,
        )


@eqx.filter_jit
def _pilot(method: TemperedSMC, path: AbstractPath, key) -> PopulationSchedule:
    """One population that finds rungs and tunings."""
    sampler, given = method.sampler, method.betas
    num = _num_pilots(method)
    most = method.max_rungs if given is None else given.shape[0]
    key_draw, key_init, key = jax.random.split(key, 3)
    x = path.draw(num, key=key_draw)
    state, example = sampler.init(path.at(1.0), x, key=key_init)
    is_carried = path.is_linear and type(state) is State
    tunings = jax.tree.map(lambda a: jnp.zeros((most, *a.shape), a.dtype), example)

    def next_beta(weights, here):
        """The largest β whose weights keep the effective share; 1 if it does."""

        def enough(there):
            w = weights(there)
            top = jnp.max(w)
            w = jnp.exp(w - jnp.where(jnp.isfinite(top), top, 0.0))
            return jnp.sum(w) ** 2 >= method.ess * num * jnp.sum(w**2)

        def halve(_, ends):
            low, high = ends
            middle = (low + high) / 2
            ok = enough(jnp.minimum(here + jnp.exp(middle), 1.0))
            return jnp.where(ok, middle, low), jnp.where(ok, high, middle)

        ends = jnp.log(jnp.asarray(1e-9, here.dtype)), jnp.log(1 - here)
        low, _ = jax.lax.fori_loop(0, _BISECTIONS, halve, ends)
        step = jnp.maximum(jnp.exp(low), 4 * jnp.finfo(here.dtype).eps * here)
        return jnp.where(enough(jnp.ones_like(here)), 1.0, jnp.minimum(here + step, 1.0))

    def rung(carry):
        state, here, betas, tunings, i, key = carry
        key, key_resample, key_init, key_tune = jax.random.split(key, 4)
        weights = _increments(path, state, here, is_carried)
        there = next_beta(weights, here) if given is None else given[i]
        index = systematic(weights(there)[None], key_resample)[0]
        state = _survivors(sampler, path, state, index, here, there, is_carried, key_init)
        energy = path.at(there)
        tuning = sampler.init(energy, state.x, key=key_init)[1]
        state, tuning, _ = run(
            sampler,
            energy,
            state,
            tuning,
            key=key_tune,
            num_steps=_TUNING_STEPS,
            adapt=True,
            keep=False,
        )
        tunings = jax.tree.map(lambda all_, one: all_.at[i].set(one), tunings, tuning)
        return state, there, betas.at[i].set(there), tunings, i + 1, key

    def unfinished(carry):
        return (carry[1] < 1) & (carry[4] < most)

    zero = jnp.zeros((), float)
    carry = state, zero, jnp.zeros(most, float), tunings, jnp.zeros((), jnp.int32), key
    _, _, betas, tunings, count, _ = jax.lax.while_loop(unfinished, rung, carry)
    return PopulationSchedule(betas, tunings, count, is_carried)


@eqx.filter_jit
def _populations(method: TemperedSMC, path: AbstractPath, schedule: PopulationSchedule, key):
    """(x, f) (populations, particles, …), log mean weights (rungs, populations), acceptance."""
    sampler = method.sampler
    shape = method.num_populations, method.num_particles
    num = shape[0] * shape[1]
    most, is_carried = schedule.betas.shape[0], schedule.is_carried
    key_draw, key_init, key = jax.random.split(key, 3)
    state, _ = sampler.init(path.at(1.0), path.draw(num, key=key_draw), key=key_init)

    def rung(carry):
        state, here, log_means, acceptance, i, key = carry
        key, key_resample, key_init, *key_moves = jax.random.split(key, 3 + method.num_moves)
        there = schedule.betas[i]
        w = _increments(path, state, here, is_carried)(there).reshape(shape)
        index = (systematic(w, key_resample) + shape[1] * jnp.arange(shape[0])[:, None]).reshape(-1)
        state = _survivors(sampler, path, state, index, here, there, is_carried, key_init)
        energy = path.at(there)
        tuning = jax.tree.map(lambda a: a[i], schedule.tunings)
        accepted = jnp.zeros((), acceptance.dtype)
        for key_move in key_moves:
            state, info = sampler.step(energy, state, tuning, key=key_move)
            accepted = accepted + jnp.mean(info.acceptance) / method.num_moves
        log_mean = jax.nn.logsumexp(w, axis=1) - np.log(shape[1])
        return (
            state,
            there,
            log_means.at[i].set(log_mean),
            acceptance.at[i].set(accepted),
            i + 1,
            key,
        )

    carry = (
        state,
        jnp.zeros((), float),
        jnp.zeros((most, shape[0]), float),
        jnp.zeros(most, float),
        jnp.zeros((), jnp.int32),
        key,
    )
    state, last, log_means, acceptance, _, _ = jax.lax.while_loop(
        lambda carry: carry[4] < schedule.num, rung, carry
    )
    f = jax.lax.cond(
        last == 1, lambda s: s.log_density, lambda s: batched(path.at(1.0), s.x), state
    )
    x = jax.tree.map(lambda a: a.reshape(*shape, *a.shape[1:]), state.x)
    return x, f.reshape(shape), log_means, acceptance


def _num_pilots(method: TemperedSMC) -> int:
    return max(method.num_particles // 2, 128)


def _known(here):
    """The β whose f the states hold at the rung `here`: the first ones, of the base, hold f_1."""
    return jnp.where(here > 0, here, 1.0)


def _increments(path: AbstractPath, state: State, here, is_carried: bool):
    """β ↦ f_β(x) − f_here(x) of every particle.

    Carried along a linear path it is (β − here) (f_known − f_0)/known.
    """
    if is_carried:
        start = jax.vmap(path.start_log_density)(state.x)
        slope = (state.log_density - start) / _known(here)
        return lambda there: _usable((there - here) * slope)
    increment = jax.vmap(path.increment, in_axes=(0, None, None))
    return lambda there: _usable(increment(state.x, here, there))


def _survivors(sampler, path: AbstractPath, state: State, index, here, there, is_carried, key):
    """The particles chosen by `index`, of the rung `here`, as they are at another."""
    if is_carried:
        chosen = jax.tree.map(lambda a: a[index], state)
        return at_other_beta(sampler, path, chosen, _known(here), there)
    x = jax.tree.map(lambda a: a[index], state.x)
    return sampler.init(path.at(there), x, key=key)[0]


def _usable(log_weight: Float[Array, "..."]) -> Float[Array, "..."]:
    """A weight of 0 where f is NaN or +∞, which no draw may rest on."""
    return jnp.where(jnp.isnan(log_weight) | (log_weight == jnp.inf), -jnp.inf, log_weight)


def _answer(
    method, energy, x, log_density, log_weights, betas, acceptance, is_carried, start, precision
) -> Population:
    num_populations, num_particles = log_density.shape
    num_rungs, cost = len(betas) - 1, method.sampler.evaluations_per_step(energy)
    # Where f is not carried: weights, states anew, and the pilot's look for the next rung
    anew, look = (0, 0) if is_carried else (2, _BISECTIONS + 1)
    particle = 1 + num_rungs * (method.num_moves * cost + anew)
    pilot = 1 + num_rungs * (_TUNING_STEPS * cost + anew + look)
    num_evaluations = int(num_populations * num_particles * particle + _num_pilots(method) * pilot)

    top = log_weights.max()
    finite = bool(np.isfinite(top))
    share = np.exp(log_weights - top) if finite else np.ones(num_populations)
    std_err = float(share.std(ddof=1) / share.mean() / np.sqrt(num_populations))
    std_err = std_err if finite else np.inf
    # log of a mean is low by half its variance
    value = float(top + np.log(share.mean()) + std_err**2 / 2) if finite else -np.inf
    share /= share.sum()
    ess = float(1 / np.sum(share**2))

    def column(like):
        return share.reshape(-1, *(1,) * (like.ndim - 1))

    means = jax.tree.map(lambda a: a.mean(1, dtype=np.float64), x)
    squares = jax.tree.map(lambda a: np.square(a, dtype=np.float64).mean(1), x)
    mean = jax.tree.map(lambda m: np.sum(column(m) * m, 0), means)
    sd = jax.tree.map(
        lambda s, m: np.sqrt(np.maximum(np.sum(column(s) * s, 0) - m**2, 0)), squares, mean
    )
    correction = num_populations / (num_populations - 1)
    mcse = jax.tree.map(
        lambda each, m: np.sqrt(correction * np.sum(column(each) ** 2 * (each - m) ** 2, 0)),
        means,
        mean,
    )
    off = [
        float(np.max(np.where(s > 0, e / np.where(s > 0, s, 1.0), 0.0)))
        for e, s in zip(jax.tree.leaves(mcse), jax.tree.leaves(sd), strict=True)
    ]
    checks = [
        (finite, "no particle has a finite, positive weight"),
        (bool(betas[-1] == 1.0), f"{len(betas) - 1} rungs led only to beta = {betas[-1]:.3g}"),
        (
            std_err <= precision,
            f"standard error {std_err:.3g} nat of log Z is above the {precision:g} asked for",
        ),
        (
            ess >= num_populations / 2,
            f"{ess:.1f} effective populations of {num_populations}: a few decide the answer",
        ),
        (max(off) <= 0.1, f"populations differ: a mean is known only to {max(off):.2g} sd"),
        (
            bool(acceptance.min() >= 0.01),
            f"moves are hardly ever accepted at some rung ({acceptance.min():.2%})",
        ),
        (method.sampler.is_exact, f"{type(method.sampler).__name__} is an unadjusted kernel"),
    ]
    verdict = Verdict.of(checks)
    seconds = time.perf_counter() - start
    from scipy.stats import t

    width = float(t.ppf(0.975, num_populations - 1)) * std_err if finite else np.inf
    low, high = value - width, value + width
    name = f"tempered SMC ({len(betas) - 1} rungs, {num_populations} × {num_particles} particles)"
    log_z = LogZ(
        value=np.float64(value),
        std_err=np.float64(std_err),
        lower=np.float64(low),
        upper=np.float64(high),
        bracket=(low, None),
        method=name,
        ess=np.float64(ess),
        num_evaluations=num_evaluations,
        seconds=seconds,
        time_limited=False,
        reliable=verdict.reliable,
        reasons=verdict.reasons,
    )
    verdict.warn("tempered SMC")
    return Population(
        x=x,
        log_density=log_density,
        log_weights=log_weights,
        log_z=log_z,
        mean=mean,
        sd=sd,
        mcse_mean=mcse,
        betas=betas,
        acceptance=acceptance,
        method=name,
        num_evaluations=num_evaluations,
        seconds=seconds,
        reliable=verdict.reliable,
        reasons=verdict.reasons,
    )
