"""log Z carried through training by a population of its own, weighted for every move of θ.

Annealed importance sampling (Neal 2001, arXiv:physics/9803008) along the way that training takes
anyway: points drawn exactly at a base go to the first parameters and from there, in straight lines,
from one look to the next; with w = Π_t exp(f_{t+1}(x_t) − f_t(x_t)), E[w] = Z_now/Z_base whether or
not the chains keep up (Carbone, Hua, Coste & Vanden-Eijnden 2023, arXiv:2305.19414, eq. 8, give it
for training). Desjardins, Courville & Bengio 2011 ("On tracking the partition function") follow
log Z by bridge sampling between chains assumed to be at rest; weights need no such assumption. The
population is never used to train, or the weights would be biased.

The points form independent groups that resample within themselves, so the spread of the groups'
estimates is an honest error, however correlated a group's own past is.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from energax.energies._base import AbstractEnergy, AbstractPath, batched, partition_trainable
from energax.partition._base import mean_of
from energax.samplers._base import AbstractSampler, State, run, started
from energax.samplers.tempering._base import systematic
from energax.spaces import Point

NUM_GROUPS, GROUP_SIZE = 16, 8
NUM_WALKERS = NUM_GROUPS * GROUP_SIZE
SCOUTS = 32  # points that survey a path
_MOST_KNOTS = 256
SCOUT_STEPS = 2  # at each knot
SETTLING_STEPS = 4  # that tune the kernel after a look


class Between(eqx.Module):
    """From one set of parameters to another in a straight line: at(s) has a + s(b − a).

    An RBM's way is made of RBMs, a network's of networks.
    """

    start: AbstractEnergy
    end: AbstractEnergy

    def at(self, s) -> AbstractEnergy:
        a, rest = partition_trainable(self.start)
        b, _ = partition_trainable(self.end)

        def between(p, q):
            return p + jnp.asarray(s, p.dtype) * (q - p)

        return eqx.combine(jax.tree.map(between, a, b), rest)


Way = Between | AbstractPath


class Survey(eqx.Module):
    """What scouts found along a way: knots, the kernel's tuning at each, and lengths between.

    A length is the sd of the change of f: of thermodynamic length as it is measured in sd. Arrays
    are padded with the end; `arrived` says whether the scouts came that far.
    """

    knots: Float[Array, " knots"]
    lengths: Float[Array, " knots"]  # from the start
    tunings: PyTree
    count: Int[Array, ""]

    @property
    def arrived(self) -> bool:
        return bool(self.knots[-1] >= 1)

    @property
    def length(self) -> float:
        return float(self.lengths[-1])

    @property
    def num_evaluations(self) -> float:
        """By the scouts, without the kernel's own: 3 a knot."""
        return 3.0 * SCOUTS * float(self.count)

    def beta(self, share):
        """The place on the way at `share` of its length."""
        return jnp.interp(share * self.lengths[-1], self.lengths, self.knots)

    def tuning(self, beta) -> PyTree:
        at = jnp.clip(jnp.searchsorted(self.knots, beta), 0, len(self.knots) - 1)
        return jax.tree.map(lambda a: a[at] if eqx.is_array(a) else a, self.tunings)


class Walkers(eqx.Module):
    """The population: `x` (NUM_WALKERS, *event), log weights (groups, size), the kernel's tuning.

    `level`: (groups,) NumPy float64, log Z by each group but for its weights' mean.
    """

    x: Point
    log_weight: Float[Array, "groups size"]
    level: np.ndarray
    tuning: PyTree

    def log_z(self) -> tuple[float, float]:
        """(log of the groups' mean Z with its bias of second order taken off, standard error).

        The error is the larger of the relative error of the mean of Z and of the mean of log Z:
        the first stops growing where one group outweighs all others.
        """
        log_weight = np.asarray(self.log_weight, np.float64)
        with np.errstate(divide="ignore"):
            top = log_weight.max(axis=1, keepdims=True)
            top = np.where(np.isfinite(top), top, 0.0)
            groups = self.level + top[:, 0] + np.log(np.exp(log_weight - top).mean(axis=1))
        if not np.isfinite(groups).all():
            return float(groups.max()), np.inf
        value, relative = mean_of(groups)
        return value, max(relative, float(groups.std(ddof=1) / np.sqrt(NUM_GROUPS)))


