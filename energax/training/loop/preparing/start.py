"""What a run starts from: the plan of its steps and the state before the first."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from energax.energies._base import AbstractEnergy, partition_trainable
from energax.objectives._base import AbstractObjective
from energax.spaces import Point
from energax.training.loop._base import Plan, TrainState, as_strong


def first_state(
    energy: AbstractEnergy,
    rows: Point,
    starts: Point,
    objective: AbstractObjective,
    key: Array,
    optimizer: Any,
    settles: bool,
    settings: dict[str, Any],
    directions: tuple[Array, ...] | None,
) -> tuple[Plan, TrainState]:
    """The plan and the first state, of plain (not weakly typed) arrays.

    **Arguments:** `starts`: what chains start at; None takes the rows. `settles`: whether
    `optimizer` ends the training by an update of 0. `settings`: numbers by their names in `fit`.
    `directions`: what `within` found, of an energy whose matrices are bounded.

    **Raises:** ValueError if `energy` has nothing to train, or parameters that are not finite.
    """
    theta, fixed = partition_trainable(as_strong(energy))
    if settings["temperature"] is not None:  # it is given, not learned

        def beta(part):
            return part.beta

        fixed = eqx.tree_at(beta, fixed, beta(theta), is_leaf=lambda node: node is None)
        theta = eqx.tree_at(beta, theta, None)
    leaves = jax.tree.leaves(theta)
    if not leaves:
        raise ValueError(
            "this energy has nothing to train: no float array outside its space and frozen parts; "
            "put the parameters of a function in params= of from_log_density, or in a module"
        )
    if not all(np.isfinite(np.asarray(leaf)).all() for leaf in leaves):
        raise ValueError("this energy's parameters are not all finite: start from finite ones")
    data = jax.tree.map(jnp.asarray, rows)
    key_order, key_steps, key_init = jax.random.split(key, 3)
    first = data if starts is None else starts
    own, carry = objective.init(eqx.combine(theta, fixed), first, key=key_init)
    parameters = (theta, own)
    inverse = None
    if settles:
        inverse = objective.rough_inverse_hessian(eqx.combine(theta, fixed), data)

    def number(name: str) -> Array | None:
        return None if settings[name] is None else jnp.asarray(settings[name], float)

    plan = Plan(
        fixed=fixed,
        objective=as_strong(objective),
        data=data,
        key_order=key_order,
        key_steps=key_steps,
        learning_rate=number("learning_rate"),
        num_steps=jnp.asarray(settings["num_steps"], float),
        decay=number("average"),
        clip=number("clip"),
        factor=jnp.ones((), float),
        batch_size=settings["batch_size"],
        log_every=settings["log_every"],
        optimizer=optimizer,
        inverse=inverse,
        settles=settles,
        spectral_norm=number("spectral_norm"),
    )
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        parameters=parameters,
        optimizer=optimizer.init(parameters),
        average=None if settings["average"] is None else theta,
        carry=carry,
        usual=jnp.zeros((), float),
        doubtful=jnp.zeros((), jnp.int32),
        directions=directions,
    )
    return plan, as_strong(state)


@functools.cache
def adam() -> Any:
    """Adam without its rate; one object for all runs, so that they share compiled steps."""
    import optax

    # A larger eps than usual: else rounding errors move what no data determine by whole steps.
    return optax.scale_by_adam(eps=1e-6)
