"""The one loop that runs every sampler."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Key, PyTree

from energax.energies._base import AbstractEnergy
from energax.samplers._base.devices import together
from energax.samplers._base.sampler import AbstractSampler, Info, State, Trace
from energax.spaces import Point


@eqx.filter_jit  # by itself each of its operations would be compiled apart
def started(
    sampler: AbstractSampler, energy: AbstractEnergy, x: Point, *, key: Key[Array, ""]
) -> tuple[State, Any]:
    """(State, tuning) of chains at `x`, the tuning from the whole ensemble on every device."""
    state, tuning = sampler.init(energy, x, key=key)
    if jax.sharding.get_abstract_mesh().empty:
        return state, tuning
    return state, together(sampler.init(energy, together(x), key=key)[1])


@eqx.filter_jit
def run(
    sampler: AbstractSampler,
    energy: AbstractEnergy,
    state: State,
    tuning: Any,
    *,
    key: Key[Array, ""],
    num_steps: int,
    thin: int = 1,
    adapt: bool | Bool[Array, ""] = False,
    keep: bool = True,
) -> tuple[State, Any, Trace]:
    """The one sampling loop: `num_steps` steps (a multiple of `thin`), keeping every `thin`-th.

    **Arguments:** `num_steps`, `thin`, `keep` are Python values and compile in; `keep=False` stores
    no draws. `adapt`: whether the tuning learns (warm-up). A Python bool compiles in too; as a
    boolean array, one program serves warm-up and sampling.

    **Returns:** (State, Tuning, Trace).
    """
    if num_steps % thin:
        raise ValueError(f"num_steps={num_steps} is not a multiple of thin={thin}")
    num_chains = state.log_density.shape[0]

    def step(carry, scanned):
        step_key, number = scanned
        state, tuning, acceptance, divergent, evaluations = carry
        state, info = sampler.step(energy, state, tuning, key=step_key)
        if adapt is not False:
            # XLA would inline a branch on a constant, and `number` is none
            learns = number >= 0 if adapt is True else adapt
            tuning = _adapted(sampler, tuning, state, info, learns)
        if info.evaluations is None:
            evaluations = evaluations + sampler.evaluations_per_step(energy)
        else:
            evaluations = evaluations + info.evaluations
        sums = acceptance + info.acceptance, divergent + info.divergent, evaluations
        return (state, tuning, *sums), None

    def thinned(carry, scanned):
        carry, _ = jax.lax.scan(step, carry, scanned)
        return carry, (carry[0].x, carry[0].log_density) if keep else None

    keys = jax.random.split(key, (num_steps // thin, thin))
    numbers = jnp.arange(num_steps).reshape(keys.shape)
    zeros = jnp.zeros(num_chains), jnp.zeros(num_chains, int), jnp.zeros(num_chains)
    carry, kept = jax.lax.scan(thinned, (state, tuning, *zeros), (keys, numbers))
    state, tuning, acceptance, divergent, evaluations = carry
    if adapt is True:
        tuning = sampler.freeze(tuning)
    elif adapt is not False:
        tuning = _if(adapt, sampler.freeze, tuning)
    x, log_density = (None, None) if kept is None else kept
    trace = Trace(x, log_density, acceptance / num_steps, divergent, evaluations / num_steps)
    return state, tuning, trace


def _adapted(sampler: AbstractSampler, tuning: Any, state: State, info: Info, learns) -> Any:
    """`sampler.adapt` if `learns`, to the last bit the same on any number of devices.

    XLA contracts a·b + c to one rounding within what it compiles together, which depends on what
    stands around. A branch is compiled by itself.
    """

    def adapt(tuning, state, info):
        return sampler.adapt(tuning, together(state), together(info))

    return together(_if(learns, adapt, tuning, state, info))


def _if(condition, change: Callable, first: PyTree, *others: PyTree) -> PyTree:
    """`change(first, *others)` if `condition`, a traced value, else `first`."""
    given, rest = eqx.partition((first, *others), eqx.is_array)
    out_rest = [rest[0]]  # outside of jit only the branch that is taken runs

    def changed(given):
        arrays, others = eqx.partition(change(*eqx.combine(given, rest)), eqx.is_array)
        out_rest.append(others)
        return arrays

    def same(given):
        return given[0]

    return eqx.combine(jax.lax.cond(condition, changed, same, given), out_rest[-1])


def run_fixed(
    sampler: AbstractSampler,
    energy: AbstractEnergy,
    x0: Point,
    *,
    key: Key[Array, ""],
    num_warmup: int,
    num_steps: int,
    thin: int = 1,
) -> Trace:
    """Warm-up, then `num_steps` steps with frozen tuning; no checks, so it can be vmapped.

    `eqx.filter_vmap` over `energy`, `x0` and `key` runs one ensemble for each energy (a posterior a
    row, say) in one go.

    **Arguments:** `x0`: (num_chains, *event), where f should be finite. `num_warmup` may be 0.

    **Returns:** Trace of the sampling phase, x (num_steps / thin, num_chains, *event).
    """
    key_init, key_warmup, key_run = jax.random.split(key, 3)
    state, tuning = sampler.init(energy, x0, key=key_init)
    if num_warmup:
        state, tuning, _ = run(
            sampler,
            energy,
            state,
            tuning,
            key=key_warmup,
            num_steps=num_warmup,
            adapt=True,
            keep=False,
        )
    return run(sampler, energy, state, tuning, key=key_run, num_steps=num_steps, thin=thin)[2]
