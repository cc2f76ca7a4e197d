"""What a log Z method is: a small class whose `run` gives a `LogZ`, and what the methods share."""

import time
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from energax.energies._base import AbstractEnergy
from energax.results import Z95, LogZ, Verdict


class AbstractLogZMethod(eqx.Module):
    """A way to find log Z of an energy."""

    @abstractmethod
    def cost(self, energy: AbstractEnergy) -> float:
        """Energy evaluations needed at most, inf where the method does not apply."""

    @abstractmethod
    def run(
        self,
        energy: AbstractEnergy,
        *,
        key: Key[Array, ""],
        precision: float = 0.25,
        max_seconds: float | None = None,
        progress: bool = False,
    ) -> LogZ:
        """log Z with its error and verdict.

        **Arguments:** `precision`: the largest standard error in nats that may be called reliable.

        **Raises:** TypeError or ValueError where the method does not apply to the energy.
        """


class Clock:
    """Counts the energy evaluations and the seconds of one run."""

    def __init__(self, max_seconds: float | None = None):
        self.start = time.perf_counter()
        self.max_seconds = np.inf if max_seconds is None else float(max_seconds)
        self.num_evaluations = 0
        self._rounds, self._round_began = 0, 0.0

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start

    @property
    def out_of_time(self) -> bool:
        return self.seconds >= self.max_seconds

    def begin_round(self) -> None:
        self._rounds += 1
        self._round_began = self.seconds

    @property
    def is_last_round(self) -> bool:
        """Whether the next round, twice as long as this one, would end too late. The first one
        compiled as well: nothing is concluded from it."""
        ahead = 0.0 if self._rounds < 2 else 2 * (self.seconds - self._round_began)
        return self.seconds + ahead >= self.max_seconds


def answer(
    value: float,
    std_err: float,
    clock: Clock,
    *,
    method: str,
    reasons: Iterable[str],
    ess: float = np.inf,
    bracket: tuple[float | None, float | None] | None = None,
    interval: tuple[float, float] | None = None,
    time_limited: bool = False,
    details: dict[str, Any] | None = None,
) -> LogZ:
    """A `LogZ` in NumPy float64; interval and bracket are ±1.96 std_err unless given."""
    value, std_err = np.float64(value), np.float64(std_err)
    if interval is None:
        width = np.float64(0.0) if std_err == 0 else np.float64(Z95) * std_err
        interval = (value - width, value + width) if np.isfinite(width) else (-np.inf, np.inf)
    lower, upper = map(np.float64, interval)
    return LogZ(
        value=value,
        std_err=std_err,
        lower=lower,
        upper=upper,
        bracket=(lower, upper) if bracket is None else bracket,
        method=method,
        ess=np.float64(ess),
        num_evaluations=int(clock.num_evaluations),
        seconds=clock.seconds,
        time_limited=bool(time_limited),
        reliable=not (verdict := Verdict(tuple(reasons))).reasons,
        reasons=verdict.reasons,
        details=details or {},
    )


def log_sum_exp(a) -> np.float64:
    """log Σ exp(a) in float64, −∞ for no mass at all."""
    a = np.asarray(a, np.float64).ravel()
    top = a.max(initial=-np.inf)
    if not np.isfinite(top):
        return np.float64(top)
    return np.float64(top + np.log(np.exp(a - top).sum()))


def mean_of(log_weights: np.ndarray) -> tuple[float, float]:
    """(log mean w with its bias of second order taken off, standard error)."""
    n = len(log_weights)
    value = float(log_sum_exp(log_weights)) - np.log(n)
    if not np.isfinite(value):
        return value, np.inf
    ratio = np.exp(log_weights - value)
    error = float(ratio.std(ddof=1) / np.sqrt(n))
    return value + error**2 / 2, error


def in_float64(energy: AbstractEnergy) -> AbstractEnergy:
    """`energy` with its float arrays widened; call it under `jax.enable_x64(True)`."""
    arrays, rest = eqx.partition(energy, eqx.is_inexact_array)
    return eqx.combine(jax.tree.map(lambda a: a.astype(jnp.float64), arrays), rest)
