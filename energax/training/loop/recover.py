"""What is done about trouble: its cause in words, and the knob that is turned before going on.

The rate is halved. Where the samples are at fault, every second turn takes twice the sampler's
steps an update instead: chains that do not keep up need slower parameters or faster chains.
"""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from energax.energies._base import AbstractEnergy, batched
from energax.objectives._base import AbstractAddition, AbstractObjective
from energax.spaces import Point
from energax.training._base import Recovery
from energax.training.loop._base import (
    AWAY_STEPS,
    IDLE_STEPS,
    LEAST_ACCEPTANCE,
    Plan,
    Run,
    TrainState,
    Trouble,
    as_strong,
    joined,
)

_RATE, _SCALE, _STEPS = "learning_rate", "update_scale", "objective.num_steps"


@dataclasses.dataclass(frozen=True)
class Cause:
    """`what` happened, in words, and which knob to turn (`remedy`)."""

    what: str
    remedy: str
    in_chains: bool = False  # whether the samples are at fault
    curable: bool = True  # by a knob that a recovery turns


class Doctor:
    """Finds the cause of trouble and turns knobs, `limit` times at the most.

    What it has done is in the run's `recoveries` alone, so that a checkpoint holds it.

    **Arguments:** `objective`, `rate`: those that the run was started with; a rate of None is that
    of the user's own optimizer, whose updates are scaled instead.
    """

    def __init__(self, objective: AbstractObjective, rate: float | None, limit: int):
        self._first, self._rate, self._limit = objective, rate, limit

    def objective(self, recoveries: tuple[Recovery, ...]) -> AbstractObjective:
        """The objective as these recoveries left it."""
        doublings = sum(each.changed == _STEPS for each in recoveries)
        return self._first if not doublings else _lengthened(self._first, 2**doublings)

    def plan(self, plan: Plan, recoveries: tuple[Recovery, ...]) -> Plan:
        """The plan of a run as these recoveries left it."""
        factor = jnp.asarray(_factor(recoveries), float)
        objective = as_strong(self.objective(recoveries))
        return dataclasses.replace(plan, factor=factor, objective=objective)

    def treat(self, run: Run, trouble: Trouble) -> str | None:
        """Turns a knob of a run that has gone back from trouble; or the reason to end it there."""
        done = run.moment.recoveries
        cause = self._cause(run, trouble)
        if not cause.curable or len(done) >= self._limit:
            run.end(trouble.record)
            tried = f"; {len(done)} of {self._limit} recoveries had been tried" if done else ""
            return f"{cause.what}: {cause.remedy}{tried}; training went back to step {run.step}"
        changed, old, new = self._turn(cause, done)
        recovery = Recovery(
            step=trouble.step,
            back_to=run.step,
            cause=cause.what,
            in_chains=cause.in_chains,
            changed=changed,
            old=old,
            new=new,
        )
        plan = self.plan(run.plan, (*done, recovery))
        run.start_again(plan, _without_moments(plan, run.state), recovery)
        return None

    def _turn(self, cause: Cause, done: tuple[Recovery, ...]) -> tuple[str, float, float]:
        """(the knob, its old value, its new value)."""
        before = [each.changed for each in done if each.in_chains]
        steps = _sampler_steps(self.objective(done))
        if cause.in_chains and before and before[-1] != _STEPS and steps is not None:
            return _STEPS, float(steps), 2.0 * steps
        value = _factor(done) * (1.0 if self._rate is None else self._rate)
        return (_SCALE if self._rate is None else _RATE), value, value / 2

    def _cause(self, run: Run, trouble: Trouble) -> Cause:
        last, step = trouble.last, trouble.step
        slower = "lower the learning_rate of your optimizer"
        if self._rate is not None:
            slower = f"lower learning_rate (now {self._rate * _factor(run.moment.recoveries):g})"
        for name, what in (
            ("energy_data", "the energy of the data"),
            ("energy_samples", "the energy of the samples"),
            ("loss", "the loss"),
            ("gradient_norm", "the gradient"),
            ("update_norm", "the optimizer's update"),
        ):
            value = last.get(name, 0.0)
            if math.isfinite(value):
                continue
            shown = "NaN" if math.isnan(value) else "infinite"
            if step == 0 and name != "update_norm":
                some = _rows_at_fault(run, step)
                if 0 < len(some) < run.plan.batch_size:
                    return Cause(
                        f"{what} is {shown} before any update, and the energy of {len(some)} "
                        f"row(s) of its minibatch is not finite (row {min(some)} "
                        f"{run.where(step)} is the first)",
                        "check the energy there, or leave such rows out",
                        curable=False,
                    )
                return Cause(
                    f"{what} is {shown} before any update",
                    "check that the energy and its gradient are finite on every row of the data",
                    curable=False,
                )
            rows = _rows_at_fault(run, step) if name == "energy_data" else []
            if len(rows):
                return Cause(
                    f"{what} became {shown} at step {step}, and by {len(rows)} row(s) of its "
                    f"minibatch it is so with the parameters of step {run.step} too (row "
                    f"{min(rows)} {run.where(step)} is the first)",
                    "check the energy there, or leave such rows out",
                    curable=False,
                )
            in_chains = name == "energy_samples"
            return Cause(f"{what} became {shown} at step {step}", slower, in_chains)
        if trouble.idle:
            return Cause(
                f"the chains accepted less than {LEAST_ACCEPTANCE:g} of their moves in each of "
                f"{IDLE_STEPS} steps, up to step {step}, and hardly moved",
                "choose another sampler",
                curable=False,
            )
        if "acceptance" not in last:
            before = joined(trouble.record, before=step + 1 - AWAY_STEPS).get("loss", np.zeros(0))
            most = max(abs(before), default=float(run.state.usual))
            return Cause(
                f"the loss ran away, to {last['loss']:.3g} at step {step}, where {most:.3g} was "
                "the most before",
                slower,
            )
        gap = last["gap"]
        return Cause(
            f"the energies of data and samples ran apart, to a gap of {gap:.3g} nats at step "
            f"{step} (the samples' are {'below: chains escaped' if gap > 0 else 'above'})",
            f"{slower} or take more sampler steps an update",
            in_chains=True,
        )


