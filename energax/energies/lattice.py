"""Spins on a graph, and the colourings that let many of them be redrawn at once.

E(s) = −Σ_{(i,j)} J_ij s_i s_j − Σ_i h_i s_i over s_i = ±1 (Ising 1925; Wainwright & Jordan 2008,
example 3.1).
"""

import heapq
from collections import deque
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from energax.energies._base import (
    AbstractBernoulli,
    AbstractColouredEnergy,
    AbstractNormalised,
    AbstractPath,
    AbstractTiltable,
    GeometricPath,
)
from energax.spaces import Spin

_UNROLLED = 16  # neighbours a site up to which their rows are added one by one


class Ising(AbstractColouredEnergy, AbstractTiltable):
    """E(s) = −Σ_e J_e s_i s_j − Σ_i h_i s_i on any graph, edges e = (i, j).

    Ising 1925; Wainwright & Jordan 2008, example 3.1. Sites are numbered row-major where the space
    has several axes. A graph of many colours (a dense one) compiles slowly: one block a colour.

    **Arguments:** `edges`: (edges, 2) site numbers, each pair once, in any order. `couplings`: J,
    (edges,) or a number. `fields`: h, (num_sites,), the shape of the space, or a number.
    `num_sites`: for a flat space, or `space`: a `Spin` of any shape. `colours`: groups of sites,
    no two of one group joined by an edge; None finds some.

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
        pairs = _checked_edges(edges, count)
        self.edges = jnp.asarray(pairs, jnp.int32)
        self.couplings = _broadcast(couplings, (len(pairs),), "couplings (one an edge)")
        fields = jnp.asarray(fields, float)
        if fields.shape == self.space.shape:
            fields = fields.reshape(-1)
        self.fields = _broadcast(fields, (count,), "fields (one a site)")
        groups = _colouring(pairs, count) if colours is None else [*map(np.asarray, colours)]
        _check_colours(groups, pairs, count)
        self.colours = tuple(jnp.asarray(group, jnp.int32) for group in groups)
        lists = [_neighbour_lists(group, pairs, count) for group in groups]
        self.neighbours = tuple(jnp.asarray(sites, jnp.int32) for sites, _ in lists)
        self.bonds = tuple(jnp.asarray(bonds, jnp.int32) for _, bonds in lists)

    @staticmethod
    def grid(shape, coupling: Any = 1.0, field: Any = 0.0, *, periodic: bool = True) -> "Ising":
        """The lattice of `shape` on `Spin(shape)`, each site joined to the next along every axis.

        **Arguments:** `coupling`: one number. `field`: a number or `shape`. `periodic`: opposite
        ends are joined too; along a side of 2 that joins the same two sites twice, which is one
        edge of twice the coupling, and a side of 1 gets no edge.
        """
        space = Spin(shape)
        number = np.arange(space.num_sites).reshape(space.shape)
        pairs = []
        for axis, side in enumerate(space.shape):
            ends = np.stack([number, np.roll(number, -1, axis)], -1)
            if side > 1:
                ends = ends if periodic else np.delete(ends, side - 1, axis)
                pairs.append(ends.reshape(-1, 2))
        joined = np.sort(np.concatenate([np.zeros((0, 2), int), *pairs]), axis=1)
        edges, times = np.unique(joined, axis=0, return_counts=True)
        return Ising(edges, coupling * jnp.asarray(times, float), field, space=space)

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
        if degree > _UNROLLED:
            return 2 * (fields + jnp.einsum("nd,nd...->n...", couplings, sites[neighbours]))
        couplings = couplings.reshape(-1, degree, *(1,) * tail)
        for k in range(degree):
            fields = fields + couplings[:, k] * sites[neighbours[:, k]]
        return 2 * jnp.broadcast_to(fields, (len(neighbours), *sites.shape[1:]))

    def site_differences(self, x):
        s = x.reshape(-1)
        odds = jnp.zeros_like(s)
        for colour, members in enumerate(self.colours):
            odds = odds.at[members].set(self.log_odds(s, colour), unique_indices=True)
        return x * odds.reshape(x.shape)

    def tilt(self, field) -> "Ising":
        """The model with f(s) + field·s: the exact posterior of s under independent flips.

        **Arguments:** `field`: (num_sites,), the shape of the space, or a number.
        """
        field = jnp.asarray(field)
        field = field.reshape(-1) if field.shape == self.space.shape else field
        return eqx.tree_at(lambda e: e.fields, self, self.fields + field)

    def path(self, base: AbstractNormalised) -> AbstractPath:
        """Ising models all the way where `base` has independent spins, else the geometric path."""
        if (
            isinstance(base, AbstractBernoulli)
            and isinstance(base.space, Spin)
            and base.space.shape == self.space.shape
        ):
            return IsingPath(self, base)
        return GeometricPath(base, self)


class IsingPath(AbstractPath):
    """Ising models with couplings βJ and fields (1 − β)h₀ + βh: the geometric path (Neal 2001, eq.
    3) from independent spins of fields h₀, Z₀ = Π_i 2 cosh h₀_i.
    """

    ising: Ising
    base: AbstractBernoulli

    @property
    def _base_fields(self) -> Float[Array, " sites"]:
        return self.base.logits.reshape(-1) / 2

    @property
    def log_z0(self):
        return jnp.sum(jnp.logaddexp(self._base_fields, -self._base_fields))

    def at(self, beta):
        fields = (1 - beta) * self._base_fields + beta * self.ising.fields
        return eqx.tree_at(
            lambda e: (e.couplings, e.fields), self.ising, (beta * self.ising.couplings, fields)
        )

    def increment(self, x, b0, b1):
        return (b0 - b1) * (self.ising(x) + x.reshape(-1) @ self._base_fields)

    def draw(self, num, *, key):
        return self.base.draw(num, key=key)


def _broadcast(value, shape: tuple[int, ...], name: str) -> Float[Array, "..."]:
    value = jnp.asarray(value, float)
    if value.shape not in ((), shape):
        raise ValueError(f"Ising: expected {name} of shape {shape} or a number, got {value.shape}")
    return jnp.broadcast_to(value, shape)


def _checked_edges(edges, num_sites: int) -> np.ndarray:
    pairs = np.asarray(edges)
    pairs = np.zeros((0, 2), int) if pairs.size == 0 else pairs
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu":
        raise ValueError(
            "Ising: expected edges as integers of shape (edges, 2), a pair of site numbers a row, "
            f"got shape {pairs.shape}, dtype {pairs.dtype}"
        )
    pairs = pairs.astype(int)
    _refuse_edges(
        pairs,
        (pairs.min(axis=1) < 0) | (pairs.max(axis=1) >= num_sites),
        f"names a site out of range; sites are numbered 0 to {num_sites - 1}",
    )
    _refuse_edges(
        pairs,
        pairs[:, 0] == pairs[:, 1],
        "joins a site to itself, which only adds a constant; leave it out",
    )
    _, first = np.unique(np.sort(pairs, axis=1), axis=0, return_index=True)
    _refuse_edges(
        pairs,
        ~np.isin(np.arange(len(pairs)), first),
        "is given before (in either order); give it once with the sum of its couplings",
    )
    return pairs


def _refuse_edges(pairs: np.ndarray, bad: np.ndarray, why: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(f"Ising: edge {row}, {tuple(pairs[row].tolist())}, {why}")


def _neighbour_lists(
    members: np.ndarray, pairs: np.ndarray, num_sites: int
) -> tuple[np.ndarray, np.ndarray]:
    """(neighbours, bonds) of each member, both (members, most neighbours); the padding is site 0
    over the edge after the last."""
    ends = np.concatenate([pairs, pairs[:, ::-1]])
    bond = np.tile(np.arange(len(pairs)), 2)
    order = np.argsort(ends[:, 0], kind="stable")
    ends, bond = ends[order], bond[order]
    start = np.searchsorted(ends[:, 0], np.arange(num_sites + 1))
    degree = np.diff(start)[members]
    slot = np.arange(degree.max(initial=0))
    used = slot < degree[:, None]
    place = np.where(used, start[members][:, None] + slot, 0)
    if len(pairs) == 0:
        return np.zeros((len(members), 0), int), np.zeros((len(members), 0), int)
    return np.where(used, ends[place, 1], 0), np.where(used, bond[place], len(pairs))


def _check_colours(groups: list[np.ndarray], pairs: np.ndarray, num_sites: int) -> None:
    """Raises ValueError unless every site has one colour and no edge lies within a colour."""
    joined = np.concatenate([np.zeros(0, int), *groups])
    if joined.dtype.kind not in "iu" or not np.array_equal(np.sort(joined), np.arange(num_sites)):
        raise ValueError(
            f"Ising: expected colours that hold each site 0 to {num_sites - 1} exactly once; some "
            "are missing, repeated or out of range"
        )
    colour = np.empty(num_sites, int)
    for number, group in enumerate(groups):
        colour[group] = number
    same = colour[pairs[:, 0]] == colour[pairs[:, 1]]
    if same.any():
        i, j = pairs[np.argmax(same)].tolist()
        raise ValueError(
            f"Ising: sites {i} and {j} are neighbours but share colour {colour[i]}; redrawn at "
            "once they would lose their correlation. Put them in different colours, or leave "
            "colours= out to have some found"
        )


def _colouring(pairs: np.ndarray, num_sites: int) -> list[np.ndarray]:
    """Two colours by breadth-first search where the graph is bipartite, else as `_dsatur` finds."""
    neighbours: list[list[int]] = [[] for _ in range(num_sites)]
    for i, j in pairs.tolist():
        neighbours[i].append(j)
        neighbours[j].append(i)
    colour = _two_colours(neighbours)
    if colour is None:
        colour = _dsatur(neighbours)
    colour = np.asarray(colour)
    return [np.flatnonzero(colour == c) for c in range(colour.max() + 1)]


def _two_colours(neighbours: list[list[int]]) -> list[int] | None:
    colour = [-1] * len(neighbours)
    for root in range(len(neighbours)):
        if colour[root] >= 0:
            continue
        colour[root] = 0
        queue = deque([root])
        while queue:
            site = queue.popleft()
            for other in neighbours[site]:
                if colour[other] < 0:
                    colour[other] = 1 - colour[site]
                    queue.append(other)
                elif colour[other] == colour[site]:
                    return None
    return colour


def _dsatur(neighbours: list[list[int]]) -> list[int]:
    """Greedy colouring, next the site that sees most colours, then of most neighbours.

    Brélaz 1979, "New methods to color the vertices of a graph".
    """
    colour = [-1] * len(neighbours)
    seen: list[set[int]] = [set() for _ in neighbours]
    heap = [(0, -len(others), site) for site, others in enumerate(neighbours)]
    heapq.heapify(heap)
    while heap:
        saturation, _, site = heapq.heappop(heap)
        if colour[site] >= 0 or -saturation != len(seen[site]):
            continue  # coloured since, or an outdated entry
        colour[site] = next(c for c in range(len(seen[site]) + 1) if c not in seen[site])
        for other in neighbours[site]:
            if colour[other] < 0 and colour[site] not in seen[other]:
                seen[other].add(colour[site])
                heapq.heappush(heap, (-len(seen[other]), -len(neighbours[other]), other))
    return colour
