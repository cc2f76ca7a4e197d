"""kill -9 of the training at a random moment."""

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks._faults import saved, trainings
from benchmarks._faults.ground import (
    Done,
    Ended,
    Ground,
    Verdict,
    claim,
    finite_everywhere,
    pick,
)
from benchmarks._faults.trainings import EVERY, STEPS, TRAININGS

Moment = Callable[[subprocess.Popen], bool]
VARIANTS = "at any time", "between checkpoints", "in a write", "in the last write", "twice"


def kill(rng: np.random.Generator, ground: Ground, done: Done) -> Verdict:
    """Killed and started again, it must come to the same end and lose no checkpoint."""
    training, variant = pick(rng, TRAININGS), pick(rng, VARIANTS)
    done.training, done.variant = training.name, variant
    usual = ground.seconds(training)
    data = ground.data(training)
    with ground.fresh() as folder:
        run = folder / "run"
        command = trainings.fit(training, data, run)
        for _ in range(2 if variant == "twice" else 1):
            moment, words = _moment(rng, variant, run, usual)
            done.moment += words
            ended, seen = killed(ground, command, run, moment)
            claim(ended.status in (0, -signal.SIGKILL), f"status {ended.status}: {ended.last}")
            if ended.status == 0:
                done.moment += " (it ended first)"
            torn = [p.name for p in run.rglob("*.tmp")]
            done.moment += f", left half-written: {', '.join(torn)}" if torn else ""
            done.moment += f", last checkpoint {seen}; "
            kept = max(saved.good(run), default=0)
            claim(kept >= seen, f"the checkpoint of step {seen} is lost, that of {kept} is left")
            finite_everywhere(run)
            if not training.is_command or (run / "run.json").exists():
                command = trainings.resume(training, data, run)
        verdict, _ = ground.goes_on(training, data, run)
        return verdict


def killed(ground: Ground, command: list[str], run: Path, moment: Moment) -> tuple[Ended, int]:
    """(how a child ended that is killed once `moment` is there, the last step that it had saved
    by then)."""
    seen = 0

    def act(process: subprocess.Popen) -> bool:
        nonlocal seen
        there = moment(process)
        if not there:
            # Its name is there when it is whole: nothing on the way can be counted.
            seen = max([seen, *saved.steps(run)])
            return False
        process.kill()
        return True

    return ground.run(command, act), seen


def until_step(run: Path, step: int, then: float = 0.0) -> Moment:
    """When the checkpoint of `step` is there, and `then` seconds after."""
    waits = max(1, round(1000 * then))
    left = iter(range(waits))

    def moment(process: subprocess.Popen) -> bool:
        return max(saved.steps(run), default=-1) >= step and next(left, None) is None

    return moment


def _moment(rng: np.random.Generator, variant: str, run: Path, usual: float) -> tuple[Moment, str]:
    step = EVERY * int(rng.integers(1, STEPS // EVERY))
    match variant:
        case "at any time":
            seconds = float(rng.uniform(0, usual))
            left = iter(range(round(1000 * seconds)))
            return lambda process: next(left, None) is None, f"{seconds:.2f} s after its start"
        case "in a write":
            return _temporary(run, step), f"while it wrote, from step {step} on"
        case "in the last write":
            return _temporary(run, STEPS), "while it wrote the last checkpoint or the result"
        case _:
            then = float(rng.uniform(0, 0.01))
            return until_step(run, step, then), f"{1000 * then:.0f} ms after step {step}"


def _temporary(run: Path, step: int) -> Moment:
    """While a file is being written, of `step` or later."""

    def moment(process: subprocess.Popen) -> bool:
        names = [path.name for path in run.rglob(".*.tmp")]
        numbers = [int(name[6:15]) for name in names if name.startswith(".step-")]
        return max(numbers, default=-1) >= step or any(name.startswith(".fit") for name in names)

    return moment
