"""Bits: independent, coupled, in chains, all alike, and Boltzmann machines of every size."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats
from scipy.special import gammaln, logsumexp

import energax as ex
from benchmarks._gauntlet import _check, _sums
from benchmarks._gauntlet._base import Target, single, target
from energax import energies, spaces


def _binary(f, num) -> ex.energies.AbstractEnergy:
    return ex.from_log_density(f, spaces.Binary((num,)))


def _independent(logits, kind="binary") -> Target:
    logits = single(logits)
    b = jnp.asarray(logits)
    proposal = _check.scipy(stats.bernoulli(1 / (1 + np.exp(-logits))), logits.shape)
    check = _check.importance(proposal, 2_000)
    energy = _binary(lambda x: b @ x, len(logits))
    return Target(kind, energy, float(np.logaddexp(0, logits).sum()), check)


@target
def binary_independent_50():
    return _independent(np.linspace(-3, 3, 50))


@target
def binary_independent_2000():
    return _independent(np.random.default_rng(1).normal(0, 2, 2_000))


def _coupled(num, scale, seed) -> Target:
    rng = np.random.default_rng(seed)
    weight = single(np.triu(rng.normal(0, scale, (num, num)), 1))
    bias = single(rng.normal(size=num))
    w, b = jnp.asarray(weight), jnp.asarray(bias)
    log_z = _sums.summed(lambda x: ((x @ weight) * x).sum(1) + x @ bias, (0, 1), num)
    energy = _binary(lambda x: x @ w @ x + b @ x, num)
    return Target("binary", energy, log_z, _check.enumeration)


@target
def binary_coupled_12():
    return _coupled(12, 0.5, 11)


@target
def binary_coupled_18():
    return _coupled(18, 1.0, 12)


@target
def binary_parity_14():
    """An odd number of ones costs 3 nats."""
    energy = _binary(lambda x: -3.0 * jnp.mod(jnp.sum(x), 2), 14)
    return Target("binary", energy, 13 * math.log(2) + math.log1p(math.exp(-3)), _check.enumeration)


@target
def binary_chain_100():
    """Neighbours that like to be alike or not, with biases."""
    rng = np.random.default_rng(13)
    pair, bias = single(rng.normal(0, 1.5, 99)), single(rng.normal(0, 1, 100))
    w, b = jnp.asarray(pair), jnp.asarray(bias)
    site = bias[:, None] * np.array([0.0, 1.0])
    between = pair[:, None, None] * np.outer([0.0, 1.0], [0.0, 1.0])
    log_z = _sums.chain(site, between)
    # Again from the right to the left, two numbers at a time.
    off, on = 0.0, bias[-1]
    for i in range(98, -1, -1):
        off, on = np.logaddexp(off, on), bias[i] + np.logaddexp(off, pair[i] + on)
    check = _check.recomputed(
        lambda x: x @ bias + (x[:, 1:] * x[:, :-1]) @ pair, (0, 1), float(np.logaddexp(off, on))
    )
    energy = _binary(lambda x: b @ x + w @ (x[1:] * x[:-1]), 100)
    return Target("binary", energy, log_z, check)


@target
def binary_count_coupled_150():
    """f depends on the number of ones alone, and has two modes in it."""

    def of(n):
        share = n / 150
        return 30 * (share - 0.5) ** 2 - 20 * (share - 0.5) ** 4

    n = np.arange(151)
    choose = gammaln(151) - gammaln(n + 1) - gammaln(151 - n)
    polynomial = np.array([1.0])
    for _ in range(150):
        polynomial = np.convolve(polynomial, [0.5, 0.5])
    again = 150 * math.log(2) + math.log(polynomial @ np.exp(of(n)))
    check = _check.recomputed(lambda x: of(x.sum(1)), (0, 1), again)
    energy = _binary(lambda x: of(jnp.sum(x)), 150)
    return Target("binary", energy, float(logsumexp(choose + of(n))), check)


# Restricted Boltzmann machines


def _rbm(weight, visible_bias, hidden_bias, *, wrap=None, kind="rbm") -> Target:
    w, b, c = single(weight), single(visible_bias), single(hidden_bias)
    energy = energies.BernoulliRBM(w, b, c)
    log_z = _sums.rbm(w, b, c)
    return Target(kind, energy if wrap is None else wrap(energy), log_z, _mixed(w, b, c, log_z))


def _mixed(w, b, c, log_z):
    """The RBM as a mixture over hidden states of independent bits: log f(v) − log q(v) = log Z.

    q(v) = Σ_h q(h) Π_i q(v_i | h) is normalised whatever log Z is; q(h) sums to 1 by itself.
    """
    visible, hidden = w.shape
    if visible < hidden:
        return _check.enumeration if visible <= 20 else None
    h = _sums.states((0, 1), hidden)
    size = max(1, 2**22 // visible)
    log_q = np.concatenate(
        [
            part @ c + np.logaddexp(0, part @ w.T + b).sum(1)
            for part in np.array_split(h, max(1, len(h) // size))
        ]
    )
    log_q -= logsumexp(log_q)

    def check(energy):
        rng = np.random.default_rng(0)
        chosen = h[rng.choice(len(h), 16, p=np.exp(log_q))]
        v = (rng.random((16, visible)) < 1 / (1 + np.exp(-(chosen @ w.T + b)))).astype(float)
        terms = []
        for part, weight in zip(
            np.array_split(h, max(1, len(h) // size)),
            np.array_split(log_q, max(1, len(h) // size)),
            strict=True,
        ):
            field = part @ w.T + b
            terms.append(weight + v @ field.T - np.logaddexp(0, field).sum(1))
        gap = _check.evaluate(energy, v) - logsumexp(np.concatenate(terms, 1), axis=1)
        return float(gap.mean()), float(np.ptp(gap)) + 1e-6

    return check


def _random(visible, hidden, scale, seed, bias=0.5, **more) -> Target:
    rng = np.random.default_rng(seed)
    return _rbm(
        rng.normal(0, scale, (visible, hidden)), rng.normal(0, bias, visible),
        rng.normal(0, bias, hidden), **more,
    )  # fmt: skip


@target
def rbm_16_8():
    return _random(16, 8, 0.7, 12)


@target
def rbm_14_10_large_weights():
    return _random(14, 10, 3.0, 13)


@target
def rbm_100_12_large_weights():
    return _random(100, 12, 0.8, 14)


@target
def rbm_784_12():
    return _random(784, 12, 0.1, 15)


@target
def rbm_784_16_dark():
    """Mostly dark pixels and strokes: features of large weight on patches of an image."""
    rng = np.random.default_rng(16)
    place = np.stack(np.meshgrid(np.arange(28), np.arange(28), indexing="ij"), -1).reshape(-1, 1, 2)
    centre = rng.uniform(6, 22, (16, 2))
    weight = 4 * np.exp(-((place - centre) ** 2).sum(-1) / 18) - 0.1
    weight += rng.normal(0, 0.05, weight.shape)
    return _rbm(weight, np.full(784, -3.0), rng.normal(-1, 0.5, 16))


@target
def rbm_14_300():
    """The visible side is the smaller one."""
    return _random(14, 300, 0.2, 17)


@target
def rbm_2000_8():
    return _random(2_000, 8, 0.05, 18)


@target
def rbm_as_function_60_12():
    """The free energy of an RBM as a plain function: nothing tells that it is one."""
    rng = np.random.default_rng(19)
    w, b, c = (single(rng.normal(0, s, shape)) for s, shape in ((0.5, (60, 12)), (1, 60), (1, 12)))
    wj, bj, cj = map(jnp.asarray, (w, b, c))
    return _rbm(
        w, b, c, wrap=lambda _: _binary(
            lambda v: bj @ v + jnp.sum(jax.nn.softplus(cj + v @ wj)), 60
        ),
    )  # fmt: skip


@target
def rbm_product_50():
    """Two RBMs multiplied are one with the hidden units of both."""
    rng = np.random.default_rng(20)
    w, b, c = single(rng.normal(0, 0.6, (50, 12))), single(rng.normal(0, 0.5, 50)), np.zeros(12)

    def both(_):
        return energies.Product(
            energies.BernoulliRBM(w[:, :5], b, c[:5]), energies.BernoulliRBM(w[:, 5:], 0.0, c[5:])
        )

    return _rbm(w, b, c, wrap=both)


@target
def rbm_conditional_40():
    """Fifteen of 55 visible units given, some on."""
    rng = np.random.default_rng(21)
    w, b = single(rng.normal(0, 0.7, (55, 10))), single(rng.normal(0, 0.5, 55))
    c = single(rng.normal(0, 0.5, 10))
    given = np.full(55, np.nan)
    given[:15] = rng.integers(0, 2, 15)
    energy = energies.BernoulliRBM(w, b, c).condition(x=given)
    # The given units enter as a constant and as a bias of the hidden ones.
    log_z = given[:15] @ b[:15] + _sums.rbm(w[15:], b[15:], c + given[:15] @ w[:15])
    inner = _mixed(w[15:], b[15:], c + given[:15] @ w[:15], log_z)
    return Target("rbm", energy, float(log_z), inner)


@target
def rbm_tempered_16():
    """The free energy of an RBM times 0.4, which is no RBM."""
    rng = np.random.default_rng(22)
    w, b, c = single(rng.normal(0, 1.5, (16, 30))), single(rng.normal(0, 1, 16)), np.zeros(30)
    beta = float(single(0.4))
    log_z = _sums.summed(
        lambda v: beta * (v @ b + np.logaddexp(0, v @ w + c).sum(1)), (0, 1), 16, 2**13
    )
    energy = energies.Tempered(energies.BernoulliRBM(w, b, c), beta)
    return Target("rbm", energy, log_z, _check.enumeration)
