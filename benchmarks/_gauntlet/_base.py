"""What a target of the gauntlet is: an energy, its class, and log Z from outside energax."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable

import numpy as np

import energax as ex
from energax import spaces
from energax.energies import AbstractEnergy

Check = Callable[[AbstractEnergy], tuple[float, float]]
"""A second computation: (log Z, how far it may be from the first)."""


@dataclasses.dataclass(frozen=True)
class Target:
    """`log_z`: from a closed form or a float64 sum in NumPy, None where Z does not exist.

    `kind` is the class by which coverage is told. `check` gives log Z once more by other means.
    """

    kind: str
    energy: AbstractEnergy
    log_z: float | None
    check: Check | None = None
    name: str = ""

    @property
    def size(self) -> int:
        return self.energy.space.num_sites

    @property
    def has_exact(self) -> bool:
        """Whether `log_z` has an exact method for it by default."""
        from energax.partition.choose import default_method

        try:
            default_method(self.energy, method="exact")
        except ValueError:
            return False
        return True


_MADE: dict[str, Callable[[], Target]] = {}


def target(function: Callable[[], Target]) -> Callable[[], Target]:
    assert function.__name__ not in _MADE, function.__name__
    _MADE[function.__name__] = function
    return function


def names(group: str | None = None) -> list[str]:
    """All targets, or those of one file of this folder."""
    return [name for name in _MADE if group is None or group_of(name) == group]


def groups() -> list[str]:
    return list(dict.fromkeys(map(group_of, _MADE)))


def in_turns(chosen: Iterable[str], every: int = 1) -> list[str]:
    """`chosen`, or every `every`-th of each group, one of each group in turn.

    A run cut short has then seen every group.
    """
    by_group: dict[str, list[str]] = {}
    for name in chosen:
        by_group.setdefault(group_of(name), []).append(name)
    rows = itertools.zip_longest(*(members[::every] for members in by_group.values()))
    return [name for row in rows for name in row if name is not None]


def group_of(name: str) -> str:
    return _MADE[name].__module__.rpartition(".")[2]


def make(name: str) -> Target:
    return dataclasses.replace(_MADE[name](), name=name)


def single(value) -> np.ndarray:
    """Rounded to float32, held in float64: what an energy in float32 really has as parameters."""
    return np.asarray(value, np.float32).astype(np.float64)


def real(f, shape) -> AbstractEnergy:
    return ex.from_log_density(f, spaces.Real(shape))


def box(f, low, high, shape=None) -> AbstractEnergy:
    return ex.from_log_density(f, spaces.Box(low, high, shape))
