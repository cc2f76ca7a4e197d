"""Exact maximum likelihood, where log Z is known or can be summed at every step."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from energax.energies._base import (
    AbstractBipartiteEnergy,
    AbstractEnergy,
    AbstractNormalised,
    AbstractOfLengths,
    batched,
)
from energax.objectives._base import AbstractObjective, energies_of_data

_CHUNK = 2**12
"""States whose energies are computed at once."""


class MaximumLikelihood(AbstractObjective):
    """The mean negative log-likelihood in nats, loss = mean E(x) + log Z, exact.

    Fisher 1922; its gradient is E_data[∇E] − E_p[∇E] (Hinton 2002, eq. 2), both halves without
    sampling. Population target: the parameters whose p is nearest to the data's distribution in
    Kullback-Leibler divergence, the truth itself where the family holds it.

    log Z comes from the energy where it is normalised, from the sum over the smaller layer of an
    RBM, else from a sum over all states. A step costs that many energies and a gradient of each.
    It has no samples: an `EnergyPenalty` beside it is of the data's energies alone.
    Where each length of rows is a distribution of its own, log Z is the mean over the rows'.

    **Arguments:** `max_states`: the most states to sum at a step.
    """

    max_states: int = eqx.field(static=True, default=2**16)

    is_deterministic = property(lambda self: True)
    fits_moments = property(lambda self: True)
    keeps_lengths = property(lambda self: True)

    def init(self, energy, data, *, key):
        """(None, None).

        **Raises:** TypeError if log Z of this energy cannot be summed within `max_states`.
        """
        num_states = num_exact_states(energy)
        if num_states is None:
            raise TypeError(
                f"MaximumLikelihood sums over all states, and {energy.space} has infinitely many; "
                "train with energax.objectives.PersistentCD()"
            )
        if num_states > self.max_states:
            raise TypeError(
                f"MaximumLikelihood would sum {num_states:,} states at every step (max_states="
                f"{self.max_states:,}); train with energax.objectives.PersistentCD()"
            )
        return None, None

    def __call__(self, energy, params, batch, carry, *, key):
        energies = -batched(energy, batch)
        metrics = energies_of_data(energies)
        if isinstance(energy, AbstractNormalised):
            log_z = energy.log_z
        elif isinstance(energy, AbstractOfLengths):
            log_z = jnp.mean(energy.log_z_by_length(energy.lengths(batch)))
        elif sums_a_layer(energy):
            log_z = energy.log_z_by_sum()  # type: ignore[attr-defined]
        else:
            f = all_log_densities(energy)
            log_z = jax.nn.logsumexp(f)
            weight = jnp.exp(f - log_z)
            metrics["energy_samples"] = -jnp.sum(jnp.where(weight > 0, weight * f, 0.0))
        metrics["log_z"] = log_z
        return jnp.mean(energies) + log_z, None, metrics

    def evaluations_per_step(self, energy, batch_size):
        return float(batch_size + (num_exact_states(energy) or 0))


def num_exact_states(energy: AbstractEnergy) -> int | None:
    """How many terms log Z takes: 1 where it is known, None where it cannot be summed."""
    if isinstance(energy, AbstractNormalised):
        return 1
    if sums_a_layer(energy):
        return energy.num_summed_states  # type: ignore[attr-defined]
    return energy.space.num_states


def sums_a_layer(energy: AbstractEnergy) -> bool:
    """Whether log Z is best summed over the smaller layer of two."""
    if not isinstance(energy, AbstractBipartiteEnergy):
        return False
    num_states, summed = energy.space.num_states, energy.num_summed_states
    return summed is not None and (num_states is None or summed < num_states)


def all_log_densities(energy: AbstractEnergy) -> Float[Array, " states"]:
    """f of every state of a finite space, in chunks whose insides the gradient computes again."""
    num_states = energy.space.num_states
    assert num_states is not None
    size = min(_CHUNK, num_states)
    num_chunks = -(-num_states // size)

    @jax.checkpoint
    def chunk(start):
        index = start + jnp.arange(size)
        f = batched(energy, energy.space.states(jnp.minimum(index, num_states - 1)))
        return jnp.where(index < num_states, f, -jnp.inf)

    return jax.lax.map(chunk, size * jnp.arange(num_chunks)).reshape(-1)
