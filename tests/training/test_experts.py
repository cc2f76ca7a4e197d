"""Mixtures fitted by EM to rows with gaps, and experts that odd rows do not bend."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate
from scipy.stats import multivariate_normal

from energax.energies._base import batched
from energax.training import (
    Columns,
    MixedMixture,
    NormalMixture,
    fit_class_mixtures,
    fit_experts,
    fit_mixture,
)
from energax.training.experts._base import normals
from energax.training.experts._base.normals import gaps_of

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


@pytest.mark.parametrize("clean", [False, True])
def test_experts_of_many_rows_are_fitted_to_some_of_them(clean):
    rows = np.concatenate([draws(9_000)[0], np.full((500, 3), 15.0)])
    rows[-500:] += np.random.default_rng(0).normal(0, 5, (500, 3))
    rows = rows[:9_000] if clean else rows
    found = fit_experts(rows, clean=clean)
    looked_at = np.isfinite(found.energies)
    assert looked_at.sum() == 5_000
    assert not found.kept[~looked_at].any()
    assert found.kept[:9_000][looked_at[:9_000]].mean() > 0.8
    assert not found.kept[9_000:].any()
    z = (rows - found.centre) / found.scale
    each = np.array(-batched(found.energy, jnp.asarray(z[looked_at][:500])))
    near = np.abs(each - found.energies[looked_at][:500])
    # interpolated; where a row is the place of a kernel its energy is by the others
    assert np.median(near) < (0.1 if clean else 1e-3) and (clean or near.max() < 0.05)


def test_clean_rows_are_all_kept_and_judged_by_the_others():
    rows = np.concatenate([draws(60)[0], [[9.0, 9.0, 9.0]]])
    found = fit_experts(rows, clean=True, max_components=1)
    assert found.kept.all()
    z = (rows - rows.mean(0)) / rows.std(0)
    kernels, mixture = (part.energy for part in found.energy.experts)
    width = float(kernels.width)

    def by_others(width):
        away = z[:, None] - z
        log_k = multivariate_normal(np.zeros(3), width**2 * np.eye(3)).logpdf(away)
        np.fill_diagonal(log_k, -np.inf)
        return np.log(len(z) - 1) - np.logaddexp.reduce(log_k, axis=1)

    best = min(np.geomspace(0.05, 2, 400), key=lambda w: by_others(w).mean())
    assert width == pytest.approx(best, rel=0.06)
    each = [by_others(width), -np.asarray(batched(mixture, jnp.asarray(z)), float)]
    expected = sum(e / max(e.std(), 0.5) for e in each)
    np.testing.assert_allclose(found.energies, expected, atol=1e-3)
    itself = -np.asarray(batched(found.energy, jnp.asarray(z)), float)
    assert found.energies[-1] > itself[-1] + 1  # the far row would vouch for itself


def test_one_clean_row_has_an_energy():
    found = fit_experts(np.array([[0.3, -2.0]]), clean=True)
    assert np.isfinite(found.energies).all() and np.isfinite(found.threshold)


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


def test_small_groups_of_rows_give_the_same(monkeypatch):
    """Where memory is little nothing is kept from one step to the next, and groups are cut."""
    rows = with_gaps(draws(300)[0], 0.4)

    def answers():
        found = fit_mixture(rows, max_components=2)
        rng = np.random.default_rng(0)
        drawn = found.drawn(rows, 3, rng).mean()
        return found.mean, found.covariance, found.log_prob(rows), found.filled(rows), drawn

    whole, groups = answers(), len(gaps_of(rows))
    monkeypatch.setattr(normals, "_MOST_NUMBERS", 60)
    assert len(gaps_of(rows)) > 2 * groups
    for a, b in zip(whole[:4], answers()[:4], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    assert np.isfinite(answers()[4])


# Classes


def expected_energy(normals, rows):
    """That of the mixture without categories."""
    mixture = MixedMixture(normals, np.zeros((len(normals.mean), 0, 2)))
    return mixture.expected_energy(Columns.of_numbers(rows))


def test_the_energy_of_a_row_with_gaps_is_the_mean_over_what_they_hold():
    one = NormalMixture(np.zeros(1), MEAN[1:], COVARIANCE[1:])
    whole, row = multivariate_normal(MEAN[1], COVARIANCE[1]), np.array([0.3, np.nan, 1.1])
    grid = np.linspace(-25, 25, 20_001)
    rows = np.stack([np.full_like(grid, 0.3), grid, np.full_like(grid, 1.1)], 1)
    log_p = whole.logpdf(rows)
    weight = np.exp(log_p - log_p.max())
    mean = -integrate.trapezoid(weight * log_p, grid) / integrate.trapezoid(weight, grid)
    assert expected_energy(one, row[None])[0] == pytest.approx(mean, abs=1e-8)
    nothing = np.full((1, 3), np.nan)
    assert expected_energy(one, nothing)[0] == pytest.approx(whole.entropy())
    both = WEIGHTS @ [
        multivariate_normal(m, c).entropy() for m, c in zip(MEAN, COVARIANCE, strict=True)
    ]
    assert expected_energy(MIXTURE, nothing)[0] == pytest.approx(both)
    full = ROWS[2:3]
    np.testing.assert_allclose(expected_energy(MIXTURE, full), -MIXTURE.log_prob(full), rtol=1e-12)


def test_classes_are_found_with_gaps_and_components():
    rows, which = draws(2000)
    rows, labels = np.concatenate([rows, rows + 20]), np.r_[which, np.full(2000, 2)]
    found = fit_class_mixtures(with_gaps(rows, 0.15), labels, max_components=2)
    np.testing.assert_allclose(np.exp(found.log_share), np.bincount(labels) / 4000)
    assert [len(p.normals.mean) for p in found.parts] == [2, 2, 2]
    assert found.beta == pytest.approx(1, abs=0.15) and found.noise < 0.01
    fresh, _ = draws(2000, 7)
    truth = [multivariate_normal(m, c).logpdf(fresh) for m, c in zip(MEAN, COVARIANCE, strict=True)]
    p = 1 / (1 + np.exp(truth[0] - truth[1]) * WEIGHTS[0] / WEIGHTS[1])
    posterior = np.exp(found.log_posterior(Columns.of_numbers(fresh)))
    assert np.abs(posterior[:, 1] - p).mean() < 0.015
    np.testing.assert_allclose(posterior.sum(1), 1)
    fresh = Columns.of_numbers(fresh)
    marginal = np.logaddexp.reduce(found.log_joint(fresh), 1)
    np.testing.assert_allclose(found.marginal().log_prob(fresh), marginal, rtol=1e-9)
    moved = np.log([0.5, 0.5]) + np.stack(truth, 1) + np.log(WEIGHTS)
    expected = np.logaddexp.reduce(moved, 1)
    assert (expected - found.marginal().log_prob(fresh)).mean() == pytest.approx(0, abs=0.03)


def test_rows_whose_class_nothing_tells_are_counted():
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, 3000)
    rows = rng.normal(0, 0.3, (3000, 2)) + 3 * labels[:, None]
    lost = rng.random(3000) < 0.2
    given = np.where(lost, rng.integers(0, 2, 3000), labels)
    found = fit_class_mixtures(rows, given, max_components=1)
    p = np.exp(found.log_posterior(rows))
    assert p[np.arange(3000), labels].mean() == pytest.approx(0.9, abs=0.02)


def test_a_class_of_one_row_has_the_spread_that_classes_share():
    rng = np.random.default_rng(6)
    factor = np.array([[1.0, 0.0], [1.4, 0.3]])
    rows = np.concatenate([rng.normal(size=(400, 2)) @ factor.T, [[8.0, 0.0]]])
    labels = np.r_[np.zeros(400, int), 1]
    found = fit_class_mixtures(rows, labels, max_components=1)
    np.testing.assert_allclose(found.parts[1].normals.mean[0], [8, 0], atol=1e-9)
    spread = found.parts[1].normals.covariance[0]
    np.testing.assert_allclose(spread, factor @ factor.T, atol=0.25)
    assert found.log_posterior(rows[-1:]).argmax() == 1
    gap = found.log_posterior(np.array([[8.0, np.nan], [0.0, np.nan]]))
    assert gap.argmax(1).tolist() == [1, 0]
    with pytest.raises(ValueError, match="each class with a row"):
        fit_class_mixtures(rows, 2 * labels)
