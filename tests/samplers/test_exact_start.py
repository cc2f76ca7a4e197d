"""Chains that start exactly in the target stay in it; wrong kernels drift out and are caught."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import energax as ex
from energax.samplers._base import run

CENTRE, SCALE = 1.3, 0.7
NUM = 20_000


def gumbel(factor=1.0):
    """A skewed density off the origin: f = −z − e^{−z}, z = (x − 1.3)/0.7."""

    def f(x):
        z = (x[0] - CENTRE) / SCALE
        return factor * (-z - jnp.exp(-z))

    return ex.from_log_density(f, ex.Real((1,)))


def exact_draws():
    u = np.random.default_rng(0).random((NUM, 1))
    return jnp.asarray(CENTRE - SCALE * np.log(-np.log(u)), jnp.float32)


def p_value(sampler, energy, num_steps=12):
    """KS after `num_steps` of `NUM` independent chains that start in the Gumbel law."""
    state, tuning = sampler.init(energy, exact_draws(), key=ex.random.key(1))
    state, _, _ = run(
        sampler, energy, state, tuning, key=ex.random.key(2), num_steps=num_steps, keep=False
    )
    law = stats.gumbel_r(CENTRE, SCALE)
    return stats.kstest(np.asarray(state.x, float).ravel(), law.cdf).pvalue


@pytest.mark.parametrize(
    "sampler",
    [ex.samplers.MALA(0.5), ex.samplers.MALA(2.0), ex.samplers.Metropolis(1.1)],
    ids=["MALA-0.5", "MALA-2", "Metropolis"],
)
def test_the_target_is_kept_and_mutants_are_not(sampler):
    assert p_value(sampler, gumbel()) > 1e-6
    assert p_value(sampler, gumbel(0.8), 30) < 1e-9  # a wrong target is seen
    assert p_value(sampler, gumbel(-0.1), 30) < 1e-9  # and a wrong sign


def test_langevin_without_its_correction_is_seen():
    assert p_value(ex.samplers.ULA(0.5), gumbel(), 30) < 1e-9


def test_the_unadjusted_bias_shrinks_with_the_step():
    """On N(m, 1) ULA's variance is 1/(1 − ε/4): a bias of first order in ε."""
    energy = ex.from_log_density(lambda x: -0.5 * (x[0] - 2.0) ** 2, ex.Real((1,)))
    start = jnp.full((40_000, 1), 2.0)
    for step_size in (0.8, 0.4, 0.2):
        sampler = ex.samplers.ULA(step_size)
        state, tuning = sampler.init(energy, start, key=ex.random.key(0))
        state, _, _ = run(
            sampler, energy, state, tuning, key=ex.random.key(3), num_steps=60, keep=False
        )
        wanted = 1 / (1 - step_size / 4)
        error = wanted * np.sqrt(2 / 40_000)
        assert abs(float(jnp.var(state.x)) - wanted) < 5 * error
        assert abs(float(jnp.mean(state.x)) - 2.0) < 5 * np.sqrt(wanted / 40_000)


def test_integers_are_refused_with_what_to_use():
    energy = ex.from_log_density(lambda x: -0.3 * jnp.sum(x), ex.Count((2,)))
    with pytest.raises(TypeError, match="Metropolis"):
        ex.samplers.MALA().init(energy, jnp.ones((4, 2), jnp.int32), key=ex.random.key(0))


def test_image_shaped_points_move_as_flat_ones_do():
    flat = ex.from_log_density(lambda x: -jnp.sum((x - 1) ** 4), ex.Real((6,)))
    image = ex.from_log_density(lambda x: -jnp.sum((x - 1) ** 4), ex.Real((2, 3, 1)))
    start = jax.random.normal(ex.random.key(0), (10, 6))
    sampler = ex.samplers.MALA(0.2)
    ends = []
    for energy, x in ((flat, start), (image, start.reshape(10, 2, 3, 1))):
        state, tuning = sampler.init(energy, x, key=ex.random.key(1))
        state, _, _ = run(sampler, energy, state, tuning, key=ex.random.key(2), num_steps=20)
        ends.append(np.asarray(state.x).reshape(10, 6))
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-5, atol=1e-6)
