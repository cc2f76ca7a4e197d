"""MALA started at exact draws leaves them exact; ULA is as biased as its step size says."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import energax.random as random
from energax.energies._base import Tempered
from energax.energies.function import from_log_density
from energax.samplers import _base, langevin
from energax.samplers._base import run
from energax.samplers.langevin import MALA, ULA
from energax.samplers.metropolis import Metropolis
from energax.spaces import Binary, Box, Categorical, Count, Ordinal, Real, Record, Spin
from tests.exact import P_LIMIT, after_steps, integrated, ks

NUM = 40_000


def gumbel(x):
    """x₀ ~ Gumbel, x₁ | x₀ ~ N(0.7 x₀, 0.6²)."""
    return -x[0] - jnp.exp(-x[0]) - 0.5 * ((x[1] - 0.7 * x[0]) / 0.6) ** 2


def draw_gumbel(seed, num=NUM):
    rng = np.random.default_rng(seed)
    first = rng.gumbel(size=num)
    return np.stack([first, 0.7 * first + 0.6 * rng.normal(size=num)], -1).astype(np.float32)


def judge_gumbel(x):
    residual = (x[:, 1] - 0.7 * x[:, 0]) / 0.6
    return 2 * min(ks(x[:, 0], stats.gumbel_r.cdf), ks(residual, stats.norm.cdf))


def tuned(energy, x, num_steps=300):
    state, tuning = MALA().init(energy, jax.tree.map(jnp.asarray, x), key=random.key(1))
    return run(
        MALA(),
        energy,
        state,
        tuning,
        key=random.key(2),
        num_steps=num_steps,
        adapt=True,
        keep=False,
    )[1]


def test_mala_stays_exact_and_mutants_do_not(monkeypatch):
    energy = from_log_density(gumbel, Real((2,)))
    start = draw_gumbel(3)
    tuning = tuned(energy, draw_gumbel(4, 64))

    def p_value(beta, sampler=None):
        sampler = MALA() if sampler is None else sampler
        after = after_steps(
            sampler, Tempered(energy, beta), start, key=random.key(5), num_steps=25, tuning=tuning
        )
        assert np.any(after != start, axis=1).mean() > 0.9
        return judge_gumbel(after)

    assert p_value(1.0) > P_LIMIT
    assert p_value(0.9) < 1e-9
    assert p_value(-1.0) < 1e-9

    class TooLittleNoise(MALA):
        """The ratio takes the noise to be √2 times what it is."""

    normal = langevin._normal
    with monkeypatch.context() as patch:
        patch.setattr(
            langevin, "_normal", lambda key, x: jax.tree.map(lambda z: z / 2**0.5, normal(key, x))
        )
        assert p_value(1.0, TooLittleNoise()) < 1e-9


def test_the_correction_is_what_makes_mala_exact():
    energy, start = from_log_density(gumbel, Real((2,))), draw_gumbel(6)

    def p_value(sampler):
        return judge_gumbel(after_steps(sampler, energy, start, key=random.key(7), num_steps=10))

    assert p_value(MALA(0.4)) > P_LIMIT
    assert p_value(ULA(0.4)) < 1e-9


def test_a_truncated_drift_is_exact_too():
    # f = −x⁴/4 with a step at which the drift of a tenth of the draws is cut to 2 noise lengths
    energy = from_log_density(lambda x: -0.25 * x[0] ** 4, Real((1,)))
    rng = np.random.default_rng(8)
    size = (4 * rng.gamma(0.25, size=(NUM, 1))) ** 0.25
    start = (size * rng.choice([-1, 1], size=(NUM, 1))).astype(np.float32)
    step = 1.5
    assert 0.02 < np.mean(np.sqrt(step) / 2 * size**3 > 2) < 0.5
    after = after_steps(MALA(step), energy, start, key=random.key(9), num_steps=10)
    assert (after != start).mean() > 0.5
    assert ks(after, stats.gennorm(4, scale=4**0.25).cdf) > P_LIMIT


def test_steep_tails_do_not_stop_a_chain():
    energy = from_log_density(lambda x: -jnp.sum(x**4), Real((3,)))
    state, tuning = MALA().init(energy, jnp.full((8, 3), 30.0), key=random.key(0))
    state, *_ = run(MALA(), energy, state, tuning, key=random.key(1), num_steps=1_000, adapt=True)
    assert jnp.abs(state.x).max() < 3


def test_any_shape_and_records_of_real_parts():
    mean = np.linspace(-2, 2, 16).reshape(4, 4, 1)
    sd = np.linspace(0.5, 2, 16).reshape(4, 4, 1)
    image = from_log_density(lambda x: -0.5 * jnp.sum(((x - mean) / sd) ** 2), Real((4, 4, 1)))
    record = from_log_density(
        lambda x: -0.5 * jnp.sum(((x["a"] - mean[..., 0]) / sd[..., 0]) ** 2) - 0.5 * x["b"] ** 2,
        Record(a=Real((4, 4)), b=Real(())),
    )
    rng = np.random.default_rng(10)
    z = rng.normal(size=(10_000, 4, 4, 1))
    pictures = (mean + sd * z).astype(np.float32)
    both = {"a": pictures[..., 0], "b": rng.normal(size=10_000).astype(np.float32)}
    for energy, start, pick in ((image, pictures, lambda x: x), (record, both, lambda x: x["a"])):
        tuning = tuned(energy, jax.tree.map(lambda a: a[:64], start))
        after = after_steps(MALA(), energy, start, key=random.key(11), num_steps=10, tuning=tuning)
        z = (pick(after).reshape(-1, 16) - mean.ravel()) / sd.ravel()
        assert ks((z**2).sum(1), stats.chi2(16).cdf) > P_LIMIT
        assert ks(z.sum(1) / 4, stats.norm.cdf) > P_LIMIT


def test_warm_up_learns_the_metric_and_reaches_its_target():
    sd = jnp.array([1e-2, 1.0, 1e2, 3.0])
    energy = from_log_density(lambda x: -0.5 * jnp.sum(((x - 5) / sd) ** 2), Real((4,)))
    sampler = MALA()
    state, tuning = sampler.init(
        energy, 30 * jax.random.normal(random.key(0), (8, 4)), key=random.key(0)
    )
    for i in range(3):
        state, tuning, _ = run(
            sampler,
            energy,
            state,
            tuning,
            key=random.key(i),
            num_steps=2_000,
            adapt=True,
            keep=False,
        )
    np.testing.assert_allclose(tuning.moments.sd, sd, rtol=0.3)
    _, after, trace = run(sampler, energy, state, tuning, key=random.key(9), num_steps=2_000)
    assert eqx.tree_equal(tuning, after)
    assert float(trace.acceptance.mean()) == pytest.approx(0.574, abs=0.05)
    np.testing.assert_allclose(np.asarray(trace.x).std((0, 1)), sd, rtol=0.1)


def test_ula_has_the_variance_its_step_size_gives():
    # on N(0, σ²) its own stationary law is N(0, σ²/(1 − ε/(4σ²)))
    sigma, step = 1.3, 1.0
    energy = from_log_density(lambda x: -0.5 * jnp.sum((x / sigma) ** 2), Real((1,)))
    sd = sigma / np.sqrt(1 - step / (4 * sigma**2))
    start = (sd * np.random.default_rng(12).normal(size=(NUM, 1))).astype(np.float32)
    after = after_steps(ULA(step), energy, start, key=random.key(13), num_steps=10)
    assert ks(after, stats.norm(scale=sd).cdf) > P_LIMIT
    assert ks(after, stats.norm(scale=sigma).cdf) < 1e-9


def test_the_bias_of_ula_shrinks_in_proportion_to_the_step():
    energy = from_log_density(lambda x: -1.5 * jnp.logaddexp(x[0], -x[0]) + 0.3 * x[0], Real((1,)))
    exact = integrated(energy, -30.0, 30.0)
    truth = float(exact.mean(lambda x: x[:, 0] ** 2))
    start = exact.draw(200_000, seed=14).astype(np.float32)

    def bias(step):
        state, _ = ULA(step).init(energy, jnp.asarray(start), key=random.key(0))
        steps = int(24 / step)
        _, _, trace = run(ULA(step), energy, state, None, key=random.key(15), num_steps=steps)
        return np.mean(np.asarray(trace.x[steps // 2 :], float) ** 2) - truth

    biases = [bias(step) for step in (1.6, 0.8, 0.4)]
    assert biases[-1] > 0.02
    for larger, smaller in itertools.pairwise(biases):
        assert 1.6 < larger / smaller < 2.6


@pytest.mark.parametrize("sampler", [MALA(), ULA(0.1)])
@pytest.mark.parametrize(
    "space",
    [
        Binary((2,)),
        Spin((2,)),
        Ordinal((2,), 3),
        Count((2,)),
        Categorical((2,), 3),
        Categorical((2,), 3, "onehot"),
        Box(0.0, 1.0, shape=(2,)),
        Record(a=Real((2,)), b=Binary((1,))),
    ],
)
def test_spaces_that_a_gaussian_step_would_leave_are_refused(sampler, space):
    energy = from_log_density(lambda x: sum(jnp.sum(a) for a in jax.tree.leaves(x)) * 1.0, space)
    x = jax.tree.map(lambda a: a[None], space.example())
    with pytest.raises(TypeError, match="Metropolis"):
        sampler.init(energy, x, key=random.key(0))


def test_where_f_is_not_a_number_mala_does_not_go():
    energy = from_log_density(lambda x: 2 * jnp.log(x[0]) - x[0], Real((1,)))
    start = np.random.default_rng(16).gamma(3, size=(NUM, 1)).astype(np.float32)
    state, _ = MALA(6.0).init(energy, jnp.asarray(start), key=random.key(0))
    state, _, trace = run(
        MALA(6.0), energy, state, None, key=random.key(17), num_steps=10, keep=False
    )
    assert ks(state.x, stats.gamma(3).cdf) > P_LIMIT
    assert np.asarray(trace.num_divergent).sum() > NUM // 10


def test_without_a_gradient_mala_walks_at_random_and_stays_exact():
    def f(x):  # ∇ is NaN below 0, as a careless `where` makes it
        return -0.5 * x[0] ** 2 + 0.0 * jnp.where(x[0] > 0, jnp.sqrt(x[0]), 0.0)

    energy = from_log_density(f, Real((1,)))
    assert jnp.isnan(jax.grad(energy.log_density)(jnp.array([-1.0]))).all()
    start = np.random.default_rng(18).normal(size=(NUM, 1)).astype(np.float32)
    after = after_steps(MALA(1.0), energy, start, key=random.key(19), num_steps=10)
    assert (after != start)[start < 0].mean() > 0.9
    assert ks(after, stats.norm.cdf) > P_LIMIT


def test_jumps_in_energy_are_divergences_and_ula_does_not_take_them():
    energy = from_log_density(lambda x: -500.0 * jnp.sum(x**2), Real((1,)))
    state, _ = ULA(1.0).init(energy, jnp.full((50, 1), 0.01), key=random.key(0))
    state, _, trace = run(ULA(1.0), energy, state, None, key=random.key(1), num_steps=50)
    assert np.asarray(trace.num_divergent).sum() > 100
    assert np.isfinite(trace.log_density).all()
    assert float(jnp.abs(trace.x).max()) < 5


@pytest.mark.parametrize("sampler", [MALA(), ULA(0.1), Metropolis()])
def test_a_step_evaluates_f_once(sampler):
    calls = []

    def f(x):
        calls.append(1)
        return -0.5 * jnp.sum(x**2)

    energy = from_log_density(f, Real((2,)))
    state, tuning = sampler.init(energy, jnp.ones((4, 2)), key=random.key(0))
    calls.clear()
    jax.make_jaxpr(lambda s, k: sampler.step(energy, s, tuning, key=k))(state, random.key(0))
    assert len(calls) == 1 == sampler.evaluations_per_step(energy)


def test_refresh_recomputes_value_and_gradient():
    old, new = (from_log_density(lambda x, a=a: -a * jnp.sum(x**2), Real((2,))) for a in (1.0, 3.0))
    x = jnp.array([[1.0, -2.0], [0.5, 0.0]])
    state, _ = MALA().init(old, x, key=random.key(0))
    again, _ = MALA().init(new, x, key=random.key(0))
    assert eqx.tree_equal(MALA().refresh(new, state), again)
    assert not eqx.tree_equal(state, again)


def test_run_fixed_vmaps_over_energies():
    def posterior(mean):
        energy = from_log_density(
            lambda m, x: -0.5 * jnp.sum((x - m) ** 2), Real((2,)), params=mean
        )
        x0 = mean + jnp.zeros((4, 2))
        return _base.run_fixed(
            MALA(), energy, x0, key=random.key(0), num_warmup=200, num_steps=600, thin=2
        )

    means = jnp.array([[0.0, 1.0], [5.0, -5.0], [20.0, 30.0]])
    trace = jax.vmap(posterior)(means)
    assert trace.x.shape == (3, 300, 4, 2)
    np.testing.assert_allclose(trace.x.mean((1, 2)), means, atol=0.2)
    one = posterior(means[1])
    np.testing.assert_allclose(one.x, trace.x[1], rtol=1e-3, atol=1e-3)
