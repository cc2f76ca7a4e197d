"""Gaussians: far away, badly scaled, correlated, many-dimensional, composed."""

import math

import jax.numpy as jnp
import numpy as np
from scipy import stats

from benchmarks._gauntlet import _check
from benchmarks._gauntlet._base import Target, real, single, target
from energax import energies, spaces

LOG_2PI = math.log(2 * math.pi)


def _diagonal(mean, scale, shape=None) -> Target:
    mean, scale = single(mean), single(scale)
    shape = mean.shape if shape is None else shape
    mean, scale = np.broadcast_to(mean, shape), np.broadcast_to(scale, shape)
    m, s = jnp.asarray(mean), jnp.asarray(scale)
    energy = real(lambda x: -0.5 * jnp.sum(((x - m) / s) ** 2), shape)
    log_z = np.log(scale).sum() + mean.size / 2 * LOG_2PI
    num = max(100, min(20_000, 10**7 // mean.size))
    check = _check.importance(_check.scipy(stats.norm(mean, scale), shape), num)
    return Target("gaussian", energy, float(log_z), check)


def _full(mean, covariance, constant=0.0) -> Target:
    """f = constant − ½ (x − m)ᵀ P (x − m), P the inverse of `covariance` as float32 holds it."""
    mean, precision = single(mean), single(np.linalg.inv(covariance))
    precision = (precision + precision.T) / 2
    m, p = jnp.asarray(mean), jnp.asarray(precision)
    energy = real(lambda x: constant - 0.5 * (x - m) @ p @ (x - m), mean.shape)
    log_z = constant + len(mean) / 2 * LOG_2PI - 0.5 * np.linalg.slogdet(precision)[1]
    dist = stats.multivariate_normal(mean, np.linalg.inv(precision))
    check = _check.importance(_check.joint(dist), 20_000)
    return Target("gaussian", energy, float(log_z), check)


def _rotation(dim: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))[0]


@target
def normal_1d_far():
    return _diagonal([1000.0], [0.5])


@target
def normal_2d_tiny():
    return _diagonal([0.5, -0.25], [1e-3, 2e-3])


@target
def normal_5d_at_20():
    return _diagonal(np.full(5, 20.0), np.ones(5))


@target
def normal_3d_badly_scaled():
    return _diagonal([0.3, -2.0, 500.0], [1e-3, 1.0, 1e3])


@target
def normal_10d_correlated():
    return _full(np.linspace(-2, 3, 10), 0.95 * np.ones((10, 10)) + 0.05 * np.eye(10), 3.0)


@target
def normal_15d_high_plateau():
    """A constant of 300 nats, and covariances that fall off with the distance."""
    lag = np.abs(np.arange(15)[:, None] - np.arange(15))
    return _full(np.linspace(5, -5, 15), 4 * 0.8**lag, 300.0)


@target
def normal_30d_rotated():
    """Condition number 10⁴, along directions that are no axes."""
    q = _rotation(30, 1)
    return _full(np.full(30, 2.0), (q * np.geomspace(0.01, 100, 30)) @ q.T)


@target
def normal_100d_scales():
    rng = np.random.default_rng(2)
    return _diagonal(rng.normal(0, 3, 100), np.geomspace(0.05, 20, 100)[rng.permutation(100)])


@target
def normal_100d_correlated():
    lag = np.abs(np.arange(100)[:, None] - np.arange(100))
    return _full(np.ones(100), 0.7**lag)


@target
def normal_image_shaped():
    return _diagonal(np.linspace(0, 2, 192).reshape(8, 8, 3), 0.5, (8, 8, 3))


@target
def normal_1000d_shifted():
    return _diagonal(np.full(1_000, 3.0), np.full(1_000, 0.5))


@target
def normal_2000d():
    return _diagonal(np.zeros(2_000), np.ones(2_000))


@target
def normal_family_4d():
    """An exponential family, which knows its own log Z = A(η)."""
    covariance = 0.5 * np.eye(4) + 0.5
    mean = np.array([1.0, -2.0, 3.0, 0.0])
    energy = energies.MultivariateNormal(mean, covariance)
    precision = np.linalg.inv(covariance)
    # E = −⟨η, T(x)⟩ leaves out ½ mᵀPm.
    log_z = 0.5 * mean @ precision @ mean + 2 * LOG_2PI + 0.5 * np.linalg.slogdet(covariance)[1]
    check = _check.importance(_check.joint(stats.multivariate_normal(mean, covariance)), 20_000)
    return Target("gaussian", energy, float(log_z), check)


@target
def normal_product_of_experts():
    """Two Gaussians multiplied, in 6-d."""
    a, b = np.linspace(-1, 1, 6), np.full(6, 2.0)
    energy = energies.Product(
        energies.Gaussian(spaces.Real((6,)), a, 1.0), energies.Gaussian(spaces.Real((6,)), b, 0.5)
    )
    variance = 1 / (1 + 4)
    mean = variance * (a + 4 * b)
    log_z = 3 * LOG_2PI + 3 * math.log(variance) - 0.5 * ((a - b) ** 2 / (1 + 0.25)).sum()
    proposal = _check.scipy(stats.norm(mean, math.sqrt(variance)), (6,))
    return Target("gaussian", energy, float(log_z), _check.importance(proposal, 20_000))


@target
def normal_tempered():
    beta, scale = single(0.3), np.linspace(0.5, 3, 8)
    energy = energies.Tempered(energies.Gaussian(spaces.Real((8,)), 4.0, scale), float(beta))
    log_z = 4 * LOG_2PI + np.log(scale).sum() - 4 * math.log(beta)
    proposal = _check.scipy(stats.norm(4.0, scale / math.sqrt(beta)), (8,))
    return Target("gaussian", energy, float(log_z), _check.importance(proposal, 20_000))


@target
def normal_conditional():
    """Six of twelve correlated coordinates given."""
    lag = np.abs(np.arange(12)[:, None] - np.arange(12))
    precision = single(np.linalg.inv(0.9**lag))
    precision = (precision + precision.T) / 2
    p = jnp.asarray(precision)
    given = np.full(12, np.nan)
    given[::2] = single([0.5, 1.0, -1.0, 2.0, 0.0, 1.5])
    energy = real(lambda x: -0.5 * x @ p @ x, (12,)).condition(x=given)
    held, free = np.arange(0, 12, 2), np.arange(1, 12, 2)
    inner, cross = precision[np.ix_(free, free)], precision[np.ix_(free, held)]
    pull = cross @ given[held]
    log_z = (
        3 * LOG_2PI
        - 0.5 * np.linalg.slogdet(inner)[1]
        + 0.5 * pull @ np.linalg.solve(inner, pull)
        - 0.5 * given[held] @ precision[np.ix_(held, held)] @ given[held]
    )
    dist = stats.multivariate_normal(-np.linalg.solve(inner, pull), np.linalg.inv(inner))
    return Target("gaussian", energy, float(log_z), _check.importance(_check.joint(dist), 20_000))
