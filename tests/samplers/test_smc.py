"""Tempered SMC: E[Ẑ] = Z on a fixed schedule of few rungs, and a schedule that ends at 1."""

import dataclasses
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import energax as ex
from energax.energies import Gaussian, IndependentBernoulli
from energax.samplers import BlockGibbs, Metropolis, TemperedSMC
from energax.samplers.tempering import smc
from tests.exact import P_LIMIT, enumerated, integrated

NUM = 6_000
BASE = Gaussian(ex.Real((1,)), [0.3], [2.0])


def humps():
    return ex.from_log_density(
        lambda x: 1.3 + jnp.logaddexp(-3 * (x[0] + 2) ** 2, 0.7 - 2 * (x[0] - 1.5) ** 2),
        ex.Real((1,)),
    )


def rbm():
    rng = np.random.default_rng(5)
    return ex.energies.BernoulliRBM(
        rng.normal(0, 1.5, (6, 4)), rng.normal(0.3, 1, 6), rng.normal(-0.2, 1, 4)
    )


CASES = {
    "real": (humps, Metropolis(1.0), BASE, [0.3, 1.0]),
    "rbm": (rbm, BlockGibbs(), IndependentBernoulli(ex.Binary((6,)), -0.3), [0.4, 1.0]),
}


def exact(energy):
    return integrated(energy, -8.0, 8.0) if energy.space.is_continuous else enumerated(energy)


def fixed(case, num=NUM, betas=None):
    """Many populations of few particles, on a schedule of two rungs."""
    make, sampler, base, rungs = CASES[case]
    method = TemperedSMC(
        sampler, base, num_populations=num, num_particles=4, num_moves=2, betas=rungs
    )
    if betas is not None:  # past the check that they end at 1
        method = eqx.tree_at(lambda m: m.betas, method, jnp.asarray(betas, float))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ex.UnreliableResult)
        return make(), method.run(make(), key=ex.random.key(1))


def p_of_z(truth, answer) -> float:
    """That the mean of Ẑ/Z is 1, by the central limit theorem."""
    ratio = np.exp(answer.log_weights - truth.log_z)
    return 2 * stats.norm.sf(abs(ratio.mean() - 1) / (ratio.std() / np.sqrt(len(ratio))))


@pytest.mark.parametrize("case", CASES)
def test_each_population_is_unbiased_for_z(case):
    energy, answer = fixed(case)
    truth = exact(energy)
    assert p_of_z(truth, answer) > P_LIMIT
    assert np.all(np.abs(answer.mean - truth.mean()) < 5 * answer.mcse_mean)
    assert np.all(answer.mcse_mean < 0.1 * answer.sd)


def test_mutants_are_seen(monkeypatch):
    truth = exact(humps())
    past_one = fixed("real", NUM + 1, [0.3, 1.15])[1]
    assert p_of_z(truth, past_one) < 1e-9
    usable = smc._usable
    monkeypatch.setattr(smc, "_usable", lambda w: 0.9 * usable(w))
    assert p_of_z(truth, fixed("real", NUM + 2)[1]) < 1e-9
    monkeypatch.setattr(smc, "_usable", usable)
    # survivors that do not go by weight: the next weights are of the wrong points
    systematic = smc.systematic
    monkeypatch.setattr(smc, "systematic", lambda w, key: systematic(-w, key))
    assert p_of_z(truth, fixed("real", NUM + 3)[1]) < 1e-9


def test_the_schedule_is_chosen_and_ends_at_one():
    far = ex.from_log_density(lambda x: -50 * jnp.sum((x - 4.0) ** 2), ex.Real((3,)))
    answer = TemperedSMC(Metropolis(), num_populations=8).run(far, key=ex.random.key(0))
    assert answer.reliable, answer.reasons
    assert answer.betas[0] == 0 and answer.betas[-1] == 1 and np.all(np.diff(answer.betas) > 0)
    assert len(answer.betas) > 4
    truth = 1.5 * np.log(np.pi / 50)
    assert abs(answer.log_z.value - truth) < 5 * answer.log_z.std_err
    assert answer.log_z.lower < answer.log_z.value < answer.log_z.upper
    np.testing.assert_allclose(answer.mean, 4.0, atol=0.02)
    np.testing.assert_allclose(answer.sd, 0.1, rtol=0.1)
    drawn = answer.resampled(1_000)
    assert drawn.shape == (1_000, 3)
    np.testing.assert_allclose(drawn.mean(0), 4.0, atol=0.03)
    with pytest.warns(ex.UnreliableResult, match="led only to beta"):
        short = TemperedSMC(Metropolis(), num_populations=8, max_rungs=2)
        answer = short.run(far, key=ex.random.key(0))
    f = jax.vmap(jax.vmap(far.log_density))(jnp.asarray(answer.x))  # of the target, wherever it is
    np.testing.assert_allclose(answer.log_density, f, rtol=1e-5)


def test_systematic_resampling_counts():
    """Each particle gets its expected number of places, rounded down or up; none of weight 0."""
    rng = np.random.default_rng(0)
    w = rng.random((200, 10)) * (rng.random((200, 10)) < 0.7)
    w[:, 3] += 0.01
    index = np.asarray(smc.systematic(jnp.log(jnp.asarray(w, float)), ex.random.key(3)))
    counts = (index[:, :, None] == np.arange(10)).sum(1)
    expected = 10 * w / w.sum(1, keepdims=True)
    assert np.all(np.abs(counts - expected) < 1 + 1e-4)
    assert np.all(counts[w == 0] == 0)
    excess = (counts - expected).mean(0)
    assert np.all(np.abs(excess) < 5 * np.sqrt(0.25 / 200))


def test_weights_of_draws():
    answer = fixed("real", 50)[1]
    assert answer.weights.shape == (50, 4)
    np.testing.assert_allclose(answer.weights.sum(), 1.0)
    heavier = dataclasses.replace(answer, log_weights=np.where(np.arange(50) == 7, 0.0, -np.inf))
    assert set(heavier.resampled(20).ravel()) <= set(answer.x[7].ravel())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_particles": 1}, "num_particles from 2, got 1"),
        ({"ess": 1.0}, "between 0 and 1"),
        ({"betas": [0.5, 0.9]}, "from above 0 to 1"),
        ({"betas": [0.0, 1.0]}, "from above 0 to 1"),
    ],
)
def test_wrong_numbers_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TemperedSMC(Metropolis(), **settings)
