"""From a data file to a training run: what `energax fit` and `energax resume` agree on.

A run is a function of its `Settings` and the rows of the data file, so `resume` rebuilds exactly
what `fit` had: the same split, the same first weights, the same keys.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from energax import energies, io, objectives, random, spaces, training
from energax.energies.exponential_family import AbstractExponentialFamily
from energax.jobs import streams
from energax.jobs.models import build_model, parse_objective
from energax.training._base import CHECKPOINTS

PROGRESS = "progress.json"  # in a run's folder: what its training tells


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides a run; stored as run.json beside it."""

    data: str
    array: str | None
    sha256: str
    space: str
    model: str
    objective: str
    hidden: int
    num_steps: int
    batch_size: int
    learning_rate: float | None
    test_fraction: float
    checkpoint_every: int
    seed: int
    early_stopping: float | None = None
    l1: float = 0.0
    l2: float = 0.0
    optimizer: str = "adam"
    clip: float | None = None
    recover: bool = False
    energy_penalty: float = 0.0
    spectral_norm: float | None = None
    temperature: float | None = None
    keep_checkpoints: int = 3
    keep_best: int | None = None
    stream: bool = False
    window: int | None = None

    @property
    def fit_optimizer(self) -> str | None:
        """`optimizer=` of `fit`, whose default is Adam."""
        return None if self.optimizer == "adam" else self.optimizer


@dataclasses.dataclass(frozen=True)
class Job:
    """A checked run, ready to train."""

    settings: Settings
    space: spaces.AbstractArraySpace
    energy: energies.AbstractEnergy
    objective: Any
    train_rows: np.ndarray | io.AbstractRows
    early_stopping: float | training.EarlyStopping | None
    memory: str | None = None  # of rows that are read bit by bit, what that takes

    @property
    def num_train(self) -> int:
        rows = self.train_rows
        return rows.num_rows if isinstance(rows, io.AbstractRows) else len(rows)

    def train(
        self,
        out: Path,
        *,
        progress: bool,
        callback: Callable[[int, dict[str, float]], Any] | None,
        leads: bool = True,
        which: str = "last",
    ) -> training.Fit:
        """Trains, or goes on from the newest good checkpoint in `out`; saves the result there.

        **Arguments:** `leads`: of several processes that train, the first saves. `which`: "best"
        goes on from the checkpoint of the highest score, and gives up all later ones.
        """
        settings = self.settings
        optimizer = settings.fit_optimizer
        if leads:
            io.remove_leftovers(out)
        result = training.fit(
            self.energy,
            self.train_rows,
            self.objective,
            key=random.key(settings.seed),
            num_steps=settings.num_steps,
            optimizer=optimizer,
            batch_size=None if optimizer else min(settings.batch_size, self.num_train),
            window_rows=settings.window,
            learning_rate=settings.learning_rate,
            clip=settings.clip,
            spectral_norm=settings.spectral_norm,
            temperature=settings.temperature,
            recover=settings.recover,
            checkpoint_dir=out / CHECKPOINTS,
            checkpoint_every=settings.checkpoint_every,
            keep=settings.keep_checkpoints,
            keep_best=settings.keep_best,
            early_stopping=self.early_stopping,
            resume=True if which == "last" else which,
            progress=progress,
            callback=callback,
        )
        if leads:
            result.save(out)
        return result


def read_rows(path: Path, array: str | None, stream: bool) -> np.ndarray | io.AbstractRows:
    """The rows of a data file, or that file opened to be read bit by bit.

    **Raises:** FileNotFoundError; ValueError for what is no such file.
    """
    if not stream:
        if path.is_dir():
            raise ValueError(f"{path} is a folder: --stream trains on the images of one")
        return io.read_data(path, array=array)
    if array is not None:
        raise ValueError("--array is for .npz files, which --stream does not read: save an .npy")
    return io.open_rows(path)


def digest_of(path: Path, rows: np.ndarray | io.AbstractRows) -> str:
    """What a run knows its data by: of a stream the size and pieces of it."""
    return rows.fingerprint() if isinstance(rows, io.AbstractRows) else io.file_digest(path)


