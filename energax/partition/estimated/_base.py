"""What the estimates of log Z share: draws of the target with a base fitted to them, weights read
from one side or from both, and the question whether ∫ exp f exists at all.

On d unbounded coordinates exp f is integrable along a cone only if f falls faster than −d log |x|
there. A slope f(2r) − f(r) ≥ −d log 2 far out says that it may not be.
"""

import dataclasses
import math
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from energax.diagnostics import pareto_k, weights_ess
from energax.energies._base import (
    AbstractBipartiteEnergy,
    AbstractEnergy,
    AbstractNormalised,
    GeometricPath,
    batched,
)
from energax.energies.choose import fitted_mixture
from energax.energies.reference import default_base, fitted_base
from energax.partition._base import AbstractLogZMethod, Clock, mean_of
from energax.results import Draws, UnreliableResult
from energax.samplers.choose import sample
from energax.samplers.driver._base import ends as ends_of
from energax.samplers.driver.verdict import ESS_NEEDED
from energax.spaces import Box, Count, Point, Real, Record

_NUM_DRAWS = 4_096
_MOST_ON_DRAWS = 10_000_000  # energy evaluations, for draws of the target
_DEFENSIVE, _DEFENSIVE_UP_TO = 0.1, 20
_NUM_RAYS, _NUM_DOUBLINGS = 64, 24

# Limits of the checks, in standard errors; each answer meets a few dozen of them.
_Z_LIMIT = 4.5
_SLACK = 0.02  # nats, that two estimates may differ by beyond their errors


class AbstractEstimate(AbstractLogZMethod):
    """A log Z method that spends energy evaluations until the answer is good, or they end."""

    max_evaluations: eqx.AbstractVar[int]

    def cost(self, energy: AbstractEnergy) -> float:
        return float(self.max_evaluations)


