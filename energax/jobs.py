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
from energax.training._base import CHECKPOINTS


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
    train_rows: np.ndarray
    test_rows: np.ndarray

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
            batch_size=None if optimizer else min(settings.batch_size, len(self.train_rows)),
            learning_rate=settings.learning_rate,
            clip=settings.clip,
            spectral_norm=settings.spectral_norm,
            temperature=settings.temperature,
            recover=settings.recover,
            checkpoint_dir=out / CHECKPOINTS,
            checkpoint_every=settings.checkpoint_every,
            keep=settings.keep_checkpoints,
            keep_best=settings.keep_best,
            early_stopping=settings.early_stopping,
            resume=True if which == "last" else which,
            progress=progress,
            callback=callback,
        )
        if leads:
            result.save(out)
        return result


def prepare(settings: Settings, rows: np.ndarray) -> Job:
    """Checks settings against rows and builds the untrained model.

    **Raises:** ValueError that names the option or the rows at fault.
    """
    space = parse_space(settings.space, rows)
    rows = as_points(space, rows)
    settings = dataclasses.replace(settings, space=space_name(space))
    training.check_recovery(
        settings.recover, settings.clip, settings.fit_optimizer, settings.spectral_norm
    )
    if settings.keep_best is not None and settings.early_stopping is None:
        raise ValueError(
            "--keep-best keeps those of the highest held-out log-likelihood, which "
            "--early-stopping SHARE looks at: give both"
        )
    train_rows, test_rows = split(rows, settings)
    key = jax.random.fold_in(random.key(settings.seed), 1)
    energy = build_model(
        settings.model, space, train_rows, settings.hidden, settings.temperature, key=key
    )
    objective = build_objective(settings, energy, train_rows)
    if settings.spectral_norm is not None:
        if objective is None and isinstance(energy, AbstractExponentialFamily):
            raise ValueError(
                f"--spectral-norm: {type(energy).__name__} is fitted at once by its moments: leave "
                "it out, or name an --objective"
            )
        training.check_matrices(energy)
    return Job(settings, space, energy, objective, train_rows, test_rows)


