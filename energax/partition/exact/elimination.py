"""log Z of pairwise energies by summing one site after another out of tables.

Z = Σ_{x_n} … Σ_{x_1} Π_e exp(pairs_e) Π_i exp(singles_i): what is known of the first site and its
neighbours is put in one table, the site is summed out of it, and so on (Bertelè & Brioschi 1972;
Dechter 1999, "Bucket elimination"). Site by site along a lattice it is the transfer
matrix of Kramers & Wannier 1941 in sparse factors (Binder 1972). Tables hold logs in float64.
"""

import dataclasses
import heapq
import math

import equinox as eqx
import numpy as np

from energax.energies._base import AbstractEnergy
from energax.partition._base import Clock, answer
from energax.partition.exact._base import (
    MAX_TERMS,
    AbstractExactMethod,
    PairForm,
    Quote,
    constant_of,
    not_finite,
    pair_form,
    power,
)
from energax.results import LogZ

_MOST_WORK = 2**31  # table entries in all: some 20 seconds
_MOST_SEARCH = 3_000_000  # steps in search of an order: about a second


class Elimination(AbstractExactMethod):
    """log Z of a pairwise energy on any graph: sites summed out in a good order, exactly.

    Dechter 1999, "Bucket elimination". For Ising and Potts models, trees, independent sites, and
    tempered, conditional or multiplied ones of these. Every site costs k^(neighbours + 1) table
    entries, the neighbours of each site summed out being joined to each other: next to nothing for
    chains, trees, rings and narrow lattices of any length, too much for dense graphs in any order.
    The order is the cheapest of three: next the site of fewest neighbours (Markowitz 1957), next
    the one that joins fewest new pairs (up to 400 sites), or as the sites are numbered.

    **Arguments:** `max_entries`: of the largest table.

    **Raises:** TypeError for another kind of energy, ValueError where a table gets too large.
    """

    max_entries: int = eqx.field(static=True, default=MAX_TERMS)

    def quote(self, energy: AbstractEnergy) -> Quote:
        form = pair_form(energy)
        if form is None:
            return Quote(np.inf, f"elimination: {_no_pairs(energy)}")
        return _quote("elimination", self._plan(form), self.max_entries)

    def _plan(self, form: PairForm) -> "_Plan":
        adjacent = _adjacent(form)
        plans = [_greedy(adjacent, form.num_values, self.max_entries, by_fill=False)]
        in_order = list(range(form.num_sites))
        plans.append(_priced(in_order, adjacent, form.num_values, self.max_entries))
        if form.num_sites <= 400:
            plans.append(_greedy(adjacent, form.num_values, self.max_entries, by_fill=True))
        return min(plans, key=lambda plan: (plan.largest > self.max_entries, plan.cost))

    def run(self, energy, *, key, precision=0.25, max_seconds=None, progress=False) -> LogZ:
        self.check(energy)
        form = pair_form(energy)
        assert form is not None
        return _run(energy, form, self._plan(form), "elimination", max_seconds)


class TransferMatrix(AbstractExactMethod):
    """log Z of a lattice of pairs, row after row and within a row site by site, exactly.

    Kramers & Wannier 1941, in sparse factors (Binder 1972). The sites between what was
    summed and what was not are a table: kᵂ entries for a lattice W wide, k^(2W) where the rows
    close to a ring too, since the first row stays open to the end. Couplings and fields may differ
    from site to site; a lattice may be open, a cylinder or a torus, of two or more dimensions. It
    is swept along the axis where that is cheapest.

    Applies to the energies of `Elimination` on spaces of several axes, and to flat ones whose edges
    are those of a row-major lattice.

    **Arguments:** `max_entries`: of the largest table.

    **Raises:** TypeError for another kind of energy, ValueError where a table gets too large.
    """

    max_entries: int = eqx.field(static=True, default=MAX_TERMS)

    def quote(self, energy: AbstractEnergy) -> Quote:
        form = pair_form(energy)
        if form is None:
            return Quote(np.inf, f"transfer matrix: {_no_pairs(energy)}")
        plan = self._plan(form)
        if plan is None:
            return Quote(np.inf, f"transfer matrix: {energy.space} is no lattice of several axes")
        return _quote("transfer matrix", plan, self.max_entries)

    def _plan(self, form: PairForm) -> "_Plan | None":
        shape = lattice_shape(form)
        if shape is None:
            return None
        adjacent, plans = _adjacent(form), []
        numbers = np.arange(form.num_sites).reshape(shape)
        for axis, side in enumerate(shape):
            if side > 1:
                order = np.moveaxis(numbers, axis, 0).ravel().tolist()
                plans.append(_priced(order, adjacent, form.num_values, self.max_entries))
        return min(plans, key=lambda plan: (plan.largest > self.max_entries, plan.cost))

    def run(self, energy, *, key, precision=0.25, max_seconds=None, progress=False) -> LogZ:
        self.check(energy)
        form = pair_form(energy)
        plan = None if form is None else self._plan(form)
        assert form is not None and plan is not None
        return _run(energy, form, plan, "transfer matrix", max_seconds)


