"""The one training loop: minibatches, an optimiser, checkpoints, and a stop on trouble."""

import dataclasses
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from energax.energies._base import AbstractEnergy, check_scalar
from energax.energies.exponential_family import AbstractExponentialFamily
from energax.energies.moments import Moments
from energax.io import AbstractRows
from energax.objectives._base import AbstractObjective
from energax.objectives.choose import default_objective
from energax.objectives.likelihood import MaximumLikelihood
from energax.random import as_key
from energax.results import Verdict
from energax.samplers.driver.progress import Progress
from energax.spaces import Point, num_rows
from energax.training._base import (
    Checkpoint,
    DamagedCheckpoint,
    Fit,
    fill_state,
    newest_archive,
    open_checkpoint,
    recoveries_of,
    whole,
    write_checkpoint,
)
from energax.training.loop._base import (
    Devices,
    Moment,
    Run,
    Trouble,
    as_strong,
    joined,
    records_of,
    within,
)
from energax.training.loop.asked import (
    at_temperature,
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
from energax.training.loop.quasi_newton import LBFGS
from energax.training.loop.recover import Doctor
from energax.training.loop.review import of_loss, review
from energax.training.loop.start import adam, first_state
from energax.training.loop.validation import Watch
from energax.training.loop.windows import Windows, fits
from energax.training.stopping import EarlyStopping, Watcher

_CHECKPOINT_SECONDS = 30.0
_STARTS = 1000  # points that chains start from where there are no rows
_WATCH = 2**31 - 1  # what is folded into the key for early stopping


def fit(
    energy: AbstractEnergy,
    data: Any,
    objective: AbstractObjective | None = None,
    *,
    key: Any,
    optimizer: Any = None,
    learning_rate: float | None = None,
    num_steps: int | None = None,
    num_epochs: int | None = None,
    batch_size: int | None = None,
    window_rows: int | None = None,
    average: float | None = None,
    clip: float | None = None,
    spectral_norm: float | None = None,
    temperature: float | None = None,
    recover: bool | int = False,
    checkpoint_dir: str | Path | None = None,
    checkpoint_every: int | None = None,
    keep: int = 3,
    resume: bool = False,
    validation: Any = None,
    early_stopping: float | EarlyStopping | None = None,
    progress: bool = False,
    max_seconds: float | None = None,
    callback: Callable[[int, dict[str, float]], Any] | None = None,
) -> Fit:
    """Trains the float arrays of `energy` on `data` and tells whether the training went well.

    Every epoch goes through the rows in a new random order; rows that do not fill a last minibatch
    wait for another epoch. Training stops where loss, gradient or update is not finite, or where
    the gap between the energies of data and samples passes 1000 times (the energies before the
    first update + 1 nat a site), or where chains accepted less than 0.01 of their moves in each
    of 1000 steps. It then returns the parameters from 10 to 19 steps before (fewer soon after a
    recovery), with `reliable=False` and a reason that names the cause and what to change; with
    `recover=` it changes that itself and goes on from there.

    Where JAX has several devices, each takes an equal share of the minibatch and of the chains, on
    as many of them as divide `batch_size`. Several processes that called
    `jax.distributed.initialize` train one model, each on the same rows; the first one writes.

    **Arguments:**

    - `data`: (rows, *event), a dict of arrays on a `Record`; or `Moments`, for an energy of pairs
      and an objective that asks the data for no more (`MaximumLikelihood`, `PersistentCD`); or
      `io.open_rows(path)`, a file larger than memory, of which `window_rows` rows at a time are
      read (None: as many as take 64 MB in float32; some six times that is needed in all), from 64
      places of the file in a random order, and trained on in a random order.
    - `objective`: what to minimise; None takes `objectives.default_objective`, and fits exponential
      families at once by matching moments.
    - `optimizer`: any Optax transformation; None is Adam whose rate is `learning_rate` for the
      first half of the steps and then falls to zero in a straight line. `learning_rate`: None is
      0.01 for RBMs, Ising models and normalised families, 0.001 for networks and functions.
      "lbfgs" goes over all rows at every step and ends at a minimum: for objectives without chance
      (pseudo-likelihood, exact likelihood, score matching), best where they are convex.
    - `num_steps`, `num_epochs`: one of the two; neither is 2000 steps. L-BFGS takes as many as it
      needs up to that.
    - `batch_size`: rows a step; None is 100, of L-BFGS all.
    - `average`: decay of a running average of the parameters, such as 0.999; None keeps none.
    - `clip`: the largest norm of the gradient, all parameters together; a larger one is shortened
      to it (Pascanu, Mikolov & Bengio 2013, algorithm 1). None shortens none.
    - `spectral_norm`: c, the largest singular value that a matrix of θ may have: at the start and
      after every update W ← W / max(1, σ(W)/c) (Gouk, Frank, Pfahringer & Cree 2021, algorithm 2).
      σ is from power iterations that go along with the training, near enough to end within 1 % of
      c. All trained arrays of two axes and more are meant, whatever they are: weights of a network,
      an RBM or a Potts model; kernels count as matrices (all other axes, outputs), outputs being
      the last axis, or the first of Equinox's convolutions. Vectors (biases, the readout of an
      `MLP`) are left alone. Not with "lbfgs". None bounds none.
    - `temperature`: T of p = exp(f/T)/Z, f being that of `energy`. What is trained and returned is
      E/T, a `Tempered` with β = 1/T that stays as it is; without it β is trained where `energy` is
      a `Tempered`. For networks and functions. None is T = 1.
    - `recover`: how often to go on after trouble, True: up to 5 times. Each time `learning_rate` is
      halved (of an optimizer of your own its updates are) and the optimiser forgets its moments.
      Where the samples are at fault, every second time the sampler takes twice the steps an update
      instead, if the objective has such. Trouble that neither mends ends the training as ever. What
      was done is in `Fit.recoveries`.
    - `checkpoint_dir`: a folder for checkpoints, one every `checkpoint_every` steps (None: every 30
      seconds) and one at the end, of which the last `keep` stay. `resume=True` goes on from the
      newest good one, if there is one, to the same end bit for bit.
    - `validation`: held-out rows whose energies enter the history.
    - `early_stopping`: a share of the rows to hold out, or an `EarlyStopping`. Their log-likelihood
      is followed at a small cost and enters the history; training ends where it gets no better, and
      the parameters that were best by it are returned.
    - `max_seconds`: stop after these. `callback(step, metrics)`: called every few steps.

    **Raises:** ValueError or TypeError for data outside the space, an energy with nothing to train,
    or arguments that do not go together. KeyboardInterrupt after a last checkpoint, on Ctrl-C.
    """
    key = as_key(key)
    check_scalar(energy)
    energy = energy if temperature is None else at_temperature(energy, temperature)
    matched = objective is None and optimizer is None
    objective = default_objective(energy) if objective is None else objective
    if not isinstance(objective, AbstractObjective):
        raise TypeError(
            "objective: expected one of energax.objectives, such as PersistentCD(), got "
            f"{type(objective).__name__}"
        )
    space = objective.data_space(energy)
    early_stopping = None if early_stopping is None else EarlyStopping.of(early_stopping)
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
        matched, rows = False, windows.load(0)
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
    if matched and isinstance(energy, AbstractExponentialFamily):
        if early_stopping is not None:
            raise ValueError(
                "early_stopping: this family is fitted at once by its moments, there is no "
                "training to stop; leave it out, or pass an objective="
            )
        if spectral_norm is not None:
            raise ValueError(
                "spectral_norm: this family is fitted at once by its moments; leave it out, or "
                "pass an objective="
            )
        return _match_moments(energy, rows)
    key_watch = jax.random.fold_in(key, _WATCH)
    held: Point = None
    if early_stopping is not None:
        rows, held = early_stopping.split(
            energy.space, rows, key=jax.random.fold_in(key_watch, _WATCH)
        )
    batch_size = rows_a_step(batch_size, num_rows(rows), optimizer, objective)
    devices = Devices.of(batch_size, num_rows(rows))
    of_all = num_rows(rows) if windows is None else windows.rows.num_rows
    num_steps = number_of_steps(num_steps, num_epochs, of_all // batch_size)
    if checkpoint_every is not None:
        whole("checkpoint_every", checkpoint_every)
    keep = whole("keep", keep)
    if resume and checkpoint_dir is None:
        raise ValueError("resume=True needs checkpoint_dir=, the folder of the run's checkpoints")
    if average is not None and not 0 < average < 1:
        raise ValueError(f"average: expected a decay between 0 and 1, got {average}")
    limit, clip, spectral_norm = check_recovery(recover, clip, optimizer, spectral_norm)
    if spectral_norm is not None:
        energy = within(as_strong(energy), spectral_norm)
    rate = rate_of(energy, optimizer, learning_rate)
    settings = {
        "num_steps": num_steps,
        "learning_rate": rate,
        "batch_size": batch_size,
        "window_rows": None if windows is None else windows.size,
        "average": average,
        "clip": clip,
        "spectral_norm": spectral_norm,
        "temperature": None if temperature is None else float(temperature),
        "recover": limit,
        "optimizer": name_of(optimizer),
        "log_every": -(-num_steps // 10_000),
    }
    watcher = None
    if early_stopping is not None:
        watcher = Watcher(
            early_stopping,
            as_strong(energy),
            rows,
            held,
            num_steps=num_steps,
            step_evaluations=objective.evaluations_per_step(energy, batch_size),
            key=key_watch,
        )
        settings["early_stopping"] = early_stopping.settings(held, watcher.every)
    folder = archive = found = None
    seconds = 0.0
    if checkpoint_dir is not None or devices.num_processes > 1:
        settings["data_sha256"] = digest_of(rows) if windows is None else windows.rows.fingerprint()
    if checkpoint_dir is not None:
        folder = Path(checkpoint_dir)
        archive = find_archive(folder, resume)
    if archive is not None:
        found = open_checkpoint(archive, energy)
        check_same_run(found, settings, objective, key, folder)
        settings["log_every"] = found.settings["log_every"]
        energy, seconds = found.energy, found.seconds
    settles = isinstance(optimizer, str)
    if optimizer is None:
        optimizer = adam()
    elif settles:
        optimizer = LBFGS()
    plan, state = first_state(energy, rows, starts, objective, key, optimizer, settles, settings)
    first = state.parameters
    doctor = Doctor(objective, rate, limit)
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
    run = Run(plan, now, before, seconds, windows, devices)
    if devices.num_processes > 1:
        of_rows = settings["data_sha256"]
        devices.check_same(data=of_rows, settings=settings, step_to_go_on_from=run.step)

    def save() -> None:
        moment = run.moment
        if folder is None or run.saved_step == moment.step or not devices.leads:
            return
        kept = [run.before(), moment]  # trouble soon after it may lead back beyond a checkpoint
        at = [devices.here(m.state) for m in kept]
        if watcher is not None:
            at = [(state, watcher.at(m.step)) for state, m in zip(at, kept, strict=True)]
        told = {**settings, "recoveries": [dataclasses.asdict(r) for r in moment.recoveries]}
        checkpoint = Checkpoint(
            run.energy,
            objective,
            (*at, first),
            key,
            run.history(),
            told,
            moment.step,
            run.seconds,
        )
        write_checkpoint(folder, checkpoint, keep=keep)
        run.saved_step, run.saved_at = moment.step, time.monotonic()

    watch = None if validation is None else Watch(energy, rows, validation, num_steps)
    every = [each.every for each in (watch, watcher) if each is not None]
    every += [] if windows is None else [windows.steps]
    reason, time_limited = None, False

    def look() -> bool:
        """Notes what is seen of held-out rows where it is time to; whether training may go on."""
        if watch is not None and watch.is_due(run.step, run.last_noted("validation_step")):
            run.note(watch.look(run.energy, run.step))
        if watcher is None:
            return True
        if not watcher.stopped and watcher.is_due(run.step):
            began = time.monotonic()
            run.note(watcher.look(run.averaged_energy, run.step))
            watcher.let_go(run.earlier[0].step)
            run.seconds += time.monotonic() - began
        return not devices.agreed(watcher.stopped)

    def go_back(trouble: Trouble) -> None:
        """To where training was 10 to 19 steps before, by the same steps and looks again."""
        target = run.go_back(trouble)
        if watcher is not None:
            watcher.go_back(run.step)
        while run.step < target:
            run.advance(run.next_stop(target, *every))
            look()

    try:
        with Progress("training", progress) as bar:
            while look() and run.step < num_steps and not (time_limited or run.settled):
                until = run.next_stop(num_steps, checkpoint_every, *every)
                try:
                    last = run.advance(until)
                except Trouble as trouble:
                    go_back(trouble)
                    reason = doctor.treat(run, trouble)
                    save()
                    if reason is not None:
                        break
                    continue
                look()
                due = run.saved_at + _CHECKPOINT_SECONDS < time.monotonic()
                if run.step % checkpoint_every == 0 if checkpoint_every else due:
                    save()
                bar.update(1.0 if run.settled else run.step / num_steps, _shown(last))
                if callback is not None:
                    callback(run.step, last)
                if max_seconds is not None:
                    time_limited = bool(devices.agreed(run.seconds - seconds >= max_seconds))
    except KeyboardInterrupt:
        save()
        raise
    save()
    history = joined(run.moment.record)
    reasons = (reason,) if reason else review(history, energy.space.num_sites)
    at_its_end = run.settled or run.step >= num_steps
    if at_its_end and not reasons:
        reasons = of_loss(run, first)
    if settles and at_its_end and not reason:
        reasons += optimizer.doubts(run.state.optimizer, num_steps)
    trained, steps, stopping = run.averaged_energy, run.step, None
    if watcher is not None:
        stopping, doubts = watcher.finish(trained, run.step)
        reasons += doubts
        if stopping.best_step is not None:
            trained, steps = watcher.best_energy(trained), stopping.best_step
    verdict = Verdict(reasons)
    verdict.warn("the training")
    return Fit(
        energy=trained,
        history=history,
        reliable=verdict.reliable,
        reasons=verdict.reasons,
        objective=doctor.objective(run.moment.recoveries),
        num_steps=steps,
        seconds=run.seconds,
        time_limited=time_limited and run.step < num_steps,
        early_stopping=stopping,
        recoveries=run.moment.recoveries,
    )


def resume(
    folder: str | Path,
    energy: AbstractEnergy | None = None,
    *,
    data: Any,
    objective: AbstractObjective | None = None,
    optimizer: Any = None,
    learning_rate: float | None = None,
    num_steps: int | None = None,
    clip: float | None = None,
    recover: bool | int | None = None,
    early_stopping: EarlyStopping | None = None,
    **options: Any,
) -> Fit:
    """Goes on with an interrupted `fit` from the newest good checkpoint in `folder`.

    With the same data it ends bit for bit where the uninterrupted run would have ended. Damaged
    checkpoints are passed over with a warning.

    **Arguments:** `energy`, `objective`, `optimizer`: needed again where they are the user's own
    code, which no file keeps. `early_stopping`: needed again where it was given rows to watch.
    `learning_rate`, `num_steps`, `clip`, `recover`: other values than the run had, for another end;
    recoveries made before count, and a learning rate that they halved stays halved. `options`:
    `checkpoint_every`, `keep`, `validation`, `progress`, `max_seconds` and `callback` of `fit`,
    which are not kept.

    **Raises:** FileNotFoundError without a checkpoint; io.DamagedFile if none is good; ValueError
    for other data, or if something that no file keeps is missing.
    """
    folder = Path(folder)
    archive = newest_archive(folder)
    if archive is None:
        raise FileNotFoundError(2, "there is no checkpoint to go on from", str(folder))
    temperature = archive.info["settings"].get("temperature")
    if energy is not None and temperature is not None:
        energy = at_temperature(energy, temperature)
    found = open_checkpoint(archive, energy)
    settings, start = found.settings, found.energy
    if temperature is not None:
        start = start.energy  # type: ignore[attr-defined]
    objective = found.objective if objective is None else objective
    for name, given, needed in (
        ("objective", objective, True),
        ("optimizer", optimizer, settings["optimizer"] == "given"),
    ):
        if given is None and needed:
            raise ValueError(
                f"{folder}: this run's {name} is your own code, which no file keeps: pass {name}="
            )
    told = settings.get("early_stopping")
    if early_stopping is None and told is not None:
        early_stopping = EarlyStopping.from_settings(told)
        if early_stopping is None:
            raise ValueError(
                f"{folder}: this run watched rows of your own, which no file keeps: pass "
                "early_stopping=EarlyStopping(rows, ...) as before"
            )
    if optimizer is None and settings["optimizer"] == "lbfgs":
        optimizer = "lbfgs"
    if optimizer is None and learning_rate is None:
        learning_rate = settings["learning_rate"]
    if clip is None:
        clip = settings.get("clip")
    with warnings.catch_warnings():  # damaged checkpoints were named above
        warnings.simplefilter("ignore", DamagedCheckpoint)
        return fit(
            start,
            data,
            objective,
            key=found.key,
            optimizer=optimizer,
            learning_rate=learning_rate,
            num_steps=settings["num_steps"] if num_steps is None else num_steps,
            batch_size=settings["batch_size"],
            window_rows=_window_rows(settings, data),
            average=settings["average"],
            clip=clip,
            spectral_norm=settings.get("spectral_norm"),
            temperature=temperature,
            recover=settings.get("recover", False) if recover is None else recover,
            early_stopping=early_stopping,
            checkpoint_dir=folder,
            resume=True,
            **options,
        )


def _window_rows(settings: dict[str, Any], data: Any) -> int | None:
    """Of a run that goes on: a file that was taken whole is taken whole again."""
    if isinstance(data, AbstractRows) and settings.get("window_rows") is None:
        return data.num_rows
    return settings.get("window_rows")


def _shown(metrics: dict[str, float]) -> str:
    names = [name for name in ("loss", "gap", "acceptance") if name in metrics]
    return " ".join(f"{name} {metrics[name]:.4g}" for name in names)


def _match_moments(energy: AbstractExponentialFamily, rows: Any) -> Fit:
    """Maximum likelihood of an exponential family in one step."""
    began = time.monotonic()
    fitted = type(energy).fit_moments(rows, energy.space)
    loss = -float(jnp.mean(jax.vmap(fitted.log_prob)(rows)))
    history = {"step": np.zeros(1), "loss": np.asarray([loss])}
    return Fit(fitted, history, True, (), MaximumLikelihood(), 1, time.monotonic() - began)
