"""Underdamped Langevin dynamics: x with a velocity that noise and friction keep warm."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from energax.samplers._base import (
    ENERGY_JUMP,
    AbstractSampler,
    Info,
    State,
    all_finite,
    choose,
    evaluate,
    standard_normal,
    start_on_real,
)


class VelocityState(State):
    """As `State`, and the velocity of each chain."""

    velocity: Any = None


class UnderdampedLangevin(AbstractSampler):
    """v += ε/2 ∇f, x += ε/2 v, v ← cv + √(1 − c²) z, x += ε/2 v, v += ε/2 ∇f, c = e^{−γε}.

    BAOAB, Leimkuhler & Matthews 2013 (AMRX, eq. 8), of dx = v dt, dv = ∇f dt − γv dt + √(2γ) dW,
    unadjusted: it leaves exp(f) invariant only as ε → 0. The bias of expectations is of order ε²,
    and none where f is quadratic and ε below twice the smallest sd. One gradient a step. A step to
    where f is not finite, or more than 1000 nats up in energy, counts as divergent and is not
    taken; the chain's velocity turns round.

    **Arguments:** `step_size`: ε, in units of x. `friction`: γ, in units of 1/ε; a large one
    forgets the velocity and walks as `ULA` does. Neither is tuned.
    """

    step_size: Float[Array, ""] = eqx.field(default=0.1, converter=lambda a: jnp.asarray(a, float))
    friction: Float[Array, ""] = eqx.field(default=1.0, converter=lambda a: jnp.asarray(a, float))

    is_exact = property(lambda self: False)

    def evaluations_per_step(self, energy):
        return 1.0

    def init(self, energy, x, *, key):
        state = start_on_real(self, energy, x)
        velocity = standard_normal(key, x)
        return VelocityState(x, state.log_density, state.gradient, velocity), None

    def refresh(self, energy, state):
        assert isinstance(state, VelocityState)
        new = evaluate(energy, state.x)
        return VelocityState(new.x, new.log_density, new.gradient, state.velocity)

    def step(self, energy, state, tuning, *, key):
        assert isinstance(state, VelocityState)
        half = self.step_size / 2
        keep = jnp.exp(-self.friction * self.step_size)
        noise = standard_normal(key, state.x)

        def plus(a, b):
            return jax.tree.map(lambda a, b: a + half * b, a, b)

        velocity = plus(state.velocity, state.gradient)
        x = plus(state.x, velocity)
        velocity = jax.tree.map(lambda v, z: keep * v + jnp.sqrt(1 - keep**2) * z, velocity, noise)
        at = evaluate(energy, plus(x, velocity))
        velocity = plus(velocity, at.gradient)
        new = VelocityState(at.x, at.log_density, at.gradient, velocity)
        fall = state.log_density - new.log_density
        jump = (fall > ENERGY_JUMP) & jnp.isfinite(state.log_density)
        finite = all_finite((new.x, new.velocity)) & jnp.isfinite(new.log_density)
        taken = finite & ~jump
        back = jax.tree.map(jnp.negative, state.velocity)
        old = VelocityState(state.x, state.log_density, state.gradient, back)
        outside = all_finite(new.x) & (new.log_density == -jnp.inf)
        return choose(taken, new, old), Info(taken.astype(float), ~taken & ~outside)

    def adapt(self, tuning, state, info):
        return tuning

    def describe(self, state, tuning):
        return {"step_size": self.step_size, "friction": self.friction}
