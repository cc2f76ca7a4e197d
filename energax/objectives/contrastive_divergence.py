"""Contrastive divergence and its persistent form: the model's half of the gradient from chains."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from energax.energies._base import (
    AbstractBipartiteEnergy,
    AbstractDeepEnergy,
    AbstractEnergy,
    batched,
)
from energax.objectives._base import AbstractObjective, Metrics
from energax.samplers._base import AbstractSampler, State
from energax.samplers.choose import default_sampler
from energax.spaces import Point, num_rows


class ContrastiveDivergence(AbstractObjective):
    """CD-k: gradient E_data[∇E] − E_q[∇E], where q is the data after k steps of the sampler.

    Hinton 2002, eq. 5 and section 4; the loss shown is E_data[E] − E_q[E] with q held fixed.
    Population target: a fixed point where k steps leave E_data[∇E] as it is. It is the truth where
    the family holds it, else near the maximum likelihood (Carreira-Perpiñán & Hinton 2005); f far
    from the data is not learned. It costs k steps of each row's chain and two gradients.

    **Arguments:** `num_steps`: k. `sampler`: None takes the energy's default; it goes on tuning
    itself over the whole training.
    """

    num_steps: int = eqx.field(static=True, default=1)
    sampler: AbstractSampler | None = None

    def __check_init__(self):
        _check_number("num_steps", self.num_steps)

    def init(self, energy, data, *, key):
        """(None, the sampler's tuning)."""
        key_rows, key_init = jax.random.split(key)
        rows = _choose_rows(data, min(num_rows(data), 100), key_rows)
        return None, _sampler(self.sampler, energy).init(energy, rows, key=key_init)[1]

    def __call__(self, energy, params, batch, carry, *, key):
        sampler = _sampler(self.sampler, energy)
        # Of a State only x is used: the rest is computed here.
        start = sampler.refresh(_constant(energy), State(batch, jnp.zeros(num_rows(batch))))
        state, tuning, acceptance = _advance(sampler, energy, start, carry, self.num_steps, key)
        loss, metrics = _two_phases(energy, batch, state.x)
        return loss, tuning, metrics | {"acceptance": acceptance}

    def evaluations_per_step(self, energy, batch_size):
        each = _sampler(self.sampler, energy).evaluations_per_step(energy)
        return batch_size * (self.num_steps * each + 2)


class Chains(eqx.Module):
    """The chains of `PersistentCD`: the sampler's state, x (num_chains, *event), and its tuning."""

    state: State
    tuning: Any


class PersistentCD(AbstractObjective):
    """PCD-k: gradient E_data[∇E] − E_chains[∇E], with chains that live on from step to step.

    Tieleman 2008 (Younes 1989, stochastic maximum likelihood). Between two updates the parameters
    move little, so that the chains stay near equilibrium; what is cached about them is computed
    again at the new parameters (block Gibbs draws h at the old ones). Population target: maximum
    likelihood, as the learning rate falls to zero (Younes 1999). It costs k steps of each chain and
    two gradients.

    **Arguments:** `num_steps`: k. `num_chains`: they start at random rows of the data. `sampler`:
    None takes the energy's default; it goes on tuning itself over the whole training.
    """

    num_steps: int = eqx.field(static=True, default=1)
    num_chains: int = eqx.field(static=True, default=100)
    sampler: AbstractSampler | None = None

    fits_moments = property(lambda self: True)

    def __check_init__(self):
        _check_number("num_steps", self.num_steps)
        _check_number("num_chains", self.num_chains)

    def init(self, energy, data, *, key):
        """(None, the chains)."""
        key_rows, key_init = jax.random.split(key)
        rows = _choose_rows(data, self.num_chains, key_rows)
        return None, Chains(*_sampler(self.sampler, energy).init(energy, rows, key=key_init))

    def __call__(self, energy, params, batch, carry, *, key):
        sampler = _sampler(self.sampler, energy)
        start = sampler.follow(_constant(energy), carry.state)
        state, tuning, acceptance = _advance(
            sampler, energy, start, carry.tuning, self.num_steps, key
        )
        loss, metrics = _two_phases(energy, batch, state.x)
        return loss, Chains(state, tuning), metrics | {"acceptance": acceptance}

    def evaluations_per_step(self, energy, batch_size):
        each = _sampler(self.sampler, energy).evaluations_per_step(energy)
        return self.num_chains * (self.num_steps * each + 1) + batch_size


class MeanFieldPCD(AbstractObjective):
    """PCD-k for energies of which hidden layers are a part: E_q[∇E] − E_chains[∇E], where q has the
    data's rows in the first layer and independent units in all others, near p(hidden | row).

    Salakhutdinov & Hinton 2009, algorithm 1. Population target: the parameters of the largest
    variational bound on the mean log-likelihood, as the learning rate falls to zero; the truth only
    where hidden units given the data are nearly independent, which training itself makes them. It
    costs `num_updates` passes of each row, k steps of each chain and two gradients.

    **Arguments:** `num_steps`: k. `num_chains`: they start at random rows of the data with their q.
    `num_updates`: of the mean field.
    """

    num_steps: int = eqx.field(static=True, default=5)
    num_chains: int = eqx.field(static=True, default=100)
    num_updates: int = eqx.field(static=True, default=10)

    def __check_init__(self):
        for name in ("num_steps", "num_chains", "num_updates"):
            _check_number(name, getattr(self, name))

    def data_space(self, energy):
        """**Raises:** TypeError unless the energy is an `AbstractDeepEnergy`."""
        return _as_deep(energy).data_space

    def init(self, energy, data, *, key):
        """(None, the chains)."""
        energy = _as_deep(energy)
        key_rows, key_hidden, key_init = jax.random.split(key, 3)
        rows = _choose_rows(data, self.num_chains, key_rows)
        means = energy.from_layers(energy.mean_field(rows, self.num_updates))
        drawn = jax.random.split(key_hidden, len(means))
        x = {
            name: (jax.random.uniform(each, mean.shape, mean.dtype) < mean).astype(mean.dtype)
            for each, (name, mean) in zip(drawn, means.items(), strict=True)
        }
        return None, Chains(*default_sampler(energy).init(energy, x, key=key_init))

    def __call__(self, energy, params, batch, carry, *, key):
        sampler = default_sampler(energy)
        start = sampler.follow(_constant(energy), carry.state)
        state, tuning, acceptance = _advance(
            sampler, energy, start, carry.tuning, self.num_steps, key
        )
        energy = _as_deep(energy)
        layers = jax.lax.stop_gradient(energy.mean_field(batch, self.num_updates))
        energies = energy.expected_energy(layers)
        sampled = -jnp.mean(batched(energy, state.x))
        metrics = {
            "energy_data": jnp.mean(energies),
            "energy_data_sd": jnp.std(energies),
            "energy_samples": sampled,
            "bound": jnp.mean(energy.bound(layers)),
            "acceptance": acceptance,
        }
        return metrics["energy_data"] - sampled, Chains(state, tuning), metrics

    def evaluations_per_step(self, energy, batch_size):
        each = default_sampler(energy).evaluations_per_step(energy)
        chains = self.num_chains * (self.num_steps * each + 1)
        return chains + batch_size * (self.num_updates + 1)


def _as_deep(energy: AbstractEnergy) -> AbstractDeepEnergy:
    if isinstance(energy, AbstractDeepEnergy):
        return energy
    raise TypeError(
        "MeanFieldPCD trains energies with hidden layers in their points, such as "
        f"DeepBoltzmannMachine, got {type(energy).__name__}; take PersistentCD()"
    )


def _check_number(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}: expected a whole number from 1, got {value!r}")


def _sampler(sampler: AbstractSampler | None, energy: AbstractEnergy) -> AbstractSampler:
    return default_sampler(energy) if sampler is None else sampler


def _choose_rows(data: Point, num: int, key: Key[Array, ""]) -> Point:
    """`num` random rows, all different where there are enough."""
    rows = num_rows(data)
    index = jax.random.choice(key, rows, (num,), replace=num > rows)
    return jax.tree.map(lambda a: jnp.asarray(a)[index], data)


def _advance(
    sampler: AbstractSampler,
    energy: AbstractEnergy,
    state: State,
    tuning: Any,
    num_steps: int,
    key: Key[Array, ""],
) -> tuple[State, Any, Float[Array, ""]]:
    """(State, tuning, mean acceptance) after `num_steps` steps with the energy held fixed."""
    fixed = _constant(energy)

    def step(carry, step_key):
        state, tuning = carry
        state, info = sampler.step(fixed, state, tuning, key=step_key)
        return (state, sampler.adapt(tuning, state, info)), jnp.mean(info.acceptance)

    (state, tuning), acceptance = jax.lax.scan(
        step, (state, tuning), jax.random.split(key, num_steps)
    )
    return jax.lax.stop_gradient(state), tuning, jnp.mean(acceptance)


def _constant(energy: AbstractEnergy) -> PyTree:
    arrays, rest = eqx.partition(energy, eqx.is_inexact_array)
    return eqx.combine(jax.lax.stop_gradient(arrays), rest)


def _two_phases(
    energy: AbstractEnergy, data: Point, samples: Point
) -> tuple[Float[Array, ""], Metrics]:
    """(mean E(data) − mean E(samples), metrics)."""
    if isinstance(energy, AbstractBipartiteEnergy):
        # By itself E(samples) starts with the product that block Gibbs ended with: made once.
        energies, sampled = -batched(energy, data), -batched(energy, samples)
    else:
        # One batch of both: fewer, larger products.
        num_data = num_rows(data)
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), data, samples)
        energies, sampled = jnp.split(-batched(energy, both), [num_data])
    metrics = {
        "energy_data": jnp.mean(energies),
        "energy_data_sd": jnp.std(energies),
        "energy_samples": jnp.mean(sampled),
    }
    return metrics["energy_data"] - metrics["energy_samples"], metrics
