"""Whether exp(f) can be integrated up to the finite ends of a Box.

Chains cannot tell: they seldom come near enough. But f itself can be asked: where f rises as
s log(1/r) with the distance r to a wall, exp(f) is integrable only if s < 1, and towards a corner
of d coordinates only if s < d.
"""

import jax
import numpy as np

from energax.energies._base import AbstractEnergy
from energax.samplers.driver._base import f_at, flat_rows
from energax.spaces import AbstractSpace, Box, Point, Record

_NEAR = 1e-3
"""How near to the wall f is asked, in units of the distance of the draws next to it."""

_NEXT = 0.05  # of the draws are nearer than that distance
_HALVINGS = 6  # places, every one at half the distance of the one before
_SOME = 8  # coordinates looked at, and corners
_ROUNDING, _TINY = 2.0**-18, 1e-36
"""The nearest place, in units of |wall| (sixteen steps of a float32), and absolute."""

_LEAST = 0.98  # of the power that has no integral
_STEADY = 0.7
"""The power next to the wall over that at the farthest place, of a pole at the least.

A density that is narrow, but finite at the wall, flattens there."""


def _walls(space: AbstractSpace) -> tuple[np.ndarray, np.ndarray]:
    """(lower, upper) ends of all coordinates, flat, infinite where there is none."""
    parts = list(space.parts.values()) if isinstance(space, Record) else [space]
    ends: tuple[list, list] = ([], [])
    for part in parts:
        for found, name, none in zip(ends, ("low", "high"), (-np.inf, np.inf), strict=True):
            end = getattr(part, name) if isinstance(part, Box) else none
            found.append(np.broadcast_to(np.asarray(end, np.float64), part.shape).ravel())
    return np.concatenate(ends[0]), np.concatenate(ends[1])


def wall_reason(energy: AbstractEnergy, x: Point) -> str | None:
    """Where exp(f) grows too fast towards a wall or a corner, if it does; `x`: draws (num, ...)."""
    low, high = _walls(energy.space)
    walled = np.flatnonzero(np.isfinite(low) | np.isfinite(high))
    if len(walled) == 0:
        return None
    flat = flat_rows(jax.tree.leaves(x))
    walled = walled[np.linspace(0, len(walled) - 1, min(_SOME, len(walled))).astype(int)]
    rays, powers, names = [], [], []
    for i in walled:
        for wall, inwards in ((low[i], 1.0), (high[i], -1.0)):
            distance = _distances(flat[:, i], float(wall), float(high[i] - low[i]))
            if distance is not None:
                ray = np.repeat(flat[-1:], _HALVINGS, axis=0)
                ray[:, i] = wall + inwards * distance
                rays.append(ray)
                powers.append(1)
                names.append(f"end {wall:g} of coordinate {i} (row-major)")
    if len(walled) > 1:
        for start in flat[np.linspace(0, len(flat) - 1, _SOME).astype(int)]:
            ray, moved = np.repeat(start[None], _HALVINGS, axis=0), 0
            for i in np.flatnonzero(np.isfinite(low) | np.isfinite(high)):
                is_low = start[i] - low[i] <= high[i] - start[i]
                wall, inwards = (low[i], 1.0) if is_low else (high[i], -1.0)
                distance = _distances(flat[:, i], float(wall), float(high[i] - low[i]))
                if distance is not None:
                    ray[:, i] = wall + inwards * distance
                    moved += 1
            if moved > 1:
                rays.append(ray)
                powers.append(moved)
                names.append(f"corner of {moved} coordinates")
    if not rays:
        return None
    f = f_at(energy, np.concatenate(rays), x).reshape(len(rays), _HALVINGS)
    with np.errstate(invalid="ignore"):
        rise = np.diff(f, axis=1) / np.log(2.0)
    rise = np.where(np.isnan(rise), -np.inf, rise)
    flattens = rise[:, -1] < _STEADY * rise[:, 0]
    power = np.where(flattens, -np.inf, rise.min(1))
    i = int(np.argmax(power / powers))
    if power[i] < _LEAST * powers[i]:
        return None
    return (
        f"towards the {names[i]} exp(f) grows as r^-{power[i]:.3g} or faster with the distance r, "
        "as near as floats tell it: it has no finite integral, there is no distribution; mend f, "
        "or take a Box that ends before it"
    )


def _distances(values: np.ndarray, wall: float, width: float) -> np.ndarray | None:
    """Where f is asked, the farthest first: nearer than draws, as near as floats resolve.

    None where the draws are too near for both, or the box too narrow for floats.
    """
    if not np.isfinite(wall):
        return None
    near = float(np.quantile(abs(values - wall), _NEXT))
    least = max(_ROUNDING * abs(wall), _TINY)
    farthest = max(_NEAR * near, 2.0 ** (_HALVINGS - 1) * least)
    if least < near < 8 * farthest or farthest > width / 2:
        return None
    return farthest * 0.5 ** np.arange(_HALVINGS)
