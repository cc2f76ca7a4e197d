"""Distributions whose means, sds and mode weights are known, for `targets`.

Truths come from closed forms, from sums over all states, or from a fine grid; never from chains.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import numpy as np

import energax as ex
from energax import spaces
from energax.energies import AbstractEnergy


@dataclasses.dataclass(frozen=True)
class Target:
    """`mean`, `sd`: flat (coordinates in the order of JAX's leaves), None where they do not exist.

    `modes`: number of the mode of each point of a flat batch (n, coordinates), with `weights`.
    """

    name: str
    kind: str
    energy: AbstractEnergy
    mean: np.ndarray | None = None
    sd: np.ndarray | None = None
    modes: Callable[[np.ndarray], np.ndarray] | None = None
    weights: np.ndarray | None = None
    unimodal: bool = True
    heavy: bool = False  # the sd of the sample sd does not exist: only means are compared

    @property
    def has_moments(self) -> bool:
        return self.mean is not None

    @property
    def size(self) -> int:
        return self.energy.space.num_sites


_MADE: dict[str, Callable[[], Target]] = {}


def target(function: Callable[[], Target]) -> Callable[[], Target]:
    _MADE[function.__name__] = function
    return function


def names() -> list[str]:
    return list(_MADE)


def make(name: str) -> Target:
    return _MADE[name]()


def real(f, shape) -> AbstractEnergy:
    return ex.from_log_density(f, spaces.Real(shape))


def on_grid(f: Callable[[np.ndarray], np.ndarray], low: float, high: float, num: int = 400_001):
    """(mean, sd) of a density on a line, f its log (NumPy), by the trapezoid rule."""
    x = np.linspace(low, high, num)
    p = np.exp(f(x) - np.max(f(x)))
    p /= p.sum()
    mean = p @ x
    return mean, math.sqrt(p @ (x - mean) ** 2)


def enumerated(energy: AbstractEnergy) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(mean, sd, points, probabilities) by a float64 sum over all states."""
    x = energy.space.enumerate()
    f = np.concatenate(
        [
            np.asarray(jax.jit(jax.vmap(energy.log_density))(part), np.float64)
            for part in np.array_split(np.asarray(x), max(1, len(x) // 2**14))
        ]
    )
    p = np.exp(f - f.max())
    p /= p.sum()
    flat = np.asarray(x, np.float64).reshape(len(f), -1)
    mean = p @ flat
    return mean, np.sqrt(np.maximum(p @ flat**2 - mean**2, 0)), flat, p


def finite(name: str, kind: str, energy: AbstractEnergy, **more) -> Target:
    mean, sd, _, _ = enumerated(energy)
    return Target(name, kind, energy, mean, sd, **more)
