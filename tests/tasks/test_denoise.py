"""Noise of every kind is taken off as exact posteriors say, and Tweedie's formula is exact."""

import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

import energax as ex
from energax import energies, random, spaces, tasks
from energax.tasks.denoise.tweedie import _curvatures, posterior_means


def smoothed_mixture(sigma, means, sds, weights):
    """log(p ∗ N(0, σ²)) of a mixture of round normals, as an energy that says so."""
    variance = jnp.asarray(sds) ** 2 + sigma**2

    def f(x):
        square = jnp.sum((x - jnp.asarray(means)) ** 2, -1)
        logs = jnp.log(jnp.asarray(weights)) - 0.5 * square / variance
        return jax.nn.logsumexp(logs - 0.5 * x.size * jnp.log(variance))

    dimension = np.shape(means)[1]
    return energies.Smoothed(energies.from_log_density(f, spaces.Real((dimension,))), sigma)


# Tweedie's formula


def test_tweedie_is_the_exact_posterior_of_a_mixture():
    sigma, sds, weights = 0.7, np.array([0.3, 1.1]), np.array([0.35, 0.65])
    means = np.array([[0.5, -1.0, 2.0], [-1.2, 0.8, 0.3]])
    rng = np.random.default_rng(0)
    part = rng.choice(2, 40, p=weights)
    clean = means[part] + sds[part, None] * rng.normal(size=(40, 3))
    noisy = (clean + sigma * rng.normal(size=clean.shape)).astype(np.float32)
    energy = smoothed_mixture(sigma, means, sds, weights)
    found = tasks.denoise(energy, noisy, tasks.GaussianNoise(sigma), key=random.key(1))
    assert found.reliable and found.mode is None and found.draws.shape == (40, 0, 3)
    for y, mean, sd in zip(noisy.astype(float), found.mean, found.sd, strict=True):
        spread = np.sqrt(sds**2 + sigma**2)
        p = weights * stats.norm.pdf((y - means) / spread[:, None]).prod(1) / spread**3
        p /= p.sum()
        gain = sds**2 / spread**2
        centres = means + gain[:, None] * (y - means)
        wanted = p @ centres
        variance = p @ (gain[:, None] * sigma**2 + centres**2) - wanted**2
        np.testing.assert_allclose(mean, wanted, atol=2e-5)
        np.testing.assert_allclose(sd, np.sqrt(variance), atol=2e-4)


def test_tweedie_agrees_with_draws_where_the_prior_is_known():
    """p ∗ N(0, σ²) by the formula against chains on p itself, with correlated sites."""
    sigma, centre = 0.8, np.array([1.0, -0.5])
    covariance = np.array([[1.0, 0.6], [0.6, 0.8]])

    def normal(covariance):
        precision = np.linalg.inv(covariance)
        return energies.from_log_density(
            lambda x: -0.5 * (x - centre) @ jnp.asarray(precision, x.dtype) @ (x - centre),
            spaces.Real((2,)),
        )

    Y, noise = np.array([[0.3, 1.2], [2.0, -1.0]]), tasks.GaussianNoise(sigma)
    noisy = normal(covariance + sigma**2 * np.eye(2))
    exact = tasks.denoise(noisy, Y, noise, key=random.key(0), method="tweedie")
    drawn = tasks.denoise(normal(covariance), Y, noise, key=random.key(0))
    posterior = np.linalg.inv(np.linalg.inv(covariance) + np.eye(2) / sigma**2)
    np.testing.assert_allclose(exact.sd, np.sqrt(np.diag(posterior)) * np.ones((2, 2)), rtol=1e-4)
    assert np.all(np.abs(exact.mean - drawn.mean) < 5 * drawn.std_err)
    assert drawn.mode is not None


