"""Boxes and half-lines: hard walls, integrable poles, simplices, truncated shapes."""

import math

import jax.numpy as jnp
import numpy as np
from scipy import stats
from scipy.integrate import quad
from scipy.special import betaln, gammaln, i0e, log_ndtr

import energax as ex
from benchmarks._gauntlet import _check
from benchmarks._gauntlet._base import Target, box, single, target
from energax import energies, spaces

LOG_2PI = math.log(2 * math.pi)


def _independent(energy, log_z, dist, num=20_000) -> Target:
    check = _check.importance(_check.scipy(dist, energy.space.shape), num)
    return Target("bounded", energy, float(log_z), check)


@target
def uniform_box_3d():
    energy = box(lambda x: 2.0 + 0.0 * x[0], [0.0, -1.0, 5.0], [2.0, 3.0, 5.5])
    return _independent(energy, 2 + math.log(4), stats.uniform([0, -1, 5], [2, 4, 0.5]))


@target
def beta_4d():
    energy = box(lambda x: jnp.sum(jnp.log(x) + 4 * jnp.log1p(-x)), 0.0, 1.0, (4,))
    return _independent(energy, 4 * betaln(2, 5), stats.beta(2, 5))


@target
def beta_50d():
    energy = box(lambda x: jnp.sum(1.5 * jnp.log(x) + jnp.log1p(-x)), 0.0, 1.0, (50,))
    return _independent(energy, 50 * betaln(2.5, 2), stats.beta(2.5, 2))


@target
def arcsine_2d():
    """Poles at every wall that have a finite integral."""
    energy = box(lambda x: -0.5 * jnp.sum(jnp.log(x) + jnp.log1p(-x)), 0.0, 1.0, (2,))
    # Draws of scipy may round onto a wall, where the density is infinite.
    sine = _check.Proposal(
        lambda rng, num: np.sin(math.pi / 2 * rng.random((num, 2))) ** 2,
        lambda x: stats.arcsine().logpdf(x).sum(1),
    )
    return Target("bounded", energy, 2 * math.log(math.pi), _check.importance(sine, 20_000))


@target
def exponential_5d():
    rate = single(np.geomspace(0.1, 10, 5))
    r = jnp.asarray(rate)
    energy = box(lambda x: -r @ x, 0.0, jnp.inf, (5,))
    return _independent(energy, -np.log(rate).sum(), stats.expon(scale=1 / rate))


@target
def gamma_shapes_6d():
    """Shapes from 0.5, a pole at the wall, to 9."""
    shape = single([0.5, 0.8, 1.0, 2.0, 4.0, 9.0])
    a = jnp.asarray(shape)
    energy = box(lambda x: jnp.sum((a - 1) * jnp.log(x) - 2 * x), 0.0, jnp.inf, (6,))
    log_z = (gammaln(shape) - shape * math.log(2)).sum()
    return _independent(energy, log_z, stats.gamma(shape, scale=0.5))


@target
def log_normal_4d():
    energy = box(lambda x: jnp.sum(-jnp.log(x) - (jnp.log(x) - 1) ** 2 / 2), 0.0, jnp.inf, (4,))
    return _independent(energy, 2 * LOG_2PI, stats.lognorm(1.0, scale=math.e))


@target
def pareto_1d():
    energy = box(lambda x: -2.5 * jnp.log(x[0]), 1.0, jnp.inf, (1,))
    return _independent(energy, -math.log(1.5), stats.pareto(1.5))


@target
def beyond_the_wall_2d():
    """N(−1, 1) on [1, ∞): only its tail."""
    energy = box(lambda x: -0.5 * jnp.sum((x + 1) ** 2), 1.0, jnp.inf, (2,))
    return _independent(energy, LOG_2PI + 2 * log_ndtr(-2.0), stats.truncnorm(2, np.inf, -1))


