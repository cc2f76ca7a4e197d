"""What is handed on from preparing to running, and from running to judging."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, PyTree

from energax.objectives._base import AbstractObjective
from energax.training._base import (
    Answer,
    Best,
    Checkpoint,
    History,
    best_of,
    best_steps,
    keep_best,
    write_best,
    write_checkpoint,
)
from energax.training.loop._base.run import Run


@dataclasses.dataclass(frozen=True)
class Keeping:
    """Which checkpoints are kept where: the last `num` in `folder` (None: no folder, no
    checkpoint), and the `num_best` of the highest score beside them.

    `every`: steps between checkpoints, None by the clock. `score`: of an energy, asked at every
    checkpoint; None takes what early stopping sees.
    """

    folder: Path | None
    every: int | None
    num: int
    num_best: int = 0
    score: Callable[[Any], Any] | None = None

    @property
    def takes_looks(self) -> bool:
        """Whether scores are what early stopping sees."""
        return self.num_best > 0 and self.score is None


class Checkpoints:
    """Writes the checkpoints of a run.

    A best one that another has driven out stays until no checkpoint and no trouble leads back to
    where it was among the best: a run that goes on finds all that its record says are kept.

    **Arguments:** `doctor`, `watcher`: of the run. `first`: the parameters that training began
    with. `settings`: what a resumed run must agree with. `review`: reasons not to trust a history.
    """

    def __init__(
        self,
        keeping: Keeping,
        *,
        run: Run,
        doctor: Any,
        watcher: Any,
        objective: AbstractObjective,
        key: Array,
        first: PyTree,
        settings: dict[str, Any],
        review: Callable[[History, int], tuple[str, ...]],
    ):
        self.keeping, self._run, self._doctor, self._watcher = keeping, run, doctor, watcher
        self._objective, self._key, self._first = objective, key, first
        self._settings, self._review = settings, review
        self._unwritten: float | None = None  # the score of a best one that is not on the disk yet

    def save(self) -> None:
        """Writes where the run stands, unless that is there already."""
        run, folder = self._run, self.keeping.folder
        if folder is None or not run.devices.leads:
            return
        if self._unwritten is not None:  # Ctrl-C came while it was written
            self._write_best(self._unwritten)
        if run.saved_step == run.step:
            return
        write_checkpoint(folder, self._now(), keep=self.keeping.num)
        run.saved_step, run.saved_at = run.step, time.monotonic()
        if self.keeping.num_best:
            keep_best(folder, self._needed(run.before().step))

    def asks_for_score(self, num_steps: int) -> bool:
        """Whether it is time to ask for the score of where the run stands: a checkpoint is due."""
        run, keeping = self._run, self.keeping
        if keeping.score is None or run.step == 0 or run.last_noted("checkpoint_step") == run.step:
            return False
        assert keeping.every is not None
        return run.step % keeping.every == 0 or run.step >= num_steps or run.settled

    def scored(self, score: float) -> None:
        """Notes the score of where the run stands, and keeps that if it is among the best."""
        run = self._run
        noted = {"checkpoint_step": float(run.step), "checkpoint_score": score}
        run.note({name: np.asarray([value]) for name, value in noted.items()})
        if run.devices.leads and run.step in {each.step for each in self.best()}:
            self._unwritten = score
            self._write_best(score)

    def _write_best(self, score: float) -> None:
        run, folder = self._run, self.keeping.folder
        assert folder is not None
        reasons = self._review(run.history(), run.plan.fixed.space.num_sites)
        objective = self._doctor.objective(run.moment.recoveries)
        write_best(folder, self._now(), Answer(run.averaged_energy, objective, score, reasons))
        self._unwritten = None

    def best(self, before: int | None = None) -> tuple[Best, ...]:
        """The best of the run's record, up to step `before`."""
        return best_of(self._run.history(), self.keeping.num_best, before)

    def kept(self) -> tuple[Best, ...]:
        """Those of the best that are there; some are not after a way back by `which="best"`."""
        folder = self.keeping.folder
        if folder is None or not self._run.devices.leads:
            return self.best()
        there = best_steps(folder)
        return tuple(each for each in self.best() if each.step in there)

    def end(self) -> None:
        """Of a run that will not go on: no more than the best stay."""
        if self.keeping.folder is not None and self.keeping.num_best and self._run.devices.leads:
            keep_best(self.keeping.folder, (each.step for each in self.best()))

    def _needed(self, back_to: int) -> set[int]:
        """The steps that are among the best at `back_to` or later."""
        steps = self._run.history().get("checkpoint_step", np.zeros(0))
        needed = {each.step for each in self.best(back_to)}
        for step in steps[steps > back_to].astype(int):
            needed |= {int(step)} & {each.step for each in self.best(int(step))}
        return needed

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