def _factor(recoveries: tuple[Recovery, ...]) -> float:
    """What recoveries have made of the rate."""
    return 0.5 ** sum(each.changed != _STEPS for each in recoveries)


def _sampler_steps(objective: AbstractObjective) -> int | None:
    """The steps of its sampler an update, None where it has none."""
    if isinstance(objective, AbstractAddition):
        return _sampler_steps(objective.objective)
    names = {field.name for field in dataclasses.fields(objective)}
    return objective.num_steps if "num_steps" in names else None  # type: ignore[attr-defined]


def _lengthened(objective: AbstractObjective, times: int) -> AbstractObjective:
    """With `times` as many steps of its sampler an update."""
    if isinstance(objective, AbstractAddition):
        inner = _lengthened(objective.objective, times)
        return dataclasses.replace(objective, objective=inner)
    steps = _sampler_steps(objective)
    assert steps is not None
    return dataclasses.replace(objective, num_steps=times * steps)


def _without_moments(plan: Plan, state: TrainState) -> TrainState:
    """With an optimizer that starts anew; a schedule of its own goes on where it was."""
    import optax

    schedule = optax.ScaleByScheduleState
    optimizer = jax.tree.map(
        lambda new, old: old if isinstance(new, schedule) else new,
        plan.optimizer.init(state.parameters),
        state.optimizer,
        is_leaf=lambda node: isinstance(node, schedule),
    )
    return as_strong(dataclasses.replace(state, optimizer=optimizer))


def _rows_at_fault(run: Run, step: int) -> np.ndarray:
    """Rows of the minibatch of `step` whose energy isn't finite, whatever that step's update."""
    plan, energy = run.plan_at(step), run.energy
    if plan.objective.data_space(energy) is not energy.space:
        return np.zeros(0, int)
    index = plan.chosen(plan.order(step), step)
    batch = plan.data if index is None else jax.tree.map(lambda a: a[index], plan.data)
    (places,) = np.nonzero(~np.asarray(_are_finite(energy, batch)))
    return places if index is None else np.asarray(index)[places]


@eqx.filter_jit
def _are_finite(energy: AbstractEnergy, x: Point) -> Bool[Array, " rows"]:
    return jnp.isfinite(batched(energy, x))
