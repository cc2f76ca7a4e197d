"""What training leaves behind: `Fit`, and the checkpoints that a run goes on from."""

import dataclasses
import inspect
import warnings
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np

from energax import io
from energax.energies._base import AbstractEnergy
from energax.objectives._base import AbstractObjective
from energax.results import plain

History = dict[str, np.ndarray]


class DamagedCheckpoint(UserWarning):
    """Warned when a checkpoint was cut short or changed, and an older one is taken."""


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
    - `objective`: what was minimised, with the sampler steps of the end.
    - `num_steps`: the updates behind `energy`. After trouble that ended the training it is smaller
      than the last `history["step"]`: the record shows what happened, the energy is from before it.
    - `time_limited`: `max_seconds` ended the run.
    - `early_stopping`: what it saw, None without.
    - `recoveries`: from trouble, in order, each a `Recovery`.
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
                "early_stopping": _told(self.early_stopping),
                "recoveries": [dataclasses.asdict(each) for each in self.recoveries],
            },
        )


def load(folder: str | Path, energy: AbstractEnergy | None = None) -> Fit:
    """The `Fit` that `save` wrote to `folder`.

    **Arguments:** `energy`: needed where the energy is the user's own function or class, of which
    the file keeps the parameters only: the same energy as was trained, with any parameters.

    **Raises:** FileNotFoundError if there is none; io.DamagedFile if it was cut short or changed;
    ValueError if `energy` is needed or does not fit what was saved.
    """
    path = Path(folder) / "fit.json"
    if not path.is_file():
        raise FileNotFoundError(
            2, "there is no finished run (an interrupted one goes on by resume)", str(path)
        )
    archive = io.read_archive(path)
    return Fit(
        energy=_energy(archive, energy),
        history=archive.build("history", registry()),
        reliable=archive.info["reliable"],
        reasons=tuple(archive.info["reasons"]),
        objective=_objective(archive),
        num_steps=archive.info["num_steps"],
        seconds=archive.info["seconds"],
        time_limited=archive.info["time_limited"],
        early_stopping=_read_back(archive.info.get("early_stopping")),
        recoveries=recoveries_of(archive.info),
    )


def _told(stopping: Stopping | None) -> dict[str, Any] | None:
    return None if stopping is None else plain(dataclasses.asdict(stopping))


def _read_back(told: dict[str, Any] | None) -> Stopping | None:
    if told is None:
        return None
    read = dict(told)
    for name in ("log_likelihood", "std_err", "sampling_std_err", "log_z"):
        read[name] = np.nan if told[name] is None else told[name]  # JSON has no NaN
    return Stopping(**read)


def recoveries_of(told: dict[str, Any]) -> tuple[Recovery, ...]:
    """The recoveries in a file's plain data."""
    return tuple(Recovery(**each) for each in told.get("recoveries", ()))


def registry() -> dict[str, type]:
    """The classes that a saved file may name: the concrete modules of energax itself.

    Private ones that share a name are left out: no energy or objective is made of them.
    """
    found: dict[str, type] = {}
    shared: set[str] = set()

    def visit(cls: type) -> None:
        for child in cls.__subclasses__():
            visit(child)
            if child.__module__.split(".")[0] == "energax" and not inspect.isabstract(child):
                other = found.setdefault(child.__name__, child)
                if other is not child and other.__module__ != child.__module__:
                    if not child.__name__.startswith("_"):
                        raise RuntimeError(f"two classes of energax are called {child.__name__}")
                    shared.add(child.__name__)

    visit(eqx.Module)
    return {name: cls for name, cls in found.items() if name not in shared}


def _energy(archive: io.Archive, energy: AbstractEnergy | None) -> AbstractEnergy:
    if energy is not None:
        return archive.fill("energy", energy)
    try:
        return archive.build("energy", registry())
    except io.UnknownTree as error:
        raise ValueError(
            f"{error}. Pass energy=: the energy that was trained, with any parameters"
        ) from error


def _objective(archive: io.Archive) -> AbstractObjective | None:
    """The objective, or None where it is the user's own class."""
    try:
        return archive.build("objective", registry())
    except io.UnknownTree:
        return None


# ---- checkpoints -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A run at one moment: all that its future depends on, and the record up to there.

    `state` is any pytree of arrays; `settings` plain JSON data that a resumed run must agree with.
    """

    energy: AbstractEnergy
    objective: AbstractObjective | None
    state: Any
    key: Any
    history: History
    settings: dict[str, Any]
    step: int
    seconds: float


def write_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> None:
    """Adds a checkpoint to `folder` and drops those of later steps, which are damaged or turned out
    to be on the way into trouble, and all but the last `keep`."""
    folder.mkdir(parents=True, exist_ok=True)
    io.write_archive(
        folder / f"step-{checkpoint.step:09d}.json",
        {
            "energy": checkpoint.energy,
            "objective": checkpoint.objective,
            "state": checkpoint.state,
            "key": checkpoint.key,
            "history": checkpoint.history,
        },
        registry=registry(),
        info={
            "kind": "checkpoint",
            "step": checkpoint.step,
            "seconds": checkpoint.seconds,
            "settings": plain(checkpoint.settings),
        },
    )
    paths = checkpoint_paths(folder)
    later = [path for path in paths if _step_of(path) > checkpoint.step]
    for old in (*later, *paths[: len(paths) - len(later)][:-keep]):
        io.remove_archive(old)


def checkpoint_paths(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    return sorted(folder.glob("step-*.json"))


def newest_archive(folder: Path) -> io.Archive | None:
    """The newest good checkpoint in a folder, None if there is none; a warning names damaged ones.

    **Raises:** io.DamagedFile if all are damaged.
    """
    refused = []
    for path in reversed(checkpoint_paths(folder)):
        try:
            good = io.read_archive(path)
        except io.DamagedFile as error:
            refused.append(str(error))
            continue
        if refused:
            text = f"{'; '.join(refused)}; going on from {path.name}"
            warnings.warn(text, DamagedCheckpoint, stacklevel=3)
        return good
    if refused:
        raise io.DamagedFile(f"{folder} holds no good checkpoint: {'; '.join(refused)}")
    return None


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def open_checkpoint(archive: io.Archive, energy: AbstractEnergy | None) -> Checkpoint:
    """What an archive holds, but for the state, which `fill_state` reads into a template."""
    return Checkpoint(
        energy=_energy(archive, energy),
        objective=_objective(archive),
        state=None,
        key=archive.build("key", registry()),
        history=archive.build("history", registry()),
        settings=archive.info["settings"],
        step=archive.info["step"],
        seconds=archive.info["seconds"],
    )


def fill_state(archive: io.Archive, template: Any) -> Any:
    """The stored state in the structure of `template`, a fresh run's first state."""
    try:
        return archive.fill("state", template)
    except ValueError as error:
        raise ValueError(
            f"{error}. A run goes on with the optimizer, the objective and the average= it had"
        ) from error


def whole(name: str, value: Any) -> int:
    """`value` as an int; ValueError unless it is a whole number from 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name}: expected a whole number from 1, got {value!r}")
    return int(value)
