"""Classes by a joint energy: exact posteriors, calibrated, and rows that are of no class."""

import pickle

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import integrate
from scipy.stats import multivariate_normal, norm
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

import energax as ex
from energax.estimators import EnergyClassifier
from energax.objectives import ConditionalLikelihood

CHECKS = [
    pair
    for pair in estimator_checks_generator(EnergyClassifier(random_state=0), mark=None)
    if pair[1].func.__name__ != "check_array_api_input"  # asks for SCIPY_ARRAY_API
]


@pytest.mark.parametrize(
    ("estimator", "check"), CHECKS, ids=lambda v: getattr(getattr(v, "func", None), "__name__", "")
)
def test_scikit_learn_check(estimator, check):
    check(estimator)


MEAN = np.array([[0.0, 0.0, 3.0], [2.0, 1.0, 2.0], [-1.0, 3.0, 3.0]])
FACTOR = np.array(
    [
        [[1.0, 0.0, 0.0], [0.7, 0.4, 0.0], [0.2, 0.0, 0.5]],
        [[0.6, 0.0, 0.0], [-0.5, 0.5, 0.0], [0.0, 0.3, 0.8]],
        [[1.2, 0.0, 0.0], [0.3, 0.9, 0.0], [-0.4, 0.2, 0.6]],
    ]
)
SHARE = np.array([0.5, 0.2, 0.3])
NAMES = np.array(["ant", "bee", "cat"])


def three(num, seed=0):
    """(rows, their classes by number)."""
    rng = np.random.default_rng(seed)
    which = rng.choice(3, num, p=SHARE)
    noise = rng.normal(size=(num, 3))
    return MEAN[which] + np.einsum("rij,rj->ri", FACTOR[which], noise), which


def with_gaps(rows, share, seed=1):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(rows.shape) < share, np.nan, rows)


def log_joint_by_scipy(row, log_share, parts):
    """log p(what is there, y), (classes,), where `parts` are (weights, means, covariances)."""
    here, out = np.flatnonzero(~np.isnan(row)), []
    for log_w, (weights, means, covariances) in zip(log_share, parts, strict=True):
        each = np.log(weights)
        if len(here):
            block = np.ix_(here, here)
            each = each + [
                multivariate_normal(m[here], c[block]).logpdf(row[here])
                for m, c in zip(means, covariances, strict=True)
            ]
        out.append(log_w + np.logaddexp.reduce(each))
    return np.array(out)


def test_posterior_and_density_are_those_of_scipy_with_gaps_too():
    rows, which = three(600)
    model = EnergyClassifier(max_components=2, random_state=0)
    model.fit(with_gaps(rows, 0.1), NAMES[which])
    fitted = model.mixtures_
    normals = [p.normals for p in fitted.parts]
    parts = [(np.exp(n.log_weights), n.mean, n.covariance) for n in normals]
    asked = np.concatenate([with_gaps(rows[:20], 0.4), np.full((1, 3), np.nan), [[90, -70, 80]]])
    log_share = np.log(np.bincount(which) / 600)
    joint = np.stack([log_joint_by_scipy(row, log_share, parts) for row in asked])
    tempered = np.exp(fitted.beta * (joint - joint.max(1, keepdims=True)))
    expected = tempered / tempered.sum(1, keepdims=True)
    expected = (1 - fitted.noise) * expected + fitted.noise * np.exp(log_share)
    np.testing.assert_allclose(model.predict_proba(asked), expected, atol=1e-12)
    np.testing.assert_allclose(np.exp(model.predict_log_proba(asked)), expected, atol=1e-12)
    np.testing.assert_array_equal(model.predict(asked), NAMES[expected.argmax(1)])
    density = np.logaddexp.reduce(joint, 1)
    np.testing.assert_allclose(model.score_samples(asked), density, rtol=1e-9, atol=1e-12)
    assert model.reliable_ and model.score(rows, NAMES[which]) > 0.85
    # The energy is the same model, in JAX
    plain = np.exp(joint - density[:, None])
    whole = ~np.isnan(asked).any(1)
    found = ex.classify(model.energy_, {"x": asked[whole]})
    np.testing.assert_allclose(found, plain[whole], atol=2e-4)


def test_posterior_is_that_of_the_truth():
    rows, which = three(4000)
    model = EnergyClassifier(random_state=0).fit(rows, which)
    fresh, _ = three(1000, 1)
    truth = [(np.ones(1), m[None], (f @ f.T)[None]) for m, f in zip(MEAN, FACTOR, strict=True)]
    joint = np.stack([log_joint_by_scipy(row, np.log(SHARE), truth) for row in fresh])
    density = np.logaddexp.reduce(joint, 1)
    off = np.abs(model.predict_proba(fresh) - np.exp(joint - density[:, None]))
    assert off.mean() < 0.01
    assert np.abs(model.score_samples(fresh) - density).mean() < 0.1


