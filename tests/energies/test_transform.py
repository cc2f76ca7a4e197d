"""An energy on a box and its reading on all of ℝⁿ are one distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import energax.random as random
from energax import energies
from energax.energies import Unconstrained, from_log_density
from energax.spaces import Binary, Box, Real, Record

BOX = Box([0.0, -jnp.inf, 1.0, -jnp.inf, -3.0], [2.0, 3.0, jnp.inf, jnp.inf, 5.0])


def f(x):
    return -0.7 * jnp.sum((x - 0.4) ** 2)


def test_there_and_back():
    free = Unconstrained(from_log_density(f, BOX))
    assert free.space == Real((5,))
    y = 6 * jax.random.normal(random.key(0), (1_000, 5))
    x = free.constrain(y)
    assert bool(jnp.all((x > BOX.low) & (x < BOX.high)))
    np.testing.assert_allclose(free.constrain(free.unconstrain(x)), x, rtol=1e-5, atol=1e-5)
    near = jnp.abs(y).max(1) < 6
    np.testing.assert_allclose(free.unconstrain(x)[near], y[near], rtol=1e-2, atol=1e-2)


def test_the_jacobian_is_that_of_the_map():
    with jax.enable_x64(True):
        box = Box([0.0, -np.inf, 1.0, -np.inf, -3.0], [2.0, 3.0, np.inf, np.inf, 5.0])
        free = Unconstrained(from_log_density(f, box))
        for y in np.random.default_rng(0).normal(0, 3, (20, 5)):
            step = 1e-6 * np.eye(5)
            columns = [(free.constrain(y + s) - free.constrain(y - s)) / 2e-6 for s in step]
            wanted = np.linalg.slogdet(np.stack(columns))[1]
            assert float(free.log_jacobian(jnp.asarray(y))) == pytest.approx(wanted, abs=1e-6)
            assert float(free(jnp.asarray(y))) == pytest.approx(
                float(-f(free.constrain(jnp.asarray(y)))) - wanted, abs=1e-6
            )


@pytest.mark.parametrize(("low", "high"), [(0.5, 2.0), (-1.0, np.inf), (-np.inf, 7.0), (0.0, 1e-3)])
def test_the_integral_is_the_same(low, high):
    def f(x):
        return 1.3 * x[0] - 0.4 * x[0] ** 2

    with jax.enable_x64(True):
        free = Unconstrained(from_log_density(f, Box([low], [high])))
        y = jnp.linspace(-40, 40, 400_001)[:, None]
        value = jnp.trapezoid(jnp.exp(-jax.vmap(free)(y)), y[:, 0])
        x = np.linspace(max(low, -30.0), min(high, 30.0), 400_001)
        wanted = np.trapezoid(np.exp(1.3 * x - 0.4 * x**2), x)
        assert float(value) == pytest.approx(wanted, rel=1e-4)


def test_a_wall_of_infinite_density_is_never_met():
    energy = energies.Beta([0.3, 0.3], [0.4, 0.4])
    free = Unconstrained(energy)
    for size in (10.0, 30.0, 80.0, 200.0):
        for y in (jnp.array([size, -size]), jnp.array([-size, size])):
            x = free.constrain(y)
            assert bool(jnp.all((x > 0) & (x < 1)))
            value, slope = jax.value_and_grad(free)(y)
            assert np.isfinite(float(value)) and bool(jnp.all(jnp.isfinite(slope)))
            # falls towards both walls: no weight piles up there
            assert float(value) > float(free(y / 2))
    on_the_walls = free.unconstrain(jnp.array([0.0, 1.0]))
    assert bool(jnp.all(jnp.isfinite(on_the_walls)))


def test_records_of_real_and_box_and_nothing_else():
    space = Record(a=Box([0.0], [1.0]), b=Real((2,)))
    energy = from_log_density(lambda x: jnp.sum(x["a"]) - jnp.sum(x["b"] ** 2), space)
    free = Unconstrained(energy)
    y = {"a": jnp.array([0.3]), "b": jnp.array([1.0, -4.0])}
    x = free.constrain(y)
    np.testing.assert_array_equal(x["b"], y["b"])
    s = 1 / (1 + np.exp(-0.3))
    assert float(x["a"][0]) == pytest.approx(s)
    assert float(free(y)) == pytest.approx(-s + 17 - np.log(s * (1 - s)), rel=1e-5)
    for bad in (Binary((2,)), Record(a=Box([0.0], [1.0]), b=Binary((2,)))):
        with pytest.raises(TypeError, match="Metropolis"):
            Unconstrained(from_log_density(lambda x: jnp.zeros(()), bad))
