"""What pairwise energies on graphs share: their matrix of couplings, their path from independent
sites, their parameters replaced."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from energax.energies._base import AbstractBernoulli, AbstractEnergy, AbstractPairwise, AbstractPath
from energax.spaces import Spin

DENSE = 256  # pairs of sites an edge up to which one product with all pairs is the faster


def is_dense(num_edges: int, num_sites: int) -> bool:
    """Whether the sums over neighbours are best made by a matrix of all pairs."""
    return num_sites**2 <= DENSE * num_edges


def pair_matrix(
    edges: Int[Array, "edges 2"], couplings: Float[Array, " edges"], num_sites: int
) -> Float[Array, "sites sites"]:
    """J with J_ij = J_ji the coupling of edge (i, j), 0 where there is none."""
    i, j = edges.T
    matrix = jnp.zeros((num_sites, num_sites), couplings.dtype)
    return (
        matrix.at[i, j]
        .set(couplings, unique_indices=True)
        .at[j, i]
        .set(couplings, unique_indices=True)
    )


class PairwisePath(AbstractPath):
    """Models with couplings βJ and fields (1 − β)h₀ + βh, from independent sites of fields h₀.

    The geometric path (Neal 2001, eq. 3). Z₀ = Π_i 2 cosh h₀_i on spins, Π_i (1 + exp h₀_i) on
    bits.
    """

    model: AbstractPairwise
    base: AbstractBernoulli

    @property
    def _base_fields(self) -> Float[Array, " sites"]:
        logits = self.base.logits.reshape(-1)
        return logits / 2 if isinstance(self.base.space, Spin) else logits

    @property
    def log_z0(self):
        h = self._base_fields
        return jnp.sum(jnp.logaddexp(h, -h if isinstance(self.base.space, Spin) else 0.0))

    def at(self, beta):
        fields = (1 - beta) * self._base_fields + beta * self.model.fields
        new = beta * self.model.couplings, fields
        return eqx.tree_at(lambda e: (e.couplings, e.fields), self.model, new)

    def increment(self, x, b0, b1):
        return (b0 - b1) * (self.model(x) + x.reshape(-1) @ self._base_fields)

    @property
    def is_linear(self):
        return True

    def start_log_density(self, x):
        return x.reshape(-1) @ self._base_fields

    def draw(self, num, *, key):
        return self.base.draw(num, key=key)


def with_parameters(energy: Any, couplings: Any, fields: Any) -> Any:
    """`energy` on the same graph with other couplings and fields."""
    return eqx.tree_at(lambda e: (e.couplings, e.fields), energy, (couplings, fields))


def known_edges(*energies: Any) -> list[np.ndarray] | None:
    """Edges of each energy; None inside a compiled function that they are arguments of."""
    try:
        return [np.asarray(energy.edges) for energy in energies]
    except jax.errors.TracerArrayConversionError:
        return None


def starts_from(space: Any, base: AbstractEnergy) -> bool:
    """Whether `base` has independent sites on the two-valued `space`: a `PairwisePath` exists."""
    return (
        isinstance(base, AbstractBernoulli)
        and type(base.space) is type(space)
        and base.space.shape == space.shape
    )