@dataclasses.dataclass(frozen=True)
class Target:
    """What Markov chains saw of the target: draws, and a base that suits one half of them.

    `starts`: the other half, for runs that go from the target to the base: were they fitted too,
    the base would suit them better than it suits the target. None where chains did not converge.
    """

    draws: Draws
    base: AbstractNormalised
    starts: Any
    reasons: tuple[str, ...]

    def start(self, num: int) -> tuple[Point, int]:
        """(at most `num` starts evenly spread in time, as many from each chain in turn; rows)."""
        rows, size = jax.tree.leaves(self.starts)[0].shape[:2]
        each = min(max(1, num // rows), size)
        chosen = np.linspace(0, size - 1, each).astype(int)
        x = jax.tree.map(lambda a: jnp.asarray(a[:, chosen].reshape(-1, *a.shape[2:])), self.starts)
        return x, rows


def look_at(
    energy: AbstractEnergy,
    clock: Clock,
    *,
    base: AbstractNormalised | None,
    max_evaluations: int,
    key: Key[Array, ""],
) -> Target:
    """Draws by `energax.sample` with its defaults, and a base: the one given, else a fitted one."""
    key_sample, key_tails = jax.random.split(key)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreliableResult)  # the verdict on log Z says it
        draws = sample(
            energy,
            _NUM_DRAWS,
            key=key_sample,
            max_evaluations=min(max_evaluations, _MOST_ON_DRAWS),
            max_seconds=None if np.isinf(clock.max_seconds) else clock.max_seconds / 3,
        )
    clock.num_evaluations += draws.num_evaluations
    reasons = (
        []
        if draws.reliable
        else [
            "draws of the target did not converge, so nothing bounds log Z from above: "
            + draws.reasons[0]
        ]
    )
    reasons += tail_reasons(energy, draws.flat(), key=key_tails)
    if not draws.reliable:
        base = default_base(energy.space) if base is None else base
        return Target(draws, base, None, tuple(reasons))
    half = jax.tree.leaves(draws.x)[0].shape[1] // 2
    starts = jax.tree.map(lambda a: a[:, half:], draws.x)
    if base is None:
        seen = jax.tree.map(lambda a: a[:, :half].reshape(-1, *a.shape[2:]), draws.x)
        base = _fitted(energy, seen)
    return Target(draws, base, starts, tuple(reasons))


def _fitted(energy: AbstractEnergy, x: Point) -> AbstractNormalised:
    """A base from which the path suits the energy: of its own kind if it has one."""
    plain = fitted_base(energy.space, x)
    if type(energy.path(plain)) is not GeometricPath or isinstance(energy, AbstractBipartiteEnergy):
        return plain
    few = energy.space.num_sites <= _DEFENSIVE_UP_TO
    return fitted_mixture(energy.space, x, defensive=_DEFENSIVE if few else 0.0)


@dataclasses.dataclass(frozen=True)
class TwoSided:
    """log Z from weights of both directions.

    `value`, `std_err`; `overlap`: effective number of weights that both directions share; `slope`:
    how far, in standard errors, the two are from being those of one log Z.
    """

    value: float
    std_err: float
    overlap: float
    slope: float


def two_sided(forward: np.ndarray, backward: np.ndarray, rows: int) -> TwoSided:
    """log Z = c with Σ_F σ(w − c + log m/n) = Σ_R σ(c − u − log m/n), of n forward log weights w,
    E[eʷ] = Z, and m backward ones u, E[e⁻ᵘ] = 1/Z.

    Bennett 1976, eq. 12; Crooks 2000 (arXiv:cond-mat/9911038), eq. 10 for annealed weights; for one
    step it is bridge sampling (Meng & Wong 1996). No other estimate from these weights has a
    smaller error (Shirts et al. 2003). The error is that of an estimating equation, each direction
    by its own spread; backward runs whose starts come from `rows` chains, each in order of time,
    are correlated, and count for less.

    As p_R/p_F = e^{w − c}, the log-odds of "backward" given w have slope 1; a different one says
    that starts of one direction are not what they should be.
    """
    n, m = len(forward), len(backward)
    shift = math.log(m / n)
    w, u = np.asarray(forward, np.float64), np.asarray(backward, np.float64)
    ends = np.concatenate([w, u])
    ends = ends[np.isfinite(ends)]
    if len(ends) == 0 or np.isnan(w).any() or np.isnan(u).any():
        return TwoSided(np.nan, np.inf, 0.0, 0.0)
    low, high = ends.min() - abs(shift) - 50, ends.max() + abs(shift) + 50
    for _ in range(200):
        c = (low + high) / 2
        if _sigmoid(w - c + shift).sum() > _sigmoid(c - u - shift).sum():
            low = c
        else:
            high = c
    c = (low + high) / 2
    a, b = _sigmoid(w - c + shift), _sigmoid(c - u - shift)
    va, vb = a * (1 - a), b * (1 - b)
    curvature = va.sum() + vb.sum()
    inflation = correlation_time(b, rows)
    if curvature <= 0:
        return TwoSided(c, np.inf, 0.0, 0.0)
    std_err = math.sqrt(n * a.var(ddof=1) + inflation * m * b.var(ddof=1)) / curvature
    overlap = min(weights_ess(np.log(np.maximum(s, 1e-300))) for s in (a, b))
    # Score of the slope, with what the intercept takes of it
    tw, tu = (np.clip(np.nan_to_num(t - c, neginf=-1e3, posinf=1e3), -1e3, 1e3) for t in (w, u))
    centre = (va @ tw + vb @ tu) / curvature
    fa, fb = a * (tw - centre), b * (tu - centre)
    spread = math.sqrt(n * fa.var(ddof=1) + inflation * m * fb.var(ddof=1))
    slope = (fb.sum() - fa.sum()) / spread if spread > 0 else 0.0
    return TwoSided(float(c), float(std_err), float(overlap), float(slope))


def correlation_time(values: np.ndarray, rows: int) -> float:
    """Variance of the mean of `values`, `rows` series one after the other, over that of independent
    ones: (1 + ρ)/(1 − ρ) with ρ the correlation of neighbours, where it is above 0."""
    series = values.reshape(rows, -1) - values.mean()
    square = (series**2).mean()
    if square <= 0 or series.shape[1] < 2:
        return 1.0
    rho = float(np.clip((series[:, 1:] * series[:, :-1]).mean() / square, 0.0, 0.98))
    return (1 + rho) / (1 - rho)


def _sigmoid(t: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -t))


