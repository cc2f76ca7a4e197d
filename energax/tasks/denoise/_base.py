"""What a noise is, p(x | y) as an energy, and what a cleaned row looks like."""

import dataclasses
from abc import abstractmethod

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from energax.energies._base import AbstractEnergy, AbstractTiltable
from energax.energies.reference import default_base
from energax.spaces import AbstractArraySpace, AbstractSpace, Point
from energax.tasks._base import NUM_CHAINS, Clamped, Restored


class AbstractNoise(eqx.Module):
    """How clean points x turn into observed ones y, of the same shape."""

    @abstractmethod
    def check(self, space: AbstractSpace) -> None:
        """Raises TypeError or ValueError if the noise does not act on this space."""

    @abstractmethod
    def log_likelihood(self, y: Point, x: Point) -> Float[Array, ""]:
        """log p(y | x) of one point, up to a constant; sites that `known` names do not count."""

    @abstractmethod
    def corrupt(self, x: Point, space: AbstractSpace, *, key: Key[Array, ""]) -> Point:
        """y ~ p(y | x) for a batch."""

    def validate(self, Y: Point, space: AbstractSpace) -> np.ndarray:
        """Observed rows, or one of them, as NumPy; a ValueError for what cannot be observed."""
        return space.validate(Y, name="Y")

    def field(self, y: Point, space: AbstractSpace) -> Float[Array, "..."] | None:
        """h(y) with log p(y | x) = ⟨h, x⟩ + constant where the noise is linear in x, else None."""
        return None

    def known(self, y: Point, space: AbstractSpace) -> Bool[Array, "..."] | None:
        """Which sites of y are those of x for certain; None where no noise says so of any."""
        return None

    def starts(self, y: Point, space: AbstractSpace, *, key: Key[Array, ""]) -> Point:
        """(NUM_CHAINS, *event) points with p(y | x) > 0: half y itself, half a noisier version."""
        batch = jnp.broadcast_to(y, (NUM_CHAINS, *y.shape))
        return every_second(batch, self.corrupt(batch, space, key=key))


def every_second(even: Point, odd: Point) -> Point:
    """Chains 0, 2, … of the one and 1, 3, … of the other, both (NUM_CHAINS, *event)."""
    is_even = jnp.arange(NUM_CHAINS) % 2 == 0
    return jnp.where(is_even.reshape(-1, *(1,) * (even.ndim - 1)), even, odd)


class Posterior(AbstractEnergy):
    """E(x) − log p(y | x): clean points given one noisy one."""

    energy: AbstractEnergy
    noise: AbstractNoise
    observed: Point

    @property
    def space(self):  # type: ignore[override]
        return self.energy.space

    def __call__(self, x):
        return self.energy(x) - self.noise.log_likelihood(self.observed, x)


def posterior(energy: AbstractEnergy, noise: AbstractNoise, y: Point) -> AbstractEnergy:
    """p(x | y) as an energy; of the same kind as `energy` where the noise is linear in x.

    Where the noise leaves some sites as they are (`AbstractNoise.known`) it is p of the others
    given these, as a `Clamped` energy.
    """
    space = energy.space
    field = noise.field(y, space)
    if field is not None and isinstance(energy, AbstractTiltable):
        return energy.tilt(field)
    target = Posterior(energy, noise, y)
    known = noise.known(y, space)
    return target if known is None else Clamped(target, default_base(space), y, ~known)


@dataclasses.dataclass(frozen=True)
class Denoised(Restored):
    """`Restored` with `mode`: (rows, *event), for each row a local maximum of p(x | y), climbed to
    from the most probable of its draws; None by Tweedie's formula, which draws none (`draws` is
    then (rows, 0, *event))."""

    mode: np.ndarray | None


def rows_of(noise: AbstractNoise, Y: Point, space: AbstractArraySpace) -> Float[Array, "rows ..."]:
    """Observed rows with their leading axis; one point is one row."""
    rows = noise.validate(Y, space)
    return jnp.asarray(rows[None] if rows.ndim == len(space.shape) else rows)
