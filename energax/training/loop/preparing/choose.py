"""From what `fit` was given to a run: the rows, then the numbers, then the state to start from."""

import dataclasses
from typing import Any

import jax
from jaxtyping import Array

from energax.energies._base import AbstractEnergy
from energax.energies.moments import Moments
from energax.io import AbstractRows
from energax.objectives._base import AbstractObjective
from energax.spaces import Point, num_rows
from energax.training._base import (
    fill_state,
    open_checkpoint,
    recoveries_of,
    remove_leftovers,
    whole,
)
from energax.training.loop._base import (
    Checkpoints,
    Devices,
    Keeping,
    Moment,
    Prepared,
    Run,
    as_strong,
    records_of,
    within,
)
from energax.training.loop.preparing.asked import (
    check_for_moments,
    check_for_windows,
    check_recovery,
    check_same_run,
    digest_of,
    find_archive,
    name_of,
    number_of_steps,
    rate_of,
    rows_a_step,
)
from energax.training.loop.preparing.start import adam, first_state
from energax.training.loop.preparing.windows import Windows, fits
from energax.training.loop.quasi_newton import LBFGS
from energax.training.loop.recover import Doctor
from energax.training.loop.review import review
from energax.training.loop.validation import Watch
from energax.training.stopping import EarlyStopping, Watcher

_STARTS = 1000  # points that chains start from where there are no rows
_WATCH = 2**31 - 1  # what is folded into the key for early stopping


@dataclasses.dataclass(frozen=True)
class Material:
    """What is trained on.

    - `rows`: all of them, or the first window; `held`: those that early stopping watches.
    - `starts`: what chains start at where `rows` are no points of the space, else None.
    - `batch_size`: rows a step where they decide it, else as it was asked for.
    """

    rows: Point
    batch_size: int | None
    starts: Point = None
    windows: Windows | None = None
    held: Point = None

    @property
    def num_rows(self) -> int:
        """Of all of them."""
        return num_rows(self.rows) if self.windows is None else self.windows.rows.num_rows

    def digest(self) -> str:
        return digest_of(self.rows) if self.windows is None else self.windows.rows.fingerprint()


@dataclasses.dataclass(frozen=True)
class Asked:
    """A training that was asked for, checked; nothing of it has been computed yet.

    - `settings`: numbers and words by their names in `fit`, as a checkpoint keeps them.
    - `rate`: of learning, None where the optimizer has its own; `limit`: the most recoveries.
    - `directions`: of the energy's matrices, where those are bounded.
    """

    energy: AbstractEnergy
    objective: AbstractObjective
    material: Material
    key: Array
    optimizer: Any
    early_stopping: EarlyStopping | None
    devices: Devices
    settings: dict[str, Any]
    rate: float | None
    limit: int
    directions: tuple[Array, ...] | None


def gather(
    energy: AbstractEnergy,
    objective: AbstractObjective,
    data: Any,
    *,
    key: Array,
    optimizer: Any,
    batch_size: int | None,
    window_rows: int | None,
    validation: Any,
    early_stopping: EarlyStopping | None,
) -> Material:
    """The rows, or their first window, as points of the objective's space.

    **Raises:** ValueError or TypeError for rows outside it, and for rows of a kind that does not go
    with the other arguments.
    """
    space = objective.data_space(energy)
    starts: Point = None
    windows = None
    if isinstance(data, AbstractRows):
        if fits(data, window_rows):
            data, window_rows = data.read(0, data.num_rows), None
        else:
            check_for_windows(optimizer, early_stopping is not None and early_stopping.is_share)
            batch_size = 100 if batch_size is None else whole("batch_size", batch_size)
            windows = Windows(data, space, batch_size=batch_size, window_rows=window_rows, key=key)
    if windows is not None:
        rows = windows.load(0)
    elif window_rows is not None:
        raise ValueError("window_rows: for rows that are read bit by bit, data=io.open_rows(path)")
    elif isinstance(data, Moments):
        rows, starts = data.rows(energy), data.draw(_STARTS, key=jax.random.fold_in(key, _WATCH))
        if batch_size not in (None, num_rows(rows)):
            raise ValueError("batch_size: Moments are taken whole at every step; leave it out")
        batch_size = num_rows(rows)
        check_for_moments(objective, validation, early_stopping)
    else:
        rows = space.validate(data, batch=True, name="data")
    if space is not energy.space and not (validation is None and early_stopping is None):
        raise ValueError(
            "validation= and early_stopping= look at energies of rows, and a row is only one part "
            f"of a point of {type(energy).__name__}: leave them out (variational_bound judges a "
            "deep Boltzmann machine)"
        )
    return Material(rows, batch_size, starts, windows)


