"""Recovery likelihood: the truth is stationary once chains have converged, for every noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from energax import random, training
from energax.energies import from_log_density
from energax.energies.exponential_family import MultivariateNormal
from energax.objectives import RecoveryLikelihood
from energax.spaces import Box, Real, Record
from tests.objectives.recovery import banana, banana_draws
from tests.objectives.test_contrastive_divergence import gradients

KEY = random.key(12)


def slopes(objective, energy, truth_draws, num=40, each=500):
    """Gradients (num, parameters) at `energy` on rows of the truth, tuned first."""
    got, call = [], gradients(objective)
    carry = objective.init(energy, truth_draws(each, 0), key=KEY)[1]
    for i in range(num + 10):
        rows = jnp.asarray(truth_draws(each, i), jnp.float32)
        gradient, _, carry, _ = call(energy, rows, carry, jax.random.fold_in(KEY, i))
        got.append(np.concatenate([np.ravel(g) for g in jax.tree.leaves(gradient)]))
    return np.array(got[10:])  # the first ones tune the steps


def z_of(got):
    return got.mean(0) / (got.std(0, ddof=1) / np.sqrt(len(got)))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"sigma": 0.4}, {"largest": 3.0, "num_sizes": 3}])
def test_the_truth_is_stationary(options):
    objective = RecoveryLikelihood(num_steps=160, **options)  # after 40, 5 errors off
    energy = banana()
    z = z_of(slopes(objective, energy, banana_draws))
    assert np.abs(z).max() < 4.5
    off = from_log_density(energy.function, energy.space, params={**energy.params, "c": 0.25})
    assert np.abs(z_of(slopes(objective, off, banana_draws, num=10))).max() > 8


@pytest.mark.parametrize("sigma", [0.5, np.array([0.3, 1.0])])
def test_the_gradient_of_a_normal_is_the_one_in_closed_form(sigma):
    """f = −½ θ x² in each of two dimensions; p(x | x̃) is normal with precision θ + 1/s², so that
    E x² under it is known for each x̃ ~ N(0, v + s²)."""
    theta, v = np.array([1.5, 0.4]), np.array([0.8, 2.0])
    energy = from_log_density(
        lambda p, x: -jnp.sum(p * x**2) / 2, Real((2,)), params=jnp.asarray(theta)
    )
    objective = RecoveryLikelihood(sigma, num_steps=25)

    def draws(num, seed):
        return np.random.default_rng(seed).normal(size=(num, 2)) * np.sqrt(v)

    got = slopes(objective, energy, draws)
    s2 = np.broadcast_to(sigma, 2) ** 2
    precision = theta + 1 / s2
    moment = 1 / precision + (v + s2) / (s2 * precision) ** 2
    due = (v - moment) / 2
    error = got.std(0, ddof=1) / np.sqrt(len(got))
    assert np.all(abs(got.mean(0) - due) < 4.5 * error)
    assert np.any(abs(due) > 8 * error)


def test_a_fit_finds_a_normal():
    rows = np.random.default_rng(1).normal([1.0, -2.0], [0.5, 1.5], (4_000, 2)).astype(np.float32)
    start = MultivariateNormal([0.0, 0.0], np.eye(2))
    fitted = training.fit(
        start, rows, RecoveryLikelihood(num_steps=10), key=KEY, learning_rate=0.02, average=0.99
    )
    assert fitted.reliable
    assert np.allclose(fitted.energy.mean, rows.mean(0), atol=0.1)
    covariance = np.asarray(fitted.energy.covariance)
    assert np.allclose(np.sqrt(np.diag(covariance)), rows.std(0), rtol=0.1)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="sigma"):
        RecoveryLikelihood(-1.0)
    with pytest.raises(ValueError, match="largest"):
        RecoveryLikelihood(largest=0.5)
    with pytest.raises(ValueError, match="num_sizes"):
        RecoveryLikelihood(largest=3.0)
    with pytest.raises(ValueError, match="num_steps"):
        RecoveryLikelihood(num_steps=0)
    energy = from_log_density(lambda x: -jnp.sum(x**2), Real((2,)))
    with pytest.raises(ValueError, match="shape"):
        RecoveryLikelihood(np.ones(3)).init(energy, np.ones((4, 2)), key=KEY)
    for space in (Box(0.0, 1.0, (2,)), Record(a=Real((2,)))):
        energy = from_log_density(lambda x: 0.0 * sum(map(jnp.sum, jax.tree.leaves(x))), space)
        with pytest.raises(TypeError, match="Real space"):
            RecoveryLikelihood().init(energy, None, key=KEY)
