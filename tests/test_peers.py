"""What other libraries were seen to get wrong, in silence; each must be right or refused here.

The figures in the comments are theirs, reproduced with their defaults.
"""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import energax as ex
from energax import objectives, partition, samplers
from energax.estimators import BernoulliRBM as RBMEstimator
from energax.results import UnreliableResult
from tests.exact import enumerated


def small_rbm():
    rng = np.random.default_rng(2)
    return ex.energies.BernoulliRBM(
        weight=rng.normal(0, 1.5, (12, 8)),
        visible_bias=rng.normal(0.5, 1, 12),
        hidden_bias=rng.normal(-0.5, 1, 8),
    )


def test_annealing_finds_log_z_of_a_12_unit_rbm():
    """16605 where the exact value is 22.67, without a warning."""
    energy = small_rbm()
    exact = enumerated(energy).log_z
    assert ex.log_z(energy, key=ex.random.key(0)).value == pytest.approx(exact, abs=1e-3)
    z = ex.log_z(energy, key=ex.random.key(1), method="ais")
    assert z.reliable, z.reasons
    assert abs(z.value - exact) < 4 * z.std_err + 1e-3
    low, high = z.bracket
    assert low is not None and low <= exact + 1e-3 and (high is None or exact <= high + 1e-3)


def test_an_energy_without_a_normaliser_gets_no_reliable_number():
    """9030 ± 1 for E = −|x|²."""
    for d in (2, 5):
        energy = ex.from_log_density(lambda x: jnp.sum(x**2), ex.Real((d,)))
        with pytest.warns(UnreliableResult):
            z = ex.log_z(energy, key=ex.random.key(0))
        assert not z.reliable and z.reasons
        with pytest.warns(UnreliableResult):
            assert not ex.sample(energy, 100, key=ex.random.key(1)).reliable


def test_a_gaussian_far_from_the_origin():
    """−21.3 ± 0.6 where the truth is 4.59."""
    energy = ex.from_log_density(lambda x: -0.5 * jnp.sum((x - 20) ** 2), ex.Real((5,)))
    z = ex.log_z(energy, key=ex.random.key(0))
    assert z.reliable, z.reasons
    assert abs(z.value - 2.5 * np.log(2 * np.pi)) < max(4 * z.std_err, 0.01)


def binary_rows(num=500):
    rng = np.random.default_rng(0)
    return (rng.random((num, 6)) < [0.2, 0.8, 0.5, 0.3, 0.9, 0.6]).astype(np.float32)


def test_training_that_turns_nan_stops_and_says_why():
    """Runs to the end with NaN weights; or reports a loss of 0.1 on them."""
    start = ex.energies.BernoulliRBM.random(6, 4, key=ex.random.key(0))
    with pytest.warns(UnreliableResult):
        run = ex.fit(
            start,
            binary_rows(),
            objectives.PersistentCD(),
            key=ex.random.key(1),
            optimizer=optax.sgd(1e38),
            num_steps=200,
        )
    assert not run.reliable and "learning_rate" in " ".join(run.reasons)
    for leaf in jax.tree.leaves(eqx.filter(run.energy, eqx.is_array)):
        assert np.all(np.isfinite(leaf))


def test_resuming_is_exact_to_the_bit(tmp_path):
    """A resumed run ends elsewhere."""
    start = ex.energies.BernoulliRBM.random(6, 4, key=ex.random.key(0))
    # Adam as `fit` has it lowers its rate towards num_steps, which differs here.
    options = dict(
        key=ex.random.key(1), batch_size=50, checkpoint_every=20, optimizer=optax.adam(0.01)
    )
    objective = objectives.PersistentCD(num_steps=2)
    whole = ex.fit(start, binary_rows(), objective, num_steps=100, **options)
    ex.fit(start, binary_rows(), objective, num_steps=60, checkpoint_dir=tmp_path, **options)
    resumed = ex.fit(
        start,
        binary_rows(),
        objective,
        num_steps=100,
        checkpoint_dir=tmp_path,
        resume=True,
        **options,
    )
    np.testing.assert_array_equal(whole.energy.weight, resumed.energy.weight)
    np.testing.assert_array_equal(whole.energy.visible_bias, resumed.energy.visible_bias)


