"""Score matching in all its forms: exact losses, targets and truths found from draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from energax import fit, random
from energax.energies import MLP, MultivariateNormal, from_log_density
from energax.objectives import (
    DenoisingScoreMatching,
    MultiscaleDenoising,
    ScoreMatching,
    SlicedScoreMatching,
)
from energax.objectives import score_matching as room
from energax.spaces import Binary, Box, Real, Record
from tests.objectives.recovery import agrees, banana, banana_draws, chain, chain_draws, errors

RNG = np.random.default_rng(4)


def loss_of(objective, energy, rows, seed=0):
    carry = objective.init(energy, rows, key=random.key(0))[1]
    return float(objective(energy, None, rows, carry, key=random.key(seed))[0])


# Losses and gradients against integrals


def logistic(params, x):
    """Two parameters off 0, a location and a precision, of a density with skew."""
    u = params["a"] * (x[0] - params["m"])
    return 1.5 * u - 3.5 * jnp.log1p(jnp.exp(u))


def test_differences_of_the_loss_are_those_of_the_fisher_divergence():
    """J(θ) = ½ E|∇f_θ − ∇log p|² + constant, both by quadrature; and so are its gradients."""
    truth, others = {"a": 1.3, "m": 0.4}, [{"a": 0.8, "m": 1.1}, {"a": 1.9, "m": -0.2}]

    def score(params, t):
        return jax.grad(lambda x: logistic(params, x))(jnp.asarray([t]))[0]

    with jax.enable_x64(True):
        nodes = np.linspace(-14, 22, 20_001)
        prob = np.exp(jax.vmap(lambda t: logistic(truth, t[None]))(nodes))
        prob /= prob.sum()
        assert prob[0] < 1e-12 and prob[-1] < 1e-12

        def fisher(params):
            gap = jax.vmap(lambda t: score(params, t) - score(truth, t))(nodes)
            return jnp.sum(prob * gap**2) / 2

        def loss(params):
            energy = from_log_density(logistic, Real((1,)), params=params)
            low, high = jnp.array([-jnp.inf]), jnp.array([jnp.inf])
            carry = low, high, jnp.ones(1)
            each = jax.vmap(
                lambda t: ScoreMatching()(energy, None, t[None, None], carry, key=random.key(0))[0]
            )(nodes)
            return jnp.sum(prob * each)

        constant = loss(truth) - fisher(truth)
        for params in others:
            params = jax.tree.map(jnp.asarray, params)
            assert float(loss(params) - fisher(params)) == pytest.approx(float(constant), abs=1e-9)
            got, wanted = jax.grad(loss)(params), jax.grad(fisher)(params)
            for name in params:
                assert float(got[name]) == pytest.approx(float(wanted[name]), abs=1e-8)
                assert abs(float(wanted[name])) > 1e-3


def test_a_slice_has_the_trace_as_its_mean_and_chunks_change_nothing(monkeypatch):
    space = Record(a=Real((2, 2)), b=Box(0.0, [np.inf, 2.0]))
    w = RNG.normal(size=(6, 6))

    def f(params, x):
        v = jnp.concatenate([x["a"].ravel(), x["b"]])
        return -jnp.sum(jnp.cosh(params @ v / 3))

    energy = from_log_density(f, space, params=jnp.asarray(w))
    rows = {
        "a": RNG.normal(size=(7, 2, 2)).astype(np.float32),
        "b": RNG.uniform(0.1, 1.9, size=(7, 2)).astype(np.float32),
    }
    whole = loss_of(ScoreMatching(), energy, rows)
    monkeypatch.setattr(room, "_AT_ONCE", 14)  # two coordinates at a time
    assert loss_of(ScoreMatching(), energy, rows) == pytest.approx(whole, rel=1e-5)
    objective = SlicedScoreMatching(num_slices=64)
    slices = [loss_of(objective, energy, rows, seed) for seed in range(30)]
    assert np.std(slices) > 0
    assert abs(np.mean(slices) - whole) < 4.5 * np.std(slices) / np.sqrt(30)


def test_the_formula_on_a_box_is_the_papers():
    """Of f = s log x − r x on x > 0 with sd given: h (½ f'² + f'') + h' f'."""
    s, r, sd = 1.5, 0.8, 1.7
    x = np.array([0.3, 1.2, 2.6, 8.0])
    energy = from_log_density(
        lambda p, x: p["s"] * jnp.log(x[0]) - p["r"] * x[0],
        Box([0.0], [np.inf]),
        params={"s": jnp.asarray(s), "r": jnp.asarray(r)},
    )
    carry = jnp.zeros(1), jnp.full(1, jnp.inf), jnp.full(1, sd)
    first, second = s / x - r, -s / x**2
    h, slope = np.minimum(x / sd, 1), np.where(x < sd, 1 / sd, 0)
    wanted = np.mean(h * (first**2 / 2 + second) + slope * first)
    rows = jnp.asarray(x[:, None], jnp.float32)
    got = ScoreMatching()(energy, None, rows, carry, key=random.key(0))[0]
    assert float(got) == pytest.approx(wanted, rel=1e-5)


def test_noise_of_both_signs_takes_the_noise_of_the_gradient_away():
    """At a small σ the gradient's spread over keys stays what it is at a large one."""
    energy = MultivariateNormal([0.5, -1.0], [[1.0, 0.4], [0.4, 0.8]])
    rows = np.asarray(energy.draw(200, key=random.key(3)))

    def spread(sigma):
        objective = DenoisingScoreMatching(sigma)
        carry = objective.init(energy, rows, key=random.key(0))[1]

        def slope(scale, key):
            tempered = MultivariateNormal([0.5, -1.0], scale * jnp.array([[1.0, 0.4], [0.4, 0.8]]))
            return objective(tempered, None, rows, carry, key=key)[0] / sigma**2

        found = jax.vmap(jax.grad(slope), (None, 0))(1.0, jax.random.split(random.key(1), 50))
        return float(jnp.std(found))

    assert spread(0.01) < 3 * spread(0.3)


# What they find


def gaussian(params, x):
    d = len(params["eta"])
    upper = jnp.zeros((d, d)).at[np.triu_indices(d)].set(params["half"])
    return params["eta"] @ x - x @ upper @ x


def gaussian_of(mean, covariance):
    precision = np.linalg.inv(covariance)
    half = np.where(np.eye(len(mean)) > 0, precision / 2, precision)[np.triu_indices(len(mean))]
    params = {"eta": jnp.asarray(precision @ mean), "half": jnp.asarray(half)}
    return from_log_density(gaussian, Real((len(mean),)), params=params)


MEAN, COVARIANCE = np.array([0.7, -1.2]), np.array([[1.4, 0.5], [0.5, 0.6]])


@pytest.mark.parametrize(
    "objective", [ScoreMatching(), SlicedScoreMatching()], ids=["exact", "sliced"]
)
def test_the_truth_is_found_in_two_dimensions(objective):
    with jax.enable_x64(True):
        found = errors(objective, banana(), banana_draws(100_000, 1), seed=3)
    assert agrees(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective", [ScoreMatching(), SlicedScoreMatching(2)], ids=["exact", "sliced"]
)
def test_the_truth_is_found_in_ten_dimensions(objective):
    with jax.enable_x64(True):
        found = errors(objective, chain(), chain_draws(100_000, 2), seed=4, steps=5)
    assert agrees(found)


def test_the_truth_is_found_between_ends():
    """A normal cut off at 0 beside an exponential on [0, 1]: without weights they are far off."""

    def f(params, x):
        return params @ jnp.stack([x[0], -(x[0] ** 2), x[1]])

    rng, n = np.random.default_rng(5), 100_000
    normal = rng.normal(0.6, 1.1, 2 * n)
    rows = np.stack([normal[normal > 0][:n], np.log1p(rng.random(n) * np.expm1(1.3)) / 1.3], 1)
    truth = [0.6 / 1.21, 0.5 / 1.21, 1.3]
    with jax.enable_x64(True):
        energy = from_log_density(f, Box([0.0, 0.0], [np.inf, 1.0]), params=jnp.asarray(truth))
        found = errors(ScoreMatching(), energy, rows, seed=3, steps=2)
        assert agrees(found)
        free = from_log_density(
            lambda p, x: p @ jnp.stack([x[0], -(x[0] ** 2)]),
            Real((1,)),
            params=jnp.asarray(truth[:2]),
        )
        assert errors(ScoreMatching(), free, rows[:, :1], seed=3, steps=2)[1] > 1000


def test_denoising_finds_the_truth_convolved_with_the_noise():
    """Two normals become two wider ones, which the family holds."""

    def mixture(params, x):
        one = jax.scipy.stats.norm.logpdf(x[0], params["m"], jnp.exp(params["s"]))
        two = jax.scipy.stats.norm.logpdf(x[0], params["n"], jnp.exp(params["t"]))
        return jnp.logaddexp(params["w"] + one, two)

    rng, sigma, n = np.random.default_rng(6), 0.4, 100_000
    first = rng.random(n) < 1 / (1 + np.exp(-0.6))
    rows = np.where(first, rng.normal(1.5, 0.7, n), rng.normal(-1.2, 0.5, n))[:, None]
    wide = {"m": 1.5, "s": np.hypot(0.7, sigma), "n": -1.2, "t": np.hypot(0.5, sigma), "w": 0.6}
    wide |= {"s": np.log(wide["s"]), "t": np.log(wide["t"])}
    with jax.enable_x64(True):
        energy = from_log_density(mixture, Real((1,)), params=jax.tree.map(jnp.asarray, wide))
        found = errors(DenoisingScoreMatching(sigma), energy, rows, seed=7)
        assert agrees(found)
        narrow = wide | {"s": np.log(0.7), "t": np.log(0.5)}
        other = from_log_density(mixture, Real((1,)), params=jax.tree.map(jnp.asarray, narrow))
        assert errors(DenoisingScoreMatching(sigma), energy, rows, seed=7, target=other)[1] > 1000


def test_denoising_with_a_size_for_each_coordinate():
    sigma = np.array([0.3, 0.8])
    rows = np.random.default_rng(8).multivariate_normal(MEAN, COVARIANCE, 100_000)
    with jax.enable_x64(True):
        wide = gaussian_of(MEAN, COVARIANCE + np.diag(sigma**2))
        found = errors(DenoisingScoreMatching(sigma), wide, rows, seed=9, steps=3)
    assert agrees(found)


def test_many_sizes_of_noise_make_f_steeper_as_the_docstring_says():
    mean, variance, sigma = 0.7, 1.3, 0.25
    objective = MultiscaleDenoising(sigma, largest=6.0, num_sizes=5)
    sizes = sigma * np.asarray(objective.sizes())
    assert sizes[0] == pytest.approx(sigma) and sizes[-1] == pytest.approx(6 * sigma)
    precision = 1 / (sigma**2 * np.mean(1 + variance / sizes**2))
    assert precision > 1.2 / (variance + sigma**2)
    rows = np.random.default_rng(10).normal(mean, np.sqrt(variance), (100_000, 1))
    with jax.enable_x64(True):
        due = gaussian_of(np.array([mean]), np.array([[1 / precision]]))
        found = errors(objective, due, rows, seed=11, steps=3)
        assert agrees(found)
        one = MultiscaleDenoising(sigma, largest=1.0, num_sizes=1)
        wide = gaussian_of(np.array([mean]), np.array([[variance + sigma**2]]))
        found = errors(one, wide, rows, seed=11, steps=3)
    assert agrees(found)


def test_fit_takes_them_and_says_what_the_defaults_were():
    rows = np.random.default_rng(12).multivariate_normal(MEAN, COVARIANCE, 5000).astype(np.float32)
    start = MultivariateNormal([0.0, 0.0], np.eye(2))
    run = fit(start, rows, ScoreMatching(), key=random.key(0), optimizer="lbfgs")
    # Of a normal score matching is maximum likelihood (Hyvärinen 2005, section 3.1).
    np.testing.assert_allclose(run.energy.mean, rows.mean(0), atol=2e-3)
    np.testing.assert_allclose(run.energy.covariance, np.cov(rows.T, bias=True), atol=5e-3)
    carry = DenoisingScoreMatching().init(start, rows, key=random.key(0))[1]
    np.testing.assert_allclose(carry, 0.1 * rows.std(0), rtol=1e-4)


# What they refuse


@pytest.mark.parametrize(
    "objective",
    [ScoreMatching(), SlicedScoreMatching(), DenoisingScoreMatching(), MultiscaleDenoising()],
    ids=lambda o: type(o).__name__,
)
def test_spaces_without_derivatives_are_refused(objective):
    energy = from_log_density(lambda x: jnp.sum(x), Binary((3,)))
    with pytest.raises(TypeError, match=r"real coordinates.*PseudoLikelihood"):
        objective.init(energy, np.zeros((4, 3), np.float32), key=random.key(0))


def test_noise_does_not_leave_a_box():
    energy = from_log_density(lambda x: jnp.sum(x), Box(0.0, 1.0, (3,)))
    with pytest.raises(TypeError, match=r"out of Box.*ScoreMatching\(\)"):
        DenoisingScoreMatching().init(energy, np.full((4, 3), 0.5, np.float32), key=random.key(0))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: SlicedScoreMatching(0), "num_slices"),
        (lambda: DenoisingScoreMatching(-0.1), "sigma"),
        (lambda: MultiscaleDenoising(0.1, num_sizes=0), "num_sizes"),
        (lambda: MultiscaleDenoising(0.1, largest=0.5), "largest"),
        (lambda: MultiscaleDenoising(0.1, largest=np.inf), "largest"),
    ],
)
def test_senseless_numbers_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_a_sigma_of_another_shape_is_refused():
    energy = from_log_density(lambda x: -jnp.sum(x**2), Real((3,)))
    with pytest.raises(ValueError, match=r"\(3,\), got shape \(2,\)"):
        DenoisingScoreMatching([0.1, 0.2]).init(energy, np.zeros((4, 3)), key=random.key(0))


def test_columns_that_never_change_are_refused_or_given_the_others_noise():
    energy = from_log_density(lambda x: -jnp.sum(x**2), Real((3,)))
    rows = np.random.default_rng(3).normal(size=(40, 3)).astype(np.float32)
    rows[:, 1] = 0.7
    with pytest.raises(ValueError, match=r"1 coordinate\(s\) never change.*number 1"):
        ScoreMatching().init(energy, rows, key=random.key(0))
    sigma = DenoisingScoreMatching().init(energy, rows, key=random.key(0))[1]
    changing = rows[:, [0, 2]].std(0)
    assert float(sigma[1]) == pytest.approx(0.1 * np.sqrt(np.mean(changing**2)), rel=1e-5)


def test_networks_without_second_derivatives_are_refused():
    energy = MLP(Real((2,)), width_size=4, key=random.key(0), activation="relu")
    rows = np.random.default_rng(3).normal(size=(40, 2)).astype(np.float32)
    with pytest.raises(TypeError, match=r"network of relu.*silu.*DenoisingScoreMatching"):
        SlicedScoreMatching().init(energy, rows, key=random.key(0))
    DenoisingScoreMatching().init(energy, rows, key=random.key(0))