@target
def truncated_normal_20d():
    """Ten coordinates below 2, ten between −1 and 3."""
    low = np.concatenate([np.full(10, -np.inf), np.full(10, -1.0)])
    high = np.concatenate([np.full(10, 2.0), np.full(10, 3.0)])
    energy = box(lambda x: -0.5 * jnp.sum((x - 1.5) ** 2), low, high)
    inside = stats.norm.cdf(high - 1.5) - stats.norm.cdf(low - 1.5)
    log_z = 10 * LOG_2PI + np.log(inside).sum()
    return _independent(energy, log_z, stats.truncnorm(low - 1.5, high - 1.5, 1.5))


@target
def slopes_30d():
    """exp(k·x) on the unit cube, k from −20 to 20: pressed against the walls."""
    slope = single(np.where(np.arange(30) % 2, 1, -1) * np.linspace(0.5, 20, 30))
    k = jnp.asarray(slope)
    energy = box(lambda x: k @ x, 0.0, 1.0, (30,))
    log_z = np.log(np.expm1(slope) / slope).sum()

    def log_p(x):
        return (slope * x - np.log(np.expm1(slope) / slope)).sum(1)

    def draw(rng, num):
        return np.log1p(rng.random((num, 30)) * np.expm1(slope)) / slope

    check = _check.importance(_check.Proposal(draw, log_p), 20_000)
    return Target("bounded", energy, float(log_z), check)


@target
def uniform_1000d():
    energy = box(lambda x: -jnp.sum(x), 0.0, 2.0, (1_000,))
    log_z = 1_000 * math.log(-math.expm1(-2))
    return _independent(energy, log_z, stats.truncexpon(2), 500)


def _dirichlet(alpha) -> Target:
    """On the corner Σx < 1 of the unit cube, −∞ beyond: a wall the box does not know."""
    alpha = single(alpha)
    a, last = jnp.asarray(alpha[:-1]), float(alpha[-1])

    def f(x):
        rest = 1 - jnp.sum(x)
        inside = (rest > 0) & jnp.all(x > 0)
        safe = jnp.where(inside, x, 0.1)
        value = jnp.sum((a - 1) * jnp.log(safe))
        value = value + (last - 1) * jnp.log(jnp.where(inside, rest, 0.1))
        return jnp.where(inside, value, -jnp.inf)

    dist = stats.dirichlet(alpha)
    proposal = _check.Proposal(
        lambda rng, num: dist.rvs(num, random_state=rng)[:, :-1],
        lambda x: dist.logpdf(np.concatenate([x, 1 - x.sum(1, keepdims=True)], 1).T),
    )
    log_z = gammaln(alpha).sum() - gammaln(alpha.sum())
    energy = box(f, 0.0, 1.0, (len(alpha) - 1,))
    return Target("bounded", energy, float(log_z), _check.importance(proposal, 20_000))


@target
def dirichlet_3d():
    return _dirichlet([2.0, 1.5, 3.0, 2.5])


@target
def dirichlet_8d():
    return _dirichlet([1.0, 2.0, 1.5, 2.5, 2.0, 3.0, 1.2, 2.2, 4.0])


@target
def ball_in_a_box_5d():
    """1 inside the unit ball, 0 outside."""
    energy = box(lambda x: jnp.where(jnp.sum(x**2) < 1, 0.0, -jnp.inf), -1.0, 1.0, (5,))
    log_z = 2.5 * math.log(math.pi) - gammaln(3.5)
    check = _check.importance(_check.scipy(stats.uniform(-1, 2), (5,)), 1_000_000)
    return Target("bounded", energy, float(log_z), check)


@target
def increasing_5d():
    """x₁ < x₂ < … < x₅ in the unit cube: volume 1/5!."""
    energy = box(lambda x: jnp.where(jnp.all(jnp.diff(x) > 0), 0.0, -jnp.inf), 0.0, 1.0, (5,))
    check = _check.importance(_check.scipy(stats.uniform(0, 1), (5,)), 1_000_000)
    return Target("bounded", energy, -math.log(math.factorial(5)), check)


