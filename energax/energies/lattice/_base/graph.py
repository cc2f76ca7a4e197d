"""Graphs of sites: their edges checked, their sites in groups that can be redrawn at once."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from energax.energies.lattice._base.colouring import (
    colouring,
    neighbours_in_order,
    split_by_degree,
)

UNROLLED = 16  # neighbours a site up to which their rows are added one by one


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
    groups = colouring(pairs, num_sites) if colours is None else [*map(np.asarray, colours)]
    _check_colours(name, groups, pairs, num_sites)
    near, start = neighbours_in_order(pairs, num_sites)
    degree = np.diff(start)
    groups = [part for group in groups for part in split_by_degree(group, degree)]
    rows = [_rows(group, near, start, len(pairs)) for group in groups]
    return Graph(
        jnp.asarray(pairs, jnp.int32),
        tuple(jnp.asarray(group, jnp.int32) for group in groups),
        tuple(jnp.asarray(sites, jnp.int32) for sites, _ in rows),
        tuple(jnp.asarray(bonds, jnp.int32) for _, bonds in rows),
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
    number = pairs.min(axis=1) * num_sites + pairs.max(axis=1)
    _, first = np.unique(number, return_index=True)
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


def _rows(
    members: np.ndarray, near: np.ndarray, start: np.ndarray, num_edges: int
) -> tuple[np.ndarray, np.ndarray]:
    """(neighbours, bonds) of each member, both (members, most neighbours); the padding is site 0
    over the edge after the last."""
    degree = np.diff(start)[members]
    slot = np.arange(degree.max(initial=0))
    used = slot < degree[:, None]
    padded = np.zeros((2, *used.shape), np.int32)
    padded[1] = num_edges
    padded[:, used] = near[(start[members][:, None] + slot)[used]].T
    return padded[0], padded[1]


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
