"""What wraps energies, paths between them, and energies made from a function."""

from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from energax.energies._base import (
    AbstractNormalised,
    Conditional,
    Product,
    Tempered,
    batched,
    frozen,
    partition_trainable,
    total,
)
from energax.energies.exponential_family import Beta, Normal
from energax.energies.function import _check_arguments, from_log_density, from_positive
from energax.energies.reference import Gaussian, IndependentBernoulli, default_base
from energax.random import key
from energax.spaces import Binary, Box, Categorical, Count, Real, Record, Spin
from tests.exact import P_LIMIT, Exact, all_points, enumerated, finite_difference, integrated, ks

BIASES = jnp.array([0.4, -0.7, 1.1])


def coupled(space, coupling=0.8):
    """f(x) = b·x + J x₀x₁ − ½J x₁x₂ on three two-valued sites."""
    return from_log_density(
        lambda x: jnp.dot(BIASES, x) + coupling * (x[0] * x[1] - 0.5 * x[1] * x[2]), space
    )


# ---- Tempered and Product


def test_tempered_raises_the_probabilities_to_a_power():
    energy = coupled(Spin(3))
    plain, cold = enumerated(energy), enumerated(Tempered(energy, 2.5))
    expected = plain.prob**2.5 / np.sum(plain.prob**2.5)
    np.testing.assert_allclose(cold.prob, expected, rtol=1e-6)
    assert Tempered(energy, 0.5).space == Spin(3)


def test_a_changed_beta_does_not_compile_anew():
    count = 0

    @eqx.filter_jit
    def score(energy, x):
        nonlocal count
        count += 1
        return energy(x)

    x = jnp.array([1.0, -1.0, 1.0])
    values = [float(score(Tempered(coupled(Spin(3)), beta), x)) for beta in (0.3, 0.6)]
    # the two functions of `coupled` are different objects, so take one energy for the count
    energy, before = coupled(Spin(3)), count
    for beta in (0.3, 0.6, 1):
        score(Tempered(energy, beta), x)
    assert count == before + 1
    assert values[1] == pytest.approx(2 * values[0], rel=1e-6)


def test_beta_zero_removes_walls_and_keeps_gradients_finite():
    walled = from_positive(lambda x: jnp.sum(x), Box(-1.0, 1.0, (2,)))  # NaN where the sum is < 0
    for x in (jnp.array([-0.5, 0.5]), jnp.array([-0.5, 0.1])):
        assert float(Tempered(walled, 0.0)(x)) == 0.0
        assert jnp.all(jax.grad(Tempered(walled, 0.0))(x) == 0)
    assert float(Tempered(walled, 0.5)(jnp.array([-0.5, 0.5]))) == np.inf


def test_product_multiplies_densities():
    first, second, third = (
        coupled(Binary(3)),
        coupled(Binary(3), -2.0),
        Tempered(coupled(Binary(3)), 0.3),
    )
    both = first + second + third
    assert isinstance(both, Product) and len(both.experts) == 3
    product = enumerated(first).prob * enumerated(second).prob * enumerated(third).prob
    np.testing.assert_allclose(enumerated(both).prob, product / product.sum(), rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: coupled(Binary(3)) + coupled(Spin(3)), ValueError, "must share one space"),
        (lambda: Product(), ValueError, "at least one energy"),
        (lambda: coupled(Binary(3)) + 1.0, TypeError, "unsupported operand"),
    ],
)
def test_what_cannot_be_multiplied_is_refused(make, error, said):
    with pytest.raises(error, match=said):
        make()


# ---- conditioning


def test_condition_on_sites_is_the_conditional_distribution():
    energy = coupled(Spin(3))
    part = energy.condition(x=[np.nan, 1.0, np.nan])
    assert isinstance(part, Conditional) and part.space == Spin(2)
    whole, rest = enumerated(energy), enumerated(part)
    for state, p in zip(rest.x, rest.prob, strict=True):
        match = (whole.x[:, 1] == 1) & (whole.x[:, 0] == state[0]) & (whole.x[:, 2] == state[1])
        expected = whole.prob[match].sum() / whole.prob[whole.x[:, 1] == 1].sum()
        assert p == pytest.approx(expected, rel=1e-6)
    np.testing.assert_array_equal(part.complete(jnp.array([-1.0, 1.0])), [-1.0, 1.0, 1.0])


