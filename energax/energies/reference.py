"""Reference distributions: known log Z and exact draws, one for each kind of space.

They are the starts of annealing, of training and of chains, and the noise of noise-contrastive
objectives. Coordinates are independent unless a full covariance is asked for. Every parameter is an
array that may be traced.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.special import betaln, erf, erfinv
from jaxtyping import Array, Float, Key

from energax import random
from energax.energies._base import AbstractBernoulli, AbstractNormalised
from energax.spaces import (
    AbstractSpace,
    Binary,
    Box,
    Categorical,
    Count,
    Ordinal,
    Point,
    Real,
    Record,
    Spin,
)

_HALF_LOG_2PI = 0.9189385332046727
_SQRT_HALF = 0.7071067811865476


def _parameter(value: Any, shape: tuple[int, ...], name: str, *, positive: bool = False) -> Array:
    """`value` as a float array of `shape`; concrete values are checked, traced ones pass."""
    array = jnp.asarray(value, float)
    try:
        array = jnp.broadcast_to(array, shape)
    except ValueError as error:
        raise ValueError(f"{name}: expected shape {shape}, got {array.shape}") from error
    if not isinstance(array, Tracer):
        wrong = ~np.isfinite(array) | (positive & (np.asarray(array) <= 0))
        if wrong.any():
            wanted = "positive finite numbers" if positive else "finite numbers"
            raise ValueError(f"{name}: expected {wanted}, got {np.asarray(array)[wrong][0]!r}")
    return array


def _space(space: AbstractSpace, kinds: tuple[type, ...], who: str) -> Any:
    if not isinstance(space, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{who} lives on a {wanted} space, got {space}; see default_base(space)")
    return space


class Gaussian(AbstractNormalised):
    """N(m, LLᵀ) on Real: E(x) = ½|L⁻¹(x − m)|², log Z = Σ log Lᵢᵢ + (n/2) log 2π.

    Bishop 2006, eq. 2.43. L is diagonal, `scale`, unless `cholesky` is given; then L⁻¹ is stored
    (`whitening`), since every evaluation needs it, and is what `fit` trains.

    **Arguments:** `mean`, `scale` > 0: broadcast to the shape of x. `cholesky`: L, lower-triangular
    (sites, sites) with positive diagonal, sites in row-major order; then `scale` is left out.

    **Raises:** ValueError for wrong shapes, a scale or a diagonal that is not positive, or both
    `scale` and `cholesky`.
    """

    space: Real
    mean: Float[Array, "..."]
    scale: Float[Array, "..."] | None
    whitening: Float[Array, "n n"] | None

    def __init__(self, space: Any, mean: Any = 0.0, scale: Any = None, *, cholesky: Any = None):
        self.space = _space(space, (Real,), "Gaussian")
        self.mean = _parameter(mean, space.shape, "mean")
        self.scale = self.whitening = None
        if cholesky is None:
            self.scale = _parameter(
                1.0 if scale is None else scale, space.shape, "scale", positive=True
            )
        else:
            if scale is not None:
                raise ValueError("Gaussian takes either scale or cholesky, got both")
            n = space.num_sites
            if np.shape(cholesky) != (n, n):
                raise ValueError(f"cholesky: expected shape {(n, n)}, got {np.shape(cholesky)}")
            factor = jnp.tril(_parameter(cholesky, (n, n), "cholesky"))
            _parameter(jnp.diagonal(factor), (n,), "diagonal of cholesky", positive=True)
            self.whitening = _inverse(factor if isinstance(factor, Tracer) else cholesky)

    def __call__(self, x):
        centred = x - self.mean
        if self.whitening is None:
            return 0.5 * jnp.sum((centred / self.scale) ** 2)
        return 0.5 * jnp.sum((jnp.tril(self.whitening) @ centred.reshape(-1)) ** 2)

    @property
    def log_z(self):
        if self.whitening is None:
            assert self.scale is not None
            log_det = jnp.sum(jnp.log(self.scale))
        else:
            log_det = -jnp.sum(jnp.log(jnp.diagonal(self.whitening)))
        return log_det + self.space.num_sites * _HALF_LOG_2PI

    @property
    def cholesky(self) -> Float[Array, "n n"] | None:
        """L as it was given, up to rounding; None where `scale` was."""
        return None if self.whitening is None else _inverse(self.whitening)

    @property
    def site_parameters(self):
        return None if self.scale is None else (self.mean, self.scale)

    def draw(self, num: int, *, key: Key[Array, ""]):
        noise = random.normal(key, (num, *self.space.shape), self.mean.dtype)
        if self.scale is not None:
            return self.mean + self.scale * noise
        factor = self.cholesky
        assert factor is not None
        noise = noise.reshape(num, -1) @ factor.T
        return self.mean + noise.reshape(num, *self.space.shape)


def _inverse(factor: Any) -> Float[Array, "n n"]:
    """Of the lower triangle of a matrix, in float64 where its numbers are at hand."""
    if isinstance(factor, Tracer):
        eye = jnp.eye(len(factor), dtype=factor.dtype)
        return jax.scipy.linalg.solve_triangular(factor, eye, lower=True)
    inverse = np.linalg.inv(np.tril(np.asarray(factor, np.float64)))
    return jnp.asarray(np.tril(inverse), float)


class BoxReference(AbstractNormalised):
    """Independent coordinates on Box, each by the ends it has.

    Both ends finite: w/(h − l) + (1 − w) φ((x − m)/s) / (s [Φ((h − m)/s) − Φ((l − m)/s)]), a
    truncated normal with a share w of uniform, so that no place is far less probable than under a
    uniform (the defensive mixture of Hesterberg 1995); w = 1 is uniform, log Z = 0. One end
    finite: exponential of mean s from that end. None: N(m, s²). E is −log of that density.

    **Arguments:** `location` m (within the ends; None is the middle), `scale` s > 0 and
    `uniform_share` 0 < w ≤ 1 broadcast to the shape of x.

    **Raises:** ValueError for parameters of a wrong shape or outside these ranges.
    """

    space: Box
    location: Float[Array, "..."]
    scale: Float[Array, "..."]
    uniform_share: Float[Array, "..."]

    def __init__(
        self, space: Any, location: Any = None, scale: Any = 1.0, uniform_share: Any = 1.0
    ):
        self.space = _space(space, (Box,), "BoxReference")
        if location is None:
            none = jnp.isinf(space.low) & jnp.isinf(space.high)
            location = jnp.where(none, 0.0, space.example())
        self.location = _parameter(location, space.shape, "location")
        self.scale = _parameter(scale, space.shape, "scale", positive=True)
        self.uniform_share = _parameter(uniform_share, space.shape, "uniform_share", positive=True)
        arrays = (space.low, space.high, self.location, self.uniform_share)
        if not any(isinstance(array, Tracer) for array in arrays):
            if jnp.any((self.location < space.low) | (self.location > space.high)):
                raise ValueError("location: expected values between low and high of the Box")
            if jnp.any(self.uniform_share > 1):
                raise ValueError("uniform_share: expected values in (0, 1]")

    def _ends(self):
        """(has a low end, has a high end, low, high) with stand-ins where there is no end."""
        has_low, has_high = jnp.isfinite(self.space.low), jnp.isfinite(self.space.high)
        low = jnp.where(has_low, self.space.low, self.location - 1)
        return has_low, has_high, low, jnp.where(has_high, self.space.high, self.location + 1)

    def __call__(self, x):
        has_low, has_high, low, high = self._ends()
        z = (x - self.location) / self.scale
        # low ≤ m ≤ high: the two terms have one sign, so nothing cancels
        mass = 0.5 * (
            erf((high - self.location) / self.scale * _SQRT_HALF)
            + erf((self.location - low) / self.scale * _SQRT_HALF)
        )
        normal = 0.5 * z**2 + jnp.log(self.scale) + _HALF_LOG_2PI
        share = self.uniform_share
        rest = jnp.where(share < 1, 1 - share, 1.0)
        truncated = jnp.where(share < 1, jnp.log(rest) - normal - jnp.log(mass), -jnp.inf)
        both = -jnp.logaddexp(jnp.log(share) - jnp.log(high - low), truncated)
        distance = jnp.where(has_low, x - low, high - x)
        one = distance / self.scale + jnp.log(self.scale)
        return jnp.sum(
            jnp.where(has_low & has_high, both, jnp.where(has_low | has_high, one, normal))
        )

    @property
    def log_z(self):
        return jnp.zeros((), self.scale.dtype)

    def draw(self, num: int, *, key: Key[Array, ""]):
        has_low, has_high, low, high = self._ends()
        key_pick, key_normal, key_unit = jax.random.split(key, 3)
        shape, dtype = (num, *self.space.shape), self.scale.dtype
        unit = jax.random.uniform(key_unit, shape, dtype)
        pick = jax.random.uniform(key_pick, shape, dtype) < self.uniform_share
        inside = has_low & has_high
        # `far` is where 1 − |erf| runs out of digits: beyond it there would be draws at infinity
        far = erfinv(1 - jnp.finfo(dtype).eps) / _SQRT_HALF
        z_low = jnp.where(inside, jnp.maximum((low - self.location) / self.scale, -far), -far)
        z_high = jnp.where(inside, jnp.minimum((high - self.location) / self.scale, far), far)
        normal = jax.random.truncated_normal(key_normal, z_low, z_high, shape, dtype)
        normal = self.location + self.scale * normal
        both = jnp.where(pick, low + (high - low) * unit, normal)
        distance = -self.scale * jnp.log1p(-unit)
        one = jnp.where(has_low, low + distance, high - distance)
        x = jnp.where(inside, both, jnp.where(has_low | has_high, one, normal))
        return jnp.clip(x, self.space.low, self.space.high)  # rounding only


class IndependentBernoulli(AbstractBernoulli):
    """Independent two-valued sites on Binary or Spin, P(up) = σ(b), up = 1 or +1.

    Binary: E(x) = −b·x, log Z = Σ log(1 + e^b). Spin: E(x) = −b·x/2, log Z = Σ log 2 cosh(b/2).
    Wainwright & Jordan 2008, table 3.1.

    **Arguments:** `logits` b: broadcast to the shape of x.
    """

    space: Binary | Spin
    logits: Float[Array, "..."]

    def __init__(self, space: Any, logits: Any = 0.0):
        self.space = _space(space, (Binary, Spin), "IndependentBernoulli")
        self.logits = _parameter(logits, space.shape, "logits")

    def __call__(self, x):
        return -jnp.sum(self.logits * (x if isinstance(self.space, Binary) else x / 2))

    @property
    def log_z(self):
        log_z = jax.nn.softplus(self.logits)
        return jnp.sum(log_z if isinstance(self.space, Binary) else log_z - self.logits / 2)

    def draw(self, num: int, *, key: Key[Array, ""]):
        up = jax.random.bernoulli(key, jax.nn.sigmoid(self.logits), (num, *self.space.shape))
        up = up.astype(self.logits.dtype)
        return up if isinstance(self.space, Binary) else 2 * up - 1


class IndependentCategorical(AbstractNormalised):
    """Independent sites on Categorical or Ordinal, P(xᵢ = j) = softmax(bᵢ)ⱼ.

    E(x) = −Σᵢ bᵢ[xᵢ], log Z = Σᵢ log Σⱼ exp bᵢⱼ (Bishop 2006, eq. 2.26).

    **Arguments:** `logits` b: broadcast to (*sites, k).
    """

    space: Categorical | Ordinal
    logits: Float[Array, "... k"]

    def __init__(self, space: Any, logits: Any = 0.0):
        self.space = _space(space, (Categorical, Ordinal), "IndependentCategorical")
        sites = space.shape if isinstance(space, Ordinal) else space.sites
        self.logits = _parameter(logits, (*sites, space.num_values), "logits")

    def __call__(self, x):
        if isinstance(self.space, Categorical) and self.space.encoding == "onehot":
            return -jnp.sum(self.logits * x)
        index = x.astype(jnp.int32)[..., None]
        return -jnp.sum(jnp.take_along_axis(self.logits, index, axis=-1))

    @property
    def log_z(self):
        return jnp.sum(jax.nn.logsumexp(self.logits, axis=-1))

    @property
    def site_parameters(self):
        return self.logits

    def draw(self, num: int, *, key: Key[Array, ""]):
        index = random.categorical(key, self.logits, (num, *self.logits.shape[:-1]))
        if isinstance(self.space, Categorical):
            return self.space.encode(index)
        return index.astype(self.logits.dtype)


class NegativeBinomial(AbstractNormalised):
    """Counts with mean m and variance m + m²/r: p(n) = Γ(n+r)/(n! Γ(r)) (r/(r+m))^r (m/(r+m))ⁿ.

    Johnson, Kemp & Kotz 2005, chapter 5. r = 1 is geometric; large r nears a Poisson. log Z = 0.
    The exponential tail is heavier than any Poisson's, as a base for overdispersed counts must be.

    **Arguments:** `mean` m > 0, `dispersion` r > 0: broadcast to the shape of x.
    """

    space: Count
    mean: Float[Array, "..."]
    dispersion: Float[Array, "..."]

    def __init__(self, space: Any, mean: Any = 10.0, dispersion: Any = 1.0):
        self.space = _space(space, (Count,), "NegativeBinomial")
        self.mean = _parameter(mean, space.shape, "mean", positive=True)
        self.dispersion = _parameter(dispersion, space.shape, "dispersion", positive=True)

    def __call__(self, x):
        n, m, r = x.astype(self.mean.dtype), self.mean, self.dispersion
        # Γ(n+r)/(n! Γ(r)) = 1/((n + r) B(r, n+1)), where betaln stays exact for large n and r
        log_count = -betaln(r, n + 1) - jnp.log(n + r)
        return jnp.sum(r * jnp.log1p(m / r) + n * jnp.log1p(r / m) - log_count)

    @property
    def log_z(self):
        return jnp.zeros((), self.mean.dtype)

    @property
    def site_parameters(self):
        return self.mean

    def draw(self, num: int, *, key: Key[Array, ""]):
        """Poisson counts whose rate is Gamma(r) of mean m."""
        key_rate, key_count = jax.random.split(key)
        shape = (num, *self.space.shape)
        rate = jax.random.gamma(key_rate, self.dispersion, shape, self.mean.dtype)
        return random.poisson(key_count, rate * (self.mean / self.dispersion), shape)


class RecordReference(AbstractNormalised):
    """Independent parts of a Record: E(x) = Σ E_part(x[part]), log Z = Σ log Z_part.

    The product measure, as Billingsley 1995, section 18.

    **Arguments:** `parts`: an `AbstractNormalised` for every name of the space.

    **Raises:** ValueError if a name is missing or unknown, or a part lives on another space.
    """

    space: Record
    parts: dict[str, AbstractNormalised]

    def __init__(self, space: Any, parts: dict[str, AbstractNormalised]):
        self.space = _space(space, (Record,), "RecordReference")
        if set(parts) != set(space.parts):
            raise ValueError(f"parts: expected {sorted(space.parts)}, got {sorted(parts)}")
        for name, part in parts.items():
            wanted = space.parts[name]
            if type(part.space) is not type(wanted) or part.space.shape != wanted.shape:
                raise ValueError(f"parts[{name!r}]: expected one on {wanted}, got {part.space}")
        self.parts = {name: parts[name] for name in space.parts}

    def __call__(self, x):
        return jnp.stack([part(x[name]) for name, part in self.parts.items()]).sum()

    @property
    def log_z(self):
        return jnp.stack([part.log_z for part in self.parts.values()]).sum()

    @property
    def site_parameters(self):
        return {name: part.site_parameters for name, part in self.parts.items()}

    def draw(self, num: int, *, key: Key[Array, ""]):
        keys = jax.random.split(key, len(self.parts))
        return {
            name: part.draw(num, key=keys[i]) for i, (name, part) in enumerate(self.parts.items())
        }


def default_base(space: AbstractSpace, data: Point | None = None) -> AbstractNormalised:
    """The default reference of a space; with `data` (rows, *event), one fitted to them.

    N(0, 1) on Real; on Box uniform between two finite ends, exponential of mean 1 from a single
    one, N(0, 1) without any; all states equally probable on Binary, Spin, Categorical and Ordinal;
    geometric of mean 10 on Count; independent parts on Record.

    **Raises:** TypeError for a space it does not know (give your own AbstractNormalised there).
    """
    if data is not None:
        return fitted_base(space, data)
    if isinstance(space, Record):
        return RecordReference(space, {name: default_base(p) for name, p in space.parts.items()})
    for kinds, reference in _DEFAULTS.items():
        if isinstance(space, kinds):
            return reference(space)
    raise TypeError(f"no default base for {space}: give an AbstractNormalised on it as base=")


_DEFAULTS: dict[tuple[type, ...], Any] = {
    (Real,): Gaussian,
    (Box,): BoxReference,
    (Binary, Spin): IndependentBernoulli,
    (Categorical, Ordinal): IndependentCategorical,
    (Count,): NegativeBinomial,
}


def fitted_base(
    space: AbstractSpace, x: Point, *, smoothing: float = 0.02, full: bool = False
) -> AbstractNormalised:
    """The reference of a space that matches the moments of rows `x`, a little wider than they are.

    Probabilities are mixed with a share `smoothing` (at least one row's worth) of equal ones;
    standard deviations are widened by a factor 1 + 5·smoothing and kept off 0; between two finite
    ends the density has a share 5·smoothing of uniform.

    **Arguments:** `x`: rows or draws, (num, *event), or with more leading axes. `smoothing`: 0 to
    0.2; 0 gives the plain fit with one pseudo-row. `full`: on Real, match the whole covariance,
    shrunk towards its diagonal by d pseudo-rows (E then costs d² a point).

    **Raises:** ValueError for rows outside the space or a smoothing out of range; TypeError for a
    space it does not know.
    """
    if not 0 <= smoothing <= 0.2:
        raise ValueError(f"smoothing: expected a share from 0 to 0.2, got {smoothing}")
    if isinstance(space, Record):
        if not isinstance(x, dict) or set(x) != set(space.parts):
            space.validate(x)  # says what is wrong
        fits = {
            name: fitted_base(part, x[name], smoothing=smoothing, full=full)
            for name, part in space.parts.items()
        }
        return RecordReference(space, fits)
    shape = np.shape(x)
    leading = len(shape) - len(space.shape)
    if leading > 1 and shape[leading:] == space.shape:  # chains and draws
        x = np.reshape(x, (-1, *space.shape))
    rows = space.validate(x, batch=True, name="x")
    share = max(smoothing, 1 / (len(rows) + 1))
    widen = 1 + 5 * smoothing
    if isinstance(space, Real):
        return _fitted_gaussian(space, rows.astype(np.float64), widen, full)
    if isinstance(space, Box):
        return _fitted_box(space, rows.astype(np.float64), widen, max(5 * smoothing, share))
    if isinstance(space, Binary | Spin):
        p = (1 - share) * (rows > 0).mean(0, dtype=np.float64) + share / 2
        return IndependentBernoulli(space, np.log(p) - np.log1p(-p))
    if isinstance(space, Categorical | Ordinal):
        index = np.asarray(space.decode(rows) if isinstance(space, Categorical) else rows)
        values = range(space.num_values)
        p = np.stack([(index == j).mean(0, dtype=np.float64) for j in values], -1)
        return IndependentCategorical(space, np.log((1 - share) * p + share / space.num_values))
    if isinstance(space, Count):
        row = 1 / (len(rows) + 1)  # one pseudo-row of count 1 keeps the mean off 0
        mean = (1 - row) * rows.mean(0, dtype=np.float64) + row
        variance = np.maximum(rows.var(0, dtype=np.float64), mean) * widen**2
        # beyond 10⁴ a Poisson in all but name, where float32 would lose digits
        excess = np.maximum(variance - mean, mean**2 * 1e-4)
        return NegativeBinomial(space, mean, np.maximum(mean**2 / excess, 1e-2))
    raise TypeError(f"no default base for {space}: give an AbstractNormalised on it as base=")


def matched_base(
    space: AbstractSpace, mean: Point, variance: Point, *, widen: float = 1.1
) -> AbstractNormalised:
    """The default base with the place and the scale of its unbounded coordinates matched.

    For tempering: unlike `fitted_base` it takes moments, which may be traced, and all values are
    equally probable where there are finitely many or two finite ends, so that no mode that the
    moments do not know of is out of reach.

    **Arguments:** `mean`, `variance`: of each coordinate, (*event). `widen`: factor on the sd.

    **Raises:** TypeError for a space it does not know (give your own AbstractNormalised there).
    """
    if isinstance(space, Record):
        parts = {
            name: matched_base(part, mean[name], variance[name], widen=widen)
            for name, part in space.parts.items()
        }
        return RecordReference(space, parts)
    if not isinstance(space, Real | Box | Count):
        return default_base(space)
    if isinstance(space, Count):
        mean = jnp.maximum(mean, 0.1)
        excess = jnp.maximum(variance * widen**2 - mean, 1e-4 * mean**2)
        return NegativeBinomial(space, mean, jnp.maximum(mean**2 / excess, 1e-2))
    floor = jnp.maximum(0.01 * jnp.sqrt(jnp.mean(variance)), 1e-6 * jnp.abs(mean))
    sd = widen * jnp.maximum(jnp.sqrt(variance), jnp.maximum(floor, 1e-30))
    if isinstance(space, Real):
        return Gaussian(space, mean, sd)
    low, high = jnp.isfinite(space.low), jnp.isfinite(space.high)
    end = jnp.where(low, space.low, jnp.where(high, space.high, mean))
    mean = jnp.clip(mean, space.low, space.high)  # rounding only
    return BoxReference(space, mean, jnp.maximum(sd, jnp.abs(mean - end)))


def _floored(sd: Any, mean: Any) -> Any:
    """`sd` kept off 0: at least 1 % of the typical one and what float32 resolves around `mean`."""
    typical = float(np.sqrt(np.mean(sd**2))) or 1.0
    return np.maximum(sd, np.maximum(0.01 * typical, 1e-6 * np.abs(mean)))


def _fitted_gaussian(space: Real, rows: np.ndarray, widen: float, full: bool) -> Gaussian:
    mean = rows.mean(0)
    scale = _floored(rows.std(0), mean) * widen
    if not full:
        return Gaussian(space, mean, scale)
    n = space.num_sites
    centred = (rows - mean).reshape(len(rows), n)
    share = n / (len(rows) + n)
    covariance = (1 - share) * widen**2 * (centred.T @ centred / len(rows))
    covariance += np.diag(scale.reshape(-1) ** 2 - np.diag(covariance))  # the diagonal as it was
    return Gaussian(space, mean, cholesky=np.linalg.cholesky(covariance))


def _fitted_box(space: Box, rows: np.ndarray, widen: float, uniform: float) -> BoxReference:
    low, high = np.asarray(space.low, float), np.asarray(space.high, float)
    mean = rows.mean(0)
    one_end = np.isfinite(low) ^ np.isfinite(high)
    end = np.where(np.isfinite(low), low, np.where(np.isfinite(high), high, 0.0))
    spread = np.where(one_end, np.abs(mean - end), rows.std(0))
    scale = _floored(spread, mean) * widen
    # moments of a normal cut at both ends: a wider one where the rows fill the box
    return BoxReference(space, mean, scale, min(uniform, 1.0))
