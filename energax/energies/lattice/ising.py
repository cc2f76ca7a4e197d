"""Spins on a graph.

E(s) = −Σ_{(i,j)} J_ij s_i s_j − Σ_i h_i s_i over s_i = ±1 (Ising 1925; Wainwright & Jordan 2008,
example 3.1).
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from energax.energies._base import (
    AbstractBondEnergy,
    AbstractColouredSpins,
    AbstractNormalised,
    AbstractPairwise,
    AbstractPath,
    AbstractTiltable,
    GeometricPath,
    broadcast,
)
from energax.energies.lattice import _base
from energax.energies.lattice._base import (
    LANES,
    PairwisePath,
    count_lanes,
    draw_packed,
    grid_edges,
    is_dense,
    make_graph,
    pack,
    pair_matrix,
    starts_from,
    unpack,
)
from energax.spaces import Spin

_MOST_PACKED = 8  # neighbours a site that are counted bit by bit


class Ising(AbstractColouredSpins, AbstractBondEnergy, AbstractPairwise, AbstractTiltable):
    """E(s) = −Σ_e J_e s_i s_j − Σ_i h_i s_i on any graph, edges e = (i, j).

    Ising 1925; Wainwright & Jordan 2008, example 3.1. Sites are numbered row-major where the space
    has several axes. Sweeps over a graph of many colours (a dense one) compile
    slowly, one block a colour: `BoltzmannMachine` is for those.

    **Arguments:** `edges`: (edges, 2) site numbers, each pair once, in any order. `couplings`: J,
    (edges,) or a number. `fields`: h, (num_sites,), the shape of the space, or a number.
    `num_sites`: for a flat space, or `space`: a `Spin` of any shape. `colours`: groups of sites,
    no two of one group joined by an edge; None finds some. A large group of sites of many and of
    few neighbours is split.

    **Raises:** ValueError for an edge from a site to itself, an edge given twice, a site number out
    of range, shapes that do not fit, or two neighbours in one colour.
    """

    couplings: Float[Array, " edges"]
    fields: Float[Array, " sites"]
    edges: Int[Array, "edges 2"]
    colours: tuple[Int[Array, " _"], ...]
    neighbours: tuple[Int[Array, "_ _"], ...]
    bonds: tuple[Int[Array, "_ _"], ...]
    space: Spin

    def __init__(
        self,
        edges: Any,
        couplings: Any = 1.0,
        fields: Any = 0.0,
        *,
        num_sites: int | None = None,
        space: Spin | None = None,
        colours: Sequence | None = None,
    ):
        if (num_sites is None) == (space is None):
            raise ValueError("Ising: give either num_sites= or space=Spin(...), and not both")
        self.space = Spin((num_sites,)) if space is None else space
        count = self.space.num_sites
        graph = make_graph("Ising", edges, count, colours)
        self.edges, self.colours = graph.edges, graph.colours
        self.neighbours, self.bonds = graph.neighbours, graph.bonds
        num_edges = len(graph.edges)
        self.couplings = broadcast("Ising", couplings, (num_edges,), "couplings (one an edge)")
        fields = jnp.asarray(fields, float)
        if fields.shape == self.space.shape:
            fields = fields.reshape(-1)
        self.fields = broadcast("Ising", fields, (count,), "fields (one a site)")

    @staticmethod
    def grid(shape, coupling: Any = 1.0, field: Any = 0.0, *, periodic: bool = True) -> "Ising":
        """The lattice of `shape` on `Spin(shape)`, each site joined to the next along every axis.

        **Arguments:** `coupling`: one number. `field`: a number or `shape`. `periodic`: opposite
        ends are joined too; along a side of 2 that joins the same two sites twice, which is one
        edge of twice the coupling, and a side of 1 gets no edge.
        """
        space = Spin(shape)
        edges, times = grid_edges(space.shape, periodic)
        return Ising(edges, coupling * jnp.asarray(times, float), field, space=space)

    @property
    def bond_gains(self):
        return 2 * self.couplings

    @property
    def value_gains(self):
        return jnp.stack([-self.fields, self.fields], axis=1)

    def __call__(self, x):
        return -self.log_density_from_sites(x.reshape(-1))

    def log_density_from_sites(self, sites):
        bonds = sites[self.edges[:, 0]] * sites[self.edges[:, 1]]
        return self.fields @ sites + self.couplings @ bonds

    def log_odds(self, sites, colour):
        neighbours = self.neighbours[colour]
        # Padding points at the number after the last edge, whose coupling is 0.
        couplings = jnp.append(self.couplings, 0.0)[self.bonds[colour]]
        fields = self.fields[self.colours[colour]]
        tail = sites.ndim - 1
        fields = fields.reshape(-1, *(1,) * tail)
        degree = neighbours.shape[1]
        if degree > _base.UNROLLED:
            return 2 * (fields + jnp.einsum("nd,nd...->n...", couplings, sites[neighbours]))
        couplings = couplings.reshape(-1, degree, *(1,) * tail)
        for k in range(degree):
            fields = fields + couplings[:, k] * sites[neighbours[:, k]]
        return 2 * jnp.broadcast_to(fields, (len(neighbours), *sites.shape[1:]))

    def sweep(self, x, *, key, backwards=False):
        """As `AbstractColouredSpins.sweep`; 32 chains in a word where the model is uniform.

        That is: one coupling, one field, and as many neighbours for every site; it is looked at
        when it runs, as the parameters may change. Else, or where the number of chains is no
        multiple of 32, each spin has a float.
        """

        def plain(x):
            return super(Ising, self).sweep(x, key=key, backwards=backwards)

        degrees = {neighbours.shape[1] for neighbours in self.neighbours}
        if len(x) % LANES or len(degrees) != 1 or not 0 < max(degrees) <= _MOST_PACKED:
            return plain(x)
        uniform = jnp.all(self.couplings == self.couplings[0])
        uniform &= jnp.all(self.fields == self.fields[0])
        for bonds in self.bonds:  # padded at the end where a site has fewer neighbours
            uniform &= jnp.all(bonds[:, -1] < len(self.edges))

        def packed(x):
            return self._packed_sweep(x, max(degrees), key, backwards)

        return jax.lax.cond(uniform, packed, plain, x)

    def _packed_sweep(self, x, degree: int, key, backwards: bool):
        """A sweep where couplings, fields and the number of neighbours are the same everywhere."""
        coupling, field = self.couplings[0], self.fields[0]
        words = pack(x.reshape(len(x), -1))
        up = jnp.arange(degree + 1)
        probability = jax.nn.sigmoid(2 * (coupling * (2 * up - degree) + field))
        keys = jax.random.split(key, len(self.colours))
        order = list(enumerate(self.colours))
        for colour, members in order[::-1] if backwards else order:
            around = [words[self.neighbours[colour][:, k]] for k in range(degree)]
            new = draw_packed(around, probability, keys[colour])
            words = words.at[members].set(new, unique_indices=True)
        alike = count_lanes(~(words[self.edges[:, 0]] ^ words[self.edges[:, 1]]))
        f = coupling * (2 * alike - len(self.edges))
        # Counting costs a twentieth of a sweep, and without a field it is for nothing.
        ups = jax.lax.cond(field != 0, count_lanes, lambda w: jnp.zeros_like(alike), words)
        f = f + field * (2 * ups - len(words))
        return unpack(words, x.dtype).reshape(x.shape), f

    def site_differences(self, x):
        s = x.reshape(-1)
        odds = jnp.zeros_like(s)
        for colour, members in enumerate(self.colours):
            odds = odds.at[members].set(self.log_odds(s, colour), unique_indices=True)
        return x * odds.reshape(x.shape)

    def ensemble_log_density(self, x):
        if not is_dense(len(self.edges), self.space.num_sites):
            return super().ensemble_log_density(x)
        sites = x.reshape(len(x), -1)
        around = sites @ pair_matrix(self.edges, self.couplings, self.space.num_sites)
        return jnp.sum(sites * around, axis=-1) / 2 + sites @ self.fields

    def ensemble_site_differences(self, x):
        sites, count = x.reshape(len(x), -1), self.space.num_sites
        if is_dense(len(self.edges), count):
            around = sites @ pair_matrix(self.edges, self.couplings, count)
            return 2 * x * (around + self.fields).reshape(x.shape)
        odds = jnp.zeros_like(sites.T)  # sites first
        for colour, members in enumerate(self.colours):
            odds = odds.at[members].set(self.log_odds(sites.T, colour), unique_indices=True)
        return x * odds.T.reshape(x.shape)

    def tilt(self, field) -> "Ising":
        """The model with f(s) + field·s: the exact posterior of s under independent flips.

        **Arguments:** `field`: (num_sites,), the shape of the space, or a number.
        """
        field = jnp.asarray(field)
        field = field.reshape(-1) if field.shape == self.space.shape else field
        return eqx.tree_at(lambda e: e.fields, self, self.fields + field)

    def merged(self, other):
        """The model on the edges of both, with the sums of couplings and fields."""
        if not isinstance(other, Ising) or other.space != self.space:
            return None
        both = _base.known_edges(self, other)
        if both is None:
            return None
        edges = np.sort(np.concatenate(both), axis=1)
        edges, place = np.unique(edges, axis=0, return_inverse=True)
        couplings = jnp.concatenate([self.couplings, other.couplings])
        couplings = jnp.zeros(len(edges)).at[place.reshape(-1)].add(couplings)
        return Ising(edges, couplings, self.fields + other.fields, space=self.space)

    def tempered(self, beta) -> "Ising":
        """βE: couplings βJ and fields βh."""
        return _base.with_parameters(self, beta * self.couplings, beta * self.fields)

    def restrict(self, conditional) -> "Ising":
        """The Ising model of the free spins; bonds to the given ones become fields."""
        free = np.asarray(conditional.free)
        number = np.full(self.space.num_sites, -1)
        number[free] = np.arange(len(free))
        edges = np.asarray(self.edges)
        ends, spins = number[edges], np.asarray(conditional.given).reshape(-1)
        fields = self.fields[free]
        for near, far in ((0, 1), (1, 0)):
            bonds = np.flatnonzero((ends[:, near] >= 0) & (ends[:, far] < 0))
            pull = self.couplings[bonds] * spins[edges[bonds, far]]
            fields = fields.at[ends[bonds, near]].add(pull)
        inside = (ends >= 0).all(1)
        return Ising(ends[inside], self.couplings[inside], fields, num_sites=len(free))

    def path(self, base: AbstractNormalised) -> AbstractPath:
        """Ising models all the way where `base` has independent spins, else the geometric path."""
        if starts_from(self.space, base):
            return PairwisePath(self, base)  # type: ignore[arg-type]
        return GeometricPath(base, self)
