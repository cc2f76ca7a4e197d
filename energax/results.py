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
    if isinstance(value, _Answer):
        return value.summary()
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

    def convergence(self) -> dict[str, Any]:
        """How the worst coordinate fared, as plain JSON data."""
        return {
            "sampler": self.sampler,
            "max_rhat": float(np.max(self.rhat)),
            "rhat_limit": self.rhat_limit,
            "min_ess_bulk": float(np.min(self.ess_bulk)),
            "min_ess_tail": float(np.min(self.ess_tail)),
            "acceptance": self.acceptance,
            "num_evaluations": self.num_evaluations,
        }

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
class Mean(_Answer):
    """A mean over rows with both of its errors: of log Z (shared) and of the finite set of rows.

    - `std_err`: of both together; `lower`, `upper`: 95 % interval, Student's t where rows are few.
    - `reasons`: why it is not to be trusted, empty if it is.
    """

    value: float
    std_err: float
    log_z_std_err: float
    sampling_std_err: float
    lower: float
    upper: float
    reliable: bool = True
    reasons: tuple[str, ...] = ()

    def __float__(self) -> float:
        return self.value


@dataclasses.dataclass(frozen=True)
class Scores(_Answer):
    """Normalised log-likelihood of rows, log p(x) = f(x) − log Z.

    - `log_prob`: (rows,); `std_err`: (rows,), each row's own error; `log_z_std_err`: the error that
      all rows share.
    - `num_sites`: coordinates of a row. `measure`: what p is relative to, "counting" (a
      probability), "lebesgue" (a density) or "mixed" (a `Record` of both).
    """

    log_prob: np.ndarray
    std_err: np.ndarray
    log_z_std_err: float
    log_z: LogZ
    reliable: bool
    reasons: tuple[str, ...]
    num_sites: int = 1
    measure: str = "counting"

    def mean(self) -> Mean:
        """Mean log-likelihood per row, in nats, with both errors and the 95 % interval.

        (1/n) Σ log p(x_i) has the error √(s²/n + σ²): s the sd over rows, σ the error of log Z. The
        interval is ±t at the degrees of freedom of Welch and Satterthwaite (Satterthwaite 1946, eq.
        17), and as lopsided as that of log Z. A row of density 0 makes it −inf, without error.
        """
        values = np.asarray(self.log_prob, np.float64)
        value, sampling = mean_of_rows(values)
        if value == -np.inf:
            zero = np.float64(0.0)
            return Mean(value, zero, zero, zero, value, value, self.reliable, self.reasons)
        z = self.log_z
        above, below = (max(0.0, float(w)) / Z95 for w in (z.upper - z.value, z.value - z.lower))
        return Mean(
            value,
            np.hypot(sampling, self.log_z_std_err),
            np.float64(self.log_z_std_err),
            sampling,
            value - half_width(sampling, len(values), above),
            value + half_width(sampling, len(values), below),
            self.reliable,
            self.reasons,
        )

    def bits_per_dim(self, bin_width: float | None = None) -> Mean:
        """−(mean log p)/(D ln 2): bits a coordinate, D = `num_sites`; lower is better.

        On discrete spaces the cost of a row in an ideal code. On continuous ones p is a density:
        the number depends on the unit of x, may be negative, and is only comparable between models
        of the same data in the same unit. Whole numbers made continuous by uniform noise (Theis,
        van den Oord & Bethge 2016, arXiv:1511.01844, section 3.1) fill bins of `bin_width` in each
        coordinate; log₂(bin_width) is then taken off, which leaves bits for the bin.

        **Arguments:** `bin_width`: of every coordinate, in units of x, such as 1/256.

        **Raises:** ValueError for a `bin_width` where p is no density, or not positive.
        """
        shift = 0.0
        if bin_width is not None:
            if self.measure != "lebesgue":
                raise ValueError(
                    f"bin_width: log p is relative to {self.measure} measure here, so bins have no "
                    "volume; leave it out"
                )
            if not 0 < bin_width < np.inf:
                raise ValueError(f"bin_width: expected a positive number, got {bin_width}")
            shift = float(np.log2(bin_width))
        mean, unit = self.mean(), self.num_sites * np.log(2.0)
        return Mean(
            -mean.value / unit - shift,
            mean.std_err / unit,
            mean.log_z_std_err / unit,
            mean.sampling_std_err / unit,
            -mean.upper / unit - shift,
            -mean.lower / unit - shift,
            mean.reliable,
            mean.reasons,
        )

    def perplexity(self) -> Mean:
        """exp(−(mean log p)/D), D = `num_sites`: the geometric mean of 1/p a site.

        A fair die has 6, a certain site 1 (Jelinek et al. 1977). Errors by the delta method, the
        interval transformed as it is.

        **Raises:** ValueError on spaces with continuous coordinates.
        """
        if self.measure != "counting":
            raise ValueError(
                "perplexity counts equally likely values, which densities do not have "
                f"(this space has {self.measure} measure): use bits_per_dim()"
            )
        mean = self.mean()
        with np.errstate(over="ignore"):
            value, lower, upper = (
                np.exp(-np.float64(v) / self.num_sites)
                for v in (mean.value, mean.upper, mean.lower)
            )
        slope = value / self.num_sites if np.isfinite(value) else 0.0
        return Mean(
            value,
            mean.std_err * slope,
            mean.log_z_std_err * slope,
            mean.sampling_std_err * slope,
            lower,
            upper,
            mean.reliable,
            mean.reasons,
        )