@eqx.filter_jit
def survey(path: AbstractPath, sampler: AbstractSampler, *, key: Key[Array, ""]) -> Survey:
    """Sends scouts from the base to the target, one sd of the change of f at a time."""
    key_draw, key_init, key_run = jax.random.split(key, 3)
    x = path.draw(SCOUTS, key=key_draw)
    state, tuning = sampler.init(path.at(jnp.zeros(())), x, key=key_init)
    arrays, static = eqx.partition(tuning, eqx.is_array)
    filled = jax.tree.map(lambda a: jnp.broadcast_to(a, (_MOST_KNOTS, *a.shape)), arrays)
    state_arrays, state_static = eqx.partition(state, eqx.is_array)

    def go_on(carry):
        i, beta, *_ = carry
        return (beta < 1) & (i < _MOST_KNOTS)

    def stage(carry):
        i, beta, state_arrays, arrays, knots, lengths, filled = carry
        state = eqx.combine(state_arrays, state_static)
        tuning = eqx.combine(arrays, static)
        inside = jnp.clip(beta, 1e-6, 1 - 1e-6)  # a hard wall has no slope at the very ends
        slope = jax.jvp(
            lambda b: batched(path.at(b), state.x), (inside,), (jnp.ones_like(inside),)
        )[1]
        speed = jnp.std(slope, where=jnp.isfinite(slope))
        speed = jnp.where(jnp.isfinite(speed), speed, 0.0)
        # Speeds change on the way: no stage ends at more than three times where it starts.
        step = jnp.minimum(1 / jnp.maximum(speed, 1e-6), jnp.clip(2 * beta, 1e-3, 0.25))
        new = jnp.minimum(1.0, beta + step)
        new = jnp.where(1 - new < 1e-6, 1.0, new)
        energy = path.at(new)
        state = sampler.refresh(energy, state)
        for k in range(SCOUT_STEPS):
            step_key = jax.random.fold_in(key_run, SCOUT_STEPS * i + k)
            state, info = sampler.step(energy, state, tuning, key=step_key)
            tuning = sampler.adapt(tuning, state, info)
        frozen = eqx.filter(sampler.freeze(tuning), eqx.is_array)
        filled = jax.tree.map(lambda a, b: a.at[i].set(b), filled, frozen)
        knots, lengths = (
            jnp.where(jnp.arange(_MOST_KNOTS) >= i, value, old)
            for value, old in ((new, knots), (lengths[-1] + speed * (new - beta), lengths))
        )
        state_arrays = eqx.filter(state, eqx.is_array)
        return i + 1, new, state_arrays, eqx.filter(tuning, eqx.is_array), knots, lengths, filled

    zeros = jnp.zeros(_MOST_KNOTS)
    carry = (jnp.zeros((), int), jnp.zeros(()), state_arrays, arrays, zeros, zeros, filled)
    i, _, _, _, knots, lengths, filled = jax.lax.while_loop(go_on, stage, carry)

    def behind(a):  # what was not reached has the last tuning
        last = a[jnp.maximum(i - 1, 0)]
        past = (jnp.arange(_MOST_KNOTS) >= i).reshape(-1, *(1,) * (a.ndim - 1))
        return jnp.where(past, last, a)

    knots = jnp.concatenate([jnp.zeros(1), knots])
    lengths = jnp.concatenate([jnp.zeros(1), lengths])
    tunings = jax.tree.map(lambda a: jnp.concatenate([a[:1], a]), jax.tree.map(behind, filled))
    # Where f does not change at all, a way has no length: its places stand in for lengths.
    lengths = jnp.where(lengths[-1] > 0, lengths, knots)
    return Survey(knots, lengths, eqx.combine(tunings, static), i)


def straight(tuning: PyTree) -> Survey:
    """Of a way so short that one tuning does, and steps are spread evenly."""
    ends = jnp.asarray([0.0, 1.0])
    twice = jax.tree.map(lambda a: jnp.stack([a, a]) if eqx.is_array(a) else a, tuning)
    return Survey(ends, ends, twice, jnp.zeros((), int))


def carry(
    way: Way,
    sampler: AbstractSampler,
    found: Survey,
    walkers: Walkers,
    num_steps: int,
    *,
    key: Key[Array, ""],
) -> tuple[Walkers, float]:
    """(the walkers at the end of `way`, the least conditional ESS of a step as a share of all).

    Each step weighs, resamples groups whose ESS is below half (systematic, Kitagawa 1996), then
    moves. It costs an evaluation and a step of the kernel for each walker.
    """
    x, log_weight, gain, least = _carry(
        way, sampler, found, walkers.x, walkers.log_weight, jnp.asarray(num_steps), key=key
    )
    level = walkers.level + np.asarray(gain, np.float64)
    return Walkers(x, log_weight, level, walkers.tuning), float(least)


