"""What a run is asked for: numbers and words checked, and whether a checkpoint is its own."""

import hashlib
import math
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array

from energax.energies._base import (
    AbstractBipartiteEnergy,
    AbstractColouredEnergy,
    AbstractEnergy,
    AbstractNormalised,
    Tempered,
)
from energax.objectives._base import AbstractObjective
from energax.spaces import Point
from energax.training._base import (
    BEST,
    Checkpoint,
    best_archive,
    checkpoint_paths,
    newest_archive,
    whole,
)
from energax.training.loop._base import Keeping

_RECOVERIES = 5


def rate_of(energy: AbstractEnergy, optimizer: Any, learning_rate: float | None) -> float | None:
    if optimizer is not None:
        if learning_rate is not None:
            raise ValueError("give optimizer= or learning_rate=, not both")
        return None
    if learning_rate is None:
        structured = AbstractBipartiteEnergy, AbstractColouredEnergy, AbstractNormalised
        return 0.01 if isinstance(energy, structured) else 0.001
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate: expected a positive number, got {learning_rate}")
    return float(learning_rate)


def name_of(optimizer: Any) -> str:
    """What a checkpoint says of it."""
    if optimizer is None:
        return "default"
    return optimizer if isinstance(optimizer, str) else "given"


def check_optimizer(optimizer: Any, objective: AbstractObjective) -> None:
    """Raises ValueError for an unknown word, and where L-BFGS would meet chance in the loss."""
    if not isinstance(optimizer, str):
        return
    if optimizer != "lbfgs":
        raise ValueError(
            f"optimizer: expected an Optax transformation, None for Adam or 'lbfgs', got "
            f"{optimizer!r}"
        )
    if not objective.is_deterministic:
        raise ValueError(
            f"optimizer='lbfgs' compares losses, and those of {type(objective).__name__} are of "
            "random samples: leave optimizer= out, or take an objective without chance such as "
            "PseudoLikelihood(), of reals ScoreMatching()"
        )


def check_recovery(
    recover: bool | int, clip: float | None, optimizer: Any, spectral_norm: float | None = None
) -> tuple[int, float | None, float | None]:
    """(the most recoveries, of True 5; the largest norm of a gradient; that of a matrix).

    **Raises:** ValueError for other values, and where L-BFGS has no use for them.
    """
    if isinstance(recover, bool):
        limit = _RECOVERIES if recover else 0
    elif isinstance(recover, (int, np.integer)) and recover >= 0:
        limit = int(recover)
    else:
        raise ValueError(
            "recover: expected True, False or a whole number from 0, the most recoveries, got "
            f"{recover!r}"
        )
    clip, spectral_norm = _positive("clip", clip), _positive("spectral_norm", spectral_norm)
    if isinstance(optimizer, str) and optimizer == "lbfgs":
        for name, given in (("recover", limit), ("clip", clip)):
            if given:
                raise ValueError(
                    f"optimizer='lbfgs' shortens its steps by itself and has no use for {name}=: "
                    "leave it out"
                )
        if spectral_norm is not None:
            raise ValueError(
                "optimizer='lbfgs' searches along lines, and spectral_norm= would move each point "
                "off them: leave one of the two out (Penalised(objective, l2=) goes with L-BFGS)"
            )
    return limit, clip, spectral_norm


def _positive(name: str, value: float | None) -> float | None:
    if value is not None and (isinstance(value, bool) or not 0 < value < math.inf):
        raise ValueError(f"{name}: expected a positive number, got {value!r}")
    return None if value is None else float(value)


def at_temperature(energy: AbstractEnergy, temperature: float) -> Tempered:
    """E/T, whose β = 1/T training leaves as it is.

    **Raises:** ValueError for a T that is not positive, and where E/T is one more energy of the
    same kind, of which other couplings are trained.
    """
    _positive("temperature", temperature)
    tempered = energy.tempered(1 / temperature)
    if not isinstance(tempered, Tempered):
        raise ValueError(
            f"temperature: {type(energy).__name__} at another temperature is one with other "
            "parameters, and these are trained: start from energy.tempered(1 / temperature)"
        )
    return tempered


def rows_a_step(asked: int | None, rows: int, optimizer: Any, objective: AbstractObjective) -> int:
    """Rows a step: of L-BFGS all, else those asked for or 100."""
    if asked is not None:
        whole("batch_size", asked)
    check_optimizer(optimizer, objective)
    if not isinstance(optimizer, str):
        return min(100 if asked is None else int(asked), rows)
    if asked is not None and asked < rows:
        raise ValueError(
            f"optimizer='lbfgs' compares losses on the same rows, and batch_size={asked} of {rows} "
            "rows would be others each time: leave batch_size= out"
        )
    return rows


