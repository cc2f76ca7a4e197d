"""CD and PCD: where chains start, what is computed again, and what their gradient converges to."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from energax import random, training
from energax.energies import BernoulliRBM, GeneralPotts, from_log_density
from energax.energies._base import batched, partition_trainable
from energax.objectives import (
    ContrastiveDivergence,
    MaximumLikelihood,
    PersistentCD,
    TemperedPCD,
)
from energax.objectives.chains.contrastive_divergence import Chains
from energax.samplers import MALA, BlockGibbs, Metropolis
from energax.samplers._base import AbstractSampler, Info, State
from energax.spaces import Categorical, Real
from tests.exact import P_LIMIT, enumerated

KEY = random.key(23)


def rbm(seed, visible=6, hidden=3, scale=1.0):
    rng = np.random.default_rng(seed)
    return BernoulliRBM(
        scale * rng.normal(size=(visible, hidden)),
        0.5 * rng.normal(size=visible),
        0.5 * rng.normal(size=hidden),
    )


def gradients(objective):
    """Of (energy, batch, carry, key): (gradient in θ, loss, carry, metrics) as `fit` takes them."""

    @eqx.filter_jit
    def of(energy, batch, carry, key):
        theta, fixed = partition_trainable(energy)

        def loss(theta):
            value, new, metrics = objective(eqx.combine(theta, fixed), None, batch, carry, key=key)
            return value, (value, new, metrics)

        gradient, rest = eqx.filter_grad(loss, has_aux=True)(theta)
        return gradient, *rest

    return of


def gradient_of(objective, energy, batch, carry, key=KEY):
    return gradients(objective)(energy, batch, carry, key)


class Stay(AbstractSampler):
    """Leaves x where it is, but for what it finds cached wrongly about it."""

    is_exact = property(lambda self: True)

    def evaluations_per_step(self, energy):
        return 0.0

    def init(self, energy, x, *, key):
        return State(x, batched(energy, x)), jnp.zeros(())

    def step(self, energy, state, tuning, *, key):
        wrong = (state.log_density - batched(energy, state.x))[:, None]
        wrong = jnp.where(jnp.abs(wrong) > 1e-3, wrong, 0.0)  # rounding is no fault
        return State(state.x + wrong, state.log_density), Info(
            jnp.full(len(state.x), 0.5), jnp.zeros(len(state.x), bool)
        )

    def adapt(self, tuning, state, info):
        return tuning + 1


@pytest.mark.parametrize("sampler", [None, Metropolis(scale=0.3)])
def test_with_exact_samples_the_gradient_is_that_of_the_likelihood(sampler):
    """One χ² over all parameters: the chains' half is a mean of independent draws of p."""
    energy, num = rbm(0), 20_000
    exact = enumerated(energy)
    batch = jnp.asarray(rbm_rows := enumerated(rbm(1)).draw(50, seed=0), jnp.float32)
    x = jnp.asarray(exact.draw(num, seed=1), jnp.float32)
    chains = Chains(*(sampler or BlockGibbs()).init(energy, x, key=KEY))
    objective = PersistentCD(num_steps=2, num_chains=num, sampler=sampler)
    gradient, loss, new, metrics = gradient_of(objective, energy, batch, chains)

    def statistics(x):  # ∇E of each row, in closed form
        x = np.asarray(x, float)
        weight, bias = (np.asarray(a, float) for a in (energy.weight, energy.hidden_bias))
        hidden = 1 / (1 + np.exp(-(x @ weight + bias)))
        outer = (x[:, :, None] * hidden[:, None, :]).reshape(len(x), -1)
        return -np.column_stack([outer, x, hidden])

    expected = statistics(rbm_rows).mean(0) - exact.prob @ statistics(exact.x)
    centred = statistics(exact.x) - exact.prob @ statistics(exact.x)
    covariance = (centred * exact.prob[:, None]).T @ centred / num
    got = np.concatenate(
        [np.ravel(gradient.weight), gradient.visible_bias, gradient.hidden_bias]
    ).astype(float)
    error = got - expected
    p_value = stats.chi2.sf(error @ np.linalg.solve(covariance, error), len(error))
    assert p_value > P_LIMIT
    wrong = got - 0.9 * expected
    assert stats.chi2.sf(wrong @ np.linalg.solve(covariance, wrong), len(error)) < 1e-9
    assert (np.asarray(new.state.x) != np.asarray(x)).any()
    assert loss == pytest.approx(float(metrics["energy_data"] - metrics["energy_samples"]))


