"""Cluster moves for Ising and Potts models: groups of sites that hang together change at once.

Fortuin & Kasteleyn 1972: f(x) = Σ_e w_e [x_i = x_j] + Σ_i h_i(x_i) is the marginal of x and of
bonds, one on each satisfied edge (ends alike if w_e > 0, different if w_e < 0) with probability
1 − exp(−|w_e|). Given the bonds, adding one number to all the values of a cluster (mod k) keeps
every bond satisfied, so that only Σ h of the cluster weighs it. Edges of both signs and fields are
exact; where they frustrate each other clusters are small or all-embracing, and slow.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from energax.energies._base import AbstractBondEnergy, AbstractEnergy
from energax.samplers._base import AbstractSampler, Info, State
from energax.spaces import Categorical, Point, Spin


class SwendsenWang(AbstractSampler):
    """Draws all bonds, then shifts every cluster by r with p(r) ∝ exp(Σ_{i in it} h_i(x_i + r)).

    Swendsen & Wang 1987, "Nonuniversal critical dynamics in Monte Carlo simulations"; a cluster's
    shift with fields as in Edwards & Sokal 1988, section III. Without fields and with w > 0 a
    cluster gets any value with equal probability.
    """

    is_exact = property(lambda self: True)

    def evaluations_per_step(self, energy):
        return 16.0  # as measured beside a sweep of ColouredGibbs, which counts 2

    def init(self, energy, x, *, key):
        """(State, None).

        **Raises:** TypeError unless `energy` is an `AbstractBondEnergy`.
        """
        return _state(_as_bonded(self, energy), x), None

    def refresh(self, energy, state):
        return _state(_as_bonded(self, energy), state.x)

    def step(self, energy, state, tuning, *, key):
        energy = _as_bonded(self, energy)
        key_bonds, key_shift = jax.random.split(key)
        numbers = _numbers(energy.space, state.x)
        labels = _clusters(energy, numbers, key_bonds)
        gains = _cluster_gains(energy, numbers, labels)
        # One draw a site; the site that names its cluster draws for all of it.
        if len(gains) == 1:
            u = jax.random.uniform(key_shift, numbers.shape, gains.dtype)
            shift = (u < jax.nn.sigmoid(gains[0])).astype(jnp.int32)
        else:
            gains = jnp.concatenate([jnp.zeros_like(gains[:1]), gains])
            weights = jnp.exp(gains - jnp.max(gains, axis=0))
            below = jnp.cumsum(weights, axis=0)
            u = jax.random.uniform(key_shift, numbers.shape, gains.dtype)
            shift = jnp.sum(below[:-1] <= u * below[-1], axis=0).astype(jnp.int32)
        return _shifted(energy, numbers, _of_cluster(shift, labels))

    def adapt(self, tuning, state, info):
        return tuning


class Wolff(AbstractSampler):
    """Shifts the cluster of one random site by r, uniform in 1, …, k − 1.

    Wolff 1989, "Collective Monte Carlo updating for spin systems"; in fields the shift is accepted
    with probability min(1, exp(Σ_{i in it} h_i(x_i + r) − h_i(x_i))). One time in sites + 1 no
    cluster moves, or else without couplings the number of flips would tell odd from even for ever.
    All clusters are found, as for an ensemble that is faster than growing one, so that a step costs
    as much as one of `SwendsenWang`, which does more.
    """

    is_exact = property(lambda self: True)

    def evaluations_per_step(self, energy):
        return 16.0

    def init(self, energy, x, *, key):
        """(State, None).

        **Raises:** TypeError unless `energy` is an `AbstractBondEnergy`.
        """
        return _state(_as_bonded(self, energy), x), None

    def refresh(self, energy, state):
        return _state(_as_bonded(self, energy), state.x)

    def step(self, energy, state, tuning, *, key):
        energy = _as_bonded(self, energy)
        keys = jax.random.split(key, 4)
        numbers = _numbers(energy.space, state.x)
        num_sites, chains = numbers.shape
        num_values = energy.value_gains.shape[1]
        labels = _clusters(energy, numbers, keys[0])
        seed = jax.random.randint(keys[1], (chains,), 0, num_sites + 1)
        shift = jax.random.randint(keys[2], (chains,), 1, num_values)
        label = labels[jnp.minimum(seed, num_sites - 1), jnp.arange(chains)]
        cluster = (labels == label) & (seed < num_sites)
        gain = jnp.sum(jnp.where(cluster, _site_gains(energy, numbers, shift), 0.0), axis=0)
        probability = jnp.exp(jnp.minimum(gain, 0.0))
        u = jax.random.uniform(keys[3], (chains,), gain.dtype)
        moves = cluster & (u < probability)
        new, info = _shifted(energy, numbers, jnp.where(moves, shift, 0))
        return new, Info(probability, info.divergent)

    def adapt(self, tuning, state, info):
        return tuning


def _as_bonded(sampler: AbstractSampler, energy: AbstractEnergy) -> AbstractBondEnergy:
    if isinstance(energy, AbstractBondEnergy):
        return energy
    raise TypeError(
        f"{type(sampler).__name__} needs an energy of bonds between sites (an AbstractBondEnergy "
        f"such as Ising or Potts), got {type(energy).__name__}. Use Metropolis, or ColouredGibbs "
        "where sites are coloured; to temper an Ising or Potts model take energy.tempered(beta)"
    )


def _state(energy: AbstractBondEnergy, x: Point) -> State:
    return State(x, energy.ensemble_log_density(x))


def _numbers(space, x: Point) -> Int[Array, "sites chains"]:
    """The number of each site's value, sites first."""
    x = space.decode(x) if isinstance(space, Categorical) else (x > 0).astype(jnp.int32)
    return x.reshape(len(x), -1).T


