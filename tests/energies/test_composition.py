"""Sums, multiples and differences of energies: the values, and the kinds that they keep."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import energax as ex
from energax import energies
from energax.energies import (
    RBM,
    BernoulliRBM,
    BernoulliUnits,
    BoltzmannMachine,
    CentredRBM,
    CountUnits,
    GeneralPotts,
    Hopfield,
    Ising,
    Potts,
    Product,
    RecordUnits,
    ReplicatedSoftmaxUnits,
    SoftmaxUnits,
    SpinUnits,
    Tempered,
)
from energax.spaces import Binary, Categorical, Real
from tests.exact import all_points, enumerated, log_density64

RNG = np.random.default_rng(11)


def rbm(visible, hidden=3):
    return RBM(RNG.normal(0, 0.6, (*visible.bias.shape, hidden.bias.shape[0])), visible, hidden)


def some(*shape):
    return RNG.normal(0.1, 0.6, shape)


def bits(hidden):
    return BernoulliRBM(some(4, hidden), some(4), some(hidden))


def machine():
    matrix = np.triu(some(4, 4), 1)
    return BoltzmannMachine(matrix + matrix.T, some(4), space=Binary(4))


EDGES = np.array([[0, 1], [1, 2], [3, 2]])
PAIRS = {
    "bits": lambda: (bits(3), bits(2)),
    "bits, general": lambda: (
        rbm(BernoulliUnits(some(4)), SpinUnits(some(2))),
        rbm(BernoulliUnits(some(4)), SpinUnits(some(3))),
    ),
    "spins": lambda: (
        rbm(SpinUnits(some(4)), BernoulliUnits(some(2))),
        rbm(SpinUnits(some(4)), BernoulliUnits(some(1))),
    ),
    "categories": lambda: (
        rbm(SoftmaxUnits(some(3, 3)), BernoulliUnits(some(2))),
        rbm(SoftmaxUnits(some(3, 3)), BernoulliUnits(some(2))),
    ),
    "documents": lambda: (
        rbm(ReplicatedSoftmaxUnits(some(3), 4), BernoulliUnits(some(2))),
        rbm(ReplicatedSoftmaxUnits(some(3), 4), BernoulliUnits(some(2))),
    ),
    "records": lambda: tuple(
        rbm(
            RecordUnits({"a": BernoulliUnits(some(2)), "b": SoftmaxUnits(some(1, 3))}),
            BernoulliUnits(some(2)),
        )
        for _ in range(2)
    ),
    "Ising": lambda: (
        Ising(EDGES, some(3), some(5), num_sites=5),
        Ising([[2, 1], [3, 4], [0, 1]], some(3), some(5), num_sites=5),
    ),
    "Potts": lambda: tuple(
        Potts(EDGES, some(3), some(4, 3), space=Categorical(4, 3)) for _ in range(2)
    ),
    "Potts, tables": lambda: tuple(GeneralPotts(some(3, 3, 3), some(3, 3)) for _ in range(2)),
    "machines": lambda: (machine(), machine()),
}


@pytest.mark.parametrize("case", PAIRS)
def test_a_sum_of_one_kind_stays_of_it(case):
    a, b = PAIRS[case]()
    both, x = a + b, all_points(a.space)
    assert type(both) is type(a)
    wanted = log_density64(a, x) + log_density64(b, x)
    np.testing.assert_allclose(log_density64(both, x), wanted, atol=1e-6)


def test_an_rbm_of_two_has_its_layers_and_a_log_z_of_its_own():
    a, b = bits(3), CentredRBM.of(bits(2), (RNG.random((20, 4)) < 0.3).astype(float))
    both = a + b
    assert isinstance(both, BernoulliRBM) and both.weight.shape == (4, 5)
    z = ex.log_z(both, key=ex.random.key(0))
    assert z.method == "summed side" or z.std_err == 0
    exact = np.logaddexp.reduce(log_density64(Product(a, b), all_points(a.space)))
    assert z.value == pytest.approx(exact, abs=1e-5)


def test_edges_of_both_are_joined_once():
    both = PAIRS["Ising"]()
    union = both[0] + both[1]
    assert sorted(map(tuple, np.asarray(union.edges))) == [(0, 1), (1, 2), (2, 3), (3, 4)]


OTHERS = {
    "unlike hidden units": lambda: (
        rbm(SpinUnits(some(3)), BernoulliUnits(some(2))),
        rbm(SpinUnits(some(3)), SpinUnits(some(2))),
    ),
    "other edges of a Potts model": lambda: (
        Potts(EDGES, 0.3, space=Categorical(4, 2)),
        Potts([[0, 3]], 0.3, space=Categorical(4, 2)),
    ),
    "a frozen one": lambda: (bits(2), ex.frozen(bits(3))),
    "another kind": lambda: (bits(2), machine()),
}


@pytest.mark.parametrize("case", OTHERS)
def test_others_stay_apart(case):
    a, b = OTHERS[case]()
    both, x = a + b, all_points(a.space)
    assert isinstance(both, Product)
    wanted = log_density64(a, x) + log_density64(b, x)
    np.testing.assert_allclose(log_density64(both, x), wanted, atol=1e-6)


def test_counts_have_a_factorial_each_and_stay_apart():
    a, b = (rbm(CountUnits(some(2)), BernoulliUnits(some(2))) for _ in range(2))
    x = jnp.array([[0, 3], [2, 5]])
    both = a + b
    assert isinstance(both, Product)
    np.testing.assert_allclose(
        jax.vmap(both)(x), np.asarray(jax.vmap(a)(x)) + np.asarray(jax.vmap(b)(x)), rtol=1e-5
    )


def test_unlike_spaces_are_refused():
    with pytest.raises(ValueError, match="share one space"):
        bits(2) + BernoulliRBM(some(5, 2))
    with pytest.raises(TypeError):
        bits(2) + 1.0
    with pytest.raises(TypeError):
        bits(2) * bits(2)


def test_a_sum_inside_a_compiled_function():
    a, b = PAIRS["Ising"]()
    x = jnp.asarray(all_points(a.space)[:5], float)
    found = eqx.filter_jit(lambda p, q, x: jax.vmap(p + q)(x))(a, b, x)
    np.testing.assert_allclose(found, jax.vmap(a + b)(x), atol=1e-5)


@pytest.mark.parametrize("beta", [0.4, -1.3])
@pytest.mark.parametrize(
    "energy",
    [
        Ising(EDGES, some(3), some(4), num_sites=4),
        machine(),
        Hopfield([[1, -1, 1, 1]], some(4)),
        bits(2),
    ],
    ids=["Ising", "machine", "Hopfield", "RBM"],
)
def test_multiples_and_negation(energy, beta):
    x = all_points(energy.space)
    f = log_density64(energy, x)
    for found, wanted in ((beta * energy, beta * f), (energy * beta, beta * f), (-energy, -f)):
        np.testing.assert_allclose(log_density64(found, x), wanted, atol=2e-5)
    in_kind = isinstance(energy, Ising | BoltzmannMachine)
    assert type(-energy) is (type(energy) if in_kind else Tempered)


def test_the_ratio_of_two_models_is_sampled_and_normalised():
    a, b = bits(3), bits(2)
    ratio = a - 0.5 * b
    exact = enumerated(ratio)
    f = log_density64(a, exact.x) - 0.5 * log_density64(b, exact.x)
    np.testing.assert_allclose(exact.log_density, f, atol=1e-5)
    z = ex.log_z(ratio, key=ex.random.key(1))
    assert z.value == pytest.approx(np.logaddexp.reduce(f), abs=1e-4)
    draws = ex.sample(ratio, 400, key=ex.random.key(2))
    mean = exact.prob @ exact.x
    assert draws.reliable
    assert np.all(abs(draws.mean - mean) < 5 * draws.mcse_mean + 1e-3)


def test_normals_subtract_as_their_precisions_do():
    wide, narrow = (energies.Gaussian(Real(1), [0.0], [sd]) for sd in (2.0, 1.0))
    ratio = narrow - wide  # a normal of precision 1 - 1/4
    z = ex.log_z(ratio, key=ex.random.key(3))
    top = float(ratio.log_density(jnp.zeros(1)))
    assert z.reliable
    assert z.value == pytest.approx(top + 0.5 * np.log(2 * np.pi / 0.75), abs=1e-4)