def ask(
    energy: AbstractEnergy,
    objective: AbstractObjective,
    material: Material,
    *,
    key: Array,
    optimizer: Any,
    learning_rate: float | None,
    num_steps: int | None,
    num_epochs: int | None,
    average: float | None,
    clip: float | None,
    spectral_norm: float | None,
    temperature: float | None,
    recover: bool | int,
    early_stopping: EarlyStopping | None,
) -> Asked:
    """The numbers and words checked, rows held out, and matrices bounded.

    **Raises:** ValueError for values out of range, or that do not go together.
    """
    if early_stopping is not None:
        rows, held = early_stopping.split(energy.space, material.rows, key=_key_of_rows(key))
        material = dataclasses.replace(material, rows=rows, held=held)
    batch_size = rows_a_step(material.batch_size, num_rows(material.rows), optimizer, objective)
    devices = Devices.of(batch_size, num_rows(material.rows))
    num_steps = number_of_steps(num_steps, num_epochs, material.num_rows // batch_size)
    if average is not None and not 0 < average < 1:
        raise ValueError(f"average: expected a decay between 0 and 1, got {average}")
    limit, clip, spectral_norm = check_recovery(recover, clip, optimizer, spectral_norm)
    directions = None
    if spectral_norm is not None:
        energy, directions = within(as_strong(energy), spectral_norm)
    rate = rate_of(energy, optimizer, learning_rate)
    settings = {
        "num_steps": num_steps,
        "learning_rate": rate,
        "batch_size": batch_size,
        "window_rows": None if material.windows is None else material.windows.size,
        "average": average,
        "clip": clip,
        "spectral_norm": spectral_norm,
        "temperature": None if temperature is None else float(temperature),
        "recover": limit,
        "optimizer": name_of(optimizer),
        "log_every": -(-num_steps // 10_000),
    }
    return Asked(
        energy=energy,
        objective=objective,
        material=material,
        key=key,
        optimizer=optimizer,
        early_stopping=early_stopping,
        devices=devices,
        settings=settings,
        rate=rate,
        limit=limit,
        directions=directions,
    )


def prepare(asked: Asked, keeping: Keeping, *, resume: bool | str, validation: Any) -> Prepared:
    """The run at its start, or where its newest good checkpoint has it, or that of the best score.

    **Raises:** ValueError for an energy with nothing to train, and for checkpoints of another run.
    """
    energy, objective, material, key = asked.energy, asked.objective, asked.material, asked.key
    settings, devices = dict(asked.settings), asked.devices
    watcher = None
    if asked.early_stopping is not None:
        watcher = _watcher(asked)
        settings["early_stopping"] = asked.early_stopping.settings(material.held, watcher.every)
    settings["keep_best"] = keeping.num_best or None
    settings["score"] = None if keeping.score is None else "given"
    folder = keeping.folder
    if folder is not None or devices.num_processes > 1:
        settings["data_sha256"] = material.digest()
    archive = found = None
    seconds = 0.0
    if folder is not None:
        archive = find_archive(folder, resume)
        if devices.leads:
            remove_leftovers(folder)
    if archive is not None:
        found = open_checkpoint(archive, energy)
        check_same_run(found, settings, objective, key, folder)
        settings["log_every"] = found.settings["log_every"]
        energy, seconds = found.energy, found.seconds
    settles = isinstance(asked.optimizer, str)
    optimizer = LBFGS() if settles else adam() if asked.optimizer is None else asked.optimizer
    plan, state = first_state(
        energy,
        material.rows,
        material.starts,
        objective,
        key,
        optimizer,
        settles,
        settings,
        asked.directions,
    )
    first = state.parameters
    doctor = Doctor(objective, asked.rate, asked.limit)
    now, before = Moment(0, state, plan.order(state.step), ()), None
    if archive is not None and found is not None:
        template = state if watcher is None else (state, watcher.now)
        *told, first = fill_state(archive, (template, template, first))
        done = recoveries_of(found.settings)
        if watcher is not None:
            watcher.restore(*(watched for _, watched in told))
            told = [state for state, _ in told]
        records = records_of(found.history, int(told[0].step))
        before, now = (
            Moment(int(state.step), state, plan.order(state.step), record, done)
            for state, record in zip(told, records, strict=True)
        )
        plan = doctor.plan(plan, done)
    run = Run(plan, now, before, seconds, material.windows, devices)
    if devices.num_processes > 1:
        of_rows = settings["data_sha256"]
        devices.check_same(data=of_rows, settings=settings, step_to_go_on_from=run.step)
    checkpoints = Checkpoints(
        keeping,
        run=run,
        doctor=doctor,
        watcher=watcher,
        objective=objective,
        key=key,
        first=first,
        settings=settings,
        review=review,
    )
    if resume == "best":  # it is the newest now, and what came after it is given up
        run.saved_step = -1
        checkpoints.save()
    watch = None
    if validation is not None:
        watch = Watch(energy, material.rows, validation, settings["num_steps"])
    return Prepared(run, doctor, watcher, watch, checkpoints, first, settings["num_steps"])


def _watcher(asked: Asked) -> Watcher:
    settings, energy = asked.settings, asked.energy
    assert asked.early_stopping is not None
    return Watcher(
        asked.early_stopping,
        as_strong(energy),
        asked.material.rows,
        asked.material.held,
        num_steps=settings["num_steps"],
        step_evaluations=asked.objective.evaluations_per_step(energy, settings["batch_size"]),
        key=_key_of_watch(asked.key),
    )


def _key_of_watch(key: Array) -> Array:
    return jax.random.fold_in(key, _WATCH)


def _key_of_rows(key: Array) -> Array:
    """Of which rows are held out."""
    return jax.random.fold_in(_key_of_watch(key), _WATCH)
