"""Ratios need no Z; likelihoods sum to one; both refuse what they cannot answer."""

import jax.numpy as jnp
import numpy as np
import pytest

from energax import energies, random, spaces, tasks
from energax.results import UnreliableResult


def tilted(x):
    return -0.7 * jnp.sum((x - 1.5) ** 2) + 0.3 * x[0] * x[1]


def test_log_ratio_is_the_difference_of_log_densities():
    energy = energies.from_log_density(tilted, spaces.Real((2,)))
    x, y = np.array([[0.5, 1.0], [2.0, -1.0]]), np.array([1.0, 1.0])
    wanted = [float(tilted(jnp.asarray(row)) - tilted(jnp.asarray(y))) for row in x]
    np.testing.assert_allclose(tasks.log_ratio(energy, x, y), wanted, rtol=1e-5)
    one = tasks.log_ratio(energy, x[0], y)
    assert one.shape == () and float(one) == pytest.approx(wanted[0], rel=1e-5)
    np.testing.assert_allclose(tasks.log_ratio(energy, y, x), -np.array(wanted), rtol=1e-5)


def test_log_ratio_of_impossible_points():
    energy = energies.from_positive(lambda x: jnp.where(x[0] > 0, x[0], 0.0), spaces.Real((1,)))
    assert tasks.log_ratio(energy, [1.0], [-1.0]) == np.inf
    assert tasks.log_ratio(energy, [-1.0], [1.0]) == -np.inf
    with pytest.warns(UnreliableResult, match="undefined"):
        assert np.isnan(tasks.log_ratio(energy, [-1.0], [-2.0]))


def test_log_ratio_refuses_bad_input():
    energy = energies.from_log_density(tilted, spaces.Real((2,)))
    with pytest.raises(ValueError, match="as many rows"):
        tasks.log_ratio(energy, np.zeros((2, 2)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="NaN or infinite"):
        tasks.log_ratio(energy, [np.nan, 0.0], [0.0, 0.0])
    broken = energies.from_log_density(lambda x: jnp.log(x[0]), spaces.Real((1,)))
    with pytest.raises(ValueError, match="f = nan"):
        tasks.log_ratio(broken, [-1.0], [1.0])


def test_likelihoods_of_all_states_sum_to_one():
    def f(x):
        return 1.3 * x[0] * x[1] - 0.8 * x[2] + 0.5 * x[0] * x[2] * x[3]

    space = spaces.Spin((4,))
    scores = tasks.score_samples(
        energies.from_log_density(f, space), np.asarray(space.enumerate()), key=random.key(1)
    )
    assert scores.reliable and scores.log_z_std_err == 0
    assert np.exp(scores.log_prob).sum() == pytest.approx(1, abs=1e-5)
    mean = scores.mean()
    assert mean.value == pytest.approx(scores.log_prob.mean())
    assert mean.sampling_std_err == pytest.approx(scores.log_prob.std(ddof=1) / 4)


def test_the_error_of_log_z_is_carried_along():
    energy = energies.from_log_density(tilted, spaces.Real((2,)))
    z = tasks.score_samples(energy, np.zeros((3, 2)), key=random.key(0)).log_z
    import dataclasses

    worse = dataclasses.replace(z, std_err=0.2, reliable=False, reasons=("made up",))
    scores = tasks.score_samples(energy, np.zeros((3, 2)), key=random.key(0), log_z=worse)
    assert scores.std_err == pytest.approx([0.2] * 3) and not scores.reliable
    assert scores.mean().std_err == pytest.approx(0.2)
