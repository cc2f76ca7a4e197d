"""Parallel tempering: every rung stays exact, the ladder is even, and its figures are true."""

import equinox as eqx
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import energax as ex
from energax.energies import Gaussian, IndependentBernoulli
from energax.samplers import (
    MALA,
    BlockGibbs,
    ColouredGibbs,
    Metropolis,
    ParallelTempering,
    TemperedTransitions,
)
from energax.samplers._base import run
from energax.samplers.tempering import parallel, transitions
from energax.samplers.tempering._base import at_other_beta
from tests.exact import P_LIMIT, Exact, chi_square, enumerated, integrated, ks

NUM, RUNGS, STEPS = 20_000, 3, 6


def two_humps():
    """Unequal humps at −2 and 1.5, too far for a step of 0.5."""
    return ex.from_log_density(
        lambda x: jnp.logaddexp(-8 * (x[0] + 2) ** 2, 0.7 - 4 * (x[0] - 1.5) ** 2), ex.Real((1,))
    )


def spins():
    return ex.energies.Ising(
        [(0, 1), (1, 2), (2, 3), (0, 3)], [1.0, -0.6, 1.2, 0.9], [0.1, -0.2, 0.3, 0.4], num_sites=4
    )


def cold_rbm():
    """Two far-apart groups of patterns: block Gibbs alone stays where it starts."""
    rng = np.random.default_rng(3)
    pattern = np.repeat([1.0, -1.0], 4)[rng.permutation(8)]
    weight = 3.0 * pattern[:, None] + rng.normal(0, 0.3, (8, 6))
    return ex.energies.BernoulliRBM(weight, -0.5 * weight.sum(1) - 0.05, -0.5 * weight.sum(0) + 0.1)


CASES = {
    "real": (two_humps, Metropolis(0.5), lambda: Gaussian(ex.Real((1,)), [0.3], [1.5])),
    "spins": (spins, ColouredGibbs(), lambda: IndependentBernoulli(ex.Spin((4,)), 0.4)),
    "rbm": (cold_rbm, BlockGibbs(), lambda: IndependentBernoulli(ex.Binary((8,)), -0.3)),
}


def exact_rungs(path, betas) -> list[Exact]:
    energies = [path.at(float(beta)) for beta in betas]
    if energies[0].space.is_continuous:
        return [integrated(energy, -8.0, 8.0) for energy in energies]
    return [enumerated(energy) for energy in energies]


def p_value(exact: Exact, x) -> float:
    if np.issubdtype(np.asarray(exact.x).dtype, np.floating) and exact.log_volume != 0.0:
        cumulative = np.cumsum(exact.prob)
        return ks(x, lambda v: np.interp(v, exact.x[:, 0], cumulative))
    return exact.p_value(x)


def p_values(case: str, sampler=None) -> list[float]:
    """Of every rung, target last, after frozen steps of chains that start exactly at each."""
    make, inner, base = CASES[case]
    energy = make()
    sampler = ParallelTempering(inner, base(), num_rungs=RUNGS) if sampler is None else sampler
    path = energy.path(sampler.base)
    state, tuning = sampler.init(energy, path.draw(NUM, key=ex.random.key(0)), key=ex.random.key(1))
    betas = jnp.array([0.15, 0.45, 1.0])
    tuning = eqx.tree_at(lambda t: t.ladder.betas, tuning, betas)
    exact = exact_rungs(path, betas)
    x = jnp.stack([jnp.asarray(rung.draw(NUM, 7 + i), float) for i, rung in enumerate(exact)])
    state = eqx.tree_at(lambda s: s.rungs.x, state, x)

    @jax.jit  # a trace of its own, so that a mutant is seen
    def after(state, key):
        def step(state, key):
            return sampler.step(energy, state, tuning, key=key)[0], None

        return jax.lax.scan(step, state, jax.random.split(key, STEPS))[0]

    state = after(state, ex.random.key(2))
    np.testing.assert_array_equal(state.x, state.rungs.x[-1])
    return [p_value(rung, np.asarray(state.rungs.x[i])) for i, rung in enumerate(exact)]


@pytest.mark.parametrize("case", CASES)
def test_every_rung_keeps_its_own_distribution(case):
    assert min(p_values(case)) > P_LIMIT / 10


def test_backwards_steps_keep_it_too():
    _, inner, base = CASES["real"]
    sampler = ParallelTempering(inner, base(), num_rungs=RUNGS, num_moves=2).reversal()
    assert sampler.backwards and min(p_values("real", sampler)) > P_LIMIT / 10


