"""Mixtures of models with an estimated log Z, against enumeration and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import energax as ex
from energax.energies import BernoulliRBM, ModelMixture
from energax.partition.choose import Components
from energax.results import LogZ, UnreliableResult
from tests.exact import all_points, enumerated, log_density64

RNG = np.random.default_rng(3)


def rbm(bias):
    return BernoulliRBM(RNG.normal(0, 0.7, (6, 3)), bias, RNG.normal(0, 0.5, 3))


def normal(mean, sd):
    """An unnormalised normal in five dimensions, log Z = 1.3 + 5/2 log 2π sd²."""
    return ex.from_log_density(lambda x: 1.3 - 0.5 * jnp.sum(((x - mean) / sd) ** 2), ex.Real((5,)))


FAR = (normal(-30.0, 0.5), normal(10.0, 2.0))
FAR_LOG_Z = [1.3 + 2.5 * np.log(2 * np.pi * sd**2) for sd in (0.5, 2.0)]


def test_density_log_z_and_draws_of_two_rbms():
    parts = rbm(2.0), rbm(-2.0)
    exact = [float(part.log_z_by_sum()) for part in parts]
    given = [exact[0] + 0.2, exact[1] - 0.1]  # as an estimate would be off
    mixture = ModelMixture(parts, given, [0.3, 0.9])
    x = all_points(mixture.space)
    f = [log_density64(part, x) for part in parts]
    wanted = np.logaddexp(np.log(0.25) + f[0] - given[0], np.log(0.75) + f[1] - given[1])
    np.testing.assert_allclose(enumerated(mixture).log_density, wanted, atol=1e-5)
    assert ex.log_z(mixture, key=ex.random.key(0)).method == "enumeration"
    by_parts = Components().run(mixture, key=ex.random.key(0))
    assert by_parts.reliable and by_parts.std_err == 0
    assert by_parts.value == pytest.approx(np.logaddexp.reduce(wanted), abs=1e-5)

    mixture = ModelMixture(parts, exact, [0.3, 0.9])
    draws = ex.sample(mixture, 8000, key=ex.random.key(1))
    p = enumerated(mixture).prob
    mean = p @ x
    assert draws.reliable and draws.x.shape == (8, 1000, 6)
    assert np.all(abs(draws.mean - mean) < 5 * draws.mcse_mean + 1e-3)
    np.testing.assert_allclose(draws.sd, np.sqrt(mean * (1 - mean)), atol=0.03)
    np.testing.assert_allclose(draws.flat().mean(0), mean, atol=0.04)
    np.testing.assert_allclose(
        draws.log_density.reshape(-1)[:50],
        jax.vmap(mixture.log_density)(draws.flat()[:50]),
        atol=1e-4,
    )


def test_components_that_no_chain_could_join():
    found = [ex.log_z(part, key=ex.random.key(i)) for i, part in enumerate(FAR)]
    mixture = ModelMixture(FAR, found, [0.2, 0.8])
    z = ex.log_z(mixture, key=ex.random.key(2))
    assert z.reliable and abs(z.value) < 0.05 and z.method.startswith("components")
    draws = ex.sample(mixture, 2000, key=ex.random.key(3))
    assert draws.reliable, draws.reasons
    mean = 0.2 * -30 + 0.8 * 10
    variance = 0.2 * (0.25 + (30 + mean) ** 2) + 0.8 * (4 + (10 - mean) ** 2)
    assert np.all(abs(draws.mean - mean) < 5 * draws.mcse_mean)
    assert np.all(abs(draws.sd - np.sqrt(variance)) < 5 * draws.mcse_sd + 1e-3)
    share = (draws.flat()[:, 0] < -15).mean()
    assert abs(share - 0.2) < 5 * np.sqrt(0.16 / 2000)


def test_errors_of_log_z_widen_those_of_the_mean_and_end_in_doubt():
    def given(std_err):
        z = ex.log_z(FAR[0], key=ex.random.key(0))
        each = [LogZ(**{**vars(z), "value": value, "std_err": std_err}) for value in FAR_LOG_Z]
        return ModelMixture(FAR, each)

    sure, rough = (ex.sample(given(std_err), 200, key=ex.random.key(4)) for std_err in (0.0, 0.1))
    # shares 1/2 each, 40 apart: dm = w (1 − w) 40 δ, δ of sd 0.1 √2
    assert np.all(rough.mcse_mean > 0.9 * 0.25 * 40 * 0.1 * np.sqrt(2))
    assert np.all(rough.mcse_mean > 2 * sure.mcse_mean)
    with pytest.warns(UnreliableResult, match="vague"):
        draws = ex.sample(given(0.5), 200, key=ex.random.key(4))
    assert not draws.reliable


def test_doubts_of_a_component_are_those_of_the_whole():
    flat = ex.from_log_density(lambda x: 0.0 * jnp.sum(x), ex.Real((5,)))
    mixture = ModelMixture([FAR[1], flat], [FAR_LOG_Z[1], 0.0])
    with pytest.warns(UnreliableResult):
        z = ex.log_z(mixture, key=ex.random.key(5), max_seconds=20.0)
    assert not z.reliable and any("component 1" in reason for reason in z.reasons)
    assert not np.isnan(z.std_err)


def test_what_does_not_fit_is_told():
    with pytest.raises(ValueError, match="finite log Z for each"):
        ModelMixture(FAR, [0.0])
    with pytest.raises(ValueError, match="finite log Z for each"):
        ModelMixture(FAR, [0.0, np.inf])
    with pytest.raises(ValueError, match="share one space"):
        ModelMixture([FAR[0], rbm(0.0)], [0.0, 0.0])
    with pytest.raises(ValueError, match="positive weights"):
        ModelMixture(FAR, FAR_LOG_Z, [1.0, 0.0])
    with pytest.raises(ValueError, match="at least one"):
        ModelMixture([], [])
    with pytest.raises(TypeError, match="mixes energies"):
        ModelMixture([lambda x: x], [0.0])
    with pytest.raises(TypeError, match="sums a ModelMixture"):
        Components().run(FAR[0], key=ex.random.key(0))
