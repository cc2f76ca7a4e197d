"""Sparse hidden units: the penalty against NumPy, and what it does to a training."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

import energax as ex
from energax.energies import RBM, BernoulliRBM, Ising
from energax.energies._base import partition_trainable
from energax.objectives import MaximumLikelihood, SparseHidden
from energax.spaces import Spin

RNG = np.random.default_rng(2)
W, B, C = RNG.normal(0, 0.8, (6, 4)), RNG.normal(-0.4, 0.5, 6), RNG.normal(0.6, 0.5, 4)
ROWS = (RNG.random((80, 6)) < 0.4).astype(np.float32)
KEY = ex.random.key(0)


def rbm(weight=W):
    return BernoulliRBM(weight, B, C)


def loss(energy, strength):
    objective = SparseHidden(MaximumLikelihood(), target=0.2, strength=strength)
    return objective(energy, None, jnp.asarray(ROWS), None, key=KEY)[0]


def penalty(weight):
    on = expit(ROWS @ weight + C).mean(0)
    return np.sum(0.2 * np.log(0.2 / on) + 0.8 * np.log(0.8 / (1 - on)))


def test_value_and_slope_are_those_of_the_divergence():
    added = float(loss(rbm(), 0.7) - loss(rbm(), 0.0))
    assert added == pytest.approx(0.7 * penalty(W), rel=1e-4)
    theta, rest = partition_trainable(rbm())
    slopes = [
        eqx.filter_grad(lambda t, s=s: loss(eqx.combine(t, rest), s))(theta).weight
        for s in (0.7, 0.0)
    ]
    for i, j in ((0, 0), (3, 2), (5, 3)):
        step = np.zeros_like(W)
        step[i, j] = 1e-5
        wanted = 0.7 * (penalty(W + step) - penalty(W - step)) / 2e-5
        assert float(slopes[0][i, j] - slopes[1][i, j]) == pytest.approx(wanted, abs=1e-4)


def test_units_are_on_as_often_as_asked():
    share = {}
    for strength in (0.0, 5.0):
        objective = SparseHidden(MaximumLikelihood(), target=0.15, strength=strength)
        fit = ex.fit(rbm(), ROWS, objective, key=KEY, num_steps=400, batch_size=80)
        assert fit.reliable
        share[strength] = ex.features(fit.energy, ROWS).mean(0)
    assert np.all(abs(share[5.0] - 0.15) < 0.05)
    assert np.any(abs(share[0.0] - 0.15) > 0.2)


def test_what_does_not_fit_is_told():
    with pytest.raises(TypeError):
        SparseHidden("PCD")
    for given in ({"target": 1.0}, {"strength": -1.0}):
        with pytest.raises(ValueError, match="SparseHidden: expected"):
            SparseHidden(MaximumLikelihood(), **given)
    for energy in (
        Ising([[0, 1]], 0.1, num_sites=6),
        RBM.random(Spin(6), 2, key=KEY, hidden="spin"),
    ):
        with pytest.raises(TypeError, match="how often hidden units are on"):
            SparseHidden(MaximumLikelihood()).init(energy, None, key=KEY)