class Evidence:
    """The weights of one schedule, the answer they give, and what may be said against it.

    **Arguments:** `forward`: log w (n,); `backward`: log weights u (m,) of runs from the target, or
    None; `ends`: where the forward runs ended, (n, *event).
    """

    def __init__(self, forward, backward, target: Target, rows: int = 1, ends: Point | None = None):
        self.forward, self.backward, self.target = forward, backward, target
        self.low, self.low_err = mean_of(forward)
        self.both = None
        self.high, self.high_err = np.nan, np.inf
        if backward is None:
            self.value, self.std_err = self.low, self.low_err
            self.ess = weights_ess(forward)
        else:
            value, error = mean_of(-backward)
            ratio = np.exp(np.clip(-backward - np.max(-backward), -700, 0))
            self.high = -value
            self.high_err = error * math.sqrt(correlation_time(ratio, rows))
            self.both = two_sided(forward, backward, rows)
            self.value, self.std_err = self.both.value, self.both.std_err
            self.ess = self.both.overlap
        self.apart = None
        if ends is not None and np.isfinite(np.max(forward)):
            weights = np.exp(forward - np.max(forward))
            self.apart = means_apart(ends, weights / weights.sum(), target.draws)

    @property
    def wants_chains(self) -> bool:
        """Whether most weights count already: then more chains help, else more temperatures."""
        return self.ess > 0.5 * len(self.forward)

    @property
    def bracket(self) -> tuple[float | None, float | None]:
        """Stochastic bounds: where each direction tends to by Markov's inequality, with three
        standard errors of room for the finite number of weights."""
        low = self.low - 3 * self.low_err if np.isfinite(self.low) else None
        if not np.isfinite(self.high):
            return low, None
        return low, self.high + 3 * self.high_err

    def details(self) -> dict[str, Any]:
        """Each direction by itself, for the reader."""
        out: dict[str, Any] = {"forward": self.low, "forward_std_err": self.low_err}
        if self.backward is not None:
            out |= {"reverse": self.high, "reverse_std_err": self.high_err}
        return out

    def reasons(self, precision: float) -> list[str]:
        """Why the value is not to be trusted, in words; empty if it is."""
        if not np.isfinite(self.value):
            return [f"the weights give log Z = {self.value}: none is finite and positive"]
        out = too_wide(self.std_err, precision)
        if self.both is None or self.backward is None:
            return out + self._one_sided()
        least = 0.02 * len(self.forward)
        if self.ess < max(least, 10):
            out.append(
                f"forward and reverse runs share {self.ess:.1f} effective weights of "
                f"{len(self.forward)}: a few of them decide the answer"
            )
        if abs(self.both.slope) > _Z_LIMIT:
            out.append(
                "forward and reverse weights are not those of one log Z "
                f"({abs(self.both.slope):.1f} standard errors off): one direction misses a part"
            )
        # Each alone errs to one side only, by what it never sees of the other's places.
        for name, weights, gap, error in (
            ("forward", self.forward, self.low - self.value, self.low_err),
            ("reverse", -self.backward, self.value - self.high, self.high_err),
        ):
            known = weights_ess(weights) >= 20 and pareto_k(weights) < 0.7
            if known and gap > _Z_LIMIT * math.hypot(error, self.std_err) + _SLACK:
                out.append(
                    f"{name} runs alone put log Z {gap:.3g} nat to the wrong side, more than the "
                    "errors: one direction misses a part"
                )
        if self.apart is not None and self.apart[0] > _Z_LIMIT + 0.5:
            out.append(
                f"forward runs and chains of the target disagree by {self.apart[0]:.1f} standard "
                f"errors about the mean of {self.apart[1]}: one of them misses a part"
            )
        out += self._other_opinion()
        return out

    def _one_sided(self) -> list[str]:
        out, n, k = [], len(self.forward), pareto_k(self.forward)
        if self.ess < 0.1 * n:
            out.append(f"{self.ess:.1f} effective weights of {n}: a few of them decide the answer")
        if k > 0.7:
            out.append(f"the weights' tail index {k:.2f} is above 0.7: their mean may not settle")
        return out

    def _other_opinion(self) -> list[str]:
        """Tempered chains, where they drew from the target, have found log Z on their way."""
        details = self.target.draws.details
        if "log_z" not in details:
            return []
        there = float(details["log_z"]), float(details["log_z_std_err"])
        here = self.value, self.std_err
        return agreement("the log Z of parallel tempering differs by", here, there)


def means_apart(
    ends: Point, weights: np.ndarray, draws: Draws, error: Any = None
) -> tuple[float, str]:
    """The largest gap, in standard errors, between weighted points and draws of the target, in the
    mean of a coordinate or (clipped) of its square, and where it is.

    **Arguments:** `ends`: (num, *event) with `weights` (num,) that sum to 1. `error`: of each mean,
    where the points are not independent; squares are then left out.
    """
    ess = 1 / max(float((weights**2).sum()), 1e-300)
    if ess < 30:
        return 0.0, ""
    worst, where, number = 0.0, "", 0
    flat = draws.flat()
    errors = [None] * len(jax.tree.leaves(flat)) if error is None else jax.tree.leaves(error)
    for end, drawn, own in zip(jax.tree.leaves(ends), jax.tree.leaves(flat), errors, strict=True):
        end = np.asarray(end, np.float64).reshape(len(weights), -1)
        drawn = np.asarray(drawn, np.float64).reshape(len(drawn), -1)
        low, middle, high = np.quantile(drawn, [0.1, 0.5, 0.9], axis=0)
        scale = np.where(high > low, high - low, 1.0)
        for power, name in ((1, "coordinate"), (2, "the square of coordinate")):
            if power == 2 and own is not None:
                continue
            g = np.clip((end - middle) / scale, -5, 5) ** power
            h = np.clip((drawn - middle) / scale, -5, 5) ** power
            mean = weights @ g
            variance = (weights**2) @ (g - mean) ** 2
            if own is not None:
                variance = (np.asarray(own).reshape(-1) / scale) ** 2
            z = abs(mean - h.mean(0)) / np.maximum(np.sqrt(variance + h.var(0) / ESS_NEEDED), 1e-3)
            if z.size and z.max() > worst:
                worst, where = float(z.max()), f"{name} {number + int(z.argmax())}"
        number += end.shape[1]
    return worst, where


