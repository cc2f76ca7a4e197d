"""Contributions of columns against formulas by hand and against trying every value one by one."""

import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from energax import energies, random, spaces, tasks

KEY = random.key(4)
MEAN, SD = np.array([0.4, -1.5, 2.0]), np.array([0.5, 2.0, 1.2])


def independent():
    """Normal columns that have nothing to do with one another."""
    return energies.from_log_density(
        lambda x: -jnp.sum((x - MEAN) ** 2 / (2 * SD**2)), spaces.Real((3,))
    )


def by_hand(f, row, tried):
    """(contributions, best values) of one flat row, in NumPy, for values to try of each column."""
    own, gains, best = -f(row), [], []
    for site, values in enumerate(tried):
        changed = np.tile(row, (len(values), 1))
        changed[:, site] = values
        found = np.array([-f(each) for each in changed])
        gains.append(max(0.0, own - found.min()))
        best.append(values[found.argmin()] if found.min() < own else row[site])
    return np.array(gains), np.array(best)


def test_independent_columns_answer_for_themselves():
    """E_j(x_j) − the least E_j of the reference, whatever stands in the other columns."""
    rng = np.random.default_rng(0)
    reference = rng.normal(MEAN, SD, (200, 3))
    X = np.array([[0.4, -1.5, 2.0], [3.4, -1.5, 2.0], [3.4, 8.5, -1.6]])
    found = tasks.explain(independent(), X, reference=reference, num_values=200)
    E = (X - MEAN) ** 2 / (2 * SD**2)
    least = ((reference - MEAN) ** 2 / (2 * SD**2)).min(0)
    np.testing.assert_allclose(found.contributions, np.maximum(E - least, 0), atol=1e-4)
    np.testing.assert_allclose(found.energies, E.sum(1), rtol=1e-5)
    nearest = reference[np.abs(reference - MEAN).argmin(0), np.arange(3)]
    np.testing.assert_allclose(found.best[2], nearest, rtol=1e-5)
    np.testing.assert_allclose(found.best[0], X[0], rtol=1e-6)  # nothing is better: its own
    assert [place for place, _ in found.top(2)] == [(0,), (1,), (2,)]  # 18, 12.5, 4.5 nats
    assert found.top(2, 1)[0][1] == pytest.approx(18.0, abs=0.05)
    assert found.top(0) == []


def test_few_values_are_quantiles_of_each_column():
    """With 4 of 8 rows: ranks 1, 3, 5, 7 from 0, of each column by itself."""
    column = np.array([5.0, 1.0, 8.0, 3.0, 7.0, 2.0, 6.0, 4.0])
    reference = np.stack([column, -column, column + 10], 1)
    X = np.array([[30.0, 30.0, 30.0]])
    found = tasks.explain(independent(), X, reference=reference, num_values=4)
    np.testing.assert_allclose(found.best, [[2.0, -1.0, 12.0]])


def test_columns_that_depend_on_each_other():
    """A correlated normal: the best value of a column follows the others, as by hand."""
    precision = np.array([[2.0, -1.5], [-1.5, 2.0]])
    shift = np.array([0.3, -0.2])
    energy = energies.from_log_density(
        lambda x: -0.5 * (x - shift) @ jnp.asarray(precision) @ (x - shift), spaces.Real((2,))
    )
    rng = np.random.default_rng(1)
    reference = rng.normal(size=(300, 2)).round(3)
    X = rng.normal(0, 2, (20, 2)).round(3)
    found = tasks.explain(energy, X, reference=reference, num_values=300)
    tried = reference.T
    for row, gains, best in zip(X, found.contributions, found.best, strict=True):
        wanted = by_hand(lambda x: -0.5 * (x - shift) @ precision @ (x - shift), row, tried)
        np.testing.assert_allclose(gains, wanted[0], atol=1e-4)
        np.testing.assert_allclose(best, wanted[1], atol=0.03)  # near ties may fall either way


