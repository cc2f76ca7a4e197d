"""Whether f falls fast enough, far out, for exp(f) to have a finite integral, a mean and an sd.

Chains cannot tell: they never get far enough. But f itself can be asked: where f falls as −s log|x|
along rays in d dimensions, exp(f) is integrable only if s > d, has a mean only if s > d + 1, and a
variance only if s > d + 2.
"""

import jax
import numpy as np

from energax.energies._base import AbstractEnergy
from energax.samplers.driver._base import ends, f_at, flat_rows
from energax.spaces import Point

_FAR = 1e3
"""How far out f is asked, in units of the farthest draw's distance from the median."""

_OVERFLOW = 1e16
"""Where a float32 soon overflows when squared, so that the far rays tell nothing."""

_RAYS = 8  # of each kind
_DOUBLINGS = 6  # places along each, every one twice as far as the one before


def tail_reason(energy: AbstractEnergy, x: Point) -> str | None:
    """What is wrong with the tails of f, if anything is; `x`: draws (num, *event)."""
    reach = max(
        (float(np.abs(leaf).max()) for leaf in jax.tree.leaves(x) if leaf.dtype.kind == "f"),
        default=0.0,
    )
    if reach > _OVERFLOW:
        return (
            f"the draws went as far as |x| = {reach:.2g}, where floats overflow: exp(f) has no "
            "finite integral, or next to none; confine f, or x to a Box"
        )
    fall = slowest_fall(energy, x)
    if fall is None or fall[0] > 2.02:
        return None
    excess, which, _ = fall
    where = "outwards" if which is None else f"along coordinate {which} (row-major)"
    if excess <= 0.02:
        what = "so slowly, if at all, that exp(f) has no finite integral: there is no distribution"
    elif excess <= 1.02:
        what = "so slowly that p(x) has no mean: read quantiles off the draws, not means"
    else:
        what = "so slowly that p(x) has no variance: means carry no valid error bar"
    return f"far {where} f falls {what}; confine f, or x to a Box"


def slowest_fall(energy: AbstractEnergy, x: Point) -> tuple[float, int | None, bool] | None:
    """The slowest fall of f that was found, or None where no coordinate can go far.

    **Arguments:** `x`: draws (num, *event).

    **Returns:** (s − d, number of the coordinate that goes out alone, None where all go together in
    d dimensions; whether f falls along none of the latter rays).
    """
    ways = np.isinf(np.stack(ends(energy.space)))
    free = np.flatnonzero(ways.any(0))
    if len(free) == 0:
        return None
    flat = flat_rows(jax.tree.leaves(x))
    centre = np.median(flat, axis=0)
    reach = np.maximum(abs(flat - centre).max(0), 1e-6 * (1 + abs(centre))) * _FAR
    start = flat[np.linspace(0, len(flat) - 1, _RAYS).astype(int)]

    together = (start - centre) / reach
    size_of = abs(together[:, free]).max(1, keepdims=True)
    together = np.where(size_of > 0, together / np.maximum(size_of, 1e-300), 1.0)
    together = np.where(ways[0] & ways[1], together, np.where(ways[1], 1, -1) * abs(together))
    together[:, ~ways.any(0)] = 0.0
    alone = free[np.linspace(0, len(free) - 1, _RAYS).astype(int)]
    single = np.zeros((2 * _RAYS, flat.shape[1]))
    for way, sign in enumerate((-1.0, 1.0)):  # a way that is shut turns back to the open one
        rows = way * _RAYS + np.arange(_RAYS)
        single[rows, alone] = np.where(ways[way, alone], sign, -sign)
    direction = np.concatenate([together, single])
    start = np.concatenate([start, start, start])
    moves = direction != 0
    rays = [np.where(moves, centre + 2.0**k * reach * direction, start) for k in range(_DOUBLINGS)]

    f = f_at(energy, np.concatenate(rays).clip(-1e37, 1e37), x)
    f = f.reshape(_DOUBLINGS, len(direction))
    near, far = f[:-1], f[1:]
    with np.errstate(invalid="ignore"):
        fall = np.where(far == np.inf, -np.inf, (near - far) / np.log(2.0))
    # f = −∞ at both: nothing is there. A ray may cross a ridge, but a slow tail is slow all along.
    fall = np.where(np.isnan(fall), np.inf, fall).max(0)
    excess = fall - np.concatenate([np.full(_RAYS, len(free)), np.ones(2 * _RAYS)])
    i = int(excess.argmin())
    which = None if i < _RAYS else int(alone[(i - _RAYS) % _RAYS])
    return float(excess[i]), which, bool((fall[:_RAYS] <= 0).all())
