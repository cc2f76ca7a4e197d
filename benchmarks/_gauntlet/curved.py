"""Bananas, funnels, rings and shells: volume-preserving bends of a Gaussian keep its Z."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats
from scipy.integrate import quad
from scipy.special import gammaln

from benchmarks._gauntlet import _check
from benchmarks._gauntlet._base import Target, real, target

LOG_2PI = math.log(2 * math.pi)


def _bent(f, dim, log_z, scale, bend, unbend) -> Target:
    """x = bend(z), z ~ N(0, scale²), with |det| = 1; checked density by density."""
    scale = np.broadcast_to(np.asarray(scale, float), (dim,))

    def log_p(x):
        return stats.norm(0, scale).logpdf(unbend(x)).sum(1)

    proposal = _check.Proposal(lambda rng, num: bend(scale * rng.normal(size=(num, dim))), log_p)
    return Target("curved", real(f, (dim,)), float(log_z), _check.importance(proposal, 20_000))


@target
def banana_2d():
    def f(x):
        return -0.5 * (x[0] - 1) ** 2 / 4 - 0.5 * (x[1] - 0.5 * x[0] ** 2) ** 2

    # The grid knows nothing of bends.
    check = _check.grid([-14.0, -7.0], [16.0, 135.0], 6_000)
    return Target("curved", real(f, (2,)), LOG_2PI + math.log(2), check)


@target
def banana_20d():
    """Ten bananas side by side, each bent as the curve x² and narrow across."""

    def f(x):
        a, b = x[:10], x[10:]
        return -0.5 * jnp.sum((a - 0.5) ** 2) - 0.5 * jnp.sum(((b - a**2) / 0.4) ** 2)

    def bend(z):
        a = z[:, :10] + 0.5
        return np.concatenate([a, z[:, 10:] + a**2], 1)

    def unbend(x):
        return np.concatenate([x[:, :10] - 0.5, x[:, 10:] - x[:, :10] ** 2], 1)

    scale = np.repeat([1.0, 0.4], 10)
    return _bent(f, 20, 10 * LOG_2PI + 10 * math.log(0.4), scale, bend, unbend)


@target
def rosenbrock_2d():
    """100 (y − x²)² + (1 − x)² over 5."""

    def f(x):
        return -20.0 * (x[1] - x[0] ** 2) ** 2 - 0.2 * (1 - x[0]) ** 2

    log_z = 0.5 * math.log(math.pi / 20) + 0.5 * math.log(math.pi / 0.2)
    return Target("curved", real(f, (2,)), log_z, _check.grid([-10, -2], [12, 150], 8_000))


@target
def sine_chain_10d():
    """Each coordinate about twice the sine of the one before."""

    def f(x):
        return -0.5 * x[0] ** 2 - 0.5 * jnp.sum(((x[1:] - 2 * jnp.sin(x[:-1])) / 0.3) ** 2)

    def bend(z):
        x = z.copy()
        for i in range(1, 10):
            x[:, i] += 2 * np.sin(x[:, i - 1])
        return x

    def unbend(x):
        return np.concatenate([x[:, :1], x[:, 1:] - 2 * np.sin(x[:, :-1])], 1)

    scale = np.array([1.0] + [0.3] * 9)
    return _bent(f, 10, 5 * LOG_2PI + 9 * math.log(0.3), scale, bend, unbend)


@target
def spiral_2d():
    """N(0, diag(3, 0.4)²) turned by an angle that grows with the radius."""

    def f(x):
        r = jnp.sqrt(jnp.sum(x**2) + 1e-12)
        c, s = jnp.cos(r), jnp.sin(r)
        return -0.5 * ((c * x[0] + s * x[1]) / 3) ** 2 - 0.5 * ((c * x[1] - s * x[0]) / 0.4) ** 2

    check = _check.grid([-20, -20], [20, 20], 6_000)
    return Target("curved", real(f, (2,)), LOG_2PI + math.log(1.2), check)


def _funnel(mean, sd, dim) -> Target:
    """v ~ N(m, s²), the rest ~ N(0, e^v), with all constants: Z = 1."""
    rest = dim - 1
    constant = -math.log(sd) - dim / 2 * LOG_2PI

    def f(x):
        v = x[0]
        return (
            constant - 0.5 * ((v - mean) / sd) ** 2
            - 0.5 * jnp.sum(x[1:] ** 2) * jnp.exp(-v) - rest / 2 * v
        )  # fmt: skip

    def draw(rng, num):
        v = mean + sd * rng.normal(size=(num, 1))
        return np.concatenate([v, np.exp(v / 2) * rng.normal(size=(num, rest))], 1)

    def log_p(x):
        spread = np.exp(x[:, :1] / 2)
        return stats.norm(mean, sd).logpdf(x[:, 0]) + stats.norm(0, spread).logpdf(x[:, 1:]).sum(1)

    check = _check.importance(_check.Proposal(draw, log_p), 20_000)
    return Target("curved", real(f, (dim,)), 0.0, check)


@target
def funnel_mild_5d():
    return _funnel(1.0, 1.0, 5)


@target
def funnel_neal_10d():
    """Neal 2003, section 8."""
    return _funnel(0.0, 3.0, 10)


def _shell(dim, radius, width) -> Target:
    """exp(−½((|x| − r)/w)²): the surface of the sphere times an integral over the radius."""

    def f(x):
        r = jnp.sqrt(jnp.sum(x**2) + 1e-12)
        return -0.5 * ((r - radius) / width) ** 2

    def along(r):
        return (dim - 1) * np.log(r) - 0.5 * ((r - radius) / width) ** 2

    top = (radius + math.sqrt(radius**2 + 4 * (dim - 1) * width**2)) / 2
    scale = float(along(top))
    value, _ = quad(
        lambda r: math.exp(along(r) - scale), 1e-9, top + 12 * width, points=[top], limit=500
    )
    surface = math.log(2) + dim / 2 * math.log(math.pi) - gammaln(dim / 2)

    def draw(rng, num):
        r = stats.truncnorm(-top / width, np.inf, top, width).rvs(num, random_state=rng)
        u = rng.normal(size=(num, dim))
        return r[:, None] * u / np.linalg.norm(u, axis=1, keepdims=True)

    def log_p(x):
        r = np.linalg.norm(x, axis=1)
        radial = stats.truncnorm(-top / width, np.inf, top, width).logpdf(r)
        return radial - (dim - 1) * np.log(r) - surface

    check = _check.importance(_check.Proposal(draw, log_p), 200_000)
    if dim == 2:
        reach = radius + 10 * width
        check = _check.grid([-reach, -reach], [reach, reach], 4_000)
    return Target("curved", real(f, (dim,)), float(surface + scale + math.log(value)), check)


@target
def ring_2d():
    return _shell(2, 3.0, 0.3)


@target
def shell_10d():
    return _shell(10, 5.0, 0.3)


@target
def shell_50d():
    return _shell(50, 10.0, 0.5)


@target
def two_layers_6d():
    """A random network's shear of half the coordinates by the others, volume kept."""
    rng = np.random.default_rng(6)
    inner, outer = rng.normal(0, 1, (8, 3)), rng.normal(0, 0.7, (3, 8))
    a, b = jnp.asarray(inner), jnp.asarray(outer)

    def f(x):
        shift = b @ jax.nn.tanh(a @ x[:3])
        return 7.0 - 0.5 * jnp.sum(x[:3] ** 2) - 2.0 * jnp.sum((x[3:] - shift) ** 2)

    def shift(x):
        return np.tanh(x[:, :3] @ inner.T) @ outer.T

    def bend(z):
        return np.concatenate([z[:, :3], z[:, 3:] + shift(z)], 1)

    def unbend(x):
        return np.concatenate([x[:, :3], x[:, 3:] - shift(x)], 1)

    return _bent(f, 6, 7 + 3 * LOG_2PI - 3 * math.log(2), np.repeat([1.0, 0.5], 3), bend, unbend)
