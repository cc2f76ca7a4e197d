"""Sites in groups that no edge joins, so that a group can be redrawn at once."""

import heapq

import numpy as np

_EASY = 100_000  # edges up to which the better and slower way is taken
_WASTE = 2**17  # places of padding that are worth a group more


def colouring(pairs: np.ndarray, num_sites: int) -> list[np.ndarray]:
    """Groups of sites, no two of a group joined by one of the `pairs`, (edges, 2).

    Two groups where the graph is bipartite; else few, as a greedy order of the sites finds them.
    """
    colour = _two_colours(pairs, num_sites)
    if colour is None:
        near, start = neighbours_in_order(pairs, num_sites)
        if len(pairs) > _EASY:
            colour = _largest_first(near[:, 0], start)
        else:
            colour = _saturation(np.split(near[:, 0], start[1:-1]))
    order = np.argsort(colour, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(colour[order])) + 1)


def split_by_degree(group: np.ndarray, degree: np.ndarray) -> list[np.ndarray]:
    """`group` in parts of alike `degree`, where that saves a quarter of rows padded to the largest.

    With a few hubs among many sites of few neighbours the padding would else outgrow memory.
    """
    rising = group[np.argsort(degree[group], kind="stable")]
    width = degree[rising]
    rows = np.arange(1, len(group) + 1)
    saved = rows * (width.max(initial=0) - width)  # by a cut after each row
    cut = int(np.argmax(saved)) if len(group) else 0
    if not len(group) or saved[cut] < max(_WASTE, len(group) * int(width[-1]) // 4):
        return [group]
    parts = np.sort(rising[: cut + 1]), np.sort(rising[cut + 1 :])
    return [small for part in parts for small in split_by_degree(part, degree)]


def neighbours_in_order(pairs: np.ndarray, num_sites: int) -> tuple[np.ndarray, np.ndarray]:
    """((2 edges, 2): a neighbour and the number of the edge to it, those of site 0 first; (sites +
    1,): where each site's begin, and the end)."""
    ends = np.concatenate([pairs[:, 0], pairs[:, 1]])
    far = np.concatenate([pairs[:, 1], pairs[:, 0]])
    order = np.argsort(ends, kind="stable")
    start = np.concatenate([[0], np.cumsum(np.bincount(ends, minlength=num_sites))])
    return np.stack([far[order], order % max(len(pairs), 1)], axis=1), start


def _two_colours(pairs: np.ndarray, num_sites: int) -> np.ndarray | None:
    """Colour 0 or 1 of each site; None where there is a cycle of odd length.

    By the graph of twice the sites, (i, 0) joined to (j, 1) and (i, 1) to (j, 0): an odd cycle is a
    way from (i, 0) to (i, 1). The first site of each part is of colour 0.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    i, j = pairs.T
    ends = np.concatenate([i, i + num_sites]), np.concatenate([j + num_sites, j])
    joined = coo_matrix((np.ones(2 * len(pairs), bool), ends), shape=(2 * num_sites,) * 2)
    part = connected_components(joined, directed=False)[1].reshape(2, num_sites)
    return None if (part[0] == part[1]).any() else (part[0] > part[1]).astype(int)


def _largest_first(far: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The first colour that no neighbour has, sites of most neighbours first.

    Welsh & Powell 1967, "An upper bound for the chromatic number of a graph and its application to
    timetabling problems".
    """
    colour = [-1] * (len(start) - 1)
    order = np.argsort(-np.diff(start), kind="stable")
    far, start = far.tolist(), start.tolist()
    for site in order.tolist():
        taken = {colour[other] for other in far[start[site] : start[site + 1]]}
        free = 0
        while free in taken:
            free += 1
        colour[site] = free
    return np.asarray(colour)


def _saturation(neighbours: list[np.ndarray]) -> np.ndarray:
    """Greedy colouring, next the site that sees most colours, then of most neighbours.

    Brélaz 1979, "New methods to color the vertices of a graph".
    """
    colour = [-1] * len(neighbours)
    lists = [others.tolist() for others in neighbours]
    seen: list[set[int]] = [set() for _ in lists]
    heap = [(0, -len(others), site) for site, others in enumerate(lists)]
    heapq.heapify(heap)
    while heap:
        saturation, _, site = heapq.heappop(heap)
        if colour[site] >= 0 or -saturation != len(seen[site]):
            continue  # coloured since, or an outdated entry
        colour[site] = next(c for c in range(len(seen[site]) + 1) if c not in seen[site])
        for other in lists[site]:
            if colour[other] < 0 and colour[site] not in seen[other]:
                seen[other].add(colour[site])
                heapq.heappush(heap, (-len(seen[other]), -len(lists[other]), other))
    return np.asarray(colour)