@target
def orthant_3d():
    """A correlated Gaussian on the positive orthant (Sheppard's formula)."""
    correlation = np.array([[1, 0.6, -0.3], [0.6, 1, 0.2], [-0.3, 0.2, 1]])
    p = jnp.asarray(np.linalg.inv(correlation))
    energy = box(lambda x: -0.5 * x @ p @ x, 0.0, jnp.inf, (3,))
    share = 1 / 8 + np.arcsin([0.6, -0.3, 0.2]).sum() / (4 * math.pi)
    log_z = 1.5 * LOG_2PI + 0.5 * np.linalg.slogdet(correlation)[1] + math.log(share)
    return Target("bounded", energy, float(log_z), _check.grid(np.zeros(3), np.full(3, 7.0), 250))


@target
def orthant_20d():
    """All correlations ½: the orthant holds 1/21 of the Gaussian."""
    covariance = 0.5 * np.eye(20) + 0.5
    p = jnp.asarray(np.linalg.inv(covariance))
    energy = box(lambda x: -0.5 * x @ p @ x, 0.0, jnp.inf, (20,))
    log_z = 10 * LOG_2PI + 0.5 * np.linalg.slogdet(covariance)[1] - math.log(21)

    def draw(rng, num):
        # x_i = (z_i − z_0)/√2 has correlations ½; positive where z_0 is the smallest of 21.
        z = np.sort(rng.normal(size=(num, 21)), axis=1)
        rest = rng.permuted(z[:, 1:], axis=1)
        return (rest - z[:, :1]) / math.sqrt(2)

    dist = stats.multivariate_normal(np.zeros(20), covariance)
    proposal = _check.Proposal(draw, lambda x: dist.logpdf(x) + math.log(21))
    return Target("bounded", energy, float(log_z), _check.importance(proposal, 20_000))


@target
def polynomial_2d():
    """g(x, y) = 1 + x²y on [−1, 2] × [0, 3], given as a density."""
    energy = ex.from_positive(lambda x: 1 + x[0] ** 2 * x[1], spaces.Box([-1.0, 0.0], [2.0, 3.0]))
    check = _check.grid([-1, 0], [2, 3], 2_000)
    return Target("bounded", energy, math.log(9 + 3 * 4.5), check)


@target
def polynomial_6d():
    """Independent 1 + 3x² − x³ on [−0.5, 2.5] in six coordinates."""
    energy = ex.from_positive(lambda x: jnp.prod(1 + 3 * x**2 - x**3), spaces.Box(-0.5, 2.5, (6,)))
    one = (2.5 + 2.5**3 - 2.5**4 / 4) - (-0.5 - 0.5**3 - 0.5**4 / 4)
    check = _check.importance(_check.scipy(stats.uniform(-0.5, 3), (6,)), 1_000_000)
    return Target("bounded", energy, 6 * math.log(one), check)


@target
def truncated_quartic_5d():
    """exp(−x⁴ + 2x² + x/2) cut at −2 and 1.5: two wells a coordinate, one cut off."""

    def one(x):
        return -(x**4) + 2 * x**2 + 0.5 * x

    value, _ = quad(lambda x: math.exp(one(x)), -2, 1.5)
    energy = box(lambda x: jnp.sum(one(x)), -2.0, 1.5, (5,))
    check = _check.importance(_check.scipy(stats.uniform(-2, 3.5), (5,)), 2_000_000)
    return Target("bounded", energy, 5 * math.log(value), check)


@target
def cosines_2d():
    """Sixteen equal modes: exp(3 cos x + 3 cos y) on [0, 8π]²."""
    end = 8 * math.pi
    energy = box(lambda x: 3 * jnp.sum(jnp.cos(x)), 0.0, end, (2,))
    log_z = 2 * (math.log(end) + math.log(i0e(3.0)) + 3)
    return Target("bounded", energy, log_z, _check.grid([0, 0], [end, end], 2_000))


