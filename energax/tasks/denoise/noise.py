"""Kinds of noise: how likely is what was seen, y, if x was there?"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from energax import random
from energax.energies._base import correlate
from energax.spaces import AbstractSpace, Binary, Box, Ordinal, Point, Real, Spin
from energax.tasks._base import NUM_CHAINS
from energax.tasks.denoise._base import AbstractNoise, every_second


def _as_number(value) -> Array:
    """An array, so that noise of another size compiles nothing anew."""
    return jnp.asarray(value, float)


def _check_sd(name: str, sd: Any) -> None:
    if jnp.ndim(sd) or not 0 < sd < np.inf:
        raise ValueError(f"{name}: the noise's sd is a positive number, got {sd}")


def _check_space(noise: AbstractNoise, space: Any, *kinds: type) -> None:
    if not isinstance(space, kinds):
        wanted = " and ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{type(noise).__name__} acts on {wanted} points, got {space}")


class BitFlip(AbstractNoise):
    """Every site of a two-valued point is flipped with probability `rate` (0 < rate < ½)."""

    rate: Float[Array, ""] = eqx.field(converter=_as_number)

    def __check_init__(self):
        if not 0 < self.rate < 0.5:
            raise ValueError(f"the flip rate lies between 0 and 0.5, got {self.rate}")

    def check(self, space):
        _check_space(self, space, Binary, Spin)

    def log_likelihood(self, y, x):
        return jnp.sum(jnp.where(x == y, jnp.log1p(-self.rate), jnp.log(self.rate)))

    def field(self, y, space):
        """(2y − 1) log((1 − ε)/ε) on {0, 1}, half of y log((1 − ε)/ε) on ±1."""
        return _flip_field(self.rate, y, space)

    def corrupt(self, x, space, *, key):
        flip = jax.random.uniform(key, x.shape) < self.rate
        return jnp.where(flip, 1 - x if isinstance(space, Binary) else -x, x)


class GaussianNoise(AbstractNoise):
    """y = x + `sd` · z with standard normal z, on Real points."""

    sd: Float[Array, ""] = eqx.field(converter=_as_number)

    def __check_init__(self):
        _check_sd("GaussianNoise", self.sd)

    def check(self, space):
        _check_space(self, space, Real)

    def log_likelihood(self, y, x):
        return -0.5 * jnp.sum(((y - x) / self.sd) ** 2)

    def corrupt(self, x, space, *, key):
        return x + self.sd * random.normal(key, x.shape, x.dtype)


class SaltAndPepper(AbstractNoise):
    """Every site is lost with probability `rate`, and then is the least value or the greatest.

    p(y_i | x_i) = (1 − rate) [y_i = x_i] + ½ rate ([y_i = low] + [y_i = high]). A site that is
    neither came through as it was. On `Real` and `Box`, where no x_i is exactly `low` or `high`, a
    site that is says nothing of x_i: it is missing, and which ones are is read off the values.

    **Arguments:** `low`, `high`: those values; None takes the ends of an `Ordinal`, `Binary` or
    `Spin` space, and 0 and 1 on `Real` and `Box`.
    """

    rate: Float[Array, ""] = eqx.field(converter=_as_number)
    low: float | None = eqx.field(static=True, default=None)
    high: float | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if not 0 < self.rate < 1:
            raise ValueError(f"the rate of lost sites lies between 0 and 1, got {self.rate}")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"expected low below high, got {self.low:g} and {self.high:g}")

    def check(self, space):
        _check_space(self, space, Real, Box, Ordinal, Binary, Spin)
        if not isinstance(space, Real | Box):
            least, most = _ends(space)
            if self.low not in (None, least) or self.high not in (None, most):
                raise ValueError(
                    f"SaltAndPepper: on {space} low and high are its ends, {least:g} and {most:g}, "
                    f"got {self.low} and {self.high}; leave them out"
                )

    def _values(self, space) -> tuple[float, float]:
        least, most = _ends(space)
        return (
            least if self.low is None else self.low,
            most if self.high is None else self.high,
        )

    def log_likelihood(self, y, x):
        """Of sites at an end: log(1 − rate/2) where x is that end too, else log(rate/2)."""
        return jnp.sum(jnp.where(x == y, jnp.log1p(-self.rate / 2), jnp.log(self.rate / 2)))

    def field(self, y, space):
        """On two values it is `BitFlip(rate / 2)`."""
        return _flip_field(self.rate / 2, y, space) if isinstance(space, Binary | Spin) else None

    def known(self, y, space):
        low, high = self._values(space)
        return None if isinstance(space, Binary | Spin) else (y != low) & (y != high)

    def corrupt(self, x, space, *, key):
        low, high = self._values(space)
        u = jax.random.uniform(key, x.shape)
        end = jnp.where(u < self.rate / 2, low, high).astype(x.dtype)
        return jnp.where(u < self.rate, end, x)

    def starts(self, y, space, *, key):
        if not isinstance(space, Real | Box):
            return super().starts(y, space, key=key)
        known = self.known(y, space)
        assert known is not None
        return _inside(space, _filled(y, known, key))


class PoissonNoise(AbstractNoise):
    """Counts of photons, in units of x: `peak` · y ~ Poisson(`peak` · x), x ≥ 0, on Real and Box.

    Mean x, variance x/`peak`. p(y | x) = 0 where x < 0.

    **Arguments:** `peak`: mean count where x = 1.
    """

    peak: Float[Array, ""] = eqx.field(converter=_as_number)

    def __check_init__(self):
        if not 0 < self.peak < np.inf:
            raise ValueError(f"PoissonNoise: expected a peak count above 0, got {self.peak}")

    def check(self, space):
        _check_space(self, space, Real, Box)

    def validate(self, Y, space):
        rows = Real(space.shape).validate(Y, name="Y")
        if np.any(rows < 0):
            raise ValueError(f"Y: counts over peak are at least 0, got {rows.min():g}")
        return rows

    def log_likelihood(self, y, x):
        counts, is_above = self.peak * y, x > 0
        logs = jnp.log(jnp.where(is_above, x, 1.0))
        at_zero = jnp.where((x == 0) & (y == 0), 0.0, -jnp.inf)
        return jnp.sum(jnp.where(is_above, counts * logs - self.peak * x, at_zero))

    def corrupt(self, x, space, *, key):
        counts = random.poisson(key, self.peak * jnp.maximum(x, 0.0), x.shape)
        return counts.astype(x.dtype) / self.peak

    def starts(self, y, space, *, key):
        """As of every noise, none below half a count."""
        least = 0.5 / self.peak
        batch = jnp.broadcast_to(jnp.maximum(y, least), (NUM_CHAINS, *y.shape))
        noisier = jnp.maximum(self.corrupt(batch, space, key=key), least)
        return _inside(space, every_second(batch, noisier))


class Mask(AbstractNoise):
    """Missing sites: y = x + `sd` · z where `observed`, and nothing elsewhere, on Real points.

    For gaps in rows without noise take `energax.impute`, which holds what is there exactly.

    **Arguments:** `observed`: booleans of the shape of a point, or of its first axes, such as
    (height, width) for colour images. `sd`: of the noise on what is seen. What Y holds at missing
    sites is not read, and may be NaN.
    """

    observed: Bool[Array, "..."] = eqx.field(converter=lambda v: jnp.asarray(v, bool))
    sd: Float[Array, ""] = eqx.field(converter=_as_number)

    def __check_init__(self):
        _check_sd("Mask", self.sd)
        if not bool(jnp.any(self.observed)):
            raise ValueError("Mask: expected at least one site that is observed, got none")

    def check(self, space):
        _check_space(self, space, Real)
        if space.shape[: self.observed.ndim] != self.observed.shape:
            raise ValueError(
                f"Mask: expected `observed` of shape {space.shape} or of its first axes, got "
                f"{self.observed.shape}"
            )

    def _sites(self, shape: tuple[int, ...]) -> Bool[Array, "..."]:
        extra = len(shape) - self.observed.ndim
        return jnp.broadcast_to(self.observed.reshape(*self.observed.shape, *(1,) * extra), shape)

    def validate(self, Y, space):
        rows = np.asarray(Y, float)
        if rows.shape[rows.ndim - len(space.shape) :] == space.shape:
            rows = np.where(np.asarray(self._sites(space.shape)), rows, 0.0)
        return space.validate(rows, name="Y")

    def log_likelihood(self, y, x):
        return -0.5 * jnp.sum(jnp.where(self._sites(x.shape), (y - x) / self.sd, 0.0) ** 2)

    def corrupt(self, x, space, *, key):
        noisy = x + self.sd * random.normal(key, x.shape, x.dtype)
        return jnp.where(self._sites(space.shape), noisy, 0.0)

    def starts(self, y, space, *, key):
        return _filled(y, self._sites(y.shape), key)


class Blur(AbstractNoise):
    """y = k ∗ x + `sd` · z: images seen through a point spread function, on Real points.

    (k ∗ x)(i, j) = Σ_ab k(a, b) x(i − a, j − b), a and b from the kernel's middle, the image
    going on beyond its border as its outermost pixels; each channel for itself.

    **Arguments:** `kernel` k: (rows, columns), both odd; its sum is the gain. `sd`: of the noise.
    """

    kernel: Float[Array, "_ _"] = eqx.field(converter=_as_number)
    sd: Float[Array, ""] = eqx.field(converter=_as_number)

    def __check_init__(self):
        _check_sd("Blur", self.sd)
        shape = self.kernel.shape
        if len(shape) != 2 or not all(n % 2 for n in shape):
            raise ValueError(f"Blur: expected a kernel of odd sides, (rows, columns), got {shape}")
        if not bool(jnp.all(jnp.isfinite(self.kernel))):
            raise ValueError("Blur: the kernel holds numbers that are not finite")

    def check(self, space):
        _check_space(self, space, Real)
        if len(space.shape) not in (2, 3):
            raise ValueError(
                "Blur: expected images, a space of shape (height, width) or (height, width, "
                f"channels), got {space}"
            )

    def blurred(self, x: Float[Array, "height width *c"]) -> Float[Array, "height width *c"]:
        """k ∗ x of one image."""
        tall, wide = (n // 2 for n in self.kernel.shape)
        side = max(tall, wide)
        square = jnp.pad(self.kernel, ((side - tall,) * 2, (side - wide,) * 2))
        kernel = jnp.flip(square, (0, 1))[:, :, None, None]
        channels = jnp.moveaxis(x.reshape(*x.shape[:2], -1), -1, 0)[..., None]
        padded = jnp.pad(channels, ((0, 0), (side, side), (side, side), (0, 0)), mode="edge")
        out = jax.vmap(lambda image: correlate(image, kernel))(padded)
        inner = out[:, side : side + x.shape[0], side : side + x.shape[1], 0]
        return jnp.moveaxis(inner, 0, -1).reshape(x.shape)

    def log_likelihood(self, y, x):
        return -0.5 * jnp.sum(((y - self.blurred(x)) / self.sd) ** 2)

    def corrupt(self, x, space, *, key):
        return jax.vmap(self.blurred)(x) + self.sd * random.normal(key, x.shape, x.dtype)


def _flip_field(rate, y: Point, space: Any) -> Float[Array, "..."]:
    log_odds = jnp.log1p(-rate) - jnp.log(rate)
    return log_odds * (2 * y - 1) if isinstance(space, Binary) else 0.5 * log_odds * y


def _ends(space: AbstractSpace) -> tuple[float, float]:
    if isinstance(space, Ordinal):
        return 0.0, space.num_values - 1.0
    return (-1.0 if isinstance(space, Spin) else 0.0), 1.0


def _inside(space: AbstractSpace, x: Point) -> Point:
    """x moved off the ends of a `Box` and what lies beyond, by a hundredth of its width."""
    if not isinstance(space, Box):
        return x
    width = space.high - space.low
    margin = 0.01 * jnp.where(jnp.isfinite(width), width, 1.0)
    return jnp.clip(x, space.low + margin, space.high - margin)


def _filled(y: Point, known: Bool[Array, "..."], key) -> Point:
    """(NUM_CHAINS, *event) with other sites drawn from a normal of the known ones' mean and sd."""
    num = jnp.maximum(jnp.sum(known), 1)
    mean = jnp.sum(jnp.where(known, y, 0.0)) / num
    sd = jnp.sqrt(jnp.sum(jnp.where(known, y - mean, 0.0) ** 2) / num)
    drawn = mean + sd * random.normal(key, (NUM_CHAINS, *y.shape), y.dtype)
    return jnp.where(known, y, drawn)
