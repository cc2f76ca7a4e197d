"""Noise-contrastive estimation: the truth and its log Z from draws, and the optimum by sums.

Of the objective's own parameters the first is c in tens of nats.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from energax import fit, random, training
from energax.energies import (
    RBM,
    IndependentBernoulli,
    MultivariateNormal,
    fitted_base,
    from_log_density,
)
from energax.energies.exponential_family import Normal
from energax.objectives import NoiseContrastive
from energax.spaces import Binary, Box, Real, Spin
from tests.exact import enumerated
from tests.objectives.recovery import (
    BANANA_LOG_Z,
    CHAIN_LOG_Z,
    agrees,
    banana,
    banana_draws,
    chain,
    chain_draws,
    errors,
)


def spins():
    """Five spins in an open chain with fields."""
    params = {"b": [0.4, -0.3, 0.1, 0.2, -0.6], "w": [0.7, -0.5, 0.3, 0.9]}
    return from_log_density(
        lambda p, x: p["b"] @ x + p["w"] @ (x[:-1] * x[1:]),
        Spin((5,)),
        params={name: jnp.asarray(values) for name, values in params.items()},
    )


@pytest.mark.parametrize("num_noise", [1, 3])
def test_the_truth_and_log_z_are_found_in_two_dimensions(num_noise):
    with jax.enable_x64(True):
        objective = NoiseContrastive(num_noise=num_noise)
        rows = banana_draws(100_000, 11)
        found = errors(objective, banana(), rows, seed=11, own_truth=BANANA_LOG_Z / 10)
    assert agrees(found)


@pytest.mark.slow
def test_the_truth_and_log_z_are_found_in_ten_dimensions():
    with jax.enable_x64(True):
        rows = chain_draws(100_000, 2)
        found = errors(
            NoiseContrastive(), chain(), rows, seed=4, own_truth=CHAIN_LOG_Z / 10, steps=6
        )
    assert agrees(found)


def test_the_truth_and_log_z_are_found_on_spins():
    with jax.enable_x64(True):
        exact = enumerated(spins())
        rows = exact.draw(100_000, seed=2)
        found = errors(NoiseContrastive(), spins(), rows, seed=3, own_truth=exact.log_z / 10)
        assert agrees(found)
        off = errors(NoiseContrastive(), spins(), rows, seed=3, own_truth=exact.log_z / 10 + 0.01)
    assert off[1] > 100


def test_the_loss_is_that_of_the_sums():
    """E_p log(1 + ν q/p_c) + ν E_q log(1 + p_c/ν q), both by enumeration, within the noise."""
    nu, c = 2, 3.0
    energy = spins()
    exact = enumerated(energy)
    noise = IndependentBernoulli(Spin((5,)), jnp.asarray([0.5, -0.2, 0.3, 0.0, -0.9]))
    rows = exact.draw(40_000, seed=4)
    objective = NoiseContrastive(noise, num_noise=nu)
    (_, nothing), carry = objective.init(energy, rows, key=random.key(0))
    assert nothing is None
    q = np.exp(enumerated(noise).log_density - enumerated(noise).log_z)
    model = np.exp(exact.log_density - c)
    wanted = exact.prob @ np.log1p(nu * q / model) + nu * q @ np.log1p(model / (nu * q))
    params = jnp.asarray(c / 10), None
    loss, _, metrics = objective(energy, params, jnp.asarray(rows), carry, key=random.key(1))
    assert float(loss) == pytest.approx(wanted, abs=0.02)
    assert float(metrics["log_z"]) == pytest.approx(c, rel=1e-6)
    slope = jax.grad(lambda v: objective(energy, (v, None), rows, carry, key=random.key(1))[0])(
        params[0]
    )
    due = exact.prob @ (nu * q / (model + nu * q)) - nu * q @ (model / (model + nu * q))
    assert float(slope) / 10 == pytest.approx(due, abs=0.01) and abs(due) > 0.05


def test_c_starts_near_log_z_and_comes_to_it():
    mean, covariance = np.array([0.7, -1.2]), np.array([[1.4, 0.5], [0.5, 0.6]])
    rows = np.random.default_rng(5).multivariate_normal(mean, covariance, 4000).astype(np.float32)
    start = MultivariateNormal(mean, covariance)
    (c, _), _ = NoiseContrastive().init(start, rows, key=random.key(0))
    assert 10 * float(c) == pytest.approx(float(start.log_z), abs=0.15)
    run = fit(
        MultivariateNormal([0.0, 0.0], np.eye(2)),
        rows,
        NoiseContrastive(num_noise=4),
        key=random.key(1),
        num_steps=1500,
        batch_size=400,
        learning_rate=0.02,
        average=0.99,
    )
    np.testing.assert_allclose(run.energy.mean, mean, atol=0.1)
    np.testing.assert_allclose(run.energy.covariance, covariance, atol=0.15)
    assert run.history["log_z"][-1] == pytest.approx(float(run.energy.log_z), abs=0.15)


def test_noise_that_learns_comes_to_the_moments_of_the_data():
    rows = np.random.default_rng(6).normal([1.5, -0.4], [0.6, 1.7], (4000, 2)).astype(np.float32)
    objective = NoiseContrastive(Normal([1.0, 0.0], [0.9, 1.3]), learn_noise=True)
    energy = MultivariateNormal([1.5, -0.4], np.diag([0.36, 2.89]))
    params, carry = objective.init(energy, rows, key=random.key(0))

    @jax.jit
    def step(params, key):
        slope = jax.grad(lambda p: objective(energy, p, rows, carry, key=key)[0])(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, slope)

    for i in range(1500):
        params = step(params, random.key(i))
    noise = jax.tree.leaves(params[1])
    sought = jax.tree.leaves(Normal(rows.mean(0), rows.std(0)))
    for got, due in zip(noise, sought, strict=True):
        np.testing.assert_allclose(got, due, rtol=0.07, atol=0.05)


@pytest.mark.parametrize("learned", [False, True], ids=["fixed", "learned"])
def test_an_interrupted_run_goes_on_bit_for_bit(learned, tmp_path):
    """Parameters and memory of its own are in the checkpoints: c, the noise."""
    rows = np.random.default_rng(7).normal([0.5, -1.0], [1.0, 0.6], (300, 2)).astype(np.float32)
    energy = RBM.random(Real((2,)), 3, key=random.key(1), data=rows)
    noise = Normal([0.2, -0.5], [1.2, 1.0]) if learned else None
    objective = NoiseContrastive(noise, learn_noise=learned)
    options = {"key": random.key(0), "num_steps": 40, "batch_size": 50}

    def stop(step, metrics):
        if step >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(
            energy,
            rows,
            objective,
            checkpoint_dir=tmp_path,
            checkpoint_every=10,
            callback=stop,
            **options,
        )
    whole = fit(energy, rows, objective, **options)
    rest = training.resume(tmp_path, data=rows)
    assert rest.num_steps == 40
    np.testing.assert_array_equal(rest.energy.weight, whole.energy.weight)
    assert rest.history["log_z"][-1] == whole.history["log_z"][-1]


def test_the_space_of_a_box_is_compared_within_a_trace_too():
    box = Box([0.0, -1.0], [1.0, np.inf])
    energy = from_log_density(lambda x: -jnp.sum(x**2), box)
    rows = np.random.default_rng(8).uniform(0.1, 0.9, (50, 2)).astype(np.float32)
    for objective in (NoiseContrastive(), NoiseContrastive(fitted_base(box, rows))):
        eqx.filter_eval_shape(
            lambda key, objective=objective: objective.init(energy, rows, key=key), random.key(0)
        )
    with pytest.raises(TypeError, match="share of uniform noise"):
        NoiseContrastive(fitted_base(box, rows), learn_noise=True).init(
            energy, rows, key=random.key(0)
        )


def test_what_does_not_suit_is_refused():
    with pytest.raises(ValueError, match="num_noise"):
        NoiseContrastive(num_noise=0)
    with pytest.raises(ValueError, match="needs the noise="):
        NoiseContrastive(learn_noise=True)
    with pytest.raises(TypeError, match=r"normalised energy, got Function"):
        NoiseContrastive(from_log_density(lambda x: jnp.sum(x), Real((2,))))
    other = NoiseContrastive(IndependentBernoulli(Binary((5,)), 0.1))
    with pytest.raises(TypeError, match=r"the noise lives on Binary.*the energy on Spin"):
        other.init(spins(), np.ones((4, 5), np.float32), key=random.key(0))
