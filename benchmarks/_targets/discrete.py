"""Bits, spins, categories, ordered values and counts."""

import math

import jax
import jax.numpy as jnp
import numpy as np

import energax as ex
from benchmarks._targets._base import Target, enumerated, finite, target
from energax import energies, spaces


@target
def binary_independent_50():
    logits = np.linspace(-3, 3, 50)
    b = jnp.asarray(logits)
    p = 1 / (1 + np.exp(-logits))
    energy = ex.from_log_density(lambda x: b @ x, spaces.Binary((50,)))
    return Target("binary_independent_50", "binary", energy, p, np.sqrt(p * (1 - p)))


@target
def binary_coupled_12():
    rng = np.random.default_rng(11)
    w, b = jnp.asarray(np.triu(rng.normal(0, 0.5, (12, 12)), 1)), jnp.asarray(rng.normal(size=12))
    energy = ex.from_log_density(lambda x: x @ w @ x + b @ x, spaces.Binary((12,)))
    return finite("binary_coupled_12", "binary", energy)


def _rbm(name, scale, visible, hidden, seed, **more):
    rng = np.random.default_rng(seed)
    energy = energies.BernoulliRBM(
        rng.normal(0, scale, (visible, hidden)),
        rng.normal(0, 0.5, visible),
        rng.normal(0, 0.5, hidden),
    )
    return finite(name, "binary", energy, **more)


@target
def rbm_16_8():
    return _rbm("rbm_16_8", 0.7, 16, 8, 12)


@target
def rbm_14_10_large_weights():
    return _rbm("rbm_14_10_large_weights", 3.0, 14, 10, 13, unimodal=False)


@target
def ising_4x4():
    return finite("ising_4x4", "spin", energies.Ising.grid((4, 4), 0.3, 0.1))


@target
def ising_4x4_cold():
    energy = energies.Ising.grid((4, 4), 0.6, 0.01)
    mean, sd, x, p = enumerated(energy)
    up = x.sum(1) > 0
    return Target(
        "ising_4x4_cold", "spin", energy, mean, sd, lambda x: (x.sum(1) > 0).astype(int),
        np.array([p[~up].sum(), p[up].sum()]), unimodal=False,
    )  # fmt: skip


@target
def ising_ring_1000():
    """The chain in a field, by transfer matrix (Ising 1925): m = sinh h / √(sinh²h + e^{−4J})."""
    coupling, field = 0.5, 0.3
    energy = energies.Ising.grid((1_000,), coupling, field)
    m = math.sinh(field) / math.sqrt(math.sinh(field) ** 2 + math.exp(-4 * coupling))
    return Target(
        "ising_ring_1000", "spin", energy, np.full(1_000, m), np.full(1_000, math.sqrt(1 - m**2))
    )


@target
def spin_glass_12():
    rng = np.random.default_rng(14)
    j = jnp.asarray(np.triu(rng.normal(size=(12, 12)) / math.sqrt(12), 1))
    energy = ex.from_log_density(lambda s: s @ j @ s + 0.2 * jnp.sum(s), spaces.Spin((12,)))
    return finite("spin_glass_12", "spin", energy)


@target
def spin_glass_12_cold():
    rng = np.random.default_rng(15)
    j = jnp.asarray(np.triu(rng.normal(size=(12, 12)) / math.sqrt(12), 1))
    energy = ex.from_log_density(lambda s: 3 * s @ j @ s + 0.1 * s[0], spaces.Spin((12,)))
    return finite("spin_glass_12_cold", "spin", energy, unimodal=False)


@target
def categorical_chain():
    rng = np.random.default_rng(16)
    pair = jnp.asarray(rng.normal(0, 0.8, (4, 4)))
    energy = ex.from_log_density(
        lambda x: jnp.sum(pair[x[:-1], x[1:]]), spaces.Categorical((6,), 4)
    )
    return finite("categorical_chain", "categorical", energy)


@target
def categorical_onehot():
    rng = np.random.default_rng(17)
    bias, pair = jnp.asarray(rng.normal(size=(5, 3))), jnp.asarray(rng.normal(size=(3, 3)))
    energy = ex.from_log_density(
        lambda x: jnp.sum(bias * x) + jnp.sum((x[:-1] @ pair) * x[1:]),
        spaces.Categorical((5,), 3, "onehot"),
    )
    return finite("categorical_onehot", "categorical", energy)


@target
def categorical_100():
    """A hundred sites apart, five values each."""
    rng = np.random.default_rng(18)
    logits = rng.normal(size=(100, 5))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    table = jnp.asarray(logits)
    energy = ex.from_log_density(
        lambda x: jnp.sum(table[jnp.arange(100), x]), spaces.Categorical((100,), 5)
    )
    mean = p @ np.arange(5)
    return Target(
        "categorical_100", "categorical", energy, mean, np.sqrt(p @ np.arange(5) ** 2 - mean**2)
    )


@target
def ordinal_quadratic():
    rng = np.random.default_rng(19)
    a = rng.normal(0, 0.2, (4, 4))
    p = jnp.asarray(a @ a.T + 0.1 * np.eye(4))
    energy = ex.from_log_density(lambda x: -(x - 2.2) @ p @ (x - 2.2), spaces.Ordinal((4,), 6))
    return finite("ordinal_quadratic", "categorical", energy)


@target
def ordinal_two_ends():
    energy = ex.from_log_density(
        lambda x: 0.25 * (x[0] - 4.2) ** 2 + 0.1 * (x[1] - 3) * (x[0] - 4), spaces.Ordinal((2,), 9)
    )
    mean, sd, x, p = enumerated(energy)
    return Target(
        "ordinal_two_ends", "categorical", energy, mean, sd, lambda x: (x[:, 0] > 4).astype(int),
        np.array([p[x[:, 0] <= 4].sum(), p[x[:, 0] > 4].sum()]), unimodal=False,
    )  # fmt: skip


def _poisson(name, rate):
    r = jnp.asarray(rate)
    energy = ex.from_log_density(
        lambda x: jnp.sum(x * jnp.log(r) - jax.lax.lgamma(x + 1.0)), spaces.Count((len(rate),))
    )
    return Target(name, "count", energy, np.asarray(rate), np.sqrt(rate))


@target
def poisson_5():
    return _poisson("poisson_5", np.array([0.5, 1.0, 3.0, 10.0, 200.0]))


@target
def poisson_50():
    return _poisson("poisson_50", np.geomspace(0.3, 50, 50))


@target
def geometric_3():
    p = np.array([0.9, 0.5, 0.95])
    log_p = jnp.asarray(np.log(p))
    energy = ex.from_log_density(lambda x: log_p @ x.astype(float), spaces.Count((3,)))
    return Target("geometric_3", "count", energy, p / (1 - p), np.sqrt(p) / (1 - p))
