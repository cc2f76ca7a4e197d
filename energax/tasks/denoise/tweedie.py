"""By Tweedie's formula: the posterior mean x + σ²∇f(x) and variance σ²(1 + σ²∂ᵢ²f(x)), no draw.

Where f is the log-density of *noisy* points, p ∗ N(0, σ²), as denoising trains it, its first two
derivatives at a noisy point are the mean and covariance of the clean one behind it: E[x | y] =
y + σ²∇f(y), Cov[x | y] = σ²(I + σ²∇²f(y)) (Robbins 1956, who credits Tweedie; Miyasawa 1961; Efron
2011, "Tweedie's formula and selection bias", eq. 1.4 and 2.7; Vincent 2011).
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from energax.energies._base import AbstractEnergy
from energax.results import Verdict
from energax.tasks.denoise._base import Denoised

_APART = 6
"""Pixels, along both axes, between those whose second derivatives are asked for at once."""
_AT_ONCE = 64
"""The same for vectors: every 64th."""
_RATIO = 1.5
"""How far the error that Stein's formula sees may lie from the one the energy states."""
_TAIL = 14.0
"""log of 10⁶, one in which rows may be called unreliable by the chance of their noise."""


@eqx.filter_jit
def posterior_means(
    energy: AbstractEnergy, rows: Float[Array, "rows ..."], sigma: Float[Array, ""]
) -> Float[Array, "rows ..."]:
    """y + σ²∇f(y) of every row, one after the other: images take memory."""
    return jax.lax.map(lambda y: y - sigma**2 * jax.grad(energy)(y), rows)


def by_tweedie(
    energy: AbstractEnergy,
    rows: Float[Array, "rows ..."],
    sigma: Float[Array, ""],
    *,
    key: Key[Array, ""],
) -> Denoised:
    """Mean and sd of x given y = x + σz, where f is the log-density of y.

    Second derivatives are exact for vectors of at most 64 sites and images of at most 6 × 6
    pixels; else signs are drawn for sites that lie 6 pixels apart, and ∂ᵢ²f is what s_i (∇²f s)_i
    tells of it (Bekas, Kokiopoulou & Saad 2007; with sites apart, Tang & Saad 2012), without bias.

    A row is unreliable where the mean squared error of the answer that its own data show, by
    Stein's unbiased estimate (1981), is not the one that the variances state: then f is not the
    log-density of such points with noise of this size.
    """
    mean = np.asarray(posterior_means(energy, rows, sigma), np.float64)
    curvature = np.asarray(_curvatures(energy, rows, jax.random.split(key, len(rows))))
    s2 = float(sigma) ** 2
    variance = s2 * (1 + s2 * curvature.astype(np.float64))
    moved = (mean - np.asarray(rows, np.float64)).reshape(len(rows), -1)
    stated = variance.reshape(len(rows), -1).mean(1)
    shown = (moved**2).mean(1) - s2 + 2 * stated  # Stein 1981: tr ∇mean = tr variance / σ²
    share = _TAIL / moved.shape[1]  # of |z|², by Laurent & Massart 2000, lemma 1
    noise = s2 * (2 * math.sqrt(share) + 2 * share)
    good = (shown <= _RATIO * stated + noise) & (shown >= stated / _RATIO - noise)
    good &= np.isfinite(mean).reshape(len(rows), -1).all(1)
    verdict = Verdict.of(
        [
            (
                bool(good.all()),
                f"{int((~good).sum())} of {len(good)} rows: the error that the data show, "
                f"{_rms(shown[~good])}, is not the one that the energy states, "
                f"{_rms(stated[~good])} (root mean square): they are unlike what it was trained "
                f"on, or their noise is not of sd {float(sigma):g}; see reliable_rows",
            )
        ]
    )
    verdict.warn("the posterior of the rows")
    return Denoised(
        x=mean.astype(rows.dtype),
        mean=mean,
        sd=np.sqrt(np.maximum(variance, 0.0)),
        std_err=np.zeros_like(mean),
        draws=np.zeros((len(rows), 0, *rows.shape[1:]), rows.dtype),
        reliable_rows=good,
        reliable=verdict.reliable,
        reasons=verdict.reasons,
        mode=None,
    )


def _rms(values: np.ndarray) -> str:
    if not len(values):
        return "0"
    return f"{math.sqrt(max(0.0, float(np.mean(values)))):.3g}"


@eqx.filter_jit
def _curvatures(energy, rows, keys):
    """∂ᵢ²f at every row, (rows, *event)."""
    groups, num = _groups(rows.shape[1:])

    def one(args):
        y, key = args
        signs = jax.random.rademacher(key, y.shape, y.dtype)

        def add(total, group):
            direction = jnp.where(groups == group, signs, 0.0)
            product = jax.jvp(jax.grad(energy.log_density), (y,), (direction,))[1]
            return total + direction * product, None

        return jax.lax.scan(add, jnp.zeros_like(y), jnp.arange(num))[0]

    return jax.lax.map(one, (rows, keys))


def _groups(shape: tuple[int, ...]) -> tuple[Any, int]:
    """(the number of each site's group, how many groups): sites of one lie far apart."""
    index = np.indices(shape)
    if len(shape) < 2:
        number = index.sum(0) % _AT_ONCE if shape else np.zeros((), int)
    else:
        channel = np.ravel_multi_index(tuple(index[2:]), shape[2:]) if shape[2:] else 0
        number = (index[0] % _APART * _APART + index[1] % _APART) + _APART**2 * channel
    used, number = np.unique(number, return_inverse=True)
    return jnp.asarray(number.reshape(shape)), len(used)
