"""Features are the hidden means, layer upon layer, of every kind of machine with hidden units."""

import jax.numpy as jnp
import numpy as np
import pytest

import energax as ex
from energax.energies import RBM, BernoulliRBM, DeepBoltzmannMachine
from energax.spaces import Binary, Real, Record

RNG = np.random.default_rng(3)
W1, W2 = RNG.normal(0, 0.8, (5, 4)), RNG.normal(0, 0.8, (4, 3))
B0, B1, B2 = RNG.normal(0.2, 0.5, 5), RNG.normal(-0.3, 0.5, 4), RNG.normal(0.1, 0.5, 3)
ROWS = (RNG.random((7, 5)) < 0.4).astype(float)


def sigmoid(u):
    return 1 / (1 + np.exp(-u))


def test_a_stack_is_read_bottom_up():
    stack = BernoulliRBM(W1, B0, B1), BernoulliRBM(W2, 0.0, B2)
    first = sigmoid(ROWS @ W1 + B1)
    second = sigmoid(first @ W2 + B2)
    np.testing.assert_allclose(ex.features(stack[0], ROWS), first, atol=1e-6)
    np.testing.assert_allclose(ex.features(stack, ROWS), np.hstack([first, second]), atol=1e-6)
    np.testing.assert_allclose(ex.features(stack, ROWS, layer=-1), second, atol=1e-6)
    np.testing.assert_allclose(ex.features(stack, ROWS[2], layer=1), first[2], atol=1e-6)


def test_a_deep_machine_gives_the_means_of_its_mean_field():
    dbm = DeepBoltzmannMachine([W1, W2], [B0, B1, B2])
    m1, m2 = np.full((7, 4), 0.5), np.full((7, 3), 0.5)
    for _ in range(500):
        m1 = sigmoid(ROWS @ W1 + B1 + m2 @ W2.T)
        m2 = sigmoid(m1 @ W2 + B2)
    np.testing.assert_allclose(ex.features(dbm, ROWS), np.hstack([m1, m2]), atol=1e-4)
    np.testing.assert_allclose(ex.features(dbm, ROWS, layer=2), m2, atol=1e-4)
    above = BernoulliRBM(W2[:3], 0.0, B2)
    np.testing.assert_allclose(
        ex.features([dbm, above], ROWS, layer=3), sigmoid(m2 @ W2[:3] + B2), atol=1e-4
    )


def test_tables_of_mixed_columns_have_features_too():
    space = Record(a=Binary(2), b=Real(3))
    rbm = RBM.random(space, 4, key=ex.random.key(0), scale=0.5)
    rows = {"a": ROWS[:, :2], "b": RNG.normal(size=(7, 3))}
    expected = sigmoid(np.hstack([rows["a"], rows["b"]]) @ np.asarray(rbm.weight))
    np.testing.assert_allclose(ex.features(rbm, rows), expected, atol=1e-5)
    one = {name: part[1] for name, part in rows.items()}
    np.testing.assert_allclose(ex.features(rbm, one), expected[1], atol=1e-5)


def test_what_has_no_hidden_units_or_does_not_fit_is_refused():
    rbm = BernoulliRBM(W1, B0, B1)
    with pytest.raises(TypeError, match="hidden units"):
        ex.features(ex.from_log_density(lambda x: -jnp.sum(x), Binary(5)), ROWS)
    with pytest.raises(ValueError, match="4 hidden units"):
        ex.features([rbm, rbm], ROWS)
    with pytest.raises(ValueError, match="layer"):
        ex.features(rbm, ROWS, layer=2)
    with pytest.raises(ValueError, match="layer"):
        ex.features(rbm, ROWS, layer=0)
    with pytest.raises(ValueError, match="empty"):
        ex.features([], ROWS)
    with pytest.raises(ValueError, match="X"):
        ex.features(rbm, ROWS + 0.5)
