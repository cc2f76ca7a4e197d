"""Alarms as rare as p says on rows of one distribution; differences found; T and bounds by hand."""

import dataclasses
import itertools

import numpy as np
import pytest
from scipy import integrate, stats

import energax as ex
from energax.results import UnreliableResult


def asked(X, Y, seed=0, **options):
    return ex.same_distribution(X, Y, key=ex.random.key(seed), **options)


def normal(num, columns, seed):
    return np.random.default_rng(seed).normal(size=(num, columns))


def coupled(num, columns, seed, correlation):
    """Normal columns of which the first two are correlated."""
    rows = normal(num, columns, seed)
    rows[:, 1] = correlation * rows[:, 0] + np.sqrt(1 - correlation**2) * rows[:, 1]
    return rows


# ---- the level -------------------------------------------------------------------------------


@pytest.mark.slow
def test_ranks_of_p_are_uniform_on_real_rows():
    """Skewed columns that depend on one another, sets of unequal size, mixture and all."""
    num, ranks, bounds = 300, np.zeros(20), 0
    for seed in range(num):
        rows = np.exp(coupled(50, 3, seed, 0.8))
        found = asked(rows[:20], rows[20:], seed, num_permutations=19)
        ranks[round(found.p_value * 20) - 1] += 1
        bounds += found.lower > 0
    assert ranks.sum() == num and stats.chisquare(ranks).pvalue > 1e-6
    assert stats.binomtest(int(ranks[0]), num, 0.05).pvalue > 1e-6
    assert stats.binomtest(bounds, num, 0.025, "greater").pvalue > 1e-6


@pytest.mark.slow
def test_alarms_are_no_more_than_asked_on_bits_with_ties():
    num, alarms = 300, 0
    for seed in range(num):
        rng = np.random.default_rng(seed)
        rows = (rng.random((40, 4)) < (0.1, 0.5, 0.5, 0.9)).astype(float)
        rows[:, 2] = np.where(rng.random(40) < 0.8, rows[:, 1], rows[:, 2])
        found = asked(rows[:20], rows[20:], seed, space=ex.Binary((4,)), num_permutations=39)
        alarms += found.p_value <= 0.05
    assert stats.binomtest(alarms, num, 0.05, "greater").pvalue > 1e-6
    assert alarms >= 2  # and not never, which is no test


# ---- the statistic ---------------------------------------------------------------------------


def plain_statistics(rows, labels):
    """The nine of two real columns without ties, each for one labelling, in plain NumPy."""
    n = len(rows)
    u = stats.norm.ppf((stats.rankdata(rows, axis=0) - 0.5) / n)
    u = (u - u.mean(0)) / u.std(0)
    a, b = u.T
    parts = [
        np.stack([a, b], 1),
        np.stack([a * a, a * b, b * b], 1),
        np.stack([a**3 - 3 * a, b**3 - 3 * b, a**4 - 6 * a**2 + 3, b**4 - 6 * b**2 + 3], 1),
    ]
    out = []
    for part in parts:
        sds = part.std(0)
        part, sds = part[:, sds > 1e-9], sds[sds > 1e-9]
        x, y = part[labels], part[~labels]
        size = len(x) * len(y) / n
        z = np.sqrt(size) * (x.mean(0) - y.mean(0)) / sds
        inverse = np.linalg.inv(np.atleast_2d(np.corrcoef(part.T)) + 0.1 * np.eye(len(z)))
        out.append([z @ inverse @ z, z @ z, np.max(z**2)])
    return np.array(out)


def test_statistic_and_p_are_those_over_all_arrangements():
    X, Y = normal(4, 2, 1), normal(6, 2, 2) + np.array([1.5, 0])
    rows = np.concatenate([X, Y])
    every = []
    for chosen in itertools.combinations(range(10), 4):
        labels = np.zeros(10, bool)
        labels[list(chosen)] = True
        every.append(plain_statistics(rows, labels))
    root = np.cbrt(np.array(every))  # (210, 3, 3), the first as they are
    log_p = stats.norm.logsf((root - root.mean(0)) / root.std(0))
    weight = np.array([0.5, 0.25, 0.125]) / 0.875 / 3
    total = np.log((weight[:, None] / np.exp(log_p)).sum((1, 2)))
    exact = np.mean(total >= total[0] - 1e-9)
    found = asked(X, Y, num_permutations=4999)
    assert 0.01 < exact < 0.6  # neither end
    assert found.statistic == pytest.approx(total[0], rel=0.05)
    assert found.p_value == pytest.approx(exact, abs=0.02)
    assert found.smallest_p == pytest.approx(1 / 210)
    for i, part in enumerate(("columns", "pairs", "shapes")):
        highest = (-log_p[:, i]).max(-1)
        share = np.mean(highest >= highest[0] - 1e-9)
        assert found.parts[part] == pytest.approx(share, abs=0.02)


