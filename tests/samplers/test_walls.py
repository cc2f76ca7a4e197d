"""Poles at the ends of a Box: told where exp(f) has no integral, and only there."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import energax as ex
from energax import spaces
from energax.results import UnreliableResult
from energax.samplers.driver.walls import wall_reason


def _energy(f, low, high, shape=(1,)):
    return ex.from_log_density(f, spaces.Box(low, high, shape))


def _near(rng, low, high, shape):
    """Draws that crowd at the ends of (low, high), as near as float32 has numbers."""
    u = 10.0 ** rng.uniform(-6, -0.4, (400, *shape))
    at_high = (rng.random(u.shape) < 0.5) & np.isfinite(high) | ~np.isfinite(low)
    low, high = np.nan_to_num(low, neginf=0.0), np.nan_to_num(high, posinf=0.0)
    return np.where(at_high, high - u, low + u).astype(np.float32)


# f, ends, number of coordinates, what is told
CASES = {
    "1/r at 0": (lambda x: -jnp.log(x[0]), 0.0, 1.0, 1, "end 0 of coordinate 0"),
    "r^-1.3 at an end that is not 0": (
        lambda x: -1.3 * jnp.log(x[1] - 2.5) - x[1] - x[0],
        2.5,
        np.inf,
        2,
        "end 2.5 of coordinate 1",
    ),
    "1/r at the upper end": (lambda x: -jnp.log(0.75 - x[0]), -np.inf, 0.75, 1, "end 0.75 of"),
    "r^-2 at a corner": (lambda x: -2 * jnp.log(x[0] + x[1]), 0.0, 1.0, 2, "corner of 2 coord"),
    "r^-3.2 at a corner of 3": (
        lambda x: -1.6 * jnp.log(jnp.sum(x**2)),
        0.0,
        np.inf,
        3,
        "corner of 3 coord",
    ),
    "r^-0.9": (lambda x: -0.9 * jnp.log(x[0]), 0.0, 1.0, 1, None),
    "r^-0.6 at every end": (
        lambda x: -0.6 * jnp.sum(jnp.log(x) + jnp.log(1 - x)),
        0.0,
        1.0,
        3,
        None,
    ),
    "r^-1.7 at a corner": (lambda x: -1.7 * jnp.log(x[0] + x[1]), 0.0, 1.0, 2, None),
    "narrow at 0": (lambda x: -1e6 * x[0], 0.0, 1.0, 1, None),
    "narrow at 1000": (lambda x: -300.0 * (1000.0 - x[0]), 0.0, 1000.0, 1, None),
    "narrow at 1": (lambda x: -1e6 * (1.0 - x[0]), 0.0, 1.0, 1, None),
    "no wall": (lambda x: -0.5 * jnp.sum(x**2), -np.inf, np.inf, 2, None),
}


@pytest.mark.parametrize("name", CASES)
def test_a_pole_without_an_integral_is_told_and_no_other(name):
    f, low, high, dim, told = CASES[name]
    x = _near(np.random.default_rng(0), low, high, (dim,))
    if name == "no wall":
        x = np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32)
    if name == "narrow at 0":
        x = (1e-6 * np.random.default_rng(0).exponential(size=(400, 1))).astype(np.float32)
    if name == "narrow at 1000":
        x = (1000 - np.random.default_rng(0).exponential(size=(400, 1)) / 300).astype(np.float32)
    if name == "narrow at 1":
        x = (1 - 1e-6 * np.random.default_rng(0).exponential(size=(400, 1))).astype(np.float32)
    reason = wall_reason(_energy(f, low, high, (dim,)), x)
    if told is None:
        assert reason is None
    else:
        assert told in reason


def test_a_pole_in_a_record_is_told():
    space = spaces.Record(a=spaces.Real((2,)), b=spaces.Box(0.0, 1.0, (1,)))
    energy = ex.from_log_density(lambda x: -jnp.sum(x["a"] ** 2) - 1.1 * jnp.log(x["b"][0]), space)
    rng = np.random.default_rng(1)
    x = {"a": rng.normal(size=(300, 2)), "b": 10.0 ** rng.uniform(-9, -1, (300, 1))}
    assert "coordinate 2" in wall_reason(energy, jax.tree.map(np.float32, x))


@pytest.mark.parametrize("method", ["auto", "estimate"])
def test_no_log_z_of_a_pole_is_reliable(method):
    energy = _energy(lambda x: -jnp.log(x[0]), 0.0, 1.0)
    for seed in (6, 7):
        with pytest.warns(UnreliableResult):
            z = ex.log_z(energy, key=ex.random.key(seed), method=method)
        assert not z.reliable


def test_a_density_with_integrable_poles_is_sampled():
    # Beta(0.4, 0.7): mean 4/11
    energy = _energy(lambda x: -0.6 * jnp.log(x[0]) - 0.3 * jnp.log1p(-x[0]), 0.0, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnreliableResult)
        draws = ex.sample(energy, 1000, key=ex.random.key(0))
    assert abs(draws.mean[0] - 4 / 11) < 5 * draws.mcse_mean[0]
