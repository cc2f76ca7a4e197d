"""Mixtures fitted by EM to rows with gaps, and experts that odd rows do not bend."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from energax.training import NormalMixture, fit_experts, fit_mixture

WEIGHTS = np.array([0.3, 0.7])
MEAN = np.array([[1.0, -2.0, 0.5], [-1.5, 0.7, 2.0]])
COVARIANCE = np.array(
    [
        [[1.2, 0.5, -0.3], [0.5, 0.8, 0.1], [-0.3, 0.1, 0.6]],
        [[0.4, -0.2, 0.1], [-0.2, 1.5, 0.7], [0.1, 0.7, 1.1]],
    ]
)
MIXTURE = NormalMixture(np.log(WEIGHTS), MEAN, COVARIANCE)


def draws(num, seed=0):
    rng = np.random.default_rng(seed)
    which = (rng.random(num) > WEIGHTS[0]).astype(int)
    noise = rng.normal(size=(num, 3))
    factors = np.linalg.cholesky(COVARIANCE)
    return MEAN[which] + np.einsum("rij,rj->ri", factors[which], noise), which


def with_gaps(rows, share, seed=1):
    rng = np.random.default_rng(seed)
    gone = rng.random(rows.shape) < share
    return np.where(gone, np.nan, rows)


def by_hand(row):
    """(log p of what is there, E of what is not given it, its second moments) by marginals."""
    here, away = np.flatnonzero(~np.isnan(row)), np.flatnonzero(np.isnan(row))
    joint, means, covariances = [], [], []
    for w, m, c in zip(WEIGHTS, MEAN, COVARIANCE, strict=True):
        part = 0.0
        if len(here):
            part = multivariate_normal(m[here], c[np.ix_(here, here)]).logpdf(row[here])
        joint.append(np.log(w) + part)
        gain = c[np.ix_(away, here)] @ np.linalg.inv(c[np.ix_(here, here)])
        means.append(m[away] + gain @ (row[here] - m[here]))
        covariances.append(c[np.ix_(away, away)] - gain @ c[np.ix_(here, away)])
    share = np.exp(joint - np.logaddexp.reduce(joint))
    mean = share @ np.array(means)
    each = [c + np.outer(m, m) for m, c in zip(means, covariances, strict=True)]
    second = np.einsum("k,kij->ij", share, np.array(each))
    return np.logaddexp.reduce(joint), mean, second


ROWS = np.array(
    [[0.3, -1.0, np.nan], [np.nan, 0.4, np.nan], [0.1, 0.2, 0.3], [np.nan] * 3, [-1.0, np.nan, 1.0]]
)


def test_log_prob_and_conditional_means_are_those_of_the_marginals():
    log_prob, filled = MIXTURE.log_prob(ROWS), MIXTURE.filled(ROWS)
    for row, value, whole in zip(ROWS, log_prob, filled, strict=True):
        expected, mean, _ = by_hand(row)
        assert value == pytest.approx(expected, abs=1e-10)
        np.testing.assert_allclose(whole[np.isnan(row)], mean, atol=1e-10)
        np.testing.assert_array_equal(whole[~np.isnan(row)], row[~np.isnan(row)])


def test_conditional_draws_have_the_moments_of_the_conditional():
    num = 40_000
    drawn = MIXTURE.drawn(ROWS, num, np.random.default_rng(3))
    for i, row in enumerate(ROWS):
        away = np.flatnonzero(np.isnan(row))
        _, mean, second = by_hand(row)
        x = drawn[:, i][:, away]
        sd = np.sqrt(np.diag(second) - mean**2)
        assert (np.abs(x.mean(0) - mean) < 5.5 * sd / np.sqrt(num)).all()
        products = x[:, :, None] * x[:, None]
        error = products.std(0) / np.sqrt(num)
        assert (np.abs(products.mean(0) - second) < 5.5 * error + 1e-12).all()
        assert (drawn[:, i, ~np.isnan(row)] == row[~np.isnan(row)]).all()


def test_a_step_of_em_never_lowers_the_likelihood():
    rows = with_gaps(draws(400)[0], 0.3)
    wide = np.stack([2 * np.eye(3), np.eye(3)])
    start = NormalMixture(np.log([0.5, 0.5]), np.array([[0.0, 0, 0], [0.5, 0, 0]]), wide)
    before = start.log_prob(rows).sum()
    for _ in range(15):
        start = start.improved(rows, np.eye(3), 0.0)
        now = start.log_prob(rows).sum()
        assert now > before - 1e-9
        before = now


def test_em_without_gaps_agrees_with_scikit_learn():
    from sklearn.mixture import GaussianMixture

    rows = draws(1500)[0]
    peer = GaussianMixture(2, reg_covar=0, tol=1e-10, max_iter=500, random_state=0).fit(rows)
    ours = MIXTURE
    for _ in range(200):
        ours = ours.improved(rows, np.eye(3), 0.0)
    assert ours.log_prob(rows).mean() == pytest.approx(peer.score(rows), abs=1e-6)


def test_a_mixture_is_found_again_from_rows_with_gaps():
    rows = with_gaps(draws(6000)[0], 0.25)
    found = fit_mixture(rows, seed=0)
    test = draws(4000, seed=9)[0]
    single = fit_mixture(rows, max_components=1)
    truth, mixed, one = (m.log_prob(test).mean() for m in (MIXTURE, found, single))
    assert truth - 0.03 < mixed < truth + 0.003  # nats a row
    assert one < truth - 0.2


def test_units_do_not_matter():
    rows = with_gaps(draws(500)[0], 0.1)
    moved = rows * [1e-4, 1.0, 300.0] + [5.0, -2000.0, 1e4]
    a, b = fit_mixture(rows, seed=1), fit_mixture(moved, seed=1)
    change = np.log([1e-4, 1.0, 300.0])
    there = ~np.isnan(rows) @ change
    np.testing.assert_allclose(b.log_prob(moved), a.log_prob(rows) - there, atol=1e-5)


def test_experts_leave_odd_rows_out_and_keep_the_others():
    rng = np.random.default_rng(0)
    odd = rng.normal([6, 6, -6], 5.0, (300, 3))  # spread out: a dense cluster would be a mode
    found = fit_experts(np.concatenate([draws(700)[0], odd]))
    far = np.abs(odd - MEAN.mean(0)).max(1) > 6
    assert far.sum() > 200 and not found.kept[700:][far].any()
    assert found.kept[:700].mean() > 0.9
    clean = fit_experts(np.random.default_rng(1).normal(size=(1000, 3)) * [1, 5, 0.1])
    assert clean.kept.mean() > 0.85


def test_experts_take_gaps_and_constant_columns():
    rows = np.column_stack([with_gaps(draws(300)[0], 0.2), np.full(300, 7.0)])
    found = fit_experts(rows)
    assert np.isfinite(found.threshold) and found.kept.mean() > 0.75


@pytest.mark.parametrize("fit", [fit_experts, fit_mixture])
@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (np.zeros(3), "expected \\(num, n\\)"),
        (np.array([[1.0, np.inf], [2.0, 3.0]]), "infinity"),
        (np.array([[1.0, np.nan], [2.0, np.nan]]), "column 1 holds no value"),
    ],
)
def test_rows_that_are_none_are_refused(fit, rows, says):
    with pytest.raises(ValueError, match=says):
        fit(rows)
