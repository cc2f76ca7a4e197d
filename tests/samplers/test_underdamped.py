"""The bias of BAOAB: none on normals, of second order in the step elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import energax.random as random
from energax.energies.function import from_log_density
from energax.samplers import UnderdampedLangevin, underdamped
from energax.samplers._base import run, standard_normal
from energax.spaces import Count, Real, Record
from tests.exact import P_LIMIT, after_steps, integrated, ks

NUM = 20_000


def test_a_normal_stays_exact_at_any_step_and_mutants_do_not(monkeypatch):
    energy = from_log_density(
        lambda x: -0.5 * ((x["a"][0, 0] - 2) / 1.3) ** 2 - 0.5 * (x["b"] + x["a"][0, 0]) ** 2,
        Record(a=Real((1, 1)), b=Real(())),
    )
    rng = np.random.default_rng(0)
    a = (2 + 1.3 * rng.normal(size=(NUM, 1, 1))).astype(np.float32)
    start = {"a": a, "b": (rng.normal(size=NUM) - a[:, 0, 0]).astype(np.float32)}
    sampler = UnderdampedLangevin(0.7, 0.8)

    def p_value():
        jax.clear_caches()
        x = after_steps(sampler, energy, start, key=random.key(1), num_steps=20)
        first, second = x["a"].ravel(), x["b"] + x["a"].ravel()
        return 2 * min(ks((first - 2) / 1.3, stats.norm.cdf), ks(second, stats.norm.cdf))

    assert p_value() > P_LIMIT
    for factor in (2**-0.5, 2**0.5):
        monkeypatch.setattr(
            underdamped,
            "standard_normal",
            lambda key, x, f=factor: jax.tree.map(lambda z: f * z, standard_normal(key, x)),
        )
        assert p_value() < 1e-9


def test_the_bias_shrinks_with_the_square_of_the_step():
    energy = from_log_density(lambda x: -0.25 * x[0] ** 4 + 0.5 * x[0], Real((1,)))
    exact = integrated(energy, -6.0, 6.0)
    truth = float(exact.mean(lambda x: x[:, 0] ** 2))
    start = exact.draw(300_000, seed=14).astype(np.float32)

    def bias(step):
        sampler = UnderdampedLangevin(step, 1.0)
        state, _ = sampler.init(energy, jnp.asarray(start), key=random.key(0))
        _, _, trace = run(
            sampler,
            energy,
            state,
            None,
            key=random.key(15),
            num_steps=int(24 / step),
            thin=int(1 / step),
        )
        return np.mean(np.asarray(trace.x[8:], float) ** 2) - truth

    large, small = bias(0.5), bias(0.25)  # known to 0.0004
    assert small < -0.0012
    assert 2.5 < large / small < 5.6


def test_jumps_are_divergences_that_are_not_taken():
    energy = from_log_density(lambda x: -500.0 * jnp.sum(x**2), Real((1,)))
    sampler = UnderdampedLangevin(3.0)
    state, _ = sampler.init(energy, jnp.full((50, 1), 0.01), key=random.key(0))
    _, _, trace = run(sampler, energy, state, None, key=random.key(1), num_steps=50)
    assert np.asarray(trace.num_divergent).sum() > 100
    assert np.isfinite(trace.log_density).all()
    assert not sampler.is_exact


def test_integers_are_refused():
    energy = from_log_density(lambda x: -1.0 * jnp.sum(x), Count((2,)))
    with pytest.raises(TypeError, match="Metropolis"):
        UnderdampedLangevin().init(energy, jnp.ones((4, 2), jnp.int32), key=random.key(0))
