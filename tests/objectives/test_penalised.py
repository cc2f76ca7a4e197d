"""Penalties against closed forms and the conditions of a minimum, in NumPy; exact zeros."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

from energax import random, training
from energax.energies import (
    MLP,
    BernoulliRBM,
    BoltzmannMachine,
    DeepBoltzmannMachine,
    Ising,
    from_log_density,
)
from energax.energies._base import partition_trainable
from energax.objectives import (
    MaximumLikelihood,
    MeanFieldPCD,
    Penalised,
    PersistentCD,
    PseudoLikelihood,
)
from energax.spaces import Real, Spin
from tests.exact import enumerated

KEY = random.key(17)
RNG = np.random.default_rng(2)


def pair(c):
    """1000 rows of two spins of mean 0 and mean product c."""
    alike = round(500 * (1 + c) / 2)
    rows = [(1, 1)] * alike + [(-1, -1)] * alike + [(1, -1), (-1, 1)] * (500 - alike)
    return np.asarray(rows, np.float32)


def fitted(c, **strengths):
    energy = Ising([(0, 1)], 0.3, num_sites=2)
    objective = Penalised(PseudoLikelihood(), **strengths)
    run = training.fit(energy, pair(c), objective, key=KEY, optimizer="lbfgs")
    assert run.reliable, run.reasons
    return float(run.energy.couplings[0])


@pytest.mark.parametrize("c", [-0.6, 0.4])
def test_two_spins_have_the_closed_form(c):
    """Both conditionals of two spins give 2 softplus(−2Jss'), of slope 2 (tanh J − c) in J."""
    assert fitted(c) == pytest.approx(np.arctanh(c), abs=1e-4)
    l1, l2 = 0.3, 0.7
    shrunk = np.arctanh(np.sign(c) * (abs(c) - l1 / 2))
    assert fitted(c, l1=l1) == pytest.approx(shrunk, abs=1e-4)
    root = brentq(lambda j: 2 * (np.tanh(j) - c) + l2 * j, -2, 2)
    assert fitted(c, l2=l2) == pytest.approx(root, abs=1e-4)
    both = brentq(lambda j: 2 * (np.tanh(j) - c) + l2 * j + l1 * np.sign(c), -2, 2)
    assert fitted(c, l1=l1, l2=l2) == pytest.approx(both, abs=1e-4)
    assert fitted(c, l1=2 * abs(c) + 0.01) == 0.0
    assert fitted(c, l1=2 * abs(c) - 0.01) != 0.0


SITES = 8
EDGES = np.argwhere(np.triu(np.ones((SITES, SITES)), 1))
IS_TRUE = RNG.random(len(EDGES)) < 0.3
COUPLINGS = np.where(IS_TRUE, RNG.choice([-0.6, 0.6], len(EDGES)), 0.0)
FIELDS = RNG.normal(0, 0.4, SITES)


@pytest.fixture(scope="module")
def rows():
    return enumerated(Ising(EDGES, COUPLINGS, FIELDS, num_sites=SITES)).draw(20_000, seed=1)


def slopes(matrix, fields, s):
    """∇ of the pseudo-likelihood in J_ij (i < j) and in h, in float64."""
    error = np.tanh(s @ matrix + fields) - s
    product = error.T @ s / len(s)
    return (product + product.T)[EDGES[:, 0], EDGES[:, 1]], error.mean(0)


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "lbfgs"},
        {"batch_size": 20_000, "num_steps": 800, "learning_rate": 0.02},
    ],
    ids=["L-BFGS", "Adam"],
)
def test_couplings_that_are_none_end_at_zero(rows, options):
    l1 = 0.05
    start = BoltzmannMachine.zeros(Spin(SITES), rows)
    objective = Penalised(PseudoLikelihood(), l1=l1)
    run = training.fit(start, rows, objective, key=KEY, **options)
    assert run.reliable, run.reasons
    found = np.asarray(run.energy.couplings, float)
    np.testing.assert_array_equal(found != 0, IS_TRUE)
    # The minimum's own conditions: slope −λ sign(J) where J ≠ 0, at most λ where J = 0, 0 in h.
    slope, of_fields = slopes(np.asarray(run.energy.coupling), np.asarray(run.energy.fields), rows)
    np.testing.assert_allclose(slope[IS_TRUE], -l1 * np.sign(found[IS_TRUE]), atol=2e-4)
    assert np.abs(slope[~IS_TRUE]).max() < l1
    np.testing.assert_allclose(of_fields, 0.0, atol=2e-4)
    penalty = run.history["penalty"][-1]
    assert penalty == pytest.approx(l1 * np.abs(found).sum(), rel=1e-3)
    plain = training.fit(start, rows, PseudoLikelihood(), key=KEY, **options)
    assert (np.asarray(plain.energy.couplings) != 0).all()


