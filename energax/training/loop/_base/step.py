"""A training step, and compiled chunks of steps.

The length of a chunk is an argument, not a part of the program, so that where a chunk ends (a
checkpoint, a progress report, Ctrl-C) changes no number. What happens at step t is a function of
the state, the key and t alone.
"""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from energax.energies._base import total
from energax.objectives._base import AbstractObjective, steepest_slope, within_orthant
from energax.samplers._base import apart, by_one, together
from energax.spaces import Point, num_rows
from energax.training.loop._base.spectral import bounded

TABLE_ROWS = 1000  # most steps of a chunk that are logged
_EXPLOSION = 1000.0  # a gap this many times what is usual, plus as many nats a site, is divergence
LEAST_ACCEPTANCE = 0.01  # chains that accept less hardly move
IDLE_STEPS = 1000  # in a row, after which they will not either
_AWAY = 10.0  # a loss that leaps to this many times what it ever was, plus as many nats a site,
AWAY_STEPS = 5  # and stays there for so many steps, has run away: one odd minibatch does not stay


class TrainState(eqx.Module):
    """All that a step changes."""

    step: Int[Array, ""]
    parameters: PyTree  # (θ, the objective's own)
    optimizer: PyTree
    average: PyTree
    carry: Any
    usual: Float[Array, ""]  # size of the energies before the first update, of a loss the largest
    doubtful: Int[Array, ""]  # steps in a row in which chains hardly moved, or the loss was away
    directions: PyTree = None  # that θ's matrices stretch most, where those are bounded


