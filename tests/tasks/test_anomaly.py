"""p-values are uniform on rows like the held-out ones, whatever the energy."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binomtest, kstest

from energax import energies, spaces, tasks
from energax.results import UnreliableResult


def wrong_energy():
    """A deliberately bad model of the data below: p-values must hold all the same."""
    return energies.from_log_density(lambda x: -jnp.sum(jnp.abs(x - 0.7) ** 1.5), spaces.Real((3,)))


def rows(num, seed):
    return np.random.default_rng(seed).normal(0.3, 1.4, (num, 3))


def test_p_values_are_uniform_and_alarms_are_as_rare_as_asked():
    odd = tasks.anomaly_scores(
        wrong_energy(), rows(4000, 1), held_out=rows(20_000, 2), false_alarm_rate=0.07
    )
    assert kstest(odd.p_values, "uniform").pvalue > 1e-5
    assert binomtest(int(odd.is_anomaly.sum()), 4000, 0.07).pvalue > 1e-5
    np.testing.assert_array_equal(odd.is_anomaly, odd.p_values <= 0.07)


def test_far_rows_are_the_odd_ones():
    odd = tasks.anomaly_scores(
        wrong_energy(), np.array([[0.5, 0.5, 0.5], [9.0, 9.0, 9.0]]), held_out=rows(500, 3)
    )
    assert not odd.is_anomaly[0] and odd.is_anomaly[1]
    assert odd.p_values[1] == pytest.approx(1 / 501)
    assert odd.smallest_p == pytest.approx(1 / 501) and odd.reliable


def test_too_few_held_out_rows_are_told():
    with pytest.warns(UnreliableResult, match="at least 99"):
        odd = tasks.anomaly_scores(
            wrong_energy(), rows(5, 0), held_out=rows(20, 1), false_alarm_rate=0.01
        )
    assert not odd.reliable and not odd.is_anomaly.any() and odd.threshold == np.inf
    with pytest.raises(ValueError, match="false_alarm_rate"):
        tasks.anomaly_scores(wrong_energy(), rows(5, 0), held_out=rows(20, 1), false_alarm_rate=1.0)
