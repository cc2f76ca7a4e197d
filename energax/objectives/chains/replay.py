"""Contrastive divergence from a stock of points of which some start anew: a replay buffer.

And its improved form, in which the gradient goes through the chains' last step too.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from energax import random
from energax.energies._base import AbstractEnergy, AbstractNormalised, without_gradient
from energax.energies.reference import fitted_base
from energax.objectives._base import AbstractObjective, check_positive, check_whole, flat_f
from energax.objectives.chains._base import (
    advance,
    begin,
    sampler_of,
    two_phases,
)
from energax.samplers._base import AbstractSampler, is_real, started
from energax.spaces import Point

_OTHERS = 1_000
"""Points of the stock among which the nearest is sought."""


class Stock(eqx.Module):
    """Points of earlier updates, (size, *event), the sampler's tuning, and where points start."""

    points: Any
    tuning: Any
    base: AbstractNormalised


class _AbstractReplay(AbstractObjective):
    """Chains of a stock, of which some start anew."""

    num_steps: int = eqx.field(static=True, default=20)
    num_chains: int = eqx.field(static=True, default=100)
    size: int = eqx.field(static=True, default=10_000)
    restart: Float[Array, ""] = eqx.field(default=0.05, converter=lambda v: jnp.asarray(v, float))
    base: Any = None
    sampler: AbstractSampler | None = None

    fits_moments = property(lambda self: True)

    def __check_init__(self):
        for name in ("num_steps", "num_chains", "size"):
            check_whole(name, getattr(self, name))
        if self.size < self.num_chains:
            raise ValueError(
                f"size: expected a stock of at least num_chains={self.num_chains}, got {self.size}"
            )
        if not 0 <= float(self.restart) <= 1:
            raise ValueError(f"restart: expected a probability, got {float(self.restart):g}")
        if self.base is not None and not isinstance(self.base, AbstractNormalised):
            raise TypeError(
                f"{type(self).__name__}: chains start at draws of the base: expected a normalised "
                f"energy, got {type(self.base).__name__}"
            )

    def init(self, energy, data, *, key):
        """(None, the stock, all of it draws of the base).

        **Raises:** TypeError for a space that has no base.
        """
        key_draw, key_init = jax.random.split(key)
        base = fitted_base(energy.space, data) if self.base is None else self.base
        points = self._drawn(base, energy, self.size, key_draw)
        some = jax.tree.map(lambda a: a[: self.num_chains], points)
        tuning = started(sampler_of(self.sampler, energy), energy, some, key=key_init)[1]
        return None, Stock(points, tuning, without_gradient(base))

    def _moved(
        self, energy: AbstractEnergy, stock: Stock, key
    ) -> tuple[Point, Stock, dict[str, Float[Array, ""]]]:
        """(the points that were moved, the stock with them back in it, metrics)."""
        sampler = sampler_of(self.sampler, energy)
        key_place, key_restart, key_fresh, key_begin, key_move = jax.random.split(key, 5)
        # A run of places: cheaper than a random choice, and every point is as likely.
        first = jax.random.randint(key_place, (), 0, self.size)
        places = (first + jnp.arange(self.num_chains)) % self.size
        restarts = jax.random.uniform(key_restart, (self.num_chains,)) < self.restart
        fresh = self._drawn(stock.base, energy, self.num_chains, key_fresh)

        def mixed(old, new):
            mask = restarts.reshape(-1, *[1] * (new.ndim - 1))
            return jnp.where(mask, new, old[places])

        x = jax.tree.map(mixed, stock.points, fresh)
        start = begin(sampler, energy, x, key=key_begin)
        state, tuning, acceptance = advance(
            sampler, energy, start, stock.tuning, self.num_steps, key_move
        )
        points = jax.tree.map(lambda old, new: old.at[places].set(new), stock.points, state.x)
        metrics = {"acceptance": acceptance, "restarted": jnp.mean(restarts, dtype=float)}
        return state.x, Stock(points, tuning, stock.base), metrics

    @staticmethod
    def _drawn(base: AbstractNormalised, energy: AbstractEnergy, num: int, key) -> Point:
        draws = base.draw(num, key=key)
        example = energy.space.example()
        return jax.tree.map(lambda a, like: jnp.asarray(a, jnp.result_type(like)), draws, example)

    def evaluations_per_step(self, energy, batch_size):
        each = sampler_of(self.sampler, energy).evaluations_per_step(energy)
        return self.num_chains * (self.num_steps * each + 1) + batch_size