def test_bound_is_near_the_divergence_and_below_it():
    for shift, spread in ((1.0, 1.0), (0.0, 2.0), (3.0, 1.0)):
        X, Y = normal(1500, 2, 5), normal(1500, 2, 6)
        Y[:, 0] = shift + spread * Y[:, 0]
        p, q = stats.norm(0, 1).pdf, stats.norm(shift, spread).pdf

        def integrand(x, p=p, q=q):
            a, b = p(x), q(x)
            return 0.5 * (a * np.log(2 * a / (a + b)) + b * np.log(2 * b / (a + b)))

        truth = integrate.quad(integrand, -8, 12)[0]
        found = asked(X, Y, num_permutations=19)
        assert 0.8 * truth < found.divergence < truth + 4 * found.std_err
        assert found.lower < found.divergence < found.upper < np.log(2)
        assert found.std_err < 0.02


# ---- what is found ---------------------------------------------------------------------------


def test_a_shift_is_found_and_its_column_named():
    found = asked(normal(120, 5, 1), normal(150, 5, 2) + 0.7 * np.eye(5)[3])
    assert found.p_value == 0.001 == found.smallest_p and found.reliable
    assert found.columns[0] == (3,) and found.column_p_values[0] <= 0.005
    assert (found.column_p_values[1:] > 0.05).all()
    assert found.num_rows == (120, 150) and found.divergence > 0.01


def test_a_correlation_alone_is_found_as_one_of_pairs():
    X, Y = normal(200, 6, 3), coupled(200, 6, 4, 0.6)
    for u, v in zip(X.T, Y.T, strict=True):
        assert stats.ks_2samp(u, v).pvalue > 0.01  # each column for itself shows nothing
    found = asked(X, Y)
    assert found.p_value <= 0.002
    assert found.parts["pairs"] == 0.001 and found.parts["columns"] > 0.05
    assert set(found.columns[:2]) == {(0,), (1,)} and found.column_p_values[1] <= 0.005
    assert found.column_p_values[2] > 0.05


def test_a_shape_alone_is_found():
    two = np.repeat([[-1.0], [1.0]], 100, axis=0) * 0.95 + 0.3 * normal(200, 1, 0)
    found = asked(normal(200, 3, 1), np.concatenate([normal(200, 2, 2), two], 1))
    assert found.p_value <= 0.005 and found.columns[0] == (2,)
    assert found.parts["shapes"] == 0.001 < found.parts["columns"]


@pytest.mark.parametrize("encoding", ["index", "onehot"])
def test_one_categorys_share_is_found(encoding):
    rng = np.random.default_rng(1)
    X, Y = rng.integers(4, size=(200, 5)), rng.integers(4, size=(200, 5))
    Y[:, 2] = rng.choice(4, 200, p=(0.25, 0.45, 0.15, 0.15))
    if encoding == "onehot":
        X, Y = np.eye(4)[X], np.eye(4)[Y]
    found = asked(X, Y, space=ex.Categorical((5,), 4, encoding))
    assert found.p_value <= 0.002 and found.columns[0] == (2,) and len(found.columns) == 5
    assert found.column_p_values[0] <= 0.002 and (found.column_p_values[1:] > 0.05).all()


def test_pairs_of_bits_are_found():
    rng = np.random.default_rng(2)
    X, Y = (rng.random((2, 250, 6)) < 0.4).astype(float)
    Y[:, 4] = np.where(rng.random(250) < 0.5, Y[:, 1], Y[:, 4])
    found = asked(X, Y, space=ex.Binary((6,)))
    assert found.p_value <= 0.002 and set(found.columns[:2]) == {(1,), (4,)}
    spins = asked(2 * X - 1, 2 * Y - 1, space=ex.Spin((6,)))
    assert spins.p_value == found.p_value and spins.columns == found.columns


def test_a_correlation_among_many_columns_is_found_by_components():
    mixing = normal(3, 90, 0)
    X, Y = (3 * normal(200, 3, s) @ mixing + normal(200, 90, s + 10) for s in (1, 2))
    Z = normal(200, 3, 3)
    Z[:, 0] = 0.7 * Z[:, 1] + 0.71 * Z[:, 0]
    Z = 3 * Z @ mixing + normal(200, 90, 13)
    assert asked(X, Y, num_permutations=199).p_value > 0.05
    found = asked(X, Z, num_permutations=199)
    assert found.parts["pairs"] == 0.005 and len(found.columns) == 90


def test_gaps_are_told_from_values():
    X, Y = normal(150, 3, 1), normal(150, 3, 2)
    alike = [np.where(np.random.default_rng(s).random(X.shape) < 0.2, np.nan, r)
             for s, r in enumerate((X, Y))]  # fmt: skip
    assert asked(*alike).p_value > 0.05
    Y[:, 1] = np.where(np.random.default_rng(5).random(150) < 0.3, np.nan, Y[:, 1])
    found = asked(X, Y)
    assert found.p_value == 0.001 and found.columns[0] == (1,) and len(found.columns) == 3
    assert found.column_p_values[1] > 0.05