@target
def rotors_12d():
    """A chain of planar rotors: Σ 2 cos(x_i − x_{i+1}), one angle free to turn all of them."""
    energy = box(lambda x: 2 * jnp.sum(jnp.cos(x[1:] - x[:-1])), -math.pi, math.pi, (12,))
    log_z = 12 * LOG_2PI + 11 * (math.log(i0e(2.0)) + 2)

    def draw(rng, num):
        steps = rng.vonmises(0, 2.0, (num, 12))
        steps[:, 0] = rng.uniform(-math.pi, math.pi, num)
        return (np.cumsum(steps, 1) + math.pi) % (2 * math.pi) - math.pi

    def log_p(x):
        steps = (np.diff(x, axis=1) + math.pi) % (2 * math.pi) - math.pi
        return stats.vonmises(2.0).logpdf(steps).sum(1) - LOG_2PI

    check = _check.importance(_check.Proposal(draw, log_p), 20_000)
    return Target("bounded", energy, log_z, check)


@target
def mixed_ends_4d():
    """[0, ∞), (−∞, 2], [1, 3] and ℝ in one box, of different shapes."""

    def f(x):
        return (
            2 * jnp.log(x[0]) - x[0] + 1.5 * x[1]
            - 0.5 * ((x[2] - 1.2) / 0.3) ** 2 - jnp.abs(x[3] - 4)
        )  # fmt: skip

    energy = box(f, [0.0, -np.inf, 1.0, -np.inf], [np.inf, 2.0, 3.0, np.inf])
    normal = stats.norm(1.2, 0.3)
    log_z = (
        math.log(2) + 3 - math.log(1.5)
        + math.log(0.3) + LOG_2PI / 2 + math.log(normal.cdf(3) - normal.cdf(1)) + math.log(2)
    )  # fmt: skip
    columns = [
        stats.gamma(3), stats.expon(scale=1 / 1.5), stats.truncnorm(-2 / 3, 6, 1.2, 0.3),
        stats.laplace(4),
    ]  # fmt: skip

    def draw(rng, num):
        x = np.stack([d.rvs(num, random_state=rng) for d in columns], 1)
        x[:, 1] = 2 - x[:, 1]
        return x

    def log_p(x):
        y = x.copy()
        y[:, 1] = 2 - y[:, 1]
        return sum(d.logpdf(y[:, i]) for i, d in enumerate(columns))

    check = _check.importance(_check.Proposal(draw, log_p), 20_000)
    return Target("bounded", energy, log_z, check)


@target
def gamma_family_20d():
    """An exponential family, which knows its own log Z = A(η)."""
    shape, rate = single(np.linspace(1, 8, 20)), single(np.geomspace(0.2, 5, 20))
    log_z = (gammaln(shape) - shape * np.log(rate)).sum()
    return _independent(energies.Gamma(shape, rate), log_z, stats.gamma(shape, scale=1 / rate))


@target
def logit_normal_6d():
    """A normal of sd 2 through the sigmoid: mass near both walls."""

    def f(x):
        logit = jnp.log(x) - jnp.log1p(-x)
        return jnp.sum(-((logit - 0.5) ** 2) / 8 - jnp.log(x) - jnp.log1p(-x))

    energy = box(f, 0.0, 1.0, (6,))

    def draw(rng, num):
        return 1 / (1 + np.exp(-0.5 - 2 * rng.normal(size=(num, 6))))

    def log_p(x):
        return (stats.norm(0.5, 2).logpdf(np.log(x / (1 - x))) - np.log(x * (1 - x))).sum(1)

    log_z = 3 * LOG_2PI + 6 * math.log(2)
    check = _check.importance(_check.Proposal(draw, log_p), 20_000)
    return Target("bounded", energy, log_z, check)