@pytest.mark.parametrize("case", CASES)
def test_wrong_swaps_are_seen(case, monkeypatch):
    right = parallel.metropolis_probability

    def swapped_sign(log_ratio, old, usable):
        return right(-log_ratio, old, usable)

    def always(log_ratio, old, usable):
        return jnp.where(usable, 1.0, 0.0)

    for mutant in (swapped_sign, always):
        monkeypatch.setattr(parallel, "metropolis_probability", mutant)
        assert p_values(case)[-1] < 1e-9


def transition_p_value(case: str, backwards=False) -> float:
    """Of chains that start exactly at the target, after frozen tempered transitions."""
    make, inner, base = CASES[case]
    energy, sampler = make(), TemperedTransitions(inner, base(), num_rungs=4)
    sampler = sampler.reversal() if backwards else sampler
    exact = exact_rungs(energy.path(base()), [1.0])[0]
    x = jnp.asarray(exact.draw(NUM, 5), float)
    state, tuning = sampler.init(energy, x, key=ex.random.key(1))
    tuning = eqx.tree_at(lambda t: t.ladder.betas, tuning, jnp.array([0.1, 0.3, 0.6, 1.0]))

    @jax.jit
    def after(state, key):
        def step(state, key):
            state, info = sampler.step(energy, state, tuning, key=key)
            return state, info.acceptance.mean()

        return jax.lax.scan(step, state, jax.random.split(key, 4))

    state, acceptance = after(state, ex.random.key(2))
    assert float(acceptance.mean()) > 0.05
    return p_value(exact, np.asarray(state.x))


@pytest.mark.parametrize(("case", "backwards"), [("real", False), ("spins", True), ("rbm", False)])
def test_tempered_transitions_keep_the_target(case, backwards, monkeypatch):
    assert transition_p_value(case, backwards) > P_LIMIT
    right = transitions.metropolis_probability
    monkeypatch.setattr(
        transitions, "metropolis_probability", lambda r, old, usable: right(-r, old, usable)
    )
    assert transition_p_value(case, backwards) < 1e-9


def test_a_tempered_rbm_makes_one_product_for_all_rungs():
    rbm = cold_rbm()
    sampler = ParallelTempering(BlockGibbs(), num_rungs=5)
    state, tuning = sampler.init(rbm, jnp.ones((7, 8)), key=ex.random.key(0))
    jaxpr = jax.make_jaxpr(lambda s: sampler.step(rbm, s, tuning, key=ex.random.key(1))[0].x)(state)
    products = [
        e for e in _equations(jaxpr.jaxpr) if e.primitive.name == "dot_general" and _is_product(e)
    ]
    shapes = sorted(e.outvars[0].aval.shape for e in products)
    # of the fresh base draws; of all rungs, to the hidden units and back
    assert shapes == [(5, 7, 6), (5, 7, 8), (7, 6)]
    assert all(e.params["dimension_numbers"][1] == ((), ()) for e in products)


def _is_product(equation) -> bool:
    """With the weights W, or their transpose."""
    return any(v.aval.shape in ((8, 6), (6, 8)) for v in equation.invars)


def _equations(jaxpr):
    """All but those of the branch that makes the state anew after the ladder moved."""
    for equation in jaxpr.eqns:
        yield equation
        inner = [] if equation.primitive.name == "cond" else equation.params.values()
        for value in inner:
            if isinstance(value, jax.extend.core.ClosedJaxpr):
                yield from _equations(value.jaxpr)


def test_what_block_gibbs_keeps_at_another_beta_is_right():
    rbm = cold_rbm()
    path = rbm.path(IndependentBernoulli(rbm.space, -0.3))
    x = path.draw(20, key=ex.random.key(0))
    sampler = BlockGibbs()
    state, _ = sampler.init(path.at(0.3), x, key=ex.random.key(1))
    kept, anew = sampler.temper(path.at(0.8), state), sampler.refresh(path.at(0.8), state)
    for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(anew), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize("case", ["MALA", "Metropolis", "Ising"])
