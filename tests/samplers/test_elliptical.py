"""Elliptical slice sampling leaves prior times rest invariant."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import energax.random as random
from energax import energies
from energax.energies import Tempered, from_log_density
from energax.samplers import EllipticalSlice, elliptical
from energax.samplers._base import run
from energax.spaces import Box, Real
from tests.exact import P_LIMIT, after_steps, ks

NUM = 20_000
MEAN, COVARIANCE = np.array([1.0, -2.0]), np.array([[2.0, 0.9], [0.9, 1.0]])
PRECISION = np.linalg.inv(COVARIANCE)
DATA, NOISE = np.array([4.0, -2.5]), np.array([0.8, 0.3])


def f(x):
    """Prior N(m, C), and a datum of each coordinate."""
    prior = -0.5 * (x - MEAN) @ jnp.asarray(PRECISION, float) @ (x - MEAN)
    return prior - 0.5 * jnp.sum(((x - DATA) / NOISE) ** 2)


ENERGY = from_log_density(f, Real((2,)))
TARGET_PRECISION = PRECISION + np.diag(NOISE**-2)
TARGET_MEAN = np.linalg.solve(TARGET_PRECISION, PRECISION @ MEAN + DATA / NOISE**2)
ROOT = np.linalg.cholesky(TARGET_PRECISION)


def exact_draws(seed):
    z = np.random.default_rng(seed).normal(size=(NUM, 2))
    return (TARGET_MEAN + np.linalg.solve(ROOT.T, z.T).T).astype(np.float32)


def p_value(prior, energy=ENERGY):
    jax.clear_caches()
    x = after_steps(EllipticalSlice(prior), energy, exact_draws(0), key=random.key(1), num_steps=8)
    z = (x - TARGET_MEAN) @ ROOT
    return 2 * min(ks(z[:, 0], stats.norm.cdf), ks(z[:, 1], stats.norm.cdf))


FULL = energies.MultivariateNormal(MEAN, COVARIANCE)
WIDE = energies.Gaussian(Real((2,)), [1.5, -1.0], [1.5, 1.2])


@pytest.mark.parametrize("prior", [FULL, WIDE], ids=["its own prior", "another"])
def test_the_target_is_kept(prior):
    assert p_value(prior) > P_LIMIT


def test_mutants_are_seen(monkeypatch):
    assert p_value(FULL, Tempered(ENERGY, 0.75)) < 1e-9
    draw = energies.MultivariateNormal.draw
    for name, mutant in {
        "draw": lambda self, num, *, key: 2**0.5 * draw(self, num, key=key) - 0.4 * self.mean,
        "log_density": lambda self, x: jnp.zeros(()),
    }.items():
        with monkeypatch.context() as patch:
            patch.setattr(energies.MultivariateNormal, name, mutant)
            assert p_value(FULL) < 1e-9
    with monkeypatch.context() as patch:  # the level without its log u: uphill only
        patch.setattr(elliptical.jnp, "log1p", lambda u: 0 * u)
        assert p_value(FULL) < 1e-9


def test_it_refuses_other_priors_and_other_spaces():
    with pytest.raises(TypeError, match="Gaussian"):
        EllipticalSlice(energies.Gamma([1.0], [1.0]))
    energy = from_log_density(lambda x: jnp.sum(x), Box([0.0, 0.0], [1.0, 1.0]))
    with pytest.raises(ValueError, match="same"):
        EllipticalSlice(WIDE).init(energy, jnp.ones((3, 2)), key=random.key(0))


def test_lost_chains_come_back_and_walls_hold():
    energy = from_log_density(
        lambda x: jnp.where(x[0] > 1, WIDE.log_density(x), -jnp.inf), Real((2,))
    )
    sampler = EllipticalSlice(WIDE)
    state, tuning = sampler.init(energy, jnp.zeros((40, 2)) - 3, key=random.key(0))
    _, _, trace = run(sampler, energy, state, tuning, key=random.key(1), num_steps=40)
    x = np.asarray(trace.x)
    assert (x[-1, :, 0] > 1).all() and np.isfinite(trace.log_density[-1]).all()
    assert float(trace.evaluations.mean()) >= 1
