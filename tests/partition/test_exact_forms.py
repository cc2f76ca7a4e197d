"""Closed forms of products, powers and conditionals against integrals; RBMs with units held."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import energax as ex
from energax.energies import (
    BernoulliRBM,
    Beta,
    Exponential,
    Gamma,
    Gaussian,
    MultivariateNormal,
    Normal,
    Poisson,
    Tempered,
    frozen,
)
from energax.partition.choose import default_method
from energax.partition.exact import ClosedForm, SummedSide
from tests.exact import enumerated, integrated

KEY = ex.random.key(0)
RNG = np.random.default_rng(7)


def value(method, energy):
    z = method.run(energy, key=KEY)
    assert z.reliable and z.std_err == 0, z.reasons
    return z.value


def correlated(n):
    factor = np.tril(RNG.normal(0, 0.4, (n, n)), -1) + np.diag(RNG.uniform(0.5, 1.5, n))
    return factor


REAL = ex.Real((2,))
NORMALS = {
    "two normals": lambda: Normal([0.3, -1.0], [0.5, 2.0]) + Gaussian(REAL, [1.0, 0.2], [1.5, 0.7]),
    "full and diagonal": lambda: (
        Gaussian(REAL, [1.0, 0.2], cholesky=correlated(2)) + Normal([0.3, -1.0], [0.5, 2.0])
    ),
    "a power": lambda: Tempered(MultivariateNormal([0.4, -1.0], [[1.0, 0.3], [0.3, 0.5]]), 0.4),
    "a negative power": lambda: (
        MultivariateNormal([0.4, -1.0], [[1.0, 0.3], [0.3, 0.5]])
        + Tempered(frozen(Normal([0.5, 0.1], [2.0, 3.0])), -0.7)
    ),
    "between two": lambda: (
        MultivariateNormal([0.4, -1.0], [[1.0, 0.3], [0.3, 0.5]])
        .path(Gaussian(REAL, [1.0, 0.2], [1.5, 0.7]))
        .at(0.6)
    ),
    "two of five": lambda: Tempered(
        (
            Gaussian(ex.Real((5,)), RNG.normal(0, 1, 5), cholesky=correlated(5))
            + Normal(RNG.normal(0, 1, 5), RNG.uniform(1, 2, 5))
        ).condition(x=[0.3, np.nan, -0.7, np.nan, 1.1]),
        0.8,
    ),
}


@pytest.mark.parametrize("name", NORMALS)
def test_normals_against_a_grid(name):
    energy = NORMALS[name]()
    truth = integrated(energy, -14.0, 14.0).log_z
    assert value(ClosedForm(), energy) == pytest.approx(truth, abs=1e-5)
    assert isinstance(default_method(energy), ClosedForm)


FAMILIES = {
    "gammas": (lambda: Gamma([2.0], [0.7]) + Gamma([1.5], [2.0]), 0, 60),
    "a power of a gamma": (lambda: Tempered(Gamma([2.6], [0.7]), 0.4), 0, 200),
    "betas": (lambda: Beta([2.0], [1.4]) + Tempered(Beta([3.0], [1.7]), 0.5), 0, 1),
    "exponentials": (lambda: Exponential([2.0]) + Tempered(Exponential([0.7]), -1.3), 0, 40),
    "one of three gammas": (
        lambda: Tempered(Gamma([2.0, 1.3, 2.2], [0.7, 1.1, 0.4]), 0.9).condition(
            x=[0.4, np.nan, 2.5]
        ),
        0,
        80,
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_families_against_an_integral(name):
    make, low, high = FAMILIES[name]
    energy = make()
    assert value(ClosedForm(), energy) == pytest.approx(
        integrated(energy, low, high).log_z, abs=2e-5
    )


def test_counts_given_others_are_poisson_and_powers_of_them_are_not():
    energy = Poisson([3.0, 0.7]).condition(x=[np.nan, 4])
    truth = 3.0 + 4 * np.log(0.7) - special.gammaln(5)
    assert value(ClosedForm(), energy) == pytest.approx(truth, abs=1e-6)
    for other in (Tempered(Poisson([3.0]), 0.5), Poisson([3.0]) + Poisson([2.0])):
        assert not ClosedForm().quote(other).fits


def test_what_leaves_its_family_has_no_z():
    thin = Normal([0.0], [1.0]) + Tempered(Normal([0.0], [0.5]), -0.5)  # precision 1 − 2
    spread = Gaussian(REAL, 0.0, cholesky=np.eye(2)) + Tempered(
        MultivariateNormal([0.0, 0.0], [[1.0, 0.9], [0.9, 1.0]]), -1.0
    )
    for energy in (thin, spread, Tempered(Gamma([2.0], [1.0]), -0.5)):
        with pytest.warns(ex.UnreliableResult):
            z = ex.log_z(energy, key=KEY)
        assert z.value == np.inf and not z.reliable and "infinite" in z.reasons[0]


def test_what_has_no_closed_form_is_refused():
    mixed = Gamma([2.0], [1.0]) + Exponential([1.0])  # one family by accident, not by type
    function = ex.from_log_density(lambda x: -jnp.sum(x**2), REAL) + Normal([0.0, 0.0], 1.0)
    for energy in (mixed, function):
        with pytest.raises(TypeError, match="closed form"):
            ClosedForm().run(energy, key=KEY)


def test_an_rbm_with_units_held_sums_what_is_left():
    rbm = BernoulliRBM(RNG.normal(0, 1, (12, 9)), RNG.normal(0.2, 1, 12), RNG.normal(-0.3, 1, 9))
    held = rbm.condition(x=np.where(np.arange(12) % 3, np.nan, 1.0))
    for energy in (rbm, held, frozen(held)):
        truth = enumerated(energy).log_z
        assert value(SummedSide(), energy) == pytest.approx(truth, abs=1e-6)
    wide = BernoulliRBM(RNG.normal(0, 0.2, (60, 40)), 0.1, -0.2)
    assert not SummedSide().quote(wide).fits
    point = np.r_[np.full(14, np.nan), np.ones(46)]
    assert isinstance(default_method(wide.condition(x=point)), SummedSide)
