"""What objectives that run chains share: whose sampler, where they start, and both halves."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from energax.energies._base import (
    AbstractBipartiteEnergy,
    AbstractEnergy,
    AbstractOfLengths,
    batched,
    without_gradient,
)
from energax.objectives._base import Metrics, energies_of, energies_of_data
from energax.samplers._base import AbstractSampler, Info, State, apart, of_shares, together
from energax.samplers.choose import default_sampler
from energax.samplers.gibbs import BlockGibbs, ExchangeGibbs
from energax.samplers.mixed import Mixed
from energax.samplers.tempering import ParallelTempering
from energax.spaces import Point, num_rows


def sampler_of(sampler: AbstractSampler | None, energy: AbstractEnergy) -> AbstractSampler:
    """The sampler that was given, else the energy's default.

    **Raises:** TypeError for a sampler that would not keep the lengths of an `AbstractOfLengths`.
    """
    if sampler is None:
        return default_sampler(energy)
    if isinstance(energy, AbstractOfLengths) and not isinstance(
        sampler, BlockGibbs | ExchangeGibbs
    ):
        raise TypeError(
            f"sampler: chains of {type(energy).__name__} keep their lengths, as those of "
            f"ExchangeGibbs and BlockGibbs do and {type(sampler).__name__}'s do not; leave it out"
        )
    return sampler


def some_rows(data: Point, num: int, key: Key[Array, ""]) -> Point:
    """`num` random rows, all different where there are enough."""
    rows, data = num_rows(data), jax.tree.map(jnp.asarray, data)
    if num > rows:
        return _first(data, jax.random.choice(key, rows, (num,)), num)
    # A program that the training has anyway, for the order of its rows
    return _first(data, jax.random.permutation(key, rows), num)


@eqx.filter_jit
def _first(data: Point, order: Int[Array, " _"], num: int) -> Point:
    return jax.tree.map(lambda a: a[order[:num]], data)


def starting_rows(energy: AbstractEnergy, data: Point, num: int, key: Key[Array, ""]) -> Point:
    """`num` random rows for chains to start at.

    Where points have lengths, which chains keep, they are taken at even distances from the rows in
    the order of their lengths (systematic sampling; Cochran 1977, chapter 8), so that the chains'
    lengths are spread as the data's: what they differ by would not average out over updates.

    **Raises:** ValueError for rows longer than chains can move.
    """
    if not isinstance(energy, AbstractOfLengths):
        return some_rows(data, num, key)
    lengths = energy.lengths(jax.tree.map(jnp.asarray, data))
    if int(jnp.max(lengths)) > energy.longest:
        raise ValueError(
            f"data: a row has length {int(jnp.max(lengths))}, and chains of this "
            f"{type(energy).__name__} move up to longest={energy.longest}: make it with a larger "
            "longest="
        )
    key_order, key_offset = jax.random.split(key)
    rows = len(lengths)
    order = jnp.lexsort((jax.random.uniform(key_order, (rows,)), lengths))
    places = (jnp.arange(num) + jax.random.uniform(key_offset)) * (rows / num)
    chosen = order[jnp.minimum(places.astype(int), rows - 1)]
    return jax.tree.map(lambda a: jnp.asarray(a)[chosen], data)


def begin(
    sampler: AbstractSampler, energy: AbstractEnergy, x: Point, *, key: Key[Array, ""]
) -> State:
    """The state of chains at x, for a tuning that is known."""
    fixed = without_gradient(energy)
    if isinstance(sampler, Mixed | ParallelTempering):  # their states have parts
        return jax.lax.stop_gradient(sampler.init(fixed, x, key=key)[0])
    # Of a State only x is used: the rest is computed here.
    return sampler.refresh(fixed, State(x, jnp.zeros(num_rows(x))))


def advance(
    sampler: AbstractSampler,
    energy: AbstractEnergy,
    state: State,
    tuning: Any,
    num_steps: int,
    key: Key[Array, ""],
) -> tuple[State, Any, Float[Array, ""]]:
    """(State, tuning, mean acceptance) after `num_steps` steps with the energy held fixed.

    The tuning learns once, of the acceptance in all the steps and of where they led: what it learns
    of is a sum over all devices. That of a sampler which tells more than acceptance (its ladder's
    swaps, say) learns in every step.
    """
    fixed = without_gradient(energy)
    learns_once = True

    def step(carry, step_key):
        nonlocal learns_once
        state, tuning, accepted, divergent = carry
        state, info = sampler.step(fixed, state, tuning, key=step_key)
        if type(info) is not Info:
            learns_once = False
            tuning = sampler.adapt(tuning, state, info)
        told = accepted + info.acceptance, divergent | info.divergent
        return (apart(state), tuning, *apart(told)), None

    num_chains = num_rows(state.x)
    told = jnp.zeros(num_chains), jnp.zeros(num_chains, bool)
    (state, tuning, accepted, divergent), _ = jax.lax.scan(
        step, (apart(state), tuning, *apart(told)), jax.random.split(key, num_steps)
    )
    acceptance = accepted / num_steps
    if learns_once:
        tuning = sampler.adapt(tuning, state, Info(acceptance, divergent))
    return jax.lax.stop_gradient(state), tuning, jnp.mean(acceptance)


def two_phases(
    energy: AbstractEnergy, data: Point, samples: Point
) -> tuple[Float[Array, ""], Metrics]:
    """(mean E(data) − mean E(samples), metrics)."""
    if not jax.sharding.get_abstract_mesh().empty:  # each device has its share of either
        f = together(of_shares(batched, energy, (data, samples)))
        energies, sampled = -f[0], -f[1]
    elif isinstance(energy, AbstractBipartiteEnergy):
        # By itself E(samples) starts with the product that block Gibbs ended with: made once.
        energies, sampled = -batched(energy, data), -batched(energy, samples)
    else:
        # One batch of both: fewer, larger products.
        num_data = num_rows(data)
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), data, samples)
        energies, sampled = jnp.split(-batched(energy, both), [num_data])
    metrics = energies_of_data(energies) | energies_of("samples", sampled)
    return metrics["energy_data"] - metrics["energy_samples"], metrics


class Held(AbstractSampler):
    """Leaves a part of a record where it is, for `Mixed` to move the others given it (Tierney 1994,
    section 2.4)."""

    is_exact = property(lambda self: True)

    def evaluations_per_step(self, energy):
        return 0.0

    def init(self, energy, x, *, key):
        return State(x, batched(energy, x)), jnp.zeros(())

    def step(self, energy, state, tuning, *, key):
        num = num_rows(state.x)
        return state, Info(jnp.ones(num), jnp.zeros(num, bool))

    def adapt(self, tuning, state, info):
        return tuning