@eqx.filter_jit
def _carry(way, sampler, found, x, log_weight, num_steps, *, key):
    key_init, key_run = jax.random.split(key)
    state, _ = sampler.init(way.at(jnp.zeros(())), x, key=key_init)
    shape = log_weight.shape
    arrays, static = eqx.partition(state, eqx.is_array)

    def step(k, carry):
        arrays, log_weight, gain, least = carry
        state = eqx.combine(arrays, static)
        key_move, key_choose = jax.random.split(jax.random.fold_in(key_run, k))
        beta = jnp.where(k + 1 == num_steps, 1.0, found.beta((k + 1) / num_steps))
        energy = way.at(beta)
        fresh = sampler.refresh(energy, state)
        change = fresh.log_density - state.log_density
        lost = jnp.isnan(change) | (state.log_density == -jnp.inf)
        change = jnp.where(lost, -jnp.inf, change).reshape(shape)
        weight = jax.nn.softmax(_without_dead(log_weight), axis=1) / shape[0]
        least = jnp.minimum(least, _conditional_ess(weight, change))
        log_weight = log_weight + change
        fresh, log_weight, more = _resampled(fresh, log_weight, key_choose)
        state, _ = sampler.step(energy, fresh, found.tuning(beta), key=key_move)
        return eqx.filter(state, eqx.is_array), log_weight, gain + more, least

    start = arrays, log_weight, jnp.zeros(shape[0]), jnp.ones(())
    arrays, log_weight, gain, least = jax.lax.fori_loop(0, num_steps, step, start)
    return eqx.combine(arrays, static).x, log_weight, gain, least


def _without_dead(log_weight):
    """Log weights; a group that is all dead has equal ones, for it counts by its level alone."""
    dead = ~jnp.isfinite(jnp.max(log_weight, axis=1, keepdims=True))
    return jnp.where(dead, 0.0, log_weight)


def _conditional_ess(weight, change):
    """(Σ W u)²/Σ W u², u = exp(change): Zhou, Johansen & Aston 2016 (arXiv:1303.3123), eq. 13."""
    top = jnp.max(change)
    u = jnp.where(jnp.isfinite(top), jnp.exp(change - top), 0.0)
    total = jnp.sum(weight * u)
    return jnp.where(total > 0, total**2 / jnp.sum(weight * u**2), 0.0)


def _resampled(state: State, log_weight, key):
    """(state, log weights, what goes to the groups' levels): groups of low ESS are drawn anew."""
    groups, size = log_weight.shape
    top = jnp.max(log_weight, axis=1, keepdims=True)
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    weight = jnp.exp(log_weight - top)
    total = jnp.sum(weight, axis=1, keepdims=True)
    alive = total[:, 0] > 0
    ess = jnp.where(alive, total[:, 0] ** 2 / jnp.maximum(jnp.sum(weight**2, axis=1), 1e-30), size)
    again = (ess < 0.5 * size) & alive
    chosen = jnp.where(again[:, None], systematic(log_weight, key), jnp.arange(size))
    index = (chosen + size * jnp.arange(groups)[:, None]).reshape(-1)

    def take(a):  # what a kernel's state holds of each chain has the chains as its first axis
        return a[index] if eqx.is_array(a) and a.shape[:1] == index.shape else a

    state = jax.tree.map(take, state)
    more = jnp.where(again, jnp.log(total[:, 0] / size) + top[:, 0], 0.0)
    return state, jnp.where(again[:, None], 0.0, log_weight), more


@eqx.filter_jit
def spread_of_change(start: AbstractEnergy, end: AbstractEnergy, walkers: Walkers):
    """sd of f_end − f_start over the walkers: the length of the way between them."""
    change = batched(end, walkers.x) - batched(start, walkers.x)
    return jnp.std(change, where=jnp.isfinite(change))


def settle(
    energy: AbstractEnergy, sampler: AbstractSampler, walkers: Walkers, *, key: Key[Array, ""]
) -> Walkers:
    """The walkers after a few more steps at `energy`, which tune the kernel; weights stay."""
    if not jax.tree.leaves(eqx.filter(walkers.tuning, eqx.is_array)):
        return walkers
    state, _ = started(sampler, energy, walkers.x, key=key)
    state, tuning, _ = run(
        sampler,
        energy,
        state,
        walkers.tuning,
        key=key,
        num_steps=SETTLING_STEPS,
        adapt=True,
        keep=False,
    )
    return Walkers(state.x, walkers.log_weight, walkers.level, tuning)


def at_base(path: AbstractPath, tuning: PyTree, *, key: Key[Array, ""]) -> Walkers:
    """Exact draws of the base, of equal weight."""
    return Walkers(
        x=path.draw(NUM_WALKERS, key=key),
        log_weight=jnp.zeros((NUM_GROUPS, GROUP_SIZE)),
        level=np.full(NUM_GROUPS, float(path.log_z0)),
        tuning=tuning,
    )
