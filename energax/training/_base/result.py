"""What a training comes to: `Fit`, and what early stopping and recoveries tell."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from energax import io
from energax.objectives._base import AbstractObjective
from energax.results import plain
from energax.training._base.known import registry

History = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Stopping:
    """What early stopping saw: where training was best by its held-out rows, and why it ended.

    - `stopped`: whether it ended the training; `reason`: why, in words.
    - `best_step`: the updates behind the best parameters, None if no look could be trusted;
      `last_step`: the updates made.
    - `log_likelihood`: mean log p of the held-out rows at the best, in nats; `std_err`: of log Z
      there; `sampling_std_err`: of the finite set of rows; `log_z`: log Z itself. Chosen as the
      best of many looks, it is a little too good: judge a model by other rows.
    - `method`: "exact" or "tracked"; `check`, `check_std_err`: log Z at the best once more, by a
      run of its own from the base (None where exact, or where too dear).
    - `num_looks`, `num_trusted`; `num_anchors`: runs from the base, the first one included.
    - `share`: of the training's energy evaluations, what the looks cost.
    """

    stopped: bool
    reason: str
    best_step: int | None
    last_step: int
    log_likelihood: float
    std_err: float
    sampling_std_err: float
    log_z: float
    method: str
    check: float | None
    check_std_err: float | None
    num_looks: int
    num_trusted: int
    num_anchors: int
    share: float


@dataclasses.dataclass(frozen=True)
class Recovery:
    """A time that training ran into trouble, went back and went on with another knob (`recover=`).

    - `step`: in trouble; `back_to`: the updates behind the parameters that it went on from.
    - `cause`: in words; `in_chains`: whether the samples were at fault.
    - `changed`: "learning_rate", "update_scale" (what the updates of your own optimizer are
      multiplied by) or "objective.num_steps" (of the sampler), from `old` to `new`.
    """

    step: int
    back_to: int
    cause: str
    in_chains: bool
    changed: str
    old: float
    new: float

    def __str__(self) -> str:
        return (
            f"{self.cause}; it went on from step {self.back_to} with {self.changed} {self.new:g} "
            f"instead of {self.old:g}"
        )


@dataclasses.dataclass(frozen=True)
class Best:
    """A checkpoint kept for its score (`keep_best=`): the updates behind it, and the score."""

    step: int
    score: float


@dataclasses.dataclass(frozen=True)
class Fit:
    """A trained energy with the record of its training.

    - `energy`: with the trained parameters, or with their running average where it was asked for.
    - `history`: per logged step `step`, `loss`, `gap` (= energy_data − energy_samples),
      `gradient_norm` (before any `clip=`), `update_norm` and the objective's own metrics, float64.
      With `validation=`
      also `validation_step`, `validation_energy` and `validation_gap` (mean E of held-out rows −
      mean E of as many training rows, which grows as the model overfits; Hinton 2012, section 6).
      With `early_stopping=` also `log_likelihood_step`, `log_likelihood` (mean log p of held-out
      rows, nats), `log_likelihood_training` (of as many training rows), `log_likelihood_std_err`
      (of log Z) and `log_likelihood_log_z`. After a recovery also `recovery_step`, the step it
      went on from, and `recovery_trouble`, the step in trouble; the steps it gave up are left out.
      With `keep_best=` also `checkpoint_step` and `checkpoint_score`: all that was scored.
    - `objective`: what was minimised, with the sampler steps of the end.
    - `num_steps`: the updates behind `energy`. After trouble that ended the training it is smaller
      than the last `history["step"]`: the record shows what happened, the energy is from before it.
    - `time_limited`: `max_seconds` ended the run.
    - `early_stopping`: what it saw, None without.
    - `recoveries`: from trouble, in order, each a `Recovery`.
    - `best`: the checkpoints that `keep_best=` kept, the best first, each a `Best`; `load` and
      `resume` have them by `which=`.
    """

    energy: Any
    history: History
    reliable: bool
    reasons: tuple[str, ...]
    objective: AbstractObjective | None
    num_steps: int
    seconds: float = 0.0
    time_limited: bool = False
    early_stopping: Stopping | None = None
    recoveries: tuple[Recovery, ...] = ()
    best: tuple[Best, ...] = ()

    def save(self, folder: str | Path) -> None:
        """Writes fit.json and its arrays to `folder`, which is made if need be; no pickle.

        **Raises:** OSError if it cannot be written; ImportError without safetensors.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        io.write_archive(
            folder / "fit.json",
            {"energy": self.energy, "objective": self.objective, "history": self.history},
            registry=registry(),
            info={
                "kind": "fit",
                "reliable": self.reliable,
                "reasons": list(self.reasons),
                "num_steps": self.num_steps,
                "seconds": self.seconds,
                "time_limited": self.time_limited,
                "early_stopping": told_of(self.early_stopping),
                "recoveries": [dataclasses.asdict(each) for each in self.recoveries],
                "best": [dataclasses.asdict(each) for each in self.best],
            },
        )


def told_of(stopping: Stopping | None) -> dict[str, Any] | None:
    """`stopping` as a file's plain data."""
    return None if stopping is None else plain(dataclasses.asdict(stopping))


def stopping_of(told: dict[str, Any] | None) -> Stopping | None:
    """The inverse of `told_of`."""
    if told is None:
        return None
    read = dict(told)
    for name in ("log_likelihood", "std_err", "sampling_std_err", "log_z"):
        read[name] = np.nan if told[name] is None else told[name]  # JSON has no NaN
    return Stopping(**read)


def recoveries_of(told: dict[str, Any]) -> tuple[Recovery, ...]:
    """The recoveries in a file's plain data."""
    return tuple(Recovery(**each) for each in told.get("recoveries", ()))


def best_of(history: History, num: int, before: int | None = None) -> tuple[Best, ...]:
    """The `num` best of the scored steps of a history, up to step `before`; the best first.

    Of equal scores the earlier one is better. A score that is not finite counts for nothing.
    """
    steps, scores = history.get("checkpoint_step"), history.get("checkpoint_score")
    if steps is None or scores is None:
        return ()
    wanted = np.isfinite(scores) & (True if before is None else steps <= before)
    steps, scores = steps[wanted], scores[wanted]
    order = np.lexsort((steps, -scores))[:num]
    return tuple(Best(int(steps[i]), float(scores[i])) for i in order)


def whole(name: str, value: Any) -> int:
    """`value` as an int; ValueError unless it is a whole number from 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name}: expected a whole number from 1, got {value!r}")
    return int(value)