def test_a_linear_path_needs_no_evaluation_at_another_beta(case):
    if case == "Ising":
        energy, sampler = spins(), ColouredGibbs()
        base = IndependentBernoulli(ex.Spin((4,)), 0.4)
    else:
        energy = two_humps()
        sampler = {"MALA": MALA(0.3), "Metropolis": Metropolis(0.5)}[case]
        base = Gaussian(ex.Real((1,)), [0.3], [1.5])
    path = energy.path(base)
    assert path.is_linear
    x = path.draw(20, key=ex.random.key(0))
    state, _ = sampler.init(path.at(0.3), x, key=ex.random.key(1))
    for beta in (0.0, 0.8):
        moved = at_other_beta(sampler, path, state, jnp.asarray(0.3), jnp.asarray(beta))
        anew = sampler.refresh(path.at(beta), state)
        for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(anew), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def warmed_up(sampler, energy, x, num_steps, warmup=1_008, key=0):
    state, tuning = sampler.init(energy, x, key=ex.random.key(key))
    settings = {"key": ex.random.key(key + 1), "num_steps": warmup, "adapt": True, "keep": False}
    state, tuning, _ = run(sampler, energy, state, tuning, **settings)
    state, tuning, trace = run(
        sampler, energy, state, tuning, key=ex.random.key(key + 2), num_steps=num_steps
    )
    return trace, sampler.describe(state, tuning), tuning


def test_the_barrier_and_log_z_of_a_gaussian_path():
    """From N(0, 1/a) to N(0, 1/b) the barrier is |log(b/a)|/π: ½ ∫ E|u − u'| dβ with
    u − u' = ½ (b − a)(x² − x'²), and E|z² − z'²| = 4/π of normal z, z'."""
    energy = ex.from_log_density(lambda x: 1.3 - 0.5 * 200.0 * x[0] ** 2, ex.Real((1,)))
    sampler = ParallelTempering(Metropolis(), Gaussian(ex.Real((1,))), num_rungs=8)
    x = jnp.zeros((100, 1))
    _, told, tuning = warmed_up(sampler, energy, x, 2_000)
    assert told["barrier"] == pytest.approx(np.log(200) / np.pi, rel=0.03)
    assert np.ptp(told["swap_rate"]) < 0.03
    betas = np.asarray(told["betas"])
    assert betas[0] == 0 and betas[-1] == 1 and np.all(np.diff(betas) > 0)
    # even pieces of |log λ_β| with λ_β = a + β (b − a)
    np.testing.assert_allclose(np.diff(np.log(1 + 199 * betas)), np.log(200) / 8, rtol=0.15)
    truth = 1.3 + 0.5 * np.log(2 * np.pi / 200)
    assert 0 < told["log_z_std_err"] < 0.02
    assert abs(told["log_z"] - truth) < 5 * told["log_z_std_err"]
    rejected = 1 - np.asarray(told["swap_rate"])
    most = 1 / (2 + 2 * np.sum(rejected / (1 - rejected)))
    assert 0.5 * most < told["round_trip_rate"] < 1.02 * most
    assert float(tuning.ladder.base.scale[0]) == 1.0  # a base that is given stays


def test_a_cold_rbm_gets_both_its_modes_and_its_log_z():
    rbm = cold_rbm()
    exact = enumerated(rbm)
    side = exact.x @ np.sign(np.asarray(rbm.weight).sum(1)) > 0
    share = exact.prob[side].sum()
    assert 0.2 < share < 0.8
    start = jnp.asarray(np.repeat(exact.x[[np.argmax(exact.prob * side)]], 64, 0), float)
    sampler = ParallelTempering(BlockGibbs(), num_rungs=6)
    trace, told, _ = warmed_up(sampler, rbm, start, 1_500)
    visited = np.asarray(trace.x) @ np.sign(np.asarray(rbm.weight).sum(1)) > 0
    # chains are independent: their means have the spread of the answer
    means = visited.mean(0)
    assert abs(means.mean() - share) < 5 * means.std() / 8
    assert means.std() / 8 < 0.02
    assert abs(told["log_z"] - exact.log_z) < 5 * told["log_z_std_err"] < 0.25
    alone = BlockGibbs()
    state, nothing = alone.init(rbm, start, key=ex.random.key(9))
    _, _, stuck = run(alone, rbm, state, nothing, key=ex.random.key(8), num_steps=100)
    assert (np.asarray(stuck.x) @ np.sign(np.asarray(rbm.weight).sum(1)) > 0).mean() > 0.95


def test_weights_of_far_modes_from_starts_that_are_off():
    """25 humps in the plane, each start near one corner; the base is fitted meanwhile."""
    grid = np.array([-6.0, -3.0, 0.0, 3.0, 6.0])
    centres = np.stack(np.meshgrid(grid + 40, grid - 7), -1).reshape(25, 2)
    weights = np.arange(1, 26) / 325

    def f(x):
        square = jnp.sum((x - jnp.asarray(centres, x.dtype)) ** 2, axis=-1)
        return jax.nn.logsumexp(jnp.log(jnp.asarray(weights, x.dtype)) - square / (2 * 0.4**2))

    energy = ex.from_log_density(f, ex.Real((2,)))
    start = jnp.asarray(centres[0] + 3 * np.random.default_rng(0).normal(size=(64, 2)), float)
    trace, told, tuning = warmed_up(
        ParallelTempering(Metropolis(), num_rungs=4), energy, start, 2_000
    )
    x = np.asarray(trace.x, np.float64)
    nearest = np.argmin(((x[:, :, None] - centres) ** 2).sum(-1), axis=-1)
    thin = nearest[::50].ravel()  # some 1/0.15 steps a round trip
    assert chi_square(np.bincount(thin, minlength=25), weights) > P_LIMIT
    truth = np.log(2 * np.pi * 0.4**2)
    assert abs(told["log_z"] - truth) < 5 * told["log_z_std_err"] < 0.1
    np.testing.assert_allclose(tuning.ladder.base.mean, weights @ centres, atol=1.5)


