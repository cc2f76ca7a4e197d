"""A training step, compiled chunks of steps, and where a run of them stands.

The length of a chunk is an argument, not a part of the program, so that where a chunk ends (a
checkpoint, a progress report, Ctrl-C) changes no number. What happens at step t is a function of
the state, the key and t alone.
"""

import functools
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
from energax.training._base import History, Recovery

_TABLE_ROWS = 1000  # most steps of a chunk that are logged
_CHUNK_SECONDS = 0.3
_BACK = 10  # steps between trouble and the state that training goes back to, at the least
_EXPLOSION = 1000.0  # a gap this many times what is usual, plus as many nats a site, is divergence
LEAST_ACCEPTANCE = 0.01  # chains that accept less hardly move
IDLE_STEPS = 1000  # in a row, after which they will not either


class TrainState(eqx.Module):
    """All that a step changes."""

    step: Int[Array, ""]
    parameters: PyTree  # (θ, the objective's own)
    optimizer: PyTree
    average: PyTree
    carry: Any
    usual: Float[Array, ""]  # size of the energies before the first update
    idle: Int[Array, ""]  # steps in a row up to now in which chains hardly moved


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
    sizes = [jnp.abs(metrics[name]) for name in ("energy_data", "gap") if name in metrics]
    usual = functools.reduce(jnp.maximum, sizes, jnp.zeros_like(state.usual))
    usual = jnp.where(state.step == 0, usual, state.usual)
    idle = state.idle
    if "acceptance" in metrics:
        idle = jnp.where(metrics["acceptance"] < LEAST_ACCEPTANCE, idle + 1, 0)
    return TrainState(state.step + 1, parameters, optimizer, average, carry, usual, idle), metrics


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
        healthy &= new.idle < IDLE_STEPS
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
    recoveries: tuple[Recovery, ...] = ()
    settled: bool = False  # nothing is left to do


class Trouble(Exception):
    """Training cannot go on; `record` ends with the failing step, whose metrics are `last`."""

    def __init__(self, record: tuple[History, ...], last: dict[str, float], idle: bool):
        super().__init__("training cannot go on")
        self.record, self.last, self.idle = record, last, idle

    @property
    def step(self) -> int:
        return int(self.last["step"])


class Run:
    """A run on the host: the plan, where it stands, and earlier moments to go back to.

    **Arguments:** `before`: of a run that goes on, the moment that its checkpoint held beside.
    `windows`: of rows that do not fit into memory, of which the plan has number 0.
    """

    def __init__(
        self,
        plan: Plan,
        moment: Moment,
        before: Moment | None,
        seconds: float,
        windows: Any = None,
    ):
        self.plan, self.moment, self.seconds = plan, moment, seconds
        self._windows, self._window = windows, 0
        self.earlier: deque[Moment] = deque([moment if before is None else before])
        self.saved_step = -1 if before is None else moment.step
        self.saved_at = time.monotonic()
        self.length = 0  # of the next chunk; the first one compiles and tells nothing

    @property
    def step(self) -> int:
        return self.moment.step

    def plan_at(self, step: int) -> Plan:
        """The plan with the rows that `step` is from."""
        if self._windows is not None:
            self.plan, self._window = self._windows.into(self.plan, step, self._window)
        return self.plan

    def where(self, step: int) -> str:
        """Of which rows the minibatch of `step` is, in words."""
        if self._windows is None:
            return "of those trained on"
        return f"of window {step // self._windows.steps} of the file"

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
        if self.earlier[-1].step == self.step:
            self.earlier[-1] = self.moment

    def last_noted(self, name: str) -> int:
        """The last step under `name` in the record, -1 if there is none."""
        found = (part[name] for part in reversed(self.moment.record) if len(part.get(name, ())))
        return int(next(found, [-1])[-1])

    def next_stop(self, num_steps: int, *every: int | None) -> int:
        """Where the next chunk ends: after about `_CHUNK_SECONDS`, or at the next multiple."""
        stops = [self.step - self.step % n + n for n in every if n]
        return min(self.step + (self.length or _BACK), num_steps, *stops)

    def advance(self, until: int) -> dict[str, float]:
        """Steps up to `until`; returns the metrics of the last one.

        **Raises:** Trouble, and the run stays where it was.
        """
        began = time.monotonic()
        moment, last = _go_on(self.plan_at(self.step), self.moment, until)
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

    # ---- back from trouble -------------------------------------------------------------------

    def go_back(self, trouble: Trouble) -> int:
        """To the last moment held that is 10 steps before the trouble or more.

        Returns the step, 10 to 19 before the trouble and the same wherever chunks ended, that the
        same steps as before should lead on to.
        """
        target = max(_back_from(trouble.step), self.earlier[0].step)
        self.moment = self._held(target)
        while self.earlier[-1].step > self.step:
            self.earlier.pop()
        return target

    def before(self) -> Moment:
        """What a checkpoint holds beside now: no trouble from here on leads back beyond it."""
        return self._held(max(_back_from(self.step), self.earlier[0].step))

    def _held(self, step: int) -> Moment:
        return [m for m in (*self.earlier, self.moment) if m.step <= step][-1]

    def start_again(self, plan: Plan, state: TrainState, recovery: Recovery) -> None:
        """From here with other knobs; no later trouble leads back beyond this."""
        note = {"recovery_step": recovery.back_to, "recovery_trouble": recovery.step}
        part = {name: np.asarray([float(value)]) for name, value in note.items()}
        moment = self.moment._replace(
            state=state,
            record=(*self.moment.record, part),
            recoveries=(*self.moment.recoveries, recovery),
        )
        self.earlier = deque([moment])
        self.moment, self.plan = moment, plan
        self.saved_step, self.length = -1, 0

    def end(self, record: tuple[History, ...]) -> None:
        """Here, with the record of what came after."""
        self.moment = self.moment._replace(record=record)
        self.saved_step = -1