def test_condition_on_onehot_sites_and_on_tables():
    table = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3)))
    energy = from_log_density(
        lambda x: x[0, 0] @ table @ x[1, 0], Categorical((2, 1), 3, encoding="onehot")
    )
    given = np.full((2, 1, 3), np.nan)
    given[1, 0] = [0, 0, 1]
    part = energy.condition(x=given)
    assert part.space == Categorical(1, 3, encoding="onehot")
    expected = np.exp(np.asarray(table)[:, 2])
    got = Exact(np.eye(3), np.asarray(batched(part, jnp.eye(3)[:, None]), np.float64))
    np.testing.assert_allclose(got.prob, expected / expected.sum(), rtol=1e-5)


def test_condition_on_reals_is_the_conditional_normal():
    covariance = np.array([[2.0, 0.9], [0.9, 1.0]])
    energy = Gaussian(Real(2), [1.0, -2.0], cholesky=np.linalg.cholesky(covariance))
    exact = integrated(energy.condition(x=[np.nan, 0.5]), -12.0, 16.0)
    mean = 1 + 0.9 * 2.5
    assert exact.mean()[0] == pytest.approx(mean, abs=1e-4)
    assert exact.mean(lambda x: (x - mean) ** 2)[0] == pytest.approx(2 - 0.81, abs=1e-4)


def test_condition_on_a_box_keeps_the_ends_of_what_is_free():
    part = from_log_density(jnp.sum, Box([0.0, 1.0], [2.0, 3.0])).condition(x=[1.5, np.nan])
    assert part.space.low.tolist() == [1.0] and part.space.high.tolist() == [3.0]


def test_condition_on_parts_of_a_record():
    space = Record(a=Binary(2), b=Spin(1), c=Count(()))
    energy = from_log_density(
        lambda x: x["b"][0] * (x["a"][0] - 0.3) * x["c"] + 0.5 * x["a"][1], space
    )
    part = energy.condition(c=2, b=[-1.0])
    assert list(part.space.parts) == ["a"]
    x = all_points(part.space)
    got = batched(part, jax.tree.map(jnp.asarray, x))
    np.testing.assert_allclose(got, -2 * (x["a"][:, 0] - 0.3) + 0.5 * x["a"][:, 1], rtol=1e-6)


RECORD = from_log_density(lambda x: x["a"].sum() + x["b"].sum(), Record(a=Real(1), b=Binary(1)))


@pytest.mark.parametrize(
    ("energy", "given", "said"),
    [
        (RECORD, {"z": 1.0}, r"some but not all of \['a', 'b'\], got \['z'\]"),
        (RECORD, {"a": [1.0], "b": [1.0]}, "some but not all"),
        (RECORD, {}, "some but not all"),
        (RECORD, {"b": [0.5]}, "b: expected only 0 and 1"),
        (coupled(Binary(3)), {"y": 1.0}, "give one point x="),
        (coupled(Binary(3)), {"x": [1.0, np.nan]}, r"x of shape \(3,\), got \(2,\)"),
        (coupled(Binary(3)), {"x": [1.0, 0.0, 1.0]}, "NaN at some but not all"),
        (coupled(Binary(3)), {"x": [np.nan] * 3}, "NaN at some but not all"),
        (coupled(Binary(3)), {"x": [np.nan, 0.5, 1.0]}, "only 0 and 1"),
    ],
)
def test_impossible_conditions_are_refused(energy, given, said):
    with pytest.raises(ValueError, match=said):
        energy.condition(**given)


# ---- what is trained


class Doubled(eqx.Module):
    inner: Any

    def __call__(self, x):
        return 2 * self.inner(x)


class Quadratic(eqx.Module):
    weight: jax.Array
    times: jax.Array

    def __call__(self, x):
        return -jnp.sum(self.weight * x**2) * self.times[0]


def quadratic():
    return Quadratic(jnp.array([0.5, 2.0]), jnp.array([3]))


def test_trainable_are_float_arrays_outside_spaces_and_frozen_parts():
    energy = from_log_density(quadratic(), Box(-1.0, 2.0, (2,)))
    mixed = Product(energy, Tempered(frozen(energy), 0.5))
    trained, rest = partition_trainable(mixed)
    assert [leaf.shape for leaf in jax.tree.leaves(trained)] == [(2,), ()]  # weight and β
    assert eqx.tree_equal(eqx.combine(trained, rest), mixed)
    inside = from_log_density(Doubled(frozen(quadratic())), Box(-1.0, 2.0, (2,)))
    assert jax.tree.leaves(partition_trainable(inside)[0]) == []


