"""Where chains start: dispersed wider than the base, and spread over where mass was found.

Chains show that they have missed a mode only if some of them start in it. So half of the starts are
far-flung mirror pairs, one on either side of the centre whatever the direction, and half are taken
as far from each other as may be among the points that carry the importance-sampling weight (which
in few dimensions means every mode).
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from energax.energies._base import AbstractEnergy, AbstractNormalised, batched
from energax.energies.reference import default_base
from energax.spaces import (
    AbstractArraySpace,
    AbstractSpace,
    Binary,
    Box,
    Count,
    Ordinal,
    Point,
    Real,
    Record,
    Spin,
)

_WIDEST = 10.0
"""The widest starts, in units of the default base's own scale."""


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
    x = Candidates.look(energy, num_starts, key=key).starts(num_starts)
    return jax.tree.map(lambda a: jnp.repeat(a, num_chains // num_starts, axis=0), x)


class Candidates:
    """Points of the space with f and importance weights, from which starts are chosen."""

    def __init__(self, x: Point, log_density: np.ndarray, log_weight: np.ndarray):
        self._shape = log_density.shape  # (scales, 2, num): mirror images along axis 1
        self._leaves, self._structure = jax.tree.flatten(x)
        self._leaves = [np.asarray(a).reshape(-1, *a.shape[3:]) for a in self._leaves]
        self._log_density = log_density.astype(np.float64).ravel()
        finite = np.isfinite(self._log_density)
        self._log_weight = np.where(finite, log_weight.astype(np.float64).ravel(), -np.inf)
        self._finite = finite.reshape(self._shape)

    @staticmethod
    def look(energy: AbstractEnergy, num_starts: int, *, key: Key[Array, ""]) -> "Candidates":
        """Evaluates `num_candidates` points, and 16 times as many if f is finite at none.

        **Raises:** ValueError if f is finite at none of them either.
        """
        num_scales = min(-(-num_starts // 4), 8)
        scales = np.geomspace(_WIDEST, 1, num_scales) if num_scales > 1 else [_WIDEST**0.5]
        bases = {name: default_base(part) for name, part in _parts(energy.space).items()}
        few = num_candidates(energy, num_starts)
        for num in (few, 16 * few):
            each = -(-num // (2 * num_scales))
            found = _evaluate(energy, bases, jnp.asarray(scales, float), key, num=each)
            x, log_density, log_weight = jax.tree.map(np.asarray, found)
            if np.isfinite(log_density).any():
                return Candidates(x, log_density, log_weight)
        raise ValueError(
            f"found no start: f(x) is finite at none of {num:,} points drawn from the default base "
            f"of {energy.space}; give initial= points where f is finite"
        )

    def starts(self, num: int) -> Point:
        """Half of them mirror pairs, half spread over what carries the weight; (num, *event)."""
        num_spread = num // 2
        return self._points(self._pairs(num - num_spread) + self._spread(num_spread))

    def typical(self, num: int, least: float) -> Point | None:
        """`num` points with f ≥ `least`, spread over what carries the weight; None without any."""
        places = self._spread(num, np.where(self._log_density >= least, self._log_weight, -np.inf))
        return self._points(places) if places else None

    def _points(self, places: list[int]) -> Point:
        leaves = [jnp.asarray(leaf[np.array(places)]) for leaf in self._leaves]
        return jax.tree.unflatten(self._structure, leaves)

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

    def _spread(self, num: int, log_weight: np.ndarray | None = None) -> list[int]:
        """Places of points far from each other among those that carry 99.9 % of the weight."""
        log_weight = self._log_weight if log_weight is None else log_weight
        order = np.argsort(-log_weight, kind="stable")
        order = order[: int((log_weight > -np.inf).sum())]
        if len(order) == 0 or num == 0:
            return []
        weight = np.exp(log_weight[order] - log_weight[order[0]])
        heavy = int(np.searchsorted(np.cumsum(weight), 0.999 * weight.sum())) + 1
        some = order[: min(max(heavy, num), 1_024)]
        points = np.concatenate(
            [a.reshape(len(a), -1)[some].astype(np.float64) for a in self._leaves], axis=1
        )
        points /= np.maximum(points.std(0), 1e-300)
        chosen, distance = [0], np.full(len(some), np.inf)
        while len(chosen) < min(num, len(some)):
            distance = np.minimum(distance, ((points - points[chosen[-1]]) ** 2).sum(1))
            chosen.append(int(distance.argmax()))
        return [int(some[chosen[i % len(chosen)]]) for i in range(num)]


def num_candidates(energy: AbstractEnergy, num_starts: int) -> int:
    """How many points are looked at, unless f is finite at none of them."""
    sites = energy.space.num_sites
    num = 4_096 if sites <= 8 else 512  # in many dimensions no number of them finds the mass
    return max(4 * num_starts, min(num, 2**24 // sites))


@eqx.filter_jit
def _evaluate(
    energy: AbstractEnergy,
    bases: dict[str, AbstractNormalised],
    scales: Float[Array, " scales"],
    key: Key[Array, ""],
    *,
    num: int,
):
    """x (scales, 2, num, *event), mirror images along axis 1, with f and log weights there."""
    shape = (scales.shape[0], 2, num)
    x, log_q = {}, jnp.zeros(shape)
    for i, (name, base) in enumerate(bases.items()):
        space = base.space
        u = _draw(base, math.prod(shape), key=jax.random.fold_in(key, i))
        u = u.reshape(*shape, *u.shape[1:])
        u = u.at[:, 1].set(_mirror(space, u[:, 0], u[:, 1]))
        centre, unbounded = _centre(space)
        scale = scales.reshape((-1, 1, 1) + (1,) * len(space.shape))
        stretched = centre + (u - centre) * jnp.where(unbounded, scale, 1.0)
        if isinstance(space, Count):
            stretched = jnp.round(stretched)
        x[name] = stretched.astype(space.dtype)
        num_stretched = jnp.sum(jnp.broadcast_to(unbounded, space.shape))
        log_q += _each(base, u) - (num_stretched * jnp.log(scales))[:, None, None]
    points = x if isinstance(energy.space, Record) else x[""]
    log_density = _each(energy, points)
    return points, log_density, log_density - log_q


def _each(energy: AbstractEnergy, x: Point) -> Float[Array, "scales 2 num"]:
    """f of a batch with three leading axes."""
    shape = jax.tree.leaves(x)[0].shape[:3]
    return batched(energy, jax.tree.map(lambda a: a.reshape(-1, *a.shape[3:]), x)).reshape(shape)


def _draw(base: AbstractNormalised, num: int, *, key: Key[Array, ""]) -> Array:
    if isinstance(base.space, Count):
        # The default base there is geometric of mean 10; inverted, it compiles 50 times faster.
        unit = jax.random.uniform(key, (num, *base.space.shape))
        return jnp.floor(jnp.log1p(-unit) / math.log(10 / 11)).astype(base.space.dtype)
    return base.draw(num, key=key)


def _parts(space: AbstractSpace) -> dict[str, AbstractArraySpace]:
    if isinstance(space, Record):
        return space.parts
    assert isinstance(space, AbstractArraySpace)
    return {"": space}


def _mirror(space: AbstractSpace, x: Array, other: Array) -> Array:
    """The mirror image of draws `x` of the base where it has one, else the `other` draws."""
    if isinstance(space, Real | Spin):
        return -x
    if isinstance(space, Binary):
        return 1 - x
    if isinstance(space, Ordinal):
        return space.num_values - 1 - x
    if isinstance(space, Box):
        low, high = space.low, space.high
        both, none = jnp.isfinite(low) & jnp.isfinite(high), jnp.isinf(low) & jnp.isinf(high)
        return jnp.where(both, jnp.clip(low + high - x, low, high), jnp.where(none, -x, other))
    return other


def _centre(space: AbstractSpace) -> tuple[Any, Any]:
    """(point from which the base is stretched, which coordinates have no bound)."""
    if isinstance(space, Box):
        low, high = jnp.isfinite(space.low), jnp.isfinite(space.high)
        end = jnp.where(low, space.low, jnp.where(high, space.high, 0.0))
        return end, ~(low & high)
    return 0, isinstance(space, Real | Count)
