"""Centred RBMs and deep machines: the same distributions, and gradients that do not depend on what
is called 1."""

from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import energax as ex
from energax.energies import RBM, BernoulliRBM, CentredDBM, CentredRBM, DeepBoltzmannMachine
from energax.energies._base import batched, partition_trainable
from energax.objectives import MaximumLikelihood, MeanFieldPCD
from energax.spaces import Binary, Categorical, Real, Spin

RNG = np.random.default_rng(7)
VISIBLE, HIDDEN = 5, 3
W = RNG.normal(0, 0.8, (VISIBLE, HIDDEN))
B, C = RNG.normal(-0.7, 0.5, VISIBLE), RNG.normal(0.4, 0.5, HIDDEN)
ROWS = (RNG.random((60, VISIBLE)) < np.linspace(0.1, 0.8, VISIBLE)).astype(float)


def bits():
    return BernoulliRBM(W, B, C)


def some(space, hidden="bernoulli"):
    rbm = RBM.random(space, HIDDEN, key=ex.random.key(0), hidden=hidden, scale=0.7)
    return rbm.replaced(
        rbm.weight, rbm.visible.pulled(jnp.linspace(-0.5, 0.8, len(rbm.weight))), rbm.hidden
    )


CASES = {
    "bits": (bits(), ROWS),
    "spins": (some(Spin(VISIBLE), "spin"), 2 * ROWS - 1),
    "categories": (some(Categorical(2, 3)), RNG.integers(0, 3, (60, 2))),
}


