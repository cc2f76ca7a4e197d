"""Graphs of sites: their edges checked, and colourings that let many sites be redrawn at once."""

import dataclasses
import heapq
import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt32

from energax.energies._base import (
    AbstractBernoulli,
    AbstractEnergy,
    AbstractPairwise,
    AbstractPath,
)
from energax.spaces import Spin

UNROLLED = 16  # neighbours a site up to which their rows are added one by one
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


@dataclasses.dataclass(frozen=True)
class Graph:
    """What an energy on a graph keeps: edges, groups of sites that no edge joins, and the
    neighbours of the sites of each group with the numbers of the edges to them."""

    edges: Int[Array, "edges 2"]
    colours: tuple[Int[Array, " _"], ...]
    neighbours: tuple[Int[Array, "_ _"], ...]
    bonds: tuple[Int[Array, "_ _"], ...]


def make_graph(name: str, edges: Any, num_sites: int, colours: Sequence | None) -> Graph:
    """Edges and colours checked for the energy `name`; None finds colours.

    **Raises:** ValueError for an edge from a site to itself, an edge given twice, a site number out
    of range, or two neighbours in one colour.
    """
    pairs = _checked_edges(name, edges, num_sites)
    groups = _colouring(pairs, num_sites) if colours is None else [*map(np.asarray, colours)]
    _check_colours(name, groups, pairs, num_sites)
    lists = [_neighbour_lists(group, pairs, num_sites) for group in groups]
    return Graph(
        jnp.asarray(pairs, jnp.int32),
        tuple(jnp.asarray(group, jnp.int32) for group in groups),
        tuple(jnp.asarray(sites, jnp.int32) for sites, _ in lists),
        tuple(jnp.asarray(bonds, jnp.int32) for _, bonds in lists),
    )


def grid_edges(shape: tuple[int, ...], periodic: bool) -> tuple[np.ndarray, np.ndarray]:
    """(edges, times): each site of the lattice joined to the next along every axis.

    `periodic`: opposite ends are joined too; along a side of 2 that joins the same two sites twice,
    which is one edge with `times` 2, and a side of 1 gets no edge.
    """
    number = np.arange(math.prod(shape)).reshape(shape)
    pairs = []
    for axis, side in enumerate(shape):
        ends = np.stack([number, np.roll(number, -1, axis)], -1)
        if side > 1:
            ends = ends if periodic else np.delete(ends, side - 1, axis)
            pairs.append(ends.reshape(-1, 2))
    joined = np.sort(np.concatenate([np.zeros((0, 2), int), *pairs]), axis=1)
    return np.unique(joined, axis=0, return_counts=True)


def _checked_edges(name: str, edges, num_sites: int) -> np.ndarray:
    pairs = np.asarray(edges)
    pairs = np.zeros((0, 2), int) if pairs.size == 0 else pairs
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu":
        raise ValueError(
            f"{name}: expected edges as integers of shape (edges, 2), a pair of site numbers a "
            f"row, got shape {pairs.shape}, dtype {pairs.dtype}"
        )
    pairs = pairs.astype(int)
    _refuse_edges(
        name,
        pairs,
        (pairs.min(axis=1) < 0) | (pairs.max(axis=1) >= num_sites),
        f"names a site out of range; sites are numbered 0 to {num_sites - 1}",
    )
    _refuse_edges(
        name,
        pairs,
        pairs[:, 0] == pairs[:, 1],
        "joins a site to itself, which only adds a constant; leave it out",
    )
    _, first = np.unique(np.sort(pairs, axis=1), axis=0, return_index=True)
    _refuse_edges(
        name,
        pairs,
        ~np.isin(np.arange(len(pairs)), first),
        "is given before (in either order); give it once with the sum of its couplings",
    )
    return pairs


