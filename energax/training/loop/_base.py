"""A training step, compiled chunks of steps, and where a run of them stands.

The length of a chunk is an argument, not a part of the program, so that where a chunk ends (a
checkpoint, a progress report, Ctrl-C) changes no number. What happens at step t is a function of
the state, the key and t alone.
"""

import functools
import math
import time
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from energax.energies._base import AbstractEnergy
from energax.objectives._base import AbstractObjective, steepest_slope, within_orthant
from energax.results import Verdict
from energax.spaces import Point, num_rows
from energax.training._base import History

_TABLE_ROWS = 1000  # most steps of a chunk that are logged
_CHUNK_SECONDS = 0.3
_BACK = 10  # steps between trouble and the state that training goes back to, at the least
_BASELINE = 10  # first steps, whose largest energies say what is usual
_EXPLOSION = 1000.0  # a gap this many times what is usual, plus as many nats a site, is divergence


class TrainState(eqx.Module):
    """All that a step changes."""

    step: Int[Array, ""]
    parameters: PyTree  # (θ, the objective's own)
    optimizer: PyTree
    average: PyTree
    carry: Any
    usual: Float[Array, ""]  # size of energies in the first steps


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
    batch_size: int = eqx.field(static=True)
    log_every: int = eqx.field(static=True)
    optimizer: Any = eqx.field(static=True)
    inverse: Any  # the objective's rough inverse Hessian, for optimizers that settle
    settles: bool = eqx.field(static=True)  # the optimizer ends the training by an update of 0

    @property
    def steps_per_epoch(self) -> int:
        return max(1, num_rows(self.data) // self.batch_size)

    def order(self, step) -> Int[Array, " rows"]:
        """The order of the rows in the epoch of `step`."""
        key = jax.random.fold_in(self.key_order, step // self.steps_per_epoch)
        return jax.random.permutation(key, num_rows(self.data))


def _update(plan: Plan, state: TrainState, order: Array) -> tuple[TrainState, dict[str, Array]]:
    """One step: (state, metrics)."""
    import optax

    batch = plan.data
    if plan.batch_size < num_rows(plan.data):
        start = state.step % plan.steps_per_epoch * plan.batch_size
        index = jax.lax.dynamic_slice_in_dim(order, start, plan.batch_size)
        batch = jax.tree.map(lambda a: a.at[index].get(mode="promise_in_bounds"), batch)

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
    given = gradient if plan.settles else steepest
    updates, optimizer = plan.optimizer.update(given, state.optimizer, state.parameters, **extra)
    if plan.learning_rate is not None:
        rate = plan.learning_rate * jnp.minimum(1.0, 2 * (1 - state.step / plan.num_steps))
        updates = jax.tree.map(lambda u: -rate.astype(u.dtype) * u, updates)
    parameters = eqx.apply_updates(state.parameters, updates)
    if l1 is not None and not plan.settles:
        parameters = jax.tree.map(within_orthant, parameters, state.parameters, steepest, l1)
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
        "gradient_norm": _norm(steepest),
        "update_norm": _norm(updates),
    }
    if "energy_samples" in metrics:
        metrics["gap"] = metrics["energy_data"] - metrics["energy_samples"]
    sizes = [jnp.abs(metrics[name]) for name in ("energy_data", "gap") if name in metrics]
    usual = functools.reduce(jnp.maximum, sizes, state.usual)
    usual = jnp.where(state.step < _BASELINE, usual, state.usual)
    return TrainState(state.step + 1, parameters, optimizer, average, carry, usual), metrics


def _l1_strengths(plan: Plan, parameters: PyTree) -> PyTree:
    """λ of every parameter, a tree like `parameters`; None without an L1 penalty."""
    theta, own = parameters
    strengths = plan.objective.l1_strengths(theta)
    return None if strengths is None else (strengths, jax.tree.map(jnp.zeros_like, own))


def _norm(tree: PyTree) -> Float[Array, ""]:
    """By products of vectors, which take a third of the time of sums of squares on CPUs."""
    leaves = jax.tree.leaves(tree)
    return jnp.sqrt(sum(jnp.vdot(leaf, leaf, precision="highest") for leaf in leaves))


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
    table = jnp.zeros((_TABLE_ROWS + 1, len(names) + 1), dtype)

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
            order = jax.lax.cond(new_epoch, lambda: plan.order(first), lambda: order)
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
    return eqx.combine(arrays, static), order, columns, row, trouble, settled


# ---- the host's side -------------------------------------------------------------------------


class Moment(NamedTuple):
    """Where a run stands. One object, so that Ctrl-C finds the old one or the new one, whole."""

    step: int
    state: TrainState
    order: Array
    record: tuple[History, ...]
    settled: bool = False  # nothing is left to do


class Trouble(Exception):
    """Training cannot go on; `record` ends with the failing step, whose metrics are `last`."""

    def __init__(self, record: tuple[History, ...], last: dict[str, float]):
        super().__init__("training cannot go on")
        self.record, self.last = record, last


class Run:
    """A run on the host: the plan, where it stands, and earlier moments to go back to."""

    def __init__(self, plan: Plan, state: TrainState, record: tuple[History, ...], seconds: float):
        self.plan = plan
        self.moment = Moment(int(state.step), state, plan.order(state.step), record)
        self.earlier: deque[Moment] = deque([self.moment])
        self.seconds = seconds
        self.saved_step, self.saved_at = (self.step if record else -1), time.monotonic()
        self.length = 0  # of the next chunk; the first one compiles and tells nothing

    @property
    def step(self) -> int:
        return self.moment.step

    @property
    def settled(self) -> bool:
        return self.moment.settled

    @property
    def energy(self) -> AbstractEnergy:
        state = self.moment.state
        theta = state.parameters[0]
        if self.plan.settles:  # the parameters may be those of a step that is only tried
            theta = self.plan.optimizer.lowest(state.optimizer, state.parameters)[0]
        return eqx.combine(theta, self.plan.fixed)

    @property
    def averaged_energy(self) -> AbstractEnergy:
        if self.plan.decay is None:
            return self.energy
        return eqx.combine(self.moment.state.average, self.plan.fixed)

    def history(self) -> History:
        """The record of the steps behind the parameters."""
        return joined(self.moment.record, before=self.step)

    def note(self, part: History) -> None:
        self.moment = self.moment._replace(record=(*self.moment.record, part))

    def next_stop(self, num_steps: int, *every: int | None) -> int:
        """Where the next chunk ends: after about `_CHUNK_SECONDS`, or at the next multiple."""
        stops = [self.step - self.step % n + n for n in every if n]
        return min(self.step + (self.length or _BACK), num_steps, *stops)

    def advance(self, until: int) -> dict[str, float]:
        """Steps up to `until`; returns the metrics of the last one.

        **Raises:** Trouble, and the run stays where it was.
        """
        began = time.monotonic()
        moment, last = _go_on(self.plan, self.moment, until)
        if self.step - self.earlier[-1].step >= _BACK:
            self.earlier.append(self.moment)
        while len(self.earlier) > 1 and self.earlier[1].step <= moment.step - 2 * _BACK:
            self.earlier.popleft()
        elapsed = max(time.monotonic() - began, 1e-6)
        if self.length:
            fitting = int(_CHUNK_SECONDS / elapsed * (until - self.step))
            self.length = max(1, min(fitting, 4 * self.length, _TABLE_ROWS * self.plan.log_every))
        else:
            self.length = _BACK
        self.moment = moment
        self.seconds += elapsed
        return last

    def go_back(self, trouble: Trouble, rate: float | None) -> str:
        """To a moment 10 to 19 steps before the trouble, the same wherever chunks ended.

        Returns the reason to give.
        """
        failed = int(trouble.last["step"])
        target = max((failed - _BACK) // _BACK * _BACK, self.earlier[0].step)
        held = [*self.earlier, self.moment]
        moment = [m for m in held if m.step <= target][-1]
        if target > moment.step:
            moment = _go_on(self.plan, moment, target)[0]
        self.moment = moment._replace(record=trouble.record)
        return f"{_diagnosis(trouble.last, rate)}; training went back to step {self.step}"


def _go_on(plan: Plan, moment: Moment, until: int) -> tuple[Moment, dict[str, float]]:
    """(the moment after the steps up to `until`, the metrics of its last step), or Trouble."""
    state, order, table, row, trouble, settled = advance(
        plan, moment.state, moment.order, jnp.asarray(until)
    )
    count = int(row)
    table = {name: np.asarray(values, np.float64) for name, values in table.items()}
    last = {name: float(values[max(count - 1, 0)]) for name, values in table.items()}
    record = (*moment.record, {name: values[:count] for name, values in table.items()})
    if trouble:
        raise Trouble(record, last)
    step = int(state.step) if settled else until
    return Moment(step, state, order, record, bool(settled)), last


def joined(record: Iterable[History], before: int | None = None) -> History:
    """The parts of the record as one, of what was seen up to the parameters of step `before`."""
    pieces: dict[str, list[np.ndarray]] = {}
    for part in record:
        wanted: Any = slice(None)
        if before is not None:
            # Step t starts from the parameters of step t, so that its row comes after them.
            is_step = "step" in part
            wanted = part["step"] < before if is_step else part[_step_of(part)] <= before
        for name, values in part.items():
            pieces.setdefault(name, []).append(values[wanted])
    return {name: np.concatenate(values) for name, values in pieces.items()}


_BESIDE = "validation", "log_likelihood"  # what is not of every step, each with a `..._step`


def _step_of(part: History) -> str:
    """The name of the steps in a part that is looked at now and then."""
    return next(f"{name}_step" for name in _BESIDE if f"{name}_step" in part)


def parts_of(history: History) -> tuple[History, ...]:
    """A joined history as parts again: the training's, the validation's, early stopping's."""
    parts: dict[str, History] = {}
    for name, values in history.items():
        kind = next((kind for kind in _BESIDE if name.startswith(kind)), "")
        parts.setdefault(kind, {})[name] = values
    return tuple(parts.values())


def _diagnosis(last: dict[str, float], rate: float | None) -> str:
    """What happened, and which knob to turn."""
    step = int(last["step"])
    slower = "lower the learning_rate of your optimizer"
    if rate is not None:
        slower = f"lower learning_rate (now {rate:g})"
    for name, what in (
        ("energy_data", "the energy of the data"),
        ("energy_samples", "the energy of the samples"),
        ("loss", "the loss"),
        ("gradient_norm", "the gradient"),
        ("update_norm", "the optimizer's update"),
    ):
        value = last.get(name, 0.0)
        if not math.isfinite(value):
            shown = "NaN" if math.isnan(value) else "infinite"
            if step == 0 and name != "update_norm":
                return (
                    f"{what} is {shown} before any update: check that the energy and its gradient "
                    "are finite on every row of the data"
                )
            return f"{what} became {shown} at step {step}: {slower}"
    return (
        f"the energies of data and samples ran apart, to a gap of {last['gap']:.3g} nats at step "
        f"{step}: {slower} or take more sampler steps an update"
    )


def review(history: History) -> tuple[str, ...]:
    """Reasons not to trust a training that ran to its end."""
    names = "gap", "energy_data_sd", "acceptance"
    steps = len(history.get("step", ()))
    if steps < 100 or not set(names) <= set(history):
        return ()
    gap, spread, acceptance = (float(history[name][steps - steps // 10 :].mean()) for name in names)
    return Verdict.of(
        [
            (
                abs(gap) <= spread + 1,
                f"in the last tenth of the steps the samples' energies were {abs(gap):.3g} nats "
                f"{'below' if gap > 0 else 'above'} the data's, whose spread is {spread:.3g}: the "
                "chains do not keep up; take more sampler steps an update, a lower learning rate "
                "or more steps",
            ),
            (
                acceptance >= 0.01,
                f"in the last tenth of the steps the chains accepted {acceptance:.2g} of their "
                "moves and hardly moved: choose another sampler",
            ),
        ]
    ).reasons