def split(rows: np.ndarray, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """(train, held out): a seeded permutation, the first `test_fraction` held out."""
    order = np.random.default_rng(settings.seed).permutation(len(rows))
    num_test = round(settings.test_fraction * len(rows))
    if len(rows) - num_test < 2:
        raise ValueError(
            f"{len(rows)} row(s) with --test-fraction {settings.test_fraction} leave "
            f"{len(rows) - num_test} to train on: at least 2 are needed"
        )
    return rows[np.sort(order[num_test:])], rows[np.sort(order[:num_test])]


def split_rows(settings: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The (train, held out) rows of a finished run, read again from its data file.

    **Raises:** ValueError if the file is gone or has changed since.
    """
    told = Settings(**settings)
    path = Path(told.data)
    if not path.is_file() or io.file_digest(path) != told.sha256:
        raise ValueError(f"{path}: the run's data file is gone or has changed since `fit`")
    rows = io.read_data(path, array=told.array)
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


_DEFAULT_MODELS = {
    spaces.Binary: "rbm",
    spaces.Spin: "ising",
    spaces.Count: "independent",
}


def build_model(
    name: str,
    space: spaces.AbstractArraySpace,
    rows: np.ndarray,
    hidden: int,
    temperature: float | None = None,
    *,
    key,
) -> energies.AbstractEnergy:
    """The untrained model that `name` names, started from the moments of `rows`.

    **Arguments:** `temperature`: at which a network is to be trained; its base is that of the rows
    there.
    """
    if name == "auto":
        name = _DEFAULT_MODELS.get(type(space), "mlp")
    flat = len(space.shape) == 1
    if temperature is not None and name not in ("mlp", "conv"):
        raise ValueError(f"--temperature is for networks, --model mlp or conv, got {name}")
    if temperature is not None and not 0 < temperature < np.inf:
        raise ValueError(f"--temperature: expected a positive number, got {temperature:g}")
    match name:
        case "rbm" if isinstance(space, spaces.Binary) and flat:
            return energies.BernoulliRBM.random(space.num_sites, hidden, key=key, data=rows)
        case "rbm":
            _check_rbm(space, rows)
            return energies.RBM.random(space, hidden, key=key, data=rows)
        case "ising" if isinstance(space, spaces.Spin) and flat:
            first, second = np.triu_indices(space.num_sites, 1)
            return energies.Ising(
                edges=np.stack([first, second], 1),
                couplings=np.zeros(len(first)),
                fields=np.arctanh(np.clip(rows.mean(0), -0.98, 0.98)),
                num_sites=space.num_sites,
            )
        case "ising":
            raise ValueError(f"--model ising wants rows of -1 and +1, got {space}")
        case "mlp":
            return energies.MLP(space, hidden, key=key, base=_base(space, rows, temperature))
        case "conv" if len(space.shape) in (2, 3) and not isinstance(space, spaces.Categorical):
            return energies.ConvNet(space, key=key, base=_base(space, rows, temperature))
        case "conv":
            raise ValueError(f"--model conv wants images (rows, height, width), got {space}")
        case "independent":
            return _independent_family(space).fit_moments(rows, space)
        case "gaussian" if isinstance(space, spaces.Real) and flat:
            return energies.MultivariateNormal.fit_moments(rows)
        case "gaussian":
            raise ValueError(f"--model gaussian wants rows of real numbers, got {space}")
    raise ValueError(
        f"--model {name}: expected auto, rbm, ising, mlp, conv, independent or gaussian"
    )


def _base(
    space: spaces.AbstractArraySpace, rows: np.ndarray, temperature: float | None
) -> energies.AbstractEnergy | None:
    """What a network is added to: fitted to the rows once it is divided by the temperature."""
    if space.num_states:
        return None
    base = energies.fitted_base(space, rows)
    return base if temperature is None else base.tempered(temperature)


def _check_rbm(space: spaces.AbstractArraySpace, rows: np.ndarray) -> None:
    """Raises ValueError where an RBM has no units for the space, or one rate cannot suit all."""
    kinds = spaces.Spin, spaces.Real, spaces.Count, spaces.Categorical
    if not isinstance(space, kinds) or rows.ndim != 2 + isinstance(space, spaces.Categorical):
        raise ValueError(
            "--model rbm wants rows of binary, spin, real, count or categorical columns, got "
            f"{space}"
        )
    if isinstance(space, spaces.Real):
        sd = rows.std(axis=0)
        wrong = np.flatnonzero((sd > 20) | ((sd > 0) & (sd < 0.05)))
        if len(wrong):
            raise ValueError(
                f"--model rbm wants real columns of comparable size, but the sd of column "
                f"{wrong[0]} is {sd[wrong[0]]:.3g} (expected 0.05 to 20): standardise the columns"
            )


def _independent_family(space: spaces.AbstractArraySpace) -> Any:
    """The exponential family of independent sites on `space`."""
    match space:
        case spaces.Binary():
            return energies.Bernoulli
        case spaces.Categorical():
            return energies.CategoricalFamily
        case spaces.Count():
            return energies.Poisson
        case spaces.Real():
            return energies.Normal
        case spaces.Box():
            low, high = np.asarray(space.low), np.asarray(space.high)
            if np.all(low == 0) and np.all(high == np.inf):
                return energies.Gamma
            if np.all(low == 0) and np.all(high == 1):
                return energies.Beta
    raise ValueError(
        f"--model independent knows binary, categorical, count, real, box:0:inf and box:0:1, "
        f"got {space}"
    )


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


_OBJECTIVES = {
    "auto": lambda: None,
    "moments": lambda: None,
    "likelihood": objectives.MaximumLikelihood,
    "pseudolikelihood": objectives.PseudoLikelihood,
    "ratio": objectives.RatioMatching,
    "flow": objectives.MinimumProbabilityFlow,
    "concrete": objectives.ConcreteScoreMatching,
    "score": objectives.ScoreMatching,
    "denoising": objectives.DenoisingScoreMatching,
    "multiscale": objectives.MultiscaleDenoising,
    "equilibrium": objectives.EquilibriumMatching,
    "transport": objectives.EnergyMatching,
}
_COUNTED = {
    "cd": lambda num=1: objectives.ContrastiveDivergence(num_steps=num),
    "pcd": lambda num=1: objectives.PersistentCD(num_steps=num),
    "replay": lambda num=20: objectives.ReplayCD(num_steps=num),
    "improved": lambda num=20: objectives.ImprovedCD(num_steps=num),
    "recovery": lambda num=20: objectives.RecoveryLikelihood(num_steps=num),
    "sliced": lambda num=1: objectives.SlicedScoreMatching(num_slices=num),
    "nce": lambda num=1: objectives.NoiseContrastive(num_noise=num),
    "conditional-nce": lambda num=1: objectives.ConditionalNCE(num_moves=num),
    "discrepancy": lambda num=16: objectives.EnergyDiscrepancy(num_moves=num),
}
"""With a number after a colon."""


def parse_objective(text: str) -> Any:
    """The objective that `text` names, None for the default of the energy."""
    kind, colon, number = text.partition(":")
    if kind not in _OBJECTIVES and kind not in _COUNTED:
        words = ", ".join([*_OBJECTIVES, *(f"{word}:K" for word in _COUNTED)])
        raise ValueError(f"--objective {text}: expected one of {words}")
    if not colon:
        return (_OBJECTIVES | _COUNTED)[kind]()
    if kind in _OBJECTIVES:
        raise ValueError(f"--objective {text}: {kind} takes no number")
    if not number.isdecimal() or int(number) < 1:
        raise ValueError(f"--objective {text}: expected a whole number from 1 after the colon")
    return _COUNTED[kind](int(number))
