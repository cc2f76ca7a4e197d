"""`sample`: exactly as many draws as asked for, the same for a key, and an honest verdict."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest

import energax as ex
from energax.results import UnreliableResult


def normal(d=2):
    return ex.from_log_density(lambda x: -0.5 * jnp.sum((x - 3.0) ** 2) / 0.25, ex.Real((d,)))


ENERGY = normal()


@pytest.mark.parametrize(
    ("num", "rows"), [(1000, 8), (100, 4), (7, 1), (13, 1), (1001, 1), (12, 4)]
)
def test_exactly_as_many_draws_as_asked_for(num, rows):
    draws = ex.sample(ENERGY, num, key=ex.random.key(0))
    assert draws.x.shape == (rows, num // rows, 2) and draws.num_chains == 8
    assert draws.flat().shape == (num, 2) and draws.log_density.shape == (rows, num // rows)
    assert draws.reliable and draws.mean.dtype == np.float64


def test_a_key_decides_the_draws():
    first, again = (ex.sample(ENERGY, 200, key=ex.random.key(4)) for _ in range(2))
    np.testing.assert_array_equal(first.x, again.x)
    other = ex.sample(ENERGY, 200, key=ex.random.key(5))
    assert not np.array_equal(first.x, other.x)
    with pytest.raises(TypeError, match="key"):
        ex.random.as_key(0)


@pytest.mark.slow
@pytest.mark.parametrize("apart", [5.0, 20.0])
def test_two_modes_never_get_wrong_weights_with_a_clean_verdict(apart):
    energy = ex.from_log_density(
        lambda x: jnp.logaddexp(-0.5 * (x[0] - apart) ** 2, -1.0 - 0.5 * (x[0] + apart) ** 2),
        ex.Real((1,)),
    )
    truth = 1 / (1 + np.exp(-1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreliableResult)
        for seed in range(6):
            draws = ex.sample(energy, 400, key=ex.random.key(seed), max_evaluations=200_000)
            right = abs((draws.flat() > 0).mean() - truth) < 0.1
            assert right or not draws.reliable


def test_an_energy_without_a_normaliser_is_never_reliable():
    for f in (lambda x: jnp.sum(x**2), lambda x: 0.0 * x[0], lambda x: jnp.sum(x)):
        with pytest.warns(UnreliableResult):
            draws = ex.sample(
                ex.from_log_density(f, ex.Real((2,))),
                100,
                key=ex.random.key(0),
                max_evaluations=200_000,
            )
        assert not draws.reliable and draws.reasons


def test_constant_coordinates_are_told_and_left_out():
    energy = ex.from_positive(
        lambda x: jnp.where(x[0] == 1, 1.0 + x[1] * x[2], 0.0), ex.Binary((3,))
    )
    draws = ex.sample(energy, 400, key=ex.random.key(0))
    assert draws.reliable, draws.reasons
    assert list(draws.constant) == [True, False, False]
    for field in (draws.rhat, draws.ess_bulk, draws.ess_tail, draws.mcse_mean, draws.sd):
        assert np.all(np.isfinite(field))
    assert draws.rhat[0] == 1 and draws.mean[0] == 1 and draws.mcse_mean[0] == 0


def test_records_come_back_as_dicts():
    energy = ex.from_log_density(
        lambda r: -0.5 * (r["a"][0] - 2 * r["b"][0]) ** 2,
        ex.Record(a=ex.Real((1,)), b=ex.Binary((2,))),
    )
    draws = ex.sample(energy, 80, key=ex.random.key(0))
    assert draws.x["a"].shape == (8, 10, 1) and draws.x["b"].shape == (8, 10, 2)
    assert set(draws.mean) == set(draws.rhat) == {"a", "b"}


def test_arviz_reads_the_draws():
    draws = ex.sample(ENERGY, 800, key=ex.random.key(0))
    tree = draws.to_arviz()
    assert tree["posterior"]["x"].shape == (8, 100, 2)
    assert tree["sample_stats"]["lp"].shape == (8, 100)


def test_an_unadjusted_kernel_is_not_called_exact():
    with pytest.warns(UnreliableResult, match="unadjusted"):
        draws = ex.sample(ENERGY, 100, key=ex.random.key(0), sampler=ex.samplers.ULA(0.01))
    assert not draws.reliable


def test_bad_arguments_say_so():
    with pytest.raises(ValueError, match="num_samples"):
        ex.sample(ENERGY, -1, key=ex.random.key(0))
    nowhere = ex.from_positive(lambda x: 0.0 * x[0], ex.Real((1,)))
    with pytest.raises(ValueError, match="finite"):
        ex.sample(nowhere, 10, key=ex.random.key(0))
