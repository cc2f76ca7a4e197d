"""Energies that have no Z: ∫ exp f is infinite, or nothing has any mass."""

import math

import jax
import jax.numpy as jnp
import numpy as np

import energax as ex
from benchmarks._gauntlet._base import Target, box, real, target
from energax import spaces

lgamma = jax.scipy.special.gammaln


def _none(energy) -> Target:
    return Target("no Z", energy, None)


@target
def growing_5d():
    """E = −|x|²."""
    return _none(real(lambda x: jnp.sum(x**2), (5,)))


@target
def growing_slowly_2d():
    return _none(real(lambda x: 0.01 * jnp.sum(x**2), (2,)))


@target
def flat_2d():
    return _none(real(lambda x: 0.0 * jnp.sum(x), (2,)))


@target
def slope_3d():
    return _none(real(lambda x: 0.5 * x[0] - 0.2 * x[1] - 0.5 * x[2] ** 2, (3,)))


@target
def too_heavy_1d():
    """1/|x| in the tails."""
    return _none(real(lambda x: -jnp.log1p(jnp.abs(x[0])), (1,)))


@target
def too_heavy_2d():
    """|x|^{−2} in two dimensions."""
    return _none(real(lambda x: -jnp.log1p(jnp.sum(x**2)), (2,)))


@target
def too_heavy_6d():
    """|x|^{−6} in six dimensions."""
    return _none(real(lambda x: -3.0 * jnp.log1p(jnp.sum(x**2)), (6,)))


@target
def too_heavy_one_of_ten():
    """Nine Gaussian coordinates, and one with a tail 1/|x|."""
    return _none(real(lambda x: -0.5 * jnp.sum(x[1:] ** 2) - jnp.log1p(jnp.abs(x[0])), (10,)))


@target
def half_line_growing():
    return _none(box(lambda x: 0.3 * jnp.sum(x), 0.0, jnp.inf, (2,)))


@target
def half_line_reciprocal():
    return _none(box(lambda x: -jnp.log(x[0]), 1.0, jnp.inf, (1,)))


@target
def ridge_3d():
    """Only x − y and z are held: the direction x + y is free."""
    return _none(real(lambda x: -0.5 * (x[0] - x[1]) ** 2 - 0.5 * x[2] ** 2, (3,)))


@target
def ridge_20d():
    """A Gaussian in nineteen rotated directions of twenty."""
    q, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(20, 20)))
    a = jnp.asarray(q[:, :19])
    return _none(real(lambda x: -0.5 * jnp.sum((x @ a) ** 2), (20,)))


@target
def gaussian_times_slope_20d():
    """Nineteen Gaussian coordinates, one that falls to the right and stays level to the left."""
    return _none(real(lambda x: -0.5 * jnp.sum(x[1:] ** 2) - jax.nn.softplus(x[0]), (20,)))


@target
def funnel_without_prior_5d():
    """x | v normalised for every v, and nothing holds v."""

    def f(x):
        return -0.5 * jnp.sum(x[1:] ** 2) * jnp.exp(-x[0]) - 2.0 * x[0]

    return _none(real(f, (5,)))


@target
def counts_exploding_2():
    """Weights n!/2ⁿ."""
    return _none(
        ex.from_log_density(
            lambda x: jnp.sum(lgamma(x + 1.0) - x * math.log(2.0)), spaces.Count((2,))
        )
    )


@target
def counts_level_3():
    """Geometric of ratios 0.5, 0.9 and 1."""
    log_p = jnp.log(jnp.asarray([0.5, 0.9, 1.0]))
    return _none(ex.from_log_density(lambda x: log_p @ x.astype(float), spaces.Count((3,))))


@target
def counts_growing_1():
    return _none(ex.from_log_density(lambda x: 0.05 * x[0].astype(float), spaces.Count((1,))))


@target
def counts_harmonic_1():
    """1/(n + 1)."""
    return _none(ex.from_log_density(lambda x: -jnp.log(x[0] + 1.0), spaces.Count((1,))))


@target
def record_with_a_flat_part():
    """Good bits, a good Gaussian, and a real number that nothing holds."""

    def f(x):
        return 0.5 * jnp.sum(x["b"]) - 0.5 * jnp.sum(x["good"] ** 2) + 0.0 * x["bad"][0]

    space = spaces.Record(b=spaces.Binary((3,)), good=spaces.Real((2,)), bad=spaces.Real((1,)))
    return _none(ex.from_log_density(f, space))


@target
def record_with_growing_counts():
    def f(x):
        return -0.5 * jnp.sum(x["x"] ** 2) + 0.2 * x["n"][0]

    return _none(ex.from_log_density(f, spaces.Record(n=spaces.Count((1,)), x=spaces.Real((3,)))))


@target
def pole_at_the_wall_1d():
    """1/x on [0, 1]: +∞ at 0, and no finite integral."""
    return _none(box(lambda x: -jnp.log(x[0]), 0.0, 1.0, (1,)))


@target
def pole_inside_2d():
    """|x|^{−2} about the origin of a box."""
    return _none(box(lambda x: -jnp.log(jnp.sum(x**2)), -1.0, 1.0, (2,)))


@target
def gaussian_on_a_floor_2d():
    """A fine Gaussian, and e^{−12} everywhere else."""
    return _none(real(lambda x: jnp.logaddexp(-50.0 * jnp.sum((x - 1) ** 2), -12.0), (2,)))


@target
def nowhere_2d():
    """−∞ everywhere: Z = 0."""
    return _none(real(lambda x: -jnp.inf + 0.0 * jnp.sum(x), (2,)))


@target
def nowhere_bits_40():
    return _none(ex.from_log_density(lambda x: -jnp.inf + 0.0 * jnp.sum(x), spaces.Binary((40,))))
