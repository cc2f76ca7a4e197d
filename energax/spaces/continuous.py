"""Real numbers, with walls or without."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from energax import random
from energax.spaces._base import (
    AbstractArraySpace,
    as_shape,
    float_dtype,
    refuse,
)


class Real(AbstractArraySpace):
    """ℝⁿ: x of `shape`, floats."""

    shape: tuple[int, ...] = eqx.field(static=True, converter=as_shape)

    dtype = property(lambda self: float_dtype())
    num_states = property(lambda self: None)
    is_continuous = property(lambda self: True)

    def example(self):
        return jnp.zeros(self.shape)

    def _check(self, x, name):
        return x.astype(self.dtype)

    def select(self, mask):
        return Real((int(mask.sum()),))

    def propose(self, x, scale, *, key):
        return x + scale * random.normal(key, x.shape, x.dtype)


class Box(AbstractArraySpace):
    """low ≤ x ≤ high coordinate by coordinate; ends may be ±inf.

    **Arguments:** `low`, `high`: numbers or arrays, broadcast against each other and to `shape`.

    **Raises:** ValueError where low ≥ high or an end is NaN.
    """

    low: Array
    high: Array
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, low, high, shape=None):
        low, high = np.asarray(low, float), np.asarray(high, float)
        self.shape = (
            np.broadcast_shapes(low.shape, high.shape) if shape is None else as_shape(shape)
        )
        low, high = np.broadcast_to(low, self.shape), np.broadcast_to(high, self.shape)
        if not np.all(low < high):
            raise ValueError("Box: expected low < high everywhere; an end is NaN or out of order")
        self.low = jnp.asarray(low, float_dtype())
        self.high = jnp.asarray(high, float_dtype())

    dtype = property(lambda self: float_dtype())
    num_states = property(lambda self: None)
    is_continuous = property(lambda self: True)

    def example(self):
        low, high = self.low, self.high
        inner_low = jnp.where(jnp.isfinite(low), low, jnp.where(jnp.isfinite(high), high - 2, -1.0))
        inner_high = jnp.where(jnp.isfinite(high), high, inner_low + 2)
        return (inner_low + inner_high) / 2

    def _check(self, x, name):
        x = x.astype(self.dtype)
        low, high = np.asarray(self.low), np.asarray(self.high)
        refuse((x < low) | (x > high), x, name, "values between low and high of the Box")
        return x

    def select(self, mask):
        return Box(np.asarray(self.low).ravel()[mask], np.asarray(self.high).ravel()[mask])

    def propose(self, x, scale, *, key):
        """Gaussian step, reflected at the finite ends (a reflected Gaussian is still symmetric)."""
        return self.reflect(x + scale * random.normal(key, x.shape, x.dtype))

    def reflect(self, y):
        """`y` folded back into the box, as light between mirrors at the finite ends."""
        low, high = self.low, self.high
        low_ok, high_ok = jnp.isfinite(low), jnp.isfinite(high)
        safe_low, safe_high = jnp.where(low_ok, low, 0.0), jnp.where(high_ok, high, 0.0)
        width = jnp.where(low_ok & high_ok, safe_high - safe_low, 1.0)
        phase = jnp.mod(y - safe_low, 2 * width)
        both = safe_low + jnp.where(phase > width, 2 * width - phase, phase)
        from_low = safe_low + jnp.abs(y - safe_low)
        from_high = safe_high - jnp.abs(safe_high - y)
        y = jnp.where(
            low_ok & high_ok,
            both,
            jnp.where(low_ok, from_low, jnp.where(high_ok, from_high, y)),
        )
        return jnp.clip(y, low, high)  # rounding only