def check_for_moments(objective: AbstractObjective, validation: Any, early_stopping: Any) -> None:
    if not objective.fits_moments:
        raise TypeError(
            f"{type(objective).__name__} asks for the rows themselves: with Moments take "
            "MaximumLikelihood() (up to some 16 sites) or PersistentCD()"
        )
    if not (validation is None and early_stopping is None):
        raise ValueError(
            "validation= and early_stopping= look at energies of rows, and Moments have none: "
            "leave them out"
        )


def check_matched(**given: Any) -> None:
    """Raises ValueError for what a family that is fitted at once by its moments has no use for."""
    for name, value in given.items():
        if value is not None:
            raise ValueError(
                f"{name}: this family is fitted at once by its moments, there is no training to "
                "bound, to stop or to keep; leave it out, or pass an objective="
            )


def check_for_windows(optimizer: Any, holds_out: bool) -> None:
    if isinstance(optimizer, str):
        raise ValueError(
            "optimizer='lbfgs' goes over all rows at every step, and these do not fit into "
            "memory: leave it out, or give fewer rows"
        )
    if holds_out:
        raise ValueError(
            "early_stopping: a share of rows that are read bit by bit cannot be held out: give "
            "rows of your own, early_stopping=EarlyStopping(rows); train, rest = io.hold_out(data, "
            "share, seed=0) has some"
        )


def number_of_steps(num_steps: int | None, num_epochs: int | None, an_epoch: int) -> int:
    if num_steps is not None and num_epochs is not None:
        raise ValueError("give num_steps= or num_epochs=, not both")
    if num_epochs is not None:
        return whole("num_epochs", num_epochs) * an_epoch
    return 2000 if num_steps is None else whole("num_steps", num_steps)


def digest_of(rows: Point) -> str:
    """SHA-256 of the rows with their shapes and dtypes."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(rows):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def keeping_of(
    *,
    folder: str | Path | None,
    every: int | None,
    num: int,
    num_best: int | None,
    score: Any,
    follows: bool,
    resume: bool | str,
) -> Keeping:
    """Which checkpoints are kept, by the arguments of `fit`; `follows`: with early stopping.

    **Raises:** ValueError or TypeError for values out of range, or that do not go together.
    """
    if every is not None:
        whole("checkpoint_every", every)
    num = whole("keep", num)
    if not (isinstance(resume, bool) or resume == "best"):
        raise ValueError(f'resume: expected True, False or "best", got {resume!r}')
    if resume and folder is None:
        raise ValueError(f"resume={resume} needs checkpoint_dir=, the folder of the checkpoints")
    if num_best is None:
        if score is not None:
            raise ValueError("score= is for keep_best=, how many checkpoints of the best to keep")
        return Keeping(None if folder is None else Path(folder), every, num)
    num_best = whole("keep_best", num_best)
    if folder is None:
        raise ValueError("keep_best= needs checkpoint_dir=, the folder of the run's checkpoints")
    if score is None and not follows:
        raise ValueError(
            "keep_best= needs a score: early_stopping=, whose looks give one, or score=, a "
            "function of the energy"
        )
    if score is not None and not callable(score):
        raise TypeError(f"score: expected a function of the energy, got {type(score).__name__}")
    if score is not None and every is None:
        raise ValueError(
            "score= is asked at every checkpoint: give checkpoint_every=, so that it is asked at "
            "the same steps however often the run is interrupted"
        )
    return Keeping(Path(folder), every, num, num_best, score)


def find_archive(folder: Path, resume: bool | str) -> Any:
    """The checkpoint to go on from, None to start afresh."""
    if resume == "best":
        return best_archive(folder)
    if resume:
        return newest_archive(folder)
    if checkpoint_paths(folder) or checkpoint_paths(folder / BEST):
        raise ValueError(
            f"{folder} holds the checkpoints of a run already: go on with it by resume=True, or "
            "choose another folder"
        )
    return None


def check_same_run(
    found: Checkpoint,
    settings: dict[str, Any],
    objective: AbstractObjective,
    key: Array,
    folder: Path | None,
) -> None:
    """Raises ValueError unless the checkpoint is of the run that was asked for."""
    had, now = found.settings, settings
    names = "batch_size", "window_rows", "average", "optimizer", "early_stopping", "data_sha256"
    names = (*names, "spectral_norm", "temperature")
    different = [
        f"{name}={had.get(name)!r}, not {now.get(name)!r}"
        for name in names
        if had.get(name) != now.get(name)
    ]
    if found.objective is not None and not bool(eqx.tree_equal(found.objective, objective)):
        different.append(f"the objective {found.objective}, not {objective}")
    if not bool(eqx.tree_equal(found.key, key)):
        different.append("another key")
    if different:
        raise ValueError(
            f"{folder} holds a run with {'; '.join(different)}: go on with the same, or start in "
            "another folder"
        )
