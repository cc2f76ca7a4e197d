"""Estimators of tables: citizens of scikit-learn, with p-values and fillings that hold."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from energax import energies, objectives, random, spaces
from energax.estimators import EnergyDensity, EnergyDetector, EnergyImputer

ESTIMATORS = [EnergyDensity, EnergyDetector, EnergyImputer]
CHECKS = [
    pair
    for kind in ESTIMATORS
    for pair in estimator_checks_generator(kind(random_state=0), mark=None)
    if pair[1].func.__name__ != "check_array_api_input"  # asks for SCIPY_ARRAY_API
]


@pytest.mark.parametrize(
    ("estimator", "check"),
    CHECKS,
    ids=lambda v: getattr(getattr(v, "func", None), "__name__", type(v).__name__),
)
def test_scikit_learn_check(estimator, check):
    check(estimator)


def correlated(num, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(num, 4))
    return np.stack([z[:, 0], z[:, 0] * 2 + 0.5 * z[:, 1], z[:, 2] + 3, np.exp(0.5 * z[:, 3])], 1)


# Odd rows


def test_odd_rows_are_found_named_and_explained():
    rows = correlated(600)
    odd = rows[:12].copy()
    odd[:, 1] += 5  # breaks the relation to column 0; its own range holds it
    table = np.concatenate([rows, odd])
    detector = EnergyDetector(random_state=0).fit(table)
    assert (detector.predict(odd) == -1).all()
    assert (detector.fit_predict(table)[-12:] == -1).all()
    assert (detector.labels_[-12:] == 1).all() and detector.labels_[:600].mean() < 0.15
    np.testing.assert_allclose(detector.decision_scores_, -detector.score_samples(table), rtol=1e-5)
    why = detector.explain(odd)
    assert why.shape == (12, 4)
    assert (why[:, :2].max(1) > 3 * why[:, 2:].max(1)).mean() > 0.8


@pytest.mark.parametrize(("width", "most"), [(2, 0.06), (5, 0.02), (20, 0.01)])
def test_few_rows_of_a_normal_are_called_odd(width, most):
    rows = np.random.default_rng(width).normal(size=(1500, width))
    rows[:15] *= 8 / np.linalg.norm(rows[:15], axis=1, keepdims=True) * np.sqrt(width)
    labels = EnergyDetector(random_state=0).fit(rows).labels_
    assert labels[15:].mean() < most and labels[:15].all()


def test_contamination_is_the_share_called_odd():
    rows = correlated(400)
    detector = EnergyDetector(contamination=0.1, random_state=0).fit(rows)
    assert (detector.predict(rows) == -1).sum() == 40


def test_without_odd_rows_every_row_is_learned_from_and_judged_by_the_others():
    rows = correlated(1200)
    rows[0, 2] = 9.0
    detector = EnergyDetector(novelty=True, random_state=0).fit(rows)
    assert (detector.fit_predict(rows) == 1).all() and (detector.predict(rows) == 1).all()
    assert detector.decision_scores_[0] == detector.decision_scores_.max()
    share = EnergyDetector(0.1, novelty=True, random_state=0).fit(rows)
    assert share.labels_.sum() == 120
    itself = -detector.score_samples(rows)
    assert (detector.decision_scores_ > itself).all()  # a row vouches for itself
    fresh = correlated(1200, 3)
    assert (detector.predict(fresh) == -1).mean() < 0.02
    assert (detector.predict(fresh + np.array([0, 10, 0, 0])) == -1).mean() > 0.95
    level = np.median(detector.decision_scores_)
    assert (-detector.score_samples(fresh) < level).mean() == pytest.approx(0.5, abs=0.1)
    assert (detector.p_values(fresh) <= 0.2).mean() == pytest.approx(0.2, abs=0.12)  # 4.6 errors


def test_false_alarms_come_at_the_rate_that_was_asked_for():
    """Over many splits p is uniform on its multiples: counts of p ≤ α of fresh rows have mean α."""
    rates = {0.05: [], 0.2: []}
    for seed in range(40):
        rows = correlated(700, seed)
        detector = EnergyDetector(max_components=2, calibration=0.5, random_state=seed)
        p = detector.fit(rows[:400]).p_values(rows[400:])
        assert detector.smallest_p_ == pytest.approx(1 / 201)
        assert p.min() >= detector.smallest_p_ - 1e-12
        for rate, found in rates.items():
            found.append((p <= rate + 1e-12).mean())
    for rate, found in rates.items():
        nominal = np.floor(rate * 201) / 201
        error = np.std(found) / np.sqrt(len(found))
        assert abs(np.mean(found) - nominal) < 4.9 * error, (rate, np.mean(found))


def test_discoveries_and_drift():
    detector = EnergyDetector(random_state=0).fit(correlated(2000))
    normal, odd = correlated(300, 5), correlated(60, 6) + np.array([0, 6, 0, 0])
    named = detector.discoveries(np.concatenate([normal, odd]), false_discovery_rate=0.2)
    assert named[300:].mean() > 0.9
    assert named[:300].sum() < 0.5 * named.sum()
    assert detector.drift(normal) > 1e-3
    assert detector.drift(correlated(300, 7) + np.array([0, 1.5, 0, 0])) < 1e-6


def test_draws_of_the_detector_are_rows_it_calls_normal():
    detector = EnergyDetector(random_state=0).fit(correlated(600))
    drawn = detector.sample(400)
    assert drawn.shape == (400, 4) and detector.reliable_
    assert (detector.predict(drawn) == 1).mean() > 0.9
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1] - 0.97) < 0.1


def test_gaps_are_filled_before_rows_are_judged():
    rows = correlated(500)
    holes = rows.copy()
    holes[::3, 1] = np.nan
    detector = EnergyDetector(random_state=0).fit(holes)
    filled = rows[:1].copy()
    filled[0, 1] = 2 * filled[0, 0]  # its conditional mean
    gap = filled.copy()
    gap[0, 1] = np.nan
    there = detector.score_samples(filled)
    assert detector.score_samples(gap) == pytest.approx(there, abs=1.5)
    assert detector.score_samples(gap + np.array([0, 0, 9, 0])) < there - 5


@pytest.mark.parametrize("far", [1e10, -1e20, 1e39, -1e300])
def test_numbers_of_any_size_are_odd_and_not_lost(far):
    rows = correlated(300)
    row = rows[:1].copy()
    row[0, 2] = far
    detector = EnergyDetector(max_components=2, random_state=0).fit(rows)
    assert detector.predict(row) == [-1]
    assert detector.p_values(row)[0] == pytest.approx(detector.smallest_p_)
    log_prob = EnergyDensity(max_components=2, random_state=0).fit(rows).score_samples(row)
    assert log_prob[0] < -1e15


# Density


def test_density_integrates_to_one_and_finds_the_truth():
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(-2, 0.5, (700, 1)), rng.normal(300, 40, (300, 1))])
    model = EnergyDensity(random_state=0).fit(rows)
    grid = np.concatenate([np.linspace(-8, 4, 2000), np.linspace(4.01, 700, 4000)])
    density = np.exp(model.score_samples(grid[:, None]))
    assert integrate.trapezoid(density, grid) == pytest.approx(1, abs=1e-3)
    truth = 0.7 * stats.norm(-2, 0.5).pdf(grid) + 0.3 * stats.norm(300, 40).pdf(grid)
    assert integrate.trapezoid(np.abs(density - truth), grid) < 0.15
    drawn = model.sample(4000)[:, 0]
    assert (drawn < 50).mean() == pytest.approx(0.7, abs=0.05)


def test_gaps_are_summed_out_of_a_density():
    rows = correlated(500)
    model = EnergyDensity(max_components=1, random_state=0).fit(rows)
    row = rows[:1].copy()
    row[0, 3] = np.nan
    grid = np.linspace(-40, 40, 8001)
    whole = np.repeat(row, len(grid), 0)
    whole[:, 3] = grid
    area = integrate.trapezoid(np.exp(model.score_samples(whole)), grid)
    assert model.score_samples(row) == pytest.approx(np.log(area), abs=1e-4)


def test_an_energy_of_your_own_is_trained_and_normalised():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(500, 2)) * [3.0, 0.2] + [10.0, -1.0]
    net = energies.MLP(spaces.Real((2,)), 16, 1, key=random.key(0))
    energy = net + energies.Gaussian(spaces.Real((2,)))
    model = EnergyDensity(
        energy, objective=objectives.NoiseContrastive(), num_steps=300, random_state=0
    ).fit(rows)
    truth = stats.multivariate_normal([10, -1], np.diag([9, 0.04])).logpdf(rows).mean()
    assert model.score(rows) == pytest.approx(truth, abs=0.2)
    assert model.log_z_.reliable and model.log_z_.std_err < 0.25
    with pytest.raises(ValueError, match="expected one on Real"):
        EnergyDensity(energy).fit(rows[:, :1])


def test_a_grid_search_takes_the_likelihood():
    rows = np.random.default_rng(2).permutation(
        np.concatenate([correlated(150), correlated(150, 1) + 10])
    )
    search = GridSearchCV(
        make_pipeline(StandardScaler(), EnergyDensity(random_state=0)),
        {"energydensity__max_components": [1, 8]},
        cv=2,
    ).fit(rows)
    assert search.best_params_["energydensity__max_components"] == 8  # two clusters


# Gaps


def test_filled_values_are_conditional_means_and_intervals_hold():
    rows = correlated(3000)
    rng = np.random.default_rng(3)
    gone = rng.random(rows.shape) < 0.2
    holes = np.where(gone, np.nan, rows)
    imputer = EnergyImputer(random_state=0).fit(holes)
    filled = imputer.transform(holes)
    np.testing.assert_array_equal(filled[~gone], rows[~gone])
    alone = gone[:, 1] & ~gone[:, 0]  # column 1 is 2 · column 0 with noise of sd 0.5
    error = np.sqrt(np.mean((filled[alone, 1] - 2 * rows[alone, 0]) ** 2))
    assert error < 0.12
    low, high = imputer.intervals(holes, level=0.9)
    inside = (low <= rows) & (rows <= high)
    assert inside[gone].mean() == pytest.approx(0.9, abs=0.03)
    assert inside[~gone].all()
    np.testing.assert_array_equal(low[~gone], rows[~gone])


def test_intervals_hold_where_the_mixture_is_wrong():
    """One normal for two clusters apart, in a column that alone has gaps: half of its values lie
    within a tenth of the normal's own 50 % interval's width of where none does."""
    rng = np.random.default_rng(11)

    def drawn(num):
        rows = rng.normal(size=(num, 4))
        rows[:, 0] = np.where(rng.random(num) < 0.5, -3.0, 3.0) + 0.2 * rng.normal(size=num)
        gone = np.zeros(rows.shape, bool)
        gone[:, 0] = rng.random(num) < 0.3
        return rows, gone, np.where(gone, np.nan, rows)

    imputer = EnergyImputer(max_components=1, random_state=0).fit(drawn(4000)[2])
    rows, gone, holes = drawn(4000)
    plain = {0.5: 0.0, 0.8: 1.0}  # of the normal's quantiles: one that holds too few, too many
    for level, before in plain.items():
        low, high = imputer.intervals(holes, level)
        held = ((low <= rows) & (rows <= high))[gone].mean()
        assert held == pytest.approx(level, abs=0.04)
        half = stats.norm.ppf((1 + level) / 2) * np.nanstd(holes[:, 0])
        assert (np.abs(rows[:, 0])[gone[:, 0]] < half).mean() == pytest.approx(before, abs=0.02)
    again = imputer.intervals(holes, level)
    np.testing.assert_array_equal(again, (low, high))


def test_intervals_say_that_too_few_rows_were_there_to_check_them():
    imputer = EnergyImputer(random_state=0).fit(correlated(40))
    row = np.array([[np.nan, 1.0, np.nan, 2.0]])
    with pytest.warns(UserWarning, match="10 rows .* too few for level=0.95: it wants 19"):
        imputer.intervals(row, 0.95)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        imputer.intervals(row, 0.9)  # 9 rows suffice
    with pytest.warns(UserWarning, match="0 rows could be held out"):
        low, high = EnergyImputer(random_state=0).fit(correlated(2)).intervals(row, 0.9)
    assert np.isfinite(low).all() and np.isfinite(high).all()


@pytest.mark.parametrize("seed", range(6))
def test_intervals_of_a_column_with_few_values(seed):
    """Held-out rows leave one of them to the fit, whichever they are."""
    rows = correlated(60)
    rows[3:, 2] = np.nan
    imputer = EnergyImputer(random_state=seed).fit(rows)
    low, high = imputer.intervals(rows, 0.8)
    assert np.all(low[3:, 2] < high[3:, 2])


def test_draws_differ_and_have_the_spread_that_means_lack():
    rows = correlated(2000)
    holes = rows.copy()
    holes[::2, 1] = np.nan
    imputer = EnergyImputer(random_state=0).fit(holes)
    tables = imputer.draws(holes, 20)
    assert tables.shape == (20, 2000, 4)
    spread = tables[:, ::2, 1].std(0).mean()
    assert spread == pytest.approx(0.5, abs=0.06)
    drawn = EnergyImputer(sample_posterior=True, random_state=0).fit(holes)
    assert np.abs(drawn.transform(holes) - drawn.transform(holes))[::2, 1].min() > 0


# Tables of other kinds


def polars_frame(rows, names):
    return pytest.importorskip("polars").DataFrame(dict(zip(names, rows.T, strict=True)))


@pytest.mark.parametrize("make", [lambda r, n: pd.DataFrame(r, columns=n), polars_frame])
def test_data_frames_give_what_arrays_give(make):
    rows, names = correlated(200), ["a", "b", "c", "d"]
    frame = make(rows, names)
    for kind in (EnergyDensity, EnergyDetector):
        plain = kind(random_state=0).fit(rows).score_samples(rows)
        framed = kind(random_state=0).fit(frame)
        np.testing.assert_array_equal(framed.score_samples(frame), plain)
        assert list(framed.feature_names_in_) == names
        with pytest.raises(ValueError, match="feature names"):
            framed.score_samples(make(rows, ["a", "b", "c", "e"]))


def test_tables_that_cannot_be_read_are_refused():
    words = np.array([[1.0, "x"], [2.0, "y"], [3.0, "z"]], dtype=object)
    with pytest.raises(ValueError, match="could not convert string"):
        EnergyDetector().fit(words)  # an array has no dtype for each column
    empty = np.array([[1.0, np.nan], [2.0, np.nan], [3.0, np.nan]])
    for kind in ESTIMATORS:
        with pytest.raises(ValueError, match="column 1 holds no value"):
            kind().fit(empty)