@pytest.mark.parametrize("kind", ["rbm", "function"])
def test_two_valued_columns_are_flipped(kind):
    """By one-site differences and by trying: both the brute force of all rows and columns."""
    rng = np.random.default_rng(2)
    W, a, b = rng.normal(0, 1, (5, 3)), rng.normal(0.3, 1, 5), rng.normal(-0.4, 1, 3)

    def f(x):
        return x @ a + np.logaddexp(0, b + x @ W).sum()

    rbm = energies.BernoulliRBM(weight=W, visible_bias=a, hidden_bias=b)
    energy = rbm
    if kind == "function":
        energy = energies.from_log_density(rbm.log_density, spaces.Binary((5,)))
    X = np.array(list(itertools.product([0.0, 1.0], repeat=5)))
    found = tasks.explain(energy, X)
    for row, gains, best in zip(X, found.contributions, found.best, strict=True):
        wanted = by_hand(f, row, [np.array([0.0, 1.0])] * 5)
        np.testing.assert_allclose(gains, wanted[0], atol=1e-4)
        np.testing.assert_array_equal(best, wanted[1])


@pytest.mark.parametrize("encoding", ["index", "onehot"])
def test_categories_are_one_column_however_coded(encoding):
    space = spaces.Categorical((2, 2), 3, encoding)
    table = jnp.asarray(np.random.default_rng(3).normal(size=(2, 2, 3)))

    def f(x):
        hot = x if encoding == "onehot" else jax.nn.one_hot(x, 3)
        alike = jnp.sum(hot[0, 0] * hot[1, 1])
        return jnp.sum(hot * table) + 0.7 * alike

    energy = energies.from_log_density(f, space)
    X = np.array(list(itertools.product(range(3), repeat=4))).reshape(-1, 2, 2)
    found = tasks.explain(energy, np.asarray(space.encode(jnp.asarray(X))))
    assert found.contributions.shape == found.best.shape == (81, 2, 2)

    def plain(row):
        return float(
            sum(table[i, j, int(row[2 * i + j])] for i in (0, 1) for j in (0, 1))
            + 0.7 * (row[0] == row[3])
        )

    for row in (0, 17, 44, 80):
        wanted = by_hand(plain, X[row].reshape(-1).astype(float), [np.arange(3.0)] * 4)
        np.testing.assert_allclose(found.contributions[row].ravel(), wanted[0], atol=1e-5)
        np.testing.assert_array_equal(found.best[row].ravel(), wanted[1])


def test_a_local_energy_on_categories():
    """Potts: one-site differences against the energy itself, tried value by value."""
    rng = np.random.default_rng(5)
    edges = [[0, 1], [1, 2], [3, 4], [4, 5], [0, 3]]
    space = spaces.Categorical((2, 3), 3)
    potts = energies.Potts(edges, 0.8, rng.normal(size=(2, 3, 3)), space=space)
    plain = energies.from_log_density(potts.log_density, potts.space)
    X = rng.integers(0, 3, (6, 2, 3))
    fast, slow = tasks.explain(potts, X), tasks.explain(plain, X)
    np.testing.assert_allclose(fast.contributions, slow.contributions, atol=1e-5)
    assert fast.contributions.max() > 0.5


def test_a_record_and_its_names():
    space = spaces.Record(age=spaces.Real(()), marks=spaces.Count((2,)), smoker=spaces.Binary(()))

    def f(x):
        rate = jnp.array([2.0, 5.0])
        poisson = x["marks"] * jnp.log(rate) - jax.scipy.special.gammaln(x["marks"] + 1.0)
        return -((x["age"] - 40) ** 2) / 200 + jnp.sum(poisson) - 1.25 * x["smoker"]

    energy = energies.from_log_density(f, space)
    rng = np.random.default_rng(6)
    reference = {
        "age": rng.normal(40, 10, 400),
        "marks": rng.poisson([2.0, 5.0], (400, 2)),
        "smoker": (rng.random(400) < 0.2).astype(float),
    }
    X = {"age": np.array([80.0]), "marks": np.array([[2, 15]]), "smoker": np.array([1.0])}
    found = tasks.explain(energy, X, reference=reference, num_values=64)
    assert {k: v.shape for k, v in found.contributions.items()} == {
        "age": (1,),
        "marks": (1, 2),
        "smoker": (1,),
    }
    assert found.contributions["age"][0] == pytest.approx(8.0, abs=0.01)  # 40²/200
    assert found.contributions["smoker"][0] == pytest.approx(1.25, abs=1e-4)
    log_p = 15 * np.log(5) - sum(np.log(i) for i in range(1, 16))
    best = max(k * np.log(5) - sum(np.log(i) for i in range(1, k + 1)) for k in range(10))
    assert found.contributions["marks"][0, 1] == pytest.approx(best - log_p, abs=1e-3)
    assert found.best["marks"][0, 0] in (1, 2) and found.best["smoker"][0] == 0
    places = [place for place, _ in found.top(0, 3)]
    assert places == [("age",), ("marks", 1), ("smoker",)]
    one = tasks.explain(energy, jax.tree.map(lambda a: a[0], X), reference=reference)
    assert one.contributions["marks"].shape == (1, 2)