def test_cd_starts_at_the_data_and_pcd_goes_on_from_its_chains():
    energy = from_log_density(lambda p, x: -p * jnp.sum(x**4), Real((3,)), params=jnp.asarray(0.7))
    data = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    cd = ContrastiveDivergence(num_steps=3, sampler=Stay())
    tuning = cd.init(energy, data, key=KEY)[1]
    gradient, loss, tuning, metrics = gradient_of(cd, energy, data[:10], tuning)
    # Nothing moves: both halves are the same, and so is what is cached.
    assert abs(loss) < 1e-6 and abs(gradient.params) < 1e-5 and metrics["acceptance"] == 0.5
    assert tuning == 1  # it learns once, of all three steps
    pcd = PersistentCD(num_steps=2, num_chains=25, sampler=Stay())
    chains = pcd.init(energy, data, key=KEY)[1]
    assert chains.state.x.shape == (25, 3)
    rows = {row.tobytes() for row in data}
    assert len({np.asarray(x).tobytes() for x in chains.state.x} & rows) == 25
    changed = eqx.tree_at(lambda e: e.params, energy, jnp.asarray(0.1))
    for model in (energy, changed):  # a stale f would move x
        _, loss, chains, metrics = gradient_of(pcd, model, data, chains)
        expected = float(jnp.mean(-batched(model, chains.state.x)))
        assert metrics["energy_samples"] == pytest.approx(expected, rel=1e-6)
    assert len({np.asarray(x).tobytes() for x in chains.state.x} & rows) == 25
    assert chains.tuning == 2
    more = PersistentCD(num_chains=60, sampler=Stay()).init(energy, data, key=KEY)[1]
    assert more.state.x.shape == (60, 3)


def test_pcd_reaches_the_exact_maximum_of_the_likelihood():
    """Held to 0.02 nat of the exact optimum on an RBM that can be enumerated."""
    truth, start = rbm(3, scale=1.5), rbm(4, scale=0.1)
    data = enumerated(truth).draw(2_000, seed=5)

    def nll(energy):
        exact = enumerated(energy)
        return exact.log_z - exact.log_density[exact.index(data)].mean()

    options = dict(key=KEY, num_steps=3_000, learning_rate=0.02)
    exact_fit = training.fit(start, data, MaximumLikelihood(), batch_size=2_000, **options)
    chains_fit = training.fit(start, data, PersistentCD(num_steps=1), **options)
    assert chains_fit.reliable
    best, got = nll(exact_fit.energy), nll(chains_fit.energy)
    assert nll(start) > best + 0.3
    assert best - 1e-3 < got < best + 0.02


@pytest.mark.parametrize(
    "objective",
    [
        PersistentCD(num_steps=5),
        PersistentCD(num_steps=20, sampler=Metropolis()),
        ContrastiveDivergence(num_steps=20, sampler=MALA()),
    ],
    ids=["pcd default", "pcd metropolis", "cd mala"],
)
def test_a_gaussian_is_recovered(objective):
    """The tuning adapts from a poor start; mean and sd come out within 5 %."""

    def f(params, x):
        return -0.5 * jnp.sum(((x - params["mean"]) * jnp.exp(-params["log_sd"])) ** 2)

    mean, sd = np.asarray([3.0, -1.0]), np.asarray([0.2, 2.0])
    data = mean + sd * np.random.default_rng(1).normal(size=(4_000, 2))
    start = from_log_density(f, Real((2,)), params={"mean": jnp.zeros(2), "log_sd": jnp.zeros(2)})
    fitted = training.fit(start, data, objective, key=KEY, num_steps=1_500, learning_rate=0.03)
    assert fitted.reliable, fitted.reasons
    error = (np.asarray(fitted.energy.params["mean"]) - data.mean(0)) / data.std(0)
    np.testing.assert_allclose(error, 0, atol=0.05)
    np.testing.assert_allclose(jnp.exp(fitted.energy.params["log_sd"]), data.std(0), rtol=0.05)
    assert 0.1 < fitted.history["acceptance"][-100:].mean() < 0.9


