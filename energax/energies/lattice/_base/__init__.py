"""What energies on graphs share: the graph, its colours, packed spins, pairwise parameters."""

from energax.energies.lattice._base.graph import UNROLLED, grid_edges, make_graph
from energax.energies.lattice._base.packed import LANES, count_lanes, draw_packed, pack, unpack
from energax.energies.lattice._base.pairwise import (
    PairwisePath,
    is_dense,
    known_edges,
    pair_matrix,
    starts_from,
    with_parameters,
)

__all__ = [
    "LANES",
    "UNROLLED",
    "PairwisePath",
    "count_lanes",
    "draw_packed",
    "grid_edges",
    "is_dense",
    "known_edges",
    "make_graph",
    "pack",
    "pair_matrix",
    "starts_from",
    "unpack",
    "with_parameters",
]
