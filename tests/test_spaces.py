"""Spaces: what they refuse, what they list, and that their moves are symmetric."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from energax.random import key
from energax.spaces import (
    Binary,
    Box,
    Categorical,
    Count,
    Ordinal,
    Real,
    Record,
    Spin,
    flatten_points,
    num_rows,
)
from tests.exact import P_LIMIT, all_points, ks, ks_two_sample

INF = np.inf


def name(space):
    return " ".join(str(space).split())


FINITE = [
    Binary((2, 2)),
    Spin(3),
    Categorical(2, 3),
    Categorical((2, 1), 3, encoding="onehot"),
    Ordinal(2, 4),
    Record(bit=Binary(1), grade=Ordinal(1, 3), kind=Categorical(1, 3, encoding="onehot")),
]
INFINITE = [
    Real((2, 3)),
    Box([0.0, -INF, 1.0, -INF], [2.0, 3.0, INF, INF]),
    Count(2),
    Record(age=Real(()), visits=Count((2,))),
]


@pytest.mark.parametrize("space", FINITE, ids=name)
def test_states_are_all_points_once(space):
    listed = space.enumerate()
    expected = all_points(space)

    def rows(points):
        flat = [np.asarray(a).reshape(num_rows(points), -1) for a in jax.tree.leaves(points)]
        return sorted(map(tuple, np.concatenate(flat, 1).tolist()))

    assert space.num_states == num_rows(expected) == len(set(rows(listed)))
    assert rows(listed) == rows(expected)
    chunk = space.states(jnp.arange(2, 5))
    assert jax.tree.all(jax.tree.map(lambda a, b: jnp.array_equal(a, b[2:5]), chunk, listed))
    assert jax.tree.map(lambda a: np.dtype(a.dtype), listed) == space.dtype
    assert jax.tree.map(lambda a: a.shape[1:], listed) == space.shape


@pytest.mark.parametrize("space", INFINITE, ids=name)
def test_infinite_spaces_refuse_to_list_their_points(space):
    assert space.num_states is None
    with pytest.raises(TypeError, match="infinitely many"):
        space.enumerate()
    with pytest.raises(TypeError, match="infinitely many"):
        space.states(jnp.arange(2))


def test_too_many_states_are_refused_with_the_way_out():
    assert Binary(25).num_states == 2**25
    with pytest.raises(ValueError, match=r"read them in chunks with states"):
        Binary(25).enumerate()
    assert np.asarray(Binary(25).states(jnp.array([2**24 + 1]))).sum() == 2


@pytest.mark.parametrize("space", FINITE + INFINITE, ids=name)
def test_example_is_a_valid_point_and_batches_pass(space):
    point = jax.tree.map(np.asarray, space.example())
    space.validate(point, batch=False)
    back = space.validate(jax.tree.map(lambda a: np.stack([a, a]), point), batch=True)
    assert num_rows(back) == 2
    assert jax.tree.map(lambda a: a.dtype, back) == space.dtype
    assert jax.tree.map(lambda a: a.shape, point) == space.shape


def test_counts_of_sites_and_kinds():
    assert [s.num_sites for s in FINITE] == [4, 3, 2, 2, 2, 3]
    assert [s.num_states for s in FINITE] == [16, 8, 9, 9, 16, 18]
    assert not any(s.is_continuous for s in FINITE)
    assert [s.is_continuous for s in INFINITE] == [True, True, False, False]
    assert Record(a=Real(2), b=Box(0, 1, 3)).is_continuous


NAN = float("nan")
REFUSED = [
    (
        Real(2),
        np.zeros((3, 3)),
        r"shape \(rows, 2\) or \(2,\) for Real.*got shape \(3, 3\)",
    ),
    (Real(()), np.zeros((2, 2)), r"expected shape \(rows,\) or \(\)"),
    (
        Real(2),
        [[0.0, NAN], [INF, 0.0]],
        r"2 value\(s\) are NaN or infinite, .*\(0, 1\)",
    ),
    (Real(2), [[0.0, 1.0], [0.0]], "ragged"),
    (Real(2), [["a", "b"]], "expected numbers, got dtype"),
    (Real(1), np.array([[object()]]), "expected numbers, got dtype object"),
    (Box(0, 1, 2), [[0.5, 1.5]], r"between low and high.*1\.5.*index \(0, 1\) \(1 value"),
    (Box(0, INF, 2), [[0.5, -0.1]], "between low and high"),
    (Binary(2), [[0.0, -1.0]], "only 0 and 1"),
    (Spin(2), [[0.0, 1.0]], r"only -1 and \+1"),
    (Categorical(2, 3), [[0, 3]], "integers 0 to 2"),
    (Categorical(2, 3), [[0, 0.5]], "integers 0 to 2"),
    (Categorical(1, 3, "onehot"), [[[1, 1, 0]]], "exactly one 1"),
    (Categorical(1, 3, "onehot"), [[[0, 0, 0]]], "exactly one 1"),
    (Categorical(1, 3, "onehot"), [[[0, 2, -1]]], "one-hot rows"),
    (Ordinal(2, 3), [[0, -1]], "whole numbers 0 to 2"),
    (Count(2), [[0, -1]], "whole numbers from 0"),
    (Count(2), [[0, 1.5]], "whole numbers from 0"),
    (Count(1), [[2.0**31]], "whole numbers from 0"),
    (Record(a=Real(1)), np.zeros((2, 1)), r"a dict with keys \['a'\], got ndarray"),
    (Record(a=Real(1)), {"b": np.zeros((2, 1))}, r"keys \['a'\], got \['b'\]"),
    (Record(a=Real(1), b=Real(1)), {"a": np.zeros((2, 1)), "b": np.zeros((3, 1))}, "as many rows"),
    (Record(a=Real(1), b=Real(1)), {"a": np.zeros((2, 1)), "b": np.zeros(1)}, "as many rows"),
    (Record(a=Binary(1)), {"a": [[2.0]]}, r"x\['a'\]: expected only 0 and 1"),
]


@pytest.mark.parametrize(("space", "x", "said"), REFUSED)
def test_bad_data_are_refused_with_what_is_wrong(space, x, said):
    with pytest.raises(ValueError, match=said):
        space.validate(x)


def test_batch_and_point_are_told_apart():
    with pytest.raises(ValueError, match="expected one point of shape"):
        Real(2).validate(np.zeros((4, 2)), batch=False)
    with pytest.raises(ValueError, match=r"rows: expected shape \(rows, 2\) for"):
        Real(2).validate(np.zeros(2), batch=True, name="rows")
    with pytest.raises(ValueError, match="at least one row"):
        Real(2).validate(np.zeros((0, 2)), batch=True)


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: Box(1.0, 1.0), ValueError, "low < high"),
        (lambda: Box(0.0, NAN), ValueError, "low < high"),
        (lambda: Real((2, 0)), ValueError, "positive integers"),
        (lambda: Real((2.5,)), ValueError, "positive integers"),
        (lambda: Ordinal(2, 1), ValueError, "at least 2 values"),
        (lambda: Categorical(2, 3, encoding="binary"), ValueError, "encoding is"),
        (lambda: Record(), ValueError, "at least one named part"),
        (lambda: Record(a=3), TypeError, "expected a space"),
        (lambda: Record(a=Record(b=Real(1))), TypeError, "expected a space"),
    ],
)
def test_impossible_spaces_are_refused(make, error, said):
    with pytest.raises(error, match=said):
        make()


def pair_counts(space, scale, points, num, seed):
    """counts[i, j]: moves from point i to point j, `num` from each (others fall outside)."""
    x = jax.tree.map(lambda a, d: np.repeat(a, num, 0).astype(d), points, space.dtype)
    y = space.propose(x, scale, key=key(seed))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a.dtype, b.dtype), x, y)

    def rows(p):
        flat = [np.asarray(a).reshape(num_rows(p), -1) for a in jax.tree.leaves(p)]
        return [row.tobytes() for row in np.concatenate(flat, 1).astype(np.int32)]

    known = {row: i for i, row in enumerate(rows(points))}
    counts = np.zeros((len(known), len(known)), int)
    for place, row in enumerate(rows(y)):
        if row in known:
            counts[place // num, known[row]] += 1
    return counts


@pytest.mark.parametrize(
    ("space", "scale"),
    [
        (Binary(3), np.array([0.2, 0.5, 0.8])),
        (Spin(3), 0.3),
        (Categorical(2, 3), np.array([0.3, 0.7])),
        (Categorical(2, 3, encoding="onehot"), 0.4),
        (Ordinal(2, 4), np.array([0.9, 2.5])),
        (
            Record(bit=Binary(1), grade=Ordinal(1, 3), kind=Categorical(1, 3)),
            {"bit": 0.3, "grade": 1.5, "kind": 0.5},
        ),
        (Count(1), 2.0),
    ],
    ids=name,
)
def test_discrete_moves_are_symmetric(space, scale):
    # A Count is looked at on 0..7: symmetry is a statement about pairs, so a window is enough.
    points = np.arange(8)[:, None] if isinstance(space, Count) else all_points(space)
    counts = pair_counts(space, scale, points, 20_000, seed=3)
    up, down = counts[np.triu_indices(len(counts), 1)], counts.T[np.triu_indices(len(counts), 1)]
    seen = up + down > 10
    statistic = ((up - down)[seen] ** 2 / (up + down)[seen]).sum()
    assert stats.chi2.sf(statistic, seen.sum()) > P_LIMIT
    # every point leaves and is reached, so that chains do not fall apart
    assert (counts.sum(1) > counts.diagonal()).all()
    reach = np.linalg.matrix_power((counts > 0).astype(float), len(counts))
    assert (reach > 0).all()


def folded_cdf(y, start, scale, low, high):
    """CDF of a Gaussian step from `start`, folded back at the finite ends: a sum over images."""
    if np.isinf(low) and np.isinf(high):
        return stats.norm.cdf((y - start) / scale)
    if np.isinf(low):
        return 1 - folded_cdf(-y, -start, scale, -high, INF)
    shifts = [0.0] if np.isinf(high) else 2 * (high - low) * np.arange(-40, 41)
    return sum(
        stats.norm.cdf((y - start + shift) / scale)
        - stats.norm.cdf((2 * low - y - start + shift) / scale)
        for shift in shifts
    )


def test_box_moves_are_gaussian_steps_folded_at_the_finite_ends():
    low, high = np.array([0.0, -INF, 1.0, -INF, -1.0]), np.array([2.0, 3.0, INF, INF, -0.9])
    start, scale = np.array([0.3, 2.5, 1.2, 7.0, -0.93]), np.array([1.5, 1.0, 2.0, 0.3, 0.4])
    space = Box(low, high)
    y = np.asarray(space.propose(jnp.tile(jnp.asarray(start), (20_000, 1)), scale, key=key(1)))
    space.validate(y, batch=True)
    for i in range(5):
        p = ks(y[:, i], lambda v, i=i: folded_cdf(v, start[i], scale[i], low[i], high[i]))
        assert p > P_LIMIT, f"coordinate {i}"


def test_box_moves_are_symmetric():
    # Uniform x and its move y must be exchangeable: (x, y) ~ (y, x).
    space = Box(-1.0, 2.0, (1,))
    x = jax.random.uniform(key(2), (40_000, 1), minval=-1.0, maxval=2.0)
    x, y = np.asarray(x)[:, 0], np.asarray(space.propose(x, 0.8, key=key(3)))[:, 0]
    assert ks_two_sample(x[::2] * y[::2] ** 2, y[1::2] * x[1::2] ** 2) > P_LIMIT
    assert ks(y, stats.uniform(-1, 3).cdf) > P_LIMIT


def test_real_moves_scale_by_coordinate():
    x = jnp.full((10_000, 2), 3.0)
    y = np.asarray(Real(2).propose(x, jnp.array([0.5, 4.0]), key=key(4)))
    assert ks(y[:, 0], stats.norm(3, 0.5).cdf) > P_LIMIT
    assert ks(y[:, 1], stats.norm(3, 4.0).cdf) > P_LIMIT


def test_count_moves_survive_huge_steps():
    y = Count(1).propose(jnp.full((1_000, 1), 5, jnp.int32), 1e12, key=key(5))
    assert (np.asarray(y) >= 0).all()


def test_select_keeps_the_chosen_sites():
    mask = np.array([True, False, True, False])
    box = Box([[0.0, 1.0], [2.0, 3.0]], [[10.0, 11.0], [12.0, INF]]).select(mask)
    assert box.low.tolist() == [0.0, 2.0] and box.high.tolist() == [10.0, 12.0]
    assert Binary((2, 2)).select(mask) == Binary(2)
    assert Spin((2, 2)).select(mask) == Spin(2)
    assert Real((2, 2)).select(mask) == Real(2)
    assert Count((2, 2)).select(mask) == Count(2)
    assert Ordinal((2, 2), 5).select(mask) == Ordinal(2, 5)
    chosen = Categorical((2, 2), 5, encoding="onehot").select(mask)
    assert chosen == Categorical(2, 5, encoding="onehot") and chosen.shape == (2, 5)


def test_onehot_codes_and_decodes():
    space = Categorical((2, 2), 3, encoding="onehot")
    index = jnp.array([[[0, 2], [1, 1]]])
    x = space.encode(index)
    assert x.shape == (1, 2, 2, 3) and x.dtype == space.dtype
    assert jnp.array_equal(space.decode(x), index)
    assert np.asarray(x).sum(-1).tolist() == [[[1, 1], [1, 1]]]


def test_record_orders_its_names_as_jax_does():
    space = Record(z=Real(1), a=Binary(2))
    assert list(space.parts) == ["a", "z"]
    assert jax.tree.structure(space.example()) == jax.tree.structure({"z": 0, "a": 0})
    flat = flatten_points({"z": np.full((2, 3, 1), 7.0), "a": np.zeros((2, 3, 2))})
    assert flat.shape == (2, 3, 3) and (flat[..., 2] == 7).all()


def test_moves_run_under_jit_and_vmap():
    space = Record(a=Box(0.0, [1.0, INF]), b=Categorical(2, 3), c=Count(()))
    x = jax.tree.map(lambda a: jnp.stack([a] * 3), space.example())

    @jax.jit
    def move(x, scale):
        return space.propose(x, scale, key=key(0))

    for scale in (0.1, 0.7):
        space.validate(jax.tree.map(np.asarray, move(x, scale)), batch=True)
    assert move._cache_size() == 1
    stacked = jax.vmap(lambda scale: move(x, scale))(jnp.array([0.1, 0.7]))
    assert jax.tree.map(lambda a: a.shape[:2], stacked) == {"a": (2, 3), "b": (2, 3), "c": (2, 3)}


def test_space_names_itself_in_errors():
    with pytest.raises(ValueError, match=re.escape("Binary(shape=(2,))")):
        Binary(2).validate(np.zeros((1, 3)))