def test_bad_arguments():
    with pytest.raises(ValueError, match="num_steps: expected a whole number from 1, got 0"):
        PersistentCD(num_steps=0)
    with pytest.raises(ValueError, match="num_chains: expected a whole number from 1, got -2"):
        PersistentCD(num_chains=-2)
    with pytest.raises(TypeError, match="BlockGibbs needs an energy of"):
        energy = from_log_density(lambda x: -jnp.sum(x**2), Real((2,)))
        ContrastiveDivergence(sampler=BlockGibbs()).init(energy, np.zeros((3, 2)), key=KEY)


@pytest.mark.parametrize("slow", [0.0, 1.0])
def test_tempered_chains_give_the_gradient_of_the_likelihood(slow):
    """30 steps from rows of another law; the error of 20,000 chains' half is at most 0.5/√20000."""
    energy = rbm(0)
    batch = jnp.asarray(enumerated(rbm(1)).draw(50, seed=0), jnp.float32)
    objective = TemperedPCD(num_steps=30, num_chains=20_000, num_rungs=4, slow=slow)
    _, chains = objective.init(energy, batch, key=KEY)
    found, _, carry, metrics = gradient_of(objective, energy, batch, chains)
    wanted = gradient_of(MaximumLikelihood(), energy, batch, None)[0]
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=5 * 0.5 / np.sqrt(20_000))
    assert float(metrics["tempered"]) == (slow == 0)
    assert abs(float(carry.memory)) < 0.05  # 30 steps are far


def two_deep_modes():
    """An RBM of 12 bits, near all 1 in a sixth of its draws, else near all 0; no chain crosses."""
    weight = jnp.full((12, 8), 1.5)
    bias = -0.5 * weight.sum(axis=1)
    return BernoulliRBM(weight, bias, -0.5 * weight.sum(axis=0) - 0.2)


def test_tempered_chains_leave_the_mode_they_start_in():
    energy = two_deep_modes()
    exact = enumerated(energy)
    inside = np.asarray(exact.x).mean(axis=1) > 0.5
    share = float(exact.prob[inside].sum())
    assert 0.1 < share < 0.3
    rows = np.repeat([[1.0], [0.0]], [6, 4], axis=0).repeat(12, axis=1).astype(np.float32)
    for slow in (0.5, 1.0):
        objective = TemperedPCD(num_steps=5, num_chains=400, slow=slow)
        _, carry = objective.init(energy, rows, key=KEY)
        step = eqx.filter_jit(
            lambda carry, key, o=objective: o(energy, None, jnp.asarray(rows), carry, key=key)[1:]
        )
        tempered = []
        for i in range(150):
            carry, metrics = step(carry, jax.random.fold_in(KEY, i))
            tempered.append(float(metrics["tempered"]))
        found = float(jnp.mean(jnp.mean(carry.state.x, axis=1) > 0.5))
        if slow == 1.0:
            assert abs(found - 0.6) < 0.1 and sum(tempered) == 0
        else:
            assert abs(found - share) < 0.1 and 0.1 < np.mean(tempered[75:]) < 1.0


def test_tempering_of_an_energy_whose_path_is_of_another_kind():
    """Potts models go by colours of their sites; what lies between them and a base has none."""
    rng = np.random.default_rng(0)
    space = Categorical((4,), 3, "onehot")
    rows = np.asarray(space.encode(jnp.asarray(rng.integers(0, 3, (50, 4)))))
    energy = GeneralPotts.zeros(space, rows)
    objective = TemperedPCD(num_steps=2, num_chains=8, num_rungs=3, slow=0.0)
    _, carry = objective.init(energy, rows, key=KEY)
    loss, carry, metrics = objective(energy, None, jnp.asarray(rows), carry, key=KEY)
    assert jnp.isfinite(loss) and metrics["tempered"] == 1
    assert objective.evaluations_per_step(energy, 50) > 50


def test_tempering_is_asked_for_within_reason():
    with pytest.raises(ValueError, match="slow"):
        TemperedPCD(slow=1.5)
    with pytest.raises(ValueError, match="num_rungs"):
        TemperedPCD(num_rungs=0)
