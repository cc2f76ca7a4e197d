"""log(1 + eᵘ), log ∫₀^∞ exp(−h²/2 + uh) dh and their changes, to float precision."""

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr, ndtr, ndtri
from jaxtyping import Array, Float, Key

from energax.energies._base import log1p

_FAR = -10.0  # below it log ∫₀^∞ exp(−h²/2 + uh) dh comes from its asymptotic series
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def bernoulli(logits: Float[Array, "..."], key: Key[Array, ""]) -> Float[Array, "..."]:
    """1.0 with probability sigmoid(logits), else 0.0."""
    u = jax.random.uniform(key, logits.shape, logits.dtype)
    return (u < jax.nn.sigmoid(logits)).astype(logits.dtype)


def softplus_change(a: Float[Array, "*a"], d: Float[Array, "*d"]) -> Float[Array, "..."]:
    """softplus(a + d) − softplus(a), to float precision also where d is small or a is large."""
    b = a + d
    ramp = jnp.where(a > 0, jnp.maximum(d, -a), jnp.maximum(b, 0))
    growth = jnp.where((a > 0) == (b > 0), jnp.where(a > 0, d, -d), jnp.abs(b) - jnp.abs(a))
    return ramp + tail_change(jnp.minimum(jnp.abs(a), jnp.abs(b)), growth)


def tail_change(nearer: Float[Array, "..."], growth: Float[Array, "..."]) -> Float[Array, "..."]:
    """Change of log(1 + e^{−|u|}), what softplus(u) has beyond max(u, 0), as |u| grows by `growth`.

    `nearer` is the smaller |u| of the two; the argument of log1p then stays in [−1/2, 0].
    """
    loss = log1p(jax.nn.sigmoid(-nearer) * jnp.expm1(-jnp.abs(growth)))
    return jnp.where(growth < 0, -loss, loss)


def log_half_normal(u: Float[Array, "..."]) -> Float[Array, "..."]:
    """log ∫₀^∞ exp(−h²/2 + uh) dh = u²/2 + log Φ(u) + ½ log 2π."""
    near = jnp.maximum(u, _FAR)
    a = -jnp.minimum(u, _FAR)
    square = a**-2
    # The integral is Mills' ratio of −u (Abramowitz & Stegun 1964, eq. 26.2.12).
    far = jnp.log1p(square * (-1 + square * (3 - 15 * square))) - jnp.log(a)
    return jnp.where(u < _FAR, far, 0.5 * near**2 + log_ndtr(near) + _HALF_LOG_2PI)


def half_normal_mean(u: Float[Array, "..."]) -> Float[Array, "..."]:
    """E[h] under p(h) ∝ exp(−h²/2 + uh), h ≥ 0: u + exp(−u²/2)/(√(2π) Φ(u))."""
    near = jnp.maximum(u, _FAR)
    a = -jnp.minimum(u, _FAR)
    square = a**-2
    far = (1 - square * (2 - square * (10 - 74 * square))) / a
    return jnp.where(u < _FAR, far, near + jnp.exp(-0.5 * near**2 - log_ndtr(near) - _HALF_LOG_2PI))


def draw_half_normal(u: Float[Array, "..."], key: Key[Array, ""]) -> Float[Array, "..."]:
    """h ~ exp(−h²/2 + uh) on h ≥ 0 by inversion: P(h > t) = Φ(u − t)/Φ(u)."""
    tiny = jnp.finfo(u.dtype).tiny
    chance = jnp.maximum(jax.random.uniform(key, u.shape, u.dtype), tiny)
    near = jnp.maximum(u, _FAR)
    close = near - ndtri(jnp.maximum(chance * ndtr(near), tiny))
    # Far below 0 nearly exponential: t (a + t/2) + log(1 + t/a) = −log chance, by Newton's method.
    a = -jnp.minimum(u, _FAR)
    depth = -jnp.log(chance)
    t = depth / (a + 1 / a)
    for _ in range(3):
        t = t - (t * (a + t / 2) + jnp.log1p(t / a) - depth) / (a + t + 1 / (a + t))
    return jnp.maximum(jnp.where(u < _FAR, t, close), 0)
