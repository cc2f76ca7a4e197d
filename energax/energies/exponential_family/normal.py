"""Normal families: independent coordinates, or a full covariance."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Key

from energax import random
from energax.energies.exponential_family._base import (
    CONSTANT,
    AbstractExponentialFamily,
    parameters,
    positive,
    refuse,
)
from energax.spaces import Real

_LOG_2PI = math.log(2 * math.pi)


class Normal(AbstractExponentialFamily):
    """Independent normals: T(x) = (x, x²), η = (m/s², −1/(2s²)),
    A(η) = Σ −η₁²/(4η₂) − ½ log(−2η₂) + ½ log 2π.

    Wainwright & Jordan 2008, table 3.1. **Arguments:** `mean`, `scale` > 0, broadcast to the shape
    of x. In float32 log p carries an error of some 1e-7 · (m/s)²: standardise data whose mean is
    hundreds of standard deviations, or take `Gaussian`, which has no such limit.
    """

    space: Real
    eta: dict[str, Float[Array, "..."]]

    def __init__(self, mean: Any, scale: Any):
        mean, scale = parameters(mean=mean, scale=scale)
        positive(scale=scale)
        self.space = Real(mean.shape)
        self.eta = {"x": mean / scale**2, "x_squared": -0.5 / scale**2}

    @property
    def mean(self) -> Float[Array, "..."]:
        return -0.5 * self.eta["x"] / self.eta["x_squared"]

    @property
    def scale(self) -> Float[Array, "..."]:
        return jnp.sqrt(-0.5 / self.eta["x_squared"])

    def sufficient_statistics(self, x):
        return {"x": x, "x_squared": x**2}

    def log_partition(self, eta):
        valid = eta["x_squared"] < 0
        precision = jnp.where(valid, -2 * eta["x_squared"], 1.0)
        value = 0.5 * (eta["x"] ** 2 / precision - jnp.log(precision) + _LOG_2PI)
        return jnp.sum(jnp.where(valid, value, jnp.inf))

    def draw(self, num: int, *, key: Key[Array, ""]):
        noise = random.normal(key, (num, *self.space.shape), self.eta["x"].dtype)
        return self.mean + self.scale * noise

    @classmethod
    def _space_of(cls, shape, given):
        return Real(shape)

    @classmethod
    def _fit(cls, rows, space):
        mean, scale = rows.mean(0), rows.std(0)
        refuse(scale <= 1e-7 * np.abs(mean), CONSTANT)
        return cls(mean, scale)


class MultivariateNormal(AbstractExponentialFamily):
    """N(m, C) on vectors: T(x) = (x, xxᵀ), η = (C⁻¹m, −½C⁻¹),
    A(η) = −¼ η₁ᵀη₂⁻¹η₁ − ½ log det(−2η₂) + (n/2) log 2π.

    Wainwright & Jordan 2008, example 3.3. **Arguments:** `mean` (n,), `covariance` (n, n), which
    is symmetric and positive definite. The float32 limit of `Normal` holds here too.
    """

    space: Real
    eta: dict[str, Float[Array, "..."]]

    def __init__(self, mean: Any, covariance: Any):
        given = covariance
        (mean,), (covariance,) = parameters(mean=mean), parameters(covariance=covariance)
        if mean.ndim != 1 or covariance.shape != (mean.size, mean.size):
            raise ValueError(
                f"expected mean (n,) and covariance (n, n), got {mean.shape} and {covariance.shape}"
            )
        if isinstance(covariance, Tracer):
            precision = jnp.linalg.inv(covariance)
        else:
            c = np.asarray(given, np.float64)  # inverted before digits are lost to float32
            symmetric = np.allclose(c, c.T, atol=1e-6 * np.abs(c).max())
            if not symmetric or np.linalg.eigvalsh(c)[0] <= 0:
                raise ValueError("covariance: expected a symmetric positive definite matrix")
            precision = np.linalg.inv(c)
        precision = jnp.asarray((precision + precision.T) / 2, mean.dtype)
        self.space = Real(mean.shape)
        self.eta = {"x": precision @ mean, "xx": -0.5 * precision}

    def _precision_factor(self, eta):
        """L with LLᵀ = C⁻¹ = −2η₂; NaN outside the natural parameter space."""
        return jnp.linalg.cholesky(-(eta["xx"] + eta["xx"].T))

    @property
    def mean(self) -> Float[Array, " n"]:
        return jax.scipy.linalg.cho_solve((self._precision_factor(self.eta), True), self.eta["x"])

    @property
    def covariance(self) -> Float[Array, "n n"]:
        factor = self._precision_factor(self.eta)
        return jax.scipy.linalg.cho_solve((factor, True), jnp.eye(len(factor), dtype=factor.dtype))

    def sufficient_statistics(self, x):
        return {"x": x, "xx": jnp.outer(x, x)}

    def log_partition(self, eta):
        factor = self._precision_factor(eta)
        white = jax.scipy.linalg.solve_triangular(factor, eta["x"], lower=True)
        value = 0.5 * (jnp.sum(white**2) + len(white) * _LOG_2PI)
        value = value - jnp.sum(jnp.log(jnp.diagonal(factor)))
        return jnp.where(jnp.isnan(value), jnp.inf, value)

    def draw(self, num: int, *, key: Key[Array, ""]):
        factor = self._precision_factor(self.eta)
        noise = random.normal(key, (*self.space.shape, num), self.eta["x"].dtype)
        spread = jax.scipy.linalg.solve_triangular(factor, noise, lower=True, trans=1)
        return self.mean + spread.T

    @classmethod
    def _space_of(cls, shape, given):
        return Real(shape)

    @classmethod
    def _fit(cls, rows, space):
        if rows.ndim != 2:
            raise ValueError(f"data: expected rows of vectors, (num, n), got shape {rows.shape}")
        covariance = np.cov(rows, rowvar=False, bias=True).reshape(rows.shape[1], -1)
        values = np.linalg.eigvalsh(covariance)
        refuse(
            values[0] <= 1e-6 * values[-1],
            f"{len(rows)} rows in {rows.shape[1]} dimensions have a (nearly) singular "
            "covariance; drop dependent columns, or use fitted_base(..., full=True)",
        )
        return cls(rows.mean(0), covariance)