def check_draws(centred, plain):
    """With the same random numbers both layers come out the same."""
    seen = RNG.normal(0, 1.5, (400, len(plain.hidden.bias)))
    hidden = plain.draw_hidden(jnp.asarray(seen), key=ex.random.key(3))
    np.testing.assert_array_equal(
        centred.draw_hidden(jnp.asarray(seen), key=ex.random.key(3)), hidden
    )
    found, wanted = (
        model.sample_visible(hidden, key=ex.random.key(4)) for model in (centred, plain)
    )
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        # but where a number falls between two roundings of a probability
        assert np.mean(np.asarray(one) != np.asarray(other)) < 1e-3


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_same_distribution(case):
    rbm, rows = CASES[case]
    centred = CentredRBM.of(rbm, rows)
    x = jnp.asarray(rbm.space.validate(rows, batch=True, name="rows"))
    np.testing.assert_allclose(batched(centred, x), batched(rbm, x), atol=2e-5)
    np.testing.assert_allclose(centred.hidden_mean(x), rbm.hidden_mean(x), atol=1e-5)
    np.testing.assert_allclose(centred.log_z_by_sum(), rbm.log_z_by_sum(), atol=2e-5)
    check_draws(centred, rbm)
    plain = centred.plain
    assert type(plain) is type(rbm)
    for found, wanted in zip(jax.tree.leaves(plain), jax.tree.leaves(rbm), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def step(rbm, rows, centre):
    """The RBM after one step up the exact likelihood."""
    energy = CentredRBM.of(rbm, rows) if centre else rbm
    theta, rest = partition_trainable(energy)

    @eqx.filter_grad
    def slope(theta):
        model = eqx.combine(theta, rest)
        return MaximumLikelihood()(model, None, jnp.asarray(rows), None, key=ex.random.key(0))[0]

    moved = eqx.combine(jax.tree.map(lambda a, g: a - 0.5 * g, theta, slope(theta)), rest)
    return moved.plain if centre else moved


def flipped(rbm, which):
    """The same distribution in 1 − v for the sites `which`."""
    sign = np.where(which, -1.0, 1.0)
    hidden = rbm.hidden_bias + which.astype(float) @ rbm.weight
    return BernoulliRBM(sign[:, None] * rbm.weight, sign * rbm.visible_bias, hidden)


def test_a_centred_step_does_not_depend_on_what_is_called_1():
    which = np.array([True, False, True, True, False])
    other = np.where(which, 1 - ROWS, ROWS)
    for centre in (True, False):
        there = flipped(step(flipped(bits(), which), other, centre), which)
        gap = float(jnp.max(jnp.abs(there.weight - step(bits(), ROWS, centre).weight)))
        assert gap < 1e-5 if centre else gap > 0.01


def test_fit_trains_its_parameters_and_leaves_the_offsets():
    start = CentredRBM.of(bits(), ROWS)
    fit = ex.fit(start, ROWS, key=ex.random.key(1), num_steps=300)
    assert fit.reliable
    for found, wanted in zip(
        jax.tree.leaves(fit.energy.offsets), jax.tree.leaves(start.offsets), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)
    before, after = (
        float(ex.score_samples(model, ROWS, key=ex.random.key(2)).mean().value)
        for model in (bits(), fit.energy.plain)
    )
    assert after > before + 0.1


def test_gaussian_units_are_refused():
    rbm = RBM.random(Real(3), 2, key=ex.random.key(0))
    with pytest.raises(TypeError, match="measured from their location"):
        CentredRBM.of(rbm, RNG.normal(size=(10, 3)))
    with pytest.raises(ValueError, match="data"):
        CentredRBM.of(bits(), np.full((4, VISIBLE), 0.5))
    assert CentredRBM.of(bits(), ROWS).space == Binary(VISIBLE)


UPPER = RNG.normal(0, 0.8, (HIDDEN, 2))


def deep(num_layers=2):
    sizes = [VISIBLE, HIDDEN, 2, 4, 3][: num_layers + 1]
    weights = [W, UPPER, *(RNG.normal(0, 0.8, pair) for pair in pairwise(sizes[2:]))]
    biases = [B, C, jnp.asarray([0.3, -0.6]), *(RNG.normal(0, 0.5, n) for n in sizes[3:])]
    return DeepBoltzmannMachine(weights, biases)


@pytest.mark.parametrize("num_layers", [2, 4])
def test_a_centred_deep_machine_is_the_same_distribution(num_layers):
    dbm = deep(num_layers)
    centred = CentredDBM.of(dbm, ROWS)
    sizes = [len(bias) for bias in dbm.biases]
    x = {"visible": ROWS[:20]} | {
        f"hidden_{i}": RNG.integers(0, 2, (20, sizes[i])) for i in range(2, num_layers + 1, 2)
    }
    x = {name: jnp.asarray(part, float) for name, part in x.items()}
    check_draws(centred, dbm)
    np.testing.assert_allclose(batched(centred, x), batched(dbm, x), atol=2e-5)
    np.testing.assert_allclose(centred.log_z_by_sum(), dbm.log_z_by_sum(), atol=2e-5)
    rows = jnp.asarray(ROWS)
    for found, wanted in zip(centred.mean_field(rows), dbm.mean_field(rows), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    for found, wanted in zip(jax.tree.leaves(centred.plain), jax.tree.leaves(dbm), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    bound, same = (
        ex.variational_bound(model, ROWS, key=ex.random.key(0)).log_prob for model in (dbm, centred)
    )
    np.testing.assert_allclose(bound, same, atol=1e-4)


@pytest.mark.parametrize("centre", [True, False])
def test_the_weights_of_a_centred_deep_machine_see_distances_from_the_means(centre):
    """Between two sets of layers the slope of W_l is that of Σ (x_{l−1} − c)(x_l − d)."""
    centred = CentredDBM.of(deep(), ROWS)
    energy = centred if centre else deep()
    here = [np.asarray(layer) for layer in centred.mean_field(jnp.asarray(ROWS))]
    there = [RNG.random(layer.shape) for layer in here]
    means = [np.asarray(c) if centre else 0 * np.asarray(c) for c in centred.offsets.module.means]
    theta, rest = partition_trainable(energy)

    @eqx.filter_grad
    def slope(theta):
        model = eqx.combine(theta, rest)
        one, other = (
            jnp.mean(model.expected_energy([jnp.asarray(x) for x in layers]))
            for layers in (here, there)
        )
        return one - other

    found = slope(theta).free.weights if centre else slope(theta).weights
    for i, w in enumerate(found):
        products = [
            (x[i] - means[i]).T @ (x[i + 1] - means[i + 1]) / len(x[0]) for x in (here, there)
        ]
        np.testing.assert_allclose(w, products[1] - products[0], atol=1e-5)


def test_fit_trains_a_centred_deep_machine():
    start = CentredDBM.of(deep(), ROWS)
    fit = ex.fit(start, ROWS, key=ex.random.key(1), num_steps=300, learning_rate=0.01)
    assert fit.reliable and isinstance(fit.objective, MeanFieldPCD)
    before, after = (
        float(ex.variational_bound(model, ROWS, key=ex.random.key(2)).mean().value)
        for model in (deep(), fit.energy.plain)
    )
    assert after > before + 0.1
