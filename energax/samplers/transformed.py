"""Any sampler for ℝⁿ, run on a box by a change of variables."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp

from energax.energies.transform import Unconstrained
from energax.samplers._base import AbstractSampler, State
from energax.spaces import Point


class TransformedState(State):
    """As `State`, x inside the box and f(x) itself; `inner` is the state on ℝⁿ that makes them."""

    inner: State | None = None


class Transformed(AbstractSampler):
    """`sampler` on f(x(y)) + log |det ∂x/∂y|, y on ℝⁿ; the states show x(y) and f(x).

    The change of variables, `energax.energies.Unconstrained`, is that of Carpenter et al. 2017
    (Stan): logarithms of the distances from the ends. Chains never meet a wall.

    **Arguments:** `sampler`: any that moves x on Real spaces, as `ChEES()` or `MALA()`.

    **Raises:** TypeError on anything but Box, Real, and Records of them.
    """

    sampler: AbstractSampler

    @property
    def is_exact(self):
        return self.sampler.is_exact

    def evaluations_per_step(self, energy):
        return self.sampler.evaluations_per_step(Unconstrained(energy))

    def init(self, energy, x, *, key):
        free = Unconstrained(energy)
        inner, tuning = self.sampler.init(free, free.unconstrain(x), key=key)
        return _shown(free, inner), tuning

    def refresh(self, energy, state):
        free = Unconstrained(energy)
        return _shown(free, self.sampler.refresh(free, _inner(free, state)))

    def follow(self, energy, state):
        free = Unconstrained(energy)
        return _shown(free, self.sampler.follow(free, _inner(free, state)))

    def step(self, energy, state, tuning, *, key):
        free = Unconstrained(energy)
        inner, info = self.sampler.step(free, _of(state), tuning, key=key)
        return _shown(free, inner), info

    def reversal(self):
        return dataclasses.replace(self, sampler=self.sampler.reversal())

    def adapt(self, tuning, state, info):
        return self.sampler.adapt(tuning, _of(state), info)

    def freeze(self, tuning):
        return self.sampler.freeze(tuning)

    def describe(self, state, tuning):
        return self.sampler.describe(_of(state), tuning)


def _shown(free: Unconstrained, inner: State) -> TransformedState:
    log_density = inner.log_density - jax.vmap(free.log_jacobian)(inner.x)
    return TransformedState(free.constrain(inner.x), log_density, None, inner)


def _of(state: State) -> State:
    assert isinstance(state, TransformedState) and state.inner is not None
    return state.inner


def _inner(free: Unconstrained, state: State) -> State:
    """The state on ℝⁿ, at the y of `state.x` wherever that was replaced from outside."""
    inner = _of(state)
    old = inner.x

    def kept(x, shown, y, again):
        return jnp.where(x == shown, y, again)

    y: Point = jax.tree.map(kept, state.x, free.constrain(old), old, free.unconstrain(state.x))
    return eqx.tree_at(lambda s: s.x, inner, y)
