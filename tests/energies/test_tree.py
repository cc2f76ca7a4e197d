"""Chow-Liu trees: the best tree by brute force, probabilities and draws by enumeration."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from energax.energies._base import batched
from energax.energies.tree import ChowLiuTree
from energax.random import key
from energax.spaces import Binary
from tests.exact import P_LIMIT, all_points, enumerated

# site 0 under 3, sites 1 and 2 under 0, site 4 a root of its own; given out of order
ORDER, PARENT = [3, 0, 1, 4, 2], [3, 0, 0, 3, 4]
LOGITS = np.array([[0.4, 9.0], [-1.0, 1.5], [2.0, -0.5], [-0.7, -9.0], [0.3, -2.0]])


def by_hand(x):
    """log p(x) as a product of conditional probabilities; the roots are sites 3 and 4."""
    total = 0.0
    for i in range(5):
        logit = LOGITS[i, 0] if PARENT[i] == i else LOGITS[i, int(x[PARENT[i]])]
        p = 1 / (1 + np.exp(-logit))
        total += np.log(p if x[i] == 1 else 1 - p)
    return total


def test_a_given_tree_is_the_product_of_its_conditionals():
    tree = ChowLiuTree(Binary(5), ORDER, PARENT, LOGITS)
    x = all_points(tree.space)
    got = batched(tree, jnp.asarray(x))
    np.testing.assert_allclose(got, [by_hand(row) for row in x], atol=1e-5)
    exact = enumerated(tree)
    assert exact.log_z == pytest.approx(0.0, abs=1e-6) and float(tree.log_z) == 0.0
    assert exact.p_value(np.asarray(tree.draw(20_000, key=key(0)))) > P_LIMIT
    assert tree.edges.tolist() == [[3, 0], [0, 1], [0, 2]]


def test_gradient_is_the_exact_change_of_one_site():
    tree = ChowLiuTree(Binary(5), ORDER, PARENT, LOGITS)
    x = jnp.array([1.0, 0.0, 1.0, 1.0, 0.0])
    gradient = np.asarray(jax.grad(tree)(x))
    for i in range(5):
        change = float(tree(x.at[i].set(1 - x[i])) - tree(x))
        assert gradient[i] * float(1 - 2 * x[i]) == pytest.approx(change, abs=1e-5)


def correlated_bits(num, seed):
    """Rows (num, 2, 2) from a full table over 4 bits."""
    rng = np.random.default_rng(seed)
    table = rng.dirichlet(np.full(16, 0.4))
    index = rng.choice(16, num, p=table)
    return ((index[:, None] >> np.arange(4)) & 1).reshape(num, 2, 2)


def trees(n):
    """The parents of every labelled tree on n sites, rooted at 0."""
    for edges in itertools.combinations(itertools.combinations(range(n), 2), n - 1):
        parent, reached = np.zeros(n, int), {0}
        while len(reached) < n:
            new = [(a, b) for a, b in edges if (a in reached) != (b in reached)]
            if not new:
                break
            for a, b in new:
                child = b if a in reached else a
                parent[child] = a if child == b else b
                reached.add(child)
        if len(reached) == n:
            yield parent


@pytest.mark.parametrize("seed", range(4))
def test_fit_is_the_best_of_all_trees(seed):
    rows = correlated_bits(300, seed)
    smoothing = 1e-6  # next to none, so that counts decide
    flat = rows.reshape(len(rows), 4)

    def best_log_likelihood(parent):
        total = 0.0
        for i in range(4):
            groups = [slice(None)] if i == 0 else [flat[:, parent[i]] == v for v in (0, 1)]
            for group in groups:
                bits = flat[group, i]
                for v in (0, 1):
                    count = (bits == v).sum()
                    total += count * np.log(count / len(bits)) if count else 0.0
        return total / len(rows)

    wanted = {tuple(parent): best_log_likelihood(parent) for parent in trees(4)}
    assert len(wanted) == 16
    tree = ChowLiuTree.fit(rows, smoothing)
    got = float(np.mean(jax.vmap(tree.log_prob)(jnp.asarray(rows, float))))
    assert got == pytest.approx(max(wanted.values()), abs=1e-5)
    assert tree.space == Binary((2, 2)) and len(tree.edges) == 3


def test_smoothed_pairs_are_those_of_the_smoothed_table():
    # Every edge's joint table is (count + s/4) / (rows + s), and so its marginals agree.
    rows = correlated_bits(40, 7).reshape(40, 4)
    tree = ChowLiuTree.fit(rows, smoothing=3.0)
    exact = enumerated(tree)
    for a, b in tree.edges:
        both = exact.mean(lambda x, a=a, b=b: x[:, a] * x[:, b])
        assert both == pytest.approx((np.sum(rows[:, a] * rows[:, b]) + 0.75) / 43, abs=1e-6)
    np.testing.assert_allclose(exact.mean(), (rows.sum(0) + 1.5) / 43, atol=1e-6)


def test_constant_sites_and_single_sites_are_proper():
    rows = np.zeros((30, 3))
    rows[:, 1] = 1
    tree = ChowLiuTree.fit(rows)
    assert np.isfinite(batched(tree, jnp.asarray(all_points(tree.space)))).all()
    one = ChowLiuTree.fit(np.array([[1.0], [0.0], [1.0]]), smoothing=1e-9)
    assert float(one.log_prob(jnp.ones(1))) == pytest.approx(np.log(2 / 3), abs=1e-6)
    assert one.edges.shape == (0, 2)


def test_large_fits_follow_the_generating_tree():
    # a long chain, each site copying its neighbour 9 times in 10: the tree must find it
    rng = np.random.default_rng(3)
    n, num = 200, 2000
    flips = rng.random((num, n)) < 0.1
    flips[:, 0] = rng.random(num) < 0.5
    rows = np.cumsum(flips, 1) % 2
    tree = ChowLiuTree.fit(rows)
    assert {tuple(sorted(edge)) for edge in tree.edges.tolist()} == {
        (i, i + 1) for i in range(n - 1)
    }
    draws = np.asarray(tree.draw(4000, key=key(1)))
    assert np.abs((draws[:, 1:] != draws[:, :-1]).mean(0) - 0.1).max() < 6 * np.sqrt(0.09 / 2000)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ChowLiuTree.fit(np.full((3, 2), 0.5)), "data: expected only 0 and 1"),
        (lambda: ChowLiuTree.fit(np.zeros((3, 2)), smoothing=0.0), "positive number of rows"),
        (lambda: ChowLiuTree(Binary(2), [0, 1], [0, 0], np.zeros((2, 3))), r"shape \(2, 2\)"),
        (lambda: ChowLiuTree(Binary(2), [1, 0], [0, 0], np.zeros((2, 2))), "before its children"),
        (lambda: ChowLiuTree(Binary(2), [0, 0], [0, 0], np.zeros((2, 2))), "2 site numbers"),
        (lambda: ChowLiuTree(Binary(2), [0, 1], [0, 2], np.zeros((2, 2))), "2 site numbers"),
    ],
)
def test_impossible_trees_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
