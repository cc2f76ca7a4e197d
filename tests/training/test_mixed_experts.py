"""Mixtures and experts of rows that hold numbers and categories, against sums by hand."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from energax import random
from energax.energies._base import batched
from energax.training import Columns, MixedMixture, NormalMixture, fit_experts, fit_mixed_mixture

WEIGHTS = np.array([0.35, 0.65])
MEAN = np.array([[1.0, -2.0], [-1.5, 0.7]])
COVARIANCE = np.array([[[1.2, 0.5], [0.5, 0.8]], [[0.4, -0.2], [-0.2, 1.5]]])
SHARES = np.array([[[0.7, 0.2, 0.1], [0.4, 0.6, 0.0]], [[0.1, 0.3, 0.6], [0.9, 0.1, 0.0]]])
SIZES = np.array([3, 2])
MIXTURE = MixedMixture(NormalMixture(np.log(WEIGHTS), MEAN, COVARIANCE), SHARES)
NUMBERS = np.array([[0.3, -1.0], [np.nan, 0.4], [0.1, np.nan], [np.nan, np.nan], [-1.0, 2.0]])
CODES = np.array([[0, 1], [2, -1], [-1, 0], [1, 1], [-1, -1]])
ROWS = Columns(NUMBERS, CODES, SIZES)


def joint(numbers, codes):
    """w_k p_k(what is there) of one row, (2,)."""
    here = ~np.isnan(numbers)
    out = WEIGHTS.copy()
    for k in range(2):
        if here.any():
            covariance = COVARIANCE[k][np.ix_(here, here)]
            out[k] *= multivariate_normal(MEAN[k][here], covariance).pdf(numbers[here])
        for j, code in enumerate(codes):
            out[k] *= 1.0 if code < 0 else SHARES[k, j, code]
    return out


def draws(num, seed=0):
    rng = np.random.default_rng(seed)
    which = (rng.random(num) > WEIGHTS[0]).astype(int)
    factors = np.linalg.cholesky(COVARIANCE)
    numbers = MEAN[which] + np.einsum("rij,rj->ri", factors[which], rng.normal(size=(num, 2)))
    uniform = rng.random((num, 2, 1))
    return Columns(numbers, (uniform > np.cumsum(SHARES, -1)[which][:, :, :-1]).sum(-1), SIZES)


def test_log_prob_sums_out_what_is_missing():
    expected = [np.log(joint(*row).sum()) for row in zip(NUMBERS, CODES, strict=True)]
    np.testing.assert_allclose(MIXTURE.log_prob(ROWS), expected, atol=1e-10)


def test_expected_energy_adds_the_entropy_of_what_is_missing():
    found = MIXTURE.expected_energy(ROWS)
    for row, value in zip(zip(NUMBERS, CODES, strict=True), found, strict=True):
        numbers, codes = row
        weights, away = joint(numbers, codes), np.isnan(numbers)
        left = np.zeros(2)
        for k in range(2):
            precision = np.linalg.inv(COVARIANCE[k])[np.ix_(away, away)]
            left[k] += 0.5 * (
                away.sum() * np.log(2 * np.pi * np.e) - np.linalg.slogdet(precision)[1]
            )
            for j, code in enumerate(codes):
                share = SHARES[k, j][SHARES[k, j] > 0]
                left[k] -= (share * np.log(share)).sum() if code < 0 else 0.0
        expected = weights @ left / weights.sum() - np.log(weights.sum())
        assert value == pytest.approx(expected, abs=1e-9)


def test_shares_of_missing_categories_and_their_draws():
    found, num = MIXTURE.value_shares(ROWS), 20_000
    filled = MIXTURE.filled(ROWS)
    tables = MIXTURE.drawn(ROWS, num, np.random.default_rng(1))
    drawn = np.stack([t.categories for t in tables])
    for i, (numbers, codes) in enumerate(zip(NUMBERS, CODES, strict=True)):
        share = joint(numbers, codes) / joint(numbers, codes).sum()
        for j, code in enumerate(codes):
            expected = share @ SHARES[:, j] if code < 0 else np.eye(3)[code]
            np.testing.assert_allclose(found[i, j], expected, atol=1e-12)
            often = np.bincount(drawn[:, i, j], minlength=3) / num
            error = np.sqrt(expected * (1 - expected) / num)
            assert (np.abs(often - expected) <= 5 * error).all()
            assert filled.categories[i, j] == expected.argmax()
    # what is drawn of one row goes together: codes of row 4 given its numbers, by pairs
    share = joint(NUMBERS[4], CODES[4]) / joint(NUMBERS[4], CODES[4]).sum()
    for a, b in itertools.product(range(3), range(2)):
        expected = share @ (SHARES[:, 0, a] * SHARES[:, 1, b])
        often = ((drawn[:, 4, 0] == a) & (drawn[:, 4, 1] == b)).mean()
        assert abs(often - expected) < 5 * np.sqrt(expected / num)


def test_the_energy_is_the_same_distribution():
    rows = draws(50)
    energy = MIXTURE.energy(rows.space)
    point = {"numbers": rows.numbers.astype(np.float32), "categories": rows.categories}
    found = np.asarray(batched(energy, {k: np.asarray(v) for k, v in point.items()}))
    np.testing.assert_allclose(found, MIXTURE.log_prob(rows), atol=1e-4)
    assert float(energy.log_z) == pytest.approx(0, abs=1e-5)
    drawn = energy.draw(20_000, key=random.key(0))
    codes = np.asarray(drawn["categories"])
    expected = np.einsum("k,kj->j", WEIGHTS, SHARES[:, 0])
    often = np.bincount(codes[:, 0], minlength=3) / 20_000
    assert (np.abs(often - expected) < 5 * np.sqrt(expected / 20_000)).all()
    assert codes[:, 1].max() == 1  # the second column has no third value


def test_a_round_of_em_raises_the_likelihood_and_a_fit_finds_the_truth():
    rows = draws(4000)
    gone = np.random.default_rng(2).random((4000, 4)) < 0.15
    holes = Columns(
        np.where(gone[:, :2], np.nan, rows.numbers),
        np.where(gone[:, 2:], -1, rows.categories),
        SIZES,
    )
    found = fit_mixed_mixture(holes, max_components=2)
    order = np.argsort(np.exp(found.normals.log_weights))
    np.testing.assert_allclose(np.exp(found.normals.log_weights)[order], WEIGHTS, atol=0.05)
    np.testing.assert_allclose(found.normals.mean[order], MEAN, atol=0.15)
    np.testing.assert_allclose(found.shares[order], SHARES, atol=0.05)
    fresh = draws(4000, 3)
    assert found.log_prob(fresh).mean() > MIXTURE.log_prob(fresh).mean() - 0.02
    assert found.shares[:, 1, 2].max() == 0  # no such value


@pytest.mark.parametrize("numbers", [0, 2])
def test_tables_without_numbers_have_a_mixture_too(numbers):
    rows = draws(800)
    rows = Columns(rows.numbers[:, :numbers], rows.categories, SIZES)
    found = fit_mixed_mixture(rows, max_components=2)
    if not numbers:
        every = np.array(list(itertools.product(range(3), range(2))))
        total = np.exp(found.log_prob(Columns(np.zeros((6, 0)), every, SIZES))).sum()
        assert total == pytest.approx(1, abs=1e-10)
    experts = fit_experts(rows)
    assert experts.kept.mean() > 0.6 and np.isfinite(experts.threshold)


def test_values_that_a_third_of_the_rows_have_are_kept():
    rng = np.random.default_rng(0)
    codes = (rng.random((1000, 1)) < 0.3).astype(int)
    numbers = rng.normal(size=(1000, 3))
    numbers[:25] *= 6
    found = fit_experts(Columns(numbers, codes, np.array([3])))
    for value in (0, 1):
        assert found.kept[25:][codes[25:, 0] == value].mean() > 0.9
    far = np.abs(numbers[:25]).max(1) > 6
    assert far.sum() > 10 and not found.kept[:25][far].any()


@pytest.mark.parametrize("clean", [False, True])
def test_energies_of_rows_are_those_of_the_energy(clean):
    rows = draws(300)
    found = fit_experts(rows, clean=clean)
    fresh = draws(300, 5) if clean else rows  # clean rows are judged by the others
    z = dataclasses.replace(fresh, numbers=(fresh.numbers - found.centre) / found.scale)
    each = -np.asarray(batched(found.energy, jax.tree.map(jnp.asarray, z.point)), float)
    if clean:
        assert np.median(each) == pytest.approx(np.median(found.energies), abs=0.3)
    else:
        np.testing.assert_allclose(each, found.energies, atol=5e-3)


def test_without_categories_nothing_changes():
    numbers = draws(600).numbers
    plain, wrapped = fit_experts(numbers), fit_experts(Columns.of_numbers(numbers))
    assert plain.threshold == wrapped.threshold and plain.energy.space.shape == (2,)
