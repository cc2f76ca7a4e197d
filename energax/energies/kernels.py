"""Kernel densities: of every column by itself, with heavy tails, and of whole rows."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Key

from energax import random
from energax.energies._base import AbstractNormalised
from energax.spaces import Real

_DEGREES = 3.0  # of freedom, of Student's t: kernels go by (1 + z²/3)⁻²
_LOG_CONSTANT = float(np.log(2 / (np.pi * np.sqrt(_DEGREES))))
_HALF_LOG_2PI = 0.5 * float(np.log(2 * np.pi))
_POINTS = 200
_WIDTH = 0.25


class KernelMarginals(AbstractNormalised):
    """p(x) = Π_j (1/q) Σ_i t₃((x_j − c_ij)/h_j)/h_j on Real((n,)): E(x) = −log p(x), log Z = 0.

    A kernel density estimate of every column (Silverman 1986, eq. 2.2a) with Student's t of 3
    degrees of freedom as the kernel, so that the energy of a far value grows as its logarithm.

    **Arguments:** `points` c: (q, n). `width` h > 0: (n,).

    **Raises:** ValueError for wrong shapes or a width that is not positive.
    """

    space: Real
    points: Float[Array, "q n"]
    width: Float[Array, " n"]

    def __init__(self, points: Any, width: Any):
        shape = np.shape(points)
        if len(shape) != 2 or 0 in shape or np.shape(width) != shape[1:]:
            raise ValueError(
                f"KernelMarginals: expected points (q, n) and width (n,), got {shape} and "
                f"{np.shape(width)}"
            )
        if not isinstance(width, Tracer) and not (np.asarray(width) > 0).all():
            raise ValueError("KernelMarginals: expected positive widths")
        self.space = Real(shape[1:])
        self.points, self.width = jnp.asarray(points, float), jnp.asarray(width, float)

    @classmethod
    def fit(cls, rows: Any, num_points: int = _POINTS, width: float = _WIDTH) -> "KernelMarginals":
        """Kernels at `num_points` quantiles of every column, or at the rows where they are fewer.

        **Arguments:** `rows`: (num, n). `width`: of a kernel, in sds of the column. A column that
        is the same in all rows counts as one of sd 1.

        **Raises:** ValueError for rows that are not finite numbers.
        """
        return cls(*cls.quantiles(rows, num_points, width))

    @staticmethod
    def quantiles(
        rows: Any, num_points: int = _POINTS, width: float = _WIDTH
    ) -> tuple[np.ndarray, np.ndarray]:
        """(`points`, `width`) of `fit`, in NumPy."""
        rows = np.asarray(rows, np.float64)
        if rows.ndim != 2 or not len(rows) or not np.isfinite(rows).all():
            raise ValueError(f"rows: expected (num, n) of finite numbers, got shape {rows.shape}")
        num = min(num_points, len(rows))
        points = np.quantile(rows, (np.arange(num) + 0.5) / num, axis=0)
        sd = rows.std(0)
        spread = sd > 1e-9 * np.abs(rows).max(0)  # else it is rounding
        return points, width * np.where(spread, sd, 1.0)

    @staticmethod
    def density(x: np.ndarray, points: np.ndarray, width: float) -> np.ndarray:
        """p of one column at x (num,), in NumPy."""
        z = (x[:, None] - points) / (width * np.sqrt(_DEGREES))
        u = 1 + z * z
        return np.exp(_LOG_CONSTANT) / width * np.mean(1 / (u * u), axis=1)

    def __call__(self, x):
        # One logarithm a column: kernels are held against the nearest point's.
        u = 1 + ((x - self.points) / self.width) ** 2 / _DEGREES
        nearest = jnp.minimum(jnp.min(u, axis=0), jnp.finfo(u.dtype).max / 2)
        kernels = jnp.log(jnp.mean((nearest / u) ** 2, axis=0)) - 2 * jnp.log(nearest)
        return -jnp.sum(kernels + _LOG_CONSTANT - jnp.log(self.width))

    @property
    def log_z(self):
        return jnp.zeros((), self.points.dtype)

    def draw(self, num: int, *, key: Key[Array, ""]):
        key_which, key_noise = jax.random.split(key)
        n = self.space.num_sites
        which = jax.random.randint(key_which, (num, n), 0, len(self.points))
        noise = jax.random.t(key_noise, _DEGREES, (num, n), self.points.dtype)
        return self.points[which, jnp.arange(n)] + self.width * noise


class KernelDensity(AbstractNormalised):
    """p(x) = Σ_i w_i N(x; c_i, h² I) on Real((n,)): E(x) = −log p(x), log Z = 0.

    Silverman 1986, eq. 4.1, with normal kernels.

    **Arguments:** `points` c: (q, n). `width` h > 0. `weights`: (q,) positive numbers, brought to a
    sum of 1; None gives equal ones.

    **Raises:** ValueError for wrong shapes, or a width or weight that is not positive.
    """

    space: Real
    points: Float[Array, "q n"]
    width: Float[Array, ""]
    log_weights: Float[Array, " q"]

    def __init__(self, points: Any, width: Any, weights: Any = None):
        shape = np.shape(points)
        if len(shape) != 2 or 0 in shape or np.shape(width) != ():
            raise ValueError(
                f"KernelDensity: expected points (q, n) and one width, got {shape} and "
                f"{np.shape(width)}"
            )
        weights = np.ones(shape[0]) if weights is None else np.asarray(weights, float)
        if weights.shape != shape[:1] or not (weights > 0).all():
            raise ValueError(f"KernelDensity: expected {shape[0]} positive weights")
        if not isinstance(width, Tracer) and not float(width) > 0:
            raise ValueError(f"KernelDensity: expected a positive width, got {width}")
        self.space = Real(shape[1:])
        self.points, self.width = jnp.asarray(points, float), jnp.asarray(width, float)
        self.log_weights = jnp.asarray(np.log(weights / weights.sum()), float)

    def __call__(self, x):
        square = jnp.sum(((x - self.points) / self.width) ** 2, axis=1)
        n = self.space.num_sites
        normal = n * (_HALF_LOG_2PI + jnp.log(self.width))
        return normal - jax.nn.logsumexp(self.log_weights - square / 2)

    @property
    def log_z(self):
        return jnp.zeros((), self.points.dtype)

    def draw(self, num: int, *, key: Key[Array, ""]):
        key_which, key_noise = jax.random.split(key)
        which = random.categorical(key_which, self.log_weights, (num,))
        noise = jax.random.normal(key_noise, (num, self.space.num_sites), self.points.dtype)
        return self.points[which] + self.width * noise
