"""Exponential families: A(η) against sums, integrals and SciPy; ∇A and the fit against draws."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy import special, stats

from energax.energies._base import AbstractBernoulli, partition_trainable
from energax.energies.exponential_family import (
    Bernoulli,
    Beta,
    CategoricalFamily,
    Exponential,
    Gamma,
    MultivariateNormal,
    Normal,
    Poisson,
)
from energax.energies.exponential_family.positive import _polygamma
from energax.random import key
from energax.spaces import Binary, Categorical, Count, Real
from tests.exact import (
    P_LIMIT,
    chi_square,
    enumerated,
    finite_difference,
    integrated,
    ks,
    log_density64,
)

NUM = 20_000
PROBS = np.array([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3]])
MEAN, COVARIANCE = np.array([1.0, -2.0]), np.array([[2.0, 0.7], [0.7, 1.0]])

# family, log-density by SciPy of a batch, and the CDF of each coordinate (None: discrete)
CASES = {
    "bernoulli": (
        Bernoulli([[0.2], [0.7]]),
        lambda x: stats.bernoulli([[0.2], [0.7]]).logpmf(x).sum((1, 2)),
        None,
    ),
    "categorical": (
        CategoricalFamily(PROBS),
        lambda x: np.log(PROBS[[0, 1], x]).sum(1),
        None,
    ),
    "onehot": (
        CategoricalFamily(PROBS, encoding="onehot"),
        lambda x: (x * np.log(PROBS)).sum((1, 2)),
        None,
    ),
    "poisson": (
        Poisson([0.4, 37.0]),
        lambda x: stats.poisson([0.4, 37.0]).logpmf(x).sum(1),
        None,
    ),
    "exponential": (
        Exponential([0.4, 3.0]),
        lambda x: stats.expon(0, [2.5, 1 / 3]).logpdf(x).sum(1),
        [stats.expon(0, 2.5).cdf, stats.expon(0, 1 / 3).cdf],
    ),
    "gamma": (
        Gamma(shape=[0.4, 5.0], rate=[2.0, 0.5]),
        lambda x: stats.gamma([0.4, 5.0], scale=[0.5, 2.0]).logpdf(x).sum(1),
        [stats.gamma(0.4, scale=0.5).cdf, stats.gamma(5.0, scale=2.0).cdf],
    ),
    "beta": (
        Beta([0.6, 7.0], [0.8, 2.0]),
        lambda x: stats.beta([0.6, 7.0], [0.8, 2.0]).logpdf(x).sum(1),
        [stats.beta(0.6, 0.8).cdf, stats.beta(7.0, 2.0).cdf],
    ),
    "normal": (
        Normal([1.0, -5.0], [0.5, 2.0]),
        lambda x: stats.norm([1.0, -5.0], [0.5, 2.0]).logpdf(x).sum(1),
        [stats.norm(1.0, 0.5).cdf, stats.norm(-5.0, 2.0).cdf],
    ),
    "multivariate normal": (
        MultivariateNormal(MEAN, COVARIANCE),
        stats.multivariate_normal(MEAN, COVARIANCE).logpdf,
        [stats.norm(1.0, np.sqrt(2.0)).cdf, stats.norm(-2.0, 1.0).cdf],
    ),
}
each_case = pytest.mark.parametrize("case", CASES)


@eqx.filter_jit
def look(family, key):
    """(draws, log p of them, T of them, ∇A) in one compile."""
    x = family.draw(NUM, key=key)
    statistics = jax.vmap(family.sufficient_statistics)(x)
    return x, jax.vmap(family.log_prob)(x), statistics, family.mean_parameters


@pytest.fixture(scope="module")
def seen():
    looks = {name: look(case[0], key(i)) for i, (name, case) in enumerate(CASES.items())}
    return jax.tree.map(np.asarray, looks)


@each_case
def test_log_prob_is_scipys(case, seen):
    x, log_prob, _, _ = seen[case]
    family, law, _ = CASES[case]
    family.space.validate(x, batch=True)
    expected = law(x.astype(np.float64) if x.dtype.kind == "f" else x)
    np.testing.assert_allclose(log_prob, expected, atol=1e-4)


@pytest.mark.parametrize("case", ["bernoulli", "categorical", "onehot"])
def test_finite_log_partition_and_draws_against_enumeration(case, seen):
    family = CASES[case][0]
    exact = enumerated(family)
    assert float(family.log_z) == pytest.approx(exact.log_z, abs=1e-6)
    assert exact.p_value(seen[case][0]) > P_LIMIT


def test_poisson_log_partition_and_draws_against_sums(seen):
    # h(x) exp(ηx) summed one coordinate at a time in float64
    n = np.arange(500)
    rates = np.array([0.4, 37.0])
    terms = n * np.log(rates)[:, None] - special.gammaln(n + 1)
    expected = special.logsumexp(terms, axis=1).sum()
    assert float(CASES["poisson"][0].log_z) == pytest.approx(expected, abs=1e-5)
    draws = seen["poisson"][0]
    for i, rate in enumerate(rates):
        counts = np.bincount(draws[:, i], minlength=200)[:200]
        assert chi_square(counts, stats.poisson(rate).pmf(np.arange(200))) > P_LIMIT


@pytest.mark.parametrize(
    ("family", "low", "high"),
    [
        (Exponential([0.4]), 0.0, 80.0),
        (Gamma(shape=[3.5], rate=[0.5]), 0.0, 120.0),
        (Beta([3.0], [2.5]), 0.0, 1.0),
        (Normal([1.0, -5.0], [0.5, 2.0]), [-4.0, -25.0], [6.0, 15.0]),
        (MultivariateNormal(MEAN, COVARIANCE), [-14.0, -12.0], [16.0, 8.0]),
    ],
    ids=lambda v: type(v).__name__,
)
def test_continuous_log_partition_against_integration(family, low, high):
    exact = integrated(family, low, high)
    assert float(family.log_z) == pytest.approx(exact.log_z, abs=1e-5)


@pytest.mark.parametrize("case", [name for name, case in CASES.items() if case[2]])
def test_draws_follow_scipys_cdf(case, seen):
    x = seen[case][0]
    for i, cdf in enumerate(CASES[case][2]):
        assert ks(x[:, i], cdf) > P_LIMIT, f"coordinate {i}"
    # coordinates do or do not go together: compare with the covariance by Fisher's z
    r = COVARIANCE[0, 1] / np.sqrt(2.0) if case == "multivariate normal" else 0.0
    z = np.arctanh(stats.spearmanr(x[:, 0], x[:, 1])[0])
    expected = np.arctanh(6 / np.pi * np.arcsin(r / 2))  # rank correlation of a normal pair
    assert abs(z - expected) * np.sqrt(NUM / 1.06) < 5


@each_case
def test_gradient_of_log_partition_is_the_mean_of_the_statistics(case, seen):
    family = CASES[case][0]
    _, _, statistics, mean = seen[case]
    differences = finite_difference(family.log_partition, family.eta)
    for got, wanted in zip(jax.tree.leaves(mean), jax.tree.leaves(differences), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-6)

    def z_scores(t, m):
        sd = t.std(0, dtype=np.float64)
        return (t.mean(0, dtype=np.float64) - m) / np.where(sd > 0, sd, 1.0) * np.sqrt(NUM)

    z = ravel_pytree(jax.tree.map(z_scores, statistics, mean))[0]
    assert np.abs(z).max() < 5


@each_case
def test_fit_is_the_maximum_of_the_likelihood_and_recovers_the_truth(case, seen):
    family = CASES[case][0]
    x = seen[case][0]
    space = family.space if isinstance(family, CategoricalFamily) else None
    fit = type(family).fit_moments(x, space)
    assert jax.tree.structure(fit) == jax.tree.structure(family)

    def log_likelihood(flat, unravel):
        moved = eqx.tree_at(lambda f: f.eta, fit, unravel(flat))
        return jax.vmap(moved.log_prob)(jnp.asarray(x)).mean()

    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: a.astype(jnp.float64), fit.eta)
        flat, unravel = ravel_pytree(wide)
        gradient = jax.grad(log_likelihood)(flat, unravel)
        information = jax.hessian(lambda e: fit.log_partition(unravel(e)))(flat)
        truth, _ = ravel_pytree(jax.tree.map(lambda a: a.astype(jnp.float64), family.eta))
        gap = np.asarray(flat - truth)
        statistic = float(gap @ np.asarray(information) @ gap) * NUM
        # at the maximum the gradient is 0, here in units of its own standard deviation a row
        scale = np.sqrt(np.diag(np.asarray(information)))
    assert np.abs(np.asarray(gradient) / scale).max() < 1e-5
    # (η̂ − η)ᵀ N∇²A (η̂ − η) is χ² with as many degrees of freedom as there are free parameters
    free = np.linalg.matrix_rank(np.asarray(information))
    assert 1e-3 < statistic < stats.chi2.isf(P_LIMIT, free)


def test_named_parameters_come_back():
    np.testing.assert_allclose(Bernoulli([0.2, 0.7]).probs, [0.2, 0.7], rtol=1e-6)
    np.testing.assert_allclose(CategoricalFamily(PROBS).probs, PROBS, rtol=1e-6)
    np.testing.assert_allclose(Poisson([0.4, 37.0]).rate, [0.4, 37.0], rtol=1e-6)
    np.testing.assert_allclose(Exponential([0.4, 3.0]).rate, [0.4, 3.0], rtol=1e-6)
    gamma = Gamma(shape=[0.4, 5.0], rate=2.0)
    np.testing.assert_allclose([gamma.shape, gamma.rate], [[0.4, 5.0], [2.0, 2.0]], rtol=1e-6)
    beta = Beta(0.6, [0.8, 2.0])
    np.testing.assert_allclose([beta.a, beta.b], [[0.6, 0.6], [0.8, 2.0]], rtol=1e-6)
    normal = Normal([1.0, -5.0], [0.5, 2.0])
    np.testing.assert_allclose([normal.mean, normal.scale], [[1, -5], [0.5, 2.0]], rtol=1e-6)
    multivariate = MultivariateNormal(MEAN, COVARIANCE)
    np.testing.assert_allclose(multivariate.mean, MEAN, rtol=1e-5)
    np.testing.assert_allclose(multivariate.covariance, COVARIANCE, rtol=1e-5)


def test_scalar_events_and_extreme_fits():
    assert Poisson.fit_moments(np.array([1, 2, 6])).rate == 3.0
    assert Poisson(3.0).space == Count(())
    rng = np.random.default_rng(0)
    for shape in (0.05, 1.0, 2e4):  # strongly skewed to nearly normal
        rows = rng.gamma(shape, 1e-3, 4000)
        fit = Gamma.fit_moments(rows)
        gap = np.log(rows.mean()) - np.log(rows).mean()
        a = float(fit.shape)
        assert np.log(a) - special.psi(a) == pytest.approx(gap, rel=1e-4)
    for a, b in [(0.1, 0.2), (0.05, 30.0), (2000.0, 3.0)]:
        rows = np.clip(rng.beta(a, b, 4000), 1e-300, 1 - 1e-12)
        rows = np.clip(rows, np.finfo(np.float32).tiny, 1 - 1e-7)
        fit = Beta.fit_moments(rows)
        got = special.psi([float(fit.a), float(fit.b)]) - special.psi(float(fit.a) + float(fit.b))
        np.testing.assert_allclose(got, [np.log(rows).mean(), np.log1p(-rows).mean()], rtol=2e-4)


def test_polygamma_is_scipys():
    x = np.logspace(-4, 6, 300)
    digamma, trigamma = _polygamma(x)
    np.testing.assert_allclose(digamma, special.psi(x), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(trigamma, special.polygamma(1, x), rtol=1e-11)


def test_only_the_natural_parameters_are_trained():
    for family, _, _ in CASES.values():
        trained, _ = partition_trainable(family)
        assert eqx.tree_equal(trained.eta, family.eta)
        assert len(jax.tree.leaves(trained)) == len(jax.tree.leaves(family.eta))


def test_log_partition_is_infinite_outside_its_domain():
    exponential, gamma, beta = Exponential([1.0]), Gamma([1.0], [1.0]), Beta([1.0], [1.0])
    assert exponential.log_partition(jnp.array([0.5])) == np.inf
    assert gamma.log_partition({"log_x": jnp.array([-1.5]), "x": jnp.array([-1.0])}) == np.inf
    assert gamma.log_partition({"log_x": jnp.array([0.5]), "x": jnp.array([0.1])}) == np.inf
    bad = {"log_x": jnp.array([-1.5]), "log_1_minus_x": jnp.array([0.0])}
    assert beta.log_partition(bad) == np.inf
    normal = {"x": jnp.array([1.0]), "x_squared": jnp.array([0.1])}
    assert Normal([0.0], [1.0]).log_partition(normal) == np.inf
    multivariate = {"x": jnp.ones(2), "xx": jnp.diag(jnp.array([-1.0, 0.5]))}
    assert MultivariateNormal(MEAN, COVARIANCE).log_partition(multivariate) == np.inf


def test_the_edge_of_the_support_stays_finite():
    assert np.isfinite(Gamma([0.5], [1.0])(jnp.zeros(1)))
    assert np.isfinite(Gamma([1.0], [1.0])(jnp.zeros(1)))
    for x in (0.0, 1.0):
        assert np.isfinite(Beta([0.5], [1.0])(jnp.full(1, x)))
        assert np.isfinite(jax.grad(Beta([0.5], [1.0]))(jnp.full(1, x))).all()


def test_bernoulli_is_a_base_for_models_of_bits():
    family = Bernoulli([0.2, 0.7])
    assert isinstance(family, AbstractBernoulli)
    np.testing.assert_allclose(family.logits, special.logit([0.2, 0.7]), rtol=1e-6)


CONSTANT = np.full((5, 1), 0.3)
REFUSED = [
    (lambda: Bernoulli.fit_moments([[0.0], [0.5]]), ValueError, "data: expected only 0 and 1"),
    (lambda: Bernoulli.fit_moments(np.ones((5, 2))), ValueError, r"coordinate \(0,\), 2 in all"),
    (lambda: Poisson.fit_moments([[-1]]), ValueError, "whole numbers"),
    (lambda: Poisson.fit_moments([[0], [0]]), ValueError, "always 0"),
    (lambda: Exponential.fit_moments([[-0.1]]), ValueError, "between low and high"),
    (lambda: Exponential.fit_moments([[0.0]]), ValueError, "column of zeros"),
    (lambda: Gamma.fit_moments([[0.0], [1.0]]), ValueError, "values above 0"),
    (lambda: Gamma.fit_moments(CONSTANT), ValueError, "without variance"),
    (lambda: Beta.fit_moments([[0.0], [0.5]]), ValueError, "strictly between 0 and 1"),
    (lambda: Beta.fit_moments(CONSTANT), ValueError, "without variance"),
    (lambda: Normal.fit_moments(CONSTANT), ValueError, "without variance"),
    (lambda: Normal.fit_moments([[np.nan]]), ValueError, "NaN or infinite"),
    (lambda: MultivariateNormal.fit_moments(np.eye(3)[:2]), ValueError, "2 rows in 3 dimensions"),
    (lambda: MultivariateNormal.fit_moments(np.zeros((3, 2, 2))), ValueError, "rows of vectors"),
    (lambda: CategoricalFamily.fit_moments([[0], [1]]), TypeError, "space=Categorical"),
    (
        lambda: CategoricalFamily.fit_moments([[0], [1]], Categorical(1, 3)),
        ValueError,
        "never seen",
    ),
    (lambda: Poisson.fit_moments([[0], [1]], Binary(1)), ValueError, "lives on Count"),
    (lambda: Bernoulli([0.0, 0.5]), ValueError, "strictly between 0 and 1"),
    (lambda: Poisson(-1.0), ValueError, "rate: expected positive"),
    (lambda: Normal(np.inf, 1.0), ValueError, "mean: expected finite"),
    (lambda: Normal(0.0, 0.0), ValueError, "scale: expected positive"),
    (lambda: Gamma(np.ones(2), np.ones(3)), ValueError, "do not broadcast"),
    (lambda: CategoricalFamily([0.5, 0.4]), ValueError, "sum of 1"),
    (lambda: MultivariateNormal([0.0], np.eye(2)), ValueError, r"mean \(n,\)"),
    (lambda: MultivariateNormal(np.zeros(2), -np.eye(2)), ValueError, "positive definite"),
]


@pytest.mark.parametrize(("make", "error", "said"), REFUSED)
def test_what_has_no_answer_is_refused(make, error, said):
    with pytest.raises(error, match=said):
        make()


def test_float32_error_of_a_normal_far_from_the_origin_is_as_documented():
    family = Normal([300.0], [1.0])
    x = 300.0 + np.random.default_rng(0).normal(size=(200, 1))
    exact = stats.norm(300.0, 1.0).logpdf(x[:, 0])
    got = jax.vmap(family.log_prob)(jnp.asarray(x))
    assert np.abs(got - exact).max() < 5e-7 * 300**2
    wide = log_density64(family, x)
    np.testing.assert_allclose(wide - wide.mean(), exact - exact.mean(), atol=1e-6)


def test_parameters_may_be_traced_and_mapped():
    make = jax.jit(lambda rate: Gamma(shape=jnp.array([1.5, 2.0]), rate=rate).log_z)
    expected = special.gammaln([1.5, 2.0]).sum() - 1.5 * np.log(2.0) - 2.0 * np.log(3.0)
    assert float(make(jnp.array([2.0, 3.0]))) == pytest.approx(expected, abs=1e-6)
    many = jax.vmap(MultivariateNormal)(jnp.stack([MEAN, MEAN]), jnp.stack([COVARIANCE, np.eye(2)]))
    log_zs = jax.vmap(lambda f: f.log_z - 0.5 * f.eta["x"] @ f.mean)(many)
    det = np.log([np.linalg.det(COVARIANCE), 1.0])
    np.testing.assert_allclose(log_zs, np.log(2 * np.pi) + det / 2, rtol=1e-5)
    assert Real(2) == many.space
