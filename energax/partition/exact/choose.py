"""Which exact method fits an energy, and energies that fall into independent parts."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from energax.energies._base import AbstractEnergy, batched
from energax.partition._base import AbstractLogZMethod, Clock, answer
from energax.partition.exact._base import (
    AbstractExactMethod,
    Quote,
    float64_or_32,
    pair_form,
)
from energax.partition.exact.closed_form import ClosedForm
from energax.partition.exact.elimination import Elimination, TransferMatrix
from energax.partition.exact.kaufman import Kaufman
from energax.partition.exact.separable import groups, site_numbers
from energax.partition.exact.sums import Enumeration, Known, SummedSide
from energax.partition.quadrature import Quadrature
from energax.results import LogZ
from energax.spaces import AbstractArraySpace, AbstractSpace, Count, Record

_CHEAP = 2**16  # terms, below which no cheaper method is looked for
_MOST_PARTS = 2.5e7  # evaluations in all: some 100 parts of one real coordinate
_LINE = 2.5e5  # evaluations that one real coordinate takes at least
_MERGED = 2**10  # states up to which discrete parts are summed together


def exact_method(energy: AbstractEnergy) -> AbstractLogZMethod | None:
    """The exact method of least cost, None where none fits."""
    best, least = _cheapest(energy)
    if least > _CHEAP and pair_form(energy) is None:  # elimination takes sites that stand alone
        parts = IndependentParts()
        quote = parts.quote(energy)
        if quote.fits and quote.cost < least:
            return parts
    return best


def refusals(energy: AbstractEnergy) -> list[str]:
    """What each exact method would cost that is too dear; if none applies, what each is for."""
    quotes = [_quote(cls(), energy) for cls in EXACT.values()]
    priced = [quote.refusal for quote in quotes if quote.refusal and np.isfinite(quote.cost)]
    return priced or [quote.refusal for quote in quotes if quote.refusal]


def _cheapest(energy: AbstractEnergy) -> tuple[AbstractLogZMethod | None, float]:
    best, least = None, np.inf
    for cls in EXACT.values():
        if least <= _CHEAP:
            break
        if cls is IndependentParts:
            continue
        quote = _quote(cls(), energy)
        if quote.fits and quote.cost < least:
            best, least = cls(), quote.cost
    return best, least


def _quote(method: AbstractLogZMethod, energy: AbstractEnergy) -> Quote:
    if isinstance(method, AbstractExactMethod):
        return method.quote(energy)
    cost = method.cost(energy)
    why = f"quadrature: takes 1 to 3 real coordinates, got {energy.space}"
    return Quote(cost, "" if np.isfinite(cost) else why)


class IndependentParts(AbstractExactMethod):
    """log Z of a density that is a product over groups of coordinates, group by group.

    Where f(x) = Σ_g f_g(x_g), log Z = Σ_g log ∫ exp f(x_g, rest of x⁰) − (G − 1) f(x⁰) for G groups
    and any point x⁰ (Billingsley 1995, section 18). That f is such a sum is not guessed from its
    values but read off its traced program (Griewank & Walther 2008, chapter 7), which sees sums
    over coordinates or parts of a `Record` however they are written, but not a hidden product. Each
    group takes the cheapest exact method: three real coordinates at most, by quadrature, or states
    that can be listed.

    `std_err` is the sum of the groups' errors.

    **Raises:** TypeError where f is not seen to be a sum, or a group has no exact method;
    ValueError where all groups together cost too much.
    """

    def quote(self, energy: AbstractEnergy) -> Quote:
        found = groups(energy)
        lines = _num_real(energy.space, found)
        if lines * _LINE > _MOST_PARTS:  # told without a look at each of thousands
            cost = lines * _LINE
            return Quote(cost, f"parts: {lines:,} of them take {cost:.2g} evaluations")
        if any(isinstance(array, Count) for array in _arrays(energy.space).values()):
            return Quote(np.inf, f"parts: counts have no exact method, got {energy.space}")
        parts = _parts(energy, found)
        if len(parts) < 2:
            return Quote(np.inf, "parts: f is not seen to be a sum over groups of coordinates")
        prices: dict[Any, float] = {}
        for part in parts:
            kind = repr(part.space)  # all that the price of a part depends on
            prices[kind] = prices[kind] if kind in prices else _cheapest(part)[1]
            if np.isinf(prices[kind]):
                return Quote(np.inf, f"parts: one on {part.space} has no exact method")
        cost = sum(prices[repr(part.space)] for part in parts)
        if cost > _MOST_PARTS:
            return Quote(cost, f"parts: {len(parts):,} of them take {cost:.2g} evaluations")
        return Quote(cost)

    def run(self, energy, *, key, precision=0.25, max_seconds=None, progress=False) -> LogZ:
        self.check(energy)
        clock = Clock(max_seconds)
        parts = _parts(energy, groups(energy))
        origin = parts[0].origin
        # In the parts' own precision: what they have in common is taken away as they have it.
        start = float64_or_32(energy, lambda e: e.log_density(_as_floats(origin)))
        value = -(len(parts) - 1) * start
        std_err = len(parts) * abs(start) * float(np.finfo(float).eps)
        reasons, limited = [], False
        for part, part_key in zip(parts, jax.random.split(key, len(parts)), strict=True):
            method, _ = _cheapest(part)
            left = max(clock.max_seconds - clock.seconds, 0.0)
            assert method is not None
            found = method.run(
                part,
                key=part_key,
                precision=precision / len(parts),
                max_seconds=None if max_seconds is None else left,
            )
            value, std_err = value + found.value, std_err + found.std_err
            limited |= found.time_limited
            clock.num_evaluations += found.num_evaluations
            reasons += [f"{part.name}: {reason}" for reason in found.reasons]
            if len(reasons) >= 3:
                break
        return answer(value, std_err, clock, method="parts", reasons=reasons, time_limited=limited)


EXACT: dict[str, type[AbstractLogZMethod]] = {
    "known": Known,
    "closed form": ClosedForm,
    "kaufman": Kaufman,
    "transfer matrix": TransferMatrix,
    "elimination": Elimination,
    "summed side": SummedSide,
    "enumeration": Enumeration,
    "quadrature": Quadrature,
    "parts": IndependentParts,
}
"""The exact methods by name, the cheap ones first."""


class _SomeSites(AbstractEnergy):
    """E of some sites, all others as in `origin`.

    `sites`: for every array of the point that has free sites, their numbers; its name is "" where
    the point is a single array.
    """

    energy: AbstractEnergy
    origin: Any
    sites: dict[str, Any]
    space: AbstractSpace

    def __call__(self, x):
        whole = self.energy.space
        if not isinstance(whole, Record):
            return self.energy(_placed(whole, self.origin, self.sites[""], x))
        x = x if isinstance(self.space, Record) else {name: x for name in self.sites}
        moved = {
            name: _placed(whole.parts[name], self.origin[name], self.sites[name], x[name])
            for name in self.sites
        }
        return self.energy({**self.origin, **moved})

    @property
    def name(self) -> str:
        where = [f"{name} {np.asarray(s).tolist()}".strip() for name, s in self.sites.items()]
        return "coordinates " + ", ".join(where)


def _placed(space, origin, sites, x):
    tail = x.shape[1:]  # (k,) for one-hot sites, else ()
    flat = jnp.reshape(jnp.asarray(origin, x.dtype), (space.num_sites, *tail))
    return flat.at[sites].set(x).reshape(space.shape)


def _arrays(space: AbstractSpace) -> dict[str, Any]:
    """The arrays that a point is made of, by name; "" where it is a single one."""
    return dict(space.parts) if isinstance(space, Record) else {"": space}


def _num_real(space: AbstractSpace, found: list[np.ndarray]) -> int:
    """How many of the groups of sites hold a real coordinate."""
    is_real = [np.full(part.num_sites, part.is_continuous) for part in _arrays(space).values()]
    return sum(bool(np.concatenate(is_real)[sites].any()) for sites in found)


def _as_floats(point: Any) -> Any:
    """`point` with its floats in the default precision."""

    def widen(a):
        return a.astype(float) if jnp.issubdtype(a.dtype, jnp.floating) else a

    return jax.tree.map(widen, point)


def _parts(energy: AbstractEnergy, found: list[np.ndarray]) -> list[_SomeSites]:
    """Energies of groups of sites that f is a sum over; fewer than two where it is not seen so."""
    if len(found) < 2 or (origin := _origin(energy)) is None:
        return []
    parts = [_part(energy, origin, sites) for sites in _with_small_ones_merged(energy, found)]
    return parts if _adds_up(energy, origin, parts) else []


def _origin(energy: AbstractEnergy) -> Any:
    """A point of finite density, None if none is found at once."""
    point = jax.tree.map(jnp.asarray, energy.space.example())
    if np.isfinite(float(eqx.filter_jit(energy)(point))):
        return point
    points = jax.tree.map(lambda a: jnp.broadcast_to(a, (64, *jnp.shape(a))), point)
    points = energy.space.propose(points, 0.5, key=jax.random.key(0))
    good = np.flatnonzero(np.isfinite(_batched(energy, points)))
    return jax.tree.map(lambda a: a[good[0]], points) if len(good) else None


def _with_small_ones_merged(energy: AbstractEnergy, found: list[np.ndarray]) -> list[np.ndarray]:
    """Groups of few discrete states within one array of the point are put together."""
    space = energy.space
    arrays = list(_arrays(space).values())
    first = np.cumsum([0, *(part.num_sites for part in arrays)])
    out: list[np.ndarray] = []
    open_one: dict[int, list[np.ndarray]] = {}
    for sites in found:
        array = np.unique(np.searchsorted(first, sites, side="right") - 1)
        k = getattr(arrays[array[0]], "num_values", None)
        if len(array) > 1 or k is None:
            out.append(sites)
            continue
        held = open_one.setdefault(int(array[0]), [])
        if k ** sum(map(len, [*held, sites])) > _MERGED and held:
            out.append(np.sort(np.concatenate(held)))
            held.clear()
        held.append(sites)
    return out + [np.sort(np.concatenate(held)) for held in open_one.values()]


def _part(energy: AbstractEnergy, origin: Any, sites: np.ndarray) -> _SomeSites:
    space, numbers = energy.space, site_numbers(energy.space)
    arrays = _arrays(space)
    numbers = numbers if isinstance(space, Record) else {"": numbers}
    free, spaces, start = {}, {}, 0
    for name, array in arrays.items():
        assert isinstance(array, AbstractArraySpace)
        mask = np.isin(start + np.arange(array.num_sites), sites)
        start += array.num_sites
        if mask.any():
            free[name], spaces[name] = jnp.asarray(np.flatnonzero(mask)), array.select(mask)
    part_space = Record(**spaces) if len(spaces) > 1 else next(iter(spaces.values()))
    return _SomeSites(energy, origin, free, part_space)


def _adds_up(energy: AbstractEnergy, origin: Any, parts: list[_SomeSites]) -> bool:
    """Whether f is the sum over parts at random points: a check of the reading, not its ground."""
    points = jax.tree.map(lambda a: jnp.broadcast_to(a, (8, *jnp.shape(a))), origin)
    points = energy.space.propose(points, 0.7, key=jax.random.key(1))
    whole = _float64_batch(energy, points)
    start = _float64_batch(energy, jax.tree.map(lambda a: a[None], origin))[0]
    total, size = np.full(len(whole), start), np.abs(whole) + np.abs(start)
    for part in parts:
        value = _float64_batch(part, _taken(part, points)) - start
        total, size = total + value, size + np.abs(value) + np.abs(start) * 1e-3
    good = np.isfinite(whole)
    return bool((np.abs(total - whole)[good] <= 1e-3 + 1e-5 * size[good]).all())


def _taken(part: _SomeSites, points: Any) -> Any:
    """The free sites of a batch of whole points."""
    whole = part.energy.space
    out = {}
    for name, sites in part.sites.items():
        array = whole.parts[name] if isinstance(whole, Record) else whole
        rows = points[name] if isinstance(whole, Record) else points
        rows = rows.reshape(len(rows), array.num_sites, *_tail(array))
        out[name] = rows[:, sites]
    return out if isinstance(part.space, Record) else next(iter(out.values()))


def _tail(space: Any) -> tuple[int, ...]:
    return space.shape[len(space.sites) :] if hasattr(space, "sites") else ()


def _float64_batch(energy: AbstractEnergy, x: Any) -> np.ndarray:
    return np.asarray(_batched(energy, x), np.float64)


_batched = eqx.filter_jit(batched)