def test_frozen_energies_have_their_value_and_no_gradient():
    energy = from_log_density(quadratic(), Real(2))
    x = jnp.array([0.3, -1.0])
    for shut in (frozen(energy), from_log_density(frozen(quadratic()), Real(2))):
        assert float(shut(x)) == float(energy(x))
        gradient = eqx.filter_grad(lambda e: e(x))(shut)
        assert all(float(jnp.abs(leaf).max()) == 0 for leaf in jax.tree.leaves(gradient))
        np.testing.assert_allclose(jax.grad(shut)(x), jax.grad(energy)(x))  # in x it still moves


# ---- paths


class Triangle(AbstractNormalised):
    """A user's own base: density (1 + x)/2 on [−1, 1], unnormalised by a factor 6."""

    space: Box

    def __call__(self, x):
        return -jnp.sum(jnp.log(3 * (1 + x)))

    @property
    def log_z(self):
        return jnp.log(6.0)

    def draw(self, num, *, key):
        return 2 * jnp.sqrt(jax.random.uniform(key, (num, 1))) - 1


def test_geometric_path_from_a_base_of_the_users_own():
    base, target = (
        Triangle(Box(-1.0, 1.0, (1,))),
        from_log_density(lambda x: jnp.sum(2 * jnp.sin(3 * x) - x), Box(-1.0, 1.0, (1,))),
    )
    path = target.path(base)
    assert float(path.log_z0) == pytest.approx(integrated(base, -1, 1).log_z, abs=1e-5)
    x = jnp.linspace(-0.9, 0.95, 7)[:, None]
    for beta in (0.0, 0.3, 1.0):
        expected = (1 - beta) * np.asarray(batched(base, x)) + beta * np.asarray(batched(target, x))
        np.testing.assert_allclose(batched(path.at(beta), x), expected, rtol=1e-5, atol=1e-6)
    steps = [
        jax.vmap(lambda x, a=a, b=b: path.increment(x, a, b))(x)
        for a, b in [(0.0, 0.2), (0.2, 0.7), (0.7, 1.0)]
    ]
    total = np.asarray(batched(target, x)) - np.asarray(batched(base, x))
    np.testing.assert_allclose(np.sum(steps, 0), total, rtol=1e-5, atol=1e-6)
    draws = np.asarray(path.draw(20_000, key=key(0)))
    assert ks(draws, lambda v: ((1 + v) / 2) ** 2) > P_LIMIT
    # E exp(increment) over the base is Z_b / Z_0: the estimator that AIS multiplies up
    half = integrated(path.at(0.5), -1, 1).log_z
    weights = np.exp(np.asarray(jax.vmap(lambda x: path.increment(x, 0.0, 0.5))(draws), float))
    ratio = np.exp(half - float(path.log_z0))
    assert abs(weights.mean() - ratio) < 5 * weights.std() / np.sqrt(len(weights))


def test_path_structure_is_the_same_for_every_beta():
    path = coupled(Spin(3)).path(IndependentBernoulli(Spin(3), 0.3))
    shapes = {jax.tree.structure(path.at(beta)) for beta in (0.0, 0.5, jnp.asarray(1.0), 1)}
    assert len(shapes) == 1
    traced = jax.jit(lambda beta, x: path.at(beta)(x))(0.4, jnp.ones(3))
    assert float(traced) == pytest.approx(float(path.at(0.4)(jnp.ones(3))), rel=1e-6)


def test_increments_keep_small_steps_between_large_totals():
    far = Gaussian(Real(1), 0.0, 1e-3)
    path = from_log_density(lambda x: -jnp.sum((x / 1e-3) ** 2), Real(1)).path(far)
    x = jnp.array([3.0])  # energies of millions, of which a step takes a part in 10⁸
    got = float(path.increment(x, jnp.float32(0.3), jnp.float32(0.3) + jnp.float32(3e-8)))
    step = float(np.float32(np.float32(0.3) + np.float32(3e-8)) - np.float32(0.3))
    assert step > 0 and got == pytest.approx(-step * 4.5e6, rel=1e-5)


