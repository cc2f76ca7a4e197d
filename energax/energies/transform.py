"""Change of variables: an energy on a box read on all of ℝⁿ, where gradient samplers move."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from energax.energies._base import AbstractEnergy
from energax.spaces import AbstractSpace, Box, Point, Real, Record


class Unconstrained(AbstractEnergy):
    """E(y) = E(x(y)) − log |det ∂x/∂y|, so that x(y) has the density exp(−E(x)) on its box.

    Coordinate by coordinate, after Carpenter et al. 2017 and the Stan reference manual, "Constraint
    transforms": x = y without ends; x = low + eʸ, ∂x/∂y = eʸ above a finite low; x = high − eʸ
    below a finite high; x = low + wσ(y), ∂x/∂y = wσ(y)σ(−y), w = high − low, between two.

    Where rounding would put x on a wall it gets the nearest number inside, so that a density that
    is infinite at the wall is evaluated where it is finite. Only what lies within one such number
    of a wall is then weighed roughly; near a wall at 0 that is nothing.

    **Arguments:** `energy`: on a `Box` with any mix of finite and infinite ends, on `Real`, or on a
    `Record` of such parts. The space of y is `Real` in the same shapes.

    **Raises:** TypeError for any other space.
    """

    energy: AbstractEnergy

    def __check_init__(self):
        for part in _parts(self.energy.space):
            if not isinstance(part, (Real, Box)):
                raise TypeError(
                    "Unconstrained reads energies on Box and Real spaces (or a Record of them) on "
                    f"all of ℝⁿ, got {part}; use Metropolis(), which works on every space"
                )

    @property
    def space(self):  # type: ignore[override]
        whole = self.energy.space
        if isinstance(whole, Record):
            return Record(**{name: Real(part.shape) for name, part in whole.parts.items()})
        return Real(whole.shape)

    def __call__(self, y):
        return self.energy(self.constrain(y)) - self.log_jacobian(y)

    def constrain(self, y: Point) -> Point:
        """x(y), strictly inside; one point or a batch of them (leading axes)."""
        return _each(_constrain, self.energy.space, y)

    def unconstrain(self, x: Point) -> Point:
        """y(x), the inverse; of a point on a wall that of the nearest number inside."""
        return _each(_unconstrain, self.energy.space, x)

    def log_jacobian(self, y: Point) -> Float[Array, ""]:
        """log |det ∂x/∂y| at one point."""
        terms = _each(_log_jacobian, self.energy.space, y)
        return sum((jnp.sum(leaf) for leaf in jax.tree.leaves(terms)), jnp.zeros(()))


def _parts(space: AbstractSpace) -> list[AbstractSpace]:
    return list(space.parts.values()) if isinstance(space, Record) else [space]


def _each(function, space: AbstractSpace, x: Point) -> Point:
    """`function(box, x)` of every part that is a Box; on Real `_log_jacobian` is 0, x is y."""
    if isinstance(space, Record):
        return {name: _each(function, part, x[name]) for name, part in space.parts.items()}
    if isinstance(space, Box):
        return function(space, x)
    return jnp.zeros_like(x) if function is _log_jacobian else x


def _ends(box: Box):
    """(has a low end, has a high end, low, high), the ends 0 where there are none."""
    has_low, has_high = jnp.isfinite(box.low), jnp.isfinite(box.high)
    return has_low, has_high, jnp.where(has_low, box.low, 0.0), jnp.where(has_high, box.high, 0.0)


def _inside(box: Box, x):
    """`x`, or where it lies on a wall or beyond the nearest number inside."""
    has_low, has_high, low, high = _ends(box)
    tiny = jnp.finfo(low.dtype).tiny  # smaller numbers may be flushed to 0
    least = jnp.maximum(jnp.nextafter(low, jnp.inf), low + tiny)
    most = jnp.minimum(jnp.nextafter(high, -jnp.inf), high - tiny)
    x = jnp.where(has_low & (x < least), least, x)
    return jnp.where(has_high & (x > most), most, x)


def _constrain(box: Box, y):
    has_low, has_high, low, high = _ends(box)
    width = high - low
    # From the nearer end, for the sake of digits
    both = jnp.where(y < 0, low + width * jax.nn.sigmoid(y), high - width * jax.nn.sigmoid(-y))
    one = has_low ^ has_high
    away = jnp.exp(jnp.where(one, y, 0.0))  # no overflow, nor its NaN gradient, where not used
    x = jnp.where(has_low, low + away, high - away)
    return _inside(box, jnp.where(one, x, jnp.where(has_low, both, y)))


def _unconstrain(box: Box, x):
    has_low, has_high, low, high = _ends(box)
    x = _inside(box, x)
    log_low = jnp.log(jnp.where(has_low, x - low, 1.0))
    log_high = jnp.log(jnp.where(has_high, high - x, 1.0))
    one = jnp.where(has_low, log_low, log_high)
    return jnp.where(has_low & has_high, log_low - log_high, jnp.where(has_low ^ has_high, one, x))


def _log_jacobian(box: Box, y):
    has_low, has_high, low, high = _ends(box)
    width = jnp.where(has_low & has_high, high - low, 1.0)
    both = jnp.log(width) + jax.nn.log_sigmoid(y) + jax.nn.log_sigmoid(-y)
    return jnp.where(has_low & has_high, both, jnp.where(has_low ^ has_high, y, 0.0))
