"""The mode of a discrete energy, searched for by cooling its own sampler.

Chains at β that grows geometrically draw from p^β, ever closer around its modes (Kirkpatrick,
Gelatt & Vecchi 1983, "Optimization by simulated annealing").
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from energax.energies._base import (
    AbstractColouredEnergy,
    AbstractEnergy,
    AbstractLocalEnergy,
    Conditional,
    FrozenEnergy,
    Tempered,
    batched,
)
from energax.samplers._base import AbstractSampler, choose
from energax.samplers.choose import default_sampler, initial_points
from energax.samplers.gibbs import SiteGibbs
from energax.spaces import Binary, Categorical, Ordinal, Point, Spin
from energax.tasks.mode._base import Found, energies_of, lowest, take

_MOST_SWEEPS, _LEAST_SWEEPS = 1_000, 30
_MOST_EVALUATIONS = 8_000_000
_HOT, _COLD = 0.5, 7.0  # β times a large change of E in one site at the start, a small one at last
_QUENCH = 10  # sweeps at the end that take hardly any step up


def by_annealing(
    energy: AbstractEnergy,
    *,
    key: Key[Array, ""],
    num_chains: int,
    num_sweeps: int | None,
    initial: Point | None,
) -> Found | str:
    """The best point of `num_chains` independent chains, or why they do not apply."""
    if energy.space.is_continuous:
        return f"{energy.space} has no few values a site to draw: take method='ascent'"
    keys = jax.random.split(key, 3)
    kin = _of_its_kind(energy)
    sampler, steps = _sampler(kin)
    cost = num_chains * steps * sampler.evaluations_per_step(kin)
    if num_sweeps is None:
        num_sweeps = int(np.clip(_MOST_EVALUATIONS / cost, _LEAST_SWEEPS, _MOST_SWEEPS))
    if initial is None:
        initial = initial_points(energy, num_chains, key=keys[0])
    hot, cold = _ends(kin, initial, keys[1])
    betas = np.append(np.geomspace(hot, cold, num_sweeps), np.full(_QUENCH, 1e3 * cold))
    x = _cooled(sampler, kin, initial, jnp.asarray(betas, float), keys[2], steps)
    best, share = lowest(energies_of(energy, jax.tree.map(np.asarray, x)))
    count = round(share * num_chains)
    reasons = [
        f"annealing proves nothing: {count} of {num_chains} chains ended at this energy and none "
        "lower, but a lower one may lie where none of them came"
    ]
    if count == 1 and num_chains > 1:
        reasons.append("only one chain found it: more sweeps (num_sweeps=) may find a lower one")
    return Found(
        take(x, best),
        "annealing",
        agreement=share,
        num_evaluations=int(cost * len(betas)),
        reasons=tuple(reasons),
    )


def _of_its_kind(energy: AbstractEnergy) -> AbstractEnergy:
    """`energy`, but for a constant, as an energy that knows its structure where one is inside."""
    if isinstance(energy, FrozenEnergy):
        return _of_its_kind(energy.energy)
    if isinstance(energy, Tempered):
        return _of_its_kind(energy.energy).tempered(energy.beta)
    if isinstance(energy, Conditional):
        return energy.energy.restrict(energy)
    return energy


def _sampler(energy: AbstractEnergy) -> tuple[AbstractSampler, int]:
    """(sampler of `energy.tempered(beta)`, steps of it that make a sweep)."""
    sampler = default_sampler(energy.tempered(1.0))
    if isinstance(sampler, SiteGibbs):
        return SiteGibbs(num_updates=energy.space.num_sites), 1
    whole = isinstance(energy.tempered(1.0), AbstractColouredEnergy)
    return sampler, 1 if whole else energy.space.num_sites


def _ends(energy: AbstractEnergy, x: Point, key: Key[Array, ""]) -> tuple[float, float]:
    """The first β, at which large changes are common, and the last, at which small ones are not.

    From what single changes at the starts do to E.
    """
    if isinstance(energy, AbstractLocalEnergy):
        few = jax.tree.map(lambda a: jnp.asarray(a)[:8], x)
        changes = _site_changes(energy, few)
    else:
        rows = jax.tree.leaves(x)[0].shape[0]
        times = -(-512 // rows)
        many = jax.tree.map(lambda a: jnp.repeat(jnp.asarray(a), times, axis=0), x)
        few_valued = isinstance(energy.space, Binary | Spin | Categorical)
        ordered = 1.0 if not few_valued and not isinstance(energy.space, Ordinal) else 0.5
        scale = 1 / energy.space.num_sites if few_valued else ordered
        changes = _move_changes(energy, many, energy.space.propose(many, scale, key=key))
    sizes = np.abs(np.asarray(changes, np.float64)).ravel()
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    if len(sizes) == 0:
        return 1.0, 1.0
    small, large = np.quantile(sizes, [0.05, 0.95])
    return _HOT / large, max(_COLD / small, 2 * _HOT / large)


@eqx.filter_jit
def _site_changes(energy: AbstractLocalEnergy, x: Point):
    return jax.vmap(energy.site_differences)(x)


@eqx.filter_jit
def _move_changes(energy: AbstractEnergy, x: Point, y: Point):
    return batched(energy, y) - batched(energy, x)


@eqx.filter_jit
def _cooled(
    sampler: AbstractSampler,
    energy: AbstractEnergy,
    x: Point,
    betas: Float[Array, " sweeps"],
    key: Key[Array, ""],
    steps: int,
) -> Point:
    """The best point that each chain came by at the end of a sweep, one sweep at each β."""
    key_init, key_run = jax.random.split(key)
    x = jax.tree.map(jnp.asarray, x)
    state, tuning = sampler.init(energy.tempered(betas[0]), x, key=key_init)

    def sweep(carry: Any, scanned: Any):
        state, tuning, best, best_f = carry
        beta, sweep_key = scanned
        tempered = energy.tempered(beta)
        state = sampler.refresh(tempered, state)

        def step(inner, step_key):
            state, tuning = inner
            state, info = sampler.step(tempered, state, tuning, key=step_key)
            return (state, sampler.adapt(tuning, state, info)), None

        inner = (state, tuning)
        (state, tuning), _ = jax.lax.scan(step, inner, jax.random.split(sweep_key, steps))
        f = state.log_density / beta
        better = f > best_f
        best = choose(better, state.x, best)
        return (state, tuning, best, jnp.where(better, f, best_f)), None

    start = state, tuning, x, state.log_density / betas[0]
    keys = jax.random.split(key_run, len(betas))
    (_, _, best, _), _ = jax.lax.scan(sweep, start, (betas, keys))
    return best
