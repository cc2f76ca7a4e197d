"""Take noise of a stated kind off every row: sample p(x | y) ∝ p(x) p(y | x)."""

import dataclasses
from abc import abstractmethod

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from energax import random
from energax.energies._base import (
    AbstractColouredSpins,
    AbstractEnergy,
    AbstractTiltable,
    batched,
    check_scalar,
)
from energax.random import as_key
from energax.spaces import AbstractArraySpace, AbstractSpace, Binary, Point, Real, Spin
from energax.tasks._base import (
    NUM_CHAINS,
    AbstractPosteriors,
    Restored,
    is_single,
    sample_posteriors,
)


def _as_number(value) -> Array:
    """An array, so that noise of another size compiles nothing anew."""
    return jnp.asarray(value, float)


class AbstractNoise(eqx.Module):
    """How clean points x turn into observed ones y."""

    @abstractmethod
    def check(self, space: AbstractSpace) -> None:
        """Raises TypeError if the noise does not act on this space."""

    @abstractmethod
    def log_likelihood(self, y: Point, x: Point) -> Float[Array, ""]:
        """log p(y | x) of one point, up to a constant."""

    @abstractmethod
    def field(self, y: Point, space: AbstractSpace) -> Float[Array, "..."] | None:
        """h(y) with log p(y | x) = ⟨h, x⟩ + constant where the noise is linear in x, else None."""

    @abstractmethod
    def corrupt(self, x: Point, space: AbstractSpace, *, key: Key[Array, ""]) -> Point:
        """y ~ p(y | x) for a batch."""


class BitFlip(AbstractNoise):
    """Every site of a two-valued point is flipped with probability `rate` (0 < rate < ½)."""

    rate: Float[Array, ""] = eqx.field(converter=_as_number)

    def __check_init__(self):
        if not 0 < self.rate < 0.5:
            raise ValueError(f"the flip rate lies between 0 and 0.5, got {self.rate}")

    def check(self, space):
        if not isinstance(space, (Binary, Spin)):
            raise TypeError(f"BitFlip acts on Binary and Spin points, got {space}")

    def log_likelihood(self, y, x):
        return jnp.sum(jnp.where(x == y, jnp.log1p(-self.rate), jnp.log(self.rate)))

    def field(self, y, space):
        """(2y − 1) log((1 − ε)/ε) on {0, 1}, half of y log((1 − ε)/ε) on ±1."""
        log_odds = jnp.log1p(-self.rate) - jnp.log(self.rate)
        return log_odds * (2 * y - 1) if isinstance(space, Binary) else 0.5 * log_odds * y

    def corrupt(self, x, space, *, key):
        flip = jax.random.uniform(key, x.shape) < self.rate
        return jnp.where(flip, 1 - x if isinstance(space, Binary) else -x, x)


class GaussianNoise(AbstractNoise):
    """y = x + `sd` · z with standard normal z, on Real points."""

    sd: Float[Array, ""] = eqx.field(converter=_as_number)

    def __check_init__(self):
        if not 0 < self.sd < np.inf:
            raise ValueError(f"the noise's sd is a positive number, got {self.sd}")

    def check(self, space):
        if not isinstance(space, Real):
            raise TypeError(f"GaussianNoise acts on Real points, got {space}")

    def log_likelihood(self, y, x):
        return -0.5 * jnp.sum(((y - x) / self.sd) ** 2)

    def field(self, y, space):
        return None

    def corrupt(self, x, space, *, key):
        return x + self.sd * random.normal(key, x.shape, x.dtype)


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


@dataclasses.dataclass(frozen=True)
class Denoised(Restored):
    """`Restored` with `mode`: (rows, *event), for each row a local maximum of p(x | y), climbed to
    from the most probable of its draws."""

    mode: np.ndarray


def posterior(energy: AbstractEnergy, noise: AbstractNoise, y: Point) -> AbstractEnergy:
    """p(x | y) as an energy; of the same kind as `energy` where the noise is linear in x."""
    field = noise.field(y, energy.space)
    if field is not None and isinstance(energy, AbstractTiltable):
        return energy.tilt(field)
    return Posterior(energy, noise, y)