def test_records_are_read_part_by_part():
    space = ex.Record(
        age=ex.Real(()),
        kind=ex.Categorical((2,), 3),
        visits=ex.Count((1,)),
        level=ex.Ordinal((), 4),
    )

    def rows(num, seed, mean):
        rng = np.random.default_rng(seed)
        age = np.where(rng.random(num) < 0.1, np.nan, rng.normal(40, 10, num))
        return {
            "age": age,
            "kind": rng.integers(3, size=(num, 2)),
            "visits": rng.poisson(mean, (num, 1)),
            "level": rng.integers(4, size=num),
        }

    assert asked(rows(150, 0, 2.0), rows(200, 1, 2.0), space=space).p_value > 0.05
    found = asked(rows(150, 0, 2.0), rows(200, 2, 3.0), space=space)
    assert found.p_value == 0.001 and found.columns[0] == ("visits", 0)
    assert set(found.columns) == {("age",), ("kind", 0), ("kind", 1), ("visits", 0), ("level",)}


def test_units_and_the_order_of_rows_within_are_nothing():
    X, Y = normal(60, 3, 1), normal(50, 3, 2) + 0.3
    plain = asked(X, Y)
    scaled = asked(np.exp(X) * [1, 1e-6, 1e9], np.exp(Y) * [1, 1e-6, 1e9])
    for name, value in dataclasses.asdict(plain).items():
        np.testing.assert_equal(getattr(scaled, name), value)
    other = asked(X[::-1], Y, num_permutations=4999)
    assert other.p_value == pytest.approx(asked(X, Y, 1, num_permutations=4999).p_value, abs=0.03)


def test_equal_keys_give_equal_answers():
    X, Y = normal(60, 3, 1), normal(50, 3, 2) + 0.3
    first, again, another = asked(X, Y, 1), asked(X, Y, 1), asked(X, Y, 2)
    np.testing.assert_equal(dataclasses.asdict(first), dataclasses.asdict(again))
    assert first.statistic != another.statistic


def test_data_frames_give_their_names():
    pandas = pytest.importorskip("pandas")
    X = pandas.DataFrame(normal(60, 2, 1), columns=["age", "weight"])
    Y = pandas.DataFrame(normal(60, 2, 2) + np.array([0, 2]), columns=["age", "weight"])
    assert asked(X, Y).columns[0] == ("weight",)
    with pytest.raises(ValueError, match="same columns in the same order"):
        asked(X, Y[["weight", "age"]])


# ---- limits ----------------------------------------------------------------------------------


def test_rows_in_both_are_told():
    rows = normal(80, 3, 1)
    with pytest.warns(UnreliableResult, match="30 row.s. are in both"):
        found = asked(rows[:50], rows[20:])
    assert not found.reliable
    bits = (normal(80, 3, 1) > 0).astype(float)
    assert asked(bits[:50], bits[20:]).reliable  # bits repeat by chance
    assert asked(np.repeat(rows[:40], 2, axis=0), rows[40:]).reliable


def test_nothing_that_varies_is_no_difference():
    found = asked(np.ones((5, 2)), np.ones((7, 2)))
    assert found.p_value == 1 and found.divergence == 0 and found.parts == {}
    assert (found.column_p_values == 1).all()


def test_few_rows_have_a_smallest_p():
    X, Y = normal(4, 2, 1), normal(4, 2, 2) + 100
    found = asked(X, Y, num_permutations=9999)
    assert found.smallest_p == pytest.approx(2 / 70)
    assert found.p_value == pytest.approx(2 / 70, abs=0.01)


@pytest.mark.parametrize(
    ("X", "Y", "options", "words"),
    [
        (np.zeros((9, 3)), np.zeros((9, 2)), {}, "same columns"),
        ({"a": np.zeros(9)}, {"b": np.zeros(9)}, {}, "same columns"),
        (np.zeros((9, 3)), np.zeros((9, 2)), {"space": ex.Real((3,))}, "Y: expected shape"),
        (np.zeros((3, 2)), np.zeros((3, 2)), {}, "below 0.1"),
        (np.zeros((99, 2)), np.zeros((1, 2)), {}, "below 0.01, .* at least 4"),
        (np.zeros((9, 2)), np.full((9, 2), np.inf), {}, "Y: 18 value"),
        (np.zeros((9, 2)), np.full((9, 2), 2.0), {"space": ex.Binary((2,))}, "only 0 and 1"),
        (np.full((9, 2), np.nan), np.zeros((9, 2)), {"space": ex.Binary((2,))}, "X: .* NaN"),
        ({"a": np.zeros(9)}, {"a": np.zeros(9), "b": np.zeros(9)}, {}, "same columns"),
        (np.zeros((9, 2)), np.zeros((9, 2)), {"space": ex.Record(a=ex.Real(()))}, "dict with keys"),
        (np.zeros((9, 2)), np.zeros((9, 2)), {"num_permutations": 9}, "below 0.1"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_says_why(X, Y, options, words):
    with pytest.raises(ValueError, match=words):
        asked(X, Y, **options)


def test_a_seed_is_no_key():
    with pytest.raises(TypeError, match="key="):
        ex.same_distribution(np.zeros((9, 2)), np.zeros((9, 2)), key=0)
