"""Where a run stands, on the host: chunk by chunk forwards, and back from trouble."""

import dataclasses
import time
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from energax.energies._base import AbstractEnergy
from energax.training._base import History, Recovery
from energax.training.loop._base.devices import Devices
from energax.training.loop._base.record import joined
from energax.training.loop._base.step import IDLE_STEPS, TABLE_ROWS, Plan, TrainState, advance

_CHUNK_SECONDS = 0.3
_BACK = 10  # steps between trouble and the state that training goes back to, at the least


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
    `windows`: of rows that do not fit into memory, of which the plan has number 0. Between chunks
    the state of the moment is on all `devices`.
    """

    def __init__(
        self,
        plan: Plan,
        moment: Moment,
        before: Moment | None,
        seconds: float,
        windows: Any = None,
        devices: Devices = Devices(),  # noqa: B008
    ):
        self.plan, self.moment, self.seconds = plan, moment, seconds
        self.devices = devices
        self._spread: tuple[Plan, Plan] | None = None
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
    def steps_a_window(self) -> int | None:
        """Steps with one window of the rows, None where they are all in memory."""
        return None if self._windows is None else self._windows.steps

    @property
    def settled(self) -> bool:
        return self.moment.settled

    @property
    def state(self) -> TrainState:
        """Where it stands, on this process's own device."""
        return self.devices.here(self.moment.state)

    @property
    def energy(self) -> AbstractEnergy:
        if self.plan.settles:  # the parameters may be those of a step that is only tried
            state = self.state
            theta = self.plan.optimizer.lowest(state.optimizer, state.parameters)[0]
        else:  # no more than these need come from the devices
            theta = self.devices.here(self.moment.state.parameters[0])
        return eqx.combine(theta, self.plan.fixed)

    @property
    def averaged_energy(self) -> AbstractEnergy:
        if self.plan.decay is None:
            return self.energy
        return eqx.combine(self.devices.here(self.moment.state.average), self.plan.fixed)

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
        return self.devices.agreed(min(self.step + (self.length or _BACK), num_steps, *stops))

    def advance(self, until: int) -> dict[str, float]:
        """Steps up to `until`; returns the metrics of the last one.

        **Raises:** Trouble, and the run stays where it was.
        """
        began = time.monotonic()
        moment, last = self._go_on(until)
        if self.step - self.earlier[-1].step >= _BACK:
            self.earlier.append(self.moment)
        while len(self.earlier) > 1 and self.earlier[1].step <= moment.step - 2 * _BACK:
            self.earlier.popleft()
        elapsed = max(time.monotonic() - began, 1e-6)
        if self.length:
            fitting = int(_CHUNK_SECONDS / elapsed * (until - self.step))
            self.length = max(1, min(fitting, 4 * self.length, TABLE_ROWS * self.plan.log_every))
        else:
            self.length = _BACK
        self.moment = moment
        self.seconds += elapsed
        return last

    def _go_on(self, until: int) -> tuple[Moment, dict[str, float]]:
        """(the moment after the steps up to `until`, the metrics of its last step), or Trouble."""
        moment = self.moment
        state, order, table, count, trouble, settled = self._steps(
            self.plan_at(self.step), moment.state, moment.order, until
        )
        last = {name: float(values[max(count - 1, 0)]) for name, values in table.items()}
        record = (*moment.record, {name: values[:count] for name, values in table.items()})
        if trouble:
            raise Trouble(record, last, idle=int(state.doubtful) >= IDLE_STEPS)
        step = int(state.step) if settled else until
        return Moment(step, state, order, record, moment.recoveries, settled), last

    def losses(self, steps: Iterable[int], parameters: PyTree = None) -> np.ndarray:
        """The loss of each of these steps, with its rows and its chance, at the parameters of now.

        **Arguments:** `parameters`: (θ, the objective's own) to take instead.
        """
        found, order, epoch = [], None, -1
        for step in steps:
            plan = self.plan_at(step)
            if order is None or step // plan.steps_per_epoch != epoch:
                order, epoch = plan.order(step), step // plan.steps_per_epoch
            state = dataclasses.replace(self.moment.state, step=jnp.asarray(step, jnp.int32))
            if parameters is not None:
                state = dataclasses.replace(state, parameters=parameters)
            _, _, table, _, _, _ = self._steps(plan, state, order, step + 1)
            found.append(table["loss"][0])
        return np.array(found)

    def _steps(self, plan: Plan, state: TrainState, order: Array, until: int):
        """`advance` on all devices: (state, order, table, rows of it, trouble, settled)."""
        everywhere = self.devices.everywhere
        if self._spread is None or self._spread[0] is not plan:
            self._spread = plan, everywhere(plan)
        with self.devices.in_use():
            state, order, table, row, trouble, settled = advance(
                self._spread[1], everywhere(state), everywhere(order), jnp.asarray(until)
            )
        table = {name: np.asarray(values, np.float64) for name, values in table.items()}
        return state, order, table, int(row), bool(trouble), bool(settled)

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
