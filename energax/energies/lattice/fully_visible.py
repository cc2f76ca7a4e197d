"""Two-valued units, every one joined to every other.

E(x) = −½ xᵀJx − h·x (Ackley, Hinton & Sejnowski 1985, eq. 1). On spins it is the Ising model of the
complete graph, in matrix products instead of a block a colour.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from energax.energies._base import (
    AbstractColouredEnergy,
    AbstractNormalised,
    AbstractPairwise,
    AbstractPath,
    AbstractTiltable,
    GeometricPath,
    base_rates,
    broadcast,
)
from energax.energies.lattice._base import PairwisePath, starts_from, with_parameters
from energax.spaces import AbstractSpace, Binary, Spin


class BoltzmannMachine(AbstractColouredEnergy, AbstractPairwise, AbstractTiltable):
    """E(x) = −½ xᵀJx − h·x, a Boltzmann machine without hidden units (fully visible).

    Ackley, Hinton & Sejnowski 1985, "A learning algorithm for Boltzmann machines", eq. 1. In
    neuroscience it is the pairwise maximum-entropy model (Schneidman et al. 2006). J is symmetric
    with zero diagonal; what is trained are its n(n − 1)/2 `couplings`, row by row of the upper
    triangle, and the `fields`. Each J_ij is the coupling of the edge (i, j) of an `Ising` model.

    **Arguments:** `coupling`: J, (units, units). `fields`: h, (units,) or a number. `space`: `Spin`
    or `Binary`, flat; None takes spins.

    **Raises:** ValueError unless J is square, symmetric and zero on its diagonal; TypeError for
    another space.
    """

    couplings: Float[Array, " pairs"]
    fields: Float[Array, " units"]
    space: Spin | Binary

    def __init__(self, coupling: Any, fields: Any = 0.0, *, space: AbstractSpace | None = None):
        matrix = np.asarray(coupling)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
            raise ValueError(
                f"BoltzmannMachine: expected coupling of shape (units, units), got {matrix.shape}"
            )
        if not np.array_equal(matrix, matrix.T) or np.any(np.diag(matrix)):
            raise ValueError(
                "BoltzmannMachine: expected a symmetric coupling with zeros on its diagonal (a "
                "unit's own coupling is a constant on spins, a field on bits); take "
                "(J + J.T) / 2 without its diagonal"
            )
        units = len(matrix)
        space = Spin((units,)) if space is None else space
        if not isinstance(space, (Spin, Binary)):
            raise TypeError(f"BoltzmannMachine: expected a Spin or Binary space, got {space!r}")
        if space.shape != (units,):
            raise ValueError(
                f"BoltzmannMachine: a coupling of {units} units needs a space of shape "
                f"({units},), got {space}"
            )
        self.space = space
        self.couplings = jnp.asarray(matrix[np.triu_indices(units, 1)], float)
        self.fields = broadcast("BoltzmannMachine", fields, (units,), "fields (one a unit)")

    @staticmethod
    def zeros(space: Spin | Binary, data: Any = None) -> "BoltzmannMachine":
        """One to start training from: J = 0, and h from the base rates of `data`.

        p(x) is then that of independent units, half a row of each value added so that h is finite.

        **Arguments:** `data`: (rows, units), or `Moments`; None leaves h = 0.

        **Raises:** ValueError if `data` does not suit the space.
        """
        fields = np.zeros(space.num_sites)
        if data is not None:
            log_odds = getattr(data, "log_odds", None)  # of Moments
            if log_odds is None:
                rows = space.validate(data, batch=True, name="data")
                log_odds = np.diff(base_rates(rows > 0, 2))[:, 0]
            fields = log_odds / 2 if isinstance(space, Spin) else log_odds
        return BoltzmannMachine(np.zeros((space.num_sites,) * 2), fields, space=space)

    @property
    def coupling(self) -> Float[Array, "units units"]:
        """J, symmetric with zero diagonal."""
        units = self.space.num_sites
        upper = np.triu_indices(units, 1)
        place = np.full((units, units), len(upper[0]))  # the diagonal's: after the last pair
        place[upper] = np.arange(len(upper[0]))
        place = np.minimum(place, place.T)
        return jnp.append(self.couplings, 0.0)[place]

    @property
    def edges(self):  # type: ignore[override]
        return np.stack(np.triu_indices(self.space.num_sites, 1), axis=1)

    @property
    def colours(self):  # type: ignore[override]
        return tuple(np.arange(self.space.num_sites, dtype=np.int32)[:, None])

    def __call__(self, x):
        return -(x @ (self.coupling @ x) / 2 + self.fields @ x)

    def ensemble_log_density(self, x):
        return jnp.sum(x * (x @ self.coupling), axis=-1) / 2 + x @ self.fields

    def site_differences(self, x):
        return self.ensemble_site_differences(x[None])[0]

    def ensemble_site_differences(self, x):
        change = -2 * x if isinstance(self.space, Spin) else 1 - 2 * x
        return -change * (x @ self.coupling + self.fields)

    def sweep(self, x, *, key, backwards=False):
        units, is_spin = self.space.num_sites, isinstance(self.space, Spin)
        coupling = self.coupling
        down, gain = (-1.0, 2.0) if is_spin else (0.0, 1.0)
        u = jax.random.uniform(key, (units, len(x)), x.dtype)

        def redraw(step, sites):  # (units, chains): a unit's chains are then one row
            unit = units - 1 - step if backwards else step
            log_odds = gain * (coupling[unit] @ sites + self.fields[unit])
            return sites.at[unit].set(jnp.where(u[unit] < jax.nn.sigmoid(log_odds), 1.0, down))

        new = jax.lax.fori_loop(0, units, redraw, x.T).T
        return new, self.ensemble_log_density(new)

    def merged(self, other):
        """The machine whose couplings and fields are the sums of both."""
        if not isinstance(other, BoltzmannMachine) or other.space != self.space:
            return None
        couplings, fields = self.couplings + other.couplings, self.fields + other.fields
        return with_parameters(self, couplings, fields)

    def tempered(self, beta) -> "BoltzmannMachine":
        """βE: couplings βJ and fields βh."""
        return with_parameters(self, beta * self.couplings, beta * self.fields)

    def tilt(self, field) -> "BoltzmannMachine":
        """The machine with f(x) + field·x: the exact posterior of x under independent flips.

        **Arguments:** `field`: (units,) or a number.
        """
        return eqx.tree_at(lambda e: e.fields, self, self.fields + field)

    def restrict(self, conditional) -> "BoltzmannMachine":
        """The machine of the free units; couplings to the given ones become fields."""
        free = np.asarray(conditional.free)
        given = jnp.asarray(conditional.given).at[free].set(0.0)
        coupling = self.coupling
        fields = (self.fields + coupling @ given)[free]
        inside = coupling[np.ix_(free, free)]
        return BoltzmannMachine(inside, fields, space=type(self.space)((len(free),)))

    def path(self, base: AbstractNormalised) -> AbstractPath:
        """Boltzmann machines all the way from independent units, else the geometric path."""
        if starts_from(self.space, base):
            return PairwisePath(self, base)  # type: ignore[arg-type]
        return GeometricPath(base, self)
