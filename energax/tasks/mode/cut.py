"""The mode of two-valued sites joined in pairs, as a minimum cut of a graph.

E(s) = −Σ J_ij s_i s_j − Σ h_i s_i with all J_ij ≥ 0 is, but for a constant, twice the capacity of
a cut: J_ij between neighbours, |h_i| to the source where h_i > 0 and to the sink where h_i < 0
(Greig, Porteous & Seheult 1989, "Exact maximum a posteriori estimation for binary images", section
2; Kolmogorov & Zabih 2004, "What energy functions can be minimized via graph cuts?", theorem 4.1).
Turning spins, s_i → g_i s_i, takes J_ij to g_i g_j J_ij and h_i to g_i h_i. A graph without
frustrated loops, that is with an even number of negative couplings around every loop, is a
ferromagnet in some such gauge (Harary 1953, "On the notion of balance of a signed graph", theorem
3; Toulouse 1977).
"""

import dataclasses

import numpy as np

from energax.energies._base import AbstractEnergy
from energax.partition.exact._base import pair_form, point_of_numbers
from energax.tasks.mode._base import Found

_BITS = 60  # of the largest capacity, as a whole number
_BITS_A_ROUND = 30  # SciPy's flows are 32 bits wide, and a link's two directions add up


@dataclasses.dataclass(frozen=True)
class Spins:
    """f(s) = Σ_e J_e s_i s_j + Σ_i h_i s_i + constant over s = ±1, in float64; no J_e is 0."""

    edges: np.ndarray  # (E, 2)
    couplings: np.ndarray  # (E,)
    fields: np.ndarray  # (n,)

    def turned(self, gauge: np.ndarray) -> "Spins":
        """The same in spins g_i s_i."""
        i, j = self.edges.T
        return Spins(self.edges, gauge[i] * gauge[j] * self.couplings, gauge * self.fields)


@dataclasses.dataclass(frozen=True)
class Cut:
    """`spins` (n,) ±1 of a minimum cut. `gap`: by how much E may be above its minimum, from
    couplings that were rounded to whole numbers; `exact`: that is below the rounding of their sum.
    `unique`: None where any were rounded."""

    spins: np.ndarray
    gap: float
    exact: bool
    unique: bool | None


def as_spins(energy: AbstractEnergy) -> Spins | str:
    """`energy` as pairs of spins, or why it is none."""
    form = pair_form(energy)
    if form is None:
        return (
            f"{type(energy).__name__} does not tell itself as a sum over sites and pairs of sites, "
            "as Ising and two-valued Potts models do"
        )
    if form.num_values != 2:
        return f"its sites have {form.num_values} values, and a cut has two sides"
    if not form.is_finite:
        return "some of its values are infinite or NaN"
    t, (i, j) = form.pairs, form.edges.T
    fields = (form.singles[:, 1] - form.singles[:, 0]) / 2
    np.add.at(fields, i, (t[:, 1, 1] + t[:, 1, 0] - t[:, 0, 1] - t[:, 0, 0]) / 4)
    np.add.at(fields, j, (t[:, 1, 1] + t[:, 0, 1] - t[:, 1, 0] - t[:, 0, 0]) / 4)
    couplings = (t[:, 1, 1] + t[:, 0, 0] - t[:, 0, 1] - t[:, 1, 0]) / 4
    joined = couplings != 0
    return Spins(form.edges[joined], couplings[joined], fields)


