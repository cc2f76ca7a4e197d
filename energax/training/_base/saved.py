"""A `Fit` out of its files: the end of a run, or one of the checkpoints kept for their scores."""

from pathlib import Path

from energax import io
from energax.energies._base import AbstractEnergy
from energax.training._base.checkpoints import archive_of_step, best_archive, has_best
from energax.training._base.known import energy_of, objective_of, registry
from energax.training._base.result import Best, Fit, best_of, recoveries_of, stopping_of


def load(
    folder: str | Path, energy: AbstractEnergy | None = None, *, which: str | int = "last"
) -> Fit:
    """The `Fit` that `save` wrote to `folder`, or one of the checkpoints that `keep_best=` kept.

    **Arguments:** `energy`: needed where the energy is the user's own function or class, of which
    the file keeps the parameters only: the same energy as was trained, with any parameters.
    `which`: "last", the finished run; "best", the checkpoint of the highest score, of a finished
    run or not, in the run's folder or in that of its checkpoints; or the step of one that was kept
    for its score (`Fit.best`). A damaged best one is passed over with a warning
    (`DamagedCheckpoint`) that names it and the one that is taken.

    **Raises:** FileNotFoundError if there is none; io.DamagedFile if it was cut short or changed;
    ValueError if `energy` is needed or does not fit what was saved, or for another `which`.
    """
    folder = Path(folder)
    if which == "best":
        return _scored(best_archive(folder), energy)
    if isinstance(which, int) and not isinstance(which, bool):
        return _scored(archive_of_step(folder, which), energy)
    if which != "last":
        raise ValueError(f'which: expected "last", "best" or the step of a best one, got {which!r}')
    path = folder / "fit.json"
    if not path.is_file():
        best = ', its best checkpoint is which="best"' if has_best(folder) else ""
        raise FileNotFoundError(
            2, f"there is no finished run (an interrupted one goes on by resume{best})", str(path)
        )
    archive = io.read_archive(path)
    return Fit(
        energy=energy_of(archive, energy),
        history=archive.build("history", registry()),
        reliable=archive.info["reliable"],
        reasons=tuple(archive.info["reasons"]),
        objective=objective_of(archive),
        num_steps=archive.info["num_steps"],
        seconds=archive.info["seconds"],
        time_limited=archive.info["time_limited"],
        early_stopping=stopping_of(archive.info.get("early_stopping")),
        recoveries=recoveries_of(archive.info),
        best=tuple(Best(**each) for each in archive.info.get("best", ())),
    )


def _scored(archive: io.Archive, energy: AbstractEnergy | None) -> Fit:
    """A checkpoint that was kept for its score, as a training that ended there."""
    info, history = archive.info, archive.build("history", registry())
    return Fit(
        energy=energy_of(archive, energy, "scored"),
        history=history,
        reliable=not info["reasons"],
        reasons=tuple(info["reasons"]),
        objective=objective_of(archive, "minimised"),
        num_steps=info["step"],
        seconds=info["seconds"],
        recoveries=recoveries_of(info["settings"]),
        best=best_of(history, info["settings"]["keep_best"]),
    )