def _shifted(
    energy: AbstractBondEnergy,
    numbers: Int[Array, "sites chains"],
    shift: Int[Array, "sites chains"],
) -> tuple[State, Info]:
    space = energy.space
    numbers = (numbers + shift) % energy.value_gains.shape[1]
    if isinstance(space, Categorical):
        x = space.encode(numbers.T.reshape(-1, *space.sites))
    else:
        assert isinstance(space, Spin)
        x = (2 * numbers - 1).astype(space.dtype).T.reshape(-1, *space.shape)
    new = _state(energy, x)
    return new, Info(jnp.ones_like(new.log_density), ~jnp.isfinite(new.log_density))


def _clusters(
    energy: AbstractBondEnergy, numbers: Int[Array, "sites chains"], key: Key[Array, ""]
) -> Int[Array, "sites chains"]:
    """Draws the bonds; the flat number site · chains + chain of one of its cluster's, for each."""
    gains = energy.bond_gains[:, None]
    first, second = energy.edges[:, 0], energy.edges[:, 1]
    alike = numbers[first] == numbers[second]
    u = jax.random.uniform(key, alike.shape, gains.dtype)
    bonds = (alike == (gains > 0)) & (u < -jnp.expm1(-jnp.abs(gains)))
    return connected_components(bonds, first, second, numbers.shape)


def connected_components(
    bonds: Bool[Array, "edges chains"],
    first: Int[Array, " edges"],
    second: Int[Array, " edges"],
    shape: tuple[int, ...],
) -> Int[Array, "sites chains"]:
    """Labels that agree where `bonds` join sites of a chain: flat numbers site · chains + chain.

    Each label is the number of a site of the cluster. Shiloach & Vishkin 1982, "An O(log n)
    parallel connectivity algorithm", simplified: the parents of joined sites hook on the smaller
    of the two, and pointers jump, until all joined sites agree.
    """
    start = jnp.arange(shape[0] * shape[1], dtype=jnp.int32)

    def ends(labels):
        rows = labels.reshape(shape)
        return rows[first], rows[second]

    def differs(labels):
        a, b = ends(labels)
        return jnp.any(bonds & (a != b))

    def hook(labels):
        a, b = ends(labels)
        high = jnp.where(bonds, jnp.maximum(a, b), a)  # without a bond it hooks on itself
        low = jnp.where(bonds, jnp.minimum(a, b), a)
        parents = labels.at[high.reshape(-1)].min(low.reshape(-1), mode="promise_in_bounds")
        parents = _jump(parents)
        return _jump(parents)

    return jax.lax.while_loop(differs, hook, start).reshape(shape)


def _jump(labels: Int[Array, " n"]) -> Int[Array, " n"]:
    return labels.at[labels].get(mode="promise_in_bounds")


def _of_cluster(values: Array, labels: Int[Array, "sites chains"]) -> Array:
    """For each site the value that stands at the site its cluster is named after."""
    return values.reshape(-1).at[labels].get(mode="promise_in_bounds")


def _site_gains(
    energy: AbstractBondEnergy, numbers: Int[Array, "sites chains"], shift: Int[Array, "..."]
) -> Float[Array, "sites chains"]:
    """h_i(x_i + shift) − h_i(x_i)."""
    h = energy.value_gains
    there = jnp.take_along_axis(h, (numbers + shift) % h.shape[1], axis=1)
    return there - jnp.take_along_axis(h, numbers, axis=1)


def _cluster_gains(
    energy: AbstractBondEnergy,
    numbers: Int[Array, "sites chains"],
    labels: Int[Array, "sites chains"],
) -> Float[Array, "shifts sites chains"]:
    """Σ h_i(x_i + r) − h_i(x_i) over a cluster for r = 1, …, k − 1, where its label points."""
    h = energy.value_gains
    shifts = range(1, h.shape[1])

    def total(shift):
        gains = _site_gains(energy, numbers, jnp.asarray(shift)).reshape(-1)
        return jnp.zeros_like(gains).at[labels.reshape(-1)].add(gains).reshape(numbers.shape)

    def totals():
        return jnp.stack([total(shift) for shift in shifts])

    def nothing():
        return jnp.zeros((len(shifts), *numbers.shape), h.dtype)

    return jax.lax.cond(jnp.any(h != h[:, :1]), totals, nothing)