def ferromagnetic_gauge(spins: Spins) -> np.ndarray | None:
    """g (n,) of ±1 with g_i g_j J_ij > 0 for all edges; None if a loop is frustrated.

    Two copies of the sites, joined within a copy where J > 0 and across where J < 0, hang together
    exactly where a loop is frustrated.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    num = len(spins.fields)
    if np.all(spins.couplings > 0):
        return np.ones(num)
    (i, j), other = spins.edges.T, np.where(spins.couplings > 0, 0, num)
    rows = np.concatenate([i, i + num])
    columns = np.concatenate([j + other, j + num - other])
    links = coo_matrix((np.ones(len(rows), bool), (rows, columns)), shape=(2 * num, 2 * num))
    _, piece = connected_components(links, directed=False)
    if np.any(piece[:num] == piece[num:]):
        return None
    return np.where(piece[:num] < piece[num:], 1.0, -1.0)


def frustrated_loop(spins: Spins) -> list[int]:
    """The sites of one loop with an odd number of negative couplings, in order; there is one."""
    neighbours: dict[int, list[tuple[int, float]]] = {}
    for (i, j), coupling in zip(spins.edges.tolist(), spins.couplings.tolist(), strict=True):
        neighbours.setdefault(i, []).append((j, coupling))
        neighbours.setdefault(j, []).append((i, coupling))
    sign: dict[int, int] = {}
    above: dict[int, int] = {}
    for root in neighbours:
        if root in sign:
            continue
        sign[root], above[root] = 1, root
        queue = [root]
        for site in queue:  # grows as it goes
            for other, coupling in neighbours[site]:
                wanted = sign[site] if coupling > 0 else -sign[site]
                if other not in sign:
                    sign[other], above[other] = wanted, site
                    queue.append(other)
                elif sign[other] != wanted:
                    return _loop(above, site, other)
    raise AssertionError("no loop is frustrated")


def _loop(above: dict[int, int], site: int, other: int) -> list[int]:
    """The way through the tree from `site` to `other`."""
    ways = []
    for end in (site, other):
        way = [end]
        while above[way[-1]] != way[-1]:
            way.append(above[way[-1]])
        ways.append(way)
    while len(ways[0]) > 1 and len(ways[1]) > 1 and ways[0][-2] == ways[1][-2]:
        ways = [way[:-1] for way in ways]
    return ways[0] + ways[1][-2::-1]


def minimum_cut(spins: Spins) -> Cut:
    """The spins that minimise E where all couplings are positive.

    A field beyond the sum D of a site's couplings decides its spin, whatever the others do; beyond
    2D it is cut off, so that a few huge ones do not cost the others their digits.
    """
    num = len(spins.fields)
    pull = np.zeros(num)
    for ends in spins.edges.T:
        np.add.at(pull, ends, spins.couplings)
    size = np.minimum(abs(spins.fields), 2 * pull)
    capacities = np.concatenate([spins.couplings, size])
    whole, unit = _whole_numbers(capacities)
    source_side, sink_side = _sides(spins, whole)
    s = np.where(source_side, 1.0, -1.0)
    # Capacities were rounded down, so the whole numbers' minimum bounds the true one from below,
    # and what this cut lost in rounding is how far above that it can be.
    i, j = spins.edges.T
    lost = capacities - whole * unit
    gap = 2.0 * float(lost[np.concatenate([s[i] != s[j], s * spins.fields < 0])].sum())
    decided = abs(spins.fields) > pull
    s[decided] = np.sign(spins.fields[decided])  # which can only lower E
    unique = None if lost.any() else bool(np.all(source_side | sink_side | decided))
    exact = bool(gap <= np.finfo(np.float64).eps * capacities.sum())
    return Cut(s, gap, exact, unique)


def _whole_numbers(capacities: np.ndarray) -> tuple[np.ndarray, float]:
    """(n, u): int64 n = ⌊capacities/u⌋ with u a power of 2, as coarse as loses nothing."""
    top = float(capacities.max(initial=0.0))
    if top == 0:
        return np.zeros(len(capacities), np.int64), 1.0
    exponent = _BITS - int(np.frexp(top)[1])
    whole = np.floor(np.ldexp(capacities, exponent)).astype(np.int64)
    bits = int(np.bitwise_or.reduce(whole))
    spare = (bits & -bits).bit_length() - 1  # zeros at the end of all of them
    return whole >> spare, float(np.ldexp(1.0, spare - exponent))


def _sides(spins: Spins, whole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) bool each: sites that the source still reaches once the flow is largest, and sites that
    still reach the sink. The first are the smallest source side of a minimum cut.

    SciPy's flows (Dinic 1970) have 32 bits. So the leading bits flow first, and what is left is the
    same problem in the capacities left over, none of which needs to be larger than the flow that
    can still come (Gabow 1985, "Scaling algorithms for network problems", section 3).
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    num, num_edges = len(spins.fields), len(spins.edges)
    source, sink = num, num + 1
    links, ends = whole[:num_edges], whole[num_edges:]
    (i, j) = spins.edges.T
    up = np.flatnonzero((spins.fields > 0) & (ends > 0))
    down = np.flatnonzero((spins.fields < 0) & (ends > 0))
    from_source, to_sink = np.full(len(up), source), np.full(len(down), sink)
    tail = np.concatenate([i, j, from_source, up, down, to_sink])
    head = np.concatenate([j, i, up, from_source, to_sink, down])
    nothing = np.zeros_like(ends)
    left = np.concatenate([links, links, ends[up], nothing[up], ends[down], nothing[down]])
    order = np.lexsort((head, tail))
    tail, head, left = tail[order], head[order].astype(np.int32), left[order]
    counts = np.bincount(tail, minlength=num + 2)
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)

    def reached(is_open: np.ndarray, node: int, backwards: bool = False) -> np.ndarray:
        places = tail[is_open], head[is_open]
        links = csr_matrix((np.ones(len(places[0]), bool), places), shape=(num + 2, num + 2))
        links = links.T.tocsr() if backwards else links
        out = np.zeros(num + 2, bool)
        out[breadth_first_order(links, node, return_predecessors=False)] = True
        return out

    most = int(left[tail == source].sum(dtype=object)) if len(up) else 0
    while most > 0:
        useful = np.minimum(left, min(most, 2**62))
        shift = max(0, int(useful.max()).bit_length() - _BITS_A_ROUND)
        part = (useful >> shift).astype(np.int32)
        arcs = csr_matrix((part, head, start), shape=(num + 2, num + 2))
        found = maximum_flow(arcs, source, sink, method="dinic")
        flow = found.flow.data.astype(np.int64)
        left -= flow << shift
        if shift == 0:
            break
        side = reached(part > flow, source)
        cut = side[tail] & ~side[head]
        most = min(most - (int(found.flow_value) << shift), int(left[cut].sum(dtype=object)))
    return reached(left > 0, source)[:num], reached(left > 0, sink, backwards=True)[:num]


def by_minimum_cut(energy: AbstractEnergy) -> Found | str:
    """The mode, or why no minimum cut gives it."""
    spins = as_spins(energy)
    if isinstance(spins, str):
        return spins
    gauge = ferromagnetic_gauge(spins)
    if gauge is None:
        loop = frustrated_loop(spins)
        shown = ", ".join(map(str, loop[:8])) + (", ..." if len(loop) > 8 else "")
        return (
            f"it is frustrated: around the loop of sites {shown} an odd number of couplings is "
            "negative, so that no gauge makes them all positive"
        )
    cut = minimum_cut(spins.turned(gauge))
    numbers = (gauge * cut.spins > 0).astype(int)
    reasons = () if cut.exact else (f"rounding its couplings leaves a gap of up to {cut.gap:.3g}",)
    x = np.asarray(point_of_numbers(energy.space, numbers))
    return Found(x, "minimum cut", cut.gap, cut.exact, cut.unique, reasons=reasons)
