"""By draws from p(x | y) ∝ p(x) p(y | x): posterior mean, spread and mode of every noisy row."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from energax.energies._base import AbstractColouredSpins, AbstractEnergy, batched
from energax.spaces import Binary, Ordinal, Point
from energax.tasks._base import AbstractPosteriors, sample_posteriors
from energax.tasks.denoise._base import AbstractNoise, Denoised, posterior


class _Noisy(AbstractPosteriors):
    """p(x | y) of noisy rows y."""

    energy: AbstractEnergy
    noise: AbstractNoise

    def posterior(self, row):
        return posterior(self.energy, self.noise, row)

    def starts(self, row, *, key):
        return self.noise.starts(row, self.energy.space, key=key)

    def finish(self, x, row):
        return _with_known(self.energy, self.noise, x, row)


def _with_known(energy: AbstractEnergy, noise: AbstractNoise, x: Point, y: Point) -> Point:
    """x, a batch or one point, with the sites that y tells for certain."""
    known = noise.known(y, energy.space)
    return x if known is None else jnp.where(known, y, x)


def by_chains(
    energy: AbstractEnergy, rows: Float[Array, "rows ..."], noise: AbstractNoise, *, key
) -> Denoised:
    """Mean, spread and best values of p(x | y) from draws, and modes climbed to from these."""
    found = sample_posteriors(_Noisy(energy, noise), rows, energy.space, key=key)
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
            top = _ascend(target, best)
        elif isinstance(energy.space, Ordinal):
            top = _climb_levels(target, best)
        else:
            coloured = isinstance(target, AbstractColouredSpins)
            top = _climb_by_colour(target, best) if coloured else _climb(target, best)
        return _with_known(energy, noise, top, y)

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


def _climb_levels(target: AbstractEnergy, x, num_sweeps: int = 10):
    """`_climb` on levels 0 … k − 1: each site to the level of least E."""
    space = target.space
    assert isinstance(space, Ordinal)
    levels = jnp.arange(space.num_values, dtype=x.dtype)

    def visit(i, x):
        flat = x.reshape(-1)
        others = jax.vmap(lambda v: flat.at[i % x.size].set(v).reshape(x.shape))(levels)
        return others[jnp.argmin(jax.vmap(target)(others))]

    return jax.lax.fori_loop(0, num_sweeps * x.size, visit, x)


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