class _Noisy(AbstractPosteriors):
    """p(x | y) of noisy rows y."""

    energy: AbstractEnergy
    noise: AbstractNoise

    def posterior(self, row):
        return posterior(self.energy, self.noise, row)

    def starts(self, row, *, key):
        """Half of the chains at the noisy row, half at a noisier version of it."""
        batch = jnp.broadcast_to(row, (NUM_CHAINS, *row.shape))
        return jnp.where(
            (jnp.arange(NUM_CHAINS) % 2 == 0).reshape(-1, *(1,) * row.ndim),
            batch,
            self.noise.corrupt(batch, self.energy.space, key=key),
        )

    def finish(self, x, row):
        return x


def denoise(energy: AbstractEnergy, Y: Point, noise: AbstractNoise, *, key) -> Denoised:
    """Cleans rows: posterior mean, standard deviation, best single value and mode of p(x | y).

    **Arguments:** `Y`: noisy rows (rows, *event), or one point. `noise`: `BitFlip(rate)` or
    `GaussianNoise(sd)`.

    **Returns:** `Denoised`; `x` is the cleaned data, the minimiser of expected squared error (real
    values) or of wrong sites (two values). Unreliable rows are named in `reliable_rows`.

    **Raises:** TypeError if the noise does not fit the space; ValueError for bad rows.
    """
    check_scalar(energy)
    space = energy.space
    if not isinstance(noise, AbstractNoise):
        raise TypeError(f"noise: expected BitFlip(rate) or GaussianNoise(sd), got {noise!r}")
    noise.check(space)
    assert isinstance(space, AbstractArraySpace)
    rows = space.validate(Y, name="Y")
    rows = jnp.asarray(rows[None] if is_single(space, rows) else rows)

    found = sample_posteriors(_Noisy(energy, noise), rows, space, key=as_key(key))
    mode = np.asarray(_modes(energy, noise, rows, jnp.asarray(found.draws)))
    shared = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
    return Denoised(**shared, mode=mode)


@eqx.filter_jit
def _modes(energy, noise, rows, draws):
    """A local maximum of each row's posterior, from its most probable draw."""

    def one(args):
        y, candidates = args
        target = posterior(energy, noise, y)
        best = candidates[jnp.argmax(batched(target, candidates))]
        if energy.space.is_continuous:
            return _ascend(target, best)
        coloured = isinstance(target, AbstractColouredSpins)
        return _climb_by_colour(target, best) if coloured else _climb(target, best)

    return jax.lax.map(one, (rows, draws), batch_size=64)


def _climb(target: AbstractEnergy, x, num_sweeps: int = 10):
    """Iterated conditional modes (Besag 1986) on two values: flip a site wherever that lowers E."""
    both = 1.0 if isinstance(target.space, Binary) else 0.0  # the sum of the two values

    def visit(i, carry):
        x, value = carry
        site = i % x.size
        flat = x.reshape(-1)
        other = flat.at[site].set(both - flat[site]).reshape(x.shape)
        new = target(other)
        return jnp.where(new < value, other, x), jnp.minimum(new, value)

    return jax.lax.fori_loop(0, num_sweeps * x.size, visit, (x, target(x)))[0]


def _climb_by_colour(target: AbstractColouredSpins, x, num_sweeps: int = 50):
    """`_climb` with all the sites of a colour at once, each to the likelier of its values."""
    down = 0.0 if isinstance(target.space, Binary) else -1.0

    def sweep(_, sites):
        for colour, members in enumerate(target.colours):
            log_odds = target.log_odds(sites, colour)
            tied = jnp.where(log_odds < 0, down, sites[members])
            new = jnp.where(log_odds > 0, 1.0, tied).astype(sites.dtype)
            sites = sites.at[members].set(new, unique_indices=True)
        return sites

    return jax.lax.fori_loop(0, num_sweeps, sweep, x.reshape(-1)).reshape(x.shape)


def _ascend(target: AbstractEnergy, x, num_steps: int = 200):
    """Gradient descent on E with a step that grows on success and halves on failure."""

    def step(carry, _):
        x, value, gradient, size = carry
        new = x - size * gradient
        new_value, new_gradient = jax.value_and_grad(target)(new)
        better = new_value < value
        x, value = jnp.where(better, new, x), jnp.where(better, new_value, value)
        gradient = jnp.where(better, new_gradient, gradient)
        return (x, value, gradient, jnp.where(better, 1.3 * size, 0.5 * size)), None

    value, gradient = jax.value_and_grad(target)(x)
    start = (x, value, gradient, jnp.asarray(0.1, x.dtype))
    return jax.lax.scan(step, start, None, length=num_steps)[0][0]