def test_the_denoiser_of_a_scalar_has_a_symmetric_jacobian():
    energy = energies.GradientStepDenoiser(spaces.Real((5, 6)), 0.2, 4, 3, key=random.key(3))
    y = jnp.asarray(np.random.default_rng(1).random((5, 6)), float)

    def jacobian(function):
        return np.asarray(jax.jacfwd(function)(y)).reshape(30, 30)

    found = jacobian(lambda y: posterior_means(energy, y[None], jnp.asarray(0.2))[0])
    assert np.abs(found - np.diag(np.diag(found))).max() > 0.05
    np.testing.assert_allclose(found, found.T, atol=1e-4)
    kernel = energy.kernels[0][:, :, :1, :1]  # a network that is no gradient has none
    other = jacobian(lambda y: jnp.tanh(ex.energies._base.correlate(y[..., None], kernel))[..., 0])
    assert np.abs(other - other.T).max() > 0.05


@pytest.mark.parametrize("shape", [(5, 6), (4, 5, 2), (30,)], ids=str)
def test_variances_are_the_diagonal_of_the_hessian(shape):
    size = int(np.prod(shape))
    mix = np.random.default_rng(2).normal(0, 0.3, (size, size))
    energy = energies.from_log_density(
        lambda x: -jnp.sum(jnp.tanh(jnp.asarray(mix, x.dtype) @ x.reshape(-1)) ** 2),
        spaces.Real(shape),
    )
    y = jnp.asarray(np.random.default_rng(3).normal(size=shape), float)
    hessian = jax.hessian(energy.log_density)(y).reshape(size, size)
    found = _curvatures(energy, y[None], jax.random.split(random.key(0), 1))[0]
    np.testing.assert_allclose(np.ravel(found), np.diag(hessian), rtol=1e-4, atol=1e-4)


def test_estimated_variances_of_a_large_image_have_no_bias():
    energy = energies.GradientStepDenoiser(spaces.Real((14, 9)), 0.3, 3, 3, key=random.key(5))
    y = jnp.asarray(np.random.default_rng(3).random((14, 9)), float)
    exact = np.diag(jax.hessian(energy.log_density)(y).reshape(126, 126)).reshape(14, 9)
    rows = jnp.broadcast_to(y, (60, 14, 9))
    found = np.asarray(_curvatures(energy, rows, jax.random.split(random.key(0), 60)))
    error = found.std(0) / np.sqrt(60)
    assert np.all(np.abs(found.mean(0) - exact) < 6 * error + 1e-4 * np.abs(exact).max())
    assert np.median(found.std(0)) < 0.3 * np.median(np.abs(exact))  # neighbours lie apart


def test_rows_whose_noise_is_another_are_named():
    """f of white fields of sd 0.1 with noise of sd ¼: true of the first rows, not of the others."""
    sigma, rng = 0.25, np.random.default_rng(4)
    energy = energies.Smoothed(
        energies.from_log_density(
            lambda x: -0.5 * jnp.sum(x**2) / (0.1**2 + sigma**2), spaces.Real((20, 20))
        ),
        sigma,
    )
    clean = rng.normal(0, 0.1, (80, 20, 20))
    size = np.where(np.arange(80) < 60, sigma, 3 * sigma)[:, None, None]
    noisy = clean + size * rng.normal(size=clean.shape)
    with pytest.warns(ex.UnreliableResult, match="20 of 80 rows: the error that the data show"):
        found = tasks.denoise(energy, noisy, tasks.GaussianNoise(sigma), key=random.key(0))
    np.testing.assert_array_equal(found.reliable_rows, np.arange(80) < 60)


def test_tweedie_is_refused_where_it_says_nothing():
    energy = smoothed_mixture(0.5, [[0.0, 1.0]], [0.7], [1.0])
    Y, key = np.zeros((1, 2)), random.key(0)
    with pytest.raises(ValueError, match=r"noise of sd 0.5, these have 0.6.*sigma=0.6"):
        tasks.denoise(energy, Y, tasks.GaussianNoise(0.6), key=key, method="tweedie")
    with pytest.raises(ValueError, match="got Mask"):
        mask = tasks.Mask([True, False], 0.1)
        tasks.denoise(energy, Y, mask, key=key, method="tweedie")
    with pytest.raises(ValueError, match="expected one of"):
        tasks.denoise(energy, Y, tasks.GaussianNoise(0.5), key=key, method="median")
    assert tasks.denoise(energy, Y, tasks.GaussianNoise(0.6), key=key).mode is not None
    with pytest.raises(ValueError, match="sigma above 0"):
        energies.Smoothed(energy, 0.0)
    with pytest.raises(TypeError, match=r"Real\(shape\)"):
        energies.Smoothed(energies.Ising.grid((2, 2), 0.3), 0.1)


