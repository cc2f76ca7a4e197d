"""Several modes, from 1 to 50 dimensions."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats
from scipy.integrate import quad
from scipy.special import logsumexp

from benchmarks._gauntlet import _check
from benchmarks._gauntlet._base import Target, real, single, target


def _mixture(centres, scales, weights, constant=0.0) -> Target:
    """e^constant Σ w_k N(x; m_k, s_k²), weights as they are: Z = e^constant Σ w."""
    centres, scales, weights = (single(a) for a in (centres, scales, weights))
    k, d = centres.shape
    scales = np.broadcast_to(scales, (k,))
    m, s = jnp.asarray(centres), jnp.asarray(scales)
    gains = np.log(weights) - d * np.log(scales) - d / 2 * math.log(2 * math.pi) + constant
    log_w = jnp.asarray(gains)

    def f(x):
        return jax.nn.logsumexp(log_w - 0.5 * jnp.sum((x - m) ** 2, -1) / s**2)

    def draw(rng, num):
        which = rng.choice(k, num, p=weights / weights.sum())
        return centres[which] + scales[which, None] * rng.normal(size=(num, d))

    def log_p(x):
        each = [
            math.log(w / weights.sum()) + stats.norm(c, s).logpdf(x).sum(1)
            for c, s, w in zip(centres, scales, weights, strict=True)
        ]
        return logsumexp(each, axis=0)

    check = _check.importance(_check.Proposal(draw, log_p), 20_000)
    return Target("multimodal", real(f, (d,)), constant + math.log(weights.sum()), check)


@target
def two_far_1d():
    return _mixture([[-10.0], [8.0]], [1.0, 0.5], [0.27, 0.73])


@target
def two_2d():
    return _mixture([[-3.0, 0.0], [3.0, 1.0]], [0.7, 0.7], [2.0, 5.0])


@target
def narrow_and_wide_2d():
    return _mixture([[0.0, 0.0], [4.0, 4.0]], [1.0, 0.1], [0.5, 0.5], 4.0)


@target
def eight_on_a_ring_2d():
    angle = np.arange(8) * math.pi / 4
    return _mixture(8 * np.stack([np.cos(angle), np.sin(angle)], 1), [0.6], np.ones(8))


@target
def grid_25_2d():
    centres = 4.0 * np.array(list(itertools.product(range(-2, 3), repeat=2)))
    weights = np.random.default_rng(9).uniform(0.5, 1.5, 25)
    return _mixture(centres + 1, [0.5], weights, -2.0)


@target
def five_3d():
    centres = 4 * np.random.default_rng(20).normal(size=(5, 3))
    return _mixture(centres, [0.4, 0.8, 1.0, 1.2, 0.5], [1, 2, 3, 1, 1])


@target
def three_5d():
    centres = 4 * np.random.default_rng(8).normal(size=(3, 5))
    return _mixture(centres, [0.5, 1.0, 1.5], [0.2, 0.5, 0.3], 1.0)


@target
def six_8d():
    centres = np.random.default_rng(22).uniform(-4, 4, (6, 8))
    return _mixture(centres, [0.8], np.arange(1, 7))


@target
def two_10d():
    step = np.full(10, 4 / math.sqrt(10))
    return _mixture([-step, step], [1.0], [0.4, 0.6], 10.0)


@target
def modes_25_10d():
    rng = np.random.default_rng(10)
    return _mixture(rng.uniform(-6, 6, (25, 10)), [1.0], rng.uniform(0.5, 1.5, 25))


@target
def two_50d():
    step = np.full(50, 5 / math.sqrt(50))
    return _mixture([1 - step, 1 + step], [1.0], [0.65, 0.35])


def _wells(name_f, dim, log_f) -> Target:
    """Independent coordinates, the integral of one by quadrature; checked by the midpoint rule."""
    value, _ = quad(lambda x: math.exp(log_f(x)), -8, 8, points=[-1.7, 1.7], limit=500)
    x = np.linspace(-8, 8, 200_001)
    again = dim * math.log(np.exp(log_f(x)).sum() * (x[1] - x[0]))
    check = _check.recomputed(lambda p: log_f(p).sum(1), np.linspace(-3, 3, 50), again)
    return Target("multimodal", real(name_f, (dim,)), dim * math.log(value), check)


@target
def double_wells_4d():
    def one(x):
        return -((x**2 - 3) ** 2) / 2 + 0.3 * x

    return _wells(lambda x: jnp.sum(one(x)), 4, one)


@target
def double_wells_20d():
    """A million modes, low barriers."""

    def one(x):
        return -((x**2 - 2) ** 2) / 2 - 0.2 * x

    return _wells(lambda x: jnp.sum(one(x)), 20, one)


@target
def two_students_6d():
    """Heavy tails and two modes: 0.3 and 1.7 of a joint Student t with 5 degrees of freedom."""
    nu, dim = 5, 6
    shift = np.full(dim, 3.0)
    one, two = (stats.multivariate_t(m, np.eye(dim), df=nu) for m in (-shift, shift))
    constant = float(one.logpdf(-shift))

    def log_t(x):
        return constant - (nu + dim) / 2 * jnp.log1p(jnp.sum(x**2) / nu)

    def f(x):
        return jnp.logaddexp(math.log(0.3) + log_t(x + 3), math.log(1.7) + log_t(x - 3))

    def draw(rng, num):
        up = rng.random(num)[:, None] < 0.5
        a, b = (d.rvs(num, random_state=rng) for d in (one, two))
        return np.where(up, a, b)

    def log_p(x):
        return np.logaddexp(one.logpdf(x), two.logpdf(x)) - math.log(2)

    check = _check.importance(_check.Proposal(draw, log_p), 400_000)
    return Target("multimodal", real(f, (dim,)), math.log(2.0), check)
