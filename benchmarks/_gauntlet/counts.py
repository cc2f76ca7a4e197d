"""Counts: Poisson of all sizes, over- and underdispersed, mixed, coupled."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats
from scipy.special import gammaln, logsumexp, zeta

import energax as ex
from benchmarks._gauntlet import _check
from benchmarks._gauntlet._base import Target, single, target
from energax import energies, spaces

lgamma = jax.scipy.special.gammaln


def _count(f, num) -> ex.energies.AbstractEnergy:
    return ex.from_log_density(f, spaces.Count((num,)))


def _independent(f, num, log_z, dist, draws=20_000) -> Target:
    def check(energy):
        drawn = _check.scipy(dist, (num,))
        proposal = _check.Proposal(
            lambda rng, n: np.asarray(drawn.draw(rng, n), np.int32), drawn.log_p
        )
        return _check.importance(proposal, draws)(energy)

    return Target("count", _count(f, num), float(log_z), check)


def _poisson(rate) -> Target:
    rate = single(rate)
    log_r = jnp.asarray(np.log(rate))
    return _independent(
        lambda x: jnp.sum(x * log_r - lgamma(x + 1.0)), len(rate), rate.sum(),
        stats.poisson(rate), 2_000,
    )  # fmt: skip


@target
def poisson_5():
    return _poisson([0.5, 1.0, 3.0, 10.0, 200.0])


@target
def poisson_2_large():
    return _poisson([3_000.0, 20_000.0])


@target
def poisson_50():
    return _poisson(np.geomspace(0.3, 50, 50))


@target
def poisson_500():
    return _poisson(np.linspace(0.5, 8, 500))


@target
def poisson_family_20():
    """An exponential family, which knows its own log Z = A(η)."""
    rate = single(np.linspace(0.5, 30, 20))
    inner = _poisson(rate)
    return Target("count", energies.Poisson(rate), inner.log_z, inner.check)


@target
def geometric_3():
    p = single([0.9, 0.5, 0.95])
    log_p = jnp.asarray(np.log(p))
    return _independent(
        lambda x: log_p @ x.astype(float), 3, -np.log1p(-p).sum(), stats.geom(1 - p, -1)
    )


@target
def negative_binomial_10():
    """Γ(n + r)/n! pⁿ: Γ(r)(1 − p)^{−r}."""
    r, p = single(np.linspace(0.4, 8, 10)), single(np.linspace(0.9, 0.3, 10))
    rj, log_p = jnp.asarray(r), jnp.asarray(np.log(p))
    return _independent(
        lambda x: jnp.sum(lgamma(x + rj) - lgamma(x + 1.0) + x * log_p), 10,
        (gammaln(r) - r * np.log1p(-p)).sum(), stats.nbinom(r, 1 - p),
    )  # fmt: skip


@target
def conway_maxwell_8():
    """λⁿ/(n!)^ν, ν from 0.4 (overdispersed) to 3."""
    nu, log_rate = single(np.linspace(0.4, 3, 8)), single(np.linspace(0.5, 6, 8))
    v, r = jnp.asarray(nu), jnp.asarray(log_rate)
    n = np.arange(100_000.0)[:, None]
    log_z = logsumexp(n * log_rate - nu * gammaln(n + 1), axis=0).sum()
    energy = _count(lambda x: jnp.sum(x * r - v * lgamma(x + 1.0)), 8)

    def check(energy):
        """The same sum by its ratios from one count to the next, in logarithms."""
        x = np.random.default_rng(1).integers(0, 60, (64, 8))
        gap = _check.evaluate(energy, x.astype(np.int32))
        gap -= (x * log_rate - nu * gammaln(x + 1.0)).sum(1)
        again = 0.0
        for rate, power in zip(log_rate, nu, strict=True):
            steps = rate - power * np.log(np.arange(1, 20_000))
            again += logsumexp(np.concatenate([[0.0], np.cumsum(steps)]))
        return float(again), (1e-6 if abs(gap).max() < 1e-6 else -1.0)

    return Target("count", energy, float(log_z), check)


@target
def zero_inflated_6():
    """Zero in 70 of a hundred, else a Poisson count of 12."""

    def f(x):
        poisson = x * math.log(12.0) - 12.0 - lgamma(x + 1.0)
        zero = jnp.where(x == 0, math.log(0.7), -jnp.inf)
        return jnp.sum(jnp.logaddexp(zero, math.log(0.3) + poisson))

    energy = _count(f, 6)

    def check(energy):
        p = 0.3 * stats.poisson(12).pmf(np.arange(100)) + 0.7 * (np.arange(100) == 0)
        x = np.random.default_rng(1).integers(0, 20, (64, 6))
        gap = _check.evaluate(energy, x.astype(np.int32)) - np.log(p[x]).sum(1)
        return float(6 * np.log(p.sum())), (1e-6 if abs(gap).max() < 1e-6 else -1.0)

    return Target("count", energy, 0.0, check)


@target
def two_rates_3():
    """Two modes: all three counts near 4, or all near 60."""

    def f(x):
        low = jnp.sum(x * math.log(4.0) - lgamma(x + 1.0)) - 12
        high = jnp.sum(x * math.log(60.0) - lgamma(x + 1.0)) - 180
        return jnp.logaddexp(math.log(0.8) + low, math.log(2.2) + high)

    return Target("count", _count(f, 3), math.log(3.0), _check.counted(150))


@target
def competing_2():
    """Two counts that keep each other small: −0.05 x y."""

    def of(x, y, gamma):
        return (
            x * math.log(20.0) + y * math.log(15.0) - gamma(x + 1.0) - gamma(y + 1.0) - 0.05 * x * y
        )

    n = np.arange(400.0)
    log_z = logsumexp(of(n[:, None], n, gammaln))
    energy = _count(lambda x: of(x[0], x[1], lgamma), 2)
    return Target("count", energy, float(log_z), _check.counted(200))


@target
def thinned_4():
    """n₀ ~ Poisson(30), each next a binomial part of the one before, with all constants: Z = 1."""

    def f(x):
        n, m = x[:-1].astype(float), x[1:].astype(float)
        safe = jnp.maximum(n - m, 0.0)
        part = lgamma(n + 1) - lgamma(m + 1) - lgamma(safe + 1) + n * math.log(0.5)
        part = jnp.where(m <= n, part, -jnp.inf)
        return x[0] * math.log(30.0) - 30 - lgamma(x[0] + 1.0) + jnp.sum(part)

    def draw(rng, num):
        x = [rng.poisson(30, num)]
        for _ in range(3):
            x.append(rng.binomial(x[-1], 0.5))
        return np.stack(x, 1).astype(np.int32)

    def log_p(x):
        first = stats.poisson(30).logpmf(x[:, 0])
        return first + stats.binom(x[:, :-1], 0.5).logpmf(x[:, 1:]).sum(1)

    check = _check.importance(_check.Proposal(draw, log_p), 20_000)
    return Target("count", _count(f, 4), 0.0, check)


@target
def zeta_1():
    """(n + 1)^{−4}: Z = ζ(4), a heavy tail on the counts."""
    energy = _count(lambda x: -4.0 * jnp.log(x[0] + 1.0), 1)
    return Target("count", energy, math.log(zeta(4)), _check.counted(100_000))