def heavy(num, seed):
    """Two classes of 20 columns with tails that no normal has, so that normals are too sure."""
    rng = np.random.default_rng(seed)
    which = rng.integers(0, 2, num)
    noise = rng.standard_t(3, (num, 20)) * np.exp(0.5 * rng.normal(size=(num, 1)))
    return noise + 0.5 * which[:, None], which


def test_probabilities_are_as_often_right_as_they_say():
    said, right, plain = [], [], []
    for seed in range(6):
        model = EnergyClassifier(random_state=seed).fit(*heavy(500, seed))
        rows, which = heavy(500, 100 + seed)
        p = model.predict_proba(rows)
        said.append(p.max(1).mean())
        right.append((p.argmax(1) == which).mean())
        joint = model.mixtures_.log_joint(rows)
        uncalibrated = np.exp(joint - np.logaddexp.reduce(joint, 1)[:, None])
        plain.append(uncalibrated.max(1).mean())
    over, before = np.subtract(said, right), np.subtract(plain, right)
    assert abs(over.mean()) < 0.03
    assert before.mean() > 0.06  # the test sees what calibration mends


def test_false_alarms_come_at_the_rate_that_was_asked_for_gaps_or_not():
    rates, gappy = [], []
    for seed in range(25):
        rows, which = three(400, seed)
        model = EnergyClassifier(max_components=1, calibration=0.5, random_state=seed)
        model.fit(rows[:200], which[:200])
        p = model.p_values(rows[200:])
        assert model.smallest_p_ == pytest.approx(1 / 101)
        rates.append((p <= 0.1 + 1e-12).mean())
        gappy.append((model.p_values(with_gaps(rows[200:], 0.3)) <= 0.1 + 1e-12).mean())
    nominal, error = np.floor(10.1) / 101, np.std(rates) / 5
    assert abs(np.mean(rates) - nominal) < 4.9 * error, np.mean(rates)
    assert np.mean(gappy) < nominal + 4.9 * np.std(gappy) / 5  # no more than that


def test_rows_of_no_class_have_the_smallest_p():
    rows, which = three(600)
    model = EnergyClassifier(random_state=0).fit(rows, which)
    far = np.array([[40.0, 0.0, 0.0], [0.0, -30.0, 3.0], [np.nan, 50.0, np.nan], [0, 0, 1e300]])
    between = np.array([[1.0, -2.0, 3.0]])  # the range of each column holds it
    np.testing.assert_allclose(model.p_values(far), model.smallest_p_)
    assert model.p_values(between)[0] < 0.02
    assert np.isfinite(model.predict_proba(far)).all()
    assert (model.p_values(MEAN) > 0.2).all()
    assert model.p_values(np.full((1, 3), np.nan))[0] > 0.2


def test_equal_seeds_give_equal_answers_and_a_pickle_all_of_them():
    rows, which = three(200)
    model = EnergyClassifier(random_state=3).fit(rows, which)
    again = clone(model).fit(rows, which)
    kept = pickle.loads(pickle.dumps(model))
    for other in (again, kept):
        np.testing.assert_array_equal(other.predict_proba(rows), model.predict_proba(rows))
        np.testing.assert_array_equal(other.p_values(rows), model.p_values(rows))


def polars_frame(rows, names):
    return pytest.importorskip("polars").DataFrame(dict(zip(names, rows.T, strict=True)))


@pytest.mark.parametrize("make", [lambda r, n: pd.DataFrame(r, columns=n), polars_frame])
def test_data_frames_and_labels_of_any_kind_give_what_arrays_give(make):
    rows, which = three(150)
    plain = EnergyClassifier(random_state=0).fit(rows, which)
    frame, labels = make(rows, ["a", "b", "c"]), make(which[:, None], ["y"])["y"]
    framed = EnergyClassifier(random_state=0).fit(frame, labels)
    assert list(framed.feature_names_in_) == ["a", "b", "c"] and framed.n_features_in_ == 3
    np.testing.assert_array_equal(framed.predict_proba(frame), plain.predict_proba(rows))
    named = EnergyClassifier(random_state=0).fit(frame, list(NAMES[which]))
    assert named.classes_.tolist() == NAMES.tolist()
    np.testing.assert_array_equal(named.predict(frame), NAMES[plain.predict(rows)])
    with pytest.raises(ValueError, match="feature names"):
        framed.predict(make(rows, ["a", "b", "d"]))


