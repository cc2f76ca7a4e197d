"""Skewed and heavy-tailed densities on Real, and others that are no Gaussian but have one mode."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats
from scipy.special import gammaln

from benchmarks._gauntlet import _check
from benchmarks._gauntlet._base import Target, real, single, target


def _independent(kind, f, dim, log_z, dist) -> Target:
    check = _check.importance(_check.scipy(dist, (dim,)), 20_000)
    return Target(kind, real(f, (dim,)), float(log_z), check)


@target
def gumbel_4d():
    return _independent(
        "skewed", lambda x: jnp.sum(-(x - 1) / 2 - jnp.exp(-(x - 1) / 2)), 4,
        4 * math.log(2), stats.gumbel_r(1, 2),
    )  # fmt: skip


@target
def gumbel_50d():
    """Skewed to the other side."""
    return _independent(
        "skewed", lambda x: jnp.sum(x + 3 - jnp.exp(x + 3)), 50, 0.0, stats.gumbel_l(-3, 1)
    )


@target
def log_gamma_6d():
    """The logarithm of a Gamma variable: a y − e^y, Z = Γ(a)."""
    shape = single(np.linspace(0.3, 4, 6))
    a = jnp.asarray(shape)
    return _independent(
        "skewed", lambda x: a @ x - jnp.sum(jnp.exp(x)), 6,
        gammaln(shape).sum(), stats.loggamma(shape),
    )  # fmt: skip


@target
def skew_normal_5d():
    """φ(x)Φ(4x) without its constants."""
    return _independent(
        "skewed", lambda x: jnp.sum(-0.5 * x**2 + jax.scipy.special.log_ndtr(4 * x)), 5,
        5 * math.log(math.sqrt(2 * math.pi) / 2), stats.skewnorm(4),
    )  # fmt: skip


@target
def asymmetric_laplace_8d():
    """Falls with rate 2 to the left and 1/3 to the right of 5."""

    def f(x):
        y = x - 5
        return -jnp.sum(jnp.where(y > 0, y / 3, -2 * y))

    # scipy's rates are κ to the right and 1/κ to the left, over a scale.
    kappa, scale = math.sqrt(1 / 6), 3 * math.sqrt(1 / 6)
    return _independent(
        "skewed", f, 8, 8 * math.log(0.5 + 3), stats.laplace_asymmetric(kappa, 5, scale)
    )


@target
def logistic_20d():
    mean, scale = single(np.linspace(-5, 5, 20)), single(np.linspace(0.3, 3, 20))
    m, s = jnp.asarray(mean), jnp.asarray(scale)
    return _independent(
        "skewed", lambda x: -jnp.sum((x - m) / s + 2 * jax.nn.softplus(-(x - m) / s)), 20,
        np.log(scale).sum(), stats.logistic(mean, scale),
    )  # fmt: skip


@target
def laplace_3d():
    return _independent(
        "skewed", lambda x: -jnp.sum(jnp.abs(x - 1.5)) / 0.7, 3,
        3 * math.log(1.4), stats.laplace(1.5, 0.7),
    )  # fmt: skip


@target
def quartic_6d():
    """exp(−(x − 1)⁴): Z = 2Γ(5/4) a coordinate."""
    return _independent(
        "skewed", lambda x: -jnp.sum((x - 1) ** 4), 6,
        6 * (math.log(2) + gammaln(1.25)), stats.gennorm(4, 1),
    )  # fmt: skip


@target
def hyperbolic_secant_200d():
    return _independent(
        "skewed", lambda x: -jnp.sum(jnp.abs(x) + jnp.log1p(jnp.exp(-2 * jnp.abs(x)))), 200,
        200 * math.log(math.pi / 2), stats.hypsecant(),
    )  # fmt: skip


# Heavy tails


def _student(nu, dim, mean) -> Target:
    """Independent coordinates, (1 + (x − m)²/ν)^{−(ν+1)/2}."""
    log_z = dim * (
        0.5 * math.log(nu * math.pi) + float(gammaln(nu / 2)) - float(gammaln((nu + 1) / 2))
    )
    return _independent(
        "heavy-tailed", lambda x: -(nu + 1) / 2 * jnp.sum(jnp.log1p((x - mean) ** 2 / nu)), dim,
        log_z, stats.t(nu, mean),
    )  # fmt: skip


def _student_joint(nu, dim, mean) -> Target:
    """(1 + |x − m|²/ν)^{−(ν+d)/2}."""
    energy = real(lambda x: -(nu + dim) / 2 * jnp.log1p(jnp.sum((x - mean) ** 2) / nu), (dim,))
    log_z = dim / 2 * math.log(nu * math.pi) + gammaln(nu / 2) - gammaln((nu + dim) / 2)
    proposal = _check.joint(stats.multivariate_t(np.full(dim, mean), np.eye(dim), df=nu))
    return Target("heavy-tailed", energy, float(log_z), _check.importance(proposal, 20_000))


@target
def cauchy_1d():
    return _independent(
        "heavy-tailed", lambda x: -jnp.log1p(((x[0] - 5) / 2) ** 2), 1,
        math.log(2 * math.pi), stats.cauchy(5, 2),
    )  # fmt: skip


@target
def student_2_1d():
    return _student(2, 1, -1.0)


@target
def student_5_10d():
    return _student(5, 10, 2.0)


@target
def student_4_50d():
    return _student(4, 50, 0.0)


@target
def student_3_joint_2d():
    return _student_joint(3, 2, -1.0)


@target
def student_5_joint_5d():
    return _student_joint(5, 5, 3.0)


@target
def student_3_joint_20d():
    return _student_joint(3, 20, 0.0)
