"""What exponential families share: E from η and T, moments from A, and checks of what comes in."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

from energax.energies._base import AbstractNormalised
from energax.spaces import AbstractSpace, Point


class AbstractExponentialFamily(AbstractNormalised):
    """E(x) = −⟨η, T(x)⟩ − log h(x), log Z = A(η) (Wainwright & Jordan 2008, eq. 3.5).

    `eta` is what `fit` trains: an array, or a dict with one array for each statistic. A is +∞
    outside the natural parameter space. Every coordinate of x has its own parameters, unless the
    family says otherwise.
    """

    eta: eqx.AbstractVar[PyTree]

    @abstractmethod
    def sufficient_statistics(self, x: Point) -> PyTree:
        """T(x) of one point, of the structure of `eta`."""

    def log_base_measure(self, x: Point) -> Float[Array, ""]:
        """log h(x), 0 unless the family says otherwise."""
        return jnp.zeros(())

    @abstractmethod
    def log_partition(self, eta: PyTree) -> Float[Array, ""]:
        """A(η) = log ∫ h(x) exp(⟨η, T(x)⟩) dx."""

    @classmethod
    @abstractmethod
    def _space_of(cls, shape: tuple[int, ...], given: AbstractSpace | None) -> AbstractSpace:
        """The space of points of `shape`; `given` by the user where the shape does not tell it."""

    @classmethod
    @abstractmethod
    def _fit(cls, rows: np.ndarray, space: Any) -> "AbstractExponentialFamily":
        """The maximum-likelihood member for float64 rows (num, *event) of `space`."""

    @property
    def mean_parameters(self) -> PyTree:
        """E[T(x)] = ∇A(η), of the structure of `eta`."""
        return jax.grad(self.log_partition)(self.eta)

    @classmethod
    def fit_moments(cls, data: Any, space: AbstractSpace | None = None):
        """Maximum likelihood from rows (num, *event): the member with E[T(x)] = mean of T.

        **Arguments:** `space`: only where the shape of the rows does not tell it (categories).

        **Raises:** ValueError for rows outside the support, and where no maximum exists (a column
        without variance, a value never seen, fewer rows than a covariance needs).
        """
        given, space = space, cls._space_of(np.shape(data)[1:], space)
        if given is not None and not eqx.tree_equal(given, space):
            raise ValueError(f"{cls.__name__} of such rows lives on {space}, got {given}")
        space.validate(data, batch=True, name="data")
        return cls._fit(np.asarray(data, np.float64), space)

    def __call__(self, x):
        terms = jax.tree.map(lambda e, t: jnp.sum(e * t), self.eta, self.sufficient_statistics(x))
        return -jnp.stack(jax.tree.leaves(terms)).sum() - self.log_base_measure(x)

    @property
    def log_z(self):
        return self.log_partition(self.eta)


def parameters(**named: Any) -> list[Array]:
    """Float arrays broadcast against each other, in the order given; all but tracers are finite."""
    arrays = {name: jnp.asarray(value, float) for name, value in named.items()}
    for name, array in arrays.items():
        if not isinstance(array, Tracer) and not np.isfinite(array).all():
            raise ValueError(f"{name}: expected finite numbers, got {array}")
    try:
        return list(jnp.broadcast_arrays(*arrays.values()))
    except ValueError as error:
        shapes = {name: array.shape for name, array in arrays.items()}
        raise ValueError(f"parameters of shapes {shapes} do not broadcast") from error


def positive(**named: Any) -> list[Array]:
    """As `parameters`, and all but tracers are above 0."""
    arrays = parameters(**named)
    for name, array in zip(named, arrays, strict=True):
        if not isinstance(array, Tracer) and not (np.asarray(array) > 0).all():
            raise ValueError(f"{name}: expected positive numbers, got {array}")
    return arrays


def refuse(bad: Any, reason: str) -> None:
    """Raises for data without a maximum-likelihood fit; `bad` marks the coordinates."""
    bad = np.asarray(bad)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        where = f" (first at coordinate {first}, {int(bad.sum())} in all)" if first else ""
        raise ValueError(f"data: {reason}{where}")


CONSTANT = "no finite maximum for a column without variance; remove it, or use fitted_base"
