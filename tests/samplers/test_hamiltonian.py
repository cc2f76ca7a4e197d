"""HMC and ChEES started at exact draws leave them exact; warm-up learns step, metric and length."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import energax.random as random
from energax.energies._base import Tempered
from energax.energies.function import from_log_density
from energax.samplers import _base, hamiltonian
from energax.samplers._base import Metric, run
from energax.samplers.hamiltonian import HMC, ChEES
from energax.spaces import Binary, Box, Count, Real, Record
from tests.exact import P_LIMIT, after_steps, ks

NUM = 20_000


def gumbel(x):
    """x₀ ~ Gumbel, x₁ | x₀ ~ N(0.7 x₀, 0.6²)."""
    return -x[0] - jnp.exp(-x[0]) - 0.5 * ((x[1] - 0.7 * x[0]) / 0.6) ** 2


ENERGY = from_log_density(gumbel, Real((2,)))


def draw_gumbel(seed, num=NUM):
    rng = np.random.default_rng(seed)
    first = rng.gumbel(size=num)
    return np.stack([first, 0.7 * first + 0.6 * rng.normal(size=num)], -1).astype(np.float32)


def judge_gumbel(x):
    residual = (x[:, 1] - 0.7 * x[:, 0]) / 0.6
    return 2 * min(ks(x[:, 0], stats.gumbel_r.cdf), ks(residual, stats.norm.cdf))


@functools.cache
def tuned(sampler_type, dense):
    sampler = sampler_type(dense=dense)
    state, tuning = sampler.init(ENERGY, jnp.asarray(draw_gumbel(4, 64)), key=random.key(1))
    return run(
        sampler,
        ENERGY,
        state,
        tuning,
        key=random.key(2),
        num_steps=300,
        adapt=True,
        keep=False,
    )[1]


@pytest.mark.parametrize("sampler_type", [HMC, ChEES])
@pytest.mark.parametrize("dense", [False, True])
def test_the_target_is_kept_and_mutants_are_not(sampler_type, dense):
    start, tuning = draw_gumbel(3), tuned(sampler_type, dense)

    def p_value(beta):
        after = after_steps(
            sampler_type(dense=dense),
            Tempered(ENERGY, beta),
            start,
            key=random.key(5),
            num_steps=15,
            tuning=tuning,
        )
        assert beta < 0 or np.any(after != start, axis=1).mean() > 0.9
        return judge_gumbel(after)

    assert p_value(1.0) > P_LIMIT
    assert p_value(0.85) < 1e-9
    if dense:
        assert p_value(-1.0) < 1e-9


def test_a_wrong_step_is_seen(monkeypatch):
    """Without the correction, with half of it, and with velocities √2 too large."""
    start, sampler = draw_gumbel(6), HMC(3, step_size=0.9)

    def p_value():
        jax.clear_caches()
        return judge_gumbel(after_steps(sampler, ENERGY, start, key=random.key(7), num_steps=10))

    assert p_value() > P_LIMIT
    with monkeypatch.context() as patch:
        patch.setattr(hamiltonian, "metropolis_probability", lambda ratio, old, ok: 1.0 * ok)
        assert p_value() < 1e-9
    with monkeypatch.context() as patch:
        patch.setattr(
            hamiltonian,
            "metropolis_probability",
            lambda ratio, old, ok: _base.metropolis_probability(ratio / 2, old, ok),
        )
        assert p_value() < 1e-9
    with monkeypatch.context() as patch:
        patch.setattr(
            hamiltonian,
            "standard_normal",
            lambda key, x: 2**0.5 * _base.standard_normal(key, x),
        )
        assert p_value() < 1e-9


def correlated(num=8, condition=1e4):
    """A rotated normal: log-density, covariance."""
    rng = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(rng.normal(size=(num, num)))
    variance = np.logspace(0, -np.log10(condition), num)
    precision = jnp.asarray(rotation / variance @ rotation.T, float)
    energy = from_log_density(lambda x: -0.5 * (x - 3) @ precision @ (x - 3), Real((num,)))
    return energy, rotation * variance @ rotation.T


def test_chees_learns_a_dense_metric_and_needs_few_leapfrogs():
    energy, covariance = correlated()
    sampler = ChEES()
    state, tuning = sampler.init(
        energy, 3 * jax.random.normal(random.key(0), (8, 8)), key=random.key(0)
    )
    state, tuning, _ = run(
        sampler, energy, state, tuning, key=random.key(1), num_steps=1_200, adapt=True, keep=False
    )
    white = np.linalg.solve(np.asarray(tuning.metric.factor, float), np.linalg.cholesky(covariance))
    spread = np.linalg.svd(white)[1]
    assert spread.max() / spread.min() < 2  # 100 without a metric
    _, after, trace = run(sampler, energy, state, tuning, key=random.key(2), num_steps=1_500)
    assert eqx.tree_equal(tuning, after)
    assert float(trace.evaluations.mean()) < 5
    assert float(trace.acceptance.mean()) == pytest.approx(0.75, abs=0.12)
    x = np.asarray(trace.x, float)
    np.testing.assert_allclose(x.std((0, 1)), np.sqrt(np.diag(covariance)), rtol=0.1)
    told = sampler.describe(state, tuning)
    assert float(trace.evaluations.mean()) == pytest.approx(float(told["leapfrogs"]), rel=0.1)


def test_without_a_dense_metric_chees_takes_longer_paths():
    energy, _ = correlated(4, 1e3)
    leapfrogs = {}
    for dense in (True, False):
        sampler = ChEES(dense=dense)
        state, tuning = sampler.init(
            energy, jax.random.normal(random.key(0), (16, 4)), key=random.key(0)
        )
        state, tuning, _ = run(
            sampler, energy, state, tuning, key=random.key(1), num_steps=800, adapt=True, keep=False
        )
        leapfrogs[dense] = float(sampler.describe(state, tuning)["leapfrogs"])
    assert leapfrogs[False] > 2 * leapfrogs[True]


def test_a_metric_stays_diagonal_until_correlations_can_be_told_from_noise():
    sd = np.linspace(0.1, 10, 30)
    rng = np.random.default_rng(1)
    x = jnp.asarray(5 + sd * rng.normal(size=(60, 4, 30)), float)
    metric, _ = jax.jit(lambda m: jax.lax.scan(lambda m, rows: (m.update(rows), None), m, x))(
        Metric.start(x[0], True)
    )
    factor = np.asarray(metric.factor)
    np.testing.assert_allclose(metric.mean, 5, atol=5)
    np.testing.assert_allclose(np.diag(factor), sd, rtol=0.5)
    assert np.linalg.cond(factor / sd[:, None]) < 2


def test_records_and_images_of_real_parts():
    mean = np.linspace(-2, 2, 4).reshape(2, 2, 1)
    energy = from_log_density(
        lambda x: -0.5 * jnp.sum((x["a"] - mean) ** 2) - 2.0 * (x["b"] - x["a"].sum()) ** 2,
        Record(a=Real((2, 2, 1)), b=Real(())),
    )
    rng = np.random.default_rng(10)
    a = (mean + rng.normal(size=(4_000, 2, 2, 1))).astype(np.float32)
    b = (a.sum((1, 2, 3)) + 0.5 * rng.normal(size=4_000)).astype(np.float32)
    after = after_steps(
        HMC(4, step_size=0.3), energy, {"a": a, "b": b}, key=random.key(11), num_steps=8
    )
    assert after["a"].shape == a.shape and after["b"].shape == b.shape
    assert (after["b"] != b).mean() > 0.9
    z = (after["a"] - mean).reshape(-1, 4)
    assert ks((z**2).sum(1), stats.chi2(4).cdf) > P_LIMIT
    assert ks(2 * (after["b"] - after["a"].sum((1, 2, 3))), stats.norm.cdf) > P_LIMIT


def test_another_number_of_leapfrogs_compiles_nothing_anew():
    traces = []

    @eqx.filter_jit
    def step(sampler, state):
        traces.append(1)
        return sampler.step(ENERGY, state, None, key=random.key(0))

    state, _ = HMC(3, step_size=0.1).init(ENERGY, jnp.ones((4, 2)), key=random.key(0))
    for num in (3, 7):
        _, info = step(HMC(num, step_size=0.1, jitter=0.0), state)
        np.testing.assert_array_equal(info.evaluations, np.full(4, float(num)))
    assert len(traces) == 1


def test_lost_chains_and_steep_tails():
    def f(x):  # no density below 0, and NaN there in its gradient
        return jnp.where(x[0] > 0, 2 * jnp.log(x[0]) - x[0], -jnp.inf)

    energy = from_log_density(f, Real((1,)))
    start = np.random.default_rng(16).gamma(3, size=(NUM, 1)).astype(np.float32)
    after = after_steps(HMC(2, step_size=1.2), energy, start, key=random.key(17), num_steps=10)
    assert ks(after, stats.gamma(3).cdf) > P_LIMIT
    quartic = from_log_density(lambda x: -jnp.sum(x**4), Real((3,)))
    state, tuning = ChEES().init(quartic, jnp.full((8, 3), 30.0), key=random.key(0))
    state, _, trace = run(
        ChEES(), quartic, state, tuning, key=random.key(1), num_steps=500, adapt=True, keep=False
    )
    assert jnp.abs(state.x).max() < 3
    steep = from_log_density(lambda x: -500.0 * jnp.sum(x**2), Real((3,)))
    state, _ = HMC(3, step_size=0.5).init(steep, 0.01 * state.x, key=random.key(0))
    *_, trace = run(HMC(3, step_size=0.5), steep, state, None, key=random.key(2), num_steps=20)
    assert int(trace.num_divergent.sum()) > 100


@pytest.mark.parametrize("space", [Binary((2,)), Count((2,)), Box(0.0, 1.0, shape=(2,))])
def test_spaces_that_a_gaussian_step_would_leave_are_refused(space):
    energy = from_log_density(lambda x: 1.0 * jnp.sum(x), space)
    with pytest.raises(TypeError, match="Metropolis"):
        ChEES().init(energy, space.example()[None], key=random.key(0))


def test_numbers_out_of_range_are_refused():
    for make in (
        lambda: HMC(0),
        lambda: HMC(jitter=1.0),
        lambda: HMC(step_size=0.0),
        lambda: ChEES(max_leapfrog=0),
        lambda: ChEES(target_acceptance=1.0),
    ):
        with pytest.raises(ValueError, match="expected"):
            make()


def test_float64():
    with jax.enable_x64(True):
        energy, _ = correlated(3, 10.0)
        for sampler in (HMC(2), ChEES()):
            state, tuning = sampler.init(energy, jnp.ones((4, 3)), key=random.key(0))
            state, tuning, _ = run(
                sampler, energy, state, tuning, key=random.key(1), num_steps=20, adapt=True
            )
            leaves = jax.tree.leaves(eqx.filter((state, tuning), eqx.is_inexact_array))
            assert all(leaf.dtype == jnp.float64 for leaf in leaves)
