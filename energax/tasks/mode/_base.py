"""What an answer about the mode is, and energies in float64."""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from energax.energies._base import AbstractEnergy, batched
from energax.partition._base import in_float64
from energax.spaces import Point

SAME = 1e-9
"""Energies that differ by less than this, relative to 1 + |E|, are called one."""


@dataclasses.dataclass(frozen=True)
class Mode:
    """A point of low energy, and how far it may be from the lowest.

    - `x`: one point of the space, (*event). `energy`: E(x).
    - `gap`: a proven bound, E(x) − min E ≤ `gap`; inf where nothing bounds it.
    - `exact`: x is a mode, for the parameters as they stand: the gap is below the rounding of E.
    - `unique`: whether it is the only mode; None where that is not known.
    - `method`: "enumeration", "minimum cut", "annealing" or "ascent".
    - `agreement`: share of the independent chains or climbs that ended at this energy; 1 if exact.
    - `num_evaluations`: of the energy, 0 where its couplings were read instead.
    - `reliable`: exact. A search proves nothing; `reasons` says what it saw.
    """

    x: Any
    energy: float
    gap: float
    exact: bool
    unique: bool | None
    method: str
    agreement: float
    num_evaluations: int
    seconds: float
    reliable: bool
    reasons: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Found:
    """What a method hands back: `x` one point in NumPy, and the rest as in `Mode`."""

    x: Any
    method: str
    gap: float = math.inf
    exact: bool = False
    unique: bool | None = None
    agreement: float = 1.0
    num_evaluations: int = 0
    reasons: tuple[str, ...] = ()


def energies_of(energy: AbstractEnergy, x: Point) -> np.ndarray:
    """E of a batch of points, (num,), computed in float64 where the energy traces there."""

    def compute(energy):
        points = energy.space.validate(x, batch=True)
        return np.asarray(-_log_density(energy, jax.tree.map(jnp.asarray, points)), np.float64)

    try:
        with jax.enable_x64(True):
            return compute(in_float64(energy))
    except (TypeError, ValueError):
        return compute(energy)


@eqx.filter_jit
def _log_density(energy, points):
    return batched(energy, points)


def take(x: Point, index: Any) -> Point:
    """The rows of that number, in NumPy."""
    return jax.tree.map(lambda a: np.asarray(a)[index], x)


def lowest(energies: np.ndarray) -> tuple[int, float]:
    """(the place of the lowest energy, the share of all that come to the same)."""
    finite = np.where(np.isnan(energies), np.inf, energies)
    best = int(finite.argmin())
    same = finite <= finite[best] + SAME * (1 + abs(finite[best]))
    return best, float(same.mean())
