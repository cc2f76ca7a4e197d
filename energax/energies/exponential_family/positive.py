"""Exponential, gamma and beta families: x > 0, or between 0 and 1."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betaln, gammaln
from jaxtyping import Array, Float, Key

from energax.energies.exponential_family._base import (
    CONSTANT,
    AbstractExponentialFamily,
    positive,
    refuse,
)
from energax.spaces import Box


class Exponential(AbstractExponentialFamily):
    """Independent x ≥ 0: T(x) = x, η = −rate, A(η) = −Σ log(−η).

    Wainwright & Jordan 2008, table 3.1. **Arguments:** `rate` > 0, of the shape of x.
    """

    space: Box
    eta: Float[Array, "..."]

    def __init__(self, rate: Any):
        (rate,) = positive(rate=rate)
        self.space = Box(0.0, np.inf, rate.shape)
        self.eta = -rate

    @property
    def rate(self) -> Float[Array, "..."]:
        return -self.eta

    def sufficient_statistics(self, x):
        return x

    def log_partition(self, eta):
        valid = eta < 0
        return jnp.sum(jnp.where(valid, -jnp.log(jnp.where(valid, -eta, 1.0)), jnp.inf))

    def draw(self, num: int, *, key: Key[Array, ""]):
        return jax.random.exponential(key, (num, *self.space.shape), self.eta.dtype) / self.rate

    @classmethod
    def _space_of(cls, shape, given):
        return Box(0.0, np.inf, shape)

    @classmethod
    def _fit(cls, rows, space):
        mean = rows.mean(0)
        refuse(mean == 0, "no finite maximum for a column of zeros; remove it")
        return cls(1 / mean)


class Gamma(AbstractExponentialFamily):
    """Independent x > 0 with density ∝ x^(a−1) e^(−bx): T(x) = (log x, x), η = (a − 1, −b),
    A(η) = Σ log Γ(a) − a log b.

    Johnson, Kotz & Balakrishnan 1994, eq. 17.23. **Arguments:** `shape` a > 0, `rate` b > 0,
    broadcast to the shape of x.
    """

    space: Box
    eta: dict[str, Float[Array, "..."]]

    def __init__(self, shape: Any, rate: Any):
        shape, rate = positive(shape=shape, rate=rate)
        self.space = Box(0.0, np.inf, shape.shape)
        self.eta = {"log_x": shape - 1, "x": -rate}

    @property
    def shape(self) -> Float[Array, "..."]:
        return self.eta["log_x"] + 1

    @property
    def rate(self) -> Float[Array, "..."]:
        return -self.eta["x"]

    def sufficient_statistics(self, x):
        return {"log_x": _log(x), "x": x}

    def log_partition(self, eta):
        a, b = eta["log_x"] + 1, -eta["x"]
        valid = (a > 0) & (b > 0)
        safe_a, safe_b = jnp.where(valid, a, 1.0), jnp.where(valid, b, 1.0)
        return jnp.sum(jnp.where(valid, gammaln(safe_a) - safe_a * jnp.log(safe_b), jnp.inf))

    def draw(self, num: int, *, key: Key[Array, ""]):
        dtype = self.eta["x"].dtype
        x = jax.random.gamma(key, self.shape, (num, *self.space.shape), dtype) / self.rate
        return jnp.maximum(x, jnp.finfo(dtype).tiny)  # a tiny shape rounds to 0, outside x > 0

    @classmethod
    def _space_of(cls, shape, given):
        return Box(0.0, np.inf, shape)

    @classmethod
    def _fit(cls, rows, space):
        refuse((rows <= 0).any(0), "expected values above 0; Exponential takes 0 too")
        mean = rows.mean(0)
        gap = -np.log(rows / mean).mean(0)  # log mean − mean log ≥ 0, 0 only for a constant
        refuse(gap < 1e-12, CONSTANT)
        shape = _solve_gamma(gap)
        return cls(shape, shape / mean)


class Beta(AbstractExponentialFamily):
    """Independent 0 < x < 1 with density ∝ x^(a−1) (1 − x)^(b−1): T(x) = (log x, log(1 − x)),
    η = (a − 1, b − 1), A(η) = Σ log B(a, b).

    Wainwright & Jordan 2008, table 3.1. **Arguments:** `a`, `b` > 0, broadcast to the shape of x.
    """

    space: Box
    eta: dict[str, Float[Array, "..."]]

    def __init__(self, a: Any, b: Any):
        a, b = positive(a=a, b=b)
        self.space = Box(0.0, 1.0, a.shape)
        self.eta = {"log_1_minus_x": b - 1, "log_x": a - 1}

    @property
    def a(self) -> Float[Array, "..."]:
        return self.eta["log_x"] + 1

    @property
    def b(self) -> Float[Array, "..."]:
        return self.eta["log_1_minus_x"] + 1

    def sufficient_statistics(self, x):
        return {
            "log_1_minus_x": jnp.log1p(-jnp.minimum(x, 1 - jnp.finfo(x.dtype).epsneg)),
            "log_x": _log(x),
        }

    def log_partition(self, eta):
        a, b = eta["log_x"] + 1, eta["log_1_minus_x"] + 1
        valid = (a > 0) & (b > 0)
        return jnp.sum(
            jnp.where(valid, betaln(jnp.where(valid, a, 1.0), jnp.where(valid, b, 1.0)), jnp.inf)
        )

    def draw(self, num: int, *, key: Key[Array, ""]):
        dtype = self.eta["log_x"].dtype
        x = jax.random.beta(key, self.a, self.b, (num, *self.space.shape), dtype)
        return jnp.clip(x, jnp.finfo(dtype).tiny, 1 - jnp.finfo(dtype).epsneg)  # rounding only

    @classmethod
    def _space_of(cls, shape, given):
        return Box(0.0, 1.0, shape)

    @classmethod
    def _fit(cls, rows, space):
        refuse(
            ((rows <= 0) | (rows >= 1)).any(0),
            "expected values strictly between 0 and 1; move those at the ends inside",
        )
        mean, variance = rows.mean(0), rows.var(0)
        refuse(variance <= 1e-14 * mean**2, CONSTANT)
        total = np.maximum(mean * (1 - mean) / variance - 1, 1e-3)  # the method of moments starts
        a, b = _solve_beta(
            np.log(rows).mean(0), np.log1p(-rows).mean(0), mean * total, (1 - mean) * total
        )
        return cls(a, b)


def _log(x):
    """log x, with 0 taken as the smallest normal float so that η·T stays finite at the edge."""
    return jnp.log(jnp.maximum(x, jnp.finfo(x.dtype).tiny))


def _polygamma(x: Any) -> tuple[Any, Any]:
    """ψ(x) and ψ′(x) for x > 0 in float64: recurrence to x + 10, then the asymptotic series
    (Abramowitz & Stegun 1964, 6.3.18 and 6.4.12)."""
    steps = x + np.arange(10).reshape(-1, *[1] * np.ndim(x))
    y = x + 10.0
    u = 1 / y**2
    digamma = np.log(y) - 0.5 / y - u * (1 / 12 - u * (1 / 120 - u * (1 / 252 - u / 240)))
    trigamma = 1 / y + 0.5 * u + u / y * (1 / 6 - u * (1 / 30 - u * (1 / 42 - u / 30)))
    return digamma - (1 / steps).sum(0), trigamma + (1 / steps**2).sum(0)


def _solve_gamma(gap: Any) -> Any:
    """a with log a − ψ(a) = gap, by Newton steps in 1/a (Minka 2002, "Estimating a gamma
    distribution", eq. 11)."""
    a = (3 - gap + np.sqrt((gap - 3) ** 2 + 24 * gap)) / (12 * gap)
    for _ in range(20):
        digamma, trigamma = _polygamma(a)
        a = 1 / (1 / a + (np.log(a) - digamma - gap) / (a**2 * (1 / a - trigamma)))
    return a


def _solve_beta(mean_log, mean_log1m, a, b):
    """(a, b) with ψ(a) − ψ(a+b) and ψ(b) − ψ(a+b) as given, by Newton from a start.

    The likelihood is concave; a step that would leave a, b > 0 goes half-way to 0 instead.
    """
    for _ in range(100):
        (psi_a, tri_a), (psi_b, tri_b), (psi, tri) = map(_polygamma, (a, b, a + b))
        slope_a, slope_b = mean_log - psi_a + psi, mean_log1m - psi_b + psi
        determinant = tri_a * tri_b - tri * (tri_a + tri_b)
        step_a = ((tri_b - tri) * slope_a + tri * slope_b) / determinant
        step_b = ((tri_a - tri) * slope_b + tri * slope_a) / determinant
        a, b = np.maximum(a + step_a, a / 2), np.maximum(b + step_b, b / 2)
    return a, b
