"""The one training loop: minibatches, an optimiser, checkpoints, and a stop on trouble.

It is prepared (`preparing`), run (`drive`) and judged (`review`).
"""

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
from energax.io import AbstractRows
from energax.objectives._base import AbstractObjective
from energax.objectives.choose import default_objective
from energax.objectives.likelihood import MaximumLikelihood
from energax.random import as_key
from energax.training._base import (
    DamagedCheckpoint,
    Fit,
    best_archive,
    newest_archive,
    open_checkpoint,
)
from energax.training.loop.drive import drive
from energax.training.loop.preparing import (
    ask,
    at_temperature,
    check_matched,
    gather,
    keeping_of,
    prepare,
)
from energax.training.loop.review import judge
from energax.training.stopping import EarlyStopping


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
    keep_best: int | None = None,
    score: Callable[[Any], float] | None = None,
    resume: bool | str = False,
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
    - `keep_best`: how many checkpoints of the highest score to keep beside them, in their folder
      `best`; None keeps none. The score is the log-likelihood that early stopping sees at its
      looks, where log Z can be trusted; or `score(energy)`, a number, higher for a better energy
      (the average of the parameters, where there is one), asked at every `checkpoint_every` steps
      and at the end. `load(folder, which="best")` has the best one, and `resume="best"` goes on
      from it, all later checkpoints being given up; else no run goes on from one of these.
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
    stopping = None if early_stopping is None else EarlyStopping.of(early_stopping)
    matches = objective is None and optimizer is None
    objective = default_objective(energy) if objective is None else objective
    if not isinstance(objective, AbstractObjective):
        raise TypeError(
            "objective: expected one of energax.objectives, such as PersistentCD(), got "
            f"{type(objective).__name__}"
        )
    material = gather(
        energy,
        objective,
        data,
        key=key,
        optimizer=optimizer,
        batch_size=batch_size,
        window_rows=window_rows,
        validation=validation,
        early_stopping=stopping,
    )
    if matches and material.windows is None and isinstance(energy, AbstractExponentialFamily):
        check_matched(
            early_stopping=early_stopping, spectral_norm=spectral_norm, keep_best=keep_best
        )
        return _match_moments(energy, material.rows)
    keeping = keeping_of(
        folder=checkpoint_dir,
        every=checkpoint_every,
        num=keep,
        num_best=keep_best,
        score=score,
        follows=stopping is not None,
        resume=resume,
    )
    asked = ask(
        energy,
        objective,
        material,
        key=key,
        optimizer=optimizer,
        learning_rate=learning_rate,
        num_steps=num_steps,
        num_epochs=num_epochs,
        average=average,
        clip=clip,
        spectral_norm=spectral_norm,
        temperature=temperature,
        recover=recover,
        early_stopping=stopping,
    )
    prepared = prepare(asked, keeping, resume=resume, validation=validation)
    ended = drive(prepared, max_seconds=max_seconds, callback=callback, progress=progress)
    return judge(prepared, ended)


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
    keep_best: int | None = None,
    score: Callable[[Any], float] | None = None,
    which: str = "last",
    **options: Any,
) -> Fit:
    """Goes on with an interrupted `fit` from the newest good checkpoint in `folder`.

    With the same data it ends bit for bit where the uninterrupted run would have ended. Damaged
    checkpoints are passed over with a warning.

    **Arguments:** `energy`, `objective`, `optimizer`, `score`: needed again where they are the
    user's own code, which no file keeps. `early_stopping`: needed again where it was given rows to
    watch. `learning_rate`, `num_steps`, `clip`, `recover`, `keep_best`: other values than the run
    had, for another end; recoveries made before count, and a learning rate that they halved stays
    halved. `which`: "best" goes on from the checkpoint of the highest score instead, and gives up
    all later ones. `options`:
    `checkpoint_every`, `keep`, `validation`, `progress`, `max_seconds` and `callback` of `fit`,
    which are not kept.

    **Raises:** FileNotFoundError without a checkpoint; io.DamagedFile if none is good; ValueError
    for other data, or if something that no file keeps is missing.
    """
    folder = Path(folder)
    if which not in ("last", "best"):
        raise ValueError(f'which: expected "last" or "best", got {which!r}')
    archive = best_archive(folder) if which == "best" else newest_archive(folder)
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
        ("score", score, settings.get("score") == "given"),
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
            keep_best=settings.get("keep_best") if keep_best is None else keep_best,
            score=score,
            resume=True if which == "last" else which,
            **options,
        )


def _window_rows(settings: dict[str, Any], data: Any) -> int | None:
    """Of a run that goes on: a file that was taken whole is taken whole again."""
    if isinstance(data, AbstractRows) and settings.get("window_rows") is None:
        return data.num_rows
    return settings.get("window_rows")


def _match_moments(energy: AbstractExponentialFamily, rows: Any) -> Fit:
    """Maximum likelihood of an exponential family in one step."""
    began = time.monotonic()
    fitted = type(energy).fit_moments(rows, energy.space)
    loss = -float(jnp.mean(jax.vmap(fitted.log_prob)(rows)))
    history = {"step": np.zeros(1), "loss": np.asarray([loss])}
    return Fit(fitted, history, True, (), MaximumLikelihood(), 1, time.monotonic() - began)