def test_with_minibatches_they_end_near_zero(rows):
    start = BoltzmannMachine.zeros(Spin(SITES), rows)
    objective = Penalised(PseudoLikelihood(), l1=0.05)
    run = training.fit(start, rows, objective, key=KEY, num_steps=3000)
    found = np.asarray(run.energy.couplings)[~IS_TRUE]
    assert (found == 0).any() and np.abs(found).max() < 0.03


def test_weights_are_penalised_and_biases_are_not():
    rng = np.random.default_rng(0)
    rbm = BernoulliRBM(rng.normal(size=(4, 3)), 0.7, -0.4)
    x = jnp.asarray(rng.random((6, 4)) < 0.5, float)

    def added(energy, objective, batch, **given):
        full = Penalised(objective, **given)
        params, carry = full.init(energy, batch, key=KEY)
        loss, _, metrics = full(energy, params, batch, carry, key=KEY)
        plain, _, _ = objective(energy, params, batch, carry, key=KEY)
        assert float(metrics["penalty"]) == pytest.approx(float(loss - plain), abs=1e-4)
        return float(metrics["penalty"])

    weight = np.asarray(rbm.weight)
    expected = 0.2 * np.abs(weight).sum() + 0.15 * (weight**2).sum()
    assert added(rbm, PseudoLikelihood(), x, l1=0.2, l2=0.3) == pytest.approx(expected, rel=1e-5)
    biases = added(rbm, PersistentCD(), x, l1=0.5, where=("visible_bias", "hidden_bias"))
    assert biases == pytest.approx(0.5 * (4 * 0.7 + 3 * 0.4), rel=1e-5)
    mlp = MLP(Real((2,)), 5, 2, key=KEY)
    real = jnp.zeros((3, 2))
    found = added(mlp, PersistentCD(), real, l2=2.0)
    assert found == pytest.approx(sum(float(jnp.sum(w**2)) for w in mlp.weights), rel=1e-5)
    twice = Penalised(Penalised(PseudoLikelihood(), l1=0.1), l1=0.2, where="hidden_bias")
    strengths = twice.l1_strengths(partition_trainable(rbm)[0])
    assert np.allclose(strengths.weight, 0.1) and np.allclose(strengths.hidden_bias, 0.2)
    assert np.allclose(strengths.visible_bias, 0.0)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="expected l1 from 0, got -1"):
        Penalised(PseudoLikelihood(), l1=-1.0)
    energy = from_log_density(lambda p, x: -p["scale"] * x @ x, Real((2,)), params={"scale": 1.0})
    with pytest.raises(ValueError, match=r"trains no array called weight or .*'scale'.* by where="):
        Penalised(MaximumLikelihood(), l1=0.1).init(energy, None, key=KEY)


def test_deep_machines_take_penalties_too():
    """Rows are of the visible layer, as without; the penalty is of both weights."""
    rng = np.random.default_rng(0)
    weights = [rng.normal(0, 0.5, (4, 3)), rng.normal(0, 0.5, (3, 2))]
    dbm = DeepBoltzmannMachine(weights)
    rows = (rng.random((30, 4)) < 0.4).astype(float)
    inner = MeanFieldPCD(num_steps=1, num_chains=8)
    objective = Penalised(inner, l2=0.5)
    assert objective.data_space(dbm) == dbm.data_space
    run = training.fit(dbm, rows, objective, key=random.key(0), num_steps=20, batch_size=10)
    wanted = 0.25 * sum(np.sum(w**2) for w in weights)
    assert abs(run.history["penalty"][0] - wanted) < 0.01 * wanted
