"""On every space the default `sample` and `log_z` agree with enumeration or a closed form.

Parameters are off the origin: shifted, scaled, asymmetric. A wrong answer called reliable fails; so
does a simple case called unreliable.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import gammaln

import energax as ex
from tests.exact import enumerated, integrated

RNG = np.random.default_rng(11)
W4 = RNG.normal(0, 0.8, (4, 4))
W6 = RNG.normal(0, 0.6, (6, 6))


def of(f, space):
    return ex.from_log_density(f, space)


def quadratic(w):
    return lambda x: 0.5 * x.ravel() @ jnp.asarray(w, x.dtype) @ x.ravel() + 0.3 * jnp.sum(x)


def onehot_pair(x):
    return jnp.sum(jnp.asarray(W4[:3, :3], x.dtype) * (x[0][:, None] * x[1][None]))


def rbm(visible, hidden, seed, scale=0.7):
    rng = np.random.default_rng(seed)
    return ex.energies.BernoulliRBM(
        rng.normal(0, scale, (visible, hidden)),
        rng.normal(0.2, 0.7, visible),
        rng.normal(-0.3, 0.7, hidden),
    )


DISCRETE = {
    "binary-3": of(lambda x: 1.3 * x[0] * x[1] - 0.8 * x[2] + 0.2, ex.Binary((3,))),
    "binary-6-pairs": of(quadratic(W6), ex.Binary((6,))),
    "binary-2x2": of(lambda x: jnp.sum(jnp.cumsum(x)) * 0.4 - 1.1 * x[0, 1], ex.Binary((2, 2))),
    "binary-positive": ex.from_positive(lambda x: 0.3 + x[0] + 2 * x[1] * x[2], ex.Binary((3,))),
    "binary-impossible": ex.from_positive(lambda x: jnp.sum(x), ex.Binary((4,))),
    "spin-4": of(lambda s: 0.5 * s[0] * s[1] - 0.7 * s[2] * s[3] + 0.3 * s[0], ex.Spin((4,))),
    "spin-6-pairs": of(quadratic(W6), ex.Spin((6,))),
    "spin-tempered": ex.energies.Tempered(of(quadratic(W4), ex.Spin((4,))), 0.6),
    "ising-ring": ex.energies.Ising(
        [(i, (i + 1) % 7) for i in range(7)], 0.45, np.linspace(-0.4, 0.5, 7), num_sites=7
    ),
    "ising-3x3": ex.energies.Ising.grid((3, 3), 0.3, 0.1, periodic=False),
    "rbm-8x4": rbm(8, 4, 0),
    "rbm-5x9": rbm(5, 9, 1),
    "rbm-product": rbm(6, 3, 2) + rbm(6, 2, 3),
    "categorical-2x3": of(
        lambda x: jnp.asarray(W4, float)[x[0], x[1]] * 1.5, ex.Categorical((2,), 3)
    ),
    "categorical-3x4": of(
        lambda x: jnp.sum(jnp.array([0.1, -0.6, 0.9, 0.3])[x]) + 0.7 * (x[0] == x[2]),
        ex.Categorical((3,), 4),
    ),
    "onehot-2x3": of(onehot_pair, ex.Categorical((2,), 3, "onehot")),
    "ordinal-2x5": of(
        lambda x: -0.4 * (x[0] - 3.2) ** 2 + 0.2 * x[0] * x[1] - x[1], ex.Ordinal((2,), 5)
    ),
    "ordinal-1x40": of(lambda x: -0.01 * (x[0] - 12.0) ** 2 - 0.03 * x[0], ex.Ordinal((1,), 40)),
    "record-finite": of(
        lambda r: 0.9 * r["a"][0] * r["b"][1] - 0.5 * r["c"][0] * r["a"][0],
        ex.Record(a=ex.Spin((1,)), b=ex.Binary((2,)), c=ex.Ordinal((1,), 3)),
    ),
    "binary-condition": rbm(7, 4, 5).condition(x=[1.0, np.nan, 0.0, np.nan, np.nan, 1.0, np.nan]),
    "mlp-on-spins": ex.energies.MLP(ex.Spin((5,)), 6, 2, key=ex.random.key(3)),
}

LOG2PI = float(np.log(2 * np.pi))
COV = np.array([[1.0, 0.6, 0.2], [0.6, 2.0, -0.5], [0.2, -0.5, 0.7]])


def normal(mean, sd):
    mean, sd = np.broadcast_arrays(np.asarray(mean, float), np.asarray(sd, float))
    energy = of(
        lambda x: (
            -0.5 * jnp.sum(((x - jnp.asarray(mean, x.dtype)) / jnp.asarray(sd, x.dtype)) ** 2)
        ),
        ex.Real(mean.shape),
    )
    return energy, 0.5 * mean.size * LOG2PI + np.log(sd).sum(), mean, sd


def poisson(rate):
    rate = np.asarray(rate, float)
    energy = of(
        lambda x: jnp.sum(x * jnp.log(jnp.asarray(rate)) - gammaln(x + 1.0)), ex.Count(rate.shape)
    )
    return energy, rate.sum(), rate, np.sqrt(rate)


def box_case(low, high, f):
    """A 1-d density on a finite box, its moments by a dense grid."""
    energy = of(f, ex.Box([low], [high]))
    exact = integrated(energy, [low], [high])
    mean = exact.mean()
    sd = np.sqrt(exact.mean(lambda x: (x - mean) ** 2))
    return energy, exact.log_z, mean, sd


def mixed():
    """A normal column whose centre is set by a category: log Z and mean in closed form."""
    centre, log_p = np.array([-1.0, 0.5, 2.0]), np.array([0.2, -0.4, 0.6])
    energy = of(
        lambda r: (
            -0.5 * ((r["x"][0] - jnp.asarray(centre)[r["k"][0]]) / 0.8) ** 2
            + jnp.asarray(log_p)[r["k"][0]]
        ),
        ex.Record(k=ex.Categorical((1,), 3), x=ex.Real((1,))),
    )
    p = np.exp(log_p)
    mean = p @ centre / p.sum()
    sd = np.sqrt(p @ (centre**2) / p.sum() - mean**2 + 0.64)
    return energy, 0.5 * LOG2PI + np.log(0.8) + np.log(p.sum()), {"x": [mean]}, {"x": [sd]}


OTHER = {
    "normal-1 at 7": normal([7.0], [0.3]),
    "normal-2": normal([-3.0, 0.4], [2.5, 0.2]),
    "normal-5 at 20": normal([20.0] * 5, [1.0] * 5),
    "normal-12": normal(np.linspace(-2, 3, 12), np.linspace(0.3, 2, 12)),
    "normal-2x2": normal([[1.0, -1.0], [0.5, 2.0]], [[0.5, 1.5], [1.0, 0.7]]),
    "normal-3 correlated": (
        of(
            lambda x: -0.5 * (x - 1.5) @ jnp.asarray(np.linalg.inv(COV), x.dtype) @ (x - 1.5),
            ex.Real((3,)),
        ),
        1.5 * LOG2PI + 0.5 * np.linalg.slogdet(COV)[1],
        np.full(3, 1.5),
        np.sqrt(np.diag(COV)),
    ),
    "box-linear": box_case(-1.0, 2.5, lambda x: 1.7 * x[0]),
    "box-bump": box_case(0.0, 1.0, lambda x: -20 * (x[0] - 0.8) ** 2),
    "half line": (
        of(lambda x: -1.6 * jnp.sum(x - 2.0), ex.Box([2.0, 2.0], [np.inf, np.inf])),
        -2 * np.log(1.6),
        np.full(2, 2 + 1 / 1.6),
        np.full(2, 1 / 1.6),
    ),
    "gamma": (
        of(lambda x: 1.5 * jnp.log(x[0]) - 2.0 * x[0], ex.Box([0.0], [np.inf])),
        float(np.log(1.329340388179137) - 2.5 * np.log(2.0)),
        np.array([1.25]),
        np.array([np.sqrt(2.5) / 2]),
    ),
    "poisson-1": poisson([4.2]),
    "poisson-3": poisson([0.7, 6.0, 25.0]),
    "geometric": (
        of(lambda x: -0.35 * jnp.sum(x), ex.Count((2,))),
        -2 * np.log(1 - np.exp(-0.35)),
        np.full(2, np.exp(-0.35) / (1 - np.exp(-0.35))),
        np.full(2, np.exp(-0.175) / (1 - np.exp(-0.35))),
    ),
    "mixed": mixed(),
}


def test_there_are_enough_of_them_on_every_space():
    assert len(DISCRETE) + len(OTHER) >= 30
    energies = [*DISCRETE.values(), *(case[0] for case in OTHER.values())]
    kinds = {type(energy.space).__name__ for energy in energies}
    assert kinds == {
        "Real", "Box", "Binary", "Spin", "Categorical", "Ordinal", "Count", "Record",
    }  # fmt: skip


def agree(draws, mean, sd):
    """Means within 5 of their own errors, and those errors small beside the spread."""
    found = [(draws.mean, mean, draws.mcse_mean, 0.11), (draws.sd, sd, draws.mcse_sd, np.inf)]
    for got, wanted, error, most in found:
        for name in wanted if isinstance(wanted, dict) else [None]:
            pick = (lambda a: a) if name is None else (lambda a, name=name: a[name])
            difference = np.abs(pick(got) - np.asarray(pick(wanted)))
            spread = np.asarray(pick(sd)) + 1e-6
            assert np.all(difference <= 5 * pick(error) + 0.01 * spread)
            assert np.all(pick(error) <= most * spread)


@pytest.mark.slow
@pytest.mark.parametrize("name", DISCRETE)
def test_finite_spaces(name):
    energy = DISCRETE[name]
    exact = enumerated(energy)
    z = ex.log_z(energy, key=ex.random.key(1))
    assert z.reliable and z.std_err == 0, z.reasons
    assert z.value == pytest.approx(exact.log_z, abs=2e-5)
    draws = ex.sample(energy, 1000, key=ex.random.key(2))
    assert draws.reliable, draws.reasons
    mean = jax.tree.map(np.asarray, exact.mean())
    square = exact.mean(lambda x: jax.tree.map(lambda a: np.asarray(a, float) ** 2, x))
    sd = jax.tree.map(lambda m2, m: np.sqrt(np.maximum(m2 - m**2, 0)), square, mean)
    agree(draws, mean, sd)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHER)
def test_infinite_spaces(name):
    energy, log_z, mean, sd = OTHER[name]
    z = ex.log_z(energy, key=ex.random.key(1))
    assert z.reliable, z.reasons
    assert abs(z.value - log_z) <= max(4.5 * z.std_err, 2e-4)
    assert z.std_err <= 0.25
    draws = ex.sample(energy, 1000, key=ex.random.key(2))
    assert draws.reliable, draws.reasons
    agree(draws, mean, sd)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rbm-8x4", "ising-3x3"])
@pytest.mark.parametrize("seed", [0, 1])
def test_annealing_agrees_where_the_sum_is_known(name, seed):
    energy = DISCRETE[name]
    truth = enumerated(energy).log_z
    z = ex.log_z(energy, key=ex.random.key(seed), method="ais")
    assert z.reliable, z.reasons
    assert abs(z.value - truth) <= 4.5 * z.std_err + 1e-3
    low, high = z.bracket
    assert low - 1e-3 <= truth <= high + 1e-3