def prepare(settings: Settings, rows: np.ndarray | io.AbstractRows) -> Job:
    """Checks settings against rows and builds the untrained model.

    **Raises:** ValueError that names the option or the rows at fault.
    """
    training.check_recovery(
        settings.recover, settings.clip, settings.fit_optimizer, settings.spectral_norm
    )
    if settings.keep_best is not None and settings.early_stopping is None:
        raise ValueError(
            "--keep-best keeps those of the highest held-out log-likelihood, which "
            "--early-stopping SHARE looks at: give both"
        )
    if settings.window is not None and not settings.stream:
        raise ValueError("--window is for rows that are read bit by bit: give --stream, too")
    early_stopping, memory = settings.early_stopping, None
    if isinstance(rows, io.AbstractRows):
        _check_stream(settings)
        parts = streams.divided(rows, settings.test_fraction, settings.seed)
        if early_stopping is not None:
            parts = streams.with_watched(parts, early_stopping, settings.seed)
        space = parse_space(settings.space, io.a_few(parts.train, streams.SHOWN))
        seen = _some_points(space, parts.train)
        train_rows = _encoded(parts.train, space)
        streams.check_window(train_rows, settings.window, settings.batch_size)
        memory = streams.memory(dataclasses.replace(parts, train=train_rows), settings.window)
        if parts.watched is not None:
            watched = _some_points(space, parts.watched, streams.WATCHED)
            early_stopping = training.EarlyStopping(watched)
    else:
        space = parse_space(settings.space, rows)
        train_rows = seen = split(as_points(space, rows), settings)[0]
    settings = dataclasses.replace(settings, space=space_name(space))
    key = jax.random.fold_in(random.key(settings.seed), 1)
    energy = build_model(
        settings.model, space, seen, settings.hidden, settings.temperature, key=key
    )
    objective = build_objective(settings, energy, seen)
    if objective is None and isinstance(energy, AbstractExponentialFamily):
        _check_matched(settings, energy)
    if settings.spectral_norm is not None:
        training.check_matrices(energy)
    return Job(settings, space, energy, objective, train_rows, early_stopping, memory)


def _check_stream(settings: Settings) -> None:
    for option, given in (
        ("--optimizer lbfgs", settings.fit_optimizer == "lbfgs"),
        ("--objective moments", settings.objective == "moments"),
    ):
        if given:
            raise ValueError(f"{option} goes over all rows at once, and --stream reads a window")


def _check_matched(settings: Settings, energy: energies.AbstractEnergy) -> None:
    for option, given in (
        ("--spectral-norm", settings.spectral_norm is not None),
        ("--early-stopping", settings.early_stopping is not None),
        ("--stream", settings.stream),
    ):
        if given:
            raise ValueError(
                f"{option}: {type(energy).__name__} is fitted at once by the moments of all rows: "
                "leave it out, or name an --objective"
            )


def _encoded(rows: io.AbstractRows, space: spaces.AbstractArraySpace) -> io.AbstractRows:
    """Rows as `as_points` has them, where that is more than to check them."""
    if not isinstance(space, spaces.Categorical):
        return rows
    return streams.Encoded(rows, space, lambda x, where: as_points(space, x, name=where))


def _some_points(
    space: spaces.AbstractArraySpace, rows: io.AbstractRows, num: int | None = None
) -> np.ndarray:
    """Rows from all over a stream, checked, in the encoding of `space`."""
    num = streams.SHOWN if num is None else num
    return io.a_few(rows, num, lambda x, where: as_points(space, x, name=where))