# Linear noise on a normal prior


def normal_field(shape, seed=0):
    """(energy, mean, covariance) of a normal whose neighbours are alike."""
    size = int(np.prod(shape))
    at = np.stack(np.unravel_index(np.arange(size), shape), -1).astype(float)
    distance = np.abs(at[:, None] - at[None]).sum(-1)
    covariance = 0.4 * 0.6**distance
    mean = np.random.default_rng(seed).normal(0.5, 0.3, size)
    precision = np.linalg.inv(covariance)

    def f(x):
        away = x.reshape(-1) - jnp.asarray(mean, x.dtype)
        return -0.5 * away @ jnp.asarray(precision, x.dtype) @ away

    return energies.from_log_density(f, spaces.Real(shape)), mean, covariance


def assert_is_normal(found, y, operator, sd, mean, covariance):
    """The posterior of y = A x + sd z: Wiener's."""
    gain = covariance @ operator.T
    gain = gain @ np.linalg.inv(operator @ gain + sd**2 * np.eye(len(operator)))
    expected = mean + gain @ (y - operator @ mean)
    spread = np.sqrt(np.diag(covariance - gain @ operator @ covariance))
    assert found.reliable, found.reasons
    assert np.all(np.abs(np.ravel(found.mean) - expected) < 5 * np.ravel(found.std_err))
    np.testing.assert_allclose(np.ravel(found.sd), spread, rtol=0.2)
    np.testing.assert_allclose(np.ravel(found.mode), expected, atol=0.02)


@pytest.mark.parametrize("shape", [(3, 4), (2, 2, 3)], ids=str)
def test_missing_pixels_follow_the_normal(shape):
    energy, mean, covariance = normal_field(shape)
    seen = np.array([[True, False, True, True], [False, True, False, True], [True] * 4])
    seen = seen[: shape[0], : shape[1]]
    noise = tasks.Mask(seen, 0.3)
    y = np.random.default_rng(2).normal(0.5, 0.7, shape)
    flat = np.broadcast_to(seen.reshape(*seen.shape, *(1,) * (len(shape) - 2)), shape).ravel()
    y.reshape(-1)[~flat] = np.nan
    found = tasks.denoise(energy, y, noise, key=random.key(1))
    operator = np.eye(y.size)[flat]
    assert_is_normal(found, y.ravel()[flat], operator, 0.3, mean, covariance)


@pytest.mark.parametrize("shape", [(4, 3), (3, 2, 2)], ids=str)
def test_blur_is_undone_as_the_normal_says(shape):
    """Against scipy's convolution, which is another's."""
    energy, mean, covariance = normal_field(shape)
    kernel = np.array(
        [[0.1, 0.2, 0.0, 0.1, 0.05], [0.0, 0.3, 0.1, 0.0, 0.05], [0.0, 0.0, 0.1] + [0.0] * 2]
    )
    spread = kernel.reshape(*kernel.shape, *(1,) * (len(shape) - 2))
    size = int(np.prod(shape))
    operator = np.stack(
        [ndimage.convolve(e.reshape(shape), spread, mode="nearest").ravel() for e in np.eye(size)],
        1,
    )
    noise = tasks.Blur(kernel, 0.2)
    x = np.random.default_rng(3).normal(size=shape)
    np.testing.assert_allclose(
        noise.blurred(jnp.asarray(x, float)).ravel(), operator @ x.ravel(), atol=1e-5
    )
    y = np.random.default_rng(4).normal(0.5, 0.5, shape)
    found = tasks.denoise(energy, y, noise, key=random.key(2))
    assert_is_normal(found, y.ravel(), operator, 0.2, mean, covariance)


# Counts, and sites that are lost


