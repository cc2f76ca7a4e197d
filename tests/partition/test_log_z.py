"""log Z against closed forms, unbiased at any number of steps, and refused where there is none."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import gammaln

import energax as ex
from energax.partition.estimated import forward_log_weights
from energax.partition.quadrature._base import Cubature, integrate
from energax.results import UnreliableResult
from tests.exact import enumerated

KEY = ex.random.key(0)


def of(f, space):
    return ex.from_log_density(f, space)


def rbm():
    rng = np.random.default_rng(5)
    return ex.energies.BernoulliRBM(
        rng.normal(0, 1.0, (8, 5)), rng.normal(0.4, 1, 8), rng.normal(-0.4, 1, 5)
    )


LINE = {
    "narrow and far": (
        lambda x: -0.5 * ((x[0] - 20) / 0.01) ** 2,
        np.log(0.01 * np.sqrt(2 * np.pi)),
    ),
    "wide": (lambda x: -0.5 * ((x[0] + 3) / 1000) ** 2, np.log(1000 * np.sqrt(2 * np.pi))),
    "two modes": (
        lambda x: jnp.logaddexp(-0.5 * (x[0] - 40) ** 2, -1.0 - 0.5 * (x[0] + 25) ** 2),
        np.log(np.sqrt(2 * np.pi) * (1 + np.exp(-1))),
    ),
    "Cauchy": (lambda x: -jnp.log1p((x[0] - 2) ** 2), np.log(np.pi)),
    "Laplace": (lambda x: -2 * jnp.abs(x[0] - 1), 0.0),
}


@pytest.mark.parametrize("name", LINE)
def test_quadrature_finds_the_mass_on_a_line(name):
    f, truth = LINE[name]
    z = ex.log_z(of(f, ex.Real((1,))), key=KEY)
    assert z.reliable, z.reasons
    assert abs(z.value - truth) < max(4 * z.std_err, 1e-3)


@pytest.mark.parametrize(("power", "exists"), [(1.0, True), (2.0, False), (3.0, False)])
def test_a_pole_inside_a_box_is_integrated_only_where_it_can_be(power, exists):
    f = lambda x: -0.5 * power * jnp.log((x[0] - 0.3) ** 2 + (x[1] + 0.1) ** 2)
    energy = of(f, ex.Box([-1.0, -1.0], [1.0, 1.0]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        z = ex.log_z(energy, key=KEY, method="quadrature")
    if not exists:
        assert not z.reliable and "infinite" in z.reasons[-1]
        return
    from scipy.integrate import dblquad

    # the square cut at the pole into four rectangles, each with its corner there
    sides = [(a, b) for a in (0.7, 1.3) for b in (1.1, 0.9)]
    truth = sum(
        dblquad(lambda y, x: 1 / np.hypot(x, y), 0, a, 0, b, epsabs=1e-6)[0] for a, b in sides
    )
    assert abs(z.value - np.log(truth)) < max(4 * z.std_err, 1e-3)
    assert not any("infinite" in reason for reason in z.reasons)


NO_Z = {
    "grows": (lambda x: jnp.sum(x**2), ex.Real((1,))),
    "flat": (lambda x: 0.0 * x[0], ex.Real((1,))),
    "slope": (lambda x: x[0], ex.Real((1,))),
    "too heavy a tail": (lambda x: -0.5 * jnp.log1p(x[0] ** 2), ex.Real((1,))),
    "half line": (lambda x: 0.2 * x[0], ex.Box([0.0], [np.inf])),
    "plane": (lambda x: -0.5 * x[0] ** 2, ex.Real((2,))),
    "counts": (lambda x: 0.1 * jnp.sum(x), ex.Count((2,))),
    "six dimensions": (lambda x: -2.5 * jnp.log1p(jnp.sum(x**2)), ex.Real((6,))),
}


@pytest.mark.parametrize("name", NO_Z)
def test_an_energy_without_a_normaliser_is_refused(name):
    f, space = NO_Z[name]
    with pytest.warns(UnreliableResult):
        z = ex.log_z(of(f, space), key=KEY)
    assert not z.reliable and z.reasons


PATHS = {
    "rbm": (rbm(), ex.samplers.BlockGibbs()),
    "ising": (
        ex.energies.Ising.grid((3, 3), 0.4, 0.2, periodic=False),
        ex.samplers.ColouredGibbs(),
    ),
    "normal": (
        of(lambda x: -0.5 * jnp.sum((x - 1.0) ** 2) / 0.5, ex.Real((2,))),
        ex.samplers.MALA(),
    ),
    "counts": (
        of(lambda x: jnp.sum(x * jnp.log(3.0) - gammaln(x + 1.0)), ex.Count((2,))),
        ex.samplers.Metropolis(),
    ),
}
TRUTH = {
    "rbm": enumerated(PATHS["rbm"][0]).log_z,
    "ising": enumerated(PATHS["ising"][0]).log_z,
    "normal": np.log(2 * np.pi * 0.5),
    "counts": 6.0,
}


@pytest.mark.slow
@pytest.mark.parametrize("num_steps", [3, 10, 100])
@pytest.mark.parametrize("name", PATHS)
def test_annealing_is_unbiased_at_any_number_of_steps(name, num_steps):
    energy, sampler = PATHS[name]
    path = energy.path(ex.energies.default_base(energy.space))
    num = 4000 if num_steps == 100 else 40_000
    log_weights = forward_log_weights(
        path, sampler, num_chains=num, num_steps=num_steps, key=ex.random.key(num_steps)
    )
    ratio = np.exp(np.asarray(log_weights, np.float64) - TRUTH[name])
    error = ratio.std(ddof=1) / np.sqrt(num)
    assert abs(ratio.mean() - 1) < 5 * error
    if name in ("rbm", "ising") and num_steps > 3:
        assert error < 0.1  # a target of 0.9 E would be off by far more


@pytest.mark.slow
def test_the_error_bar_of_annealing_covers_as_often_as_it_says():
    energy = rbm()
    truth = enumerated(energy).log_z
    method = ex.partition.AIS(num_chains=100, num_steps=64)
    answers = [method.run(energy, key=ex.random.key(seed)) for seed in range(25)]
    assert sum(z.reliable for z in answers) >= 22
    inside = sum(z.lower <= truth <= z.upper for z in answers if z.reliable)
    assert inside >= 19  # 25 intervals of 95 %: fewer than 19 has probability 2e-4
    assert all(abs(z.value - truth) < 4.5 * z.std_err + 1e-3 for z in answers if z.reliable)


def test_densities_that_are_wrong_somewhere_are_told():
    negative = ex.from_positive(lambda x: x[0] - 0.5, ex.Binary((2,)))
    with pytest.warns(UnreliableResult):
        assert not ex.log_z(negative, key=KEY).reliable
    nothing = ex.from_positive(lambda x: 0.0 * x[0], ex.Binary((2,)))
    with pytest.warns(UnreliableResult):
        z = ex.log_z(nothing, key=KEY)
    assert not z.reliable and z.value == -np.inf


def test_an_exact_answer_that_costs_too_much_is_refused_with_its_price():
    energy = of(lambda x: jnp.sum(x[:-1] * x[1:]), ex.Binary((60,)))
    with pytest.raises(ValueError, match=r"1\.15e\+18"):
        ex.log_z(energy, key=KEY, method="exact")
    with pytest.raises(ValueError, match="method is"):
        ex.log_z(energy, key=KEY, method="guess")
    with pytest.raises(ValueError, match="precision"):
        ex.log_z(energy, key=KEY, precision=0.0)


def test_known_sums_and_ising_figures():
    torus = ex.energies.Ising.grid((4, 4), 0.4406867935, periodic=True)
    z = ex.log_z(torus, key=KEY)
    assert z.value == pytest.approx(15.52191546, abs=1e-4) and z.std_err == 0
    wide = ex.energies.BernoulliRBM(np.random.default_rng(0).normal(0, 0.3, (40, 10)), 0.1, -0.2)
    assert ex.log_z(wide, key=KEY).std_err == 0  # the ten hidden units are summed
    base = ex.energies.Poisson([2.0, 3.0])
    assert ex.log_z(base, key=KEY).value == pytest.approx(5.0, abs=1e-5)


def test_quadrature_sums_a_switch_where_f_is_huge():
    """Far out f is −10¹⁹ for both states, and its own rounding used to sum to +inf."""

    def f(x):
        b = x["b"][0]
        return b * np.log(0.3 / 0.7) - 0.5 * jnp.sum((x["a"] - (2 * b - 1)) ** 2) / 0.64

    energy = ex.from_log_density(f, ex.Record(a=ex.Real((2,)), b=ex.Binary((1,))))
    z = ex.log_z(energy, key=ex.random.key(0))
    truth = -np.log(0.7) + np.log(2 * np.pi * 0.64)
    assert z.reliable and z.method == "quadrature"
    assert abs(z.value - truth) < 1e-4 + 4 * z.std_err and z.std_err < 0.01


def test_a_model_that_blew_up_gets_an_answer_that_says_so():
    """f that is +∞ where no scan looked, and f of 10²⁵, of which neighbouring numbers differ by
    10⁹: shares of random points were NaN, and their numbers below 0."""
    space = ex.Real((2,))
    middle = jnp.asarray([0.31, -0.77])
    hole = lambda x: jnp.where(jnp.sum((x - middle) ** 2) < 3e-5, jnp.inf, -jnp.sum(x**2) / 2)

    def steep(x):
        bell = -jnp.sum(x**2) / 2
        return 1e25 * jnp.sin(3 * x[0] + x[1]) * jnp.exp(bell) + bell

    for f, told, value in (
        (hole, "is +inf around x = [0.3", np.inf),
        (steep, "steeper there", -np.inf),
    ):
        with pytest.warns(UnreliableResult):
            z = ex.log_z(of(f, space), key=KEY)
        assert not z.reliable and z.method == "quadrature" and z.value == value
        assert told in z.reasons[-1] and not np.isfinite(z.std_err)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_cells_without_any_density_integrate_to_nothing_known(dim):
    for nowhere in (-np.inf, np.nan, -1e30):
        cubature = Cubature(
            lambda t, f=nowhere: np.full(len(t), f),
            np.random.default_rng(0),
            lambda: False,
            tolerance=1e-6,
            max_cells=100,
        )
        found = integrate(cubature, np.zeros((1, dim)), np.ones((1, dim)), 0.0)
        assert found.log_value == -np.inf and found.error == np.inf
    everywhere = Cubature(
        lambda t: np.full(len(t), np.inf), np.random.default_rng(0), lambda: False,
        tolerance=1e-6, max_cells=100,
    )  # fmt: skip
    assert integrate(everywhere, np.zeros((1, dim)), np.ones((1, dim)), 0.0).log_value == np.inf
