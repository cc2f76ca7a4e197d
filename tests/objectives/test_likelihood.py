"""Exact maximum likelihood: its loss and gradient against enumeration, and what it refuses."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from energax import random, training
from energax.energies import BernoulliRBM, MultivariateNormal, from_log_density
from energax.energies._base import partition_trainable
from energax.objectives import MaximumLikelihood, PersistentCD, default_objective
from energax.spaces import Binary, Categorical, Ordinal, Real, Record, Spin
from tests.exact import P_LIMIT, all_points, enumerated, finite_difference

KEY = random.key(11)


def quadratic(params, x):
    """f of a flat point, with a coupling so that sites are dependent."""
    x = jnp.concatenate([jnp.ravel(leaf).astype(float) for leaf in jax.tree.leaves(x)])
    return params["b"] @ x + params["scale"] * jnp.sum(x[:-1] * x[1:] ** 2)


def energy_on(space):
    sites = sum(np.size(leaf) for leaf in jax.tree.leaves(space.example()))
    b = 0.3 * np.random.default_rng(sites).normal(size=sites)
    return from_log_density(quadratic, space, params={"b": b, "scale": np.asarray(0.2)})


def rbm(visible, hidden, scale=1.0, seed=5):
    rng = np.random.default_rng(seed)
    return BernoulliRBM(
        scale * rng.normal(size=(visible, hidden)),
        0.5 * rng.normal(size=visible),
        0.5 * rng.normal(size=hidden),
    )


def value_and_gradient(energy, batch, objective=None):
    """(loss, gradient in θ, metrics) as `fit` takes them."""
    objective = objective or MaximumLikelihood()
    theta, fixed = partition_trainable(energy)

    @eqx.filter_jit
    @eqx.filter_value_and_grad(has_aux=True)
    def loss(theta):
        value, carry, metrics = objective(eqx.combine(theta, fixed), None, batch, None, key=KEY)
        assert carry is None
        return value, metrics

    (value, metrics), gradient = loss(theta)
    return float(value), gradient, metrics


# Above 2^12 states the sum runs in chunks: 2^13 fills them, 3^8 does not.
SPACES = {
    "binary, 2 chunks": Binary((13,)),
    "3^8, a chunk not full": Ordinal((8,), 3),
    "spin": Spin((2, 3)),
    "categories": Categorical((3,), 4),
    "one-hot": Categorical((2,), 3, "onehot"),
    "record": Record(a=Spin((2,)), b=Ordinal((2,), 4)),
}


@pytest.mark.parametrize("name", SPACES)
def test_loss_and_gradient_are_those_of_the_enumerated_likelihood(name):
    energy = energy_on(SPACES[name])
    exact = enumerated(energy)
    chosen = np.random.default_rng(0).choice(len(exact.prob), 7)
    batch = jax.tree.map(lambda a: a[chosen], exact.x)
    value, gradient, metrics = value_and_gradient(energy, SPACES[name].validate(batch, batch=True))
    assert value == pytest.approx(exact.log_z - exact.log_density[chosen].mean(), abs=2e-5)
    assert metrics["log_z"] == pytest.approx(exact.log_z, abs=2e-5)
    assert metrics["energy_samples"] == pytest.approx(-exact.prob @ exact.log_density, abs=2e-5)
    # ∇ loss = E_p[∇f] − E_data[∇f], with ∇f of every state by itself, in closed form.
    flat = np.concatenate(
        [a.reshape(len(a), -1).astype(float) for a in jax.tree.leaves(exact.x)], axis=1
    )
    statistics = np.column_stack([flat, (flat[:, :-1] * flat[:, 1:] ** 2).sum(1)])
    expected = exact.prob @ statistics - statistics[chosen].mean(0)
    got = np.append(gradient.params["b"], gradient.params["scale"])
    np.testing.assert_allclose(got, expected, atol=5e-5)


@pytest.mark.parametrize(("visible", "hidden"), [(7, 3), (3, 7)])
def test_an_rbm_is_summed_over_its_smaller_layer(visible, hidden):
    energy = rbm(visible, hidden)
    exact = enumerated(energy)
    batch = exact.draw(6, seed=1)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64), energy)
        value, gradient, _ = value_and_gradient(wide, jnp.asarray(batch))
    assert value == pytest.approx(exact.log_z - exact.log_density[exact.index(batch)].mean())

    def loss(theta):
        points, rows = (jnp.asarray(a) for a in (exact.x, batch))
        model = eqx.tree_at(
            lambda e: (e.weight, e.visible_bias, e.hidden_bias), energy, tuple(theta)
        )
        f = jax.vmap(model.log_density)
        return jax.nn.logsumexp(f(points)) - jnp.mean(f(rows))

    expected = finite_difference(loss, [energy.weight, energy.visible_bias, energy.hidden_bias])
    got = [gradient.weight, gradient.visible_bias, gradient.hidden_bias]
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-8)


def test_known_normalisers_serve_on_continuous_spaces():
    energy = MultivariateNormal([1.0, -2.0], [[2.0, 0.5], [0.5, 1.0]])
    batch = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    value, gradient, _ = value_and_gradient(energy, batch)
    expected = -stats.multivariate_normal.logpdf(
        batch, [1.0, -2.0], [[2.0, 0.5], [0.5, 1.0]]
    ).mean()
    assert value == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(
        gradient.eta["x"], np.asarray([1.0, -2.0]) - batch.mean(0), atol=1e-4
    )


def test_parameters_are_recovered_from_data():
    """Wald's statistic of the maximum likelihood found against the truth is χ²."""
    space = Spin((5,))
    truth = {
        "b": jnp.asarray([0.4, -0.3, 0.0, 0.2, -0.6]),
        "w": jnp.asarray([0.7, -0.5, 0.3, 0.9]),
    }

    def chain(params, x):
        return params["b"] @ x + params["w"] @ (x[:-1] * x[1:])

    rows = 10_000
    exact = enumerated(from_log_density(chain, space, params=truth))
    data = exact.draw(rows, seed=2)
    start = from_log_density(chain, space, params=jax.tree.map(jnp.zeros_like, truth))
    fitted = training.fit(start, data, key=KEY, num_steps=400, batch_size=rows, learning_rate=0.1)
    assert isinstance(fitted.objective, MaximumLikelihood) and fitted.reliable
    assert fitted.history["gradient_norm"][-1] < 1e-3
    found = fitted.energy.params
    error = np.concatenate([np.asarray(found[k]) - np.asarray(truth[k]) for k in ("b", "w")])
    points = all_points(space)
    statistics = np.column_stack([points, points[:, :-1] * points[:, 1:]])
    centred = statistics - exact.prob @ statistics
    information = (centred * exact.prob[:, None]).T @ centred
    assert stats.chi2.sf(rows * error @ information @ error, len(error)) > P_LIMIT
    # The loss shown is the negative log-likelihood in nats, at its least.
    model = enumerated(fitted.energy)
    nll = model.log_z - model.log_density[model.index(data)].mean()
    assert fitted.history["loss"][-1] == pytest.approx(nll, abs=1e-4)
    counts = np.bincount(exact.index(data), minlength=32) / rows
    assert nll < exact.log_z - counts @ exact.log_density


def test_what_cannot_be_summed_is_refused_and_left_to_chains():
    rows = np.zeros((3, 2))
    with pytest.raises(TypeError, match=r"infinitely many; train with .*PersistentCD"):
        MaximumLikelihood().init(energy_on(Real((2,))), rows, key=KEY)
    with pytest.raises(TypeError, match=r"1,048,576 states at every step \(max_states=65,536\)"):
        MaximumLikelihood().init(energy_on(Binary((20,))), rows, key=KEY)
    assert isinstance(default_objective(energy_on(Real((2,)))), PersistentCD)
    assert isinstance(default_objective(energy_on(Binary((20,)))), PersistentCD)
    assert isinstance(default_objective(rbm(30, 5)), MaximumLikelihood)
    assert isinstance(default_objective(rbm(30, 20)), PersistentCD)
    normal = MultivariateNormal([0.0], [[1.0]])
    assert isinstance(default_objective(normal), MaximumLikelihood)