def too_wide(std_err: float, precision: float) -> list[str]:
    """A reason if the standard error is not as small as asked for."""
    if std_err <= precision:
        return []
    return [f"standard error {std_err:.3g} nat is above the {precision:g} asked for"]


def agreement(name: str, here: tuple[float, float], there: tuple[float, float]) -> list[str]:
    """A reason if two (value, standard error) pairs differ by more than their errors."""
    gap = abs(here[0] - there[0])
    if gap > _Z_LIMIT * math.hypot(here[1], there[1]) + _SLACK:
        return [f"{name} {gap:.3g} nat"]
    return []


def tail_reasons(energy: AbstractEnergy, draws: Point, *, key: Key[Array, ""]) -> list[str]:
    """A reason for doubt if f falls too slowly along some ray from the draws' centre, else none.

    **Arguments:** `draws`: (num, *event) points of usual density, which give centre and scale.
    """
    dimension = int(np.isinf(ends_of(energy.space)).any(0).sum())  # of what reaches infinity
    if dimension == 0:
        return []
    numeric = jax.tree.map(lambda a: np.asarray(a, np.float64), draws)
    finite = all(np.isfinite(a).all() for a in jax.tree.leaves(numeric))
    if not finite:
        return ["draws of the target ran off to infinity: exp f has no finite integral there"]
    centre = jax.tree.map(lambda a: jnp.asarray(np.median(a, 0), float), numeric)
    scale = jax.tree.map(lambda a: jnp.asarray(np.maximum(a.std(0), 1e-3), float), numeric)
    f = np.asarray(_along_rays(energy, centre, scale, key), np.float64)
    if np.isnan(f).any() or (f == np.inf).any():
        return ["f is NaN or +∞ far from the bulk: whether exp f can be integrated is not known"]
    with np.errstate(invalid="ignore"):
        slope = np.diff(f[:, _NUM_DOUBLINGS // 2 :], axis=1)  # of the outer doublings
    slope = np.where(np.isneginf(f[:, _NUM_DOUBLINGS // 2 + 1 :]), -np.inf, slope)
    flat = np.median(slope, axis=1) >= -dimension * math.log(2) * (1 + 1e-3)
    if flat.any():
        return [
            f"f falls no faster than −{dimension} log |x| along {flat.mean():.0%} of the rays "
            "looked at: exp f may have no finite integral"
        ]
    return []


@eqx.filter_jit
def _along_rays(energy: AbstractEnergy, centre: Point, scale: Point, key):
    """f at centre + 2ᵏ scale u, random directions u, k = 2 … : (rays, doublings)."""
    space = energy.space
    parts = space.parts if isinstance(space, Record) else {"": space}
    centre = centre if isinstance(space, Record) else {"": centre}
    scale = scale if isinstance(space, Record) else {"": scale}
    radii = 2.0 ** (2 + jnp.arange(_NUM_DOUBLINGS))
    out = {}
    for i, (name, part) in enumerate(parts.items()):
        u = jax.random.normal(jax.random.fold_in(key, i), (_NUM_RAYS, *part.shape))
        reach = radii.reshape(-1, *(1,) * len(part.shape))
        x = centre[name] + reach * (scale[name] * u)[:, None]
        match part:
            case Count():
                x = jnp.round(jnp.minimum(jnp.abs(x), 2.0**30)).astype(part.dtype)
            case Box():
                low_ok, high_ok = jnp.isfinite(part.low), jnp.isfinite(part.high)
                x = jnp.where(low_ok & ~high_ok, part.low + jnp.abs(x - part.low), x)
                x = jnp.where(high_ok & ~low_ok, part.high - jnp.abs(part.high - x), x)
                x = jnp.where(low_ok & high_ok, centre[name], x)
            case Real():
                pass
            case _:
                example = jnp.broadcast_to(part.example(), x.shape)
                x = example.astype(part.dtype)
        out[name] = x
    points = out if isinstance(space, Record) else out[""]
    return jax.vmap(lambda x: batched(energy, x))(points)