def test_a_grid_search_takes_it_in_a_pipeline():
    rng = np.random.default_rng(2)
    which = rng.integers(0, 2, 240)
    place = 4.0 * which + rng.choice([-6.0, 2.0], 240)  # by turns: one normal a class tells little
    rows = np.stack([place + rng.normal(size=240), rng.normal(size=240)], 1)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), EnergyClassifier(random_state=0)),
        {"energyclassifier__max_components": [1, 2]},
        scoring="neg_log_loss",
        cv=2,
    ).fit(rows, which)
    assert search.best_params_["energyclassifier__max_components"] == 2
    assert search.best_estimator_.score(rows, which) > 0.95


def test_classes_of_one_row_and_of_gaps_alone_are_classes():
    rows, which = three(200)
    rows = np.concatenate([rows, [[9.0, -9.0, 3.0]], [[30.0, 30.0, np.nan]] * 3])
    labels = np.concatenate([NAMES[which], ["dog"], ["eel"] * 3])
    model = EnergyClassifier(random_state=0).fit(rows, labels)
    assert model.predict([[8.8, -9.2, 3.1], [30.0, 29.0, 2.5]]).tolist() == ["dog", "eel"]
    assert np.isfinite(model.p_values(rows)).all()


class Linear(eqx.Module):
    """f(x, y) = w_y · x + b_y − |x|²/2: a softmax, and normals whose weights follow."""

    weight: jnp.ndarray
    bias: jnp.ndarray

    def __call__(self, point):
        x = point["columns"]
        return self.weight[point["kind"]] @ x + self.bias[point["kind"]] - 0.5 * jnp.sum(x**2)


def of_my_own(num_classes=2):
    space = ex.Record(columns=ex.Real((2,)), kind=ex.Categorical((), num_classes))
    return ex.from_log_density(Linear(jnp.zeros((num_classes, 2)), jnp.zeros(num_classes)), space)


def two(num, seed=0):
    rng = np.random.default_rng(seed)
    which = rng.integers(0, 2, num)
    return rng.normal(size=(num, 2)) * [50, 0.2] + [100, 0] + which[:, None] * [80, 0.1], which


def test_an_energy_of_your_own_is_trained_on_columns_and_class():
    rows, which = two(800)
    model = EnergyClassifier(
        of_my_own(), objective=ConditionalLikelihood("kind"), num_steps=300, learning_rate=0.03
    ).set_params(random_state=0)
    model.fit(rows, np.where(which, "high", "low"))
    fresh, own = two(2000, 1)
    truth = np.stack(
        [
            multivariate_normal([100 + 80 * k, 0.1 * k], np.diag([2500, 0.04])).logpdf(fresh)
            for k in (1, 0)
        ],
        1,
    )
    truth = np.exp(truth - np.logaddexp.reduce(truth, 1)[:, None])
    assert model.classes_.tolist() == ["high", "low"]
    assert np.abs(model.predict_proba(fresh) - truth).mean() < 0.04
    assert (model.predict(fresh) == np.where(own, "high", "low")).mean() > 0.75
    np.testing.assert_allclose(np.exp(model.predict_log_proba(fresh)).sum(1), 1, rtol=1e-6)
    grid = np.stack(np.meshgrid(np.linspace(-500, 800, 201), np.linspace(-2.5, 2.5, 201)), -1)
    density = np.exp(model.score_samples(grid.reshape(-1, 2))).reshape(201, 201)
    inner = integrate.trapezoid(density, grid[0, :, 0], axis=1)
    assert integrate.trapezoid(inner, grid[:, 0, 1]) == pytest.approx(1, abs=0.01)
    assert model.log_z_.reliable and model.reliable_
    p = model.p_values(np.array([[900.0, 0.0], [140.0, 0.05]]))
    assert p[0] == pytest.approx(model.smallest_p_) and p[1] > 0.2
    with pytest.raises(ValueError, match="NaN"):
        model.predict([[100.0, np.nan]])


def test_its_training_learns_columns_and_class_together_by_default():
    rows, which = two(300)
    model = EnergyClassifier(of_my_own(), num_steps=300, learning_rate=0.03, random_state=0)
    model.fit(rows, which)
    fresh, own = two(500, 1)
    assert (model.predict(fresh) == own).mean() > 0.75
    sd = np.asarray(model.energy_.scale)
    middle = np.array([multivariate_normal([140, 0.05], np.diag(sd**2)).logpdf(fresh).mean()])
    assert model.score_samples(fresh).mean() > middle - 0.3