@pytest.mark.parametrize("boxed", [False, True], ids=["Real", "Box"])
def test_counts_agree_with_quadrature(boxed):
    peak, Y = 4.0, np.array([[0.0, 1.25], [2.0, 0.5]])
    space = spaces.Box([0.0, 0.0], [3.0, np.inf]) if boxed else spaces.Real((2,))

    def f(x):
        return -((x[0] - 0.8) ** 2) - 0.7 * (x[1] - 0.4 - 0.5 * x[0]) ** 2

    found = tasks.denoise(
        energies.from_log_density(f, space), Y, tasks.PoissonNoise(peak), key=random.key(3)
    )
    assert found.reliable, found.reasons
    first = np.linspace(1e-9, 3.0 if boxed else 8.0, 601)
    grid = np.stack(np.meshgrid(first, np.linspace(1e-9, 8.0, 801), indexing="ij"), -1)
    prior = np.asarray(f(jnp.asarray(np.moveaxis(grid, -1, 0))))
    for i, y in enumerate(Y):
        logs = prior + stats.poisson.logpmf(np.round(peak * y), peak * grid).sum(-1)
        p = np.exp(logs - logs.max())
        p /= p.sum()
        mean = np.tensordot(p, grid, 2)
        sd = np.sqrt(np.tensordot(p, (grid - mean) ** 2, 2))
        assert np.all(np.abs(found.mean[i] - mean) < 5 * found.std_err[i] + 0.01)
        np.testing.assert_allclose(found.sd[i], sd, rtol=0.15)


def test_lost_levels_agree_with_enumeration():
    space, rate = spaces.Ordinal((4,), 4), 0.4
    at = jnp.asarray([0.5, 1.5, 2.0, 2.5])

    def f(x):
        return -0.3 * jnp.sum((x - at) ** 2) - 0.4 * jnp.sum((x[1:] - x[:-1]) ** 2)

    Y = np.array([[0, 3, 2, 1], [3, 0, 0, 3], [1, 3, 3, 2]], float)
    found = tasks.denoise(
        energies.from_log_density(f, space), Y, tasks.SaltAndPepper(rate), key=random.key(4)
    )
    assert found.reliable, found.reasons
    states = np.array(list(itertools.product(range(4), repeat=4)), float)
    prior = np.exp([float(f(jnp.asarray(s, float))) for s in states])
    for i, y in enumerate(Y):
        likely = (1 - rate) * (states == y) + 0.5 * rate * ((y == 0) | (y == 3))
        p = prior * likely.prod(1)
        p /= p.sum()
        mean = p @ states
        assert np.all(np.abs(found.mean[i] - mean) < 5 * found.std_err[i] + 1e-3)
        np.testing.assert_allclose(found.sd[i], np.sqrt(p @ states**2 - mean**2), atol=0.12)
        np.testing.assert_array_equal(found.mode[i], states[np.argmax(p)])


def test_lost_bits_are_flips_at_half_the_rate():
    energy = energies.Ising.grid((2, 3), 0.4)
    y = np.array([[1.0, -1, 1], [1, 1, -1]])
    noise, flips = tasks.SaltAndPepper(0.5), tasks.BitFlip(0.25)
    np.testing.assert_allclose(noise.field(y, energy.space), flips.field(y, energy.space))
    assert isinstance(tasks.posterior(energy, noise, jnp.asarray(y)), energies.Ising)


def test_lost_numbers_follow_the_conditional_normal():
    energy, mean, covariance = normal_field((2, 3))
    y = np.array([[0.2, 0.0, 1.0], [0.7, 1.0, 0.4]])
    lost = np.isin(y.ravel(), (0, 1))
    found = tasks.denoise(energy, y, tasks.SaltAndPepper(0.5), key=random.key(5))
    assert found.reliable, found.reasons
    gain = covariance[np.ix_(lost, ~lost)]
    gain = gain @ np.linalg.inv(covariance[np.ix_(~lost, ~lost)])
    expected = y.ravel().copy()
    expected[lost] = mean[lost] + gain @ (y.ravel() - mean)[~lost]
    left = covariance[np.ix_(lost, lost)] - gain @ covariance[np.ix_(~lost, lost)]
    kept = y.astype(np.float32)[~lost.reshape(y.shape)]
    for each in (found.mean[0], found.mode[0], found.x[0]):
        np.testing.assert_array_equal(each[~lost.reshape(y.shape)], kept)
    error = np.abs(found.mean.ravel() - expected)
    assert np.all(error[lost] < 5 * found.std_err.ravel()[lost])
    np.testing.assert_allclose(found.sd.ravel()[lost], np.sqrt(np.diag(left)), rtol=0.2)
    np.testing.assert_allclose(found.mode.ravel()[lost], expected[lost], atol=0.02)