def _refuse_edges(name: str, pairs: np.ndarray, bad: np.ndarray, why: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(f"{name}: edge {row}, {tuple(pairs[row].tolist())}, {why}")


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


def _check_colours(name: str, groups: list[np.ndarray], pairs: np.ndarray, num_sites: int) -> None:
    """Raises ValueError unless every site has one colour and no edge lies within a colour."""
    joined = np.concatenate([np.zeros(0, int), *groups])
    if joined.dtype.kind not in "iu" or not np.array_equal(np.sort(joined), np.arange(num_sites)):
        raise ValueError(
            f"{name}: expected colours that hold each site 0 to {num_sites - 1} exactly once; some "
            "are missing, repeated or out of range"
        )
    colour = np.empty(num_sites, int)
    for number, group in enumerate(groups):
        colour[group] = number
    same = colour[pairs[:, 0]] == colour[pairs[:, 1]]
    if same.any():
        i, j = pairs[np.argmax(same)].tolist()
        raise ValueError(
            f"{name}: sites {i} and {j} are neighbours but share colour {colour[i]}; redrawn at "
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


# Many chains in one word: bit c of a site's word is the spin of chain c (Creutz 1981's multi-spin
# coding, each bit with its own random numbers). 32 chains cost as many operations as one.

LANES = 32
_PLANES = 24  # random bits a spin, so that flips have their probability to 2⁻²⁴


def pack(sites: Float[Array, "chains sites"]) -> UInt32[Array, "sites words"]:
    """Words of 32 chains each: bit 1 where a spin is up."""
    up = (sites > 0).astype(jnp.uint32).reshape(-1, LANES, sites.shape[1])
    return jnp.sum(up << _lanes(), axis=1, dtype=jnp.uint32).T


def unpack(words: UInt32[Array, "sites words"], dtype) -> Float[Array, "chains sites"]:
    """Spins −1 and +1 of packed words."""
    bits = (words.T[:, None] >> _lanes()) & 1
    return (2 * bits.astype(jnp.int32) - 1).astype(dtype).reshape(-1, len(words))


def _lanes() -> UInt32[Array, "32 1"]:
    return jnp.arange(LANES, dtype=jnp.uint32)[:, None]


def draw_packed(
    neighbours: list[UInt32[Array, "sites words"]],
    probability: Float[Array, " counts"],
    key: Key[Array, ""],
) -> UInt32[Array, "sites words"]:
    """A word of new spins a site, each up with `probability[number of its neighbours up]`.

    24 random bits a spin are compared with the threshold, from the lowest bit to the highest: a
    spin is up where its random number is below.
    """
    counts = [~jnp.zeros_like(neighbours[0])]  # where 0, 1, ... of the neighbours so far are up
    for up in neighbours:
        padded = [jnp.zeros_like(up), *counts, jnp.zeros_like(up)]
        counts = [(padded[i + 1] & ~up) | (padded[i] & up) for i in range(len(padded) - 1)]
    top = 2**_PLANES
    threshold = jnp.clip(jnp.round(probability * top), 0, top - 1).astype(jnp.uint32)
    ones = jnp.uint32(0) - ((threshold[:, None] >> jnp.arange(_PLANES, dtype=jnp.uint32)) & 1)
    # The threshold of no neighbour up, but where another number of them is up that one's.
    planes = jnp.broadcast_to(ones[0][:, None, None], (_PLANES, *neighbours[0].shape))
    for where, bit in zip(counts[1:], ones[1:], strict=True):
        planes = planes ^ (where & (bit ^ ones[0])[:, None, None])
    random = jax.random.bits(key, planes.shape, jnp.uint32)
    below = jnp.zeros_like(neighbours[0])
    for t, r in zip(planes, random, strict=True):  # lowest bit first
        below = (t & ~r) | (below & ~(r ^ t))
    return below


def count_lanes(words: UInt32[Array, "n words"]) -> Int[Array, " chains"]:
    """How many of the words have each chain's bit set.

    31 words at a time are added bit by bit (carry-save) to 5 before any bit is looked at.
    """
    rows = 31
    padding = jnp.zeros((-len(words) % rows, words.shape[1]), jnp.uint32)
    rest = list(jnp.concatenate([words, padding]).reshape(rows, -1, words.shape[1]))
    planes = []
    while rest:  # all of one weight, 2^len(planes)
        carries = []
        while len(rest) > 1:
            a, b, *rest = rest
            c, rest = (rest[0], rest[1:]) if rest else (jnp.zeros_like(a), rest)
            rest.append(a ^ b ^ c)
            carries.append((a & b) | ((a ^ b) & c))
        planes.append(rest[0])
        rest = carries
    total = jnp.zeros((), jnp.int32)
    for weight, plane in enumerate(jnp.stack(planes)):
        bits = (plane.T[:, None] >> _lanes()) & 1  # (words, 32, groups)
        total = total + (bits.astype(jnp.int32) << weight)
    return jnp.sum(total, axis=-1).reshape(-1)
