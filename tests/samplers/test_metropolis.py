"""Metropolis: started at exact draws it must leave them exact draws, on every space."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import energax.random as random
from energax.energies._base import Tempered
from energax.energies.function import from_log_density
from energax.samplers._base import accepted, run
from energax.samplers.metropolis import Metropolis
from energax.spaces import Binary, Box, Categorical, Count, Ordinal, Real, Record, Spin
from tests.exact import P_LIMIT, after_steps, chi_square, enumerated, ks

NUM = 40_000
COUPLING = jnp.array([[0.0, 0.7, -0.4], [0.0, 0.0, 1.1], [0.0, 0.0, 0.0]])
BIAS = jnp.array([0.5, -0.8, 0.3])


def _quadratic(x):
    x = x.reshape(-1).astype(float)
    n = x.shape[0]
    return x @ COUPLING[:n, :n] @ x + BIAS[:n] @ x


def _record(x):
    ordinal = x["c"].sum()
    return 0.4 * ordinal * x["a"][0] - 0.6 * x["a"][1] + 0.3 * ordinal - 0.2 * x["b"][0] * ordinal


FINITE = {
    "binary": (Binary((3,)), _quadratic),
    "spin": (Spin((3,)), _quadratic),
    "ordinal": (Ordinal((2,), 4), lambda x: 0.5 * _quadratic(x)),
    "categorical": (Categorical((2,), 3), lambda x: 0.4 * _quadratic(x)),
    "onehot": (
        Categorical((2,), 3, "onehot"),
        lambda x: jnp.sum(x[0] * BIAS) + x[0] @ COUPLING @ x[1],
    ),
    "record": (Record(a=Binary((2,)), b=Categorical((1,), 3), c=Ordinal((1,), 3)), _record),
}


def _tuned(energy, x, num_steps=200):
    """Tuning learned from 64 other chains."""
    sampler = Metropolis()
    x = jax.tree.map(lambda a: jnp.asarray(a[:64]), x)
    state, tuning = sampler.init(energy, x, key=random.key(1))
    return run(
        sampler,
        energy,
        state,
        tuning,
        key=random.key(2),
        num_steps=num_steps,
        adapt=True,
        keep=False,
    )[1]


def _narrow(energy, x):
    return jax.tree.map(lambda a, dtype: np.asarray(a, dtype), x, energy.space.dtype)


@pytest.mark.parametrize("name", FINITE)
def test_finite_spaces_stay_exact_and_reversible(name):
    space, f = FINITE[name]
    # Mutants differ in β alone: one compilation serves all
    energy = Tempered(from_log_density(f, space), 1.0)
    exact = enumerated(energy)
    start = _narrow(energy, exact.draw(NUM, seed=3))
    tuning = _tuned(energy, start)

    def p_values(target):
        one = after_steps(
            Metropolis(), target, start, key=random.key(4), num_steps=1, tuning=tuning
        )
        four = after_steps(Metropolis(), target, one, key=random.key(5), num_steps=3, tuning=tuning)
        size = len(exact.prob)
        flow = np.zeros((size, size))
        np.add.at(flow, (exact.index(start), exact.index(one)), 1)
        both = np.triu(flow + flow.T, 1)
        seen = both > 10
        imbalance = ((flow - flow.T)[seen] ** 2 / both[seen]).sum()
        assert seen.sum() >= size - 1, "too few moves to test reversibility"
        return exact.p_value(four), stats.chi2.sf(imbalance, seen.sum())

    assert min(p_values(energy)) > P_LIMIT
    assert min(p_values(Tempered(energy.energy, 0.8))) < 1e-9
    assert min(p_values(Tempered(energy.energy, -1.0))) < 1e-9


def _gumbel(x):
    """x₀ ~ Gumbel, x₁ | x₀ ~ N(0.7 x₀, 0.6²)."""
    return -x[0] - jnp.exp(-x[0]) - 0.5 * ((x[1] - 0.7 * x[0]) / 0.6) ** 2


def _draw_gumbel(rng):
    first = rng.gumbel(size=NUM)
    return np.stack([first, 0.7 * first + 0.6 * rng.normal(size=NUM)], -1)


def _judge_gumbel(x):
    return [
        ks(x[:, 0], stats.gumbel_r.cdf),
        ks((x[:, 1] - 0.7 * x[:, 0]) / 0.6, stats.norm.cdf),
    ]


def _draw_box(rng):
    unit = rng.random((NUM, 3))
    third = np.log1p(unit[:, 2] * np.expm1(1.6)) / 0.8 + 1
    return np.stack([-1.5 * np.log(unit[:, 0]), 2 + np.log(unit[:, 1]), third], -1)


def _judge_box(x):
    return [
        ks(x[:, 0], lambda t: -np.expm1(-t / 1.5)),
        ks(x[:, 1], lambda t: np.exp(t - 2)),
        ks(x[:, 2], lambda t: np.expm1(0.8 * (t - 1)) / np.expm1(1.6)),
    ]


def _judge_count(x):
    return [
        chi_square(np.bincount(x[:, i], minlength=60)[:60], stats.poisson.pmf(np.arange(60), rate))
        for i, rate in enumerate((0.4, 9.0))
    ]


def _draw_mix(rng):
    b = (rng.random((NUM, 1)) < 1 / (1 + np.exp(-0.7))).astype(float)
    return {"a": 1.5 * b + rng.normal(size=(NUM, 2)) * [1.0, 0.2], "b": b}


def _judge_mix(x):
    residual = (x["a"] - 1.5 * x["b"]) / [1.0, 0.2]
    return [
        ks((residual**2).sum(1), stats.chi2(2).cdf),
        ks(residual[:, 0], stats.norm.cdf),
        chi_square(np.bincount(x["b"][:, 0].astype(int)), [1.0, np.exp(0.7)]),
    ]


INFINITE = {
    "real": (Real((2,)), _gumbel, _draw_gumbel, _judge_gumbel),
    "box": (
        Box([0.0, -np.inf, 1.0], [np.inf, 2.0, 3.0]),
        lambda x: -x[0] / 1.5 + x[1] + 0.8 * x[2],
        _draw_box,
        _judge_box,
    ),
    "count": (
        Count((2,)),
        lambda x: jnp.sum(x * jnp.log(jnp.array([0.4, 9.0])) - jax.lax.lgamma(x + 1.0)),
        lambda rng: np.stack([rng.poisson(0.4, NUM), rng.poisson(9.0, NUM)], -1),
        _judge_count,
    ),
    "mix": (
        Record(a=Real((2,)), b=Binary((1,))),
        lambda x: (
            -0.5 * jnp.sum(((x["a"] - 1.5 * x["b"]) / jnp.array([1, 0.2])) ** 2) + 0.7 * x["b"][0]
        ),
        _draw_mix,
        _judge_mix,
    ),
}


@pytest.mark.parametrize("name", INFINITE)
def test_infinite_spaces_stay_exact(name):
    space, f, draw, judge = INFINITE[name]
    energy = Tempered(from_log_density(f, space), 1.0)
    start = _narrow(energy, draw(np.random.default_rng(6)))
    tuning = _tuned(energy, start)

    def p_value(target):
        after = after_steps(
            Metropolis(), target, start, key=random.key(7), num_steps=15, tuning=tuning
        )
        moved = jax.tree.map(lambda a, b: np.any(a != b), after, start)
        assert all(jax.tree.leaves(moved))
        p_values = judge(after)
        return min(p_values) * len(p_values)

    assert p_value(energy) > P_LIMIT
    assert p_value(Tempered(energy.energy, 0.9)) < 1e-9
    assert p_value(Tempered(energy.energy, -1.0)) < 1e-9


def test_a_proposal_that_is_not_symmetric_is_found():
    class Clipped(Box):
        def propose(self, x, scale, *, key):
            return jnp.clip(Real.propose(self, x, scale, key=key), self.low, self.high)

    _, f, draw, judge = INFINITE["box"]
    low, high = [0.0, -np.inf, 1.0], [np.inf, 2.0, 3.0]
    energy, clipped = (from_log_density(f, kind(low, high)) for kind in (Box, Clipped))
    start = _narrow(energy, draw(np.random.default_rng(6)))
    tuning = _tuned(energy, start)
    after = after_steps(
        Metropolis(), clipped, start, key=random.key(7), num_steps=15, tuning=tuning
    )
    assert min(judge(after)) < 1e-9


def test_where_f_is_not_a_number_nothing_goes():
    # log x is NaN below 0: Gamma(3) above; f = +inf beyond 60
    energy = from_log_density(
        lambda x: jnp.where(x[0] > 60, jnp.inf, 2 * jnp.log(x[0]) - x[0]), Real((1,))
    )
    start = np.random.default_rng(8).gamma(3, size=(NUM, 1)).astype(np.float32)
    sampler = Metropolis(scale=3.0)
    state, tuning = sampler.init(energy, jnp.asarray(start), key=random.key(0))
    state, _, trace = run(
        sampler, energy, state, tuning, key=random.key(9), num_steps=10, keep=False
    )
    assert ks(state.x, stats.gamma(3).cdf) > P_LIMIT
    assert np.asarray(trace.num_divergent).sum() > NUM  # about a fifth of the proposals
    assert np.isfinite(trace.acceptance).all()


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_a_start_without_finite_density_is_left_for_good(bad):
    energy = from_log_density(lambda x: jnp.where(x[0] < 0, bad, -x[0]), Real((1,)))
    sampler = Metropolis(scale=1.0)
    state, tuning = sampler.init(energy, jnp.full((200, 1), -1.0), key=random.key(0))
    state, _, trace = run(sampler, energy, state, tuning, key=random.key(1), num_steps=100)
    inside = np.asarray(trace.x[..., 0] >= 0)
    assert inside[-1].mean() > 0.8
    assert not (inside[:-1] & ~inside[1:]).any()


def test_a_uniform_draw_of_zero_accepts_nothing_impossible():
    key, num = random.key(5), 2**25
    assert (jax.random.uniform(key, (num,)) == 0).any(), "this stream does not test it"
    assert not accepted(key, jnp.full(num, 1e-10)).any()
    assert accepted(key, jnp.ones(num)).all()


def test_warm_up_learns_the_scale_of_each_coordinate_and_is_frozen_after():
    sd = jnp.array([1e-3, 1.0, 1e3])
    energy = from_log_density(lambda x: -0.5 * jnp.sum(((x - 5) / sd) ** 2), Real((3,)))
    sampler = Metropolis()
    x = 30 * jax.random.normal(random.key(0), (8, 3))
    state, tuning = sampler.init(energy, x, key=random.key(0))
    for i in range(3):
        state, tuning, _ = run(
            sampler,
            energy,
            state,
            tuning,
            key=random.key(i),
            num_steps=4_000,
            adapt=True,
            keep=False,
        )
    np.testing.assert_allclose(tuning.moments.sd[""], sd, rtol=0.5)
    _, after, trace = run(sampler, energy, state, tuning, key=random.key(9), num_steps=2_000)
    assert eqx.tree_equal(tuning, after)
    assert abs(float(trace.acceptance.mean()) - (0.234 + 0.206 / 3)) < 0.06
    np.testing.assert_allclose(np.asarray(trace.x).std((0, 1)), sd, rtol=0.15)


def test_one_coordinate_accepts_more_than_many():
    def acceptance(dim):
        energy = from_log_density(lambda x: -0.5 * jnp.sum(x**2) + x[0], Real((dim,)))
        sampler = Metropolis()
        state, tuning = sampler.init(
            energy, jax.random.normal(random.key(0), (64, dim)), key=random.key(0)
        )
        args = {"num_steps": 1_000, "keep": False}
        state, tuning, _ = run(
            sampler, energy, state, tuning, key=random.key(1), adapt=True, **args
        )
        return float(
            run(sampler, energy, state, tuning, key=random.key(2), **args)[2].acceptance.mean()
        )

    assert acceptance(1) == pytest.approx(0.44, abs=0.03)
    assert acceptance(40) == pytest.approx(0.239, abs=0.03)


def test_the_share_of_flips_follows_acceptance_up_to_a_half():
    def flipped(f, sites):
        energy = from_log_density(f, Binary((sites,)))
        sampler = Metropolis()
        x = jnp.ones((64, sites))
        state, tuning = sampler.init(energy, x, key=random.key(0))
        _, tuning, _ = run(
            sampler, energy, state, tuning, key=random.key(1), num_steps=500, adapt=True
        )
        # under a flat density every proposal is taken, so the share of changed sites is seen
        flat = from_log_density(lambda x: 0.0 * x.sum(), Binary((sites,)))
        x = jnp.ones((4_000, sites))
        after = after_steps(sampler, flat, x, key=random.key(2), num_steps=1, tuning=tuning)
        return float((after != x).mean())

    # where no flip is taken, acceptance is the probability of none: (1 - p)^20 = 0.244
    assert flipped(lambda x: 1e4 * x.sum(), 20) == pytest.approx(1 - 0.2443 ** (1 / 20), rel=0.2)
    assert flipped(lambda x: 0.0 * x.sum(), 20) == pytest.approx(0.5, rel=0.02)


def test_a_given_scale_is_used_as_it_is():
    energy = from_log_density(lambda x: 0.0 * x["a"].sum(), Record(a=Real((2,)), b=Spin((3,))))
    sampler = Metropolis(scale={"a": jnp.array([0.1, 10.0]), "b": 0.25})
    start = {"a": np.zeros((NUM, 2), np.float32), "b": np.ones((NUM, 3), np.float32)}
    after = after_steps(sampler, energy, start, key=random.key(0), num_steps=1)
    np.testing.assert_allclose(after["a"].std(0), [0.1, 10.0], rtol=0.02)
    np.testing.assert_allclose((after["b"] < 0).mean(0), 0.25, rtol=0.05)


def test_a_dense_walk_learns_the_covariance_and_stays_exact():
    from energax.spaces import Record

    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))
    variance = np.array([1e-3, 1.0, 1.0, 1.0])
    precision = jnp.asarray(rotation / variance @ rotation.T, float)

    def f(x):
        z = jnp.concatenate([x["a"].ravel(), x["b"][None]]) - 2
        return -0.5 * z @ precision @ z

    energy = from_log_density(f, Record(a=Real((1, 3)), b=Real(())))

    def draw(num, seed):
        z = np.random.default_rng(seed).normal(size=(num, 4)) * np.sqrt(variance)
        rows = (2 + z @ rotation.T).astype(np.float32)
        return {"a": rows[:, None, :3], "b": rows[:, 3]}

    walks = {}
    for dense in (False, True):
        sampler = Metropolis(dense=dense)
        state, tuning = sampler.init(
            energy, jax.tree.map(jnp.asarray, draw(32, 1)), key=random.key(0)
        )
        state, tuning, _ = run(
            sampler, energy, state, tuning, key=random.key(1), num_steps=1_500, adapt=True
        )
        _, _, trace = run(sampler, energy, state, tuning, key=random.key(2), num_steps=500)
        walks[dense] = float(jnp.mean(jnp.diff(trace.x["b"], axis=0) ** 2))
        if dense:
            assert float(trace.acceptance.mean()) == pytest.approx(0.234 + 0.206 / 4, abs=0.08)
            for beta, keeps in ((1.0, True), (0.85, False)):
                after = after_steps(
                    sampler,
                    Tempered(energy, beta),
                    draw(20_000, 3),
                    key=random.key(4),
                    num_steps=40,
                    tuning=tuning,
                )
                rows = np.concatenate([after["a"][:, 0], after["b"][:, None]], axis=1)
                z = (rows - 2) @ rotation / np.sqrt(variance)
                p = ks((z**2).sum(1), stats.chi2(4).cdf)
                assert p > P_LIMIT if keeps else p < 1e-9
    assert walks[True] > 5 * walks[False]


def test_a_dense_walk_wants_real_spaces_and_no_scale():
    with pytest.raises(ValueError, match="both"):
        Metropolis(1.0, dense=True)
    energy = from_log_density(lambda x: 1.0 * jnp.sum(x), Binary((2,)))
    with pytest.raises(TypeError, match="Real"):
        Metropolis(dense=True).init(energy, jnp.ones((3, 2)), key=random.key(0))
