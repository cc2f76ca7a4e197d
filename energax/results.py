"""What every answer looks like: numbers, their errors, and a verdict with plain reasons."""

import dataclasses
import json
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np


class UnreliableResult(UserWarning):
    """Warned whenever an answer comes back with `reliable=False`."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether an answer may be trusted, and if not, why not (empty `reasons` means reliable)."""

    reasons: tuple[str, ...] = ()

    @property
    def reliable(self) -> bool:
        return not self.reasons

    @staticmethod
    def of(checks: Iterable[tuple[bool, str]]) -> "Verdict":
        """Collects the reasons of the checks `(passed, reason)` that did not pass."""
        return Verdict(tuple(reason for passed, reason in checks if not passed))

    def warn(self, what: str) -> None:
        """Emits `UnreliableResult` naming `what` and the reasons, if there are any."""
        if self.reasons:
            warnings.warn(
                f"{what} is not reliable: " + "; ".join(self.reasons),
                UnreliableResult,
                stacklevel=3,
            )


def plain(value: Any) -> Any:
    """`value` as plain JSON data: arrays become lists, non-finite floats become None."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return plain(np.asarray(value))


class _Answer:
    """Shared by all results: a one-line JSON form without the bulky arrays."""

    _bulky: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """The answer as plain JSON data, without the draws themselves."""
        fields = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)  # type: ignore[arg-type]
            if f.name not in self._bulky
        }
        return plain(fields)

    def to_json(self) -> str:
        return json.dumps(self.summary())


@dataclasses.dataclass(frozen=True)
class Draws(_Answer):
    """Draws from p(x) = exp(f(x))/Z with the diagnostics of the whole, unthinned run.

    On a `Record` space `x` and every per-coordinate field are dicts with the record's names.

    - `x`: (num_chains, draws a chain, *event). Where the number of chains does not divide the
      number of draws asked for, each row pools neighbouring chains (rows = gcd of both).
    - `log_density`: f at the draws, (rows, draws a row).
    - `mean`, `sd`, `mcse_mean`, `mcse_sd`, `rhat`, `ess_bulk`, `ess_tail`: (*event), float64.
    - `constant`: (*event) bool, coordinates that never changed; they are left out of the verdict.
    - `rhat_log_density`, `ess_log_density`: the same for f itself.
    - `acceptance`: mean acceptance probability after warm-up.
    - `details`: what the sampler tells of itself (step size, swap rates), by name.
    """

    x: Any
    log_density: np.ndarray
    mean: Any
    sd: Any
    mcse_mean: Any
    mcse_sd: Any
    rhat: Any
    ess_bulk: Any
    ess_tail: Any
    constant: Any
    rhat_log_density: float
    ess_log_density: float
    rhat_limit: float
    acceptance: float
    num_divergent: int
    sampler: str
    num_chains: int
    num_warmup: int
    num_steps: int
    num_evaluations: int
    seconds: float
    time_limited: bool
    reliable: bool
    reasons: tuple[str, ...]
    details: dict[str, Any] = dataclasses.field(default_factory=dict)

    _bulky = ("x", "log_density")

    def flat(self) -> Any:
        """All draws in one axis: (num_samples, *event)."""

        def merge(a):
            return a.reshape((a.shape[0] * a.shape[1], *a.shape[2:]))

        if isinstance(self.x, dict):
            return {k: merge(v) for k, v in self.x.items()}
        return merge(self.x)

    def to_arviz(self) -> Any:
        """The draws as ArviZ's data tree (groups `posterior` and `sample_stats`).

        **Raises:** ImportError if arviz-base is missing (`pip install energax[stats]`).
        """
        try:
            from arviz_base import from_dict
        except ImportError as error:
            raise ImportError("to_arviz() needs arviz-base: pip install energax[stats]") from error
        posterior = self.x if isinstance(self.x, dict) else {"x": self.x}
        return from_dict(
            {"posterior": dict(posterior), "sample_stats": {"lp": np.asarray(self.log_density)}}
        )


@dataclasses.dataclass(frozen=True)
class LogZ(_Answer):
    """log Z(θ) = log ∫ exp(f(x)) dx, counting measure on discrete spaces, Lebesgue on continuous.

    - `value`, `std_err`: estimate and its standard error in nats; 0 error where summed exactly.
    - `lower`, `upper`: 95 % interval.
    - `bracket`: (lo, hi), stochastic bounds from forward and reverse annealing; `hi` is None unless
      the reverse starts are exact or independently converged.
    - `method`: how it was found; `ess`: effective number of weights (inf where exact).
    - `details`: what the method tells besides (each direction of annealing by itself), by name.
    """

    value: float
    std_err: float
    lower: float
    upper: float
    bracket: tuple[float | None, float | None]
    method: str
    ess: float
    num_evaluations: int
    seconds: float
    time_limited: bool
    reliable: bool
    reasons: tuple[str, ...]
    details: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __float__(self) -> float:
        return self.value


@dataclasses.dataclass(frozen=True)
class Population(_Answer):
    """Weighted draws from p(x) = exp(f(x))/Z in independent populations, and log Z.

    On a `Record` space `x`, `mean`, `sd` and `mcse_mean` are dicts with the record's names.

    - `x`: (num_populations, num_particles, *event); all draws of a population weigh the same.
    - `log_density`: f at the draws, (num_populations, num_particles).
    - `log_weights`: (num_populations,), log of each population's estimate of Z.
    - `log_z`: their mean with its error.
    - `mean`, `sd`, `mcse_mean`: weighted, (*event); the error is from the spread of populations.
    - `betas`: the rungs from 0 to 1; `acceptance`: mean acceptance of the moves at each but 0.
    """

    x: Any
    log_density: np.ndarray
    log_weights: np.ndarray
    log_z: LogZ
    mean: Any
    sd: Any
    mcse_mean: Any
    betas: np.ndarray
    acceptance: np.ndarray
    method: str
    num_evaluations: int
    seconds: float
    reliable: bool
    reasons: tuple[str, ...]

    _bulky = ("x", "log_density")

    @property
    def weights(self) -> np.ndarray:
        """Of single draws, (num_populations, num_particles), summing to 1."""
        share = np.exp(self.log_weights - self.log_weights.max())
        num = self.log_density.shape[1]
        return np.repeat((share / share.sum() / num)[:, None], num, axis=1)

    def resampled(self, num: int, seed: int = 0) -> Any:
        """`num` draws of equal weight, (num, *event), by systematic resampling in random order."""
        rng = np.random.default_rng(seed)
        total = np.cumsum(self.weights.ravel())
        chosen = np.searchsorted(total / total[-1], (np.arange(num) + rng.random()) / num)
        chosen = rng.permutation(np.minimum(chosen, len(total) - 1))

        def take(a):
            return a.reshape(-1, *a.shape[2:])[chosen]

        return {k: take(v) for k, v in self.x.items()} if isinstance(self.x, dict) else take(self.x)


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over rows with both of its errors: of log Z (shared) and of the finite set of rows."""

    value: float
    std_err: float
    log_z_std_err: float
    sampling_std_err: float
    lower: float
    upper: float

    def __float__(self) -> float:
        return self.value


@dataclasses.dataclass(frozen=True)
class Scores(_Answer):
    """Normalised log-likelihood of rows, log p(x) = f(x) − log Z.

    - `log_prob`: (rows,); `std_err`: (rows,), each row's own error; `log_z_std_err`: the error that
      all rows share.
    """

    log_prob: np.ndarray
    std_err: np.ndarray
    log_z_std_err: float
    log_z: LogZ
    reliable: bool
    reasons: tuple[str, ...]

    def mean(self) -> Mean:
        """Mean log-likelihood per row with both errors and the 95 % interval of their sum."""
        values = np.asarray(self.log_prob, np.float64)
        sampling = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else np.inf
        total = float(np.hypot(sampling, self.log_z_std_err))
        value = float(values.mean())
        return Mean(
            value,
            total,
            float(self.log_z_std_err),
            sampling,
            value - 1.959964 * total,
            value + 1.959964 * total,
        )