class ReplayCD(_AbstractReplay):
    """CD-k from a replay buffer: E_data[∇E] − E_q[∇E], q k steps on from points of a stock.

    Du & Mordatch 2019, "Implicit generation and modeling with energy-based models", section 3.2.
    An update takes `num_chains` points of the stock, puts a draw of the base in the place of each
    with probability `restart`, moves them by k steps and puts them back: a chain lives for 1 /
    `restart` updates of its own in the mean, and new ones find modes that the old ones do not know.
    Population target: the parameters whose chains of those ages have the data's mean ∇E. That is
    the truth where ages suffice to forget the base; else f is right for sampling by as many steps,
    not as a density. With `restart` = 0 and `size` = `num_chains` it is `PersistentCD` from the
    base, with `restart` = 1 short runs from it (Nijkamp, Hill, Zhu & Wu 2019). It costs k steps of
    each chain and two gradients.

    **Arguments:** `num_steps`: k. `num_chains`: moved an update. `size`: of the stock, from
    `num_chains`. `restart`: a probability. `base`: a normalised energy on the same space; None fits
    the base of the space to the data. `sampler`: None takes the energy's default; it goes on tuning
    itself over the whole training.

    **Raises:** ValueError for numbers out of range; TypeError for a base that is not normalised, or
    from `init` for a space that has none.
    """

    def __call__(self, energy, params, batch, carry, *, key):
        points, carry, metrics = self._moved(energy, carry, key)
        loss, of_phases = two_phases(energy, batch, points)
        return loss, carry, of_phases | metrics


class ImprovedCD(_AbstractReplay):
    """`ReplayCD` plus weight · KL(q, p) as θ moves q: −E_q[f(x(θ))] − H(q), f held fixed.

    Du, Li, Tenenbaum & Mordatch 2021, "Improved contrastive divergence training of energy-based
    models", eq. 6 to 9. Plain CD leaves out that the chains themselves depend on θ. Here the
    gradient goes through one more Langevin step of each chain, x(θ) = x + ½s²∇f(x) + sε, and the
    entropy is n · mean log distance to the nearest of up to 1000 points of the stock (Kozachenko &
    Leonenko 1987), n coordinates, each in units of its standard deviation there. Without the
    entropy chains would all run to the peaks of f. Population target: that of `ReplayCD`; at the
    truth KL(q, p) is smallest, so that its gradient is 0 too, but for the bias of the nearest
    neighbour. It costs one gradient of a gradient a chain more.

    Spaces: `Real` and records of it.

    **Arguments:** those of `ReplayCD`; `step_size` s in units of those standard deviations;
    `weight` of the term.

    **Raises:** ValueError for numbers out of range; from `init` TypeError unless all coordinates
    are on `Real`.
    """

    step_size: Float[Array, ""] = eqx.field(default=0.1, converter=lambda v: jnp.asarray(v, float))
    weight: Float[Array, ""] = eqx.field(default=0.3, converter=lambda v: jnp.asarray(v, float))

    def __check_init__(self):
        check_positive("step_size", self.step_size)
        if not 0 <= float(self.weight) < np.inf:
            raise ValueError(f"weight: expected a number from 0, got {float(self.weight):g}")

    def init(self, energy, data, *, key):
        """(None, the stock).

        **Raises:** TypeError unless all coordinates are on `Real`.
        """
        if not is_real(energy.space):
            raise TypeError(
                f"ImprovedCD moves chains along the gradient of f, which takes Real coordinates, "
                f"got {energy.space}; take ReplayCD() or PersistentCD()"
            )
        return super().init(energy, data, key=key)

    def __call__(self, energy, params, batch, carry, *, key):
        key_move, key_noise, key_others = jax.random.split(key, 3)
        points, carry, metrics = self._moved(energy, carry, key_move)
        loss, of_phases = two_phases(energy, batch, points)
        first = jax.random.randint(key_others, (), 0, self.size)
        places = (first + jnp.arange(min(self.size, _OTHERS))) % self.size
        f, x = flat_f(energy, points)
        held_f, others = flat_f(
            without_gradient(energy), jax.tree.map(lambda a: a[places], carry.points)
        )
        sd = jnp.std(others, axis=0) + 1e-12
        s = self.step_size * sd
        score = jax.vmap(jax.grad(f))(x)
        end = x + s**2 / 2 * score + s * random.normal(key_noise, x.shape, x.dtype)
        entropy = x.shape[1] * jnp.mean(_log_nearest(end / sd, others / sd, x / sd))
        kl = -jnp.mean(jax.vmap(held_f)(end)) - entropy
        metrics |= {"kl": kl}
        return loss + self.weight * kl, carry, of_phases | metrics

    def evaluations_per_step(self, energy, batch_size):
        return super().evaluations_per_step(energy, batch_size) + 3 * self.num_chains


def _log_nearest(x, others, own) -> Float[Array, " num"]:
    """log distance of each x to the nearest of the others that is not its own start."""
    others = jax.lax.stop_gradient(others)
    square = jnp.sum((x[:, None] - others) ** 2, axis=-1)
    is_own = jnp.sum((jax.lax.stop_gradient(own)[:, None] - others) ** 2, axis=-1) == 0
    nearest = jnp.argmin(jnp.where(is_own, jnp.inf, square), axis=1)
    square = jnp.sum((x - others[nearest]) ** 2, axis=-1)
    return jnp.log(square + 1e-12) / 2
