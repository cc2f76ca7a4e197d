"""Data frames of numbers, words, categories and booleans, with gaps."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

from energax.estimators import EnergyDensity, EnergyDetector, EnergyImputer

NAMES = ["y", "kind", "x", "flag"]


def columns(num=500, seed=0, shares=(0.5, 0.3, 0.2)):
    """y = 2x + noise; x sits elsewhere for each kind."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(3, num, p=shares)
    x = rng.normal(size=num) + np.array([0.0, 4.0, -4.0])[kind]
    y = 2 * x + 0.5 * rng.normal(size=num)
    words = np.array(["red", "green", "blue"])[kind]
    return {"y": y, "kind": words.tolist(), "x": x, "flag": (rng.random(num) < 0.25).tolist()}


def pandas_frame(held):
    frame = pd.DataFrame(held)
    frame["kind"] = frame["kind"].astype("category")
    return frame


def polars_frame(held):
    return pytest.importorskip("polars").DataFrame(held)


@pytest.mark.parametrize("make", [pd.DataFrame, pandas_frame, polars_frame])
def test_every_kind_of_frame_gives_the_same(make):
    held = columns()
    frame, plain = make(held), pd.DataFrame(held)
    model = EnergyDensity(max_components=4, random_state=0).fit(frame)
    again = EnergyDensity(max_components=4, random_state=0).fit(plain)
    np.testing.assert_array_equal(model.score_samples(frame), again.score_samples(plain))
    assert list(model.feature_names_in_) == NAMES and model.n_features_in_ == 4
    drawn = model.sample(200)
    assert type(drawn) is type(frame) and list(drawn.columns) == NAMES
    assert set(drawn["kind"].to_list()) <= {"red", "green", "blue", None}


def test_a_density_of_numbers_and_categories_sums_to_one():
    model = EnergyDensity(max_components=4, random_state=0).fit(
        pd.DataFrame(columns())[["x", "kind"]]
    )
    grid = np.linspace(-12, 12, 2401)
    total = 0.0
    for kind in ("red", "green", "blue", "never seen"):
        rows = pd.DataFrame({"x": grid, "kind": kind})
        total += np.trapezoid(np.exp(model.score_samples(rows)), grid)
    assert total == pytest.approx(1, abs=1e-4)
    known = model.score_samples(pd.DataFrame({"x": [4.0], "kind": ["green"]}))
    without = model.score_samples(pd.DataFrame({"x": [4.0], "kind": [None]}))
    assert known < without < known + 0.5  # of a gap nothing is asked, and green is likely there


def test_odd_rows_of_a_mixed_table_are_found_and_explained():
    same = (0.34, 0.33, 0.33)
    frame = pd.DataFrame(columns(800, shares=same))
    detector = EnergyDetector(random_state=0).fit(frame)
    assert detector.labels_.mean() < 0.15
    for _, group in frame.groupby(["kind", "flag"]):
        assert (detector.predict(group) == 1).mean() > 0.6
    broken = frame.iloc[:40].copy()
    broken["y"] += 6.0
    assert (detector.predict(broken) == -1).mean() > 0.9
    unseen = frame.iloc[:40].copy()
    unseen["kind"] = "violet"
    assert (detector.score_samples(unseen) < detector.score_samples(frame.iloc[:40])).all()
    swapped = frame.iloc[:40].copy()
    swapped["kind"] = ["green" if kind != "green" else "red" for kind in swapped["kind"]]
    why = detector.explain(swapped)
    assert why.shape == (40, 4)
    assert (why[:, 1] > detector.explain(frame.iloc[:40])[:, 1] + 1).mean() > 0.9
    p = detector.p_values(pd.DataFrame(columns(400, 1, same)))
    assert 0.02 < (p <= 0.1).mean() < 0.2


def test_gaps_of_a_mixed_table_are_filled():
    held = pd.DataFrame(columns(1500))
    holes = held.copy()
    holes["kind"] = holes["kind"].astype("category")
    holes.loc[::4, "kind"] = None
    holes.loc[1::4, "y"] = np.nan
    holes.index = np.arange(1500) + 7
    imputer = EnergyImputer(random_state=0).fit(holes)
    filled = imputer.transform(holes)
    assert (filled.index == holes.index).all() and filled["kind"].dtype == holes["kind"].dtype
    assert (filled["kind"].to_numpy()[::4] == held["kind"].to_numpy()[::4]).mean() > 0.93
    error = filled["y"].to_numpy()[1::4] - held["y"].to_numpy()[1::4]
    assert np.sqrt(np.mean(error**2)) < 0.65  # the noise has 0.5
    there = holes.notna().to_numpy()
    assert (filled.to_numpy()[there] == holes.to_numpy()[there]).all()
    likely = imputer.probabilities(holes)["kind"]
    np.testing.assert_allclose(likely.sum(1), 1, atol=1e-12)
    told = np.array(imputer.categories_["kind"])[likely[::4].argmax(1)]
    assert (told == filled["kind"].to_numpy()[::4]).all()
    right = likely[::4][
        np.arange(375), [imputer.categories_["kind"].index(k) for k in held["kind"][::4]]
    ]
    assert right.mean() == pytest.approx(likely[::4].max(1).mean(), abs=0.05)  # calibrated
    low, high = imputer.intervals(holes, level=0.9)
    inside = (low <= held[["y", "x"]].to_numpy()) & (held[["y", "x"]].to_numpy() <= high)
    assert inside[1::4, 0].mean() == pytest.approx(0.9, abs=0.05)
    tables = imputer.draws(holes, 3)
    assert len(tables) == 3 and not any(table.isna().any().any() for table in tables)


def test_what_cannot_be_read_is_named():
    frame = pd.DataFrame(columns(60))
    model = clone(EnergyDensity(max_components=1, random_state=0)).fit(frame)
    with pytest.raises(ValueError, match="expected a data frame with the columns"):
        model.score_samples(frame.to_numpy())
    with pytest.raises(ValueError, match="feature names"):
        model.score_samples(frame.rename(columns={"x": "z"}))
    with pytest.raises(ValueError, match="column 'x' held numbers"):
        model.score_samples(frame.assign(x="many"))
    with pytest.raises(ValueError, match="dates"):
        model.fit(frame.assign(x=pd.Timestamp("2020-01-01")))
    with pytest.raises(ValueError, match="column 'kind' holds no value"):
        model.fit(frame.assign(kind=pd.Series([None] * 60, dtype=object)))
    with pytest.raises(ValueError, match="infinity"):
        model.fit(frame.assign(x=np.inf))
    with pytest.raises(ValueError, match="no column of categories"):
        EnergyImputer().fit(frame[["x", "y"]]).probabilities(frame[["x", "y"]])


def test_columns_may_be_numbered():
    frame = pd.DataFrame({0: [1.0, 2.0, 4.0, 5.0], 1: ["a", "b", "a", None]})
    filled = EnergyImputer(max_components=1, random_state=0).fit(frame).transform(frame)
    assert filled[1].tolist() == ["a", "b", "a", "a"]