def test_walls_of_the_target_end_a_path():
    base = default_base(Box(0.0, 1.0, (1,)))
    path = from_positive(lambda x: jnp.where(x[0] > 0.5, 1.0, 0.0), base.space).path(base)
    inside, outside = jnp.array([0.7]), jnp.array([0.2])
    assert float(path.increment(outside, 0.0, 0.1)) == -np.inf
    assert float(path.increment(inside, 0.0, 0.1)) == 0.0
    assert float(path.at(0.0)(outside)) == 0.0
    assert float(path.increment(outside, 0.3, 0.3)) == 0.0


# ---- energies from functions


@pytest.mark.parametrize(
    ("link", "log_g"),
    [
        ("identity", lambda h: np.log(h)),
        ("exp", lambda h: h),
        ("square", lambda h: 2 * np.log(np.abs(h))),
        ("abs", lambda h: np.log(np.abs(h))),
        ("softplus", lambda h: np.log(np.log1p(np.exp(h)))),
    ],
)
def test_from_positive_is_the_logarithm_of_the_linked_function(link, log_g):
    def h(x):
        return jnp.sum(x**2) + 0.25

    energy = from_positive(h, Box(-1.0, 2.0, (1,)), link=link)
    x = np.array([-0.9, 0.0, 0.3, 1.7])
    got = batched(energy, jnp.asarray(x[:, None]))
    np.testing.assert_allclose(got, log_g(x**2 + 0.25), rtol=1e-5, atol=1e-6)
    gradient = float(jax.grad(energy.log_density)(jnp.array([0.3]))[0])
    expected = finite_difference(lambda x: energy.log_density(x), np.array([0.3]))
    assert gradient == pytest.approx(expected[0], rel=1e-4)


def test_from_positive_is_normalised_by_its_volume():
    energy = from_positive(lambda x: x[0] - 0.5, Box(-1.0, 2.0, (1,)), link="square")
    volume = (1.5**3 + 1.5**3) / 3  # ∫ (x − ½)² over [−1, 2]
    assert integrated(energy, -1, 2).log_z == pytest.approx(np.log(volume), abs=1e-5)


def test_from_positive_at_zero_below_it_and_on_integers():
    energy = from_positive(lambda x: x[0], Box(-1.0, 1.0, (1,)))
    assert float(energy(jnp.array([0.0]))) == np.inf
    assert np.isnan(float(energy(jnp.array([-0.5]))))
    assert np.isfinite(jax.grad(energy)(jnp.array([0.0]))).all()
    counts = from_positive(lambda n: n[0] * n[1], Count(2))
    assert float(counts(jnp.array([2, 3], jnp.int32))) == pytest.approx(-np.log(6))


class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
        hidden = nn.tanh(nn.Dense(4)(x))
        return nn.Dense(1)(hidden)


def test_flax_and_equinox_modules_are_trained_by_their_arrays():
    network = Network()
    params = network.init(jax.random.key(0), jnp.zeros(2))
    energy = from_log_density(lambda p, x: network.apply(p, x)[0], Real(2), params=params)
    x = jnp.array([0.3, -1.2])
    dense = jax.tree.map(np.asarray, params)["params"]
    hidden = np.tanh(x @ dense["Dense_0"]["kernel"] + dense["Dense_0"]["bias"])
    expected = (hidden @ dense["Dense_1"]["kernel"] + dense["Dense_1"]["bias"])[0]
    assert float(energy.log_density(x)) == pytest.approx(float(expected), rel=1e-5)
    assert len(jax.tree.leaves(partition_trainable(energy)[0])) == 4
    with pytest.raises(ValueError, match=r"got shape \(1,\).*\[0\]"):
        from_log_density(network.apply, Real(2), params=params)

    mlp = eqx.nn.MLP(2, "scalar", 4, 1, key=jax.random.key(1))
    energy = from_log_density(mlp, Real(2))
    assert float(energy(x)) == -float(mlp(x))
    assert len(jax.tree.leaves(partition_trainable(energy)[0])) == 4
    gradient = eqx.filter_grad(lambda e: e.log_density(x))(energy)
    assert float(jnp.abs(gradient.function.layers[0].weight).max()) > 0