def _back_from(step: int) -> int:
    return (step - _BACK) // _BACK * _BACK


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
        raise Trouble(record, last, idle=int(state.idle) >= IDLE_STEPS)
    step = int(state.step) if settled else until
    return Moment(step, state, order, record, moment.recoveries, bool(settled)), last


def joined(record: Iterable[History], before: int | None = None) -> History:
    """The parts of the record as one, of what was seen up to the parameters of step `before`."""
    pieces: dict[str, list[np.ndarray]] = {}
    for part in record:
        for name, values in (part if before is None else _up_to(part, before)).items():
            pieces.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in pieces.items()}


def _up_to(part: History, step: int) -> History:
    # Step t starts from the parameters of step t, so that its row comes after them.
    wanted = part["step"] < step if "step" in part else part[_step_of(part)] <= step
    return {name: values[wanted] for name, values in part.items()}


_BESIDE = (
    "validation",
    "log_likelihood",
    "recovery",
)  # what is not of every step, each with a `..._step`


def _step_of(part: History) -> str:
    """The name of the steps in a part that is looked at now and then."""
    return next(f"{name}_step" for name in _BESIDE if f"{name}_step" in part)


def records_of(history: History, step: int) -> tuple[tuple[History, ...], tuple[History, ...]]:
    """A joined history as a record again: (of what was seen up to `step`, the whole)."""
    parts: dict[str, History] = {}
    for name, values in history.items():
        kind = next((kind for kind in _BESIDE if name.startswith(kind)), "")
        parts.setdefault(kind, {})[name] = values
    whole = tuple(parts.values())
    return tuple(_up_to(part, step) for part in whole), whole


def as_strong(tree: PyTree) -> PyTree:
    """Arrays of NumPy as JAX's, and no weak types: a resumed run must see the same program."""

    def convert(leaf):
        if isinstance(leaf, np.ndarray):
            return jnp.asarray(leaf)
        if eqx.is_array(leaf) and leaf.weak_type:
            return jax.lax.convert_element_type(leaf, leaf.dtype)
        return leaf

    return jax.tree.map(convert, tree)


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
                acceptance >= LEAST_ACCEPTANCE,
                f"in the last tenth of the steps the chains accepted {acceptance:.2g} of their "
                "moves and hardly moved: choose another sampler",
            ),
        ]
    ).reasons
