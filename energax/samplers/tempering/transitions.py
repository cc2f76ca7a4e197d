"""Tempered transitions: up to the base and back to the target within one step of a chain.

Neal 1996, "Sampling from multimodal distributions using tempered transitions".
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from energax.energies._base import AbstractNormalised
from energax.samplers._base import (
    AbstractSampler,
    Info,
    State,
    accepted,
    choose,
    metropolis_probability,
)
from energax.samplers.tempering._base import (
    BaseFit,
    Ladder,
    at_new_betas,
    evenly_spaced,
    first_betas,
)

_FIRST_WINDOW = 16
"""Steps until the ladder is first moved; each later window is twice as long."""


class TransitionInfo(Info):
    """As `Info`, the acceptance that of the whole transition; and what warm-up learns from."""

    states: Any = None  # at β₁ … β_R, rungs first
    rungs: Any = None
    spread: Float[Array, " rungs"] | None = None  # variance of the weights of each interval


class TransitionTuning(eqx.Module):
    """The ladder, the inner tunings (rungs first), and the window that will move the ladder."""

    ladder: Ladder
    inner: Any
    fit: BaseFit | None  # None where the base is given
    window: Int[Array, ""]
    steps: Int[Array, ""]
    spread: Float[Array, " rungs"]


class TemperedTransitions(AbstractSampler):
    """A proposal that is heated from β_R = 1 through β_{R−1} … β₁, drawn anew at β₀ = 0, cooled
    through β₁ … β_{R−1}, and accepted with min(1, Π exp of all changes of f_β on the way).

    Neal 1996, section 3. The path is `energy.path(base)`. On the way up in temperature the
    inner kernel runs backwards in time (`reversal`), on the way down forwards; a plain inner step
    at the target follows. Unlike `ParallelTempering` it holds one point a chain, but each step
    climbs the whole ladder, and is accepted only where that has many rungs: their number should
    grow as the square of the barrier that `ParallelTempering` reports, not as the barrier.

    In warm-up every rung tunes its own kernel, and the rungs move to where the weights of all
    intervals have the same spread. Where no base is given its unbounded coordinates are fitted
    meanwhile, as in `ParallelTempering`.

    **Arguments:** `sampler`: the kernel of every rung but the base. `base`: an AbstractNormalised
    on the energy's space, None for one fitted in warm-up. `num_rungs`: R.

    **Raises:** ValueError unless `num_rungs` is at least 2.
    """

    sampler: AbstractSampler
    base: AbstractNormalised | None = None
    num_rungs: int = eqx.field(static=True, default=32)
    backwards: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        if self.num_rungs < 2:
            raise ValueError(
                f"TemperedTransitions: expected num_rungs from 2, got {self.num_rungs}"
            )

    @property
    def is_exact(self):
        return self.sampler.is_exact

    def evaluations_per_step(self, energy):
        inner = self.sampler.evaluations_per_step(energy)
        return 2 * (self.num_rungs - 1) * (inner + 1) + inner + 3

    def init(self, energy, x, *, key):
        """(State, Tuning).

        **Raises:** TypeError if the space has no default base, or the inner sampler refuses.
        """
        betas = first_betas(self.num_rungs)
        fit = BaseFit.start(x) if self.base is None else None
        base = self.base if fit is None else fit.base(energy.space)
        assert base is not None
        path = energy.path(base)
        inner = eqx.filter_vmap(lambda beta, key: self.sampler.init(path.at(beta), x, key=key)[1])(
            betas, jax.random.split(key, self.num_rungs)
        )
        state, _ = self.sampler.init(energy, x, key=key)
        whole = jnp.zeros((), jnp.int32)
        spread = jnp.zeros(self.num_rungs, float)
        ladder = Ladder(betas, base, whole)
        return state, TransitionTuning(ladder, inner, fit, whole + _FIRST_WINDOW, whole, spread)

    def refresh(self, energy, state):
        return self.sampler.refresh(energy, state)

    def step(self, energy, state, tuning, *, key):
        key_tour, key_move = jax.random.split(key)
        target = jax.tree.map(lambda a: a[-1], tuning.inner)
        if self.backwards:
            state, info = self.sampler.reversal().step(energy, state, target, key=key_move)
            state, tour = self._tour(energy, state, tuning, key_tour)
        else:
            state, tour = self._tour(energy, state, tuning, key_tour)
            state, info = self.sampler.step(energy, state, target, key=key_move)
        probability, divergent, evaluations, states, infos, spread = tour

        def with_target(rungs, last):
            return jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), rungs, last)

        if info.evaluations is not None and evaluations is not None:
            evaluations = evaluations + info.evaluations + 2 * self.num_rungs + 1
        return state, TransitionInfo(
            probability,
            divergent | info.divergent,
            evaluations,
            with_target(states, state),
            with_target(infos, info),
            spread,
        )

    def _tour(self, energy, state: State, tuning: TransitionTuning, key):
        """The transition itself, which is reversible whichever way the inner kernel runs."""
        sampler, path, betas = self.sampler, energy.path(tuning.ladder.base), tuning.ladder.betas
        key_heat, key_base, key_cool = jax.random.split(key, 3)
        below = jax.tree.map(lambda a: a[:-1], tuning.inner)  # tunings at β₁ … β_{R−1}
        num = self.num_rungs - 1

        def heat(state, inputs):
            beta, tuning, key = inputs
            hot = sampler.temper(path.at(beta), state)
            change = hot.log_density - state.log_density
            hot, info = sampler.reversal().step(path.at(beta), hot, tuning, key=key)
            return hot, (change, info.divergent, info.evaluations)

        def cool(state, inputs):
            beta, warmer, tuning, key = inputs
            state, info = sampler.step(path.at(beta), state, tuning, key=key)
            cold = sampler.temper(path.at(warmer), state)
            return cold, (cold.log_density - state.log_density, state, info)

        inputs = betas[:-1], below, jax.random.split(key_heat, num)
        hot, (heated, lost, spent) = jax.lax.scan(heat, state, inputs, reverse=True)
        off = sampler.temper(path.at(0.0), hot).log_density - hot.log_density
        x = path.draw(state.log_density.shape[0], key=key_base)
        start = sampler.refresh(path.at(betas[0]), eqx.tree_at(lambda s: s.x, hot, x))
        on = start.log_density - sampler.temper(path.at(0.0), start).log_density
        inputs = betas[:-1], betas[1:], below, jax.random.split(key_cool, num)
        proposed, (cooled, states, infos) = jax.lax.scan(cool, start, inputs)
        proposed = sampler.temper(energy, proposed)

        changes = jnp.stack(
            [jnp.concatenate([off[None], heated]), jnp.concatenate([on[None], cooled])]
        )
        log_ratio = jnp.sum(changes, axis=(0, 1))
        usable = jnp.isfinite(proposed.log_density) & ~jnp.isnan(log_ratio)
        probability = metropolis_probability(log_ratio, state.log_density, usable)
        accept = accepted(jax.random.fold_in(key_base, 1), probability)
        finite = jnp.isfinite(changes)
        spread = jnp.var(jnp.where(finite, jnp.clip(changes, -1e3, 1e3), -1e3), axis=2).mean(0)
        divergent = jnp.any(lost, axis=0) | jnp.any(infos.divergent, axis=0)
        if spent is not None and infos.evaluations is not None:
            spent = jnp.sum(spent + infos.evaluations, axis=0)
        tour = probability, divergent, spent, states, infos, spread
        return choose(accept, proposed, state), tour

    def reversal(self):
        return TemperedTransitions(self.sampler, self.base, self.num_rungs, not self.backwards)

    def adapt(self, tuning, state, info):
        assert isinstance(info, TransitionInfo) and info.spread is not None
        inner = eqx.filter_vmap(self.sampler.adapt)(tuning.inner, info.states, info.rungs)
        fit = None if tuning.fit is None else tuning.fit.update(state.x)
        tuning = TransitionTuning(
            tuning.ladder, inner, fit, tuning.window, tuning.steps + 1, tuning.spread + info.spread
        )
        return jax.lax.cond(
            tuning.steps >= tuning.window, lambda t: self._moved(t), lambda t: t, tuning
        )

    def _moved(self, tuning: TransitionTuning) -> TransitionTuning:
        """The ladder at even spreads, the tunings there, and a longer window."""
        old = tuning.ladder
        betas = evenly_spaced(old.betas, jnp.sqrt(tuning.spread / tuning.steps))
        fit = None if tuning.fit is None else tuning.fit.renewed()
        base = old.base if fit is None else fit.base(old.base.space)
        return TransitionTuning(
            old.changed(betas, base),
            at_new_betas(tuning.inner, old.betas, betas),
            fit,
            2 * tuning.window,
            jnp.zeros_like(tuning.steps),
            jnp.zeros_like(tuning.spread),
        )

    def freeze(self, tuning):
        inner = eqx.filter_vmap(self.sampler.freeze)(tuning.inner)
        return eqx.tree_at(lambda t: t.inner, tuning, inner)

    def describe(self, state, tuning):
        target = jax.tree.map(lambda a: a[-1], tuning.inner)
        return {**self.sampler.describe(state, target), "betas": tuning.ladder.all_betas}
