"""The denoiser: images of any size and kind, tables, and a citizen of scikit-learn."""

import dataclasses
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import estimator_checks_generator

from energax import training
from energax.energies import GradientStepDenoiser
from energax.estimators import EnergyDenoiser
from energax.results import UnreliableResult

pytestmark = pytest.mark.filterwarnings("ignore::energax.results.UnreliableResult")
SIGMA = 0.2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("estimator", "check"),
    [
        pair
        for pair in estimator_checks_generator(EnergyDenoiser(num_steps=20), mark=None)
        if pair[1].func.__name__ != "check_array_api_input"  # asks for SCIPY_ARRAY_API
    ],
    ids=lambda v: getattr(getattr(v, "func", None), "__name__", type(v).__name__),
)
def test_scikit_learn_check(estimator, check):
    check(estimator)


def drawn(rng, height, width, *channels):
    """Three rectangles on a plain ground."""
    image = np.full((height, width, *channels), rng.random(channels))
    for _ in range(3):
        top, left = rng.integers(height - 3), rng.integers(width - 3)
        image[top : top + height // 2, left : left + width // 2] = rng.random(channels)
    return image


def small(**settings):
    options = {"channels": 16, "depth": 3, "patch_size": 12, "num_steps": 1500}
    options |= {"random_state": 0}
    return EnergyDenoiser(SIGMA, **(options | settings))


def rms(values):
    return np.sqrt(np.mean(np.square(values)))


@pytest.fixture(scope="module")
def grey():
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreliableResult)
        return small().fit([drawn(rng, 20, 16 + i % 3) for i in range(30)])


def test_images_of_any_size_are_cleaned(grey):
    rng = np.random.default_rng(1)
    clean = [drawn(rng, *shape) for shape in ((13, 31), (24, 24), (13, 31))]
    noisy = [image + SIGMA * rng.standard_normal(image.shape) for image in clean]
    found = grey.transform(noisy)
    assert isinstance(grey.energy_, GradientStepDenoiser)
    for a, b, c in zip(found, clean, noisy, strict=True):
        assert a.shape == b.shape and rms(a - b) < 0.6 * rms(c - b)
    stacked = grey.transform(np.stack([noisy[0], noisy[2]]))
    np.testing.assert_allclose(stacked, [found[0], found[2]], atol=1e-6)


def test_the_spread_of_every_pixel_is_the_error_that_it_has(grey):
    rng = np.random.default_rng(2)
    clean = np.stack([drawn(rng, 16, 16) for _ in range(12)])
    noisy = clean + SIGMA * rng.standard_normal(clean.shape)
    mean, sd = grey.transform(noisy, return_std=True)
    assert grey.reliable_, grey.reasons_
    assert sd.shape == clean.shape and 0.8 < rms(mean - clean) / rms(sd) < 1.25
    wide, narrow = sd > np.quantile(sd, 0.8), sd < np.quantile(sd, 0.2)
    assert rms((mean - clean)[wide]) > 1.3 * rms((mean - clean)[narrow])
    np.testing.assert_allclose(mean, grey.transform(noisy), atol=1e-6)
    grey.transform(list(clean + 2.5 * SIGMA * rng.standard_normal(clean.shape)), return_std=True)
    assert not grey.reliable_ and "image 0: " in grey.reasons_[0]


def test_a_network_that_became_constant_is_told_and_trained_anew(monkeypatch):
    """Output 0 is a stationary point of ½|r|², whatever the rows."""
    rng = np.random.default_rng(3)
    images, rates, fit = [drawn(rng, 16, 16) for _ in range(10)], [], training.fit

    def collapsing(*arguments, **options):
        rates.append(options["learning_rate"])
        result = fit(*arguments, **options)
        if len(rates) > num_good:
            return result
        dead = jax.tree.map(jnp.zeros_like, result.energy.kernels)
        energy = eqx.tree_at(lambda e: e.kernels, result.energy, dead)
        return dataclasses.replace(result, energy=energy)

    monkeypatch.setattr(training, "fit", collapsing)
    num_good = 1
    with pytest.warns(UserWarning, match="learning_rate=0.004 the network became constant"):
        model = small(num_steps=200, learning_rate=4e-3).fit(images)
    assert rates == [4e-3, 2e-3]
    assert not any("constant" in reason for reason in model.reasons_)
    num_good = 99
    rates.clear()
    with pytest.warns(UnreliableResult, match="cleans nothing: lower learning_rate"):
        model = small(num_steps=200, learning_rate=4e-3).fit(images)
    assert len(rates) == 3 and not model.reliable_


def test_colour_and_bytes():
    rng = np.random.default_rng(3)
    images = np.stack([drawn(rng, 14, 12, 3) for _ in range(20)])
    as_bytes = np.round(255 * images).astype(np.uint8)
    model = small().fit(as_bytes)
    noisy = images + SIGMA * rng.standard_normal(images.shape)
    assert rms(model.transform(noisy) - images) < 0.7 * SIGMA
    np.testing.assert_allclose(
        model.transform(as_bytes), model.transform(as_bytes / np.float32(255)), atol=1e-6
    )
    with pytest.raises(ValueError, match=r"channels \(3,\), got none"):
        model.transform(images[..., 0])


def test_rows_of_a_table_are_drawn_to_where_rows_lie():
    rng = np.random.default_rng(4)
    t = rng.normal(size=500)
    rows = np.stack([3 + t, 5 - 2 * t], 1)
    model = EnergyDenoiser(0.5, num_steps=1500, batch_size=64, random_state=0).fit(rows)
    noisy = rows + 0.5 * rng.standard_normal(rows.shape)
    found, sd = model.transform(noisy, return_std=True)
    along = np.array([1.0, -2.0]) / np.sqrt(5)
    covariance = 5 * np.outer(along, along)
    gain = covariance @ np.linalg.inv(covariance + 0.25 * np.eye(2))
    exact = rows.mean(0) + (noisy - rows.mean(0)) @ gain.T
    assert rms(found - exact) < 0.2 * 0.5
    assert abs(np.median(sd[:, 1]) - 0.5 * np.sqrt(gain[1, 1])) < 0.05


def test_equal_seeds_give_equal_denoisers(grey):
    rng = np.random.default_rng(5)
    images = [drawn(rng, 15, 15) for _ in range(5)]
    first, second = (clone(grey).set_params(num_steps=20).fit(images) for _ in range(2))
    np.testing.assert_array_equal(first.transform(images)[0], second.transform(images)[0])


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (255 * np.ones((3, 8, 8)), r"\[0, 1\], or uint8"),
        ([np.full((8, 8), np.nan)], "image 0 holds NaN"),
        ([np.ones((8, 8)), np.ones((8, 8, 3))], "at number 1"),
        (np.ones((2, 3, 4, 5, 6)), "expected images"),
        (np.zeros((0, 8, 8)), "at least one image"),
    ],
)
def test_what_is_no_picture_is_refused(images, words):
    with pytest.raises(ValueError, match=words):
        small().fit(images)


def test_images_and_tables_are_not_taken_for_each_other(grey):
    with pytest.raises(ValueError, match="expected images, as was fitted, got a table"):
        grey.transform(np.zeros((3, 4)))