def test_what_cannot_be_fitted_is_refused():
    rows, which = three(30)
    with pytest.raises(ValueError, match="at least two classes, got one class"):
        EnergyClassifier().fit(rows, np.zeros(30, int))
    with pytest.raises(ValueError, match="Unknown label type"):
        EnergyClassifier().fit(rows, rows[:, 0])
    with pytest.raises(ValueError, match=r"one part of 3 values, as Record"):
        EnergyClassifier(of_my_own()).fit(rows[:, :2], which)
    with pytest.raises(ValueError, match=r"Real\(\(3,\)\), a number a column"):
        EnergyClassifier(of_my_own(3)).fit(rows, which)
    empty = rows.copy()
    empty[:, 1] = np.nan
    with pytest.raises(ValueError, match="column 1 holds no value"):
        EnergyClassifier().fit(empty, which)
    with pytest.raises(ValueError, match="too few to hold"):
        EnergyClassifier(calibration=0.9).fit(rows[:3], [0, 1, 0]).p_values(rows)


# Categories


def flowers(num, seed=0):
    """A frame of two numbers, a word and a flag, and which of three classes each row is of; all of
    it tells classes, the word alone two of them."""
    rng = np.random.default_rng(seed)
    which = rng.choice(3, num, p=SHARE)
    words = np.array(["red", "blue", "white"])
    shares = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.8, 0.1]])
    frame = pd.DataFrame(
        rng.normal(size=(num, 2)) + 1.5 * (which == 1)[:, None], columns=["a", "b"]
    )
    frame["word"] = words[(rng.random((num, 1)) > np.cumsum(shares, 1)[which][:, :2]).sum(1)]
    frame["flag"] = rng.random(num) < np.array([0.5, 0.3, 0.7])[which]
    log_p = np.log(SHARE) + np.log(
        shares[:, :].T[(frame["word"].to_numpy()[:, None] == words).argmax(1)]
    )
    mean = np.array([0, 1.5, 0])
    for name in ("a", "b"):
        log_p += norm.logpdf(frame[name].to_numpy()[:, None] - mean)
    flag = frame["flag"].to_numpy()[:, None]
    log_p += np.log(np.where(flag, [0.5, 0.3, 0.7], [0.5, 0.7, 0.3]))
    return frame, which, log_p


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_categories_tell_classes(kind):
    frame, which, _ = flowers(4000)
    fresh, truth, log_p = flowers(1000, 1)
    if kind == "polars":
        frame, fresh = pl.from_pandas(frame), pl.from_pandas(fresh)
    model = EnergyClassifier(random_state=0).fit(frame, NAMES[which])
    density = np.logaddexp.reduce(log_p, 1)
    posterior = np.exp(log_p - density[:, None])
    assert np.abs(model.predict_proba(fresh) - posterior).mean() < 0.02
    assert (model.score_samples(fresh) - density).mean() == pytest.approx(0, abs=0.03)
    best = (posterior.argmax(1) == truth).mean()
    assert model.score(fresh, NAMES[truth]) == pytest.approx(best, abs=0.02)
    assert (model.p_values(fresh) <= 0.1).mean() == pytest.approx(0.1, abs=0.04)
    # The energy is the same model, in JAX, on a record with the class beside the columns
    space = model.energy_.space
    assert set(space.parts) == {"numbers", "categories", "y"}
    rows = model._checked(fresh).point
    found = ex.classify(model.energy_, rows, target="y")
    joint = model.mixtures_.log_joint(model._checked(fresh))
    plain = np.exp(joint - np.logaddexp.reduce(joint, 1)[:, None])
    np.testing.assert_allclose(found, plain, atol=2e-4)


def test_missing_and_new_categories_of_a_class():
    frame, which, _ = flowers(1500)
    model = EnergyClassifier(max_components=1, random_state=0).fit(frame, NAMES[which])
    row = frame.iloc[:1].copy()
    whole = []
    for word in ("red", "blue", "white"):
        row["word"] = word
        whole.append(np.exp(model.mixtures_.log_joint(model._checked(row))))
    row["word"] = None
    gap = np.exp(model.mixtures_.log_joint(model._checked(row)))
    assert np.all(gap >= np.sum(whole, 0)) and np.all(gap < 1.02 * np.sum(whole, 0))  # and others
    row["word"] = "violet"
    assert np.isfinite(model.predict_log_proba(row)).all()
    assert model.p_values(row)[0] < 0.02
    with pytest.raises(ValueError, match="expected a data frame with the columns"):
        model.predict(np.zeros((1, 4)))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.fit(frame, NAMES[which][:-1])
    for gone in (None, np.nan, pd.NA):
        classes = NAMES[which].astype(object)
        classes[4] = gone
        with pytest.raises(ValueError, match="a class is missing"):
            model.fit(frame, classes)


def test_an_energy_of_your_own_takes_numbers_only():
    frame, which, _ = flowers(50)
    space = ex.Record(x=ex.Real((4,)), y=ex.Categorical((), 3))
    energy = ex.from_log_density(lambda p: -jnp.sum(p["x"] ** 2) * (1 + p["y"]), space)
    with pytest.raises(ValueError, match="could not convert string to float"):
        EnergyClassifier(energy, num_steps=2).fit(frame, which)
