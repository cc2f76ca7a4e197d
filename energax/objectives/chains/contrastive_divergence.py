"""Contrastive divergence and its persistent form: the model's half of the gradient from chains."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from energax.energies._base import (
    AbstractDeepEnergy,
    AbstractEnergy,
    AbstractNormalised,
    batched,
    without_gradient,
)
from energax.energies.reference import default_base, fitted_base
from energax.objectives._base import (
    AbstractObjective,
    check_whole,
    energies_of,
    energies_of_data,
)
from energax.objectives.chains._base import (
    advance,
    begin,
    sampler_of,
    some_rows,
    starting_rows,
    two_phases,
)
from energax.samplers._base import AbstractSampler, State, started
from energax.samplers.choose import default_sampler
from energax.samplers.tempering import ParallelTempering
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

    keeps_lengths = property(lambda self: True)

    def __check_init__(self):
        check_whole("num_steps", self.num_steps)

    def init(self, energy, data, *, key):
        """(None, the sampler's tuning)."""
        key_rows, key_init = jax.random.split(key)
        rows = starting_rows(energy, data, min(num_rows(data), 100), key_rows)
        return None, started(sampler_of(self.sampler, energy), energy, rows, key=key_init)[1]

    def __call__(self, energy, params, batch, carry, *, key):
        sampler = sampler_of(self.sampler, energy)
        key_begin, key_move = jax.random.split(key)
        start = begin(sampler, energy, batch, key=key_begin)
        state, tuning, acceptance = advance(sampler, energy, start, carry, self.num_steps, key_move)
        loss, metrics = two_phases(energy, batch, state.x)
        return loss, tuning, metrics | {"acceptance": acceptance}

    def evaluations_per_step(self, energy, batch_size):
        each = sampler_of(self.sampler, energy).evaluations_per_step(energy)
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

    **Arguments:** `num_steps`: k. `num_chains`: they start at random rows of the data, where these
    have lengths at rows of all. `sampler`: None takes the energy's default; it goes on tuning
    itself over the whole training.
    """

    num_steps: int = eqx.field(static=True, default=1)
    num_chains: int = eqx.field(static=True, default=100)
    sampler: AbstractSampler | None = None

    fits_moments = property(lambda self: True)
    keeps_lengths = property(lambda self: True)

    def __check_init__(self):
        check_whole("num_steps", self.num_steps)
        check_whole("num_chains", self.num_chains)

    def init(self, energy, data, *, key):
        """(None, the chains)."""
        key_rows, key_init = jax.random.split(key)
        rows = starting_rows(energy, data, self.num_chains, key_rows)
        return None, Chains(*started(sampler_of(self.sampler, energy), energy, rows, key=key_init))

    def __call__(self, energy, params, batch, carry, *, key):
        sampler = sampler_of(self.sampler, energy)
        start = sampler.follow(without_gradient(energy), carry.state)
        state, tuning, acceptance = advance(
            sampler, energy, start, carry.tuning, self.num_steps, key
        )
        loss, metrics = two_phases(energy, batch, state.x)
        return loss, Chains(state, tuning), metrics | {"acceptance": acceptance}

    def evaluations_per_step(self, energy, batch_size):
        each = sampler_of(self.sampler, energy).evaluations_per_step(energy)
        return self.num_chains * (self.num_steps * each + 1) + batch_size


class TemperedChains(eqx.Module):
    """The chains of `TemperedPCD` at all rungs, and their running memory."""

    state: State
    tuning: Any
    memory: Float[Array, ""]


class TemperedPCD(AbstractObjective):
    """PCD whose chains swap places with hotter ones while they mix slowly.

    Desjardins, Courville, Bengio, Vincent & Delalleau 2010, "Tempered Markov chain Monte Carlo for
    training of restricted Boltzmann machines". Once modes are deep, plain chains stay in theirs,
    and the mass that the model gives to each drifts. How slowly they mix is measured by the
    correlation ρ of the chains before and after an update, pooled over coordinates, as a running
    mean over some 20 updates: above `slow` an update takes steps of parallel tempering, from
    independent columns at the data's rates to the energy, below it plain steps. So tempering costs
    what keeps ρ at `slow`, and nothing while the energy is smooth. Population target: as
    `PersistentCD`. An update costs k steps of each chain and two gradients, with tempering
    `num_rungs` times the steps.

    **Arguments:** `num_steps`: k. `num_chains`: they start at random rows of the data. `num_rungs`:
    of tempering, the energy's own included. `slow`: from 0, tempering always, to 1, never.
    `sampler`: of every rung; None takes the energy's default.
    """

    num_steps: int = eqx.field(static=True, default=1)
    num_chains: int = eqx.field(static=True, default=100)
    num_rungs: int = eqx.field(static=True, default=8)
    slow: Float[Array, ""] = eqx.field(default=0.5, converter=lambda v: jnp.asarray(v, float))
    sampler: AbstractSampler | None = None

    def __check_init__(self):
        for name in ("num_steps", "num_chains", "num_rungs"):
            check_whole(name, getattr(self, name))
        if not 0 <= float(self.slow) <= 1:
            raise ValueError(f"slow: expected a correlation from 0 to 1, got {float(self.slow):g}")

    def init(self, energy, data, *, key):
        """(None, the chains at all rungs).

        **Raises:** TypeError for a space without a base to temper from.
        """
        key_rows, key_init = jax.random.split(key)
        rows = some_rows(data, self.num_chains, key_rows)
        base = fitted_base(energy.space, data)
        tempering = ParallelTempering(self._inner(energy, base), base, self.num_rungs)
        state, tuning = started(tempering, energy, rows, key=key_init)
        return None, TemperedChains(state, tuning, jnp.zeros(()))

    def __call__(self, energy, params, batch, carry, *, key):
        inner = self._inner(energy, carry.tuning.ladder.base)
        tempering = ParallelTempering(inner, None, self.num_rungs)  # its base is in the tuning
        fixed = without_gradient(energy)

        def tempered(state, tuning):
            start = tempering.follow(fixed, state)
            return advance(tempering, energy, start, tuning, self.num_steps, key)

        def plain(state, tuning):
            """The target's rung alone moves; the others wait."""
            own, own_tuning = jax.tree.map(lambda a: a[-1], (state.rungs, tuning.inner))
            start = inner.follow(fixed, own)
            own, own_tuning, acceptance = advance(
                inner, energy, start, own_tuning, self.num_steps, key
            )
            rungs, tunings = jax.tree.map(
                lambda a, new: a.at[-1].set(new), (state.rungs, tuning.inner), (own, own_tuning)
            )
            state = dataclasses.replace(state, x=own.x, log_density=own.log_density, rungs=rungs)
            return state, dataclasses.replace(tuning, inner=tunings), acceptance

        is_slow = carry.memory >= self.slow
        state, tuning, acceptance = jax.lax.cond(
            is_slow, tempered, plain, carry.state, carry.tuning
        )
        memory = 0.95 * carry.memory + 0.05 * _correlation(carry.state.x, state.x)
        loss, metrics = two_phases(energy, batch, state.x)
        metrics |= {
            "acceptance": acceptance,
            "memory": memory,
            "tempered": is_slow.astype(memory.dtype),
        }
        return loss, TemperedChains(state, tuning, memory), metrics

    def evaluations_per_step(self, energy, batch_size):
        """Of an update that tempers: at most this."""
        inner = self._inner(energy, default_base(energy.space))
        each = ParallelTempering(inner, None, self.num_rungs).evaluations_per_step(energy)
        return self.num_chains * (self.num_steps * each + 1) + batch_size

    def _inner(self, energy: AbstractEnergy, base: AbstractNormalised) -> AbstractSampler:
        """One that suits every rung, also where those below the energy are of another kind."""
        return sampler_of(self.sampler, energy.path(base).at(0.5))


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
            check_whole(name, getattr(self, name))

    def data_space(self, energy):
        """**Raises:** TypeError unless the energy is an `AbstractDeepEnergy`."""
        return _as_deep(energy).data_space

    def init(self, energy, data, *, key):
        """(None, the chains)."""
        energy = _as_deep(energy)
        key_rows, key_hidden, key_init = jax.random.split(key, 3)
        rows = some_rows(data, self.num_chains, key_rows)
        means = energy.from_layers(energy.mean_field(rows, self.num_updates))
        drawn = jax.random.split(key_hidden, len(means))
        x = {
            name: (jax.random.uniform(each, mean.shape, mean.dtype) < mean).astype(mean.dtype)
            for each, (name, mean) in zip(drawn, means.items(), strict=True)
        }
        return None, Chains(*started(default_sampler(energy), energy, x, key=key_init))

    def __call__(self, energy, params, batch, carry, *, key):
        sampler = default_sampler(energy)
        start = sampler.follow(without_gradient(energy), carry.state)
        state, tuning, acceptance = advance(
            sampler, energy, start, carry.tuning, self.num_steps, key
        )
        energy = _as_deep(energy)
        layers = jax.lax.stop_gradient(energy.mean_field(batch, self.num_updates))
        metrics = {
            **energies_of_data(energy.expected_energy(layers)),
            **energies_of("samples", -batched(energy, state.x)),
            "bound": jnp.mean(energy.bound(layers)),
            "acceptance": acceptance,
        }
        loss = metrics["energy_data"] - metrics["energy_samples"]
        return loss, Chains(state, tuning), metrics

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


def _correlation(before: Point, after: Point) -> Float[Array, ""]:
    """Of chains with themselves later, Σ_i cov(x_i, x'_i) / sqrt(Σ_i var x_i · Σ_i var x'_i)."""
    products, squares = jnp.zeros(()), jnp.zeros(2)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        a, b = (x - jnp.mean(x, axis=0) for x in (a.astype(float), b.astype(float)))
        products += jnp.sum(a * b)
        squares += jnp.stack([jnp.sum(a * a), jnp.sum(b * b)])
    size = jnp.sqrt(jnp.prod(squares))
    return jnp.where(size > 0, products / jnp.where(size > 0, size, 1.0), 1.0)
