"""Running: chunks of steps to the end, and between them looks, checkpoints and the way back."""

import time
from collections.abc import Callable
from typing import Any

from energax.samplers.driver.progress import Progress
from energax.training.loop._base import Ended, Prepared, Trouble

_CHECKPOINT_SECONDS = 30.0


def drive(
    prepared: Prepared,
    *,
    max_seconds: float | None,
    callback: Callable[[int, dict[str, float]], Any] | None,
    progress: bool,
) -> Ended:
    """Trains until the steps are made, or nothing gets better, or the time is up, or trouble stays.

    **Raises:** KeyboardInterrupt after a last checkpoint, on Ctrl-C.
    """
    run, save, num_steps = prepared.run, prepared.checkpoints.save, prepared.num_steps
    every, checkpoint_every = _every(prepared), prepared.checkpoints.keeping.every
    began = run.seconds
    reason, time_limited = None, False
    try:
        with Progress("training", progress) as bar:
            while _look(prepared) and run.step < num_steps and not (time_limited or run.settled):
                until = run.next_stop(num_steps, checkpoint_every, *every)
                try:
                    last = run.advance(until)
                except Trouble as trouble:
                    _go_back(prepared, trouble)
                    reason = prepared.doctor.treat(run, trouble)
                    save()
                    if reason is not None:
                        break
                    continue
                _look(prepared)
                due = run.saved_at + _CHECKPOINT_SECONDS < time.monotonic()
                if run.step % checkpoint_every == 0 if checkpoint_every else due:
                    save()
                bar.update(1.0 if run.settled else run.step / num_steps, _shown(last))
                if callback is not None:
                    callback(run.step, last)
                if max_seconds is not None:
                    time_limited = bool(run.devices.agreed(run.seconds - began >= max_seconds))
    except KeyboardInterrupt:
        save()
        raise
    save()
    if not time_limited:
        prepared.checkpoints.end()
    return Ended(reason, time_limited)


def _every(prepared: Prepared) -> list[int]:
    """Chunks of steps end at multiples of these, where something is looked at."""
    keeping = prepared.checkpoints.keeping
    every = [each.every for each in (prepared.watch, prepared.watcher) if each is not None]
    every += [] if keeping.score is None else [keeping.every]
    window = prepared.run.steps_a_window
    return every if window is None else [*every, window]


def _look(prepared: Prepared) -> bool:
    """Notes scores and what is seen of held-out rows where it is time to.

    Returns whether training may go on.
    """
    run, watch, watcher = prepared.run, prepared.watch, prepared.watcher
    checkpoints = prepared.checkpoints
    if watch is not None and watch.is_due(run.step, run.last_noted("validation_step")):
        run.note(watch.look(run.energy, run.step))
    began = time.monotonic()
    if checkpoints.asks_for_score(prepared.num_steps):
        checkpoints.scored(_score(checkpoints.keeping.score, run.averaged_energy))
        run.seconds += time.monotonic() - began
    if watcher is None:
        return True
    if not watcher.stopped and watcher.is_due(run.step):
        before = watcher.now["trusted"]
        seen = watcher.look(run.averaged_energy, run.step)
        run.note(seen)
        watcher.let_go(run.earlier[0].step)
        if checkpoints.keeping.takes_looks and watcher.now["trusted"] > before:
            checkpoints.scored(float(seen["log_likelihood"][0]))
        run.seconds += time.monotonic() - began
    return not run.devices.agreed(watcher.stopped)


def _score(score: Any, energy: Any) -> float:
    found = score(energy)
    try:
        return float(found)
    except (TypeError, ValueError) as error:
        raise TypeError(
            "score: expected a function of the energy that returns one number, higher for a "
            f"better one; it returned {found!r}"
        ) from error


def _go_back(prepared: Prepared, trouble: Trouble) -> None:
    """To where training was 10 to 19 steps before, by the same steps and looks again."""
    run, every = prepared.run, _every(prepared)
    target = run.go_back(trouble)
    if prepared.watcher is not None:
        prepared.watcher.go_back(run.step)
    while run.step < target:
        run.advance(run.next_stop(target, *every))
        _look(prepared)


def _shown(metrics: dict[str, float]) -> str:
    names = [name for name in ("loss", "gap", "acceptance") if name in metrics]
    return " ".join(f"{name} {metrics[name]:.4g}" for name in names)