def lattice_shape(form: PairForm) -> tuple[int, ...] | None:
    """The sides of the lattice that the sites lie on, None where there is none of two axes."""
    if sum(side > 1 for side in form.shape) > 1:
        return form.shape
    n = form.num_sites
    low, high = form.edges.T
    for width in range(2, n // 2 + 1):
        if n % width:
            continue
        row = (low // width == high // width) & np.isin(high - low, (1, width - 1))
        column = (low % width == high % width) & np.isin(high - low, (width, n - width))
        if (row | column).all() and column.any():
            return n // width, width
    return None


@dataclasses.dataclass(frozen=True)
class _Plan:
    """An order of the sites, and what it costs; cut short where a table gets too large."""

    order: list[int]
    num_values: int
    width: int  # sites of the largest table
    cost: float
    complete: bool

    @property
    def largest(self) -> float:
        return power(self.num_values, self.width)


def _no_pairs(energy: AbstractEnergy) -> str:
    return f"{type(energy).__name__} is not known as a sum over pairs of sites (Ising, Potts)"


def _quote(name: str, plan: _Plan, max_entries: int) -> Quote:
    table = f"{plan.num_values}^{plan.width}"
    if plan.largest > max_entries:
        least = "at least " if not plan.complete else ""
        cost = max(plan.cost, plan.largest)
        return Quote(
            cost, f"{name}: a table of {least}{table} entries (the limit is {max_entries:,})"
        )
    if not plan.complete:
        cost = max(plan.cost, 2.0 * _MOST_WORK)
        return Quote(cost, f"{name}: no good order of the sites was found in a second")
    if plan.cost > _MOST_WORK:
        return Quote(plan.cost, f"{name}: {plan.cost:.2g} table entries, the largest of {table}")
    return Quote(plan.cost)


def _adjacent(form: PairForm) -> list[set[int]]:
    adjacent: list[set[int]] = [set() for _ in range(form.num_sites)]
    for i, j in form.edges.tolist():
        adjacent[i].add(j)
        adjacent[j].add(i)
    return adjacent


def _greedy(adjacent: list[set[int]], k: int, max_entries: int, *, by_fill: bool) -> _Plan:
    """Next the site of fewest neighbours, or with `by_fill` of fewest pairs not yet joined.

    Small graphs are followed to the end, so that a refusal can name the size; large ones only until
    a table is too large.
    """
    joined = [set(others) for others in adjacent]

    def score(site):
        others = joined[site]
        if not by_fill:
            return len(others)
        missing = sum(len(others) - 1 - len(others & joined[other]) for other in others)
        return (missing, len(others))

    heap = [(score(site), site) for site in range(len(joined))]
    heapq.heapify(heap)
    order, width, cost, work = [], 0, 0.0, 0
    gone = [False] * len(joined)
    while heap:
        now, site = heapq.heappop(heap)
        if gone[site]:
            continue
        if now != score(site):  # it changed since
            heapq.heappush(heap, (score(site), site))
            continue
        others = joined[site]
        gone[site] = True
        order.append(site)
        width = max(width, len(others) + 1)
        cost += power(k, len(others) + 1)
        work += 1 + len(others) ** 2
        too_large = power(k, width) > max_entries and len(joined) > 1000
        if work > _MOST_SEARCH or too_large:
            return _Plan(order, k, width, cost, complete=False)
        for other in others:
            joined[other] |= others
            joined[other] -= {other, site}
        for other in others:
            heapq.heappush(heap, (score(other), other))
    return _Plan(order, k, width, cost, complete=True)


def _priced(order: list[int], adjacent: list[set[int]], k: int, max_entries: int) -> _Plan:
    """The cost of summing the sites in this order."""
    place = [0] * len(order)
    for i, site in enumerate(order):
        place[site] = i
    waiting: list[set[int]] = [set() for _ in order]  # by place: sites of tables that start there
    width, cost, room = 0, 0.0, math.log(max(max_entries, 2)) / math.log(k)
    for i, site in enumerate(order):
        scope = waiting[i] | {place[other] for other in adjacent[site] if place[other] > i}
        scope.discard(i)
        waiting[i] = set()
        width = max(width, len(scope) + 1)
        cost += power(k, len(scope) + 1)
        if width > room + 1e-9 and len(order) > 1000:
            return _Plan(order, k, width, cost, complete=False)
        if scope:
            waiting[min(scope)] |= scope
    return _Plan(order, k, width, cost, complete=True)


def _run(
    energy: AbstractEnergy, form: PairForm, plan: _Plan, method: str, max_seconds: float | None
) -> LogZ:
    clock = Clock(max_seconds)
    value, num_left = _sum_out(form, plan.order, clock)
    value += constant_of(energy, form)
    reasons = not_finite(value, "the sum")
    if num_left:
        reasons = [f"time ended with {num_left:,} of {form.num_sites:,} sites left"]
    return answer(
        value,
        np.inf if num_left else 0.0,
        clock,
        method=method,
        reasons=reasons,
        time_limited=bool(num_left),
    )


def _sum_out(form: PairForm, order: list[int], clock: Clock) -> tuple[float, int]:
    """(log Z, 0), or (NaN, sites left) where time ended.

    The axes of every table are sites in the order in which they are summed, so that the one at hand
    is always the first: the sum runs over whole contiguous slices.
    """
    place = np.empty(form.num_sites, int)
    place[order] = np.arange(form.num_sites)
    waiting: list[list[tuple[tuple[int, ...], np.ndarray]]] = [[] for _ in order]
    for (i, j), table in zip(place[form.edges].tolist(), form.pairs, strict=True):
        waiting[min(i, j)].append(((min(i, j), max(i, j)), table if i < j else table.T))
    tops: list[float] = []
    for i, site in enumerate(order):
        if clock.out_of_time and i:
            return np.nan, len(order) - i
        scope, total = (i,), form.singles[site]
        for sites, table in sorted(waiting[i], key=lambda entry: len(entry[0])):
            union = tuple(sorted({*scope, *sites}))
            total = _spread(total, scope, union) + _spread(table, sites, union)
            scope = union
        waiting[i] = []
        rest = _log_sum(total)
        clock.num_evaluations += total.size
        top = float(rest.max())
        tops.append(top)
        if len(scope) > 1:
            if np.isfinite(top):
                rest = np.subtract(rest, top, out=rest)
            elif top == -np.inf:
                return -np.inf, 0
            waiting[scope[1]].append((scope[1:], rest))
    return math.fsum(tops) if np.isfinite(tops).all() else float(np.sum(tops)), 0


def _spread(table: np.ndarray, sites: tuple[int, ...], union: tuple[int, ...]) -> np.ndarray:
    """`table` over `sites` as a view that broadcasts over `union`, both in order."""
    if len(sites) == len(union):
        return table
    held = set(sites)
    sides = iter(table.shape)
    return table.reshape([next(sides) if site in held else 1 for site in union])


def _log_sum(total: np.ndarray) -> np.ndarray:
    """log Σ exp along the first axis, −∞ where all is."""
    if len(total) == 2:
        high = np.maximum(total[0], total[1])
        with np.errstate(invalid="ignore"):
            gap = np.subtract(np.minimum(total[0], total[1]), high, out=np.empty_like(high))
        gap = np.where(np.isneginf(high), -np.inf, gap) if np.isneginf(high).any() else gap
        np.exp(gap, out=gap)
        gap += 1
        np.log(gap, out=gap)
        gap += high
        return gap
    high = total.max(0)
    safe = np.where(np.isfinite(high), high, 0.0)
    out = np.zeros_like(safe)
    for row in total:
        out += np.exp(row - safe)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(out) + safe)