@pytest.mark.slow
def test_a_variance_is_learned_right_in_ten_dimensions():
    """2.46 where 0.25 is true, by approximate score matching."""

    class Diagonal(eqx.Module):
        log_precision: jax.Array
        centre: jax.Array

        def __call__(self, x):
            return -0.5 * jnp.sum(jnp.exp(self.log_precision) * (x - self.centre) ** 2)

    rows = np.random.default_rng(0).normal(1.0, 0.5, (4000, 10)).astype(np.float32)
    start = ex.from_log_density(Diagonal(jnp.zeros(10), jnp.zeros(10)), ex.Real((10,)))
    run = ex.fit(
        start,
        rows,
        objectives.PersistentCD(num_steps=10),
        key=ex.random.key(0),
        learning_rate=0.02,
        batch_size=500,
        num_steps=1500,
        average=0.99,
    )
    variance = np.exp(-np.asarray(run.energy.function.log_precision))
    np.testing.assert_allclose(variance, rows.var(0), rtol=0.15)


def test_image_shaped_points_and_plain_functions_are_taken():
    """HMC refuses image-shaped x; plain functions are refused."""
    energy = ex.from_log_density(
        lambda x: -0.5 * jnp.sum((x - 0.5) ** 2 / 0.49), ex.Real((4, 4, 1))
    )
    draws = ex.sample(energy, 400, key=ex.random.key(0), sampler=samplers.MALA())
    assert draws.reliable, draws.reasons
    assert draws.x.shape == (8, 50, 4, 4, 1)
    assert np.all(np.abs(draws.mean - 0.5) < 5 * draws.mcse_mean)


def test_neighbours_in_one_gibbs_block_are_refused():
    """E[s₀s₁] = 0.02 where 0.46 is true, without a word."""
    with pytest.raises(ValueError, match="0 and 1"):
        ex.energies.Ising(edges=[(0, 1)], couplings=0.5, num_sites=2, colours=[[0, 1]])
    energy = ex.energies.Ising(edges=[(0, 1)], couplings=0.5, num_sites=2)
    draws = ex.sample(energy, 4000, key=ex.random.key(0))
    product = draws.x[..., 0] * draws.x[..., 1]
    assert draws.reliable
    assert abs(product.mean() - np.tanh(0.5)) < 0.06


@pytest.mark.parametrize("num_steps", [5, 20, 100])
def test_annealing_is_unbiased_at_any_number_of_steps(num_steps):
    """E[Ẑ]/Z = 0.83, 0.76 and 0.92 at 5, 20 and 100 steps, by stale energies."""
    energy = ex.from_log_density(lambda x: -0.5 * jnp.sum((x - 0.8) ** 2 / 0.36), ex.Real((2,)))
    path = energy.path(ex.energies.default_base(energy.space))
    weights = partition.estimated.forward_log_weights(
        path, samplers.Metropolis(), num_chains=20_000, num_steps=num_steps, key=ex.random.key(3)
    )
    truth = np.log(2 * np.pi * 0.36)
    ratio = np.exp(np.asarray(weights, np.float64) - truth)
    error = ratio.std(ddof=1) / np.sqrt(len(ratio))
    assert abs(ratio.mean() - 1) < 5 * error
    assert error < 0.05  # so that 0.83 would be seen


def test_score_samples_is_a_likelihood_and_reals_are_refused():
    """−2.71 where the exact mean is −4.62; and N(0, 100) data are fitted without complaint."""
    rows = binary_rows()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnreliableResult)
        model = RBMEstimator(n_components=4, n_iter=5, random_state=0).fit(rows)
        mean = model.score_samples(rows).mean()
    exact = enumerated(model.energy_)
    log_p = dict(zip(map(bytes, np.asarray(exact.x, np.float32)), np.log(exact.prob), strict=True))
    assert mean == pytest.approx(np.mean([log_p[bytes(r)] for r in rows]), abs=1e-3)
    normal = np.random.default_rng(0).normal(0, 10, (50, 6))
    with pytest.raises(ValueError, match="0"):
        RBMEstimator().fit(normal)
    with pytest.raises(ValueError, match="only 0 and 1"):
        ex.fit(small_rbm(), np.zeros((4, 12)) + 3.7, key=ex.random.key(0))
