"""Six data sets with held-out rows, and the model that is trained on each.

The synthetic ones come with the mean log-density of their held-out rows under what they were drawn
from, by a formula in float64 that shares nothing with energax.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import energax as ex
from benchmarks._data import debd
from energax.energies import AbstractEnergy

REAL, BINARY, CATEGORICAL = "real", "binary", "categorical"
ROWS = 10_000  # to train on, and held out
WIDTH = 64
HIDDEN = 12
RATE, FEW_RATE = 4e-3, 1e-2  # of Adam: of the MLP, of the RBM and the tables
NLTCS = "debd/nltcs.npz"


@dataclasses.dataclass(frozen=True)
class Set:
    """`start(seed)`: the untrained model. `references`: mean log-likelihoods of `held` under what
    is not trained here, nats a row. `rate`: of Adam. `log_density` of what synthetic rows of reals
    were drawn from, (rows,) of (rows, columns)."""

    name: str
    kind: str
    train: np.ndarray
    held: np.ndarray
    start: Callable[[int], AbstractEnergy]
    references: dict[str, float]
    rate: float
    log_density: Callable[[np.ndarray], np.ndarray] | None = None


_MADE: dict[str, Callable[..., Set]] = {}


def names() -> list[str]:
    return list(_MADE)


def make(name: str, folder: str | None = None, rows: int = ROWS) -> Set:
    """**Arguments:** `folder`: of nltcs. `rows`: of the synthetic sets, to train on and held out.

    **Raises:** FileNotFoundError where the set's data are not in `folder`.
    """
    return _MADE[name](folder, rows)


def _set(function: Callable[..., Set]) -> Callable[..., Set]:
    _MADE[function.__name__] = function
    return function


# ---- reals: an MLP of two hidden layers on a normal base ------------------------------------


@_set
def moons(folder, rows) -> Set:
    """Two half circles of radius 1, with noise of 0.1."""
    noise = 0.1

    def centres(t, upper):
        lower = np.stack([1 - np.cos(t), 0.5 - np.sin(t)], -1)
        return np.where(upper[..., None], np.stack([np.cos(t), np.sin(t)], -1), lower)

    def draw(num, rng):
        t, upper = np.pi * rng.random(num), rng.random(num) < 0.5
        return centres(t, upper) + noise * rng.normal(size=(num, 2))

    angle = np.pi * (np.arange(500) + 0.5) / 500
    all_centres = np.concatenate([centres(angle, np.full(500, up)) for up in (True, False)])
    weights = np.full(len(all_centres), 1 / len(all_centres))
    return _reals("moons", draw, functools.partial(_normals, all_centres, noise, weights), rows)


@_set
def eight_gaussians(folder, rows) -> Set:
    """Eight normals of sd 0.2 on a circle of radius 2."""
    angle = np.pi * np.arange(8) / 4
    centres = 2 * np.stack([np.cos(angle), np.sin(angle)], -1)
    return _mixture("eight_gaussians", centres, 0.2, np.full(8, 1 / 8), rows)


@_set
def checkerboard(folder, rows) -> Set:
    """Uniform on the eight dark squares of side 1 within −2 to 2."""

    def draw(num, rng):
        column = rng.integers(0, 4, num)
        row = 2 * rng.integers(0, 2, num) + column % 2
        return np.stack([column, row], -1) - 2 + rng.random((num, 2))

    return _reals("checkerboard", draw, lambda x: np.full(len(x), -np.log(8.0)), rows)


@_set
def mixture_10d(folder, rows) -> Set:
    """Four normals in ten dimensions, of sd 0.7, their centres from N(0, 1)."""
    centres = np.random.default_rng(10).normal(size=(4, 10))
    return _mixture("mixture_10d", centres, 0.7, np.array([0.4, 0.3, 0.2, 0.1]), rows)


def _mixture(name, centres, sd, weights, rows) -> Set:
    def draw(num, rng):
        chosen = rng.choice(len(centres), num, p=weights)
        return centres[chosen] + sd * rng.normal(size=(num, centres.shape[1]))

    return _reals(name, draw, functools.partial(_normals, centres, sd, weights), rows)


def _normals(centres, sd, weights, x) -> np.ndarray:
    """log Σ_k w_k N(x; c_k, sd²), (rows,)."""
    d = centres.shape[1]
    square = (x**2).sum(1)[:, None] + (centres**2).sum(1) - 2 * x @ centres.T
    each = np.log(weights) - square / (2 * sd**2) - d * np.log(sd * np.sqrt(2 * np.pi))
    top = each.max(1, keepdims=True)
    return top[:, 0] + np.log(np.exp(each - top).sum(1))


def _reals(name, draw, log_density, rows) -> Set:
    rng = np.random.default_rng(0)
    train, held = (draw(rows, rng).astype(np.float32) for _ in range(2))
    space = ex.Real((train.shape[1],))
    base = ex.energies.fitted_base(space, train)

    def start(seed):
        return ex.energies.MLP(space, WIDTH, key=_key(seed), base=base)

    references = {"the truth": float(log_density(held.astype(np.float64)).mean())}
    references |= _of_base(base, held)
    return Set(name, REAL, train, held, start, references, RATE, log_density)


# ---- bits: an RBM; categories: a table for every pair ---------------------------------------


@_set
def nltcs(folder, rows) -> Set:
    """16 bits a row of a survey on disability, its own split; 12 hidden units."""
    file = Path(folder or "") / NLTCS
    if folder is None or not file.is_file():
        raise FileNotFoundError(2, "name the folder that holds it by --data DIR", NLTCS)
    train, held = debd(file, "train"), debd(file, "test")
    space = ex.Binary((train.shape[1],))

    def start(seed):
        return ex.energies.BernoulliRBM.random(train.shape[1], HIDDEN, key=_key(seed), data=train)

    tree = ex.energies.ChowLiuTree.fit(train)
    references = {"Chow-Liu tree": float(_mean(tree, held))}
    references |= _of_base(ex.energies.fitted_base(space, train), held)
    return Set("nltcs", BINARY, train, held, start, references, FEW_RATE)


@_set
def potts(folder, rows) -> Set:
    """Seven columns of four values, a random table for every pair: the model's own family."""
    sites, k = 7, 4
    rng = np.random.default_rng(7)
    states = np.stack(np.meshgrid(*[np.arange(k)] * sites, indexing="ij"), -1).reshape(-1, sites)
    f = rng.normal(0, 0.3, (sites, k))[np.arange(sites), states].sum(1)
    for i, j in zip(*np.triu_indices(sites, 1), strict=True):
        f += rng.normal(0, 0.6, (k, k))[states[:, i], states[:, j]]
    log_p = f - f.max()
    log_p -= np.log(np.exp(log_p).sum())
    chosen = rng.choice(len(states), (2, rows), p=np.exp(log_p))
    train, held = states[chosen].astype(np.int32)
    space = ex.Categorical((sites,), k)

    def start(seed):
        return ex.energies.GeneralPotts.zeros(space, train)

    references = {"the truth": float(log_p[chosen[1]].mean())}
    references |= _of_base(ex.energies.fitted_base(space, train), held)
    return Set("potts", CATEGORICAL, train, held, start, references, FEW_RATE)


def learned_noise(data: Set, num: int = 8) -> Any:
    """A mixture of independent columns to learn noise with: around random rows of the data."""
    some = data.train[np.random.default_rng(1).choice(len(data.train), num, replace=False)]
    match data.kind:
        case "real":
            sd = data.train.std(0) / 2
            return ex.energies.Mixture([ex.energies.Normal(row, sd) for row in some])
        case "binary":
            return ex.energies.Mixture([ex.energies.Bernoulli(0.2 + 0.6 * row) for row in some])
    k = int(data.train.max()) + 1
    each = 0.5 / k + 0.5 * np.eye(k)[some]
    return ex.energies.Mixture([ex.energies.CategoricalFamily(probs) for probs in each])


def _key(seed: int):
    return ex.random.key(1_000 + seed)


def _mean(energy, rows) -> float:
    return float(ex.score_samples(energy, rows, key=ex.random.key(0)).mean().value)


def _of_base(base, rows) -> dict[str, float]:
    return {"independent columns": _mean(base, rows)}