def test_a_mixed_space_with_a_base_fitted_to_it():
    """Far humps, an exponential from a wall, counts and categories, from starts far off."""
    space = ex.Record(
        a=ex.Real((1,)), b=ex.Box([2.0], [jnp.inf]), n=ex.Count((1,)), c=ex.Categorical((1,), 3)
    )

    def f(x):
        humps = jnp.logaddexp(-8 * (x["a"][0] - 22) ** 2, 0.7 - 4 * (x["a"][0] - 28) ** 2)
        count = x["n"][0] * jnp.log(7.0) - jax.lax.lgamma(x["n"][0] + 1.0)
        return humps - 0.2 * x["b"][0] + count + jnp.array([0.3, -1.0, 0.9])[x["c"][0]]

    num = 500
    start = {
        "a": jnp.linspace(-10.0, 50.0, num)[:, None],
        "b": jnp.linspace(2.0, 60.0, num)[:, None],
        "n": jnp.ones((num, 1), jnp.int32),
        "c": jnp.zeros((num, 1), jnp.int32),
    }
    sampler = ParallelTempering(Metropolis(), num_rungs=4)
    energy = ex.from_log_density(f, space)
    state, tuning = eqx.filter_jit(sampler.init)(energy, start, key=ex.random.key(0))
    for i in range(3):  # one compilation; the ladder moves after 112 and after 240 steps
        key = ex.random.key(i)
        state, tuning, _ = run(
            sampler, energy, state, tuning, key=key, num_steps=128, adapt=True, keep=False
        )
    told = sampler.describe(state, tuning)
    x = jax.tree.map(lambda a: np.asarray(a[:, 0]), state.x)
    humps = np.exp(0.7) * np.sqrt(np.pi / 4) / np.sqrt(np.pi / 8)
    right = np.bincount((x["a"] > 25).astype(int), minlength=2)
    assert chi_square(right, [1 / (1 + humps), humps / (1 + humps)]) > P_LIMIT
    assert ks(x["b"], stats.expon(2, 5).cdf) > P_LIMIT
    counts = np.bincount(x["n"], minlength=40)
    assert chi_square(counts, stats.poisson(7).pmf(np.arange(len(counts)))) > P_LIMIT
    share = np.exp([0.3, -1.0, 0.9])
    assert chi_square(np.bincount(x["c"], minlength=3), share / share.sum()) > P_LIMIT
    both = np.sqrt(np.pi / 8) + np.exp(0.7) * np.sqrt(np.pi / 4)
    truth = np.log(both) + np.log(5) - 0.4 + 7 + np.log(share.sum())
    assert abs(told["log_z"] - truth) < 5 * told["log_z_std_err"] < 0.5


def test_a_changed_ladder_makes_the_state_anew():
    energy = two_humps()
    sampler = ParallelTempering(Metropolis(0.5), CASES["real"][2](), num_rungs=3)
    state, tuning = sampler.init(energy, jnp.ones((6, 1)), key=ex.random.key(0))
    tuning = eqx.tree_at(
        lambda t: t.ladder,
        tuning,
        tuning.ladder.changed(jnp.array([0.2, 0.5, 1.0]), tuning.ladder.base),
    )
    state, _ = eqx.filter_jit(sampler.step)(energy, state, tuning, key=ex.random.key(1))
    path = energy.path(tuning.ladder.base)
    for i, beta in enumerate((0.2, 0.5, 1.0)):
        wanted = jax.vmap(path.at(beta).log_density)(state.rungs.x[i])
        np.testing.assert_allclose(state.rungs.log_density[i], wanted, rtol=1e-5)
    assert int(state.counts.tried.sum()) == 1


def test_numbers_of_rungs_and_moves_are_checked():
    with pytest.raises(ValueError, match="from 1, got 0 and 1"):
        ParallelTempering(Metropolis(), num_rungs=0)
