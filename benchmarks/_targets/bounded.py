"""Boxes, and records of mixed parts."""

import math

import jax
import jax.numpy as jnp
import numpy as np

import energax as ex
from benchmarks._targets._base import Target, on_grid, target
from energax import spaces


def _box(f, low, high, shape=None):
    return ex.from_log_density(f, spaces.Box(low, high, shape))


@target
def uniform_box():
    energy = _box(lambda x: 0.0 * x[0], [0.0, -1.0], [2.0, 3.0])
    return Target(
        "uniform_box", "bounded", energy, np.ones(2), np.array([2.0, 4.0]) / math.sqrt(12)
    )


@target
def beta_4d():
    energy = _box(lambda x: jnp.sum(jnp.log(x) + 4 * jnp.log1p(-x)), 0.0, 1.0, (4,))
    return Target(
        "beta_4d", "bounded", energy, np.full(4, 2 / 7), np.full(4, math.sqrt(10 / (49 * 8)))
    )


@target
def arcsine():
    energy = _box(lambda x: -0.5 * jnp.sum(jnp.log(x) + jnp.log1p(-x)), 0.0, 1.0, (2,))
    return Target("arcsine", "bounded", energy, np.full(2, 0.5), np.full(2, math.sqrt(1 / 8)))


@target
def exponential_3d():
    rate = np.array([0.5, 1.0, 4.0])
    r = jnp.asarray(rate)
    return Target(
        "exponential_3d", "bounded", _box(lambda x: -r @ x, 0.0, jnp.inf, (3,)), 1 / rate, 1 / rate
    )


@target
def gamma_half():
    energy = _box(lambda x: jnp.sum(-0.5 * jnp.log(x) - 2 * x), 0.0, jnp.inf, (2,))
    return Target("gamma_half", "bounded", energy, np.full(2, 0.25), np.full(2, math.sqrt(0.125)))


@target
def normal_beyond_the_wall():
    energy = _box(lambda x: -0.5 * jnp.sum((x + 1) ** 2), 1.0, jnp.inf, (2,))
    mean, sd = on_grid(lambda x: -0.5 * (x + 1) ** 2, 1, 12)
    return Target("normal_beyond_the_wall", "bounded", energy, np.full(2, mean), np.full(2, sd))


@target
def box_20d():
    """Ten coordinates below 2, ten between −1 and 3, all correlated with nothing."""
    low = np.concatenate([np.full(10, -np.inf), np.full(10, -1.0)])
    high = np.concatenate([np.full(10, 2.0), np.full(10, 3.0)])
    energy = _box(lambda x: -0.5 * jnp.sum((x - 1.5) ** 2), low, high)
    one, two = (
        on_grid(lambda x: -0.5 * (x - 1.5) ** 2, -9, 2),
        on_grid(lambda x: -0.5 * (x - 1.5) ** 2, -1, 3),
    )
    mean, sd = (np.repeat([a, b], 10) for a, b in zip(one, two, strict=True))
    return Target("box_20d", "bounded", energy, mean, sd)


@target
def normal_with_a_switch():
    """b ~ Bernoulli(0.3), a | b ~ N(2b − 1, 0.8²): a and b in one chain."""

    def f(x):
        b = x["b"][0]
        return b * math.log(0.3 / 0.7) - 0.5 * jnp.sum((x["a"] - (2 * b - 1)) ** 2) / 0.64

    energy = ex.from_log_density(f, spaces.Record(a=spaces.Real((2,)), b=spaces.Binary((1,))))
    mean, sd = -0.4, math.sqrt(0.64 + 4 * 0.21)
    return Target(
        "normal_with_a_switch", "mixed", energy, np.array([mean, mean, 0.3]),
        np.array([sd, sd, math.sqrt(0.21)]),
    )  # fmt: skip


@target
def poisson_gamma_category():
    """c in {0, 1, 2}, r ~ Gamma(3 + c, 1), n ~ Poisson(r)."""
    prob = np.array([0.5, 0.3, 0.2])
    log_p = jnp.asarray(np.log(prob))

    def f(x):
        c, r, n = x["c"][0], x["r"][0], x["n"][0]
        shape = 3.0 + c
        gamma = (shape - 1) * jnp.log(r) - r - jax.lax.lgamma(shape)
        return log_p[c] + gamma + n * jnp.log(r) - r - jax.lax.lgamma(n + 1.0)

    energy = ex.from_log_density(
        f,
        spaces.Record(
            c=spaces.Categorical((1,), 3), n=spaces.Count((1,)), r=spaces.Box(0.0, jnp.inf, (1,))
        ),
    )
    c = prob @ np.arange(3)
    var_c = prob @ np.arange(3) ** 2 - c**2
    rate, var_r = 3 + c, 3 + c + var_c
    return Target(
        "poisson_gamma_category", "mixed", energy, np.array([c, rate, rate]),
        np.sqrt([var_c, rate + var_r, var_r]),
    )  # fmt: skip


@target
def ordinal_and_box():
    """u uniform in [0, 1], k | u binomial(4, u): k is uniform on 0 … 4."""

    def f(x):
        u, k = x["u"][0], x["k"][0]
        choose = jax.lax.lgamma(5.0) - jax.lax.lgamma(k + 1) - jax.lax.lgamma(5 - k)
        return choose + k * jnp.log(u) + (4 - k) * jnp.log1p(-u)

    energy = ex.from_log_density(
        f, spaces.Record(k=spaces.Ordinal((1,), 5), u=spaces.Box(0.0, 1.0, (1,)))
    )
    return Target(
        "ordinal_and_box", "mixed", energy, np.array([2.0, 0.5]),
        np.array([math.sqrt(2), math.sqrt(1 / 12)]),
    )  # fmt: skip