def test_images_keep_their_shape_and_small_blocks_change_nothing(monkeypatch):
    template = np.random.default_rng(7).random((3, 4)) < 0.5
    energy = energies.from_log_density(
        lambda x: 2.0 * jnp.sum(jnp.where(template, x, 1 - x)), spaces.Binary((3, 4))
    )
    X = np.random.default_rng(8).integers(0, 2, (7, 3, 4)).astype(float)
    found = tasks.explain(energy, X)
    np.testing.assert_allclose(found.contributions, 2.0 * (template != X), atol=1e-5)
    np.testing.assert_array_equal(found.best, np.broadcast_to(template, X.shape))
    monkeypatch.setattr(sys.modules["energax.tasks.explain"], "_AT_ONCE", 40)
    again = tasks.explain(energy, X)
    np.testing.assert_allclose(again.contributions, found.contributions, atol=1e-5)
    place, nats = found.top(0)[0]
    assert len(place) == 2 and nats == pytest.approx(2.0) and X[0][place] != template[place]


def test_where_f_has_no_support():
    """Outside a disk f = −∞: a column that alone leads back in answers for all, else for none."""
    energy = energies.from_log_density(
        lambda x: jnp.where(jnp.sum(x**2) < 1, 0.0, -jnp.inf), spaces.Real((2,))
    )
    reference = np.array([[0.0, 0.1], [0.2, 0.0]])
    X = np.array([[3.0, 0.0], [3.0, 3.0], [0.1, 0.1]])
    found = tasks.explain(energy, X, reference=reference)
    np.testing.assert_array_equal(found.contributions, [[np.inf, 0.0], [0.0, 0.0], [0.0, 0.0]])


def test_what_does_not_fit_is_told():
    X = np.zeros((1, 3))
    with pytest.raises(ValueError, match="real numbers need rows"):
        tasks.explain(independent(), X)
    with pytest.raises(ValueError, match="num_values: expected a whole number from 1, got 0"):
        tasks.explain(independent(), X, reference=X, num_values=0)
    with pytest.raises(ValueError, match="reference: expected"):
        tasks.explain(independent(), X, reference=np.zeros((4, 2)))
    record = energies.from_log_density(lambda x: -(x["a"] ** 2), spaces.Record(a=spaces.Real(())))
    with pytest.raises(ValueError, match="real numbers in 'a' need rows"):
        tasks.explain(record, {"a": np.zeros(2)})
    pole = energies.from_log_density(lambda x: -jnp.log(jnp.abs(x[0])), spaces.Real((1,)))
    with pytest.raises(ValueError, match="f = inf where column 0 of row 0"):
        tasks.explain(pole, np.ones((1, 1)), reference=np.zeros((3, 1)))


def test_it_traces_once_for_rows_of_one_number():
    traced = []

    def f(x):
        traced.append(1)
        return -jnp.sum(x**2)

    energy = energies.from_log_density(f, spaces.Real((3,)))
    reference = np.random.default_rng(9).normal(size=(50, 3))
    tasks.explain(energy, reference[:5], reference=reference)
    before = len(traced)
    tasks.explain(energy, reference[5:10], reference=reference)
    assert len(traced) <= before + 1  # the check that f is a scalar traces anew