def split(rows: np.ndarray, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """(train, held out): a seeded permutation, the first `test_fraction` held out."""
    train, test = split_numbers(len(rows), settings)
    return rows[train], rows[test]


def split_numbers(num_rows: int, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """(train, held out): the numbers of the rows, from 0, in order."""
    order = np.random.default_rng(settings.seed).permutation(num_rows)
    num_test = round(settings.test_fraction * num_rows)
    if num_rows - num_test < 2:
        raise ValueError(
            f"{num_rows} row(s) with --test-fraction {settings.test_fraction} leave "
            f"{num_rows - num_test} to train on: at least 2 are needed"
        )
    return np.sort(order[num_test:]), np.sort(order[:num_test])


def split_rows(settings: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The (train, held out) rows of a finished run, read again from its data file; of a stream up
    to 10,000 of either, from all over the file.

    **Raises:** ValueError if the file is gone or has changed since.
    """
    told = Settings(**settings)
    path = Path(told.data)
    changed = ValueError(f"{path}: the run's data file is gone or has changed since `fit`")
    if not path.exists() or (path.is_dir() and not told.stream):
        raise changed
    if not told.stream and io.file_digest(path) != told.sha256:  # before it is read
        raise changed
    rows = read_rows(path, told.array, told.stream)
    if digest_of(path, rows) != told.sha256:
        raise changed
    if isinstance(rows, io.AbstractRows):
        parts = streams.divided(rows, told.test_fraction, told.seed)
        space = parse_space(told.space, io.a_few(parts.train, 1))
        train = _some_points(space, parts.train)
        return train, train[:0] if parts.test is None else _some_points(space, parts.test)
    return split(as_points(parse_space(told.space, rows), rows), told)


def held_out_rows(settings: dict[str, Any]) -> np.ndarray:
    """The rows that training never saw; ValueError if there are none."""
    held_out = split_rows(settings)[1]
    if len(held_out) == 0:
        raise ValueError("p-values need held-out rows: fit with --test-fraction above 0")
    return held_out


# ---- words on the command line to spaces, models and objectives ------------------------------

_SPACES = "real, box:LOW:HIGH, binary, spin, categorical:K, ordinal:K or count"


def parse_space(text: str, rows: np.ndarray) -> spaces.AbstractArraySpace:
    """The space that `text` names, on rows of this shape; "auto" reads it off the values."""
    if rows.ndim < 2:
        raise ValueError(f"expected rows of columns, got an array of shape {rows.shape}")
    kind, *numbers = (_guess_space(rows) if text == "auto" else text).split(":")
    shape = rows.shape[1:]
    plain: dict[str, Callable[..., spaces.AbstractArraySpace]] = {
        "real": spaces.Real,
        "binary": spaces.Binary,
        "spin": spaces.Spin,
        "count": spaces.Count,
    }
    try:
        if kind in plain and not numbers:
            return plain[kind](shape)
        if kind == "box" and len(numbers) == 2:
            return spaces.Box(float(numbers[0]), float(numbers[1]), shape)
        if kind == "categorical" and len(numbers) == 1:
            return spaces.Categorical(shape, int(numbers[0]), "onehot")
        if kind == "ordinal" and len(numbers) == 1:
            return spaces.Ordinal(shape, int(numbers[0]))
    except ValueError as error:
        raise ValueError(f"--space {text}: {error}") from error
    raise ValueError(f"--space {text}: expected auto, {_SPACES}")


def space_name(space: spaces.AbstractArraySpace) -> str:
    """The word for `space` that `parse_space` reads back."""
    match space:
        case spaces.Box():
            low, high = np.unique(np.asarray(space.low)), np.unique(np.asarray(space.high))
            return f"box:{low[0]!r}:{high[0]!r}".replace("np.float32(", "").replace(")", "")
        case spaces.Categorical() | spaces.Ordinal():
            return f"{type(space).__name__.lower()}:{space.num_values}"
        case _:
            return type(space).__name__.lower()


def _guess_space(rows: np.ndarray) -> str:
    values = np.asarray(rows, float)
    if np.all((values == 0) | (values == 1)):
        return "binary"
    if np.all(np.abs(values) == 1):
        return "spin"
    if np.all(np.isfinite(values)) and np.all((values == np.round(values)) & (values >= 0)):
        most = int(values.max())
        raise ValueError(
            f"the data are whole numbers from 0 to {most}: say what they are by --space count, "
            f"--space ordinal:{most + 1}, --space categorical:{most + 1} or --space real"
        )
    return "real"


def as_points(
    space: spaces.AbstractArraySpace, rows: np.ndarray, *, name: str = "data"
) -> np.ndarray:
    """Validated rows in the encoding of `space`; categories are given as whole numbers."""
    if isinstance(space, spaces.Categorical) and space.encoding == "onehot":
        numbers = spaces.Categorical(space.sites, space.num_values)
        index = numbers.validate(rows, batch=True, name=name)
        return np.eye(space.num_values, dtype=space.dtype)[index]
    return space.validate(rows, batch=True, name=name)


def build_objective(
    settings: Settings, energy: energies.AbstractEnergy, rows: np.ndarray
) -> objectives.AbstractObjective | None:
    """The objective that the settings name, known to suit the energy; None for its default."""
    objective = parse_objective(settings.objective)
    penalised = settings.l1 > 0 or settings.l2 > 0
    optimizer, energy_penalty = settings.fit_optimizer, settings.energy_penalty
    if objective is None and not (penalised or energy_penalty or optimizer):
        return None
    if settings.objective == "moments":
        raise ValueError(
            "--objective moments takes no --l1, --l2, --energy-penalty or --optimizer lbfgs: it is "
            "exact"
        )
    objective = objectives.default_objective(energy) if objective is None else objective
    if penalised:
        objective = objectives.Penalised(objective, l1=settings.l1, l2=settings.l2)
    if energy_penalty:
        objective = objectives.EnergyPenalty(objective, energy_penalty)
    training.check_optimizer(optimizer, objective)
    # What it says of a misfit it says while it starts: traced here, nothing is computed.
    eqx.filter_eval_shape(lambda key: objective.init(energy, rows, key=key), random.key(0))
    return objective
