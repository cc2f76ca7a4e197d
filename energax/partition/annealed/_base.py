"""Does ∫ exp f exist at infinity? f is followed outwards along random rays.

On d unbounded coordinates exp f is integrable along a cone only if f falls faster than −d log |x|
there. A slope f(2r) − f(r) ≥ −d log 2 far out says that it may not be.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from energax.energies._base import AbstractEnergy, batched
from energax.spaces import Box, Count, Point, Real, Record

_NUM_RAYS, _NUM_DOUBLINGS = 64, 24


def tail_reasons(energy: AbstractEnergy, draws: Point, *, key: Key[Array, ""]) -> list[str]:
    """A reason for doubt if f falls too slowly along some ray from the draws' centre, else none.

    **Arguments:** `draws`: (num, *event) points of usual density, which give centre and scale.
    """
    dimension = _num_unbounded(energy.space)
    if dimension == 0:
        return []
    numeric = jax.tree.map(lambda a: np.asarray(a, np.float64), draws)
    finite = all(np.isfinite(a).all() for a in jax.tree.leaves(numeric))
    if not finite:
        return ["draws of the target ran off to infinity: exp f has no finite integral there"]
    centre = jax.tree.map(lambda a: jnp.asarray(np.median(a, 0), float), numeric)
    scale = jax.tree.map(lambda a: jnp.asarray(np.maximum(a.std(0), 1e-3), float), numeric)
    f = np.asarray(_along_rays(energy, centre, scale, key), np.float64)
    if np.isnan(f).any() or (f == np.inf).any():
        return ["f is NaN or +∞ far from the bulk: whether exp f can be integrated is not known"]
    with np.errstate(invalid="ignore"):
        slope = np.diff(f[:, _NUM_DOUBLINGS // 2 :], axis=1)  # of the outer doublings
    slope = np.where(np.isneginf(f[:, _NUM_DOUBLINGS // 2 + 1 :]), -np.inf, slope)
    flat = np.median(slope, axis=1) >= -dimension * math.log(2) * (1 + 1e-3)
    if flat.any():
        return [
            f"f falls no faster than −{dimension} log |x| along {flat.mean():.0%} of the rays "
            "looked at: exp f may have no finite integral"
        ]
    return []


def _num_unbounded(space) -> int:
    """Number of coordinates that reach infinity."""
    match space:
        case Real() | Count():
            return space.num_sites
        case Box():
            return int(np.sum(~(np.isfinite(space.low) & np.isfinite(space.high))))
        case Record():
            return sum(_num_unbounded(part) for part in space.parts.values())
    return 0


@eqx.filter_jit
def _along_rays(energy: AbstractEnergy, centre: Point, scale: Point, key):
    """f at centre + 2ᵏ scale u, random directions u, k = 2 … : (rays, doublings)."""
    space = energy.space
    parts = space.parts if isinstance(space, Record) else {"": space}
    centre = centre if isinstance(space, Record) else {"": centre}
    scale = scale if isinstance(space, Record) else {"": scale}
    radii = 2.0 ** (2 + jnp.arange(_NUM_DOUBLINGS))
    out = {}
    for i, (name, part) in enumerate(parts.items()):
        u = jax.random.normal(jax.random.fold_in(key, i), (_NUM_RAYS, *part.shape))
        reach = radii.reshape(-1, *(1,) * len(part.shape))
        x = centre[name] + reach * (scale[name] * u)[:, None]
        match part:
            case Count():
                x = jnp.round(jnp.minimum(jnp.abs(x), 2.0**30)).astype(part.dtype)
            case Box():
                low_ok, high_ok = jnp.isfinite(part.low), jnp.isfinite(part.high)
                x = jnp.where(low_ok & ~high_ok, part.low + jnp.abs(x - part.low), x)
                x = jnp.where(high_ok & ~low_ok, part.high - jnp.abs(part.high - x), x)
                x = jnp.where(low_ok & high_ok, centre[name], x)
            case Real():
                pass
            case _:
                example = jnp.broadcast_to(part.example(), x.shape)
                x = example.astype(part.dtype)
        out[name] = x
    points = out if isinstance(space, Record) else out[""]
    return jax.vmap(lambda x: batched(energy, x))(points)
