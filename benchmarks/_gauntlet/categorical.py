"""Categories, index-coded and one-hot, Potts models, and ordered values."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import gammaln, logsumexp

import energax as ex
from benchmarks._gauntlet import _check, _sums
from benchmarks._gauntlet._base import Target, single, target
from energax import energies, spaces


def _picked(table):
    """Σ_i table[i, x_i] of a batch of index-coded points."""
    return lambda x: table[np.arange(len(table)), x.astype(int)].sum(1)


def _one_by_one(table) -> float:
    """log Σ of independent sites by a product of sums."""
    return float(np.log(np.exp(table).sum(1)).sum())


@target
def categorical_100():
    """A hundred sites apart, five values each."""
    logits = single(np.random.default_rng(18).normal(size=(100, 5)))
    table = jnp.asarray(logits)
    energy = ex.from_log_density(
        lambda x: jnp.sum(table[jnp.arange(100), x]), spaces.Categorical((100,), 5)
    )
    check = _check.recomputed(_picked(logits), range(5), _one_by_one(logits))
    return Target("categorical", energy, float(logsumexp(logits, axis=1).sum()), check)


def _chain(sites, k, scale, seed) -> Target:
    rng = np.random.default_rng(seed)
    pair = single(rng.normal(0, scale, (k, k)))
    table = jnp.asarray(pair)
    energy = ex.from_log_density(
        lambda x: jnp.sum(table[x[:-1], x[1:]]), spaces.Categorical((sites,), k)
    )
    between = np.broadcast_to(pair, (sites - 1, k, k))
    log_z = _sums.chain(np.zeros((sites, k)), between)
    again = (sites - 1) * pair.max() + math.log(
        np.linalg.matrix_power(np.exp(pair - pair.max()), sites - 1).sum()
    )

    def f(x):
        x = x.astype(int)
        return pair[x[:, :-1], x[:, 1:]].sum(1)

    return Target("categorical", energy, log_z, _check.recomputed(f, range(k), again))


@target
def categorical_chain_60():
    return _chain(60, 6, 1.2, 17)


@target
def categorical_onehot_5():
    rng = np.random.default_rng(17)
    bias, pair = single(rng.normal(size=(5, 3))), single(rng.normal(size=(3, 3)))
    b, p = jnp.asarray(bias), jnp.asarray(pair)
    energy = ex.from_log_density(
        lambda x: jnp.sum(b * x) + jnp.sum((x[:-1] @ p) * x[1:]),
        spaces.Categorical((5,), 3, "onehot"),
    )
    log_z = _sums.chain(bias, np.broadcast_to(pair, (4, 3, 3)))
    return Target("categorical", energy, log_z, _check.enumeration)


@target
def categorical_onehot_300():
    logits = single(np.random.default_rng(19).normal(0, 1.5, (300, 6)))
    table = jnp.asarray(logits)
    energy = ex.from_log_density(
        lambda x: jnp.sum(table * x), spaces.Categorical((300,), 6, "onehot")
    )

    def check(energy):
        x = np.random.default_rng(1).integers(0, 6, (64, 300))
        gap = _check.evaluate(energy, np.eye(6)[x]) - _picked(logits)(x)
        return _one_by_one(logits), (1e-6 if abs(gap).max() < 1e-6 else -1.0)

    return Target("categorical", energy, float(logsumexp(logits, axis=1).sum()), check)


@target
def categorical_pair_300():
    """Two sites of 300 values, like each other."""
    energy = ex.from_log_density(
        lambda x: 4.0 * jnp.exp(-0.5 * ((x[0] - x[1]) / 10.0) ** 2) - x[0] / 50.0,
        spaces.Categorical((2,), 300),
    )
    a, b = np.meshgrid(np.arange(300.0), np.arange(300.0), indexing="ij")
    log_z = logsumexp(4 * np.exp(-0.5 * ((a - b) / 10) ** 2) - a / 50)
    return Target("categorical", energy, float(log_z), _check.enumeration)


def _potts(edges, k, coupling, field, encoding="index") -> Target:
    """On a graph small enough for a sum over all states."""
    num = 1 + int(np.max(edges))
    edges, coupling, field = np.asarray(edges), single(coupling), single(field)
    field = np.broadcast_to(field, (num, k))

    def f(x):
        alike = (x[:, edges[:, 0]] == x[:, edges[:, 1]]) @ coupling
        return alike + _picked(field)(x)

    energy = energies.Potts(edges, coupling, field, space=spaces.Categorical((num,), k, encoding))
    return Target("categorical", energy, _sums.summed(f, range(k), num), _check.enumeration)


@target
def potts_random_graph_11():
    rng = np.random.default_rng(20)
    edges = [(i, j) for i in range(11) for j in range(i) if rng.random() < 0.35] + [(10, 0)]
    edges = sorted({(max(e), min(e)) for e in edges})
    return _potts(edges, 3, rng.normal(0.5, 1, len(edges)), rng.normal(0, 0.4, (11, 3)))


@target
def potts_antiferromagnet_onehot_8():
    edges = [(i, j) for i, j in itertools.combinations(range(8), 2) if (i + j) % 3]
    field = np.random.default_rng(21).normal(0, 0.3, (8, 4))
    return _potts(edges, 4, np.full(len(edges), -1.5), field, "onehot")


@target
def potts_ring_200():
    """(e^J + k − 1)^n + (k − 1)(e^J − 1)^n."""
    num, k, j = 200, 5, 1.5
    log_z = num * math.log(math.exp(j) + k - 1)
    log_z += math.log1p((k - 1) * ((math.exp(j) - 1) / (math.exp(j) + k - 1)) ** num)
    again = _sums.by_rows(range(k), 1, num, lambda a, b: j * (a == b), lambda a: 0 * a - j)
    check = _check.recomputed(lambda x: j * (x == np.roll(x, -1, 1)).sum(1), range(k), again)
    return Target("categorical", energies.Potts.grid((num,), k, j), log_z, check)


def _potts_torus(width, height, k, coupling) -> Target:
    coupling = float(single(coupling))
    shape = (height, width)
    bond = lambda a, b: coupling * (a == b)
    log_z = _sums.by_rows(range(k), width, height, bond, lambda a: 0 * a)

    def f(x):
        return coupling * (
            (x == np.roll(x, -1, 1)).sum((1, 2)) + (x == np.roll(x, -1, 2)).sum((1, 2))
        )

    again = _sums.by_rows(range(k), height, width, bond, lambda a: 0 * a)
    check = _check.recomputed(f, range(k), again)
    return Target("categorical", energies.Potts.grid(shape, k, coupling), log_z, check)


@target
def potts_torus_5x6_critical():
    """Three values near log(1 + √3), where the bulk orders."""
    return _potts_torus(5, 6, 3, 1.0)


@target
def potts_torus_4x5_cold():
    return _potts_torus(4, 5, 4, 1.4)


# Ordered values


@target
def ordinal_quadratic_4():
    rng = np.random.default_rng(19)
    a = rng.normal(0, 0.2, (4, 4))
    matrix = single(a @ a.T + 0.1 * np.eye(4))
    p = jnp.asarray(matrix)
    energy = ex.from_log_density(lambda x: -(x - 2.2) @ p @ (x - 2.2), spaces.Ordinal((4,), 6))
    log_z = _sums.summed(lambda x: -(((x - 2.2) @ matrix) * (x - 2.2)).sum(1), range(6), 4)
    return Target("categorical", energy, log_z, _check.enumeration)


@target
def ordinal_two_ends_2():
    energy = ex.from_log_density(
        lambda x: 0.25 * (x[0] - 4.2) ** 2 + 0.1 * (x[1] - 3) * (x[0] - 4), spaces.Ordinal((2,), 9)
    )
    log_z = _sums.summed(
        lambda x: 0.25 * (x[:, 0] - 4.2) ** 2 + 0.1 * (x[:, 1] - 3) * (x[:, 0] - 4), range(9), 2
    )
    return Target("categorical", energy, log_z, _check.enumeration)


@target
def ordinal_walk_40():
    """Forty values of 0 to 11, each near the one before, the first near 9."""
    values = np.arange(12.0)
    site = np.zeros((40, 12))
    site[0] = -0.5 * (values - 9) ** 2
    pair = -0.25 * (values[:, None] - values) ** 2

    def f(x):
        return -0.5 * (x[:, 0] - 9) ** 2 - 0.25 * (np.diff(x, axis=1) ** 2).sum(1)

    log_z = _sums.chain(site, np.broadcast_to(pair, (39, 12, 12)))
    again = math.log(np.exp(site[0]) @ np.linalg.matrix_power(np.exp(pair), 39).sum(1))
    energy = ex.from_log_density(
        lambda x: -0.5 * (x[0] - 9) ** 2 - 0.25 * jnp.sum((x[1:] - x[:-1]) ** 2),
        spaces.Ordinal((40,), 12),
    )
    return Target("categorical", energy, log_z, _check.recomputed(f, range(12), again))


@target
def ordinal_binomial_150():
    """Binomial coefficients of 15 times e^{θx}: (1 + e^θ)^15 a site."""
    theta = single(np.linspace(-2, 2, 150))
    t = jnp.asarray(theta)

    def choose(x, lgamma):
        return lgamma(16.0) - lgamma(x + 1) - lgamma(16 - x)

    energy = ex.from_log_density(
        lambda x: jnp.sum(choose(x, jax.scipy.special.gammaln) + t * x), spaces.Ordinal((150,), 16)
    )
    values = np.arange(16.0)
    again = logsumexp(choose(values, gammaln) + theta[:, None] * values, axis=1).sum()
    check = _check.recomputed(
        lambda x: (choose(x, gammaln) + theta * x).sum(1), range(16), float(again)
    )
    return Target("categorical", energy, float(15 * np.logaddexp(0, theta).sum()), check)
