"""Independent columns, each as the rows show it: kernel densities with heavy tails."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Key

from energax.energies._base import AbstractNormalised
from energax.spaces import Real

_DEGREES = 3.0  # of freedom, of Student's t
_LOG_CONSTANT = float(np.log(2 / (np.pi * np.sqrt(_DEGREES))))
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
        rows = np.asarray(rows, np.float64)
        if rows.ndim != 2 or not len(rows) or not np.isfinite(rows).all():
            raise ValueError(f"rows: expected (num, n) of finite numbers, got shape {rows.shape}")
        num = min(num_points, len(rows))
        points = np.quantile(rows, (np.arange(num) + 0.5) / num, axis=0)
        sd = rows.std(0)
        spread = sd > 1e-9 * np.abs(rows).max(0)  # else it is rounding
        return cls(points, width * np.where(spread, sd, 1.0))

    @staticmethod
    def density(x: np.ndarray, points: np.ndarray, width: float) -> np.ndarray:
        """p of one column at x (num,), in NumPy."""
        z = (x[:, None] - points) / width
        kernels = np.exp(_LOG_CONSTANT) * (1 + z**2 / _DEGREES) ** (-(_DEGREES + 1) / 2)
        return kernels.mean(1) / width

    def __call__(self, x):
        z = (x - self.points) / self.width
        each = _LOG_CONSTANT - (_DEGREES + 1) / 2 * jnp.log1p(z**2 / _DEGREES)
        columns = jax.nn.logsumexp(each, axis=0) - jnp.log(len(self.points)) - jnp.log(self.width)
        return -jnp.sum(columns)

    @property
    def log_z(self):
        return jnp.zeros((), self.points.dtype)

    def draw(self, num: int, *, key: Key[Array, ""]):
        key_which, key_noise = jax.random.split(key)
        n = self.space.num_sites
        which = jax.random.randint(key_which, (num, n), 0, len(self.points))
        noise = jax.random.t(key_noise, _DEGREES, (num, n), self.points.dtype)
        return self.points[which, jnp.arange(n)] + self.width * noise
