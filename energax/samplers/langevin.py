"""Langevin kernels: one gradient a step, unadjusted (ULA) or with Metropolis' correction (MALA)."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from energax.samplers._base import (
    ENERGY_JUMP,
    AbstractSampler,
    DualAveraging,
    EnsembleMoments,
    Info,
    State,
    accepted,
    all_finite,
    choose,
    column,
    evaluate,
    metropolis_probability,
    start_on_real,
)
from energax.samplers._base import is_real as is_real
from energax.samplers._base import standard_normal as _normal


class ULA(AbstractSampler):
    """x' = x + ε/2 ∇f(x) + √ε z with z ~ N(0, 1), unadjusted.

    Roberts & Tweedie 1996, section 1.4.1 (their h is ε). It leaves exp(f) invariant only as ε → 0:
    the bias of expectations is of order ε (the variance of N(0, σ²) comes out as σ²/(1 − ε/(4σ²))).
    A step to where f is not finite, or more than 1000 nats up in energy, counts as divergent and is
    not taken.

    **Arguments:** `step_size`: ε, in units of x squared; it is not tuned.
    """

    step_size: Float[Array, ""] = eqx.field(
        default=0.01, converter=lambda step: jnp.asarray(step, float)
    )

    is_exact = property(lambda self: False)

    def evaluations_per_step(self, energy):
        return 1.0

    def init(self, energy, x, *, key):
        return start_on_real(self, energy, x), None

    def refresh(self, energy, state):
        return evaluate(energy, state.x)

    def step(self, energy, state, tuning, *, key):
        noise = _normal(key, state.x)
        x = jax.tree.map(
            lambda x, g, z: x + self.step_size / 2 * g + jnp.sqrt(self.step_size) * z,
            state.x,
            state.gradient,
            noise,
        )
        new = evaluate(energy, x)
        usable, divergent = _judge(new, state)
        taken = usable & ~divergent
        return choose(taken, new, state), Info(taken.astype(float), divergent)

    def adapt(self, tuning, state, info):
        return tuning


class MALATuning(eqx.Module):
    """ε by dual averaging, and the spread of each coordinate."""

    factor: DualAveraging
    moments: EnsembleMoments


class MALA(AbstractSampler):
    """x' = x + √ε s (h(x) + z), h = √ε/2 s ∇f, accepted with the ratio of Metropolis and Hastings.

    Roberts & Tweedie 1996, section 1.4.2, with a diagonal metric s² and a truncated drift (1.4.3):
    h is shortened to a length of at most 2√n noise lengths, n coordinates, so that steep tails do
    not stop a chain. Target and proposal give the acceptance
    min(1, exp(f(x') − f(x) − ½ h̄·(2z + h̄))), h̄ = h(x) + h(x').

    In warm-up s becomes the ensemble's sd in each coordinate, and ε drives the mean acceptance to
    0.574 (Roberts & Rosenthal 1998) by dual averaging.

    **Arguments:** `step_size`: None is tuned in warm-up; else ε is used as given, with s = 1.
    """

    step_size: Float[Array, ""] | None = eqx.field(
        default=None, converter=lambda step: None if step is None else jnp.asarray(step, float)
    )

    is_exact = property(lambda self: True)

    def evaluations_per_step(self, energy):
        return 1.0

    def init(self, energy, x, *, key):
        state = start_on_real(self, energy, x)
        if self.step_size is not None:
            return state, None
        step_size = 1.65**2 * energy.space.num_sites ** (-1 / 3)
        return state, MALATuning(DualAveraging.start(step_size), EnsembleMoments.start(x))

    def refresh(self, energy, state):
        return evaluate(energy, state.x)

    def step(self, energy, state, tuning, *, key):
        key_noise, key_accept = jax.random.split(key)
        if tuning is None:
            root = jax.tree.map(lambda x: jnp.sqrt(jnp.asarray(self.step_size)), state.x)
        else:
            root_step = jnp.exp(tuning.factor.log_step / 2)
            root = jax.tree.map(lambda sd: root_step * sd, tuning.moments.sd)
        limit = 2 * math.sqrt(energy.space.num_sites)

        def drift(gradient):
            raw = jax.tree.map(lambda r, g: r / 2 * g, root, gradient)
            shorten = limit / jnp.maximum(limit, jnp.sqrt(_dot(raw, raw)))
            return jax.tree.map(lambda h: h * column(shorten, h), raw)

        noise = _normal(key_noise, state.x)
        here = drift(state.gradient)
        x = jax.tree.map(lambda x, r, h, z: x + r * (h + z), state.x, root, here, noise)
        new = evaluate(energy, x)
        both = jax.tree.map(jnp.add, here, drift(new.gradient))
        proposals = -0.5 * _dot(both, jax.tree.map(lambda h, z: 2 * z + h, both, noise))
        usable, divergent = _judge(new, state)
        probability = metropolis_probability(
            new.log_density - state.log_density + proposals, state.log_density, usable
        )
        accept = accepted(key_accept, probability)
        return choose(accept, new, state), Info(probability, divergent)

    def adapt(self, tuning, state, info):
        if tuning is None:
            return None
        factor = tuning.factor.update(info.acceptance, 0.574)
        return MALATuning(factor, tuning.moments.update(state.x))

    def freeze(self, tuning):
        if tuning is None:
            return None
        return MALATuning(tuning.factor.freeze(), tuning.moments.freeze())

    def describe(self, state, tuning):
        step_size = self.step_size if tuning is None else tuning.factor.step_size
        return {"step_size": step_size}


def _judge(new: State, old: State) -> tuple[Bool[Array, " chains"], Bool[Array, " chains"]]:
    """(usable, divergent); a proposal with f = −∞ is neither: being outside is no fault."""
    finite = all_finite(new.x)
    usable = finite & jnp.isfinite(new.log_density)
    outside = finite & (new.log_density == -jnp.inf)
    # From where f is not finite every finite place is welcome.
    jump = (old.log_density - new.log_density > ENERGY_JUMP) & jnp.isfinite(old.log_density)
    return usable, ~outside & (~usable | jump)


def _dot(a: PyTree, b: PyTree) -> Float[Array, " chains"]:
    """Σ a b over the coordinates of each chain."""
    products = jax.tree.map(lambda u, v: (u * v).reshape(u.shape[0], -1).sum(-1), a, b)
    return sum(jax.tree.leaves(products))  # type: ignore[return-value]
