"""Recovery likelihood: chains that only have to find back from a noisy row to where rows are."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from energax import random
from energax.energies._base import AbstractEnergy
from energax.objectives._base import (
    AbstractObjective,
    as_numbers,
    check_positive,
    check_whole,
    like_a_point,
    spreads,
)
from energax.objectives.chains._base import Held, advance, begin, two_phases
from energax.samplers.choose import default_sampler
from energax.samplers.mixed import Mixed
from energax.spaces import AbstractSpace, Real, Record, num_rows

_OF_SD = 0.5
"""Noise in units of the data's standard deviation, where none is given."""


class RecoveryLikelihood(AbstractObjective):
    """The mean of −log p(x | x̃), x̃ = x + sε, p(x | x̃) ∝ exp(f(x) − |x − x̃|² / 2s²).

    Bengio, Yao, Alain & Vincent 2013, section 2, for f of Gao, Song, Poole, Wu & Kingma 2021,
    "Learning energy-based models by diffusion recovery likelihood", eq. 8 to 11. The gradient is
    E_data[∇E] − E_q[∇E] with q from k steps of chains that start at x̃ and draw from p(x | x̃), which
    is far easier than p: with small s it has one mode. Population target: the truth where the
    family holds it, for any s, as k grows; short chains, still as wide as x̃, make f too steep. Of
    modes that lie many s apart it learns the shapes, not the weights, as score matching does. It
    costs k steps of each row's chain and two gradients. (Gao and others train a ladder of f, one
    for each noise; this is the f of its lowest rung, with noise of every size from it.)

    Spaces: `Real`.

    **Arguments:** `sigma`: the smallest s, a number or of the shape of a point; None takes half of
    each coordinate's standard deviation in the data. `largest`: the largest s in units of it, and
    `num_sizes` of s, geometric from one to the other; each row takes one at random. `num_steps`: k.

    **Raises:** ValueError for numbers out of range; from `init` TypeError for other spaces.
    """

    sigma: Any = eqx.field(default=None, converter=as_numbers)
    largest: Float[Array, ""] = eqx.field(default=1.0, converter=lambda v: jnp.asarray(v, float))
    num_sizes: int = eqx.field(static=True, default=1)
    num_steps: int = eqx.field(static=True, default=20)

    def __check_init__(self):
        check_whole("num_sizes", self.num_sizes)
        check_whole("num_steps", self.num_steps)
        check_positive("sigma", self.sigma)
        if not 1 <= float(self.largest) < math.inf:
            raise ValueError(
                f"RecoveryLikelihood: expected largest from 1, in units of sigma, got "
                f"{float(self.largest):g}"
            )
        if float(self.largest) > 1 and self.num_sizes == 1:
            raise ValueError(
                "RecoveryLikelihood: one size is sigma itself: give num_sizes= from 2 with largest="
            )

    def init(self, energy, data, *, key):
        """(None, (σ of each coordinate, the sampler's tuning)).

        **Raises:** TypeError unless the space is `Real`; ValueError for a σ of another shape.
        """
        space = energy.space
        if not isinstance(space, Real):
            raise TypeError(
                f"RecoveryLikelihood adds noise, which takes a Real space, got {space}; take "
                "PersistentCD() or ConditionalNCE()"
            )
        sigma = jax.tree.map(lambda sd: _OF_SD * sd, spreads(data))
        sigma = like_a_point("sigma", sigma if self.sigma is None else self.sigma, space.shape)
        sigma = jnp.broadcast_to(jnp.asarray(sigma, float), space.shape)
        some = jnp.asarray(data[: min(num_rows(data), 100)])
        joint = _Recovery(energy)
        start = joint.at(some, jnp.broadcast_to(sigma, some.shape))
        return None, (sigma, _sampler(joint).init(joint, start, key=key)[1])

    def __call__(self, energy, params, batch, carry, *, key):
        sigma, tuning = carry
        key_size, key_noise, key_begin, key_move = jax.random.split(key, 4)
        power = jax.random.randint(key_size, (num_rows(batch),), 0, self.num_sizes)
        size = self.largest ** (power / max(self.num_sizes - 1, 1))
        width = size.reshape(-1, *[1] * sigma.ndim) * sigma
        near = batch + width * random.normal(key_noise, batch.shape, batch.dtype)
        joint = _Recovery(energy)
        sampler = _sampler(joint)
        start = begin(sampler, joint, joint.at(near, width), key=key_begin)
        state, tuning, acceptance = advance(sampler, joint, start, tuning, self.num_steps, key_move)
        loss, metrics = two_phases(energy, batch, near + width * state.x["u"])
        acceptance = 3 * acceptance - 2  # the mean over three parts, two of them held
        return loss, (sigma, tuning), metrics | {"acceptance": acceptance}

    def evaluations_per_step(self, energy, batch_size):
        joint = _Recovery(energy)
        each = _sampler(joint).evaluations_per_step(joint) - 2  # those of the parts that are held
        return batch_size * (self.num_steps * each + 2)


class _Recovery(AbstractEnergy):
    """E(near + width · u) + ½|u|²: p(x | x̃) for every x̃, in units in which all are alike."""

    energy: AbstractEnergy

    @property
    def space(self) -> AbstractSpace:
        whole = self.energy.space
        return Record(u=whole, near=whole, width=whole)

    def __call__(self, x):
        u = x["u"]
        return self.energy(x["near"] + x["width"] * u) + jnp.sum(u**2) / 2

    @staticmethod
    def at(near, width) -> dict[str, Array]:
        return {"u": jnp.zeros_like(near), "near": near, "width": jnp.asarray(width, near.dtype)}


def _sampler(joint: _Recovery) -> Mixed:
    """Its chains move u alone."""
    return Mixed(u=Mixed.of(joint, default_sampler).parts["u"], near=Held(), width=Held())
