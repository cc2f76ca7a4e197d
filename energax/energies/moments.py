"""Means and correlations of two-valued sites, where the rows themselves are not at hand."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from energax.energies._base import AbstractEnergy, AbstractPairwise
from energax.spaces import AbstractSpace, Binary, Point, Spin

_ROUNDING = 1e-6  # by which moments in float32 may pass what is possible


class Moments(eqx.Module):
    """Means ⟨x_i⟩ and products ⟨x_i x_j⟩ of spins or bits, to fit a pairwise energy by.

    `ex.fit(energy, Moments(...))` takes them in place of rows: the log-likelihood of
    f(x) = Σ J_ij x_i x_j + Σ h_i x_i depends on rows by these alone, and at its maximum the model
    has the same (Jaynes 1957; Schneidman et al. 2006). What the energy does not join is not used,
    and may be NaN.

    **Arguments:** `mean`: (sites,), or the shape of the space. `second`: ⟨x_i x_j⟩, (sites, sites),
    symmetric, its diagonal not looked at; or `covariance`: ⟨x_i x_j⟩ − ⟨x_i⟩⟨x_j⟩. `space`: `Spin`
    or `Binary` of as many sites, which says what the values are; None takes spins.

    **Raises:** ValueError for shapes that do not fit, means outside the space, or if neither or
    both of `second` and `covariance` are given.
    """

    mean: np.ndarray
    second: np.ndarray
    space: Spin | Binary

    def __init__(
        self,
        mean: Any,
        second: Any = None,
        *,
        covariance: Any = None,
        space: AbstractSpace | None = None,
    ):
        self.mean = np.asarray(mean, np.float64).reshape(-1)
        num = len(self.mean)
        space = Spin((num,)) if space is None else space
        if not isinstance(space, (Spin, Binary)):
            raise TypeError(f"Moments: expected a Spin or Binary space, got {space!r}")
        if space.num_sites != num:
            raise ValueError(f"Moments: {num} means for the {space.num_sites} sites of {space}")
        self.space = space
        low = -1.0 if isinstance(space, Spin) else 0.0
        if not ((self.mean >= low) & (self.mean <= 1)).all():
            raise ValueError(
                f"Moments: expected means from {low:g} to 1 on {space}, got {self.mean.min():g} to "
                f"{self.mean.max():g}"
            )
        if (second is None) == (covariance is None):
            raise ValueError("Moments: give either second= or covariance=, and not both")
        matrix = np.asarray(second if covariance is None else covariance, np.float64)
        if matrix.shape != (num, num):
            raise ValueError(
                f"Moments: expected a matrix of shape ({num}, {num}), got {matrix.shape}"
            )
        if not np.allclose(matrix, matrix.T, rtol=1e-5, atol=_ROUNDING, equal_nan=True):
            raise ValueError("Moments: expected a symmetric matrix of pairs; take (C + C.T) / 2")
        matrix = (matrix + matrix.T) / 2
        if covariance is not None:
            matrix = matrix + np.outer(self.mean, self.mean)
        self.second = matrix

    @staticmethod
    def of(space: AbstractSpace, data: Any, weights: Any = None) -> "Moments":
        """Those of rows (rows, *event), each counted `weights` (rows,) times.

        **Raises:** ValueError for rows outside the space or weights that do not fit them.
        """
        rows = np.asarray(space.validate(data, batch=True, name="data"), np.float64)
        rows = rows.reshape(len(rows), -1)
        w = np.ones(len(rows)) if weights is None else np.asarray(weights, np.float64)
        if w.shape != (len(rows),) or not (w >= 0).all() or not w.sum() > 0:
            raise ValueError(f"weights: expected {len(rows)} numbers from 0, got shape {w.shape}")
        w = w / w.sum()
        return Moments(w @ rows, (rows * w[:, None]).T @ rows, space=space)

    @property
    def log_odds(self) -> Float[np.ndarray, " sites"]:
        """log p(up)/p(down) of each site, 10⁻⁴ from certainty at the most."""
        up = np.clip(self._up, 1e-4, 1 - 1e-4)
        return np.log(up) - np.log1p(-up)

    @property
    def _up(self) -> Float[np.ndarray, " sites"]:
        return (1 + self.mean) / 2 if isinstance(self.space, Spin) else self.mean

    def rows(self, energy: AbstractEnergy) -> Float[np.ndarray, "rows ..."]:
        """Points, not of the space, whose mean f is that of data with these moments.

        m ± √(n λ_k) u_k for every eigenvector of the covariance: their means are m, their products
        `second`. The diagonal, which f does not see, is raised until no λ is negative.

        **Raises:** TypeError unless `energy` is pairwise; ValueError for another space, or if no
        distribution has these means and products of two sites that it joins.
        """
        if not isinstance(energy, AbstractPairwise):
            raise TypeError(
                "Moments fit energies of pairs, such as BoltzmannMachine and Ising, got "
                f"{type(energy).__name__}; others need the rows themselves"
            )
        if energy.space != self.space:
            raise ValueError(f"these moments are of {self.space}, the energy's of {energy.space}")
        i, j = np.asarray(energy.edges).reshape(-1, 2).T
        self._check(i, j)
        covariance = np.zeros_like(self.second)
        covariance[i, j] = covariance[j, i] = self.second[i, j] - self.mean[i] * self.mean[j]
        values, vectors = np.linalg.eigh(covariance)
        size = np.sqrt(len(values) * (values - min(values[0], 0.0)))
        steps = (vectors * size).T
        rows = np.concatenate([self.mean + steps, self.mean - steps])
        return rows.reshape(-1, *self.space.shape).astype(np.float32)

    def draw(self, num: int, *, key: Key[Array, ""]) -> Point:
        """Points of the space with these means, sites independent: where chains start."""
        low = -1.0 if isinstance(self.space, Spin) else 0.0
        u = jax.random.uniform(key, (num, len(self.mean)))
        x = jnp.where(u < jnp.asarray(self._up, float), 1, low)
        return x.reshape(num, *self.space.shape).astype(self.space.dtype)

    def _check(self, i: np.ndarray, j: np.ndarray) -> None:
        """Each pair against the bounds of Fréchet (1951) for two sites of given means."""
        pair, a, b = self.second[i, j], self.mean[i], self.mean[j]
        if isinstance(self.space, Spin):
            least, most = abs(a + b) - 1, 1 - abs(a - b)
        else:
            least, most = np.maximum(0, a + b - 1), np.minimum(a, b)
        bad = np.flatnonzero(~((pair >= least - _ROUNDING) & (pair <= most + _ROUNDING)))
        if len(bad):
            k = bad[0]
            raise ValueError(
                f"no distribution has the moments given of sites {i[k]} and {j[k]}: with means "
                f"{a[k]:.4g} and {b[k]:.4g} their product is from {least[k]:.4g} to {most[k]:.4g}, "
                f"got {pair[k]:.4g}" + (f" ({len(bad) - 1} more pairs)" if len(bad) > 1 else "")
            )
