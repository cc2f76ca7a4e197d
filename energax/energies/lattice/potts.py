"""Sites of k states on a graph.

E(x) = −Σ_{(i,j)} J_ij [x_i = x_j] − Σ_i h_i(x_i) (Potts 1952; Wu 1982, "The Potts model", eq. 1.4).
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from energax.energies._base import AbstractBondEnergy, AbstractTiltable, broadcast
from energax.energies.lattice import _base
from energax.energies.lattice._base import (
    grid_edges,
    is_dense,
    known_edges,
    make_graph,
    pair_matrix,
    with_parameters,
)
from energax.spaces import Categorical


class Potts(AbstractBondEnergy, AbstractTiltable):
    """E(x) = −Σ_e J_e [x_i = x_j] − Σ_i h_i(x_i) on any graph, edges e = (i, j), k values a site.

    Potts 1952; Wu 1982, eq. 1.4. For k = 2 it is the Ising model of couplings J/2. Sites are
    numbered row-major where the space has several axes.

    **Arguments:** `edges`: (edges, 2) site numbers, each pair once, in any order. `couplings`: J,
    (edges,) or a number. `fields`: h, (num_sites, k), the sites' shape and k, or a number. `space`:
    a `Categorical` of any shape, index-coded or one-hot. `colours`: groups of sites, no two of one
    group joined by an edge; None finds some. A large group of sites of many and of few neighbours
    is split.

    **Raises:** ValueError for an edge from a site to itself, an edge given twice, a site number out
    of range, shapes that do not fit, or two neighbours in one colour; TypeError for another space.
    """

    couplings: Float[Array, " edges"]
    fields: Float[Array, "sites k"]
    edges: Int[Array, "edges 2"]
    colours: tuple[Int[Array, " _"], ...]
    neighbours: tuple[Int[Array, "_ _"], ...]
    bonds: tuple[Int[Array, "_ _"], ...]
    space: Categorical

    def __init__(
        self,
        edges: Any,
        couplings: Any = 1.0,
        fields: Any = 0.0,
        *,
        space: Categorical,
        colours: Sequence | None = None,
    ):
        if not isinstance(space, Categorical):
            raise TypeError(f"Potts: expected space=Categorical(sites, k), got {space!r}")
        self.space = space
        graph = make_graph("Potts", edges, space.num_sites, colours)
        self.edges, self.colours = graph.edges, graph.colours
        self.neighbours, self.bonds = graph.neighbours, graph.bonds
        num_edges = len(graph.edges)
        self.couplings = broadcast("Potts", couplings, (num_edges,), "couplings (one an edge)")
        shape = (space.num_sites, space.num_values)
        fields = jnp.asarray(fields, float)
        if fields.shape == (*space.sites, space.num_values):
            fields = fields.reshape(shape)
        self.fields = broadcast("Potts", fields, shape, "fields (one a site and value)")

    @staticmethod
    def grid(
        shape,
        num_values: int,
        coupling: Any = 1.0,
        field: Any = 0.0,
        *,
        periodic: bool = True,
        encoding: str = "index",
    ) -> "Potts":
        """The lattice of `shape`, each site joined to the next along every axis.

        **Arguments:** `coupling`: one number. `field`: a number or (*shape, k). `periodic`:
        opposite ends are joined too; along a side of 2 that joins the same two sites twice, which
        is one edge of twice the coupling, and a side of 1 gets no edge.
        """
        space = Categorical(shape, num_values, encoding)
        edges, times = grid_edges(space.sites, periodic)
        return Potts(edges, coupling * jnp.asarray(times, float), field, space=space)

    @property
    def bond_gains(self):
        return self.couplings

    @property
    def value_gains(self):
        return self.fields

    def __call__(self, x):
        if self.space.encoding == "index":
            return -self._log_density(x.reshape(-1))
        rows = x.reshape(self.fields.shape)  # of floats, which gradients go through
        alike = jnp.sum(rows[self.edges[:, 0]] * rows[self.edges[:, 1]], axis=-1)
        return -(jnp.sum(self.fields * rows) + self.couplings @ alike)

    def _log_density(self, sites: Int[Array, "sites ..."]) -> Float[Array, "..."]:
        """f of values by number, one flat point or an ensemble, sites first."""
        alike = (sites[self.edges[:, 0]] == sites[self.edges[:, 1]]).astype(self.couplings.dtype)
        columns = sites.reshape(len(sites), -1)
        fields = jnp.take_along_axis(self.fields, columns, axis=1).sum(0)
        return fields.reshape(sites.shape[1:]) + self.couplings @ alike

    def _sites(self, x) -> Int[Array, "sites chains"]:
        return self.space.decode(x).reshape(len(x), -1).T

    def ensemble_log_density(self, x):
        if not is_dense(len(self.edges), len(self.fields)):
            return self._log_density(self._sites(x))
        onehot, around = self._all_pairs(x)
        return jnp.sum(onehot * (around / 2 + self.fields), axis=(-2, -1))

    def _all_pairs(self, x) -> tuple[Float[Array, "rows sites k"], Float[Array, "rows sites k"]]:
        """(x one-hot, Σ_j J_ij [x_j = a] for each value a)."""
        count, values = self.fields.shape
        onehot = jax.nn.one_hot(self._sites(x).T, values, dtype=self.fields.dtype)
        matrix = pair_matrix(self.edges, self.couplings, count)
        return onehot, jnp.einsum("rjk,ij->rik", onehot, matrix)

    def logits(self, sites: Int[Array, "sites ..."], colour: int) -> Float[Array, "n k ..."]:
        """log p(x_i = j | the others) but for a constant, for the sites i of `colours[colour]`.

        `sites`: values by number, one flat point or an ensemble, sites first.
        """
        neighbours = self.neighbours[colour]
        # Padding points at the number after the last edge, whose coupling is 0.
        couplings = jnp.append(self.couplings, 0.0)[self.bonds[colour]]
        fields = self.fields[self.colours[colour]]
        tail = (1,) * (sites.ndim - 1)
        values = jnp.arange(self.space.num_values).reshape(-1, *tail)
        out = jnp.broadcast_to(
            fields.reshape(*fields.shape, *tail), (*fields.shape, *sites.shape[1:])
        )

        def add(out, column):
            neighbour, coupling = column
            alike = sites[neighbour][:, None] == values
            return out + jnp.where(alike, coupling.reshape(-1, 1, *tail), 0.0), None

        columns = neighbours.T, couplings.T
        if len(neighbours.T) <= _base.UNROLLED:
            for k in range(len(neighbours.T)):
                out, _ = add(out, (columns[0][k], columns[1][k]))
            return out
        return jax.lax.scan(add, out, columns)[0]

    def sweep(self, x, *, key, backwards=False):
        sites = self._sites(x)
        keys = jax.random.split(key, len(self.colours))
        order = list(enumerate(self.colours))
        for colour, members in order[::-1] if backwards else order:
            logits = self.logits(sites, colour)
            weights = jnp.exp(logits - jnp.max(logits, axis=1, keepdims=True))
            below = jnp.cumsum(weights, axis=1)
            u = jax.random.uniform(keys[colour], below[:, -1].shape, below.dtype)
            # The first value whose cumulated weight is above u · total, u < 1
            new = jnp.sum(below[:, :-1] <= (u * below[:, -1])[:, None], axis=1)
            sites = sites.at[members].set(new.astype(sites.dtype), unique_indices=True)
        new = self.space.encode(sites.T.reshape(len(x), *self.space.sites))
        return new, self._log_density(sites)

    def site_differences(self, x):
        sites = self.space.decode(x).reshape(-1)
        logits = jnp.zeros_like(self.fields)
        for colour, members in enumerate(self.colours):
            logits = logits.at[members].set(self.logits(sites, colour), unique_indices=True)
        here = jnp.take_along_axis(logits, sites[:, None], axis=1)
        return (here - logits).reshape(*self.space.sites, -1)

    def ensemble_site_differences(self, x):
        sites, (count, values) = self._sites(x), self.fields.shape
        if is_dense(len(self.edges), count):
            onehot, around = self._all_pairs(x)
            logits = around + self.fields
            here = jnp.sum(logits * onehot, axis=-1, keepdims=True)
            return (here - logits).reshape(len(x), *self.space.sites, values)
        logits = jnp.zeros((count, values, len(x)), self.fields.dtype)
        for colour, members in enumerate(self.colours):
            logits = logits.at[members].set(self.logits(sites, colour), unique_indices=True)
        here = jnp.take_along_axis(logits, sites[:, None], axis=1)
        return jnp.moveaxis(here - logits, -1, 0).reshape(len(x), *self.space.sites, values)

    def tilt(self, field) -> "Potts":
        """The model with f(x) + Σ_i field_i(x_i).

        **Arguments:** `field`: (num_sites, k), the sites' shape and k, or a number.
        """
        field = jnp.asarray(field)
        field = field.reshape(self.fields.shape) if field.ndim else field
        return eqx.tree_at(lambda e: e.fields, self, self.fields + field)

    def merged(self, other):
        """The model with the sums of couplings and fields, where both have the same edges."""
        if not isinstance(other, Potts) or other.space != self.space:
            return None
        edges = known_edges(self, other)
        if edges is None or not np.array_equal(edges[0], edges[1]):
            return None
        couplings, fields = self.couplings + other.couplings, self.fields + other.fields
        return with_parameters(self, couplings, fields)

    def tempered(self, beta) -> "Potts":
        """βE: couplings βJ and fields βh."""
        return with_parameters(self, beta * self.couplings, beta * self.fields)
