"""What is handed on from preparing to running, and from running to judging."""

import dataclasses
import time
from pathlib import Path
from typing import Any

from jaxtyping import Array, PyTree

from energax.objectives._base import AbstractObjective
from energax.training._base import Checkpoint, write_checkpoint
from energax.training.loop._base.run import Run


class Checkpoints:
    """Writes the checkpoints of a run to `folder`, of which the last `keep` stay; None writes none.

    **Arguments:** `watcher`: of early stopping, or None. `first`: the parameters that training
    began with. `settings`: what a resumed run must agree with.
    """

    def __init__(
        self,
        folder: Path | None,
        keep: int,
        *,
        run: Run,
        watcher: Any,
        objective: AbstractObjective,
        key: Array,
        first: PyTree,
        settings: dict[str, Any],
    ):
        self._folder, self._keep, self._run, self._watcher = folder, keep, run, watcher
        self._objective, self._key, self._first = objective, key, first
        self._settings = settings

    def save(self) -> None:
        """Writes where the run stands, unless that is there already."""
        run, folder = self._run, self._folder
        if folder is None or run.saved_step == run.step or not run.devices.leads:
            return
        write_checkpoint(folder, self._now(), keep=self._keep)
        run.saved_step, run.saved_at = run.step, time.monotonic()

    def _now(self) -> Checkpoint:
        run, moment = self._run, self._run.moment
        kept = [run.before(), moment]  # trouble soon after it may lead back beyond a checkpoint
        at = [run.devices.here(m.state) for m in kept]
        if self._watcher is not None:
            at = [(state, self._watcher.at(m.step)) for state, m in zip(at, kept, strict=True)]
        recoveries = [dataclasses.asdict(each) for each in moment.recoveries]
        return Checkpoint(
            energy=run.energy,
            objective=self._objective,
            state=(*at, self._first),
            key=self._key,
            history=run.history(),
            settings={**self._settings, "recoveries": recoveries},
            step=moment.step,
            seconds=run.seconds,
        )


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run before its next step, and what goes along with it.

    - `doctor`: treats trouble. `watcher`: early stopping, or None. `watch`: of `validation=`, or
      None.
    - `first`: the parameters that training began with, (θ, the objective's own).
    """

    run: Run
    doctor: Any
    watcher: Any
    watch: Any
    checkpoints: Checkpoints
    first: PyTree
    num_steps: int


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a run ended: with `reason`, if it was in trouble; whether by the clock."""

    reason: str | None
    time_limited: bool
