"""Checkpoints that a run goes on from: the last ones, and in a folder beside them the best ones."""

import dataclasses
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from energax import io
from energax.energies._base import AbstractEnergy
from energax.objectives._base import AbstractObjective
from energax.results import plain
from energax.training._base.known import energy_of, objective_of, registry
from energax.training._base.result import History

CHECKPOINTS = "checkpoints"  # in a run's folder, as the command line writes it
BEST = "best"  # among them, the folder of the best ones
_ARRAYS = re.compile(r"(step-\d{9})\.[0-9a-f]{12}\.safetensors")


class DamagedCheckpoint(UserWarning):
    """Warned when a checkpoint was cut short or changed, and another one is taken."""


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


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a checkpoint is as the end of a training, for those that are kept for their score.

    `energy` is the one that was scored, and `objective` what was minimised at last.
    """

    energy: AbstractEnergy
    objective: AbstractObjective
    score: float
    reasons: tuple[str, ...]


def write_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> None:
    """Adds a checkpoint to `folder` and drops those of later steps, which are damaged or turned out
    to be on the way into trouble, and all but the last `keep`."""
    _write(folder, checkpoint)
    paths = checkpoint_paths(folder)
    later = [path for path in paths if _step_of(path) > checkpoint.step]
    for old in (*later, *paths[: len(paths) - len(later)][:-keep]):
        io.remove_archive(old)


def write_best(folder: Path, checkpoint: Checkpoint, answer: Answer) -> None:
    """Adds a checkpoint to the best ones of those in `folder`."""
    _write(
        folder / BEST,
        checkpoint,
        trees={"scored": answer.energy, "minimised": answer.objective},
        info={"score": answer.score, "reasons": list(answer.reasons)},
    )


def best_steps(folder: Path) -> set[int]:
    """The steps of the best ones of those in `folder`."""
    return {_step_of(path) for path in checkpoint_paths(folder / BEST)}


def keep_best(folder: Path, steps: Iterable[int]) -> None:
    """Drops the best ones of all other steps."""
    kept = set(steps)
    for path in checkpoint_paths(folder / BEST):
        if _step_of(path) not in kept:
            io.remove_archive(path)


def _write(
    folder: Path,
    checkpoint: Checkpoint,
    trees: dict[str, Any] | None = None,
    info: dict[str, Any] | None = None,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    io.write_archive(
        folder / f"step-{checkpoint.step:09d}.json",
        {
            "energy": checkpoint.energy,
            "objective": checkpoint.objective,
            "state": checkpoint.state,
            "key": checkpoint.key,
            "history": checkpoint.history,
            **(trees or {}),
        },
        registry=registry(),
        info={
            "kind": "checkpoint",
            "step": checkpoint.step,
            "seconds": checkpoint.seconds,
            "settings": plain(checkpoint.settings),
            **(info or {}),
        },
    )


def checkpoint_paths(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    return sorted(folder.glob("step-*.json"))


def remove_leftovers(folder: Path) -> None:
    """Removes what a killed process left half-written among the checkpoints in `folder`."""
    for place in (folder, folder / BEST):
        io.remove_leftovers(place)
        named = {path.stem for path in checkpoint_paths(place)}
        for path in place.glob("step-*.safetensors"):
            found = _ARRAYS.fullmatch(path.name)
            if found is not None and found[1] not in named:
                path.unlink(missing_ok=True)


def newest_archive(folder: Path) -> io.Archive | None:
    """The newest good checkpoint in a folder, None if there is none; a warning names damaged ones.

    **Raises:** io.DamagedFile if all are damaged.
    """
    return _first_good(reversed(checkpoint_paths(folder)), f"{folder} holds no good checkpoint", [])


def step_to_go_on_from(folder: str | Path, which: str = "last") -> int:
    """The updates behind the checkpoint that `resume(folder, which=which)` takes; 0 without one."""
    folder = Path(folder)
    with warnings.catch_warnings():  # `resume` names damaged ones
        warnings.simplefilter("ignore", DamagedCheckpoint)
        try:
            found = best_archive(folder) if which == "best" else newest_archive(folder)
        except (FileNotFoundError, io.DamagedFile):
            return 0
    return 0 if found is None else found.info["step"]


def best_archive(folder: Path) -> io.Archive:
    """The good checkpoint of the highest score in a folder of checkpoints, or of a run that has
    such a folder; a warning names damaged ones that may be better.

    **Raises:** FileNotFoundError if none was kept for its score; io.DamagedFile if all are damaged.
    """
    place = _best_folder(folder)
    ranked, unread = [], []
    for path in checkpoint_paths(place):
        try:
            info = io.read_info(path)
        except io.DamagedFile as error:
            unread.append(str(error))
            continue
        ranked.append((-info["score"], info["step"], path))
    good = _first_good(
        (path for *_, path in sorted(ranked)), f"{place} holds no good checkpoint", unread
    )
    if good is None:
        raise FileNotFoundError(
            2, "no checkpoint was kept for its score (fit with keep_best= keeps some)", str(place)
        )
    return good


def has_best(folder: Path) -> bool:
    """Whether `best_archive` has any to look at."""
    return bool(checkpoint_paths(_best_folder(folder)))


def archive_of_step(folder: Path, step: int) -> io.Archive:
    """The checkpoint kept for its score after `step` updates.

    **Raises:** FileNotFoundError if there is none; io.DamagedFile, which names others.
    """
    place = _best_folder(folder)
    steps = [_step_of(path) for path in checkpoint_paths(place)]
    others = ", ".join(str(each) for each in steps if each != step) or "none"
    if step not in steps:
        raise FileNotFoundError(
            2, f"no checkpoint of step {step} was kept for its score; of others: {others}",
            str(place),
        )  # fmt: skip
    try:
        return io.read_archive(place / f"step-{step:09d}.json")
    except io.DamagedFile as error:
        raise io.DamagedFile(f"{error}; kept for their scores are also steps: {others}") from error


def _best_folder(folder: Path) -> Path:
    """Of a folder of checkpoints, or of a run's folder that has one."""
    of_run = folder / CHECKPOINTS / BEST
    return of_run if of_run.is_dir() else folder / BEST


def _first_good(paths: Iterable[Path], none: str, refused: list[str]) -> io.Archive | None:
    """The first that is not damaged, with a warning that names it and those that are."""
    for path in paths:
        try:
            good = io.read_archive(path)
        except io.DamagedFile as error:
            refused.append(str(error))
            continue
        if refused:
            text = f"{'; '.join(refused)}; going on from {path.name}"
            warnings.warn(text, DamagedCheckpoint, stacklevel=4)
        return good
    if refused:
        raise io.DamagedFile(f"{none}: {'; '.join(refused)}")
    return None


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def open_checkpoint(archive: io.Archive, energy: AbstractEnergy | None) -> Checkpoint:
    """What an archive holds, but for the state, which `fill_state` reads into a template."""
    return Checkpoint(
        energy=energy_of(archive, energy),
        objective=objective_of(archive),
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
