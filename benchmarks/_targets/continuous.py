"""Real spaces: one mode, several modes, and none."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._targets._base import Target, on_grid, real, target


def _mixture(name: str, centres, scales, weights) -> Target:
    """Normal mixture, centres (k, d), scales (k,)."""
    centres, scales, weights = (np.asarray(a, float) for a in (centres, scales, weights))
    weights = weights / weights.sum()
    k, d = centres.shape
    m, s = jnp.asarray(centres), jnp.asarray(scales)
    log_w = jnp.asarray(np.log(weights) - d * np.log(scales))

    def f(x):
        return jax.nn.logsumexp(log_w - 0.5 * jnp.sum((x - m) ** 2, -1) / s**2)

    mean = weights @ centres
    var = weights @ (centres**2 + scales[:, None] ** 2) - mean**2

    def modes(x):
        distance = ((x[:, None] - centres) ** 2).sum(-1) / scales**2 + 2 * d * np.log(scales)
        return distance.argmin(1)

    # The weight of each mode's cell, which is not quite the component's where they touch.
    rng = np.random.default_rng(0)
    num = 400_000
    which = rng.choice(k, num, p=weights)
    draws = centres[which] + scales[which, None] * rng.normal(size=(num, d))
    cells = np.bincount(modes(draws), minlength=k) / num
    return Target(
        name, "multimodal", real(f, (d,)), mean, np.sqrt(var), modes, cells, unimodal=False
    )


@target
def normal_1d():
    return Target(
        "normal_1d", "real", real(lambda x: -0.5 * ((x[0] - 3) / 0.5) ** 2, (1,)),
        np.array([3.0]), np.array([0.5]),
    )  # fmt: skip


def _normal(name, precision, mean, sd):
    p, m = jnp.asarray(precision), jnp.asarray(mean)
    energy = real(lambda x: -0.5 * (x - m) @ p @ (x - m), (len(mean),))
    return Target(name, "real", energy, np.asarray(mean), np.asarray(sd))


@target
def normal_10d_correlated():
    covariance = 0.9 * np.ones((10, 10)) + 0.1 * np.eye(10)
    return _normal(
        "normal_10d_correlated", np.linalg.inv(covariance), np.linspace(-2, 3, 10), np.ones(10)
    )


@target
def normal_50d_condition_100():
    rng = np.random.default_rng(3)
    q, _ = np.linalg.qr(rng.normal(size=(50, 50)))
    values = np.geomspace(0.1, 10, 50)
    sd = np.sqrt(np.diag(q @ np.diag(values) @ q.T))
    return _normal(
        "normal_50d_condition_100", q @ np.diag(1 / values) @ q.T, rng.normal(size=50), sd
    )


@target
def normal_100d_condition_10000():
    rng = np.random.default_rng(4)
    scale = np.geomspace(0.1, 10, 100)[rng.permutation(100)]
    mean = rng.normal(size=100)
    s, m = jnp.asarray(scale), jnp.asarray(mean)
    energy = real(lambda x: -0.5 * jnp.sum(((x - m) / s) ** 2), (100,))
    return Target("normal_100d_condition_10000", "real", energy, mean, scale)


@target
def normal_60d_rotated():
    """Condition number 10⁴, along directions that are no axes."""
    rng = np.random.default_rng(5)
    q, _ = np.linalg.qr(rng.normal(size=(60, 60)))
    values = np.geomspace(0.01, 100, 60)
    sd = np.sqrt(np.diag(q @ np.diag(values) @ q.T))
    return _normal("normal_60d_rotated", q @ np.diag(1 / values) @ q.T, rng.normal(size=60), sd)


@target
def normal_1000d():
    mean = np.linspace(-1, 1, 1_000)
    m = jnp.asarray(mean)
    energy = real(lambda x: -2.0 * jnp.sum((x - m) ** 2), (1_000,))
    return Target("normal_1000d", "real", energy, mean, np.full(1_000, 0.5))


@target
def image_shaped():
    mean = np.linspace(0, 2, 16)
    m = jnp.asarray(mean).reshape(4, 4, 1)
    energy = real(lambda x: -0.5 * jnp.sum((x - m) ** 2), (4, 4, 1))
    return Target("image_shaped", "real", energy, mean, np.ones(16))


@target
def gumbel():
    energy = real(lambda x: jnp.sum(-(x - 1) / 2 - jnp.exp(-(x - 1) / 2)), (3,))
    return Target(
        "gumbel", "real", energy, np.full(3, 1 + 2 * np.euler_gamma),
        np.full(3, 2 * math.pi / math.sqrt(6)),
    )  # fmt: skip


@target
def logistic_5d():
    mean, scale = np.linspace(-5, 5, 5), np.linspace(0.3, 3, 5)
    m, s = jnp.asarray(mean), jnp.asarray(scale)
    energy = real(lambda x: -jnp.sum((x - m) / s + 2 * jax.nn.softplus(-(x - m) / s)), (5,))
    return Target("logistic_5d", "real", energy, mean, scale * math.pi / math.sqrt(3))


@target
def laplace_3d():
    energy = real(lambda x: -jnp.sum(jnp.abs(x - 1.5)) / 0.7, (3,))
    return Target("laplace_3d", "real", energy, np.full(3, 1.5), np.full(3, 0.7 * math.sqrt(2)))


@target
def quartic_6d():
    energy = real(lambda x: -jnp.sum((x - 1) ** 4), (6,))
    sd = math.sqrt(math.gamma(0.75) / math.gamma(0.25))
    return Target("quartic_6d", "real", energy, np.ones(6), np.full(6, sd))


@target
def student_5_10d():
    energy = real(lambda x: -3.0 * jnp.sum(jnp.log1p((x - 2) ** 2 / 5)), (10,))
    sd = np.full(10, math.sqrt(5 / 3))
    return Target("student_5_10d", "heavy-tailed", energy, np.full(10, 2.0), sd, heavy=True)


@target
def student_3_joint_2d():
    energy = real(lambda x: -2.5 * jnp.log1p(jnp.sum((x + 1) ** 2) / 3), (2,))
    sd = np.full(2, math.sqrt(3))
    return Target("student_3_joint_2d", "heavy-tailed", energy, -np.ones(2), sd, heavy=True)


@target
def cauchy():
    energy = real(lambda x: -jnp.log1p((x[0] - 1) ** 2), (1,))
    return Target("cauchy", "no moments", energy)


@target
def banana():
    def f(x):
        return -0.5 * (x[0] - 1) ** 2 / 4 - 0.5 * (x[1] - 0.5 * x[0] ** 2) ** 2

    second = 4 + 1  # E[x0²]
    fourth = 3 * 16 + 6 * 4 + 1
    sd = math.sqrt(1 + 0.25 * (fourth - second**2))
    return Target("banana", "real", real(f, (2,)), np.array([1, 0.5 * second]), np.array([2, sd]))


@target
def banana_20d():
    """Ten bananas side by side, each bent as the curve x² and narrow across."""

    def f(x):
        a, b = x[:10], x[10:]
        return -0.5 * jnp.sum((a - 0.5) ** 2) - 0.5 * jnp.sum(((b - a**2) / 0.4) ** 2)

    second, fourth = 1.25, 3 + 6 * 0.25 + 0.0625
    mean = np.repeat([0.5, second], 10)
    sd = np.repeat([1, math.sqrt(0.16 + fourth - second**2)], 10)
    return Target("banana_20d", "real", real(f, (20,)), mean, sd)


@target
def funnel():
    """Neal 2003: v ~ N(0, 3²), nine x ~ N(0, e^v)."""

    def f(x):
        v, rest = x[0], x[1:]
        return -(v**2) / 18 - 0.5 * jnp.sum(rest**2) * jnp.exp(-v) - 4.5 * v

    sd = np.concatenate([[3.0], np.full(9, math.exp(9 / 4))])
    return Target("funnel", "funnel", real(f, (10,)), np.zeros(10), sd, heavy=True)


@target
def mild_funnel():
    """v ~ N(1, 1), four x ~ N(0, e^v)."""

    def f(x):
        v, rest = x[0], x[1:]
        return -0.5 * (v - 1) ** 2 - 0.5 * jnp.sum(rest**2) * jnp.exp(-v) - 2.0 * v

    mean = np.array([1.0, 0, 0, 0, 0])
    sd = np.array([1.0, *[math.exp(0.75)] * 4])
    return Target("mild_funnel", "funnel", real(f, (5,)), mean, sd, heavy=True)


@target
def ring():
    def f(x):
        r = jnp.sqrt(jnp.sum(x**2) + 1e-12)
        return -0.5 * ((r - 3) / 0.3) ** 2

    r = np.linspace(1e-6, 6, 400_001)
    p = r * np.exp(-0.5 * ((r - 3) / 0.3) ** 2)
    sd = math.sqrt((p @ r**2) / p.sum() / 2)
    return Target("ring", "real", real(f, (2,)), np.zeros(2), np.full(2, sd))


@target
def two_far_1d():
    return _mixture("two_far_1d", [[-10.0], [8.0]], [1.0, 0.5], [0.27, 0.73])


@target
def two_10d():
    step = np.full(10, 4 / math.sqrt(10))
    return _mixture("two_10d", [-step, step], [1.0, 1.0], [0.4, 0.6])


@target
def two_50d():
    step = np.full(50, 5 / math.sqrt(50))
    return _mixture("two_50d", [1 - step, 1 + step], [1.0, 1.0], [0.65, 0.35])


@target
def narrow_and_wide():
    return _mixture("narrow_and_wide", [[0.0, 0.0], [4.0, 4.0]], [1.0, 0.1], [0.5, 0.5])


@target
def three_5d():
    rng = np.random.default_rng(8)
    return _mixture("three_5d", 4 * rng.normal(size=(3, 5)), [0.5, 1.0, 1.5], [0.2, 0.5, 0.3])


@target
def grid_25_2d():
    centres = 4.0 * np.array(list(itertools.product(range(-2, 3), repeat=2)))
    rng = np.random.default_rng(9)
    return _mixture("grid_25_2d", centres + 1, np.full(25, 0.5), rng.uniform(0.5, 1.5, 25))


@target
def modes_25_10d():
    rng = np.random.default_rng(10)
    centres = rng.uniform(-6, 6, (25, 10))
    return _mixture("modes_25_10d", centres, np.full(25, 1.0), rng.uniform(0.5, 1.5, 25))


@target
def double_wells_4d():
    def f(x):
        return -jnp.sum((x**2 - 3) ** 2 / 2) + 0.3 * jnp.sum(x)

    mean, sd = on_grid(lambda x: -((x**2 - 3) ** 2) / 2 + 0.3 * x, -5, 5)
    energy = real(f, (4,))
    return Target(
        "double_wells_4d", "multimodal", energy, np.full(4, mean), np.full(4, sd), unimodal=False
    )


@target
def flat():
    return Target("flat", "none", real(lambda x: 0.0 * jnp.sum(x), (2,)))


@target
def growing():
    return Target("growing", "none", real(lambda x: 0.1 * jnp.sum(x**2), (2,)))
