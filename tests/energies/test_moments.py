"""Fits from means and correlations alone, against fits of the rows and enumeration in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

import energax as ex
from energax.energies import BernoulliRBM, BoltzmannMachine, Ising, Moments
from energax.energies._base import batched
from energax.objectives import MaximumLikelihood, Penalised, PersistentCD, PseudoLikelihood
from energax.spaces import Binary, Spin
from tests.exact import all_points, enumerated

RNG = np.random.default_rng(5)
SITES = 6
SPACES = {"spins": Spin(SITES), "bits": Binary(SITES)}


@pytest.fixture(params=SPACES)
def space(request):
    return SPACES[request.param]


def some_rows(space, num=400):
    """Rows whose sites go together."""
    common = RNG.normal(size=(num, 1))
    up = RNG.normal(-0.4, 1.0, (num, SITES)) + RNG.normal(0.8, 0.3, SITES) * common > 0
    return np.where(up, 1, -1 if isinstance(space, Spin) else 0)


def zeros(space):
    return BoltzmannMachine.zeros(space)


def model_moments(energy):
    """(⟨x⟩, ⟨x xᵀ⟩) of a model by enumeration."""
    x = all_points(energy.space).astype(float)
    p = enumerated(energy).prob
    return p @ x, (x * p[:, None]).T @ x


def test_rows_have_the_moments_and_the_mean_energy(space):
    data, weights = some_rows(space), RNG.random(400)
    moments = Moments.of(space, data, weights)
    w = weights / weights.sum()
    np.testing.assert_allclose(moments.mean, w @ data)
    np.testing.assert_allclose(moments.second, np.einsum("r,ri,rj->ij", w, data, data))
    J = RNG.normal(size=(SITES, SITES))
    energy = BoltzmannMachine(np.triu(J, 1) + np.triu(J, 1).T, RNG.normal(size=SITES), space=space)
    stand_in = moments.rows(energy)
    f = np.asarray(batched(energy, jnp.asarray(data, float)))
    found = np.asarray(batched(energy, jnp.asarray(stand_in)))
    assert found.mean() == pytest.approx(w @ f, abs=1e-4)
    same = Moments(moments.mean, covariance=np.cov(data.T, aweights=weights, ddof=0), space=space)
    np.testing.assert_allclose(same.second, moments.second, atol=1e-12)


def test_a_fit_of_moments_is_that_of_the_rows_and_has_them(space):
    data = some_rows(space)
    options = {"key": ex.random.key(0), "optimizer": "lbfgs"}
    by_rows = ex.fit(zeros(space), data, MaximumLikelihood(), **options)
    moments = Moments.of(space, data)
    fit = ex.fit(BoltzmannMachine.zeros(space, moments), moments, MaximumLikelihood(), **options)
    assert fit.reliable
    np.testing.assert_allclose(fit.energy.coupling, by_rows.energy.coupling, atol=0.01)
    np.testing.assert_allclose(fit.energy.fields, by_rows.energy.fields, atol=0.01)
    mean, second = model_moments(fit.energy)
    np.testing.assert_allclose(mean, moments.mean, atol=2e-3)
    np.testing.assert_allclose(second, moments.second, atol=2e-3)


def test_only_pairs_that_are_joined_are_used():
    space = Spin(SITES)
    moments = Moments.of(space, some_rows(space))
    edges = np.array([[0, 1], [1, 2], [2, 3], [4, 5]])
    second = np.full((SITES, SITES), np.nan)
    second[edges[:, 0], edges[:, 1]] = moments.second[edges[:, 0], edges[:, 1]]
    second = np.where(np.isnan(second), second.T, second)
    energy = Ising(edges, 0.0, num_sites=SITES)
    fit = ex.fit(
        energy,
        Moments(moments.mean, second),
        Penalised(MaximumLikelihood(), l2=1e-4),
        key=ex.random.key(1),
        optimizer="lbfgs",
    )
    found = model_moments(fit.energy)[1][edges[:, 0], edges[:, 1]]
    np.testing.assert_allclose(found, second[edges[:, 0], edges[:, 1]], atol=3e-3)
    with pytest.raises(ValueError, match="sites 0 and 2"):
        ex.fit(
            Ising([[0, 2]], 0.0, num_sites=SITES),
            Moments(moments.mean, second),
            key=ex.random.key(0),
        )


@pytest.mark.slow
def test_persistent_chains_learn_moments(space):
    moments = Moments.of(space, some_rows(space, 2000))
    fit = ex.fit(
        BoltzmannMachine.zeros(space, moments),
        moments,
        PersistentCD(num_chains=500),
        key=ex.random.key(2),
        average=0.99,
    )
    assert fit.reliable
    mean, second = model_moments(fit.energy)
    np.testing.assert_allclose(mean, moments.mean, atol=0.03)
    np.testing.assert_allclose(second, moments.second, atol=0.03)


def test_a_run_of_moments_goes_on_where_it_stopped(tmp_path):
    space = Binary(SITES)
    moments = Moments.of(space, some_rows(space))
    options = {"key": ex.random.key(3), "num_steps": 40, "checkpoint_every": 20}
    whole = ex.fit(zeros(space), moments, MaximumLikelihood(), **options)

    class Stop(Exception):
        pass

    def stop(step, _):
        if step >= 20:
            raise Stop

    with pytest.raises(Stop):
        folder = {"checkpoint_dir": tmp_path, "callback": stop}
        ex.fit(zeros(space), moments, MaximumLikelihood(), **options, **folder)
    rest = ex.resume(tmp_path, data=moments)
    np.testing.assert_array_equal(rest.energy.couplings, whole.energy.couplings)


def test_what_does_not_fit_is_told(space):
    moments = Moments.of(space, some_rows(space))
    model = zeros(space)
    with pytest.raises(TypeError, match="asks for the rows themselves"):
        ex.fit(model, moments, PseudoLikelihood(), key=ex.random.key(0))
    with pytest.raises(TypeError, match="energies of pairs"):
        ex.fit(BernoulliRBM.random(SITES, 2, key=ex.random.key(0)), moments, key=ex.random.key(0))
    with pytest.raises(ValueError, match="have none"):
        ex.fit(model, moments, key=ex.random.key(0), early_stopping=0.1)
    with pytest.raises(ValueError, match="taken whole"):
        ex.fit(model, moments, key=ex.random.key(0), batch_size=5)
    with pytest.raises(ValueError, match="give either"):
        Moments(moments.mean, space=space)
    with pytest.raises(ValueError, match="symmetric"):
        Moments(moments.mean, np.triu(moments.second), space=space)
    with pytest.raises(ValueError, match="expected means from"):
        Moments(moments.mean + 2, moments.second, space=space)
    impossible = moments.second.copy()
    impossible[0, 1] = impossible[1, 0] = 1.5
    with pytest.raises(ValueError, match="no distribution has the moments given of sites 0 and 1"):
        ex.fit(model, Moments(moments.mean, impossible, space=space), key=ex.random.key(0))