@dataclasses.dataclass(frozen=True)
class Comparison(_Answer):
    """Which model explains the same rows best: differences of mean log p, in nats a row.

    Models are in the order given; `names[i]` belongs to row i of every array.

    - `mean_log_prob`, `mean_std_err`: (models,), each with both of its errors.
    - `difference`: (models, models), mean log p of i minus that of j; `std_err`, `lower`, `upper`:
      its standard error and 95 % interval. Rows are paired, and an error that two models share
      cancels, so these are narrower than the two means suggest. The interval is for one pair.
    - `ranking`: names, best first. `best`: the first of them.
    - `candidates`: names that may be the best: those which no model beats in an interval widened to
      hold for all pairs at once (Bonferroni). One name: that model is the best, at 95 %.
    - `baseline`: the name that the printed table compares with.
    - `log_z`: by name.
    """

    names: tuple[str, ...]
    num_rows: int
    mean_log_prob: np.ndarray
    mean_std_err: np.ndarray
    difference: np.ndarray
    std_err: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    ranking: tuple[str, ...]
    candidates: tuple[str, ...]
    baseline: str
    log_z: dict[str, LogZ]
    reliable: bool
    reasons: tuple[str, ...]

    @property
    def best(self) -> str:
        return self.ranking[0]

    def summary(self) -> dict[str, Any]:
        """The answer as plain JSON data."""
        return {"best": self.best, **super().summary()}

    def table(self) -> list[list[str]]:
        """Header and one line a model, best first, as text."""
        base = self.names.index(self.baseline)
        lines = [["model", "mean log p", "±", f"minus {self.baseline}", "95 % interval", ""]]
        for name in self.ranking:
            i = self.names.index(name)
            interval = f"[{self.lower[i, base]:+.4f}, {self.upper[i, base]:+.4f}]"
            lines.append(
                [
                    name,
                    f"{self.mean_log_prob[i]:.4f}",
                    f"{self.mean_std_err[i]:.4f}",
                    "" if i == base else f"{self.difference[i, base]:+.4f}",
                    "" if i == base else interval,
                    "may be the best" if name in self.candidates else "",
                ]
            )
        return lines

    def lines(self) -> list[str]:
        """The table as aligned lines of text."""
        lines = self.table()
        widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
        return [
            "  ".join(
                cell.ljust(width) if k in (0, 5) else cell.rjust(width)
                for k, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]

    def __str__(self) -> str:
        doubts = [] if self.reliable else ["NOT RELIABLE: " + "; ".join(self.reasons)]
        return "\n".join([*self.lines(), *doubts])


Z95 = 1.959964
"""Half a 95 % interval of a normal distribution, in standard errors."""


def mean_of_rows(values: np.ndarray) -> tuple[np.float64, np.float64]:
    """(mean, its standard error from the spread over rows), inf of one row alone."""
    if not np.isfinite(values).all():
        with np.errstate(invalid="ignore"):
            return np.float64(values.mean()), np.float64(np.nan)
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.inf
    return np.float64(values.mean()), np.float64(error)


def half_width(sampling: float, num_rows: int, other: float = 0.0, level: float = 0.95) -> float:
    """Half an interval around a mean over rows that has a second, independent error.

    t_ν √(sampling² + other²) with ν = (rows − 1)(1 + other²/sampling²)², which is Satterthwaite
    1946, eq. 17, where the second error has infinitely many degrees of freedom.
    """
    total = float(np.hypot(sampling, other))
    if total == 0 or not np.isfinite(total):
        return total
    from scipy.special import ndtri, stdtrit

    tail = 0.5 + level / 2
    if sampling == 0:
        return float(ndtri(tail)) * total
    freedom = (num_rows - 1) * (total / sampling) ** 4
    return float(stdtrit(min(freedom, 1e9), tail)) * total