class Plan(eqx.Module):
    """All that a step does not change. Numbers that may differ from run to run are arrays."""

    fixed: PyTree  # the energy without θ
    objective: AbstractObjective
    data: Point
    key_order: Array
    key_steps: Array
    learning_rate: Float[Array, ""] | None  # None: the optimizer has its own
    num_steps: Float[Array, ""]
    decay: Float[Array, ""] | None
    clip: Float[Array, ""] | None  # the largest norm of the gradient that the optimizer sees
    factor: Float[Array, ""]  # what recoveries have made of the rate, 1 without any
    batch_size: int = eqx.field(static=True)
    log_every: int = eqx.field(static=True)
    optimizer: Any = eqx.field(static=True)
    inverse: Any  # the objective's rough inverse Hessian, for optimizers that settle
    settles: bool = eqx.field(static=True)  # the optimizer ends the training by an update of 0
    spectral_norm: Float[Array, ""] | None = None  # the largest singular value of θ's matrices

    @property
    def steps_per_epoch(self) -> int:
        return max(1, num_rows(self.data) // self.batch_size)

    def order(self, step) -> Int[Array, " rows"]:
        """The order of the rows in the epoch of `step`."""
        key = jax.random.fold_in(self.key_order, step // self.steps_per_epoch)
        return jax.random.permutation(key, num_rows(self.data))

    def chosen(self, order, step) -> Int[Array, " batch"] | None:
        """The rows in the minibatch of `step`, given the order in its epoch; None for all rows."""
        if self.batch_size >= num_rows(self.data):
            return None
        start = step % self.steps_per_epoch * self.batch_size
        return jax.lax.dynamic_slice_in_dim(order, start, self.batch_size)


def _update(plan: Plan, state: TrainState, order: Array) -> tuple[TrainState, dict[str, Array]]:
    """One step: (state, metrics)."""
    import optax

    batch, index = plan.data, plan.chosen(order, state.step)
    if index is not None:
        batch = jax.tree.map(lambda a: a.at[index].get(mode="promise_in_bounds"), batch)
    batch = apart(batch)

    def loss_of(parameters):
        theta, own = parameters
        energy = eqx.combine(theta, plan.fixed)
        key = jax.random.fold_in(plan.key_steps, state.step)
        loss, carry, metrics = plan.objective(energy, own, batch, state.carry, key=key)
        return loss, (carry, metrics)

    grad = eqx.filter_value_and_grad(loss_of, has_aux=True)
    (loss, (carry, metrics)), gradient = grad(state.parameters)
    l1 = _l1_strengths(plan, state.parameters)
    extra: dict[str, Any] = {}
    if plan.settles:
        extra = {"value": loss, "l1": l1, "inverse": plan.inverse}
    elif isinstance(plan.optimizer, optax.GradientTransformationExtraArgs):
        extra = {"value": loss}  # some, such as reduce_on_plateau, look at the loss
    steepest = gradient
    if l1 is not None:
        steepest = jax.tree.map(steepest_slope, state.parameters, gradient, l1)
    norm = _norm(steepest)
    given = gradient if plan.settles else steepest
    if plan.clip is not None:  # Pascanu, Mikolov & Bengio 2013, algorithm 1
        shrink = jnp.where(norm > plan.clip, plan.clip / norm, 1.0)
        given = jax.tree.map(lambda g: shrink.astype(g.dtype) * g, given)
    updates, optimizer = plan.optimizer.update(given, state.optimizer, state.parameters, **extra)
    if plan.learning_rate is not None:
        rate = plan.learning_rate * jnp.minimum(1.0, 2 * (1 - state.step / plan.num_steps))
        updates = jax.tree.map(lambda u: -(plan.factor * rate).astype(u.dtype) * u, updates)
    elif not plan.settles:
        updates = jax.tree.map(lambda u: plan.factor.astype(u.dtype) * u, updates)
    parameters = eqx.apply_updates(state.parameters, updates)
    if l1 is not None and not plan.settles:
        parameters = jax.tree.map(within_orthant, parameters, state.parameters, steepest, l1)
    directions = state.directions
    if plan.spectral_norm is not None:
        theta, directions = bounded(parameters[0], directions, plan.spectral_norm)
        parameters = (theta, parameters[1])
    average = state.average
    if plan.decay is not None:
        # Young averages forget faster, so that the start does not linger in them.
        weight = 1 - jnp.minimum(plan.decay, (1 + state.step) / (10 + state.step))

        def move(mean, new):
            return mean + weight.astype(mean.dtype) * (new - mean)

        average = jax.tree.map(move, average, parameters[0])
    metrics = {
        **metrics,
        "loss": loss,
        "gradient_norm": norm,
        "update_norm": _norm(updates),
    }
    if "energy_samples" in metrics:
        metrics["gap"] = metrics["energy_data"] - metrics["energy_samples"]
    usual, doubtful = state.usual, state.doubtful
    if "acceptance" in metrics:  # by chains, and of the loss only its gradient means something
        sizes = [jnp.abs(metrics[name]) for name in ("energy_data", "gap") if name in metrics]
        size = functools.reduce(jnp.maximum, sizes, jnp.zeros_like(usual))
        usual = jnp.where(state.step == 0, size, usual)
        doubtful = jnp.where(metrics["acceptance"] < LEAST_ACCEPTANCE, doubtful + 1, 0)
    elif not plan.settles:
        away = (state.step > 0) & (loss > _AWAY * (plan.fixed.space.num_sites + usual))
        usual = jnp.where(away, usual, jnp.maximum(usual, jnp.abs(loss).astype(usual.dtype)))
        doubtful = jnp.where(away, doubtful + 1, 0)
    return TrainState(
        state.step + 1, parameters, optimizer, average, carry, usual, doubtful, directions
    ), metrics


def _l1_strengths(plan: Plan, parameters: PyTree) -> PyTree:
    """λ of every parameter, a tree like `parameters`; None without an L1 penalty."""
    theta, own = parameters
    strengths = plan.objective.l1_strengths(theta)
    return None if strengths is None else (strengths, jax.tree.map(jnp.zeros_like, own))


def _norm(tree: PyTree) -> Float[Array, ""]:
    return jnp.sqrt(sum(total(leaf * leaf) for leaf in jax.tree.leaves(tree)))


def _gap_limit(plan: Plan, state: TrainState) -> Array:
    return _EXPLOSION * (plan.fixed.space.num_sites + state.usual)


@eqx.filter_jit
def advance(plan: Plan, state: TrainState, order: Array, until: Array):
    """Steps up to `until`, or up to and with the first step in trouble or that settles.

    Returns (state, order, rows of metrics by name, number of rows written, whether in trouble,
    whether settled). In trouble the state is of no use, and the last row written tells of the step.
    """
    names = sorted(eqx.filter_eval_shape(_update, plan, state, order)[1])
    arrays, static = eqx.partition(state, eqx.is_array)
    dtype = jnp.result_type(float)
    table = jnp.zeros((TABLE_ROWS + 1, len(names) + 1), dtype)

    def step(carry):
        arrays, order, table, row, _, _ = carry
        old = eqx.combine(arrays, static)
        new, metrics = _update(plan, old, order)
        healthy = (
            jnp.isfinite(metrics["loss"])
            & jnp.isfinite(metrics["gradient_norm"])
            & jnp.isfinite(metrics["update_norm"])
        )
        if plan.settles:  # a step that was tried and led nowhere is taken back
            healthy |= (old.step > 0) & jnp.isfinite(metrics["update_norm"])
        if "gap" in metrics:
            healthy &= jnp.abs(metrics["gap"]) <= _gap_limit(plan, new)
        healthy &= new.doubtful < (IDLE_STEPS if "acceptance" in metrics else AWAY_STEPS)
        settled = (metrics["update_norm"] == 0) & plan.settles
        values = jnp.stack([old.step, *(metrics[name] for name in names)]).astype(dtype)
        # Steps between logged ones write where the next logged one will.
        table = jax.lax.dynamic_update_slice(table, values[None], (row, 0))
        row += (old.step % plan.log_every == 0) | ~healthy | settled
        return eqx.filter(new, eqx.is_array), order, table, row, ~healthy, settled

    def steps_of_epoch(carry):
        arrays, order, *rest = carry
        first, per_epoch = arrays.step, plan.steps_per_epoch
        if plan.batch_size < num_rows(plan.data):
            new_epoch = first % per_epoch == 0
            order = jax.lax.cond(
                new_epoch, lambda: by_one(lambda: plan.order(first)), lambda: order
            )
        end = jnp.minimum(until, (first // per_epoch + 1) * per_epoch)
        return jax.lax.while_loop(
            lambda c: (c[0].step < end) & ~c[-2] & ~c[-1], step, (arrays, order, *rest)
        )

    no = jnp.zeros((), bool)
    carry = (arrays, order, table, jnp.zeros((), int), no, no)
    arrays, order, table, row, trouble, settled = jax.lax.while_loop(
        lambda c: (c[0].step < until) & ~c[-2] & ~c[-1], steps_of_epoch, carry
    )
    columns = {name: table[:, i] for i, name in enumerate(["step", *names])}
    arrays, *told = together((arrays, order, columns, row, trouble, settled))
    return eqx.combine(arrays, static), *told


def as_strong(tree: PyTree) -> PyTree:
    """Arrays of NumPy as JAX's, and no weak types: a resumed run must see the same program."""

    def convert(leaf):
        if isinstance(leaf, np.ndarray):
            return jnp.asarray(leaf)
        if eqx.is_array(leaf) and leaf.weak_type:
            return jax.lax.convert_element_type(leaf, leaf.dtype)
        return leaf

    return jax.tree.map(convert, tree)