# What the noises do, and refuse


def test_corrupting_is_the_stated_noise():
    key, image = random.key(7), spaces.Real((6, 5))
    clean = jnp.full((2000, 6, 5), 0.6)
    counts = np.asarray(tasks.PoissonNoise(5.0).corrupt(clean, image, key=key)) * 5
    assert abs(counts.mean() - 3) < 0.04 and abs(counts.var() - 3) < 0.1
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-4)
    lost = np.asarray(tasks.SaltAndPepper(0.4).corrupt(clean, image, key=key))
    for value, rate in ((0.0, 0.2), (1.0, 0.2), (np.float32(0.6), 0.6)):
        assert abs((lost == value).mean() - rate) < 0.01
    seen = np.random.default_rng(0).random((6, 5)) < 0.5
    masked = np.asarray(tasks.Mask(seen, 0.1).corrupt(clean, image, key=key))
    assert np.all(masked[:, ~seen] == 0) and abs(masked[:, seen].std() - 0.1) < 0.002
    blurred = np.asarray(tasks.Blur(np.full((3, 3), 0.1), 0.2).corrupt(clean, image, key=key))
    assert abs(blurred.mean() - 0.54) < 0.005 and abs(blurred.std() - 0.2) < 0.004


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: tasks.SaltAndPepper(1.0), ValueError, "between 0 and 1"),
        (lambda: tasks.SaltAndPepper(0.5, 1.0, 0.0), ValueError, "low below high"),
        (lambda: tasks.PoissonNoise(0.0), ValueError, "peak"),
        (lambda: tasks.Mask([False, False], 0.1), ValueError, "at least one site"),
        (lambda: tasks.Mask([True, False], 0.0), ValueError, "Mask: the noise's sd"),
        (lambda: tasks.Blur(np.ones((2, 3)), 0.1), ValueError, "odd sides"),
        (lambda: tasks.Blur(np.ones((3, 3)), -0.1), ValueError, "Blur: the noise's sd"),
        (
            lambda: tasks.SaltAndPepper(0.1, high=2.0).check(spaces.Ordinal((3,), 4)),
            ValueError,
            "its ends, 0 and 3",
        ),
        (lambda: tasks.Mask([True, False], 0.1).check(spaces.Real((3,))), ValueError, "of shape"),
        (lambda: tasks.Blur(np.ones((3, 3)), 0.1).check(spaces.Real((3,))), ValueError, "images"),
        (
            lambda: tasks.PoissonNoise(1.0).check(spaces.Spin((3,))),
            TypeError,
            "acts on Real and Box points",
        ),
        (
            lambda: tasks.PoissonNoise(1.0).validate([[-1.0]], spaces.Real((1,))),
            ValueError,
            "at least 0",
        ),
    ],
)
def test_noise_that_cannot_be_is_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_the_mode_of_a_masked_image_is_a_climb_from_it():
    """Plug-and-play restoration is `mode` of the posterior, started at the image."""
    energy, mean, covariance = normal_field((3, 3))
    seen = np.arange(9).reshape(3, 3) % 2 == 0
    y = jnp.asarray(np.where(seen, 0.9, 0.0), float)
    target = tasks.posterior(energy, tasks.Mask(seen, 0.2), y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ex.UnreliableResult)
        found = tasks.mode(target, key=random.key(0), initial=np.asarray(y)[None])
    operator = np.eye(9)[seen.ravel()]
    gain = covariance @ operator.T
    gain = gain @ np.linalg.inv(operator @ gain + 0.04 * np.eye(5))
    np.testing.assert_allclose(found.x.ravel(), mean + gain @ (0.9 - operator @ mean), atol=5e-3)
