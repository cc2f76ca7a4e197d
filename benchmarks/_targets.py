"""Distributions whose means, sds and mode weights are known, for `targets`.

Truths come from closed forms, from sums over all states, or from a fine grid; never from chains.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import energax as ex
from energax import energies, spaces
from energax.energies import AbstractEnergy


@dataclasses.dataclass(frozen=True)
class Target:
    """`mean`, `sd`: flat (coordinates in the order of JAX's leaves), None where they do not exist.

    `modes`: number of the mode of each point of a flat batch (n, coordinates), with `weights`.
    """

    name: str
    kind: str
    energy: AbstractEnergy
    mean: np.ndarray | None = None
    sd: np.ndarray | None = None
    modes: Callable[[np.ndarray], np.ndarray] | None = None
    weights: np.ndarray | None = None
    unimodal: bool = True
    heavy: bool = False  # the sd of the sample sd does not exist: only means are compared

    @property
    def has_moments(self) -> bool:
        return self.mean is not None

    @property
    def size(self) -> int:
        return self.energy.space.num_sites


_MADE: dict[str, Callable[[], Target]] = {}


def target(function: Callable[[], Target]) -> Callable[[], Target]:
    _MADE[function.__name__] = function
    return function


def names() -> list[str]:
    return list(_MADE)


def make(name: str) -> Target:
    return _MADE[name]()


def _real(f, shape) -> AbstractEnergy:
    return ex.from_log_density(f, spaces.Real(shape))


def _grid(f: Callable[[np.ndarray], np.ndarray], low: float, high: float, num: int = 400_001):
    """(mean, sd) of a density on a line, f its log (NumPy), by the trapezoid rule."""
    x = np.linspace(low, high, num)
    p = np.exp(f(x) - np.max(f(x)))
    p /= p.sum()
    mean = p @ x
    return mean, math.sqrt(p @ (x - mean) ** 2)


def _enumerated(energy: AbstractEnergy) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(mean, sd, points, probabilities) by a float64 sum over all states."""
    x = energy.space.enumerate()
    f = np.concatenate(
        [
            np.asarray(jax.jit(jax.vmap(energy.log_density))(part), np.float64)
            for part in np.array_split(np.asarray(x), max(1, len(x) // 2**14))
        ]
    )
    p = np.exp(f - f.max())
    p /= p.sum()
    flat = np.asarray(x, np.float64).reshape(len(f), -1)
    mean = p @ flat
    return mean, np.sqrt(np.maximum(p @ flat**2 - mean**2, 0)), flat, p


def _finite(name: str, kind: str, energy: AbstractEnergy, **more) -> Target:
    mean, sd, _, _ = _enumerated(energy)
    return Target(name, kind, energy, mean, sd, **more)


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
        name, "multimodal", _real(f, (d,)), mean, np.sqrt(var), modes, cells, unimodal=False
    )


# Continuous, one mode


@target
def normal_1d():
    return Target(
        "normal_1d", "real", _real(lambda x: -0.5 * ((x[0] - 3) / 0.5) ** 2, (1,)),
        np.array([3.0]), np.array([0.5]),
    )  # fmt: skip


def _normal(name, precision, mean, sd):
    p, m = jnp.asarray(precision), jnp.asarray(mean)
    energy = _real(lambda x: -0.5 * (x - m) @ p @ (x - m), (len(mean),))
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
    energy = _real(lambda x: -0.5 * jnp.sum(((x - m) / s) ** 2), (100,))
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
    energy = _real(lambda x: -2.0 * jnp.sum((x - m) ** 2), (1_000,))
    return Target("normal_1000d", "real", energy, mean, np.full(1_000, 0.5))


@target
def image_shaped():
    mean = np.linspace(0, 2, 16)
    m = jnp.asarray(mean).reshape(4, 4, 1)
    energy = _real(lambda x: -0.5 * jnp.sum((x - m) ** 2), (4, 4, 1))
    return Target("image_shaped", "real", energy, mean, np.ones(16))


@target
def gumbel():
    energy = _real(lambda x: jnp.sum(-(x - 1) / 2 - jnp.exp(-(x - 1) / 2)), (3,))
    return Target(
        "gumbel", "real", energy, np.full(3, 1 + 2 * np.euler_gamma),
        np.full(3, 2 * math.pi / math.sqrt(6)),
    )  # fmt: skip


@target
def logistic_5d():
    mean, scale = np.linspace(-5, 5, 5), np.linspace(0.3, 3, 5)
    m, s = jnp.asarray(mean), jnp.asarray(scale)
    energy = _real(lambda x: -jnp.sum((x - m) / s + 2 * jax.nn.softplus(-(x - m) / s)), (5,))
    return Target("logistic_5d", "real", energy, mean, scale * math.pi / math.sqrt(3))


@target
def laplace_3d():
    energy = _real(lambda x: -jnp.sum(jnp.abs(x - 1.5)) / 0.7, (3,))
    return Target("laplace_3d", "real", energy, np.full(3, 1.5), np.full(3, 0.7 * math.sqrt(2)))


@target
def quartic_6d():
    energy = _real(lambda x: -jnp.sum((x - 1) ** 4), (6,))
    sd = math.sqrt(math.gamma(0.75) / math.gamma(0.25))
    return Target("quartic_6d", "real", energy, np.ones(6), np.full(6, sd))


@target
def student_5_10d():
    energy = _real(lambda x: -3.0 * jnp.sum(jnp.log1p((x - 2) ** 2 / 5)), (10,))
    sd = np.full(10, math.sqrt(5 / 3))
    return Target("student_5_10d", "heavy-tailed", energy, np.full(10, 2.0), sd, heavy=True)


@target
def student_3_joint_2d():
    energy = _real(lambda x: -2.5 * jnp.log1p(jnp.sum((x + 1) ** 2) / 3), (2,))
    sd = np.full(2, math.sqrt(3))
    return Target("student_3_joint_2d", "heavy-tailed", energy, -np.ones(2), sd, heavy=True)


@target
def cauchy():
    energy = _real(lambda x: -jnp.log1p((x[0] - 1) ** 2), (1,))
    return Target("cauchy", "no moments", energy)


@target
def banana():
    def f(x):
        return -0.5 * (x[0] - 1) ** 2 / 4 - 0.5 * (x[1] - 0.5 * x[0] ** 2) ** 2

    second = 4 + 1  # E[x0²]
    fourth = 3 * 16 + 6 * 4 + 1
    sd = math.sqrt(1 + 0.25 * (fourth - second**2))
    return Target("banana", "real", _real(f, (2,)), np.array([1, 0.5 * second]), np.array([2, sd]))


@target
def banana_20d():
    """Ten bananas side by side, each bent as the curve x² and narrow across."""

    def f(x):
        a, b = x[:10], x[10:]
        return -0.5 * jnp.sum((a - 0.5) ** 2) - 0.5 * jnp.sum(((b - a**2) / 0.4) ** 2)

    second, fourth = 1.25, 3 + 6 * 0.25 + 0.0625
    mean = np.repeat([0.5, second], 10)
    sd = np.repeat([1, math.sqrt(0.16 + fourth - second**2)], 10)
    return Target("banana_20d", "real", _real(f, (20,)), mean, sd)


@target
def funnel():
    """Neal 2003: v ~ N(0, 3²), nine x ~ N(0, e^v)."""

    def f(x):
        v, rest = x[0], x[1:]
        return -(v**2) / 18 - 0.5 * jnp.sum(rest**2) * jnp.exp(-v) - 4.5 * v

    sd = np.concatenate([[3.0], np.full(9, math.exp(9 / 4))])
    return Target("funnel", "funnel", _real(f, (10,)), np.zeros(10), sd, heavy=True)


@target
def mild_funnel():
    """v ~ N(1, 1), four x ~ N(0, e^v)."""

    def f(x):
        v, rest = x[0], x[1:]
        return -0.5 * (v - 1) ** 2 - 0.5 * jnp.sum(rest**2) * jnp.exp(-v) - 2.0 * v

    mean = np.array([1.0, 0, 0, 0, 0])
    sd = np.array([1.0, *[math.exp(0.75)] * 4])
    return Target("mild_funnel", "funnel", _real(f, (5,)), mean, sd, heavy=True)


@target
def ring():
    def f(x):
        r = jnp.sqrt(jnp.sum(x**2) + 1e-12)
        return -0.5 * ((r - 3) / 0.3) ** 2

    r = np.linspace(1e-6, 6, 400_001)
    p = r * np.exp(-0.5 * ((r - 3) / 0.3) ** 2)
    sd = math.sqrt((p @ r**2) / p.sum() / 2)
    return Target("ring", "real", _real(f, (2,)), np.zeros(2), np.full(2, sd))


# Continuous, several modes


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

    mean, sd = _grid(lambda x: -((x**2 - 3) ** 2) / 2 + 0.3 * x, -5, 5)
    energy = _real(f, (4,))
    return Target(
        "double_wells_4d", "multimodal", energy, np.full(4, mean), np.full(4, sd), unimodal=False
    )


# Bounded


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
    mean, sd = _grid(lambda x: -0.5 * (x + 1) ** 2, 1, 12)
    return Target("normal_beyond_the_wall", "bounded", energy, np.full(2, mean), np.full(2, sd))


@target
def box_20d():
    """Ten coordinates below 2, ten between −1 and 3, all correlated with nothing."""
    low = np.concatenate([np.full(10, -np.inf), np.full(10, -1.0)])
    high = np.concatenate([np.full(10, 2.0), np.full(10, 3.0)])
    energy = _box(lambda x: -0.5 * jnp.sum((x - 1.5) ** 2), low, high)
    one, two = (
        _grid(lambda x: -0.5 * (x - 1.5) ** 2, -9, 2),
        _grid(lambda x: -0.5 * (x - 1.5) ** 2, -1, 3),
    )
    mean, sd = (np.repeat([a, b], 10) for a, b in zip(one, two, strict=True))
    return Target("box_20d", "bounded", energy, mean, sd)


# Binary and spin


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
    return _finite("binary_coupled_12", "binary", energy)


def _rbm(name, scale, visible, hidden, seed, **more):
    rng = np.random.default_rng(seed)
    energy = energies.BernoulliRBM(
        rng.normal(0, scale, (visible, hidden)),
        rng.normal(0, 0.5, visible),
        rng.normal(0, 0.5, hidden),
    )
    return _finite(name, "binary", energy, **more)


@target
def rbm_16_8():
    return _rbm("rbm_16_8", 0.7, 16, 8, 12)


@target
def rbm_14_10_large_weights():
    return _rbm("rbm_14_10_large_weights", 3.0, 14, 10, 13, unimodal=False)


@target
def ising_4x4():
    return _finite("ising_4x4", "spin", energies.Ising.grid((4, 4), 0.3, 0.1))


@target
def ising_4x4_cold():
    energy = energies.Ising.grid((4, 4), 0.6, 0.01)
    mean, sd, x, p = _enumerated(energy)
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
    return _finite("spin_glass_12", "spin", energy)


@target
def spin_glass_12_cold():
    rng = np.random.default_rng(15)
    j = jnp.asarray(np.triu(rng.normal(size=(12, 12)) / math.sqrt(12), 1))
    energy = ex.from_log_density(lambda s: 3 * s @ j @ s + 0.1 * s[0], spaces.Spin((12,)))
    return _finite("spin_glass_12_cold", "spin", energy, unimodal=False)


# Categories, ordered values, counts


@target
def categorical_chain():
    rng = np.random.default_rng(16)
    pair = jnp.asarray(rng.normal(0, 0.8, (4, 4)))
    energy = ex.from_log_density(
        lambda x: jnp.sum(pair[x[:-1], x[1:]]), spaces.Categorical((6,), 4)
    )
    return _finite("categorical_chain", "categorical", energy)


@target
def categorical_onehot():
    rng = np.random.default_rng(17)
    bias, pair = jnp.asarray(rng.normal(size=(5, 3))), jnp.asarray(rng.normal(size=(3, 3)))
    energy = ex.from_log_density(
        lambda x: jnp.sum(bias * x) + jnp.sum((x[:-1] @ pair) * x[1:]),
        spaces.Categorical((5,), 3, "onehot"),
    )
    return _finite("categorical_onehot", "categorical", energy)


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
    return _finite("ordinal_quadratic", "categorical", energy)


@target
def ordinal_two_ends():
    energy = ex.from_log_density(
        lambda x: 0.25 * (x[0] - 4.2) ** 2 + 0.1 * (x[1] - 3) * (x[0] - 4), spaces.Ordinal((2,), 9)
    )
    mean, sd, x, p = _enumerated(energy)
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


# Mixed


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


# No distribution at all: whatever comes back must not be called reliable


@target
def flat():
    return Target("flat", "none", _real(lambda x: 0.0 * jnp.sum(x), (2,)))


@target
def growing():
    return Target("growing", "none", _real(lambda x: 0.1 * jnp.sum(x**2), (2,)))