def test_numpy_and_python_parameters_are_trained_too():
    energy = from_positive(
        lambda p, x: p["a"] * x[0] ** 2 + p["b"].sum(),
        Box(0.0, 1.0, (1,)),
        params={"a": 2.0, "b": np.array([0.5, 1.0])},
    )
    assert sorted(a.shape for a in jax.tree.leaves(partition_trainable(energy)[0])) == [(), (2,)]
    assert float(energy(jnp.array([0.5]))) == pytest.approx(-np.log(2.0))


@pytest.mark.parametrize(
    ("f", "said"),
    [
        (
            lambda x: x[:1],
            r"shape \(\), for ONE point of shape \(3,\); got shape \(1,\)",
        ),
        (lambda x: x, r"got shape \(3,\).*Do not batch"),
        (lambda x: (x.sum(), x), "failed on ONE point"),
        (lambda x: x.sum() + 1j, "one real number.*complex64"),
        (lambda x: 1.0 if x[0] > 0 else 0.0, "traceable by JAX"),
        (lambda x: x @ jnp.ones(4), r"failed on ONE point of shape \(3,\)"),
    ],
)
@pytest.mark.parametrize("make", [from_log_density, from_positive])
def test_functions_of_the_wrong_kind_are_refused(make, f, said):
    with pytest.raises(ValueError, match=f"(?s){said}"):
        make(f, Real(3))


def test_spaces_and_links_of_the_wrong_kind_are_refused():
    # the shape checks of this suite would come first, so the function behind is called
    with pytest.raises(TypeError, match="made of expects a function of one point, got float"):
        _check_arguments(3.0, Real(3), "made of")
    with pytest.raises(TypeError, match=r"made of expects a space such as"):
        _check_arguments(jnp.sum, (3,), "made of")
    with pytest.raises(ValueError, match="link is one of"):
        from_positive(jnp.sum, Real(3), link="cube")


def test_constants_and_integers_become_floats():
    assert from_log_density(lambda x: 2, Real(1))(jnp.zeros(1)).dtype == jnp.float32
    assert float(from_log_density(lambda n: n.sum(), Count(2))(jnp.array([2, 3]))) == -5.0


def test_with_space_moves_what_fixes_no_size():
    energy = Product(
        Tempered(from_log_density(lambda x: jnp.sum(x**2), Real(2)), 0.5),
        frozen(from_log_density(lambda x: jnp.mean(x), Real(2))),
    )
    moved = energy.with_space(Real((3, 2)))
    assert moved.space == Real((3, 2))
    assert float(moved.log_density(jnp.full((3, 2), 2.0))) == pytest.approx(0.5 * 24 + 2.0)
    with pytest.raises(ValueError, match=r"failed on ONE point of shape \(4,\)"):
        coupled_weights = from_log_density(lambda x: BIASES @ x, Real(3))
        coupled_weights.with_space(Real(4))


def test_batched_is_a_plain_loop_and_log_prob_is_normalised():
    family = Normal([1.0, -2.0], [0.5, 2.0])
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2)))
    loop = [float(family.log_density(row)) for row in x]
    np.testing.assert_allclose(batched(family, x), loop, rtol=1e-6)
    for row in x:
        got = float(family.log_prob(row))
        assert got == pytest.approx(float(family.log_density(row) - family.log_z), abs=1e-5)
    # an energy times a normalised one: E adds, log Z does not
    both = enumerated(coupled(Binary(3)) + IndependentBernoulli(Binary(3), 0.7))
    assert both.log_z != pytest.approx(enumerated(coupled(Binary(3))).log_z)
    assert Beta(2.0, 3.0)(jnp.asarray(0.3)).shape == ()


# ---- Sums


@pytest.mark.parametrize("shape", [(), (0,), (7,), (2048,), (2049,), (784, 500), (3, 7, 10_007)])
def test_total_is_the_sum_and_its_slope_is_1(shape):
    a = np.random.default_rng(0).normal(0.3, 2, shape).astype(np.float32)
    np.testing.assert_allclose(
        total(jnp.asarray(a)), np.sum(a, dtype=np.float64), rtol=1e-6, atol=1e-3
    )
    slope = jax.grad(lambda x: 0.7 * total(x * x))(jnp.asarray(a))
    np.testing.assert_allclose(slope, 1.4 * a, rtol=1e-6)
