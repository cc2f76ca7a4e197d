"""Elliptical slice sampling, for energies that are a Gaussian prior plus the rest."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from energax.energies._base import AbstractNormalised, batched
from energax.energies.exponential_family import MultivariateNormal, Normal
from energax.energies.reference import Gaussian
from energax.samplers._base import AbstractSampler, Info, State, choose, column
from energax.spaces import Point

_MOST = 100  # shrinkings; a bracket loses a third of its width in each on average


class EllipticalSlice(AbstractSampler):
    """x' = m + (x − m) cos θ + ν sin θ, ν ~ N(0, C), θ from the part of the ellipse where
    ℓ(x') > ℓ(x) + log u, u ~ U(0, 1); p ∝ N(m, C) exp(ℓ), ℓ = f − log N(m, C).

    Murray, Adams & MacKay 2010 (arXiv:1001.0175), figure 2: θ is drawn from a bracket that shrinks
    towards 0 until it fits. Nothing to tune, every step moves; it needs no gradient, but works only
    as well as the prior fits the energy. A chain none of 100 angles fits stays, as divergent.

    **Arguments:** `prior`: energies.Gaussian, Normal or MultivariateNormal, on the energy's space.

    **Raises:** TypeError for another prior; ValueError if its space is not that of the energy.
    """

    prior: AbstractNormalised

    def __check_init__(self):
        if not isinstance(self.prior, (Gaussian, Normal, MultivariateNormal)):
            raise TypeError(
                "EllipticalSlice: expected a Gaussian prior such as energax.energies.Gaussian("
                f"space, mean, scale), got {type(self.prior).__name__}; HMC() or ChEES() need none"
            )

    is_exact = property(lambda self: True)

    def evaluations_per_step(self, energy):
        return 4.0  # angles tried, more where the prior says little

    def init(self, energy, x, *, key):
        if type(energy.space) is not type(self.prior.space) or (
            energy.space.shape != self.prior.space.shape
        ):
            raise ValueError(
                f"EllipticalSlice: the prior is on {self.prior.space}, the energy on "
                f"{energy.space}; they must be the same"
            )
        return State(x, batched(energy, x)), None

    def step(self, energy, state, tuning, *, key):
        key_ellipse, key_level, key_angle = jax.random.split(key, 3)
        num = state.log_density.shape[0]
        mean = self.prior.mean  # type: ignore[attr-defined]
        centred = state.x - mean
        other = self.prior.draw(num, key=key_ellipse) - mean
        floor = _or_least(state.log_density - batched(self.prior, state.x))
        level = floor + jnp.log1p(-jax.random.uniform(key_level, (num,)))
        angle = jax.random.uniform(key_angle, (num,), float, 0.0, 2 * math.pi)

        def point(angle) -> Point:
            c, s = column(jnp.cos(angle), centred), column(jnp.sin(angle), centred)
            return mean + centred * c + other * s

        def fits(angle) -> tuple[Array, Float[Array, " chains"], Array]:
            x = point(angle)
            log_density = batched(energy, x)
            rest = _or_least(log_density - batched(self.prior, x))
            return x, log_density, (rest > level) & jnp.isfinite(log_density)

        def unfinished(carry):
            return ~jnp.all(carry[-2]) & (carry[-1] < _MOST)

        def shrink(carry):
            angle, low, high, x, log_density, done, count = carry
            low, high = jnp.where(angle < 0, angle, low), jnp.where(angle < 0, high, angle)
            draw = jax.random.uniform(jax.random.fold_in(key_angle, count), (num,))
            angle = jnp.where(done, angle, low + (high - low) * draw)
            new_x, new_log_density, fine = fits(angle)
            fine &= ~done
            x = choose(fine, new_x, x)
            log_density = jnp.where(fine, new_log_density, log_density)
            return angle, low, high, x, log_density, done | fine, count + 1

        x, log_density, done = fits(angle)
        x = choose(done, x, state.x)
        log_density = jnp.where(done, log_density, state.log_density)
        first = angle, angle - 2 * math.pi, angle, x, log_density, done, jnp.asarray(1)
        *_, x, log_density, done, count = jax.lax.while_loop(unfinished, shrink, first)
        # Every round evaluates every chain
        evaluations = jnp.broadcast_to(count.astype(log_density.dtype), (num,))
        return State(x, log_density), Info(done.astype(float), ~done, evaluations)

    def adapt(self, tuning, state, info):
        return tuning


def _or_least(value):
    """Not a number, or no density: below any level."""
    return jnp.where(jnp.isnan(value), -jnp.inf, value)
