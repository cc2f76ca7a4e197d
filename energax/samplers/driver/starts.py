"""Where chains start, and a look by importance sampling at what they might miss.

Chains show that they have missed a mode only if some of them start in it. So half of the starts are
far-flung mirror pairs, one on either side of the centre whatever the direction, and half are taken
as far from each other as may be among the points that carry the importance-sampling weight (which
in few dimensions means every mode).
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from energax.energies._base import AbstractEnergy, batched
from energax.energies.reference import default_base
from energax.samplers.driver._base import flat_rows
from energax.spaces import (
    AbstractArraySpace,
    AbstractSpace,
    Binary,
    Box,
    Categorical,
    Count,
    Ordinal,
    Point,
    Real,
    Record,
    Spin,
)

_SCALES = np.geomspace(10, 1, 4)
"""How far bases are stretched, the widest first."""


def initial_points(
    energy: AbstractEnergy,
    num_chains: int,
    *,
    key: Key[Array, ""],
    num_superchains: int | None = None,
) -> Point:
    """Dispersed starting points with finite f, (num_chains, *event).

    Candidates come from the default base of the space, stretched by factors from 1 to 10 where a
    coordinate has no bound, in mirror pairs. Half of the starts are such pairs, the other half the
    points farthest from each other (Gonzalez 1985) among those of high weight exp(f)/q.

    **Arguments:** `num_superchains`: if given, consecutive chains share a start in as many groups.

    **Raises:** ValueError if f is finite at none of the candidates, or the superchains do not
    divide the chains.
    """
    num_starts = num_chains if num_superchains is None else num_superchains
    if num_starts < 1 or num_chains % num_starts:
        raise ValueError(f"num_superchains={num_superchains} must divide num_chains={num_chains}")
    x = Candidates.look(energy, num_candidates(energy, num_starts), key=key).starts(num_starts)
    return jax.tree.map(lambda a: jnp.repeat(a, num_chains // num_starts, axis=0), x)


def num_candidates(energy: AbstractEnergy, num_starts: int, budget: int = 2**22) -> int:
    """How many points are looked at, unless f is finite at none of them.

    In few dimensions they also show modes too narrow for any climb to begin in: of sd 0.1 in two
    dimensions, at (4, 4), about 27 points fall within 3 sd. It costs 1/64 of the budget at most.
    """
    num = min(65_536, max(4_096, budget // 64)) if is_low(energy.space) else 512
    return max(4 * num_starts, min(num, 2**24 // energy.space.num_sites))


def is_low(space: AbstractSpace) -> bool:
    """True in few dimensions, where candidates find the mass; in many no number of them does."""
    return space.num_sites <= 8


class NoStart(ValueError):
    """f is finite at none of the points where chains might start."""


class Candidates:
    """Points of the space with f and importance weights exp(f)/q, q the mixture they come from."""

    def __init__(self, x: Point, log_density: np.ndarray, log_q: np.ndarray):
        self._shape = log_density.shape  # (scales, 2, num): mirror images along axis 1
        leaves, self._structure = jax.tree.flatten(x)
        f, q = (a.astype(np.float64).ravel() for a in (log_density, log_q))
        finite = np.isfinite(f) & np.isfinite(q)
        for leaf in leaves:
            finite &= np.isfinite(leaf.reshape(len(leaf), -1)).all(1)
        if not finite.any():
            raise ValueError("f and x are finite together at none of the points looked at")
        self._leaves = [
            np.where(finite.reshape(-1, *[1] * (a.ndim - 1)), a, a[finite][0]) for a in leaves
        ]
        self._finite = finite.reshape(self._shape)
        self.log_density = np.where(finite, f, -np.inf)
        log_weight = self.log_density - np.where(finite, q, 0.0)
        weight = np.exp(log_weight - log_weight.max())
        self._weight = weight / weight.sum()

    @staticmethod
    def look(
        energy: AbstractEnergy, few: int, *, key: Key[Array, ""], around: Point | None = None
    ) -> "Candidates":
        """Evaluates f at `few` points, and at 16 times as many if it is finite at none.

        **Arguments:** `around`: draws (num, *event) to look around, instead of the default base.

        **Raises:** NoStart if f is finite at none of them.
        """
        rng = np.random.default_rng(np.asarray(jax.random.bits(key, (4,))))
        evaluate = eqx.filter_jit(batched)
        for num in (few, 16 * few):
            shape = (len(_SCALES), 2, -(-num // (2 * len(_SCALES))))
            x, log_q = _scattered(energy.space, around, shape, rng)
            log_density = np.asarray(evaluate(energy, jax.device_put(x)))
            if np.isfinite(log_density).any():
                return Candidates(x, log_density.reshape(shape), log_q.reshape(shape))
        raise NoStart(
            f"found no start: f(x) is finite at none of {num:,} points drawn from the default base "
            f"of {energy.space}; give initial= points where f is finite"
        )

    def some(self, num: int) -> Point:
        """`num` of the points where f is finite, at even distances through all the scales."""
        places = np.flatnonzero(self._finite.ravel())
        places = places[np.linspace(0, len(places) - 1, num).astype(int)]
        return self._points([leaf[places] for leaf in self._leaves])

    @property
    def ess(self) -> float:
        """Effective number of weights, (Σw)²/Σw² (Kish 1965)."""
        return float(1 / (self._weight**2).sum())

    def mean(self) -> tuple[np.ndarray, np.ndarray]:
        """E[x], flat, by self-normalised weights, and its error (Owen 2013, section 9.2).

        A small effective number understates the error: it is enlarged by 1 + 10/ess.
        """
        x = flat_rows(self._leaves)
        mean = self._weight @ x
        error = np.sqrt(self._weight**2 @ (x - mean) ** 2)
        return mean, error * (1 + 10 / self.ess)

    def starts(self, num: int) -> Point:
        """Half of them mirror pairs, half spread over what carries the weight; (num, *event)."""
        heavy = self._heavy(num // 2)
        places = heavy[_far_apart([leaf[heavy] for leaf in self._leaves], num // 2)[0]]
        places = np.concatenate([self._pairs(num - num // 2), places]).astype(int)
        return self._points([leaf[places] for leaf in self._leaves])

    def spread(self, x: Point, num: int, least: float) -> tuple[Point, bool]:
        """`num` points as far apart as may be among the chains at `x` and what carries the weight,
        and whether that is anything: where weights are uneven it must have f ≥ `least`."""
        heavy = self._heavy(0)
        if self.ess < 50:
            heavy = heavy[self.log_density[heavy] >= least]
        leaves = [
            np.concatenate([np.asarray(chains), leaf[heavy]])
            for chains, leaf in zip(jax.tree.leaves(x), self._leaves, strict=True)
        ]
        places, _ = _far_apart(leaves, num)
        return self._points([leaf[places] for leaf in leaves]), len(heavy) > 0

    def _points(self, leaves: list[Any]) -> Point:
        return jax.tree.unflatten(self._structure, jax.device_put(list(leaves)))

    def _pairs(self, num: int) -> list[int]:
        """Places of mirror pairs, from each scale by turns; of any finite points without any."""
        scales, _, size = self._shape
        chosen: list[int] = []
        for j in range(-(-num // 2)):
            scale, both = j % scales, np.flatnonzero(self._finite[j % scales].all(0))
            if len(both):
                place = int(both[j // scales % len(both)])
                chosen += [(2 * scale + side) * size + place for side in (0, 1)]
            else:
                single = np.flatnonzero(self._finite[scale]) + 2 * scale * size
                single = single if len(single) else np.flatnonzero(self._finite)
                chosen += [int(single[(j + side) % len(single)]) for side in (0, 1)]
        return chosen[:num]

    def _heavy(self, least: int) -> np.ndarray:
        """Places that carry 99.9 % of the weight, the heaviest first; not fewer than `least`, and
        where there are many, some from every height: one mode may be heavier than others."""
        order = np.argsort(-self._weight, kind="stable")
        order = order[: int((self._weight > 0).sum())]
        heavy = int(np.searchsorted(np.cumsum(self._weight[order]), 0.999)) + 1
        order = order[: max(heavy, least)]
        some = np.linspace(0, len(order) - 1, min(len(order), 8_192))
        return order[some.astype(int)]


def spread_among(x: Point, others: Point, num: int) -> Point:
    """`num` points as far apart as may be among the chains at `x` and `others`."""
    leaves, structure = jax.tree.flatten(x)
    both = [
        np.concatenate([np.asarray(a), np.asarray(b)])
        for a, b in zip(leaves, jax.tree.leaves(others), strict=True)
    ]
    places, _ = _far_apart(both, num)
    return jax.tree.unflatten(structure, jax.device_put([a[places] for a in both]))


def share_out(peaks: Point, draws: Point, num: int) -> Point | None:
    """`num` points, as many at each peak; None where there is one, or not two for each.

    A chain that alone stands in a mode may leave it before anyone has noticed. Peaks are apart if
    their coordinates differ by 0.1 sd of the draws, in root mean square.
    """
    leaves, structure = jax.tree.flatten(peaks)
    places, distance = _far_apart(leaves, num, like=jax.tree.leaves(draws))
    size = sum(leaf[0].size for leaf in leaves)
    count = 1 + int((distance[1:] > 0.01 * size).sum())
    if not 2 <= count <= num // 2:
        return None
    shared = [places[i % count] for i in range(num)]
    return jax.tree.unflatten(structure, jax.device_put([a[shared] for a in leaves]))


def _far_apart(
    leaves: list[np.ndarray], num: int, like: list[np.ndarray] | None = None
) -> tuple[list[int], np.ndarray]:
    """Numbers of `num` points, each the farthest from those before, in units of the sd (of `like`);
    and the square of that distance (inf for the first)."""
    points = flat_rows(leaves)
    scale = points.std(0) if like is None else flat_rows(like).std(0)
    points = (points - points.mean(0)) / np.maximum(scale, 1e-300)
    chosen, distance, found = [0], np.full(len(points), np.inf), [np.inf]
    while len(chosen) < min(num, len(points)):
        distance = np.minimum(distance, ((points - points[chosen[-1]]) ** 2).sum(1))
        chosen.append(int(distance.argmax()))
        found.append(float(distance[chosen[-1]]))
    return [chosen[i % len(chosen)] for i in range(num)], np.array(found)


def _scattered(
    space: AbstractSpace, around: Point | None, shape: tuple[int, int, int], rng
) -> tuple[Point, np.ndarray]:
    """Points (scales · 2 · num, *event), mirror images along the second, and the log of their q.

    Drawn by NumPy, which has nothing to compile: the default bases, wider by each scale.
    """
    parts: Any = space.parts if isinstance(space, Record) else {"": space}
    x, log_q = {}, np.zeros((len(_SCALES), np.prod(shape)))
    for name, part in parts.items():
        rows = around[name] if isinstance(around, dict) else around
        base = _Base(part, None if rows is None else np.asarray(rows, np.float64))
        draws = np.stack([base.pairs(scale, shape[2], rng) for scale in _SCALES])
        with np.errstate(over="ignore"):
            x[name] = draws.reshape(-1, *part.shape).astype(part.dtype)
        values = x[name].astype(np.float64)
        log_q += np.stack([base.log_q(values, scale) for scale in _SCALES])
    mixture = np.logaddexp.reduce(log_q, axis=0)
    return x if isinstance(space, Record) else x[""], mixture


class _Base:
    """The default base of a space, or its like around given rows, in NumPy."""

    def __init__(self, space: AbstractArraySpace, rows: np.ndarray | None):
        self.space = space
        low, high = np.float64(-np.inf), np.float64(np.inf)
        if isinstance(space, Box):
            low, high = np.asarray(space.low, np.float64), np.asarray(space.high, np.float64)
        elif isinstance(space, Count):
            low = np.float64(0)
        self.low, self.high = np.broadcast_to(low, space.shape), np.broadcast_to(high, space.shape)
        self.has_low, self.has_high = np.isfinite(self.low), np.isfinite(self.high)
        self.none = ~self.has_low & ~self.has_high
        self.end = np.where(self.has_low, self.low, np.where(self.has_high, self.high, 0.0))
        if rows is None:
            self.centre, self.width = self.end, 10.0 if isinstance(space, Count) else 1.0
        else:
            self.centre = np.where(self.none, rows.mean(0), self.end)
            self.width = np.sqrt(((rows - self.centre) ** 2).mean(0))
            self.width = np.maximum(1.1 * self.width, 1e-6 * (1e-6 + abs(self.centre)))

    def pairs(self, scale: float, num: int, rng) -> np.ndarray:
        """(2, num, *event): draws, and their mirror images or where there are none other draws."""
        space, shape = self.space, (2, num, *self.space.shape)
        if isinstance(space, Binary | Spin):
            x = rng.integers(0, 2, shape)
            x[1] = 1 - x[0]
            return x if isinstance(space, Binary) else 2 * x - 1
        if isinstance(space, Ordinal):
            x = rng.integers(0, space.num_values, shape)
            x[1] = space.num_values - 1 - x[0]
            return x
        if isinstance(space, Categorical):
            x = rng.integers(0, space.num_values, (2, num, *space.sites))
            one_hot = x[..., None] == np.arange(space.num_values)
            return x if space.encoding == "index" else one_hot
        if isinstance(space, Count):  # geometric
            draws = np.floor(rng.exponential(size=shape) / np.log1p(1 / (scale * self.width)))
            return np.minimum(draws, 2.0**30)
        if isinstance(space, Real | Box):
            width = scale * self.width
            z = rng.normal(size=shape)
            z[1] = -z[0]
            step = np.where(self.has_low, 1, -1) * width * rng.exponential(size=shape)
            x = np.where(self.none, self.centre + width * z, self.end + step)
            unit = rng.random(shape)
            unit[1] = 1 - unit[0]
            with np.errstate(invalid="ignore"):
                both = self.low + (self.high - self.low) * unit
            x = np.where(self.has_low & self.has_high, both, x)
            return x.clip(self.low, self.high)
        draws = default_base(space).draw(2 * num, key=jax.random.key(rng.integers(2**31)))
        return np.asarray(draws).reshape(shape)

    def log_q(self, x: np.ndarray, scale: float) -> np.ndarray:
        """Log density of points (num, *event) up to a constant that is the same for all scales."""
        space = self.space
        if isinstance(space, Count):
            mean = scale * self.width
            log_q = -x * np.log1p(1 / mean) - np.log1p(mean)
        elif isinstance(space, Real | Box):
            width = scale * self.width
            z = (x - self.centre) / width
            log_q = np.where(self.none, -0.5 * z**2, -abs(z)) - np.log(width)
            log_q = np.where(self.has_low & self.has_high, 0.0, log_q)
        elif isinstance(space, Binary | Spin | Ordinal | Categorical):
            return np.zeros(len(x))
        else:
            base, points = default_base(space), jnp.asarray(x, space.dtype)
            return np.asarray(batched(base, points), np.float64)
        return log_q.reshape(len(x), -1).sum(-1)
