"""Reference distributions: normalisers against sums and SciPy, draws against exact laws."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from energax.energies.reference import (
    BoxReference,
    Gaussian,
    IndependentBernoulli,
    IndependentCategorical,
    NegativeBinomial,
    RecordReference,
    default_base,
    fitted_base,
)
from energax.random import key
from energax.spaces import (
    AbstractSpace,
    Binary,
    Box,
    Categorical,
    Count,
    Ordinal,
    Real,
    Record,
    Spin,
)
from tests.exact import P_LIMIT, chi_square, enumerated, integrated, ks, log_density64

INF = np.inf
CHOLESKY = np.array([[1.3, 0.0], [-0.9, 0.4]])
LOGITS_3 = np.array([[0.3, -1.0, 0.7], [-2.0, 0.1, 0.4]])

DISCRETE = [
    IndependentBernoulli(Binary((2, 2)), [[0.5, -1.2], [2.0, -0.3]]),
    IndependentBernoulli(Spin(3), [0.5, -1.2, 2.0]),
    IndependentCategorical(Categorical(2, 3), LOGITS_3),
    IndependentCategorical(Categorical(2, 3, encoding="onehot"), LOGITS_3),
    IndependentCategorical(Ordinal(2, 3), LOGITS_3),
    RecordReference(
        Record(bits=Binary(2), spin=Spin(1), grade=Ordinal(1, 3)),
        {
            "bits": IndependentBernoulli(Binary(2), [0.4, -0.8]),
            "spin": IndependentBernoulli(Spin(1), 1.1),
            "grade": IndependentCategorical(Ordinal(1, 3), [[0.2, -0.5, 0.9]]),
        },
    ),
]


def names(base):
    return f"{type(base).__name__}-{type(base.space).__name__}"


@pytest.mark.parametrize("base", DISCRETE, ids=names)
def test_discrete_bases_against_enumeration(base):
    exact = enumerated(base)
    assert float(base.log_z) == pytest.approx(exact.log_z, abs=2e-6)
    x = jax.tree.map(np.asarray, base.draw(20_000, key=key(0)))
    base.space.validate(x, batch=True)
    assert exact.p_value(x) > P_LIMIT


def test_discrete_probabilities_are_those_of_the_logits():
    # The sum over states does not tell which way up is, or whose logit is whose.
    x = np.array([[1.0, 0.0], [1.0, 1.0]])
    logits = np.array([[0.5, -1.2], [2.0, -0.3]])
    expected = -np.log1p(np.exp(np.where(x == 1, -logits, logits))).sum()
    binary = IndependentBernoulli(Binary((2, 2)), logits).log_prob(jnp.asarray(x))
    spin = IndependentBernoulli(Spin((2, 2)), logits).log_prob(jnp.asarray(2 * x - 1))
    assert float(binary) == pytest.approx(expected, abs=1e-6)
    assert float(spin) == pytest.approx(expected, abs=1e-6)
    log_p = LOGITS_3 - np.log(np.exp(LOGITS_3).sum(1, keepdims=True))
    expected = log_p[0, 2] + log_p[1, 0]
    for space in (Categorical(2, 3), Ordinal(2, 3), Categorical(2, 3, encoding="onehot")):
        base = IndependentCategorical(space, LOGITS_3)
        index = jnp.array([2, 0])
        point = space.encode(index) if isinstance(space, Categorical) else index.astype(float)
        assert float(base.log_prob(point)) == pytest.approx(expected, abs=1e-6)


def test_gaussian_against_integration_and_scipy():
    diagonal = Gaussian(Real(2), [1.0, -2.0], [0.5, 3.0])
    assert integrated(diagonal, [-4, -32], [6, 28]).log_z == pytest.approx(
        float(diagonal.log_z), abs=1e-5
    )
    full = Gaussian(Real((2, 1)), [[1.0], [-2.0]], cholesky=CHOLESKY)
    exact = integrated(full, [-9, -10], [11, 6])
    assert exact.log_z == pytest.approx(float(full.log_z), abs=1e-5)
    x = np.random.default_rng(0).normal(size=(5, 2, 1))
    law = stats.multivariate_normal([1.0, -2.0], CHOLESKY @ CHOLESKY.T)
    got = log_density64(full, x) - float(full.log_z)
    np.testing.assert_allclose(got, law.logpdf(x[..., 0]), atol=1e-5)


def test_gaussian_draws():
    x = np.asarray(Gaussian(Real(2), [1.0, -2.0], [0.5, 3.0]).draw(20_000, key=key(1)))
    assert ks(x[:, 0], stats.norm(1, 0.5).cdf) > P_LIMIT
    assert ks(x[:, 1], stats.norm(-2, 3).cdf) > P_LIMIT
    x = np.asarray(Gaussian(Real((2, 1)), 0.7, cholesky=CHOLESKY).draw(20_000, key=key(2)))
    white = np.linalg.solve(CHOLESKY, (x[..., 0] - 0.7).T)
    assert ks(white[0], stats.norm.cdf) > P_LIMIT
    assert ks(white[1], stats.norm.cdf) > P_LIMIT
    assert stats.pearsonr(*white).pvalue > P_LIMIT


LOW = np.array([-2.0, 0.5, -INF, -INF, 3.0, 0.0])
HIGH = np.array([1.0, INF, -1.0, INF, 4.0, 100.0])
LOCATION = np.array([0.6, 0.5, -1.0, 2.0, 3.5, 0.0])
SCALE = np.array([0.4, 2.5, 0.7, 1.5, 0.2, 0.01])
SHARE = np.array([0.1, 1.0, 0.5, 0.3, 1.0, 0.2])


def box_laws():
    """(cdf, pdf) of each coordinate, from SciPy."""
    laws = []
    for i in (0, 4, 5):
        a, b = (LOW[i] - LOCATION[i]) / SCALE[i], (HIGH[i] - LOCATION[i]) / SCALE[i]
        cut = stats.truncnorm(a, b, LOCATION[i], SCALE[i])
        flat = stats.uniform(LOW[i], HIGH[i] - LOW[i])
        laws.append(
            (
                lambda v, w=SHARE[i], f=flat, c=cut: w * f.cdf(v) + (1 - w) * c.cdf(v),
                lambda v, w=SHARE[i], f=flat, c=cut: w * f.pdf(v) + (1 - w) * c.pdf(v),
            )
        )
    up, free = stats.expon(LOW[1], SCALE[1]), stats.norm(LOCATION[3], SCALE[3])
    down = stats.expon(-HIGH[2], SCALE[2])
    return [
        laws[0],
        (up.cdf, up.pdf),
        (lambda v: down.sf(-v), lambda v: down.pdf(-v)),
        (free.cdf, free.pdf),
        laws[1],
        laws[2],
    ]


def test_box_reference_against_scipy():
    base = BoxReference(Box(LOW, HIGH), LOCATION, SCALE, SHARE)
    x = np.asarray(base.draw(20_000, key=key(3)))
    base.space.validate(x, batch=True)
    expected = np.zeros(20_000)
    for i, (cdf, pdf) in enumerate(box_laws()):
        assert ks(x[:, i], cdf) > P_LIMIT, f"coordinate {i}"
        expected += np.log(pdf(x[:, i].astype(float)))
    got = np.asarray(jax.vmap(base.log_prob)(x))
    np.testing.assert_allclose(got, expected, atol=2e-5)
    gradient = jax.vmap(jax.grad(base))(x)
    assert np.isfinite(gradient).all()


def test_box_reference_integrates_to_one():
    base = BoxReference(Box(-2.0, 1.0, (1,)), 0.6, 0.4, 0.1)
    assert integrated(base, -2.0, 1.0).log_z == pytest.approx(0.0, abs=1e-6)


def test_narrow_box_reference_keeps_its_precision():
    # a truncated normal as narrow as fitted rows at one end make it
    base = BoxReference(Box(0.0, 1.0, (1,)), 1.0, 1e-4, 0.05)
    law = stats.truncnorm(-1e4, 0, 1.0, 1e-4)
    for x in (1.0, 1 - 2.0**-12, 0.25):
        expected = np.log(0.05 + 0.95 * law.pdf(x))
        assert float(base.log_prob(jnp.array([x]))) == pytest.approx(expected, abs=1e-4)


def test_negative_binomial_against_scipy():
    mean, dispersion = np.array([10.0, 3.0, 100.0, 1e4]), np.array([1.0, 0.3, 1000.0, 50.0])
    law = stats.nbinom(dispersion, dispersion / (dispersion + mean))
    x = law.ppf(np.array([0.001, 0.1, 0.5, 0.9, 0.999, 1 - 1e-9])[:, None])
    one = jax.jit(jax.vmap(lambda n, m, r: NegativeBinomial(Count(()), m, r).log_prob(n)))
    got = [one(jnp.asarray(row, jnp.int32), mean, dispersion) for row in x]
    np.testing.assert_allclose(got, law.logpmf(x), atol=2e-4)

    base = NegativeBinomial(Count(4), mean, dispersion)
    total = base.log_prob(jnp.asarray(x[2], jnp.int32))
    assert float(total) == pytest.approx(law.logpmf(x[2]).sum(), abs=5e-4)
    draws = np.asarray(jax.jit(lambda key: base.draw(20_000, key=key))(key(4)))
    assert draws.dtype == np.int32
    for i in range(4):
        one = stats.nbinom(dispersion[i], dispersion[i] / (dispersion[i] + mean[i]))
        edges = np.unique(np.append(one.ppf(np.linspace(0.02, 0.98, 40)), INF))
        counts = np.histogram(draws[:, i], np.append(-1, edges) + 0.5)[0]
        assert chi_square(counts, np.diff(np.append(0, one.cdf(edges)))) > P_LIMIT


def test_large_logits_stay_finite():
    logits = np.array([90.0, -90.0, 0.0])
    for space in (Binary(3), Spin(3)):
        base = IndependentBernoulli(space, logits)
        likely = jnp.where(jnp.asarray(logits) < 0, space.example(), 1.0)
        assert float(base.log_prob(likely)) == pytest.approx(-np.log(2), abs=1e-5)


ALL_SPACES = [
    Real((2, 2)),
    Box(LOW, HIGH),
    Binary((2, 3)),
    Spin(3),
    Categorical((2, 2), 4),
    Categorical(3, 4, encoding="onehot"),
    Ordinal(3, 5),
    Count((2,)),
    Record(a=Real(()), b=Binary(2), c=Count(1), d=Categorical(1, 3, encoding="onehot")),
]


@eqx.filter_jit
def draw_and_score(base, key):
    """One compile a structure serves all the tests below."""
    x = base.draw(400, key=key)
    return x, jax.vmap(base.log_prob)(x), base.log_z


@pytest.mark.parametrize("space", ALL_SPACES, ids=lambda s: type(s).__name__)
def test_default_and_fitted_bases_of_every_space(space):
    base = default_base(space)
    x, log_p, _ = draw_and_score(base, key(5))
    rows = space.validate(jax.tree.map(np.asarray, x), batch=True)
    fit = fitted_base(space, rows)
    assert jax.tree.structure(fit) == jax.tree.structure(default_base(space, rows))
    y, fit_log_p, _ = draw_and_score(fit, key(6))
    space.validate(jax.tree.map(np.asarray, y), batch=True)
    # the fit to 400 rows of the base is nearly the base: their mean log-densities on rows agree
    again = np.asarray(jax.jit(jax.vmap(fit.log_prob))(x))
    assert np.isfinite(again).all() and np.isfinite(fit_log_p).all()
    assert abs(again.mean() - np.asarray(log_p).mean()) < 0.05 * space.num_sites
    chains = fitted_base(space, jax.tree.map(lambda a: a.reshape(4, 100, *a.shape[1:]), rows))
    assert eqx.tree_equal(chains, fit)


def test_fitted_moments():
    rng = np.random.default_rng(0)
    rows = rng.normal([3.0, -1e4], [0.2, 5.0], (1000, 2))
    fit = fitted_base(Real(2), rows)
    np.testing.assert_allclose(fit.mean, rows.mean(0), rtol=1e-6)
    np.testing.assert_allclose(fit.scale, 1.1 * rows.std(0), rtol=1e-3)
    correlated = rows @ np.array([[1.0, 0.4], [0.0, 0.05]])
    full = fitted_base(Real(2), correlated, full=True, smoothing=0.0)
    constant = fitted_base(Real(2), np.ones((1, 2)), full=True)
    assert np.isfinite(constant.log_z)
    got, wanted = full.cholesky @ full.cholesky.T, np.cov(correlated.T, bias=True)
    np.testing.assert_allclose(np.diag(got), np.diag(wanted), rtol=1e-4)
    assert got[0, 1] == pytest.approx(wanted[0, 1] * 1000 / 1002, rel=1e-4)

    bits = (rng.random((99, 3)) < [0.0, 0.5, 1.0]).astype(float)
    p = jax.nn.sigmoid(fitted_base(Binary(3), bits, smoothing=0.0).logits)
    np.testing.assert_allclose(p, 0.99 * bits.mean(0) + 0.005, rtol=1e-5)
    p = jax.nn.sigmoid(fitted_base(Spin(3), 2 * bits - 1).logits)
    np.testing.assert_allclose(p, 0.98 * bits.mean(0) + 0.01, rtol=1e-5)

    index = rng.integers(0, 3, (400, 2))
    p = jax.nn.softmax(fitted_base(Categorical(2, 4), index).logits)
    wanted = np.stack([(index == j).mean(0) for j in range(4)], -1) * 0.98 + 0.005
    np.testing.assert_allclose(p, wanted, rtol=1e-5)

    counts = rng.negative_binomial(2.0, 2.0 / 12.0, (5000, 1))  # mean 10, variance 60
    fit = fitted_base(Count(1), counts, smoothing=0.0)
    assert float(fit.mean[0]) == pytest.approx(counts.mean(), rel=1e-3)
    spread = float((fit.mean + fit.mean**2 / fit.dispersion)[0])
    assert spread == pytest.approx(counts.var(), rel=1e-2)

    box = Box([0.0, 2.0], [1.0, INF])
    rows = np.stack([rng.beta(8, 2, 2000), 2 + rng.exponential(3.0, 2000)], 1)
    fit = fitted_base(box, rows)
    np.testing.assert_allclose(fit.location[0], rows[:, 0].mean(), rtol=1e-5)
    np.testing.assert_allclose(
        fit.scale, [1.1 * rows[:, 0].std(), 1.1 * (rows[:, 1].mean() - 2)], rtol=1e-4
    )


@pytest.mark.parametrize("space", ALL_SPACES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("num", [1, 50])
def test_fits_to_constant_rows_are_proper(space, num):
    rows = jax.tree.map(lambda a: np.stack([np.asarray(a)] * num), space.example())
    for smoothing in (0.0, 0.02):
        fit = fitted_base(space, rows, smoothing=smoothing)
        _, log_p, _ = draw_and_score(fit, key(7))
        assert np.isfinite(log_p).all()
        assert np.isfinite(fit.log_prob(space.example()))


class _Circle(AbstractSpace):
    """A space that the library does not know."""

    shape: tuple = ()
    dtype = property(lambda self: np.float32)
    num_sites = property(lambda self: 1)
    num_states = property(lambda self: None)
    is_continuous = property(lambda self: True)

    def example(self):
        return jnp.zeros(())

    def validate(self, x, *, batch=None, name="x"):
        return np.asarray(x)

    def propose(self, x, scale, *, key):
        return x


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: Gaussian(Binary(2)), TypeError, "Gaussian lives on a Real space"),
        (lambda: Gaussian(Real(2), [1.0, 2.0, 3.0]), ValueError, "mean: expected shape"),
        (lambda: Gaussian(Real(2), 0.0, [1.0, 0.0]), ValueError, "scale: expected positive"),
        (lambda: Gaussian(Real(2), np.nan), ValueError, "mean: expected finite"),
        (lambda: Gaussian(Real(2), 0.0, 1.0, cholesky=np.eye(2)), ValueError, "either scale or"),
        (lambda: Gaussian(Real(2), cholesky=np.eye(3)), ValueError, r"cholesky: expected shape"),
        (lambda: Gaussian(Real(2), cholesky=-np.eye(2)), ValueError, "diagonal of cholesky"),
        (lambda: BoxReference(Box(0, 1, 2), 2.0), ValueError, "between low and high"),
        (lambda: BoxReference(Box(0, 1, 2), uniform_share=1.5), ValueError, r"\(0, 1\]"),
        (lambda: NegativeBinomial(Count(2), -1.0), ValueError, "mean: expected positive"),
        (lambda: IndependentBernoulli(Real(2)), TypeError, "Binary or Spin"),
        (lambda: IndependentCategorical(Ordinal(2, 3), [0, 0]), ValueError, r"shape \(2, 3\)"),
        (lambda: RecordReference(Record(a=Real(1)), {}), ValueError, "parts: expected"),
        (
            lambda: RecordReference(Record(a=Real(1)), {"a": default_base(Real(2))}),
            ValueError,
            r"parts\['a'\]: expected one on Real",
        ),
        (lambda: default_base(_Circle()), TypeError, "give an AbstractNormalised"),
        (lambda: fitted_base(_Circle(), np.zeros(3)), TypeError, "give an AbstractNormalised"),
        (lambda: fitted_base(Binary(2), np.full((3, 2), 0.5)), ValueError, "only 0 and 1"),
        (lambda: fitted_base(Real(2), np.zeros((3, 2)), smoothing=0.5), ValueError, "0 to 0.2"),
        (lambda: fitted_base(Real(2), np.zeros((3, 3))), ValueError, "expected shape"),
        (lambda: fitted_base(Record(a=Real(1)), np.zeros((3, 1))), ValueError, "a dict with"),
    ],
)
def test_impossible_references_are_refused(make, error, said):
    with pytest.raises(error, match=said):
        make()


def test_parameters_may_be_traced_and_mapped():
    @jax.jit
    def log_z(scale, logits):
        gaussian = Gaussian(Real(2), 0.5, scale)
        bits = IndependentBernoulli(Spin(2), logits)
        box = BoxReference(Box(0.0, [1.0, INF]), None, scale)
        return gaussian.log_z, bits.log_z, box.draw(3, key=key(0))

    got = log_z(jnp.array([2.0, 3.0]), jnp.array([0.5, -1.0]))
    assert float(got[0]) == pytest.approx(np.log(6) + np.log(2 * np.pi), abs=1e-5)
    assert float(got[1]) == pytest.approx(np.log(4 * np.cosh(0.25) * np.cosh(0.5)), abs=1e-5)
    gradient = jax.grad(lambda s: Gaussian(Real(2), 0.5, s).log_z)(jnp.array([2.0, 4.0]))
    np.testing.assert_allclose(gradient, [0.5, 0.25], rtol=1e-6)
    stacked = jax.vmap(lambda s: Gaussian(Real(2), 0.0, s))(jnp.array([1.0, 2.0]))
    log_zs = jax.vmap(lambda base: base.log_z)(stacked)
    np.testing.assert_allclose(np.diff(log_zs), 2 * np.log(2), rtol=1e-5)


def test_float64_is_kept():
    spaces = [space for space in ALL_SPACES if not isinstance(space, Record)]
    with jax.enable_x64(True):
        bases = [default_base(space) for space in spaces]

        @jax.jit
        def numbers(bases, key):
            energies = [base(space.example()) for base, space in zip(bases, spaces, strict=True)]
            return energies, [b.log_z for b in bases], [b.draw(2, key=key) for b in bases]

        energies, log_zs, draws = numbers(bases, key(0))
        assert {a.dtype for a in energies + log_zs} == {np.dtype(np.float64)}
        assert jax.tree.map(lambda a: a.dtype, draws) == [space.dtype for space in spaces]
