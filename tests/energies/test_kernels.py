"""Kernel densities of columns and of rows, and energies read in the units of the data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from energax import energies, from_log_density, random, spaces

POINTS = np.array([[0.3, -1.0], [0.9, 0.4], [-1.2, 2.0], [0.1, 0.2]])
WIDTH = np.array([0.4, 0.7])


def by_hand(x):
    kernels = stats.t(3).pdf((x - POINTS) / WIDTH) / WIDTH
    return np.log(kernels.mean(0)).sum()


def test_log_prob_is_that_of_the_kernels():
    energy = energies.KernelMarginals(POINTS, WIDTH)
    for x in ([0.2, 0.5], [-9.0, 3.0], [50.0, -40.0]):
        assert float(energy.log_prob(jnp.array(x))) == pytest.approx(by_hand(np.array(x)), abs=2e-5)
    density = lambda x: energies.KernelMarginals.density(np.array([x]), POINTS[:, 0], 0.4)[0]
    area, _ = integrate.quad(density, -400, 400, points=[0], limit=300)
    assert area == pytest.approx(1, abs=1e-5)


def test_draws_follow_each_column():
    drawn = energies.KernelMarginals(POINTS, WIDTH).draw(20_000, key=random.key(0))
    for x, centres, h in zip(np.asarray(drawn, float).T, POINTS.T, WIDTH, strict=True):
        cdf = lambda v, c=centres, h=h: stats.t(3).cdf((v[:, None] - c) / h).mean(1)
        assert stats.kstest(x, cdf).pvalue > 1e-6
    assert abs(np.corrcoef(drawn[:, 0].clip(-5, 5), drawn[:, 1].clip(-5, 5))[0, 1]) < 0.04


def test_fit_puts_kernels_at_quantiles():
    rows = np.random.default_rng(0).gamma(2, 3, (3000, 1))
    energy = energies.KernelMarginals.fit(rows)
    x = np.array([1.0, 5.0, 12.0])
    found = np.exp([float(energy.log_prob(jnp.array([v]))) for v in x])
    many = stats.gamma(2, scale=3).ppf((np.arange(4000) + 0.5) / 4000)
    h = 0.25 * stats.gamma(2, scale=3).std()
    smoothed = (stats.t(3).pdf((x[:, None] - many) / h) / h).mean(1)  # the truth with the kernel
    np.testing.assert_allclose(found, smoothed, rtol=0.06)
    flat = energies.KernelMarginals.fit(np.full((5, 1), 0.1))  # its sd is rounding
    assert float(flat.width[0]) == 0.25


@pytest.mark.parametrize(
    ("points", "width"),
    [(POINTS[0], WIDTH), (POINTS, WIDTH[:1]), (POINTS, [0.1, 0.0]), (np.zeros((0, 2)), WIDTH)],
)
def test_wrong_shapes_are_refused(points, width):
    with pytest.raises(ValueError, match="KernelMarginals"):
        energies.KernelMarginals(points, width)


def test_values_beyond_float32_are_far_and_not_nan():
    energy = energies.KernelMarginals(POINTS, WIDTH)
    far = energy(jnp.array([1e18, 0.2], jnp.float32))
    assert float(far) == pytest.approx(-by_hand(np.array([1e18, 0.2])), rel=1e-4)
    assert float(energy(jnp.array([1e30, 0.2], jnp.float32))) == np.inf


WEIGHTS = np.array([0.2, 0.4, 0.1, 0.3])


def rows_by_hand(x, width=0.6):
    each = [stats.multivariate_normal(c, width**2 * np.eye(2)).logpdf(x) for c in POINTS]
    return np.logaddexp.reduce(np.log(WEIGHTS) + each)


def test_a_density_of_rows_is_a_mixture_of_equal_normals():
    energy = energies.KernelDensity(POINTS, 0.6, 3 * WEIGHTS)
    for x in ([0.2, 0.5], [-9.0, 3.0], [40.0, -30.0]):
        expected = pytest.approx(rows_by_hand(np.array(x)), rel=2e-5)
        assert float(energy.log_prob(jnp.array(x))) == expected
    slope = jax.grad(energy)(jnp.array([0.2, 0.5]))
    at, step = np.array([0.2, 0.5]), 1e-5 * np.eye(2)
    expected = [(rows_by_hand(at - d) - rows_by_hand(at + d)) / 2e-5 for d in step]
    np.testing.assert_allclose(slope, expected, rtol=1e-3)
    equal = energies.KernelDensity(POINTS, 0.6)
    np.testing.assert_allclose(np.exp(equal.log_weights), 0.25, rtol=1e-6)


def test_draws_of_rows_follow_the_density():
    energy = energies.KernelDensity(POINTS, 0.6, WEIGHTS)
    drawn = np.asarray(energy.draw(20_000, key=random.key(1)), float)
    for direction in ([1.0, 0.0], [0.6, -0.8]):  # of unit length: its kernels are as wide
        u, centres = drawn @ direction, POINTS @ direction
        cdf = lambda v, c=centres: stats.norm.cdf((v[:, None] - c) / 0.6) @ WEIGHTS
        assert stats.kstest(u, cdf).pvalue > 1e-6


@pytest.mark.parametrize(
    "arguments",
    [
        (POINTS[0], 0.5),
        (POINTS, WIDTH),
        (POINTS, 0.0),
        (POINTS, 0.5, [0.5, 0.5]),
        (POINTS, 0.5, [0.5, 0.5, 0.0, 1.0]),
    ],
)
def test_a_density_of_rows_refuses_wrong_shapes(arguments):
    with pytest.raises(ValueError, match="KernelDensity"):
        energies.KernelDensity(*arguments)


def test_standardised_is_the_change_of_variables():
    centre, scale = np.array([3.0, -200.0]), np.array([0.2, 40.0])
    inner = energies.Gaussian(spaces.Real((2,)), [0.3, -1.0], cholesky=[[0.5, 0], [0.7, 2]])
    energy = energies.Standardised(inner, centre, scale)
    x = np.array([3.3, -170.0])
    log_z = float(inner.log_z) + np.log(scale).sum()
    factor = scale[:, None] * np.array([[0.5, 0], [0.7, 2]])
    truth = stats.multivariate_normal(centre + scale * [0.3, -1.0], factor @ factor.T)
    assert float(-energy(jnp.asarray(x))) - log_z == pytest.approx(truth.logpdf(x), abs=1e-4)
    step = jax.grad(energy)(jnp.asarray(x))
    expected = jax.grad(inner)(jnp.asarray((x - centre) / scale)) / scale
    np.testing.assert_allclose(step, expected, rtol=1e-4)
    bits = energies.MLP(spaces.Binary((2,)), 4, 1, key=random.key(0))
    with pytest.raises(TypeError, match="Real"):
        energies.Standardised(bits, centre, scale)
    with pytest.raises(ValueError, match="positive"):
        energies.Standardised(inner, centre, [0.0, 1.0])


def test_on_a_record_only_the_row_of_numbers_is_standardised():
    space = spaces.Record(age=spaces.Real(()), kind=spaces.Categorical((), 3), row=spaces.Real(2))
    inner = from_log_density(
        lambda p: jnp.sum(p["row"] * jnp.array([0.3, -2.0])) * (1 + p["kind"]) - p["age"] ** 2,
        space,
    )
    energy = energies.Standardised(inner, [3.0, -200.0], [0.2, 40.0])
    point = {"age": 0.7, "kind": 2, "row": np.array([3.3, -170.0])}
    assert float(energy.log_density(point)) == pytest.approx((0.3 * 1.5 - 2 * 0.75) * 3 - 0.49)
    twice = spaces.Record(a=spaces.Real(2), b=spaces.Real(2))
    with pytest.raises(TypeError, match="one such part"):
        energies.Standardised(energies.default_base(twice), [0.0, 0.0], [1.0, 1.0])
