"""Whether exp(f) can be integrated up to the finite ends of a Box.

Chains cannot tell: they seldom come near enough. But f itself can be asked: where f rises as
s log(1/r) with the distance r to a wall, exp(f) is integrable only if s < 1, and towards a corner
of d coordinates only if s < d.
"""

import jax
import numpy as np

from energax.energies._base import AbstractEnergy
from energax.samplers.driver._base import ends, evenly, f_at, flat_rows
from energax.spaces import Point

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


def wall_reason(energy: AbstractEnergy, x: Point) -> str | None:
    """Where exp(f) grows too fast towards a wall or a corner, if it does; `x`: draws (num, ...)."""
    low, high = ends(energy.space)
    walled = np.flatnonzero(np.isfinite(low) | np.isfinite(high))
    if len(walled) == 0:
        return None
    flat = flat_rows(jax.tree.leaves(x))
    ways = ((low, 1.0), (high, -1.0))
    distance = [_distances(flat, wall, high - low) for wall, _ in ways]
    rays, powers, names = [], [], []
    for i in walled[evenly(len(walled), _SOME)]:
        for (wall, inwards), far in zip(ways, distance, strict=True):
            if np.isfinite(far[0, i]):
                ray = np.repeat(flat[-1:], _HALVINGS, axis=0)
                ray[:, i] = wall[i] + inwards * far[:, i]
                rays.append(ray)
                powers.append(1)
                names.append(f"end {wall[i]:g} of coordinate {i} (row-major)")
    if len(walled) > 1:
        for start in flat[np.linspace(0, len(flat) - 1, _SOME).astype(int)]:
            is_low = start - low <= high - start
            with np.errstate(invalid="ignore"):  # inf − inf, of which no place is taken
                to_low, to_high = (
                    w + inwards * d for (w, inwards), d in zip(ways, distance, strict=True)
                )
            place = np.where(is_low, to_low, to_high)
            moved = int(np.isfinite(place[0]).sum())
            if moved > 1:
                rays.append(np.where(np.isfinite(place), place, start))
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


def _distances(flat: np.ndarray, wall: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Where f is asked, (halvings, coordinates), the farthest first: nearer than draws, as near as
    floats resolve.

    NaN where there is no wall, the draws are too near for both, or the box too narrow for floats.
    """
    wall = np.where(np.isfinite(wall), wall, np.nan)
    near = np.quantile(abs(flat - wall), _NEXT, axis=0)
    least = np.maximum(_ROUNDING * abs(wall), _TINY)
    farthest = np.maximum(_NEAR * near, 2.0 ** (_HALVINGS - 1) * least)
    none = (least < near) & (near < 8 * farthest) | (farthest > width / 2)
    return np.where(none, np.nan, farthest) * 0.5 ** np.arange(_HALVINGS)[:, None]
